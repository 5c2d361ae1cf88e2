//! A small cluster, and how to ask about it.

use std::{cell::RefCell, collections::HashMap, net::IpAddr, sync::Arc};

use super::super::{Answerer, Look, Outcome, Outside, SearchPath, SearchPaths, Settings, Tables};
use crate::{
    dns::{
        cluster::Cluster,
        draft::Draft,
        message::{Class, Flags, Kind, Question, Rcode, Reader, Record, query},
        name::Name,
        query::{Received, read},
        zones::Zones,
    },
    facts::{Fact, Key, Service, Slice},
};

/// Address of the server.
const SERVER: &str = "100.65.0.10";
/// A pod of namespace team, with the node's search list `lan`.
pub(super) const POD: &str = "100.64.1.5";

/// Everything that answers are made of.
pub(super) struct World {
    pub(super) tables: Tables,
    pub(super) settings: Settings,
    pub(super) outside: Elsewhere,
}

/// Names outside, as text `NAME TYPE` to address; what is not there is not known, and is asked for.
#[derive(Default)]
pub(super) struct Elsewhere {
    pub(super) known: HashMap<String, Result<[u8; 4], Rcode>>,
    pub(super) looked: RefCell<Vec<String>>,
}

impl Outside for Elsewhere {
    fn look(&self, question: &Question, draft: &mut Draft<'_>) -> Look {
        let key = format!("{} {}", question.name, question.kind);
        self.looked.borrow_mut().push(key.clone());
        match self.known.get(&key) {
            None => Look::Absent,
            Some(Ok(address)) => {
                draft.answer(&question.name, Kind::A, 60, address);
                Look::Written(Rcode::NOERROR)
            }
            Some(Err(rcode)) => Look::Written(*rcode),
        }
    }
}

/// An answer, as text.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) rcode: Rcode,
    pub(super) flags: Flags,
    /// `NAME TTL TYPE DATA` of the answer section.
    pub(super) answers: Vec<String>,
    pub(super) authorities: Vec<String>,
    pub(super) additionals: Vec<String>,
    pub(super) message: Vec<u8>,
}

impl World {
    /// Nothing was told yet.
    pub(super) fn empty() -> Self {
        let path = SearchPath {
            namespace: "team".into(),
            further: Arc::new(["lan".into()]),
        };
        Self {
            tables: Tables {
                cluster: Cluster::new(&name("cluster.local"), address(SERVER)),
                zones: Arc::new(Zones::default()),
                paths: Arc::new(SearchPaths::from([(address(POD), path)])),
            },
            settings: Settings {
                node: "pi-1".into(),
                ranges: vec!["100.64.0.0/16".parse().unwrap(), "100.65.0.0/16".parse().unwrap()],
            },
            outside: Elsewhere::default(),
        }
    }

    /// Namespaces default and team, and these Services and slices (`NAME` or `NAME.NAMESPACE`), in JSON as the API stores
    /// them.
    pub(super) fn new(services: &[(&str, &str)], slices: &[(&str, &str)]) -> Self {
        let mut world = Self::empty();
        for namespace in ["default", "team"] {
            world.tables.cluster.apply(Fact::Namespace(namespace.into(), true));
        }
        for (name, json) in services {
            world.set_service(name, Some(json));
        }
        for (name, json) in slices {
            world.set_slice(name, Some(json));
        }
        world.tables.cluster.apply(Fact::Synced);
        world
    }

    pub(super) fn set_service(&mut self, name: &str, json: Option<&str>) {
        let service = json.map(|json| Arc::new(Service::from_json(json.as_bytes()).unwrap()));
        self.tables.cluster.apply(Fact::Service(key(name), service));
    }

    pub(super) fn set_slice(&mut self, name: &str, json: Option<&str>) {
        let slice = json.map(|json| Arc::new(Slice::from_json(json.as_bytes()).unwrap()));
        self.tables.cluster.apply(Fact::Slice(key(name), slice));
    }

    /// Asks from an address that is no pod's.
    pub(super) fn ask(&self, text: &str, kind: Kind) -> Told {
        self.ask_from("192.0.2.1", text, kind).unwrap()
    }

    /// Asks; the error is what has to be asked outside first.
    pub(super) fn ask_from(&self, client: &str, text: &str, kind: Kind) -> Result<Told, Box<Question>> {
        let packet = packet(text, kind, Class::IN, Flags::RECURSION_DESIRED);
        self.ask_packet(client, &packet, 1232)
    }

