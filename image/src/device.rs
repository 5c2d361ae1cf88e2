//! Where bytes go: an image file or a card, read past the page cache so that a comparison sees the card and not our own memory.

pub mod faulty;

use std::fs::{File, OpenOptions};
use std::io::{self, SeekFrom};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, posix_fadvise};

use crate::Error;

/// What direct I/O wants of addresses, offsets and lengths; 4096 satisfies every card and file system.
pub const BLOCK: usize = 4096;

/// A card, or what stands for one. Reads must come from the card, not from a cache of what was written.
pub trait Target {
    /// Size in bytes.
    fn bytes(&self) -> u64;
    /// Writes some of `buffer` at `offset`; 0 means that nothing can be written there.
    fn write_at(&mut self, offset: u64, buffer: &[u8]) -> io::Result<usize>;
    /// Reads some bytes at `offset`; 0 is the end.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Returns once all that was written is on the card.
    fn flush(&mut self) -> io::Result<()>;
}

/// Where a part of `length` bytes is after moving from `position`, as [`io::Seek`] has it; behind its end is allowed.
pub(crate) fn sought(position: u64, length: u64, to: SeekFrom) -> io::Result<u64> {
    let position = match to {
        SeekFrom::Start(position) => Some(position),
        SeekFrom::End(offset) => length.checked_add_signed(offset),
        SeekFrom::Current(offset) => position.checked_add_signed(offset),
    };
    position.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Writes all of `buffer`, however small the steps.
pub fn write_all(target: &mut dyn Target, offset: u64, buffer: &[u8]) -> Result<(), Error> {
    let mut done = 0;
    while done < buffer.len() {
        let at = offset + done as u64;
        if at >= target.bytes() {
            return Err(Error::Full { offset: target.bytes() });
        }
        match target.write_at(at, &buffer[done..]) {
            Ok(0) => return Err(Error::device("write to", at, io::ErrorKind::WriteZero.into())),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::device("write to", at, error)),
        }
    }
    Ok(())
}

/// Fills all of `buffer`, however small the steps.
pub fn read_exact(target: &mut dyn Target, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
    let mut done = 0;
    while done < buffer.len() {
        let at = offset + done as u64;
        match target.read_at(at, &mut buffer[done..]) {
            Ok(0) => return Err(Error::device("read from", at, io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::device("read from", at, error)),
        }
    }
    Ok(())
}

pub(crate) fn flush(target: &mut dyn Target, offset: u64) -> Result<(), Error> {
    target.flush().map_err(|error| Error::device("flush", offset, error))
}

/// Zeroed bytes whose address is a multiple of [`BLOCK`].
pub struct Aligned {
    storage: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    /// `length` zeros.
    pub fn new(length: usize) -> Self {
        let storage = vec![0; length + BLOCK];
        let start = storage.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { storage, start, length }
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.length]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.length]
    }
}

/// A block device or a regular file.
///
/// It is used with `O_DIRECT` where that works: then errors show where they happen, the speed shown is the card's, and what is read
/// back comes from the card. Elsewhere writes are flushed and the cache is dropped before each read.
pub struct DeviceFile {
    file: File,
    bytes: u64,
    direct: bool,
    dirty: bool,
}

impl DeviceFile {
    /// Opens for reading and writing. `exclusive` (for block devices) fails with EBUSY when the kernel itself uses the device or one
    /// of its partitions.
    pub fn open(path: &Path, exclusive: bool) -> Result<Self, Error> {
        let open = |flags: OFlag| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(flags.bits())
                .open(path)
        };
        let flags = if exclusive { OFlag::O_EXCL } else { OFlag::empty() };
        let attempt = match open(flags | OFlag::O_DIRECT) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => open(flags).map(|file| (file, false)),
            other => other.map(|file| (file, true)),
        };
        // The end of a block device is its size; `metadata` would say 0.
        let attempt = attempt.and_then(|(file, direct)| {
            let bytes = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
            Ok(Self {
                file,
                bytes,
                direct,
                dirty: false,
            })
        });
        attempt.map_err(|source| Error::Open {
            device: path.display().to_string(),
            source,
        })
    }

    /// Opens for reading only: every write fails.
    pub fn open_to_read(path: &Path) -> Result<Self, Error> {
        let open = || {
            let file = File::open(path)?;
            let bytes = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
            Ok(Self {
                file,
                bytes,
                direct: false,
                dirty: false,
            })
        };
        open().map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })
    }

    /// Whether the page cache is bypassed.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Goes on with the page cache, after the kernel refused a direct access.
    fn give_up_direct(&mut self) -> io::Result<()> {
        let flags = OFlag::from_bits_truncate(fcntl(&self.file, FcntlArg::F_GETFL)?);
        fcntl(&self.file, FcntlArg::F_SETFL(flags - OFlag::O_DIRECT))?;
        self.direct = false;
        Ok(())
    }
}

fn refused(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EINVAL)
}

impl Target for DeviceFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn write_at(&mut self, offset: u64, buffer: &[u8]) -> io::Result<usize> {
        // A regular file would grow past the size it was made with.
        let room = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let buffer = &buffer[..buffer.len().min(room)];
        self.dirty = true;
        match self.file.write_at(buffer, offset) {
            Err(error) if self.direct && refused(&error) => {
                self.give_up_direct()?;
                self.file.write_at(buffer, offset)
            }
            other => other,
        }
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if self.direct {
            match self.file.read_at(buffer, offset) {
                Err(error) if refused(&error) => self.give_up_direct()?,
                other => return other,
            }
        }
        if self.dirty {
            self.flush()?;
        }
        // Only clean pages can be dropped; a failure means that the cache is used, which is no worse than not trying.
        let length = i64::try_from(buffer.len()).unwrap_or(0);
        let _ = posix_fadvise(
            &self.file,
            i64::try_from(offset).unwrap_or(0),
            length,
            PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        );
        self.file.read_at(buffer, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.dirty = false;
        Ok(())
    }
}
