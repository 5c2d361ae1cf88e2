//! One zone: records made ready for answers, and the rules by which a name is found among them (RFC 1034 section 4.3.2, RFC
//! 4592 wildcards, RFC 6672 DNAME).

use std::collections::{HashMap, HashSet, hash_map::Entry};

use crate::dns::{
    message::{Class, Kind},
    name::{LONGEST_NAME, Name},
    reply::{parent, suffixes},
    zonefile::{Note, Record},
};

/// A zone as it is served.
#[derive(Debug)]
pub(crate) struct Zone {
    /// Its name, in small letters.
    pub(super) apex: Name,
    /// By name on the wire in small letters; those that only have names below them, too.
    nodes: HashMap<Box<[u8]>, Node>,
    /// The SOA record as it stands in negative answers.
    pub(super) negative: Set,
}

/// What is at one name.
#[derive(Debug, Default)]
pub(super) struct Node {
    sets: Box<[Set]>,
    /// Length of the name (an end of this one) that hides this: a delegation at or above it, or a DNAME above. 0: none does.
    hidden: u8,
}

/// All records of one type at one name.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) kind: Kind,
    pub(super) count: u16,
    /// As they go into a message whose question has this name: the owner is a pointer to it, names are not compressed.
    pub(super) encoded: Box<[u8]>,
}

