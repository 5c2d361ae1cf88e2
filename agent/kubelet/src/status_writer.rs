//! The only writer of the status of this node's pods.
//!
//! Keeps the newest status of each pod and sends what has changed since the last time; everything once more after the
//! control plane was away, since somebody may have judged the node meanwhile. Also confirms that a deleted pod has
//! stopped, after its last status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::control_plane::{ControlPlane, Offline, wait_until_connected};
use crate::identity::PodIdentity;

/// Requests under way at once; the store writes them in one go.
const AT_ONCE: usize = 8;
/// Pause after an answer that another try may change.
const PAUSE: Duration = Duration::from_secs(2);
/// Fields that must be set to null when they are not there, or the old value would stay.
const CLEARED: [&str; 8] = [
    "message",
    "reason",
    "podIP",
    "podIPs",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "containerStatuses",
];
/// Lists that strategic merge would join by address.
const REPLACED: [&str; 2] = ["podIPs", "hostIPs"];

#[derive(Debug)]
struct Entry {
    pod: PodIdentity,
    /// The newest body; shared with a request under way.
    body: Option<Arc<Vec<u8>>>,
    /// The body that the control plane has taken.
    sent: Option<Arc<Vec<u8>>>,
    /// Tell that the pod has stopped, once the status is sent.
    confirm: bool,
    busy: bool,
    /// Of `body`.
    gist: Gist,
}

/// What others look at in a status.
#[derive(Debug, Default, PartialEq, Eq)]
struct Gist {
    phase: Option<String>,
    ready: Option<String>,
    pod_ip: Option<String>,
}

impl Gist {
    fn of(status: &PodStatus) -> Self {
        let ready = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "Ready");
        let ready = ready.map(|condition| condition.status.clone());
        Self {
            phase: status.phase.clone(),
            ready,
            pod_ip: status.pod_ip.clone(),
        }
    }
}

impl Entry {
    fn wants(&self) -> bool {
        !self.busy && (self.confirm || self.body.is_some() && self.body != self.sent)
    }
}

#[derive(Debug, Default)]
struct Inner {
    entries: Mutex<BTreeMap<String, Entry>>,
    changed: Notify,
}

/// Where the pods' tasks leave their status; never blocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Statuses {
    inner: Arc<Inner>,
}

