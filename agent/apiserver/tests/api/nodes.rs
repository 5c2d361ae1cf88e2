//! What nodes and other users may do, and what is measured of nodes.

use minidc_api::metrics::{ContainerSample, NodeSample, PodSample};
use minidc_apiserver::Live;
use serde_json::json;

use crate::support::{Cluster, config_map, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn node(name: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})
}

#[tokio::test]
async fn node_reads_only_what_its_pods_use() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(MAPS, &config_map("used")).await.expect(201);
    admin.post(MAPS, &config_map("other")).await.expect(201);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}});
    admin.post(SECRETS, &secret).await.expect(201);
    let mut object = pod("a");
    object["spec"]["nodeName"] = "pi-1".into();
    object["spec"]["volumes"] = json!([{"name": "v", "configMap": {"name": "used"}}]);
    object["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "s"}}]);
    admin.post(PODS, &object).await.expect(201);
    let (first, second) = (cluster.node("pi-1"), cluster.node("pi-2"));
    first.get(&format!("{MAPS}/used")).await.expect(200);
    first.get(&format!("{SECRETS}/s")).await.expect(200);
    first
        .get(&format!("{SECRETS}?fieldSelector=metadata.name%3Ds"))
        .await
        .expect(200);
    for path in [format!("{MAPS}/other"), format!("{SECRETS}/none")] {
        let refused = first.get(&path).await;
        assert!(
            refused
                .message()
                .ends_with("no relationship found between node 'pi-1' and this object"),
            "{}",
            refused.message()
        );
        refused.expect(403);
    }
    second.get(&format!("{SECRETS}/s")).await.expect(403);
    first.get(SECRETS).await.expect(403);
    first.get("/api/v1/secrets").await.expect(403);
    first
        .put(&format!("{MAPS}/used"), &config_map("used"))
        .await
        .expect(403);
    admin
        .delete(&format!("{PODS}/a?gracePeriodSeconds=0"))
        .await
        .expect(200);
    first.get(&format!("{SECRETS}/s")).await.expect(403);
}

#[tokio::test]
async fn node_writes_only_its_own_pods() {
    let cluster = Cluster::start().await;
    cluster.running_pod("a", "pi-1").await;
    cluster.running_pod("b", "pi-2").await;
    let first = cluster.node("pi-1");
    let running = json!({"status": {"phase": "Running"}});
    first.get(&format!("{PODS}/a")).await.expect(200);
    first.merge(&format!("{PODS}/a/status"), &running).await.expect(200);
    first.get(&format!("{PODS}/b")).await.expect(403);
    first.merge(&format!("{PODS}/b/status"), &running).await.expect(403);
    first.delete(&format!("{PODS}/b")).await.expect(403);
    first
        .merge(&format!("{PODS}/a"), &json!({"spec": {"containers": []}}))
        .await
        .expect(403);
    let labelled = json!({"metadata": {"labels": {"app": "z"}}});
    let refused = first.merge(&format!("{PODS}/a/status"), &labelled).await;
    assert!(
        refused.message().contains("cannot update labels through pod status"),
        "{}",
        refused.message()
    );
    refused.expect(403);
    first.post(PODS, &pod("mine")).await.expect(403);
    first.get(PODS).await.expect(403);
    first
        .get(&format!("{PODS}?fieldSelector=spec.nodeName%3Dpi-2"))
        .await
        .expect(403);
    let own = first
        .get("/api/v1/pods?fieldSelector=spec.nodeName%3Dpi-1")
        .await
        .expect(200);
    assert_eq!(own["items"].as_array().unwrap().len(), 1);
    first
        .get(&format!("{PODS}/a/exec?command=ls&stdout=true"))
        .await
        .expect(403);
    first
        .delete(&format!("{PODS}/a?gracePeriodSeconds=0"))
        .await
        .expect(200);
}

