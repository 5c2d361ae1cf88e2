//! Events that this node writes about objects of the cluster: names on the LAN, zone files.

use std::sync::Arc;

use jiff::Timestamp;
use minidc_kubelet::ControlPlane;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::local::JSON;

/// What an event is about.
pub(crate) struct About<'a> {
    /// `Service`, `ConfigMap`.
    pub(crate) kind: &'static str,
    /// Its namespace.
    pub(crate) namespace: &'a str,
    /// Its name.
    pub(crate) name: &'a str,
    /// Its uid: `kubectl describe` finds events by it.
    pub(crate) uid: Option<&'a str>,
}

/// Writes events as this node.
#[derive(Clone)]
pub(crate) struct Reports {
    node: String,
    upstream: Arc<dyn ControlPlane>,
}

impl Reports {
    /// For the node `node`.
    pub(crate) fn new(node: String, upstream: Arc<dyn ControlPlane>) -> Self {
        Self { node, upstream }
    }

    /// Writes an event. Its name is made of what it says: nodes that all find the same write one event between them.
    /// Returns false when it should be tried again once the link is back.
    pub(crate) async fn write(&self, about: &About<'_>, warning: bool, reason: &str, message: &str) -> bool {
        let mut hash = Sha256::new();
        hash.update(reason);
        hash.update(message);
        let hash = hash.finalize();
        let hash = u64::from_be_bytes(std::array::from_fn(|index| hash[index]));
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let namespace = about.namespace;
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{}.{hash:016x}", about.name), "namespace": namespace},
            "involvedObject": {"apiVersion": "v1", "kind": about.kind, "namespace": namespace, "name": about.name,
                "uid": about.uid},
            "type": if warning { "Warning" } else { "Normal" }, "reason": reason, "message": message,
            "source": {"component": "minidc", "host": self.node}, "reportingComponent": "minidc",
            "reportingInstance": self.node, "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        });
        let path = format!("/api/v1/namespaces/{namespace}/events");
        let answer = self
            .upstream
            .request("POST", path, JSON, event.to_string().into_bytes())
            .await;
        match answer {
            // 409: another node, or this one before, has said the same
            Ok((200..=299 | 409, _)) => true,
            Ok((code, body)) => {
                tracing::warn!(code, body = %String::from_utf8_lossy(&body), reason, "write an event");
                true
            }
            Err(_) => false,
        }
    }
}
