//! Waiting longer after each failure, by the monotonic clock, with the rules of client-go's `flowcontrol.Backoff`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// First wait after a failure, of containers and of image pulls (Kubernetes' default).
const FIRST: Duration = Duration::from_secs(10);
/// Longest wait (Kubernetes' default).
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    /// When `delay` was last set.
    updated: Instant,
}

/// Waits of several things at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct BackOff {
    entries: BTreeMap<String, Entry>,
}

impl BackOff {
    /// How long `key` must still wait, when what failed at `failed_at`; `None` when it may be tried now.
    pub(crate) fn remaining(&self, key: &str, failed_at: Instant, now: Instant) -> Option<Duration> {
        let entry = self.entries.get(key).filter(|entry| !entry.expired(failed_at))?;
        (failed_at + entry.delay)
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())
    }

    /// The present wait of `key`.
    pub(crate) fn delay(&self, key: &str) -> Duration {
        self.entries.get(key).map_or(Duration::ZERO, |entry| entry.delay)
    }

    /// Notes one more try of what failed at `failed_at`; the wait doubles, or starts anew when the last failure is long ago.
    pub(crate) fn next(&mut self, key: &str, failed_at: Instant, now: Instant) {
        let entry = self.entries.entry(key.to_owned()).or_insert(Entry {
            delay: Duration::ZERO,
            updated: now,
        });
        entry.delay = if entry.delay.is_zero() || entry.expired(failed_at) {
            FIRST
        } else {
            (entry.delay * 2).min(LONGEST)
        };
        entry.updated = now;
    }

    /// When the wait of `key` was last set.
    pub(crate) fn updated(&self, key: &str) -> Option<Instant> {
        self.entries.get(key).map(|entry| entry.updated)
    }
}

impl Entry {
    /// What ran well for twice the longest wait starts with the shortest again.
    fn expired(&self, failed_at: Instant) -> bool {
        failed_at.saturating_duration_since(self.updated) > LONGEST * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn waits_double_up_to_five_minutes() {
        let start = Instant::now();
        let mut back_off = BackOff::default();
        assert_eq!(
            back_off.remaining("c", start, start),
            None,
            "the first restart is at once"
        );
        let mut failed = start;
        let mut waits = Vec::new();
        for _ in 0..7 {
            back_off.next("c", failed, failed);
            waits.push(back_off.remaining("c", failed, failed).unwrap().as_secs());
            failed = at(failed, waits[waits.len() - 1]);
            assert_eq!(
                back_off.remaining("c", failed - Duration::from_secs(waits[waits.len() - 1]), failed),
                None
            );
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_good_minutes_forgive() {
        let start = Instant::now();
        let mut back_off = BackOff::default();
        back_off.next("c", start, start);
        back_off.next("c", start, start);
        let late = at(start, 601);
        assert_eq!(back_off.remaining("c", late, late), None);
        back_off.next("c", late, late);
        assert_eq!(back_off.delay("c").as_secs(), 10);
    }
}
