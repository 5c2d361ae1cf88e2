//! How far it is, how fast, and how long it will take.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Time over which the speed is taken: long enough to be calm, short enough to show a slow card.
const WINDOW: Duration = Duration::from_secs(5);

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The image is compared with the checksum file beside it.
    Checksum,
    /// The image goes to the card.
    Write,
    /// The card is read back.
    Compare,
    /// Seed and partition table.
    Finish,
}

/// A moment of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
    /// Speed of the last seconds.
    pub bytes_per_second: u64,
    /// Time left at this speed; `None` until there is one.
    pub remaining: Option<Duration>,
}

/// Makes [`Progress`] of byte counts.
pub(super) struct Meter {
    phase: Phase,
    total: u64,
    begun: Instant,
    samples: VecDeque<(Duration, u64)>,
}

impl Meter {
    pub(super) fn new(phase: Phase, total: u64) -> Self {
        Self {
            phase,
            total,
            begun: Instant::now(),
            samples: VecDeque::new(),
        }
    }

    pub(super) fn at(&mut self, done: u64) -> Progress {
        self.sample(done, self.begun.elapsed())
    }

    fn sample(&mut self, done: u64, now: Duration) -> Progress {
        self.samples.push_back((now, done));
        while self.samples.len() > 2 && self.samples.front().is_some_and(|(then, _)| now - *then > WINDOW) {
            self.samples.pop_front();
        }
        let (then, before) = self.samples.front().copied().unwrap_or((now, done));
        let micros = (now - then).as_micros();
        let speed = (u128::from(done.saturating_sub(before)) * 1_000_000)
            .checked_div(micros)
            .map_or(0, |speed| u64::try_from(speed).unwrap_or(u64::MAX));
        let left = self.total.saturating_sub(done);
        Progress {
            phase: self.phase,
            done,
            total: self.total,
            bytes_per_second: speed,
            remaining: (speed > 0).then(|| Duration::from_secs(left.div_ceil(speed))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_and_remaining_time_follow_the_last_seconds() {
        let mut meter = Meter::new(Phase::Write, 100_000_000);
        let second = Duration::from_secs;
        assert_eq!(meter.sample(0, second(0)).remaining, None);
        let fast = meter.sample(20_000_000, second(1));
        assert_eq!((fast.bytes_per_second, fast.remaining), (20_000_000, Some(second(4))));
        for tick in 2..=20 {
            meter.sample(20_000_000 + (tick - 1) * 1_000_000, second(tick));
        }
        let slow = meter.sample(40_000_000, second(21));
        assert_eq!((slow.bytes_per_second, slow.remaining), (1_000_000, Some(second(60))));
    }
}
