//! What of the node's network leads to pods and Services, and what is to be changed so that it does. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use crate::{
    Path, Peer, Peers, Problem, Range, Reason,
    conflist::BRIDGE,
    vxlan::{self, End, Mac, Remote},
};

/// Label of the addresses on `lo` that are ours to take away.
pub(crate) const OWN_LABEL: &str = "lo:minidc";
/// The loopback interface.
pub(crate) const LOOPBACK: &str = "lo";

/// The ranges of the cluster, the same on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// All nodes' pod ranges are cut from it.
    pub pods: Range,
    /// Addresses of Services.
    pub services: Option<Range>,
    /// Address of the cluster's DNS.
    pub dns: Option<Ipv4Addr>,
}

impl Ranges {
    fn contains(&self, address: Ipv4Addr) -> bool {
        self.pods.contains(address) || self.services.is_some_and(|services| services.contains(address))
    }
}

/// Where packets go next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// To another node, on a link of this one.
    Gateway(Ipv4Addr),
    /// Through the tunnel, to this end of it.
    Tunnel(Ipv4Addr),
    /// Nowhere: before a packet leaves, the rules for Services have given it another destination. What counts is that the
    /// node itself sends it from its address among the pods, to which every pod finds the way back.
    Bridge(Ipv4Addr),
}

/// A route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Pods of another node, or all Services.
    pub destination: Range,
    /// The way there.
    pub hop: Hop,
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
    /// Ours, although the interface is not.
    pub own: bool,
}

impl LinkAddress {
    fn range(&self) -> Range {
        Range::around(self.address, self.prefix)
    }

    /// Whether the address belongs to a network outside the node, not to pods or the node itself.
    fn is_lan(&self) -> bool {
        !self.address.is_loopback() && !is_inner(&self.interface)
    }
}

/// Whether an interface leads to pods of this node, to itself, or into the tunnel.
pub(crate) fn is_inner(interface: &str) -> bool {
    [LOOPBACK, BRIDGE, vxlan::DEVICE].contains(&interface) || interface.starts_with("veth")
}

/// The pod bridge, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// It is switched on.
    pub up: bool,
    /// Largest packet it takes.
    pub mtu: u32,
}

/// What the kernel has now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Routes with our protocol number in the main table.
    pub routes: Vec<Route>,
    /// Where the other routes of the main table lead that leave this node; the default route is `0.0.0.0/0`.
    pub reach: Vec<Range>,
    /// IPv4 addresses of all interfaces.
    pub addresses: Vec<LinkAddress>,
    /// Largest packet of each interface, by name.
    pub mtus: BTreeMap<String, u32>,
    /// The pod bridge.
    pub bridge: Option<Bridge>,
    /// The tunnel.
    pub tunnel: Option<vxlan::Device>,
}

/// What the kernel ought to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Routes to all nodes that can be reached, and to the Services.
    pub routes: Vec<Route>,
    /// Ranges of nodes that exist but cannot be reached now: what leads there is left as it is.
    pub unreachable: Vec<Range>,
    /// This node's pod range, when it has a usable one.
    pub own: Option<Range>,
    /// Address of the cluster's DNS, for `lo`.
    pub dns: Option<Ipv4Addr>,
    /// This node's end of the tunnel, when some node can be reached only through it.
    pub tunnel: Option<End>,
    /// Those nodes.
    pub remotes: Vec<Remote>,
    /// Smallest packet limit of the networks this node is plugged into.
    pub uplink_mtu: Option<u32>,
    /// Largest packet of pods; decided by the caller, since it depends on what was.
    pub pod_mtu: Option<u32>,
    /// How each node that can be reached is reached.
    pub paths: BTreeMap<String, Path>,
    /// Everything that is wrong, the worst first.
    pub problems: Vec<Problem>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the pod bridge with this hardware address; pods keep it as their gateway's.
    MakeBridge(Mac),
    /// Switch the pod bridge on.
    BridgeUp,
    /// Set the largest packet of an interface.
    SetMtu(&'static str, u32),
    /// Make the tunnel's device and switch it on.
    MakeTunnel(End, u32),
    /// Remove the tunnel's device and with it all that leads into it.
    RemoveTunnel,
    /// Tell the tunnel of another node's end, or where that is now.
    SetRemote(Remote),
    /// Forget a neighbour in the tunnel.
    RemoveNeighbour(Ipv4Addr),
    /// Forget which node a hardware address in the tunnel belongs to.
    RemoveForwarding(Mac, Ipv4Addr),
    /// Add an address.
    AddAddress(LinkAddress),
    /// Remove an address that was ours.
    RemoveAddress(LinkAddress),
    /// Add the route, or lead the present one this way.
    Replace(Route),
    /// Remove the route.
    Delete(Route),
}

impl Action {
    /// Whether nothing is left to do if the object is not there.
    pub(crate) fn removes(&self) -> bool {
        matches!(
            self,
            Self::RemoveTunnel
                | Self::RemoveNeighbour(_)
                | Self::RemoveForwarding(..)
                | Self::RemoveAddress(_)
                | Self::Delete(_)
        )
    }
}

