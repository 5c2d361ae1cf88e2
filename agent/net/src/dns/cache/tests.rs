use super::*;
use crate::dns::{
    message::{Class, Kind, Question, Rcode, Reader, Section, Writer},
    name::Name,
};

const NORMAL: Wants = Wants {
    dnssec: false,
    unchecked: false,
};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn answer(asked: &str, addresses: u8, ttl: u32, now: Instant) -> Arc<Answer> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, 65_535, false);
    writer
        .question(&Answer::question(&name(asked), Kind::A, NORMAL))
        .unwrap();
    for last in 1..=addresses {
        writer
            .about_question(Section::Answer, Kind::A, ttl, &[10, 0, 0, last])
            .unwrap();
    }
    writer.finish(0, 0, Rcode::NOERROR, false);
    Arc::new(Answer::new(out, Rcode::NOERROR, ttl, now).unwrap())
}

fn key(asked: &str) -> Key {
    Key::new(&name(asked), Kind::A, NORMAL)
}

/// TTL and last byte of each address.
fn written(answer: &Answer, asked: &str, now: Instant, limit: usize) -> (bool, Vec<(u32, u8)>) {
    let mut out = b"..".to_vec();
    let mut writer = Writer::new(&mut out, limit, false);
    writer
        .question(&Question {
            name: name(asked),
            kind: Kind::A,
            class: Class::IN,
        })
        .unwrap();
    let reply = answer.write(&name(asked), now, &mut writer);
    writer.finish(1, 0, reply.rcode, false);
    let mut reader = Reader::new(&out[2..]);
    let count = reader.header().unwrap().counts[1];
    assert_eq!(reader.question().unwrap().name.wire(), name(asked).wire());
    let records = (0..count).map(|_| reader.record().unwrap());
    let records = records.map(|record| {
        assert_eq!(record.name, name(asked));
        (record.ttl, record.data[3])
    });
    (reply.truncated, records.collect())
}

#[test]
fn an_answer_grows_older_and_ends() {
    let now = Instant::now();
    let cache = Cache::new(1 << 20);
    cache.put(answer("A.example", 1, 60, now), now);
    let later = now + Duration::from_millis(20_900);
    let hit = cache.get(&key("a.EXAMPLE"), later).unwrap();
    assert!(!hit.stale && !hit.refresh);
    assert_eq!(written(&hit.answer, "a.exAMPLE", later, 512), (false, vec![(40, 1)]));
    assert!(cache.get(&key("a.example"), now + Duration::from_secs(60)).is_none());
    assert!(
        cache
            .get(&Key::new(&name("a.example"), Kind::AAAA, NORMAL), now)
            .is_none()
    );
    let signed = Wants {
        dnssec: true,
        unchecked: false,
    };
    assert!(cache.get(&Key::new(&name("a.example"), Kind::A, signed), now).is_none());
    let stats = cache.stats();
    assert_eq!((stats.entries, stats.hits, stats.misses, stats.stale), (1, 1, 3, 0));
}

#[test]
fn each_of_several_addresses_comes_first_in_turn() {
    let now = Instant::now();
    let answer = answer("a", 3, 60, now);
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let (_, mut records) = written(&answer, "A", now, 512);
        firsts.insert(records[0].1);
        records.sort_unstable();
        assert_eq!(records, [(60, 1), (60, 2), (60, 3)]);
    }
    assert_eq!(firsts.len(), 3);
}

#[test]
fn what_does_not_fit_is_told_and_what_follows_an_alias_is_written_anew() {
    let now = Instant::now();
    let answer = answer("host.example", 3, 60, now);
    let (truncated, records) = written(&answer, "host.example", now, 12 + 18 + 2 * 16);
    assert!(truncated && records.len() == 2);

    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, 512, false);
    let alias = name("alias.example");
    writer
        .question(&Question {
            name: alias.clone(),
            kind: Kind::A,
            class: Class::IN,
        })
        .unwrap();
    writer
        .record(
            Section::Answer,
            &alias,
            Kind::CNAME,
            Class::IN,
            5,
            name("Host.example").wire(),
        )
        .unwrap();
    assert!(!answer.write(&name("Host.example"), now, &mut writer).truncated);
    writer.finish(1, 0, Rcode::NOERROR, false);
    let mut reader = Reader::new(&out);
    assert_eq!(reader.header().unwrap().counts, [1, 4, 0, 0]);
    reader.question().unwrap();
    let owners: Vec<String> = (0..4).map(|_| reader.record().unwrap().name.to_string()).collect();
    assert_eq!(owners[0], "alias.example.");
    assert!(
        owners[1..]
            .iter()
            .all(|owner| owner.eq_ignore_ascii_case("host.example."))
    );
}

