use super::*;

/// A book in memory; services come and go in it as they do in the store.
#[derive(Default)]
struct Book {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl Book {
    /// Completes a service, notes what it got, and gives back what it had.
    fn write(&mut self, spec: &Value, old: Option<&Value>, range: &str, random: u64) -> Result<Value, Refusal> {
        let Value::Object(mut new) = spec.clone() else {
            panic!("an object")
        };
        let address = |address| self.addresses.contains(&address);
        let port = |port| self.ports.contains(&port);
        let taken = Taken {
            address: &address,
            port: &port,
            random,
        };
        fill(&mut new, old, &[Range::parse(range).unwrap()], &taken)?;
        let new = Value::Object(new);
        let (after, before) = (Holdings::of(&new), old.map(Holdings::of).unwrap_or_default());
        self.release(&before.without(&after));
        for address in after.without(&before).addresses {
            assert!(self.addresses.insert(address), "{address} was given twice");
        }
        for port in after.without(&before).ports {
            assert!(self.ports.insert(port), "{port} was given twice");
        }
        Ok(new)
    }

    fn release(&mut self, held: &Holdings) {
        for address in &held.addresses {
            assert!(self.addresses.remove(address), "{address} was given back twice");
        }
        for port in &held.ports {
            assert!(self.ports.remove(port), "{port} was given back twice");
        }
    }
}

const RANGE: &str = "100.65.0.0/16";

fn texts(refusal: Refusal) -> Vec<String> {
    match refusal {
        Refusal::Fields(errors) => errors.iter().map(ToString::to_string).collect(),
        Refusal::Full(message) => vec![message],
    }
}

fn node_ports_of(spec: &Value) -> Vec<i64> {
    ports(spec).map(|port| number(&port["nodePort"])).collect()
}

#[test]
fn addresses_come_from_the_upper_part_and_asked_for_ones_are_kept() {
    let mut book = Book::default();
    let plain = json!({"type": "ClusterIP", "ports": [{"port": 80}]});
    let first = book.write(&plain, None, RANGE, 0).unwrap();
    assert_eq!(first["clusterIP"], "100.65.1.1");
    assert_eq!(first["clusterIPs"], json!(["100.65.1.1"]));
    assert_eq!(node_ports_of(&first), [0]);
    let asked = json!({"type": "ClusterIP", "clusterIP": "100.65.0.20", "clusterIPs": ["100.65.0.20"]});
    assert_eq!(book.write(&asked, None, RANGE, 0).unwrap()["clusterIP"], "100.65.0.20");
    assert_eq!(
        texts(book.write(&asked, None, RANGE, 0).unwrap_err()),
        [
            "spec.clusterIPs: Invalid value: [\"100.65.0.20\"]: failed to allocate IP 100.65.0.20: provided IP is already allocated"
        ]
    );
    for outside in ["100.66.0.1", "100.65.0.0", "100.65.255.255"] {
        let asked = json!({"type": "ClusterIP", "clusterIP": outside, "clusterIPs": [outside]});
        let texts = texts(book.write(&asked, None, RANGE, 0).unwrap_err());
        assert!(
            texts[0].ends_with("The range of valid IPs is 100.65.0.0/16"),
            "{texts:?}"
        );
    }
    for none in [
        json!({"type": "ExternalName", "externalName": "a.b"}),
        json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}),
    ] {
        let written = book.write(&none, None, RANGE, 0).unwrap();
        assert_eq!(Holdings::of(&written), Holdings::default());
        assert_eq!(written.get("clusterIP"), none.get("clusterIP"));
    }
}

#[test]
fn full_range_is_said_to_be_full() {
    let mut book = Book::default();
    let plain = json!({"type": "ClusterIP"});
    for number in 0..14 {
        book.write(&plain, None, "10.0.0.0/28", number).unwrap();
    }
    assert_eq!(
        texts(book.write(&plain, None, "10.0.0.0/28", 0).unwrap_err()),
        ["failed to allocate a serviceIP: range is full"]
    );
    book.ports = (FIRST_PORT..=LAST_PORT).collect();
    let exposed = json!({"type": "NodePort", "ports": [{"port": 80}]});
    assert_eq!(
        texts(book.write(&exposed, None, RANGE, 0).unwrap_err()),
        ["failed to allocate a nodePort: range is full"]
    );
}

