use super::{writer::query, *};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn question(text: &str, kind: Kind) -> Question {
    Question {
        name: name(text),
        kind,
        class: Class::IN,
    }
}

#[test]
fn what_is_written_is_read_again() {
    let asked = question("Web.Example", Kind::MX);
    let mut out = b"before".to_vec();
    let mut writer = Writer::new(&mut out, 512, true);
    writer.question(&asked).unwrap();
    let mut data = vec![0, 10];
    data.extend_from_slice(name("mail.Web.Example").wire());
    writer
        .record(Section::Answer, &asked.name, Kind::MX, Class::IN, 60, &data)
        .unwrap();
    writer
        .about_question(Section::Additional, Kind::A, 5, &[1, 2, 3, 4])
        .unwrap();
    writer.finish(7, Flags::RESPONSE, Rcode::BADVERS, true);
    let message = &out[6..];

    let mut reader = Reader::new(message);
    let header = reader.header().unwrap();
    assert_eq!((header.id, header.counts), (7, [1, 1, 0, 2]));
    assert!(header.flags.has(Flags::RESPONSE));
    let read = reader.question().unwrap();
    assert_eq!(read.name.wire(), asked.name.wire(), "case is kept");
    let record = reader.record().unwrap();
    assert_eq!(
        (record.kind, record.ttl, record.name.clone()),
        (Kind::MX, 60, asked.name)
    );
    assert_eq!(record.data.len(), 2 + 5 + 2, "the rest of the name is a pointer");
    let mut expanded = Vec::new();
    record.expand(message, &mut expanded).unwrap();
    assert_eq!(expanded, data);
    assert_eq!(reader.record().unwrap().data, [1, 2, 3, 4]);
    let edns = reader.record().unwrap().edns().unwrap();
    assert!(edns.dnssec && edns.extended == 1 && edns.version == 0);
    assert!(reader.is_at_end());
}

#[test]
fn what_does_not_fit_leaves_no_trace() {
    let asked = question("a.example", Kind::TXT);
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, 64, false);
    writer.question(&asked).unwrap();
    let before = writer.message().to_vec();
    assert_eq!(
        writer.record(Section::Answer, &name("other"), Kind::TXT, Class::IN, 1, &[b'x'; 60]),
        Err(Full)
    );
    assert_eq!(
        writer.about_question(Section::Answer, Kind::TXT, 1, &[b'x'; 60]),
        Err(Full)
    );
    assert_eq!(writer.message(), before);
    assert_eq!(writer.count(Section::Answer), 0);
    writer
        .record(Section::Answer, &name("other"), Kind::A, Class::IN, 1, &[1; 4])
        .unwrap();
}

#[test]
fn pointers_that_do_not_lead_back_are_malformed() {
    let mut message = [0_u8; 12].to_vec();
    for bad in [
        &[0xc0, 12][..],       // to itself
        &[0xc0, 14, 0xc0, 12], // forward
        &[1, b'a', 0xc0, 12],  // to the run it ends
        &[0xc0],               // cut
        &[0x40, 0],
        &[0x80, 0], // reserved kinds of labels
        &[5, b'a'], // a label that is cut
    ] {
        message.truncate(12);
        message.extend_from_slice(bad);
        assert!(Reader::at(&message, 12).name().is_err(), "{bad:?}");
    }
    // back and back again is fine
    message.truncate(12);
    message.extend_from_slice(&[1, b'a', 0, 1, b'b', 0xc0, 12, 0xc0, 15]);
    let mut reader = Reader::at(&message, 19);
    assert_eq!(reader.name().unwrap(), name("b.a"));
    assert_eq!(reader.position(), 21);
}

#[test]
fn a_name_that_grows_beyond_255_bytes_by_pointers_is_malformed() {
    let mut message = vec![0_u8; 12];
    let mut previous = message.len();
    message.extend_from_slice(&[63]);
    message.extend_from_slice(&[b'a'; 63]);
    message.push(0);
    for _ in 0..4 {
        let at = message.len();
        message.push(63);
        message.extend_from_slice(&[b'a'; 63]);
        message.extend_from_slice(&(0xc000 | previous as u16).to_be_bytes());
        previous = at;
    }
    assert!(Reader::at(&message, previous).name().is_err());
}

#[test]
fn data_must_be_what_the_type_says() {
    for (kind, data) in [
        (Kind::A, &[1, 2, 3][..]),
        (Kind::AAAA, &[0; 15]),
        (Kind::CNAME, &[1, b'a', 0, 0]),
        (Kind::SOA, &[0, 0, 1, 2]),
        (Kind::TXT, &[]),
        (Kind::TXT, &[5, b'a']),
        (Kind::SRV, &[0; 6]),
    ] {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, 512, false);
        writer.question(&question("a", kind)).unwrap();
        writer.about_question(Section::Answer, kind, 1, data).unwrap();
        writer.finish(1, 0, Rcode::NOERROR, false);
        let mut reader = Reader::at(&out, HEADER);
        reader.question().unwrap();
        let record = reader.record().unwrap();
        assert!(record.expand(&out, &mut Vec::new()).is_err(), "{kind} {data:?}");
    }
}

#[test]
fn types_have_their_names() {
    assert_eq!(Kind(65280).to_string(), "TYPE65280");
    assert_eq!(Kind::SRV.to_string(), "SRV");
    assert!(Kind::AXFR.is_meta() && Kind::ANY.is_meta() && !Kind::CAA.is_meta());
}

#[test]
fn a_query_is_a_header_a_question_and_what_we_take() {
    let mut out = Vec::new();
    query(
        &mut out,
        9,
        Flags(Flags::RECURSION_DESIRED),
        &question("a.b", Kind::A),
        true,
    );
    let mut reader = Reader::new(&out);
    assert_eq!(reader.header().unwrap().counts, [1, 0, 0, 1]);
    assert_eq!(reader.question().unwrap(), question("A.B", Kind::A));
    assert_eq!(usize::from(reader.record().unwrap().edns().unwrap().size), UDP_SIZE);
}
