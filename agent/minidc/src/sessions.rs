//! The control plane's end of the link: what `minidc_link` asks for, answered by the API server.
//!
//! The only writer of a node's Lease, of its `minidc.dev` annotations, its role label, its conditions `ForeignStore` and
//! `BoardHealthy` and its metrics (from heartbeats), and of `jointokens` and `nodeidentities` (as the link decides).

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use http::{Method, StatusCode};
use jiff::Timestamp;
use minidc_api::feed::Feed;
use minidc_apiserver::{ApiServer, Live};
use minidc_hardware::{Reason, State};
use minidc_link::{
    admission::{NodeRecord, TokenRecord},
    protocol::{ApiRequest, ApiResponse, Heartbeat, Hello, StoreId},
    server::{Archive, ControlPlane, Put, Refusal, RefusedAttempt, Unavailable, Versioned},
};
use serde_json::{Value, json};

use crate::local::{JSON, Local, MERGE_PATCH, STRATEGIC_MERGE_PATCH};

const NODES: &str = "/api/v1/nodes";
const TOKENS: &str = "/apis/minidc.dev/v1/jointokens";
const IDENTITIES: &str = "/apis/minidc.dev/v1/nodeidentities";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// Annotation with the name of the state that a node's LEDs show.
pub(crate) const LED_ANNOTATION: &str = "minidc.dev/led";
/// Seconds that a Lease says it is good for; who judges nodes looks at renewals, not at this.
const LEASE_SECONDS: u32 = 5;
/// Condition of a node that says what its lights say.
const BOARD_HEALTHY: &str = "BoardHealthy";
/// Between two writes of what a node's lights say, after the first: each is a write to the disk.
const LED_SPACING: Duration = Duration::from_secs(10);
/// Condition of a node that waits for `minidc node adopt`.
const FOREIGN_STORE: &str = "ForeignStore";
/// Label that makes `kubectl get nodes` show the role.
const CONTROL_PLANE_ROLE: &str = "node-role.kubernetes.io/control-plane";
/// Annotation with the range that all nodes' pod ranges are cut from; each node reads it from its own object.
pub(crate) const POD_RANGE_ANNOTATION: &str = "minidc.dev/pod-range";
/// Annotation of a node with the range of the cluster IPs of all Services.
pub(crate) const SERVICE_RANGE_ANNOTATION: &str = "minidc.dev/service-range";

/// The ranges that all nodes are told.
pub(crate) struct Ranges {
    /// That all nodes' pod ranges are cut from.
    pub(crate) pods: String,
    /// Of cluster IPs.
    pub(crate) services: String,
}

/// The API server, as the link sees it.
pub(crate) struct Sessions {
    api: ApiServer,
    own: Local,
    images: PathBuf,
    ranges: Ranges,
    /// The node in this process, if there is one: only the control plane itself may give a node its role.
    local_node: Option<String>,
    /// What each node's lights said when it was written last, so that only changes become writes, and when that was.
    leds: Mutex<HashMap<String, (String, Instant)>>,
    /// Whether each node's condition `ForeignStore` is known to be true, so that only changes become writes.
    foreign: Mutex<HashMap<String, bool>>,
}

impl Sessions {
    /// `images` is the directory of the image archives.
    pub(crate) fn new(api: ApiServer, images: PathBuf, ranges: Ranges, local_node: Option<String>) -> Self {
        let own = Local::new(&api, "system:minidc", &["system:masters"]);
        Self {
            api,
            own,
            images,
            ranges,
            local_node,
            leds: Mutex::default(),
            foreign: Mutex::default(),
        }
    }

