//! Writing messages.

use super::{Class, Edns, Flags, HEADER, Kind, Part, Question, Rcode, Reader, Record, UDP_SIZE};
use crate::dns::name::Name;

/// How many places of names are remembered for compression: enough for an answer of 100 endpoints to be small, few enough
/// to be searched quickly.
const PLACES: usize = 64;
/// The furthest a compression pointer reaches.
const REACH: usize = 0x3fff;
/// Bytes of the OPT record that an answer ends with.
const OPT: usize = 11;

/// There is no room for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is full")]
pub(crate) struct Full;

/// A section of a message that holds records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Section {
    Answer = 1,
    Authority = 2,
    Additional = 3,
}

/// A place to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    length: usize,
    counts: [u16; 4],
    places: usize,
}

/// Writes one message into a buffer, after what is there. Sections must be written in their order.
pub(crate) struct Writer<'b> {
    out: &'b mut Vec<u8>,
    /// Where the message begins in `out`.
    start: usize,
    /// Most bytes of the message, without the OPT record that may follow.
    limit: usize,
    counts: [u16; 4],
    places: [u16; PLACES],
    known: usize,
    edns: bool,
}

impl<'b> Writer<'b> {
    /// A message of at most `limit` bytes with nothing but a header. With `edns`, room is kept for an OPT record.
    pub(crate) fn new(out: &'b mut Vec<u8>, limit: usize, edns: bool) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER]);
        Self {
            out,
            start,
            limit: limit.saturating_sub(if edns { OPT } else { 0 }).max(HEADER),
            counts: [0; 4],
            places: [0; PLACES],
            known: 0,
            edns,
        }
    }

    /// The message so far.
    pub(crate) fn message(&self) -> &[u8] {
        &self.out[self.start..]
    }

    /// How many records a section has.
    pub(crate) const fn count(&self, section: Section) -> u16 {
        self.counts[section as usize]
    }

    /// Most bytes of the message, without its OPT record.
    pub(crate) const fn limit(&self) -> usize {
        self.limit
    }

