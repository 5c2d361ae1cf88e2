//! What nodes are sent.

use std::pin::Pin;

use futures::{Stream, StreamExt};
use minidc_api::feed::{Feed, FeedKind, FeedOp};
use serde_json::{Value, json};

use crate::support::{Cluster, LIMIT, config_map, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Follower(Pin<Box<dyn Stream<Item = Feed> + Send>>);

/// Kind, name, and the object unless it was deleted.
type Seen = (FeedKind, String, Option<Value>);

impl Follower {
    fn of(cluster: &Cluster, node: &str) -> Self {
        Self(Box::pin(cluster.server.feed(node)))
    }

    async fn next(&mut self) -> Option<Seen> {
        let item = tokio::time::timeout(LIMIT, self.0.next())
            .await
            .expect("an item in time")
            .expect("a feed without end");
        let Feed::Item(item) = item else { return None };
        let object = match item.op {
            FeedOp::Put(json) => {
                let object: Value = serde_json::from_slice(&json).unwrap();
                assert_eq!(object["metadata"]["resourceVersion"], item.revision.to_string());
                Some(object)
            }
            FeedOp::Delete => None,
        };
        Some((item.kind, item.name, object))
    }

    /// Kinds and names up to the end mark, without what every cluster has.
    async fn snapshot(&mut self) -> Vec<(FeedKind, String, bool)> {
        let mut seen = Vec::new();
        while let Some((kind, name, object)) = self.next().await {
            let everywhere = kind == FeedKind::Namespace || kind == FeedKind::Service && name == "kubernetes";
            if !everywhere {
                seen.push((kind, name, object.is_some()));
            }
        }
        seen
    }

    async fn change(&mut self) -> (FeedKind, String, bool) {
        let (kind, name, object) = self.next().await.expect("a change, not an end");
        (kind, name, object.is_some())
    }
}

fn using(name: &str, node: &str, map: &str) -> Value {
    let mut object = pod(name);
    object["spec"]["nodeName"] = node.into();
    object["spec"]["volumes"] = json!([{"name": "v", "configMap": {"name": map}}]);
    object
}

fn put(kind: FeedKind, name: &str) -> (FeedKind, String, bool) {
    (kind, name.to_owned(), true)
}

fn gone(kind: FeedKind, name: &str) -> (FeedKind, String, bool) {
    (kind, name.to_owned(), false)
}

#[tokio::test]
async fn node_is_sent_its_pods_and_what_they_use_and_then_changes() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin
        .post(
            "/api/v1/nodes",
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "pi-1"}}),
        )
        .await
        .expect(201);
    for name in ["used", "late", "unused"] {
        admin.post(MAPS, &config_map(name)).await.expect(201);
    }
    admin.post(PODS, &using("a", "pi-1", "used")).await.expect(201);
    admin.post(PODS, &using("b", "pi-2", "unused")).await.expect(201);
    let mut feed = Follower::of(&cluster, "pi-1");
    assert_eq!(
        feed.snapshot().await,
        [
            put(FeedKind::Node, "pi-1"),
            put(FeedKind::ConfigMap, "used"),
            put(FeedKind::Pod, "a")
        ]
    );
    // What a new pod uses comes before it.
    admin.post(PODS, &using("c", "pi-1", "late")).await.expect(201);
    assert_eq!(feed.change().await, put(FeedKind::ConfigMap, "late"));
    assert_eq!(feed.change().await, put(FeedKind::Pod, "c"));
    // Changes of what is used, not of the rest.
    admin
        .merge(&format!("{MAPS}/unused"), &json!({"data": {"x": "y"}}))
        .await
        .expect(200);
    admin
        .merge(&format!("{MAPS}/used"), &json!({"data": {"x": "y"}}))
        .await
        .expect(200);
    let (kind, name, object) = feed.next().await.unwrap();
    assert_eq!(
        (kind, name.as_str(), &object.unwrap()["data"]["x"]),
        (FeedKind::ConfigMap, "used", &json!("y"))
    );
    // A pod that is bound later.
    admin.post(PODS, &pod("d")).await.expect(201);
    let binding = json!({"metadata": {"name": "d"}, "target": {"kind": "Node", "name": "pi-1"}});
    admin.post(&format!("{PODS}/d/binding"), &binding).await.expect(201);
    assert_eq!(feed.change().await, put(FeedKind::Pod, "d"));
    // A pod that goes takes with it what only it used.
    admin
        .delete(&format!("{PODS}/c?gracePeriodSeconds=0"))
        .await
        .expect(200);
    assert_eq!(feed.change().await, gone(FeedKind::Pod, "c"));
    assert_eq!(feed.change().await, gone(FeedKind::ConfigMap, "late"));
    admin.delete(&format!("{MAPS}/used")).await.expect(200);
    assert_eq!(feed.change().await, gone(FeedKind::ConfigMap, "used"));
    admin.post(MAPS, &config_map("used")).await.expect(201);
    assert_eq!(feed.change().await, put(FeedKind::ConfigMap, "used"));
}

