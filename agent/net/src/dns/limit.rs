//! How much each client may ask: a token bucket per address, in a table of fixed size.
//!
//! The generic cell rate algorithm (ITU-T I.371): of each client only the time is kept at which its bucket is full again,
//! so that one atomic word per client does, and workers need no lock.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// Clients whose addresses meet in the table share this many places.
const WAYS: usize = 4;
/// Sets of such places: a /24 of pods fits several times.
const SETS: usize = 256;

/// How often a client may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Queries per second in the long run.
    pub per_second: u32,
    /// Queries at once.
    pub burst: u32,
}

/// Knows who asked how much.
pub(super) struct Limiter {
    /// Nanoseconds that a query uses up.
    cost: u64,
    /// Nanoseconds that may be used up in advance.
    allowance: u64,
    started: Instant,
    places: Box<[Place]>,
}

#[derive(Default)]
struct Place {
    /// Whose; 0 is nobody's.
    client: AtomicU64,
    /// Nanoseconds since the start when the client's bucket is full again.
    full_at: AtomicU64,
}

impl Limiter {
    /// A limiter that lets everybody ask so much.
    pub(super) fn new(rate: Rate) -> Self {
        let cost = 1_000_000_000 / u64::from(rate.per_second.max(1));
        Self {
            cost,
            allowance: cost * u64::from(rate.burst.max(1)),
            started: Instant::now(),
            places: (0..SETS * WAYS).map(|_| Place::default()).collect(),
        }
    }

    /// The time to give to [`Self::admits`]; one reading does for a batch.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether the client may ask now; if so, that is counted.
    ///
    /// A client that is displaced from the table by others begins anew. Two workers at one place may count one query too
    /// few: a limit need not be exact.
    pub(super) fn admits(&self, client: IpAddr, now: u64) -> bool {
        let client = fingerprint(client);
        let set = (client.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % SETS;
        let places = &self.places[set * WAYS..(set + 1) * WAYS];
        let mut oldest = &places[0];
        for place in places {
            if place.client.load(Ordering::Relaxed) == client {
                return self.take(place, now);
            }
            if place.full_at.load(Ordering::Relaxed) < oldest.full_at.load(Ordering::Relaxed) {
                oldest = place;
            }
        }
        oldest.client.store(client, Ordering::Relaxed);
        oldest.full_at.store(now + self.cost, Ordering::Relaxed);
        true
    }

    fn take(&self, place: &Place, now: u64) -> bool {
        let full_at = place.full_at.load(Ordering::Relaxed).max(now) + self.cost;
        if full_at - now > self.allowance {
            return false;
        }
        place.full_at.store(full_at, Ordering::Relaxed);
        true
    }
}

/// A number for an address, never 0. IPv6 clients are told apart by their /64, since each has that to itself.
fn fingerprint(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => 1 << 32 | u64::from(address.to_bits()),
        IpAddr::V6(address) => ((address.to_bits() >> 64) as u64) | 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn client(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn a_client_may_ask_a_burst_and_then_as_its_rate_allows() {
        let limiter = Limiter::new(Rate {
            per_second: 10,
            burst: 5,
        });
        let asked = |now| (0..100).filter(|_| limiter.admits(client(1), now)).count();
        assert_eq!(asked(SECOND), 5);
        assert_eq!(asked(SECOND), 0);
        assert_eq!(asked(SECOND + SECOND / 10), 1);
        assert_eq!(asked(SECOND * 100), 5, "what was not used does not add up");
    }

    #[test]
    fn one_client_does_not_use_up_what_another_has() {
        let limiter = Limiter::new(Rate {
            per_second: 1,
            burst: 1,
        });
        for number in 1..200 {
            assert!(limiter.admits(client(number), SECOND), "{number}");
        }
        assert!(!limiter.admits(client(199), SECOND));
    }

    #[test]
    fn any_number_of_clients_is_served() {
        let limiter = Limiter::new(Rate {
            per_second: 1,
            burst: 1,
        });
        assert!((1..100_000).all(|number| limiter.admits(client(number), SECOND)));
    }
}
