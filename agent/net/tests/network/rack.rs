//! Several nodes, each in a network namespace of its own with its network and its part in checks running.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use minidc_net::{
    Config, Network, NetworkState, Peer, Peers,
    check::{self, Attachment, Check, Cni, Finding, Phase, PortMapping, Report, Responder, Target, Task},
    vxlan,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{ip, run, wait_for};

/// Longest wait for a report: a check is patient with what fails.
const LIMIT: Duration = Duration::from_secs(60);
/// Where Debian and where upstream put the plugins.
const PLUGINS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

fn namespace(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Runs `ip` inside a namespace.
fn ip_in(name: &str, command: &str) -> Result<String> {
    ip(&format!("-n {name} {command}"))
}

fn nft_in(name: &str, command: &str) -> Result<String> {
    let net = format!("--net={}", namespace(name).display());
    run("nsenter", &[&net, "nft", command])
}

/// Does something on a thread that lives in a namespace.
fn inside<T: Send + 'static>(
    name: &str,
    what: impl FnOnce() -> T + Send + 'static,
) -> Result<std::thread::JoinHandle<T>> {
    let file = fs::File::open(namespace(name))?;
    let (entered, wait) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = entered.send(nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET));
        what()
    });
    wait.recv()??;
    Ok(thread)
}

/// Joins two namespaces by a cable.
fn cable(one: &str, one_port: &str, other: &str, other_port: &str) -> Result<()> {
    ip(&format!(
        "link add {one_port} netns {one} type veth peer name {other_port} netns {other}"
    ))?;
    ip_in(one, &format!("link set {one_port} up"))?;
    ip_in(other, &format!("link set {other_port} up"))?;
    Ok(())
}

fn place(name: &str) -> Result<()> {
    ip(&format!("netns add {name}"))?;
    ip_in(name, "link set lo up").map(drop)
}

struct Node {
    name: &'static str,
    directory: tempfile::TempDir,
    peers: watch::Sender<Arc<Peers>>,
    state: watch::Receiver<NetworkState>,
    tasks: watch::Sender<Arc<Vec<Task>>>,
    reports: mpsc::Receiver<Report>,
    shutdown: CancellationToken,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(Ok(Err(error))) = self.thread.take().map(std::thread::JoinHandle::join) {
            eprintln!("{}: {error:?}", self.name);
        }
    }
}

impl Node {
    /// Starts what a node runs in the namespace of its name.
    fn start(name: &'static str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let conflist = directory.path().join("net.d/10-minidc.conflist");
        let (peers, known_peers) = watch::channel(Arc::default());
        let (tasks, known_tasks) = watch::channel(Arc::default());
        let (sender, reports) = mpsc::channel(16);
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let network = Network::new(Config {
            pod_range: "100.64.0.0/16".parse()?,
            service_range: Some("100.65.0.0/16".parse()?),
            dns: Some("100.65.0.10".parse()?),
            conflist: conflist.clone(),
        });
        let state = network.state();
        let config = check::Config {
            node: name.into(),
            cni: cni(&conflist),
            run: directory.path().join("net-check"),
            dns: "100.65.0.10".parse()?,
            domain: "cluster.local".into(),
        };
        let responder = Responder::new(config, network.state());
        let thread = inside(name, move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let checks = responder.run(known_tasks, sender, stop.clone());
                tokio::try_join!(network.run(known_peers, stop.clone()), checks)?;
                Ok(())
            })
        })?;
        Ok(Self {
            name,
            directory,
            peers,
            state,
            tasks,
            reports,
            shutdown,
            thread: Some(thread),
        })
    }

    fn conflist(&self) -> PathBuf {
        self.directory.path().join("net.d/10-minidc.conflist")
    }

    fn tell(&self, own: &str, peer: (&str, &str, &str)) -> Result<()> {
        let (name, address, range) = peer;
        let peer = Peer {
            name: name.into(),
            addresses: vec![address.parse()?],
            pod_cidr: Some(range.parse()?),
        };
        self.peers.send_replace(Arc::new(Peers {
            synced: true,
            own: Some(own.parse()?),
            peers: vec![peer],
        }));
        wait_for(&format!("{} to be ready", self.name), || {
            let state = self.state.borrow();
            Ok(state.ready && state.paths.contains_key(name))
        })
    }

    fn report(&mut self) -> Result<Report> {
        let end = Instant::now() + LIMIT;
        loop {
            match self.reports.try_recv() {
                Ok(report) => return Ok(report),
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
                Err(_) => anyhow::bail!("{} reports nothing", self.name),
            }
        }
    }
}

