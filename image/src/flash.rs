//! Image to card: written, read back, compared, seeded, and only then given its partition table.
//!
//! The first thing written is zeros over the old table, the last thing is the new one. Between the two a card has no table: neither a
//! Pi nor a computer takes it for a good one, whatever ended the work. Everything is written before anything is read back, so that a
//! card with less memory than it claims is found out.

mod progress;

use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ring::digest::{self, SHA256};

pub use progress::{Phase, Progress};

use crate::Error;
use crate::device::{self, Aligned, BLOCK, DeviceFile, Target};
use crate::fat;
use crate::host::{Device, Host, Kind, Refusal};
use crate::layout::{Mbr, SECTOR, SELECTOR, Table};
use crate::source::{Image, hex};
use progress::Meter;

/// Piece that is written, hashed and compared at once: a multiple of what SD cards erase.
pub const PIECE: u64 = 4 << 20;
/// Pieces between two flushes, so that the page cache (where direct I/O does not work) never holds much.
const PIECES_PER_FLUSH: u64 = 16;
/// Bytes zeroed at the end of a larger card, where the copy of an old GPT lies (33 sectors, rounded up).
const TAIL: u64 = 64 << 10;

/// Told of progress; [`ControlFlow::Break`] ends the work (Ctrl-C).
pub type Observer<'a> = dyn FnMut(&Progress) -> ControlFlow<()> + 'a;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Bytes written and compared.
    pub bytes: u64,
    /// SHA-256 of the unpacked image, hex.
    pub sha256: String,
    /// Whether a checksum file beside the image was there and agreed.
    pub checksum_seen: bool,
    /// Time of writing.
    pub writing: Duration,
    /// Time of reading back.
    pub comparing: Duration,
}

