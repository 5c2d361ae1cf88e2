//! Which node gives its address to which Service, and who has which name: a pure function.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Limits;
use crate::objects::Key;
use crate::objects::endpoint_slice::Family;
use crate::objects::node::Node;
use crate::objects::service::Service;

/// Label of a node that shall have no part in it, whatever its value (`LabelNodeExcludeBalancers`).
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Ports that every node answers on itself, on the address that the Service would have.
const OWN_PORTS: [(&str, u16, &str); 5] = [
    ("TCP", 22, "SSH"),
    ("TCP", 53, "DNS"),
    ("UDP", 53, "DNS"),
    ("UDP", 5353, "mDNS"),
    ("UDP", 4789, "the pod network (vxlan)"),
];
/// Ports that Services of type NodePort have on every node (`--service-node-port-range`).
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;
/// Names that no Service may have on the LAN.
const OWN_NAMES: [&str; 2] = ["cluster", "localhost"];
/// Longest label of a name (RFC 1035 2.3.4).
const LONGEST_LABEL: usize = 63;

/// What the plan is made from.
pub(crate) struct Observed<'a> {
    /// Those that want an address, in any order.
    pub(crate) services: &'a [Arc<Service>],
    pub(crate) nodes: &'a [Arc<Node>],
    /// Nodes with ready endpoints, by Service.
    pub(crate) ready: &'a HashMap<Key, BTreeSet<Box<str>>>,
    /// Protocols and ports that pods have taken, by node.
    pub(crate) host_ports: &'a HashMap<Box<str>, HashSet<(Box<str>, u16)>>,
    pub(crate) limits: &'a Limits,
}

/// Where a Service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At the addresses of a node.
    At { node: Box<str>, addresses: Vec<IpAddr> },
    /// Where it was: no node at all is known to be well, which says more of who listens than of the nodes.
    Unchanged,
    /// Nowhere, and why.
    Nowhere(String),
}

/// Its name on the LAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Own(Box<str>),
    /// None, and why: reason and message of an event.
    Refused(&'static str, String),
}

/// What a Service gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) place: Place,
    pub(crate) name: Name,
}

/// The name that a Service would have.
pub(crate) fn local_name(key: &Key) -> String {
    if &*key.namespace == "default" {
        key.name.to_string()
    } else {
        format!("{}-{}", key.name, key.namespace)
    }
}

fn age(service: &Service) -> (jiff::Timestamp, &str) {
    (service.metadata.created, &service.metadata.uid)
}

/// Who has which name: who holds it already, else the oldest.
fn names(observed: &Observed<'_>) -> HashMap<Key, Name> {
    let mut names = HashMap::new();
    let mut reserved: BTreeMap<String, String> = BTreeMap::new();
    for name in OWN_NAMES {
        reserved.insert(name.into(), "it is reserved".into());
    }
    let cluster = &observed.limits.cluster;
    if !cluster.is_empty() {
        reserved.insert(cluster.to_lowercase(), "it is the cluster's own".into());
    }
    for node in observed.nodes {
        let name = &*node.metadata.key.name;
        let host = name.split('.').next().unwrap_or(name);
        reserved.insert(host.to_lowercase(), format!("node {name} has it"));
    }
    let mut order: Vec<(String, &Arc<Service>)> = observed
        .services
        .iter()
        .map(|service| (local_name(&service.metadata.key), service))
        .collect();
    order.sort_by(|(name, one), (other_name, other)| {
        let held = |name: &str, service: &Service| service.local_name.as_deref() == Some(name);
        (!held(name, one), age(one)).cmp(&(!held(other_name, other), age(other)))
    });
    let mut owners: HashMap<String, &Key> = HashMap::new();
    for (name, service) in order {
        let key = &service.metadata.key;
        let refused = |reason, why: &str| Name::Refused(reason, format!("{name}.local is not announced: {why}"));
        let outcome = if name.len() > LONGEST_LABEL {
            refused(
                "LocalNameTooLong",
                &format!("a name has at most {LONGEST_LABEL} characters"),
            )
        } else if let Some(why) = reserved.get(&name) {
            refused("LocalNameReserved", why)
        } else if let Some(owner) = owners.get(&name) {
            refused("LocalNameTaken", &format!("Service {owner} has the name"))
        } else {
            owners.insert(name.clone(), key);
            Name::Own(name.into())
        };
        names.insert(key.clone(), outcome);
    }
    names
}

/// The node's first address of each family that the Service has.
fn addresses(service: &Service, node: &Node) -> Vec<IpAddr> {
    service
        .families
        .iter()
        .filter_map(|family| node.addresses.iter().find(|address| Family::of(address) == *family))
        .copied()
        .collect()
}

