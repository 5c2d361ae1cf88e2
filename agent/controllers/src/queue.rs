//! A work queue of keys: a key waits in it once, is handled by one worker at a time, and comes back later after a failure.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Error;

/// First and longest pause after a failure, as asked of every controller.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(60));

struct State<K> {
    ready: VecDeque<K>,
    /// In `ready`, or to go there when the worker that has it is done.
    wanted: HashSet<K>,
    running: HashSet<K>,
    delayed: BTreeMap<(Instant, u64), K>,
    /// Where in `delayed` a key is: only its earliest wish counts.
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    serial: u64,
}

/// Keys that wait to be handled.
pub(crate) struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

/// When to look at a key again although nothing happened; none: not before something does.
pub(crate) type Again = Option<Duration>;

impl<K: Clone + Eq + Hash + Ord + Display> Queue<K> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                wanted: HashSet::new(),
                running: HashSet::new(),
                delayed: BTreeMap::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
                serial: 0,
            }),
            changed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles the key soon, once, however often it is added.
    pub(crate) fn add(&self, key: K) {
        self.lock().want(key);
        self.changed.notify_one();
    }

    /// A key to handle now, or when the next one is due.
    fn take(&self) -> Result<K, Option<Instant>> {
        let mut state = self.lock();
        let now = Instant::now();
        while let Some(entry) = state.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            state.due.remove(&key);
            state.want(key);
        }
        match state.ready.pop_front() {
            Some(key) => {
                state.wanted.remove(&key);
                state.running.insert(key.clone());
                Ok(key)
            }
            None => Err(state.delayed.first_key_value().map(|((due, _), _)| *due)),
        }
    }

    fn finish(&self, key: &K, outcome: Result<Again, Error>) {
        let mut state = self.lock();
        state.running.remove(key);
        if state.wanted.contains(key) {
            state.ready.push_back(key.clone());
        }
        match outcome {
            Ok(again) => {
                state.failures.remove(key);
                if let Some(pause) = again {
                    state.delay(key.clone(), Instant::now() + pause);
                }
            }
            Err(error) => {
                let failures = state.failures.entry(key.clone()).or_default();
                let pause = pause_after(*failures);
                *failures = failures.saturating_add(1);
                // Conflicts are how two writers find out about each other; anything else deserves a line once it persists.
                if error.is_conflict() || *failures < 4 {
                    tracing::debug!(object = %key, error = &error as &dyn std::error::Error, "to be tried again");
                } else {
                    tracing::warn!(object = %key, error = &error as &dyn std::error::Error, ?pause, "to be tried again");
                }
                state.delay(key.clone(), Instant::now() + pause);
            }
        }
    }

    /// Handles keys until shutdown, at most `workers` at a time.
    pub(crate) async fn work<F, R>(&self, workers: usize, shutdown: &CancellationToken, reconcile: F)
    where
        F: Fn(K) -> R,
        R: Future<Output = Result<Again, Error>>,
    {
        let mut running = FuturesUnordered::new();
        loop {
            let mut due = None;
            while running.len() < workers {
                match self.take() {
                    Ok(key) => {
                        let work = reconcile(key.clone());
                        running.push(async move { (key, work.await) });
                    }
                    Err(next) => {
                        due = next;
                        break;
                    }
                }
            }
            let wake = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some((key, outcome)) = running.next() => self.finish(&key, outcome),
                () = self.changed.notified() => {}
                () = wake => {}
            }
        }
    }
}

/// How long to wait after so many failures in a row before this one.
fn pause_after(failures: u32) -> Duration {
    PAUSE.0.saturating_mul(1 << failures.min(14)).min(PAUSE.1)
}

impl<K: Clone + Eq + Hash + Ord> State<K> {
    fn want(&mut self, key: K) {
        if self.wanted.insert(key.clone()) && !self.running.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn delay(&mut self, key: K, due: Instant) {
        if let Some(place) = self.due.get(&key) {
            if place.0 <= due {
                return;
            }
            self.delayed.remove(place);
        }
        self.serial += 1;
        self.due.insert(key.clone(), (due, self.serial));
        self.delayed.insert((due, self.serial), key);
    }
}

#[cfg(test)]
mod tests;
