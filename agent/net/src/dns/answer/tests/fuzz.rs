//! Hostile input: queries and answers that are changed at random, always in the same way. None may panic, and whatever is
//! answered must be well formed.

use super::{
    super::{Answerer, Outcome, Outside},
    world::{POD, World, address, packet},
};
use crate::dns::{
    answer::Look,
    draft::Draft,
    message::{Class, Flags, HEADER, Kind, Question, Rcode, Reader, Section, Writer},
    query::{Received, read},
    server::refuse,
};

/// Enough to try each kind of change on each part of the corpus many times.
const ROUNDS: usize = 150_000;

/// xorshift64* (Vigna, 2016): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next() % limit.max(1)
    }

    /// Changes some bytes of the question, mostly so that it is still one.
    fn perturb(&mut self, message: &mut [u8]) {
        const LIKELY: &[u8] = b"abAB-_.019*\x00\x01\x03\x21\xff";
        for _ in 0..=self.below(3) {
            let at = HEADER + self.below(message.len() - HEADER - 11);
            message[at] = LIKELY[self.below(LIKELY.len())];
        }
    }

    /// Changes a message in one to four ways.
    fn mutate(&mut self, message: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        for _ in 0..=self.below(4) {
            let at = self.below(message.len());
            match self.below(9) {
                0 => message.truncate(at),
                1 => message.insert(at, self.next() as u8),
                2 if !message.is_empty() => drop(message.remove(at)),
                3 if !message.is_empty() => message[at] ^= 1 << self.below(8),
                4 if !message.is_empty() => message[at] = [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xff][self.below(8)],
                // a compression pointer to anywhere
                5 if message.len() > at + 1 => {
                    message[at] = 0xc0 | self.below(2) as u8;
                    message[at + 1] = self.below(message.len()) as u8;
                }
                // a count or a length
                6 if message.len() > at + 1 => message[at..at + 2].copy_from_slice(&(self.next() as u16).to_be_bytes()),
                // the end of another message
                7 => {
                    let other = &corpus[self.below(corpus.len())];
                    message.truncate(at);
                    message.extend_from_slice(&other[self.below(other.len())..]);
                }
                _ => message.extend((0..self.below(40)).map(|n| n as u8)),
            }
        }
    }
}

/// Knows every name outside, and answers with all there is.
struct Everything;

impl Outside for Everything {
    fn look(&self, question: &Question, draft: &mut Draft<'_>) -> Look {
        draft.answer(&question.name, Kind::A, 60, &[192, 0, 2, 1]);
        draft.answer(&question.name, Kind::CNAME, 60, question.name.wire());
        Look::Written(Rcode::NOERROR)
    }
}

fn queries() -> Vec<Vec<u8>> {
    let names = [
        "web.default.svc.cluster.local",
        "_http._tcp.web.default.svc.cluster.local",
        "db-0.db.default.svc.cluster.local",
        "web.default.team.svc.cluster.local",
        "100-64-1-5.team.pod.cluster.local",
        "dns-version.cluster.local",
        "7.0.65.100.in-addr.arpa",
        "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.6.d.f.ip6.arpa",
        "printer.local",
        "www.example.com",
        "version.bind",
        ".",
    ];
    let kinds = [
        Kind::A,
        Kind::AAAA,
        Kind::SRV,
        Kind::PTR,
        Kind::TXT,
        Kind::ANY,
        Kind::SOA,
        Kind(65_280),
    ];
    names
        .iter()
        .flat_map(|name| kinds.map(|kind| packet(name, kind, Class::IN, Flags::RECURSION_DESIRED)))
        .chain([packet("version.bind", Kind::TXT, Class::CHAOS, 0)])
        .collect()
}

fn world() -> World {
    let slice = r#"{"metadata":{"labels":{"kubernetes.io/service-name":"db"}},"ports":[{"name":"sql","port":3306}],
        "endpoints":[{"addresses":["100.64.1.8"],"hostname":"db-0"},{"addresses":["fd64::8"]}]}"#;
    World::new(
        &[
            (
                "web",
                r#"{"spec":{"clusterIPs":["100.65.0.7","fd65::7"],"ports":[{"name":"http","port":80}]}}"#,
            ),
            ("db", r#"{"spec":{"clusterIP":"None"}}"#),
            (
                "out",
                r#"{"spec":{"type":"ExternalName","externalName":"example.com"}}"#,
            ),
        ],
        &[("db-1", slice)],
    )
}

