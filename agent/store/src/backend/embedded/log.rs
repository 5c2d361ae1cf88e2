//! Writing the log: appending batches, and replacing the file when most of it is outdated.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    format::{Frame, Header},
    io_error,
    recovery::Recovered,
};
use crate::{
    Change, Entry, Error, Options, Revision, Statistics,
    backend::sequencer::{Failure, Journal, Rewrite},
};

/// Zeros are written this far ahead: a write into blocks that exist already changes no metadata, so `fdatasync` need not
/// wait for the file system's journal, which would cost several blocks for each commit.
const AHEAD: u64 = 256 << 10;

/// A rewrite makes frames of about this many bytes.
const REWRITE_FRAME: usize = 64 << 10;

const FILE: &str = "store.log";
const NEXT: &str = "store.log.next";

/// The log file, held by the one thread that writes it.
#[derive(Debug)]
pub(super) struct Log {
    directory: PathBuf,
    path: PathBuf,
    file: File,
    header: Header,
    /// Where the next frame goes.
    end: u64,
    /// The file's length; zeros from `end` to here.
    allocated: u64,
    /// Where the part written by the last rewrite ends.
    rewritten: u64,
    /// What the file holds at and after `end` is unknown, so nothing may be appended before a rewrite.
    unsure: bool,
    /// After a failed rewrite: none before the log has this length.
    postponed: u64,
    compact_bytes: u64,
    compact_factor: u64,
    statistics: Statistics,
    #[cfg(test)]
    pub(super) fail_next_sync: bool,
    /// Held for as long as the log is open.
    _lock: File,
}

/// Where the log of a store lies.
pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// Opens the present log for reading and writing; `None` when there is none.
pub(super) fn open(directory: &Path) -> Result<Option<File>, Error> {
    let path = path(directory);
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error("open", &path)(source)),
    }
}

impl Log {
    /// Makes the first log of a store.
    pub(super) fn create(directory: &Path, lock: File, header: Header, options: &Options) -> Result<Self, Error> {
        let mut statistics = Statistics::default();
        let written = write_next(directory, header, &[], 0, 0, &mut statistics)?;
        take_over(directory, &mut statistics)?;
        Ok(Self::new(directory, lock, header, written, statistics, options))
    }

    /// Goes on with a log that was read back.
    pub(super) fn resume(
        directory: &Path,
        lock: File,
        file: File,
        recovered: &Recovered,
        options: &Options,
    ) -> Result<Self, Error> {
        let path = path(directory);
        let mut statistics = Statistics::default();
        // What was read may only be in the page cache so far. It will be shown to readers, so it must not vanish.
        if recovered.clean {
            file.sync_data().map_err(io_error("sync", &path))?;
        } else {
            file.set_len(recovered.end).map_err(io_error("cut", &path))?;
            file.sync_all().map_err(io_error("sync", &path))?;
        }
        statistics.syncs += 1;
        let allocated = file.metadata().map_err(io_error("examine", &path))?.len();
        let written = Written {
            file,
            end: recovered.end,
            allocated,
        };
        let mut log = Self::new(directory, lock, recovered.header, written, statistics, options);
        log.rewritten = recovered.rewritten;
        Ok(log)
    }

    fn new(
        directory: &Path,
        lock: File,
        header: Header,
        written: Written,
        statistics: Statistics,
        options: &Options,
    ) -> Self {
        Self {
            directory: directory.to_owned(),
            path: path(directory),
            file: written.file,
            header,
            end: written.end,
            allocated: written.allocated,
            rewritten: written.end,
            unsure: false,
            postponed: 0,
            compact_bytes: options.compact_bytes,
            compact_factor: options.compact_factor,
            statistics,
            #[cfg(test)]
            fail_next_sync: false,
            _lock: lock,
        }
    }

    /// Makes room for a frame, and more ahead if the disk has it.
    fn allocate(&mut self, bytes: u64) -> Result<(), Error> {
        let needed = self.end + bytes;
        if needed <= self.allocated {
            return Ok(());
        }
        let ample = needed.next_multiple_of(AHEAD);
        self.extend(ample)
            .or_else(|_| self.extend(needed))
            .map_err(io_error("extend", &self.path))
    }