fn cni(conflist: &Path) -> Cni {
    Cni {
        conflist: conflist.into(),
        plugins: PLUGINS.map(PathBuf::from).to_vec(),
    }
}

const ONE: (&str, &str, &str) = ("pi-1", "10.9.0.1", "100.64.0.0/24");
const TWO: (&str, &str, &str) = ("pi-2", "10.8.0.2", "100.64.1.0/24");

/// pi-1 on 10.9.0.0/24 and pi-2 on 10.8.0.0/24, with a router between.
fn two_networks() -> Result<(Node, Node)> {
    for name in ["pi-1", "pi-2", "router"] {
        place(name)?;
    }
    cable("pi-1", "eth0", "router", "east")?;
    cable("pi-2", "eth0", "router", "west")?;
    for (name, command) in [
        ("pi-1", "address add 10.9.0.1/24 dev eth0"),
        ("pi-1", "route add default via 10.9.0.254"),
        ("pi-2", "address add 10.8.0.2/24 dev eth0"),
        ("pi-2", "route add default via 10.8.0.254"),
        ("router", "address add 10.9.0.254/24 dev east"),
        ("router", "address add 10.8.0.254/24 dev west"),
    ] {
        ip_in(name, command)?;
    }
    inside("router", || fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?
        .join()
        .map_err(|_| anyhow::anyhow!("panicked"))??;
    let (one, two) = (Node::start("pi-1")?, Node::start("pi-2")?);
    one.tell(ONE.2, TWO)?;
    two.tell(TWO.2, ONE)?;
    Ok((one, two))
}

/// Lets two nodes check each other, and gives what each found.
fn check(id: &str, nodes: [&mut Node; 2]) -> Result<Vec<(&'static str, Vec<Finding>)>> {
    let mut task = Task {
        name: format!("check-{id}"),
        id: id.into(),
        nodes: nodes.iter().map(|node| node.name.to_owned()).collect(),
        targets: BTreeMap::new(),
    };
    for node in &nodes {
        node.tasks.send_replace(Arc::new(vec![task.clone()]));
    }
    let mut found = Vec::new();
    let [one, two] = nodes;
    for node in [&mut *one, &mut *two] {
        let report = node.report()?;
        ensure!(report.phase == Phase::Ready, "{report:?}");
        let target = Target {
            address: report.address,
            service: None,
        };
        task.targets.insert(node.name.into(), target);
    }
    for node in [&mut *one, &mut *two] {
        node.tasks.send_replace(Arc::new(vec![task.clone()]));
    }
    for node in [one, two] {
        let report = node.report()?;
        ensure!(report.phase == Phase::Done, "{report:?}");
        found.push((node.name, report.results));
        node.tasks.send_replace(Arc::default());
    }
    Ok(found)
}

fn one_of(found: &[Finding], check: Check) -> Result<&Finding> {
    let finding = found.iter().find(|finding| finding.check == check);
    finding.with_context(|| format!("no {check} in {found:?}"))
}

/// Routes of ours in a namespace.
fn routes(name: &str) -> Result<String> {
    ip_in(name, &format!("route show proto {}", minidc_net::ROUTE_PROTOCOL))
}

pub(crate) fn nodes_behind_a_router_reach_each_other_through_the_tunnel() -> Result<()> {
    let (mut one, mut two) = two_networks()?;
    ensure!(
        routes("pi-1")?.contains("100.64.1.0/24 via 100.64.1.0 dev minidc.vx"),
        "{}",
        routes("pi-1")?
    );
    // no packet may show an address of a pod to the network between
    for command in [
        "add table ip watch",
        "add chain ip watch pass { type filter hook forward priority 0; }",
        "add rule ip watch pass ip saddr 100.64.0.0/16 counter drop",
    ] {
        nft_in("router", command)?;
    }
    for (node, found) in check("a", [&mut one, &mut two])? {
        for kind in [Check::Pod, Check::PodUdp, Check::Mtu] {
            let finding = one_of(&found, kind)?;
            ensure!(finding.ok, "{node}: {finding:?}");
        }
        ensure!(one_of(&found, Check::Mtu)?.detail == "1450 bytes", "{found:?}");
        ensure!(one_of(&found, Check::Network)?.ok, "{found:?}");
        ensure!(
            !one_of(&found, Check::Service)?.ok && !one_of(&found, Check::Dns)?.ok,
            "{found:?}"
        );
    }
    let seen = nft_in("router", "list table ip watch")?;
    ensure!(seen.contains("packets 0"), "{seen}");
    ensure!(
        fs::read_to_string(one.conflist())?.contains("\"mtu\": 1450"),
        "pods may send what the tunnel cannot carry"
    );
    nothing_is_left("pi-1", &one)?;

    // a link between that swallows what is too large for it
    nft_in("router", "add rule ip watch pass ip length > 1400 drop")?;
    for (node, found) in check("b", [&mut one, &mut two])? {
        ensure!(one_of(&found, Check::Pod)?.ok, "{node}: {found:?}");
        let mtu = one_of(&found, Check::Mtu)?;
        ensure!(
            !mtu.ok && mtu.detail.contains("1450 bytes are lost") && mtu.detail.contains("1280 arrive"),
            "{mtu:?}"
        );
    }

    // a firewall between
    nft_in("router", "add rule ip watch pass udp dport 4789 drop")?;
    for (node, found) in check("c", [&mut one, &mut two])? {
        let pod = one_of(&found, Check::Pod)?;
        ensure!(
            !pod.ok && pod.detail.contains("no answer") && pod.detail.contains("through the tunnel to 10."),
            "{node}: {pod:?}"
        );
    }
    Ok(())
}

pub(crate) fn tunnel_is_given_up_when_the_nodes_meet_on_one_link() -> Result<()> {
    let (mut one, mut two) = two_networks()?;
    // pi-2 is plugged into the network of pi-1 as well
    cable("pi-1", "eth1", "pi-2", "eth1")?;
    ip_in("pi-1", "address add 10.7.0.1/24 dev eth1")?;
    ip_in("pi-2", "address add 10.7.0.2/24 dev eth1")?;
    one.tell(ONE.2, ("pi-2", "10.7.0.2", TWO.2))?;
    two.tell(TWO.2, ("pi-1", "10.7.0.1", ONE.2))?;
    for (name, gateway) in [("pi-1", "via 10.7.0.2 dev eth1"), ("pi-2", "via 10.7.0.1 dev eth1")] {
        wait_for("the direct route", || Ok(routes(name)?.contains(gateway)))?;
        wait_for("the end of the tunnel", || {
            Ok(ip_in(name, &format!("link show {}", vxlan::DEVICE)).is_err())
        })?;
    }
    for (node, found) in check("a", [&mut one, &mut two])? {
        for kind in [Check::Pod, Check::PodUdp, Check::Mtu] {
            let finding = one_of(&found, kind)?;
            ensure!(finding.ok, "{node}: {finding:?}");
        }
    }
    // and is back when the cable is out, also when somebody takes its device away
    ip_in("pi-1", "link del eth1")?;
    one.tell(ONE.2, TWO)?;
    two.tell(TWO.2, ONE)?;
    wait_for("the tunnel to come back", || {
        Ok(ip_in("pi-1", &format!("link del {}", vxlan::DEVICE)).is_ok())
    })?;
    wait_for("the tunnel", || {
        let known = ip_in("pi-1", &format!("neighbour show dev {}", vxlan::DEVICE)).unwrap_or_default();
        Ok(known.contains("100.64.1.0") && routes("pi-1")?.contains("via 100.64.1.0"))
    })?;
    for (node, found) in check("b", [&mut one, &mut two])? {
        ensure!(one_of(&found, Check::Pod)?.ok, "{node}: {found:?}");
    }
    Ok(())
}

/// Of a check nothing remains: no interface, no reserved address, no record.
fn nothing_is_left(name: &str, node: &Node) -> Result<()> {
    wait_for("the stand-in to be taken away", || {
        let ports = ip_in(name, "link show type veth master cni0")?;
        let records = fs::read_dir(node.directory.path().join("net-check"))?.count();
        Ok(ports.is_empty() && records == 0 && leases()?.is_empty())
    })
}

/// Addresses that host-local has given out.
fn leases() -> Result<Vec<String>> {
    let Ok(directory) = fs::read_dir("/run/minidc/cni/minidc") else {
        return Ok(Vec::new());
    };
    let names = directory.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<Result<Vec<_>>>()?;
    Ok(names
        .into_iter()
        .filter(|name| name.parse::<IpAddr>().is_ok())
        .collect())
}

fn one_node() -> Result<Node> {
    place("pi-1")?;
    place("laptop")?;
    cable("pi-1", "eth0", "laptop", "eth0")?;
    ip_in("pi-1", "address add 10.9.0.1/24 dev eth0")?;
    ip_in("laptop", "address add 10.9.0.2/24 dev eth0")?;
    let node = Node::start("pi-1")?;
    node.tell(ONE.2, ("pi-9", "10.9.0.9", "100.64.9.0/24"))?;
    wait_for("the CNI configuration", || Ok(node.conflist().exists()))?;
    Ok(node)
}

/// Plugs the namespace `pod` into the network of pi-1.
fn plug_in(node: &Node, container: &'static str, ports: Vec<PortMapping>) -> Result<IpAddr> {
    place("pod")?;
    let cni = cni(&node.conflist());
    let thread = inside("pi-1", move || -> Result<IpAddr> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let namespace = namespace("pod");
        let attachment = Attachment {
            container,
            namespace: Some(&namespace),
            ports: &ports,
        };
        Ok(runtime.block_on(cni.add(attachment))?)
    })?;
    thread.join().map_err(|_| anyhow::anyhow!("panicked"))?
}

