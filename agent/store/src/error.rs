//! What can go wrong, in words for the person who reads the log.

use std::{io, path::PathBuf, sync::Arc};

use crate::Revision;

/// Errors of the store. Cheap to clone, since one failed disk write answers every caller whose changes were in it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A condition of a transaction did not hold; nothing of the transaction was done.
    #[error("change {key}: it is {}", match .current { Some(revision) => format!("at revision {revision} now"), None => "absent".to_owned() })]
    Conflict {
        /// The key whose condition failed.
        key: String,
        /// The revision the key has now; `None` when it does not exist.
        current: Option<Revision>,
    },
    /// The history asked for is no longer kept: list again, then watch from the list's revision.
    #[error("watch from an old revision: changes are only known after revision {oldest}")]
    Compacted {
        /// The oldest revision that can be watched from.
        oldest: Revision,
    },
    /// A watcher was so slow that changes it had not read yet were forgotten: list again.
    #[error("watch {prefix}: the reader was too slow and missed changes")]
    Lagged {
        /// What was watched.
        prefix: String,
    },
    /// A revision that this store has not reached: it comes from another store or from a later copy of this one.
    #[error("watch from revision {asked}: the store is only at revision {current}")]
    Ahead {
        /// The revision asked for.
        asked: Revision,
        /// The store's revision.
        current: Revision,
    },
    /// The store was closed.
    #[error("use the store: it is closed")]
    Closed,
    /// A change too large for one record; see [`Options::largest_transaction`](crate::Options::largest_transaction).
    #[error("change {key}: {bytes} bytes are more than the {limit} allowed in one transaction")]
    TooLarge {
        /// The key whose value took the transaction past the limit.
        key: String,
        /// Bytes of the transaction up to and including that key.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// No room on the disk. Nothing acknowledged is lost, and writing works again as soon as there is room.
    #[error("write {}: no space left on the disk; free some, no restart is needed", .path.display())]
    DiskFull {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// Another process has this store open.
    #[error("open store {}: another process is using it", .path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// The file is damaged where it was once whole: this is not the torn end that a power cut leaves.
    #[error(
        "read {} at byte {offset}: {reason}; the storage has damaged data that was written whole. Nothing was changed. \
         Copy the file away, check the card, restore the file from a backup or move it away to start empty",
        .path.display()
    )]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Byte offset of the first record that cannot be read.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Written by a later version of minidc.
    #[error("read {}: its format {found} is newer than {known}, the newest this version knows; update minidc", .path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Format number found.
        found: u16,
        /// Newest format number known.
        known: u16,
    },
    /// Any other failure of the file system.
    #[error("{attempt} {}", .path.display())]
    Io {
        /// What was tried, as a verb.
        attempt: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: Arc<io::Error>,
    },
}
