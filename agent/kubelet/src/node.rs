//! The node itself: its object, its condition, its addresses.
//!
//! The node makes its own object when there is none, keeps its labels, and is the only writer of its status. Writes are
//! rare: a change is stored at most every ten seconds, and heartbeat times every five minutes; that the node lives is
//! told by the link.

mod conditions;
mod facts;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_cri::v1;
use minidc_api::metrics::NodeSample;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::context::{Condition, Registry};
use crate::control_plane::{ControlPlane, Offline, wait_until_connected};
use crate::environment::NodeFacts;
use crate::health::Health;
use crate::recorder::{Recorder, Severity, stamp};
use crate::runtime::Runtime;
use crate::stats::Capacity;

use conditions::{Conditions, Inputs};
pub(crate) use facts::addresses;

/// How often the runtime is asked whether it is ready.
const LOOK: Duration = Duration::from_secs(5);
/// How often while it is not, in the first seconds and for the rest of the first minute: pods wait for it.
const LOOK_STARTING: Duration = Duration::from_millis(50);
const STARTING: Duration = Duration::from_secs(5);
const LOOK_WAITING: Duration = Duration::from_millis(500);
const WAITING_LONG: Duration = Duration::from_secs(60);
/// Least time between two stored changes.
const LEAST_PAUSE: Duration = Duration::from_secs(10);
/// How often heartbeat times are stored (Kubernetes' `nodeStatusReportFrequency`).
const HEARTBEAT: Duration = Duration::from_secs(300);
/// How long the first status waits for a runtime that is still starting.
const START: Duration = Duration::from_secs(5);
/// After the link is back: looks at whether the stored status is still ours, since a judge may be late.
const CHECKS: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(60),
];
/// Memory set aside for the node's own programs: Kubernetes' default eviction threshold.
const RESERVED_MEMORY: u64 = 100 << 20;
/// Images listed in the status (Kubernetes' `nodeStatusMaxImages`), and names of each (`MaxNamesPerImageInNodeStatus`).
const MOST_IMAGES: usize = 50;
const MOST_NAMES: usize = 5;

/// What pods can have of the node, and where it is.
pub(crate) fn node_facts(capacity: Capacity, addresses: Vec<String>) -> NodeFacts {
    NodeFacts {
        addresses,
        allocatable_cpu_milli: capacity.cpu_milli,
        // On the smallest boards a tenth is enough.
        allocatable_memory: capacity.memory - RESERVED_MEMORY.min(capacity.memory / 10),
        memory: capacity.memory,
        allocatable_storage: capacity.storage / 10 * 9,
    }
}

/// Keeps the node object, the node's health, and the facts that pods ask for.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) capacity: Capacity,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) control_plane: Arc<dyn ControlPlane>,
    pub(crate) recorder: Recorder,
    pub(crate) registry: Registry,
    pub(crate) sample: watch::Receiver<Arc<NodeSample>>,
    pub(crate) images_changed: watch::Receiver<u64>,
    pub(crate) facts: watch::Sender<Arc<NodeFacts>>,
    pub(crate) health: watch::Sender<Health>,
}

/// What is not in the status but decides when it is sent.
struct Sending {
    /// The status that was stored last, without heartbeat times.
    sent: Option<Value>,
    at: Instant,
    registered: bool,
    /// When to look at what is stored.
    check: Option<(Instant, usize)>,
    /// The node has been ready since the agent started: its first readiness is stored at once.
    ever_ready: bool,
}

