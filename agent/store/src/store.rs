//! The store as the rest of the program sees it.

use std::{ops::Bound, path::Path, sync::Arc};

use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    Entry, Error, Op, Options, Revision, Statistics, Watch,
    backend::{Backend, Embedded, Memory},
    prefix::with_prefix,
    watch::{Cache, Filler},
};

/// A handle on a store; clones share it. The last handle dropped ends it without waiting, [`Store::close`] waits.
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
    cache: Arc<Cache>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Store")
            .field("identity", &self.identity())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// A store without a disk, for tests.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "called as Store::open is")]
    pub fn in_memory(options: Options) -> Self {
        let backend: Arc<dyn Backend> = Arc::new(Memory::new(&options));
        let cache = Cache::new(Vec::new(), backend.history(), 0);
        // Nobody else has the new backend yet, so that revision 0 can neither be forgotten nor in the future.
        let _ = backend.watch(0, Box::new(Filler(Arc::clone(&cache))));
        Self { backend, cache }
    }

    /// Opens the store in the directory `path`, made if absent, on a thread where blocking is allowed.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Corrupt`], [`Error::NewerFormat`], [`Error::DiskFull`], [`Error::Io`].
    pub async fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        let open = move || Self::over(Arc::new(Embedded::open(&path, &options)?));
        // The task is neither aborted nor does it panic, unless the runtime is going down.
        tokio::task::spawn_blocking(open).await.unwrap_or(Err(Error::Closed))
    }

    /// A store over any backend. May block while the backend is read.
    ///
    /// # Errors
    /// Those of [`Backend::range`] and [`Backend::watch`].
    pub fn over(backend: Arc<dyn Backend>) -> Result<Self, Error> {
        let range = backend.range("")?;
        let cache = Cache::new(range.entries, backend.history(), range.revision);
        backend.watch(range.revision, Box::new(Filler(Arc::clone(&cache))))?;
        Ok(Self { backend, cache })
    }

    /// Made when the store was first opened, and kept with it: a node that meets another identity has met another cluster.
    #[must_use]
    pub fn identity(&self) -> Uuid {
        self.backend.identity()
    }

    /// The revision that reads see.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.cache.read().revision
    }

    /// Follows [`Store::revision`]. A watch that has no pending change is complete up to it.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Revision> {
        self.cache.progress()
    }

    /// Applies all operations or none, each at a revision of its own. The answer has one element per operation: for a put the entry
    /// as it is now (at its old revision when the value was equal); for a removal the last state with the revision of the removal, or `None`
    /// where there was nothing to remove. Returns when the changes are durable and every read sees them. Callers at the
    /// same time share one disk write. Once polled, the transaction takes place even if the future is dropped.
    ///
    /// # Errors
    /// [`Error::Conflict`], [`Error::TooLarge`], [`Error::DiskFull`], [`Error::Io`], [`Error::Closed`]; nothing was changed then.
    /// (After [`Error::Io`] and a power cut the change may turn up all the same.)
    pub async fn commit(&self, operations: Vec<Op>) -> Result<Vec<Option<Entry>>, Error> {
        let answers = self.backend.commit(operations).await?;
        if let Some(revision) = answers.iter().flatten().map(|entry| entry.revision).max() {
            self.cache.reached(revision).await;
        }
        Ok(answers)
    }

    /// One entry.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.cache.read().entries.get(key).cloned()
    }

    /// All entries with the prefix in key order, and the revision at which this was so: watch from there.
    #[must_use]
    pub fn list(&self, prefix: &str) -> (Vec<Entry>, Revision) {
        let state = self.cache.read();
        (with_prefix(&state.entries, prefix).cloned().collect(), state.revision)
    }

    /// Up to `limit` entries with the prefix after the key `after`, in key order; how many more there are; and the revision. Pages
    /// read at different times are each true at their own revision.
    #[must_use]
    pub fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> (Vec<Entry>, usize, Revision) {
        let state = self.cache.read();
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut rest = state
            .entries
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| entry);
        let entries = rest.by_ref().take(limit).cloned().collect();
        (entries, rest.count(), state.revision)
    }

    /// The changes after `from` of the keys with the prefix.
    ///
    /// # Errors
    /// [`Error::Compacted`] when some of them are forgotten; [`Error::Ahead`] when `from` is in the future; [`Error::Closed`].
    pub fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        self.cache.watch(prefix, from)
    }

    /// Forgets the changes up to and including `revision`, and rewrites the file so that it holds only what is live.
    /// Not needed in normal operation: limits do the same by themselves.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Io`], [`Error::Closed`]; the data is as before then.
    pub async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.cache.compact(revision);
        self.backend.compact(revision).await
    }

    /// What has been written since the store was opened.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.backend.statistics()
    }

    /// Finishes what was begun, tells the watchers and lets go of the files; further commits fail with [`Error::Closed`],
    /// reads still answer.
    pub async fn close(self) {
        self.backend.close().await;
    }
}
