//! Pod clean-up: pods of nodes that were removed, finished pods beyond a number, and deleted pods that never had a node.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::cache::{Cache, Change};
use crate::objects::metadata::Condition;
use crate::objects::node::Node;
use crate::objects::pod::Pod;
use crate::objects::{Key, NODES, PODS};
use crate::queue::{Again, Queue};
use crate::requests::{Deletion, Reply, Requests};

/// Pods handled at the same time.
const WORKERS: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Work {
    Pod(Key),
    /// Are there too many finished pods?
    Finished,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => key.fmt(f),
            Self::Finished => f.write_str("finished pods"),
        }
    }
}

/// The controller.
pub(crate) struct PodCleanup {
    requests: Requests,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    queue: Arc<Queue<Work>>,
    /// Finished pods that are kept.
    keep: usize,
    /// How long a node must have been missing.
    quarantine: Duration,
    /// Since when a pod's node is missing, by the name of the node.
    missing: Mutex<HashMap<Box<str>, Instant>>,
}

impl PodCleanup {
    pub(crate) fn new(
        requests: Requests,
        pods: Arc<Cache<Pod>>,
        nodes: Arc<Cache<Node>>,
        keep: usize,
        quarantine: Duration,
    ) -> Self {
        let queue = Queue::new();
        let sink = Arc::clone(&queue);
        pods.on_change(move |change| {
            let Change::Put { previous, current } = change else {
                return;
            };
            let moved = previous.is_none_or(|previous| previous.node != current.node);
            let ended = previous.is_none_or(|previous| !previous.finished()) && current.finished();
            if moved || current.metadata.terminating() {
                sink.add(Work::Pod(current.metadata.key.clone()));
            }
            if ended {
                sink.add(Work::Finished);
            }
        });
        let sink = Arc::clone(&queue);
        let known = Arc::clone(&pods);
        nodes.on_change(move |change| {
            if let Change::Gone(node) = change {
                for pod in known.all(|pod| pod.node.as_deref() == Some(&node.metadata.key.name)) {
                    sink.add(Work::Pod(pod.metadata.key.clone()));
                }
            }
        });
        Self {
            requests,
            pods,
            nodes,
            queue,
            keep,
            quarantine,
            missing: Mutex::default(),
        }
    }

    /// Works until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = async { self.pods.completed().await; self.nodes.completed().await } => {}
        }
        self.queue
            .work(WORKERS, &shutdown, |work| async {
                match work {
                    Work::Pod(key) => self.reconcile(&key).await,
                    Work::Finished => self.thin_out().await,
                }
            })
            .await;
        Ok(())
    }

    /// How much longer to wait before a missing node is believed; starts the clock.
    fn quarantine_left(&self, node: &str) -> Duration {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let since = missing.entry(node.into()).or_insert_with(Instant::now);
        self.quarantine.saturating_sub(since.elapsed())
    }

    fn found(&self, node: &str) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    async fn reconcile(&self, key: &Key) -> Result<Again, Error> {
        let Some(pod) = self.pods.get(key) else {
            // The clocks of nodes without pods serve nobody.
            let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
            if !missing.is_empty() {
                missing.retain(|node, _| !self.pods.all(|pod| pod.node.as_deref() == Some(node)).is_empty());
            }
            return Ok(None);
        };
        let Some(node) = pod.node.as_deref() else {
            if pod.metadata.terminating() {
                self.remove(&pod).await?;
            }
            return Ok(None);
        };
        if self.nodes.get(&Key::new("", node)).is_some() {
            self.found(node);
            return Ok(None);
        }
        let left = self.quarantine_left(node);
        if !left.is_zero() {
            return Ok(Some(left));
        }
        let live: Option<Reply> = self.requests.get(&NODES.path("", node)).await?;
        if live.is_some() {
            self.found(node);
            return Ok(None);
        }
        tracing::info!(pod = %key, node, "deleting a pod of a node that was removed");
        if !pod.finished() {
            let condition = Condition::new(
                "DisruptionTarget",
                "True",
                "DeletionByPodGC",
                "PodGC: node no longer exists",
                Timestamp::now(),
            );
            let body = json!({
                "metadata": {"uid": pod.metadata.uid},
                "status": {"phase": "Failed", "conditions": [condition]},
            });
            match self
                .requests
                .strategic(&format!("{}/status", PODS.path_of(key)), &body)
                .await
            {
                Ok(_) => {}
                Err(error) if error.is_not_found() || error.is_conflict() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        self.remove(&pod).await?;
        Ok(None)
    }

    /// Deletes without asking a node.
    async fn remove(&self, pod: &Pod) -> Result<(), Error> {
        let deletion = Deletion {
            grace_seconds: Some(0),
            ..Deletion::of(&pod.metadata)
        };
        self.requests.delete(&PODS.path_of(&pod.metadata.key), deletion).await
    }

    async fn thin_out(&self) -> Result<Again, Error> {
        let mut finished = self.pods.all(|pod| pod.finished() && !pod.metadata.terminating());
        let surplus = finished.len().saturating_sub(self.keep);
        if surplus == 0 {
            return Ok(None);
        }
        finished.sort_by(|a, b| (a.metadata.created, &a.metadata.key).cmp(&(b.metadata.created, &b.metadata.key)));
        for pod in &finished[..surplus] {
            self.remove(pod).await?;
        }
        Ok(None)
    }
}