impl Node {
    /// Runs until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = self.watch() => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn watch(mut self) {
        let mut conditions = Conditions::default();
        let mut connected = self.control_plane.connected();
        let mut changes = self.registry.changes();
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let started = Instant::now();
        let mut sending = Sending {
            sent: None,
            at: started,
            registered: false,
            check: None,
            ever_ready: false,
        };
        let mut version = None;
        let mut info = None;
        let mut last_ready = started;
        let mut images = None;
        let mut runtime_conditions = None;
        loop {
            let checking = sending.check.map(|(at, _)| tokio::time::Instant::from_std(at));
            let check = async {
                match checking {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let mut look = true;
            tokio::select! {
                _ = tick.tick() => {}
                Ok(()) = connected.changed() => {
                    if *connected.borrow_and_update() {
                        // Others may have judged the node meanwhile, or the store may be another.
                        (sending.sent, sending.registered) = (None, false);
                    }
                }
                Ok(()) = changes.changed() => look = false,
                // the lights follow at once what is measured; what is stored waits for the next look
                Ok(()) = self.sample.changed() => {
                    let judged = conditions.judge(&self.inputs(runtime_conditions.as_deref()), Instant::now());
                    self.publish_health(runtime_conditions.as_deref(), &judged);
                    continue;
                }
                Ok(()) = self.images_changed.changed() => (images, look) = (None, false),
                () = check => {
                    look = false;
                    self.check(&mut sending).await;
                }
            }
            if look {
                // A runtime that hangs is as bad as one that is down.
                let asked = tokio::time::timeout(LOOK, self.runtime.status()).await;
                runtime_conditions = asked.ok().and_then(Result::ok);
                if version.is_none() && runtime_conditions.is_some() {
                    version = self.runtime.version().await.ok();
                    info = None;
                }
                if not_ready(runtime_conditions.as_deref()).is_none() {
                    last_ready = Instant::now();
                } else if last_ready.elapsed() < WAITING_LONG {
                    let starting = last_ready.elapsed() < STARTING;
                    tick.reset_after(if starting { LOOK_STARTING } else { LOOK_WAITING });
                }
                self.look_at_addresses();
            }
            let ready = runtime_conditions.as_deref();
            let pressure = conditions.judge(&self.inputs(ready), Instant::now());
            self.publish_health(ready, &pressure);
            if images.is_none() {
                images = self.runtime.images().await.ok();
            }
            let starting = version.is_none() && started.elapsed() < START;
            if starting || !*connected.borrow() {
                continue;
            }
            let info = info.get_or_insert_with(|| facts::node_info(version.as_ref()));
            let status = self.status(&pressure, info, images.as_deref().unwrap_or_default());
            self.send(&mut sending, status, pressure.holds("Ready")).await;
        }
    }

    fn look_at_addresses(&self) {
        let found = addresses();
        self.facts.send_if_modified(|facts| {
            let changed = facts.addresses != found && !found.is_empty();
            if changed {
                *facts = Arc::new(NodeFacts {
                    addresses: found,
                    ..facts.as_ref().clone()
                });
            }
            changed
        });
    }

    fn inputs(&self, runtime: Option<&[v1::RuntimeCondition]>) -> Inputs {
        let sample = self.sample.borrow();
        Inputs {
            not_ready: not_ready(runtime),
            memory_available: sample.memory_available_bytes,
            memory: self.capacity.memory,
            disk_available: sample.disk_size_bytes.saturating_sub(sample.disk_used_bytes),
            disk: sample.disk_size_bytes,
            measured: sample.disk_size_bytes > 0,
            processes: facts::processes(),
        }
    }

    fn publish_health(&self, runtime: Option<&[v1::RuntimeCondition]>, judged: &conditions::Judged) {
        let pods = self.registry.all();
        let count = |wanted: Condition| {
            u32::try_from(pods.iter().filter(|(_, seen)| seen.condition == wanted).count()).unwrap_or(u32::MAX)
        };
        let holds = |kind: &str| {
            runtime.is_some_and(|conditions| conditions.iter().any(|found| found.r#type == kind && found.status))
        };
        let health = Health {
            runtime_ok: holds("RuntimeReady"),
            network_ok: holds("NetworkReady"),
            pods_running: count(Condition::Running),
            pods_failing: count(Condition::Failing),
            memory_pressure: judged.holds("MemoryPressure"),
            disk_pressure: judged.holds("DiskPressure"),
        };
        self.health.send_if_modified(|known| {
            let changed = *known != health;
            *known = health;
            changed
        });
    }

    fn status(&self, judged: &conditions::Judged, info: &Value, images: &[v1::Image]) -> Value {
        let facts = self.facts.borrow().clone();
        let bytes = |bytes: u64| json!(format!("{}Ki", bytes >> 10));
        let cpu = |milli: i64| {
            if milli % 1_000 == 0 {
                json!((milli / 1_000).to_string())
            } else {
                json!(format!("{milli}m"))
            }
        };
        let pods = json!(self.config.max_pods.to_string());
        let mut addresses = vec![json!({"$patch": "replace"})];
        addresses.extend(
            facts
                .addresses
                .iter()
                .map(|ip| json!({"type": "InternalIP", "address": ip})),
        );
        addresses.push(json!({"type": "Hostname", "address": self.config.node}));
        json!({
            "capacity": {"cpu": cpu(self.capacity.cpu_milli), "memory": bytes(self.capacity.memory),
                "ephemeral-storage": bytes(self.capacity.storage), "pods": pods},
            "allocatable": {"cpu": cpu(facts.allocatable_cpu_milli), "memory": bytes(facts.allocatable_memory),
                "ephemeral-storage": bytes(facts.allocatable_storage), "pods": pods},
            "conditions": judged.as_json(),
            "addresses": addresses,
            "nodeInfo": info,
            "images": image_list(images),
        })
    }

    /// Stores the status if it is time to, and makes the node object before the first time.
    async fn send(&mut self, sending: &mut Sending, status: Value, ready: bool) {
        let now = Instant::now();
        let same = sending.sent.as_ref() == Some(&status);
        let age = now.duration_since(sending.at);
        let due = match &sending.sent {
            None => true,
            Some(_) if same => age >= HEARTBEAT,
            Some(_) => age >= LEAST_PAUSE || ready && !sending.ever_ready,
        };
        if !due {
            return;
        }
        if !sending.registered {
            match self.register().await {
                Ok(true) => sending.registered = true,
                Ok(false) | Err(Offline) => return,
            }
            sending.check = Some((now + CHECKS[0], 0));
        }
        let mut body = status.clone();
        let time = json!(stamp(Timestamp::now()));
        for condition in body["conditions"].as_array_mut().into_iter().flatten() {
            condition["lastHeartbeatTime"] = time.clone();
        }
        let path = format!("/api/v1/nodes/{}/status", self.config.node);
        let body = json!({ "status": body }).to_string().into_bytes();
        match self
            .control_plane
            .request("PATCH", path, "application/strategic-merge-patch+json", body)
            .await
        {
            Ok((200..300, _)) => {
                let was_ready = sending.sent.as_ref().map(|sent| ready_in(sent) == Some(json!("True")));
                if was_ready != Some(ready) {
                    let reason = if ready { "NodeReady" } else { "NodeNotReady" };
                    let message = format!("Node {} status is now: {reason}", self.config.node);
                    self.recorder.node(Severity::Normal, reason, message);
                }
                sending.ever_ready |= ready;
                (sending.sent, sending.at) = (Some(status), now);
            }
            // The object has been deleted: make it again.
            Ok((404, _)) => (sending.registered, sending.sent) = (false, None),
            Ok((code, answer)) => {
                tracing::warn!(code, answer = %String::from_utf8_lossy(&answer), "the control plane refused the node's status");
            }
            Err(Offline) => {}
        }
    }

    /// Has the node object with its labels; `false` when the control plane refused.
    async fn register(&mut self) -> Result<bool, Offline> {
        let path = format!("/api/v1/nodes/{}", self.config.node);
        let (code, answer) = self
            .control_plane
            .request("GET", path.clone(), "application/json", Vec::new())
            .await?;
        let mut labels = facts::labels(&self.config);
        if code == 404 {
            let object =
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.config.node, "labels": labels}});
            let body = object.to_string().into_bytes();
            let (code, answer) = self
                .control_plane
                .request("POST", "/api/v1/nodes".into(), "application/json", body)
                .await?;
            if !matches!(code, 200..300 | 409) {
                tracing::warn!(code, answer = %String::from_utf8_lossy(&answer), "the control plane refused the node");
                return Ok(false);
            }
            self.recorder.node(Severity::Normal, "Starting", "Starting kubelet.");
        } else if code < 300 {
            let stored: Value = serde_json::from_slice(&answer).unwrap_or_default();
            labels.retain(|key, value| stored["metadata"]["labels"].get(key.as_str()) != Some(value));
            if !labels.is_empty() {
                self.patch_labels(&path, labels).await?;
            }
        } else {
            tracing::warn!(code, answer = %String::from_utf8_lossy(&answer), "the control plane refused to show the node");
            return Ok(false);
        }
        Ok(true)
    }

