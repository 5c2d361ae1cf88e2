//! Numbers and orders changes: the part that the memory backend and the embedded one share.
//!
//! One mutex guards the state and is never held during a disk write. Transactions on durable keys queue for one
//! thread, which takes all that wait, judges them, writes them in one go and publishes them. Transactions on memory keys are
//! done at once by the caller's own thread, also while the disk is busy: a card that stalls for seconds must not
//! make the heartbeats late. For that, a batch on its way to the disk leaves [`ROOM_IN_FLIGHT`] revisions free before its own.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use self::core::{Answer, Core, Flight, Overlay, after};
use super::{Range, Sink};
use crate::{Change, Entry, Error, History, Op, Options, Revision, Statistics, options::DURABLE, prefix::with_prefix};

mod core;

/// Revisions that memory keys may use while one batch is on its way to the disk; when they are used up, memory keys wait for
/// that batch. Ten nodes' heartbeats for 25 seconds.
const ROOM_IN_FLIGHT: u64 = 256;

/// Revisions reserved on disk in advance for memory keys, so that after a restart no revision is given out twice. Ten
/// heartbeats a second use this up in almost three hours; most of the time the reservation rides on another write anyway.
const RESERVATION: u64 = 100_000;

/// How long after a failed write the thread waits before it writes unasked.
const RETRY: Duration = Duration::from_secs(5);

/// A batch takes no further transactions once it has this many bytes.
const BATCH_BYTES: usize = 1 << 20;

/// Where batches become durable.
pub(crate) trait Journal: Send {
    /// Makes the changes, and the right to use revisions up to `reserved`, durable in one write: all or nothing.
    fn append(&mut self, changes: &[Arc<Change>], reserved: Option<Revision>) -> Result<(), Failure>;
    /// Whether the journal should be replaced by its present content.
    fn rewrite_wanted(&self) -> Rewrite;
    /// Replaces the journal by `entries`. On an error the journal is as it was.
    fn rewrite(&mut self, entries: &[Entry], revision: Revision, reserved: Revision) -> Result<(), Error>;
    /// Counters.
    fn statistics(&self) -> Statistics;
}

/// A batch that did not become durable.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// The changes may be found after a restart, so their revisions must not be given out again.
    pub(crate) uncertain: bool,
}

/// How urgent a rewrite is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rewrite {
    /// Not at all.
    No,
    /// When nothing else waits.
    Idle,
    /// Now.
    Soon,
    /// Before anything can be appended.
    First,
}

/// What a backend starts from.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) entries: BTreeMap<Arc<str>, Entry>,
    pub(crate) history: History,
    pub(crate) revision: Revision,
    pub(crate) reserved: Revision,
}

#[derive(Debug)]
pub(crate) struct Sequencer {
    shared: Arc<Shared>,
    finished: watch::Receiver<bool>,
}

#[derive(Debug)]
struct Shared {
    core: Mutex<Core>,
    wake: Condvar,
}

enum Request {
    Commit {
        operations: Vec<Op>,
        reply: oneshot::Sender<Answer>,
    },
    Compact {
        revision: Revision,
        reply: oneshot::Sender<Result<(), Error>>,
    },
}

