use std::net::IpAddr;

use super::*;
use crate::facts::{Endpoint, Fact, Service, ServicePort, ServiceType, Slice, SlicePort};

const SERVICES: &str = "100.65.0.0/16";

fn position(own: &str) -> Position<'static> {
    Position {
        surroundings: Surroundings {
            pods: "100.64.0.0/16".parse().unwrap(),
            services: SERVICES.parse().unwrap(),
        },
        node: "pi-1",
        own: own.parse().ok(),
    }
}

fn key(name: &str) -> Arc<Key> {
    Arc::new(Key {
        namespace: "default".into(),
        name: name.into(),
    })
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(cluster_ip: &str, protocol: Protocol) -> Service {
    Service {
        cluster_ips: vec![ip(cluster_ip)],
        ports: vec![ServicePort {
            name: "".into(),
            protocol,
            port: 80,
            node_port: None,
        }],
        ..Service::default()
    }
}

fn node_port(service: Service, port: u16) -> Service {
    let mut service = Service {
        kind: ServiceType::NodePort,
        ..service
    };
    service.ports[0].node_port = Some(port);
    service
}

/// A slice with these endpoints; those of 100.64.0.0/24 are on this node.
fn slice(service: &str, protocol: Protocol, endpoints: &[&str]) -> Slice {
    let endpoint = |address: &&str| Endpoint {
        address: ip(address),
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: Some(
            if address.starts_with("100.64.0.") {
                "pi-1"
            } else {
                "pi-2"
            }
            .into(),
        ),
        pod: None,
    };
    Slice {
        service: Some(service.into()),
        ports: vec![SlicePort {
            name: "".into(),
            protocol,
            port: 8080,
        }],
        endpoints: endpoints.iter().map(endpoint).collect(),
    }
}

/// What was told and what the kernel was told of it.
struct World {
    known: Known,
    ledger: Ledger,
    /// What the kernel has, by the transactions.
    kernel: BTreeSet<Element>,
    open: BTreeSet<Choice>,
}

impl World {
    fn new() -> Self {
        Self {
            known: Known::default(),
            ledger: Ledger::default(),
            kernel: BTreeSet::new(),
            open: BTreeSet::new(),
        }
    }

    fn service(&mut self, name: &str, service: impl Into<Option<Service>>) {
        self.known.learn(Fact::Service(key(name), service.into().map(Arc::new)));
    }

    fn slice(&mut self, name: &str, slice: impl Into<Option<Slice>>) {
        self.known.learn(Fact::Slice(key(name), slice.into().map(Arc::new)));
    }

    /// Applies as the kernel would: what is removed must be there, what is added must not.
    fn advance(&mut self) -> Transaction {
        let transaction = self.ledger.advance(&mut self.known, position("100.64.0.0/24"));
        for (choice, _) in &transaction.opened {
            assert!(self.open.insert(*choice), "{choice:?} is open");
        }
        for change in &transaction.changes {
            match change {
                Change::Remove(element) => assert!(self.kernel.remove(element), "{element:?} is not there"),
                Change::Add(element) => {
                    let slots: Vec<_> = self.kernel.iter().map(|present| present.slot()).collect();
                    assert!(!slots.contains(&element.slot()), "{element:?} is there");
                    assert!(element.choice().is_none_or(|choice| self.open.contains(&choice)));
                    self.kernel.insert(*element);
                }
            }
        }
        for (choice, _) in &transaction.closed {
            assert!(self.open.remove(choice), "{choice:?} is not open");
            assert!(
                self.kernel.iter().all(|element| element.choice() != Some(*choice)),
                "{choice:?} is in use"
            );
        }
        transaction
    }
}

/// A change in short: `- endpoint 100.65.0.7:80 0 100.64.0.2:8080`.
fn short(change: &Change) -> String {
    let door = |door: &Door| match door {
        Door::Address(address, _, port) => format!("{address}:{port}"),
        Door::Port(_, port) => format!("node:{port}"),
    };
    let choice = |choice: &Choice| {
        let sticky = choice
            .sticky
            .map_or_else(String::new, |seconds| format!(" for {seconds} s"));
        format!("{:?} of {}{sticky}", choice.flavour, choice.size)
    };
    let (sign, element) = match change {
        Change::Remove(element) => ("-", element),
        Change::Add(element) => ("+", element),
    };
    match element {
        Element::Lead(at, Some(to)) => format!("{sign} {} {}", door(at), choice(to)),
        Element::Lead(at, None) => format!("{sign} {} dropped", door(at)),
        Element::Inside(at, to) => format!("{sign} inside {} {}", door(at), choice(to)),
        Element::Endpoint(at, number, endpoint) => format!("{sign} {} {number} {}", door(at), endpoint.ip()),
        Element::Refused(at) => format!("{sign} {} refused", door(at)),
        Element::Hairpin(address) => format!("{sign} hairpin {address}"),
    }
}

#[track_caller]
fn check(transaction: &Transaction, expected: &[&str]) {
    let changes: Vec<String> = transaction.changes.iter().map(short).collect();
    assert_eq!(changes, expected);
}

#[test]
fn an_endpoint_more_or_less_changes_only_its_own_elements() {
    let mut world = World::new();
    world.service("web", service("100.65.0.7", Protocol::Tcp));
    check(&world.advance(), &[]);
    world.slice("web-1", slice("web", Protocol::Tcp, &["100.64.1.1", "100.64.1.2"]));
    let expected = [
        "+ 100.65.0.7:80 Inside of 2",
        "+ 100.65.0.7:80 0 100.64.1.1",
        "+ 100.65.0.7:80 1 100.64.1.2",
    ];
    check(&world.advance(), &expected);
    let three = ["100.64.1.1", "100.64.1.2", "100.64.1.3"];
    world.slice("web-1", slice("web", Protocol::Tcp, &three));
    let expected = [
        "- 100.65.0.7:80 Inside of 2",
        "+ 100.65.0.7:80 Inside of 3",
        "+ 100.65.0.7:80 2 100.64.1.3",
    ];
    check(&world.advance(), &expected);
    // The last takes the place of the one that went.
    world.slice("web-1", slice("web", Protocol::Tcp, &["100.64.1.2", "100.64.1.3"]));
    let expected = [
        "- 100.65.0.7:80 Inside of 3",
        "- 100.65.0.7:80 0 100.64.1.1",
        "- 100.65.0.7:80 2 100.64.1.3",
        "+ 100.65.0.7:80 Inside of 2",
        "+ 100.65.0.7:80 0 100.64.1.3",
    ];
    check(&world.advance(), &expected);
    world.slice("web-1", slice("web", Protocol::Tcp, &["100.64.1.2", "100.64.1.4"]));
    let expected = ["- 100.65.0.7:80 0 100.64.1.3", "+ 100.65.0.7:80 0 100.64.1.4"];
    check(&world.advance(), &expected);
    world.slice("web-1", slice("web", Protocol::Tcp, &["100.64.1.4", "100.64.1.2"]));
    check(&world.advance(), &[]);
    world.service("web", None);
    let expected = [
        "- 100.65.0.7:80 Inside of 2",
        "- 100.65.0.7:80 0 100.64.1.4",
        "- 100.65.0.7:80 1 100.64.1.2",
    ];
    check(&world.advance(), &expected);
    assert!(world.kernel.is_empty());
}

#[test]
fn endpoints_come_before_their_service_and_stay_without_it() {
    let mut world = World::new();
    world.slice("web-1", slice("web", Protocol::Tcp, &["100.64.1.1"]));
    check(&world.advance(), &[]);
    world.service("web", service("100.65.0.7", Protocol::Tcp));
    check(
        &world.advance(),
        &["+ 100.65.0.7:80 Inside of 1", "+ 100.65.0.7:80 0 100.64.1.1"],
    );
    world.service("web", None);
    world.advance();
    world.service("web", service("100.65.0.8", Protocol::Tcp));
    check(
        &world.advance(),
        &["+ 100.65.0.8:80 Inside of 1", "+ 100.65.0.8:80 0 100.64.1.1"],
    );
}

#[test]
fn doors_without_endpoints_are_refused_where_nothing_else_does() {
    let mut world = World::new();
    let mut web = node_port(service("100.65.0.7", Protocol::Tcp), 30080);
    web.external_ips = vec![ip("192.0.2.7")];
    world.service("web", web);
    check(&world.advance(), &["+ 192.0.2.7:80 refused", "+ node:30080 refused"]);
    world.slice("web-1", slice("web", Protocol::Tcp, &["100.64.1.1"]));
    let expected = [
        "- 192.0.2.7:80 refused",
        "- node:30080 refused",
        "+ 100.65.0.7:80 Inside of 1",
        "+ 192.0.2.7:80 Outside of 1",
        "+ node:30080 Outside of 1",
        "+ 100.65.0.7:80 0 100.64.1.1",
        "+ 192.0.2.7:80 0 100.64.1.1",
        "+ node:30080 0 100.64.1.1",
    ];
    check(&world.advance(), &expected);
}

#[test]
fn local_traffic_policy_knows_its_own_endpoints_and_all() {
    let mut world = World::new();
    let mut web = node_port(service("100.65.0.7", Protocol::Tcp), 30080);
    web.external_local = true;
    world.service("web", web);
    world.slice("web-1", slice("web", Protocol::Tcp, &["100.64.1.1", "100.64.0.2"]));
    let expected = [
        "+ 100.65.0.7:80 Inside of 2",
        "+ node:30080 Local of 1",
        "+ inside node:30080 Inside of 2",
        "+ 100.65.0.7:80 0 100.64.1.1",
        "+ 100.65.0.7:80 1 100.64.0.2",
        "+ node:30080 0 100.64.1.1",
        "+ node:30080 1 100.64.0.2",
        "+ node:30080 65536 100.64.0.2",
        "+ hairpin 100.64.0.2",
    ];
    check(&world.advance(), &expected);
    // Only the other node's is left: strangers are dropped (of 0), the cluster is served.
    world.slice("web-1", slice("web", Protocol::Tcp, &["100.64.1.1"]));
    let expected = [
        "- 100.65.0.7:80 Inside of 2",
        "- node:30080 Local of 1",
        "- inside node:30080 Inside of 2",
        "- 100.65.0.7:80 1 100.64.0.2",
        "- node:30080 1 100.64.0.2",
        "- node:30080 65536 100.64.0.2",
        "- hairpin 100.64.0.2",
        "+ 100.65.0.7:80 Inside of 1",
        "+ node:30080 Local of 0",
        "+ inside node:30080 Inside of 1",
    ];
    check(&world.advance(), &expected);
}

#[test]
fn internal_traffic_policy_drops_where_only_others_have_endpoints() {
    let mut world = World::new();
    let web = Service {
        internal_local: true,
        ..service("100.65.0.7", Protocol::Tcp)
    };
    world.service("web", web);
    world.slice("web-1", slice("web", Protocol::Tcp, &["100.64.1.1"]));
    check(&world.advance(), &["+ 100.65.0.7:80 dropped"]);
    world.slice("web-2", slice("web", Protocol::Tcp, &["100.64.0.2"]));
    let expected = [
        "- 100.65.0.7:80 dropped",
        "+ 100.65.0.7:80 Inside of 1",
        "+ 100.65.0.7:80 0 100.64.0.2",
        "+ hairpin 100.64.0.2",
    ];
    check(&world.advance(), &expected);
}

#[test]
fn an_address_goes_from_service_to_service_in_one_transaction() {
    let mut world = World::new();
    for (name, cluster_ip, endpoint) in [("b", "100.65.0.7", "100.64.1.1"), ("a", "100.65.0.8", "100.64.1.2")] {
        world.service(name, service(cluster_ip, Protocol::Tcp));
        world.slice(&format!("{name}-1"), slice(name, Protocol::Tcp, &[endpoint]));
    }
    world.advance();
    world.service("b", None);
    world.service("a", service("100.65.0.7", Protocol::Tcp));
    let expected = [
        "- 100.65.0.8:80 Inside of 1",
        "- 100.65.0.7:80 0 100.64.1.1",
        "- 100.65.0.8:80 0 100.64.1.2",
        "+ 100.65.0.7:80 0 100.64.1.2",
    ];
    check(&world.advance(), &expected);
}

#[test]
fn the_first_owner_of_an_address_keeps_it_and_the_next_gets_it_after_him() {
    let shared = |cluster_ip| Service {
        external_ips: vec![ip("192.0.2.7")],
        ..service(cluster_ip, Protocol::Tcp)
    };
    let mut world = World::new();
    world.service("b", shared("100.65.0.1"));
    world.slice("b-1", slice("b", Protocol::Tcp, &["100.64.1.1"]));
    world.advance();
    world.service("a", shared("100.65.0.2"));
    world.slice("a-1", slice("a", Protocol::Tcp, &["100.64.1.2"]));
    check(
        &world.advance(),
        &["+ 100.65.0.2:80 Inside of 1", "+ 100.65.0.2:80 0 100.64.1.2"],
    );
    world.service("b", service("100.65.0.1", Protocol::Tcp));
    check(
        &world.advance(),
        &["- 192.0.2.7:80 0 100.64.1.1", "+ 192.0.2.7:80 0 100.64.1.2"],
    );
    // One that no longer wants it does not get it.
    world.service("b", shared("100.65.0.1"));
    world.advance();
    world.service("b", service("100.65.0.1", Protocol::Tcp));
    world.advance();
    world.service("a", service("100.65.0.2", Protocol::Tcp));
    check(
        &world.advance(),
        &["- 192.0.2.7:80 Outside of 1", "- 192.0.2.7:80 0 100.64.1.2"],
    );
}

#[test]
fn a_pod_of_two_services_is_in_the_hairpin_set_once() {
    let mut world = World::new();
    for (name, cluster_ip) in [("a", "100.65.0.7"), ("b", "100.65.0.8")] {
        world.service(name, service(cluster_ip, Protocol::Tcp));
        world.slice(name, slice(name, Protocol::Tcp, &["100.64.0.2"]));
    }
    let hairpins = |transaction: &Transaction| -> Vec<String> {
        let changes = transaction.changes.iter().map(short);
        changes.filter(|change| change.contains("hairpin")).collect()
    };
    assert_eq!(hairpins(&world.advance()), ["+ hairpin 100.64.0.2"]);
    world.service("a", None);
    assert!(hairpins(&world.advance()).is_empty());
    world.service("b", None);
    assert_eq!(hairpins(&world.advance()), ["- hairpin 100.64.0.2"]);
    assert_eq!((world.ledger.services(), world.ledger.endpoints()), (0, 0));
}

#[test]
fn ways_of_choosing_are_shared_and_closed_when_long_out_of_use() {
    let mut world = World::new();
    let endpoints: Vec<String> = (1..200).map(|number| format!("100.64.1.{number}")).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    for (name, cluster_ip) in [("a", "100.65.0.7"), ("b", "100.65.0.8")] {
        world.service(name, service(cluster_ip, Protocol::Tcp));
    }
    for count in 1..endpoints.len() {
        let opened: Vec<usize> = ["a", "b"]
            .map(|name| {
                world.slice(name, slice(name, Protocol::Tcp, &endpoints[..count]));
                world.advance().opened.len()
            })
            .to_vec();
        assert_eq!(opened, [1, 0], "{count} endpoints");
        assert!(world.open.len() <= KEPT_OPEN + 2, "{}", world.open.len());
        assert_eq!(world.ledger.choices().collect::<BTreeSet<_>>(), world.open);
    }
}

#[test]
fn udp_conversations_are_looked_at_only_when_somebody_went_or_the_first_came() {
    let door = Door::Address("100.65.0.7".parse().unwrap(), Protocol::Udp, 80);
    let mut world = World::new();
    world.service("dns", service("100.65.0.7", Protocol::Udp));
    world.slice("dns-1", slice("dns", Protocol::Udp, &["100.64.1.1"]));
    assert!(world.advance().flows.contains_key(&door), "conversations from before");
    world.slice("dns-1", slice("dns", Protocol::Udp, &["100.64.1.1", "100.64.1.2"]));
    assert!(world.advance().flows.is_empty(), "one more");
    let mut stopping = slice("dns", Protocol::Udp, &["100.64.1.1", "100.64.1.2"]);
    stopping.endpoints[0].ready = false;
    stopping.endpoints[0].terminating = true;
    world.slice("dns-1", stopping);
    assert!(world.advance().flows.is_empty(), "it still serves those it has");
    world.slice("dns-1", slice("dns", Protocol::Udp, &["100.64.1.2"]));
    let expected = HashMap::from([(door, vec!["100.64.1.2:8080".parse().unwrap()])]);
    assert_eq!(world.advance().flows, expected);
    world.service("dns", None);
    assert_eq!(world.advance().flows, HashMap::from([(door, Vec::new())]));
    world.service("web", service("100.65.0.9", Protocol::Tcp));
    world.slice("web-1", slice("web", Protocol::Tcp, &["100.64.1.2"]));
    assert!(world.advance().flows.is_empty(), "TCP ends by itself");
}

#[test]
fn clients_are_forgotten_when_their_endpoint_went() {
    let door = Door::Address("100.65.0.7".parse().unwrap(), Protocol::Tcp, 80);
    let mut world = World::new();
    let sticky = Service {
        affinity: Some(std::time::Duration::from_secs(600)),
        ..service("100.65.0.7", Protocol::Tcp)
    };
    world.service("web", sticky);
    world.slice("web-1", slice("web", Protocol::Tcp, &["100.64.1.1", "100.64.1.2"]));
    let first = world.advance();
    assert!(first.sticky.is_empty());
    assert_eq!(short(&first.changes[0]), "+ 100.65.0.7:80 Inside of 2 for 600 s");
    world.slice("web-1", slice("web", Protocol::Tcp, &["100.64.1.2"]));
    let expected = HashMap::from([(door, reach(&["100.64.1.2:8080"], None))]);
    assert_eq!(world.advance().sticky, expected);
    assert_eq!(world.ledger.sticky(), expected);
    // Without affinity nobody looks after what is remembered: were it kept, it would count again later.
    world.service("web", service("100.65.0.7", Protocol::Tcp));
    assert_eq!(world.advance().sticky, HashMap::from([(door, Reach::default())]));
    assert!(world.ledger.sticky().is_empty());
}

fn reach(inside: &[&str], strangers: Option<&[&str]>) -> Reach {
    let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Reach {
        inside: parse(inside),
        strangers: strangers.map(parse),
    }
}

#[test]
fn clients_are_forgotten_when_the_traffic_policy_keeps_them_from_their_endpoint() {
    let (inner, outer) = (
        Door::Address("100.65.0.7".parse().unwrap(), Protocol::Tcp, 80),
        Door::Port(Protocol::Tcp, 30080),
    );
    let mut world = World::new();
    let mut web = node_port(service("100.65.0.7", Protocol::Tcp), 30080);
    web.affinity = Some(std::time::Duration::from_secs(600));
    world.service("web", web.clone());
    world.slice("web-1", slice("web", Protocol::Tcp, &["100.64.0.1", "100.64.1.2"]));
    assert!(world.advance().sticky.is_empty());
    web.external_local = true;
    world.service("web", web.clone());
    let both = ["100.64.0.1:8080", "100.64.1.2:8080"];
    let expected = HashMap::from([(outer, reach(&both, Some(&["100.64.0.1:8080"])))]);
    assert_eq!(world.advance().sticky, expected);
    web.internal_local = true;
    world.service("web", web.clone());
    let expected = HashMap::from([(inner, reach(&["100.64.0.1:8080"], None))]);
    assert_eq!(world.advance().sticky, expected);
    (web.external_local, web.internal_local) = (false, false);
    world.service("web", web);
    assert!(world.advance().sticky.is_empty(), "all may go everywhere");
}

/// What packets leave behind in the kernel: who was led where, by which door.
#[derive(Default)]
struct Memory {
    /// With session affinity: also whether he is a pod.
    clients: BTreeSet<(bool, Door, SocketAddrV4)>,
    flows: BTreeSet<(Door, SocketAddrV4)>,
}

impl Memory {
    /// Forgets what the transaction says; nothing may be left then that leads elsewhere than the rules do.
    fn check(&mut self, transaction: &Transaction, ledger: &Ledger) {
        let Transaction { sticky, flows, .. } = transaction;
        self.clients
            .retain(|(pod, door, to)| sticky.get(door).is_none_or(|reach| reach.by(*pod).contains(to)));
        self.flows
            .retain(|(door, to)| flows.get(door).is_none_or(|present| present.contains(to)));
        let (sticky, flows) = (ledger.sticky(), ledger.flows());
        for (pod, door, to) in &self.clients {
            let reach = sticky.get(door);
            assert!(
                reach.is_some_and(|reach| reach.by(*pod).contains(to)),
                "{door:?} of {pod} leads to {to}, not to {reach:?}"
            );
        }
        for (door, to) in &self.flows {
            let present = flows.get(door);
            assert!(
                present.is_some_and(|present| present.contains(to)),
                "{door:?} leads to {to}, not to {present:?}"
            );
        }
    }

    /// Somebody comes by each door.
    fn gather(&mut self, ledger: &Ledger, draw: &mut impl FnMut(u64) -> u64) {
        let mut one = |endpoints: &[SocketAddrV4]| {
            let number = usize::try_from(draw(1 << 20)).unwrap();
            endpoints.get(number % endpoints.len().max(1)).copied()
        };
        let (sticky, flows): (BTreeMap<_, _>, BTreeMap<_, _>) = (
            ledger.sticky().into_iter().collect(),
            ledger.flows().into_iter().collect(),
        );
        for (door, reach) in sticky {
            for pod in [false, true] {
                self.clients.extend(one(reach.by(pod)).map(|to| (pod, door, to)));
            }
        }
        for (door, present) in flows {
            self.flows.extend(one(&present).map(|to| (door, to)));
        }
    }
}

type Chosen = (BTreeSet<SocketAddrV4>, BTreeSet<SocketAddrV4>);

/// Endpoints of each port of each Service.
fn endpoints(ledger: &Ledger) -> BTreeMap<(Arc<Key>, (Protocol, u16)), Chosen> {
    let views = ledger
        .views
        .iter()
        .flat_map(|(key, views)| views.iter().map(move |view| (key, view)));
    views
        .map(|(key, view)| {
            let Endpoints { all, local, .. } = &view.endpoints;
            let chosen = (all.iter().copied().collect(), local.iter().copied().collect());
            ((Arc::clone(key), view.port), chosen)
        })
        .collect()
}

/// Whatever happens to Services that fight for the same addresses, what the kernel was told step by step is what it would be
/// told at once.
#[test]
fn any_sequence_of_news_ends_where_a_restart_would() {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for _ in 0..100 {
        let mut world = World::new();
        let mut memory = Memory::default();
        for _ in 0..60 {
            let name = format!("s{}", draw(4));
            let protocol = [Protocol::Tcp, Protocol::Udp][usize::try_from(draw(2)).unwrap()];
            if draw(2) == 0 {
                let mut news = service(&format!("100.65.0.{}", draw(3)), protocol);
                news.external_local = draw(2) == 0;
                news.internal_local = draw(4) == 0;
                if draw(2) == 0 {
                    news = node_port(news, u16::try_from(30000 + draw(2)).unwrap());
                }
                if draw(3) == 0 {
                    news.external_ips = vec![ip("192.0.2.7")];
                }
                if draw(3) == 0 {
                    news.affinity = Some(std::time::Duration::from_secs(60));
                }
                world.service(&name, (draw(5) != 0).then_some(news));
            } else {
                let endpoints: Vec<String> = (0..draw(5))
                    .map(|_| format!("100.64.{}.{}", draw(2), 1 + draw(4)))
                    .collect();
                let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
                let mut news = slice(&name, protocol, &endpoints);
                for endpoint in &mut news.endpoints {
                    let state = draw(6);
                    endpoint.terminating = state > 3;
                    endpoint.serving = state != 3 && state != 4;
                    endpoint.ready = state < 3;
                }
                if draw(8) == 0 {
                    news.ports[0].name = "other".into();
                }
                world.slice(&format!("slice{}", draw(6)), (draw(5) != 0).then_some(news));
            }
            if draw(3) == 0 {
                let transaction = world.advance();
                memory.check(&transaction, &world.ledger);
                memory.gather(&world.ledger, &mut draw);
            }
        }
        let transaction = world.advance();
        memory.check(&transaction, &world.ledger);
        // A restart may give another owner to an address that two want, and other numbers to endpoints: the rest is the same.
        let views = |ledger: &Ledger| -> BTreeMap<Door, BTreeSet<SocketAddrV4>> {
            let views = ledger.views.values().flatten();
            views
                .flat_map(|view| {
                    let all: BTreeSet<_> = view.endpoints.all.iter().copied().collect();
                    view.doors.iter().map(move |(door, _)| (*door, all.clone()))
                })
                .collect()
        };
        let elements: BTreeSet<Element> = world
            .ledger
            .views
            .values()
            .flatten()
            .flat_map(|view| elements(view, SERVICES.parse().unwrap()))
            .chain(world.ledger.hairpin.keys().map(|address| Element::Hairpin(*address)))
            .collect();
        assert_eq!(world.kernel, elements);
        let mut restarted = World::new();
        std::mem::swap(&mut restarted.known, &mut world.known);
        restarted.known.touch_all();
        restarted.advance();
        let (step_by_step, at_once) = (views(&world.ledger), views(&restarted.ledger));
        assert_eq!(
            step_by_step.keys().collect::<Vec<_>>(),
            at_once.keys().collect::<Vec<_>>()
        );
        assert_eq!(endpoints(&world.ledger), endpoints(&restarted.ledger));
        let users = |world: &World| world.ledger.choices.values().map(|open| open.users).sum::<usize>();
        assert_eq!(
            users(&world),
            world.kernel.iter().filter(|element| element.choice().is_some()).count()
        );
    }
}
