//! Node lifecycle: who is silent, and what follows from it.
//!
//! A node's sign of life is a change of its Lease, timed by this process's monotonic clock when it is seen. When nobody could listen,
//! because the control plane had just started, stood still, or has no uplink, no silence is counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::cache::{Cache, Change};
use crate::events::{Level, Recorder};
use crate::objects::node::Node;
use crate::objects::pod::Pod;
use crate::objects::{Lease, NODES, PODS, Stored};
use crate::requests::Requests;

pub(crate) mod evictions;
pub(crate) mod judgement;
pub(crate) mod ranges;

use judgement::{Hearing, silent_from, taints, unknown_conditions};

/// Where nodes' Leases are.
const LEASES_IN: &str = "kube-node-lease";
/// A wake-up so much later than asked means that this process stood still, and heard nothing meanwhile.
const STOOD_STILL: Duration = Duration::from_secs(1);
/// After such a pause nodes get so long to be heard again before silence counts: what they said meanwhile has to be read first.
const AFTER_STANDSTILL: Duration = Duration::from_secs(3);
/// The same after the control plane's uplink was gone: nodes have to find their way back.
const AFTER_CUT_OFF: Duration = Duration::from_secs(10);
/// When to try again what failed.
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// Limits that node lifecycle goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// A node heard before is silent after so long.
    pub(crate) silence: Duration,
    /// A node not heard yet is silent after so long.
    pub(crate) grace: Duration,
}

type Hearings = Arc<Mutex<HashMap<Arc<str>, Hearing>>>;

fn lock(hearings: &Hearings) -> MutexGuard<'_, HashMap<Arc<str>, Hearing>> {
    hearings.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What node lifecycle looks at.
pub(crate) struct Caches {
    pub(crate) nodes: Arc<Cache<Node>>,
    pub(crate) pods: Arc<Cache<Pod>>,
    pub(crate) leases: Arc<Cache<Lease>>,
}

/// The controller.
pub(crate) struct Lifecycle {
    requests: Requests,
    recorder: Recorder,
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
    leases: Arc<Cache<Lease>>,
    hearings: Hearings,
    changed: Arc<Notify>,
    limits: Limits,
    /// The control plane's own uplink has no carrier.
    cut_off: watch::Receiver<bool>,
    /// Told to [`evictions::Evictions`].
    evictions_allowed: watch::Sender<bool>,
}

impl Lifecycle {
    pub(crate) fn new(
        requests: Requests,
        recorder: Recorder,
        caches: Caches,
        limits: Limits,
        cut_off: watch::Receiver<bool>,
    ) -> Self {
        let Caches { nodes, pods, leases } = caches;
        let hearings = Hearings::default();
        let changed = Arc::new(Notify::new());

        let heard = Arc::clone(&hearings);
        let known = Arc::clone(&leases);
        leases.on_change(move |change| {
            let Change::Put { previous, current } = change else {
                return;
            };
            let key = &current.metadata().key;
            // What the first list holds was written before anybody listened.
            let renewed = previous.map_or_else(|| known.is_complete(), |previous| previous.renewed != current.renewed);
            if &*key.namespace != LEASES_IN || !renewed {
                return;
            }
            let mut hearings = lock(&heard);
            match hearings.get_mut(&key.name) {
                Some(hearing) if hearing.renewed == current.renewed => {}
                Some(hearing) => {
                    *hearing = Hearing {
                        at: Instant::now(),
                        heard: true,
                        renewed: current.renewed.clone(),
                    };
                }
                None => {
                    let hearing = Hearing {
                        at: Instant::now(),
                        heard: true,
                        renewed: current.renewed.clone(),
                    };
                    hearings.insert(Arc::clone(&key.name), hearing);
                }
            }
        });

        let heard = Arc::clone(&hearings);
        let wake = Arc::clone(&changed);
        let teller = recorder.clone();
        nodes.on_change(move |change| {
            let metadata = &change.object().metadata;
            let name = &metadata.key.name;
            match change {
                Change::Put { previous: None, .. } => {
                    lock(&heard).entry(Arc::clone(name)).or_insert_with(|| Hearing {
                        at: Instant::now(),
                        heard: false,
                        renewed: "".into(),
                    });
                    let message = format!("Node {name} event: Registered Node {name} in Controller");
                    teller.tell(&NODES, metadata, Level::Normal, "RegisteredNode", message);
                }
                Change::Put { .. } => {}
                Change::Gone(_) => {
                    lock(&heard).remove(name);
                    let message = format!("Node {name} event: Removing Node {name} from Controller");
                    teller.tell(&NODES, metadata, Level::Normal, "RemovingNode", message);
                }
            }
            wake.notify_one();
        });
        Self {
            requests,
            recorder,
            nodes,
            pods,
            leases,
            hearings,
            changed,
            limits,
            cut_off,
            evictions_allowed: watch::Sender::new(false),
        }
    }

    /// Whether pods may be driven off nodes.
    pub(crate) fn evictions_allowed(&self) -> watch::Receiver<bool> {
        self.evictions_allowed.subscribe()
    }

