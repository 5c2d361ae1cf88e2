//! What a Service looks like to packets: doors by which it is entered, and where each leads.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use super::known::Endpoints;
use crate::{
    Range,
    facts::{Protocol, Service, ServiceType},
};

/// What the first packet of a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Door {
    /// An address and port.
    Address(Ipv4Addr, Protocol, u16),
    /// A port of this node, whichever of its addresses.
    Port(Protocol, u16),
}

impl Door {
    pub(crate) fn is_port(self) -> bool {
        matches!(self, Self::Port(..))
    }
}

/// How one of several endpoints is chosen. Each way of choosing that is in use is a chain of rules, shared by all Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Choice {
    /// Entered by a port of the node, not by an address.
    pub(crate) port: bool,
    pub(crate) flavour: Flavour,
    /// Session affinity in seconds.
    pub(crate) sticky: Option<u32>,
    /// How many endpoints there are to choose from.
    pub(crate) size: u16,
}

/// Who may enter, and as whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Flavour {
    /// From inside the cluster, under the true source.
    Inside,
    /// From anywhere to any node's endpoints: the answer must come back through this node.
    Outside,
    /// From outside to this node's endpoints only, under the true source; from inside as [`Flavour::Inside`].
    Local,
}

/// What is behind a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Nobody: refused at once.
    Refuse,
    /// Nobody on this node, but others elsewhere: dropped, as kube-proxy does.
    Drop,
    /// All endpoints.
    All(Flavour),
    /// This node's endpoints.
    Own,
    /// This node's endpoints for strangers, all for the cluster.
    OwnForStrangers,
}

/// A port of a Service as packets meet it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// Tells the ports of a Service apart.
    pub(crate) port: (Protocol, u16),
    pub(crate) sticky: Option<u32>,
    pub(crate) doors: Vec<(Door, Way)>,
    /// In the order of their numbers in the kernel.
    pub(crate) endpoints: Endpoints,
}

/// Longest session affinity that Kubernetes admits: a day.
const LONGEST_AFFINITY: u64 = 86_400;

/// What it takes to see a Service from this node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings {
    pub(crate) pods: Range,
    pub(crate) services: Range,
}

/// Ports of a Service with their doors. Headless Services and aliases have none.
pub(crate) fn views(
    service: &Service,
    surroundings: Surroundings,
    mut endpoints: impl FnMut(&crate::facts::ServicePort) -> Endpoints,
) -> Vec<View> {
    if service.headless || service.kind == ServiceType::ExternalName || service.cluster_ips.is_empty() {
        return Vec::new();
    }
    let sticky = service
        .affinity
        .map(|time| u32::try_from(time.as_secs().clamp(1, LONGEST_AFFINITY)).unwrap_or(1));
    let inner = |addresses: &[IpAddr]| -> Vec<Ipv4Addr> { addresses.iter().filter_map(v4).collect() };
    // Nobody may take over another Service's address, a pod's, or this node's own loopback.
    let outer = |addresses: &[IpAddr]| -> Vec<Ipv4Addr> {
        let mut addresses = inner(addresses);
        addresses.retain(|address| {
            let taken = surroundings.services.contains(*address) || surroundings.pods.contains(*address);
            !(taken || address.is_loopback() || address.is_unspecified() || address.is_multicast())
        });
        addresses
    };
    let mut external = outer(&service.external_ips);
    if service.kind == ServiceType::LoadBalancer {
        external.extend(outer(&service.load_balancer_ips));
    }
    let cluster = inner(&service.cluster_ips);
    let views = service.ports.iter().map(|port| {
        let endpoints = endpoints(port);
        let (protocol, number) = (port.protocol, port.port);
        let internal = if endpoints.all.is_empty() && endpoints.local.is_empty() {
            Way::Refuse
        } else if !service.internal_local {
            Way::All(Flavour::Inside)
        } else if endpoints.local.is_empty() {
            Way::Drop
        } else {
            Way::Own
        };
        let from_outside = if internal == Way::Refuse {
            Way::Refuse
        } else if service.external_local {
            Way::OwnForStrangers
        } else {
            Way::All(Flavour::Outside)
        };
        let mut doors: Vec<(Door, Way)> = Vec::new();
        let mut open = |door: Door, way: Way| {
            if doors.iter().all(|(present, _)| *present != door) {
                doors.push((door, way));
            }
        };
        for address in &cluster {
            open(Door::Address(*address, protocol, number), internal);
        }
        for address in &external {
            open(Door::Address(*address, protocol, number), from_outside);
        }
        if let Some(node_port) = port.node_port
            && service.kind != ServiceType::ClusterIp
        {
            open(Door::Port(protocol, node_port), from_outside);
        }
        View {
            port: (protocol, number),
            sticky,
            doors,
            endpoints,
        }
    });
    views.collect()
}

fn v4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}

