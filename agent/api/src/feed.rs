//! What the control plane sends a node: the objects it needs, as they are stored.

use serde::{Deserialize, Serialize};

/// Label, whatever its value, of config maps in `kube-system` whose keys are DNS zone files; every node is sent them.
pub const DNS_ZONES: &str = "minidc.dev/dns-zones";

/// Kinds of object that a node is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FeedKind {
    /// Pods bound to the node.
    Pod,
    /// Config maps that those pods use, and those in `kube-system` with the label [`DNS_ZONES`].
    ConfigMap,
    /// Secrets that those pods use.
    Secret,
    /// All nodes: peers, their addresses and pod ranges.
    Node,
    /// Container images that every node is to hold (`images.minidc.dev`).
    Image,
    /// All Services.
    Service,
    /// All EndpointSlices.
    EndpointSlice,
    /// All namespaces: a name in one that does not exist is another answer than a name that is missing in one that does.
    Namespace,
    /// Checks of the network that were asked for (`netchecks.minidc.dev`).
    NetCheck,
}

/// What happened to an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FeedOp {
    /// The object is now this JSON (with `resourceVersion` in it).
    Put(Vec<u8>),
    /// The object is gone, or this node no longer needs it.
    Delete,
}

/// One change, or one object of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedItem {
    /// Kind of the object.
    pub kind: FeedKind,
    /// Namespace; empty for cluster-wide kinds.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// Revision of the store at which this became true.
    pub revision: u64,
    /// The change.
    pub op: FeedOp,
}

/// An element of a node's feed: a snapshot, its end, then changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Feed {
    /// An object of the snapshot, or a change after it.
    Item(FeedItem),
    /// The snapshot is complete: what was not in it does not exist. Only now may the node act on absence.
    End {
        /// Revision that the snapshot shows.
        revision: u64,
    },
}
