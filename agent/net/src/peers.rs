//! What the node's part of the feed says about nodes, as far as the network needs it.

use std::net::IpAddr;

use crate::Range;

/// Another node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Name of the node.
    pub name: String,
    /// Its addresses (`status.addresses` of type InternalIP), the preferred one first.
    pub addresses: Vec<IpAddr>,
    /// Its `spec.podCIDR`, once it has one.
    pub pod_cidr: Option<Range>,
}

/// The nodes of the cluster, as this node last heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// The list is whole: the feed's end mark has come. Until then nothing is taken away.
    pub synced: bool,
    /// This node's own `spec.podCIDR`, once it has one.
    pub own: Option<Range>,
    /// The other nodes, without this one.
    pub peers: Vec<Peer>,
}
