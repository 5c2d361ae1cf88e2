//! What is on a node's card, and how it gets there.
//!
//! - [`seed`]: the one file that a person may edit: which cluster, which node, which Wi-Fi. Parsed strictly, every mistake in words.
//! - [`layout`]: the partition table of our image, as the Pi's firmware needs it for two slots.
//! - [`fat`]: files of a FAT partition inside an image file or a card, without mounting it.
//! - [`host`]: what a device is, and every reason not to overwrite it.
//! - [`source`]: an image file, raw, xz or zstd, and the checksum beside it.
//! - [`flash`]: image to card, read back and compared; the partition table is written last.
//! - [`boot`]: what a board makes of its card at each start.
//! - [`assemble`]: an image from its parts, as the build makes it.
//! - [`cards`]: the cards of one rack, and the interface by which each gets its right to join.
//! - [`sample`]: an image of 10 MiB with all that flashing looks at, for tests.
//!
//! It owns the format of the seed and of the table. It never talks to a cluster, never makes a key or a token (the caller does, see
//! [`cards::Identity`]), never asks the person a question, and never writes to a device that [`host`] refuses.
//!
//! # Current limitations
//!
//! - Linux only: devices are judged by sysfs.
//! - Zstandard windows above 128 MiB (`--long=28` and more) are refused.
//! - Tables are MBR only, since the Pi's firmware cannot select the second slot by number on every board with GPT.
//!   That limits a card to 2 TiB.
//! - Wi-Fi is WPA2 (or open): networks with WPA3 only are not joined.
//! - A ZFS or bcache member that is not in use shows no holder; the exclusive open of the device is what refuses a used one.

pub mod assemble;
pub mod boot;
pub mod cards;
pub mod device;
mod error;
pub mod fat;
pub mod flash;
pub mod host;
pub mod layout;
pub mod sample;
pub mod seed;
pub mod source;

pub use error::Error;
