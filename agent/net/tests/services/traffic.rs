//! Where packets go, and under which source.

use anyhow::{Context as _, Result, ensure};
use minidc_net::facts::{Service, ServiceType};

use crate::node::{CLIENT, INTERNET, NODE_ADDRESS, Node, Place, REMOTE_POD, ask, service};

/// Enters until all have answered; the sources that they saw.
fn everybody(place: &Place, to: &str, expected: &[&str]) -> Result<Vec<String>> {
    let mut answered = std::collections::BTreeSet::new();
    let mut sources = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let (by, from) = place.connect(to)?;
        ensure!(
            expected.contains(&by.as_str()),
            "{to} answered by {by}, not one of {expected:?}"
        );
        answered.insert(by);
        sources.insert(from);
        if answered.len() == expected.len() {
            return Ok(sources.into_iter().collect());
        }
    }
    anyhow::bail!("{to}: only {answered:?} of {expected:?} answered");
}

pub(crate) fn cluster_ip_reaches_its_endpoints(node: &mut Node) -> Result<()> {
    let (asking, asks) = node.pod()?;
    let (_, a) = node.pod()?;
    let (_, b) = node.pod()?;
    node.outside.listen(REMOTE_POD, 8080)?;
    node.start()?;
    node.service("web", service("100.65.0.7"));
    node.endpoints("web", &[&a, &b, REMOTE_POD]);
    node.service("here", service("100.65.0.8"));
    node.endpoints("here", &[&a, &b]);
    node.synced()?;
    let all = [a.as_str(), &b, REMOTE_POD];
    ensure!(everybody(&asking, "100.65.0.7:80", &all)? == [asks.as_str()]);
    // The node's own address in the pod network is the source of its own connections.
    ensure!(everybody(&node.here, "100.65.0.7:80", &all)? == ["100.64.0.1"]);
    // From a pod elsewhere it comes under the true source, from a stranger under the node's.
    let remote = node.outside.connect_from(REMOTE_POD, "100.65.0.8:80")?;
    ensure!(remote.1 == REMOTE_POD, "{remote:?}");
    let stranger = node.outside.connect_from(CLIENT, "100.65.0.8:80")?;
    ensure!(
        [NODE_ADDRESS, "100.64.0.1"].contains(&stranger.1.as_str()),
        "{stranger:?}"
    );
    for place in [&asking, &node.here] {
        let (by, _) = ask(&place.udp("0.0.0.0")?, "100.65.0.7:53")?;
        ensure!(all.contains(&by.as_str()), "{by}");
    }
    Ok(())
}

fn hairpin(node: &mut Node, bridged: bool) -> Result<()> {
    node.bridged(bridged)?;
    let (first, a) = node.pod()?;
    let (second, b) = node.pod()?;
    node.start()?;
    node.service("web", service("100.65.0.7"));
    node.endpoints("web", &[&a]);
    node.synced()?;
    ensure!(first.connect("100.65.0.7:80")? == (a.clone(), "100.64.0.1".into()));
    ensure!(ask(&first.udp("0.0.0.0")?, "100.65.0.7:53")?.0 == a);
    // A neighbour is seen under its own address where that can be.
    let seen = if bridged { b.as_str() } else { "100.64.0.1" };
    ensure!(second.connect("100.65.0.7:80")? == (a.clone(), seen.into()));
    ensure!(ask(&second.udp("0.0.0.0")?, "100.65.0.7:53")? == (a, seen.into()));
    Ok(())
}

pub(crate) fn pod_reaches_itself_through_its_service_with_bridge_netfilter(node: &mut Node) -> Result<()> {
    hairpin(node, true)
}

pub(crate) fn pod_reaches_itself_through_its_service_without_bridge_netfilter(node: &mut Node) -> Result<()> {
    hairpin(node, false)
}

const EXTERNAL: &str = "192.0.2.77";

fn exposed() -> Service {
    let mut service = Service {
        kind: ServiceType::LoadBalancer,
        external_ips: vec![EXTERNAL.parse().expect("an address")],
        load_balancer_ips: vec![NODE_ADDRESS.parse().expect("an address")],
        ..service("100.65.0.7")
    };
    service.ports[0].node_port = Some(30080);
    service.ports[1].node_port = Some(30053);
    service
}

pub(crate) fn service_is_entered_from_outside_by_node_port_external_and_load_balancer_address(
    node: &mut Node,
) -> Result<()> {
    let (pod, a) = node.pod()?;
    let (_, b) = node.pod()?;
    node.outside.listen(REMOTE_POD, 8080)?;
    crate::node::command("ip -n outside route add 192.0.2.77 via 10.9.0.1")?;
    node.start()?;
    node.service("web", exposed());
    node.endpoints("web", &[&a, &b, REMOTE_POD]);
    node.synced()?;
    let all = [a.as_str(), &b, REMOTE_POD];
    let doors = [
        format!("{NODE_ADDRESS}:30080"),
        format!("{NODE_ADDRESS}:80"),
        format!("{EXTERNAL}:80"),
    ];
    for door in &doors {
        for place in [&node.outside, &node.here, &pod] {
            let sources = everybody(place, door, &all)?;
            let of_the_node = |source: &String| [NODE_ADDRESS, "100.64.0.1"].contains(&source.as_str());
            ensure!(sources.iter().all(of_the_node), "{door}: {sources:?}");
        }
    }
    // Any address of the node has the port, loopback has not.
    ensure!(pod.connect("100.64.0.1:30080").is_ok());
    ensure!(node.here.connect("127.0.0.1:30080").is_err());
    let (by, _) = ask(&node.outside.udp(CLIENT)?, &format!("{NODE_ADDRESS}:30053"))?;
    ensure!(all.contains(&by.as_str()), "{by}");
    // Back to a cluster IP alone: the doors are shut, the service goes on.
    node.service("web", service("100.65.0.7"));
    node.wait_for("the node port to be shut", || {
        Ok(node.outside.connect(&doors[0]).is_err())
    })?;
    everybody(&pod, "100.65.0.7:80", &all).map(drop)
}

