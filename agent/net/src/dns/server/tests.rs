//! A whole server, asked through sockets.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    dns::{
        Config, Dns, Error, Handle, Limits, Rate, SearchPaths, Upstreams, ZoneFile, ZoneFiles,
        message::{Class, Flags, Kind, Question, Rcode, Reader, query},
        name::Name,
    },
    facts::{Fact, Key, Service},
};

/// An answer that has not come then does not come: far longer than a loaded machine needs.
const LIMIT: Duration = Duration::from_secs(60);
const WEB: &str = "web.default.svc.cluster.local";

struct Server {
    address: SocketAddr,
    handle: Handle,
    facts: mpsc::UnboundedSender<Fact>,
    zones: watch::Sender<Arc<ZoneFiles>>,
    _pods: watch::Sender<Arc<SearchPaths>>,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), Error>>,
}

impl Server {
    fn start(limits: Limits, upstreams: Vec<SocketAddr>) -> Self {
        let dns = Dns::new(Config {
            address: "127.0.0.1:0".parse().unwrap(),
            domain: "cluster.local".into(),
            node: "pi-1".into(),
            pod_range: "100.64.0.0/16".parse().unwrap(),
            service_range: "100.65.0.0/16".parse().unwrap(),
            upstreams: Upstreams::Configured(upstreams),
            keep: None,
            cache_bytes: 1 << 20,
            limits,
            workers: None,
        })
        .unwrap();
        let (facts, told) = mpsc::unbounded_channel();
        let (zones, files) = watch::channel(Arc::default());
        let (pods, paths) = watch::channel(Arc::default());
        let shutdown = CancellationToken::new();
        let server = Self {
            address: dns.address(),
            handle: dns.handle(),
            facts,
            zones,
            _pods: pods,
            shutdown: shutdown.clone(),
            running: tokio::spawn(dns.run(told, files, paths, shutdown)),
        };
        server.facts.send(Fact::Namespace("default".into(), true)).unwrap();
        let json = br#"{"spec":{"clusterIP":"100.65.0.7","ports":[{"port":80}]}}"#;
        server.tell("web", json);
        server.facts.send(Fact::Synced).unwrap();
        server
    }

    fn unlimited(upstreams: Vec<SocketAddr>) -> Self {
        let rate = Rate {
            per_second: 1_000_000,
            burst: 1_000_000,
        };
        let limits = Limits {
            queries: rate,
            outside: rate,
        };
        Self::start(limits, upstreams)
    }

    fn tell(&self, name: &str, json: &[u8]) {
        let key = Key {
            namespace: "default".into(),
            name: name.into(),
        };
        let service = Arc::new(Service::from_json(json).unwrap());
        self.facts.send(Fact::Service(Arc::new(key), Some(service))).unwrap();
    }

    /// Asks until the answer is this one: what was told is known a little later.
    async fn wait_for(&self, name: &str, rcode: Rcode) {
        let client = Client::new("127.0.0.1");
        let asking = async {
            while client.ask(self.address, name).await.map(|answer| answer.rcode) != Some(rcode) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, asking).await.unwrap();
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(LIMIT, self.running)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    id: u16,
    rcode: Rcode,
    truncated: bool,
    records: u16,
}

fn parse(message: &[u8]) -> Answer {
    let header = Reader::new(message).header().unwrap();
    Answer {
        id: header.id,
        rcode: header.flags.rcode(),
        truncated: header.flags.has(Flags::TRUNCATED),
        records: header.counts[1],
    }
}

fn packet(id: u16, name: &str) -> Vec<u8> {
    let question = Question {
        name: Name::parse(name).unwrap(),
        kind: Kind::A,
        class: Class::IN,
    };
    let mut packet = Vec::new();
    query(&mut packet, id, Flags(Flags::RECURSION_DESIRED), &question, false);
    packet
}

/// Asks from one address.
struct Client(tokio::net::UdpSocket);

impl Client {
    fn new(address: &str) -> Self {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(tokio::net::UdpSocket::from_std(socket).unwrap())
    }