/// Gives endpoints their numbers: those that stay keep theirs as far as the new ones fill the gaps, so that little changes.
pub(crate) fn arrange(before: &[SocketAddrV4], wanted: Vec<SocketAddrV4>) -> Vec<SocketAddrV4> {
    if before == wanted.as_slice() {
        return wanted;
    }
    let most = wanted.len();
    let present: std::collections::HashSet<_> = wanted.iter().copied().collect();
    let mut places: Vec<Option<SocketAddrV4>> = before
        .iter()
        .take(most)
        .map(|address| present.contains(address).then_some(*address))
        .collect();
    places.resize(most, None);
    let kept: std::collections::HashSet<_> = places.iter().flatten().copied().collect();
    let mut others = wanted.into_iter().filter(|address| !kept.contains(address));
    places
        .into_iter()
        .filter_map(|place| place.or_else(|| others.next()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::ServicePort;

    fn addresses(numbers: &[u8]) -> Vec<SocketAddrV4> {
        numbers
            .iter()
            .map(|number| SocketAddrV4::new(Ipv4Addr::new(100, 64, 0, *number), 80))
            .collect()
    }

    #[test]
    fn endpoints_that_stay_keep_their_numbers() {
        for (before, wanted, after) in [
            (&[][..], &[1, 2, 3][..], &[1, 2, 3][..]),
            (&[1, 2, 3], &[1, 2, 3, 4], &[1, 2, 3, 4]),
            (&[1, 2, 3], &[2, 3], &[3, 2]),
            (&[1, 2, 3], &[1, 3], &[1, 3]),
            (&[1, 2, 3], &[3, 2, 1], &[1, 2, 3]),
            (&[1, 2, 3], &[1, 4, 3], &[1, 4, 3]),
            (&[1, 2, 3], &[3, 4, 5, 1], &[1, 4, 3, 5]),
            (&[1, 2, 3], &[], &[]),
        ] {
            assert_eq!(
                arrange(&addresses(before), addresses(wanted)),
                addresses(after),
                "{before:?} -> {wanted:?}"
            );
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn service() -> Service {
        Service {
            kind: ServiceType::LoadBalancer,
            cluster_ips: vec![ip("100.65.0.7"), ip("fd00::7")],
            external_ips: vec![ip("192.0.2.1")],
            load_balancer_ips: vec![ip("10.9.0.1")],
            ports: vec![ServicePort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: Some(30080),
            }],
            ..Service::default()
        }
    }

    /// Ways by cluster IP, external IP, load balancer IP and node port.
    fn ways(service: &Service, all: &[u8], local: &[u8]) -> Vec<Way> {
        let surroundings = Surroundings {
            pods: "100.64.0.0/16".parse().unwrap(),
            services: "100.65.0.0/16".parse().unwrap(),
        };
        let views = views(service, surroundings, |_| Endpoints {
            all: addresses(all),
            local: addresses(local),
            serving: Vec::new(),
        });
        let Some(view) = views.first() else { return Vec::new() };
        view.doors.iter().map(|(_, way)| *way).collect()
    }

    const IN: Way = Way::All(Flavour::Inside);
    const OUT: Way = Way::All(Flavour::Outside);

    #[test]
    fn each_door_leads_where_its_traffic_policy_says() {
        let cluster = service();
        assert_eq!(ways(&cluster, &[1, 2], &[1]), [IN, OUT, OUT, OUT]);
        assert_eq!(ways(&cluster, &[1, 2], &[]), [IN, OUT, OUT, OUT]);
        assert_eq!(ways(&cluster, &[], &[]), [Way::Refuse; 4]);
        let external = Service {
            external_local: true,
            ..service()
        };
        let own = Way::OwnForStrangers;
        assert_eq!(ways(&external, &[1, 2], &[1]), [IN, own, own, own]);
        assert_eq!(ways(&external, &[], &[]), [Way::Refuse; 4]);
        let internal = Service {
            internal_local: true,
            ..service()
        };
        assert_eq!(ways(&internal, &[1, 2], &[1]), [Way::Own, OUT, OUT, OUT]);
        assert_eq!(ways(&internal, &[1, 2], &[]), [Way::Drop, OUT, OUT, OUT]);
        assert_eq!(ways(&internal, &[], &[]), [Way::Refuse; 4]);
    }

    #[test]
    fn headless_services_and_aliases_have_no_doors() {
        for service in [
            Service {
                headless: true,
                cluster_ips: Vec::new(),
                ..service()
            },
            Service {
                kind: ServiceType::ExternalName,
                ..service()
            },
        ] {
            assert_eq!(ways(&service, &[1], &[1]), []);
        }
        let plain = Service {
            kind: ServiceType::ClusterIp,
            external_ips: Vec::new(),
            ..service()
        };
        assert_eq!(
            ways(&plain, &[1], &[1]),
            [IN],
            "left over from its time as a load balancer"
        );
    }

    #[test]
    fn nobody_takes_over_an_address_that_is_somebody_elses() {
        let thief = Service {
            external_ips: ["100.65.0.1", "100.64.0.9", "127.0.0.1", "0.0.0.0", "224.0.0.251"]
                .map(ip)
                .to_vec(),
            load_balancer_ips: Vec::new(),
            ..service()
        };
        assert_eq!(ways(&thief, &[1], &[1]), [IN, OUT], "cluster IP and node port only");
    }
}