    async fn patch_labels(&self, path: &str, labels: Map<String, Value>) -> Result<(), Offline> {
        let body = json!({"metadata": {"labels": labels}}).to_string().into_bytes();
        let answer = self
            .control_plane
            .request("PATCH", path.to_owned(), "application/merge-patch+json", body)
            .await?;
        if answer.0 >= 300 {
            tracing::debug!(code = answer.0, answer = %String::from_utf8_lossy(&answer.1), "labels of the node are not taken");
        }
        Ok(())
    }

    /// Sends again when somebody else's judgement is stored.
    async fn check(&self, sending: &mut Sending) {
        let Some((_, index)) = sending.check.take() else { return };
        let next = (index + 1).min(CHECKS.len() - 1);
        sending.check = Some((Instant::now() + CHECKS[next], next));
        wait_until_connected(&*self.control_plane).await;
        let path = format!("/api/v1/nodes/{}", self.config.node);
        let Ok((code, answer)) = self
            .control_plane
            .request("GET", path, "application/json", Vec::new())
            .await
        else {
            return;
        };
        if code == 404 {
            (sending.registered, sending.sent) = (false, None);
            return;
        }
        let stored: Value = serde_json::from_slice(&answer).unwrap_or_default();
        if let Some(sent) = &sending.sent
            && ready_in(sent) != ready_in(&stored["status"])
        {
            sending.sent = None;
        }
    }
}

