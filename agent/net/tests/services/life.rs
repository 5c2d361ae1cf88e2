//! Starts, stops, changes and interference.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use minidc_net::facts::{Fact, Service, ServiceType};

use crate::node::{Node, Place, command, connection, key, service, slice, table};

/// Connections one after the other until it is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Load {
    fn on(place: &Place, to: &'static str) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (place, stopped, count) = (place.clone(), stop.clone(), made.clone());
        let thread = std::thread::spawn(move || {
            place.run(|| {
                while !stopped.load(Ordering::Relaxed) {
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    connection("0.0.0.0".parse()?, to.parse()?).with_context(|| format!("connection {number}"))?;
                }
                Ok(())
            })
        });
        Self {
            stop,
            made,
            thread: Some(thread),
        }
    }

    /// Waits for some more connections.
    fn go_on(&self, node: &Node) -> Result<()> {
        let before = self.made.load(Ordering::Relaxed);
        let ended = || self.thread.as_ref().is_none_or(std::thread::JoinHandle::is_finished);
        node.wait_for("more connections", || {
            Ok(ended() || self.made.load(Ordering::Relaxed) > before + 20)
        })
    }

    fn end(mut self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("ended")?;
        thread.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        Ok(self.made.load(Ordering::Relaxed))
    }
}

const DOOR: &str = "100.65.0.7:80";

pub(crate) fn restart_leaves_no_gap(node: &mut Node) -> Result<()> {
    let (client, _) = node.pod()?;
    let (_, a) = node.pod()?;
    node.start()?;
    node.service("web", service("100.65.0.7"));
    node.service("old", service("100.65.0.8"));
    node.endpoints("web", &[&a]);
    node.endpoints("old", &[&a]);
    node.synced()?;
    // Not even the table is another afterwards.
    let handle = || -> Result<Option<String>> {
        let tables = command("nft -a list table ip minidc")?;
        Ok(tables
            .lines()
            .find(|line| line.starts_with("table ip minidc "))
            .map(str::to_owned))
    };
    let before = handle()?.context("no table")?;
    let load = Load::on(&client, DOOR);
    load.go_on(node)?;
    for _ in 0..5 {
        node.stop()?;
        load.go_on(node)?;
        // Its range comes late, and so does all that is told.
        let own = node.own.send_replace(None);
        node.start()?;
        load.go_on(node)?;
        node.tell_services();
        node.tell(Fact::Service(key("old"), None));
        load.go_on(node)?;
        ensure!(
            client.connect("100.65.0.8:80").is_ok(),
            "absence before the end mark is no order"
        );
        node.endpoints("web", &[&a]);
        node.endpoints("old", &[&a]);
        node.tell(Fact::Synced);
        load.go_on(node)?;
        ensure!(!node.state.borrow().ready, "the pods' way out would be gone");
        node.own.send_replace(own);
        node.wait_for("the proxy to be ready", || Ok(node.state.borrow().ready))?;
        ensure!(client.connect("100.65.0.8:80").is_err());
        node.tell_services();
        node.wait_for("the other service", || Ok(client.connect("100.65.0.8:80").is_ok()))?;
    }
    ensure!(load.end()? > 100);
    ensure!(handle()?.as_ref() == Some(&before), "{before}, then {:?}", handle()?);
    Ok(())
}

pub(crate) fn table_of_another_version_is_replaced(node: &mut Node) -> Result<()> {
    let (client, _) = node.pod()?;
    let (_, a) = node.pod()?;
    for line in [
        "nft add table ip minidc",
        "nft add chain ip minidc postrouting { type nat hook postrouting priority srcnat; }",
        "nft add rule ip minidc postrouting ip saddr 100.64.0.0/24 masquerade",
        "nft add map ip minidc services { type ipv4_addr : verdict; }",
        "nft add chain ip minidc refuse { type filter hook forward priority 0; }",
    ] {
        command(line)?;
    }
    node.start()?;
    node.service("web", service("100.65.0.7"));
    node.endpoints("web", &[&a]);
    ensure!(client.connect(DOOR).is_err(), "replaced before everything was told");
    node.synced()?;
    ensure!(client.connect(DOOR)?.0 == a);
    ensure!(!table()?.contains("ip saddr 100.64.0.0/24 masquerade"), "{}", table()?);
    Ok(())
}

pub(crate) fn what_is_known_is_served_before_everything_was_told(node: &mut Node) -> Result<()> {
    let (client, _) = node.pod()?;
    let (_, a) = node.pod()?;
    node.start()?;
    node.service("web", service("100.65.0.7"));
    node.endpoints("web", &[&a]);
    node.wait_for("the service", || Ok(client.connect(DOOR).is_ok()))?;
    ensure!(!node.state.borrow().ready);
    node.synced()?;
    let state = node.state.borrow().clone();
    ensure!(
        (state.services, state.endpoints, state.problem.clone()) == (1, 2, None),
        "{state:?}"
    );
    Ok(())
}