#[tokio::test]
async fn image_is_sent_to_every_node() {
    let cluster = Cluster::start().await;
    let mut feed = Follower::of(&cluster, "pi-1");
    assert_eq!(feed.snapshot().await, []);
    let name = format!("sha256-{}", "0".repeat(64));
    let image = json!({"apiVersion": "minidc.dev/v1", "kind": "Image", "metadata": {"name": name}, "spec": {"size": 1, "references": ["demo:1"]}});
    cluster
        .admin()
        .post("/apis/minidc.dev/v1/images", &image)
        .await
        .expect(201);
    assert_eq!(feed.change().await, put(FeedKind::Image, &name));
}

#[tokio::test]
async fn slow_follower_gets_a_new_snapshot_with_what_it_missed() {
    let limits = minidc_store::HistoryLimits {
        entries: 4,
        age: LIMIT * 60,
        bytes: 1 << 20,
    };
    let cluster = Cluster::with(minidc_store::Options {
        history: limits,
        ..minidc_store::Options::default()
    })
    .await;
    let admin = cluster.admin();
    admin.post(MAPS, &config_map("used")).await.expect(201);
    admin.post(PODS, &using("a", "pi-1", "used")).await.expect(201);
    admin.post(PODS, &using("b", "pi-1", "used")).await.expect(201);
    let mut feed = Follower::of(&cluster, "pi-1");
    assert_eq!(feed.snapshot().await.len(), 3);
    admin
        .delete(&format!("{PODS}/a?gracePeriodSeconds=0"))
        .await
        .expect(200);
    for number in 0..10 {
        admin
            .merge(
                &format!("{PODS}/b"),
                &json!({"metadata": {"annotations": {"n": number.to_string()}}}),
            )
            .await
            .expect(200);
    }
    let again = feed.snapshot().await;
    assert_eq!(
        again,
        [
            gone(FeedKind::Pod, "a"),
            put(FeedKind::ConfigMap, "used"),
            put(FeedKind::Pod, "b")
        ]
    );
    admin
        .delete(&format!("{PODS}/b?gracePeriodSeconds=0"))
        .await
        .expect(200);
    assert_eq!(feed.change().await, gone(FeedKind::Pod, "b"));
}