    pub(super) fn ask_packet(&self, client: &str, packet: &[u8], limit: usize) -> Result<Told, Box<Question>> {
        let Received::Query(query) = read(packet) else {
            panic!("no query: {packet:?}");
        };
        let answerer = Answerer {
            tables: &self.tables,
            settings: &self.settings,
            outside: &self.outside,
        };
        let mut out = b"ab".to_vec();
        match answerer.answer(&query, address(client), limit, 0, &mut out) {
            Outcome::Answered => {
                assert!(out.len() - 2 <= limit);
                Ok(Told::read(&out[2..]))
            }
            Outcome::Ask(ask) => {
                assert_eq!(out, b"ab");
                Err(Box::new(ask.question))
            }
        }
    }
}

impl Told {
    fn read(message: &[u8]) -> Self {
        let mut reader = Reader::new(message);
        let header = reader.header().unwrap();
        assert!(header.flags.has(Flags::RESPONSE) && header.flags.has(Flags::RECURSION_AVAILABLE));
        assert_eq!((header.id, header.counts[0]), (7, 1));
        reader.question().unwrap();
        let mut section = |count: u16| -> Vec<Record<'_>> { (0..count).map(|_| reader.record().unwrap()).collect() };
        let written = |records: &[Record<'_>]| records.iter().map(|record| text(record, message)).collect();
        let answers = written(&section(header.counts[1]));
        let authorities = written(&section(header.counts[2]));
        let mut rest = section(header.counts[3]);
        let edns = rest.pop().and_then(|record| record.edns()).unwrap();
        assert!(reader.is_at_end());
        Self {
            rcode: Rcode(u16::from(edns.extended) << 4 | header.flags.rcode().0),
            flags: header.flags,
            answers,
            authorities,
            additionals: written(&rest),
            message: message.to_vec(),
        }
    }

    /// The name is there, with these records.
    pub(super) fn has(&self, records: &[&str]) {
        assert_eq!(self.rcode, Rcode::NOERROR, "{self:?}");
        assert_eq!(self.answers, records);
    }

    /// The name is there, without such a record.
    pub(super) fn is_empty(&self) {
        assert_eq!(self.rcode, Rcode::NOERROR, "{self:?}");
        assert_eq!(self.answers, [""; 0]);
        assert!(self.authorities[0].contains(" SOA "), "{self:?}");
    }

    /// There is no such name.
    pub(super) fn is_missing(&self) {
        assert_eq!(self.rcode, Rcode::NXDOMAIN, "{self:?}");
        assert_eq!(self.answers, [""; 0]);
        assert!(self.authorities[0].contains(" SOA "), "{self:?}");
    }
}

/// A query with number 7.
pub(super) fn packet(text: &str, kind: Kind, class: Class, flags: u16) -> Vec<u8> {
    let question = Question {
        name: name(text),
        kind,
        class,
    };
    let mut packet = Vec::new();
    query(&mut packet, 7, Flags(flags), &question, true);
    packet
}

fn text(record: &Record<'_>, message: &[u8]) -> String {
    let mut data = Vec::new();
    record.expand(message, &mut data).unwrap();
    let mut names = Reader::new(&data);
    let data = match record.kind {
        Kind::A => IpAddr::from(<[u8; 4]>::try_from(&*data).unwrap()).to_string(),
        Kind::AAAA => IpAddr::from(<[u8; 16]>::try_from(&*data).unwrap()).to_string(),
        Kind::SRV => {
            let numbers = [(); 3].map(|()| names.short().unwrap());
            format!("{} {} {} {}", numbers[0], numbers[1], numbers[2], names.name().unwrap())
        }
        Kind::CNAME | Kind::PTR | Kind::NS => names.name().unwrap().to_string(),
        Kind::SOA => format!("{} {}", names.name().unwrap(), names.name().unwrap()),
        _ => String::from_utf8_lossy(&data[1..]).into_owned(),
    };
    format!("{} {} {} {data}", record.name, record.ttl, record.kind)
}

pub(super) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub(super) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(text: &str) -> Arc<Key> {
    let (name, namespace) = text.split_once('.').unwrap_or((text, "default"));
    Arc::new(Key {
        namespace: namespace.into(),
        name: name.into(),
    })
}
