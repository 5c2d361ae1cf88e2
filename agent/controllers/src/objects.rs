//! What the controllers remember of each object: only the fields they read.
//!
//! A typed Pod of k8s-openapi takes about 13 KB; the [`Pod`](pod::Pod) here about 700 bytes. Each kind has a wire form, which serde
//! fills and which lives only while an event is handled, and a stored form made from it.

use std::borrow::Cow;
use std::fmt::Debug;

use kube::core::ObjectMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub(crate) mod deployment;
pub(crate) mod endpoint_slice;
pub(crate) mod endpoints;
pub(crate) mod metadata;
pub(crate) mod node;
pub(crate) mod pod;
pub(crate) mod replica_set;
pub(crate) mod service;

pub(crate) use metadata::{Key, Metadata, Owner};

/// One kind as the API serves it; enough to build its paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    /// Empty for the core group.
    pub group: Cow<'static, str>,
    /// E.g. `v1`.
    pub version: Cow<'static, str>,
    /// E.g. `ConfigMap`.
    pub kind: Cow<'static, str>,
    /// As in paths, e.g. `configmaps`.
    pub plural: Cow<'static, str>,
    /// False for cluster-scoped kinds.
    pub namespaced: bool,
}

impl Resource {
    pub(crate) const fn new(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        namespaced: bool,
    ) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            kind: Cow::Borrowed(kind),
            plural: Cow::Borrowed(plural),
            namespaced,
        }
    }

    /// `v1` or `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Path of the collection in one namespace; the namespace is ignored for cluster-scoped kinds.
    pub(crate) fn collection(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let api_version = self.api_version();
        let plural = &self.plural;
        if self.namespaced {
            format!("{root}/{api_version}/namespaces/{namespace}/{plural}")
        } else {
            format!("{root}/{api_version}/{plural}")
        }
    }

    /// Path of one object.
    pub(crate) fn path(&self, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.collection(namespace))
    }

    /// Path of one object by its key.
    pub(crate) fn path_of(&self, key: &Key) -> String {
        self.path(&key.namespace, &key.name)
    }
}

pub(crate) const PODS: Resource = Resource::new("", "v1", "Pod", "pods", true);
pub(crate) const NODES: Resource = Resource::new("", "v1", "Node", "nodes", false);
pub(crate) const NAMESPACES: Resource = Resource::new("", "v1", "Namespace", "namespaces", false);
pub(crate) const SERVICES: Resource = Resource::new("", "v1", "Service", "services", true);
pub(crate) const ENDPOINTS: Resource = Resource::new("", "v1", "Endpoints", "endpoints", true);
pub(crate) const ENDPOINT_SLICES: Resource =
    Resource::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", true);
pub(crate) const CONFIG_MAPS: Resource = Resource::new("", "v1", "ConfigMap", "configmaps", true);
pub(crate) const EVENTS: Resource = Resource::new("", "v1", "Event", "events", true);
pub(crate) const LEASES: Resource = Resource::new("coordination.k8s.io", "v1", "Lease", "leases", true);
pub(crate) const REPLICA_SETS: Resource = Resource::new("apps", "v1", "ReplicaSet", "replicasets", true);
pub(crate) const DEPLOYMENTS: Resource = Resource::new("apps", "v1", "Deployment", "deployments", true);

/// An object as it travels: whole metadata, and of spec and status what `S` and `T` name. It lives only while an event is handled.
///
/// Every field of `S` and `T` is an `Option`: one odd object must not keep a whole list from being read.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "S: DeserializeOwned, T: DeserializeOwned")]
pub(crate) struct Wire<S, T> {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default = "Option::default")]
    pub(crate) spec: Option<S>,
    #[serde(default = "Option::default")]
    pub(crate) status: Option<T>,
}

