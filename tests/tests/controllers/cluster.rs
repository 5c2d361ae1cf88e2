//! The real API server over a store in memory, the real controllers, and nodes that only pretend.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request};
use jiff::Timestamp;
use kube::Client;
use minidc_apiserver::{ApiServer, NoNodes, memory_prefixes};
use minidc_controllers::Options;
use minidc_store::Store;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything; the machine may be busy.
const LIMIT: Duration = Duration::from_secs(120);
/// Silence of a node that counts; longer than a busy machine holds one up.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Period of a pretended kubelet, heartbeat included.
const BEAT: Duration = Duration::from_millis(100);

/// The API as one user.
#[derive(Clone)]
pub(crate) struct Api(Client);

impl Api {
    pub(crate) async fn try_send(
        &self,
        method: Method,
        path: &str,
        media: &str,
        body: &Value,
    ) -> Result<Value, kube::Error> {
        let bytes = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media)
            .body(bytes)
            .unwrap();
        self.0.request(request).await
    }

    async fn send(&self, method: Method, path: &str, media: &str, body: &Value) -> Value {
        self.try_send(method.clone(), path, media, body)
            .await
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        match self.try_send(Method::GET, path, "application/json", &Value::Null).await {
            Ok(object) => Some(object),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => panic!("get {path}: {error}"),
        }
    }

    pub(crate) async fn list(&self, path: &str) -> Vec<Value> {
        let mut list = self.get(path).await.unwrap_or_default();
        match list["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        }
    }

    pub(crate) async fn create(&self, path: &str, body: &Value) -> Value {
        self.send(Method::POST, path, "application/json", body).await
    }

    pub(crate) async fn merge(&self, path: &str, body: &Value) -> Value {
        self.send(Method::PATCH, path, "application/merge-patch+json", body)
            .await
    }

    pub(crate) async fn delete(&self, path: &str, options: &Value) {
        self.send(Method::DELETE, path, "application/json", options).await;
    }

    pub(crate) async fn pods(&self) -> Vec<Value> {
        self.list("/api/v1/namespaces/default/pods").await
    }

    /// Messages of the events about an object, by reason.
    pub(crate) async fn events(&self, kind: &str, name: &str) -> Vec<(String, String)> {
        let about = |event: &Value| {
            event["involvedObject"]["kind"] == kind
                && event["involvedObject"]["name"].as_str().unwrap().starts_with(name)
        };
        let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        let events = self.list("/api/v1/namespaces/default/events").await;
        events
            .iter()
            .filter(|event| about(event))
            .map(|event| (text(event, "reason"), text(event, "message")))
            .collect()
    }
}

/// A cluster without containers.
pub(crate) struct Cluster {
    server: ApiServer,
    pub(crate) api: Api,
    pub(crate) cut_off: watch::Sender<bool>,
    nodes: Arc<Mutex<HashMap<String, CancellationToken>>>,
    controllers: CancellationToken,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    _images: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Cluster {
    pub(crate) async fn start(nodes: &[&str]) -> Self {
        let images = tempfile::tempdir().unwrap();
        let store = Store::in_memory(minidc_store::Options {
            memory_prefixes: memory_prefixes(),
            ..minidc_store::Options::default()
        });
        let options = minidc_apiserver::Options {
            images: images.path().join("images"),
            default_toleration_seconds: 1,
            nodes: Arc::new(NoNodes),
            cluster: "test".into(),
            service_range: "100.65.0.0/16".into(),
        };
        let server = ApiServer::new(store, options);
        server.bootstrap().await.unwrap();
        let api = Api(Client::new(
            server.router_as("minidc-admin", &["system:masters"]),
            "default",
        ));
        let stop = CancellationToken::new();
        let mut cluster = Self {
            server,
            api,
            cut_off: watch::Sender::new(false),
            nodes: Arc::default(),
            controllers: stop.child_token(),
            stop,
            tasks: JoinSet::new(),
            _images: images,
        };
        cluster.start_controllers();
        for node in nodes {
            cluster.plug(node).await;
        }
        for node in nodes {
            cluster
                .until(&format!("{node} is ready to be used"), async |api| {
                    let node = api.get(&format!("/api/v1/nodes/{node}")).await?;
                    (is_ready(&node) && node["spec"]["taints"].is_null() && node["spec"]["podCIDR"].is_string())
                        .then_some(())
                })
                .await;
        }
        cluster
    }

    fn start_controllers(&mut self) {
        let server = self.server.clone();
        let clients =
            move |user: &'static str| Client::new(server.router_as(user, &["system:authenticated"]), "default");
        let options = Options {
            node_silence: SILENCE,
            node_grace: Duration::from_secs(300),
            missing_node_quarantine: Duration::from_millis(500),
            finished_pods: 3,
            evictions_paused: self.cut_off.subscribe(),
            ..Options::new("10.0.0.0/20".parse().unwrap())
        };
        let shutdown = self.controllers.clone();
        self.tasks
            .spawn(async move { minidc_controllers::run(clients, options, shutdown).await.unwrap() });
    }

    /// Ends the controllers and starts them anew, as a restart of the control plane does.
    pub(crate) async fn restart_controllers(&mut self) {
        self.controllers.cancel();
        self.controllers = self.stop.child_token();
        self.start_controllers();
    }

    /// Starts a pretended node, registering it if need be.
    pub(crate) async fn plug(&mut self, name: &str) {
        let api = Api(Client::new(
            self.server.router_as(&format!("system:node:{name}"), &["system:nodes"]),
            "default",
        ));
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {
                "capacity": {"cpu": "4", "memory": "1Gi", "pods": "110"},
                "allocatable": {"cpu": "4", "memory": "1Gi", "pods": "110"},
                "addresses": [{"type": "InternalIP", "address": node_address(name)}],
            },
        });
        if api.get(&format!("/api/v1/nodes/{name}")).await.is_none() {
            api.create("/api/v1/nodes", &node).await;
        }
        let unplugged = self.stop.child_token();
        self.nodes.lock().unwrap().insert(name.to_owned(), unplugged.clone());
        let name = name.to_owned();
        self.tasks.spawn(async move {
            tokio::select! {
                () = unplugged.cancelled() => {}
                () = pretend(&api, &name) => {}
            }
        });
    }

    /// A power cut: the node says nothing any more.
    pub(crate) fn unplug(&self, name: &str) {
        self.nodes.lock().unwrap().remove(name).unwrap().cancel();
    }

    /// Waits until `probe` has an answer.
    pub(crate) async fn until<T>(&self, what: &str, probe: impl AsyncFn(&Api) -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(answer) = probe(&self.api).await {
                    return answer;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(LIMIT, wait).await {
            Ok(answer) => answer,
            Err(_) => panic!("waited in vain: {what}\npods: {:#?}", self.picture().await),
        }
    }

    /// What the pods of `default` are up to.
    async fn picture(&self) -> Vec<String> {
        let line = |pod: &Value| {
            format!(
                "{} on {} {} ready={} deleted={} {}",
                pod["metadata"]["name"],
                pod["spec"]["nodeName"],
                pod["status"]["phase"],
                is_ready(pod),
                pod["metadata"]["deletionTimestamp"],
                pod["status"]["conditions"],
            )
        };
        self.api.pods().await.iter().map(line).collect()
    }

    /// Applies a Deployment of `app`, and waits for nothing.
    pub(crate) async fn deploy(&self, app: &str, replicas: u32, more: Value) -> Value {
        let mut deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": app},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": app}},
                "template": template(app, "v1"),
            },
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            deployment["spec"][field] = value.clone();
        }
        self.api.create(DEPLOYMENTS, &deployment).await
    }

    /// Waits until a Deployment says that all of its replicas are of the present template and available.
    pub(crate) async fn rolled_out(&self, app: &str) -> Value {
        self.until(&format!("{app} is rolled out"), async |api| {
            let deployment = api.get(&format!("{DEPLOYMENTS}/{app}")).await?;
            let wanted = &deployment["spec"]["replicas"];
            let status = &deployment["status"];
            let zero = json!(0);
            let count = |field: &str| status.get(field).unwrap_or(&zero).clone();
            let done = status["observedGeneration"] == deployment["metadata"]["generation"]
                && ["replicas", "updatedReplicas", "availableReplicas"]
                    .iter()
                    .all(|field| count(field) == *wanted);
            done.then_some(deployment)
        })
        .await
    }
}

