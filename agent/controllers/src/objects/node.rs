//! A node as scheduler, node lifecycle and Services see it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::metadata::Condition;
use super::pod::Amounts;
use super::{Metadata, Stored, Wire};

/// `spec.taints[]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Taint {
    pub(crate) key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<String>,
    pub(crate) effect: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) time_added: Option<String>,
}

impl Taint {
    pub(crate) fn new(key: &str, effect: &str) -> Self {
        Self {
            key: key.into(),
            value: None,
            effect: effect.into(),
            time_added: None,
        }
    }

    /// Kubernetes compares taints by key and effect.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.key == other.key && self.effect == other.effect
    }
}

/// What the controllers keep of a node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) metadata: Metadata,
    pub(crate) unschedulable: bool,
    pub(crate) taints: Vec<Taint>,
    pub(crate) pod_cidr: Option<Box<str>>,
    pub(crate) allocatable: Amounts,
    /// `status.allocatable.pods`.
    pub(crate) pods: u64,
    pub(crate) conditions: Vec<Condition>,
    /// `status.addresses` of type InternalIP, in their order.
    pub(crate) addresses: Box<[IpAddr]>,
}

impl Node {
    /// Status of the Ready condition: `True`, `False`, `Unknown`; none before the kubelet's first report.
    pub(crate) fn ready(&self) -> Option<&str> {
        self.condition("Ready").map(|condition| condition.status.as_str())
    }

    pub(crate) fn condition(&self, kind: &str) -> Option<&Condition> {
        super::metadata::condition(&self.conditions, kind)
    }
}

/// Part of a Node's spec.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeSpec {
    unschedulable: Option<bool>,
    taints: Option<Vec<Taint>>,
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
}

/// Part of a Node's status.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NodeStatus {
    allocatable: Option<BTreeMap<String, serde_json::Value>>,
    conditions: Option<Vec<Condition>>,
    addresses: Option<Vec<AddressWire>>,
}

#[derive(Clone, Debug, Deserialize)]
struct AddressWire {
    #[serde(rename = "type")]
    kind: Option<String>,
    address: Option<String>,
}

impl Stored for Node {
    type Wire = Wire<NodeSpec, NodeStatus>;

    fn from_wire(wire: Self::Wire) -> Self {
        let mut node = Self {
            metadata: Metadata::from(wire.metadata),
            unschedulable: false,
            taints: Vec::new(),
            pod_cidr: None,
            allocatable: Amounts::default(),
            pods: 0,
            conditions: Vec::new(),
            addresses: Box::default(),
        };
        if let Some(spec) = wire.spec {
            node.unschedulable = spec.unschedulable.unwrap_or_default();
            node.taints = spec.taints.unwrap_or_default();
            node.pod_cidr = spec.pod_cidr.filter(|range| !range.is_empty()).map(Into::into);
        }
        if let Some(status) = wire.status {
            let allocatable = status.allocatable.unwrap_or_default();
            node.allocatable = Amounts::read(&allocatable);
            node.pods = allocatable
                .get("pods")
                .and_then(|value| minidc_api::quantity::Quantity::from_value(value).ok())
                .and_then(|quantity| u64::try_from(quantity.units()).ok())
                .unwrap_or_default();
            node.conditions = status.conditions.unwrap_or_default();
            node.addresses = status
                .addresses
                .iter()
                .flatten()
                .filter(|entry| entry.kind.as_deref() == Some("InternalIP"))
                .filter_map(|entry| entry.address.as_deref()?.parse().ok())
                .collect();
        }
        node
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}