impl Sequencer {
    pub(crate) fn in_memory(options: &Options) -> Self {
        let state = State {
            entries: BTreeMap::new(),
            history: History::new(options, 0, 0),
            revision: 0,
            reserved: Revision::MAX,
        };
        let core = Core::new(options, state, false);
        let (done, finished) = watch::channel(true);
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            wake: Condvar::new(),
        });
        let expires = shared.lock().expires();
        if expires {
            let worker = Arc::clone(&shared);
            done.send_replace(false);
            // Without the thread nothing expires by time, which no caller of a memory store depends on for being correct.
            if spawn(move || worker.run(None, &done)).is_ok() {
                shared.lock().worker = true;
            }
        }
        Self { shared, finished }
    }

    /// With a journal, on whose thread the disk writes happen.
    pub(crate) fn durable(options: &Options, state: State, journal: Box<dyn Journal>) -> Result<Self, std::io::Error> {
        let mut core = Core::new(options, state, true);
        core.worker = true;
        core.statistics = journal.statistics();
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            wake: Condvar::new(),
        });
        let (done, finished) = watch::channel(false);
        let worker = Arc::clone(&shared);
        spawn(move || worker.run(Some(journal), &done))?;
        Ok(Self { shared, finished })
    }

    pub(crate) fn commit(&self, operations: Vec<Op>) -> impl Future<Output = Answer> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        async move {
            let answer = {
                let mut core = shared.lock();
                if core.closing {
                    return Err(Error::Closed);
                }
                if core.can_do_now(&operations) {
                    let answer = core.do_now(operations);
                    if core.worker_sleeps_too_long() {
                        shared.wake.notify_one();
                    }
                    return answer;
                }
                let (reply, answer) = oneshot::channel();
                core.queue.push(Request::Commit { operations, reply });
                shared.wake.notify_one();
                answer
            };
            answer.await.unwrap_or(Err(Error::Closed))
        }
    }

    pub(crate) fn compact(&self, revision: Revision) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        async move {
            let answer = {
                let mut core = shared.lock();
                if core.closing {
                    return Err(Error::Closed);
                }
                if !core.durable {
                    core.history.compact(revision);
                    return Ok(());
                }
                let (reply, answer) = oneshot::channel();
                core.queue.push(Request::Compact { revision, reply });
                shared.wake.notify_one();
                answer
            };
            answer.await.unwrap_or(Err(Error::Closed))
        }
    }

    pub(crate) fn range(&self, prefix: &str) -> Range {
        let core = self.shared.lock();
        let entries = with_prefix(&core.entries, prefix).cloned().collect();
        Range {
            entries,
            revision: core.revision,
        }
    }

    pub(crate) fn watch(&self, from: Revision, mut sink: Box<dyn Sink>) -> Result<(), Error> {
        let mut core = self.shared.lock();
        if core.closing {
            return Err(Error::Closed);
        }
        if from > core.revision {
            return Err(Error::Ahead {
                asked: from,
                current: core.revision,
            });
        }
        core.history.check(&core.history.classes().touched(""), from)?;
        let past = core.history.after(from);
        if !past.is_empty() {
            sink.apply(&past, core.revision);
        }
        core.sinks.push(sink);
        Ok(())
    }

    pub(crate) fn history(&self) -> History {
        self.shared.lock().history.clone()
    }

    pub(crate) fn statistics(&self) -> Statistics {
        self.shared.lock().statistics
    }

    pub(crate) fn close(&self) -> impl Future<Output = ()> + Send + use<> {
        self.shared.begin_close();
        let mut finished = self.finished.clone();
        async move {
            // An error means that the thread is gone, which is what is waited for.
            let _ = finished.wait_for(|finished| *finished).await;
        }
    }
}

