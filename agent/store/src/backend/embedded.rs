//! The durable backend: a log file of our own. Why not a library is told in the crate's documentation.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use futures::{FutureExt, future::BoxFuture};
use uuid::Uuid;

use self::{format::Header, log::Log};
use super::{
    Backend, Range, Sink,
    sequencer::{Sequencer, State},
};
use crate::{Entry, Error, History, Op, Options, Revision, Statistics};

mod delta;
mod format;
mod log;
mod recovery;
mod varint;

/// Keeps the durable keys in one log file, and all keys in memory.
#[derive(Debug)]
pub struct Embedded {
    sequencer: Sequencer,
    identity: Uuid,
}

impl Embedded {
    /// Opens the store in `directory`, which is made (0700) if absent. Blocks while the file is read.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Corrupt`], [`Error::NewerFormat`], [`Error::DiskFull`], [`Error::Io`].
    pub fn open(directory: &Path, options: &Options) -> Result<Self, Error> {
        let lock = lock(directory)?;
        let (log, state) = match log::open(directory)? {
            Some(file) => {
                let recovered = recovery::recover(&file, &log::path(directory), options)?;
                let log = Log::resume(directory, lock, file, &recovered, options)?;
                (log, recovered)
            }
            None => {
                let header = Header {
                    identity: Uuid::new_v4(),
                    epoch: 1,
                };
                let log = Log::create(directory, lock, header, options)?;
                (log, recovery::Recovered::nothing(header, options))
            }
        };
        let identity = state.header.identity;
        let state = State {
            entries: state.entries,
            history: state.history,
            revision: state.revision,
            reserved: state.reserved,
        };
        let sequencer =
            Sequencer::durable(options, state, Box::new(log)).map_err(io_error("start the thread for", directory))?;
        Ok(Self { sequencer, identity })
    }
}

/// Makes the directory and takes the lock in it, which the kernel gives back when the process ends.
fn lock(directory: &Path) -> Result<File, Error> {
    make_directory(directory)?;
    let path = directory.join("lock");
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::Locked {
            path: directory.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
    }
}

/// Makes a directory with its parents, each one durable in the one above it.
fn make_directory(directory: &Path) -> Result<(), Error> {
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().unwrap_or(Path::new("/"));
    make_directory(parent)?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(io_error("create", directory)(source)),
        _ => log::sync_directory(if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        }),
    }
}

fn io_error(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Error::DiskFull { path: path.to_owned() }
        }
        _ => Error::Io {
            attempt,
            path: path.to_owned(),
            source: Arc::new(source),
        },
    }
}

impl Backend for Embedded {
    fn identity(&self) -> Uuid {
        self.identity
    }

    fn commit(&self, operations: Vec<Op>) -> BoxFuture<'static, Result<Vec<Option<Entry>>, Error>> {
        self.sequencer.commit(operations).boxed()
    }

    fn range(&self, prefix: &str) -> Result<Range, Error> {
        Ok(self.sequencer.range(prefix))
    }

    fn watch(&self, from: Revision, sink: Box<dyn Sink>) -> Result<(), Error> {
        self.sequencer.watch(from, sink)
    }

    fn history(&self) -> History {
        self.sequencer.history()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'static, Result<(), Error>> {
        self.sequencer.compact(revision).boxed()
    }

    fn statistics(&self) -> Statistics {
        self.sequencer.statistics()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.sequencer.close().boxed()
    }
}
