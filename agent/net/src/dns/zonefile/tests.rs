use super::*;

fn zone() -> Name {
    Name::parse("example.com").unwrap()
}

/// Owner, TTL, type and data in hexadecimal of each record.
fn records(text: &str) -> Vec<String> {
    let parsed = parse(text, &zone());
    let faults: Vec<_> = parsed.notes.iter().filter(|note| note.fatal).collect();
    assert!(faults.is_empty(), "{faults:?}");
    parsed.records.iter().map(show).collect()
}

fn show(record: &Record) -> String {
    let data: String = record.data.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{} {} {} {data}",
        Name::from_wire(&record.owner).unwrap(),
        record.ttl,
        record.kind
    )
}

/// Line and reason of the first fault.
fn fault(text: &str) -> (u32, String) {
    let parsed = parse(text, &zone());
    let note = parsed
        .notes
        .into_iter()
        .find(|note| note.fatal)
        .unwrap_or_else(|| panic!("no fault in {text:?}"));
    (note.line, note.reason)
}

#[test]
fn owners_classes_and_ttls_come_in_any_order_or_from_before() {
    assert_eq!(
        records(
            "$TTL 1h\n@ IN 30 A 1.2.3.4\n  A 1.2.3.5\nwww 1m IN A 1.2.3.6\n\tIN 2m A 1.2.3.7\nin.a A 1.2.3.8\n$ORIGIN sub\n$TTL 5\nx class1 A 1.2.3.9\nexample.com. A 1.1.1.1\n"
        ),
        [
            "example.com. 30 A 01020304",
            "example.com. 3600 A 01020305",
            "www.example.com. 60 A 01020306",
            "www.example.com. 120 A 01020307",
            "in.a.example.com. 3600 A 01020308",
            "x.sub.example.com. 5 A 01020309",
            "example.com. 5 A 01010101",
        ]
    );
}

#[test]
fn without_a_default_the_last_ttl_counts_and_then_the_minimum_of_the_zone() {
    let text = "@ SOA ns root 1 1h 2h 3h 300\na A 1.1.1.1\nb 5 A 1.1.1.2\nc A 1.1.1.3\n";
    let want = [
        "a.example.com. 300 A 01010101",
        "b.example.com. 5 A 01010102",
        "c.example.com. 300 A 01010103",
    ];
    assert_eq!(records(text)[1..], want);
    assert_eq!(
        records("a 7 A 1.1.1.1\nb A 1.1.1.2\n")[1],
        "b.example.com. 7 A 01010102"
    );
    assert_eq!(fault("a A 1.1.1.1\n").0, 1);
}

#[test]
fn a_start_of_authority_takes_parentheses_comments_and_units() {
    let text = "@ 1 IN SOA ns.other. Root.example.com. (\n 2024010101 ; serial\n 1h 15m\n 4w\n 1d )\n";
    let name = "026e73056f7468657200".to_owned() + "04526f6f74076578616d706c6503636f6d00";
    let want = format!("example.com. 1 SOA {name}78a3f17500000e10000003840024ea0000015180");
    assert_eq!(records(text), [want]);
}

#[test]
fn each_type_is_read() {
    for (text, data) in [
        ("AAAA 2001:db8::1", "20010db8000000000000000000000001"),
        ("NS ns.a.", "026e73016100"),
        ("CNAME @", "076578616d706c6503636f6d00"),
        ("PTR .", "00"),
        ("MX 10 m.", "000a016d00"),
        ("TXT \"a b\" c \"\\\"\\065;\"", "036120620163 03 22413b"),
        ("TXT \"\"", "00"),
        ("HINFO PC \"a b\"", "025043 03612062"),
        ("SRV 1 2 53 s.", "0001 0002 0035 017300"),
        ("DNAME d.", "016400"),
        (
            "CAA 0 issue \"ca.example; a=b\"",
            "00 056973737565 63612e6578616d706c653b20613d62",
        ),
        (
            "NAPTR 100 10 \"u\" \"sip+E2U\" \"!^.*$!sip:a@b!\" .",
            "0064 000a 0175 077369702b453255 0e215e2e2a24217369703a61406221 00",
        ),
        ("SSHFP 1 2 01 02ff", "0102 0102ff"),
        ("TLSA 3 1 1 ( aabb\n cc )", "030101 aabbcc"),
        ("DS 60485 RSASHA1 1 2BB1", "ec45 05 01 2bb1"),
        ("DNSKEY 256 3 5 AQ PA", "0100 03 05 0103c0"),
        ("URI 10 1 \"ftp://a/b\"", "000a 0001 6674703a2f2f612f62"),
        ("EUI48 00-11-22-33-44-fF", "0011223344ff"),
        ("RP a. b.", "016100 016200"),
        ("TYPE65534 \\# 4 0a 00 00 01", "0a000001"),
        ("TYPE1 \\# 4 0a000001", "0a000001"),
        ("A \\# 4 0a000001", "0a000001"),
        ("TYPE731 \\# 0", ""),
        (
            "HTTPS 1 . alpn=h2,h3 port=8443",
            "0001 00 0001 0006 02683202 6833 0003 0002 20fb",
        ),
        (
            "HTTPS 1 . ipv4hint=\"1.2.3.4\" alpn=\"h2\" mandatory=alpn",
            "0001 00 0000 0002 0001 0001 0003 026832 0004 0004 01020304",
        ),
        ("SVCB 0 x.", "0000 017800"),
    ] {
        let read = parse(&format!("a 1 {text}\n"), &zone());
        assert!(read.notes.is_empty(), "{text}: {:?}", read.notes);
        let got: String = read.records[0].data.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(got, data.replace(' ', ""), "{text}");
    }
}

