//! The answer that is being put together: records of any source, and whether all of them fit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    message::{Class, Flags, Full, Kind, Mark, Question, Rcode, Section, Writer},
    name::Name,
};

/// An answer, after its question. Records are written in the order of the sections.
pub(super) struct Draft<'b> {
    /// For records that come ready made.
    pub(super) writer: Writer<'b>,
    /// The answer is about another name than the question, because of an alias.
    aliased: bool,
    full: bool,
    /// Changes from answer to answer, so that every address comes first as often.
    turn: usize,
}

/// A place to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    mark: Mark,
    aliased: bool,
    full: bool,
}

impl<'b> Draft<'b> {
    /// An answer to this question of at most `limit` bytes, with room for an OPT record if `edns`.
    pub(super) fn new(
        out: &'b mut Vec<u8>,
        limit: usize,
        edns: bool,
        question: Option<&Question>,
        turn: usize,
    ) -> Self {
        let mut writer = Writer::new(out, limit, edns);
        let full = question.is_some_and(|question| writer.question(question).is_err());
        Self {
            writer,
            aliased: false,
            full,
            turn,
        }
    }

    /// Whether the answer is, so far, about the name of the question.
    pub(super) const fn is_direct(&self) -> bool {
        !self.aliased
    }

    /// Says that something did not fit.
    pub(super) const fn set_full(&mut self) {
        self.full = true;
    }

    /// Says that an alias was written.
    pub(super) const fn set_aliased(&mut self) {
        self.aliased = true;
    }

    pub(super) fn place(&self) -> Place {
        Place {
            mark: self.writer.mark(),
            aliased: self.aliased,
            full: self.full,
        }
    }

    /// Forgets everything since then.
    pub(super) fn back_to(&mut self, place: Place) {
        self.writer.back_to(place.mark);
        self.aliased = place.aliased;
        self.full = place.full;
    }

    /// A number below `count` (0 if that is 0) that changes from answer to answer.
    pub(super) const fn turn(&self, count: usize) -> usize {
        if count < 2 { 0 } else { self.turn % count }
    }

    /// How many records the answer section has.
    pub(super) const fn answers(&self) -> u16 {
        self.writer.count(Section::Answer)
    }

    /// Writes a record of the answer. `name` is the present name: that of the question, or what it is an alias for. Names
    /// in `data` are written out.
    pub(super) fn answer(&mut self, name: &Name, kind: Kind, ttl: u32, data: &[u8]) {
        if !self.full {
            let written = match self.aliased {
                false => self.writer.about_question(Section::Answer, kind, ttl, data),
                true => self.writer.record(Section::Answer, name, kind, Class::IN, ttl, data),
            };
            self.full |= written.is_err();
        }
    }

    /// Writes that `name` is an alias for `target`, which is the present name from then on.
    pub(super) fn alias(&mut self, name: &Name, ttl: u32, target: &Name) {
        self.answer(name, Kind::CNAME, ttl, target.wire());
        self.aliased = true;
    }

    /// Writes those of the addresses that the type asks for.
    pub(super) fn addresses(&mut self, name: &Name, kind: Kind, ttl: u32, addresses: &[IpAddr]) {
        for address in addresses {
            match (kind, address) {
                (Kind::A, IpAddr::V4(address)) => self.answer(name, kind, ttl, &address.octets()),
                (Kind::AAAA, IpAddr::V6(address)) => self.answer(name, kind, ttl, &address.octets()),
                _ => {}
            }
        }
    }

    /// Writes these addresses, another one first each time.
    pub(super) fn v4(&mut self, name: &Name, ttl: u32, addresses: &[Ipv4Addr]) {
        let (first, second) = addresses.split_at(self.turn(addresses.len()));
        for address in second.iter().chain(first) {
            self.answer(name, Kind::A, ttl, &address.octets());
        }
    }

    /// Writes these addresses, another one first each time.
    pub(super) fn v6(&mut self, name: &Name, ttl: u32, addresses: &[Ipv6Addr]) {
        let (first, second) = addresses.split_at(self.turn(addresses.len()));
        for address in second.iter().chain(first) {
            self.answer(name, Kind::AAAA, ttl, &address.octets());
        }
    }

    /// Writes a record of the authority section.
    pub(super) fn authority(&mut self, name: &Name, kind: Kind, ttl: u32, data: &[u8]) {
        if !self.full {
            let written = self.writer.record(Section::Authority, name, kind, Class::IN, ttl, data);
            self.full |= written.is_err();
        }
    }

    /// Writes an address that spares the client a question.
    ///
    /// # Errors
    /// If there is no room; the answer is whole without it.
    pub(super) fn additional(&mut self, name: &Name, ttl: u32, address: IpAddr) -> Result<(), Full> {
        if self.full {
            return Err(Full);
        }
        let section = Section::Additional;
        match address {
            IpAddr::V4(address) => self
                .writer
                .record(section, name, Kind::A, Class::IN, ttl, &address.octets()),
            IpAddr::V6(address) => self
                .writer
                .record(section, name, Kind::AAAA, Class::IN, ttl, &address.octets()),
        }
    }

    /// Ends the message. `flags` are those of the header without response code and truncation.
    pub(super) fn finish(self, id: u16, flags: u16, rcode: Rcode, dnssec: bool) {
        let truncated = if self.full { Flags::TRUNCATED } else { 0 };
        self.writer.finish(id, flags | truncated, rcode, dnssec);
    }
}