impl Statuses {
    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Entry>) -> T) -> T {
        // The map is whole even if a holder of the lock panicked: every change is one call.
        change(&mut self.inner.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The newest status of a pod.
    pub(crate) fn set(&self, pod: &PodIdentity, status: &PodStatus) {
        let body = Arc::new(patch(pod, status).to_string().into_bytes());
        self.with(|entries| {
            let entry = entry_of(entries, pod);
            entry.body = Some(body);
            entry.gist = Gist::of(status);
        });
        self.inner.changed.notify_one();
    }

    /// Looks at what is stored: when that is not what the control plane took from here, somebody else has written it
    /// (while the node was silent it is judged by others), and it is sent again.
    pub(crate) fn compare(&self, pod: &PodIdentity, stored: &Pod) {
        let stored = stored.status.as_ref().map(Gist::of).unwrap_or_default();
        let again = self.with(|entries| match entries.get_mut(&pod.uid) {
            Some(entry) if entry.sent.is_some() && entry.sent == entry.body && entry.gist != stored => {
                entry.sent = None;
                true
            }
            _ => false,
        });
        if again {
            self.inner.changed.notify_one();
        }
    }

    /// Nothing of the pod is left here: its object may go.
    pub(crate) fn confirm(&self, pod: &PodIdentity) {
        self.with(|entries| entry_of(entries, pod).confirm = true);
        self.inner.changed.notify_one();
    }

    /// The object is gone already; nothing is to be told any more.
    pub(crate) fn forget(&self, pod: &PodIdentity) {
        self.with(|entries| entries.retain(|uid, entry| *uid != pod.uid || entry.confirm));
    }

    /// Sends until `shutdown`.
    pub(crate) async fn run(self, control_plane: Arc<dyn ControlPlane>, shutdown: CancellationToken) {
        let mut under_way = FuturesUnordered::new();
        let mut connected = control_plane.connected();
        loop {
            if !*connected.borrow_and_update() {
                tokio::select! {
                    () = wait_until_connected(&*control_plane) => {}
                    () = shutdown.cancelled() => return,
                }
            }
            while under_way.len() < AT_ONCE {
                let Some(work) = self.take() else { break };
                under_way.push(send(control_plane.clone(), work));
            }
            tokio::select! {
                () = self.inner.changed.notified() => {}
                Some((uid, outcome)) = under_way.next(), if !under_way.is_empty() => self.done(&uid, &outcome),
                Ok(()) = connected.changed() => {
                    self.with(|entries| entries.values_mut().for_each(|entry| entry.sent = None));
                }
                () = shutdown.cancelled() => return,
            }
        }
    }

    fn take(&self) -> Option<Work> {
        self.with(|entries| {
            let (uid, entry) = entries.iter_mut().find(|(_, entry)| entry.wants())?;
            entry.busy = true;
            let body = entry.body.clone().filter(|body| entry.sent.as_ref() != Some(body));
            let confirm = entry.confirm && body.is_none();
            Some(Work {
                uid: uid.clone(),
                pod: entry.pod.clone(),
                body,
                confirm,
            })
        })
    }

    fn done(&self, uid: &str, outcome: &Outcome) {
        self.with(|entries| {
            let Some(entry) = entries.get_mut(uid) else { return };
            entry.busy = false;
            match outcome {
                Outcome::Sent(body) => entry.sent = Some(body.clone()),
                Outcome::Again => {}
                Outcome::Gone if entry.confirm || entry.body.is_none() => {
                    entries.remove(uid);
                }
                // The pod is not there any more; its task will hear that and stop it.
                Outcome::Gone => entry.sent = entry.body.clone(),
            }
        });
    }
}

fn entry_of<'a>(entries: &'a mut BTreeMap<String, Entry>, pod: &PodIdentity) -> &'a mut Entry {
    let fresh = || Entry {
        pod: pod.clone(),
        body: None,
        sent: None,
        confirm: false,
        busy: false,
        gist: Gist::default(),
    };
    entries.entry(pod.uid.clone()).or_insert_with(fresh)
}

struct Work {
    uid: String,
    pod: PodIdentity,
    body: Option<Arc<Vec<u8>>>,
    confirm: bool,
}

enum Outcome {
    /// The status was taken.
    Sent(Arc<Vec<u8>>),
    /// Try again.
    Again,
    /// There is no such pod (any more), or what was to be removed is.
    Gone,
}

async fn send(control_plane: Arc<dyn ControlPlane>, work: Work) -> (String, Outcome) {
    let Work {
        uid,
        pod,
        body,
        confirm,
    } = work;
    let answer = match &body {
        Some(body) => {
            let path = format!("{}/status", pod.path());
            control_plane
                .request("PATCH", path, "application/strategic-merge-patch+json", body.to_vec())
                .await
        }
        None if confirm => {
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
            control_plane
                .request(
                    "DELETE",
                    pod.path(),
                    "application/json",
                    options.to_string().into_bytes(),
                )
                .await
        }
        None => return (uid, Outcome::Again),
    };
    let outcome = match (answer, body) {
        (Ok((200..300, _)), Some(body)) => Outcome::Sent(body),
        (Ok((200..300, _)), None) => Outcome::Gone,
        // Not found, or another pod of that name.
        (Ok((404 | 409, _)), _) => Outcome::Gone,
        (Ok((code, answer)), body) => {
            let what = if body.is_some() { "status" } else { "confirmation" };
            tracing::warn!(%pod, code, answer = %String::from_utf8_lossy(&answer), "the control plane refused a {what}");
            tokio::time::sleep(PAUSE).await;
            Outcome::Again
        }
        (Err(Offline), _) => {
            // `connected` turns soon; this only keeps a moment's disagreement from spinning.
            tokio::time::sleep(Duration::from_millis(200)).await;
            Outcome::Again
        }
    };
    (uid, outcome)
}

