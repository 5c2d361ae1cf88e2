//! What time it is on a board that has no clock chip. Pure.
//!
//! The floor is the latest of build time, seed time (written to the card when it was flashed) and the last time saved
//! on disk: the truth cannot be earlier. The system clock counts when it is above the floor. A clock that is more than a
//! day ahead of the floor is used, but saved only once NTP or a person has confirmed it, because one wrong jump on
//! disk would spoil the floor for ever.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// When this program was built, in Unix seconds.
pub const BUILD_TIME: u64 = parse_decimal(env!("MINIDC_BUILD_TIME"));

/// A clock this much ahead of the floor is not saved without confirmation.
pub const LARGEST_UNCONFIRMED_JUMP: Duration = Duration::from_secs(24 * 60 * 60);

const fn parse_decimal(text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut value = 0;
    let mut index = 0;
    while index < bytes.len() {
        value = value * 10 + (bytes[index] - b'0') as u64;
        index += 1;
    }
    value
}

/// The system clock in Unix seconds; 0 when it is set before 1970.
pub fn system() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The system clock in Unix milliseconds; 0 when it is set before 1970.
pub fn system_milliseconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The earliest time that can be true, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Floor(u64);

/// What the clock shows, judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Unix seconds to work with.
    pub seconds: u64,
    /// The system clock was below the floor, so the floor was taken.
    pub behind: bool,
    /// The system clock is more than [`LARGEST_UNCONFIRMED_JUMP`] ahead of the floor.
    pub far_ahead: bool,
}

impl Floor {
    /// The latest of [`BUILD_TIME`], the card's seed time and the last time on disk, all in Unix seconds.
    pub fn new(seed: Option<u64>, saved: Option<u64>) -> Self {
        Self::from_sources(BUILD_TIME, seed, saved)
    }

    fn from_sources(build: u64, seed: Option<u64>, saved: Option<u64>) -> Self {
        Self(build.max(seed.unwrap_or(0)).max(saved.unwrap_or(0)))
    }

    /// Unix seconds.
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// Judges a system clock that shows `system` Unix seconds.
    pub fn judge(self, system: u64) -> Reading {
        Reading {
            seconds: system.max(self.0),
            behind: system < self.0,
            far_ahead: system > self.0.saturating_add(LARGEST_UNCONFIRMED_JUMP.as_secs()),
        }
    }

    /// The time to write to disk, if any: `confirmed` says that NTP or a person vouches for the system clock.
    /// After saving, the floor is to be made anew from the saved value.
    pub fn to_save(self, system: u64, confirmed: bool) -> Option<u64> {
        let reading = self.judge(system);
        (!reading.behind && system > self.0 && (confirmed || !reading.far_ahead)).then_some(system)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 60 * 60;

    #[test]
    fn floor_is_the_latest_source() {
        assert_eq!(Floor::from_sources(100, None, None).seconds(), 100);
        assert_eq!(Floor::from_sources(100, Some(300), Some(200)).seconds(), 300);
        assert_eq!(Floor::from_sources(100, Some(50), Some(200)).seconds(), 200);
        assert!(
            Floor::new(None, None).seconds() > 1_700_000_000,
            "the build time is known"
        );
    }

    #[test]
    fn clock_below_the_floor_is_not_believed() {
        let reading = Floor(1000).judge(10);
        assert_eq!(
            reading,
            Reading {
                seconds: 1000,
                behind: true,
                far_ahead: false
            }
        );
        assert_eq!(Floor(1000).to_save(10, true), None);
    }

    #[test]
    fn clock_above_the_floor_counts_and_is_saved() {
        assert_eq!(Floor(1000).judge(1000 + DAY).seconds, 1000 + DAY);
        assert_eq!(Floor(1000).to_save(1000 + DAY, false), Some(1000 + DAY));
        assert_eq!(Floor(1000).to_save(1000, false), None, "nothing new to save");
    }

    #[test]
    fn jump_of_more_than_a_day_is_saved_only_when_confirmed() {
        let system = 1000 + DAY + 1;
        assert!(Floor(1000).judge(system).far_ahead);
        assert_eq!(Floor(1000).to_save(system, false), None);
        assert_eq!(Floor(1000).to_save(system, true), Some(system));
    }
}