/// Where a name leads to.
pub(super) enum Found<'z> {
    /// To its records; perhaps none of the type.
    Here(&'z Node),
    /// To other servers: length of the name of the cut, and what is there.
    Below(usize, &'z Node),
    /// To another name: length of the owner, and the DNAME record.
    Moved(usize, &'z Set),
    /// The name does not exist.
    Nowhere,
}

/// Owner, type, class, TTL, length.
pub(super) const HEAD: usize = 12;

impl Node {
    /// The records of a type.
    pub(super) fn set(&self, kind: Kind) -> Option<&Set> {
        self.sets.iter().find(|set| set.kind == kind)
    }

    /// Any of the types there are; one is enough (RFC 8482).
    pub(super) fn any(&self) -> Option<&Set> {
        self.sets.first()
    }
}

impl Set {
    /// TTL and data of each record.
    pub(super) fn records(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let mut rest = &*self.encoded;
        std::iter::from_fn(move || {
            let (head, tail) = rest.split_first_chunk::<HEAD>()?;
            let ttl = u32::from_be_bytes([head[6], head[7], head[8], head[9]]);
            let length = usize::from(u16::from_be_bytes([head[10], head[11]]));
            let (data, tail) = tail.split_at_checked(length)?;
            rest = tail;
            Some((ttl, data))
        })
    }

    /// The name at the end of the data: where an alias leads, a name server, a mail or other host.
    pub(super) fn target(kind: Kind, data: &[u8]) -> Option<Name> {
        let at = match kind {
            Kind::NS | Kind::CNAME | Kind::DNAME => 0,
            Kind::MX => 2,
            Kind::SRV => 6,
            _ => return None,
        };
        Name::from_wire(data.get(at..)?)
    }
}

fn encode(kind: Kind, ttl: u32, data: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let length = u16::try_from(data.len()).ok()?;
    out.extend_from_slice(&[0xc0, 12]);
    out.extend_from_slice(&kind.0.to_be_bytes());
    out.extend_from_slice(&Class::IN.0.to_be_bytes());
    out.extend_from_slice(&ttl.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(data);
    Some(())
}

impl Zone {
    /// Makes a zone of its records, which are all within it. What is wrong, or only odd, is added to `notes`; there is a
    /// zone if nothing is fatal.
    pub(crate) fn build(apex: &Name, records: Vec<Record>, notes: &mut Vec<Note>) -> Option<Self> {
        let before = notes.iter().filter(|note| note.fatal).count();
        let apex = apex.lowered();
        let negative = Self::negative(&apex, &records, notes);
        let mut gathered: HashMap<Box<[u8]>, Vec<Gathered>> = HashMap::new();
        for record in records {
            Gathered::add(&mut gathered, record, notes);
        }
        match gathered.get(apex.wire()) {
            Some(sets) if sets.iter().any(|set| set.kind == Kind::NS) => {}
            _ => notes.push(Note::fault(0, format!("zone {apex} has no NS record"))),
        }
        check_aliases(&gathered, notes);
        if notes.iter().filter(|note| note.fatal).count() > before {
            return None;
        }
        let nodes = nodes(&apex, gathered);
        Some(Self {
            apex,
            nodes,
            negative: negative?,
        })
    }

    /// The SOA record, with the TTL that negative answers have (RFC 2308 section 3).
    fn negative(apex: &Name, records: &[Record], notes: &mut Vec<Note>) -> Option<Set> {
        let mut found: Option<&Record> = None;
        for record in records.iter().filter(|record| record.kind == Kind::SOA) {
            if &*record.owner != apex.wire() {
                let owner = Name::from_wire(&record.owner).unwrap_or(Name::root());
                notes.push(Note::fault(
                    record.line,
                    format!("a SOA record at {owner}, which is not the top of the zone"),
                ));
            } else if let Some(first) = found {
                if first.data != record.data {
                    notes.push(Note::fault(
                        record.line,
                        format!("a second SOA record; the first is on line {}", first.line),
                    ));
                }
            } else {
                found = Some(record);
            }
        }
        let Some(record) = found else {
            notes.push(Note::fault(0, format!("zone {apex} has no SOA record")));
            return None;
        };
        let minimum = record.data.last_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let mut encoded = Vec::new();
        encode(Kind::SOA, record.ttl.min(minimum), &record.data, &mut encoded)?;
        Some(Set {
            kind: Kind::SOA,
            count: 1,
            encoded: encoded.into(),
        })
    }

    /// Where a name within the zone (on the wire, in small letters) leads to.
    pub(super) fn find<'z>(&'z self, name: &[u8], kind: Kind) -> Found<'z> {
        if let Some(node) = self.nodes.get(name) {
            // what proves a delegation belongs to the parent (RFC 4035 section 3.1.4.1)
            let own = kind == Kind::DS && usize::from(node.hidden) == name.len();
            return if node.hidden == 0 || own {
                Found::Here(node)
            } else {
                self.above(name, node.hidden)
            };
        }
        let above = parent(name).into_iter().flat_map(suffixes);
        for encloser in above.take_while(|suffix| suffix.len() >= self.apex.wire().len()) {
            let Some(node) = self.nodes.get(encloser) else {
                continue;
            };
            if node.hidden != 0 {
                return self.above(encloser, node.hidden);
            }
            if let Some(set) = node.set(Kind::DNAME) {
                return Found::Moved(encloser.len(), set);
            }
            return self.wildcard(encloser).map_or(Found::Nowhere, Found::Here);
        }
        Found::Nowhere
    }

    fn above<'z>(&'z self, name: &[u8], hidden: u8) -> Found<'z> {
        let length = usize::from(hidden);
        let hiding = name
            .len()
            .checked_sub(length)
            .and_then(|at| self.nodes.get(name.get(at..)?));
        match hiding {
            None => Found::Nowhere,
            Some(node) => match node.set(Kind::DNAME) {
                Some(set) if length < name.len() && usize::from(node.hidden) != length => Found::Moved(length, set),
                _ => Found::Below(length, node),
            },
        }
    }

    fn wildcard(&self, encloser: &[u8]) -> Option<&Node> {
        let mut name = [0; LONGEST_NAME + 2];
        let length = encloser.len() + 2;
        name[..2].copy_from_slice(b"\x01*");
        name.get_mut(2..length)?.copy_from_slice(encloser);
        self.nodes.get(&name[..length])
    }

    /// Addresses of a host in the zone, also below a delegation.
    pub(super) fn addresses<'z>(&'z self, name: &[u8]) -> impl Iterator<Item = &'z Set> {
        let node = self.nodes.get(name);
        node.into_iter()
            .flat_map(|node| [Kind::A, Kind::AAAA].into_iter().filter_map(|kind| node.set(kind)))
    }

    /// Names that have records.
    #[cfg(test)]
    pub(super) fn names(&self) -> Vec<String> {
        let named = self.nodes.iter().filter(|(_, node)| !node.sets.is_empty());
        let mut names: Vec<String> = named
            .map(|(wire, _)| Name::from_wire(wire).unwrap().to_string())
            .collect();
        names.sort();
        names
    }
}

/// Records of one type at one name while the zone is made.
struct Gathered {
    kind: Kind,
    ttl: u32,
    line: u32,
    data: Vec<Box<[u8]>>,
    known: HashSet<Box<[u8]>>,
}

