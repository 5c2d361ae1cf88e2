//! Events: what `kubectl describe` shows of the life of a pod.
//!
//! The same event within ten minutes raises the count of the one before; a pod that talks too much is cut short, by the
//! rules of client-go's event correlator. While the control plane is away a bounded number waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::control_plane::{ControlPlane, wait_until_connected};
use crate::identity::PodIdentity;

/// Events that may wait to be sent; more are dropped, they are only words.
const WAITING: usize = 256;
/// Within this time the same event is counted, not repeated.
const SAME_EVENT: Duration = Duration::from_secs(600);
/// Distinct events remembered.
const REMEMBERED: usize = 512;
/// Repetitions that are stored as they come; then the count is stored at intervals, so that a probe that fails each
/// second is no request each second.
const COUNTED_AT_ONCE: u32 = 10;
const COUNTED_AGAIN: Duration = Duration::from_secs(30);
/// Events of one object at once, and the time after which one more is let through (client-go's `defaultSpamBurst`,
/// `defaultSpamQPS`).
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);

/// Whether somebody should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Pod {
        pod: PodIdentity,
        container: Option<String>,
    },
    Node,
}

#[derive(Clone, Debug)]
struct Event {
    subject: Subject,
    severity: Severity,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// Where parts of the kubelet say what happened; never blocks.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    sender: mpsc::Sender<Event>,
}

impl Recorder {
    /// A recorder, and the part that sends.
    pub(crate) fn new(node: String, control_plane: Arc<dyn ControlPlane>) -> (Self, Sender) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let sending = Sender {
            node,
            control_plane,
            receiver,
            known: BTreeMap::new(),
            spam: BTreeMap::new(),
            number: 0,
        };
        (Self { sender }, sending)
    }

    fn say(&self, subject: Subject, severity: Severity, reason: &'static str, message: String) {
        tracing::debug!(?subject, reason, message, "event");
        let event = Event {
            subject,
            severity,
            reason,
            message,
            at: Timestamp::now(),
        };
        // A full queue means that the control plane has been away for long.
        let _ = self.sender.try_send(event);
    }

    /// About a pod as a whole.
    pub(crate) fn pod(&self, pod: &PodIdentity, severity: Severity, reason: &'static str, message: impl Into<String>) {
        self.say(
            Subject::Pod {
                pod: pod.clone(),
                container: None,
            },
            severity,
            reason,
            message.into(),
        );
    }

    /// About one container; `field` is its path, for instance `spec.containers{web}`.
    pub(crate) fn container(
        &self,
        pod: &PodIdentity,
        field: &str,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let subject = Subject::Pod {
            pod: pod.clone(),
            container: Some(field.to_owned()),
        };
        self.say(subject, severity, reason, message.into());
    }

    /// About the node.
    pub(crate) fn node(&self, severity: Severity, reason: &'static str, message: impl Into<String>) {
        self.say(Subject::Node, severity, reason, message.into());
    }
}

/// One event that has been stored.
struct Known {
    path: String,
    count: u32,
    last: Instant,
    /// When the stored count was last brought up to date.
    told: Instant,
}

/// Sends what the recorders say, one after the other.
pub(crate) struct Sender {
    node: String,
    control_plane: Arc<dyn ControlPlane>,
    receiver: mpsc::Receiver<Event>,
    known: BTreeMap<String, Known>,
    spam: BTreeMap<String, (f64, Instant)>,
    number: u64,
}

