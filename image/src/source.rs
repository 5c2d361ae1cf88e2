//! The image: a file, raw or packed with xz or zstd, told apart by its first bytes, never by its name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lzma_rust2::XzReader;
use ring::digest;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::Error;
use crate::layout::Mbr;

/// Bytes at the start of a card that are written last: the table and all before the first partition, at most 1 MiB.
pub const HEAD: u64 = 1 << 20;
/// Buffer of the packed file.
const BUFFER: usize = 256 << 10;
/// Least start of the first partition: what is written last must at least be one block.
const LEAST_START: u64 = 4096;

/// How an image is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Raw,
    /// `.xz`
    Xz,
    /// `.zst`
    Zstd,
}

/// An image file whose first sector has been read.
#[derive(Clone, Debug)]
pub struct Image {
    path: PathBuf,
    packing: Packing,
    file_bytes: u64,
    mbr: Mbr,
}

impl Image {
    /// Looks at the file: its packing and its partition table.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let mut file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let not = |reason: &str| Error::NotAnImage {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        if !metadata.is_file() {
            return Err(not("it is no regular file"));
        }
        let mut magic = [0; 6];
        let length = read_some(&mut file, &mut magic).map_err(failed)?;
        let packing = match &magic[..length] {
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Packing::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
            [0x1f, 0x8b, ..] => return Err(not("it is packed with gzip; unpack it first")),
            [b'P', b'K', ..] => return Err(not("it is a zip archive; unpack it first")),
            [] => return Err(not("it is empty")),
            _ => Packing::Raw,
        };
        let mut stream = Stream::open(path, packing)?;
        let mut head = [0; 512];
        let length = stream.fill(&mut head)?;
        if length < head.len() {
            return Err(Error::Truncated {
                found: length as u64,
                expected: 0,
            });
        }
        let mbr = Mbr::parse(&head).map_err(|error| not(&error.to_string()))?;
        if mbr.first() < LEAST_START || !mbr.first().is_multiple_of(LEAST_START) {
            return Err(not("its first partition does not start at a multiple of 4096 bytes"));
        }
        Ok(Self {
            path: path.to_owned(),
            packing,
            file_bytes: metadata.len(),
            mbr,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it is packed.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// Bytes it takes on a card, by its partition table.
    pub fn bytes(&self) -> u64 {
        self.mbr.end()
    }

    /// Bytes that are written last.
    pub fn head(&self) -> u64 {
        self.mbr.first().min(HEAD)
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Its contents, unpacked.
    pub fn stream(&self) -> Result<Stream, Error> {
        Stream::open(&self.path, self.packing)
    }

    /// The digest that a file beside the image gives for it: `IMAGE.sha256`, or a line of `SHA256SUMS`.
    pub fn checksum(&self) -> Result<Option<Checksum>, Error> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let own = self.path.with_file_name(format!("{name}.sha256"));
        let sums = self.path.with_file_name("SHA256SUMS");
        for (file, must) in [(own, true), (sums, false)] {
            let text = match std::fs::read_to_string(&file) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(Error::Read { path: file, source }),
            };
            match digest_for(&text, &name) {
                Some(expected) => return Ok(Some(Checksum { file, expected })),
                None if must => return Err(Error::ChecksumFile { file, image: name }),
                None => {}
            }
        }
        Ok(None)
    }
}

/// What a file beside the image says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// The file that says it.
    pub file: PathBuf,
    /// SHA-256, 64 lower-case hex digits.
    pub expected: String,
}

impl Checksum {
    /// Reads the whole image (packed, as it is). `progress` gets the bytes read, and ends it by an error.
    pub fn verify(&self, image: &Image, mut progress: impl FnMut(u64) -> Result<(), Error>) -> Result<(), Error> {
        let failed = |source| Error::Read {
            path: image.path.clone(),
            source,
        };
        let mut file = File::open(&image.path).map_err(failed)?;
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut buffer = vec![0; 1 << 20];
        let mut done = 0;
        loop {
            let length = read_some(&mut file, &mut buffer).map_err(failed)?;
            if length == 0 {
                break;
            }
            hash.update(&buffer[..length]);
            done += length as u64;
            progress(done)?;
        }
        let found = hex(hash.finish().as_ref());
        if found == self.expected {
            Ok(())
        } else {
            Err(Error::Checksum {
                file: self.file.clone(),
                expected: self.expected.clone(),
                found,
            })
        }
    }
}

