//! Cards that fail on purpose, for tests of this crate and of those that use it.

use std::io;

use super::Target;

/// A card in memory.
pub struct Memory(pub Vec<u8>);

impl Memory {
    /// A card of `bytes` whose old contents are not zero, as on a used card.
    pub fn used(bytes: usize) -> Self {
        Self(
            (0..bytes)
                .map(|index| u8::try_from(index % 251).unwrap_or(0) | 1)
                .collect(),
        )
    }
}

impl Target for Memory {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn write_at(&mut self, offset: u64, buffer: &[u8]) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let length = buffer.len().min(self.0.len() - start);
        self.0[start..start + length].copy_from_slice(&buffer[..length]);
        Ok(length)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let length = buffer.len().min(self.0.len() - start);
        buffer[..length].copy_from_slice(&self.0[start..start + length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What goes wrong. Offsets are bytes of the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A write that touches this byte fails with this errno.
    FailWrite {
        /// The byte.
        at: u64,
        /// Number of the error, as in `errno.h`.
        errno: i32,
    },
    /// A read that touches this byte fails with this errno.
    FailRead {
        /// The byte.
        at: u64,
        /// Number of the error.
        errno: i32,
    },
    /// The lowest bit of this byte is kept wrong.
    FlipBit {
        /// The byte.
        at: u64,
    },
    /// Each call moves at most this many bytes.
    ShortSteps {
        /// Most bytes of one read or write.
        most: usize,
    },
    /// After this many written bytes every call fails with ENODEV: the card was pulled.
    Disappear {
        /// Bytes that are still written.
        after: u64,
    },
    /// After this many written bytes writes take nothing and say so.
    TakesNothing {
        /// Bytes that are still written.
        after: u64,
    },
    /// A fake: it claims its size, and has this many bytes that repeat.
    Wraps {
        /// Bytes that it really has.
        capacity: u64,
    },
    /// A fake: what is written from here on is lost.
    Forgets {
        /// First lost byte.
        from: u64,
    },
    /// Flushing fails with EIO from this call on, counted from 0.
    FailFlush {
        /// Calls that succeed.
        after: u32,
    },
}

/// A card with one fault.
pub struct Faulty<T> {
    inner: T,
    fault: Fault,
    written: u64,
    flushes: u32,
}

impl<T: Target> Faulty<T> {
    /// Puts a fault into a card.
    pub fn new(inner: T, fault: Fault) -> Self {
        Self {
            inner,
            fault,
            written: 0,
            flushes: 0,
        }
    }

    /// What is on the card.
    pub fn into_inner(self) -> T {
        self.inner
    }

    /// Bytes written until now.
    pub fn written(&self) -> u64 {
        self.written
    }

    fn present(&self) -> io::Result<()> {
        match self.fault {
            Fault::Disappear { after } if self.written >= after => Err(io::Error::from_raw_os_error(nix::libc::ENODEV)),
            _ => Ok(()),
        }
    }
}

fn touches(at: u64, offset: u64, length: usize) -> bool {
    offset <= at && at - offset < length as u64
}

impl<T: Target> Target for Faulty<T> {
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    fn write_at(&mut self, offset: u64, buffer: &[u8]) -> io::Result<usize> {
        self.present()?;
        let mut offset = offset;
        let mut copy = buffer.to_vec();
        match self.fault {
            Fault::FailWrite { at, errno } if touches(at, offset, buffer.len()) => {
                return Err(io::Error::from_raw_os_error(errno));
            }
            Fault::FlipBit { at } if touches(at, offset, buffer.len()) => {
                if let Some(byte) = usize::try_from(at - offset).ok().and_then(|index| copy.get_mut(index)) {
                    *byte ^= 1;
                }
            }
            Fault::ShortSteps { most } => copy.truncate(most),
            Fault::Disappear { after } | Fault::TakesNothing { after } => {
                copy.truncate(usize::try_from(after.saturating_sub(self.written)).unwrap_or(usize::MAX));
                if copy.is_empty() {
                    return Ok(0);
                }
            }
            Fault::Wraps { capacity } => {
                offset %= capacity;
                copy.truncate(usize::try_from(capacity - offset).unwrap_or(usize::MAX));
            }
            Fault::Forgets { from } if offset >= from => return Ok(buffer.len()),
            Fault::Forgets { from } => copy.truncate(usize::try_from(from - offset).unwrap_or(usize::MAX)),
            _ => {}
        }
        let written = self.inner.write_at(offset, &copy)?;
        self.written += written as u64;
        Ok(written)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.present()?;
        match self.fault {
            Fault::FailRead { at, errno } if touches(at, offset, buffer.len()) => {
                Err(io::Error::from_raw_os_error(errno))
            }
            Fault::ShortSteps { most } => {
                let most = buffer.len().min(most);
                self.inner.read_at(offset, &mut buffer[..most])
            }
            Fault::Wraps { capacity } => {
                let offset = offset % capacity;
                let most = buffer
                    .len()
                    .min(usize::try_from(capacity - offset).unwrap_or(usize::MAX));
                self.inner.read_at(offset, &mut buffer[..most])
            }
            _ => self.inner.read_at(offset, buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.present()?;
        self.flushes += 1;
        match self.fault {
            Fault::FailFlush { after } if self.flushes > after => Err(io::Error::from_raw_os_error(nix::libc::EIO)),
            _ => self.inner.flush(),
        }
    }
}
