//! What a node shows to somebody who stands before it: facts about the node become a [`Reason`], that has a [`State`], a state
//! has a [`Pattern`] and a [`Colour`], and these become levels on pins. And what is around the lights: a button, a fan,
//! watchdogs, and what the board tells of its supply and its card.
//!
//! This crate owns the meaning of the lights, the pin maps of the supported boards (`boards/*.toml`), the driver that
//! switches them ([`Driver`]), and who does so on this machine: the kernel's character device, the processor's registers, the
//! LED on the board, pixels, or pins that only remember ([`FakePins`]). It never judges whether a node is healthy (it is
//! told, as [`NodeHealth`]), never talks to the control plane, and depends on no other crate of minidc: the lights tell the
//! truth also when the cluster does not work.
//!
//! From facts to light: [`NodeHealth`] → [`Reason::of`] → [`Reason::state`] → [`State::pattern`] → [`Driver`] →
//! [`Output::show`] → [`Pins::set`]. The first three are pure, and what an output makes of a moment is, too.
//!
//! # Current limitations
//! - The button is looked at twenty times a second; the kernel could tell of its edges.
//! - Software PWM moves with what else the board does: a mixed colour may flicker under load.

pub mod board;
mod button;
#[cfg(test)]
mod drawing;
mod driver;
mod error;
pub mod fan;
#[cfg(test)]
mod generated;
pub mod header;
mod health;
mod legend;
pub mod outputs;
mod pattern;
pub mod pins;
mod pwm;
mod recorder;
mod recording;
mod report;
pub mod sensors;
mod state;
mod watchdog;

pub use board::{Board, Changes, Part};
pub use button::{Button, Debounce, Press};
pub use driver::{Driver, Lights, Teller};
pub use error::{Error, Fault};
pub use fan::Fan;
pub use health::{NodeHealth, Refusal, Stage, held};
pub use legend::{legend, reasons};
pub use outputs::{End, Frame, Onboard, Output, Source};
pub use pattern::Pattern;
pub use pins::{FakePins, Pins};
pub use recorder::{Edge, Recorder, unix_milliseconds};
pub use recording::Recording;
pub use report::{LOG, Light, REPORT, Report};
pub use state::{Colour, Reason, State, Wrong};
pub use watchdog::{Notifier, Watchdog};