pub(crate) fn port_of_the_node_leads_to_the_pod_that_asked_for_it() -> Result<()> {
    let node = one_node()?;
    let mapping = PortMapping {
        host_port: 8080,
        container_port: 80,
        protocol: "tcp",
    };
    plug_in(&node, "a-pod", vec![mapping])?;
    let (bound, wait) = std::sync::mpsc::channel();
    let _server = inside("pod", move || -> Result<()> {
        let listener = TcpListener::bind("0.0.0.0:80")?;
        bound.send(())?;
        for connection in listener.incoming() {
            let mut connection = connection?;
            let from = connection.peer_addr()?;
            connection.write_all(from.ip().to_string().as_bytes())?;
        }
        Ok(())
    })?;
    wait.recv()?;
    let ask = |from: &'static str, address: &'static str| -> Result<String> {
        let asked = inside(from, move || -> Result<String> {
            let address: SocketAddr = address.parse()?;
            let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
            let mut said = String::new();
            connection.read_to_string(&mut said)?;
            Ok(said)
        })?;
        asked.join().map_err(|_| anyhow::anyhow!("panicked"))?
    };
    let seen = ask("laptop", "10.9.0.1:8080")?;
    ensure!(seen == "10.9.0.2", "the pod sees {seen}");
    ask("pi-1", "10.9.0.1:8080").context("from the node itself")?;
    ensure!(ask("laptop", "10.9.0.1:8081").is_err(), "another port answers");
    Ok(())
}

pub(crate) fn what_a_crash_left_of_a_check_is_taken_away() -> Result<()> {
    let node = one_node()?;
    let container = "minidc-net-check-old";
    let address = plug_in(&node, container, Vec::new())?.to_string();
    ensure!(leases()? == [address], "{:?}", leases());
    // the namespace ended with the process that was killed
    ip("netns del pod")?;
    let run = node.directory.path().join("net-check");
    fs::create_dir_all(&run)?;
    fs::write(run.join(container), "")?;
    let config = check::Config {
        node: "pi-1".into(),
        cni: cni(&node.conflist()),
        run,
        dns: "100.65.0.10".parse()?,
        domain: "cluster.local".into(),
    };
    let (responder, stop) = (Responder::new(config, node.state.clone()), node.shutdown.clone());
    let (_tasks, none) = watch::channel(Arc::default());
    let (reports, _receiver) = mpsc::channel(1);
    let again = inside("pi-1", move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(responder.run(none, reports, stop))?)
    })?;
    nothing_is_left("pi-1", &node)?;
    node.shutdown.cancel();
    again.join().map_err(|_| anyhow::anyhow!("panicked"))?
}
