//! A pod as scheduler, ReplicaSets, node lifecycle, Services and pod clean-up see it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use minidc_api::quantity::Quantity;
use serde::Deserialize;

use super::metadata::time_from;
use super::{Metadata, Stored, Wire};

/// Most-often asked resources as numbers, the rest by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    /// Thousandths of a core.
    pub(crate) cpu: u64,
    /// Bytes.
    pub(crate) memory: u64,
    /// Bytes.
    pub(crate) ephemeral_storage: u64,
    /// Whole units of anything else, e.g. `example.com/camera`; sorted by name, `pods` left out.
    pub(crate) others: Vec<(Box<str>, u64)>,
}

/// Resource name to quantity, as written.
type QuantityMap = BTreeMap<String, serde_json::Value>;

impl Amounts {
    /// Reads a resource list. What is no quantity counts as nothing: validation refused it before.
    pub(crate) fn read(map: &QuantityMap) -> Self {
        let mut amounts = Self::default();
        for (name, value) in map {
            let Ok(quantity) = Quantity::from_value(value) else {
                continue;
            };
            let units = u64::try_from(quantity.units()).unwrap_or_default();
            match name.as_str() {
                "cpu" => amounts.cpu = u64::try_from(quantity.milli()).unwrap_or_default(),
                "memory" => amounts.memory = units,
                "ephemeral-storage" => amounts.ephemeral_storage = units,
                "pods" => {}
                _ => amounts.others.push((name.as_str().into(), units)),
            }
        }
        amounts
    }

    /// Amount of a resource that is not one of the numbers.
    pub(crate) fn other(&self, name: &str) -> u64 {
        self.others
            .iter()
            .find(|(key, _)| &**key == name)
            .map_or(0, |(_, amount)| *amount)
    }

    fn combine(&mut self, with: &Self, how: impl Fn(u64, u64) -> u64) {
        self.cpu = how(self.cpu, with.cpu);
        self.memory = how(self.memory, with.memory);
        self.ephemeral_storage = how(self.ephemeral_storage, with.ephemeral_storage);
        for (name, amount) in &with.others {
            match self.others.iter_mut().find(|(key, _)| key == name) {
                Some((_, sum)) => *sum = how(*sum, *amount),
                None => self.others.push((name.clone(), how(0, *amount))),
            }
        }
    }

    /// Adds up.
    pub(crate) fn add(&mut self, with: &Self) {
        self.combine(with, u64::saturating_add);
    }

    fn at_least(&mut self, with: &Self) {
        self.combine(with, u64::max);
    }
}

/// `spec.tolerations[]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Toleration {
    #[serde(default)]
    pub(crate) key: Option<Box<str>>,
    #[serde(default)]
    pub(crate) operator: Option<Box<str>>,
    #[serde(default)]
    pub(crate) value: Option<Box<str>>,
    #[serde(default)]
    pub(crate) effect: Option<Box<str>>,
    #[serde(default)]
    pub(crate) toleration_seconds: Option<i64>,
}

/// A port taken on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// Empty for every address.
    pub(crate) address: Box<str>,
    pub(crate) protocol: Box<str>,
    pub(crate) port: u16,
}

impl HostPort {
    /// Whether both cannot be on one node.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let every = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
        self.port == other.port
            && self.protocol == other.protocol
            && (every(&self.address) || every(&other.address) || self.address == other.address)
    }
}

/// A port of a container that has a name, so that Services can lead to it by that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedPort {
    pub(crate) name: Box<str>,
    pub(crate) protocol: Box<str>,
    pub(crate) port: u16,
}

/// One `matchExpressions` or `matchFields` entry of a node selector.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Requirement {
    pub(crate) key: Box<str>,
    pub(crate) operator: Box<str>,
    #[serde(default)]
    pub(crate) values: Option<Vec<Box<str>>>,
}

/// One of the terms of which at least one must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeTerm {
    #[serde(default)]
    pub(crate) match_expressions: Option<Vec<Requirement>>,
    #[serde(default)]
    pub(crate) match_fields: Option<Vec<Requirement>>,
}

/// `status.phase`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

