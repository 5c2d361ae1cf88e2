//! Messages of RFC 1035: reading what may be hostile, writing with compression.
//!
//! Reading never follows a compression pointer forward, so it ends; nothing here panics whatever the bytes are. Reading
//! does not allocate; writing only lets its buffer grow.

mod kind;
mod writer;

pub(crate) use kind::{Class, Kind, Rcode};
pub(crate) use writer::{Full, Mark, Section, Writer, query};

use super::name::{LONGEST_LABEL, LONGEST_NAME, Name};

/// Bytes of the header (RFC 1035 section 4.1.1).
pub(crate) const HEADER: usize = 12;
/// What every client takes by UDP without EDNS (RFC 1035 section 2.3.4).
pub(crate) const SMALLEST: usize = 512;
/// What we send and say we take by UDP: passes every path that carries IPv6 unfragmented (DNS flag day 2020).
pub(crate) const UDP_SIZE: usize = 1232;

/// The message breaks the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed DNS message")]
pub(crate) struct Malformed;

/// The second 16 bits of a message: what kind of message it is, and how it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(pub(crate) u16);

impl Flags {
    /// It is an answer.
    pub(crate) const RESPONSE: u16 = 0x8000;
    /// The answer comes from one who owns the zone.
    pub(crate) const AUTHORITATIVE: u16 = 0x0400;
    /// Not everything found room.
    pub(crate) const TRUNCATED: u16 = 0x0200;
    /// The client wants others to be asked.
    pub(crate) const RECURSION_DESIRED: u16 = 0x0100;
    /// Others can be asked.
    pub(crate) const RECURSION_AVAILABLE: u16 = 0x0080;
    /// DNSSEC: the client validates itself.
    pub(crate) const CHECKING_DISABLED: u16 = 0x0010;

    /// Whether one of these bits is set.
    pub(crate) const fn has(self, bits: u16) -> bool {
        self.0 & bits != 0
    }

    /// The operation; 0 is an ordinary query.
    pub(crate) const fn opcode(self) -> u8 {
        ((self.0 >> 11) & 0xf) as u8
    }

    /// The lower four bits of the response code.
    pub(crate) const fn rcode(self) -> Rcode {
        Rcode(self.0 & 0xf)
    }
}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Chosen by who asks, repeated by who answers.
    pub(crate) id: u16,
    /// What it is.
    pub(crate) flags: Flags,
    /// Number of questions, answers, authority and additional records.
    pub(crate) counts: [u16; 4],
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    /// With the case of the letters as asked.
    pub(crate) name: Name,
    /// Type.
    pub(crate) kind: Kind,
    /// Class.
    pub(crate) class: Class,
}

/// A record, its data as it stands in the message.
#[derive(Clone, Debug)]
pub(crate) struct Record<'a> {
    /// Owner.
    pub(crate) name: Name,
    /// Type.
    pub(crate) kind: Kind,
    /// Class.
    pub(crate) class: Class,
    /// Seconds it may be kept, as sent (RFC 2181 section 8: with the first bit set it means 0).
    pub(crate) ttl: u32,
    /// Where in the message the four bytes of the TTL begin.
    pub(crate) ttl_at: usize,
    /// Where in the message the data begin.
    pub(crate) data_at: usize,
    /// The data. Names in them may be compressed: see [`Record::expand`].
    pub(crate) data: &'a [u8],
}

/// What the OPT record of a query or an answer says (RFC 6891).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edns {
    /// What the sender takes by UDP.
    pub(crate) size: u16,
    /// Upper eight bits of the response code.
    pub(crate) extended: u8,
    /// Version, so far always 0.
    pub(crate) version: u8,
    /// The sender wants DNSSEC records.
    pub(crate) dnssec: bool,
}

