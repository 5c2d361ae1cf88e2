//! Reading queries: what is asked, and which messages are no queries that can be answered.

use super::{
    message::{Class, Edns, Flags, Header, Kind, Malformed, Question, Rcode, Reader, SMALLEST, UDP_SIZE},
    name::Name,
};

/// A query that can be answered.
#[derive(Clone, Debug)]
pub(super) struct Query {
    /// To be repeated in the answer.
    pub(super) id: u16,
    /// To be repeated in part.
    pub(super) flags: Flags,
    /// The question as asked.
    pub(super) question: Question,
    /// Its name in small letters.
    pub(super) name: Name,
    /// What the client says of itself.
    pub(super) edns: Option<Edns>,
}

/// What came in.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it stays on the stack of one worker; a box would be an allocation for each query"
)]
pub(super) enum Received {
    /// A query.
    Query(Query),
    /// A query that is refused.
    Refused(Refusal),
    /// Nothing that may be answered: an answer (answering those makes loops), or no header.
    Nothing,
}

/// Why a query is not answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) id: u16,
    pub(super) flags: Flags,
    pub(super) rcode: Rcode,
    /// If it could be read.
    pub(super) question: Option<Question>,
    /// The client speaks EDNS.
    pub(super) edns: bool,
}

/// Bits of a query that its answer repeats: operation, recursion desired, checking disabled.
const REPEATED: u16 = 0x7800 | Flags::RECURSION_DESIRED | Flags::CHECKING_DISABLED;

impl Query {
    /// Most bytes of the answer by UDP.
    pub(super) fn udp_limit(&self) -> usize {
        self.edns
            .map_or(SMALLEST, |edns| usize::from(edns.size).clamp(SMALLEST, UDP_SIZE))
    }

    /// Whether the client wants DNSSEC records.
    pub(super) fn dnssec(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec)
    }

    /// Whether others may be asked.
    pub(super) const fn recursive(&self) -> bool {
        self.flags.has(Flags::RECURSION_DESIRED)
    }

    /// Flags of the answer, but for what is to be found out.
    pub(super) const fn answer_flags(&self) -> u16 {
        answer_flags(self.flags)
    }
}

/// Flags of the answer to a query with these flags.
pub(super) const fn answer_flags(flags: Flags) -> u16 {
    Flags::RESPONSE | Flags::RECURSION_AVAILABLE | flags.0 & REPEATED
}

/// Reads a message.
pub(super) fn read(message: &[u8]) -> Received {
    let mut reader = Reader::new(message);
    let Ok(header) = reader.header() else {
        return Received::Nothing;
    };
    if header.flags.has(Flags::RESPONSE) {
        return Received::Nothing;
    }
    let refusal = |rcode, question, edns| {
        Received::Refused(Refusal {
            id: header.id,
            flags: header.flags,
            rcode,
            question,
            edns,
        })
    };
    if header.flags.opcode() != 0 {
        return refusal(Rcode::NOTIMP, None, false);
    }
    let Ok((question, edns)) = body(&mut reader, &header) else {
        return refusal(Rcode::FORMERR, None, false);
    };
    if edns.is_some_and(|edns| edns.version > 0) {
        return refusal(Rcode::BADVERS, Some(question), true);
    }
    if let Some(rcode) = refused(&question) {
        return refusal(rcode, Some(question), edns.is_some());
    }
    Received::Query(Query {
        id: header.id,
        flags: header.flags,
        name: question.name.lowered(),
        question,
        edns,
    })
}

/// Questions that are not answered whatever the name.
fn refused(question: &Question) -> Option<Rcode> {
    match (question.class, question.kind) {
        (_, Kind(0) | Kind::OPT) => Some(Rcode::FORMERR),
        (Class::CHAOS, _) => None,
        (Class::IN, Kind::AXFR | Kind::IXFR) => Some(Rcode::REFUSED),
        (Class::IN, kind) if kind.is_meta() && kind != Kind::ANY => Some(Rcode::NOTIMP),
        (Class::IN, _) => None,
        _ => Some(Rcode::REFUSED),
    }
}

