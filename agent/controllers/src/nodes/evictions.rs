//! Pods leave a node that has a NoExecute taint they do not tolerate, or not for longer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::cache::{Cache, Change};
use crate::events::{Level, Recorder};
use crate::objects::metadata::Condition;
use crate::objects::node::Node;
use crate::objects::pod::Pod;
use crate::objects::{Key, PODS};
use crate::queue::{Again, Queue};
use crate::requests::{Deletion, Requests};
use crate::taints::NO_EXECUTE;

use super::judgement::{Stay, stay};

/// Pods handled at the same time.
const WORKERS: usize = 16;

/// The controller, known in Kubernetes as taint manager.
pub(crate) struct Evictions {
    requests: Requests,
    recorder: Recorder,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    queue: Arc<Queue<Key>>,
    allowed: watch::Receiver<bool>,
    /// Since when a pod's time on its node is running out.
    running_out: Mutex<HashMap<Key, (Box<str>, Instant)>>,
}

fn drives_away(node: &Node) -> bool {
    node.taints.iter().any(|taint| taint.effect == NO_EXECUTE)
}

impl Evictions {
    pub(crate) fn new(
        requests: Requests,
        recorder: Recorder,
        pods: Arc<Cache<Pod>>,
        nodes: Arc<Cache<Node>>,
        allowed: watch::Receiver<bool>,
    ) -> Self {
        let queue = Queue::new();
        let sink = Arc::clone(&queue);
        pods.on_change(move |change| match change {
            Change::Put { previous, current } => {
                let moved = previous.is_none_or(|previous| {
                    previous.node != current.node || previous.tolerations != current.tolerations
                });
                if current.node.is_some() && moved {
                    sink.add(current.metadata.key.clone());
                }
            }
            Change::Gone(pod) => sink.add(pod.metadata.key.clone()),
        });
        let sink = Arc::clone(&queue);
        let known = Arc::clone(&pods);
        nodes.on_change(move |change| {
            let Change::Put { previous, current } = change else {
                return;
            };
            let before = previous.is_some_and(|previous| drives_away(previous));
            let same = previous.is_some_and(|previous| previous.taints == current.taints);
            if !same && (before || drives_away(current)) {
                for pod in known.all(|pod| pod.node.as_deref() == Some(&current.metadata.key.name)) {
                    sink.add(pod.metadata.key.clone());
                }
            }
        });
        Self {
            requests,
            recorder,
            pods,
            nodes,
            queue,
            allowed,
            running_out: Mutex::default(),
        }
    }

    /// Works until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = async { self.pods.completed().await; self.nodes.completed().await } => {}
        }
        let mut allowed = self.allowed.clone();
        let resume = async {
            while allowed.changed().await.is_ok() {
                for pod in self.pods.all(|pod| pod.node.is_some()) {
                    self.queue.add(pod.metadata.key.clone());
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = self.queue.work(WORKERS, &shutdown, |key| self.reconcile(key)) => {}
            () = resume => {}
        }
        Ok(())
    }

    /// Since when this pod's time is running out; starts the clock if it was not.
    fn since(&self, key: &Key, uid: &str) -> Instant {
        let mut running_out = self.running_out.lock().unwrap_or_else(PoisonError::into_inner);
        match running_out.get(key) {
            Some((known, since)) if **known == *uid => *since,
            _ => {
                let now = Instant::now();
                running_out.insert(key.clone(), (uid.into(), now));
                now
            }
        }
    }

    /// Stops the clock; says whether it was running.
    fn relax(&self, key: &Key) -> bool {
        self.running_out
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key)
            .is_some()
    }

    async fn reconcile(&self, key: Key) -> Result<Again, Error> {
        let pod = self.pods.get(&key).filter(|pod| pod.active());
        let Some((pod, node)) = pod.and_then(|pod| {
            let node = self.nodes.get(&Key::new("", pod.node.as_deref()?))?;
            Some((pod, node))
        }) else {
            self.relax(&key);
            return Ok(None);
        };
        if !*self.allowed.borrow() {
            self.relax(&key);
            return Ok(None);
        }
        let limit = match stay(&node.taints, &pod.tolerations) {
            Stay::For(limit) => limit,
            Stay::Forever => {
                if self.relax(&key) {
                    let message = format!("Cancelling deletion of Pod {key}");
                    self.recorder
                        .tell(&PODS, &pod.metadata, Level::Normal, "TaintManagerEviction", message);
                }
                return Ok(None);
            }
        };
        let left = limit.saturating_sub(self.since(&key, &pod.metadata.uid).elapsed());
        if !left.is_zero() {
            return Ok(Some(left));
        }
        self.evict(&pod).await?;
        self.relax(&key);
        Ok(None)
    }

    async fn evict(&self, pod: &Pod) -> Result<(), Error> {
        let key = &pod.metadata.key;
        let message = format!("Marking for deletion Pod {key}");
        self.recorder
            .tell(&PODS, &pod.metadata, Level::Normal, "TaintManagerEviction", message);
        let condition = Condition::new(
            "DisruptionTarget",
            "True",
            "DeletionByTaintManager",
            "Taint manager: deleting due to NoExecute taint",
            Timestamp::now(),
        );
        let body = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        let path = PODS.path_of(key);
        match self.requests.strategic(&format!("{path}/status"), &body).await {
            Ok(_) => {}
            // Another pod of that name, or none: not the one to be evicted.
            Err(error) if error.is_not_found() || error.is_conflict() => return Ok(()),
            Err(error) => return Err(error),
        }
        self.requests.delete(&path, Deletion::of(&pod.metadata)).await
    }
}