/// First address of a node's pod range after that of the tunnel's end: the bridge's, and so the pods' gateway.
#[must_use]
pub(crate) fn gateway_of(own: Range) -> Ipv4Addr {
    Ipv4Addr::from_bits(own.network().to_bits().saturating_add(1))
}

/// Works out what ought to be from what is known of the cluster and of the networks this node is plugged into.
#[must_use]
pub fn desired(ranges: &Ranges, peers: &Peers, observed: &Observed) -> Desired {
    let pods = ranges.pods;
    let mut desired = Desired {
        dns: ranges.dns,
        ..Desired::default()
    };
    match own_range(pods, peers.own) {
        Ok(own) => desired.own = Some(own),
        Err(problem) => desired.problems.push(problem),
    }
    let lans: Vec<&LinkAddress> = observed.addresses.iter().filter(|address| address.is_lan()).collect();
    desired.problems.extend(overlaps(ranges, &lans));
    desired.uplink_mtu = lans
        .iter()
        .filter_map(|lan| observed.mtus.get(&lan.interface))
        .min()
        .copied();
    if let (Some(own), Some(services)) = (desired.own, ranges.services) {
        desired.routes.push(Route {
            destination: services,
            hop: Hop::Bridge(gateway_of(own)),
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
        let hop = if let Some(gateway) = on_link(ranges, peer, &lans) {
            desired.paths.insert(peer.name.clone(), Path::Direct(gateway));
            Hop::Gateway(gateway)
        } else if let Some((own, node)) = desired.own.zip(beyond_a_router(ranges, peer, observed)) {
            let address = End::of(range).address;
            desired.tunnel = Some(End::of(own));
            desired.remotes.push(Remote { address, node });
            desired.paths.insert(peer.name.clone(), Path::Tunnel(node));
            Hop::Tunnel(address)
        } else {
            desired.unreachable.push(range);
            desired.problems.push(Problem {
                reason: Reason::PeerOutOfReach,
                message: format!("node {} has no address that this node has a route to", peer.name),
            });
            continue;
        };
        desired.routes.push(Route {
            destination: range,
            hop,
        });
    }
    desired.routes.sort_unstable();
    desired.remotes.sort_unstable();
    desired
}

fn own_range(pods: Range, own: Option<Range>) -> Result<Range, Problem> {
    let (reason, message) = match own {
        None => (
            Reason::NoPodRange,
            "the control plane has not given this node a pod range yet".to_owned(),
        ),
        Some(own) if !pods.covers(own) => (
            Reason::BadPodRange,
            format!("this node's pod range {own} is not within the cluster's {pods}"),
        ),
        // Network, gateway and broadcast address and at least one pod.
        Some(own) if own.prefix() > 30 => (
            Reason::BadPodRange,
            format!("this node's pod range {own} has no room for a pod"),
        ),
        Some(own) => return Ok(own),
    };
    Err(Problem { reason, message })
}

/// What is said of each network of this node that has addresses in common with the cluster.
fn overlaps<'a>(ranges: &'a Ranges, lans: &'a [&LinkAddress]) -> impl Iterator<Item = Problem> + 'a {
    lans.iter().flat_map(move |lan| {
        let pods = (Reason::PodRangeOverlapsLan, "pod range", Some(ranges.pods));
        let services = (Reason::ServiceRangeOverlapsLan, "service range", ranges.services);
        [pods, services].into_iter().filter_map(move |(reason, what, range)| {
            let range = range.filter(|range| range.overlaps(lan.range()))?;
            let message = format!(
                "the network {} on {} overlaps the {what} {range}: hosts there may be out of reach",
                lan.range(),
                lan.interface
            );
            Some(Problem { reason, message })
        })
    })
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

/// Addresses of the peer that can be its own.
fn addresses<'a>(ranges: &'a Ranges, peer: &'a Peer) -> impl Iterator<Item = Ipv4Addr> + 'a {
    peer.addresses.iter().filter_map(|address| match *address {
        IpAddr::V4(address) if !ranges.contains(address) && !address.is_loopback() => Some(address),
        _ => None,
    })
}

/// The first address of the peer that lies in a network of one of this node's links.
fn on_link(ranges: &Ranges, peer: &Peer, lans: &[&LinkAddress]) -> Option<Ipv4Addr> {
    addresses(ranges, peer).find(|address| {
        lans.iter()
            .any(|lan| lan.range().contains(*address) && lan.address != *address)
    })
}

/// The first address of the peer that some route leads to.
fn beyond_a_router(ranges: &Ranges, peer: &Peer, observed: &Observed) -> Option<Ipv4Addr> {
    addresses(ranges, peer).find(|address| {
        let own = observed.addresses.iter().any(|own| own.address == *address);
        !own && observed.reach.iter().any(|range| range.contains(*address))
    })
}

/// The changes that lead from `observed` to `desired`. What leads to nodes that are not known is taken away only when the
/// list of nodes is whole (`synced`).
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed, synced: bool) -> Vec<Action> {
    let mut actions = Vec::new();
    plan_addresses(desired, observed, &mut actions);
    let tunnel = plan_tunnel(desired, observed, synced, &mut actions);
    if synced {
        for route in &observed.routes {
            let wanted = desired
                .routes
                .iter()
                .any(|wanted| wanted.destination == route.destination)
                || desired.unreachable.contains(&route.destination);
            if !wanted {
                actions.push(Action::Delete(*route));
            }
        }
    }
    for route in &desired.routes {
        // routes end with the device they lead into
        let lost = matches!(route.hop, Hop::Tunnel(_)) && tunnel == Fate::Anew;
        if lost || !observed.routes.contains(route) {
            actions.push(Action::Replace(*route));
        }
    }
    if tunnel == Fate::Removed {
        actions.push(Action::RemoveTunnel);
    }
    actions
}

/// The bridge with its address, and that of DNS.
fn plan_addresses(desired: &Desired, observed: &Observed, actions: &mut Vec<Action>) {
    let gateway = desired.own.map(|own| LinkAddress {
        interface: BRIDGE.into(),
        address: gateway_of(own),
        prefix: own.prefix(),
        own: false,
    });
    let dns = desired.dns.map(|dns| LinkAddress {
        interface: LOOPBACK.into(),
        address: dns,
        prefix: 32,
        own: true,
    });
    for address in &observed.addresses {
        let former_gateway =
            address.interface == BRIDGE && desired.own.is_some_and(|own| !own.contains(address.address));
        let former_dns = address.own && dns.as_ref() != Some(address);
        if former_gateway || former_dns {
            actions.push(Action::RemoveAddress(address.clone()));
        }
    }
    if let Some(gateway) = &gateway {
        match &observed.bridge {
            None => actions.push(Action::MakeBridge(vxlan::mac(gateway.address))),
            Some(Bridge { up: false, .. }) => actions.push(Action::BridgeUp),
            Some(_) => {}
        }
        if let Some(mtu) = desired.pod_mtu
            && observed.bridge.as_ref().is_none_or(|bridge| bridge.mtu != mtu)
        {
            actions.push(Action::SetMtu(BRIDGE, mtu));
        }
    }
    for wanted in [gateway, dns].into_iter().flatten() {
        let present = observed
            .addresses
            .iter()
            .any(|address| address.interface == wanted.interface && address.address == wanted.address);
        if !present {
            actions.push(Action::AddAddress(wanted));
        }
    }
}

/// What becomes of the tunnel's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Anew,
    Removed,
}

fn plan_tunnel(desired: &Desired, observed: &Observed, synced: bool, actions: &mut Vec<Action>) -> Fate {
    let Some(end) = desired.tunnel else {
        // What leads to nodes that are out of reach just now is left as it is.
        let idle = synced && desired.unreachable.is_empty() && observed.tunnel.is_some();
        return if idle { Fate::Removed } else { Fate::Kept };
    };
    let mtu = desired
        .uplink_mtu
        .unwrap_or(crate::mtu::ETHERNET)
        .saturating_sub(vxlan::OVERHEAD);
    let device = observed.tunnel.as_ref().filter(|device| device.serves(&end));
    if device.is_none() {
        if observed.tunnel.is_some() {
            actions.push(Action::RemoveTunnel);
        }
        actions.push(Action::MakeTunnel(end, mtu));
    }
    let address = LinkAddress {
        interface: vxlan::DEVICE.into(),
        address: end.address,
        prefix: 32,
        own: false,
    };
    if device.is_none() || !observed.addresses.contains(&address) {
        actions.push(Action::AddAddress(address));
    }
    for remote in &desired.remotes {
        if device.is_none_or(|device| !device.knows(remote)) {
            actions.push(Action::SetRemote(*remote));
        }
    }
    let Some(device) = device else { return Fate::Anew };
    if device.mtu != mtu {
        actions.push(Action::SetMtu(vxlan::DEVICE, mtu));
    }
    if synced {
        let kept = |address: Ipv4Addr| {
            desired.remotes.iter().any(|remote| remote.address == address)
                || desired.unreachable.iter().any(|range| range.network() == address)
        };
        for (address, _) in device.neighbours.iter().filter(|(address, _)| !kept(*address)) {
            actions.push(Action::RemoveNeighbour(*address));
        }
        let wanted: Vec<Mac> = desired
            .remotes
            .iter()
            .map(|remote| vxlan::mac(remote.address))
            .collect();
        let resting: Vec<Mac> = desired
            .unreachable
            .iter()
            .map(|range| vxlan::mac(range.network()))
            .collect();
        for (mac, node) in &device.forwarding {
            if !wanted.contains(mac) && !resting.contains(mac) {
                actions.push(Action::RemoveForwarding(*mac, *node));
            }
        }
    }
    Fate::Kept
}

#[cfg(test)]
mod tests;