    fn extend(&mut self, length: u64) -> io::Result<()> {
        let zeros = vec![0; 4096];
        while self.allocated < length {
            let count = usize::try_from(length - self.allocated)
                .unwrap_or(usize::MAX)
                .min(zeros.len());
            let written = self.file.write_at(&zeros[..count], self.allocated)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.allocated += written as u64;
            self.statistics.bytes_written += written as u64;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        #[cfg(test)]
        if std::mem::take(&mut self.fail_next_sync) {
            return Err(io::Error::other("made to fail by a test"));
        }
        self.statistics.syncs += 1;
        self.file.sync_data()
    }
}

impl Journal for Log {
    fn append(&mut self, changes: &[Arc<Change>], reserved: Option<Revision>) -> Result<(), Failure> {
        let certain = |error| Failure {
            error,
            uncertain: false,
        };
        let mut frame = Frame::new();
        for change in changes {
            frame.change(change);
        }
        if let Some(reserved) = reserved {
            frame.reserve(reserved);
        }
        let too_large = || Error::Io {
            attempt: "append a batch of 4 GiB to",
            path: self.path.clone(),
            source: Arc::new(io::ErrorKind::FileTooLarge.into()),
        };
        let bytes = frame
            .seal(self.header.epoch, self.end)
            .ok_or_else(|| certain(too_large()))?;
        self.allocate(bytes.len() as u64).map_err(certain)?;
        let written = self.file.write_all_at(&bytes, self.end);
        self.statistics.bytes_written += bytes.len() as u64;
        if let Err(source) = written.and_then(|()| self.sync()) {
            // The kernel forgets which pages it failed to write, so a second sync would prove nothing.
            self.unsure = true;
            return Err(Failure {
                error: io_error("write", &self.path)(source),
                uncertain: true,
            });
        }
        self.end += bytes.len() as u64;
        self.statistics.commits += u64::from(!changes.is_empty());
        Ok(())
    }

    fn rewrite_wanted(&self) -> Rewrite {
        let outdated = self.end - self.rewritten;
        let limit = self.compact_bytes.max(self.rewritten * self.compact_factor);
        if self.unsure {
            Rewrite::First
        } else if outdated < limit || self.end < self.postponed {
            Rewrite::No
        } else if outdated < 2 * limit {
            Rewrite::Idle
        } else {
            Rewrite::Soon
        }
    }

    fn rewrite(&mut self, entries: &[Entry], revision: Revision, reserved: Revision) -> Result<(), Error> {
        let header = Header {
            epoch: self.header.epoch + 1,
            ..self.header
        };
        let written = write_next(
            &self.directory,
            header,
            entries,
            revision,
            reserved,
            &mut self.statistics,
        );
        let written = written.inspect_err(|_| {
            self.postponed = self.end + self.compact_bytes / 4;
            // What could not be finished only takes room now, and is overwritten next time anyway.
            let _ = fs::remove_file(self.directory.join(NEXT));
        })?;
        let taken = take_over(&self.directory, &mut self.statistics);
        if let Err(error) = taken {
            // Either file may be found after a power cut. Both hold all that was acknowledged, but this must be settled before more is.
            self.unsure = true;
            return Err(error);
        }
        tracing::info!(
            path = %self.path.display(),
            from_bytes = self.end,
            to_bytes = written.end,
            entries = entries.len(),
            "rewrote the store's log without what is outdated"
        );
        self.file = written.file;
        self.header = header;
        self.end = written.end;
        self.allocated = written.allocated;
        self.rewritten = written.end;
        self.unsure = false;
        self.postponed = 0;
        self.statistics.compactions += 1;
        Ok(())
    }

