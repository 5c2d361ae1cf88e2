//! How long to wait before the next attempt.

use std::time::Duration;

use crate::pki::random_u32;

/// First wait after a link was lost.
const FIRST: Duration = Duration::from_millis(100);
/// Longest wait while the control plane may come back at any moment (it was killed, it restarts).
const SOON: Duration = Duration::from_secs(1);
/// Longest wait after that.
const LONGEST: Duration = Duration::from_secs(5);
/// Failures in a row until [`LONGEST`] applies; about a minute of them.
const PATIENCE: u32 = 60;
/// First wait after a refusal that only a person can lift.
const REFUSED_FIRST: Duration = Duration::from_secs(2);
/// Longest wait after such refusals.
const REFUSED_LONGEST: Duration = Duration::from_secs(60);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    refusals: u32,
}

impl Backoff {
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The wait after one more failure.
    pub(super) fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let longest = if self.failures > PATIENCE { LONGEST } else { SOON };
        jitter(double(FIRST, self.failures, longest))
    }

    /// The wait after one more refusal.
    pub(super) fn refused(&mut self) -> Duration {
        self.refusals = self.refusals.saturating_add(1);
        jitter(double(REFUSED_FIRST, self.refusals, REFUSED_LONGEST))
    }
}

fn double(first: Duration, times: u32, longest: Duration) -> Duration {
    first
        .saturating_mul(2_u32.saturating_pow(times.min(20).saturating_sub(1)))
        .min(longest)
}

/// Between half of it and all of it, so that boards that lost their control plane together do not come back together.
fn jitter(wait: Duration) -> Duration {
    let part = f64::from(random_u32()) / f64::from(u32::MAX);
    wait.mul_f64(0.5 + part / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limits_and_start_again() {
        let mut backoff = Backoff::default();
        assert!(backoff.failed() <= FIRST);
        for _ in 1..PATIENCE {
            assert!(backoff.failed() <= SOON);
        }
        let late = backoff.failed();
        assert!(late > SOON && late <= LONGEST, "{late:?}");
        for _ in 0..100 {
            let refused = backoff.refused();
            assert!(
                refused >= REFUSED_FIRST / 2 && refused <= REFUSED_LONGEST,
                "{refused:?}"
            );
        }
        assert!(backoff.refused() >= REFUSED_LONGEST / 2);
        backoff.reset();
        assert!(backoff.failed() <= FIRST);
    }
}
