//! Bounds on how much is done at once, so that one client cannot take the server from the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minidc_api::status::Status;

use crate::error::Failure;

/// Short requests under way at once; Kubernetes' `--max-requests-inflight`.
const REQUESTS: usize = 400;
/// Of which one user may hold this many.
const REQUESTS_PER_USER: usize = 200;
/// Watches, followed logs and exec sessions at once.
const STREAMS: usize = 2000;
/// Of which one user may hold this many.
const STREAMS_PER_USER: usize = 500;

/// Counts of what is under way.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    requests: usize,
    streams: usize,
    users: HashMap<String, Held>,
}

#[derive(Debug, Default)]
struct Held {
    requests: usize,
    streams: usize,
}

/// A place under the limits, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    limits: Arc<Limits>,
    user: String,
    stream: bool,
}

impl Limits {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, for something that ends soon or for a stream that may last.
    ///
    /// # Errors
    /// 429 with `Retry-After` when there is none.
    pub(crate) fn enter(self: &Arc<Self>, user: &str, stream: bool) -> Result<Place, Failure> {
        let mut guard = self.counts();
        let counts = &mut *guard;
        let held = counts.users.entry(user.to_owned()).or_default();
        let (all, own, most, most_own) = if stream {
            (&mut counts.streams, &mut held.streams, STREAMS, STREAMS_PER_USER)
        } else {
            (&mut counts.requests, &mut held.requests, REQUESTS, REQUESTS_PER_USER)
        };
        if *all >= most || *own >= most_own {
            return Err(Status::too_many_requests("too many requests, please try again later", 1).into());
        }
        *all += 1;
        *own += 1;
        drop(guard);
        Ok(Place {
            limits: Arc::clone(self),
            user: user.to_owned(),
            stream,
        })
    }

    /// Short requests and streams under way.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        let counts = self.counts();
        (counts.requests, counts.streams)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut guard = self.limits.counts();
        let counts = &mut *guard;
        let Some(held) = counts.users.get_mut(&self.user) else {
            return;
        };
        if self.stream {
            counts.streams -= 1;
            held.streams -= 1;
        } else {
            counts.requests -= 1;
            held.requests -= 1;
        }
        if held.requests == 0 && held.streams == 0 {
            counts.users.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    #[test]
    fn one_user_cannot_take_every_place() {
        let limits = Arc::new(Limits::default());
        let mut places: Vec<Place> = (0..REQUESTS_PER_USER)
            .map(|_| limits.enter("a", false).unwrap())
            .collect();
        let failure = limits.enter("a", false).unwrap_err();
        assert_eq!(failure.code(), 429);
        assert_eq!(failure.into_response().headers()["retry-after"], "1");
        limits.enter("b", false).unwrap();
        limits.enter("a", true).unwrap();
        places.pop();
        limits.enter("a", false).unwrap();
        drop(places);
        assert_eq!(limits.under_way(), (0, 0));
    }
}
