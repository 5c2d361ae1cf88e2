//! The seam between patterns and pins: what can be done with a pin, and who does it on this machine.

mod broadcom;
mod character;
mod fake;

pub use broadcom::Broadcom;
pub use character::CharacterDevice;
pub use fake::FakePins;

use crate::{Board, Error, header};

/// Pins that can be switched and read. A pin belongs to whom it was given first, until that one is dropped.
///
/// All of them pass the same suite of tests ([`suite`]), which asks nothing of what is wired.
pub trait Pins: Send {
    /// Makes a pin an output that begins with this level.
    ///
    /// # Errors
    /// [`Error::Refused`] when it is no pin of the header, is in use, or this user may not have it.
    fn output(&mut self, gpio: u8, high: bool) -> Result<(), Error>;

    /// Makes a pin an input that is high while nothing pulls it down.
    ///
    /// # Errors
    /// As [`Pins::output`].
    fn input(&mut self, gpio: u8) -> Result<(), Error>;

    /// Drives an output high or low.
    ///
    /// # Errors
    /// [`Error::Refused`] when it is no output of this one, or the system refuses.
    fn set(&mut self, gpio: u8, high: bool) -> Result<(), Error>;

    /// Level of a pin that was made an output or an input.
    ///
    /// # Errors
    /// As [`Pins::set`].
    fn level(&mut self, gpio: u8) -> Result<bool, Error>;

    /// Lets outputs stay as they are when this is dropped, where that can be had.
    fn keep(&mut self) {}
}

/// The pins of this board: through the registers where Raspberry Pi's own kernel gives them to users, else through the
/// character device of the chip that the pin map names.
///
/// # Errors
/// [`Error::Refused`] when this board has no pins that can be used.
pub fn open(board: &Board) -> Result<Box<dyn Pins>, Error> {
    if Broadcom::is_here() {
        return Ok(Box::new(Broadcom::open()?));
    }
    Ok(Box::new(CharacterDevice::open(board)?))
}

/// How messages call a pin.
fn named(gpio: u8) -> String {
    match header::pin(gpio) {
        Some(pin) => format!("GPIO {gpio} (pin {pin})"),
        None => format!("GPIO {gpio}"),
    }
}

const OTHER_PIN: &str = "choose another pin under [leds.board] in the configuration";

/// Refuses what is no pin of the header.
fn check(gpio: u8, file: &std::path::Path) -> Result<(), Error> {
    if header::pin(gpio).is_some() {
        return Ok(());
    }
    Err(Error::refused(
        named(gpio),
        file,
        crate::Fault::Wrong,
        "it is not on the header of 40 pins, or belongs to the memory of a HAT",
        format!("{OTHER_PIN}: 2 to 27"),
    ))
}

/// Refuses what was not made an output or input before.
fn unclaimed(gpio: u8, file: &std::path::Path) -> Error {
    Error::refused(
        named(gpio),
        file,
        crate::Fault::Wrong,
        "it was not asked for",
        "this is a mistake in minidc",
    )
}

/// Refuses what somebody else has.
fn busy(gpio: u8, file: &std::path::Path, holder: &str) -> Error {
    Error::refused(
        named(gpio),
        file,
        crate::Fault::Busy,
        format!("{holder} has it"),
        format!("stop that program, or {OTHER_PIN}"),
    )
}

/// What every kind of pins has to pass: `open` gives pins of the same board each time, `free` are pins that nobody uses and
/// nothing is wired to.
///
/// # Errors
/// What was not as it must be, in words.
pub fn suite(open: &mut dyn FnMut() -> Result<Box<dyn Pins>, Error>, free: [u8; 2]) -> Result<(), String> {
    use crate::Fault;
    let said = |error: Error| error.to_string();
    let fault = |what: &str, outcome: Result<(), Error>, wanted: Fault, words: &[&str]| match outcome {
        Ok(()) => Err(format!("{what} was not refused")),
        Err(error) if error.fault() != Some(wanted) => Err(format!("{what}: {error}")),
        Err(error) => match words.iter().find(|word| !error.to_string().contains(**word)) {
            Some(word) => Err(format!("{what}: no {word:?} in {error}")),
            None => Ok(()),
        },
    };
    let [one, two] = free;
    let mut pins = open().map_err(|error| said(error.wanted_for(&free)))?;
    pins.output(one, true).map_err(said)?;
    pins.output(two, false).map_err(said)?;
    for (first, second) in [(true, false), (false, true), (true, true), (false, false)] {
        pins.set(one, first).map_err(said)?;
        pins.set(two, second).map_err(said)?;
        let seen = (pins.level(one).map_err(said)?, pins.level(two).map_err(said)?);
        if seen != (first, second) {
            return Err(format!("set {first} {second}, and read {seen:?}"));
        }
    }
    fault(
        "a pin beyond the header",
        pins.output(28, true),
        Fault::Wrong,
        &["GPIO 28", "[leds.board]"],
    )?;
    fault("a HAT's pin", pins.input(0), Fault::Wrong, &["GPIO 0"])?;
    fault(
        "a pin that was not asked for",
        pins.set(4, true),
        Fault::Wrong,
        &["GPIO 4"],
    )?;
    let name = format!("GPIO {one} (pin ");
    fault("a pin twice", pins.output(one, true), Fault::Busy, &[&name])?;
    let mut other = open().map_err(said)?;
    fault(
        "another's pin",
        other.output(one, true),
        Fault::Busy,
        &[&name, "minidc", "[leds.board]"],
    )?;
    drop(pins);
    other.output(one, false).map_err(said)?;
    other.input(two).map_err(said)?;
    other.level(two).map_err(said)?;
    fault(
        "an input twice",
        other.input(two),
        Fault::Busy,
        &["GPIO", "[leds.board]"],
    )
}

/// Whether an input is high while nothing is wired to it. Not part of the [`suite`], since emulated boards have no resistors.
///
/// # Errors
/// What was not as it must be, in words.
pub fn pulled_up(mut pins: Box<dyn Pins>, free: u8) -> Result<(), String> {
    let said = |error: Error| error.to_string();
    pins.input(free).map_err(said)?;
    if pins.level(free).map_err(said)? {
        return Ok(());
    }
    Err(format!(
        "{} as an input is low: something pulls it down, or nothing pulls it up",
        named(free)
    ))
}
