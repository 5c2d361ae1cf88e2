//! Watches by statement.

use crate::support::{Cluster, config_map, pod};
use serde_json::json;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn watch_shows_what_is_there_and_then_what_happens() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(MAPS, &config_map("a")).await.expect(201);
    let mut events = admin.watch(&format!("{MAPS}?watch=true")).await;
    assert_eq!(events.named().await, event("ADDED", "a"));
    admin.post(MAPS, &config_map("b")).await.expect(201);
    assert_eq!(events.named().await, event("ADDED", "b"));
    admin
        .post("/api/v1/namespaces/kube-public/configmaps", &config_map("elsewhere"))
        .await
        .expect(201);
    let patched = admin
        .merge(&format!("{MAPS}/a"), &json!({"data": {"key": "new"}}))
        .await
        .expect(200);
    let modified = events.next().await.unwrap();
    assert_eq!(modified["type"], "MODIFIED");
    assert_eq!(modified["object"], patched);
    admin.delete(&format!("{MAPS}/a")).await.expect(200);
    let deleted = events.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    let at = |object: &serde_json::Value| {
        object["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert!(
        at(&deleted["object"]) > at(&patched),
        "a delete has a version of its own"
    );
}

#[tokio::test]
async fn watch_from_a_version_misses_nothing_and_repeats_nothing() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(MAPS, &config_map("a")).await.expect(201);
    let list = admin.get(MAPS).await.expect(200);
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    admin.post(MAPS, &config_map("b")).await.expect(201);
    let mut events = admin.watch(&format!("{MAPS}?watch=1&resourceVersion={version}")).await;
    assert_eq!(events.named().await, event("ADDED", "b"));
    admin.post(MAPS, &config_map("c")).await.expect(201);
    assert_eq!(events.named().await, event("ADDED", "c"));
}

#[tokio::test]
async fn object_that_stops_matching_is_deleted_for_the_watcher() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut by_label = admin.watch(&format!("{PODS}?watch=true&labelSelector=app%3Dx")).await;
    let mut by_field = admin
        .watch("/api/v1/pods?watch=true&fieldSelector=status.phase%3DPending")
        .await;
    admin.post(PODS, &pod("a")).await.expect(201);
    assert_eq!(by_field.named().await, event("ADDED", "a"));
    admin
        .merge(&format!("{PODS}/a"), &json!({"metadata": {"labels": {"app": "x"}}}))
        .await
        .expect(200);
    assert_eq!(by_label.named().await, event("ADDED", "a"));
    assert_eq!(by_field.named().await, event("MODIFIED", "a"));
    let changed = admin
        .merge(&format!("{PODS}/a"), &json!({"metadata": {"labels": {"app": "y"}}}))
        .await
        .expect(200);
    let gone = by_label.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(
        gone["object"]["metadata"]["labels"]["app"], "x",
        "shown as it last matched"
    );
    assert_eq!(
        gone["object"]["metadata"]["resourceVersion"],
        changed["metadata"]["resourceVersion"]
    );
    assert_eq!(by_field.named().await, event("MODIFIED", "a"));
    admin
        .merge(&format!("{PODS}/a/status"), &json!({"status": {"phase": "Running"}}))
        .await
        .expect(200);
    assert_eq!(by_field.named().await, event("DELETED", "a"));
}

#[tokio::test]
async fn one_object_can_be_watched() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(MAPS, &config_map("a")).await.expect(201);
    admin.post(MAPS, &config_map("b")).await.expect(201);
    let mut events = admin.watch("/api/v1/watch/namespaces/default/configmaps/b").await;
    assert_eq!(events.named().await, event("ADDED", "b"));
    admin
        .merge(&format!("{MAPS}/a"), &json!({"data": {"x": "y"}}))
        .await
        .expect(200);
    admin
        .merge(&format!("{MAPS}/b"), &json!({"data": {"x": "y"}}))
        .await
        .expect(200);
    assert_eq!(events.named().await, event("MODIFIED", "b"));
}

#[tokio::test]
async fn watch_list_ends_its_snapshot_with_a_marked_bookmark() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(MAPS, &config_map("a")).await.expect(201);
    let query = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut events = admin.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(events.named().await, event("ADDED", "a"));
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(
        bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert!(
        bookmark["object"]["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 0
    );
    admin.post(MAPS, &config_map("b")).await.expect(201);
    assert_eq!(events.named().await, event("ADDED", "b"));
    admin
        .get(&format!("{MAPS}?watch=true&resourceVersionMatch=NotOlderThan"))
        .await
        .expect(422);
    admin
        .get(&format!("{MAPS}?watch=true&sendInitialEvents=true"))
        .await
        .expect(422);
}

#[tokio::test]
async fn watch_ends_with_a_bookmark_that_counts_changes_elsewhere() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let list = admin.get(MAPS).await.expect(200);
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{MAPS}?watch=true&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion={version}");
    let request = http::Request::get(&path).body(axum::body::Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(admin.router.clone(), request).await.unwrap();
    admin
        .post("/api/v1/namespaces/kube-public/configmaps", &config_map("elsewhere"))
        .await
        .expect(201);
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap()
        .to_bytes();
    let bookmarks: Vec<serde_json::Value> = body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(bookmarks.len(), 1);
    assert!(bookmarks.iter().all(|bookmark| bookmark["type"] == "BOOKMARK"));
    let newest = bookmarks[0]["object"]["metadata"]["resourceVersion"].as_str().unwrap();
    assert!(
        newest.parse::<u64>().unwrap() > version.parse::<u64>().unwrap(),
        "changes elsewhere count"
    );
}

#[tokio::test]
async fn watch_ends_after_its_time() {
    let cluster = Cluster::start().await;
    let answer = cluster
        .admin()
        .get(&format!("{MAPS}?watch=true&timeoutSeconds=1"))
        .await;
    assert_eq!(answer.expect(200), "");
}

#[tokio::test]
async fn version_that_is_no_longer_known_expires_inside_the_stream() {
    let limits = minidc_store::HistoryLimits {
        entries: 4,
        age: crate::support::LIMIT * 60,
        bytes: 1 << 20,
    };
    let options = minidc_store::Options {
        history: limits,
        ..minidc_store::Options::default()
    };
    let cluster = Cluster::with(options).await;
    let admin = cluster.admin();
    for number in 0..10 {
        admin.post(MAPS, &config_map(&format!("m{number}"))).await.expect(201);
    }
    let mut events = admin.watch(&format!("{MAPS}?watch=true&resourceVersion=1")).await;
    let error = events.next().await.unwrap();
    assert_eq!(error["type"], "ERROR");
    assert_eq!(
        (&error["object"]["code"], &error["object"]["reason"]),
        (&json!(410), &json!("Expired"))
    );
    assert!(
        error["object"]["message"]
            .as_str()
            .unwrap()
            .starts_with("too old resource version: 1 (")
    );
    assert_eq!(events.next().await, None);
    let mut ahead = admin.watch(&format!("{MAPS}?watch=true&resourceVersion=999999")).await;
    assert_eq!(
        ahead.next().await.unwrap()["object"]["code"],
        410,
        "another store's version makes clients list anew"
    );
}

#[tokio::test]
async fn tables_are_watched_with_their_columns_once() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(PODS, &pod("a")).await.expect(201);
    let mut events = admin.watch_as(&format!("{PODS}?watch=true"), TABLE).await;
    let first = events.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert!(first["object"]["columnDefinitions"].is_array());
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    admin.post(PODS, &pod("b")).await.expect(201);
    let second = events.next().await.unwrap();
    assert!(second["object"]["columnDefinitions"].is_null());
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
}