pub(crate) fn rules_come_back_when_somebody_flushes_them(node: &mut Node) -> Result<()> {
    let (client, _) = node.pod()?;
    let (_, a) = node.pod()?;
    node.start()?;
    node.service("web", service("100.65.0.7"));
    node.endpoints("web", &[&a]);
    node.synced()?;
    let whole = table()?;
    for interference in [
        "flush ruleset",
        "flush table ip minidc",
        "flush map ip minidc endpoints",
        "add rule ip minidc refused-forward drop",
    ] {
        command(&format!("nft {interference}"))?;
        node.wait_for(interference, || Ok(table().is_ok_and(|table| table == whole)))?;
        node.wait_for("readiness", || Ok(node.state.borrow().ready))?;
        ensure!(client.connect(DOOR)?.0 == a);
    }
    // The next change is one again.
    node.endpoints("web", &[]);
    node.wait_for("the change", || Ok(client.connect(DOOR).is_err()))
}

pub(crate) fn what_somebody_adds_to_the_table_goes(node: &mut Node) -> Result<()> {
    let (client, _) = node.pod()?;
    let (_, a) = node.pod()?;
    node.start()?;
    node.service("web", service("100.65.0.7"));
    node.endpoints("web", &[&a]);
    node.synced()?;
    let whole = table()?;
    for interference in [
        "add counter ip minidc seen",
        "add chain ip minidc refused-forward { policy drop ; }",
        "add table ip minidc { flags dormant ; }",
        "add chain ip minidc mine { type filter hook forward priority 0 ; policy drop ; }",
    ] {
        command(&format!("nft {interference}"))?;
        node.wait_for(interference, || Ok(table().is_ok_and(|table| table == whole)))?;
        node.wait_for("readiness", || Ok(node.state.borrow().ready))?;
        ensure!(client.connect(DOOR)?.0 == a, "after {interference}");
    }
    Ok(())
}

pub(crate) fn other_tables_are_left_alone_and_ours_can_be_listed_and_loaded(node: &mut Node) -> Result<()> {
    let (client, _) = node.pod()?;
    let (_, a) = node.pod()?;
    command("nft add table ip other")?;
    command("nft add chain ip other forward { type filter hook forward priority 0; }")?;
    command("nft add rule ip other forward ip daddr 192.0.2.5 drop")?;
    command("nft add table inet minidc")?;
    command("iptables -t nat -A POSTROUTING -s 172.30.0.0/16 -j MASQUERADE")?;
    let others = || -> Result<Vec<String>> {
        ["ip other", "inet minidc", "ip nat"]
            .iter()
            .map(|table| command(&format!("nft list table {table}")))
            .collect()
    };
    let before = others()?;
    node.start()?;
    let mut web = service("100.65.0.7");
    web.external_local = true;
    web.external_ips = vec!["192.0.2.77".parse()?];
    node.service("web", web);
    node.endpoints("web", &[&a]);
    node.synced()?;
    node.endpoints("web", &[]);
    node.wait_for_rule(&a, false)?;
    node.endpoints("web", &[&a]);
    node.wait_for("the service", || Ok(client.connect(DOOR).is_ok()))?;
    ensure!(others()? == before);
    node.stop()?;
    // As an administrator saves and loads rules.
    let saved = table()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("saved.nft");
    std::fs::write(&file, format!("delete table ip minidc\n{saved}"))?;
    command(&format!("nft -f {}", file.display())).with_context(|| saved.clone())?;
    ensure!(table()? == saved);
    ensure!(client.connect(DOOR)?.0 == a);
    Ok(())
}

pub(crate) fn rolling_update_under_load_fails_no_connection(node: &mut Node) -> Result<()> {
    let (client, _) = node.pod()?;
    let mut addresses = Vec::new();
    for _ in 0..6 {
        addresses.push(node.pod()?.1);
    }
    node.start()?;
    node.service("web", service("100.65.0.7"));
    let endpoints =
        |chosen: &[usize]| -> Vec<&str> { chosen.iter().map(|number| addresses[*number].as_str()).collect() };
    node.endpoints("web", &endpoints(&[0, 1, 2]));
    node.synced()?;
    let load = Load::on(&client, DOOR);
    load.go_on(node)?;
    for round in 0..300 {
        let first = round % 6;
        let size = 1 + round % 5;
        let chosen: Vec<usize> = (first..first + size).map(|number| number % 6).collect();
        node.endpoints("web", &endpoints(&chosen));
        if round % 20 == 0 {
            load.go_on(node)?;
        }
    }
    load.go_on(node)?;
    ensure!(load.end()? > 100);
    Ok(())
}

