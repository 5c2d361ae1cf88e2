//! The scheduler: each new pod to the node that suits it best.
//!
//! It waits for a change, looks at everything once, and decides for all waiting pods in one go. A decision counts at once, before the
//! API has stored it, so that a burst of pods spreads as well as single ones.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::cache::{Cache, Change};
use crate::events::{Level, Recorder};
use crate::objects::metadata::{Condition, time_text};
use crate::objects::node::Node;
use crate::objects::pod::Pod;
use crate::objects::{Key, PODS};
use crate::requests::Requests;

pub(crate) mod fit;

use fit::{Cluster, Refusal, choose};

/// The scheduler that pods name unless they name another.
const NAME: &str = "default-scheduler";
/// Bindings under way at the same time; the store gathers them into few writes.
const BINDINGS: usize = 32;
/// First and longest pause before a pod whose binding failed is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// The same event about a pod that stays unschedulable is told again after so long.
const TOLD_WITHIN: Duration = Duration::from_secs(300);

/// What is remembered of a pod that is not bound yet, or whose binding the cache does not show yet.
#[derive(Default)]
struct Attempt {
    /// Uid the rest is about.
    uid: Box<str>,
    /// Node it is being, or was, bound to.
    node: Option<Arc<str>>,
    failures: u32,
    /// Not before.
    after: Option<Instant>,
    /// Last refusal told, and when.
    told: Option<(Refusal, Instant)>,
}

/// The controller.
pub(crate) struct Scheduler {
    requests: Requests,
    recorder: Recorder,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    changed: Arc<Notify>,
    attempts: Mutex<HashMap<Key, Attempt>>,
}

fn waiting(pod: &Pod) -> bool {
    pod.node.is_none() && !pod.gated && pod.active() && (pod.scheduler.is_empty() || &*pod.scheduler == NAME)
}

/// Whether a node came to offer something else: its heartbeat and its conditions' texts do not matter.
fn offers_otherwise(one: &Node, other: &Node) -> bool {
    one.metadata.labels != other.metadata.labels
        || one.unschedulable != other.unschedulable
        || one.taints != other.taints
        || one.allocatable != other.allocatable
        || one.pods != other.pods
        || one.ready() != other.ready()
}

impl Scheduler {
    pub(crate) fn new(requests: Requests, recorder: Recorder, pods: Arc<Cache<Pod>>, nodes: Arc<Cache<Node>>) -> Self {
        let changed = Arc::new(Notify::new());
        let wake = Arc::clone(&changed);
        pods.on_change(move |change| {
            let matters = match change {
                // Room on a node, or the end of a pod that waited.
                Change::Gone(_) => true,
                Change::Put { previous, current } => {
                    waiting(current) || current.finished() && previous.is_none_or(|previous| !previous.finished())
                }
            };
            if matters {
                wake.notify_one();
            }
        });
        let wake = Arc::clone(&changed);
        nodes.on_change(move |change| {
            let matters = match change {
                Change::Gone(_) | Change::Put { previous: None, .. } => true,
                Change::Put {
                    previous: Some(previous),
                    current,
                } => offers_otherwise(previous, current),
            };
            if matters {
                wake.notify_one();
            }
        });
        Self {
            requests,
            recorder,
            pods,
            nodes,
            changed,
            attempts: Mutex::default(),
        }
    }

