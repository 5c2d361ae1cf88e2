//! The state that the mutex guards: what is, what is allowed next, what has had its time.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{BATCH_BYTES, RESERVATION, RETRY, Request, State};
use crate::{
    Change, Entry, Error, History, Op, Options, Revision, Statistics,
    backend::Sink,
    options::{Class, Classes, DURABLE},
};

pub(super) struct Core {
    pub(super) entries: BTreeMap<Arc<str>, Entry>,
    pub(super) history: History,
    orders: Vec<Order>,
    pub(super) sinks: Vec<Box<dyn Sink>>,
    pub(super) revision: Revision,
    pub(super) reserved: Revision,
    pub(super) flight: Option<Flight>,
    pub(super) queue: Vec<Request>,
    pub(super) durable: bool,
    pub(super) worker: bool,
    /// When the thread wakes by itself; `None` for never.
    pub(super) alarm: Option<Instant>,
    /// After a failed write, when the thread tries again to reserve revisions unasked.
    pub(super) retry: Option<Instant>,
    pub(super) closing: bool,
    pub(super) largest_transaction: usize,
    pub(super) statistics: Statistics,
}

/// A batch on its way to the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    /// Highest revision free for memory keys meanwhile.
    pub(super) ceiling: Revision,
    /// The batch changes memory keys too, so they must wait.
    pub(super) memory: bool,
}

/// Keys of a bounded memory prefix by the revision, and so the time, of their last write.
#[derive(Debug, Default)]
pub(super) struct Order {
    ttl: Option<Duration>,
    most: Option<usize>,
    keys: BTreeMap<Revision, (Instant, Arc<str>)>,
}

pub(super) type Answer = Result<Vec<Option<Entry>>, Error>;
pub(super) type Overlay = HashMap<Arc<str>, Option<Entry>>;

impl std::fmt::Debug for Core {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Core")
            .field("entries", &self.entries.len())
            .field("revision", &self.revision)
            .field("queue", &self.queue.len())
            .finish_non_exhaustive()
    }
}

pub(super) struct Judged {
    pub(super) changes: Vec<Arc<Change>>,
    pub(super) answers: Vec<Option<Entry>>,
}

pub(super) fn after(change: &Change) -> Option<Entry> {
    match change {
        Change::Put { entry, .. } => Some(entry.clone()),
        Change::Delete { .. } => None,
    }
}

impl Core {
    pub(super) fn new(options: &Options, state: State, durable: bool) -> Self {
        let classes = Classes::new(options);
        let orders = (0..classes.count())
            .map(|class| Order {
                ttl: classes.memory(class).and_then(|memory| memory.ttl),
                most: classes.memory(class).and_then(|memory| memory.most),
                keys: BTreeMap::new(),
            })
            .collect();
        Self {
            entries: state.entries,
            history: state.history,
            orders,
            sinks: Vec::new(),
            revision: state.revision,
            reserved: state.reserved,
            flight: None,
            queue: Vec::new(),
            durable,
            worker: false,
            alarm: None,
            retry: None,
            closing: false,
            largest_transaction: options.largest_transaction,
            statistics: Statistics::default(),
        }
    }

    pub(super) fn class(&self, key: &str) -> Class {
        self.history.classes().of(key)
    }

    /// Revisions that may be given out now without the disk.
    fn room(&self) -> u64 {
        let ceiling = match self.flight {
            Some(Flight { memory: true, .. }) => self.revision,
            Some(Flight { ceiling, memory: false }) => ceiling,
            None => Revision::MAX,
        };
        ceiling.min(self.reserved).saturating_sub(self.revision)
    }

    /// When to reserve further revisions; `None` while there are enough.
    pub(super) fn reserve_at(&self, now: Instant) -> Option<Instant> {
        let low = self.history.classes().count() > 1 && self.reserved.saturating_sub(self.revision) < RESERVATION / 2;
        low.then(|| self.retry.unwrap_or(now))
    }

    pub(super) fn worker_sleeps_too_long(&self) -> bool {
        let due = self
            .next_expiry()
            .into_iter()
            .chain(self.reserve_at(Instant::now()).filter(|_| self.durable))
            .min();
        self.worker && due.is_some_and(|due| self.alarm.is_none_or(|alarm| due < alarm))
    }

    pub(super) fn can_do_now(&self, operations: &[Op]) -> bool {
        let memory = !self.durable || operations.iter().all(|op| self.class(op.key()) != DURABLE);
        let busy = self.flight.is_some_and(|flight| flight.memory);
        memory && !busy && self.room() >= operations.len() as u64
    }

    pub(super) fn do_now(&mut self, operations: Vec<Op>) -> Answer {
        let Judged { changes, answers } = self.judge(operations, &Overlay::new(), self.revision + 1)?;
        if !changes.is_empty() {
            let last = self.revision + changes.len() as u64;
            self.publish(changes, last, Instant::now());
        }
        Ok(answers)
    }

