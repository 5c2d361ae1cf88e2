//! What a node does for `minidc net check`: it makes a stand-in for a pod, lets the others reach it, and reaches theirs.
//!
//! The stand-in is a network namespace of its own, joined to the pod network by the very CNI plugins that containerd calls,
//! so that what holds for it holds for pods. It answers on [`PORT`] with the name of its node, so that a packet that went
//! astray is told from one that arrived. Nothing of it is left when the check is over, also after a crash: a file in
//! [`Config::run`] says what there is to take away.

mod ask;
mod cni;
mod mtu;
mod outside;
mod probe;
mod responder;
mod stand_in;

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{Deserialize, Serialize, Serializer};

pub use cni::{Attachment, Cni, PortMapping};
pub use outside::OFFLINE;
pub use responder::{Config, Responder};

/// TCP and UDP port of a stand-in, and of the Service in front of it. Any would do: it has its addresses to itself.
pub const PORT: u16 = 7717;
/// Namespace of the Services of a check.
pub const NAMESPACE: &str = "kube-system";

/// Name of the Service in front of the stand-in of the node with this place in the list of nodes.
#[must_use]
pub fn service_name(id: &str, place: usize) -> String {
    format!("net-check-{id}-{place}")
}

/// A check that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Name of the NetCheck object.
    pub name: String,
    /// Tells the check from others in the names of what it makes.
    pub id: String,
    /// The nodes that take part.
    pub nodes: Vec<String>,
    /// What there is to be reached, by node; empty until all stand-ins are there.
    pub targets: BTreeMap<String, Target>,
}

/// A node as the others are to reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Target {
    /// Address of its stand-in; none when it has not made one.
    pub address: Option<IpAddr>,
    /// Address of the Service in front of that.
    pub service: Option<IpAddr>,
}

/// The object is no NetCheck.
#[derive(Debug, thiserror::Error)]
#[error("read a NetCheck")]
pub struct Unreadable(#[from] serde_json::Error);

impl Task {
    /// From the JSON of a NetCheck of minidc.dev/v1.
    ///
    /// # Errors
    /// If it is not one.
    pub fn from_json(json: &[u8]) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Object {
            metadata: Metadata,
            spec: Spec,
        }
        #[derive(Deserialize)]
        struct Metadata {
            name: String,
        }
        #[derive(Deserialize)]
        struct Spec {
            #[serde(default)]
            nodes: Vec<String>,
            #[serde(default)]
            id: String,
            #[serde(default)]
            targets: BTreeMap<String, Target>,
        }
        let Object { metadata, spec } = serde_json::from_slice(json)?;
        Ok(Self {
            name: metadata.name,
            id: spec.id,
            nodes: spec.nodes,
            targets: spec.targets,
        })
    }
}

/// How far a node is with a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Phase {
    /// Its stand-in can be reached.
    Ready,
    /// It has tried everything.
    Done,
    /// It cannot take part.
    Failed,
}

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// A TCP connection to another node's pod.
    Pod,
    /// A datagram to another node's pod, and one back.
    PodUdp,
    /// The largest packets, both ways.
    Mtu,
    /// A TCP connection to a Service.
    Service,
    /// A datagram to a Service, and one back.
    ServiceUdp,
    /// A name of the cluster.
    Dns,
    /// A host outside the cluster.
    Outside,
    /// What the node itself finds wrong with its network.
    Network,
}

impl Check {
    /// As in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::PodUdp => "pod-udp",
            Self::Mtu => "mtu",
            Self::Service => "service",
            Self::ServiceUdp => "service-udp",
            Self::Dns => "dns",
            Self::Outside => "outside",
            Self::Network => "network",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// How one thing went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The node that was to be reached; empty for what concerns no other node.
    pub to: String,
    /// What was tried.
    pub check: Check,
    /// It works, or nobody can say here: a rack without a way outside is in order.
    pub ok: bool,
    /// Why it does not, or what was measured.
    pub detail: String,
}

/// What a node says of a check: `status.nodes.NAME` of the NetCheck.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Name of the NetCheck object.
    #[serde(skip)]
    pub task: String,
    /// Address of its stand-in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// How far it is.
    pub phase: Phase,
    /// Why it cannot take part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What it found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<Finding>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_is_read_with_and_without_targets() {
        let task =
            Task::from_json(br#"{"metadata":{"name":"c-1"},"spec":{"nodes":["pi-1","pi-2"],"id":"1"}}"#).unwrap();
        assert_eq!((task.id.as_str(), task.nodes.len(), task.targets.len()), ("1", 2, 0));
        let task = Task::from_json(
            br#"{"metadata":{"name":"c-1"},"spec":{"nodes":["pi-1"],"id":"1",
                "targets":{"pi-1":{"address":"100.64.0.9","service":"100.65.3.4"},"pi-2":{}}}}"#,
        )
        .unwrap();
        assert_eq!(task.targets["pi-1"].service, "100.65.3.4".parse().ok());
        assert_eq!(task.targets["pi-2"], Target::default());
        Task::from_json(br#"{"metadata":{}}"#).unwrap_err();
    }

    #[test]
    fn report_is_what_the_schema_of_a_net_check_says() {
        let report = Report {
            task: "c-1".into(),
            address: "100.64.0.9".parse().ok(),
            phase: Phase::Done,
            message: None,
            results: vec![Finding {
                to: "pi-2".into(),
                check: Check::PodUdp,
                ok: true,
                detail: "0.4 ms".into(),
            }],
        };
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            serde_json::json!({"address": "100.64.0.9", "phase": "Done",
                "results": [{"to": "pi-2", "check": "pod-udp", "ok": true, "detail": "0.4 ms"}]})
        );
    }
}
