//! Each node its own range of pod addresses.
//!
//! Who has which range is one stored object, the ConfigMap [`RECORD`], changed by compare-and-swap only: so no range is given twice even
//! by two control planes on one store. A node that was deleted and joins again gets its old range back; ranges of nodes that are gone
//! are given to others only when no unused one is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::cache::{Cache, Change};
use crate::events::{Level, Recorder};
use crate::objects::node::Node;
use crate::objects::{CONFIG_MAPS, Key, NODES};
use crate::queue::{Again, Queue};
use crate::requests::{Reply, Requests};

/// Namespace and name of the record: node name → range.
const RECORD: (&str, &str) = ("kube-system", "minidc-pod-ranges");
/// Bits of the network part of a node's range (`--node-cidr-mask-size-ipv4` of Kubernetes).
const NODE_PREFIX: u8 = 24;
/// When to look again if no range was left.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(60);

/// An IPv4 network such as `100.64.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    first: u32,
    prefix: u8,
}

/// Why a text is no range of pod addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Not `a.b.c.d/n`.
    #[error("\"{0}\" is not an IPv4 network such as 100.64.0.0/16")]
    Form(String),
    /// Bits beyond the prefix are set.
    #[error("\"{0}\" has bits set beyond its prefix")]
    Host(String),
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let form = || RangeError::Form(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(form)?;
        let address: Ipv4Addr = address.parse().map_err(|_| form())?;
        let prefix: u8 = prefix.parse().map_err(|_| form())?;
        if prefix > 32 {
            return Err(form());
        }
        let range = Self {
            first: address.to_bits(),
            prefix,
        };
        if range.first & !range.mask() != 0 {
            return Err(RangeError::Host(text.to_owned()));
        }
        Ok(range)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.first), self.prefix)
    }
}

impl Range {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or_default()
    }

    fn overlaps(self, other: Self) -> bool {
        let mask = self.mask() & other.mask();
        self.first & mask == other.first & mask
    }

    fn holds(self, other: Self) -> bool {
        other.prefix >= self.prefix && self.overlaps(other)
    }

    /// Its parts of node size, in order; itself if it is no larger than that.
    fn parts(self) -> impl Iterator<Item = Self> {
        let prefix = self.prefix.max(NODE_PREFIX);
        let count = 1u64 << (prefix - self.prefix);
        let step = 1u64 << (32 - prefix);
        (0..count).filter_map(move |index| {
            let first = u32::try_from(u64::from(self.first) + index * step).ok()?;
            Some(Self { first, prefix })
        })
    }
}

/// The range for a node: the one on record, else the first that nobody has or had. None when all are taken.
fn assign(node: &str, record: &BTreeMap<String, String>, used: &BTreeSet<Range>, whole: Range) -> Option<Range> {
    let taken = |range: Range, by_others: bool| {
        used.iter().any(|other| other.overlaps(range))
            || record
                .iter()
                .filter(|(name, _)| !by_others || *name != node)
                .filter_map(|(_, text)| text.parse::<Range>().ok())
                .any(|other| other.overlaps(range))
    };
    let kept = record
        .get(node)
        .and_then(|text| text.parse().ok())
        .filter(|range| whole.holds(*range));
    kept.filter(|range| !taken(*range, true))
        .or_else(|| whole.parts().find(|range| !taken(*range, false)))
}

#[derive(Debug, Default, Deserialize)]
struct Record {
    #[serde(default)]
    metadata: crate::requests::ReplyMetadata,
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
}

/// The controller.
pub(crate) struct Ranges {
    requests: Requests,
    recorder: Recorder,
    nodes: Arc<Cache<Node>>,
    queue: Arc<Queue<Key>>,
    whole: Range,
}

impl Ranges {
    pub(crate) fn new(requests: Requests, recorder: Recorder, nodes: Arc<Cache<Node>>, whole: Range) -> Self {
        let queue = Queue::new();
        let sink = Arc::clone(&queue);
        nodes.on_change(move |change| {
            if let Change::Put { previous, current } = change
                && (previous.is_none() || current.pod_cidr.is_none())
            {
                sink.add(current.metadata.key.clone());
            }
        });
        Self {
            requests,
            recorder,
            nodes,
            queue,
            whole,
        }
    }