pub(crate) const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
pub(crate) const REPLICA_SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";

pub(crate) fn template(app: &str, image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": format!("minidc.local/{image}")}],
        },
    })
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True")
}

pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == kind)
}

pub(crate) fn is_terminating(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `pi-7` is 192.0.2.7.
fn node_address(name: &str) -> String {
    format!(
        "192.0.2.{}",
        name.trim_start_matches(|letter: char| !letter.is_ascii_digit())
    )
}

/// An address that no other pod has.
fn pod_address() -> String {
    static GIVEN: AtomicUsize = AtomicUsize::new(0);
    let number = GIVEN.fetch_add(1, Ordering::Relaxed);
    format!("10.1.{}.{}", number / 250, number % 250 + 1)
}

/// What a kubelet does, as far as the API sees it. Images whose name ends in `broken` never become ready, in `once` they end well. A pod
/// with the annotation `test/ready: "false"` is not ready, one with `test/lingers` takes its time to stop.
async fn pretend(api: &Api, name: &str) {
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
    let status = format!("/api/v1/nodes/{name}/status");
    let pods = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{name}");
    let strategic = "application/strategic-merge-patch+json";
    let mut beat = tokio::time::interval(BEAT);
    loop {
        beat.tick().await;
        let body = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {"holderIdentity": name, "renewTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()},
        });
        api.send(Method::PUT, &lease, "application/json", &body).await;

        let node = api.get(&format!("/api/v1/nodes/{name}")).await;
        if node.is_some_and(|node| !is_ready(&node)) {
            let ready = json!({"status": {"conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
            }]}});
            let _ = api.try_send(Method::PATCH, &status, strategic, &ready).await;
        }

        for pod in api.list(&pods).await {
            let path = format!(
                "/api/v1/namespaces/{}/pods/{}",
                text(&pod["metadata"]["namespace"]),
                text(&pod["metadata"]["name"])
            );
            let annotations = &pod["metadata"]["annotations"];
            let ready = annotations["test/ready"] != "false";
            if is_terminating(&pod) && annotations["test/lingers"].is_null() {
                let now = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}});
                let _ = api.try_send(Method::DELETE, &path, "application/json", &now).await;
                continue;
            }
            let image = text(&pod["spec"]["containers"][0]["image"]);
            let phase = text(&pod["status"]["phase"]);
            let body = if image.ends_with("once") {
                if phase == "Succeeded" {
                    continue;
                }
                json!({"status": {"phase": "Succeeded"}})
            } else if image.ends_with("broken") || is_ready(&pod) == ready {
                continue;
            } else {
                let at = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                let address = pod["status"]["podIP"].as_str().map_or_else(pod_address, str::to_owned);
                json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [
                    {"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": at},
                ]}})
            };
            let _ = api
                .try_send(Method::PATCH, &format!("{path}/status"), strategic, &body)
                .await;
        }
    }
}
