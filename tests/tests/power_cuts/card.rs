//! A card that remembers every write and every flush in the order in which they reached it.
//!
//! It is a file of a FUSE file system in this process, under a loop device. Whatever writes to a file system on it must be another
//! process: if this one is killed, the kernel then fails all that is under way, and nothing hangs or stays behind.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

/// Bytes of the card. The data partition of the image takes the first part of it, and is grown at the first boot.
pub(crate) const SIZE: u64 = 1 << 30;

/// Bytes of a block of the file system.
const BLOCK: usize = 4096;

/// What a card holds: its blocks that were ever anything but zero.
#[derive(Clone, Default)]
pub(crate) struct Blocks(pub(crate) BTreeMap<usize, Box<[u8]>>);

impl Blocks {
    /// What is in a file.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let mut blocks = Self::default();
        let mut block = [0; BLOCK];
        let mut file = BufReader::new(File::open(file)?);
        let length = file.get_ref().metadata()?.len();
        for offset in (0..usize::try_from(length)?).step_by(BLOCK) {
            file.read_exact(&mut block)?;
            if block != [0; BLOCK] {
                blocks.write(offset, &block);
            }
        }
        Ok(blocks)
    }

    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        for (at, byte_count, done) in pieces(offset, bytes.len()) {
            let block = self.0.entry(at - at % BLOCK).or_insert_with(|| Box::new([0; BLOCK]));
            block[at % BLOCK..][..byte_count].copy_from_slice(&bytes[done..done + byte_count]);
        }
    }

    pub(crate) fn copy(&self, offset: usize, into: &mut [u8]) {
        for (at, byte_count, done) in pieces(offset, into.len()) {
            let place = &mut into[done..done + byte_count];
            match self.0.get(&(at - at % BLOCK)) {
                Some(block) => place.copy_from_slice(&block[at % BLOCK..][..byte_count]),
                None => place.fill(0),
            }
        }
    }
}

/// A range in pieces that each lie in one block: where, how many bytes, and how many before.
fn pieces(offset: usize, length: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done;
        let piece = (BLOCK - at % BLOCK).min(length - done);
        done += piece;
        (piece > 0).then_some((at, piece, done - piece))
    })
}

/// What reached the card.
pub(crate) enum Record {
    /// Bytes at an offset.
    Write { offset: usize, bytes: Box<[u8]> },
    /// All before is to stay.
    Flush,
}

/// What was on the card at first, and what reached it since.
#[derive(Default)]
pub(crate) struct Recording {
    pub(crate) before: Blocks,
    pub(crate) log: Vec<Record>,
}

/// A card in its reader.
pub(crate) struct Card {
    content: Arc<Mutex<Content>>,
    directory: PathBuf,
    _session: BackgroundSession,
}

impl Card {
    /// Mounts the reader of a card of [`SIZE`] at `directory`.
    pub(crate) fn insert(blocks: Blocks, directory: &Path) -> Result<Self> {
        let content = Arc::new(Mutex::new(Content {
            blocks: blocks.clone(),
            recording: Recording {
                before: blocks,
                log: Vec::new(),
            },
        }));
        let reader = Reader(Arc::clone(&content));
        let session =
            fuser::spawn_mount(reader, directory, &fuser::Config::default()).context("mount the card reader")?;
        Ok(Self {
            content,
            directory: directory.to_owned(),
            _session: session,
        })
    }

    /// What stands for the card.
    pub(crate) fn device(&self) -> PathBuf {
        self.directory.join("card")
    }

    /// A file that says how many records there are, for other processes.
    pub(crate) fn counter(&self) -> PathBuf {
        self.directory.join("position")
    }

    /// How many records there are.
    pub(crate) fn position(&self) -> usize {
        lock(&self.content).recording.log.len()
    }

    /// Gives what was recorded, and begins anew.
    pub(crate) fn take(&self) -> Recording {
        let mut content = lock(&self.content);
        let next = Recording {
            before: content.blocks.clone(),
            log: Vec::new(),
        };
        std::mem::replace(&mut content.recording, next)
    }
}

/// How many records there are, as another process than the reader's learns it.
pub(crate) fn position(counter: &Path) -> Result<usize> {
    let text = std::fs::read_to_string(counter).with_context(|| format!("read {}", counter.display()))?;
    text.parse().context("the position on the card")
}

struct Content {
    blocks: Blocks,
    recording: Recording,
}

fn lock(content: &Mutex<Content>) -> MutexGuard<'_, Content> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory of two files: the card, and how many records there are.
struct Reader(Arc<Mutex<Content>>);

const CARD: INodeNo = INodeNo(2);
const POSITION: INodeNo = INodeNo(3);
const NOT_KEPT: Duration = Duration::ZERO;

impl Reader {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let size = if inode == CARD { SIZE } else { 0 };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if inode == INodeNo::ROOT {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Reader {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let inode = match name.to_str() {
            Some("card") => CARD,
            Some("position") => POSITION,
            _ => return reply.error(Errno::ENOENT),
        };
        reply.entry(&NOT_KEPT, &self.attributes(inode), Generation(0));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&NOT_KEPT, &self.attributes(inode));
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = if inode == POSITION {
            FopenFlags::FOPEN_DIRECT_IO
        } else {
            FopenFlags::FOPEN_KEEP_CACHE
        };
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let content = lock(&self.0);
        if inode == POSITION {
            let position = content.recording.log.len().to_string();
            // more is asked for than there is, until nothing comes
            return reply.data(if offset == 0 { position.as_bytes() } else { &[] });
        }
        let left = usize::try_from(SIZE.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(size as usize)];
        content
            .blocks
            .copy(usize::try_from(offset).unwrap_or(usize::MAX), &mut bytes);
        reply.data(&bytes);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if offset + data.len() as u64 > SIZE {
            return reply.error(Errno::ENOSPC);
        }
        let mut content = lock(&self.0);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        content.blocks.write(offset, data);
        content.recording.log.push(Record::Write {
            offset,
            bytes: data.into(),
        });
        // no write is longer than what the kernel sends at once
        reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        lock(&self.0).recording.log.push(Record::Flush);
        reply.ok();
    }
}