/// Numbers that look random and are the same each time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn service(&mut self) -> Result<Service> {
        let mut service = service(&format!("100.65.1.{}", self.below(8)));
        service.external_local = self.one_in(2);
        service.internal_local = self.one_in(4);
        if self.one_in(3) {
            service.affinity = Some(Duration::from_secs(60 + self.below(2)));
        }
        if self.one_in(4) {
            service.external_ips = vec![format!("192.0.2.{}", 70 + self.below(2)).parse()?];
        }
        if self.one_in(2) {
            service.kind = ServiceType::NodePort;
            for port in &mut service.ports {
                port.node_port = u16::try_from(30_000 + self.below(4)).ok();
            }
        }
        Ok(service)
    }

    fn endpoints(&mut self) -> Vec<String> {
        let state = |number| ["", "", "!", "~"][usize::try_from(number).unwrap_or(0)];
        (0..self.below(7))
            .map(|_| {
                let (node, pod) = (self.below(2), 20 + self.below(5));
                format!("{}100.64.{node}.{pod}", state(self.below(4)))
            })
            .collect()
    }
}

/// Services that fight for addresses and ports, change in every respect, and go: the kernel takes each step as it is told.
pub(crate) fn random_changes_are_never_refused_and_leave_nothing_behind(node: &mut Node) -> Result<()> {
    let (client, _) = node.pod()?;
    let (_, a) = node.pod()?;
    node.start()?;
    node.service("last", service("100.65.0.7"));
    node.endpoints("last", &[&a]);
    node.synced()?;
    let (state, stop) = (node.state.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    // After a refusal it is not ready for 50 ms at the least.
    let watching = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            let now = state.borrow().clone();
            ensure!(now.ready && now.problem.is_none(), "{now:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    });
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let name = |number: u64| format!("s{number}");
    for step in 0_u16..600 {
        let chosen = name(random.below(10));
        if random.one_in(2) {
            let service = if random.one_in(5) {
                None
            } else {
                Some(random.service()?)
            };
            node.tell(Fact::Service(key(&chosen), service.map(Arc::new)));
        } else {
            let endpoints = random.endpoints();
            let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
            let slice = slice(&chosen, &service("100.65.1.0"), &endpoints);
            node.tell(Fact::Slice(
                key(&name(random.below(15))),
                (!random.one_in(5)).then(|| Arc::new(slice)),
            ));
        }
        // Until it is in the kernel, so that there are many transactions.
        if random.one_in(4) {
            let port = 9_000 + step;
            node.endpoints_at("last", &[&a], port);
            node.wait_for_rule(&format!("{a} . {port}"), true)?;
        }
    }
    for number in 0..15 {
        node.tell(Fact::Service(key(&name(number)), None));
        node.tell(Fact::Slice(key(&name(number)), None));
    }
    node.endpoints("last", &[&a]);
    node.wait_for("the end of all", || {
        Ok(node.state.borrow().services == 1 && client.connect(DOOR).is_ok())
    })?;
    stop.store(true, Ordering::Relaxed);
    watching
        .join()
        .map_err(|_| anyhow::anyhow!("the watching panicked"))??;
    let left = table()?;
    for gone in ["100.65.1.", "192.0.2.", "100.64.0.2", "100.64.1.2", ". 3000"] {
        ensure!(!left.contains(gone), "{gone} is left in\n{left}");
    }
    Ok(())
}

pub(crate) fn many_services_are_loaded_and_changed(node: &mut Node) -> Result<()> {
    const SERVICES: usize = 5_000;
    let (client, _) = node.pod()?;
    let (_, a) = node.pod()?;
    node.start()?;
    let name = |number: usize| format!("s{number}");
    for number in 0..SERVICES {
        let service = service(&format!("100.65.{}.{}", 1 + number / 250, 1 + number % 250));
        let endpoints = slice(&name(number), &service, &[&a, "100.64.1.1", "100.64.1.2"]);
        node.tell(Fact::Service(key(&name(number)), Some(Arc::new(service))));
        node.tell(Fact::Slice(key(&name(number)), Some(Arc::new(endpoints))));
    }
    node.synced()?;
    let state = node.state.borrow().clone();
    ensure!(
        (state.services, state.endpoints) == (SERVICES, SERVICES * 6),
        "{state:?}"
    );
    let change = |endpoints: &[&str]| {
        let last = service("100.65.20.250");
        node.tell(Fact::Slice(
            key(&name(SERVICES - 1)),
            Some(Arc::new(slice(&name(SERVICES - 1), &last, endpoints))),
        ));
    };
    change(&[]);
    node.wait_for("the refusal", || Ok(client.connect("100.65.20.250:80").is_err()))?;
    change(&[&a]);
    node.wait_for("the endpoint", || Ok(client.connect("100.65.20.250:80").is_ok()))?;
    for number in 0..SERVICES {
        node.tell(Fact::Service(key(&name(number)), None));
    }
    node.wait_for("the end of all", || Ok(node.state.borrow().services == 0))?;
    ensure!(!table()?.contains("100.65.20."), "left over");
    Ok(())
}