#[test]
fn node_ports_are_chosen_shared_or_asked_for() {
    let mut book = Book::default();
    let dns = json!({"type": "NodePort", "ports": [
        {"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "tcp", "port": 53, "protocol": "TCP"}, {"name": "http", "port": 80}
    ]});
    let given = node_ports_of(&book.write(&dns, None, RANGE, 0).unwrap());
    assert_eq!(given, [30086, 30086, 30087]);
    let asked = json!({"type": "NodePort", "ports": [
        {"name": "any", "port": 81}, {"name": "a", "port": 80, "nodePort": 30080}
    ]});
    assert_eq!(
        node_ports_of(&book.write(&asked, None, RANGE, 0).unwrap()),
        [30088, 30080]
    );
    assert_eq!(
        texts(book.write(&asked, None, RANGE, 0).unwrap_err()),
        ["spec.ports[1].nodePort: Invalid value: 30080: provided port is already allocated"]
    );
    let outside = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]});
    assert_eq!(
        texts(book.write(&outside, None, RANGE, 0).unwrap_err()),
        [
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
        ]
    );
    let without = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}, {"port": 81, "nodePort": 30090}]});
    assert_eq!(
        node_ports_of(&book.write(&without, None, RANGE, 0).unwrap()),
        [0, 30090]
    );
}

#[test]
fn local_load_balancer_gets_a_port_for_health_checks() {
    let mut book = Book::default();
    let balanced = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let written = book.write(&balanced, None, RANGE, 0).unwrap();
    assert_eq!(written["healthCheckNodePort"], 30087);
    let asked = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30087});
    assert_eq!(
        texts(book.write(&asked, None, RANGE, 0).unwrap_err()),
        ["failed to allocate requested HealthCheck NodePort 30087: provided port is already allocated"]
    );
    let mut cluster = written.clone();
    cluster["externalTrafficPolicy"] = "Cluster".into();
    cluster["healthCheckNodePort"] = Value::Null;
    book.write(&cluster, Some(&written), RANGE, 0).unwrap();
    book.write(&asked, None, RANGE, 0).unwrap();
}

#[test]
fn change_of_type_takes_and_gives_back() {
    let mut book = Book::default();
    let alias = json!({"type": "ExternalName", "externalName": "a.b", "ports": [{"port": 80}]});
    let exposed = json!({"type": "NodePort", "ports": [{"port": 80}]});
    let written = book.write(&exposed, Some(&alias), RANGE, 0).unwrap();
    assert_eq!((book.addresses.len(), book.ports.len()), (1, 1));
    let mut renumbered = written.clone();
    renumbered["ports"][0]["nodePort"] = 30001.into();
    let renumbered = book.write(&renumbered, Some(&written), RANGE, 0).unwrap();
    assert_eq!(book.ports, BTreeSet::from([30001]));
    book.write(&alias, Some(&renumbered), RANGE, 0).unwrap();
    assert_eq!((book.addresses.len(), book.ports.len()), (0, 0));
}

/// A small generator of numbers that look random; always the same ones.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % sides
    }
}

#[test]
fn nothing_is_given_twice_in_any_history() {
    let mut dice = Dice(7);
    let mut book = Book::default();
    let mut services: Vec<Value> = Vec::new();
    for _ in 0..3000 {
        let kind = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"][dice.roll(4) as usize];
        let mut spec = json!({"type": kind, "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80 + dice.roll(2), "protocol": "UDP"}]});
        if dice.roll(3) == 0 && kind != "ExternalName" {
            let ip = format!("10.0.0.{}", dice.roll(64));
            spec["clusterIPs"] = json!([ip]);
            spec["clusterIP"] = ip.into();
        }
        if dice.roll(3) == 0 && kind != "ClusterIP" {
            spec["ports"][dice.roll(2) as usize]["nodePort"] = (29_999 + dice.roll(40)).into();
        }
        if kind == "LoadBalancer" && dice.roll(2) == 0 {
            spec["externalTrafficPolicy"] = "Local".into();
        }
        let random = dice.roll(1 << 20);
        if services.len() < 40 && dice.roll(2) == 0 {
            services.extend(book.write(&spec, None, "10.0.0.0/26", random));
        } else if !services.is_empty() {
            let at = dice.roll(services.len() as u64) as usize;
            match dice.roll(3) {
                0 => {
                    let gone = services.swap_remove(at);
                    book.release(&Holdings::of(&gone));
                }
                _ => {
                    let old = services[at].clone();
                    if let Ok(new) = book.write(&spec, Some(&old), "10.0.0.0/26", random) {
                        services[at] = new;
                    }
                }
            }
        }
        // What is booked is exactly what the services say they have; `write` and `release` look at each step.
        let held = services.iter().map(Holdings::of);
        let (addresses, ports) = held.fold((0, 0), |(addresses, ports), held| {
            (addresses + held.addresses.len(), ports + held.ports.len())
        });
        assert_eq!((book.addresses.len(), book.ports.len()), (addresses, ports));
    }
}
