use std::fmt::Write as _;

use super::*;
use crate::dns::message::{Question, Reader};

const EXAMPLE: &str = r#"
$TTL 300
@       IN SOA ns1 hostmaster 1 1h 15m 4w 60
@       NS  ns1
@       NS  ns.other.org.
ns1     A   192.0.2.1
        AAAA 2001:db8::1
www     A   192.0.2.10
        A   192.0.2.11
        A   192.0.2.12
WWW     TXT "Hello"
alias   CNAME www
chain   CNAME alias
away    CNAME www.example.org.
across  CNAME host.example.net.
dead    CNAME nowhere
loop1   CNAME loop2
loop2   CNAME loop1
mail    MX 10 ns1
        MX 20 mx.example.org.
_sip._tcp SRV 1 2 5060 ns1
a.b.c   A 192.0.2.20
*.wild  A 192.0.2.30
*.wild  MX 5 mail
here.wild TXT "x"
sub.below.wild A 192.0.2.31
*.calias CNAME www
team    NS ns.team
        NS ns.elsewhere.org.
        DS 1 13 2 AABB
ns.team A 192.0.2.40
x.y.team A 192.0.2.41
old     DNAME new
hidden.old A 192.0.2.50
a.new   A 192.0.2.51
out     DNAME example.org.
"#;

const NET: &str = "@ 60 SOA ns.x. r.x. 1 1 1 1 5\n@ 60 NS ns.x.\nhost 60 A 198.51.100.1\n";

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn zone(apex: &str, text: &str) -> Arc<Zone> {
    let (zone, notes) = keeper::read(text, &name(apex));
    Arc::new(zone.unwrap_or_else(|| panic!("{notes:?}")))
}

fn zones() -> Zones {
    Zones::new([zone("example.com", EXAMPLE), zone("example.net", NET)])
}

/// Rcode, flags, then each record as `section owner ttl type data`.
fn ask_within(zones: &Zones, asked: &str, kind: Kind, limit: usize) -> Option<String> {
    let question = Question {
        name: name(asked),
        kind,
        class: Class::IN,
    };
    let mut out = b"..".to_vec();
    let mut writer = Writer::new(&mut out, limit, false);
    writer.question(&question).unwrap();
    let reply = zones.answer(&question.name, kind, &mut writer)?;
    writer.finish(1, 0, reply.rcode, false);
    let mut text = format!("{}", reply.rcode.0);
    for (flag, word) in [(reply.authoritative, " aa"), (reply.truncated, " tc")] {
        text.push_str(if flag { word } else { "" });
    }
    if let Some(alias) = reply.alias {
        write!(text, " > {alias}").unwrap();
    }
    if let Some(delegation) = reply.delegation {
        write!(text, " @ {:?} {:?}", delegation.addresses, delegation.servers).unwrap();
    }
    let message = &out[2..];
    let mut reader = Reader::new(message);
    let header = reader.header().unwrap();
    reader.question().unwrap();
    for (section, count) in ["", "auth ", "add "].iter().zip(&header.counts[1..]) {
        for _ in 0..*count {
            let record = reader.record().unwrap();
            let mut data = Vec::new();
            record.expand(message, &mut data).unwrap();
            let data = match record.kind {
                Kind::A => data.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
                Kind::CNAME | Kind::NS | Kind::DNAME => Name::from_wire(&data).unwrap().to_string(),
                Kind::SOA => String::new(),
                _ => data.iter().map(|byte| format!("{byte:02x}")).collect(),
            };
            write!(text, "\n{section}{} {} {} {data}", record.name, record.ttl, record.kind).unwrap();
        }
    }
    assert!(reader.is_at_end());
    Some(text)
}

fn ask(asked: &str, kind: Kind) -> String {
    ask_within(&zones(), asked, kind, 1232).unwrap()
}

const NO_SUCH_NAME: &str = "3 aa\nauth example.com. 60 SOA ";
const NO_SUCH_DATA: &str = "0 aa\nauth example.com. 60 SOA ";

#[test]
fn names_in_no_zone_are_not_answered() {
    for asked in ["example.org", "com", ".", "xexample.com", "net"] {
        assert_eq!(ask_within(&zones(), asked, Kind::A, 1232), None, "{asked}");
        assert!(!zones().contains(&name(asked)));
    }
    assert!(zones().contains(&name("a.EXAMPLE.com")));
    assert_eq!(ask_within(&Zones::default(), "example.com", Kind::A, 1232), None);
}

#[test]
fn records_are_found_in_any_case_and_each_comes_first_in_turn() {
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let answer = ask("wWw.Example.COM", Kind::A);
        let mut lines: Vec<&str> = answer.lines().collect();
        assert_eq!(lines.remove(0), "0 aa");
        firsts.insert(lines[0].to_owned());
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "wWw.Example.COM. 300 A 192.0.2.10",
                "wWw.Example.COM. 300 A 192.0.2.11",
                "wWw.Example.COM. 300 A 192.0.2.12"
            ]
        );
    }
    assert_eq!(firsts.len(), 3);
    assert_eq!(
        ask("www.example.com", Kind::TXT),
        "0 aa\nwww.example.com. 300 TXT 0548656c6c6f"
    );
}

