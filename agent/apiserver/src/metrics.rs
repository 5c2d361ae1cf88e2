//! The latest measurement of each node, and the `metrics.k8s.io` objects made of it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use minidc_api::kinds::{self, Kind};
use minidc_api::metrics::{ContainerSample, NodeSample};
use minidc_api::quantity::{Format, Quantity};
use minidc_store::{Entry, Store};
use serde_json::{Value, json};

use crate::live::Live;
use crate::object;
use crate::selection::Selection;

/// A measurement older than this is not shown: the node no longer reports.
const STALE: Duration = Duration::from_secs(10);

/// The latest measurement of each node, in memory only.
#[derive(Debug, Default)]
pub struct Metrics {
    nodes: RwLock<BTreeMap<String, Reading>>,
}

#[derive(Clone, Debug)]
struct Reading {
    sample: Arc<NodeSample>,
    live: Option<Live>,
    at: Timestamp,
    seen: Instant,
}

impl Metrics {
    /// Takes a node's measurement in, with what else it says of itself; it replaces the one before. The time of arrival counts
    /// as its time, since the clock of a node may be wrong.
    pub fn record(&self, node: &str, sample: NodeSample, live: Option<Live>) {
        let reading = Reading {
            sample: Arc::new(sample),
            live,
            at: Timestamp::now(),
            seen: Instant::now(),
        };
        self.nodes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node.to_owned(), reading);
    }

    /// Drops what is known of a node, when it is removed from the cluster.
    pub fn forget(&self, node: &str) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    /// A node's measurement if it arrived within the last ten seconds.
    pub fn latest(&self, node: &str) -> Option<Arc<NodeSample>> {
        self.read()
            .get(node)
            .filter(|reading| reading.is_fresh())
            .map(|reading| Arc::clone(&reading.sample))
    }

    /// What a node said of itself within the last ten seconds.
    pub(crate) fn live(&self, node: &str) -> Option<Live> {
        let nodes = self.read();
        nodes.get(node).filter(|reading| reading.is_fresh())?.live.clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Reading>> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self) -> Vec<(String, Reading)> {
        let nodes = self.read();
        nodes
            .iter()
            .filter(|(_, reading)| reading.is_fresh())
            .map(|(node, reading)| (node.clone(), reading.clone()))
            .collect()
    }

    /// The objects of a computed kind, in order of namespace and name. Only those whose stored node or pod exists and
    /// is selected; `namespace` and `name` narrow further where not empty.
    pub(crate) fn objects(
        &self,
        store: &Store,
        kind: &Kind,
        namespace: &str,
        name: &str,
        selection: &Selection,
    ) -> Vec<Value> {
        let Some(stored) = kinds::by_resource("", "v1", kind.plural) else {
            return Vec::new();
        };
        let selected = |namespace: &str, name: &str| {
            store
                .get(&stored.store_key(namespace, name))
                .filter(|entry| selection.matches(entry))
        };
        let wanted = |of: &str| name.is_empty() || of == name;
        if kind.kind == "NodeMetrics" {
            let nodes = self.fresh().into_iter().filter(|(node, _)| wanted(node));
            return nodes
                .filter_map(|(node, reading)| Some(node_metrics(&selected("", &node)?, &reading)))
                .collect();
        }
        let mut found = BTreeMap::new();
        for (node, reading) in self.fresh() {
            for pod in &reading.sample.pods {
                if !wanted(&pod.name) || !namespace.is_empty() && pod.namespace != namespace {
                    continue;
                }
                let Some(entry) = selected(&pod.namespace, &pod.name) else {
                    continue;
                };
                // A node that lost a pod to another may still measure it for a moment.
                if crate::graph::is_bound_to(&entry, &node) {
                    found.insert(Arc::clone(&entry.key), pod_metrics(&entry, &reading, &pod.containers));
                }
            }
        }
        found.into_values().collect()
    }
}

impl Reading {
    fn is_fresh(&self) -> bool {
        self.seen.elapsed() <= STALE
    }
}

fn usage(cpu_nanocores: u64, memory_bytes: u64) -> Value {
    let cpu = Quantity::from_nanos(i128::from(cpu_nanocores), Format::DecimalSi);
    let kibibytes = i64::try_from(memory_bytes / 1024).unwrap_or(i64::MAX);
    // Whole Ki, as metrics-server reports it, so that the figure keeps its unit.
    json!({"cpu": cpu.to_string(), "memory": format!("{kibibytes}Ki")})
}

/// Metadata, time and window that both kinds have.
fn head(kind: &str, entry: &Entry, reading: &Reading) -> Value {
    let (namespace, name) = object::key_parts(&entry.key);
    let mut metadata = json!({"name": name, "creationTimestamp": object::time(reading.at)});
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    if !entry.envelope.labels.is_empty() {
        metadata["labels"] = entry
            .envelope
            .labels
            .iter()
            .map(|(key, value)| (key.to_string(), json!(value)))
            .collect();
    }
    let window = Duration::from_millis(u64::from(reading.sample.window_ms));
    json!({
        "kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata,
        "timestamp": object::time(reading.at), "window": format!("{:.3}s", window.as_secs_f64()),
    })
}

fn node_metrics(entry: &Entry, reading: &Reading) -> Value {
    let mut metrics = head("NodeMetrics", entry, reading);
    metrics["usage"] = usage(reading.sample.cpu_nanocores, reading.sample.memory_bytes);
    metrics
}

fn pod_metrics(entry: &Entry, reading: &Reading, containers: &[ContainerSample]) -> Value {
    let mut metrics = head("PodMetrics", entry, reading);
    metrics["containers"] = containers
        .iter()
        .map(|container| json!({"name": container.name, "usage": usage(container.cpu_nanocores, container.memory_bytes)}))
        .collect();
    metrics
}
