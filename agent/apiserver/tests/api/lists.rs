//! Lists: selectors, pages, versions, tables.

use serde_json::json;

use crate::support::{Cluster, config_map, pod, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[tokio::test]
async fn lists_are_selected_by_labels_and_fields() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    cluster.running_pod("a", "pi-1").await;
    cluster.running_pod("b", "pi-2").await;
    admin.post(PODS, &pod("c")).await.expect(201);
    for (query, expected) in [
        ("fieldSelector=spec.nodeName%3Dpi-1", vec!["a"]),
        ("fieldSelector=spec.nodeName%3D", vec!["c"]),
        (
            "fieldSelector=metadata.name!%3Da,status.phase%3DPending",
            vec!["b", "c"],
        ),
        ("labelSelector=app+in+(a,c)", vec!["a", "c"]),
        ("labelSelector=!app", vec![]),
        ("labelSelector=app%3Db&fieldSelector=spec.nodeName%3Dpi-1", vec![]),
    ] {
        let list = admin.get(&format!("/api/v1/pods?{query}")).await.expect(200);
        let names: Vec<&str> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, expected, "{query}");
    }
    let unknown = admin.get(&format!("{PODS}?fieldSelector=spec.foo%3Dx")).await;
    assert_eq!(unknown.message(), "field label not supported: spec.foo");
    unknown.expect(400);
    admin.get(&format!("{PODS}?labelSelector=a+in")).await.expect(400);
}

#[tokio::test]
async fn pages_show_one_moment() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for number in 0..5 {
        admin.post(MAPS, &config_map(&format!("m{number}"))).await.expect(201);
    }
    let first = admin.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    admin.delete(&format!("{MAPS}/m3")).await.expect(200);
    admin.post(MAPS, &config_map("m35")).await.expect(201);
    let mut names = Vec::new();
    let mut page = first.clone();
    loop {
        names.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()),
        );
        assert_eq!(
            page["metadata"]["resourceVersion"],
            first["metadata"]["resourceVersion"]
        );
        let Some(next) = page["metadata"]["continue"].as_str() else {
            break;
        };
        page = admin.get(&format!("{MAPS}?limit=2&continue={next}")).await.expect(200);
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4"]);
    admin.get(&format!("{MAPS}?continue=nonsense")).await.expect(400);
}

#[tokio::test]
async fn list_versions_mean_what_they_mean_in_kubernetes() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let now = version(&admin.post(MAPS, &config_map("a")).await.expect(201));
    admin.get(&format!("{MAPS}?resourceVersion=0")).await.expect(200);
    admin
        .get(&format!(
            "{MAPS}?resourceVersion={now}&resourceVersionMatch=NotOlderThan"
        ))
        .await
        .expect(200);
    let future = admin.get(&format!("{MAPS}?resourceVersion={}", now + 1000)).await;
    assert!(
        future.message().contains("Too large resource version"),
        "{}",
        future.message()
    );
    future.expect(504);
    admin.post(MAPS, &config_map("b")).await.expect(201);
    admin
        .get(&format!("{MAPS}?resourceVersion={now}&resourceVersionMatch=Exact"))
        .await
        .expect(410);
    admin
        .get(&format!("{MAPS}?resourceVersionMatch=Exact"))
        .await
        .expect(422);
}

#[tokio::test]
async fn tables_and_bare_metadata_are_given_to_who_asks() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(PODS, &pod("a")).await.expect(201);
    let table = admin.get_as(PODS, TABLE).await.expect(200);
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let whole = admin
        .get_as(&format!("{PODS}?includeObject=Object"), TABLE)
        .await
        .expect(200);
    assert_eq!(whole["rows"][0]["object"]["kind"], "Pod");
    assert_eq!(
        admin.get_as(&format!("{PODS}/a"), TABLE).await.expect(200)["rows"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = admin.get_as(PODS, metadata).await.expect(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["metadata"]["name"], "a");
    assert_eq!(list["items"][0].get("spec"), None);
    admin
        .get_as(PODS, "application/vnd.kubernetes.protobuf")
        .await
        .expect(406);
}

#[tokio::test]
async fn long_lists_arrive_whole() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for number in 0..120 {
        let mut map = config_map(&format!("m{number:03}"));
        map["data"]["blob"] = "x".repeat(2000).into();
        admin.post(MAPS, &map).await.expect(201);
    }
    assert_eq!(
        admin.get(MAPS).await.expect(200)["items"].as_array().unwrap().len(),
        120
    );
    assert_eq!(
        admin.get_as(MAPS, TABLE).await.expect(200)["rows"]
            .as_array()
            .unwrap()
            .len(),
        120
    );
}

#[tokio::test]
async fn collection_is_deleted_by_selector() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for name in ["a", "b", "c"] {
        let mut map = config_map(name);
        map["metadata"]["labels"] = json!({"keep": (name == "c").to_string()});
        admin.post(MAPS, &map).await.expect(201);
    }
    let deleted = admin
        .delete(&format!("{MAPS}?labelSelector=keep%3Dfalse"))
        .await
        .expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = admin.get(MAPS).await.expect(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}
