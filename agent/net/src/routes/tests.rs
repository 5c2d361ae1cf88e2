//! Tables: what is known, what the kernel has, what is to be done.

use super::*;

fn range(text: &str) -> Range {
    text.parse().unwrap()
}

fn link(interface: &str, address: &str, prefix: u8) -> LinkAddress {
    LinkAddress {
        interface: interface.into(),
        address: address.parse().unwrap(),
        prefix,
        own: false,
    }
}

fn ranges() -> Ranges {
    Ranges {
        pods: range("100.64.0.0/16"),
        services: Some(range("100.65.0.0/16")),
        dns: Some("100.65.0.10".parse().unwrap()),
    }
}

/// A node on 10.77.0.0/24 on which all is as it ought to be, but for routes to peers.
fn node() -> Observed {
    let dns = LinkAddress {
        own: true,
        ..link("lo", "100.65.0.10", 32)
    };
    Observed {
        routes: vec![services()],
        reach: vec![range("10.77.0.0/24")],
        addresses: vec![
            link("lo", "127.0.0.1", 8),
            dns,
            link("eth0", "10.77.0.1", 24),
            link("cni0", "100.64.0.1", 24),
        ],
        mtus: [("eth0".to_owned(), 1500), ("cni0".to_owned(), 1500)].into(),
        bridge: Some(Bridge { up: true, mtu: 1500 }),
        tunnel: None,
    }
}

fn with_routes(routes: &[Route]) -> Observed {
    let mut observed = node();
    observed.routes.extend(routes);
    observed
}

fn with_address(address: LinkAddress) -> Observed {
    let mut observed = node();
    observed.addresses.push(address);
    observed
}

fn services() -> Route {
    Route {
        destination: range("100.65.0.0/16"),
        hop: Hop::Bridge("100.64.0.1".parse().unwrap()),
    }
}

fn peer(name: &str, address: &str, pod_cidr: &str) -> Peer {
    Peer {
        name: name.into(),
        addresses: vec!["fe80::1".parse().unwrap(), address.parse().unwrap()],
        pod_cidr: Some(range(pod_cidr)),
    }
}

fn route(destination: &str, gateway: &str) -> Route {
    Route {
        destination: range(destination),
        hop: Hop::Gateway(gateway.parse().unwrap()),
    }
}

fn cluster() -> Peers {
    Peers {
        synced: true,
        own: Some(range("100.64.0.0/24")),
        peers: vec![
            peer("pi-2", "10.77.0.2", "100.64.1.0/24"),
            peer("pi-3", "10.77.0.3", "100.64.2.0/24"),
        ],
    }
}

fn reasons(desired: &Desired) -> Vec<Reason> {
    desired.problems.iter().map(|problem| problem.reason).collect()
}

const ON_LINK: [(&str, &str); 2] = [("100.64.1.0/24", "10.77.0.2"), ("100.64.2.0/24", "10.77.0.3")];

fn peer_routes() -> Vec<Route> {
    ON_LINK
        .iter()
        .map(|(destination, gateway)| route(destination, gateway))
        .collect()
}

#[test]
fn every_peer_on_the_link_is_routed() {
    let desired = desired(&ranges(), &cluster(), &node());
    let mut expected = peer_routes();
    expected.push(services());
    assert_eq!(desired.routes, expected);
    assert_eq!(desired.problems, []);
    assert_eq!(desired.tunnel, None);
    let actions = plan(&desired, &node(), true);
    assert_eq!(
        actions,
        peer_routes().into_iter().map(Action::Replace).collect::<Vec<_>>()
    );
    assert_eq!(plan(&desired, &with_routes(&peer_routes()), true), []);
}

