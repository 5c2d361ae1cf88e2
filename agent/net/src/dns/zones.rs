//! User zones: master files become answers.
//!
//! [`Zones`] is what is served at a moment, and is never changed, only replaced: workers hold it without a lock.
//! [`ZoneKeeper`] makes it of the files that config maps hold, and keeps the last good version of a zone while its file is
//! bad.

mod keeper;
mod zone;

use std::{cell::Cell, collections::HashMap, net::IpAddr, sync::Arc};

pub(crate) use keeper::ZoneKeeper;
pub(crate) use zone::Zone;
use zone::{Found, HEAD, Node, Set};

use super::{
    message::{Class, Full, HEADER, Kind, Rcode, Section, Writer},
    name::Name,
    reply::{Delegation, Lowered, Reply, suffixes},
};

/// Master files of all config maps that hold some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneFiles {
    /// In any order.
    pub files: Vec<ZoneFile>,
}

/// A master file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneFile {
    /// Name of the config map.
    pub config_map: Box<str>,
    /// Its key there. Without `db.` at its beginning and `.zone` at its end, this is the zone's name.
    pub file: Box<str>,
    /// The file.
    pub text: Arc<str>,
}

/// Something about a master file that its author should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ZoneProblem {
    /// Name of the config map.
    pub config_map: Box<str>,
    /// Key in it.
    pub file: Box<str>,
    /// Line, from 1; 0 is the file as a whole.
    pub line: u32,
    /// In words.
    pub reason: String,
    /// What is answered for the zone meanwhile.
    pub serving: Serving,
}

/// What is answered for a zone whose file has a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Serving {
    /// This version: the problem is only a hint.
    This,
    /// The last version that was good.
    Earlier,
    /// Nothing: the names are looked up elsewhere.
    Nothing,
}

/// Aliases that are followed within the zones: as BIND's `max-query-restarts`.
const CHAIN_LIMIT: usize = 11;

/// All user zones at a moment.
#[derive(Debug, Default)]
pub(crate) struct Zones {
    /// By name on the wire in small letters.
    zones: HashMap<Box<[u8]>, Arc<Zone>>,
    /// Lengths of the shortest and the longest of these names, so that most names are seen to be in none at once.
    lengths: Option<(usize, usize)>,
}

impl Zones {
    /// These zones. Of two with the same name the later counts.
    pub(crate) fn new(zones: impl IntoIterator<Item = Arc<Zone>>) -> Self {
        let zones: HashMap<Box<[u8]>, _> = zones.into_iter().map(|zone| (zone.apex.wire().into(), zone)).collect();
        let lengths = zones.keys().map(|name| name.len());
        let lengths = lengths.clone().min().zip(lengths.max());
        Self { zones, lengths }
    }

    /// The closest zone that a name (on the wire, in small letters) is in.
    fn zone_of(&self, name: &[u8]) -> Option<&Zone> {
        let (shortest, longest) = self.lengths?;
        suffixes(name)
            .skip_while(|suffix| suffix.len() > longest)
            .take_while(|suffix| suffix.len() >= shortest)
            .find_map(|suffix| self.zones.get(suffix))
            .map(|zone| &**zone)
    }

    /// Whether a name is in a zone.
    #[cfg(test)]
    pub(crate) fn contains(&self, name: &Name) -> bool {
        self.zone_of(Lowered::new(name).wire()).is_some()
    }

    /// Writes what the zones say of a name; none if it is in no zone. Aliases are followed as far as they stay in user
    /// zones. The name is that of the question, or that of an alias which was written before.
    pub(crate) fn answer(&self, name: &Name, kind: Kind, writer: &mut Writer<'_>) -> Option<Reply> {
        let mut answer = Answer {
            writer,
            reply: Reply::new(Rcode::NOERROR, true),
        };
        let mut target: Option<Name> = None;
        for _ in 0..CHAIN_LIMIT {
            let current = target.as_ref().unwrap_or(name);
            let lowered = Lowered::new(current);
            let Some(zone) = self.zone_of(lowered.wire()) else {
                answer.reply.alias = Some(Box::new(target?));
                break;
            };
            match answer.step(zone, current, lowered.wire(), kind) {
                Ok(Some(next)) => target = Some(next),
                Ok(None) => break,
                Err(Full) => {
                    answer.reply.truncated = true;
                    break;
                }
            }
        }
        Some(answer.reply)
    }
}