/// What the controllers keep of a pod.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) metadata: Metadata,
    /// Node it is bound to.
    pub(crate) node: Option<Box<str>>,
    pub(crate) scheduler: Box<str>,
    pub(crate) gated: bool,
    pub(crate) priority: i32,
    pub(crate) requests: Amounts,
    /// Containers that ask for no CPU or no memory, for scoring only.
    pub(crate) modest: (u32, u32),
    pub(crate) node_selector: Box<[(Box<str>, Box<str>)]>,
    pub(crate) node_terms: Option<Box<[NodeTerm]>>,
    pub(crate) tolerations: Box<[Toleration]>,
    pub(crate) host_ports: Box<[HostPort]>,
    /// Of the containers, then of the sidecars, in the order in which a name is looked up.
    pub(crate) named_ports: Box<[NamedPort]>,
    /// `spec.hostname`.
    pub(crate) hostname: Option<Box<str>>,
    /// `spec.subdomain`.
    pub(crate) subdomain: Option<Box<str>>,
    /// `status.podIPs`.
    pub(crate) addresses: Box<[IpAddr]>,
    pub(crate) phase: Phase,
    pub(crate) ready: bool,
    /// When `Ready` last changed.
    pub(crate) ready_since: Option<Timestamp>,
    /// Reason and message of `PodScheduled=False`.
    pub(crate) unscheduled: Option<(Box<str>, Box<str>)>,
    pub(crate) restarts: u32,
    /// `controller.kubernetes.io/pod-deletion-cost`.
    pub(crate) deletion_cost: i32,
}

impl Pod {
    /// Succeeded or Failed: it runs no more and needs nothing of its node.
    pub(crate) fn finished(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Neither finished nor being deleted.
    pub(crate) fn active(&self) -> bool {
        !self.finished() && !self.metadata.terminating()
    }
}

/// Part of a Pod's spec.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodSpec {
    node_name: Option<String>,
    scheduler_name: Option<String>,
    scheduling_gates: Option<Vec<serde::de::IgnoredAny>>,
    priority: Option<i32>,
    host_network: Option<bool>,
    containers: Option<Vec<ContainerWire>>,
    init_containers: Option<Vec<ContainerWire>>,
    overhead: Option<QuantityMap>,
    resources: Option<ResourcesWire>,
    node_selector: Option<BTreeMap<Box<str>, Box<str>>>,
    affinity: Option<AffinityWire>,
    tolerations: Option<Vec<Toleration>>,
    hostname: Option<String>,
    subdomain: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerWire {
    restart_policy: Option<String>,
    resources: Option<ResourcesWire>,
    ports: Option<Vec<PortWire>>,
}

#[derive(Clone, Debug, Deserialize)]
struct ResourcesWire {
    requests: Option<QuantityMap>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortWire {
    name: Option<String>,
    container_port: Option<u16>,
    host_port: Option<u16>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
    protocol: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AffinityWire {
    node_affinity: Option<NodeAffinityWire>,
}

#[derive(Clone, Debug, Deserialize)]
struct NodeAffinityWire {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Option<NodeSelectorWire>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeSelectorWire {
    node_selector_terms: Option<Vec<NodeTerm>>,
}

/// Part of a Pod's status.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodStatus {
    phase: Option<String>,
    conditions: Option<Vec<super::metadata::Condition>>,
    container_statuses: Option<Vec<ContainerStatusWire>>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodAddressWire>>,
}

#[derive(Clone, Debug, Deserialize)]
struct PodAddressWire {
    ip: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatusWire {
    restart_count: Option<u32>,
}

/// What the pod takes on its node: the containers together, or the hungriest moment of its start, and the overhead.
///
/// Sidecars (init containers with restartPolicy Always) run on beside all that start after them
/// (k8s.io/component-helpers/resource, `PodRequests`).
fn requests(spec: &PodSpec) -> Amounts {
    let of = |container: &ContainerWire| {
        container
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref())
            .map_or_else(Amounts::default, Amounts::read)
    };
    let mut running = Amounts::default();
    for container in spec.containers.iter().flatten() {
        running.add(&of(container));
    }
    let mut sidecars = Amounts::default();
    let mut starting = Amounts::default();
    for container in spec.init_containers.iter().flatten() {
        let mut moment = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&moment);
            sidecars.add(&moment);
            moment = sidecars.clone();
        } else {
            moment.add(&sidecars);
        }
        starting.at_least(&moment);
    }
    running.at_least(&starting);
    if let Some(whole) = spec
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref())
    {
        let stated = Amounts::read(whole);
        if whole.contains_key("cpu") {
            running.cpu = stated.cpu;
        }
        if whole.contains_key("memory") {
            running.memory = stated.memory;
        }
    }
    if let Some(overhead) = &spec.overhead {
        running.add(&Amounts::read(overhead));
    }
    running
}

/// How many containers ask for no CPU and how many for no memory.
fn modest(spec: &PodSpec) -> (u32, u32) {
    let asks = |container: &ContainerWire, name: &str| {
        container
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref())
            .is_some_and(|requests| requests.contains_key(name))
    };
    let count = |name: &str| {
        let silent = spec
            .containers
            .iter()
            .flatten()
            .filter(|container| !asks(container, name))
            .count();
        u32::try_from(silent).unwrap_or(u32::MAX)
    };
    (count("cpu"), count("memory"))
}