/// Why a Service can have its ports on no node at all.
fn unusable_port(service: &Service, api_port: u16) -> Option<String> {
    service.ports.iter().find_map(|port| {
        let (protocol, number) = (&*port.protocol, port.port);
        let own = OWN_PORTS
            .iter()
            .chain(&[("TCP", api_port, "the API")])
            .find(|(known, taken, _)| *known == protocol && *taken == number)
            .map(|(_, _, what)| format!("port {number}/{protocol} of every node is taken by {what}"));
        own.or_else(|| {
            (NODE_PORTS.contains(&number) && port.node_port != Some(number)).then(|| {
                format!(
                    "port {number}/{protocol} is in the range of node ports ({}-{})",
                    NODE_PORTS.start(),
                    NODE_PORTS.end()
                )
            })
        })
    })
}

/// Ports that Services have, by node.
type Taken = HashMap<Box<str>, HashSet<(Box<str>, u16)>>;

fn free(service: &Service, taken: Option<&HashSet<(Box<str>, u16)>>) -> bool {
    taken.is_none_or(|taken| {
        service
            .ports
            .iter()
            .all(|port| !taken.contains(&(port.protocol.clone(), port.port)))
    })
}

/// A node that can give its address: well, not excluded, and with an address that the Service can use.
fn usable(service: &Service, node: &Node) -> bool {
    let asked = |addresses: &[IpAddr]| {
        service
            .load_balancer_ip
            .as_deref()
            .is_none_or(|asked| addresses.iter().any(|address| address.to_string() == asked))
    };
    let addresses = addresses(service, node);
    node.ready() == Some("True")
        && node.metadata.label(EXCLUDED).is_none()
        && !node.metadata.terminating()
        && !addresses.is_empty()
        && asked(&addresses)
}

/// Whether the Service is at that node: by its own word, else by the address.
fn is_present(service: &Service, node: &Node) -> bool {
    let Some(ingress) = service.ingress.first() else {
        return false;
    };
    match &service.announced_by {
        Some(name) => *node.metadata.key.name == **name,
        None => node.addresses.iter().any(|address| *address.to_string() == **ingress),
    }
}

/// What each of the Services gets.
pub(crate) fn plan(observed: &Observed<'_>) -> Vec<(Arc<Service>, Share)> {
    let mut names = names(observed);
    // Who has a place is asked first: nobody loses one to a newcomer.
    let mut order: Vec<&Arc<Service>> = observed.services.iter().collect();
    order.sort_by_key(|service| (service.ingress.is_empty(), age(service)));
    let mut taken = Taken::new();
    let mut shares = Vec::with_capacity(order.len());
    for service in order {
        let key = &service.metadata.key;
        let place = place(observed, service, &taken);
        let holds = match &place {
            Place::At { node, .. } => Some(node.clone()),
            Place::Unchanged => service.announced_by.clone(),
            Place::Nowhere(_) => None,
        };
        if let Some(node) = holds {
            let ports = service.ports.iter().map(|port| (port.protocol.clone(), port.port));
            taken.entry(node).or_default().extend(ports);
        }
        let name = names
            .remove(key)
            .unwrap_or_else(|| Name::Refused("LocalNameReserved", format!("{key} has no name")));
        shares.push((Arc::clone(service), Share { place, name }));
    }
    shares
}

fn place(observed: &Observed<'_>, service: &Service, taken: &Taken) -> Place {
    if let Some(why) = unusable_port(service, observed.limits.api_port) {
        return Place::Nowhere(why);
    }
    let at = |node: &Node| Place::At {
        node: (*node.metadata.key.name).into(),
        addresses: addresses(service, node),
    };
    let nobody = BTreeSet::new();
    let ready = observed.ready.get(&service.metadata.key).unwrap_or(&nobody);
    let has_ready = |node: &Node| ready.contains(&*node.metadata.key.name);
    let usable: Vec<&Arc<Node>> = observed.nodes.iter().filter(|node| usable(service, node)).collect();

    if let Some(node) = usable.iter().find(|node| is_present(service, node))
        && free(service, taken.get(&*node.metadata.key.name))
    {
        // With the policy Local a node without endpoints refuses what comes; with Cluster it passes it on.
        let serves = !service.external_local || has_ready(node) || !usable.iter().any(|node| has_ready(node));
        if serves {
            return at(node);
        }
    }
    if !observed.nodes.iter().any(|node| node.ready() == Some("True")) && !service.ingress.is_empty() {
        return Place::Unchanged;
    }
    let best = usable
        .iter()
        .filter(|node| {
            let name = &*node.metadata.key.name;
            free(service, taken.get(name)) && free(service, observed.host_ports.get(name))
        })
        .min_by_key(|node| {
            let name = &*node.metadata.key.name;
            (
                !has_ready(node),
                node.unschedulable,
                taken.get(name).map_or(0, HashSet::len),
                name,
            )
        });
    if let Some(node) = best {
        return at(node);
    }
    let list: Vec<String> = service
        .ports
        .iter()
        .map(|port| format!("{}/{}", port.port, port.protocol))
        .collect();
    Place::Nowhere(match (&service.load_balancer_ip, usable.is_empty()) {
        (Some(asked), true) => format!("no node that is ready has the address {asked}"),
        (None, true) => "no node is ready".into(),
        (_, false) => format!("no node that is ready has port {} free", list.join(" and ")),
    })
}

#[cfg(test)]
mod tests;
