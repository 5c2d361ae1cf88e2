//! Reading the log back after a start.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    time::Instant,
};

use super::{
    format::{BadHeader, FORMAT, FRAME_HEADER_BYTES, HEADER_BYTES, Header, Record, checksum, frame_header, record},
    io_error,
    varint::Reader,
};
use crate::{
    Change, Entry, Error, History, Options, Revision,
    options::{Classes, DURABLE},
};

/// What the file held.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) header: Header,
    pub(super) entries: BTreeMap<Arc<str>, Entry>,
    pub(super) history: History,
    pub(super) revision: Revision,
    pub(super) reserved: Revision,
    /// Where the part written by the last rewrite ends.
    pub(super) rewritten: u64,
    /// Where the last whole frame ends.
    pub(super) end: u64,
    /// The bytes after `end` are all zero.
    pub(super) clean: bool,
}

impl Recovered {
    /// The content of a log that was just made.
    pub(super) fn nothing(header: Header, options: &Options) -> Self {
        let mut replay = Replay::new(options);
        replay.ended = true;
        replay.finish(header, 0, true)
    }
}

/// Reads the whole file. Entries of kinds that are kept in memory now are left out.
pub(super) fn recover(file: &File, path: &Path, options: &Options) -> Result<Recovered, Error> {
    let damaged = |offset: u64, reason: String| Error::Corrupt {
        path: path.to_owned(),
        offset,
        reason,
    };
    let length = file.metadata().map_err(io_error("examine", path))?.len();
    let header = header(file, path)?;
    let mut frames = Frames {
        file: BufReader::with_capacity(64 << 10, file),
        path,
        epoch: header.epoch,
        length,
        at: 0,
    };
    frames.skip_header()?;
    let mut replay = Replay::new(options);
    while let Some(payload) = frames.next()? {
        let start = frames.at - (payload.len() + FRAME_HEADER_BYTES) as u64;
        replay
            .apply(&payload)
            .ok_or_else(|| damaged(start, "a record makes no sense".to_owned()))?;
        if replay.ended && replay.rewritten == 0 {
            replay.rewritten = frames.at;
        }
    }
    let end = frames.at;
    if !replay.ended {
        return Err(damaged(
            end,
            "the base of the log, which is written whole, is not complete".to_owned(),
        ));
    }
    let rest = rest(file, path, end, length)?;
    if let Some(offset) = readable_frame(&rest, header.epoch, end) {
        let reason = format!("the record here is unreadable, but a later one at byte {offset} is not");
        return Err(damaged(end, reason));
    }
    let clean = rest.iter().all(|byte| *byte == 0);
    if !clean {
        let bytes = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        tracing::warn!(
            path = %path.display(),
            offset = end,
            bytes,
            "cut an unfinished write from the end of the store's log, as a power cut leaves it; nothing acknowledged is lost"
        );
    }
    Ok(replay.finish(header, end, clean))
}

fn header(file: &File, path: &Path) -> Result<Header, Error> {
    let damaged = |reason: &str| Error::Corrupt {
        path: path.to_owned(),
        offset: 0,
        reason: reason.to_owned(),
    };
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged("it is too short"),
            _ => io_error("read", path)(source),
        })?;
    Header::decode(&bytes).map_err(|bad| match bad {
        BadHeader::Damaged(reason) => damaged(reason),
        BadHeader::Newer(found) => Error::NewerFormat {
            path: path.to_owned(),
            found,
            known: FORMAT,
        },
    })
}

/// The frames in order, up to the first that is not whole.
struct Frames<'a> {
    file: BufReader<&'a File>,
    path: &'a Path,
    epoch: u64,
    length: u64,
    at: u64,
}