    /// Works until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = self.nodes.completed() => {}
        }
        self.queue.work(1, &shutdown, |key| self.reconcile(key)).await;
        Ok(())
    }

    async fn reconcile(&self, key: Key) -> Result<Again, Error> {
        let Some(node) = self.nodes.get(&key).filter(|node| !node.metadata.terminating()) else {
            return Ok(None);
        };
        let path = CONFIG_MAPS.path(RECORD.0, RECORD.1);
        let stored: Option<Record> = self.requests.get(&path).await?;
        let exists = stored.is_some();
        let stored = stored.unwrap_or_default();
        let record = stored.data.unwrap_or_default();
        let revision = stored.metadata.resource_version;

        if let Some(range) = node.pod_cidr.as_deref() {
            // Set before, or by somebody else: it must be on record all the same.
            if record.get(&*key.name).map(String::as_str) != Some(range) {
                self.write(exists, &revision, &[(&key.name, Some(range))]).await?;
            }
            return Ok(None);
        }
        let used: BTreeSet<Range> = self
            .nodes
            .all(|other| other.metadata.key != key)
            .iter()
            .filter_map(|other| other.pod_cidr.as_deref()?.parse().ok())
            .collect();
        let Some(range) = assign(&key.name, &record, &used, self.whole) else {
            return self.reclaim(&node, &record, &revision).await;
        };
        let text = range.to_string();
        if record.get(&*key.name) != Some(&text) {
            self.write(exists, &revision, &[(&key.name, Some(&text))]).await?;
        }
        let body = json!({
            "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.revision.to_string()},
            "spec": {"podCIDR": text, "podCIDRs": [text]},
        });
        self.requests.merge(&NODES.path_of(&key), &body).await?;
        Ok(None)
    }

    /// Writes entries, if the record is still the one that was read.
    async fn write(&self, exists: bool, revision: &str, entries: &[(&str, Option<&str>)]) -> Result<(), Error> {
        let data: serde_json::Map<_, _> = entries
            .iter()
            .map(|(name, range)| ((*name).to_owned(), json!(range)))
            .collect();
        if exists {
            let body = json!({"metadata": {"resourceVersion": revision}, "data": data});
            self.requests
                .merge(&CONFIG_MAPS.path(RECORD.0, RECORD.1), &body)
                .await?;
        } else {
            let body = json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": RECORD.1, "namespace": RECORD.0},
                "data": data,
            });
            self.requests.create(&CONFIG_MAPS.collection(RECORD.0), &body).await?;
        }
        Ok(())
    }

    /// Frees the ranges of nodes that, by the API's own word, are gone.
    async fn reclaim(&self, node: &Node, record: &BTreeMap<String, String>, revision: &str) -> Result<Again, Error> {
        let mut gone: Vec<(&str, Option<&str>)> = Vec::new();
        for name in record.keys().filter(|name| ***name != *node.metadata.key.name) {
            let there: Option<Reply> = self.requests.get(&NODES.path("", name)).await?;
            if there.is_none() {
                gone.push((name, None));
            }
        }
        if gone.is_empty() {
            let message = format!("Node {} status is now: CIDRNotAvailable", node.metadata.key.name);
            self.recorder
                .tell(&NODES, &node.metadata, Level::Normal, "CIDRNotAvailable", message);
            return Ok(Some(LOOK_AGAIN));
        }
        self.write(true, revision, &gone).await?;
        Ok(Some(std::time::Duration::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_read_and_written() {
        assert_eq!(range("100.64.0.0/16").to_string(), "100.64.0.0/16");
        assert!(matches!("100.64.0.1/16".parse::<Range>(), Err(RangeError::Host(_))));
        for text in ["", "100.64.0.0", "100.64.0.0/33", "fd00::/48", "a/8"] {
            assert!(matches!(text.parse::<Range>(), Err(RangeError::Form(_))), "{text}");
        }
    }

    #[test]
    fn parts_cover_the_whole_in_order() {
        let parts: Vec<String> = range("10.0.0.0/22").parts().map(|part| part.to_string()).collect();
        assert_eq!(parts, ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"]);
        assert_eq!(range("10.0.0.0/26").parts().collect::<Vec<_>>(), [range("10.0.0.0/26")]);
        assert_eq!(range("0.0.0.0/0").parts().count(), 1 << 24);
    }

    #[test]
    fn no_range_is_given_twice() {
        let whole = range("10.0.0.0/22");
        let mut record = BTreeMap::new();
        let mut used = BTreeSet::from([range("10.0.1.0/24")]);
        for (node, expected) in [
            ("a", Some("10.0.0.0/24")),
            ("b", Some("10.0.2.0/24")),
            ("c", Some("10.0.3.0/24")),
            ("d", None),
        ] {
            let given = assign(node, &record, &used, whole);
            assert_eq!(given.map(|range| range.to_string()).as_deref(), expected, "{node}");
            if let Some(given) = given {
                record.insert(node.to_owned(), given.to_string());
            }
        }
        // A node that comes back gets its own.
        assert_eq!(assign("b", &record, &used, whole), Some(range("10.0.2.0/24")));
        // Unless somebody else has it by now, or the cluster's range has changed.
        used.insert(range("10.0.2.0/24"));
        assert_eq!(assign("b", &record, &used, whole), None);
        assert_eq!(
            assign("a", &record, &used, range("10.9.0.0/16")),
            Some(range("10.9.0.0/24"))
        );
    }
}