/// Makes a wire form one that kube's clients and watchers take: all of them have `metadata`, and learn their kind at run time.
macro_rules! travels {
    ($wire:ident $(<$($parameter:ident),+>)?) => {
        impl $(<$($parameter),+>)? kube::Resource for $wire $(<$($parameter),+>)? {
            type DynamicType = $crate::objects::Resource;
            type Scope = kube::core::DynamicResourceScope;

            fn kind(resource: &$crate::objects::Resource) -> std::borrow::Cow<'_, str> {
                std::borrow::Cow::Borrowed(&resource.kind)
            }
            fn group(resource: &$crate::objects::Resource) -> std::borrow::Cow<'_, str> {
                std::borrow::Cow::Borrowed(&resource.group)
            }
            fn version(resource: &$crate::objects::Resource) -> std::borrow::Cow<'_, str> {
                std::borrow::Cow::Borrowed(&resource.version)
            }
            fn plural(resource: &$crate::objects::Resource) -> std::borrow::Cow<'_, str> {
                std::borrow::Cow::Borrowed(&resource.plural)
            }
            fn meta(&self) -> &kube::core::ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut kube::core::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
pub(crate) use travels;

travels!(Wire<S, T>);

/// What is absent or null is nothing: one odd object must not keep a whole list from being read.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A port; what is none counts as absent.
pub(crate) fn port_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    let number: Option<i64> = Option::deserialize(deserializer)?;
    Ok(number.and_then(|number| u16::try_from(number).ok()))
}

/// A kind that a cache can hold.
pub(crate) trait Stored: Sized + Send + Sync + 'static {
    /// What serde reads of it.
    type Wire: kube::Resource<DynamicType = Resource> + Clone + Debug + DeserializeOwned + Send + 'static;

    /// Keeps what the controllers need.
    fn from_wire(wire: Self::Wire) -> Self;

    /// Identity, labels and owners.
    fn metadata(&self) -> &Metadata;
}

/// An object of which only the metadata is known: what garbage collection needs.
#[derive(Debug)]
pub(crate) struct Anything {
    metadata: Metadata,
}

impl Stored for Anything {
    type Wire = Wire<serde::de::IgnoredAny, serde::de::IgnoredAny>;

    fn from_wire(wire: Self::Wire) -> Self {
        Self {
            metadata: Metadata::from(wire.metadata),
        }
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// A node's sign of life.
#[derive(Debug)]
pub(crate) struct Lease {
    metadata: Metadata,
    /// As written; only whether it changes matters, never what time it says.
    pub(crate) renewed: Box<str>,
}

/// Part of a Lease's spec.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LeaseSpec {
    renew_time: Option<String>,
}

impl Stored for Lease {
    type Wire = Wire<LeaseSpec, serde::de::IgnoredAny>;

    fn from_wire(wire: Self::Wire) -> Self {
        Self {
            metadata: Metadata::from(wire.metadata),
            renewed: wire.spec.and_then(|spec| spec.renew_time).unwrap_or_default().into(),
        }
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// A namespace, as its deletion sees it.
#[derive(Debug)]
pub(crate) struct Namespace {
    metadata: Metadata,
    /// `spec.finalizers`.
    pub(crate) finalizers: Vec<String>,
    pub(crate) conditions: Vec<metadata::Condition>,
}

impl Namespace {
    pub(crate) fn key(&self) -> &Key {
        &self.metadata.key
    }

    pub(crate) fn terminating(&self) -> bool {
        self.metadata.terminating()
    }
}

/// Part of a Namespace's status.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NamespaceStatus {
    conditions: Option<Vec<metadata::Condition>>,
}

/// Part of a Namespace's spec.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NamespaceSpec {
    finalizers: Option<Vec<String>>,
}

impl Stored for Namespace {
    type Wire = Wire<NamespaceSpec, NamespaceStatus>;

    fn from_wire(wire: Self::Wire) -> Self {
        Self {
            metadata: Metadata::from(wire.metadata),
            finalizers: wire.spec.and_then(|spec| spec.finalizers).unwrap_or_default(),
            conditions: wire.status.and_then(|status| status.conditions).unwrap_or_default(),
        }
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// An object from JSON, as if it had come from the API.
#[cfg(test)]
pub(crate) fn from_json<K: Stored>(value: serde_json::Value) -> std::sync::Arc<K> {
    let wire: K::Wire = serde_json::from_value(value).unwrap();
    std::sync::Arc::new(K::from_wire(wire))
}

#[cfg(test)]
mod tests;