impl Frames<'_> {
    fn skip_header(&mut self) -> Result<(), Error> {
        let mut header = [0; HEADER_BYTES];
        self.file.read_exact(&mut header).map_err(io_error("read", self.path))?;
        self.at = HEADER_BYTES as u64;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let left = self.length.saturating_sub(self.at);
        if left < FRAME_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let mut start = [0; FRAME_HEADER_BYTES];
        self.file.read_exact(&mut start).map_err(io_error("read", self.path))?;
        let (length, sum) = frame_header(start);
        if length == 0 || u64::from(length) > left - FRAME_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let mut payload = vec![0; length as usize];
        self.file
            .read_exact(&mut payload)
            .map_err(io_error("read", self.path))?;
        if checksum(self.epoch, self.at, length, &payload) != sum {
            return Ok(None);
        }
        self.at += FRAME_HEADER_BYTES as u64 + u64::from(length);
        Ok(Some(payload))
    }
}

fn rest(file: &File, path: &Path, end: u64, length: u64) -> Result<Vec<u8>, Error> {
    let mut rest = vec![0; usize::try_from(length.saturating_sub(end)).unwrap_or_default()];
    file.read_exact_at(&mut rest, end).map_err(io_error("read", path))?;
    Ok(rest)
}

/// Offset in the file of the first whole frame anywhere in `rest`, which lies at `start`.
fn readable_frame(rest: &[u8], epoch: u64, start: u64) -> Option<u64> {
    (0..rest.len()).find_map(|at| {
        let (bytes, after) = rest.get(at..)?.split_first_chunk::<FRAME_HEADER_BYTES>()?;
        let (length, sum) = frame_header(*bytes);
        let payload = after.get(..length as usize).filter(|payload| !payload.is_empty())?;
        let offset = start + at as u64;
        (checksum(epoch, offset, length, payload) == sum).then_some(offset)
    })
}

struct Replay<'a> {
    options: &'a Options,
    entries: BTreeMap<Arc<str>, Entry>,
    history: History,
    revision: Revision,
    reserved: Revision,
    ended: bool,
    rewritten: u64,
    now: Instant,
}

impl<'a> Replay<'a> {
    fn new(options: &'a Options) -> Self {
        Self {
            options,
            entries: BTreeMap::new(),
            history: History::new(options, 0, 0),
            revision: 0,
            reserved: 0,
            ended: false,
            rewritten: 0,
            now: Instant::now(),
        }
    }

    /// `None` when a record cannot be right.
    fn apply(&mut self, payload: &[u8]) -> Option<()> {
        let mut reader = Reader::new(payload);
        while !reader.is_empty() {
            match record(&mut reader, &self.entries)? {
                Record::Change(change) => self.change(change)?,
                Record::Reserve(reserved) => self.reserved = self.reserved.max(reserved),
                Record::End { revision, reserved } => {
                    self.ended = true;
                    self.revision = revision;
                    self.reserved = reserved;
                    self.history = History::new(self.options, revision, 0);
                }
            }
        }
        Some(())
    }

    fn change(&mut self, change: Change) -> Option<()> {
        if self.ended && change.revision() <= self.revision {
            return None;
        }
        match &change {
            Change::Put { entry, .. } => {
                self.entries.insert(Arc::clone(&entry.key), entry.clone());
            }
            Change::Delete { previous, .. } => {
                self.entries.remove(&previous.key);
            }
        }
        if self.ended {
            self.revision = change.revision();
            self.history.push(&Arc::new(change), self.now);
        }
        Some(())
    }

    fn finish(mut self, header: Header, end: u64, clean: bool) -> Recovered {
        let classes = Classes::new(self.options);
        let before = self.entries.len();
        self.entries.retain(|key, _| classes.of(key) == DURABLE);
        if self.entries.len() < before {
            tracing::warn!(
                entries = before - self.entries.len(),
                "dropped stored entries of kinds that are kept in memory now"
            );
        }
        let revision = self.revision.max(self.reserved);
        self.history.begin(revision);
        Recovered {
            header,
            entries: self.entries,
            history: self.history,
            revision,
            reserved: self.reserved,
            rewritten: self.rewritten,
            end,
            clean,
        }
    }
}