    /// What the transaction would change, given the state and what is pending in `overlay`.
    pub(super) fn judge(&self, operations: Vec<Op>, overlay: &Overlay, mut next: Revision) -> Result<Judged, Error> {
        let mut changes: Vec<Arc<Change>> = Vec::with_capacity(operations.len());
        let mut answers = Vec::with_capacity(operations.len());
        let mut bytes = 0;
        for operation in operations {
            let current = match changes.iter().rfind(|change| &**change.key() == operation.key()) {
                Some(change) => after(change),
                None => match overlay.get(operation.key()) {
                    Some(pending) => pending.clone(),
                    None => self.entries.get(operation.key()).cloned(),
                },
            };
            let revision = current.as_ref().map(|entry| entry.revision);
            if !operation.when().holds(revision) {
                let (Op::Put { key, .. } | Op::Delete { key, .. }) = operation;
                return Err(Error::Conflict { key, current: revision });
            }
            match (operation, current) {
                (Op::Put { envelope, .. }, Some(current)) if *current.envelope == envelope => {
                    answers.push(Some(current));
                }
                (Op::Put { key, envelope, .. }, current) => {
                    bytes += key.len() + envelope.weight();
                    if bytes > self.largest_transaction {
                        return Err(Error::TooLarge {
                            key,
                            bytes,
                            limit: self.largest_transaction,
                        });
                    }
                    let (key, created) = match &current {
                        Some(current) => (Arc::clone(&current.key), current.created),
                        None => (Arc::from(key), next),
                    };
                    let entry = Entry {
                        key,
                        revision: next,
                        created,
                        envelope: Arc::new(envelope),
                    };
                    answers.push(Some(entry.clone()));
                    changes.push(Arc::new(Change::Put {
                        entry,
                        previous: current,
                    }));
                    next += 1;
                }
                (Op::Delete { .. }, None) => answers.push(None),
                (Op::Delete { .. }, Some(previous)) => {
                    answers.push(Some(Entry {
                        revision: next,
                        ..previous.clone()
                    }));
                    changes.push(Arc::new(Change::Delete {
                        previous,
                        revision: next,
                    }));
                    next += 1;
                }
            }
        }
        Ok(Judged { changes, answers })
    }

    /// Takes the changes over into the state and tells the sinks, together with the evictions they cause.
    pub(super) fn publish(&mut self, mut changes: Vec<Arc<Change>>, last: Revision, now: Instant) {
        for change in &changes {
            self.take_over(change, now);
        }
        self.revision = self.revision.max(last);
        for class in 0..self.orders.len() {
            while let Some(change) = self.surplus(class) {
                self.take_over(&change, now);
                self.revision += 1;
                changes.push(change);
            }
        }
        self.tell(&changes);
    }

    fn take_over(&mut self, change: &Arc<Change>, now: Instant) {
        let class = self.class(change.key());
        let order = self
            .orders
            .get_mut(class)
            .filter(|order| order.ttl.is_some() || order.most.is_some());
        match &**change {
            Change::Put { entry, previous } => {
                if let Some(order) = order {
                    if let Some(previous) = previous {
                        order.keys.remove(&previous.revision);
                    }
                    order.keys.insert(entry.revision, (now, Arc::clone(&entry.key)));
                }
                self.entries.insert(Arc::clone(&entry.key), entry.clone());
            }
            Change::Delete { previous, .. } => {
                if let Some(order) = order {
                    order.keys.remove(&previous.revision);
                }
                self.entries.remove(&previous.key);
            }
        }
        self.history.push(change, now);
    }

    fn tell(&mut self, changes: &[Arc<Change>]) {
        let revision = self.revision;
        for sink in &mut self.sinks {
            sink.apply(changes, revision);
        }
    }

    /// The removal of the key written longest ago, if the class has too many.
    fn surplus(&self, class: Class) -> Option<Arc<Change>> {
        let order = self.orders.get(class)?;
        let over = order.most.is_some_and(|most| order.keys.len() > most);
        if over {
            self.removal(order.keys.values().next().map(|(_, key)| key)?)
        } else {
            None
        }
    }

    fn removal(&self, key: &str) -> Option<Arc<Change>> {
        if self.room() == 0 {
            return None;
        }
        let previous = self.entries.get(key)?.clone();
        Some(Arc::new(Change::Delete {
            previous,
            revision: self.revision + 1,
        }))
    }

    /// Removes what has outlived its time.
    pub(super) fn expire(&mut self, now: Instant) {
        let mut changes = Vec::new();
        for class in 0..self.orders.len() {
            while let Some(change) = self.expired(class, now) {
                self.take_over(&change, now);
                self.revision += 1;
                changes.push(change);
            }
        }
        if !changes.is_empty() {
            self.tell(&changes);
        }
    }

    fn expired(&self, class: Class, now: Instant) -> Option<Arc<Change>> {
        let order = self.orders.get(class)?;
        let (at, key) = order.keys.values().next()?;
        if now.saturating_duration_since(*at) >= order.ttl? {
            self.removal(key)
        } else {
            None
        }
    }

    /// Notes a failed write. Told once, not for each: a full disk should not get a log line for every attempt.
    pub(super) fn refused(&mut self, error: &Error) {
        if self.retry.is_none() {
            tracing::error!(%error, "changes cannot be made durable; they are refused until this is over");
        }
        self.retry = Some(Instant::now() + RETRY);
    }

    /// Whether any keys have a time to live.
    pub(super) fn expires(&self) -> bool {
        self.orders.iter().any(|order| order.ttl.is_some())
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.orders
            .iter()
            .filter_map(|order| Some(order.keys.values().next()?.0 + order.ttl?))
            .min()
    }

    pub(super) fn take_batch(&mut self) -> Vec<Request> {
        let mut bytes = 0;
        let end = self
            .queue
            .iter()
            .position(|request| {
                let full = bytes >= BATCH_BYTES;
                if let Request::Commit { operations, .. } = request {
                    bytes += operations
                        .iter()
                        .map(|op| {
                            if let Op::Put { envelope, .. } = op {
                                envelope.json.len()
                            } else {
                                0
                            }
                        })
                        .sum::<usize>();
                }
                full
            })
            .unwrap_or(self.queue.len());
        let rest = self.queue.split_off(end);
        mem::replace(&mut self.queue, rest)
    }

    pub(super) fn end(&mut self) {
        self.queue.clear();
        for mut sink in self.sinks.drain(..) {
            sink.closed();
        }
    }
}