    /// None if no answer comes within a second: then the question is asked again by who wants to know.
    async fn ask(&self, server: SocketAddr, name: &str) -> Option<Answer> {
        self.0.send_to(&packet(7, name), server).await.unwrap();
        self.receive(Duration::from_secs(1)).await
    }

    /// Asks until there is an answer.
    async fn hear(&self, server: SocketAddr, name: &str) -> Answer {
        let asking = async {
            loop {
                if let Some(answer) = self.ask(server, name).await {
                    return answer;
                }
            }
        };
        tokio::time::timeout(LIMIT, asking).await.unwrap()
    }

    async fn receive(&self, limit: Duration) -> Option<Answer> {
        let mut buffer = [0; 4096];
        let received = tokio::time::timeout(limit, self.0.recv_from(&mut buffer)).await.ok()?;
        Some(parse(&buffer[..received.unwrap().0]))
    }
}

/// A resolver outside that knows every name, or never answers.
fn resolver(answers: bool) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let mut reader = Reader::new(&buffer[..length]);
            let header = reader.header().unwrap();
            let question = reader.question().unwrap();
            let mut out = Vec::new();
            let mut writer = crate::dns::message::Writer::new(&mut out, 512, false);
            writer.question(&question).unwrap();
            if question.kind == Kind::A {
                let section = crate::dns::message::Section::Answer;
                writer.about_question(section, Kind::A, 60, &[192, 0, 2, 1]).unwrap();
            }
            let flags = Flags::RESPONSE | Flags::RECURSION_DESIRED | Flags::RECURSION_AVAILABLE;
            writer.finish(header.id, flags, Rcode::NOERROR, false);
            if answers {
                let _ = socket.send_to(&out, from).await;
            }
        }
    });
    address
}