    /// A place to go back to with [`Self::back_to`].
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            length: self.out.len(),
            counts: self.counts,
            places: self.known,
        }
    }

    /// Forgets everything written since.
    pub(crate) fn back_to(&mut self, mark: Mark) {
        self.out.truncate(mark.length);
        self.counts = mark.counts;
        self.known = mark.places;
    }

    /// Writes the question, its letters in the case they were asked in.
    ///
    /// # Errors
    /// If it does not fit.
    pub(crate) fn question(&mut self, question: &Question) -> Result<(), Full> {
        let mark = self.mark();
        self.name(&question.name, false);
        self.out.extend_from_slice(&question.kind.0.to_be_bytes());
        self.out.extend_from_slice(&question.class.0.to_be_bytes());
        self.counts[0] += 1;
        self.fits(mark)
    }

    /// Writes a record of class IN whose owner is the name of the first question. For `data` see [`Self::record`].
    ///
    /// # Errors
    /// If it does not fit; nothing is then written.
    pub(crate) fn about_question(&mut self, section: Section, kind: Kind, ttl: u32, data: &[u8]) -> Result<(), Full> {
        let mark = self.mark();
        let mut head = [0xc0, HEADER as u8, 0, 0, 0, 1, 0, 0, 0, 0];
        head[2..4].copy_from_slice(&kind.0.to_be_bytes());
        head[6..].copy_from_slice(&ttl.to_be_bytes());
        self.out.extend_from_slice(&head);
        self.sized(section, kind, data, mark)
    }

    /// Writes a record. Names in `data` are written out, as [`Record::expand`] leaves them; they are compressed here where
    /// that is allowed.
    ///
    /// # Errors
    /// If it does not fit; nothing is then written.
    pub(crate) fn record(
        &mut self,
        section: Section,
        name: &Name,
        kind: Kind,
        class: Class,
        ttl: u32,
        data: &[u8],
    ) -> Result<(), Full> {
        let mark = self.mark();
        self.name(name, true);
        self.out.extend_from_slice(&kind.0.to_be_bytes());
        self.out.extend_from_slice(&class.0.to_be_bytes());
        self.out.extend_from_slice(&ttl.to_be_bytes());
        self.sized(section, kind, data, mark)
    }

    /// Writes a record as it was read from another message, with another TTL. `scratch` is used and left in any state.
    ///
    /// # Errors
    /// If it does not fit, or is malformed; nothing is then written.
    pub(crate) fn copy(
        &mut self,
        section: Section,
        record: &Record<'_>,
        message: &[u8],
        ttl: u32,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Full> {
        scratch.clear();
        record.expand(message, scratch).map_err(|_| Full)?;
        self.record(section, &record.name, record.kind, record.class, ttl, scratch)
    }

    /// Appends records that are encoded already, with their numbers by section. Where they begin in the message, which their
    /// compression pointers must be made for, is returned.
    ///
    /// # Errors
    /// If they do not fit; nothing is then written.
    pub(crate) fn blit(&mut self, bytes: &[u8], answers: u16, authority: u16, additional: u16) -> Result<usize, Full> {
        let at = self.message().len();
        if at + bytes.len() > self.limit {
            return Err(Full);
        }
        self.out.extend_from_slice(bytes);
        self.counts[1] += answers;
        self.counts[2] += authority;
        self.counts[3] += additional;
        Ok(at)
    }

    /// Overwrites bytes of the message, which must be there, with as many others.
    pub(crate) fn patch(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.out[self.start..].get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// Ends the message: header and, if asked for at the beginning, an OPT record. `flags` are those of the header without
    /// its response code; a code above 15 needs EDNS.
    pub(crate) fn finish(mut self, id: u16, flags: u16, rcode: Rcode, dnssec: bool) {
        if self.edns {
            let extended = rcode.0.to_be_bytes()[0] << 4 | (rcode.0 >> 4) as u8;
            self.opt(extended, dnssec);
        }
        let header = &mut self.out[self.start..self.start + HEADER];
        header[..2].copy_from_slice(&id.to_be_bytes());
        header[2..4].copy_from_slice(&(flags & !0xf | rcode.0 & 0xf).to_be_bytes());
        for (place, count) in header[4..].chunks_exact_mut(2).zip(self.counts) {
            place.copy_from_slice(&count.to_be_bytes());
        }
    }

    fn opt(&mut self, extended: u8, dnssec: bool) {
        let edns = Edns {
            size: UDP_SIZE as u16,
            extended,
            version: 0,
            dnssec,
        };
        self.out.extend_from_slice(&edns.record());
        self.counts[3] += 1;
    }

    /// Writes the data of a record after their length.
    fn sized(&mut self, section: Section, kind: Kind, data: &[u8], mark: Mark) -> Result<(), Full> {
        let length_at = self.out.len();
        self.out.extend_from_slice(&[0; 2]);
        self.data(kind, data);
        let Ok(length) = u16::try_from(self.out.len() - length_at - 2) else {
            self.back_to(mark);
            return Err(Full);
        };
        self.out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        self.counts[section as usize] += 1;
        self.fits(mark)
    }

    fn fits(&mut self, mark: Mark) -> Result<(), Full> {
        if self.message().len() > self.limit {
            self.back_to(mark);
            return Err(Full);
        }
        Ok(())
    }

    fn data(&mut self, kind: Kind, data: &[u8]) {
        if !kind.compresses() {
            self.out.extend_from_slice(data);
            return;
        }
        let mut reader = Reader::new(data);
        for part in kind.layout() {
            match part {
                Part::Name => match reader.name() {
                    Ok(name) => self.name(&name, true),
                    Err(_) => break,
                },
                Part::Bytes(count) => match reader.bytes(*count) {
                    Ok(bytes) => self.out.extend_from_slice(bytes),
                    Err(_) => break,
                },
                Part::Text | Part::Texts | Part::Rest => break,
            }
        }
        self.out
            .extend_from_slice(data.get(reader.position()..).unwrap_or_default());
    }

    /// Writes a name, and remembers where its labels stand.
    fn name(&mut self, name: &Name, compress: bool) {
        let wire = name.wire();
        let mut at = 0;
        while let Some(length) = wire.get(at).copied().filter(|length| *length > 0) {
            let rest = &wire[at..];
            if compress && let Some(place) = self.find(rest) {
                self.out.extend_from_slice(&(0xc000 | place).to_be_bytes());
                return;
            }
            let position = self.message().len();
            if position <= REACH && self.known < PLACES {
                self.places[self.known] = position as u16;
                self.known += 1;
            }
            let end = at + 1 + usize::from(length);
            self.out.extend_from_slice(&wire[at..end]);
            at = end;
        }
        self.out.push(0);
    }

    /// Where this end of a name already stands.
    fn find(&self, rest: &[u8]) -> Option<u16> {
        let message = self.message();
        self.places[..self.known]
            .iter()
            .copied()
            .find(|place| stands_at(message, usize::from(*place), rest))
    }
}

/// Whether the name at this place of a message that we wrote is `rest`.
fn stands_at(message: &[u8], mut at: usize, rest: &[u8]) -> bool {
    let mut read = 0;
    loop {
        let (Some(here), Some(wanted)) = (message.get(at).copied(), rest.get(read).copied()) else {
            return false;
        };
        if here >= 0xc0 {
            let Some(low) = message.get(at + 1) else { return false };
            at = usize::from(u16::from_be_bytes([here & 0x3f, *low]));
            continue;
        }
        if here != wanted {
            return false;
        }
        if here == 0 {
            return true;
        }
        let length = usize::from(here);
        let (Some(label), Some(other)) = (
            message.get(at + 1..at + 1 + length),
            rest.get(read + 1..read + 1 + length),
        ) else {
            return false;
        };
        // a pointer takes on the case of what it points to, so only the same case will do
        if label != other {
            return false;
        }
        at += 1 + length;
        read += 1 + length;
    }
}

impl Edns {
    /// The OPT record on the wire, without options.
    pub(crate) fn record(self) -> [u8; OPT] {
        let [high, low] = self.size.to_be_bytes();
        let flags = if self.dnssec { 0x80 } else { 0 };
        [0, 0, 41, high, low, self.extended, self.version, flags, 0, 0, 0]
    }
}

/// A query: header, question, and an OPT record if `edns`. Appended to `out`.
pub(crate) fn query(out: &mut Vec<u8>, id: u16, flags: Flags, question: &Question, edns: bool) {
    let mut writer = Writer::new(out, usize::from(u16::MAX), edns);
    // a name and four bytes always fit into 64 KiB
    let _ = writer.question(question);
    writer.finish(id, flags.0, Rcode::NOERROR, false);
}