impl Drop for Sequencer {
    fn drop(&mut self) {
        self.shared.begin_close();
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> Result<(), std::io::Error> {
    thread::Builder::new()
        .name("store".to_owned())
        .stack_size(512 << 10)
        .spawn(run)
        .map(|_| ())
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_close(&self) {
        let mut core = self.lock();
        core.closing = true;
        if !core.worker {
            core.end();
        }
        self.wake.notify_all();
    }

    /// The thread: batches for the journal, expiry by time.
    fn run(&self, mut journal: Option<Box<dyn Journal>>, done: &watch::Sender<bool>) {
        struct End<'a>(&'a Shared);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                let mut core = self.0.lock();
                core.closing = true;
                core.end();
            }
        }
        let end = End(self);
        loop {
            let requests = self.wait(journal.as_deref());
            let Some(requests) = requests else { break };
            if let Some(journal) = journal.as_deref_mut() {
                self.serve(journal, requests);
            }
        }
        drop(end);
        // The file lock goes before the word that the store is closed.
        drop(journal);
        done.send_replace(true);
    }

    /// Sleeps until there is work; `None` to end.
    fn wait(&self, journal: Option<&dyn Journal>) -> Option<Vec<Request>> {
        let mut core = self.lock();
        loop {
            let now = Instant::now();
            core.expire(now);
            if !core.queue.is_empty() {
                return Some(core.take_batch());
            }
            if core.closing {
                return None;
            }
            let urgent =
                journal.is_some_and(|journal| matches!(journal.rewrite_wanted(), Rewrite::Idle | Rewrite::Soon));
            let reserve_at = core.durable.then(|| core.reserve_at(now)).flatten();
            if urgent || reserve_at.is_some_and(|at| at <= now) {
                return Some(Vec::new());
            }
            core.alarm = core.next_expiry().into_iter().chain(reserve_at).min();
            core = match core.alarm {
                Some(at) => {
                    let wait = at.saturating_duration_since(now);
                    self.wake
                        .wait_timeout(core, wait)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self.wake.wait(core).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn serve(&self, journal: &mut dyn Journal, requests: Vec<Request>) {
        let mut commits = Vec::new();
        for request in requests {
            match request {
                Request::Commit { operations, reply } => commits.push((operations, reply)),
                Request::Compact { revision, reply } => {
                    self.lock().history.compact(revision);
                    let _ = reply.send(self.rewrite(journal));
                }
            }
        }
        let wanted = journal.rewrite_wanted();
        let now = match wanted {
            Rewrite::First | Rewrite::Soon => true,
            Rewrite::Idle => commits.is_empty(),
            Rewrite::No => false,
        };
        if now && let Err(error) = self.rewrite(journal) {
            if wanted == Rewrite::First {
                self.lock().refused(&error);
                for (_, reply) in commits {
                    let _ = reply.send(Err(error.clone()));
                }
                return;
            }
            tracing::warn!(%error, "the store's log could not be rewritten; trying again later");
        }
        self.commit(journal, commits);
        self.lock().statistics = journal.statistics();
    }

    /// Judges the transactions, writes what they change, publishes it and answers.
    fn commit(&self, journal: &mut dyn Journal, commits: Vec<(Vec<Op>, oneshot::Sender<Answer>)>) {
        let mut answers = Vec::with_capacity(commits.len());
        let mut changes = Vec::new();
        let mut durable = Vec::new();
        let reservation;
        let last;
        {
            let mut core = self.lock();
            let memory_kinds = core.history.classes().count() > 1;
            let disk = commits
                .iter()
                .flat_map(|(operations, _)| operations)
                .any(|op| core.class(op.key()) == DURABLE);
            let base = core.revision + if memory_kinds && disk { ROOM_IN_FLIGHT } else { 0 };
            let mut overlay = Overlay::new();
            for (operations, reply) in commits {
                let next = base + 1 + changes.len() as u64;
                let answer = core.judge(operations, &overlay, next).map(|judged| {
                    overlay.extend(
                        judged
                            .changes
                            .iter()
                            .map(|change| (Arc::clone(change.key()), after(change))),
                    );
                    changes.extend(judged.changes);
                    judged.answers
                });
                answers.push((answer, reply));
            }
            last = if changes.is_empty() {
                core.revision
            } else {
                base + changes.len() as u64
            };
            durable.extend(
                changes
                    .iter()
                    .filter(|change| core.class(change.key()) == DURABLE)
                    .cloned(),
            );
            reservation =
                (memory_kinds && core.reserved.saturating_sub(last) < RESERVATION / 2).then_some(last + RESERVATION);
            core.flight = Some(Flight {
                ceiling: base,
                memory: durable.len() < changes.len(),
            });
        }
        let wrote = !durable.is_empty() || reservation.is_some();
        let written = if wrote {
            journal.append(&durable, reservation)
        } else {
            Ok(())
        };
        let mut core = self.lock();
        core.flight = None;
        match written {
            Ok(()) => {
                core.reserved = core.reserved.max(reservation.unwrap_or_default());
                core.statistics = journal.statistics();
                if wrote && core.retry.take().is_some() {
                    tracing::info!("changes can be made durable again");
                }
                if !changes.is_empty() {
                    core.publish(changes, last, Instant::now());
                }
            }
            Err(Failure { error, uncertain }) => {
                core.refused(&error);
                if uncertain {
                    core.revision = core.revision.max(last);
                }
                for (answer, _) in &mut answers {
                    *answer = Err(error.clone());
                }
            }
        }
        drop(core);
        for (answer, reply) in answers {
            // The caller may have stopped waiting.
            let _ = reply.send(answer);
        }
    }

    fn rewrite(&self, journal: &mut dyn Journal) -> Result<(), Error> {
        let (entries, revision, reserved) = {
            let core = self.lock();
            let entries: Vec<Entry> = core
                .entries
                .values()
                .filter(|entry| core.class(&entry.key) == DURABLE)
                .cloned()
                .collect();
            (entries, core.revision, core.reserved)
        };
        journal.rewrite(&entries, revision, reserved)
    }
}

#[cfg(test)]
mod tests;
