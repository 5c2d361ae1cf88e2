//! Which routes lead to the other nodes' pods, and what is to be changed so that they do. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use crate::{Peer, Peers, Problem, Range, Reason, conflist::BRIDGE};

/// A route to the pods of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The other node's pods.
    pub destination: Range,
    /// The other node, on a link of this one.
    pub gateway: Ipv4Addr,
}

/// An IPv4 address of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    /// Name of the interface.
    pub interface: String,
    /// The address.
    pub address: Ipv4Addr,
    /// Prefix length of the interface's network.
    pub prefix: u8,
}

impl LinkAddress {
    fn range(&self) -> Range {
        Range::around(self.address, self.prefix)
    }

    /// Whether the address belongs to a network outside the node, not to pods or the node itself.
    fn is_lan(&self) -> bool {
        !self.address.is_loopback() && self.interface != BRIDGE && !self.interface.starts_with("veth")
    }
}

/// What the kernel has now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Routes with our protocol number in the main table.
    pub routes: Vec<Route>,
    /// IPv4 addresses of all interfaces.
    pub addresses: Vec<LinkAddress>,
}

/// What the kernel ought to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Routes to all nodes that can be reached.
    pub routes: Vec<Route>,
    /// Ranges of nodes that exist but cannot be reached now: their routes are left as they are.
    pub unreachable: Vec<Range>,
    /// This node's pod range, when it has a usable one.
    pub own: Option<Range>,
    /// Everything that is wrong, the worst first.
    pub problems: Vec<Problem>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Add the route, or lead the present one to this gateway.
    Replace(Route),
    /// Remove the route.
    Delete(Route),
    /// Remove an address of the pod bridge that belongs to a former range of this node.
    RemoveBridgeAddress(LinkAddress),
}

/// Works out the routes from what is known of the cluster; `pods` is the range that all nodes' ranges are cut from.
#[must_use]
pub fn desired(pods: Range, peers: &Peers, addresses: &[LinkAddress]) -> Desired {
    let mut desired = Desired::default();
    let own_problem = match peers.own {
        None => Some((
            Reason::NoPodRange,
            "the control plane has not given this node a pod range yet".to_owned(),
        )),
        Some(own) if !pods.covers(own) => Some((
            Reason::BadPodRange,
            format!("this node's pod range {own} is not within the cluster's {pods}"),
        )),
        // Network, gateway and broadcast address and at least one pod.
        Some(own) if own.prefix() > 30 => Some((
            Reason::BadPodRange,
            format!("this node's pod range {own} has no room for a pod"),
        )),
        Some(own) => {
            desired.own = Some(own);
            None
        }
    };
    if let Some((reason, message)) = own_problem {
        desired.problems.push(Problem { reason, message });
    }
    for lan in addresses
        .iter()
        .filter(|address| address.is_lan() && address.range().overlaps(pods))
    {
        desired.problems.push(Problem {
            reason: Reason::PodRangeOverlapsLan,
            message: format!(
                "the network {} on {} overlaps the pod range {pods}: hosts there may be out of reach",
                lan.range(),
                lan.interface
            ),
        });
    }
    let mut taken: BTreeMap<Range, &str> = BTreeMap::new();
    for peer in &peers.peers {
        let Some(range) = peer.pod_cidr else { continue };
        if let Some(message) = unusable(pods, desired.own, &taken, peer, range) {
            desired.problems.push(Problem {
                reason: Reason::BadPodRange,
                message,
            });
            continue;
        }
        taken.insert(range, &peer.name);
        if let Some(gateway) = gateway(pods, peer, addresses) {
            desired.routes.push(Route {
                destination: range,
                gateway,
            });
        } else {
            desired.unreachable.push(range);
            desired.problems.push(Problem {
                reason: Reason::PeerNotOnLink,
                message: format!("node {} has no address on a link of this node", peer.name),
            });
        }
    }
    desired.routes.sort_unstable();
    desired
}

/// Why a peer's range cannot be routed, if so.
fn unusable(
    pods: Range,
    own: Option<Range>,
    taken: &BTreeMap<Range, &str>,
    peer: &Peer,
    range: Range,
) -> Option<String> {
    if !pods.covers(range) {
        return Some(format!(
            "pod range {range} of node {} is not within the cluster's {pods}",
            peer.name
        ));
    }
    if own.is_some_and(|own| own.overlaps(range)) {
        return Some(format!("pod range {range} of node {} overlaps this node's", peer.name));
    }
    let (_, other) = taken.iter().find(|(other, _)| other.overlaps(range))?;
    Some(format!(
        "pod range {range} of node {} overlaps that of node {other}",
        peer.name
    ))
}

/// The first address of the peer that lies in a network of one of this node's links.
fn gateway(pods: Range, peer: &Peer, addresses: &[LinkAddress]) -> Option<Ipv4Addr> {
    peer.addresses.iter().find_map(|address| {
        let IpAddr::V4(address) = *address else { return None };
        let on_link = addresses
            .iter()
            .any(|link| link.is_lan() && link.range().contains(address) && link.address != address);
        (on_link && !pods.contains(address)).then_some(address)
    })
}

