//! Failed joins per source address. Tokens cannot be guessed; this keeps a broken or hostile board from costing a Pi its CPU.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

use super::Refusal;
use crate::protocol::RefusalCode;

/// Failed joins that one address has within [`WINDOW`].
const ALLOWED: u32 = 10;
/// The time they are counted over.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered; a flood from more than these makes us forget, not grow.
const REMEMBERED: usize = 256;

/// The counts.
#[derive(Default)]
pub(super) struct Attempts(HashMap<IpAddr, (u32, Instant)>);

/// One board has a whole /64 of IPv6 addresses to choose from.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Attempts {
    pub(super) fn check(&mut self, address: IpAddr, now: Instant) -> Result<(), Refusal> {
        match self.0.get(&source(address)) {
            Some((count, began)) if *count >= ALLOWED && now < *began + WINDOW => {
                let seconds = (*began + WINDOW - now).as_secs() + 1;
                let reason =
                    format!("too many failed attempts to join from {address}; the next is looked at in {seconds} s");
                Err(Refusal::new(RefusalCode::TooManyAttempts, reason))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn failed(&mut self, address: IpAddr, now: Instant) {
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, (_, began)| now < *began + WINDOW);
        }
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        let (count, began) = self.0.entry(source(address)).or_insert((0, now));
        if now >= *began + WINDOW {
            (*count, *began) = (0, now);
        }
        *count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_one_address_are_bounded_and_forgotten() {
        let (here, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let now = Instant::now();
        let mut attempts = Attempts::default();
        for _ in 0..ALLOWED {
            assert_eq!(attempts.check(here, now), Ok(()));
            attempts.failed(here, now);
        }
        assert_eq!(
            attempts.check(here, now).unwrap_err().code,
            RefusalCode::TooManyAttempts
        );
        assert_eq!(attempts.check(other, now), Ok(()));
        assert_eq!(attempts.check(here, now + WINDOW), Ok(()));
    }

    #[test]
    fn addresses_of_one_board_count_together() {
        let now = Instant::now();
        let mut attempts = Attempts::default();
        for host in 0..ALLOWED {
            attempts.failed(format!("fd00::{host:x}").parse().unwrap(), now);
        }
        assert!(attempts.check("fd00::ffff".parse().unwrap(), now).is_err());
        for board in 0..REMEMBERED * 4 {
            attempts.failed(format!("fd00:{board:x}::1").parse().unwrap(), now);
        }
        assert!(attempts.0.len() <= REMEMBERED);
    }
}