#[test]
fn what_is_not_there_is_no_data_and_who_is_not_there_is_no_name() {
    assert_eq!(ask("nowhere.example.com", Kind::A), NO_SUCH_NAME);
    assert_eq!(ask("x.www.example.com", Kind::A), NO_SUCH_NAME);
    assert_eq!(ask("www.example.com", Kind::AAAA), NO_SUCH_DATA);
    // only names below it
    assert_eq!(ask("b.c.example.com", Kind::A), NO_SUCH_DATA);
    assert_eq!(ask("c.example.com", Kind::A), NO_SUCH_DATA);
    assert_eq!(ask("x.c.example.com", Kind::A), NO_SUCH_NAME);
    // a wildcard is a name as well
    assert_eq!(ask("wild.example.com", Kind::A), NO_SUCH_DATA);
}

#[test]
fn any_is_answered_by_one_set() {
    assert_eq!(
        ask("ns1.example.com", Kind::ANY),
        "0 aa\nns1.example.com. 300 A 192.0.2.1"
    );
    assert_eq!(
        ask("alias.example.com", Kind::ANY),
        "0 aa\nalias.example.com. 300 CNAME www.example.com."
    );
}

#[test]
fn aliases_are_followed_within_the_zones() {
    let answer = ask("chain.example.com", Kind::TXT);
    assert_eq!(
        answer,
        "0 aa\nchain.example.com. 300 CNAME alias.example.com.\nalias.example.com. 300 CNAME www.example.com.\nwww.example.com. 300 TXT 0548656c6c6f"
    );
    assert_eq!(
        ask("alias.example.com", Kind::CNAME),
        "0 aa\nalias.example.com. 300 CNAME www.example.com."
    );
    assert_eq!(
        ask("across.example.com", Kind::A),
        "0 aa\nacross.example.com. 300 CNAME host.example.net.\nhost.example.net. 60 A 198.51.100.1"
    );
    assert_eq!(
        ask("across.example.com", Kind::MX),
        "0 aa\nacross.example.com. 300 CNAME host.example.net.\nauth example.net. 5 SOA "
    );
    assert_eq!(
        ask("dead.example.com", Kind::A),
        "3 aa\ndead.example.com. 300 CNAME nowhere.example.com.\nauth example.com. 60 SOA "
    );
}

#[test]
fn an_alias_out_of_the_zones_is_told() {
    assert_eq!(
        ask("away.example.com", Kind::A),
        "0 aa > www.example.org.\naway.example.com. 300 CNAME www.example.org."
    );
}

#[test]
fn a_ring_of_aliases_ends() {
    assert_eq!(ask("loop1.example.com", Kind::A).lines().count(), 1 + CHAIN_LIMIT);
}

#[test]
fn hosts_that_answers_name_come_with_their_addresses() {
    let glue = "\nadd ns1.example.com. 300 A 192.0.2.1\nadd ns1.example.com. 300 AAAA 20010db8000000000000000000000001";
    let answer = ask("mail.example.com", Kind::MX);
    assert!(answer.ends_with(glue) && answer.lines().count() == 5, "{answer}");
    let answer = ask("_sip._tcp.example.com", Kind::SRV);
    assert!(answer.ends_with(glue) && answer.lines().count() == 4, "{answer}");
    let answer = ask("example.com", Kind::NS);
    assert!(answer.ends_with(glue) && answer.lines().count() == 5, "{answer}");
}

#[test]
fn wildcards_stand_for_names_that_do_not_exist() {
    assert_eq!(
        ask("a.wild.example.com", Kind::A),
        "0 aa\na.wild.example.com. 300 A 192.0.2.30"
    );
    assert_eq!(
        ask("a.b.wild.example.com", Kind::A),
        "0 aa\na.b.wild.example.com. 300 A 192.0.2.30"
    );
    assert_eq!(
        ask("*.wild.example.com", Kind::A),
        "0 aa\n*.wild.example.com. 300 A 192.0.2.30"
    );
    assert_eq!(ask("a.wild.example.com", Kind::AAAA), NO_SUCH_DATA);
    // the name exists, if only for another type, or because of one below
    assert_eq!(ask("here.wild.example.com", Kind::A), NO_SUCH_DATA);
    assert_eq!(ask("below.wild.example.com", Kind::A), NO_SUCH_DATA);
    assert_eq!(ask("x.below.wild.example.com", Kind::A), NO_SUCH_NAME);
    assert_eq!(ask("x.here.wild.example.com", Kind::A), NO_SUCH_NAME);
    assert_eq!(
        ask("q.calias.example.com", Kind::TXT),
        "0 aa\nq.calias.example.com. 300 CNAME www.example.com.\nwww.example.com. 300 TXT 0548656c6c6f"
    );
}