/// Ports of all that runs as long as the pod: containers, then sidecars.
fn ports(spec: &PodSpec) -> impl Iterator<Item = &PortWire> {
    spec.containers
        .iter()
        .flatten()
        .chain(
            spec.init_containers
                .iter()
                .flatten()
                .filter(|container| container.restart_policy.as_deref() == Some("Always")),
        )
        .flat_map(|container| container.ports.iter().flatten())
}

fn named_ports(spec: &PodSpec) -> Box<[NamedPort]> {
    ports(spec)
        .filter_map(|port| {
            Some(NamedPort {
                name: port.name.as_deref().filter(|name| !name.is_empty())?.into(),
                protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
                port: port.container_port?,
            })
        })
        .collect()
}

fn addresses(status: &PodStatus) -> Box<[IpAddr]> {
    let all: Box<[IpAddr]> = status
        .pod_ips
        .iter()
        .flatten()
        .filter_map(|entry| entry.ip.as_deref()?.parse().ok())
        .collect();
    if !all.is_empty() {
        return all;
    }
    status
        .pod_ip
        .as_deref()
        .and_then(|text| text.parse().ok())
        .into_iter()
        .collect()
}

fn host_ports(spec: &PodSpec) -> Box<[HostPort]> {
    let host_network = spec.host_network.unwrap_or_default();
    ports(spec)
        .filter_map(|port| {
            // Defaulting sets hostPort on the host network; it is repeated here for pods stored before it did.
            let number = port
                .host_port
                .or(if host_network { port.container_port } else { None })?;
            (number != 0).then(|| HostPort {
                address: port.host_ip.as_deref().unwrap_or_default().into(),
                protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
                port: number,
            })
        })
        .collect()
}

impl Stored for Pod {
    type Wire = Wire<PodSpec, PodStatus>;

    fn from_wire(wire: Self::Wire) -> Self {
        let deletion_cost = wire
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get("controller.kubernetes.io/pod-deletion-cost"))
            .and_then(|text| text.parse().ok())
            .unwrap_or_default();
        let mut pod = Self {
            metadata: Metadata::from(wire.metadata),
            node: None,
            scheduler: "".into(),
            gated: false,
            priority: 0,
            requests: Amounts::default(),
            modest: (0, 0),
            node_selector: Box::default(),
            node_terms: None,
            tolerations: Box::default(),
            host_ports: Box::default(),
            named_ports: Box::default(),
            hostname: None,
            subdomain: None,
            addresses: Box::default(),
            phase: Phase::Pending,
            ready: false,
            ready_since: None,
            unscheduled: None,
            restarts: 0,
            deletion_cost,
        };
        if let Some(spec) = wire.spec {
            pod.requests = requests(&spec);
            pod.modest = modest(&spec);
            pod.host_ports = host_ports(&spec);
            pod.named_ports = named_ports(&spec);
            pod.hostname = spec.hostname.filter(|name| !name.is_empty()).map(Into::into);
            pod.subdomain = spec.subdomain.filter(|name| !name.is_empty()).map(Into::into);
            pod.node = spec.node_name.filter(|name| !name.is_empty()).map(Into::into);
            pod.scheduler = spec.scheduler_name.unwrap_or_default().into();
            pod.gated = spec.scheduling_gates.is_some_and(|gates| !gates.is_empty());
            pod.priority = spec.priority.unwrap_or_default();
            pod.node_selector = spec.node_selector.unwrap_or_default().into_iter().collect();
            pod.tolerations = spec.tolerations.unwrap_or_default().into();
            pod.node_terms = spec
                .affinity
                .and_then(|affinity| affinity.node_affinity)
                .and_then(|affinity| affinity.required)
                .map(|selector| selector.node_selector_terms.unwrap_or_default().into());
        }
        if let Some(status) = wire.status {
            pod.addresses = addresses(&status);
            pod.phase = match status.phase.as_deref() {
                Some("Running") => Phase::Running,
                Some("Succeeded") => Phase::Succeeded,
                Some("Failed") => Phase::Failed,
                Some("Unknown") => Phase::Unknown,
                _ => Phase::Pending,
            };
            for condition in status.conditions.unwrap_or_default() {
                match (condition.kind.as_str(), condition.status.as_str()) {
                    ("Ready", status) => {
                        pod.ready = status == "True";
                        pod.ready_since = time_from(condition.last_transition_time.as_deref());
                    }
                    ("PodScheduled", "False") => {
                        pod.unscheduled = Some((
                            condition.reason.unwrap_or_default().into(),
                            condition.message.unwrap_or_default().into(),
                        ));
                    }
                    _ => {}
                }
            }
            pod.restarts = status
                .container_statuses
                .iter()
                .flatten()
                .map(|container| container.restart_count.unwrap_or_default())
                .max()
                .unwrap_or_default();
        }
        pod
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}
