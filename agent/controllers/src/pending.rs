//! Own writes that a cache must show before what they were made for is looked at again: else a pod or a slice would be made twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::cache::{Cache, Mark};
use crate::objects::{Key, Metadata, Stored};

/// After so long an own write is no longer waited for (`controller.ExpectationsTimeout`).
const LIMIT: Duration = Duration::from_secs(300);
/// When to look again if the cache does not show an own write yet; its arrival wakes the controller sooner.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);

struct Entry {
    written: Option<Mark>,
    /// Keys and uids of objects whose deletion was asked for.
    deleted: Vec<(Key, Box<str>)>,
    since: Instant,
}

/// Own writes of one kind, by the key of the object that they were made for.
pub(crate) struct Pending<K> {
    cache: Arc<Cache<K>>,
    entries: Mutex<HashMap<Key, Entry>>,
}

impl<K: Stored> Pending<K> {
    pub(crate) fn new(cache: Arc<Cache<K>>) -> Self {
        Self {
            cache,
            entries: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, key: &Key, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.lock();
        let entry = entries.entry(key.clone()).or_insert_with(|| Entry {
            written: None,
            deleted: Vec::new(),
            since: Instant::now(),
        });
        change(entry);
        entry.since = Instant::now();
    }

    /// Something was written for `key`, with that revision as the answer.
    pub(crate) fn wrote(&self, key: &Key, revision: u64) {
        let mark = self.cache.mark(revision);
        self.change(key, |entry| {
            if entry.written.is_none_or(|known| known.is_before(mark)) {
                entry.written = Some(mark);
            }
        });
    }

    /// The deletion of an object is about to be asked for.
    pub(crate) fn deletes(&self, key: &Key, object: &Metadata) {
        self.change(key, |entry| {
            entry.deleted.push((object.key.clone(), object.uid.clone()));
        });
    }

    /// It was refused.
    pub(crate) fn kept(&self, key: &Key, object: &Metadata) {
        self.change(key, |entry| entry.deleted.retain(|(_, uid)| *uid != object.uid));
    }

    /// Whether the cache shows all that was done for `key`.
    pub(crate) fn settled(&self, key: &Key) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else {
            return true;
        };
        entry.written = entry.written.filter(|mark| !self.cache.has_seen(*mark));
        entry.deleted.retain(|(key, uid)| {
            self.cache.get(key).is_some_and(|object| {
                let metadata = object.metadata();
                metadata.uid == *uid && !metadata.terminating()
            })
        });
        let settled = entry.written.is_none() && entry.deleted.is_empty();
        if settled || entry.since.elapsed() > LIMIT {
            entries.remove(key);
            return true;
        }
        false
    }

    /// Nobody looks at `key` any more.
    pub(crate) fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }
}