fn body(reader: &mut Reader<'_>, header: &Header) -> Result<(Question, Option<Edns>), Malformed> {
    let [questions, answers, authorities, additionals] = header.counts;
    if questions != 1 {
        return Err(Malformed);
    }
    let question = reader.question()?;
    for _ in 0..usize::from(answers) + usize::from(authorities) {
        reader.record()?;
    }
    let mut edns = None;
    for _ in 0..additionals {
        let record = reader.record()?;
        if record.kind == Kind::OPT {
            // exactly one, and of the root (RFC 6891 section 6.1.1)
            let found = record.edns().ok_or(Malformed)?;
            if edns.replace(found).is_some() {
                return Err(Malformed);
            }
        }
    }
    if reader.is_at_end() {
        Ok((question, edns))
    } else {
        Err(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::message::{HEADER, query},
        *,
    };

    fn bytes(kind: Kind, class: Class, edns: bool) -> Vec<u8> {
        let question = Question {
            name: Name::parse("Web.example").unwrap(),
            kind,
            class,
        };
        let mut out = Vec::new();
        query(&mut out, 7, Flags(Flags::RECURSION_DESIRED), &question, edns);
        out
    }

    fn rcode(message: &[u8]) -> Option<Rcode> {
        match read(message) {
            Received::Query(_) => None,
            Received::Refused(refusal) => Some(refusal.rcode),
            Received::Nothing => panic!("nothing"),
        }
    }

    #[test]
    fn a_query_is_read() {
        let Received::Query(query) = read(&bytes(Kind::A, Class::IN, true)) else {
            panic!("no query");
        };
        assert_eq!(query.question.name.wire(), b"\x03Web\x07example\0");
        assert_eq!(query.name.wire(), b"\x03web\x07example\0");
        assert_eq!((query.id, query.udp_limit()), (7, UDP_SIZE));
        assert!(query.recursive());
        let Received::Query(query) = read(&bytes(Kind::A, Class::IN, false)) else {
            panic!("no query");
        };
        assert_eq!(query.udp_limit(), SMALLEST);
    }

    #[test]
    fn what_is_not_served_is_refused_with_the_right_code() {
        assert_eq!(rcode(&bytes(Kind::AXFR, Class::IN, false)), Some(Rcode::REFUSED));
        assert_eq!(rcode(&bytes(Kind::IXFR, Class::IN, false)), Some(Rcode::REFUSED));
        assert_eq!(rcode(&bytes(Kind(254), Class::IN, false)), Some(Rcode::NOTIMP));
        assert_eq!(rcode(&bytes(Kind::OPT, Class::IN, false)), Some(Rcode::FORMERR));
        assert_eq!(rcode(&bytes(Kind::ANY, Class::IN, false)), None);
        assert_eq!(rcode(&bytes(Kind::A, Class(255), false)), Some(Rcode::REFUSED));
        assert_eq!(rcode(&bytes(Kind::TXT, Class::CHAOS, false)), None);
        let mut status = bytes(Kind::A, Class::IN, false);
        status[2] |= 2 << 3;
        assert_eq!(rcode(&status), Some(Rcode::NOTIMP));
        let mut version = bytes(Kind::A, Class::IN, true);
        let at = version.len() - 5;
        version[at] = 1;
        assert_eq!(rcode(&version), Some(Rcode::BADVERS));
    }

    #[test]
    fn malformed_queries_are_told_so_and_answers_are_not_answered() {
        let good = bytes(Kind::A, Class::IN, true);
        for cut in HEADER..good.len() {
            assert_eq!(rcode(&good[..cut]), Some(Rcode::FORMERR), "{cut} bytes");
        }
        for cut in 0..HEADER {
            assert!(matches!(read(&good[..cut]), Received::Nothing));
        }
        let mut more = good.clone();
        more.push(0);
        assert_eq!(rcode(&more), Some(Rcode::FORMERR));
        for count in [0, 2] {
            let mut questions = good.clone();
            questions[5] = count;
            assert_eq!(rcode(&questions), Some(Rcode::FORMERR));
        }
        let mut twice = good.clone();
        twice.extend_from_slice(&good[good.len() - 11..]);
        twice[11] = 2;
        assert_eq!(rcode(&twice), Some(Rcode::FORMERR));
        let mut answer = good;
        answer[2] |= 0x80;
        assert!(matches!(read(&answer), Received::Nothing));
    }
}