    /// Works until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = async { self.pods.completed().await; self.nodes.completed().await } => {}
        }
        let mut work = FuturesUnordered::new();
        // Decisions that found no room among the bindings under way.
        let mut decided = std::collections::VecDeque::new();
        let mut look = true;
        let mut again = None;
        loop {
            if look {
                let (decisions, next) = self.decide();
                decided.extend(decisions);
                again = next;
            }
            while work.len() < BINDINGS
                && let Some(decision) = decided.pop_front()
            {
                work.push(self.carry_out(decision));
            }
            let wake = async {
                match again {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(failed) = work.next() => look = failed,
                () = self.changed.notified() => look = true,
                () = wake => look = true,
            }
        }
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<Key, Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides for every pod that waits; and when to look again at those whose binding failed.
    fn decide(&self) -> (Vec<Decision>, Option<Instant>) {
        let pods = self.pods.all(|pod| !pod.finished());
        let mut queue: Vec<&Arc<Pod>> = pods.iter().filter(|pod| waiting(pod)).collect();
        let mut attempts = self.attempts();
        attempts.retain(|key, attempt| {
            queue
                .iter()
                .any(|pod| pod.metadata.key == *key && pod.metadata.uid == attempt.uid)
        });
        if queue.is_empty() {
            return (Vec::new(), None);
        }
        let now = Instant::now();
        let mut cluster = Cluster::new(&self.nodes.all(|_| true), &pods);
        for pod in &queue {
            if let Some(node) = attempts
                .get(&pod.metadata.key)
                .and_then(|attempt| attempt.node.as_deref())
            {
                cluster.put(pod, node);
            }
        }
        queue.sort_by(|a, b| {
            (std::cmp::Reverse(a.priority), a.metadata.created, &a.metadata.key).cmp(&(
                std::cmp::Reverse(b.priority),
                b.metadata.created,
                &b.metadata.key,
            ))
        });
        let mut decisions = Vec::new();
        let mut again: Option<Instant> = None;
        for pod in queue {
            let attempt = attempts.entry(pod.metadata.key.clone()).or_insert_with(|| Attempt {
                uid: pod.metadata.uid.clone(),
                ..Attempt::default()
            });
            if attempt.node.is_some() {
                continue;
            }
            if let Some(after) = attempt.after.filter(|after| *after > now) {
                again = Some(again.map_or(after, |again| again.min(after)));
                continue;
            }
            match choose(pod, &cluster) {
                Ok(node) => {
                    cluster.put(pod, &node);
                    attempt.node = Some(Arc::clone(&node));
                    attempt.told = None;
                    decisions.push(Decision {
                        pod: Arc::clone(pod),
                        outcome: Ok(node),
                    });
                }
                Err(refusal) => {
                    let known = attempt
                        .told
                        .as_ref()
                        .is_some_and(|(told, at)| *told == refusal && now.duration_since(*at) < TOLD_WITHIN);
                    if !known {
                        attempt.told = Some((refusal.clone(), now));
                        decisions.push(Decision {
                            pod: Arc::clone(pod),
                            outcome: Err(refusal),
                        });
                    }
                }
            }
        }
        (decisions, again)
    }

    /// Writes one decision; says whether everything has to be looked at again because that failed.
    async fn carry_out(&self, decision: Decision) -> bool {
        match decision.outcome {
            Ok(node) => self.bind(&decision.pod, &node).await,
            Err(refusal) => {
                self.refuse(&decision.pod, &refusal).await;
                false
            }
        }
    }

    async fn bind(&self, pod: &Pod, node: &str) -> bool {
        let key = &pod.metadata.key;
        let body = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": &*key.name, "namespace": &*key.namespace, "uid": pod.metadata.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        match self
            .requests
            .create(&format!("{}/binding", PODS.path_of(key)), &body)
            .await
        {
            Ok(_) => {
                let message = format!("Successfully assigned {key} to {node}");
                self.recorder
                    .tell(&PODS, &pod.metadata, Level::Normal, "Scheduled", message);
                false
            }
            Err(error) => {
                tracing::debug!(pod = %key, node, error = &error as &dyn std::error::Error, "binding failed");
                // A pod that is gone, or is bound already, will be out of the queue by its own event.
                if !error.is_not_found() && !error.is_conflict() {
                    let message = format!("running Bind plugin: {}", error.api_message());
                    self.recorder
                        .tell(&PODS, &pod.metadata, Level::Warning, "FailedScheduling", message);
                }
                let mut attempts = self.attempts();
                if let Some(attempt) = attempts.get_mut(key).filter(|attempt| attempt.uid == pod.metadata.uid) {
                    let pause = PAUSE.0.saturating_mul(1 << attempt.failures.min(10)).min(PAUSE.1);
                    attempt.node = None;
                    attempt.failures = attempt.failures.saturating_add(1);
                    attempt.after = Some(Instant::now() + pause);
                }
                true
            }
        }
    }

    async fn refuse(&self, pod: &Pod, refusal: &Refusal) {
        let key = &pod.metadata.key;
        let message = refusal.message();
        self.recorder.tell(
            &PODS,
            &pod.metadata,
            Level::Warning,
            "FailedScheduling",
            message.clone(),
        );
        let said = pod
            .unscheduled
            .as_ref()
            .is_some_and(|(reason, known)| &**reason == "Unschedulable" && **known == *message);
        if said {
            return;
        }
        let now = jiff::Timestamp::now();
        let mut condition = Condition::new("PodScheduled", "False", "Unschedulable", message, now);
        if pod.unscheduled.is_some() {
            condition.last_transition_time = None;
        } else {
            condition.last_transition_time = Some(time_text(now));
        }
        let body = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        if let Err(error) = self
            .requests
            .strategic(&format!("{}/status", PODS.path_of(key)), &body)
            .await
        {
            tracing::debug!(pod = %key, error = &error as &dyn std::error::Error, "condition not written");
        }
    }
}

/// Where a pod goes, or why nowhere.
struct Decision {
    pod: Arc<Pod>,
    outcome: Result<Arc<str>, Refusal>,
}
