//! What a light does over time.

use std::time::Duration;

/// What a light does over time: lit and dark in turn, for these many milliseconds each, lit first, and then again.
///
/// No time at all is dark for ever, one alone is lit for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(pub &'static [u16]);

impl Pattern {
    /// Dark for ever.
    pub const DARK: Self = Self(&[]);
    /// Lit for ever; no living agent shows this.
    pub const LIT: Self = Self(&[1]);

    /// One round of the pattern as (lit, how long); empty when it never changes.
    pub fn round(self) -> impl Iterator<Item = (bool, Duration)> {
        let times = if self.0.len() > 1 { self.0 } else { &[] };
        times
            .iter()
            .enumerate()
            .map(|(index, time)| (index % 2 == 0, Duration::from_millis(u64::from(*time))))
    }

    /// Length of a round; zero when the pattern never changes.
    #[must_use]
    pub fn period(self) -> Duration {
        self.round().map(|(_, time)| time).sum()
    }

    /// Whether the light is lit at this time after the pattern's beginning, and how long it stays so (`None`: for ever).
    #[must_use]
    pub fn at(self, elapsed: Duration) -> (bool, Option<Duration>) {
        let period = self.period();
        if period.is_zero() {
            return (!self.0.is_empty(), None);
        }
        let mut rest = Duration::from_nanos_u128(elapsed.as_nanos() % period.as_nanos());
        for (lit, time) in self.round() {
            if rest < time {
                return (lit, Some(time - rest));
            }
            rest -= time;
        }
        (false, Some(Duration::ZERO))
    }

    /// The longest time without an edge; `None` when there is never one.
    #[must_use]
    pub fn longest_stillness(self) -> Option<Duration> {
        self.round().map(|(_, time)| time).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn steady_light_never_changes() {
        assert_eq!(Pattern::LIT.at(ms(12_345)), (true, None));
        assert_eq!(Pattern::DARK.at(Duration::ZERO), (false, None));
        assert_eq!(Pattern::LIT.longest_stillness(), None);
    }

    #[test]
    fn a_round_is_lit_first_and_repeats() {
        let blink = Pattern(&[500, 700]);
        for (at, expected) in [
            (0, (true, Some(ms(500)))),
            (499, (true, Some(ms(1)))),
            (500, (false, Some(ms(700)))),
            (1199, (false, Some(ms(1)))),
            (86_400_000, (true, Some(ms(500)))),
        ] {
            assert_eq!(blink.at(ms(at)), expected, "at {at} ms");
        }
        assert_eq!(blink.longest_stillness(), Some(ms(700)));
    }
}
