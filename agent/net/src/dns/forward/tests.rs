use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, AtomicUsize},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    sync::Notify,
};

use super::*;
use crate::dns::{
    message::{Class, Flags, Header, Question, Reader, Section},
    upstream::ServerState,
};

const NORMAL: Wants = Wants {
    dnssec: false,
    unchecked: false,
};
/// Longer than anything takes on a machine that is not dead.
const LIMIT: Duration = Duration::from_secs(60);

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A question as a resolver outside sees it.
struct Seen {
    header: Header,
    question: Question,
    edns: bool,
    tcp: bool,
}

/// What it does about it: messages to send.
type Behaviour = dyn Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync;

/// A resolver outside.
struct Outside {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Outside {
    async fn start(behaviour: impl Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        // both kinds of ports of one number: another program may hold one of them
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let stop = CancellationToken::new();
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let counted = {
            let asked = Arc::clone(&asked);
            move |message: &[u8], tcp: bool| {
                let seen = Seen::read(message, tcp);
                // the question that would show a loop is not counted
                if seen.question.kind != Kind::HINFO {
                    asked.fetch_add(1, Ordering::SeqCst);
                }
                behaviour(&seen)
            }
        };
        let by_udp = counted.clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
                for answer in by_udp(&buffer[..length], false) {
                    udp.send_to(&answer, client).await.unwrap();
                }
            }
        }));
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let length = stream.read_u16().await.unwrap();
                let mut message = vec![0; length.into()];
                stream.read_exact(&mut message).await.unwrap();
                for answer in counted(&message, true) {
                    stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        }));
        Self { address, asked, stop }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Seen {
    fn read(message: &[u8], tcp: bool) -> Self {
        let mut reader = Reader::new(message);
        let header = reader.header().unwrap();
        let question = reader.question().unwrap();
        let edns = header.counts[3] == 1 && reader.record().unwrap().edns().is_some();
        Self {
            header,
            question,
            edns,
            tcp,
        }
    }

    fn answer(&self, rcode: Rcode, flags: u16, write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, 65_535, self.edns);
        writer.question(&self.question).unwrap();
        write(&mut writer);
        writer.finish(self.header.id, Flags::RESPONSE | flags, rcode, false);
        out
    }

    fn address(&self, last: u8, ttl: u32) -> Vec<u8> {
        self.answer(Rcode::NOERROR, 0, |writer| {
            writer
                .about_question(Section::Answer, Kind::A, ttl, &[10, 0, 0, last])
                .unwrap();
        })
    }

    fn code(&self, rcode: Rcode) -> Vec<u8> {
        self.answer(rcode, 0, |_| {})
    }
}

fn resolver(upstreams: &[&Outside]) -> Resolver {
    Resolver::new(ForwardConfig {
        upstreams: Upstreams::Configured(upstreams.iter().map(|outside| outside.address).collect()),
        own: vec![],
        cache_bytes: 1 << 20,
    })
}

async fn resolve(resolver: &Resolver, asked: &str) -> Arc<Answer> {
    timeout(LIMIT, resolver.resolve(&name(asked), Kind::A, NORMAL))
        .await
        .unwrap()
}

/// The last byte of the only address; none if there is no address.
async fn last(resolver: &Resolver, asked: &str) -> Option<u8> {
    match resolve(resolver, asked).await.addresses()[..] {
        [IpAddr::V4(address)] => Some(address.octets()[3]),
        _ => None,
    }
}

/// Answers from the cache: code, TTLs.
fn cached(resolver: &Resolver, asked: &str) -> Option<(Rcode, Vec<u32>)> {
    cached_at(resolver, asked, Instant::now())
}