#[tokio::test]
async fn services_slices_namespaces_and_checks_are_sent_to_every_node() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut feed = Follower::of(&cluster, "pi-1");
    assert_eq!(feed.snapshot().await, []);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    admin.post("/api/v1/namespaces", &namespace).await.expect(201);
    assert_eq!(feed.change().await, put(FeedKind::Namespace, "team"));
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    admin
        .post("/api/v1/namespaces/team/services", &service)
        .await
        .expect(201);
    assert_eq!(feed.change().await, put(FeedKind::Service, "web"));
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "web-1"},
        "addressType": "IPv4", "endpoints": [{"addresses": ["100.64.1.2"]}], "ports": [{"port": 8080}]});
    admin
        .post("/apis/discovery.k8s.io/v1/namespaces/team/endpointslices", &slice)
        .await
        .expect(201);
    assert_eq!(feed.change().await, put(FeedKind::EndpointSlice, "web-1"));
    let check = json!({"apiVersion": "minidc.dev/v1", "kind": "NetCheck", "metadata": {"name": "c"}, "spec": {"nodes": ["pi-1"]}});
    admin.post("/apis/minidc.dev/v1/netchecks", &check).await.expect(201);
    assert_eq!(feed.change().await, put(FeedKind::NetCheck, "c"));
    let mut again = Follower::of(&cluster, "pi-2");
    assert_eq!(
        again.snapshot().await,
        [
            put(FeedKind::Service, "web"),
            put(FeedKind::EndpointSlice, "web-1"),
            put(FeedKind::NetCheck, "c")
        ]
    );
    admin
        .delete("/apis/discovery.k8s.io/v1/namespaces/team/endpointslices/web-1")
        .await
        .expect(200);
    assert_eq!(again.change().await, gone(FeedKind::EndpointSlice, "web-1"));
}

#[tokio::test]
async fn zone_files_are_sent_to_every_node_while_they_have_their_label() {
    const SYSTEM: &str = "/api/v1/namespaces/kube-system/configmaps";
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut zone = config_map("zones");
    zone["metadata"]["labels"] = json!({"minidc.dev/dns-zones": ""});
    admin.post(SYSTEM, &zone).await.expect(201);
    // The label means nothing elsewhere.
    admin.post(MAPS, &zone).await.expect(201);
    let mut feed = Follower::of(&cluster, "pi-1");
    assert_eq!(feed.snapshot().await, [put(FeedKind::ConfigMap, "zones")]);
    let unlabelled = json!({"metadata": {"labels": {"minidc.dev/dns-zones": null}}});
    admin.merge(&format!("{SYSTEM}/zones"), &unlabelled).await.expect(200);
    assert_eq!(feed.change().await, gone(FeedKind::ConfigMap, "zones"));
    let labelled = json!({"metadata": {"labels": {"minidc.dev/dns-zones": "true"}}});
    admin.merge(&format!("{SYSTEM}/zones"), &labelled).await.expect(200);
    assert_eq!(feed.change().await, put(FeedKind::ConfigMap, "zones"));
    // A pod that uses it, too, takes nothing away when it goes.
    let mut user = using("a", "pi-1", "zones");
    user["metadata"]["namespace"] = "kube-system".into();
    let pods = "/api/v1/namespaces/kube-system/pods";
    admin.post(pods, &user).await.expect(201);
    assert_eq!(feed.change().await, put(FeedKind::Pod, "a"));
    admin
        .delete(&format!("{pods}/a?gracePeriodSeconds=0"))
        .await
        .expect(200);
    assert_eq!(feed.change().await, gone(FeedKind::Pod, "a"));
    admin.delete(&format!("{SYSTEM}/zones")).await.expect(200);
    assert_eq!(feed.change().await, gone(FeedKind::ConfigMap, "zones"));
}

#[tokio::test]
async fn node_reads_what_it_is_sent_and_reports_its_checks() {
    let cluster = Cluster::start().await;
    let check = json!({"apiVersion": "minidc.dev/v1", "kind": "NetCheck", "metadata": {"name": "c"}, "spec": {"nodes": ["pi-1"]}});
    let checks = "/apis/minidc.dev/v1/netchecks";
    cluster.admin().post(checks, &check).await.expect(201);
    let node = cluster.node("pi-1");
    for path in ["/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices", checks] {
        node.get(path).await.expect(200);
    }
    let found = json!({"status": {"nodes": {"pi-1": {"phase": "Done", "results": [{"to": "pi-2", "check": "mtu", "ok": true}]}}}});
    node.merge(&format!("{checks}/c/status"), &found).await.expect(200);
    let other = json!({"status": {"nodes": {"pi-2": {"phase": "Done"}}}});
    node.merge(&format!("{checks}/c/status"), &other).await.expect(403);
    node.merge(&format!("{checks}/c"), &json!({"spec": {"nodes": []}}))
        .await
        .expect(403);
    node.post(checks, &check).await.expect(403);
}
