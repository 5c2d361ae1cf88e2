//! What one LED does over time.

use std::{fmt, time::Duration};

/// Length of a flash of [`Pattern::Pulses`] and of the dark after it.
const FLASH: Duration = Duration::from_millis(200);
/// Dark time after the last flash, long enough to tell one group from the next.
const PAUSE: Duration = Duration::from_millis(1200);

/// What one LED does over time; all LEDs of a node begin their patterns together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// Dark.
    Off,
    /// Lit.
    On,
    /// Lit for `on`, then dark, each `period`.
    Blink {
        /// Time from one flash to the next.
        period: Duration,
        /// How much of it the LED is lit; less than `period`.
        on: Duration,
    },
    /// A group of short flashes to be counted, then a pause.
    Pulses(
        /// Flashes in a group, at least 1.
        u8,
    ),
    /// The opposite of a blink of half duty: dark first. Two LEDs, one with each, alternate.
    Alternate {
        /// Time from one flash to the next.
        period: Duration,
    },
}

impl Pattern {
    /// Blinks with equal times of light and dark.
    #[must_use]
    pub const fn blink(period_milliseconds: u64) -> Self {
        Self::Blink {
            period: Duration::from_millis(period_milliseconds),
            on: Duration::from_millis(period_milliseconds / 2),
        }
    }

    /// One round of the pattern as (lit, how long). A steady pattern is a single step of zero length.
    #[must_use]
    pub fn cycle(self) -> Vec<(bool, Duration)> {
        match self {
            Self::Off => vec![(false, Duration::ZERO)],
            Self::On => vec![(true, Duration::ZERO)],
            Self::Blink { period, on } => vec![(true, on), (false, period.saturating_sub(on))],
            Self::Alternate { period } => vec![(false, period / 2), (true, period - period / 2)],
            Self::Pulses(count) => {
                let mut steps = Vec::with_capacity(usize::from(count) * 2);
                for flash in 0..count.max(1) {
                    steps.push((true, FLASH));
                    steps.push((false, if flash + 1 == count.max(1) { PAUSE } else { FLASH }));
                }
                steps
            }
        }
    }

    /// Whether the LED is lit at this time after the pattern's beginning, and how long it stays so
    /// (`None`: for ever).
    #[must_use]
    pub fn level_at(self, elapsed: Duration) -> (bool, Option<Duration>) {
        let cycle = self.cycle();
        let round: Duration = cycle.iter().map(|(_, time)| *time).sum();
        if round.is_zero() {
            return (cycle.first().is_some_and(|(lit, _)| *lit), None);
        }
        let mut rest = Duration::from_nanos_u128(elapsed.as_nanos() % round.as_nanos());
        for (lit, time) in cycle {
            if rest < time {
                return (lit, Some(time - rest));
            }
            rest -= time;
        }
        (false, Some(Duration::ZERO))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On => f.write_str("on"),
            Self::Blink { period, on } if *on * 4 < *period => write!(f, "short flash each {} s", period.as_secs_f32()),
            Self::Blink { period, .. } => write!(f, "blinks each {} s", period.as_secs_f32()),
            Self::Alternate { period } => write!(f, "blinks each {} s, in turn", period.as_secs_f32()),
            Self::Pulses(1) => f.write_str("1 flash, pause"),
            Self::Pulses(count) => write!(f, "{count} flashes, pause"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn steady_pattern_never_changes() {
        assert_eq!(Pattern::On.level_at(ms(12_345)), (true, None));
        assert_eq!(Pattern::Off.level_at(Duration::ZERO), (false, None));
    }

    #[test]
    fn blink_is_lit_first_and_repeats() {
        let blink = Pattern::blink(1000);
        for (at, expected) in [
            (0, (true, Some(ms(500)))),
            (499, (true, Some(ms(1)))),
            (500, (false, Some(ms(500)))),
            (999, (false, Some(ms(1)))),
            (86_400_000, (true, Some(ms(500)))),
        ] {
            assert_eq!(blink.level_at(ms(at)), expected, "at {at} ms");
        }
    }

    #[test]
    fn alternating_leds_are_never_lit_together() {
        let (one, other) = (Pattern::blink(700), Pattern::Alternate { period: ms(700) });
        for at in 0..2000 {
            assert_ne!(one.level_at(ms(at)).0, other.level_at(ms(at)).0, "at {at} ms");
        }
    }

    #[test]
    fn pulses_can_be_counted() {
        for count in 1..=7u8 {
            let pattern = Pattern::Pulses(count);
            let round: Duration = pattern.cycle().iter().map(|(_, time)| *time).sum();
            let mut flashes = 0;
            let mut now = Duration::ZERO;
            while now < round {
                let (lit, left) = pattern.level_at(now);
                flashes += u8::from(lit);
                now += left.unwrap();
            }
            assert_eq!(flashes, count);
        }
    }
}
