//! What leads nowhere.

use anyhow::{Context as _, Result, ensure};
use minidc_net::facts::{Service, ServiceType};
use nix::errno::Errno;

use crate::node::{DNS, NODE_ADDRESS, Node, Place, ask, command, service};

/// How a question by UDP is refused: by an ICMP message.
fn udp_refused(place: &Place, to: &str) -> Result<Option<i32>> {
    let socket = place.udp("0.0.0.0")?;
    socket.connect(to)?;
    let mut last = None;
    for _ in 0..20 {
        let result = socket.send(b"?").and_then(|_| socket.recv(&mut [0; 64]));
        last = result.err().context("answered")?.raw_os_error();
        if last == Some(Errno::ECONNREFUSED as i32) {
            break;
        }
    }
    Ok(last)
}

fn all_refused(places: &[&Place], tcp: &str, udp: &str) -> Result<()> {
    for (number, place) in places.iter().enumerate() {
        let how = place.refused(tcp)?;
        ensure!(how == Errno::ECONNREFUSED, "place {number}, {tcp}: {how}");
        let how = udp_refused(place, udp)?;
        ensure!(
            how == Some(Errno::ECONNREFUSED as i32),
            "place {number}, {udp} by UDP: {how:?}"
        );
    }
    Ok(())
}

pub(crate) fn nobody_there_is_said_at_once(node: &mut Node) -> Result<()> {
    let (pod, a) = node.pod()?;
    command("ip -n outside route add 192.0.2.77 via 10.9.0.1")?;
    // The host's own firewall would let it time out.
    command("nft add table ip host")?;
    command("nft add chain ip host forward { type filter hook forward priority 0; policy drop; }")?;
    node.start()?;
    let mut web = Service {
        kind: ServiceType::NodePort,
        external_ips: vec!["192.0.2.77".parse()?],
        ..service("100.65.0.7")
    };
    web.ports[0].node_port = Some(30080);
    web.ports[1].node_port = Some(30053);
    node.service("web", web);
    node.endpoints("web", &[&format!("!{a}")]);
    node.synced()?;
    let places = [&pod, &node.here, &node.outside];
    all_refused(&places, "100.65.0.7:80", "100.65.0.7:53")?;
    all_refused(&places, "192.0.2.77:80", "192.0.2.77:53")?;
    let (tcp, udp) = (format!("{NODE_ADDRESS}:30080"), format!("{NODE_ADDRESS}:30053"));
    all_refused(&places, &tcp, &udp)?;
    // Ports that the service does not have.
    all_refused(&places, "100.65.0.7:81", "100.65.0.7:54")?;
    command("nft delete table ip host")?;
    node.endpoints("web", &[&a]);
    node.wait_for("the first endpoint", || Ok(pod.connect("100.65.0.7:80").is_ok()))
}

pub(crate) fn unallocated_addresses_are_refused_and_never_leave_the_node(node: &mut Node) -> Result<()> {
    let (pod, _) = node.pod()?;
    // Without A route of its own such a packet would go the default way.
    command("ip route del 100.65.0.0/16")?;
    command("ip -n outside route del 100.65.0.0/16")?;
    let sniff = "nft add table ip watch; nft add counter ip watch seen; \
        nft add chain ip watch in { type filter hook prerouting priority -300\\; }; \
        nft add rule ip watch in ip daddr 100.65.0.0/16 counter name seen";
    node.outside.run(|| {
        let output = std::process::Command::new("sh").args(["-ec", sniff]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    })?;
    node.start()?;
    node.synced()?;
    all_refused(&[&pod, &node.here], "100.65.99.99:80", "100.65.99.99:53")?;
    let seen = node.outside.run(|| command("nft list counters table ip watch"))?;
    ensure!(seen.contains("packets 0 "), "{seen}");
    Ok(())
}

pub(crate) fn dns_is_not_tracked_and_nothing_else_is_reached_by_its_address(node: &mut Node) -> Result<()> {
    let (pod, _) = node.pod()?;
    node.here.listen(DNS, 53)?;
    node.here.listen("0.0.0.0", 22)?;
    node.start()?;
    node.synced()?;
    let dns = format!("{DNS}:53");
    for place in [&pod, &node.here] {
        ensure!(ask(&place.udp("0.0.0.0")?, &dns)?.0 == DNS);
        ensure!(place.connect(&dns)?.0 == DNS);
    }
    let tracked = std::fs::read_to_string("/proc/net/nf_conntrack")?;
    ensure!(!tracked.contains("dport=53 "), "{tracked}");
    ensure!(pod.connect("100.64.0.1:22").is_ok());
    let how = pod.refused(&format!("{DNS}:22"))?;
    ensure!(how == Errno::ECONNREFUSED, "{how}");
    Ok(())
}
