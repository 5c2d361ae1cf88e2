//! Whether a pod fits a node, and which of the nodes that it fits is best. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::objects::node::{Node, Taint};
use crate::objects::pod::{Amounts, NodeTerm, Pod, Requirement};
use crate::objects::{Key, Metadata};
use crate::taints::{NO_EXECUTE, NO_SCHEDULE, NOT_READY, PREFER_NO_SCHEDULE, UNREACHABLE, UNSCHEDULABLE, tolerated};

/// CPU that a container which asks for none counts for when nodes are compared: thousandths of a core
/// (`DefaultMilliCPURequest` of Kubernetes' scheduler).
const MODEST_CPU: u64 = 100;
/// The same of memory, in bytes (`DefaultMemoryRequest`).
const MODEST_MEMORY: u64 = 200 * 1024 * 1024;

/// A node with all that is on it.
pub(crate) struct Place {
    pub(crate) node: Arc<Node>,
    /// Sums over `pods`, kept so that a decision does not add them up anew.
    used: Amounts,
    /// The same with what modest pods are taken for.
    weight: (u64, u64),
    pods: BTreeMap<Key, Arc<Pod>>,
}

/// All nodes with all that is on them.
pub(crate) struct Cluster {
    places: Vec<Place>,
}

/// Why a pod can go nowhere: how many nodes there are, and how many of them each reason rules out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    nodes: usize,
    reasons: BTreeMap<String, usize>,
}

impl Refusal {
    /// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
    pub(crate) fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let mut reasons: Vec<String> = self
            .reasons
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        // Kubernetes sorts the finished phrases, numbers first.
        reasons.sort();
        format!("0/{} nodes are available: {}.", self.nodes, reasons.join(", "))
    }
}

fn weight(pod: &Pod) -> (u64, u64) {
    let (cpu, memory) = pod.modest;
    (
        pod.requests
            .cpu
            .saturating_add(u64::from(cpu).saturating_mul(MODEST_CPU)),
        pod.requests
            .memory
            .saturating_add(u64::from(memory).saturating_mul(MODEST_MEMORY)),
    )
}

impl Place {
    fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            used: Amounts::default(),
            weight: (0, 0),
            pods: BTreeMap::new(),
        }
    }

    fn add(&mut self, pod: &Arc<Pod>) {
        self.used.add(&pod.requests);
        let (cpu, memory) = weight(pod);
        self.weight = (self.weight.0.saturating_add(cpu), self.weight.1.saturating_add(memory));
        self.pods.insert(pod.metadata.key.clone(), Arc::clone(pod));
    }

    /// What keeps the pod off this node; the first kind of reason only, as Kubernetes' filters do.
    fn objections(&self, pod: &Pod) -> Vec<String> {
        let node = &self.node;
        let cordon = Taint::new(UNSCHEDULABLE, NO_SCHEDULE);
        if node.unschedulable && !tolerated(&pod.tolerations, &cordon) {
            return vec!["node(s) were unschedulable".into()];
        }
        // A node that has not been tainted yet, or has lost its taint to somebody's edit, is judged by its condition.
        let implied = match node.ready() {
            Some("True") => None,
            Some("Unknown") => Some(Taint::new(UNREACHABLE, NO_SCHEDULE)),
            _ => Some(Taint::new(NOT_READY, NO_SCHEDULE)),
        };
        let repels = |taint: &&Taint| {
            (taint.effect == NO_SCHEDULE || taint.effect == NO_EXECUTE) && !tolerated(&pod.tolerations, taint)
        };
        if let Some(taint) = node.taints.iter().chain(&implied).find(repels) {
            let value = taint.value.as_deref().unwrap_or_default();
            return vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)];
        }
        if !selected(pod, &node.metadata) {
            return vec!["node(s) didn't match Pod's node affinity/selector".into()];
        }
        let taken = |port| {
            self.pods
                .values()
                .any(|other| other.host_ports.iter().any(|there| there.conflicts(port)))
        };
        if pod.host_ports.iter().any(taken) {
            return vec!["node(s) didn't have free ports for the requested pod ports".into()];
        }
        self.lacks(pod)
    }

    fn lacks(&self, pod: &Pod) -> Vec<String> {
        let has = &self.node.allocatable;
        let wants = &pod.requests;
        let mut lacks = Vec::new();
        if u64::try_from(self.pods.len()).unwrap_or(u64::MAX) >= self.node.pods {
            lacks.push("Too many pods".into());
        }
        let short = |wants: u64, has: u64, used: u64| wants > 0 && wants > has.saturating_sub(used);
        if short(wants.cpu, has.cpu, self.used.cpu) {
            lacks.push("Insufficient cpu".into());
        }
        if short(wants.memory, has.memory, self.used.memory) {
            lacks.push("Insufficient memory".into());
        }
        if short(
            wants.ephemeral_storage,
            has.ephemeral_storage,
            self.used.ephemeral_storage,
        ) {
            lacks.push("Insufficient ephemeral-storage".into());
        }
        for (name, amount) in &wants.others {
            if short(*amount, has.other(name), self.used.other(name)) {
                lacks.push(format!("Insufficient {name}"));
            }
        }
        lacks
    }

    /// How badly this node suits the pod; compared left to right, least is best.
    ///
    /// First the node's own wish to be left alone, then spread: by controller, then by application (the same labels but for the
    /// template's hash, so that a roll-out spreads beside its predecessor), and last how full it would be, in thousandths.
    fn cost(&self, pod: &Pod) -> (usize, usize, usize, u64, usize) {
        let shy = self
            .node
            .taints
            .iter()
            .filter(|taint| taint.effect == PREFER_NO_SCHEDULE && !tolerated(&pod.tolerations, taint))
            .count();
        let peers = || {
            self.pods
                .values()
                .filter(|other| other.active() && other.metadata.key.namespace == pod.metadata.key.namespace)
        };
        let siblings = match pod.metadata.controller() {
            Some(owner) => peers()
                .filter(|other| other.metadata.controller().is_some_and(|its| its.uid == owner.uid))
                .count(),
            None => 0,
        };
        let alike = peers()
            .filter(|other| same_application(&pod.metadata, &other.metadata))
            .count();
        let (cpu, memory) = weight(pod);
        let part = |used: u64, capacity: u64| {
            used.saturating_mul(1000)
                .checked_div(capacity)
                .unwrap_or(1000)
                .min(1000)
        };
        let full = part(self.weight.0.saturating_add(cpu), self.node.allocatable.cpu)
            + part(self.weight.1.saturating_add(memory), self.node.allocatable.memory);
        (shy, siblings, alike, full / 2, self.pods.len())
    }
}