/// Looks at the device and refuses it if it must not be overwritten. Nothing is written.
pub fn prepare(image: &Image, host: &Host, path: &Path) -> Result<Device, Error> {
    let device = host.inspect(path)?;
    let mut reasons = device.refusals(image.bytes());
    if same_file(image.path(), path) {
        reasons.push(Refusal::IsTheImage);
    }
    if reasons.is_empty() {
        Ok(device)
    } else {
        Err(Error::Refused {
            device: path.display().to_string(),
            reasons,
        })
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (std::fs::metadata(one), std::fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Writes the image and the files of the selector partition to the device. It is judged once more first: between the plan and the
/// answer of a person a desktop may have mounted it.
pub fn flash(
    image: &Image,
    host: &Host,
    path: &Path,
    files: &[fat::File],
    observer: &mut Observer<'_>,
) -> Result<Report, Error> {
    let device = prepare(image, host, path)?;
    let mut target = DeviceFile::open(path, device.kind == Kind::Disk)?;
    onto(image, &mut target, &path.display().to_string(), files, observer)
}

/// Ejects the card, as far as this computer can, and else tells the kernel of the new table; returns whether it was ejected. All is on
/// the card before: a card that is not ejected may be pulled all the same. The reader keeps its power, since the next card may come.
pub fn release(device: &Device) -> bool {
    if device.kind != Kind::Disk {
        return false;
    }
    let run = |program: &str, arguments: &[&str]| {
        Command::new(program)
            .args(arguments)
            .arg(&device.path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let ejected = run("eject", &[]);
    if !ejected {
        run("blockdev", &["--rereadpt"]);
    }
    ejected
}

/// Writes the image to anything; `name` is what messages call it.
pub fn onto(
    image: &Image,
    target: &mut dyn Target,
    name: &str,
    files: &[fat::File],
    observer: &mut Observer<'_>,
) -> Result<Report, Error> {
    let checksum = image.checksum()?;
    if let Some(checksum) = &checksum {
        let mut meter = Meter::new(Phase::Checksum, image.file_bytes());
        checksum.verify(image, |done| tell(observer, &meter.at(done)))?;
    }
    if image.bytes() > target.bytes() {
        return Err(Error::Refused {
            device: name.to_owned(),
            reasons: vec![Refusal::TooSmall {
                bytes: target.bytes(),
                needed: image.bytes(),
            }],
        });
    }
    let mut work = Work {
        image,
        target,
        observer,
        pieces: Vec::new(),
        hash: digest::Context::new(&SHA256),
    };
    match work.run(files) {
        Ok((bytes, writing, comparing)) => Ok(Report {
            bytes,
            sha256: hex(work.hash.finish().as_ref()),
            checksum_seen: checksum.is_some(),
            writing,
            comparing,
        }),
        Err(cause) => {
            // Zeroing again is for the case that the table itself came back wrong. On a card that is gone it fails, and need not work.
            let _ = work.wipe();
            Err(Error::HalfWritten {
                device: name.to_owned(),
                cause: Box::new(cause),
            })
        }
    }
}

fn tell(observer: &mut Observer<'_>, progress: &Progress) -> Result<(), Error> {
    match observer(progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Stopped),
    }
}

struct Piece {
    offset: u64,
    length: usize,
    hash: digest::Digest,
}

struct Work<'a, 'o> {
    image: &'a Image,
    target: &'a mut dyn Target,
    observer: &'a mut Observer<'o>,
    pieces: Vec<Piece>,
    hash: digest::Context,
}

impl Work<'_, '_> {
    fn run(&mut self, files: &[fat::File]) -> Result<(u64, Duration, Duration), Error> {
        let begun = Instant::now();
        self.wipe()?;
        let (head, bytes) = self.write()?;
        let writing = begun.elapsed();
        let begun = Instant::now();
        self.compare(bytes)?;
        let comparing = begun.elapsed();
        let mut meter = Meter::new(Phase::Finish, 1);
        tell(self.observer, &meter.at(0))?;
        let mbr = Mbr::parse(&head).map_err(Error::Layout)?;
        let table = mbr.follow(self.target)?;
        table.check(self.target.bytes()).map_err(Error::Layout)?;
        if let Some(selector) = table.get(SELECTOR) {
            fat::write(self.target, selector, files)?;
        }
        // The last moment to stop: from here on the card is either good, or found bad and wiped.
        tell(self.observer, &meter.at(0))?;
        self.finish(&head)?;
        self.look(&table, files)?;
        // It is done; whether the observer wants more is of no interest any more.
        let _ = (self.observer)(&meter.at(1));
        Ok((bytes, writing, comparing))
    }

    /// Zeros where a table, or the copy of a GPT, could be.
    fn wipe(&mut self) -> Result<(), Error> {
        let zeros = Aligned::new(usize::try_from(self.image.head()).unwrap_or(0));
        device::write_all(self.target, 0, &zeros)?;
        let tail = (self.target.bytes().saturating_sub(TAIL)).next_multiple_of(4096);
        if tail >= self.image.bytes() && tail < self.target.bytes() {
            let zeros = Aligned::new(usize::try_from(self.target.bytes() - tail).unwrap_or(0));
            device::write_all(self.target, tail, &zeros)?;
        }
        device::flush(self.target, 0)
    }

    /// Writes all but the head; returns the head and the bytes of the image.
    fn write(&mut self) -> Result<(Aligned, u64), Error> {
        let expected = self.image.bytes();
        let truncated = |found| Error::Truncated { found, expected };
        let mut meter = Meter::new(Phase::Write, expected);
        let mut stream = self.image.stream()?;
        let mut head = Aligned::new(usize::try_from(self.image.head()).unwrap_or(0));
        let length = stream.fill(&mut head)?;
        if length < head.len() {
            return Err(truncated(length as u64));
        }
        self.hash.update(&head[..]);
        let mut buffer = Aligned::new(usize::try_from(PIECE).unwrap_or(0));
        let mut offset = head.len() as u64;
        loop {
            tell(self.observer, &meter.at(offset))?;
            // The first piece is shorter, so that all others start at multiples of their size.
            let room = usize::try_from(PIECE - offset % PIECE).unwrap_or(0);
            let length = stream.fill(&mut buffer[..room]).map_err(|error| match error {
                Error::Truncated { found, .. } => truncated(found),
                other => other,
            })?;
            let piece = &buffer[..length];
            if !(length as u64).is_multiple_of(SECTOR) {
                return Err(truncated(offset + length as u64));
            }
            if length > 0 {
                if offset + length as u64 > self.target.bytes() {
                    return Err(Error::Full {
                        offset: self.target.bytes(),
                    });
                }
                device::write_all(self.target, offset, piece)?;
                self.hash.update(piece);
                self.pieces.push(Piece {
                    offset,
                    length,
                    hash: digest::digest(&SHA256, piece),
                });
                offset += length as u64;
            }
            if length < room {
                break;
            }
            if (offset / PIECE).is_multiple_of(PIECES_PER_FLUSH) {
                device::flush(self.target, offset)?;
            }
        }
        if offset < expected {
            return Err(truncated(offset));
        }
        device::flush(self.target, offset)?;
        tell(self.observer, &meter.at(offset))?;
        Ok((head, offset))
    }

    /// Reads everything back.
    fn compare(&mut self, bytes: u64) -> Result<(), Error> {
        let mut meter = Meter::new(Phase::Compare, bytes);
        let mut buffer = Aligned::new(usize::try_from(PIECE).unwrap_or(0));
        for piece in &self.pieces {
            tell(self.observer, &meter.at(piece.offset))?;
            let found = &mut buffer[..piece.length];
            // A piece that is not read completely must not be judged by what the one before it left.
            found.fill(0);
            device::read_exact(self.target, piece.offset, found)?;
            if digest::digest(&SHA256, found).as_ref() != piece.hash.as_ref() {
                return Err(Error::Mismatch {
                    start: piece.offset,
                    end: piece.offset + piece.length as u64,
                });
            }
        }
        tell(self.observer, &meter.at(bytes))
    }

    /// The finished card as a board will see it: the table, and the files of the selector partition.
    fn look(&mut self, table: &Table, files: &[fat::File]) -> Result<(), Error> {
        if Table::read(self.target)? != *table {
            return Err(Error::Mismatch {
                start: 0,
                end: self.image.head(),
            });
        }
        let Some(selector) = table.get(SELECTOR) else {
            return Ok(());
        };
        for file in files {
            if fat::read(self.target, selector, &file.name)?.as_ref() != Some(&file.contents) {
                return Err(Error::FileMismatch {
                    name: file.name.clone(),
                });
            }
        }
        Ok(())
    }

    /// Makes the card a card: what is before the first partition, and as the very last write the block with the table, which is what
    /// everybody looks for.
    fn finish(&mut self, head: &Aligned) -> Result<(), Error> {
        let length = head.len();
        for (start, end) in [(BLOCK.min(length), length), (0, BLOCK.min(length))] {
            if start == end {
                continue;
            }
            let mut piece = Aligned::new(end - start);
            piece.copy_from_slice(&head[start..end]);
            device::write_all(self.target, start as u64, &piece)?;
            device::flush(self.target, start as u64)?;
            let mut found = Aligned::new(end - start);
            device::read_exact(self.target, start as u64, &mut found)?;
            if found[..] != piece[..] {
                return Err(Error::Mismatch {
                    start: start as u64,
                    end: end as u64,
                });
            }
        }
        Ok(())
    }
}
