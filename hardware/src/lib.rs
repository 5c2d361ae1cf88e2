//! What a node shows to somebody who stands before it: facts about the node become one [`State`], a state becomes a
//! [`Pattern`] per LED, and patterns become levels on pins.
//!
//! This crate owns the meaning of the LEDs, the pin maps of the supported boards (`boards/*.toml`), the driver that
//! switches the pins ([`Leds`]) and the fake pins of a virtual Pi ([`FakeGpio`]). It never judges whether a node is healthy
//! (it is told, as [`NodeHealth`]), never talks to the control plane, and depends on no other crate of minidc: the LEDs
//! tell the truth also when the cluster does not work.
//!
//! From facts to light: [`NodeHealth`] → [`Reason::of`] → [`Reason::state`] → [`State::pattern`] → [`Leds::run`] →
//! [`Gpio::set`]. All but the last two are pure.
//!
//! # Current limitations
//! - The only [`Gpio`] is the fake one: real pins (rppal, or the character device) and the LED on the board are not
//!   driven yet, though the boards' pin maps already name them.
//! - No button, buzzer or fan.

mod board;
mod error;
mod fake;
#[cfg(test)]
mod generated;
mod gpio;
mod health;
mod leds;
mod legend;
mod pattern;
mod recording;
mod state;

pub use board::{Board, Led, LedName};
pub use error::Error;
pub use fake::{Edge, FakeGpio, History};
pub use gpio::Gpio;
pub use health::{NodeHealth, Refusal, Stage};
pub use leds::{Leds, Light, Report};
pub use legend::{legend, reasons};
pub use pattern::Pattern;
pub use recording::Recording;
pub use state::{Colour, Reason, State, Wrong};