/// Reads all of a message; whether it is well formed.
fn is_sound(message: &[u8]) -> bool {
    let mut reader = Reader::new(message);
    let Ok(header) = reader.header() else { return false };
    let [questions, records @ ..] = header.counts;
    let mut scratch = Vec::new();
    (0..questions).all(|_| reader.question().is_ok())
        && (0..records.iter().sum()).all(|_| {
            scratch.clear();
            reader
                .record()
                .is_ok_and(|record| record.expand(message, &mut scratch).is_ok())
        })
        && reader.is_at_end()
}

#[test]
fn queries_changed_at_random_are_answered_soundly_or_not_at_all() {
    let world = world();
    let corpus = queries();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut out = Vec::new();
    let (mut answered, mut refused, mut ignored) = (0, 0, 0);
    for round in 0..ROUNDS {
        let mut message = corpus[random.below(corpus.len())].clone();
        match round % 2 {
            0 => random.mutate(&mut message, &corpus),
            _ => random.perturb(&mut message),
        }
        out.clear();
        match read(&message) {
            Received::Nothing => {
                ignored += 1;
                continue;
            }
            Received::Refused(refusal) => {
                refused += 1;
                refuse(&refusal, &mut out);
            }
            Received::Query(query) => {
                answered += 1;
                let answerer = Answerer {
                    tables: &world.tables,
                    settings: &world.settings,
                    outside: &Everything,
                };
                let limit = query.udp_limit();
                let outcome = answerer.answer(&query, address(POD), limit, round, &mut out);
                assert!(matches!(outcome, Outcome::Answered), "{message:?}");
                assert!(out.len() <= limit, "{message:?}");
            }
        }
        assert!(is_sound(&out), "{message:?} was answered with {out:?}");
        assert_eq!(out[..2], message[..2], "the number of the query is repeated");
        assert!(out[2] & 0x80 != 0);
    }
    // the changes are of use only if all three happen often
    let enough = answered > ROUNDS / 10 && refused > ROUNDS / 10 && ignored > ROUNDS / 100;
    assert!(enough, "{answered} answered, {refused} refused, {ignored} ignored");
}

#[test]
fn answers_changed_at_random_are_read_soundly_or_not_at_all() {
    let mut corpus = Vec::new();
    let name = super::world::name;
    let data: [(Kind, Vec<u8>); 6] = [
        (Kind::A, vec![192, 0, 2, 1]),
        (Kind::MX, [&[0, 10], name("mail.example.com").wire()].concat()),
        (
            Kind::SOA,
            [name("ns.example.com").wire(), name("a.example.com").wire(), &[0; 20]].concat(),
        ),
        (Kind::SRV, [&[0; 6], name("host.example.com").wire()].concat()),
        (Kind::TXT, b"\x03abc\x00\x02de".to_vec()),
        (
            Kind::NAPTR,
            [&b"\0\x01\0\x02\x01u\x03sip\x00"[..], name("sip.example.com").wire()].concat(),
        ),
    ];
    for (kind, data) in data {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, 1232, true);
        let question = Question {
            name: name("www.example.com"),
            kind,
            class: Class::IN,
        };
        writer.question(&question).unwrap();
        for owner in ["www.example.com", "example.com"] {
            writer
                .record(Section::Answer, &name(owner), kind, Class::IN, 60, &data)
                .unwrap();
        }
        writer.finish(7, Flags::RESPONSE, Rcode::NOERROR, false);
        corpus.push(out);
    }
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (mut sound, mut out, mut scratch) = (0, Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut message = corpus[random.below(corpus.len())].clone();
        random.mutate(&mut message, &corpus);
        // what can be read can be written again, and is then sound
        out.clear();
        let mut writer = Writer::new(&mut out, usize::from(u16::MAX), false);
        let mut reader = Reader::at(&message, HEADER);
        if let Ok(question) = reader.question() {
            writer.question(&question).unwrap();
        }
        while let Ok(record) = reader.record() {
            if writer
                .copy(Section::Answer, &record, &message, record.ttl, &mut scratch)
                .is_ok()
            {
                sound += 1;
            }
        }
        writer.finish(7, Flags::RESPONSE, Rcode::NOERROR, false);
        assert!(is_sound(&out), "{message:?} was written as {out:?}");
    }
    assert!(sound > ROUNDS / 2);
}
