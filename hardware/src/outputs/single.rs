//! Single LEDs, each of one colour.

use super::{End, Frame, Output};
use crate::{Colour, Error, Light, Part, Pins, Recorder, board::Leds};

/// Single LEDs on pins.
pub struct SingleLeds {
    pins: Box<dyn Pins>,
    leds: Leds,
    shown: Vec<Option<bool>>,
    recorder: Recorder,
}

/// Which of the LEDs show this colour: the one that has it, or those that stand for it; if none of these is there, all, for
/// the pattern alone says what is to be said.
fn used(leds: &Leds, colour: Colour) -> Vec<bool> {
    let stand_for: &[&str] = match colour {
        Colour::Green => &["green"],
        Colour::Yellow => &["yellow"],
        Colour::Orange => &["yellow", "red"],
        Colour::Red => &["red"],
        Colour::Blue if leds.blue.is_some() => &["blue"],
        Colour::Blue => &["green", "yellow"],
        Colour::White if leds.white.is_some() => &["white"],
        Colour::White => &["green", "yellow", "red", "blue"],
    };
    let used: Vec<bool> = leds.pins().iter().map(|(name, _)| stand_for.contains(name)).collect();
    if used.contains(&true) {
        used
    } else {
        vec![true; used.len()]
    }
}

/// Whether each LED is lit.
pub(crate) fn lit(leds: &Leds, colour: Colour, lit: bool) -> Vec<bool> {
    used(leds, colour).into_iter().map(|used| used && lit).collect()
}

impl SingleLeds {
    /// Takes the pins; all are dark at first.
    ///
    /// # Errors
    /// [`Error::Refused`] for the first pin that cannot be had.
    pub fn open(mut pins: Box<dyn Pins>, leds: Leds, recorder: Recorder) -> Result<Self, Error> {
        for (_, gpio) in leds.pins() {
            pins.output(gpio, leds.wiring.level(false))?;
        }
        let shown = vec![None; leds.pins().len()];
        Ok(Self {
            pins,
            leds,
            shown,
            recorder,
        })
    }

    fn set(&mut self, levels: &[bool]) -> Result<(), Error> {
        for (index, ((_, gpio), lit)) in self.leds.pins().into_iter().zip(levels).enumerate() {
            if self.shown[index] == Some(*lit) {
                continue;
            }
            // also after a failure: it is told of once per change, not at each edge
            self.shown[index] = Some(*lit);
            self.pins.set(gpio, self.leds.wiring.level(*lit))?;
            self.recorder.note(&gpio.to_string(), if *lit { "1" } else { "0" });
        }
        Ok(())
    }
}

impl Output for SingleLeds {
    fn part(&self) -> Part {
        Part::Leds
    }

    fn lights(&self) -> Vec<Light> {
        let light = |(colour, gpio): (&str, u8)| Light {
            name: gpio.to_string(),
            colour: colour.into(),
        };
        self.leds.pins().into_iter().map(light).collect()
    }

    fn show(&mut self, frame: &Frame) -> Result<(), Error> {
        let levels = lit(&self.leds, frame.colour, frame.lit);
        self.set(&levels)
    }

    fn end(&mut self, end: End) -> Result<(), Error> {
        if end == End::Fault {
            self.pins.keep();
        }
        let levels = lit(&self.leds, Colour::Red, end == End::Fault);
        self.set(&levels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Board, FakePins, board::Wiring};

    #[test]
    fn colours_are_shown_by_what_is_there() {
        let three = Board::virtual_pi().unwrap().leds.unwrap();
        let four = Leds {
            blue: Some(12),
            white: Some(16),
            ..three.clone()
        };
        let one = Leds {
            green: None,
            yellow: None,
            ..three.clone()
        };
        for (leds, colour, expected) in [
            (&three, Colour::Green, vec![true, false, false]),
            (&three, Colour::Yellow, vec![false, true, false]),
            (&three, Colour::Orange, vec![false, true, true]),
            (&three, Colour::Red, vec![false, false, true]),
            (&three, Colour::Blue, vec![true, true, false]),
            (&three, Colour::White, vec![true, true, true]),
            (&four, Colour::Blue, vec![false, false, false, true, false]),
            (&four, Colour::White, vec![false, false, false, false, true]),
            (&one, Colour::Green, vec![true]),
        ] {
            assert_eq!(lit(leds, colour, true), expected, "{colour:?} on {leds:?}");
            assert!(lit(leds, colour, false).iter().all(|lit| !lit));
        }
    }

    #[test]
    fn common_anode_turns_levels_round_and_the_record_says_what_is_lit() {
        let header = FakePins::default();
        let recorder = Recorder::default();
        let leds = Leds {
            wiring: Wiring::Anode,
            red: Some(22),
            ..Leds::default()
        };
        let mut output = SingleLeds::open(Box::new(header.clone()), leds, recorder.clone()).unwrap();
        assert_eq!(header.seen(22), Some(true), "dark");
        output.end(End::Fault).unwrap();
        assert_eq!(
            (header.seen(22), recorder.level("22").as_deref()),
            (Some(false), Some("1"))
        );
    }
}