    /// Works until shutdown.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let caches = async {
            self.nodes.completed().await;
            self.pods.completed().await;
            self.leases.completed().await;
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = caches => {}
        }
        let mut floor = Instant::now();
        let mut uplink_watched = true;
        loop {
            let cut_off = *self.cut_off.borrow_and_update();
            let began = Instant::now();
            let due = self.look(floor, cut_off).await;
            let slow = began.elapsed() > STOOD_STILL;
            let asked = due
                .unwrap_or_else(|| Instant::now() + self.limits.silence)
                .max(Instant::now());
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(asked) => {}
                // Without a sender the uplink is not watched any more, and the last word stands.
                changed = self.cut_off.changed(), if uplink_watched => uplink_watched = changed.is_ok(),
            }
            let now = Instant::now();
            // Nobody could be heard meanwhile, nor right after.
            if cut_off {
                floor = now + AFTER_CUT_OFF;
            } else if slow || now.saturating_duration_since(asked) > STOOD_STILL {
                floor = floor.max(now + AFTER_STANDSTILL);
            }
        }
    }

    /// Looks at every node once; answers when the next one would count as silent.
    async fn look(&self, floor: Instant, cut_off: bool) -> Option<Instant> {
        let nodes = self.nodes.all(|_| true);
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        let mut silent = Vec::with_capacity(nodes.len());
        {
            let hearings = lock(&self.hearings);
            for node in &nodes {
                let due = hearings
                    .get(&node.metadata.key.name)
                    .map_or(now + self.limits.grace, |hearing| {
                        silent_from(hearing, floor, self.limits.silence, self.limits.grace)
                    });
                silent.push(due <= now);
                if due > now {
                    next = Some(next.map_or(due, |next| next.min(due)));
                }
            }
        }
        // When no node at all is well the fault is more likely here, and there is no place to go to anyway.
        let well = nodes
            .iter()
            .zip(&silent)
            .any(|(node, silent)| !silent && node.ready() == Some("True"));
        let allowed = !cut_off && well;
        self.evictions_allowed
            .send_if_modified(|present| std::mem::replace(present, allowed) != allowed);

        let work = nodes
            .iter()
            .zip(&silent)
            .map(|(node, silent)| self.treat(node, *silent, allowed));
        for (node, outcome) in nodes.iter().zip(join_all(work).await) {
            match outcome {
                Ok(()) => {}
                // The newer version of the node is on its way here, or its end.
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(node = %node.metadata.key.name, error, "node lifecycle, to be tried again");
                    let soon = Instant::now() + TRY_AGAIN;
                    next = Some(next.map_or(soon, |next| next.min(soon)));
                }
            }
        }
        next
    }

    async fn treat(&self, node: &Node, silent: bool, evictions_allowed: bool) -> Result<(), Error> {
        let path = NODES.path_of(&node.metadata.key);
        let revision = node.metadata.revision.to_string();
        if silent {
            let conditions = unknown_conditions(node, Timestamp::now());
            if !conditions.is_empty() {
                let body = json!({"metadata": {"resourceVersion": revision}, "status": {"conditions": conditions}});
                self.requests.strategic(&format!("{path}/status"), &body).await?;
                let name = &node.metadata.key.name;
                tracing::warn!(node = %name, "silent");
                if node.ready() == Some("True") {
                    let message = format!("Node {name} status is now: NodeNotReady");
                    self.recorder
                        .tell(&NODES, &node.metadata, Level::Normal, "NodeNotReady", message);
                }
                // The taints follow when the written condition is seen.
                return Ok(());
            }
            if evictions_allowed {
                self.mark_pods(&node.metadata.key.name).await?;
            }
        }
        if let Some(taints) = taints(node, evictions_allowed, Timestamp::now()) {
            let taints = if taints.is_empty() { json!(null) } else { json!(taints) };
            let body = json!({"metadata": {"resourceVersion": revision}, "spec": {"taints": taints}});
            self.requests.merge(&path, &body).await?;
        }
        Ok(())
    }

    /// Pods of a silent node are not ready, whatever it last said.
    async fn mark_pods(&self, node: &str) -> Result<(), Error> {
        let pods = self.pods.all(|pod| pod.ready && pod.node.as_deref() == Some(node));
        let now = crate::objects::metadata::time_text(Timestamp::now());
        let outcomes = join_all(pods.iter().map(|pod| {
            let body = json!({
                "metadata": {"uid": pod.metadata.uid},
                "status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now}]},
            });
            let path = format!("{}/status", PODS.path_of(&pod.metadata.key));
            async move { self.requests.strategic(&path, &body).await }
        }))
        .await;
        for (pod, outcome) in pods.iter().zip(outcomes) {
            match outcome {
                Ok(_) => {
                    self.recorder.tell(
                        &PODS,
                        &pod.metadata,
                        Level::Warning,
                        "NodeNotReady",
                        "Node is not ready",
                    );
                }
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
