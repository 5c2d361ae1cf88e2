//! The network of a node, in a network namespace of its own. Needs root; without it the tests fail.
//!
//! Each test runs in a process of its own that `unshare` has put into a fresh namespace: this program again.

use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::{Arguments, Trial};
use minidc_net::{Config, Network, NetworkState, Peer, Peers, ROUTE_PROTOCOL, Reason};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[path = "network/rack.rs"]
mod rack;

type Test = fn(&mut Node) -> Result<()>;
/// With nodes of its own.
type RackTest = fn() -> Result<()>;

const RACK_TESTS: [(&str, RackTest); 4] = [
    (
        "nodes_behind_a_router_reach_each_other_through_the_tunnel",
        rack::nodes_behind_a_router_reach_each_other_through_the_tunnel,
    ),
    (
        "tunnel_is_given_up_when_the_nodes_meet_on_one_link",
        rack::tunnel_is_given_up_when_the_nodes_meet_on_one_link,
    ),
    (
        "port_of_the_node_leads_to_the_pod_that_asked_for_it",
        rack::port_of_the_node_leads_to_the_pod_that_asked_for_it,
    ),
    (
        "what_a_crash_left_of_a_check_is_taken_away",
        rack::what_a_crash_left_of_a_check_is_taken_away,
    ),
];

const TESTS: [(&str, Test); 7] = [
    (
        "node_gets_routes_and_a_cni_configuration",
        node_gets_routes_and_a_cni_configuration,
    ),
    (
        "routes_follow_the_cluster_and_others_are_left_alone",
        routes_follow_the_cluster_and_others_are_left_alone,
    ),
    (
        "routes_come_back_after_the_cable_was_out",
        routes_come_back_after_the_cable_was_out,
    ),
    (
        "node_reaches_services_and_dns_without_a_default_route",
        node_reaches_services_and_dns_without_a_default_route,
    ),
    (
        "trouble_is_reported_with_its_reason",
        trouble_is_reported_with_its_reason,
    ),
    (
        "refused_change_is_reported_and_tried_again",
        refused_change_is_reported_and_tried_again,
    ),
    (
        "clearing_leaves_nothing_of_ours_and_all_of_others",
        clearing_leaves_nothing_of_ours_and_all_of_others,
    ),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|argument| argument == "inside") {
        // locks, leases and namespaces of this test are nobody else's
        run("mount", &["-t", "tmpfs", "none", "/run"])?;
        let name = arguments.get(2).context("which test?")?;
        if let Some((_, test)) = RACK_TESTS.iter().find(|(known, _)| known == name) {
            return test();
        }
        let (_, test) = TESTS.iter().find(|(known, _)| known == name).context("no such test")?;
        return test(&mut Node::start()?);
    }
    let names = TESTS.iter().map(|(name, _)| *name);
    let names = names.chain(RACK_TESTS.iter().map(|(name, _)| *name));
    let trials = names
        .map(|name| Trial::test(name, move || inside(name).map_err(|error| format!("{error:?}").into())))
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn inside(test: &str) -> Result<()> {
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe()?)
        .args(["inside", test])
        .env("RUST_BACKTRACE", "0")
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A node with eth0 at 10.9.0.1/24, whose network runs.
struct Node {
    peers: watch::Sender<Arc<Peers>>,
    state: watch::Receiver<NetworkState>,
    conflist: PathBuf,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), minidc_net::Error>>,
    runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
}

impl Node {
    fn start() -> Result<Self> {
        // as on a kernel that was just booted
        let _ = fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0");
        for command in [
            "link set lo up",
            "link add eth0 type veth peer name switch",
            "link set switch up",
            "address add 10.9.0.1/24 dev eth0",
            "link set eth0 up",
            "route add default via 10.9.0.254",
        ] {
            ip(command)?;
        }
        let directory = tempfile::tempdir()?;
        let conflist = directory.path().join("net.d/10-minidc.conflist");
        let network = Network::new(Config {
            pod_range: "100.64.0.0/16".parse()?,
            service_range: Some("100.65.0.0/16".parse()?),
            dns: Some("100.65.0.10".parse()?),
            conflist: conflist.clone(),
        });
        let state = network.state();
        let (peers, receiver) = watch::channel(Arc::default());
        let shutdown = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let task = runtime.spawn(network.run(receiver, shutdown.clone()));
        Ok(Self {
            peers,
            state,
            conflist,
            shutdown,
            task,
            runtime,
            _directory: directory,
        })
    }

