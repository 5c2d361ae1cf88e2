//! Emulated Raspberry Pis: cards in files, boards in QEMU, a network of their own, and a laptop on it.
//!
//! Owns how machines are started, watched and cut off; never knows what is in an image beyond what the Pi's firmware knows:
//! a selector partition, a slot with `config.txt`, kernel, initrd and device tree.
//!
//! Everything ends with the test, also one that was killed: machines and daemons die with the thread that started them, network
//! and mount namespaces have no names, so nothing keeps them.

pub mod card;
pub mod machine;
pub mod network;
pub mod qmp;

pub use card::{Card, Model};
pub use machine::{Board, Machine, Power};
pub use network::{Addressing, Network};