    async fn read(&self, path: String) -> Result<Option<(Value, String)>, Unavailable> {
        let (status, body) = self.own.call(Method::GET, &path, JSON, Vec::new()).await;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK => {
                let object: Value = serde_json::from_slice(&body).map_err(|error| Unavailable(error.to_string()))?;
                let version = object
                    .pointer("/metadata/resourceVersion")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                Ok(Some((object["spec"].clone(), version.to_owned())))
            }
            _ => Err(unavailable(&path, status, &body)),
        }
    }

    async fn write(
        &self,
        collection: &str,
        kind: &str,
        name: &str,
        spec: Value,
        expected: Option<String>,
    ) -> Result<Put, Unavailable> {
        let mut object = json!({"apiVersion": "minidc.dev/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        let path = format!("{collection}/{name}");
        let (status, body) = match expected {
            Some(version) => {
                object["metadata"]["resourceVersion"] = version.into();
                self.own.call(Method::PUT, &path, JSON, object.to_string().into()).await
            }
            None => {
                self.own
                    .call(Method::POST, collection, JSON, object.to_string().into())
                    .await
            }
        };
        match status {
            StatusCode::OK | StatusCode::CREATED => Ok(Put::Stored),
            StatusCode::CONFLICT => Ok(Put::Conflict),
            _ => Err(unavailable(&path, status, &body)),
        }
    }

    /// Renews the node's Lease, making it if it is not there.
    async fn renew_lease(&self, node: &str) {
        let caller = Local::node(&self.api, node);
        let spec = json!({"holderIdentity": node, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": micro_time(Timestamp::now())});
        let path = format!("{LEASES}/{node}");
        let (status, _) = caller
            .call(
                Method::PATCH,
                &path,
                MERGE_PATCH,
                json!({"spec": spec}).to_string().into(),
            )
            .await;
        if status == StatusCode::NOT_FOUND {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node}, "spec": spec});
            let (status, body) = caller.call(Method::POST, LEASES, JSON, lease.to_string().into()).await;
            if !status.is_success() {
                tracing::warn!(node, %status, body = %String::from_utf8_lossy(&body), "could not make the node's lease");
            }
        }
    }

    /// Writes what the node's lights say, as annotation and as condition, when it is not what was written last. What comes and
    /// goes by itself, such as load, is not written.
    async fn note_led(&self, node: &str, led: String) {
        let Some(reason) = Reason::ALL.into_iter().find(|reason| reason.to_string() == led) else {
            return;
        };
        let written = self
            .leds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(node)
            .cloned();
        let reason = match reason.state() {
            State::Busy => Reason::Ready,
            // whose heartbeat comes here is neither away nor on its way any more
            State::Lost if reason == Reason::Away => return,
            State::Starting | State::Joining => return,
            // what is so meanwhile is told when it is over
            State::Locate if written.is_some() => return,
            State::Locate => Reason::Ready,
            _ => reason,
        };
        let led = reason.to_string();
        if written.is_some_and(|(known, at)| known == led || at.elapsed() < LED_SPACING) {
            return;
        }
        let mut patch = self.what_a_node_is_told(node);
        patch["metadata"]["annotations"][LED_ANNOTATION] = led.clone().into();
        let (status, _) = self
            .own
            .call(
                Method::PATCH,
                &format!("{NODES}/{node}"),
                MERGE_PATCH,
                patch.to_string().into(),
            )
            .await;
        // the node object may not be there yet: its kubelet makes it; the next heartbeat tries again
        if !status.is_success() {
            return;
        }
        let path = format!("/api/v1/nodes/{node}/status");
        let patch = board_condition(reason, Timestamp::now()).to_string();
        let (status, body) = self
            .own
            .call(Method::PATCH, &path, STRATEGIC_MERGE_PATCH, patch.into())
            .await;
        if status.is_success() {
            self.leds
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(node.to_owned(), (led, Instant::now()));
        } else {
            tracing::debug!(node, %status, body = %String::from_utf8_lossy(&body), "write the condition BoardHealthy");
        }
    }
}

