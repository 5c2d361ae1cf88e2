//! Who answers what: the cluster, user zones, the LAN, nobody, or the resolvers outside; and aliases from one to another.
//!
//! No waiting here. Where somebody outside has to be asked first, that is the outcome; asked and told, the same is done
//! again from the start, which costs a microsecond.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{
    cluster::{Cluster, Step, TTL},
    draft::Draft,
    message::{Class, Flags, Kind, Question, Rcode},
    name::Name,
    query::Query,
    reply::{Delegation, Reply},
    reverse::{self, Reverse},
    special,
    zones::Zones,
};
use crate::Range;

/// Most aliases that are followed in a row.
const LONGEST_CHAIN: usize = 8;
/// How ANY is answered (RFC 8482): one record that says so.
const ANY: &[u8] = b"\x07RFC8482\x00";

/// How the names that a pod looks up are completed: by its resolv.conf, in which `ndots:5` makes almost every name a
/// candidate for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchPath {
    /// The pod's namespace: its list begins with `NAMESPACE.svc.DOMAIN`, `svc.DOMAIN` and `DOMAIN`.
    pub namespace: Box<str>,
    /// What follows these: the node's own search list.
    pub further: Arc<[Box<str>]>,
}

/// Pods on this node with the standard search list, by their addresses. Others complete their names themselves.
pub type SearchPaths = HashMap<IpAddr, SearchPath>;

/// All that is known here.
pub(super) struct Tables {
    pub(super) cluster: Cluster,
    pub(super) zones: Arc<Zones>,
    pub(super) paths: Arc<SearchPaths>,
}

/// What does not change.
pub(super) struct Settings {
    pub(super) node: Box<str>,
    /// Ranges of pods and Services: nobody outside knows names for their addresses.
    pub(super) ranges: Vec<Range>,
}

/// Somebody who may know a name outside at once.
pub(super) trait Outside {
    /// Writes what is known of the question.
    fn look(&self, question: &Question, draft: &mut Draft<'_>) -> Look;
}

/// What is known of a name outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// The answer is written.
    Written(Rcode),
    /// Somebody has to be asked.
    Absent,
}

/// How answering went.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The answer is written.
    Answered,
    /// Nothing is written: this has to be asked outside first.
    Ask(Box<Ask>),
}

/// Something to be asked outside.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) question: Question,
    /// Not the node's resolvers know, but the servers of a zone below a user zone.
    pub(super) below: Option<Box<Delegation>>,
}

/// What there is to say of one name, which may be an alias.
enum Verdict {
    /// It is written.
    Final { rcode: Rcode, authoritative: bool },
    /// It is an alias, which is written.
    Alias { target: Box<Name>, authoritative: bool },
    /// It may exist, but was not told yet.
    Unknown,
    /// Nobody may be asked.
    Forbidden,
    /// It has to be asked outside.
    Ask(Box<Ask>),
}

/// Answers one query.
pub(super) struct Answerer<'a, O> {
    pub(super) tables: &'a Tables,
    pub(super) settings: &'a Settings,
    pub(super) outside: &'a O,
}

