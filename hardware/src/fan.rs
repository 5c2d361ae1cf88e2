//! A fan that a transistor switches: off, or as fast as the temperature asks for.

use std::time::Duration;

use crate::{Board, Error, Part, Recorder, Source, board, pwm::Pwm};

/// Below this share of 255 most fans do not turn.
const LEAST: u8 = 80;
/// Degrees below the beginning at which it is switched off again, so that it does not start and stop.
const HYSTERESIS: f32 = 5.0;
/// Twenty-five times a second: slow enough for a transistor and little work, fast enough for a fan's inertia.
const PERIOD: Duration = Duration::from_millis(40);

/// How much of the time the fan is on, of 255, at this temperature, when it was at `before`.
#[must_use]
pub fn speed(curve: &board::Fan, celsius: f32, before: u8) -> u8 {
    let (begin, full) = (f32::from(curve.begin), f32::from(curve.full.max(curve.begin)));
    if celsius >= full {
        return 255;
    }
    if celsius < begin {
        let keeps_on = before > 0 && celsius >= begin - HYSTERESIS;
        return if keeps_on { LEAST } else { 0 };
    }
    let share = (celsius - begin) / (full - begin);
    LEAST + (share * f32::from(255 - LEAST)) as u8
}

/// The board's fan.
pub struct Fan {
    curve: board::Fan,
    pwm: Pwm,
    speed: u8,
    recorder: Recorder,
}

impl Fan {
    /// Takes its pin; `None` when the board has none.
    ///
    /// # Errors
    /// [`Error::Refused`] when its pin cannot be had.
    pub fn open(source: &Source, board: &Board, recorder: &Recorder) -> Result<Option<Self>, Error> {
        let Some(curve) = &board.fan else { return Ok(None) };
        board.check(&[Part::Fan])?;
        let mut pins = source.pins(board, Part::Fan)?;
        pins.output(curve.gpio, false)?;
        // a fan that is left alone turns: better loud than hot
        pins.keep();
        Ok(Some(Self {
            pwm: Pwm::new(pins, &[(curve.gpio, true)], PERIOD),
            curve: curve.clone(),
            speed: 0,
            recorder: recorder.clone(),
        }))
    }

    /// Follows the temperature; one that is not known lets the fan turn.
    ///
    /// # Errors
    /// [`Error::Refused`] when the pin cannot be switched.
    pub fn follow(&mut self, celsius: Option<f32>) -> Result<(), Error> {
        let speed = celsius.map_or(255, |celsius| speed(&self.curve, celsius, self.speed));
        if speed != self.speed {
            self.speed = speed;
            self.pwm.set(&[speed])?;
            // of 255, in place of a level
            self.recorder.note(&self.curve.gpio.to_string(), &speed.to_string());
        }
        Ok(())
    }
}

impl Drop for Fan {
    fn drop(&mut self) {
        let _ = self.pwm.set(&[255]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FakePins;

    #[test]
    fn fan_follows_its_curve_and_does_not_flutter() {
        let curve = board::Fan {
            gpio: 18,
            ground: None,
            full: 75,
            begin: 55,
        };
        for (celsius, before, expected) in [
            (40.0, 0, 0),
            (54.9, 0, 0),
            (55.0, 0, 80),
            (65.0, 80, 167),
            (74.9, 167, 254),
            (75.0, 0, 255),
            (90.0, 255, 255),
            (52.0, 80, 80),
            (49.9, 80, 0),
            (52.0, 0, 0),
        ] {
            assert_eq!(speed(&curve, celsius, before), expected, "{celsius} °C after {before}");
        }
    }

    #[test]
    fn unknown_heat_lets_it_turn() {
        let header = FakePins::default();
        let board = Board::virtual_pi().unwrap();
        let recorder = Recorder::default();
        let mut fan = Fan::open(&Source::Fake(header.clone()), &board, &recorder)
            .unwrap()
            .unwrap();
        fan.follow(Some(30.0)).unwrap();
        assert_eq!(header.seen(18), Some(false));
        fan.follow(None).unwrap();
        assert_eq!(header.seen(18), Some(true));
        assert_eq!(recorder.level("18").as_deref(), Some("255"));
    }
}