fn cached_at(resolver: &Resolver, asked: &str, now: Instant) -> Option<(Rcode, Vec<u32>)> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, 512, false);
    let question = Question {
        name: name(asked),
        kind: Kind::A,
        class: Class::IN,
    };
    writer.question(&question).unwrap();
    let reply = resolver.cached_at(now, &question.name, Kind::A, NORMAL, &mut writer)?;
    writer.finish(1, 0, reply.rcode, false);
    let mut reader = Reader::new(&out);
    let count = reader.header().unwrap().counts[1];
    reader.question().unwrap();
    Some((reply.rcode, (0..count).map(|_| reader.record().unwrap().ttl).collect()))
}

async fn until(mut met: impl FnMut() -> bool) {
    timeout(LIMIT, async {
        while !met() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_name_is_asked_for_once_and_then_known() {
    let outside = Outside::start(|seen| vec![seen.address(1, 300)]).await;
    let resolver = resolver(&[&outside]);
    assert_eq!(cached(&resolver, "a.example"), None);
    assert_eq!(last(&resolver, "a.example").await, Some(1));
    let (rcode, ttls) = cached(&resolver, "A.example").unwrap();
    assert!(rcode == Rcode::NOERROR && ttls.len() == 1 && ttls[0] <= 300);
    assert_eq!(last(&resolver, "a.EXAMPLE").await, Some(1));
    assert_eq!(outside.asked(), 1);
    let stats = resolver.stats();
    assert_eq!((stats.asked, stats.failed, stats.entries), (1, 0, 1));
    assert!(stats.servers[0].round_trip.is_some());
}

#[tokio::test]
async fn many_who_ask_the_same_wait_for_one_question() {
    let go = Arc::new(AtomicBool::new(false));
    let outside = Outside::start({
        let go = Arc::clone(&go);
        move |seen| {
            if go.load(Ordering::SeqCst) {
                vec![seen.address(1, 300)]
            } else {
                vec![]
            }
        }
    })
    .await;
    let resolver = resolver(&[&outside]);
    let asking = futures::future::join_all((0..200).map(|_| last(&resolver, "a.example")));
    let (answers, ()) = tokio::join!(asking, async {
        until(|| outside.asked() > 0).await;
        go.store(true, Ordering::SeqCst);
    });
    assert_eq!(answers, vec![Some(1); 200]);
    assert_eq!(resolver.stats().asked, 1);
    assert!(outside.asked() <= ATTEMPTS);
}

#[tokio::test]
async fn numbers_ports_and_letters_of_questions_differ() {
    let seen_names: Arc<Mutex<HashSet<Vec<u8>>>> = Arc::default();
    let seen_numbers: Arc<Mutex<HashSet<u16>>> = Arc::default();
    let outside = Outside::start({
        let (names, numbers) = (Arc::clone(&seen_names), Arc::clone(&seen_numbers));
        move |seen| {
            names.lock().unwrap().insert(seen.question.name.wire().to_vec());
            numbers.lock().unwrap().insert(seen.header.id);
            vec![seen.address(1, 0)]
        }
    })
    .await;
    let resolver = resolver(&[&outside]);
    for _ in 0..32 {
        assert_eq!(last(&resolver, "abcdefghijklmnopqrstuvwxyz.example").await, Some(1));
    }
    assert_eq!(outside.asked(), 32, "a TTL of 0 is not kept");
    // of 33 random ones (one looked for a loop) hardly two are equal
    assert!(seen_names.lock().unwrap().len() > 30 && seen_numbers.lock().unwrap().len() > 30);
}

#[tokio::test]
async fn forged_answers_are_not_believed() {
    let outside = Outside::start(|seen| {
        let mut other_number = seen.address(66, 300);
        other_number[0] ^= 1;
        let mut query = seen.address(66, 300);
        query[2] &= 0x7f;
        let other_name = Question {
            name: name("b.example"),
            ..seen.question.clone()
        };
        let other_question = Seen {
            header: seen.header,
            question: other_name,
            edns: seen.edns,
            tcp: seen.tcp,
        };
        vec![
            other_number,
            query,
            other_question.address(66, 300),
            seen.address(1, 300),
        ]
    })
    .await;
    assert_eq!(last(&resolver(&[&outside]), "a.example").await, Some(1));
}

#[tokio::test]
async fn who_guesses_makes_us_ask_by_tcp() {
    let outside = Outside::start(|seen| {
        let mut other_number = seen.address(66, 300);
        other_number[0] ^= 1;
        if seen.tcp {
            vec![seen.address(2, 300)]
        } else {
            vec![other_number; 10]
        }
    })
    .await;
    assert_eq!(last(&resolver(&[&outside]), "a.example").await, Some(2));
}

#[tokio::test]
async fn an_answer_in_other_letters_is_asked_for_by_tcp_until_the_resolver_is_known_to_change_them() {
    let by_tcp = Arc::new(AtomicUsize::new(0));
    let outside = Outside::start({
        let by_tcp = Arc::clone(&by_tcp);
        move |seen| {
            by_tcp.fetch_add(usize::from(seen.tcp), Ordering::SeqCst);
            let question = Question {
                name: seen.question.name.lowered(),
                ..seen.question.clone()
            };
            vec![
                Seen {
                    question,
                    header: seen.header,
                    edns: seen.edns,
                    tcp: seen.tcp,
                }
                .address(1, 0),
            ]
        }
    })
    .await;
    let resolver = resolver(&[&outside]);
    let asked = "abcdefghijklmnopqrstuvwxyz.example";
    // the question that looks for a loop may be the first to find out
    for _ in 0..5 {
        assert_eq!(last(&resolver, asked).await, Some(1));
    }
    assert!((1..=2).contains(&by_tcp.load(Ordering::SeqCst)));
}

#[tokio::test]
async fn what_was_cut_is_asked_for_by_tcp() {
    let outside = Outside::start(|seen| {
        if !seen.tcp {
            return vec![seen.answer(Rcode::NOERROR, Flags::TRUNCATED, |_| {})];
        }
        vec![seen.answer(Rcode::NOERROR, 0, |writer| {
            for last in 0..200 {
                writer
                    .about_question(Section::Answer, Kind::A, 300, &[10, 0, 0, last])
                    .unwrap();
            }
        })]
    })
    .await;
    assert_eq!(
        resolve(&resolver(&[&outside]), "a.example").await.addresses().len(),
        200
    );
}

#[tokio::test]
async fn a_resolver_without_edns_is_asked_without_it() {
    let outside = Outside::start(|seen| {
        if seen.edns {
            vec![seen.code(Rcode::FORMERR)]
        } else {
            vec![seen.address(1, 0)]
        }
    })
    .await;
    let resolver = resolver(&[&outside]);
    assert_eq!(last(&resolver, "a.example").await, Some(1));
    let before = outside.asked();
    assert_eq!(last(&resolver, "b.example").await, Some(1));
    assert_eq!(outside.asked(), before + 1, "it is remembered");
}

#[tokio::test]
async fn the_next_resolver_is_asked_when_one_is_silent_refuses_or_answers_with_something_else() {
    for fault in 0..4 {
        let first = Outside::start(move |seen| match fault {
            0 => vec![],
            1 => vec![seen.code(Rcode::SERVFAIL)],
            2 => vec![seen.code(Rcode::REFUSED)],
            // a referral
            _ => vec![seen.answer(Rcode::NOERROR, 0, |writer| {
                let root = Name::root();
                writer
                    .record(Section::Authority, &root, Kind::NS, Class::IN, 9, name("ns").wire())
                    .unwrap();
            })],
        })
        .await;
        let second = Outside::start(|seen| vec![seen.address(2, 300)]).await;
        assert_eq!(
            last(&resolver(&[&first, &second]), "a.example").await,
            Some(2),
            "fault {fault}"
        );
        assert!(first.asked() > 0);
    }
}

#[tokio::test]
async fn a_lost_packet_is_sent_again() {
    let outside = Outside::start({
        let lost = AtomicUsize::new(0);
        move |seen| {
            let lose = seen.question.kind == Kind::A && lost.fetch_add(1, Ordering::SeqCst) < 2;
            if lose { vec![] } else { vec![seen.address(1, 300)] }
        }
    })
    .await;
    assert_eq!(last(&resolver(&[&outside]), "a.example").await, Some(1));
}

#[tokio::test]
async fn that_a_name_does_not_exist_is_kept() {
    let outside = Outside::start(|seen| {
        vec![seen.answer(Rcode::NXDOMAIN, 0, |writer| {
            let mut soa = [name("ns.example").wire(), name("root.example").wire(), &[0; 18]].concat();
            soa.extend_from_slice(&[0, 60]);
            writer
                .record(Section::Authority, &name("example"), Kind::SOA, Class::IN, 600, &soa)
                .unwrap();
        })]
    })
    .await;
    let resolver = resolver(&[&outside]);
    assert_eq!(resolve(&resolver, "nobody.example").await.rcode(), Rcode::NXDOMAIN);
    assert_eq!(cached(&resolver, "nobody.example").unwrap().0, Rcode::NXDOMAIN);
    assert_eq!(outside.asked(), 1);
}

#[tokio::test]
async fn names_on_the_lan_are_never_asked_outside() {
    let outside = Outside::start(|seen| vec![seen.address(1, 300)]).await;
    let resolver = resolver(&[&outside]);
    for asked in ["web.local", "a.b.LOCAL", "local"] {
        assert_eq!(resolve(&resolver, asked).await.rcode(), Rcode::NXDOMAIN);
    }
    assert_eq!(outside.asked(), 0);
}

#[tokio::test]
async fn without_resolvers_the_failure_is_told_at_once_and_kept_for_a_moment() {
    let resolver = resolver(&[]);
    assert_eq!(resolve(&resolver, "a.example").await.rcode(), Rcode::SERVFAIL);
    assert_eq!(cached(&resolver, "a.example").unwrap().0, Rcode::SERVFAIL);
    assert_eq!(resolver.stats().failed, 1);
}

#[tokio::test]
async fn when_the_uplink_is_gone_what_was_known_is_given_out() {
    let gone = Arc::new(AtomicBool::new(false));
    let outside = Outside::start({
        let gone = Arc::clone(&gone);
        move |seen| {
            if gone.load(Ordering::SeqCst) {
                vec![]
            } else {
                vec![seen.address(1, 1)]
            }
        }
    })
    .await;
    let resolver = resolver(&[&outside]);
    assert_eq!(last(&resolver, "a.example").await, Some(1));
    gone.store(true, Ordering::SeqCst);
    until(|| cached(&resolver, "a.example").is_none()).await;
    assert_eq!(last(&resolver, "a.example").await, Some(1));
    // from now on without waiting
    assert_eq!(cached(&resolver, "a.example"), Some((Rcode::NOERROR, vec![30])));
    assert!(resolver.stats().stale > 0);
    // what is not known fails, and in the end at once: the resolver counts as down
    for number in 0.. {
        assert_eq!(
            resolve(&resolver, &format!("b{number}.example")).await.rcode(),
            Rcode::SERVFAIL
        );
        if resolver.stats().servers[0].state == ServerState::Down {
            break;
        }
    }
    gone.store(false, Ordering::SeqCst);
    let mut number = 0;
    timeout(LIMIT, async {
        while last(&resolver, &format!("c{number}.example")).await.is_none() {
            number += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(resolver.stats().servers[0].state, ServerState::Up);
}

#[tokio::test]
async fn a_hot_name_is_asked_for_before_its_answer_ends() {
    let outside = Outside::start(|seen| vec![seen.address(1, 1000)]).await;
    let resolver = resolver(&[&outside]);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(resolver.clone().run(shutdown.clone()));
    assert_eq!(last(&resolver, "a.example").await, Some(1));
    let late = Instant::now() + Duration::from_secs(990);
    for _ in 0..5 {
        assert!(cached_at(&resolver, "a.example", late).is_some(), "nobody waits");
    }
    until(|| outside.asked() == 2).await;
    shutdown.cancel();
    running.await.unwrap();
    assert_eq!(resolver.stats().asked, 2);
}

#[tokio::test]
async fn after_the_end_nobody_is_asked() {
    let outside = Outside::start(|seen| vec![seen.address(1, 2)]).await;
    let resolver = resolver(&[&outside]);
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    resolver.clone().run(shutdown).await;
    assert_eq!(resolve(&resolver, "a.example").await.rcode(), Rcode::SERVFAIL);
    assert_eq!(outside.asked(), 0);
}

#[tokio::test]
async fn a_resolver_that_asks_us_is_found_and_left_out() {
    let (ours, theirs) = (Arc::new(Mutex::new(None::<Resolver>)), Arc::new(Notify::new()));
    let outside = Outside::start({
        let (ours, theirs) = (Arc::clone(&ours), Arc::clone(&theirs));
        move |seen| {
            // asks us, and never answers
            let resolver = ours.lock().unwrap().clone().unwrap();
            let (question, theirs) = (seen.question.clone(), Arc::clone(&theirs));
            tokio::spawn(async move {
                resolver.resolve(&question.name, question.kind, NORMAL).await;
                theirs.notify_one();
            });
            vec![]
        }
    })
    .await;
    let resolver = resolver(&[&outside]);
    *ours.lock().unwrap() = Some(resolver.clone());
    assert_eq!(resolve(&resolver, "a.example").await.rcode(), Rcode::SERVFAIL);
    until(|| resolver.stats().servers[0].state == ServerState::Loop).await;
    assert!(outside.asked() <= ATTEMPTS, "a loop does not multiply");
    timeout(LIMIT, theirs.notified()).await.unwrap();
    *ours.lock().unwrap() = None;
}

#[tokio::test]
async fn a_zone_below_ours_is_asked_of_its_own_servers() {
    let outside = Outside::start(|seen| vec![seen.address(1, 300)]).await;
    let below = Outside::start(|seen| {
        assert!(!seen.header.flags.has(Flags::RECURSION_DESIRED));
        vec![seen.address(2, 300)]
    })
    .await;
    let resolver = resolver(&[&outside]);
    let servers = vec![Arc::new(Server::new(below.address))];
    let answer = resolver
        .look_up(&name("a.team"), Kind::A, NORMAL, || Route::Below(servers))
        .await;
    assert_eq!(answer.addresses(), [IpAddr::from([10, 0, 0, 2])]);
    assert_eq!(outside.asked(), 0);
}

#[tokio::test]
async fn servers_below_without_an_address_cannot_be_asked() {
    let below = Delegation {
        addresses: vec![],
        servers: vec![name("ns.elsewhere")],
    };
    let resolver = resolver(&[]);
    let answer = timeout(LIMIT, resolver.resolve_below(&name("a.team"), Kind::A, NORMAL, &below))
        .await
        .unwrap();
    assert_eq!(answer.rcode(), Rcode::SERVFAIL);
}

#[tokio::test]
async fn questions_are_bounded() {
    let outside = Outside::start(|_| vec![]).await;
    let resolver = resolver(&[&outside]);
    let asking: Vec<_> = (0..FLIGHT_LIMIT + 50)
        .map(|number| {
            let resolver = resolver.clone();
            tokio::spawn(async move { resolve(&resolver, &format!("a{number}.example")).await.rcode() })
        })
        .collect();
    for asked in asking {
        assert_eq!(asked.await.unwrap(), Rcode::SERVFAIL);
    }
    assert!(outside.asked() <= FLIGHT_LIMIT * ATTEMPTS);
    until(|| resolver.inner.flights().is_empty()).await;
}
