use super::*;
use crate::dns::message::{Flags, Question};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// Section, owner, TTL, type and data as text.
type Line = (Section, &'static str, u32, Kind, &'static str);

fn data(kind: Kind, text: &str) -> Vec<u8> {
    match kind {
        Kind::A => text.parse::<std::net::Ipv4Addr>().unwrap().octets().to_vec(),
        Kind::CNAME | Kind::NS => name(text).wire().to_vec(),
        Kind::SOA => {
            let mut data = [name("ns.x").wire(), name("root.x").wire(), &[0; 16]].concat();
            data.extend_from_slice(&text.parse::<u32>().unwrap().to_be_bytes());
            data
        }
        Kind::RRSIG => {
            let covered = Kind::parse(text).unwrap().0.to_be_bytes();
            [&covered[..], &[0; 16], &[0], b"signature"].concat()
        }
        _ => text.as_bytes().to_vec(),
    }
}

fn message(asked: &str, kind: Kind, rcode: Rcode, lines: &[Line]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, 65_535, true);
    writer
        .question(&Question {
            name: name(asked),
            kind,
            class: Class::IN,
        })
        .unwrap();
    for (section, owner, ttl, kind, text) in lines {
        writer
            .record(*section, &name(owner), *kind, Class::IN, *ttl, &data(*kind, text))
            .unwrap();
    }
    writer.finish(7, Flags::RESPONSE, rcode, false);
    out
}

fn cleaned(
    asked: &str,
    kind: Kind,
    rcode: Rcode,
    wants: Wants,
    lines: &[Line],
) -> Result<(Answer, Vec<String>), Unusable> {
    let now = Instant::now();
    let answer = clean(&name(asked), kind, wants, &message(asked, kind, rcode, lines), now)?;
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, 65_535, false);
    writer
        .question(&Question {
            name: name(asked),
            kind,
            class: Class::IN,
        })
        .unwrap();
    let reply = answer.write(&name(asked), now, &mut writer);
    assert!(!reply.truncated && !reply.authoritative && reply.rcode == rcode);
    writer.finish(1, 0, reply.rcode, false);
    let mut reader = Reader::new(&out);
    let header = reader.header().unwrap();
    reader.question().unwrap();
    let total: u16 = header.counts[1..].iter().sum();
    let read = (0..total).map(|_| reader.record().unwrap());
    let lines = read
        .map(|record| format!("{} {} {}", record.name, record.ttl, record.kind))
        .collect();
    assert!(reader.is_at_end());
    Ok((answer, lines))
}

const NORMAL: Wants = Wants {
    dnssec: false,
    unchecked: false,
};
const SIGNED: Wants = Wants {
    dnssec: true,
    unchecked: false,
};
use Section::{Additional, Answer as Answers, Authority};

#[test]
fn only_the_way_from_the_question_to_its_records_is_kept() {
    let (answer, lines) = cleaned(
        "www.a",
        Kind::A,
        Rcode::NOERROR,
        NORMAL,
        &[
            (Answers, "evil.b", 9, Kind::A, "6.6.6.6"),
            (Answers, "host.a", 50, Kind::A, "1.1.1.1"),
            (Answers, "WWW.a", 70, Kind::CNAME, "other.a"),
            (Answers, "www.a", 70, Kind::RRSIG, "CNAME"),
            (Answers, "other.a", 60, Kind::CNAME, "host.a"),
            (Answers, "host.a", 40, Kind::A, "1.1.1.2"),
            (Answers, "host.a", 40, Kind::TXT, "\x01x"),
            (Authority, "a", 99, Kind::NS, "ns.evil"),
            (Additional, "ns.evil", 99, Kind::A, "6.6.6.6"),
        ],
    )
    .unwrap();
    assert_eq!(
        lines,
        ["www.a. 70 CNAME", "other.a. 60 CNAME", "host.a. 40 A", "host.a. 40 A"]
    );
    assert_eq!(answer.lifetime(), 40, "as long as the shortest");
    assert_eq!(answer.addresses().len(), 2);
}

