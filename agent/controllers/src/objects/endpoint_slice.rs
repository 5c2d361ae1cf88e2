//! An EndpointSlice, and the parts that it shares with Endpoints.

use std::net::IpAddr;

use kube::core::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Key, Metadata, Stored, or_default, port_number, travels};

/// Label: the Service that a slice belongs to.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label: who keeps a slice.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label of slices and Endpoints of Services without cluster IP.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
/// Annotation: when what led to the last change happened.
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Annotation of `kubectl apply`.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Family of addresses: `spec.ipFamilies[]` of a Service, `addressType` of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    IPv4,
    IPv6,
}

impl Family {
    /// None for `FQDN` and what is not known.
    pub(crate) fn read(text: &str) -> Option<Self> {
        match text {
            "IPv4" => Some(Self::IPv4),
            "IPv6" => Some(Self::IPv6),
            _ => None,
        }
    }

    pub(crate) fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::IPv4 } else { Self::IPv6 }
    }

    /// As the API writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::IPv4 => "IPv4",
            Self::IPv6 => "IPv6",
        }
    }
}

/// A port of all endpoints of a slice, or of all addresses of a subset.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Port {
    /// As the Service's port is named; may be empty.
    #[serde(deserialize_with = "or_default")]
    pub(crate) name: Box<str>,
    #[serde(deserialize_with = "port_number")]
    pub(crate) port: Option<u16>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) protocol: Box<str>,
    pub(crate) app_protocol: Option<Box<str>>,
}

impl Port {
    /// As slices have it: the name is there, be it empty.
    pub(crate) fn in_slice(&self) -> Value {
        let mut value = json!({"name": self.name, "protocol": self.protocol});
        if let Some(port) = self.port {
            value["port"] = port.into();
        }
        if let Some(protocol) = &self.app_protocol {
            value["appProtocol"] = (**protocol).into();
        }
        value
    }
}

/// The object that an endpoint is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Target {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_version: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<Box<str>>,
}

/// What is known of an endpoint; none is what the API takes for absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Conditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ready: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) serving: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) terminating: Option<bool>,
}

/// One place that answers for a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Endpoint {
    #[serde(deserialize_with = "or_default")]
    pub(crate) addresses: Vec<Box<str>>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) conditions: Conditions,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hostname: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target_ref: Option<Box<Target>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node_name: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<Box<str>>,
}

/// What makes two endpoints the same one, whatever its state (`endpointutil.hashEndpoint`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    addresses: Vec<Box<str>>,
    hostname: Option<Box<str>>,
    target: Option<[Option<Box<str>>; 2]>,
}

impl Endpoint {
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            addresses: self.addresses.clone(),
            hostname: self.hostname.clone(),
            target: self
                .target_ref
                .as_ref()
                .map(|target| [target.namespace.clone(), target.name.clone()]),
        }
    }

    /// Takes new connections; what is not said means so.
    pub(crate) fn ready(&self) -> bool {
        self.conditions.ready != Some(false)
    }
}

/// Names and values, sorted by name.
pub(crate) type Pairs = Box<[(Box<str>, Box<str>)]>;

/// What the controllers keep of an EndpointSlice.
#[derive(Debug)]
pub(crate) struct EndpointSlice {
    pub(crate) metadata: Metadata,
    /// None for `FQDN`.
    pub(crate) family: Option<Family>,
    /// Sorted.
    pub(crate) ports: Box<[Port]>,
    pub(crate) endpoints: Box<[Endpoint]>,
    /// Without the time of the last trigger and without what kubectl remembers.
    pub(crate) annotations: Pairs,
}

impl EndpointSlice {
    /// Key of the Service that it belongs to, and of the Endpoints that it may mirror.
    pub(crate) fn service(&self) -> Option<Key> {
        let name = self.metadata.label(SERVICE_NAME)?;
        Some(Key::new(&self.metadata.key.namespace, name))
    }

    /// Whether the label says that `manager` keeps it.
    pub(crate) fn is_kept_by(&self, manager: &str) -> bool {
        self.metadata.label(MANAGED_BY) == Some(manager)
    }
}

/// An EndpointSlice as it travels.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointSliceWire {
    #[serde(default)]
    metadata: ObjectMeta,
    address_type: Option<String>,
    ports: Option<Vec<Port>>,
    endpoints: Option<Vec<Endpoint>>,
}

travels!(EndpointSliceWire);

/// Annotations that have a meaning of their own for those who copy an object's.
pub(crate) fn annotations(metadata: &mut ObjectMeta) -> Pairs {
    metadata
        .annotations
        .take()
        .unwrap_or_default()
        .into_iter()
        .filter(|(name, _)| name != TRIGGER_TIME && name != LAST_APPLIED)
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

impl Stored for EndpointSlice {
    type Wire = EndpointSliceWire;

    fn from_wire(mut wire: Self::Wire) -> Self {
        let mut ports = wire.ports.unwrap_or_default();
        ports.sort_unstable();
        Self {
            annotations: annotations(&mut wire.metadata),
            metadata: Metadata::from(wire.metadata),
            family: wire.address_type.as_deref().and_then(Family::read),
            ports: ports.into(),
            endpoints: wire.endpoints.unwrap_or_default().into(),
        }
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}
