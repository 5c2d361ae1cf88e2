//! The table of kinds: one row per kind that the API serves. A row and its schema text are all that a kind needs.

use crate::schema::{self, Type};
use crate::table::{Column, columns};

/// Whether objects of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Each object belongs to one namespace.
    Namespaced,
    /// Names are unique in the whole cluster.
    Cluster,
}

/// Where objects of a kind are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// On disk: an acknowledged write survives a power cut.
    Durable,
    /// In memory only; gone after a restart of the control plane.
    Memory {
        /// Seconds after its last write at which an object is dropped; `None` keeps it until deleted.
        ttl_seconds: Option<u32>,
    },
    /// Never stored: made up from measurements when asked for.
    Computed,
}

/// A path below an object with verbs of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// `…/status`: the same object, of which only `status` is written (and for nodes and pods little else).
    Status,
    /// `…/scale`: an `autoscaling/v1` `Scale` that stands for `spec.replicas`.
    Scale,
    /// `…/log`: what a container wrote.
    Log,
    /// `…/exec`: a command in a container.
    Exec,
    /// `…/binding`: a `v1` `Binding` that gives a pod its node.
    Binding,
    /// `…/eviction`: a `policy/v1` `Eviction` that asks to delete a pod, as draining a node does.
    Eviction,
    /// `…/archive`: the bytes of an image archive (`minidc.dev`).
    Archive,
}

impl Subresource {
    /// The last segment of its path.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Archive => "archive",
        }
    }

    /// The verbs that discovery lists for it, sorted.
    pub const fn verbs(self) -> &'static [&'static str] {
        match self {
            Self::Status | Self::Scale => &["get", "patch", "update"],
            Self::Log => &["get"],
            Self::Exec => &["create", "get"],
            Self::Binding | Self::Eviction => &["create"],
            Self::Archive => &["update"],
        }
    }
}

/// One row of the table.
#[derive(Debug)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version of the group, for example `v1`.
    pub version: &'static str,
    /// Kind as written in objects, for example `ReplicaSet`.
    pub kind: &'static str,
    /// Name in paths, for example `replicasets`.
    pub plural: &'static str,
    /// Name of one object on a command line, for example `replicaset`.
    pub singular: &'static str,
    /// What `kubectl` also accepts, for example `rs`.
    pub short_names: &'static [&'static str],
    /// Groups of resources it belongs to: `kubectl get all`.
    pub categories: &'static [&'static str],
    /// Namespaced or cluster-wide.
    pub scope: Scope,
    /// Durable, memory or computed.
    pub storage: Storage,
    /// What may be done to it, sorted, in the words of discovery and authorization.
    pub verbs: &'static [&'static str],
    /// Paths below an object.
    pub subresources: &'static [Subresource],
    /// Full name of its type in the schema, for example `io.k8s.api.apps.v1.ReplicaSet`.
    pub schema: &'static str,
    /// Paths that field selectors may use besides `metadata.name` and `metadata.namespace`.
    pub fields: &'static [&'static str],
    /// What `kubectl get` prints.
    pub columns: &'static [Column],
    /// `metadata.generation` counts changes of anything but metadata and status.
    pub has_generation: bool,
}

impl Kind {
    /// `v1` or `apps/v1`: what objects carry as `apiVersion`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Start of the store keys of all its objects, for example `apps/deployments/` or `core/pods/`.
    pub fn store_prefix(&self) -> String {
        format!(
            "{}/{}/",
            if self.group.is_empty() { "core" } else { self.group },
            self.plural
        )
    }

    /// Store key of one object; `namespace` is empty for cluster-wide kinds.
    pub fn store_key(&self, namespace: &str, name: &str) -> String {
        format!("{}{namespace}/{name}", self.store_prefix())
    }

    /// Start of the store keys of its objects in one namespace.
    pub fn namespace_prefix(&self, namespace: &str) -> String {
        format!("{}{namespace}/", self.store_prefix())
    }

    /// `deployments.apps` or `pods`: the resource as error messages name it.
    pub fn qualified_resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `Deployment.apps` or `Pod`: the kind as `Invalid` messages name it.
    pub fn qualified_kind(&self) -> String {
        if self.group.is_empty() {
            self.kind.to_owned()
        } else {
            format!("{}.{}", self.kind, self.group)
        }
    }

