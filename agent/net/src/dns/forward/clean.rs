//! What of a resolver's message is kept: the records that answer the question, and nothing that it did not ask for.

use std::time::Instant;

use crate::dns::{
    cache::{Answer, Wants},
    message::{Class, Full, Kind, Malformed, Rcode, Reader, Record, Section, Writer},
    name::Name,
};

/// No answer is kept longer, in seconds (RFC 8767 section 4 recommends a limit of days; a day as in unbound).
const LONGEST: u32 = 86_400;
/// That a name does not exist is not believed longer, in seconds (RFC 2308 section 5: one to three hours).
const LONGEST_NEGATIVE: u32 = 3_600;
/// Aliases in a row that are believed.
const CHAIN_LIMIT: usize = 16;

/// Why a message is no answer, although it has the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    /// Against the format.
    #[error("the answer is malformed")]
    Malformed,
    /// It names other servers instead of asking them.
    #[error("the answer is a referral")]
    Referral,
    /// The aliases in it lead round and round.
    #[error("the aliases in the answer have no end")]
    Ring,
}

impl From<Malformed> for Unusable {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<Full> for Unusable {
    // what came as a message fits into one when names in it are compressed again; if it does not, it was made so
    fn from(_: Full) -> Self {
        Self::Malformed
    }
}

/// Makes an answer of a message: from the question along the aliases to the records of the type, or to what says that there
/// are none. Owners outside of that path are left out, and so is everything beside the answer.
///
/// # Errors
/// If there is nothing to be made of it.
pub(super) fn clean(name: &Name, kind: Kind, wants: Wants, message: &[u8], now: Instant) -> Result<Answer, Unusable> {
    let mut reader = Reader::new(message);
    let header = reader.header()?;
    reader.question()?;
    let [_, answers, authority, _] = header.counts;
    let answers = records(&mut reader, answers)?;
    let authority = records(&mut reader, authority)?;

    let mut out = Vec::with_capacity(message.len());
    let mut writer = Writer::new(&mut out, usize::from(u16::MAX), false);
    writer.question(&Answer::question(name, kind, wants))?;
    let mut page = Page {
        message,
        writer,
        scratch: Vec::new(),
        lifetime: LONGEST,
    };

    let mut current = name.lowered();
    let mut aliases = 0;
    let found = loop {
        let mine = |record: &&Record<'_>| record.name == current;
        let is_asked = |record: &&Record<'_>| kind == Kind::ANY || record.kind == kind;
        let set: Vec<&Record<'_>> = answers.iter().filter(mine).filter(is_asked).collect();
        if !set.is_empty() {
            page.set(Section::Answer, &current, &set)?;
            if wants.dnssec && kind != Kind::ANY {
                page.signatures(Section::Answer, &answers, &current, kind)?;
            }
            break true;
        }
        let Some(alias) = answers.iter().filter(mine).find(|record| record.kind == Kind::CNAME) else {
            break false;
        };
        aliases += 1;
        if aliases > CHAIN_LIMIT {
            return Err(Unusable::Ring);
        }
        page.set(Section::Answer, &current, &[alias])?;
        if wants.dnssec {
            page.signatures(Section::Answer, &answers, &current, Kind::CNAME)?;
        }
        current = Reader::at(message, alias.data_at).name()?;
    };

    let rcode = header.flags.rcode();
    if !found {
        page.negative(&authority, &current, rcode, aliases > 0, wants)?;
    }
    let lifetime = page.lifetime;
    page.writer.finish(0, 0, Rcode::NOERROR, false);
    Ok(Answer::new(out, rcode, lifetime, now)?)
}

fn records<'a>(reader: &mut Reader<'a>, count: u16) -> Result<Vec<Record<'a>>, Malformed> {
    // a count may promise more than there is
    let mut records = Vec::with_capacity(usize::from(count).min(64));
    for _ in 0..count {
        let record = reader.record()?;
        if record.class == Class::IN && record.kind != Kind::OPT {
            records.push(record);
        }
    }
    Ok(records)
}

/// The cleaned message while it is written.
struct Page<'m, 'b> {
    message: &'m [u8],
    writer: Writer<'b>,
    scratch: Vec<u8>,
    /// Seconds that all of it holds.
    lifetime: u32,
}

impl Page<'_, '_> {
    /// Writes records of one name and type, with the TTL that all of them hold (RFC 2181 section 5.2). The letters of the
    /// owner are as here, so that it is found again when names are compressed.
    fn set(&mut self, section: Section, owner: &Name, records: &[&Record<'_>]) -> Result<(), Unusable> {
        let ttl = records.iter().map(|record| ttl(record)).min().unwrap_or(0);
        self.lifetime = self.lifetime.min(ttl);
        for record in records {
            // also checks that the data are what the type says
            self.scratch.clear();
            record.expand(self.message, &mut self.scratch)?;
            self.writer
                .record(section, owner, record.kind, Class::IN, ttl, &self.scratch)?;
        }
        Ok(())
    }

    fn signatures(
        &mut self,
        section: Section,
        records: &[Record<'_>],
        name: &Name,
        covered: Kind,
    ) -> Result<(), Unusable> {
        let covers = |record: &&Record<'_>| record.data.get(..2) == Some(&covered.0.to_be_bytes());
        let all = records
            .iter()
            .filter(|record| record.name == *name && record.kind == Kind::RRSIG);
        let signatures: Vec<&Record<'_>> = all.filter(covers).collect();
        if signatures.is_empty() {
            Ok(())
        } else {
            self.set(section, name, &signatures)
        }
    }

    /// Writes why there is nothing: the SOA record of a zone that the name is in, and for who validates the proofs.
    fn negative(
        &mut self,
        authority: &[Record<'_>],
        name: &Name,
        rcode: Rcode,
        aliased: bool,
        wants: Wants,
    ) -> Result<(), Unusable> {
        let soa = authority
            .iter()
            .find(|record| record.kind == Kind::SOA && name.is_within(&record.name));
        let Some(soa) = soa else {
            let referral = authority.iter().any(|record| record.kind == Kind::NS);
            if rcode == Rcode::NOERROR && !aliased && referral {
                return Err(Unusable::Referral);
            }
            // how long it holds is not known (RFC 2308 section 5)
            self.lifetime = 0;
            return Ok(());
        };
        self.scratch.clear();
        soa.expand(self.message, &mut self.scratch)?;
        let minimum = self.scratch.last_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let ttl = ttl(soa).min(minimum).min(LONGEST_NEGATIVE);
        self.lifetime = self.lifetime.min(ttl);
        let zone = std::iter::successors(Some(name.clone()), Name::parent).find(|parent| *parent == soa.name);
        self.writer.record(
            Section::Authority,
            zone.as_ref().unwrap_or(&soa.name),
            Kind::SOA,
            Class::IN,
            ttl,
            &self.scratch,
        )?;
        if wants.dnssec {
            let proof = |record: &&Record<'_>| {
                matches!(record.kind, Kind::NSEC | Kind::NSEC3 | Kind::RRSIG) && record.name.is_within(&soa.name)
            };
            for record in authority.iter().filter(proof) {
                self.set(Section::Authority, &record.name, &[record])?;
            }
        }
        Ok(())
    }
}

fn ttl(record: &Record<'_>) -> u32 {
    // RFC 2181 section 8
    if record.ttl > 0x7fff_ffff {
        0
    } else {
        record.ttl.min(LONGEST)
    }
}

#[cfg(test)]
mod tests;