    fn tell(&self, synced: bool, own: Option<&str>, peers: &[(&str, &str, &str)]) -> Result<()> {
        let own = own.map(str::parse).transpose()?;
        let peers = peers
            .iter()
            .map(|(name, address, range)| {
                let addresses = vec![address.parse::<IpAddr>()?];
                Ok(Peer {
                    name: (*name).into(),
                    addresses,
                    pod_cidr: Some(range.parse()?),
                })
            })
            .collect::<Result<_>>()?;
        self.peers.send_replace(Arc::new(Peers { synced, own, peers }));
        Ok(())
    }

    fn reasons(&self) -> Vec<Reason> {
        self.state
            .borrow()
            .problems
            .iter()
            .map(|problem| problem.reason)
            .collect()
    }
}

fn ip(command: &str) -> Result<String> {
    run("ip", &command.split(' ').collect::<Vec<_>>())
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Our routes to other nodes as `destination via gateway`, in order.
fn routes() -> Result<Vec<String>> {
    let text = ip(&format!("route show proto {ROUTE_PROTOCOL}"))?;
    let mut routes: Vec<String> = text
        .lines()
        .filter(|line| line.contains(" via "))
        .map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" "))
        .collect();
    routes.sort_unstable();
    Ok(routes)
}

fn wait_for(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let last = condition();
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("{what}: {last:?}; routes {:?}", routes());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

const ROUTES: [&str; 2] = ["100.64.1.0/24 via 10.9.0.2", "100.64.2.0/24 via 10.9.0.3"];
const PEERS: [(&str, &str, &str); 2] = [
    ("pi-2", "10.9.0.2", "100.64.1.0/24"),
    ("pi-3", "10.9.0.3", "100.64.2.0/24"),
];
const OWN: Option<&str> = Some("100.64.0.0/24");

fn node_gets_routes_and_a_cni_configuration(node: &mut Node) -> Result<()> {
    ensure!(!node.state.borrow().ready);
    node.tell(true, OWN, &PEERS)?;
    wait_for("the node to be ready", || Ok(node.state.borrow().ready))?;
    ensure!(node.reasons().is_empty(), "{:?}", node.reasons());
    ensure!(routes()? == ROUTES, "{:?}", routes());
    ensure!(fs::read_to_string(&node.conflist)?.contains("100.64.0.0/24"));
    ensure!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?.trim() == "1");
    // Pods go on without the agent.
    node.shutdown.cancel();
    node.runtime.block_on(&mut node.task)??;
    ensure!(routes()? == ROUTES && node.conflist.exists());
    Ok(())
}

fn node_reaches_services_and_dns_without_a_default_route(node: &mut Node) -> Result<()> {
    ip("route del default")?;
    node.tell(true, OWN, &PEERS)?;
    wait_for("the node to be ready", || Ok(node.state.borrow().ready))?;
    let way = ip("route get 100.65.3.4")?;
    ensure!(way.contains("dev cni0") && way.contains("src 100.64.0.1"), "{way}");
    let way = ip("route get 100.65.0.10")?;
    ensure!(way.contains("dev lo"), "{way}");
    // a hardware address that was given is kept, whatever pods come and go
    ensure!(ip("link show cni0")?.contains("02:6d:64:40:00:01"));
    let switch = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    ensure!(fs::read_to_string(switch).is_ok_and(|text| text.trim() == "1"));
    // taken away by somebody else
    ip("link del cni0")?;
    wait_for("the bridge to come back with its address and route", || {
        Ok(ip("route get 100.65.3.4").is_ok_and(|way| way.contains("src 100.64.0.1")))
    })?;
    ip("address del 100.65.0.10/32 dev lo")?;
    wait_for("the address of DNS to come back", || {
        Ok(ip("address show dev lo")?.contains("100.65.0.10/32"))
    })
}

fn routes_follow_the_cluster_and_others_are_left_alone(node: &mut Node) -> Result<()> {
    ip("route add 100.64.77.0/24 via 10.9.0.7")?;
    run("nft", &["add", "table", "ip", "other"])?;
    node.tell(true, OWN, &PEERS)?;
    wait_for("the routes", || Ok(routes()? == ROUTES))?;
    node.tell(true, OWN, &[("pi-2", "10.9.0.22", "100.64.1.0/24"), PEERS[1]])?;
    wait_for("the route to the node's new address", || {
        Ok(routes()?[0] == "100.64.1.0/24 via 10.9.0.22")
    })?;
    // A restarted agent hears of the nodes one by one: nothing may go before the list is whole.
    node.tell(false, OWN, &[("pi-9", "10.9.0.9", "100.64.9.0/24")])?;
    wait_for("the new node's route", || Ok(routes()?.len() == 3))?;
    node.tell(true, OWN, &[("pi-9", "10.9.0.9", "100.64.9.0/24")])?;
    wait_for("the removal of the others", || {
        Ok(routes()? == ["100.64.9.0/24 via 10.9.0.9"])
    })?;
    ensure!(ip("route show 100.64.77.0/24")?.contains("10.9.0.7"));
    ensure!(run("nft", &["list", "tables"])?.contains("table ip other"));
    Ok(())
}