#[test]
fn a_fault_has_its_line_and_reason() {
    for (text, line, word) in [
        ("$TTL 1\na A 1.2.3\n", 2, "IPv4"),
        ("$TTL 1\n\na AAAA ::g\n", 3, "IPv6"),
        ("$TTL 1\na (\n A\n 1.2.3.4 5 )\n", 2, "more than"),
        ("$TTL 1\na MX mail\n", 2, "65535"),
        ("$TTL 1\na MX 10\n", 2, "missing"),
        ("$TTL 1\na FOO bar\n", 2, "FOO"),
        ("$TTL 1\na\n", 2, "type"),
        ("$TTL 1\na CH TXT x\n", 2, "class CH"),
        ("$TTL x\n", 1, "span of time"),
        ("$TTL\n", 1, "needs"),
        ("$ORIGIN a b\n", 1, "more"),
        ("$INCLUDE x\n", 1, "$INCLUDE"),
        ("$FOO x\n", 1, "$FOO"),
        ("  A 1.1.1.1\n", 1, "owner"),
        ("$TTL 1\na..b A 1.1.1.1\n A 1.1.1.2\n", 2, "empty"),
        ("$TTL 1\na TXT \"x\n", 2, "quotation"),
        ("$TTL 1\na TYPE7777 x\n", 2, "LENGTH"),
        ("$TTL 1\na A \\# 3 010203\n", 2, "no data"),
        ("$TTL 1\na A \\# 4 010203\n", 2, "announced"),
        ("$TTL 1\na TYPE255 \\# 0\n", 2, "TYPE255"),
        ("$TTL 1\na SSHFP 1 1 abc\n", 2, "hexadecimal"),
        ("$TTL 1\na CAA 0 is-sue x\n", 2, "tag"),
        ("$TTL 1\na HTTPS 1 . mandatory=port\n", 2, "mandatory"),
        ("$GENERATE 5-1 a$ A 1.1.1.1\n", 1, "range"),
        ("$TTL 1\n$GENERATE 1-300 a$ A 1.1.1.$\n", 2, "1.1.1.256"),
        ("$TTL 1\n$GENERATE 0-4294967295 a$ A 1.1.1.1\n", 2, "65536"),
    ] {
        let (at, reason) = fault(text);
        assert_eq!(at, line, "{text:?}: {reason}");
        assert!(reason.contains(word), "{text:?}: {reason}");
    }
}

#[test]
fn lines_below_a_faulty_owner_are_not_faults_of_their_own() {
    let parsed = parse("$TTL 1\na..b A 1.1.1.1\n A 1.1.1.2\nc A 1.1.1.3\n", &zone());
    assert_eq!(parsed.notes.len(), 1);
    assert_eq!(parsed.records.len(), 1);
}

#[test]
fn all_faults_are_told_up_to_a_number() {
    let text = "a A x\n".repeat(1000);
    assert_eq!(parse(&text, &zone()).notes.len(), FAULT_LIMIT + 1);
}

#[test]
fn names_outside_of_the_zone_are_left_out_and_told() {
    let parsed = parse("$TTL 1\nother.org. A 1.1.1.1\nEXAMPLE.com. A 1.1.1.2\n", &zone());
    assert_eq!(parsed.records.len(), 1);
    assert_eq!((parsed.notes[0].line, parsed.notes[0].fatal), (2, false));
}

#[test]
fn records_of_a_signed_zone_are_left_out_and_told_once() {
    let parsed = parse(
        "$TTL 1\na A 1.1.1.1\na RRSIG A 5 2 1 2 3 4 example.com. AAAA\na NSEC b A RRSIG\n",
        &zone(),
    );
    assert_eq!((parsed.records.len(), parsed.notes.len()), (1, 1));
}

#[test]
fn generate_counts_as_bind_does() {
    assert_eq!(
        records("$TTL 1\n$GENERATE 291-291 ${0,3,N}.x A 1.1.1.1\n$GENERATE 10-10 ${0,4,n}x A 1.1.1.1\n"),
        ["3.2.1.x.example.com. 1 A 01010101", "a.0.x.example.com. 1 A 01010101"]
    );
    assert_eq!(
        records("$TTL 1\n$GENERATE 1-3/2 host-$ A 10.0.0.$\n"),
        ["host-1.example.com. 1 A 0a000001", "host-3.example.com. 1 A 0a000003"]
    );
    assert_eq!(
        records("$TTL 1\n$GENERATE 10-10 ${1,4,d}.${0,3,x}.${-2,0,o}.${0,0,X} 5 IN CNAME ${0,5,n}.$$x\n"),
        ["0011.00a.10.a.example.com. 5 CNAME 016101300130022478076578616d706c6503636f6d00"]
    );
    assert_eq!(
        records("$TTL 1\n$GENERATE 1-1 @ MX \"$0 m$\"\n"),
        ["example.com. 1 MX 000a026d31076578616d706c6503636f6d00"]
    );
}
