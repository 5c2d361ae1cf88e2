//! How the network is, for the node's condition `NetworkUnavailable` and its LEDs.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, sync::Arc};

use crate::vxlan;

/// Why something does not work; the name is fit for a condition's `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The node has no pod range yet.
    NoPodRange,
    /// The node's pod range lies outside the cluster's, is too small, or is another node's.
    BadPodRange,
    /// The pod range overlaps a network that this node is plugged into: hosts there may be out of reach.
    PodRangeOverlapsLan,
    /// The range of Services overlaps a network that this node is plugged into: hosts there may be out of reach.
    ServiceRangeOverlapsLan,
    /// A node has no address that this node has a route to: its pods are out of reach from here.
    PeerOutOfReach,
    /// The kernel, nft or the file system refused a change.
    ApplyFailed,
}

impl Reason {
    /// CamelCase, as in conditions.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoPodRange => "NoPodRange",
            Self::BadPodRange => "BadPodRange",
            Self::PodRangeOverlapsLan => "PodRangeOverlapsLan",
            Self::ServiceRangeOverlapsLan => "ServiceRangeOverlapsLan",
            Self::PeerOutOfReach => "PeerOutOfReach",
            Self::ApplyFailed => "ApplyFailed",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Something that does not work, or not everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind of trouble.
    pub reason: Reason,
    /// One sentence for people, with the ranges and nodes it is about.
    pub message: String,
}

/// How the network is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkState {
    /// Pods can be given addresses and leave the node: the condition `NetworkUnavailable` is False.
    pub ready: bool,
    /// Everything that does not work, the worst first. May be non-empty although `ready`: then most of it works.
    pub problems: Vec<Problem>,
    /// How each node that can be reached is reached.
    pub paths: Arc<BTreeMap<String, Path>>,
}

/// The way to another node's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Directly to this address, on a link of this node.
    Direct(Ipv4Addr),
    /// Through the tunnel, in packets to this address.
    Tunnel(Ipv4Addr),
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(node) => write!(f, "directly to {node}"),
            Self::Tunnel(node) => write!(f, "through the tunnel to {node} (UDP port {})", vxlan::PORT),
        }
    }
}

impl NetworkState {
    /// Nothing is wrong that somebody ought to look after: what the LEDs and the condition `NetworkDegraded` show. A peer
    /// that is out of reach has conditions and LEDs of its own.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.ready
            && self
                .problems
                .iter()
                .all(|problem| problem.reason == Reason::PeerOutOfReach)
    }

    /// `reason` for the node's condition: of the worst problem, else `RouteCreated` as Kubernetes' own route controller says.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.problems
            .first()
            .map_or("RouteCreated", |problem| problem.reason.as_str())
    }

    /// `message` for the node's condition: all problems, else what is so.
    #[must_use]
    pub fn message(&self) -> String {
        if self.problems.is_empty() {
            return "the pod network is set up".to_owned();
        }
        self.problems
            .iter()
            .map(|problem| problem.message.as_str())
            .collect::<Vec<_>>()
            .join("; ")
    }
}
