//! Events: what `kubectl describe` shows of the controllers' work.
//!
//! They are written by one task from a bounded channel: an event must never hold up the work it tells of, and is dropped when too many
//! are waiting. The same event about the same object within ten minutes is counted up, not written again.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::objects::metadata::time_text;
use crate::objects::{EVENTS, Metadata, Resource};
use crate::requests::Requests;

/// Events that may wait to be written.
const WAITING: usize = 256;
/// Events remembered so that a repetition is counted.
const REMEMBERED: usize = 256;
/// How long a repetition is counted (client-go's `defaultAggregateIntervalInSeconds`).
const REPEATED_WITHIN: Duration = Duration::from_secs(600);

/// `Normal` or `Warning`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Level {
    Normal,
    Warning,
}

struct Record {
    requests: Requests,
    component: &'static str,
    object: Value,
    level: Level,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// Tells of one controller's work.
#[derive(Clone)]
pub(crate) struct Recorder {
    requests: Requests,
    component: &'static str,
    sender: mpsc::Sender<Record>,
}

impl Recorder {
    /// Tells `message` about an object.
    pub(crate) fn tell(
        &self,
        resource: &Resource,
        metadata: &Metadata,
        level: Level,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let mut object = json!({
            "apiVersion": resource.api_version(),
            "kind": resource.kind,
            "name": &*metadata.key.name,
            "uid": metadata.uid,
        });
        if !metadata.key.namespace.is_empty() {
            object["namespace"] = (&*metadata.key.namespace).into();
        }
        // The node controller's events name the node as their uid, as kubelets do, so that `kubectl describe node` finds both.
        if resource.kind == "Node" {
            object["uid"] = (&*metadata.key.name).into();
        } else if metadata.revision != 0 {
            object["resourceVersion"] = metadata.revision.to_string().into();
        }
        let record = Record {
            requests: self.requests.clone(),
            component: self.component,
            object,
            level,
            reason,
            message: message.into(),
            at: Timestamp::now(),
        };
        if self.sender.try_send(record).is_err() {
            tracing::debug!(reason, "event dropped: too many are waiting");
        }
    }
}

/// Where recorders send to.
#[derive(Clone)]
pub(crate) struct Events {
    sender: mpsc::Sender<Record>,
}

/// The receiving end of [`Events`].
pub(crate) struct Writer {
    receiver: mpsc::Receiver<Record>,
    recent: HashMap<u64, Recent>,
    order: VecDeque<u64>,
}

struct Recent {
    path: String,
    count: u32,
    last: Instant,
}

impl Events {
    pub(crate) fn new() -> (Self, Writer) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (
            Self { sender },
            Writer {
                receiver,
                recent: HashMap::new(),
                order: VecDeque::new(),
            },
        )
    }

    /// A recorder that writes as the user of `requests` and signs with the component's name.
    pub(crate) fn recorder(&self, component: &'static str, requests: Requests) -> Recorder {
        Recorder {
            requests,
            component,
            sender: self.sender.clone(),
        }
    }
}

impl Writer {
    /// Writes until shutdown.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let record = tokio::select! {
                () = shutdown.cancelled() => return,
                record = self.receiver.recv() => record,
            };
            let Some(record) = record else { return };
            if let Err(error) = self.write(&record).await {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    reason = record.reason,
                    "event not written"
                );
            }
        }
    }

    async fn write(&mut self, record: &Record) -> Result<(), crate::Error> {
        let mut hasher = DefaultHasher::new();
        let identity = [
            &record.object["kind"],
            &record.object["namespace"],
            &record.object["name"],
            &record.object["uid"],
        ];
        for part in identity {
            part.as_str().hash(&mut hasher);
        }
        (record.component, record.reason, &record.message, record.level).hash(&mut hasher);
        let hash = hasher.finish();
        let now = Instant::now();
        if let Some(recent) = self.recent.get_mut(&hash)
            && now.duration_since(recent.last) < REPEATED_WITHIN
        {
            let body = json!({"count": recent.count + 1, "lastTimestamp": time_text(record.at)});
            match record.requests.merge(&recent.path, &body).await {
                Ok(_) => {
                    recent.count += 1;
                    recent.last = now;
                    return Ok(());
                }
                // It has lapsed: begin again.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let path = create(record).await?;
        if self
            .recent
            .insert(
                hash,
                Recent {
                    path,
                    count: 1,
                    last: now,
                },
            )
            .is_none()
        {
            self.order.push_back(hash);
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.recent.remove(&oldest);
            }
        }
        Ok(())
    }
}

/// Writes a new event and answers its path.
async fn create(record: &Record) -> Result<String, crate::Error> {
    // Events about cluster-scoped objects live in `default`, as client-go has it.
    let namespace = record.object["namespace"].as_str().unwrap_or("default");
    let object = record.object["name"].as_str().unwrap_or_default();
    let name = format!("{object}.{:x}", record.at.as_nanosecond());
    let at = time_text(record.at);
    let body = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": record.object,
        "reason": record.reason,
        "message": record.message,
        "type": match record.level { Level::Normal => "Normal", Level::Warning => "Warning" },
        "source": {"component": record.component},
        "reportingComponent": record.component,
        "reportingInstance": "",
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    });
    record.requests.create(&EVENTS.collection(namespace), &body).await?;
    Ok(EVENTS.path(namespace, &name))
}