impl Sender {
    /// Runs until `shutdown` or until no recorder is left.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let event = tokio::select! {
                event = self.receiver.recv() => event,
                () = shutdown.cancelled() => return,
            };
            let Some(event) = event else { return };
            tokio::select! {
                () = self.send(&event) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn send(&mut self, event: &Event) {
        let now = Instant::now();
        let key = format!(
            "{:?} {:?} {} {}",
            event.subject, event.severity, event.reason, event.message
        );
        let known = self
            .known
            .get_mut(&key)
            .filter(|known| now.duration_since(known.last) < SAME_EVENT);
        if let Some(known) = known {
            known.count += 1;
            known.last = now;
            if known.count > COUNTED_AT_ONCE && now.duration_since(known.told) < COUNTED_AGAIN {
                return;
            }
            known.told = now;
            let patch = json!({"count": known.count, "lastTimestamp": stamp(event.at)});
            let path = known.path.clone();
            let answer = request(
                &*self.control_plane,
                "PATCH",
                &path,
                "application/merge-patch+json",
                &patch,
            )
            .await;
            if answer != 404 {
                return;
            }
        } else if !self.may_speak(event, now) {
            return;
        }
        let (namespace, name, object) = self.object(event);
        let collection = format!("/api/v1/namespaces/{namespace}/events");
        let answer = request(&*self.control_plane, "POST", &collection, "application/json", &object).await;
        if answer >= 300 {
            // A namespace on its way out takes no events; nothing can be done about it.
            tracing::debug!(answer, reason = event.reason, "event not stored");
            return;
        }
        if self.known.len() >= REMEMBERED {
            self.known
                .retain(|_, known| now.duration_since(known.last) < SAME_EVENT);
            if self.known.len() >= REMEMBERED {
                self.known.clear();
            }
        }
        self.known.insert(
            key,
            Known {
                path: format!("{collection}/{name}"),
                count: 1,
                last: now,
                told: now,
            },
        );
    }

    /// A bucket of tokens per object.
    fn may_speak(&mut self, event: &Event, now: Instant) -> bool {
        if self.spam.len() >= REMEMBERED {
            self.spam.retain(|_, (_, last)| now.duration_since(*last) < REFILL);
        }
        let key = match &event.subject {
            Subject::Pod { pod, .. } => pod.uid.clone(),
            Subject::Node => String::new(),
        };
        let (tokens, last) = self.spam.entry(key).or_insert((BURST, now));
        *tokens = (*tokens + now.duration_since(*last).as_secs_f64() / REFILL.as_secs_f64()).min(BURST);
        *last = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }

    fn object(&mut self, event: &Event) -> (String, String, Value) {
        self.number += 1;
        let (namespace, involved, object_name) = match &event.subject {
            Subject::Pod { pod, container } => {
                let mut involved = json!({"kind": "Pod", "apiVersion": "v1", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid});
                if let Some(field) = container {
                    involved["fieldPath"] = json!(field);
                }
                (pod.namespace.as_str(), involved, pod.name.as_str())
            }
            // As upstream: a node event carries the node's name as its UID.
            Subject::Node => (
                "default",
                json!({"kind": "Node", "apiVersion": "v1", "name": self.node, "uid": self.node}),
                self.node.as_str(),
            ),
        };
        let nanoseconds = event.at.as_nanosecond() as u64;
        let name = format!("{object_name}.{:x}", nanoseconds.wrapping_add(self.number));
        let severity = match event.severity {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        };
        let time = stamp(event.at);
        let object = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": involved, "reason": event.reason, "message": event.message, "type": severity,
            "source": {"component": "kubelet", "host": self.node},
            "firstTimestamp": time, "lastTimestamp": time, "count": 1, "eventTime": null,
            "reportingComponent": "kubelet", "reportingInstance": self.node,
        });
        (namespace.to_owned(), name, object)
    }
}

/// Whole seconds, as Kubernetes writes times.
pub(crate) fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Sends once the control plane is there; the answer is the status code.
async fn request(
    control_plane: &dyn ControlPlane,
    method: &'static str,
    path: &str,
    content: &'static str,
    body: &Value,
) -> u16 {
    let body = body.to_string().into_bytes();
    loop {
        wait_until_connected(control_plane).await;
        match control_plane
            .request(method, path.to_owned(), content, body.clone())
            .await
        {
            Ok((code, _)) => return code,
            // The link says so before `connected` does; it will be back.
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}
