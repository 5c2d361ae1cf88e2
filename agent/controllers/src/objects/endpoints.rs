//! Endpoints: the older form of EndpointSlices, one object per Service.

use kube::core::ObjectMeta;
use serde::Deserialize;
use serde_json::{Value, json};

use super::endpoint_slice::{Pairs, Port, Target, annotations};
use super::{Metadata, Stored, or_default, travels};

/// Annotation of Endpoints that are a lock and nothing more (`LeaderElectionRecordAnnotationKey`).
pub(crate) const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// One address.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Address {
    #[serde(deserialize_with = "or_default")]
    pub(crate) ip: Box<str>,
    /// Empty where there is none.
    #[serde(deserialize_with = "or_default")]
    pub(crate) hostname: Box<str>,
    pub(crate) node_name: Option<Box<str>>,
    pub(crate) target_ref: Option<Box<Target>>,
}

impl Address {
    fn to_value(&self) -> Value {
        let mut value = json!({"ip": self.ip});
        if !self.hostname.is_empty() {
            value["hostname"] = (*self.hostname).into();
        }
        if let Some(node) = &self.node_name {
            value["nodeName"] = (**node).into();
        }
        if let Some(target) = &self.target_ref {
            value["targetRef"] = json!(target);
        }
        value
    }
}

/// Addresses that have the same ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Subset {
    #[serde(deserialize_with = "or_default")]
    pub(crate) ports: Vec<Port>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) addresses: Vec<Address>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) not_ready_addresses: Vec<Address>,
}

impl Subset {
    /// As the API has it: what is empty is left out.
    pub(crate) fn to_value(&self) -> Value {
        let mut value = json!({});
        let mut list = |name: &str, items: Vec<Value>| {
            if !items.is_empty() {
                value[name] = items.into();
            }
        };
        list("addresses", self.addresses.iter().map(Address::to_value).collect());
        list(
            "notReadyAddresses",
            self.not_ready_addresses.iter().map(Address::to_value).collect(),
        );
        let port = |port: &Port| {
            let mut value = port.in_slice();
            if port.name.is_empty()
                && let Some(fields) = value.as_object_mut()
            {
                fields.remove("name");
            }
            value
        };
        list("ports", self.ports.iter().map(port).collect());
        value
    }

    /// In the one order that comparisons need.
    pub(crate) fn sort(&mut self) {
        self.ports.sort_unstable();
        self.addresses.sort_unstable();
        self.not_ready_addresses.sort_unstable();
    }
}

/// What the controllers keep of Endpoints.
#[derive(Debug)]
pub(crate) struct Endpoints {
    pub(crate) metadata: Metadata,
    /// Sorted, each within itself too.
    pub(crate) subsets: Vec<Subset>,
    /// Without the time of the last trigger and without what kubectl remembers.
    pub(crate) annotations: Pairs,
}

impl Endpoints {
    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations
            .iter()
            .find(|(key, _)| &**key == name)
            .map(|(_, value)| &**value)
    }
}

/// Endpoints as they travel.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct EndpointsWire {
    #[serde(default)]
    metadata: ObjectMeta,
    subsets: Option<Vec<Subset>>,
}

travels!(EndpointsWire);

impl Stored for Endpoints {
    type Wire = EndpointsWire;

    fn from_wire(mut wire: Self::Wire) -> Self {
        let mut subsets = wire.subsets.unwrap_or_default();
        subsets.iter_mut().for_each(Subset::sort);
        subsets.sort_unstable();
        Self {
            annotations: annotations(&mut wire.metadata),
            metadata: Metadata::from(wire.metadata),
            subsets,
        }
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}