#[tokio::test]
async fn node_registers_and_reports_itself_only() {
    let cluster = Cluster::start().await;
    let first = cluster.node("pi-1");
    first.post("/api/v1/nodes", &node("pi-1")).await.expect(201);
    first.post("/api/v1/nodes", &node("pi-9")).await.expect(403);
    cluster.admin().post("/api/v1/nodes", &node("pi-2")).await.expect(201);
    first.get("/api/v1/nodes").await.expect(200);
    first.get("/api/v1/nodes/pi-2").await.expect(200);
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    first.merge("/api/v1/nodes/pi-1/status", &ready).await.expect(200);
    first
        .merge(
            "/api/v1/nodes/pi-1",
            &json!({"metadata": {"labels": {"minidc.dev/board": "pi-4"}}}),
        )
        .await
        .expect(200);
    first.merge("/api/v1/nodes/pi-2/status", &ready).await.expect(403);
    first
        .merge(
            "/api/v1/nodes/pi-1",
            &json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}),
        )
        .await
        .expect(403);
    first.delete("/api/v1/nodes/pi-1").await.expect(403);
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "a"}, "reason": "Started", "type": "Normal"
    });
    first
        .post("/api/v1/namespaces/default/events", &event)
        .await
        .expect(201);
    first.get("/api/v1/namespaces/default/events").await.expect(403);
    first.get("/apis/minidc.dev/v1/images").await.expect(200);
    first.get("/apis/minidc.dev/v1/jointokens").await.expect(403);
    // The name alone makes no node.
    cluster
        .user("system:node:pi-1", &[])
        .get("/api/v1/nodes")
        .await
        .expect(403);
}

