//! An answer as it is kept: a message with its question, ready to be copied behind the same question of another client.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use super::Wants;
use crate::dns::{
    message::{Class, Flags, Full, HEADER, Kind, Malformed, Question, Rcode, Reader, Section, Writer},
    name::Name,
    reply::{Lowered, Reply},
};

/// What it takes to find an answer: name in small letters, type, and what the client wants of it.
pub(crate) struct Key {
    length: usize,
    bytes: [u8; crate::dns::name::LONGEST_NAME + 4],
}

impl Key {
    pub(crate) fn new(name: &Name, kind: Kind, wants: Wants) -> Self {
        let lowered = Lowered::new(name);
        let wire = lowered.wire();
        let mut bytes = [0; crate::dns::name::LONGEST_NAME + 4];
        bytes[..wire.len()].copy_from_slice(wire);
        let length = wire.len() + 4;
        bytes[wire.len()..length - 2].copy_from_slice(&kind.0.to_be_bytes());
        bytes[length - 2..length].copy_from_slice(&wants.class().0.to_be_bytes());
        Self { length, bytes }
    }

    /// As the question of [`Answer`] begins.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Records of an answer and how long they hold.
#[derive(Debug)]
pub(crate) struct Answer {
    rcode: Rcode,
    /// Header (empty), question in small letters with what was wanted in its class, records.
    message: Box<[u8]>,
    question_end: u16,
    /// Records by section.
    counts: [u16; 3],
    /// Where TTLs stand in the message.
    ttls: Box<[u16]>,
    /// Addresses that come first in turn: where they begin, size of a record, number.
    turning: Option<(usize, usize, usize)>,
    /// When it was made.
    made: Instant,
    /// How long it holds, in seconds; 0: only for those who asked for it together.
    lifetime: u32,
}

thread_local! {
    /// Which of several addresses comes first.
    static TURN: Cell<usize> = const { Cell::new(0) };
}

/// TTL of records that are given out although they are too old (RFC 8767 section 5).
const STALE_TTL: u32 = 30;

impl Answer {
    /// An answer without records.
    pub(crate) fn empty(name: &Name, kind: Kind, wants: Wants, rcode: Rcode, lifetime: u32, now: Instant) -> Self {
        let mut message = vec![0; HEADER];
        message.extend_from_slice(Key::new(name, kind, wants).bytes());
        let question_end = u16::try_from(message.len()).unwrap_or(u16::MAX);
        Self {
            rcode,
            message: message.into(),
            question_end,
            counts: [0; 3],
            ttls: Box::default(),
            turning: None,
            made: now,
            lifetime,
        }
    }

    /// An answer from a message that we wrote: its question is as [`Answer::question`] makes it.
    ///
    /// # Errors
    /// If the message is not one that we wrote.
    pub(crate) fn new(message: Vec<u8>, rcode: Rcode, lifetime: u32, now: Instant) -> Result<Self, Malformed> {
        let mut reader = Reader::new(&message);
        let header = reader.header()?;
        reader.question()?;
        let question_end = u16::try_from(reader.position()).map_err(|_| Malformed)?;
        let [_, counts @ ..] = header.counts;
        let total = counts.iter().map(|count| usize::from(*count)).sum();
        let mut ttls = Vec::with_capacity(total);
        let mut records = Vec::with_capacity(total);
        for _ in 0..total {
            let start = reader.position();
            let record = reader.record()?;
            ttls.push(u16::try_from(record.ttl_at).map_err(|_| Malformed)?);
            records.push((record.kind, start, reader.position() - start));
        }
        let turning = turning(&records[..usize::from(counts[0])]);
        Ok(Self {
            rcode,
            question_end,
            counts,
            ttls: ttls.into(),
            turning,
            made: now,
            lifetime,
            message: message.into(),
        })
    }

    /// The question that the message of an answer has.
    pub(crate) fn question(name: &Name, kind: Kind, wants: Wants) -> Question {
        Question {
            name: name.lowered(),
            kind,
            class: wants.class(),
        }
    }

    /// How it went.
    #[cfg(test)]
    pub(crate) fn rcode(&self) -> Rcode {
        self.rcode
    }

    /// Whether it says something of the name, and not only that nothing could be found out.
    pub(crate) fn is_knowledge(&self) -> bool {
        matches!(self.rcode, Rcode::NOERROR | Rcode::NXDOMAIN)
    }

    /// What it is found by.
    pub(super) fn key(&self) -> &[u8] {
        self.message
            .get(HEADER..usize::from(self.question_end))
            .unwrap_or_default()
    }

    /// How long it holds, in seconds from when it was made.
    pub(crate) fn lifetime(&self) -> u32 {
        self.lifetime
    }

    /// How long ago it was made.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.made)
    }