thread_local! {
    /// Which of several addresses comes first: each in its turn.
    static TURN: Cell<usize> = const { Cell::new(0) };
}

/// An answer while it is written.
struct Answer<'w, 'b> {
    writer: &'w mut Writer<'b>,
    reply: Reply,
}

impl Answer<'_, '_> {
    /// Writes what a zone says of one name; the name that an alias leads to is returned.
    fn step(&mut self, zone: &Zone, name: &Name, lowered: &[u8], kind: Kind) -> Result<Option<Name>, Full> {
        match zone.find(lowered, kind) {
            Found::Here(node) => self.here(zone, node, name, kind),
            Found::Below(length, node) => {
                self.referral(zone, node, name, length)?;
                Ok(None)
            }
            Found::Moved(length, set) => {
                let target = self.moved(set, name, length)?;
                // the alias itself may be what was asked for
                Ok(target.filter(|_| kind != Kind::CNAME))
            }
            Found::Nowhere => {
                self.negative(zone, name, Rcode::NXDOMAIN)?;
                Ok(None)
            }
        }
    }

    fn here(&mut self, zone: &Zone, node: &Node, name: &Name, kind: Kind) -> Result<Option<Name>, Full> {
        let asked = if kind == Kind::ANY { node.any() } else { node.set(kind) };
        if let Some(set) = asked {
            self.set(set, name)?;
            self.beside(zone, set);
            return Ok(None);
        }
        if let Some(alias) = node.set(Kind::CNAME) {
            self.set(alias, name)?;
            return Ok(alias
                .records()
                .next()
                .and_then(|(_, data)| Set::target(Kind::CNAME, data)));
        }
        self.negative(zone, name, Rcode::NOERROR)?;
        Ok(None)
    }

    /// Writes all records of a set as answers.
    fn set(&mut self, set: &Set, name: &Name) -> Result<(), Full> {
        if self.is_fresh(name) {
            return self.encoded(set);
        }
        for (ttl, data) in set.records() {
            self.writer
                .record(Section::Answer, name, set.kind, Class::IN, ttl, data)?;
        }
        Ok(())
    }

    /// Whether nothing but the question was written, and that is for this name.
    fn is_fresh(&self, name: &Name) -> bool {
        let end = HEADER + name.wire().len();
        let message = self.writer.message();
        message.len() == end + 4
            && message
                .get(HEADER..end)
                .is_some_and(|asked| asked.eq_ignore_ascii_case(name.wire()))
    }

    fn encoded(&mut self, set: &Set) -> Result<(), Full> {
        let size = match set.kind {
            Kind::A => HEAD + 4,
            Kind::AAAA => HEAD + 16,
            _ => set.encoded.len(),
        };
        let turn = if set.count > 1 && size < set.encoded.len() {
            TURN.with(|turn| turn.replace(turn.get().wrapping_add(1))) % usize::from(set.count)
        } else {
            0
        };
        let (last, first) = set.encoded.split_at_checked(turn * size).ok_or(Full)?;
        if self.writer.message().len() + set.encoded.len() > self.writer.limit() {
            // as many as fit: some clients take them and leave it at that
            for (ttl, data) in set.records() {
                self.writer.about_question(Section::Answer, set.kind, ttl, data)?;
            }
            return Err(Full);
        }
        self.writer.blit(first, set.count, 0, 0)?;
        self.writer.blit(last, 0, 0, 0)?;
        Ok(())
    }

    /// Writes the addresses of hosts that the answer names. Without room for them the answer is still whole.
    fn beside(&mut self, zone: &Zone, set: &Set) {
        if !matches!(set.kind, Kind::MX | Kind::SRV | Kind::NS) {
            return;
        }
        for target in set.records().filter_map(|(_, data)| Set::target(set.kind, data)) {
            if self.glue(zone, &target).is_err() {
                return;
            }
        }
    }

