//! The lights of a board: each turns what is to be shown into levels of its own.

mod onboard;
mod rgb;
mod single;
mod strip;

pub use onboard::Onboard;
pub use rgb::RgbLed;
pub use single::SingleLeds;
pub use strip::PixelStrip;

use std::{path::Path, time::Duration};

use crate::{Board, Colour, Error, FakePins, Light, Part, Pins, Recorder, State, pins, pins::Broadcom};

/// What is to be shown at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Colour of the state.
    pub colour: Colour,
    /// Whether the pattern is lit now.
    pub lit: bool,
    /// Use of the processor, 0 to 100.
    pub cpu_percent: u8,
    /// Running pods.
    pub pods: u32,
    /// On the control plane: the state of each node, in the order of their names.
    pub nodes: Vec<State>,
    /// Time since the patterns began.
    pub elapsed: Duration,
}

/// How lights are left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Dark, and given back to whom they belonged before.
    Off,
    /// Lit where that lasts: steady, as nothing that lives is. Where it does not last, dark.
    Fault,
}

/// A light, or several that belong together.
pub trait Output: Send {
    /// Which part this is.
    fn part(&self) -> Part;

    /// The single lights, as the recording names them.
    fn lights(&self) -> Vec<Light>;

    /// Shows this; what did not change costs nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] when the system does not let it.
    fn show(&mut self, frame: &Frame) -> Result<(), Error>;

    /// Leaves the lights as told.
    ///
    /// # Errors
    /// As [`Output::show`].
    fn end(&mut self, end: End) -> Result<(), Error>;
}

/// What this process drives with.
#[derive(Clone, Debug)]
pub enum Source {
    /// The board's own pins and LEDs.
    Real,
    /// The same, with the pins through the registers also where only root has these, in `/dev/mem`.
    Registers,
    /// Pins that only remember.
    Fake(FakePins),
}

impl Source {
    /// Whether there are pins and LEDs behind it.
    #[must_use]
    pub fn is_real(&self) -> bool {
        !matches!(self, Self::Fake(_))
    }

    /// Pins for one part.
    ///
    /// # Errors
    /// As [`pins::open`].
    pub fn pins(&self, board: &Board, part: Part) -> Result<Box<dyn Pins>, Error> {
        let opened = match self {
            Self::Real => pins::open(board),
            Self::Registers => Broadcom::open().map(|pins| Box::new(pins) as Box<dyn Pins>),
            Self::Fake(header) => Ok(Box::new(header.clone()) as Box<dyn Pins>),
        };
        opened.map_err(|error| {
            let pins: Vec<u8> = board.pins(part).into_iter().map(|(_, gpio)| gpio).collect();
            error.wanted_for(&pins)
        })
    }
}

/// A part that cannot be had, and why.
pub type Failure = (Part, Error);

/// Opens the lights among `parts`; `run` is where is remembered what the LED on the board did before. A part that cannot be
/// had is told of with its error, and does not keep the others from shining.
pub fn open(
    source: &Source,
    board: &Board,
    parts: &[Part],
    recorder: &Recorder,
    run: &Path,
) -> (Vec<Box<dyn Output>>, Vec<Failure>) {
    let mut outputs: Vec<Box<dyn Output>> = Vec::new();
    let mut failures = Vec::new();
    if let Err(error) = board.check(parts) {
        let first = parts.first().copied().unwrap_or(Part::Leds);
        failures.push((first, error));
        // the LED on the board is on no pin that could be wrong
        if parts.contains(&Part::Onboard) {
            let (outputs, more) = open(source, board, &[Part::Onboard], recorder, run);
            failures.extend(more);
            return (outputs, failures);
        }
        return (outputs, failures);
    }
    for part in parts {
        let opened: Result<Option<Box<dyn Output>>, Error> = match part {
            Part::Onboard => match source {
                Source::Real | Source::Registers => {
                    Onboard::open(Path::new(onboard::LEDS), &board.onboard, run, recorder.clone())
                        .map(|led| Some(Box::new(led) as Box<dyn Output>))
                }
                Source::Fake(_) => Ok(Some(Box::new(Onboard::fake(recorder.clone())))),
            },
            Part::Leds => board.leds.as_ref().map_or(Ok(None), |leds| {
                let pins = source.pins(board, *part)?;
                Ok(Some(Box::new(SingleLeds::open(pins, leds.clone(), recorder.clone())?)))
            }),
            Part::Rgb => board.rgb.as_ref().map_or(Ok(None), |rgb| {
                let pins = source.pins(board, *part)?;
                Ok(Some(Box::new(RgbLed::open(pins, rgb, recorder.clone())?)))
            }),
            Part::Strip => board.strip.as_ref().map_or(Ok(None), |strip| {
                let pins = source.pins(board, *part)?;
                Ok(Some(Box::new(PixelStrip::open(pins, strip.clone(), recorder.clone())?)))
            }),
            Part::Button | Part::Fan => Ok(None),
        };
        match opened {
            Ok(Some(output)) => outputs.push(output),
            // a board that has none of it
            Ok(None) => {}
            Err(error) => failures.push((*part, error)),
        }
    }
    (outputs, failures)
}