    /// Whether it still holds.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        self.age(now) < Duration::from_secs(self.lifetime.into())
    }

    /// Bytes in memory, about.
    pub(super) fn size(&self) -> usize {
        self.message.len() + 2 * self.ttls.len() + size_of::<Self>()
    }

    /// Addresses in the answer.
    pub(crate) fn addresses(&self) -> Vec<std::net::IpAddr> {
        let mut reader = Reader::at(&self.message, usize::from(self.question_end));
        let records = (0..self.counts[0]).map_while(|_| reader.record().ok());
        let address = |record: crate::dns::message::Record<'_>| match record.kind {
            Kind::A => <[u8; 4]>::try_from(record.data).ok().map(std::net::IpAddr::from),
            Kind::AAAA => <[u8; 16]>::try_from(record.data).ok().map(std::net::IpAddr::from),
            _ => None,
        };
        records.filter_map(address).collect()
    }

    /// Writes the records behind the question of a client, or behind the alias that led to it.
    pub(crate) fn write(&self, name: &Name, now: Instant, writer: &mut Writer<'_>) -> Reply {
        let mut reply = Reply::new(self.rcode, false);
        let aged = Aged::new(self, now);
        if self.is_behind_question(name, writer) && self.copy(&aged, writer).is_ok() {
            return reply;
        }
        reply.truncated = self.rewrite(&aged, writer).is_err();
        reply
    }

    /// Whether nothing but a question for this name was written: then all places in the message are the same.
    fn is_behind_question(&self, name: &Name, writer: &Writer<'_>) -> bool {
        let end = usize::from(self.question_end);
        let message = writer.message();
        message.len() == end
            && message
                .get(HEADER..end - 4)
                .is_some_and(|asked| asked.eq_ignore_ascii_case(name.wire()))
    }

    fn copy(&self, aged: &Aged, writer: &mut Writer<'_>) -> Result<(), Full> {
        let records = self.message.get(usize::from(self.question_end)..).unwrap_or_default();
        let [answers, authority, additional] = self.counts;
        writer.blit(records, answers, authority, additional)?;
        if let Some((start, size, count)) = self.turning {
            let turn = TURN.with(|turn| turn.replace(turn.get().wrapping_add(1))) % count;
            let addresses = self.message.get(start..start + size * count).unwrap_or_default();
            let (last, first) = addresses.split_at_checked(turn * size).unwrap_or_default();
            writer.patch(start, first);
            writer.patch(start + first.len(), last);
        }
        // all TTLs of the turning records are equal, so that their places do not matter
        for &at in &self.ttls {
            let at = usize::from(at);
            let ttl = self
                .message
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok())
                .map_or(0, u32::from_be_bytes);
            writer.patch(at, &aged.ttl(ttl).to_be_bytes());
        }
        Ok(())
    }

    fn rewrite(&self, aged: &Aged, writer: &mut Writer<'_>) -> Result<(), Full> {
        let mut reader = Reader::at(&self.message, usize::from(self.question_end));
        let mut scratch = Vec::new();
        let sections = [Section::Answer, Section::Authority, Section::Additional];
        for (section, count) in sections.into_iter().zip(self.counts) {
            for _ in 0..count {
                let record = reader.record().map_err(|Malformed| Full)?;
                writer.copy(section, &record, &self.message, aged.ttl(record.ttl), &mut scratch)?;
            }
        }
        Ok(())
    }
}

/// How old an answer is.
struct Aged {
    seconds: u32,
    stale: bool,
}

impl Aged {
    fn new(answer: &Answer, now: Instant) -> Self {
        Self {
            seconds: u32::try_from(answer.age(now).as_secs()).unwrap_or(u32::MAX),
            stale: answer.lifetime > 0 && !answer.is_fresh(now),
        }
    }

    fn ttl(&self, ttl: u32) -> u32 {
        if self.stale {
            STALE_TTL
        } else {
            ttl.saturating_sub(self.seconds)
        }
    }
}

/// The addresses at the end of the answer section, if there are several.
fn turning(records: &[(Kind, usize, usize)]) -> Option<(usize, usize, usize)> {
    let (kind, _, size) = *records.last()?;
    if !matches!(kind, Kind::A | Kind::AAAA) {
        return None;
    }
    let count = records
        .iter()
        .rev()
        .take_while(|record| record.0 == kind && record.2 == size)
        .count();
    let (_, start, _) = *records.get(records.len() - count)?;
    (count > 1).then_some((start, size, count))
}

impl Wants {
    /// The class by which answers for different wants are told apart.
    fn class(self) -> Class {
        Class(Class::IN.0 | u16::from(self.dnssec) << 8 | u16::from(self.unchecked) << 9)
    }

    /// Flags of the query to a resolver.
    pub(crate) fn flags(self) -> Flags {
        let unchecked = if self.unchecked { Flags::CHECKING_DISABLED } else { 0 };
        Flags(Flags::RECURSION_DESIRED | unchecked)
    }
}