/// Finds the line for `name` in the format of `sha256sum`; a file of one bare digest is for any name.
fn digest_for(text: &str, name: &str) -> Option<String> {
    let digest = |word: &str| {
        (word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| word.to_ascii_lowercase())
    };
    let text = text.trim_start_matches('\u{feff}');
    if let Some(bare) = digest(text.trim()) {
        return Some(bare);
    }
    text.lines().find_map(|line| {
        let (word, rest) = line.split_once(' ')?;
        let file = rest.trim_start_matches([' ', '*']).trim_end();
        let file = file.rsplit('/').next().unwrap_or(file);
        (file == name).then(|| digest(word)).flatten()
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Fills as much of `buffer` as there is.
fn read_some(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match from.read(&mut buffer[done..]) {
            Ok(0) => break,
            Ok(length) => done += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// What the decoder took from the file.
#[derive(Default)]
struct Taken {
    bytes: AtomicU64,
    ended: AtomicBool,
    failed: AtomicBool,
}

struct Counted {
    file: File,
    taken: Arc<Taken>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.file.read(buffer);
        match &result {
            Ok(0) => self.taken.ended.store(true, Ordering::Relaxed),
            Ok(length) => {
                self.taken.bytes.fetch_add(*length as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.taken.failed.store(true, Ordering::Relaxed),
        }
        result
    }
}

/// The unpacked bytes of an image.
pub struct Stream {
    reader: Box<dyn Read + Send>,
    taken: Arc<Taken>,
    path: PathBuf,
    given: u64,
}

impl Stream {
    fn open(path: &Path, packing: Packing) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        let taken = Arc::new(Taken::default());
        let counted = Counted {
            file,
            taken: Arc::clone(&taken),
        };
        let buffered = BufReader::with_capacity(BUFFER, counted);
        let reader: Box<dyn Read + Send> = match packing {
            Packing::Raw => Box::new(buffered),
            Packing::Xz => Box::new(XzReader::new(buffered, true)),
            Packing::Zstd => Box::new(Zstd {
                decoder: FrameDecoder::new(),
                source: buffered,
                in_frame: false,
            }),
        };
        Ok(Self {
            reader,
            taken,
            path: path.to_owned(),
            given: 0,
        })
    }

    /// Bytes taken from the file until now.
    pub fn taken(&self) -> u64 {
        self.taken.bytes.load(Ordering::Relaxed)
    }

    /// Fills `buffer`; less only at the end.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let length = read_some(&mut self.reader, buffer).map_err(|error| {
            if self.taken.failed.load(Ordering::Relaxed) {
                Error::Read {
                    path: self.path.clone(),
                    source: error,
                }
            } else if self.taken.ended.load(Ordering::Relaxed) {
                // The decoder wanted more than there is.
                Error::Truncated {
                    found: self.given,
                    expected: 0,
                }
            } else {
                Error::Corrupt {
                    offset: self.given,
                    reason: error.to_string(),
                }
            }
        })?;
        self.given += length as u64;
        Ok(length)
    }
}

/// Zstandard frames, one after another, each with its checksum compared (the decoder alone only computes it).
struct Zstd<R> {
    decoder: FrameDecoder,
    source: R,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn skip(&mut self, length: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.source.by_ref().take(length), &mut io::sink())?;
        if skipped < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame {
                if self.source.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                match self.decoder.reset(&mut self.source) {
                    Ok(()) => self.in_frame = true,
                    Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                        length, ..
                    })) => {
                        self.skip(u64::from(length))?;
                        continue;
                    }
                    Err(error) => return Err(io::Error::other(error)),
                }
            }
            if self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io::Error::other)?;
            }
            let length = self.decoder.read(buffer)?;
            if length > 0 {
                return Ok(length);
            }
            if self.decoder.is_finished() && self.decoder.can_collect() == 0 {
                self.in_frame = false;
                if let Some(expected) = self.decoder.get_checksum_from_data()
                    && self.decoder.get_calculated_checksum() != Some(expected)
                {
                    return Err(io::Error::other("its checksum is wrong"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_files_of_the_usual_forms_are_understood() {
        let digest = "A".repeat(64);
        let lower = Some("a".repeat(64));
        assert_eq!(digest_for(&format!("{digest}\n"), "x.img"), lower);
        assert_eq!(digest_for(&format!("{digest}  x.img\n"), "x.img"), lower);
        assert_eq!(digest_for(&format!("{digest} *out/x.img\r\n"), "x.img"), lower);
        assert_eq!(digest_for(&format!("{digest}  y.img\n"), "x.img"), None);
        assert_eq!(digest_for("12  x.img\n", "x.img"), None);
        assert_eq!(digest_for("", "x.img"), None);
    }
}