impl<O: Outside> Answerer<'_, O> {
    /// Appends the answer to `out`, at most `limit` bytes of it. `client` is who asks, `turn` changes from answer to
    /// answer.
    pub(super) fn answer(
        &self,
        query: &Query,
        client: IpAddr,
        limit: usize,
        turn: usize,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let start = out.len();
        let mut draft = Draft::new(out, limit, query.edns.is_some(), Some(&query.question), turn);
        let (rcode, authoritative) = if query.question.class == Class::CHAOS {
            let rcode = special::answer_chaos(&query.question, &query.name, &self.settings.node, &mut draft);
            (rcode, rcode == Rcode::NOERROR)
        } else {
            match self.chase(query, client, &mut draft) {
                Ok(answered) => answered,
                Err(ask) => {
                    out.truncate(start);
                    return Outcome::Ask(ask);
                }
            }
        };
        let flags = query.answer_flags() | if authoritative { Flags::AUTHORITATIVE } else { 0 };
        draft.finish(query.id, flags, rcode, query.dnssec());
        Outcome::Answered
    }

    /// Follows aliases to the end. The error is what has to be asked outside.
    fn chase(&self, query: &Query, client: IpAddr, draft: &mut Draft<'_>) -> Result<(Rcode, bool), Box<Ask>> {
        let beginning = draft.place();
        let kind = query.question.kind;
        // whoever owns the first name says with what authority (RFC 1035 section 4.1.1)
        let mut first = None;
        let mut verdict = self.one(&query.question, &query.name, query.recursive(), draft);
        let missing = matches!(
            verdict,
            Verdict::Unknown
                | Verdict::Final {
                    rcode: Rcode::NXDOMAIN,
                    ..
                }
        );
        if missing
            && matches!(kind, Kind::A | Kind::AAAA)
            && let Some(path) = self.tables.paths.get(&client)
            && self.tables.cluster.owns(&query.name)
        {
            draft.back_to(beginning);
            verdict = match self.complete(query, path, draft) {
                Some(Verdict::Ask(ask)) => return Err(ask),
                Some(found) => {
                    first = Some(true);
                    found
                }
                // what was written before is gone: write it again
                None => self.one(&query.question, &query.name, query.recursive(), draft),
            };
        }
        for _ in 0..LONGEST_CHAIN {
            match verdict {
                Verdict::Final { rcode, authoritative } => {
                    if rcode == Rcode::SERVFAIL {
                        draft.back_to(beginning);
                    }
                    return Ok((rcode, first.unwrap_or(authoritative)));
                }
                Verdict::Unknown => break,
                Verdict::Forbidden => {
                    // what the alias leads to is for the client to ask
                    let rcode = if draft.is_direct() {
                        Rcode::REFUSED
                    } else {
                        Rcode::NOERROR
                    };
                    return Ok((rcode, first.unwrap_or_default()));
                }
                Verdict::Ask(ask) => return Err(ask),
                Verdict::Alias { target, authoritative } => {
                    first.get_or_insert(authoritative);
                    let name = target.lowered();
                    let question = Question {
                        name: *target,
                        kind,
                        class: Class::IN,
                    };
                    verdict = self.one(&question, &name, query.recursive(), draft);
                }
            }
        }
        draft.back_to(beginning);
        Ok((Rcode::SERVFAIL, false))
    }

    /// What there is to say of one name; `name` is that of the question in small letters.
    fn one(&self, question: &Question, name: &Name, recursive: bool, draft: &mut Draft<'_>) -> Verdict {
        let kind = question.kind;
        let cluster = &self.tables.cluster;
        let before = draft.answers();
        if cluster.owns(name) {
            let step = cluster.answer(name, kind, draft);
            return self.ours(question, before, step, cluster.domain(), draft);
        }
        let reverse = reverse::reverse(name);
        if let Some(reverse) = reverse
            && let Some(verdict) = self.reverse(question, name, reverse, draft)
        {
            return verdict;
        }
        if let Some(verdict) = self.zones(question, name, recursive, draft) {
            return verdict;
        }
        if special::is_within(name, special::LOCAL)
            && let Some(local) = Name::from_wire(special::LOCAL)
        {
            let step = cluster.local(name, kind, draft);
            return self.ours(question, before, step, &local, draft);
        }
        if let Some((step, zone)) = special::answer(name, kind, draft) {
            return self.ours(question, before, step, &zone, draft);
        }
        if kind == Kind::ANY {
            draft.answer(name, Kind::HINFO, TTL, ANY);
            return Verdict::Final {
                rcode: Rcode::NOERROR,
                authoritative: false,
            };
        }
        self.elsewhere(question, recursive, None, draft)
    }

    /// What is known outside, or who is to be asked.
    fn elsewhere(
        &self,
        question: &Question,
        recursive: bool,
        below: Option<Box<Delegation>>,
        draft: &mut Draft<'_>,
    ) -> Verdict {
        match self.outside.look(question, draft) {
            Look::Written(rcode) => Verdict::Final {
                rcode,
                authoritative: false,
            },
            Look::Absent if !recursive => Verdict::Forbidden,
            Look::Absent => Verdict::Ask(Box::new(Ask {
                question: question.clone(),
                below,
            })),
        }
    }

    /// Ends what we say of a name of our own: with the record that makes an empty answer last. `before` is how many answers
    /// there were before it.
    fn ours(&self, question: &Question, before: u16, step: Step, zone: &Name, draft: &mut Draft<'_>) -> Verdict {
        let rcode = match step {
            Step::Unknown => return Verdict::Unknown,
            Step::Alias(target) => {
                return Verdict::Alias {
                    target,
                    authoritative: true,
                };
            }
            Step::Done(rcode) => rcode,
        };
        if draft.answers() == before {
            if question.kind == Kind::ANY && rcode == Rcode::NOERROR {
                draft.answer(&question.name, Kind::HINFO, TTL, ANY);
            } else {
                self.tables.cluster.negative(zone, draft);
            }
        }
        Verdict::Final {
            rcode,
            authoritative: true,
        }
    }

    /// What the user zones say; none if they do not hold the name.
    fn zones(&self, question: &Question, name: &Name, recursive: bool, draft: &mut Draft<'_>) -> Option<Verdict> {
        let kind = question.kind;
        let place = draft.place();
        let before = draft.answers();
        let Reply {
            rcode,
            authoritative,
            truncated,
            alias,
            delegation,
        } = self.tables.zones.answer(&question.name, kind, &mut draft.writer)?;
        if kind == Kind::ANY && rcode == Rcode::NOERROR && delegation.is_none() {
            draft.back_to(place);
            draft.answer(name, Kind::HINFO, TTL, ANY);
            return Some(Verdict::Final { rcode, authoritative });
        }
        // a client that wants an answer gets that instead of the referral
        if delegation.is_some() && recursive && draft.answers() == before {
            draft.back_to(place);
            return Some(self.elsewhere(question, recursive, delegation, draft));
        }
        if truncated {
            draft.set_full();
        }
        Some(match alias {
            Some(target) => {
                draft.set_aliased();
                Verdict::Alias { target, authoritative }
            }
            None => Verdict::Final { rcode, authoritative },
        })
    }

    fn reverse(&self, question: &Question, name: &Name, reverse: Reverse, draft: &mut Draft<'_>) -> Option<Verdict> {
        let kind = question.kind;
        let cluster = &self.tables.cluster;
        let before = draft.answers();
        let zone = self
            .settings
            .ranges
            .iter()
            .find_map(|range| reverse::zone(reverse, *range));
        if let Reverse::Address(address) = reverse
            && let Some(step) = cluster.pointers(name, address, kind, draft)
        {
            let zone = zone.unwrap_or_else(|| name.clone());
            return Some(self.ours(question, before, step, &zone, draft));
        }
        if let Some(zone) = zone {
            let step = match reverse {
                Reverse::Address(_) => cluster.absent(),
                _ => Step::Done(Rcode::NOERROR),
            };
            return Some(self.ours(question, before, step, &zone, draft));
        }
        let (step, zone) = special::answer_reverse(name, reverse, kind, draft)?;
        Some(self.ours(question, before, step, &zone, draft))
    }

    /// Completes a name as the client's search list would, to spare it the questions; none if that leads nowhere, and the
    /// client is told that the name it asked for is not there.
    fn complete(&self, query: &Query, path: &SearchPath, draft: &mut Draft<'_>) -> Option<Verdict> {
        let kind = query.question.kind;
        let cluster = &self.tables.cluster;
        let [first, services, domain] = cluster.search_list(&path.namespace)?;
        let end = query.name.prefix_length(&first).filter(|end| *end > 0)?;
        let mut asked = Name::root();
        let mut last: &[u8] = &[];
        for label in super::name::labels(&query.name.wire()[..end]) {
            asked.push(label).ok()?;
            last = label;
        }
        // a name below a Service of the own namespace was meant for that: its endpoint is gone, or not there yet
        if cluster.has_service(last, &path.namespace) {
            return None;
        }
        let dotted = asked.labels().count() > 1;
        let place = draft.place();
        let mut attempt = |candidate: &Name, known: bool| -> Option<Verdict> {
            draft.alias(&query.name, TTL, candidate);
            let name = candidate.lowered();
            let question = Question {
                name: candidate.clone(),
                kind,
                class: Class::IN,
            };
            let before = draft.answers();
            let verdict = self.one(&question, &name, query.recursive(), draft);
            let found = match &verdict {
                Verdict::Final { rcode, .. } => {
                    *rcode == Rcode::NOERROR && (dotted || !known || draft.answers() > before)
                }
                Verdict::Alias { .. } => true,
                Verdict::Ask(_) => return Some(verdict),
                Verdict::Unknown | Verdict::Forbidden => false,
            };
            if found {
                return Some(verdict);
            }
            draft.back_to(place);
            None
        };
        for zone in [services, domain] {
            if let Some(candidate) = query.name.moved(&first, &zone)
                && let Some(found) = attempt(&candidate, true)
            {
                return Some(found);
            }
        }
        // names without a dot are not carried outside on the client's behalf
        if !dotted {
            return None;
        }
        for further in &*path.further {
            let Ok(further) = Name::parse(further) else { continue };
            let mut candidate = asked.clone();
            if candidate.append(&further).is_ok()
                && let Some(found) = attempt(&candidate, false)
            {
                return Some(found);
            }
        }
        attempt(&asked, false)
    }
}

#[cfg(test)]
mod tests;