    /// True when objects live in a namespace.
    pub const fn is_namespaced(&self) -> bool {
        matches!(self.scope, Scope::Namespaced)
    }

    /// True when the row lists the verb.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// True when the row lists the subresource.
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// The type of its objects.
    pub fn object_type(&self) -> &'static Type {
        schema::type_or_empty(self.schema)
    }
}

const STANDARD: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const ONE_BY_ONE: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const READ_ONLY: &[&str] = &["get", "list"];

/// What most kinds have; a row names only what differs.
const ROW: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    storage: Storage::Durable,
    verbs: STANDARD,
    subresources: &[],
    schema: "",
    fields: &[],
    columns: columns::PLAIN,
    has_generation: false,
};

static KINDS: &[Kind] = &[
    Kind {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        schema: "io.k8s.api.core.v1.ConfigMap",
        columns: columns::CONFIG_MAPS,
        ..ROW
    },
    Kind {
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        schema: "io.k8s.api.core.v1.Endpoints",
        columns: columns::ENDPOINTS,
        ..ROW
    },
    Kind {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        storage: Storage::Memory {
            ttl_seconds: Some(3600),
        },
        schema: "io.k8s.api.core.v1.Event",
        columns: columns::EVENTS,
        fields: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ..ROW
    },
    Kind {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        scope: Scope::Cluster,
        verbs: ONE_BY_ONE,
        subresources: &[Subresource::Status],
        schema: "io.k8s.api.core.v1.Namespace",
        columns: columns::NAMESPACES,
        fields: &["status.phase"],
        ..ROW
    },
    Kind {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        scope: Scope::Cluster,
        subresources: &[Subresource::Status],
        schema: "io.k8s.api.core.v1.Node",
        columns: columns::NODES,
        fields: &["spec.unschedulable"],
        ..ROW
    },
    Kind {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            Subresource::Binding,
            Subresource::Eviction,
            Subresource::Exec,
            Subresource::Log,
            Subresource::Status,
        ],
        schema: "io.k8s.api.core.v1.Pod",
        columns: columns::PODS,
        fields: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        has_generation: true,
        ..ROW
    },
    Kind {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        schema: "io.k8s.api.core.v1.Secret",
        columns: columns::SECRETS,
        fields: &["type"],
        ..ROW
    },
    Kind {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[Subresource::Status],
        schema: "io.k8s.api.core.v1.Service",
        columns: columns::SERVICES,
        fields: &["spec.clusterIP", "spec.type"],
        ..ROW
    },
    Kind {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[Subresource::Scale, Subresource::Status],
        schema: "io.k8s.api.apps.v1.Deployment",
        columns: columns::DEPLOYMENTS,
        has_generation: true,
        ..ROW
    },
    Kind {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[Subresource::Scale, Subresource::Status],
        schema: "io.k8s.api.apps.v1.ReplicaSet",
        columns: columns::REPLICA_SETS,
        fields: &["status.replicas"],
        has_generation: true,
        ..ROW
    },
    Kind {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        storage: Storage::Memory { ttl_seconds: None },
        schema: "io.k8s.api.coordination.v1.Lease",
        columns: columns::LEASES,
        ..ROW
    },
    Kind {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        schema: "io.k8s.api.discovery.v1.EndpointSlice",
        columns: columns::ENDPOINT_SLICES,
        has_generation: true,
        ..ROW
    },
    Kind {
        group: "metrics.k8s.io",
        version: "v1beta1",
        kind: "NodeMetrics",
        plural: "nodes",
        scope: Scope::Cluster,
        storage: Storage::Computed,
        verbs: READ_ONLY,
        schema: "io.k8s.metrics.v1beta1.NodeMetrics",
        columns: columns::NODE_METRICS,
        ..ROW
    },
    Kind {
        group: "metrics.k8s.io",
        version: "v1beta1",
        kind: "PodMetrics",
        plural: "pods",
        storage: Storage::Computed,
        verbs: READ_ONLY,
        schema: "io.k8s.metrics.v1beta1.PodMetrics",
        columns: columns::POD_METRICS,
        ..ROW
    },
    Kind {
        group: "minidc.dev",
        kind: "Image",
        plural: "images",
        singular: "image",
        scope: Scope::Cluster,
        subresources: &[Subresource::Archive, Subresource::Status],
        schema: "dev.minidc.v1.Image",
        columns: columns::IMAGES,
        has_generation: true,
        ..ROW
    },
    Kind {
        group: "minidc.dev",
        kind: "JoinToken",
        plural: "jointokens",
        singular: "jointoken",
        scope: Scope::Cluster,
        schema: "dev.minidc.v1.JoinToken",
        columns: columns::JOIN_TOKENS,
        has_generation: true,
        ..ROW
    },
    Kind {
        group: "minidc.dev",
        kind: "NetCheck",
        plural: "netchecks",
        singular: "netcheck",
        scope: Scope::Cluster,
        storage: Storage::Memory { ttl_seconds: Some(300) },
        subresources: &[Subresource::Status],
        schema: "dev.minidc.v1.NetCheck",
        columns: columns::NET_CHECKS,
        ..ROW
    },
    Kind {
        group: "minidc.dev",
        kind: "NodeIdentity",
        plural: "nodeidentities",
        singular: "nodeidentity",
        scope: Scope::Cluster,
        schema: "dev.minidc.v1.NodeIdentity",
        columns: columns::NODE_IDENTITIES,
        has_generation: true,
        ..ROW
    },
    Kind {
        group: "networking.k8s.io",
        kind: "IPAddress",
        plural: "ipaddresses",
        singular: "ipaddress",
        short_names: &["ip"],
        scope: Scope::Cluster,
        schema: "io.k8s.api.networking.v1.IPAddress",
        columns: columns::IP_ADDRESSES,
        fields: &[
            "spec.parentRef.group",
            "spec.parentRef.name",
            "spec.parentRef.namespace",
            "spec.parentRef.resource",
        ],
        ..ROW
    },
    Kind {
        group: "networking.k8s.io",
        kind: "ServiceCIDR",
        plural: "servicecidrs",
        singular: "servicecidr",
        scope: Scope::Cluster,
        subresources: &[Subresource::Status],
        schema: "io.k8s.api.networking.v1.ServiceCIDR",
        columns: columns::SERVICE_CIDRS,
        ..ROW
    },
];