    fn glue(&mut self, zone: &Zone, host: &Name) -> Result<(), Full> {
        for set in zone.addresses(Lowered::new(host).wire()) {
            for (ttl, data) in set.records() {
                self.writer
                    .record(Section::Additional, host, set.kind, Class::IN, ttl, data)?;
            }
        }
        Ok(())
    }

    /// Says that there is nothing, and for how long that holds (RFC 2308).
    fn negative(&mut self, zone: &Zone, name: &Name, rcode: Rcode) -> Result<(), Full> {
        self.reply.rcode = rcode;
        if self.is_fresh(name) {
            let owner = HEADER + name.wire().len() - zone.apex.wire().len();
            let at = self.writer.blit(&zone.negative.encoded, 0, 1, 0)?;
            // a name has at most 255 bytes, so that a pointer reaches
            let pointer = 0xc000 | u16::try_from(owner).map_err(|_| Full)?;
            self.writer.patch(at, &pointer.to_be_bytes());
            return Ok(());
        }
        for (ttl, data) in zone.negative.records() {
            self.writer
                .record(Section::Authority, &zone.apex, Kind::SOA, Class::IN, ttl, data)?;
        }
        Ok(())
    }

    /// Names the servers that know more.
    fn referral(&mut self, zone: &Zone, node: &Node, name: &Name, length: usize) -> Result<(), Full> {
        let wire = name.wire();
        let cut = Name::from_wire(&wire[wire.len().saturating_sub(length)..]).ok_or(Full)?;
        if self.writer.count(Section::Answer) == 0 {
            self.reply.authoritative = false;
        }
        let Some(servers) = node.set(Kind::NS) else {
            return Ok(());
        };
        let mut delegation = Delegation::default();
        let hosts = || {
            servers
                .records()
                .filter_map(|(ttl, data)| Some((ttl, Set::target(Kind::NS, data)?)))
        };
        for (ttl, host) in hosts() {
            self.writer
                .record(Section::Authority, &cut, Kind::NS, Class::IN, ttl, host.wire())?;
        }
        for (_, host) in hosts() {
            // glue that does not fit makes no answer incomplete here: who follows the referral has it below
            let _ = self.glue(zone, &host);
            let before = delegation.addresses.len();
            delegation
                .addresses
                .extend(zone.addresses(Lowered::new(&host).wire()).flat_map(addresses));
            if delegation.addresses.len() == before {
                delegation.servers.push(host);
            }
        }
        self.reply.delegation = Some(Box::new(delegation));
        Ok(())
    }

    /// Writes a DNAME record and the alias that it makes of this name.
    fn moved(&mut self, set: &Set, name: &Name, length: usize) -> Result<Option<Name>, Full> {
        let wire = name.wire();
        let owner = Name::from_wire(&wire[wire.len().saturating_sub(length)..]).ok_or(Full)?;
        let Some((ttl, data)) = set.records().next() else {
            return Ok(None);
        };
        self.writer
            .record(Section::Answer, &owner, Kind::DNAME, Class::IN, ttl, data)?;
        let Some(target) = Set::target(Kind::DNAME, data).and_then(|target| name.moved(&owner, &target)) else {
            self.reply.rcode = YXDOMAIN;
            return Ok(None);
        };
        self.writer
            .record(Section::Answer, name, Kind::CNAME, Class::IN, ttl, target.wire())?;
        Ok(Some(target))
    }
}

fn addresses(set: &Set) -> impl Iterator<Item = IpAddr> {
    set.records().filter_map(|(_, data)| {
        let four = || <[u8; 4]>::try_from(data).ok().map(IpAddr::from);
        four().or_else(|| <[u8; 16]>::try_from(data).ok().map(IpAddr::from))
    })
}

/// The name that a DNAME makes is too long (RFC 6672 section 2.2).
const YXDOMAIN: Rcode = Rcode(6);

#[cfg(test)]
mod tests;