/// Labels that differ between pods of one application.
const OWN_LABELS: [&str; 4] = [
    "pod-template-hash",
    "controller-revision-hash",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
];

fn same_application(one: &Metadata, other: &Metadata) -> bool {
    fn shared(metadata: &Metadata) -> impl Iterator<Item = &(Box<str>, Box<str>)> {
        metadata.labels.iter().filter(|(key, _)| !OWN_LABELS.contains(&&**key))
    }
    // Labels come sorted by key.
    shared(one).next().is_some() && shared(one).eq(shared(other))
}

fn selected(pod: &Pod, node: &Metadata) -> bool {
    pod.node_selector
        .iter()
        .all(|(key, value)| node.label(key) == Some(value))
        && pod
            .node_terms
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|term| holds(term, node)))
}

fn holds(term: &NodeTerm, node: &Metadata) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // An empty term matches nothing.
    !(expressions.is_empty() && fields.is_empty())
        && expressions
            .iter()
            .all(|requirement| satisfied(requirement, node.label(&requirement.key)))
        && fields.iter().all(|requirement| {
            satisfied(
                requirement,
                (&*requirement.key == "metadata.name").then_some(&*node.key.name),
            )
        })
}

fn satisfied(requirement: &Requirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|wanted| &**wanted == value);
    let compare = |how: fn(&i64, &i64) -> bool| {
        let value = value.and_then(|value| value.parse().ok());
        let bound = values.first().and_then(|bound| bound.parse().ok());
        value.zip(bound).is_some_and(|(value, bound)| how(&value, &bound))
    };
    match &*requirement.operator {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

impl Cluster {
    /// From all nodes and all pods; finished pods take nothing, pods being deleted still do.
    pub(crate) fn new(nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Self {
        let mut places: Vec<Place> = nodes.iter().cloned().map(Place::new).collect();
        places.sort_by(|a, b| a.node.metadata.key.cmp(&b.node.metadata.key));
        let mut cluster = Self { places };
        for pod in pods {
            if let Some(node) = pod.node.as_deref().filter(|_| !pod.finished()) {
                cluster.put(pod, node);
            }
        }
        cluster
    }

    /// Counts a pod as being on a node, as after a binding that the caches do not show yet.
    pub(crate) fn put(&mut self, pod: &Arc<Pod>, node: &str) {
        if let Ok(at) = self
            .places
            .binary_search_by(|place| (*place.node.metadata.key.name).cmp(node))
        {
            self.places[at].add(pod);
        }
    }
}

/// The best node for a pod, or what every node has against it.
///
/// # Errors
/// No node will do.
pub(crate) fn choose(pod: &Pod, cluster: &Cluster) -> Result<Arc<str>, Refusal> {
    let mut refusal = Refusal {
        nodes: cluster.places.len(),
        reasons: BTreeMap::new(),
    };
    let mut best: Option<(_, &Place)> = None;
    for place in &cluster.places {
        let objections = place.objections(pod);
        if objections.is_empty() {
            let cost = place.cost(pod);
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                best = Some((cost, place));
            }
        }
        for objection in objections {
            *refusal.reasons.entry(objection).or_default() += 1;
        }
    }
    best.map(|(_, place)| Arc::clone(&place.node.metadata.key.name))
        .ok_or(refusal)
}

#[cfg(test)]
mod tests;
