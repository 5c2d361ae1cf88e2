//! Conversations and clients that the kernel remembers.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use minidc_net::facts::{Service, ServiceType};

use crate::node::{CLIENT, NODE_ADDRESS, Node, ask, command, service, table};

pub(crate) fn udp_conversations_leave_an_endpoint_that_went(node: &mut Node) -> Result<()> {
    let (client, _) = node.pod()?;
    let (_, a) = node.pod()?;
    let (_, b) = node.pod()?;
    node.start()?;
    let mut dns = Service {
        kind: ServiceType::NodePort,
        ..service("100.65.0.7")
    };
    dns.ports[1].node_port = Some(30053);
    node.service("dns", dns);
    node.service("other", service("100.65.0.8"));
    node.endpoints("dns", &[&a]);
    node.endpoints("other", &[&a]);
    node.synced()?;
    let doors = ["100.65.0.7:53".to_owned(), format!("{NODE_ADDRESS}:30053")];
    let inside = client.udp("0.0.0.0")?;
    let outside = node.outside.udp(CLIENT)?;
    let other = client.udp("0.0.0.0")?;
    ensure!(ask(&inside, &doors[0])?.0 == a);
    ensure!(ask(&outside, &doors[1])?.0 == a);
    ensure!(ask(&other, "100.65.0.8:53")?.0 == a);
    // It stops, and serves those that it has until it is gone.
    node.endpoints("dns", &[&format!("~{a}"), &b]);
    node.wait_for_rule(&format!("100.65.0.7 . udp . 53 . 0 : {b}"), true)?;
    ensure!(ask(&inside, &doors[0])?.0 == a);
    ensure!(ask(&client.udp("0.0.0.0")?, &doors[0])?.0 == b);
    node.endpoints("dns", &[&b]);
    node.wait_for(
        "the conversation inside to move",
        || Ok(ask(&inside, &doors[0])?.0 == b),
    )?;
    node.wait_for("the conversation from outside to move", || {
        Ok(ask(&outside, &doors[1])?.0 == b)
    })?;
    ensure!(
        ask(&other, "100.65.0.8:53")?.0 == a,
        "another service's conversation moved"
    );
    node.remove("dns");
    node.wait_for("the conversation to end with the service", || {
        Ok(ask(&inside, &doors[0]).is_err())
    })
}

pub(crate) fn udp_conversation_that_went_astray_finds_the_first_endpoint(node: &mut Node) -> Result<()> {
    let (_, a) = node.pod()?;
    node.start()?;
    node.synced()?;
    // Nobody knows the port yet; the node remembers the conversation as one with itself.
    let socket = node.outside.udp(CLIENT)?;
    let door = format!("{NODE_ADDRESS}:30053");
    node.here.listen("10.9.0.1", 30053)?;
    ensure!(ask(&socket, &door)?.0 == NODE_ADDRESS);
    let mut dns = Service {
        kind: ServiceType::NodePort,
        ..service("100.65.0.7")
    };
    dns.ports[1].node_port = Some(30053);
    node.service("dns", dns);
    node.endpoints("dns", &[&a]);
    node.wait_for("the conversation to reach the endpoint", || {
        Ok(ask(&socket, &door)?.0 == a)
    })
}

pub(crate) fn udp_conversation_ends_with_a_service_that_went_during_a_restart(node: &mut Node) -> Result<()> {
    let (client, _) = node.pod()?;
    let (_, a) = node.pod()?;
    node.start()?;
    node.service("dns", service("100.65.0.7"));
    node.endpoints("dns", &[&a]);
    node.synced()?;
    let socket = client.udp("0.0.0.0")?;
    ensure!(ask(&socket, "100.65.0.7:53")?.0 == a);
    node.stop()?;
    node.start()?;
    ensure!(ask(&socket, "100.65.0.7:53")?.0 == a, "nothing was told yet");
    node.synced()?;
    node.wait_for("the conversation to end", || Ok(ask(&socket, "100.65.0.7:53").is_err()))
}

pub(crate) fn clients_leave_an_endpoint_that_the_traffic_policy_keeps_them_from(node: &mut Node) -> Result<()> {
    let (_, a) = node.pod()?;
    let remote = "100.64.1.5";
    node.outside.listen(remote, 8080)?;
    let mut web = Service {
        kind: ServiceType::NodePort,
        ..with_affinity()
    };
    web.ports[0].node_port = Some(30080);
    node.start()?;
    node.service("web", web.clone());
    node.endpoints("web", &[remote]);
    node.synced()?;
    let door = format!("{NODE_ADDRESS}:30080");
    let led = |node: &Node| -> Result<String> { Ok(node.outside.connect_from(CLIENT, &door)?.0) };
    ensure!(led(node)? == remote);
    node.endpoints("web", &[remote, &a]);
    node.wait_for_rule(&format!(": {a} . 8080"), true)?;
    ensure!(led(node)? == remote, "it stays with its endpoint");
    web.external_local = true;
    node.service("web", web);
    node.wait_for("the client to be led to this node's endpoint", || {
        Ok(led(node).is_ok_and(|to| to == a))
    })
}

