//! The seam between the cache that everybody reads and whatever keeps the data.

use std::sync::Arc;

use futures::future::BoxFuture;
use uuid::Uuid;

use crate::{Change, Entry, Error, History, Op, Revision, Statistics};

mod embedded;
mod memory;
mod sequencer;

pub use embedded::Embedded;
pub use memory::Memory;

/// Keeps entries, numbers changes, and tells about them. Every implementation passes the suite in `tests/suite/backends.rs`.
///
/// A backend also applies the limits of [`MemoryPrefix`](crate::MemoryPrefix)es: an expired or surplus key is
/// removed by a change like any other.
pub trait Backend: Send + Sync + 'static {
    /// Made when the data was first created; another value means other data.
    fn identity(&self) -> Uuid;

    /// Applies all operations or none. Each step that changes something gets a revision of its own; later steps see
    /// earlier ones. The answer has one element per operation: for a put the entry as it is now; for a removal the
    /// last state with the removal's revision as `revision`, or `None` where there was nothing to remove.
    ///
    /// Resolves when the changes are durable. Once polled, the transaction takes place even if the future is dropped.
    ///
    /// # Errors
    /// [`Error::Conflict`] when a condition does not hold; errors of the disk, after which nothing of the transaction is seen.
    fn commit(&self, operations: Vec<Op>) -> BoxFuture<'static, Result<Vec<Option<Entry>>, Error>>;

    /// All entries with the prefix at one moment, in key order. May block; used at start.
    ///
    /// # Errors
    /// Errors of the disk or the connection behind the backend.
    fn range(&self, prefix: &str) -> Result<Range, Error>;

    /// Hands every change after `from` to the sink, in order and exactly once: first the past ones, then each as soon as it
    /// is durable. May block; used at start.
    ///
    /// # Errors
    /// [`Error::Compacted`] when changes after `from` are no longer known; [`Error::Ahead`] when `from` is in the future.
    fn watch(&self, from: Revision, sink: Box<dyn Sink>) -> Result<(), Error>;

    /// The recent changes this backend still knows, for watches that start before this process did.
    fn history(&self) -> History;

    /// Forgets the changes up to and including `revision`, and gives back what space that frees.
    ///
    /// # Errors
    /// Errors of the disk; the data is as before then.
    fn compact(&self, revision: Revision) -> BoxFuture<'static, Result<(), Error>>;

    /// What has been written since the start.
    fn statistics(&self) -> Statistics;

    /// Refuses new work, finishes what was begun and lets go of the files.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// Entries at one moment.
#[derive(Debug, Clone)]
pub struct Range {
    /// In key order.
    pub entries: Vec<Entry>,
    /// The moment.
    pub revision: Revision,
}

/// Receives the changes of a [`Backend::watch`].
pub trait Sink: Send {
    /// Whole transactions, in revision order. `revision` is that of the last change or later. Must be quick and must not call the backend.
    fn apply(&mut self, changes: &[Arc<Change>], revision: Revision);

    /// No further change will come.
    fn closed(&mut self);
}