/// A strategic merge patch that makes the stored status this one, but leaves the conditions of others alone.
fn patch(pod: &PodIdentity, status: &PodStatus) -> Value {
    let mut status = serde_json::to_value(status).unwrap_or_default();
    for field in CLEARED {
        if status.get(field).is_none() {
            status[field] = Value::Null;
        }
    }
    for field in REPLACED {
        if let Some(list) = status[field].as_array_mut() {
            list.insert(0, json!({"$patch": "replace"}));
        }
    }
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        for field in ["message", "reason"] {
            if condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
    }
    // A pod of the same name with another UID answers with a conflict.
    json!({"metadata": {"uid": pod.uid}, "status": status})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Recorded, RecordingControlPlane};

    fn pod() -> PodIdentity {
        PodIdentity {
            namespace: "shop".into(),
            name: "web-1".into(),
            uid: "u1".into(),
        }
    }

    fn running() -> PodStatus {
        PodStatus {
            phase: Some("Running".into()),
            ..PodStatus::default()
        }
    }

    struct Running {
        statuses: Statuses,
        control_plane: Arc<RecordingControlPlane>,
        _stop: tokio_util::sync::DropGuard,
    }

    fn start() -> Running {
        let statuses = Statuses::default();
        let control_plane = Arc::new(RecordingControlPlane::default());
        let shutdown = CancellationToken::new();
        tokio::spawn(statuses.clone().run(control_plane.clone(), shutdown.clone()));
        Running {
            statuses,
            control_plane,
            _stop: shutdown.drop_guard(),
        }
    }

    fn of(requests: &[Recorded], method: &str) -> usize {
        requests.iter().filter(|request| request.method == method).count()
    }

    #[tokio::test]
    async fn only_changes_are_sent() {
        let run = start();
        run.statuses.set(&pod(), &running());
        run.control_plane.wait(|requests| of(requests, "PATCH") == 1).await;
        run.statuses.set(&pod(), &running());
        run.statuses.set(
            &pod(),
            &PodStatus {
                phase: Some("Failed".into()),
                ..PodStatus::default()
            },
        );
        run.control_plane.wait(|requests| of(requests, "PATCH") == 2).await;
        let requests = run.control_plane.requests();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0].path, "/api/v1/namespaces/shop/pods/web-1/status");
        assert_eq!(requests[0].body["metadata"]["uid"], "u1");
        assert_eq!(requests[1].body["status"]["phase"], "Failed");
    }

    #[tokio::test]
    async fn newest_status_is_sent_when_the_control_plane_is_back() {
        let run = start();
        run.control_plane.set_connected(false);
        run.statuses.set(
            &pod(),
            &PodStatus {
                phase: Some("Pending".into()),
                ..PodStatus::default()
            },
        );
        run.statuses.set(&pod(), &running());
        run.control_plane.set_connected(true);
        run.control_plane
            .wait(|requests| {
                requests
                    .iter()
                    .any(|request| request.body["status"]["phase"] == "Running")
            })
            .await;
        // And once more after every absence, in case the node was judged meanwhile.
        let before = of(&run.control_plane.requests(), "PATCH");
        run.control_plane.set_connected(false);
        tokio::task::yield_now().await;
        run.control_plane.set_connected(true);
        run.control_plane.wait(|requests| of(requests, "PATCH") > before).await;
    }

    #[tokio::test]
    async fn deletion_is_confirmed_after_the_last_status() {
        let run = start();
        run.statuses.set(&pod(), &running());
        run.statuses.confirm(&pod());
        run.control_plane.wait(|requests| of(requests, "DELETE") == 1).await;
        let requests = run.control_plane.requests();
        assert_eq!(requests[0].method, "PATCH");
        assert_eq!(requests[1].body["gracePeriodSeconds"], 0);
        assert_eq!(requests[1].body["preconditions"]["uid"], "u1");
    }

    #[test]
    fn addresses_are_replaced_and_lost_fields_cleared() {
        let status = PodStatus {
            pod_ips: Some(vec![k8s_openapi::api::core::v1::PodIP { ip: "1.2.3.4".into() }]),
            ..running()
        };
        let body = patch(&pod(), &status);
        assert_eq!(
            body["status"]["podIPs"],
            json!([{"$patch": "replace"}, {"ip": "1.2.3.4"}])
        );
        assert!(body["status"]["podIP"].is_null() && body["status"].get("podIP").is_some());
    }
}
