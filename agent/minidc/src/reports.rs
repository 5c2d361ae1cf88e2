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
        let name = event_name(about, reason, message);
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let namespace = about.namespace;
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
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

/// Longest name of an object.
const LONGEST_NAME: usize = 253;

/// The same for the same said of the same object. Who is made anew under an old name is another, and is told anew.
fn event_name(about: &About<'_>, reason: &str, message: &str) -> String {
    let mut hash = Sha256::new();
    for part in [about.kind, about.uid.unwrap_or_default(), reason, message] {
        hash.update(part);
        hash.update([0]);
    }
    let hash = hash.finalize();
    let hash = u64::from_be_bytes(std::array::from_fn(|index| hash[index]));
    let hash = format!("{hash:016x}");
    // names are ASCII, and a label may not end where a dot follows with anything but a letter or a digit
    let start = about.name.get(..LONGEST_NAME - 1 - hash.len()).unwrap_or(about.name);
    format!("{}.{hash}", start.trim_end_matches(['.', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about<'a>(name: &'a str, uid: &'a str) -> About<'a> {
        About {
            kind: "ConfigMap",
            namespace: "kube-system",
            name,
            uid: Some(uid),
        }
    }

    #[test]
    fn the_same_said_of_the_same_object_is_one_event() {
        let first = event_name(&about("zones", "1"), "ZoneRefused", "line 3");
        assert_eq!(first, event_name(&about("zones", "1"), "ZoneRefused", "line 3"));
        assert!(first.starts_with("zones."));
        for other in [
            event_name(&about("zones", "2"), "ZoneRefused", "line 3"),
            event_name(&about("zones", "1"), "ZoneRefused", "line 4"),
            event_name(&about("zones", "1"), "ZoneHint", "line 3"),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn an_event_about_an_object_of_the_longest_name_has_a_name_too() {
        let long = format!("{}-{}", "a".repeat(235), "b".repeat(17));
        let name = event_name(&about(&long, "1"), "ZoneRefused", "line 3");
        assert!(
            name.len() <= LONGEST_NAME && name.starts_with("aaa") && !name.contains("-."),
            "{name}"
        );
    }
}