#[tokio::test]
async fn strangers_are_told_what_they_may_not_do() {
    let cluster = Cluster::start().await;
    let anonymous = cluster.anonymous().get(PODS).await;
    assert_eq!(
        anonymous.message(),
        "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    anonymous.expect(403);
    let token = http::Request::get(PODS)
        .header("authorization", "Bearer x")
        .body(axum::body::Body::empty())
        .unwrap();
    assert_eq!(
        cluster.anonymous().send(token).await.expect(401)["message"],
        "Unauthorized"
    );
    let bob = cluster.user("bob", &[]);
    bob.get("/apis").await.expect(200);
    bob.get("/api/v1/nodes").await.expect(403);
    let named = bob.delete("/apis/apps/v1/namespaces/default/deployments/web").await;
    assert_eq!(
        named.message(),
        "deployments.apps \"web\" is forbidden: User \"bob\" cannot delete resource \"deployments\" in API group \"apps\" in the namespace \"default\""
    );
    let posing = http::Request::get(PODS)
        .header("impersonate-user", "minidc-admin")
        .body(axum::body::Body::empty())
        .unwrap();
    bob.send(posing).await.expect(403);
    let header = http::Request::get(PODS)
        .header("x-remote-user", "minidc-admin")
        .body(axum::body::Body::empty())
        .unwrap();
    cluster.anonymous().send(header).await.expect(403);
}

#[tokio::test]
async fn measurements_of_nodes_and_pods_are_shown_while_fresh() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for name in ["pi-1", "pi-2"] {
        admin.post("/api/v1/nodes", &node(name)).await.expect(201);
    }
    cluster.running_pod("a", "pi-1").await;
    let container = ContainerSample {
        name: "main".to_owned(),
        cpu_nanocores: 1_500_000,
        memory_bytes: 3 << 20,
    };
    let sample = |name: &str| PodSample {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        containers: vec![container.clone()],
    };
    let measured = NodeSample {
        window_ms: 1000,
        cpu_nanocores: 250_000_000,
        memory_bytes: 1 << 30,
        pods: vec![sample("a"), sample("gone")],
        ..NodeSample::default()
    };
    cluster.server.metrics().record("pi-1", measured.clone(), None);
    cluster.server.metrics().record("unknown", measured, None);
    let nodes = admin.get("/apis/metrics.k8s.io/v1beta1/nodes").await.expect(200);
    assert_eq!(nodes["kind"], "NodeMetricsList");
    assert_eq!(nodes["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        nodes["items"][0]["usage"],
        json!({"cpu": "250m", "memory": "1048576Ki"})
    );
    let pods = admin
        .get("/apis/metrics.k8s.io/v1beta1/namespaces/default/pods")
        .await
        .expect(200);
    assert_eq!(pods["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        pods["items"][0]["containers"][0],
        json!({"name": "main", "usage": {"cpu": "1500u", "memory": "3072Ki"}})
    );
    assert_eq!(pods["items"][0]["metadata"]["labels"]["app"], "a");
    let none = admin
        .get("/apis/metrics.k8s.io/v1beta1/pods?labelSelector=app%3Dz")
        .await
        .expect(200);
    assert_eq!(none["items"], json!([]));
    admin.get("/apis/metrics.k8s.io/v1beta1/nodes/pi-1").await.expect(200);
    let silent = admin.get("/apis/metrics.k8s.io/v1beta1/nodes/pi-2").await;
    assert_eq!(silent.message(), "nodes.metrics.k8s.io \"pi-2\" not found");
    cluster.server.metrics().forget("pi-1");
    admin.get("/apis/metrics.k8s.io/v1beta1/nodes/pi-1").await.expect(404);
}

#[tokio::test]
async fn what_a_node_says_of_itself_is_shown_and_not_stored() {
    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    const PATH: &str = "/api/v1/nodes/pi-1";
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let healthy = json!({"type": "BoardHealthy", "status": "True", "reason": "Ready"});
    let mut object = node("pi-1");
    object["metadata"]["annotations"] = json!({"minidc.dev/led": "ready"});
    admin.post("/api/v1/nodes", &object).await.expect(201);
    admin
        .merge(&format!("{PATH}/status"), &json!({"status": {"conditions": [healthy]}}))
        .await
        .expect(200);
    let live = Live {
        annotation: ("minidc.dev/led", "busy (cpu)".to_owned()),
        condition: json!({"type": "BoardHealthy", "status": "True", "reason": "Cpu"}),
    };
    let metrics = cluster.server.metrics();
    metrics.record("pi-1", NodeSample::default(), Some(live));
    for path in ["/api/v1/nodes", PATH] {
        let table = admin.get_as(path, TABLE).await.expect(200);
        let cells = table["rows"][0]["cells"].as_array().unwrap();
        assert_eq!(cells.last().unwrap(), "busy (cpu)", "{path}");
    }
    let shown = admin.get(PATH).await.expect(200);
    assert_eq!(shown["status"]["conditions"][0]["reason"], "Cpu");
    assert_eq!(shown["metadata"]["annotations"]["minidc.dev/led"], "ready");
    let list = admin.get("/api/v1/nodes").await.expect(200);
    assert_eq!(list["items"][0]["status"]["conditions"][0]["reason"], "Cpu");
    metrics.forget("pi-1");
    let stored = admin.get(PATH).await.expect(200);
    assert_eq!(stored["status"]["conditions"][0]["reason"], "Ready");
    assert_eq!(
        stored["metadata"]["resourceVersion"], shown["metadata"]["resourceVersion"],
        "nothing was written"
    );
}

#[tokio::test]
async fn node_has_its_own_pods_evicted_and_no_others() {
    let cluster = Cluster::start().await;
    cluster.running_pod("a", "pi-1").await;
    let path = format!("{PODS}/a/eviction");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}});
    cluster.node("pi-2").post(&path, &eviction).await.expect(403);
    cluster.node("pi-1").post(&path, &eviction).await.expect(201);
    let ending = cluster.admin().get(&format!("{PODS}/a")).await.expect(200);
    assert!(ending["metadata"]["deletionTimestamp"].is_string());
}
