//! The zone of the cluster: the Kubernetes DNS specification 1.1.0 from Services and EndpointSlices.
//!
//! A fact changes only what hangs on its Service. Names are not stored: a name is taken apart and its Service looked up,
//! so that ten thousand Services cost their facts and one map entry each.

mod endpoints;
mod table;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) use self::table::Cluster;
use self::{
    endpoints::Members,
    table::{Entry, Target},
};
use super::{
    draft::Draft,
    message::{Kind, Rcode},
    name::{Name, labels},
    reverse,
};
use crate::facts::{Protocol, ServiceType};

/// Seconds that records of the cluster may be kept, also that a name is not there: as CoreDNS has it. Short, since pods
/// come and go, and a question costs nothing on the way to the same node.
pub(super) const TTL: u32 = 5;
/// Seconds that the version of the specification may be kept: as the specification's example has it.
const VERSION_TTL: u32 = 28_800;
/// The version of the specification (github.com/kubernetes/dns, docs/specification.md).
const VERSION: &[u8] = b"\x051.1.0";
/// Priority and weight of SRV records. All the same: the specification prescribes none.
const PRIORITY_AND_WEIGHT: [u8; 4] = [0, 0, 0, 100];

/// What a zone says about a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The answer is written, or there is none to be written; negative ones still lack their SOA record.
    Done(Rcode),
    /// The name is an alias (its CNAME record is written) for this one.
    Alias(Box<Name>),
    /// Not everything is known yet, so the name may exist.
    Unknown,
}

const NODATA: Step = Step::Done(Rcode::NOERROR);

impl Cluster {
    /// Whether the name is in the zone of the cluster.
    pub(super) fn owns(&self, name: &Name) -> bool {
        name.is_within(&self.domain)
    }

    /// Whether a Service of this name in this namespace is known. `service` is a label in small letters.
    pub(super) fn has_service(&self, service: &[u8], namespace: &str) -> bool {
        table::labels_of(service, namespace.as_bytes())
            .and_then(|labels| self.services.get(&labels))
            .is_some_and(|entry| entry.service.is_some())
    }

    /// The domains that a pod of this namespace completes its names with, in order, in small letters.
    pub(super) fn search_list(&self, namespace: &str) -> Option<[Name; 3]> {
        let services = Name::below(&[b"svc"], &self.domain).ok()?;
        let own = Name::below(&[namespace.as_bytes()], &services).ok()?;
        Some([own.lowered(), services, self.domain.clone()])
    }

    /// Answers about a name of the zone, in small letters.
    pub(super) fn answer(&self, name: &Name, kind: Kind, draft: &mut Draft<'_>) -> Step {
        let Some(end) = name.prefix_length(&self.domain) else {
            return self.absent();
        };
        // beginnings of the labels before the zone's, leftmost first; more than six are nobody's
        let prefix = &name.wire()[..end];
        let mut starts = [0_usize; 6];
        let mut count = 0;
        let mut at = 0;
        while at < end {
            let Some(start) = starts.get_mut(count) else {
                return Step::Done(Rcode::NXDOMAIN);
            };
            *start = at;
            count += 1;
            at += 1 + usize::from(prefix[at]);
        }
        let label = |index: usize| {
            let next = if index + 1 < count { starts[index + 1] } else { end };
            &prefix[starts[index] + 1..next]
        };
        if count == 0 {
            return self.apex(name, kind, draft);
        }
        match (label(count - 1), count) {
            (b"svc" | b"pod" | b"dns", 1) => NODATA,
            (b"dns-version", 1) => {
                if kind == Kind::TXT {
                    draft.answer(name, Kind::TXT, VERSION_TTL, VERSION);
                }
                NODATA
            }
            (b"dns", 2) if label(0) == b"ns" => {
                draft.addresses(name, kind, TTL, &[self.server]);
                NODATA
            }
            (b"svc" | b"pod", 2) => match self.has_namespace(label(0)) {
                true => NODATA,
                false => self.absent(),
            },
            (b"pod", 3) => self.pod(name, label(0), label(1), kind, draft),
            (b"svc", 3..) => {
                let Some(entry) = self.services.get(&prefix[starts[count - 3]..starts[count - 1]]) else {
                    return self.absent();
                };
                match count {
                    3 => self.service(name, entry, kind, draft),
                    4 => self.endpoint(name, entry, label(0), kind, draft),
                    5 => self.port(name, entry, label(0), label(1), kind, draft),
                    _ => Step::Done(Rcode::NXDOMAIN),
                }
            }
            _ => Step::Done(Rcode::NXDOMAIN),
        }
    }

    /// The name is not there, as far as that can be known.
    pub(super) fn absent(&self) -> Step {
        match self.synced {
            true => Step::Done(Rcode::NXDOMAIN),
            false => Step::Unknown,
        }
    }