fn routes_come_back_after_the_cable_was_out(node: &mut Node) -> Result<()> {
    node.tell(true, OWN, &PEERS)?;
    wait_for("the routes", || Ok(routes()? == ROUTES))?;
    ip("link set eth0 down")?;
    ensure!(routes()?.is_empty(), "the kernel keeps routes of a dead link");
    ip("link set eth0 up")?;
    wait_for("the routes after the link came up", || Ok(routes()? == ROUTES))?;
    // Another network, as when the rack is carried elsewhere: the peers' new addresses come later.
    ip("address flush dev eth0")?;
    ip("address add 192.168.50.4/24 dev eth0")?;
    wait_for("the peers to be missed", || {
        Ok(node.reasons().contains(&Reason::PeerOutOfReach))
    })?;
    ensure!(node.state.borrow().ready, "its own pods can still be started");
    node.tell(true, OWN, &[("pi-2", "192.168.50.5", "100.64.1.0/24")])?;
    wait_for("the route on the new network", || {
        Ok(routes()? == ["100.64.1.0/24 via 192.168.50.5"])
    })
}

fn trouble_is_reported_with_its_reason(node: &mut Node) -> Result<()> {
    node.tell(true, None, &PEERS)?;
    wait_for("the missing range", || Ok(node.reasons() == [Reason::NoPodRange]))?;
    ensure!(!node.state.borrow().ready && !node.conflist.exists());
    wait_for("the peers' routes all the same", || Ok(routes()? == ROUTES))?;
    node.tell(true, Some("10.0.0.0/24"), &PEERS)?;
    wait_for("the bad range", || Ok(node.reasons() == [Reason::BadPodRange]))?;
    ensure!(!node.state.borrow().ready && !node.conflist.exists());
    node.tell(true, OWN, &PEERS)?;
    wait_for("the node to be ready", || Ok(node.state.borrow().ready))?;
    ip("address add 100.64.200.9/24 dev eth0")?;
    wait_for("the overlap", || Ok(node.reasons() == [Reason::PodRangeOverlapsLan]))?;
    ensure!(node.state.borrow().message().contains("100.64.200.0/24 on eth0"));
    ip("address del 100.64.200.9/24 dev eth0")?;
    wait_for("the end of the overlap", || Ok(node.reasons().is_empty()))
}

fn refused_change_is_reported_and_tried_again(node: &mut Node) -> Result<()> {
    // A file where the directory ought to be.
    let directory = node.conflist.parent().context("no parent")?;
    fs::write(directory, "")?;
    node.tell(true, OWN, &PEERS)?;
    wait_for("the failure", || Ok(node.reasons() == [Reason::ApplyFailed]))?;
    ensure!(!node.state.borrow().ready);
    ensure!(routes()? == ROUTES, "one failure stops the rest");
    fs::remove_file(directory)?;
    wait_for("the next try", || {
        Ok(node.state.borrow().ready && node.reasons().is_empty())
    })
}

fn clearing_leaves_nothing_of_ours_and_all_of_others(node: &mut Node) -> Result<()> {
    ip("route add 100.64.77.0/24 via 10.9.0.7")?;
    for table in ["other", "minidc"] {
        run("nft", &["add", "table", "ip", table])?;
    }
    node.tell(true, OWN, &PEERS)?;
    wait_for("the node to be ready", || Ok(node.state.borrow().ready))?;
    ensure!(ip("address show dev lo")?.contains("100.65.0.10/32"));
    fs::create_dir_all("/run/minidc/cni/minidc")?;
    node.shutdown.cancel();
    node.runtime.block_on(&mut node.task)??;
    // twice: there may be nothing left to remove
    for _ in 0..2 {
        node.runtime.block_on(minidc_net::clear(&node.conflist))?;
        ensure!(routes()?.is_empty() && !node.conflist.exists() && !fs::exists("/run/minidc/cni")?);
        let links = ip("link show")?;
        ensure!(!links.contains("cni0") && !links.contains("minidc.vx"), "{links}");
        ensure!(!ip("address show dev lo")?.contains("100.65.0.10"));
        ensure!(ip("route show 100.64.77.0/24")?.contains("10.9.0.7"));
        let tables = run("nft", &["list", "tables"])?;
        ensure!(tables.trim() == "table ip other", "{tables}");
    }
    Ok(())
}