/// The condition `Ready` in a status.
fn ready_in(status: &Value) -> Option<Value> {
    let conditions = status["conditions"].as_array()?;
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
    Some(ready["status"].clone())
}

/// Why the node is not ready, in Kubernetes' words.
fn not_ready(runtime: Option<&[v1::RuntimeCondition]>) -> Option<String> {
    let Some(conditions) = runtime else {
        return Some("container runtime is down".into());
    };
    let problem = |kind: &str, words: &str| match conditions.iter().find(|condition| condition.r#type == kind) {
        None => Some(format!("{words} status check may not have completed yet")),
        Some(condition) if condition.status => None,
        Some(condition) => {
            let (reason, message) = (&condition.reason, &condition.message);
            Some(format!(
                "{words} not ready: {kind}=false reason:{reason} message:{message}"
            ))
        }
    };
    problem("RuntimeReady", "container runtime").or_else(|| problem("NetworkReady", "container runtime network"))
}

/// The largest images first, as `status.images` has them.
fn image_list(images: &[v1::Image]) -> Value {
    let mut images: Vec<&v1::Image> = images.iter().collect();
    images.sort_by(|one, other| other.size.cmp(&one.size).then_with(|| one.id.cmp(&other.id)));
    images.truncate(MOST_IMAGES);
    let names = |image: &v1::Image| -> Vec<String> {
        image
            .repo_digests
            .iter()
            .chain(&image.repo_tags)
            .take(MOST_NAMES)
            .cloned()
            .collect()
    };
    images
        .into_iter()
        .map(|image| json!({"names": names(image), "sizeBytes": image.size}))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_is_not_ready_for_a_reason() {
        assert_eq!(not_ready(None).unwrap(), "container runtime is down");
        let condition = |kind: &str, status| v1::RuntimeCondition {
            r#type: kind.into(),
            status,
            reason: "NetworkPluginNotReady".into(),
            message: "cni plugin not initialized".into(),
        };
        let conditions = [condition("RuntimeReady", true), condition("NetworkReady", false)];
        assert_eq!(
            not_ready(Some(&conditions)).unwrap(),
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized"
        );
        assert_eq!(
            not_ready(Some(&[
                condition("RuntimeReady", true),
                condition("NetworkReady", true)
            ])),
            None
        );
    }

    #[test]
    fn largest_images_are_listed_first() {
        let image = |id: &str, size| v1::Image {
            id: id.into(),
            size,
            repo_tags: vec![format!("{id}:1")],
            ..Default::default()
        };
        let list = image_list(&[image("a", 1), image("b", 2)]);
        assert_eq!(
            list,
            json!([{"names": ["b:1"], "sizeBytes": 2}, {"names": ["a:1"], "sizeBytes": 1}])
        );
    }

    #[test]
    fn small_boards_keep_a_tenth_for_themselves() {
        let capacity = |memory| Capacity {
            cpu_milli: 4_000,
            memory,
            storage: 1_000,
        };
        assert_eq!(
            node_facts(capacity(4 << 30), vec![]).allocatable_memory,
            (4 << 30) - (100 << 20)
        );
        assert_eq!(node_facts(capacity(500 << 20), vec![]).allocatable_memory, 450 << 20);
    }
}