    fn apex(&self, name: &Name, kind: Kind, draft: &mut Draft<'_>) -> Step {
        match kind {
            Kind::SOA => draft.answer(name, Kind::SOA, TTL, &self.soa),
            Kind::NS => {
                draft.answer(name, Kind::NS, TTL, self.nameserver.wire());
                additional(&self.nameserver, &[self.server], draft);
            }
            _ => {}
        }
        NODATA
    }

    /// `100-64-1-5.team.pod`: the address that the name says, if the namespace exists (CoreDNS' `pods insecure`, the
    /// default of kubeadm): no node needs to know all pods for it.
    fn pod(&self, name: &Name, label: &[u8], namespace: &[u8], kind: Kind, draft: &mut Draft<'_>) -> Step {
        if !self.has_namespace(namespace) {
            return self.absent();
        }
        let Some(address) = reverse::dashed(label) else {
            return Step::Done(Rcode::NXDOMAIN);
        };
        draft.addresses(name, kind, TTL, &[address]);
        NODATA
    }

    fn service(&self, name: &Name, entry: &Entry, kind: Kind, draft: &mut Draft<'_>) -> Step {
        let Some(service) = &entry.service else {
            return self.absent();
        };
        if service.kind == ServiceType::ExternalName {
            let target = service.external_name.as_deref().unwrap_or_default();
            // an address is no name to be an alias of
            if target.is_empty() || target.parse::<IpAddr>().is_ok() {
                return NODATA;
            }
            let Ok(target) = Name::parse(target) else {
                return NODATA;
            };
            draft.alias(name, TTL, &target);
            return match kind {
                Kind::CNAME | Kind::ANY => NODATA,
                _ => Step::Alias(Box::new(target)),
            };
        }
        if let Some(members) = &entry.members {
            if members.is_empty() {
                // the specification: without ready endpoints the answer should be NXDOMAIN
                return self.absent();
            }
            match kind {
                Kind::A => draft.v4(name, TTL, &members.v4),
                Kind::AAAA => draft.v6(name, TTL, &members.v6),
                Kind::SRV => self.member_ports(name, entry, members, None, draft),
                _ => {}
            }
            return NODATA;
        }
        match kind {
            Kind::A | Kind::AAAA => draft.addresses(name, kind, TTL, &service.cluster_ips),
            Kind::SRV => {
                for port in &service.ports {
                    self.service_port(name, port.port, name, draft);
                }
                additional(name, &service.cluster_ips, draft);
            }
            _ => {}
        }
        NODATA
    }

    /// One label below a Service: an endpoint, or a protocol, below which are names of ports.
    fn endpoint(&self, name: &Name, entry: &Entry, label: &[u8], kind: Kind, draft: &mut Draft<'_>) -> Step {
        let Some(service) = entry
            .service
            .as_ref()
            .filter(|service| service.kind != ServiceType::ExternalName)
        else {
            return self.absent();
        };
        if let Some(protocol) = protocol(label) {
            let named = match &entry.members {
                Some(_) => entry
                    .slices
                    .iter()
                    .flat_map(|(_, slice)| &slice.ports)
                    .any(|port| port.protocol == protocol && !port.name.is_empty()),
                None => service
                    .ports
                    .iter()
                    .any(|port| port.protocol == protocol && !port.name.is_empty()),
            };
            return if named { NODATA } else { self.absent() };
        }
        let mut found = Found::default();
        match &entry.members {
            Some(members) => members.of_host(label).for_each(|address| found.see(address)),
            // names of the endpoints of other Services are beyond the specification, and CoreDNS knows them
            None => entry
                .ready(service)
                .filter(|(_, endpoint)| endpoints::is_host(endpoint, label))
                .for_each(|(_, endpoint)| found.see(endpoint.address)),
        }
        if !found.any {
            return self.absent();
        }
        match kind {
            Kind::A => draft.v4(name, TTL, &found.v4),
            Kind::AAAA => draft.v6(name, TTL, &found.v6),
            _ => {}
        }
        NODATA
    }

    fn port(
        &self,
        name: &Name,
        entry: &Entry,
        port: &[u8],
        protocol_label: &[u8],
        kind: Kind,
        draft: &mut Draft<'_>,
    ) -> Step {
        let (Some(port), Some(protocol)) = (port.strip_prefix(b"_"), protocol(protocol_label)) else {
            return Step::Done(Rcode::NXDOMAIN);
        };
        let Some(service) = entry
            .service
            .as_ref()
            .filter(|service| service.kind != ServiceType::ExternalName && !port.is_empty())
        else {
            return self.absent();
        };
        if let Some(members) = &entry.members {
            if !members.has_port(&entry.slices, port, protocol) {
                return self.absent();
            }
            if kind == Kind::SRV {
                self.member_ports(name, entry, members, Some((port, protocol)), draft);
            }
            return NODATA;
        }
        let Some(port) = service
            .ports
            .iter()
            .find(|other| other.protocol == protocol && other.name.as_bytes().eq_ignore_ascii_case(port))
        else {
            return self.absent();
        };
        if kind == Kind::SRV {
            let target = self.service_name(&entry.key, None);
            self.service_port(name, port.port, &target, draft);
            additional(&target, &service.cluster_ips, draft);
        }
        NODATA
    }