/// The changes that lead from `observed` to `desired`. Routes to nodes that are not known are deleted only when the list
/// of nodes is whole (`synced`).
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed, synced: bool) -> Vec<Action> {
    let mut actions = Vec::new();
    for address in observed.addresses.iter().filter(|address| address.interface == BRIDGE) {
        if desired.own.is_some_and(|own| !own.contains(address.address)) {
            actions.push(Action::RemoveBridgeAddress(address.clone()));
        }
    }
    if synced {
        for route in &observed.routes {
            let known = desired
                .routes
                .iter()
                .any(|wanted| wanted.destination == route.destination)
                || desired.unreachable.contains(&route.destination);
            if !known {
                actions.push(Action::Delete(*route));
            }
        }
    }
    for route in &desired.routes {
        if !observed.routes.contains(route) {
            actions.push(Action::Replace(*route));
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        text.parse().unwrap()
    }

    fn link(interface: &str, address: &str, prefix: u8) -> LinkAddress {
        LinkAddress {
            interface: interface.into(),
            address: address.parse().unwrap(),
            prefix,
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
            gateway: gateway.parse().unwrap(),
        }
    }

    fn pods() -> Range {
        range("100.64.0.0/16")
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

    fn lan() -> Vec<LinkAddress> {
        vec![
            link("lo", "127.0.0.1", 8),
            link("eth0", "10.77.0.1", 24),
            link("cni0", "100.64.0.1", 24),
        ]
    }

    fn reasons(desired: &Desired) -> Vec<Reason> {
        desired.problems.iter().map(|problem| problem.reason).collect()
    }

    #[test]
    fn every_peer_on_the_link_is_routed() {
        let desired = desired(pods(), &cluster(), &lan());
        assert_eq!(
            desired.routes,
            [route("100.64.1.0/24", "10.77.0.2"), route("100.64.2.0/24", "10.77.0.3")]
        );
        assert_eq!(desired.problems, []);
        let actions = plan(
            &desired,
            &Observed {
                routes: vec![],
                addresses: lan(),
            },
            true,
        );
        assert_eq!(
            actions,
            desired.routes.iter().copied().map(Action::Replace).collect::<Vec<_>>()
        );
        assert_eq!(
            plan(
                &desired,
                &Observed {
                    routes: desired.routes.clone(),
                    addresses: lan()
                },
                true
            ),
            []
        );
    }

    #[test]
    fn moved_peer_is_routed_to_its_new_address() {
        let desired = desired(pods(), &cluster(), &lan());
        let routes = vec![
            route("100.64.1.0/24", "10.77.0.99"),
            route("100.64.2.0/24", "10.77.0.3"),
        ];
        let observed = Observed {
            routes,
            addresses: lan(),
        };
        assert_eq!(
            plan(&desired, &observed, true),
            [Action::Replace(route("100.64.1.0/24", "10.77.0.2"))]
        );
    }

    #[test]
    fn route_is_deleted_only_when_the_list_of_nodes_is_whole() {
        let mut peers = cluster();
        peers.peers.pop();
        let desired = desired(pods(), &peers, &lan());
        let routes = vec![route("100.64.1.0/24", "10.77.0.2"), route("100.64.2.0/24", "10.77.0.3")];
        let observed = Observed {
            routes,
            addresses: lan(),
        };
        assert_eq!(plan(&desired, &observed, false), []);
        assert_eq!(
            plan(&desired, &observed, true),
            [Action::Delete(route("100.64.2.0/24", "10.77.0.3"))]
        );
    }

    #[test]
    fn peer_beyond_a_router_is_named_and_its_route_left_alone() {
        let mut peers = cluster();
        peers.peers[1].addresses = vec!["192.168.7.3".parse().unwrap()];
        let desired = desired(pods(), &peers, &lan());
        assert_eq!(reasons(&desired), [Reason::PeerNotOnLink]);
        assert!(desired.problems[0].message.contains("pi-3"));
        let routes = vec![route("100.64.1.0/24", "10.77.0.2"), route("100.64.2.0/24", "10.77.0.3")];
        assert_eq!(
            plan(
                &desired,
                &Observed {
                    routes,
                    addresses: lan()
                },
                true
            ),
            []
        );
    }

    #[test]
    fn second_address_is_used_when_the_first_is_not_on_the_link() {
        let mut peers = cluster();
        peers.peers[0].addresses = vec!["192.168.7.2".parse().unwrap(), "10.77.0.2".parse().unwrap()];
        assert_eq!(
            desired(pods(), &peers, &lan()).routes[0],
            route("100.64.1.0/24", "10.77.0.2")
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
            let desired = desired(pods(), &peers, &lan());
            assert_eq!(reasons(&desired), expected, "{peers:?}");
        }
    }

    #[test]
    fn overlap_with_the_lan_is_reported_but_not_with_our_own_bridge() {
        let mut addresses = lan();
        assert_eq!(desired(pods(), &cluster(), &addresses).problems, []);
        addresses.push(link("wlan0", "100.64.9.7", 22));
        let desired = desired(pods(), &cluster(), &addresses);
        assert_eq!(reasons(&desired), [Reason::PodRangeOverlapsLan]);
        assert!(
            desired.problems[0].message.contains("100.64.8.0/22 on wlan0"),
            "{:?}",
            desired.problems
        );
    }

    #[test]
    fn bridge_forgets_a_former_range() {
        let mut peers = cluster();
        peers.own = Some(range("100.64.9.0/24"));
        let desired = desired(pods(), &peers, &lan());
        let observed = Observed {
            routes: desired.routes.clone(),
            addresses: lan(),
        };
        assert_eq!(
            plan(&desired, &observed, true),
            [Action::RemoveBridgeAddress(link("cni0", "100.64.0.1", 24))]
        );
    }
}