#[test]
fn what_is_too_old_is_given_only_after_a_failure_and_is_then_asked_for_again_now_and_then() {
    let now = Instant::now();
    let cache = Cache::new(1 << 20);
    cache.put(answer("a", 1, 60, now), now);
    let later = now + Duration::from_secs(100);
    assert!(cache.get(&key("a"), later).is_none());
    assert!(cache.last(&key("a"), later).is_some());
    cache.failed(&key("a"), later);
    let hit = cache.get(&key("a"), later).unwrap();
    assert!(hit.stale && !hit.refresh);
    assert_eq!(written(&hit.answer, "a", later, 512), (false, vec![(30, 1)]));
    let due = later + RECHECK;
    assert!(cache.get(&key("a"), due).unwrap().refresh);
    assert!(!cache.get(&key("a"), due).unwrap().refresh, "said once");
    cache.failed(&key("a"), due);
    assert!(cache.get(&key("a"), due + RECHECK).unwrap().refresh);
    assert!(cache.get(&key("a"), now + STALE_LIMIT).is_none());
    assert!(cache.last(&key("a"), now + STALE_LIMIT).is_none());
    assert_eq!(cache.stats().stale, 4);
}

#[test]
fn a_failure_is_never_given_when_too_old() {
    let now = Instant::now();
    let cache = Cache::new(1 << 20);
    cache.put(
        Arc::new(Answer::empty(&name("a"), Kind::A, NORMAL, Rcode::SERVFAIL, 3, now)),
        now,
    );
    assert!(cache.get(&key("a"), now).is_some());
    let later = now + Duration::from_secs(3);
    cache.failed(&key("a"), later);
    assert!(cache.get(&key("a"), later).is_none());
}

#[test]
fn a_hot_answer_is_asked_for_before_it_ends_once() {
    let now = Instant::now();
    let cache = Cache::new(1 << 20);
    cache.put(answer("a", 1, 100, now), now);
    let late = now + Duration::from_secs(95);
    assert!(!cache.get(&key("a"), late).unwrap().refresh, "not hot yet");
    assert!(!cache.get(&key("a"), now).unwrap().refresh);
    assert!(
        !cache.get(&key("a"), now + Duration::from_secs(80)).unwrap().refresh,
        "not late yet"
    );
    assert!(cache.get(&key("a"), late).unwrap().refresh);
    assert!(!cache.get(&key("a"), late).unwrap().refresh);
    cache.forget_refresh(&key("a"));
    assert!(cache.get(&key("a"), late).unwrap().refresh);
}

#[test]
fn the_cache_is_bounded_and_a_flood_of_names_pushes_out_only_itself() {
    let now = Instant::now();
    let cache = Cache::new(64 << 10);
    let popular: Vec<String> = (0..40).map(|number| format!("popular{number}.example")).collect();
    for asked in &popular {
        cache.put(answer(asked, 1, 600, now), now);
    }
    for number in 0..5_000 {
        if number % 50 == 0 {
            for asked in &popular {
                assert!(cache.get(&key(asked), now).is_some(), "{asked} at {number}");
            }
        }
        cache.put(answer(&format!("flood{number}.example"), 1, 600, now), now);
        assert!(cache.stats().bytes <= 64 << 10);
    }
    let stats = cache.stats();
    assert!(stats.entries > 100, "{stats:?}");
    for shard in &cache.shards {
        let shard = shard.lock().unwrap();
        assert_eq!(shard.index.len(), shard.slots.len());
        let bytes: usize = shard.slots.iter().map(|slot| slot.answer.size() + OVERHEAD).sum();
        assert_eq!(shard.stats.bytes, bytes);
    }
    cache.put(answer("large.example", 255, 600, now), now);
    assert!(
        cache.get(&key("large.example"), now).is_none(),
        "larger than is worth it"
    );
}