#[test]
fn what_is_below_a_delegation_is_for_other_servers() {
    let referral = "0 @ [192.0.2.40] [ns.elsewhere.org.]\nauth team.example.com. 300 NS ns.team.example.com.\nauth team.example.com. 300 NS ns.elsewhere.org.\nadd ns.team.example.com. 300 A 192.0.2.40";
    for asked in [
        "team.example.com",
        "www.team.example.com",
        "x.y.team.example.com",
        "ns.team.example.com",
        "y.team.example.com",
    ] {
        assert_eq!(ask(asked, Kind::A), referral, "{asked}");
    }
    assert_eq!(ask("team.example.com", Kind::NS), referral);
    assert_eq!(
        ask("team.example.com", Kind::DS),
        "0 aa\nteam.example.com. 300 DS 00010d02aabb"
    );
}

#[test]
fn a_moved_tree_is_an_alias_for_each_name() {
    assert_eq!(
        ask("a.old.example.com", Kind::A),
        "0 aa\nold.example.com. 300 DNAME new.example.com.\na.old.example.com. 300 CNAME a.new.example.com.\na.new.example.com. 300 A 192.0.2.51"
    );
    // what the file has below is not seen
    assert!(ask("hidden.old.example.com", Kind::A).starts_with("3 aa\nold.example.com. 300 DNAME"));
    assert_eq!(ask("old.example.com", Kind::A), NO_SUCH_DATA);
    assert_eq!(
        ask("old.example.com", Kind::DNAME),
        "0 aa\nold.example.com. 300 DNAME new.example.com."
    );
    assert_eq!(
        ask("x.old.example.com", Kind::CNAME),
        "0 aa\nold.example.com. 300 DNAME new.example.com.\nx.old.example.com. 300 CNAME x.new.example.com."
    );
    assert!(ask("x.out.example.com", Kind::A).starts_with("0 aa > x.example.org.\n"));
    let long = format!(
        "{}.old.example.com",
        ["x".repeat(60).as_str(); 3].join(".") + "." + &"y".repeat(52)
    );
    assert_eq!(name(&long).wire().len(), 253);
    let zones = Zones::new([zone("example.com", &EXAMPLE.replace("DNAME new", "DNAME longer"))]);
    assert!(
        ask_within(&zones, &long, Kind::A, 1232)
            .unwrap()
            .starts_with("6 aa\nold.example.com. 300 DNAME")
    );
}

#[test]
fn what_does_not_fit_is_told() {
    let answer = ask_within(&zones(), "www.example.com", Kind::A, 12 + 21 + 2 * 16).unwrap();
    assert_eq!(answer.lines().count(), 3);
    assert!(answer.starts_with("0 aa tc\n"));
    // addresses beside the answer may be missing
    let answer = ask_within(&zones(), "mail.example.com", Kind::MX, 100).unwrap();
    assert!(answer.starts_with("0 aa\n"), "{answer}");
}

#[test]
fn the_closest_zone_answers() {
    let inner = "@ 9 SOA a b 1 1 1 1 9\n@ 9 NS a\na 9 A 203.0.113.1\n";
    let zones = Zones::new([zone("example.com", EXAMPLE), zone("www.example.com", inner)]);
    let answer = ask_within(&zones, "a.www.example.com", Kind::A, 1232).unwrap();
    assert_eq!(answer, "0 aa\na.www.example.com. 9 A 203.0.113.1");
}

#[test]
fn records_that_make_no_zone_are_told_with_their_lines() {
    let good = "$TTL 1\n@ SOA a b 1 1 1 1 1\n@ NS a\n";
    for (text, line, word) in [
        ("$TTL 1\n@ NS a\n".to_owned(), 0, "no SOA"),
        ("$TTL 1\n@ SOA a b 1 1 1 1 1\n".to_owned(), 0, "no NS"),
        (format!("{good}@ SOA a b 2 1 1 1 1\n"), 4, "line 2"),
        (format!("{good}x SOA a b 1 1 1 1 1\n"), 4, "not the top"),
        (format!("{good}x CNAME y\nx A 1.1.1.1\n"), 5, "also A (see line 4)"),
        (format!("{good}x CNAME y\nx CNAME z\n"), 5, "second CNAME"),
        (format!("{good}x DNAME y\nx DNAME z\n"), 5, "second DNAME"),
    ] {
        let (zone, notes) = keeper::read(&text, &name("example.com"));
        assert!(zone.is_none(), "{text}");
        let note = notes.iter().find(|note| note.fatal).unwrap();
        assert_eq!(note.line, line, "{text}: {}", note.reason);
        assert!(note.reason.contains(word), "{text}: {}", note.reason);
    }
    let (zone, notes) = keeper::read(
        &format!("{good}x 5 A 1.1.1.1\nx 6 A 1.1.1.2\nx 5 A 1.1.1.1\n"),
        &name("example.com"),
    );
    assert_eq!(zone.unwrap().names(), ["example.com.", "x.example.com."]);
    assert_eq!(notes.len(), 1);
    assert!(!notes[0].fatal && notes[0].line == 5);
}
