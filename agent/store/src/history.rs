//! The recent changes, bounded, so that a watch can start a little in the past.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Change, Error, HistoryLimits, Options, Revision,
    options::{Class, Classes, DURABLE},
};

/// Recent changes in revision order, kept apart by durability class so that a stream of heartbeats does not
/// push out the history of pods.
#[derive(Debug, Clone)]
pub struct History {
    classes: Classes,
    rings: Vec<Ring>,
    /// The newest revision ever pushed.
    last: Revision,
}

#[derive(Debug, Clone)]
struct Ring {
    changes: VecDeque<(Instant, Arc<Change>)>,
    bytes: usize,
    limits: HistoryLimits,
    /// All changes of this class after this revision are present.
    compacted: Revision,
}

impl History {
    /// Empty; complete after `start` for memory kinds and after `durable_start` for durable ones.
    pub(crate) fn new(options: &Options, durable_start: Revision, start: Revision) -> Self {
        let classes = Classes::new(options);
        let rings = (0..classes.count())
            .map(|class| Ring {
                changes: VecDeque::new(),
                bytes: 0,
                limits: if class == DURABLE {
                    options.history
                } else {
                    options.memory_history
                },
                compacted: if class == DURABLE { durable_start } else { start },
            })
            .collect();
        Self {
            classes,
            rings,
            last: start.max(durable_start),
        }
    }

    pub(crate) fn classes(&self) -> &Classes {
        &self.classes
    }

    /// Adds a change, unless it is already known, and drops what the limits no longer allow.
    pub(crate) fn push(&mut self, change: &Arc<Change>, now: Instant) {
        if change.revision() <= self.last {
            return;
        }
        self.last = change.revision();
        let class = self.classes.of(change.key());
        if let Some(ring) = self.rings.get_mut(class) {
            ring.bytes += change.weight();
            ring.changes.push_back((now, Arc::clone(change)));
        }
        for ring in &mut self.rings {
            ring.trim(now);
        }
    }

    /// Ends the reading back after a restart: the changes of memory kinds before `start` are lost, and `start` is the newest revision.
    pub(crate) fn begin(&mut self, start: Revision) {
        self.last = self.last.max(start);
        for ring in self.rings.iter_mut().skip(DURABLE + 1) {
            ring.compacted = start;
        }
    }

    /// Forgets all changes up to and including `revision`.
    pub(crate) fn compact(&mut self, revision: Revision) {
        for ring in &mut self.rings {
            while ring
                .changes
                .front()
                .is_some_and(|(_, change)| change.revision() <= revision)
            {
                ring.pop();
            }
            ring.compacted = ring.compacted.max(revision.min(self.last));
        }
    }

    /// The oldest revision that these classes can be watched from.
    pub(crate) fn oldest(&self, touched: &[Class]) -> Revision {
        touched
            .iter()
            .filter_map(|class| self.rings.get(*class))
            .map(|ring| ring.compacted)
            .max()
            .unwrap_or(self.last)
    }

    /// Fails unless all changes of the classes after `from` are known.
    pub(crate) fn check(&self, touched: &[Class], from: Revision) -> Result<(), Error> {
        let oldest = self.oldest(touched);
        if from < oldest {
            Err(Error::Compacted { oldest })
        } else {
            Ok(())
        }
    }

    /// The first change at or after `revision` of a key with this prefix.
    pub(crate) fn next(&self, touched: &[Class], prefix: &str, revision: Revision) -> Option<&Arc<Change>> {
        touched
            .iter()
            .filter_map(|class| {
                let changes = &self.rings.get(*class)?.changes;
                let start = changes.partition_point(|(_, change)| change.revision() < revision);
                changes
                    .range(start..)
                    .map(|(_, change)| change)
                    .find(|change| change.key().starts_with(prefix))
            })
            .min_by_key(|change| change.revision())
    }

    /// All changes after `from`, in order.
    pub(crate) fn after(&self, from: Revision) -> Vec<Arc<Change>> {
        let mut changes: Vec<_> = self
            .rings
            .iter()
            .flat_map(|ring| {
                let start = ring.changes.partition_point(|(_, change)| change.revision() <= from);
                ring.changes.range(start..).map(|(_, change)| Arc::clone(change))
            })
            .collect();
        changes.sort_by_key(|change| change.revision());
        changes
    }
}

impl Ring {
    fn trim(&mut self, now: Instant) {
        while let Some((at, _)) = self.changes.front() {
            let old = now.saturating_duration_since(*at) > self.limits.age;
            if !old && self.changes.len() <= self.limits.entries && self.bytes <= self.limits.bytes {
                break;
            }
            self.pop();
        }
        // A burst must not pin its memory for good.
        if self.changes.capacity() > 256 && self.changes.capacity() > self.changes.len() * 4 {
            self.changes.shrink_to(self.changes.len() * 2);
        }
    }

    fn pop(&mut self) {
        if let Some((_, change)) = self.changes.pop_front() {
            self.bytes -= change.weight();
            self.compacted = self.compacted.max(change.revision());
        }
    }
}

impl HistoryLimits {
    /// Keeps nothing by age; for tests and for backends that have their own history.
    #[must_use]
    pub fn entries(entries: usize) -> Self {
        Self {
            entries,
            age: Duration::from_secs(3600),
            bytes: usize::MAX,
        }
    }
}