    fn statistics(&self) -> Statistics {
        Statistics {
            file_bytes: self.allocated,
            base_bytes: self.rewritten,
            log_bytes: self.end,
            ..self.statistics
        }
    }
}

/// A file with a base and no batches yet.
struct Written {
    file: File,
    end: u64,
    allocated: u64,
}

/// Writes and syncs the file that is to follow the present one.
fn write_next(
    directory: &Path,
    header: Header,
    entries: &[Entry],
    revision: Revision,
    reserved: Revision,
    statistics: &mut Statistics,
) -> Result<Written, Error> {
    let path = directory.join(NEXT);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("create", &path))?;
    let mut end = 0;
    let mut write = |bytes: &[u8]| {
        file.write_all_at(bytes, end).map_err(io_error("write", &path))?;
        end += bytes.len() as u64;
        statistics.bytes_written += bytes.len() as u64;
        Ok::<u64, Error>(end)
    };
    let too_large = || io_error("write", &path)(io::ErrorKind::FileTooLarge.into());
    let mut at = write(&header.encode())?;
    let mut frame = Frame::new();
    for entry in entries {
        frame.put(entry);
        if frame.payload_bytes() >= REWRITE_FRAME {
            let full = std::mem::replace(&mut frame, Frame::new());
            at = write(&full.seal(header.epoch, at).ok_or_else(too_large)?)?;
        }
    }
    frame.end(revision, reserved);
    at = write(&frame.seal(header.epoch, at).ok_or_else(too_large)?)?;
    file.sync_all().map_err(io_error("sync", &path))?;
    statistics.syncs += 1;
    Ok(Written {
        file,
        end: at,
        allocated: at,
    })
}

/// Puts the next file in the place of the present one, for good.
fn take_over(directory: &Path, statistics: &mut Statistics) -> Result<(), Error> {
    let (next, present) = (directory.join(NEXT), path(directory));
    fs::rename(&next, &present).map_err(io_error("replace", &present))?;
    sync_directory(directory)?;
    statistics.syncs += 1;
    Ok(())
}

/// Makes names created or replaced in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> Result<(), Error> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(io_error("sync", directory))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::*;
    use crate::{Envelope, backend::embedded::recovery};

    fn put(revision: Revision) -> Arc<Change> {
        let envelope = Arc::new(Envelope::new(revision.to_string(), 0, Box::default(), Box::default()));
        let entry = Entry {
            key: format!("k/{revision}").into(),
            revision,
            created: revision,
            envelope,
        };
        Arc::new(Change::Put { entry, previous: None })
    }

    fn found(directory: &Path) -> BTreeMap<Arc<str>, Entry> {
        let file = open(directory).unwrap().unwrap();
        recovery::recover(&file, &path(directory), &Options::default())
            .unwrap()
            .entries
    }

    #[test]
    fn after_a_failed_sync_only_a_new_file_is_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let lock = File::create(directory.join("lock")).unwrap();
        let header = Header {
            identity: Uuid::new_v4(),
            epoch: 1,
        };
        let mut log = Log::create(directory, lock, header, &Options::default()).unwrap();
        log.append(&[put(1)], None).unwrap();
        log.fail_next_sync = true;
        let failure = log.append(&[put(2)], None).unwrap_err();
        assert!(failure.uncertain);
        assert_eq!(log.rewrite_wanted(), Rewrite::First);
        let Change::Put { entry, .. } = &*put(1) else {
            unreachable!()
        };
        log.rewrite(std::slice::from_ref(entry), 2, 0).unwrap();
        assert_eq!(log.rewrite_wanted(), Rewrite::No);
        log.append(&[put(3)], None).unwrap();
        let keys: Vec<_> = found(directory).into_keys().collect();
        assert_eq!(keys.iter().map(|key| &**key).collect::<Vec<_>>(), ["k/1", "k/3"]);
    }

    #[test]
    fn reservation_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let lock = File::create(directory.join("lock")).unwrap();
        let header = Header {
            identity: Uuid::new_v4(),
            epoch: 1,
        };
        let mut log = Log::create(directory, lock, header, &Options::default()).unwrap();
        log.append(&[put(7)], Some(500)).unwrap();
        let file = open(directory).unwrap().unwrap();
        let recovered = recovery::recover(&file, &path(directory), &Options::default()).unwrap();
        assert_eq!(
            (recovered.revision, recovered.reserved, recovered.header),
            (500, 500, header)
        );
    }
}
