//! What can go wrong between an image and a card.

use std::io;
use std::path::{Path, PathBuf};

use crate::host::Refusal;
use crate::layout::LayoutError;

/// Each variant says what was tried, and with what. Sources are not repeated in the text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of this computer cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing has that name.
    #[error("there is no {}{}", path.display(), missing_hint(path))]
    NoDevice {
        /// As the person named it.
        path: PathBuf,
    },
    /// The image is neither raw, xz nor zstd with a partition table of ours.
    #[error("{} is not a minidc image: {reason}", path.display())]
    NotAnImage {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The image ends too early.
    #[error("the image is cut short after {found} of {expected} bytes: download or build it again")]
    Truncated {
        /// Bytes that could be unpacked.
        found: u64,
        /// Bytes that its partition table promises; 0 when not even that could be read.
        expected: u64,
    },
    /// The image cannot be unpacked, or says of itself that it is damaged.
    #[error("the image is damaged at byte {offset} of its contents ({reason}): download or build it again")]
    Corrupt {
        /// Bytes that were unpacked before.
        offset: u64,
        /// What the decoder says.
        reason: String,
    },
    /// The image is not what the file beside it says.
    #[error("the image is not the one that {} describes: its SHA-256 is {found}, not {expected}. Download it again", file.display())]
    Checksum {
        /// The checksum file.
        file: PathBuf,
        /// Hex digest in that file.
        expected: String,
        /// Hex digest of the image.
        found: String,
    },
    /// The file beside the image exists, and has no line for it.
    #[error("{} has no SHA-256 for {image}", file.display())]
    ChecksumFile {
        /// The checksum file.
        file: PathBuf,
        /// Name of the image.
        image: String,
    },
    /// The device must not be overwritten.
    #[error("{device} is not overwritten: {}", sentences(reasons))]
    Refused {
        /// As the person named it.
        device: String,
        /// Every reason.
        reasons: Vec<Refusal>,
    },
    /// The device cannot be opened.
    #[error("open {device} for writing{}", open_hint(source))]
    Open {
        /// The device.
        device: String,
        /// Why.
        source: io::Error,
    },
    /// The image has more bytes than the card.
    #[error("the card is full after {offset} bytes and the image is larger: take a larger card")]
    Full {
        /// Bytes that fitted.
        offset: u64,
    },
    /// The card is gone, or fails.
    #[error("{attempt} the card at byte {offset}: it was pulled out, or it is broken")]
    Gone {
        /// "write to", "read from" or "flush".
        attempt: &'static str,
        /// Where.
        offset: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The card or the adapter refuses writes.
    #[error("the card is write-protected (look for a switch on the SD adapter)")]
    WriteProtected {
        /// What the kernel said.
        source: io::Error,
    },
    /// Another failure of the card.
    #[error("{attempt} the card at byte {offset}")]
    Device {
        /// "write to", "read from" or "flush".
        attempt: &'static str,
        /// Where.
        offset: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The card gives back something else than was written.
    #[error(
        "the card does not keep what is written to it: it differs between bytes {start} and {end}. It is worn out or a fake; take another"
    )]
    Mismatch {
        /// Offset of the first byte of the piece that differs.
        start: u64,
        /// Offset behind its last byte.
        end: u64,
    },
    /// A file that was just written is not there, or is another.
    #[error("the file {name} on the card is not what was written")]
    FileMismatch {
        /// Its name.
        name: String,
    },
    /// The partition table is not one of ours.
    #[error("the partition table is not that of a minidc card")]
    Layout(#[source] LayoutError),
    /// A FAT partition cannot be used.
    #[error("{attempt} {name:?} on the FAT partition")]
    Fat {
        /// What was tried.
        attempt: &'static str,
        /// The file, or the volume.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The person, or a signal, ended it.
    #[error("stopped on request")]
    Stopped,
    /// Writing had begun: what was on the card is lost, and it does not boot.
    #[error("the card in {device} is half written and left without a partition table: flash it again")]
    HalfWritten {
        /// The device.
        device: String,
        /// What went wrong.
        #[source]
        cause: Box<Error>,
    },
    /// The plan of the cards is not possible.
    #[error("{0}")]
    Cards(String),
    /// The caller could not give a card its right to join.
    #[error("make the identity of {node}")]
    Identity {
        /// Name of the node.
        node: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Sorts what the kernel said about a card at `offset`.
    pub(crate) fn device(attempt: &'static str, offset: u64, source: io::Error) -> Self {
        use nix::libc::{EACCES, EIO, ENODEV, ENOMEDIUM, ENOSPC, ENXIO, EPERM, EROFS};
        match source.raw_os_error() {
            Some(ENOSPC) => Self::Full { offset },
            Some(EIO | ENODEV | ENXIO | ENOMEDIUM) => Self::Gone {
                attempt,
                offset,
                source,
            },
            Some(EROFS | EPERM | EACCES) => Self::WriteProtected { source },
            _ if matches!(source.kind(), io::ErrorKind::WriteZero | io::ErrorKind::UnexpectedEof) => Self::Gone {
                attempt,
                offset,
                source,
            },
            _ => Self::Device {
                attempt,
                offset,
                source,
            },
        }
    }

    /// The whole chain in one line, for a person.
    pub fn explain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
}

fn sentences(reasons: &[Refusal]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn missing_hint(path: &Path) -> String {
    if path.starts_with("/dev") {
        ": is the card in the reader?".to_owned()
    } else {
        format!(
            "; a file in place of a card is made with: truncate -s 8G {} (QEMU wants a power of two)",
            path.display()
        )
    }
}

fn open_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(nix::libc::EBUSY) => " (something on this computer uses it: unmount it first)",
        Some(nix::libc::EACCES | nix::libc::EPERM) => " (try again with sudo)",
        Some(nix::libc::EROFS) => " (it is write-protected: look for a switch on the SD adapter)",
        Some(nix::libc::ENOMEDIUM) => " (there is no card in the reader)",
        _ => "",
    }
}