pub(crate) fn many_clients_are_forgotten_at_once_and_nothing_else_changes(node: &mut Node) -> Result<()> {
    let (_, a) = node.pod()?;
    let (_, b) = node.pod()?;
    // Every address of the range is a client's.
    command("ip -n outside route add local 10.20.0.0/16 dev lo")?;
    let mut web = Service {
        kind: ServiceType::NodePort,
        ..with_affinity()
    };
    web.ports[0].node_port = Some(30080);
    node.start()?;
    node.service("web", web);
    node.endpoints("web", &[&a]);
    node.synced()?;
    let clients: Vec<Ipv4Addr> = (0..1_200_u16)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            Ipv4Addr::new(10, 20, high, low)
        })
        .collect();
    let door = format!("{NODE_ADDRESS}:30080");
    node.outside.connect_often(&clients, &door, clients.len())?;
    ensure!(table()?.matches("expires").count() > 1_000);
    // Rules that are written anew have other handles.
    let rules = || command("nft -a list chain ip minidc prerouting");
    let before = rules()?;
    node.endpoints("web", &[&b]);
    node.wait_for("the clients to be forgotten", || Ok(!table()?.contains("expires")))?;
    node.endpoints("web", &[&a, &b]);
    node.wait_for_rule(&format!(": {a} . 8080"), true)?;
    ensure!(rules()? == before, "{before}\n{}", rules()?);
    Ok(())
}

fn sticky(node: &mut Node, service: Service, door: &str) -> Result<()> {
    let mut pods = Vec::new();
    for _ in 0..5 {
        pods.push(node.pod()?);
    }
    let addresses: Vec<String> = pods.iter().map(|(_, address)| address.clone()).collect();
    let all: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let (clients, endpoints) = all.split_at(1);
    let client = &pods[0].0;
    node.start()?;
    node.service("web", service);
    node.endpoints("web", endpoints);
    node.synced()?;
    let answers =
        |times: usize| -> Result<BTreeSet<String>> { (0..times).map(|_| Ok(client.connect(door)?.0)).collect() };
    let chosen = answers(30)?;
    ensure!(chosen.len() == 1, "{clients:?} was led to {chosen:?}");
    let chosen = chosen.into_iter().next().context("nobody")?;
    ensure!(table()?.contains("timeout 1h30m"), "{}", table()?);
    // One more, one less of the others, a restart: nothing to that client.
    let without = |gone: &str| -> Vec<&str> { endpoints.iter().copied().filter(|address| *address != gone).collect() };
    let other = without(&chosen)[0];
    node.endpoints("web", &without(other));
    node.wait_for_rule(&format!(": {other} . 8080"), false)?;
    ensure!(answers(10)? == BTreeSet::from([chosen.clone()]));
    node.endpoints("web", endpoints);
    node.wait_for_rule(&format!(": {other} . 8080"), true)?;
    node.stop()?;
    node.start()?;
    node.tell_services();
    node.endpoints("web", endpoints);
    node.synced()?;
    ensure!(answers(10)? == BTreeSet::from([chosen.clone()]));
    // Its endpoint goes: another takes over for good, also when the first comes back.
    node.endpoints("web", &without(&chosen));
    node.wait_for_rule(&format!(": {chosen} . 8080"), false)?;
    let next = answers(10)?;
    ensure!(next.len() == 1 && !next.contains(&chosen), "{next:?}");
    node.endpoints("web", endpoints);
    node.wait_for_rule(&format!(": {chosen} . 8080"), true)?;
    ensure!(answers(10)? == next);
    // Other clients are led elsewhere.
    let mut led = BTreeSet::new();
    for number in 200..240 {
        command(&format!("ip -n pod-2 address add 100.64.0.{number}/24 dev eth0"))?;
        led.insert(client.connect_from(&format!("100.64.0.{number}"), door)?.0);
    }
    ensure!(led.len() > 1, "{led:?}");
    node.remove("web");
    node.wait_for("the clients to be forgotten", || Ok(!table()?.contains("expires")))
}

fn with_affinity() -> Service {
    Service {
        affinity: Some(Duration::from_secs(5_400)),
        ..service("100.65.0.7")
    }
}

pub(crate) fn clients_stay_with_their_endpoint(node: &mut Node) -> Result<()> {
    sticky(node, with_affinity(), "100.65.0.7:80")
}

pub(crate) fn clients_stay_with_their_endpoint_by_a_node_port(node: &mut Node) -> Result<()> {
    let mut service = Service {
        kind: ServiceType::NodePort,
        ..with_affinity()
    };
    service.ports[0].node_port = Some(30080);
    sticky(node, service, "100.64.0.1:30080")
}