#[test]
fn who_validates_gets_signatures_and_proofs() {
    let (_, lines) = cleaned(
        "www.a",
        Kind::A,
        Rcode::NOERROR,
        SIGNED,
        &[
            (Answers, "www.a", 70, Kind::CNAME, "host.a"),
            (Answers, "www.a", 70, Kind::RRSIG, "CNAME"),
            (Answers, "host.a", 40, Kind::A, "1.1.1.2"),
            (Answers, "host.a", 40, Kind::RRSIG, "A"),
            (Answers, "host.a", 40, Kind::RRSIG, "TXT"),
        ],
    )
    .unwrap();
    assert_eq!(
        lines,
        ["www.a. 70 CNAME", "www.a. 70 RRSIG", "host.a. 40 A", "host.a. 40 RRSIG"]
    );
    let negative = [
        (Authority, "a", 70, Kind::SOA, "60"),
        (Authority, "x.a", 70, Kind::NSEC, "\0"),
        (Authority, "x.b", 70, Kind::NSEC, "\0"),
    ];
    let (_, lines) = cleaned("www.a", Kind::A, Rcode::NXDOMAIN, SIGNED, &negative).unwrap();
    assert_eq!(lines, ["a. 60 SOA", "x.a. 70 NSEC"]);
    let (_, lines) = cleaned("www.a", Kind::A, Rcode::NXDOMAIN, NORMAL, &negative).unwrap();
    assert_eq!(lines, ["a. 60 SOA"]);
}

#[test]
fn that_there_is_nothing_holds_as_long_as_its_zone_says() {
    let lifetime = |rcode, lines: &[Line]| cleaned("www.a", Kind::A, rcode, NORMAL, lines).unwrap().0.lifetime();
    assert_eq!(lifetime(Rcode::NXDOMAIN, &[(Authority, "a", 70, Kind::SOA, "60")]), 60);
    assert_eq!(lifetime(Rcode::NOERROR, &[(Authority, "a", 50, Kind::SOA, "60")]), 50);
    assert_eq!(
        lifetime(Rcode::NOERROR, &[(Authority, ".", 86_400, Kind::SOA, "86400")]),
        LONGEST_NEGATIVE
    );
    // a zone that the name is not in says nothing of it
    assert_eq!(lifetime(Rcode::NXDOMAIN, &[(Authority, "b", 70, Kind::SOA, "60")]), 0);
    assert_eq!(lifetime(Rcode::NXDOMAIN, &[]), 0);
    let chain = [
        (Answers, "www.a", 30, Kind::CNAME, "x.b"),
        (Authority, "b", 70, Kind::SOA, "60"),
    ];
    assert_eq!(lifetime(Rcode::NXDOMAIN, &chain), 30);
}

#[test]
fn very_long_times_are_cut_and_negative_ones_are_none() {
    let lifetime = |ttl| {
        let lines = [(Answers, "www.a", ttl, Kind::A, "1.1.1.1")];
        cleaned("www.a", Kind::A, Rcode::NOERROR, NORMAL, &lines)
            .unwrap()
            .0
            .lifetime()
    };
    assert_eq!(lifetime(0x7fff_ffff), LONGEST);
    assert_eq!(lifetime(0x8000_0000), 0);
}

#[test]
fn referrals_rings_and_broken_data_are_no_answers() {
    let unusable = |lines: &[Line]| cleaned("www.a", Kind::A, Rcode::NOERROR, NORMAL, lines).unwrap_err();
    assert_eq!(unusable(&[(Authority, "a", 9, Kind::NS, "ns.a")]), Unusable::Referral);
    assert_eq!(
        unusable(&[
            (Answers, "www.a", 9, Kind::CNAME, "x.a"),
            (Answers, "x.a", 9, Kind::CNAME, "www.a")
        ]),
        Unusable::Ring
    );
    let mut broken = message(
        "www.a",
        Kind::A,
        Rcode::NOERROR,
        &[(Answers, "www.a", 9, Kind::A, "1.1.1.1")],
    );
    let now = Instant::now();
    for length in 0..broken.len() - 12 {
        assert!(
            clean(&name("www.a"), Kind::A, NORMAL, &broken[..length], now).is_err(),
            "{length}"
        );
    }
    // an address of three bytes
    let at = broken.len() - 11 - 5;
    broken[at] = 3;
    assert!(clean(&name("www.a"), Kind::A, NORMAL, &broken, now).is_err());
}