#[tokio::test]
async fn what_is_told_is_answered_by_udp_until_shutdown() {
    let server = Server::unlimited(vec![]);
    server.wait_for(WEB, Rcode::NOERROR).await;
    server
        .wait_for("other.default.svc.cluster.local", Rcode::NXDOMAIN)
        .await;
    server.tell("other", br#"{"spec":{"clusterIP":"100.65.0.8"}}"#);
    server.wait_for("other.default.svc.cluster.local", Rcode::NOERROR).await;
    let stats = server.handle.stats();
    assert!(stats.udp > 2);
    assert_eq!(stats.services, 2);
    server.stop().await;
}

#[tokio::test]
async fn queries_by_tcp_are_answered_on_one_connection() {
    let server = Server::unlimited(vec![resolver(true)]);
    server.wait_for(WEB, Rcode::NOERROR).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let names = [WEB, "nothing.default.svc.cluster.local", "www.example.com", WEB];
    let mut sent = Vec::new();
    for (id, name) in (0..).zip(names) {
        let packet = packet(id, name);
        sent.extend_from_slice(&u16::try_from(packet.len()).unwrap().to_be_bytes());
        sent.extend_from_slice(&packet);
    }
    stream.write_all(&sent).await.unwrap();
    let mut answers = Vec::new();
    for _ in names {
        let length = stream.read_u16().await.unwrap();
        let mut message = vec![0; usize::from(length)];
        stream.read_exact(&mut message).await.unwrap();
        answers.push(parse(&message));
    }
    answers.sort_by_key(|answer| answer.id);
    let codes: Vec<Rcode> = answers.iter().map(|answer| answer.rcode).collect();
    assert_eq!(codes, [Rcode::NOERROR, Rcode::NXDOMAIN, Rcode::NOERROR, Rcode::NOERROR]);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_ends_its_side_still_gets_what_it_asked_for() {
    let server = Server::unlimited(vec![resolver(true)]);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let packet = packet(9, "www.example.com");
    stream.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
    stream.write_all(&packet).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(parse(&answer[2..]).records, 1);
    server.stop().await;
}

#[tokio::test]
async fn names_outside_are_asked_once_and_then_known() {
    let server = Server::unlimited(vec![resolver(true)]);
    server.wait_for("www.example.com", Rcode::NOERROR).await;
    let waited = server.handle.stats().waited;
    server.wait_for("www.example.com", Rcode::NOERROR).await;
    assert_eq!(server.handle.stats().waited, waited);
    assert!(waited > 0);
    server.stop().await;
}

#[tokio::test]
async fn user_zones_are_served_and_their_faults_told() {
    let server = Server::unlimited(vec![]);
    let file = |text: &str| {
        let file = ZoneFile {
            config_map: "zones".into(),
            file: "db.example.org".into(),
            text: text.into(),
        };
        Arc::new(ZoneFiles { files: vec![file] })
    };
    let text = "$TTL 60\n@ SOA ns h 1 2 3 4 5\n@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.2\nin CNAME web.default.svc.cluster.local.\n";
    server.zones.send_replace(file(text));
    server.wait_for("www.example.org", Rcode::NOERROR).await;
    server.wait_for("nothing.example.org", Rcode::NXDOMAIN).await;
    // an alias from a user zone into the cluster
    let answer = Client::new("127.0.0.1").hear(server.address, "in.example.org").await;
    assert_eq!(answer.records, 2);
    let mut problems = server.handle.problems();
    server.zones.send_replace(file(&format!("{text}bad A 1.2.3\n")));
    let told = tokio::time::timeout(LIMIT, problems.wait_for(|problems| !problems.is_empty()));
    assert_eq!(told.await.unwrap().unwrap()[0].line, 7);
    server.wait_for("www.example.org", Rcode::NOERROR).await;
    server.stop().await;
}

#[tokio::test]
async fn a_flood_from_one_client_leaves_the_others_served() {
    let rate = Rate {
        per_second: 10,
        burst: 50,
    };
    let limits = Limits {
        queries: rate,
        outside: rate,
    };
    let server = Server::start(limits, vec![]);
    let flooder = UdpSocket::bind("127.0.0.2:0").unwrap();
    let packet = packet(1, WEB);
    for _ in 0..5_000 {
        // what the server's buffer cannot take is lost, as it would be
        let _ = flooder.send_to(&packet, server.address);
    }
    let other = Client::new("127.0.0.3");
    other.hear(server.address, WEB).await;
    // the worker that the flood goes to may be another one
    let counting = async {
        while server.handle.stats().limited == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, counting).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_asks_for_what_nobody_answers_leaves_room_for_others() {
    let server = Server::unlimited(vec![resolver(false)]);
    server.wait_for(WEB, Rcode::NOERROR).await;
    let greedy = Client::new("127.0.0.2");
    for number in 0..400_u16 {
        let packet = packet(number, &format!("n{number}.example.com"));
        greedy.0.send_to(&packet, server.address).await.unwrap();
    }
    // more than one client may have waiting is refused at once
    let refused = greedy.receive(LIMIT).await.unwrap();
    assert_eq!(refused.rcode, Rcode::SERVFAIL);
    assert_eq!(Client::new("127.0.0.3").hear(server.address, WEB).await.records, 1);
    server.stop().await;
}

#[tokio::test]
async fn a_long_query_and_garbage_do_no_harm() {
    let server = Server::unlimited(vec![]);
    server.wait_for(WEB, Rcode::NOERROR).await;
    let client = Client::new("127.0.0.1");
    let mut long = packet(5, WEB);
    long.resize(3000, 0);
    client.0.send_to(&long, server.address).await.unwrap();
    let answer = client.receive(LIMIT).await.unwrap();
    assert_eq!((answer.id, answer.rcode), (5, Rcode::FORMERR));
    client.0.send_to(b"", server.address).await.unwrap();
    client.0.send_to(b"nonsense", server.address).await.unwrap();
    assert_eq!(client.hear(server.address, WEB).await.records, 1);
    server.stop().await;
}

#[tokio::test]
async fn the_address_need_not_be_there_yet() {
    let dns = Dns::new(Config {
        address: "192.0.2.53:0".parse().unwrap(),
        domain: "cluster.local".into(),
        node: "pi-1".into(),
        pod_range: "100.64.0.0/16".parse().unwrap(),
        service_range: "100.65.0.0/16".parse().unwrap(),
        upstreams: Upstreams::Configured(vec![]),
        keep: None,
        cache_bytes: 1 << 20,
        limits: Limits::default(),
        workers: None,
    });
    assert_eq!(dns.unwrap().address().ip().to_string(), "192.0.2.53");
}
