//! The cache that everybody reads, and watching it.
//!
//! A watcher owns no queue: it remembers the first change it has not read and looks it up in the shared history, so hundreds of
//! watchers cost a few words each, and a slow one is told so instead of growing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::sync::{Notify, watch};

use crate::{Change, Entry, Error, History, Revision, backend::Sink, options::Class};

#[derive(Debug)]
pub(crate) struct Cache {
    state: RwLock<State>,
    progress: watch::Sender<Revision>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) entries: BTreeMap<Arc<str>, Entry>,
    pub(crate) history: History,
    pub(crate) revision: Revision,
    watchers: Watchers,
    closed: bool,
}

/// Watchers by prefix, so that a change only meets those it concerns.
#[derive(Debug, Default)]
struct Watchers {
    /// Prefixes that are empty or end with a slash.
    whole: HashMap<Box<str>, Vec<Arc<Slot>>>,
    /// All others.
    partial: Vec<Arc<Slot>>,
}

#[derive(Debug)]
struct Slot {
    prefix: Box<str>,
    touched: Box<[Class]>,
    /// Revision of the first matching change that was not returned yet; 0 for none. Written under the state's lock.
    pending: AtomicU64,
    wake: Notify,
}

impl Cache {
    pub(crate) fn new(entries: Vec<Entry>, history: History, revision: Revision) -> Arc<Self> {
        let entries = entries
            .into_iter()
            .map(|entry| (Arc::clone(&entry.key), entry))
            .collect();
        let state = State {
            entries,
            history,
            revision,
            watchers: Watchers::default(),
            closed: false,
        };
        Arc::new(Self {
            state: RwLock::new(state),
            progress: watch::Sender::new(revision),
        })
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Revision> {
        self.progress.subscribe()
    }

    /// Waits until the cache has reached `revision`, which is at once for a backend in this process.
    pub(crate) async fn reached(&self, revision: Revision) {
        if self.read().revision < revision {
            // The sender lives as long as the cache.
            let _ = self.progress().wait_for(|reached| *reached >= revision).await;
        }
    }

    pub(crate) fn watch(self: &Arc<Self>, prefix: &str, from: Revision) -> Result<Watch, Error> {
        let mut state = self.write();
        if state.closed {
            return Err(Error::Closed);
        }
        if from > state.revision {
            return Err(Error::Ahead {
                asked: from,
                current: state.revision,
            });
        }
        let touched = state.history.classes().touched(prefix);
        state.history.check(&touched, from)?;
        let pending = state
            .history
            .next(&touched, prefix, from + 1)
            .map_or(0, |change| change.revision());
        let slot = Arc::new(Slot {
            prefix: prefix.into(),
            touched,
            pending: AtomicU64::new(pending),
            wake: Notify::new(),
        });
        state.watchers.add(&slot);
        Ok(Watch {
            cache: Arc::clone(self),
            slot,
        })
    }

    pub(crate) fn compact(&self, revision: Revision) {
        self.write().history.compact(revision);
    }
}

/// Fills a cache from the backend's watch: its only writer.
pub(crate) struct Filler(pub(crate) Arc<Cache>);

impl Sink for Filler {
    fn apply(&mut self, changes: &[Arc<Change>], revision: Revision) {
        let now = Instant::now();
        let mut concerned = Vec::new();
        let mut guard = self.0.write();
        let state = &mut *guard;
        for change in changes {
            if change.revision() <= state.revision {
                continue;
            }
            match &**change {
                Change::Put { entry, .. } => {
                    state.entries.insert(Arc::clone(&entry.key), entry.clone());
                }
                Change::Delete { previous, .. } => {
                    state.entries.remove(&previous.key);
                }
            }
            state.history.push(change, now);
            state.watchers.mark(change, &mut concerned);
        }
        state.revision = state.revision.max(revision);
        let revision = state.revision;
        drop(guard);
        // Waking runs code of others, which may drop a watch and so take the lock.
        for slot in concerned {
            slot.wake.notify_one();
        }
        self.0.progress.send_replace(revision);
    }

    fn closed(&mut self) {
        let mut state = self.0.write();
        state.closed = true;
        let slots: Vec<_> = state.watchers.all().cloned().collect();
        drop(state);
        for slot in slots {
            slot.wake.notify_one();
        }
    }
}

impl Watchers {
    fn add(&mut self, slot: &Arc<Slot>) {
        if slot.prefix.is_empty() || slot.prefix.ends_with('/') {
            self.whole
                .entry(slot.prefix.clone())
                .or_default()
                .push(Arc::clone(slot));
        } else {
            self.partial.push(Arc::clone(slot));
        }
    }

    fn remove(&mut self, slot: &Arc<Slot>) {
        self.partial.retain(|other| !Arc::ptr_eq(other, slot));
        if let Some(slots) = self.whole.get_mut(&slot.prefix) {
            slots.retain(|other| !Arc::ptr_eq(other, slot));
            if slots.is_empty() {
                self.whole.remove(&slot.prefix);
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.whole.values().flatten().chain(&self.partial)
    }

    /// Marks the watchers of a change, and adds those that may be asleep to `concerned`.
    fn mark(&self, change: &Change, concerned: &mut Vec<Arc<Slot>>) {
        let key = &**change.key();
        let ends = std::iter::once(0).chain(key.match_indices('/').map(|(at, _)| at + 1));
        let whole = ends.filter_map(|end| self.whole.get(key.get(..end)?)).flatten();
        let partial = self.partial.iter().filter(|slot| key.starts_with(&*slot.prefix));
        for slot in whole.chain(partial) {
            if slot.pending.load(Ordering::Relaxed) == 0 {
                slot.pending.store(change.revision(), Ordering::Relaxed);
                concerned.push(Arc::clone(slot));
            }
        }
    }
}

/// Changes of the keys with one prefix, each exactly once, in revision order.
#[derive(Debug)]
pub struct Watch {
    cache: Arc<Cache>,
    slot: Arc<Slot>,
}

impl Watch {
    /// The next change; waits for one. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Lagged`] when the next change was forgotten before it was read; list and watch anew. [`Error::Closed`] after the
    /// last change of a store that was closed.
    pub async fn next(&mut self) -> Result<Arc<Change>, Error> {
        loop {
            if let Some(change) = self.try_next()? {
                return Ok(change);
            }
            self.slot.wake.notified().await;
        }
    }

    /// The next change if there already is one.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub fn try_next(&mut self) -> Result<Option<Arc<Change>>, Error> {
        let state = self.cache.read();
        let pending = self.slot.pending.load(Ordering::Relaxed);
        if pending == 0 {
            return if state.closed { Err(Error::Closed) } else { Ok(None) };
        }
        let Slot { prefix, touched, .. } = &*self.slot;
        match state.history.next(touched, prefix, pending) {
            Some(change) if change.revision() == pending => {
                let following = state
                    .history
                    .next(touched, prefix, pending + 1)
                    .map_or(0, |next| next.revision());
                self.slot.pending.store(following, Ordering::Relaxed);
                Ok(Some(Arc::clone(change)))
            }
            _ => Err(Error::Lagged {
                prefix: prefix.to_string(),
            }),
        }
    }

    /// Every change up to this revision has been returned: what a bookmark may say.
    #[must_use]
    pub fn progress(&self) -> Revision {
        let state = self.cache.read();
        match self.slot.pending.load(Ordering::Relaxed) {
            0 => state.revision,
            pending => pending - 1,
        }
    }

    /// The prefix watched.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.slot.prefix
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.cache.write().watchers.remove(&self.slot);
    }
}