impl Sessions {
    /// The part of a node's object that it learns the cluster's ranges from, as a merge patch.
    fn what_a_node_is_told(&self, node: &str) -> Value {
        let ranges = json!({POD_RANGE_ANNOTATION: self.ranges.pods, SERVICE_RANGE_ANNOTATION: self.ranges.services});
        let mut patch = json!({"metadata": {"annotations": ranges}});
        if self.local_node.as_deref() == Some(node) {
            patch["metadata"]["labels"] = json!({CONTROL_PLANE_ROLE: ""});
        }
        patch
    }

    /// Writes the condition `ForeignStore` of a node that met another or older store, and takes it back. The node itself cannot: it asks
    /// nothing of a store that is not its own. A node that never was in this state has no such condition.
    async fn note_store(&self, node: &str, foreign: bool) {
        let known = self
            .foreign
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(node)
            .copied();
        if known == Some(foreign) {
            return;
        }
        let path = format!("{NODES}/{node}");
        let (status, body) = self.own.call(Method::GET, &path, JSON, Vec::new()).await;
        if !status.is_success() {
            // not made yet: the next heartbeat tries again
            return;
        }
        let object: Value = serde_json::from_slice(&body).unwrap_or_default();
        if written_as_foreign(&object) != foreign {
            let patch = foreign_store_condition(foreign, Timestamp::now());
            let (status, body) = self
                .own
                .call(
                    Method::PATCH,
                    &format!("{path}/status"),
                    STRATEGIC_MERGE_PATCH,
                    patch.to_string().into(),
                )
                .await;
            if !status.is_success() {
                tracing::debug!(node, %status, body = %String::from_utf8_lossy(&body), "write the condition ForeignStore");
                return;
            }
        }
        self.foreign
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node.to_owned(), foreign);
    }
}

/// Whether a Node object says that its node met a foreign store.
fn written_as_foreign(node: &Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == FOREIGN_STORE && condition["status"] == "True")
}