#[test]
fn fresh_node_gets_a_bridge_its_address_and_that_of_dns() {
    let mut fresh = node();
    (fresh.bridge, fresh.routes) = (None, vec![]);
    fresh.addresses.retain(|address| address.interface == "eth0");
    let mut peers = cluster();
    peers.peers.clear();
    let mut desired = desired(&ranges(), &peers, &fresh);
    desired.pod_mtu = Some(1500);
    let gateway = link("cni0", "100.64.0.1", 24);
    let dns = LinkAddress {
        own: true,
        ..link("lo", "100.65.0.10", 32)
    };
    assert_eq!(
        plan(&desired, &fresh, true),
        [
            Action::MakeBridge([2, 0x6d, 100, 64, 0, 1]),
            Action::SetMtu(BRIDGE, 1500),
            Action::AddAddress(gateway),
            Action::AddAddress(dns),
            Action::Replace(services()),
        ]
    );
    assert_eq!(plan(&desired, &node(), true), []);
}

#[test]
fn former_address_of_dns_goes_and_those_of_others_on_lo_stay() {
    let mut observed = with_address(link("lo", "100.65.0.77", 32));
    let former = LinkAddress {
        own: true,
        ..link("lo", "100.65.0.11", 32)
    };
    observed.addresses.push(former.clone());
    observed.routes.extend(peer_routes());
    let desired = desired(&ranges(), &cluster(), &observed);
    assert_eq!(plan(&desired, &observed, true), [Action::RemoveAddress(former)]);
}

#[test]
fn moved_peer_is_routed_to_its_new_address() {
    let observed = with_routes(&[
        route("100.64.1.0/24", "10.77.0.99"),
        route("100.64.2.0/24", "10.77.0.3"),
    ]);
    let desired = desired(&ranges(), &cluster(), &observed);
    assert_eq!(
        plan(&desired, &observed, true),
        [Action::Replace(route("100.64.1.0/24", "10.77.0.2"))]
    );
}

#[test]
fn route_is_deleted_only_when_the_list_of_nodes_is_whole() {
    let mut peers = cluster();
    peers.peers.pop();
    let observed = with_routes(&peer_routes());
    let desired = desired(&ranges(), &peers, &observed);
    assert_eq!(plan(&desired, &observed, false), []);
    assert_eq!(
        plan(&desired, &observed, true),
        [Action::Delete(route("100.64.2.0/24", "10.77.0.3"))]
    );
}

#[test]
fn peer_that_no_route_leads_to_is_named_and_its_route_left_alone() {
    let mut peers = cluster();
    peers.peers[1].addresses = vec!["192.168.7.3".parse().unwrap()];
    let observed = with_routes(&peer_routes());
    let desired = desired(&ranges(), &peers, &observed);
    assert_eq!(reasons(&desired), [Reason::PeerOutOfReach]);
    assert!(desired.problems[0].message.contains("pi-3"));
    assert_eq!(plan(&desired, &observed, true), []);
}

#[test]
fn second_address_is_used_when_the_first_is_not_on_the_link() {
    let mut peers = cluster();
    peers.peers[0].addresses = vec!["192.168.7.2".parse().unwrap(), "10.77.0.2".parse().unwrap()];
    let mut observed = node();
    observed.reach.push(range("0.0.0.0/0"));
    assert_eq!(
        desired(&ranges(), &peers, &observed).routes[0],
        route("100.64.1.0/24", "10.77.0.2")
    );
}

/// pi-3 is on another network, behind the default route.
fn split() -> (Peers, Observed) {
    let mut peers = cluster();
    peers.peers[1].addresses = vec!["100.64.2.0".parse().unwrap(), "192.168.7.3".parse().unwrap()];
    let mut observed = with_routes(&[peer_routes()[0]]);
    observed.reach.push(range("0.0.0.0/0"));
    (peers, observed)
}

fn tunnelled() -> Route {
    Route {
        destination: range("100.64.2.0/24"),
        hop: Hop::Tunnel("100.64.2.0".parse().unwrap()),
    }
}

const REMOTE: Remote = Remote {
    address: Ipv4Addr::new(100, 64, 2, 0),
    node: Ipv4Addr::new(192, 168, 7, 3),
};

