//! What the cluster remembers: keys with JSON values, numbered changes, and watching them.
//!
//! # Current limitations
//! - [`Store::open`] does not write to the disk yet.

mod backend;
mod entry;
mod error;
mod history;
mod options;
mod prefix;
mod statistics;
mod store;
mod watch;

pub use backend::{Backend, Embedded, Memory, Range, Sink};
pub use entry::{Change, Entry, Envelope, Op, Pairs, Revision, When};
pub use error::Error;
pub use history::History;
pub use options::{HistoryLimits, MemoryPrefix, Options};
pub use statistics::Statistics;
pub use store::Store;
pub use watch::Watch;