/// As reasons of conditions are written: `DiskPressure`.
fn condition_reason(reason: Reason) -> String {
    let words = reason.name().split('-');
    words.map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

/// What the lights of a node say, by its condition; `None` when it never said anything.
pub(crate) fn said(node: &Value) -> Option<String> {
    let conditions = node.pointer("/status/conditions")?.as_array()?;
    let of = |kind: &str| conditions.iter().find(|condition| condition["type"] == kind);
    if of("Ready").is_some_and(|ready| ready["status"] == "Unknown") {
        return Some("Unknown".into());
    }
    let written = &of(BOARD_HEALTHY)?["reason"];
    let reason = Reason::ALL
        .into_iter()
        .find(|reason| *written == condition_reason(*reason))?;
    Some(reason.to_string())
}

/// The condition `BoardHealthy`: True while nothing is wrong, with what the lights say as reason and message.
fn board_condition(reason: Reason, now: Timestamp) -> Value {
    let status = match reason.state() {
        State::Ready | State::Busy => Some("True"),
        // whoever looks for a board does not ask how it is
        State::Locate => None,
        _ => Some("False"),
    };
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({"status": {"conditions": [{
        "type": BOARD_HEALTHY,
        "status": status,
        "reason": condition_reason(reason),
        "message": format!("{}: {}", reason.state(), reason.meaning()),
        "lastTransitionTime": now,
        "lastHeartbeatTime": now,
    }]}})
}

fn foreign_store_condition(foreign: bool, now: Timestamp) -> Value {
    let (status, reason, message) = if foreign {
        (
            "True",
            "NotAdopted",
            "the node knows another or newer store than the control plane has; it keeps what runs and starts nothing new until `minidc node adopt` is run on it",
        )
    } else {
        ("False", "Adopted", "the node follows the control plane's store")
    };
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({"status": {"conditions": [{
        "type": FOREIGN_STORE, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": now, "lastHeartbeatTime": now,
    }]}})
}

impl ControlPlane for Sessions {
    fn token<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Versioned<TokenRecord>>, Unavailable>> {
        Box::pin(async move {
            let Some((spec, version)) = self.read(format!("{TOKENS}/{id}")).await? else {
                return Ok(None);
            };
            let text = |pointer: &str| spec.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            let expires = text("/expires")
                .and_then(|time| time.parse::<Timestamp>().ok())
                .map_or(0, Timestamp::as_second);
            let value = TokenRecord {
                expires: u64::try_from(expires).unwrap_or(0),
                node: text("/usedBy/node").unwrap_or_default(),
                key: text("/usedBy/key").unwrap_or_default(),
                replaces: text("/usedBy/replaces"),
            };
            Ok(Some(Versioned { value, version }))
        })
    }

    fn put_token<'a>(
        &'a self,
        id: &'a str,
        record: TokenRecord,
        expected: Option<String>,
    ) -> BoxFuture<'a, Result<Put, Unavailable>> {
        Box::pin(async move {
            let mut used_by = json!({"node": record.node, "key": record.key});
            if let Some(replaces) = record.replaces {
                used_by["replaces"] = replaces.into();
            }
            // a token without an end is written with the last second that a timestamp can hold
            let expires = i64::try_from(record.expires)
                .ok()
                .and_then(|seconds| Timestamp::from_second(seconds).ok());
            let spec = json!({"usedBy": used_by, "expires": expires.unwrap_or(Timestamp::MAX).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
            self.write(TOKENS, "JoinToken", id, spec, expected).await
        })
    }

    fn node<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Versioned<NodeRecord>>, Unavailable>> {
        Box::pin(async move {
            let Some((spec, version)) = self.read(format!("{IDENTITIES}/{name}")).await? else {
                return Ok(None);
            };
            let text = |key: &str| spec.get(key).and_then(Value::as_str).map(str::to_owned);
            let flag = |key: &str| spec.get(key).and_then(Value::as_bool).unwrap_or(false);
            let value = NodeRecord {
                key: text("key").unwrap_or_default(),
                previous_key: text("previousKey"),
                newest_used: flag("newestUsed"),
                removed: flag("removed").then(|| text("removedReason").unwrap_or_else(|| "no reason given".into())),
            };
            Ok(Some(Versioned { value, version }))
        })
    }

    fn put_node<'a>(
        &'a self,
        name: &'a str,
        record: NodeRecord,
        expected: Option<String>,
    ) -> BoxFuture<'a, Result<Put, Unavailable>> {
        Box::pin(async move {
            let mut spec =
                json!({"key": record.key, "newestUsed": record.newest_used, "removed": record.removed.is_some()});
            if let Some(previous) = record.previous_key {
                spec["previousKey"] = previous.into();
            }
            if let Some(reason) = record.removed {
                spec["removedReason"] = reason.into();
            }
            self.write(IDENTITIES, "NodeIdentity", name, spec, expected).await
        })
    }

    fn store(&self) -> StoreId {
        let store = self.api.store();
        StoreId {
            identity: store.identity(),
            revision: store.revision(),
        }
    }

    fn wall_clock_ms(&self) -> u64 {
        minidc_link::clock::system_milliseconds()
    }

    fn connected<'a>(&'a self, hello: &'a Hello, address: SocketAddr) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            tracing::info!(node = %hello.node, %address, board = %hello.facts.board, version = %hello.facts.agent_version, "node connected");
            // whatever was written before this control plane started may differ from what the node shows now
            self.leds
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&hello.node);
            self.foreign
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&hello.node);
            Ok(())
        })
    }

    fn disconnected<'a>(&'a self, node: &'a str, reason: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            tracing::info!(node, reason, "node disconnected");
            self.api.metrics().forget(node);
        })
    }

    fn feed(&self, node: &str) -> BoxStream<'static, Feed> {
        self.api.feed(node).boxed()
    }

    fn heartbeat<'a>(&'a self, node: &'a str, heartbeat: Heartbeat) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let said = Reason::ALL
                .into_iter()
                .find(|reason| reason.to_string() == heartbeat.led);
            let live = said.map(|reason| Live {
                annotation: (LED_ANNOTATION, heartbeat.led.clone()),
                condition: board_condition(reason, Timestamp::now())["status"]["conditions"][0].take(),
            });
            self.api.metrics().record(node, heartbeat.sample, live);
            self.renew_lease(node).await;
            self.note_led(node, heartbeat.led).await;
            self.note_store(node, heartbeat.foreign_store).await;
        })
    }

    fn request(&self, node: &str, request: ApiRequest) -> BoxFuture<'static, ApiResponse> {
        let method = Method::from_bytes(request.method.as_bytes());
        let caller = Local::node(&self.api, node);
        // a new node needs the ranges before it can run anything: it does not wait for its next heartbeat
        let telling = (request.method == "POST" && request.path == NODES).then(|| {
            let (own, path) = (self.own.clone(), format!("{NODES}/{node}"));
            let patch = self.what_a_node_is_told(node).to_string();
            async move { own.call(Method::PATCH, &path, MERGE_PATCH, patch.into()).await }
        });
        Box::pin(async move {
            let (status, body) = match method {
                Ok(method) => {
                    caller
                        .call(method, &request.path, &request.content_type, request.body)
                        .await
                }
                Err(error) => (StatusCode::BAD_REQUEST, error.to_string().into()),
            };
            if let Some(telling) = telling
                && status.is_success()
            {
                telling.await;
            }
            ApiResponse {
                id: request.id,
                status: status.as_u16(),
                body: body.into(),
            }
        })
    }

    fn image_archive<'a>(&'a self, _node: &'a str, name: &'a str) -> BoxFuture<'a, Result<Archive, (u16, String)>> {
        Box::pin(async move {
            let valid = name
                .strip_prefix("sha256-")
                .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
            if !valid {
                return Err((400, format!("{name:?} is not the name of an image archive")));
            }
            let path = self.images.join(format!("{name}.tar"));
            let open = async {
                let file = tokio::fs::File::open(&path).await?;
                let size = file.metadata().await?.len();
                Ok::<_, std::io::Error>(Archive {
                    size,
                    reader: Box::new(file),
                })
            };
            open.await.map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => (
                    404,
                    format!("the control plane does not hold the archive of image {name}"),
                ),
                _ => (500, format!("read the archive of image {name}: {error}")),
            })
        })
    }

    fn refused(&self, attempt: RefusedAttempt) {
        let RefusedAttempt { address, node, refusal } = attempt;
        let node = node.unwrap_or_else(|| "(unknown)".into());
        tracing::warn!(%address, node, code = %refusal.code, reason = %refusal.reason, "refused a node");
    }
}

/// A time as `metav1.MicroTime` has it.
fn micro_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn unavailable(path: &str, status: StatusCode, body: &[u8]) -> Unavailable {
    Unavailable(format!("{path}: {status}: {}", String::from_utf8_lossy(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn condition_says_what_the_lights_say() {
        let condition = |reason| board_condition(reason, Timestamp::UNIX_EPOCH)["status"]["conditions"][0].clone();
        let bad = condition(Reason::DiskPressure);
        assert_eq!(
            (&bad["status"], &bad["reason"]),
            (&json!("False"), &json!("DiskPressure"))
        );
        assert_eq!(bad["message"], "degraded: the SD card is nearly full");
        assert_eq!(condition(Reason::Ready)["status"], "True");
        assert!(condition(Reason::Locate)["status"].is_null());
        let node = |ready: &str, reason| {
            let ready = json!({"type": "Ready", "status": ready});
            said(&json!({"status": {"conditions": [ready, condition(reason)]}}))
        };
        for reason in Reason::ALL {
            assert_eq!(node("True", reason), Some(reason.to_string()));
        }
        assert_eq!(node("Unknown", Reason::Ready).as_deref(), Some("Unknown"));
        assert_eq!(said(&json!({})), None);
    }
}
