//! An LED that mixes red, green and blue.

use std::time::Duration;

use super::{End, Frame, Output};
use crate::{Colour, Error, Light, Part, Pins, Recorder, board::Rgb, pwm::Pwm};

/// A hundred times a second: no eye sees it.
const PERIOD: Duration = Duration::from_millis(10);
/// As the recording names it.
const NAME: &str = "rgb";

/// An LED on three pins. Only a colour that is neither full nor nothing of each costs software PWM.
pub struct RgbLed {
    pwm: Pwm,
    shown: Option<[u8; 3]>,
    recorder: Recorder,
}

impl RgbLed {
    /// Takes the pins; dark at first.
    ///
    /// # Errors
    /// [`Error::Refused`] for the first pin that cannot be had.
    pub fn open(mut pins: Box<dyn Pins>, rgb: &Rgb, recorder: Recorder) -> Result<Self, Error> {
        let outputs = [rgb.red, rgb.green, rgb.blue].map(|gpio| (gpio, rgb.wiring.level(true)));
        for (gpio, on) in outputs {
            pins.output(gpio, !on)?;
        }
        Ok(Self {
            pwm: Pwm::new(pins, &outputs, PERIOD),
            shown: None,
            recorder,
        })
    }

    fn set(&mut self, rgb: [u8; 3]) -> Result<(), Error> {
        if self.shown == Some(rgb) {
            return Ok(());
        }
        self.shown = Some(rgb);
        self.pwm.set(&rgb)?;
        self.recorder.note(NAME, &hexadecimal(rgb));
        Ok(())
    }
}

/// Six digits; `0` for dark, as for any light.
pub(crate) fn hexadecimal([red, green, blue]: [u8; 3]) -> String {
    match [red, green, blue] {
        [0, 0, 0] => "0".into(),
        _ => format!("{red:02x}{green:02x}{blue:02x}"),
    }
}

impl Output for RgbLed {
    fn part(&self) -> Part {
        Part::Rgb
    }

    fn lights(&self) -> Vec<Light> {
        vec![Light {
            name: NAME.into(),
            colour: "rgb".into(),
        }]
    }

    fn show(&mut self, frame: &Frame) -> Result<(), Error> {
        self.set(if frame.lit { frame.colour.rgb() } else { [0; 3] })
    }

    fn end(&mut self, end: End) -> Result<(), Error> {
        if end == End::Fault {
            self.pwm.keep();
        }
        self.set(if end == End::Fault { Colour::Red.rgb() } else { [0; 3] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Board, FakePins};

    #[test]
    fn full_colours_are_steady_levels() {
        let header = FakePins::default();
        let rgb = Board::virtual_pi().unwrap().rgb.unwrap();
        let recorder = Recorder::default();
        let mut led = RgbLed::open(Box::new(header.clone()), &rgb, recorder.clone()).unwrap();
        led.set(Colour::Yellow.rgb()).unwrap();
        assert_eq!(
            [5, 6, 13].map(|gpio| header.seen(gpio)),
            [Some(true), Some(true), Some(false)]
        );
        assert_eq!(recorder.level("rgb").as_deref(), Some("ffff00"));
        led.end(End::Off).unwrap();
        assert_eq!([5, 6, 13].map(|gpio| header.seen(gpio)), [Some(false); 3]);
    }
}