    fn service_port(&self, name: &Name, port: u16, target: &Name, draft: &mut Draft<'_>) {
        let mut data = [0; 6 + super::name::LONGEST_NAME];
        let length = 6 + target.wire().len();
        data[..4].copy_from_slice(&PRIORITY_AND_WEIGHT);
        data[4..6].copy_from_slice(&port.to_be_bytes());
        data[6..length].copy_from_slice(target.wire());
        draft.answer(name, Kind::SRV, TTL, &data[..length]);
    }

    /// SRV records of the endpoints of a headless Service, for one port or all of them, and the endpoints' addresses.
    fn member_ports(
        &self,
        name: &Name,
        entry: &Entry,
        members: &Members,
        port: Option<(&[u8], Protocol)>,
        draft: &mut Draft<'_>,
    ) {
        let turn = draft.turn(members.list.len());
        let (first, second) = members.list.split_at(turn);
        let mut seen: Option<(&[u8], u16)> = None;
        for member in second.iter().chain(first) {
            let Some((_, slice)) = entry.slices.get(member.slice) else {
                continue;
            };
            for candidate in &slice.ports {
                let wanted = match port {
                    Some((name, protocol)) => {
                        candidate.protocol == protocol && candidate.name.as_bytes().eq_ignore_ascii_case(name)
                    }
                    None => true,
                };
                // a host of two families stands in two slices
                if wanted && seen != Some((&member.host, candidate.port)) {
                    seen = Some((&member.host, candidate.port));
                    let target = self.service_name(&entry.key, Some(&member.host));
                    self.service_port(name, candidate.port, &target, draft);
                }
            }
        }
        for member in second.iter().chain(first) {
            let target = self.service_name(&entry.key, Some(&member.host));
            if draft.additional(&target, TTL, member.address).is_err() {
                break;
            }
        }
    }

    /// Answers about an address; none if nothing has it.
    pub(super) fn pointers(&self, name: &Name, address: IpAddr, kind: Kind, draft: &mut Draft<'_>) -> Option<Step> {
        let targets = self.reverse.get(&address).filter(|targets| !targets.is_empty())?;
        if kind == Kind::PTR {
            // the address of a Service is not also that of an endpoint
            let service = targets.iter().find(|target| target.host.is_none());
            let all: &[Target] = service.map_or(targets, std::slice::from_ref);
            for target in all {
                let owner = self.service_name(&target.service, target.host.as_deref());
                draft.answer(name, Kind::PTR, TTL, owner.wire());
            }
        }
        Some(NODATA)
    }

    /// Answers about `NAME.local`: the addresses of the Service that has this name on the LAN.
    pub(super) fn local(&self, name: &Name, kind: Kind, draft: &mut Draft<'_>) -> Step {
        let mut labels = labels(name.wire());
        let (Some(label), Some(_), None) = (labels.next(), labels.next(), labels.next()) else {
            return Step::Done(Rcode::NXDOMAIN);
        };
        let Some(service) = self.local_owner(label) else {
            return self.absent();
        };
        draft.addresses(name, kind, TTL, &service.load_balancer_ips);
        NODATA
    }

    /// The record that makes "not there" of this zone last [`TTL`] seconds.
    pub(super) fn negative(&self, zone: &Name, draft: &mut Draft<'_>) {
        draft.authority(zone, Kind::SOA, TTL, &self.soa);
    }
}

/// Writes addresses that spare the client a question, as far as there is room.
fn additional(name: &Name, addresses: &[IpAddr], draft: &mut Draft<'_>) {
    for address in addresses {
        if draft.additional(name, TTL, *address).is_err() {
            return;
        }
    }
}

/// Addresses of one endpoint name; a name has few.
#[derive(Default)]
struct Found {
    any: bool,
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

impl Found {
    fn see(&mut self, address: IpAddr) {
        self.any = true;
        match address {
            IpAddr::V4(address) if !self.v4.contains(&address) => self.v4.push(address),
            IpAddr::V6(address) if !self.v6.contains(&address) => self.v6.push(address),
            _ => {}
        }
    }
}

fn protocol(label: &[u8]) -> Option<Protocol> {
    match label {
        b"_tcp" => Some(Protocol::Tcp),
        b"_udp" => Some(Protocol::Udp),
        _ => None,
    }
}