#[test]
fn peer_beyond_a_router_is_reached_through_the_tunnel() {
    let (peers, observed) = split();
    let desired = desired(&ranges(), &peers, &observed);
    assert_eq!(desired.problems, []);
    let end = End::of(range("100.64.0.0/24"));
    assert_eq!((desired.tunnel, desired.remotes.as_slice()), (Some(end), &[REMOTE][..]));
    assert_eq!(
        plan(&desired, &observed, true),
        [
            Action::MakeTunnel(end, 1450),
            Action::AddAddress(link(vxlan::DEVICE, "100.64.0.0", 32)),
            Action::SetRemote(REMOTE),
            Action::Replace(tunnelled()),
        ]
    );
}

/// The tunnel of `split` as it ought to be.
fn with_tunnel() -> (Peers, Observed) {
    let (peers, mut observed) = split();
    let mac = vxlan::mac(REMOTE.address);
    observed.tunnel = Some(vxlan::Device {
        mac: End::of(range("100.64.0.0/24")).mac,
        network: Some(vxlan::NETWORK),
        port: Some(vxlan::PORT),
        mtu: 1450,
        neighbours: vec![(REMOTE.address, mac)],
        forwarding: vec![(mac, REMOTE.node)],
    });
    observed.addresses.push(link(vxlan::DEVICE, "100.64.0.0", 32));
    observed.routes.push(tunnelled());
    (peers, observed)
}

#[test]
fn tunnel_that_is_as_it_ought_to_be_is_left_alone() {
    let (peers, observed) = with_tunnel();
    assert_eq!(plan(&desired(&ranges(), &peers, &observed), &observed, true), []);
}

#[test]
fn tunnel_follows_a_peer_to_its_new_address() {
    let (mut peers, observed) = with_tunnel();
    peers.peers[1].addresses = vec!["192.168.7.4".parse().unwrap()];
    let moved = Remote {
        node: "192.168.7.4".parse().unwrap(),
        ..REMOTE
    };
    assert_eq!(
        plan(&desired(&ranges(), &peers, &observed), &observed, true),
        [Action::SetRemote(moved)]
    );
}

#[test]
fn tunnel_goes_when_its_last_peer_comes_onto_the_link_but_not_when_that_is_out_of_reach() {
    let (mut peers, mut observed) = with_tunnel();
    observed.reach.pop();
    let gone = desired(&ranges(), &peers, &observed);
    assert_eq!(reasons(&gone), [Reason::PeerOutOfReach]);
    assert_eq!(plan(&gone, &observed, true), []);
    peers.peers[1].addresses = vec!["10.77.0.3".parse().unwrap()];
    let back = desired(&ranges(), &peers, &observed);
    assert_eq!(
        plan(&back, &observed, true),
        [Action::Replace(peer_routes()[1]), Action::RemoveTunnel]
    );
    assert_eq!(
        plan(&back, &observed, false),
        [Action::Replace(peer_routes()[1])],
        "another peer may need it still"
    );
}

#[test]
fn forgotten_peer_is_forgotten_by_the_tunnel_too() {
    let (mut peers, mut observed) = with_tunnel();
    let other = Remote {
        address: "100.64.9.0".parse().unwrap(),
        node: "192.168.7.9".parse().unwrap(),
    };
    let mac = vxlan::mac(other.address);
    let tunnel = observed.tunnel.as_mut().unwrap();
    tunnel.neighbours.push((other.address, mac));
    tunnel.forwarding.push((mac, other.node));
    let known = desired(&ranges(), &peers, &observed);
    assert_eq!(plan(&known, &observed, false), []);
    assert_eq!(
        plan(&known, &observed, true),
        [
            Action::RemoveNeighbour(other.address),
            Action::RemoveForwarding(mac, other.node)
        ]
    );
    peers.peers.push(Peer {
        name: "pi-9".into(),
        addresses: vec![],
        pod_cidr: Some(range("100.64.9.0/24")),
    });
    let resting = desired(&ranges(), &peers, &observed);
    assert_eq!(plan(&resting, &observed, true), [], "it exists, but has no address now");
}