/// From so many records on it pays to remember which there are.
const MANY: usize = 16;

impl Gathered {
    fn add(all: &mut HashMap<Box<[u8]>, Vec<Self>>, record: Record, notes: &mut Vec<Note>) {
        let sets = all.entry(record.owner).or_default();
        let Some(set) = sets.iter_mut().find(|set| set.kind == record.kind) else {
            sets.push(Self {
                kind: record.kind,
                ttl: record.ttl,
                line: record.line,
                data: vec![record.data],
                known: HashSet::new(),
            });
            return;
        };
        if set.knows(&record.data) {
            return;
        }
        if matches!(record.kind, Kind::CNAME | Kind::DNAME) {
            notes.push(Note::fault(
                record.line,
                format!(
                    "a second {} record of this name; the first is on line {}",
                    record.kind, set.line
                ),
            ));
            return;
        }
        if set.ttl != record.ttl && notes.len() < NOTE_LIMIT {
            let reason = format!(
                "TTL {} differs from that on line {}: {} counts",
                record.ttl, set.line, set.ttl
            );
            notes.push(Note::hint(record.line, reason));
        }
        set.data.push(record.data);
    }

    fn knows(&mut self, data: &[u8]) -> bool {
        if self.data.len() < MANY {
            return self.data.iter().any(|known| &**known == data);
        }
        if self.known.is_empty() {
            self.known.extend(self.data.iter().cloned());
        }
        !self.known.insert(data.into())
    }

    fn finish(self) -> Option<Set> {
        let mut encoded = Vec::new();
        for data in &self.data {
            encode(self.kind, self.ttl, data, &mut encoded)?;
        }
        Some(Set {
            kind: self.kind,
            count: u16::try_from(self.data.len()).ok()?,
            encoded: encoded.into(),
        })
    }
}

/// So many remarks are enough.
const NOTE_LIMIT: usize = 40;

/// A name with a CNAME record has nothing else (RFC 1034 section 3.6.2).
fn check_aliases(gathered: &HashMap<Box<[u8]>, Vec<Gathered>>, notes: &mut Vec<Note>) {
    for (owner, sets) in gathered {
        let alias = sets.iter().find(|set| set.kind == Kind::CNAME);
        let other = sets.iter().find(|set| set.kind != Kind::CNAME);
        if let (Some(alias), Some(other)) = (alias, other) {
            let name = Name::from_wire(owner).unwrap_or(Name::root());
            let (first, last) = (alias.line.min(other.line), alias.line.max(other.line));
            let reason = format!("{name} has a CNAME record and also {} (see line {first})", other.kind);
            notes.push(Note::fault(last, reason));
        }
    }
}

fn nodes(apex: &Name, gathered: HashMap<Box<[u8]>, Vec<Gathered>>) -> HashMap<Box<[u8]>, Node> {
    let mut nodes: HashMap<Box<[u8]>, Node> = HashMap::with_capacity(gathered.len());
    let mut hiding: HashMap<Box<[u8]>, bool> = HashMap::new();
    for (owner, sets) in gathered {
        let has = |kind| sets.iter().any(|set| set.kind == kind);
        let (cut, moved) = (has(Kind::NS) && &*owner != apex.wire(), has(Kind::DNAME));
        if cut || moved {
            hiding.insert(owner.clone(), cut);
        }
        let above = parent(&owner).into_iter().flat_map(suffixes);
        for name in above.take_while(|name| name.len() >= apex.wire().len()) {
            match nodes.entry(name.into()) {
                Entry::Occupied(_) => break,
                Entry::Vacant(place) => place.insert(Node::default()),
            };
        }
        let sets = sets.into_iter().filter_map(Gathered::finish).collect();
        nodes.insert(owner, Node { sets, hidden: 0 });
    }
    if !hiding.is_empty() {
        for (name, node) in &mut nodes {
            let within = suffixes(name).take_while(|suffix| suffix.len() >= apex.wire().len());
            // the topmost counts
            let hidden = within
                .filter(|suffix| hiding.get(*suffix).is_some_and(|cut| *cut || suffix.len() < name.len()))
                .last();
            node.hidden = hidden.and_then(|suffix| u8::try_from(suffix.len()).ok()).unwrap_or(0);
        }
    }
    nodes
}