/// Reads a message from its beginning to its end.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the header.
    pub(crate) const fn new(message: &'a [u8]) -> Self {
        Self { message, at: 0 }
    }

    /// A reader at some place of the message.
    pub(crate) const fn at(message: &'a [u8], at: usize) -> Self {
        Self { message, at }
    }

    /// Where the reader stands.
    pub(crate) const fn position(&self) -> usize {
        self.at
    }

    /// Whether nothing is left.
    pub(crate) const fn is_at_end(&self) -> bool {
        self.at >= self.message.len()
    }

    /// The next bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let bytes = self.message.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(bytes)
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.bytes(1)?[0])
    }

    /// The next 16 bits.
    pub(crate) fn short(&mut self) -> Result<u16, Malformed> {
        let bytes = self.bytes(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// The next 32 bits.
    pub(crate) fn long(&mut self) -> Result<u32, Malformed> {
        let bytes = self.bytes(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// The header.
    pub(crate) fn header(&mut self) -> Result<Header, Malformed> {
        Ok(Header {
            id: self.short()?,
            flags: Flags(self.short()?),
            counts: [self.short()?, self.short()?, self.short()?, self.short()?],
        })
    }

    /// A name, whether compressed or not.
    pub(crate) fn name(&mut self) -> Result<Name, Malformed> {
        // most names of questions are not compressed, and stand there as they are
        let rest = self.message.get(self.at..).ok_or(Malformed)?;
        if let Some(name) = Name::first_of(rest) {
            self.at += name.wire().len();
            return Ok(name);
        }
        let mut wire = [0; LONGEST_NAME];
        let mut length = 0;
        // a pointer must lead to before where this run of labels began: so each jump goes back, and there is an end
        let mut run = self.at;
        let mut at = self.at;
        let mut jumped = false;
        loop {
            let byte = *self.message.get(at).ok_or(Malformed)?;
            let size = usize::from(byte);
            if size <= LONGEST_LABEL {
                let end = at + 1 + size;
                let label = self.message.get(at..end).ok_or(Malformed)?;
                wire.get_mut(length..length + label.len())
                    .ok_or(Malformed)?
                    .copy_from_slice(label);
                length += label.len();
                at = end;
                if size == 0 {
                    break;
                }
            } else if byte >= 0xc0 {
                let low = *self.message.get(at + 1).ok_or(Malformed)?;
                let target = usize::from(u16::from_be_bytes([byte & 0x3f, low]));
                if !jumped {
                    self.at = at + 2;
                    jumped = true;
                }
                if target >= run {
                    return Err(Malformed);
                }
                run = target;
                at = target;
            } else {
                return Err(Malformed);
            }
        }
        if !jumped {
            self.at = at;
        }
        Name::from_wire(&wire[..length]).ok_or(Malformed)
    }

    /// A question.
    pub(crate) fn question(&mut self) -> Result<Question, Malformed> {
        Ok(Question {
            name: self.name()?,
            kind: Kind(self.short()?),
            class: Class(self.short()?),
        })
    }

    /// A record.
    pub(crate) fn record(&mut self) -> Result<Record<'a>, Malformed> {
        let name = self.name()?;
        let kind = Kind(self.short()?);
        let class = Class(self.short()?);
        let ttl_at = self.at;
        let ttl = self.long()?;
        let length = usize::from(self.short()?);
        let data_at = self.at;
        Ok(Record {
            name,
            kind,
            class,
            ttl,
            ttl_at,
            data_at,
            data: self.bytes(length)?,
        })
    }
}

impl Record<'_> {
    /// What an OPT record says; none if this is not one, or does not belong to the root.
    pub(crate) fn edns(&self) -> Option<Edns> {
        let [extended, version, flags, _] = self.ttl.to_be_bytes();
        (self.kind == Kind::OPT && self.name.is_root()).then_some(Edns {
            size: self.class.0,
            extended,
            version,
            dnssec: flags & 0x80 != 0,
        })
    }

    /// Appends the data with all names in them written out, checking that they are what the type says. `message` is the
    /// message the record was read from.
    ///
    /// # Errors
    /// If the data are not what the type says; `out` may then hold a part.
    pub(crate) fn expand(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        let end = self.data_at + self.data.len();
        let message = message.get(..end).ok_or(Malformed)?;
        let mut reader = Reader::at(message, self.data_at);
        for part in self.kind.layout() {
            match part {
                Part::Name => out.extend_from_slice(reader.name()?.wire()),
                Part::Bytes(count) => out.extend_from_slice(reader.bytes(*count)?),
                Part::Text => {
                    let length = reader.byte()?;
                    out.push(length);
                    out.extend_from_slice(reader.bytes(usize::from(length))?);
                }
                Part::Texts => loop {
                    let length = reader.byte()?;
                    out.push(length);
                    out.extend_from_slice(reader.bytes(usize::from(length))?);
                    if reader.is_at_end() {
                        break;
                    }
                },
                Part::Rest => out.extend_from_slice(reader.bytes(end - reader.position())?),
            }
        }
        if reader.position() == end {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

/// A part of a record's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A name.
    Name,
    /// This many bytes.
    Bytes(usize),
    /// A text after its length.
    Text,
    /// At least one such text, up to the end.
    Texts,
    /// Whatever is left.
    Rest,
}

#[cfg(test)]
mod tests;