pub(crate) fn local_traffic_policy_keeps_the_source_and_drops_where_nobody_is(node: &mut Node) -> Result<()> {
    let (pod, a) = node.pod()?;
    node.outside.listen(REMOTE_POD, 8080)?;
    node.start()?;
    let local = Service {
        external_local: true,
        ..exposed()
    };
    node.service("web", local.clone());
    node.endpoints("web", &[&a, REMOTE_POD]);
    node.synced()?;
    let all = [a.as_str(), REMOTE_POD];
    let doors = [format!("{NODE_ADDRESS}:30080"), format!("{NODE_ADDRESS}:80")];
    for door in &doors {
        for _ in 0..20 {
            ensure!(node.outside.connect_from(CLIENT, door)? == (a.clone(), CLIENT.into()));
        }
        // Those inside have all endpoints.
        everybody(&pod, door, &all)?;
        everybody(&node.here, door, &all)?;
    }
    node.endpoints("web", &[REMOTE_POD]);
    node.wait_for_rule(&a, false)?;
    for door in &doors {
        ensure!(node.outside.ignored(door)?, "{door}");
        everybody(&pod, door, &[REMOTE_POD])?;
        everybody(&node.here, door, &[REMOTE_POD])?;
    }
    // The same for the inside.
    node.service(
        "web",
        Service {
            internal_local: true,
            ..local
        },
    );
    node.wait_for("cluster IP to be dropped", || {
        pod.ignored("100.65.0.7:80").or(Ok(false))
    })?;
    node.endpoints("web", &[REMOTE_POD, &a]);
    node.wait_for("the local endpoint", || Ok(pod.connect("100.65.0.7:80").is_ok()))?;
    everybody(&pod, "100.65.0.7:80", &[&a]).map(drop)
}

/// As the API of a control plane is, and every pod in the network of its node.
pub(crate) fn endpoint_in_the_nodes_own_network_is_reached_from_everywhere(node: &mut Node) -> Result<()> {
    let (client, _) = node.pod()?;
    node.here.listen(NODE_ADDRESS, 8080)?;
    let mut api = Service {
        kind: ServiceType::NodePort,
        ..service("100.65.0.1")
    };
    api.ports[0].node_port = Some(30443);
    node.start()?;
    node.service("kubernetes", api.clone());
    node.endpoints("kubernetes", &[NODE_ADDRESS]);
    node.synced()?;
    let by_port = format!("{NODE_ADDRESS}:30443");
    for door in ["100.65.0.1:80", &by_port] {
        for (who, place) in [
            ("a pod", &client),
            ("the node", &node.here),
            ("another node", &node.outside),
        ] {
            let (answers, _) = place.connect(door).with_context(|| format!("{who} by {door}"))?;
            ensure!(answers == NODE_ADDRESS, "{answers} to {who} by {door}");
        }
    }
    Ok(())
}

pub(crate) fn pods_go_out_under_the_nodes_address(node: &mut Node) -> Result<()> {
    let (pod, a) = node.pod()?;
    node.outside.listen(INTERNET, 80)?;
    node.outside.listen(REMOTE_POD, 8080)?;
    // The range comes after the start, as on a node's first day.
    let own = node.own.send_replace(None);
    node.start()?;
    node.wait_for_rule("postrouting", true)?;
    ensure!(!crate::node::table()?.contains("oifname"));
    node.own.send_replace(own);
    node.wait_for_rule("oifname != \"cni0\" masquerade", true)?;
    ensure!(pod.connect(&format!("{INTERNET}:80"))?.1 == NODE_ADDRESS);
    ensure!(pod.connect(&format!("{REMOTE_POD}:8080"))?.1 == a);
    Ok(())
}

pub(crate) fn endpoints_that_stop_serve_as_long_as_no_other_does(node: &mut Node) -> Result<()> {
    let (pod, a) = node.pod()?;
    let (_, b) = node.pod()?;
    node.start()?;
    node.service("web", service("100.65.0.7"));
    node.endpoints("web", &[&format!("~{a}"), &format!("!{b}")]);
    node.synced()?;
    everybody(&pod, "100.65.0.7:80", &[&a])?;
    node.endpoints("web", &[&format!("~{a}"), &b]);
    node.wait_for_rule(&format!(". 0 : {a} . 8080"), false)?;
    everybody(&pod, "100.65.0.7:80", &[&b]).map(drop)
}