#[test]
fn device_that_cannot_serve_is_made_anew_with_all_that_led_into_it() {
    let (peers, mut observed) = with_tunnel();
    observed.tunnel.as_mut().unwrap().port = Some(8472);
    let end = End::of(range("100.64.0.0/24"));
    assert_eq!(
        plan(&desired(&ranges(), &peers, &observed), &observed, true),
        [
            Action::RemoveTunnel,
            Action::MakeTunnel(end, 1450),
            Action::AddAddress(link(vxlan::DEVICE, "100.64.0.0", 32)),
            Action::SetRemote(REMOTE),
            Action::Replace(tunnelled()),
        ]
    );
}

#[test]
fn smallest_network_decides_how_large_packets_may_be() {
    let (peers, mut observed) = with_tunnel();
    observed.addresses.push(link("wlan0", "10.88.0.1", 24));
    observed.mtus.insert("wlan0".into(), 1400);
    observed.mtus.insert("veth1".into(), 600);
    let desired = desired(&ranges(), &peers, &observed);
    assert_eq!(desired.uplink_mtu, Some(1400));
    assert_eq!(
        plan(&desired, &observed, true),
        [Action::SetMtu(vxlan::DEVICE, 1350)],
        "that of the bridge is the caller's to decide"
    );
}

#[test]
fn bad_ranges_are_refused_by_name() {
    for (own, others, expected) in [
        (None, vec![], vec![Reason::NoPodRange]),
        (Some("10.0.0.0/24"), vec![], vec![Reason::BadPodRange]),
        (Some("100.64.0.0/31"), vec![], vec![Reason::BadPodRange]),
        (
            Some("100.64.1.0/24"),
            vec![peer("pi-2", "10.77.0.2", "100.64.1.0/24")],
            vec![Reason::BadPodRange],
        ),
        (
            Some("100.64.0.0/24"),
            vec![peer("pi-2", "10.77.0.2", "100.99.0.0/24")],
            vec![Reason::BadPodRange],
        ),
        (
            Some("100.64.0.0/24"),
            vec![
                peer("pi-2", "10.77.0.2", "100.64.1.0/24"),
                peer("pi-3", "10.77.0.3", "100.64.1.128/25"),
            ],
            vec![Reason::BadPodRange],
        ),
    ] {
        let peers = Peers {
            synced: true,
            own: own.map(range),
            peers: others,
        };
        let desired = desired(&ranges(), &peers, &node());
        assert_eq!(reasons(&desired), expected, "{peers:?}");
    }
}

#[test]
fn overlap_with_the_lan_is_reported_but_not_with_our_own_devices() {
    let (peers, observed) = with_tunnel();
    assert_eq!(desired(&ranges(), &peers, &observed).problems, []);
    let pods = desired(&ranges(), &cluster(), &with_address(link("wlan0", "100.64.9.7", 22)));
    assert_eq!(reasons(&pods), [Reason::PodRangeOverlapsLan]);
    assert!(
        pods.problems[0].message.contains("100.64.8.0/22 on wlan0"),
        "{:?}",
        pods.problems
    );
    let both = desired(&ranges(), &cluster(), &with_address(link("wlan0", "100.70.0.1", 10)));
    assert_eq!(
        reasons(&both),
        [Reason::PodRangeOverlapsLan, Reason::ServiceRangeOverlapsLan]
    );
    let services = desired(&ranges(), &cluster(), &with_address(link("wlan0", "100.65.7.9", 24)));
    assert_eq!(reasons(&services), [Reason::ServiceRangeOverlapsLan]);
}

#[test]
fn bridge_forgets_a_former_range() {
    let mut peers = cluster();
    peers.own = Some(range("100.64.9.0/24"));
    let observed = with_routes(&peer_routes());
    let desired = desired(&ranges(), &peers, &observed);
    let hop = Hop::Bridge("100.64.9.1".parse().unwrap());
    assert_eq!(
        plan(&desired, &observed, true),
        [
            Action::RemoveAddress(link("cni0", "100.64.0.1", 24)),
            Action::AddAddress(link("cni0", "100.64.9.1", 24)),
            Action::Replace(Route { hop, ..services() }),
        ]
    );
}