/// All rows, grouped by group and version.
pub fn all() -> &'static [Kind] {
    KINDS
}

/// The row behind a path: `by_resource("apps", "v1", "deployments")`.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|row| row.plural == plural && row.version == version && row.group == group)
}

/// The row of an object: `by_kind("apps", "v1", "Deployment")`.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|row| row.kind == kind && row.version == version && row.group == group)
}

/// Splits an `apiVersion` into group and version; the core group is empty.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rows_share_a_name() {
        for (index, one) in KINDS.iter().enumerate() {
            for other in &KINDS[index + 1..] {
                let group = (one.group, one.version) == (other.group, other.version);
                assert!(
                    !(group && (one.plural == other.plural || one.kind == other.kind)),
                    "{}",
                    one.kind
                );
            }
        }
    }

    #[test]
    fn rows_of_a_group_stand_together_and_lists_are_sorted() {
        let groups: Vec<_> = KINDS.iter().map(|row| (row.group, row.version)).collect();
        assert!(groups.is_sorted());
        for row in KINDS {
            assert!(row.verbs.is_sorted());
            assert!(
                row.subresources
                    .iter()
                    .map(|subresource| subresource.name())
                    .is_sorted(),
                "{}",
                row.kind
            );
        }
    }

    #[test]
    fn keys_are_group_plural_namespace_name() {
        let pods = by_resource("", "v1", "pods").unwrap();
        assert_eq!(pods.store_key("default", "web-1"), "core/pods/default/web-1");
        assert_eq!(
            by_kind("apps", "v1", "Deployment").unwrap().store_prefix(),
            "apps/deployments/"
        );
        assert_eq!(
            by_resource("", "v1", "nodes").unwrap().store_key("", "pi-1"),
            "core/nodes//pi-1"
        );
        assert_eq!(
            by_resource("metrics.k8s.io", "v1beta1", "nodes").unwrap().api_version(),
            "metrics.k8s.io/v1beta1"
        );
        assert_eq!(split_api_version("apps/v1"), ("apps", "v1"));
        assert_eq!(split_api_version("v1"), ("", "v1"));
    }
}
