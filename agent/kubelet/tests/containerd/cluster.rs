//! A control plane in a few lines: keeps pods, nodes, images and events, and tells the kubelet what it wants.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use minidc_api::patch;
use minidc_kubelet::{
    Config, ControlPlane, Desired, Handle, ImageSpec, Kubelet, Offline, ServiceAddress, ServicePort, Surroundings,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::AsyncRead;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// How long a test waits for something to become true.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    archives: BTreeMap<String, Vec<u8>>,
    number: u64,
}

/// The control plane.
#[derive(Clone)]
pub(crate) struct Cluster {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    desired: watch::Sender<Arc<Desired>>,
    connected: watch::Sender<bool>,
}

/// A kubelet that runs.
pub(crate) struct Running {
    pub(crate) handle: Handle,
    stop: CancellationToken,
    task: JoinHandle<Result<(), minidc_kubelet::Error>>,
}

impl Running {
    /// Ends the kubelet as an update of the agent would.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let desired = Desired {
            synced: true,
            ..Desired::default()
        };
        Self {
            state: Arc::default(),
            changed: watch::Sender::new(0),
            desired: watch::Sender::new(Arc::new(desired)),
            connected: watch::Sender::new(true),
        }
    }

    pub(crate) fn config(node: &Node) -> Config {
        let mut config = Config::new("pi-1");
        config.data = node.path("agent");
        config.run = "/run/minidc".into();
        config.containerd = node.socket();
        config.log_dir = node.path("logs");
        config
    }

    pub(crate) fn start(&self, node: &Node) -> Running {
        let kubelet = Kubelet::new(
            Self::config(node),
            Arc::new(self.clone()),
            Arc::new(self.clone()),
            self.desired.subscribe(),
        );
        let stop = CancellationToken::new();
        Running {
            handle: kubelet.handle(),
            task: tokio::spawn(kubelet.run(stop.clone())),
            stop,
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap());
        self.publish();
        result
    }

    /// Tells the kubelet what is stored, keeping unchanged objects the same.
    fn publish(&self) {
        let state = self.state.lock().unwrap();
        self.desired.send_modify(|desired| {
            let mut new = Desired {
                synced: desired.synced,
                images: desired.images.clone(),
                cluster_dns: desired.cluster_dns,
                ..Desired::default()
            };
            for (path, object) in &state.objects {
                let parts: Vec<&str> = path.split('/').collect();
                let [.., namespace, kind, name] = parts[..] else {
                    continue;
                };
                let key = (namespace.to_owned(), name.to_owned());
                match kind {
                    "pods" => drop(new.pods.insert(key.clone(), kept(desired.pods.get(&key), object))),
                    "configmaps" => drop(
                        new.config_maps
                            .insert(key.clone(), kept(desired.config_maps.get(&key), object)),
                    ),
                    "secrets" => drop(new.secrets.insert(key.clone(), kept(desired.secrets.get(&key), object))),
                    _ => {}
                }
            }
            *desired = Arc::new(new);
        });
        drop(state);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Stores a pod of the namespace `default`; the API server's defaults that matter are filled in.
    pub(crate) fn pod(&self, name: &str, mut spec: Value) {
        if spec.get("restartPolicy").is_none() {
            spec["restartPolicy"] = json!("Always");
        }
        if spec.get("terminationGracePeriodSeconds").is_none() {
            spec["terminationGracePeriodSeconds"] = json!(2);
        }
        spec["nodeName"] = json!("pi-1");
        self.change(|state| {
            state.number += 1;
            let uid = format!("uid-{}", state.number);
            let metadata =
                json!({"name": name, "namespace": "default", "uid": uid, "labels": {"app": name}, "generation": 1});
            state.objects.insert(
                pod_path(name),
                json!({"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}),
            );
        });
    }

    /// Changes a stored pod.
    pub(crate) fn edit_pod(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        self.change(|state| edit(state.objects.get_mut(&pod_path(name)).unwrap()));
    }

    /// `kubectl delete pod`.
    pub(crate) fn delete_pod(&self, name: &str, grace: i64) {
        self.edit_pod(name, |pod| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        });
    }

    /// The pod is just not there any more.
    pub(crate) fn forget_pod(&self, name: &str) {
        self.change(|state| state.objects.remove(&pod_path(name)));
    }

    pub(crate) fn config_map(&self, name: &str, data: Value) {
        self.data("configmaps", name, data);
    }

    pub(crate) fn secret(&self, name: &str, data: Value) {
        self.data("secrets", name, data);
    }

    fn data(&self, plural: &str, name: &str, data: Value) {
        let path = format!("/api/v1/namespaces/default/{plural}/{name}");
        let mut object = json!({"metadata": {"name": name}});
        object["data"] = data;
        self.change(|state| state.objects.insert(path, object));
    }

    /// Whether the kubelet may take absence as an order.
    pub(crate) fn set_synced(&self, synced: bool) {
        self.desired.send_modify(|desired| {
            *desired = Arc::new(Desired {
                synced,
                ..desired.as_ref().clone()
            });
        });
    }

    /// The address that cluster names are asked at.
    pub(crate) fn set_dns(&self, address: &str) {
        self.desired.send_modify(|desired| {
            *desired = Arc::new(Desired {
                cluster_dns: address.parse().ok(),
                ..desired.as_ref().clone()
            });
        });
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.send_replace(connected);
    }

    /// Wants an image on every node; the answer is the name of its object.
    pub(crate) fn image(&self, archive: Vec<u8>, references: &[&str]) -> String {
        let digest: String = Sha256::digest(&archive)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let name = format!("sha256-{digest}");
        let references: Vec<String> = references.iter().map(|name| (*name).to_owned()).collect();
        let spec = ImageSpec {
            size: archive.len() as u64,
            references,
        };
        self.change(|state| {
            let object = json!({"metadata": {"name": name, "resourceVersion": "1"}, "spec": {}, "status": {}});
            state
                .objects
                .insert(format!("/apis/minidc.dev/v1/images/{name}"), object);
            state.archives.insert(name.clone(), archive);
        });
        self.desired.send_modify(|desired| {
            let mut new = desired.as_ref().clone();
            new.images.insert(name.clone(), spec);
            *desired = Arc::new(new);
        });
        name
    }

    /// A stored object, or null.
    pub(crate) fn get(&self, path: &str) -> Value {
        self.state
            .lock()
            .unwrap()
            .objects
            .get(path)
            .cloned()
            .unwrap_or_default()
    }

    pub(crate) fn get_pod(&self, name: &str) -> Value {
        self.get(&pod_path(name))
    }

    /// Waits until the object fulfils the condition and answers with it.
    pub(crate) async fn wait(&self, path: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let mut changed = self.changed.subscribe();
        let waited = tokio::time::timeout(LIMIT, async {
            loop {
                changed.mark_unchanged();
                let object = self.get(path);
                if condition(&object) {
                    return object;
                }
                changed.changed().await.unwrap();
            }
        });
        match waited.await {
            Ok(object) => object,
            Err(_) => panic!("{path} is {:#}\nevents: {:#?}", self.get(path), self.events()),
        }
    }

    pub(crate) async fn wait_pod(&self, name: &str, condition: impl Fn(&Value) -> bool) -> Value {
        self.wait(&pod_path(name), condition).await
    }

    /// Waits until all containers are ready.
    pub(crate) async fn running(&self, name: &str) -> Value {
        self.wait_pod(name, |pod| condition(pod, "Ready") == "True").await
    }

    /// Reason and message of all events, with the container's path before the message.
    pub(crate) fn events(&self) -> Vec<(String, String)> {
        let state = self.state.lock().unwrap();
        let events = state
            .objects
            .iter()
            .filter(|(path, _)| path.contains("/events/"))
            .map(|(_, event)| event);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        events
            .map(|event| {
                (
                    text(&event["reason"]),
                    format!(
                        "{} {}",
                        text(&event["involvedObject"]["fieldPath"]),
                        text(&event["message"])
                    ),
                )
            })
            .collect()
    }

    /// Waits for an event with this reason whose message contains `part`.
    pub(crate) async fn wait_event(&self, reason: &str, part: &str) {
        let mut changed = self.changed.subscribe();
        let waited = tokio::time::timeout(LIMIT, async {
            while !self
                .events()
                .iter()
                .any(|(found, message)| found == reason && message.contains(part))
            {
                changed.changed().await.unwrap();
            }
        });
        assert!(
            waited.await.is_ok(),
            "no event {reason} {part} among {:#?}",
            self.events()
        );
    }

    fn answer(&self, method: &str, path: &str, content: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let (code, object) = self.change(|state| {
            let stored = path.strip_suffix("/status").unwrap_or(path);
            match method {
                "GET" => state
                    .objects
                    .get(path)
                    .map_or((404, Value::Null), |object| (200, object.clone())),
                "POST" => {
                    let name = body["metadata"]["name"].as_str().unwrap();
                    state.objects.insert(format!("{path}/{name}"), body.clone());
                    (201, body)
                }
                "DELETE" => {
                    let same = state
                        .objects
                        .get(path)
                        .is_some_and(|pod| pod["metadata"]["uid"] == body["preconditions"]["uid"]);
                    if same {
                        state.objects.remove(path);
                        (200, Value::Null)
                    } else {
                        (404, Value::Null)
                    }
                }
                "PATCH" => {
                    let Some(object) = state.objects.get_mut(stored) else {
                        return (404, Value::Null);
                    };
                    let uid = &body["metadata"]["uid"];
                    if !uid.is_null() && object["metadata"]["uid"] != *uid {
                        return (409, Value::Null);
                    }
                    let kind = if path.contains("/pods/") { "Pod" } else { "Node" };
                    match content {
                        "application/strategic-merge-patch+json" => patch::strategic(kind, object, &body).unwrap(),
                        _ => patch::json_merge(object, &body),
                    }
                    (200, object.clone())
                }
                _ => (405, Value::Null),
            }
        });
        (code, object.to_string().into_bytes())
    }
}

/// The old `Arc` when the object is the same.
fn kept<T: serde::de::DeserializeOwned + PartialEq>(old: Option<&Arc<T>>, object: &Value) -> Arc<T> {
    let new: T = serde_json::from_value(object.clone()).unwrap();
    old.filter(|old| ***old == new)
        .cloned()
        .unwrap_or_else(|| Arc::new(new))
}

fn pod_path(name: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{name}")
}

/// Status of a condition of an object.
pub(crate) fn condition(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found
        .map(|found| found["status"].as_str().unwrap().to_owned())
        .unwrap_or_default()
}

impl ControlPlane for Cluster {
    fn request(
        &self,
        method: &'static str,
        path: String,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> BoxFuture<'static, Result<(u16, Vec<u8>), Offline>> {
        let answer = if *self.connected.borrow() {
            Ok(self.answer(method, &path, content_type, &body))
        } else {
            Err(Offline)
        };
        async move { answer }.boxed()
    }

    fn image_archive(&self, name: String) -> BoxFuture<'static, Result<Box<dyn AsyncRead + Send + Unpin>, Offline>> {
        let archive = self.state.lock().unwrap().archives[&name].clone();
        async move { Ok(Box::new(std::io::Cursor::new(archive)) as Box<dyn AsyncRead + Send + Unpin>) }.boxed()
    }

    fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }
}

/// Only the API itself is a Service.
impl Surroundings for Cluster {
    fn services(&self, namespace: &str) -> Vec<ServiceAddress> {
        let api = ServiceAddress {
            name: "kubernetes".into(),
            address: [100, 65, 0, 1].into(),
            ports: vec![ServicePort {
                name: "https".into(),
                port: 443,
                protocol: "TCP",
            }],
        };
        Vec::from_iter((namespace == "default").then_some(api))
    }

    fn withdrawn(&self, _namespace: &str, _pod: &str) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}
