//! Each verb by statement, through the router.

use crate::support::{Cluster, config_map, deployment, pod, version};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

#[tokio::test]
async fn bootstrap_makes_the_namespaces_and_may_be_repeated() {
    let cluster = Cluster::start().await;
    cluster.server.bootstrap().await.unwrap();
    let list = cluster.admin().get("/api/v1/namespaces").await.expect(200);
    let names: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let first = &list["items"][0];
    assert_eq!(first["metadata"]["labels"]["kubernetes.io/metadata.name"], "default");
    assert_eq!(first["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(first["status"]["phase"], "Active");
}

#[tokio::test]
async fn created_object_is_complete_and_can_be_read() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let created = admin.post(MAPS, &config_map("a")).await.expect(201);
    let meta = &created["metadata"];
    assert_eq!(meta["namespace"], "default");
    assert_eq!(meta["uid"].as_str().unwrap().len(), 36);
    assert!(meta["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert!(version(&created) > 0);
    assert_eq!(admin.get(&format!("{MAPS}/a")).await.expect(200), created);
    let again = admin.post(MAPS, &config_map("a")).await;
    assert_eq!(again.message(), "configmaps \"a\" already exists");
    assert_eq!(again.expect(409)["reason"], "AlreadyExists");
    let missing = admin.get(&format!("{MAPS}/b")).await;
    assert_eq!(missing.message(), "configmaps \"b\" not found");
    assert_eq!(
        missing.expect(404)["details"],
        json!({"kind": "configmaps", "name": "b"})
    );
}

#[tokio::test]
async fn create_needs_a_living_namespace() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let nowhere = admin
        .post("/api/v1/namespaces/nowhere/configmaps", &config_map("a"))
        .await;
    assert_eq!(nowhere.message(), "namespaces \"nowhere\" not found");
    nowhere.expect(404);
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "short"}});
    admin.post("/api/v1/namespaces", &space).await.expect(201);
    let terminating = admin.delete("/api/v1/namespaces/short").await.expect(200);
    assert_eq!(terminating["status"]["phase"], "Terminating");
    let refused = admin
        .post("/api/v1/namespaces/short/configmaps", &config_map("a"))
        .await;
    assert_eq!(
        refused.message(),
        "configmaps \"a\" is forbidden: unable to create new content in namespace short because it is being terminated"
    );
    refused.expect(403);
    let mut finalized = admin.get("/api/v1/namespaces/short").await.expect(200);
    finalized["spec"]["finalizers"] = json!([]);
    admin
        .put("/api/v1/namespaces/short/finalize", &finalized)
        .await
        .expect(200);
    admin.get("/api/v1/namespaces/short").await.expect(404);
    admin.delete("/api/v1/namespaces/default").await.expect(403);
}

#[tokio::test]
async fn namespace_of_the_body_must_be_that_of_the_path() {
    let cluster = Cluster::start().await;
    let mut map = config_map("a");
    map["metadata"]["namespace"] = "kube-system".into();
    let refused = cluster.admin().post(MAPS, &map).await;
    assert_eq!(
        refused.message(),
        "the namespace of the provided object does not match the namespace sent on the request"
    );
    refused.expect(400);
}

#[tokio::test]
async fn generated_names_are_unique() {
    let cluster = Cluster::start().await;
    let mut map = config_map("x");
    map["metadata"] = json!({"generateName": "web-"});
    let first = cluster.admin().post(MAPS, &map).await.expect(201);
    let second = cluster.admin().post(MAPS, &map).await.expect(201);
    assert_eq!(first["metadata"]["name"].as_str().unwrap().len(), 9);
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
}

#[tokio::test]
async fn new_pod_gets_status_tolerations_and_generation() {
    let cluster = Cluster::start().await;
    let created = cluster.admin().post(PODS, &pod("a")).await.expect(201);
    assert_eq!(created["status"]["phase"], "Pending");
    assert_eq!(created["status"]["qosClass"], "BestEffort");
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(created["spec"]["restartPolicy"], "Always");
    let tolerations = created["spec"]["tolerations"].as_array().unwrap();
    assert_eq!(tolerations.len(), 2);
    assert!(
        tolerations
            .iter()
            .all(|toleration| toleration["tolerationSeconds"] == 3 && toleration["effect"] == "NoExecute")
    );
}

#[tokio::test]
async fn yaml_is_read_too() {
    let cluster = Cluster::start().await;
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: from-yaml\ndata:\n  a: b\n";
    let created = cluster
        .admin()
        .request("POST", MAPS, "application/yaml", body)
        .await
        .expect(201);
    assert_eq!(created["data"]["a"], "b");
}

#[tokio::test]
async fn unknown_fields_are_refused_warned_of_or_ignored() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut object = deployment("web");
    object["spec"]["foo"] = 1.into();
    let strict = admin
        .post(&format!("{DEPLOYMENTS}?fieldValidation=Strict&dryRun=All"), &object)
        .await;
    assert!(
        strict
            .message()
            .contains("strict decoding error: unknown field \"spec.foo\""),
        "{}",
        strict.message()
    );
    strict.expect(400);
    let warned = admin.post(&format!("{DEPLOYMENTS}?dryRun=All"), &object).await;
    assert!(
        warned.warnings().contains(&"299 - \"unknown field \\\"spec.foo\\\"\""),
        "{:?}",
        warned.warnings()
    );
    warned.expect(201);
    let ignored = admin
        .post(&format!("{DEPLOYMENTS}?fieldValidation=Ignore"), &object)
        .await;
    assert!(!ignored.warnings().iter().any(|warning| warning.contains("foo")));
    assert_eq!(ignored.expect(201)["spec"].get("foo"), None);
}

#[tokio::test]
async fn dry_run_changes_nothing() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let created = admin
        .post(&format!("{MAPS}?dryRun=All"), &config_map("a"))
        .await
        .expect(201);
    assert_eq!(created["metadata"].get("resourceVersion"), None);
    admin.get(&format!("{MAPS}/a")).await.expect(404);
    let stored = admin.post(MAPS, &config_map("a")).await.expect(201);
    let patched = admin
        .merge(&format!("{MAPS}/a?dryRun=All"), &json!({"data": {"key": "other"}}))
        .await
        .expect(200);
    assert_eq!(patched["data"]["key"], "other");
    admin.delete(&format!("{MAPS}/a?dryRun=All")).await.expect(200);
    assert_eq!(admin.get(&format!("{MAPS}/a")).await.expect(200), stored);
    admin
        .post(&format!("{MAPS}?dryRun=Some"), &config_map("b"))
        .await
        .expect(422);
}

#[tokio::test]
async fn update_with_an_old_version_is_a_conflict() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let first = admin.post(MAPS, &config_map("a")).await.expect(201);
    let mut second = first.clone();
    second["data"]["key"] = "second".into();
    let stored = admin.put(&format!("{MAPS}/a"), &second).await.expect(200);
    assert!(version(&stored) > version(&first));
    let late = admin.put(&format!("{MAPS}/a"), &first).await;
    assert_eq!(
        late.message(),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to \
         the latest version and try again"
    );
    assert_eq!(late.expect(409)["reason"], "Conflict");
    let mut unconditional = first.clone();
    unconditional["metadata"]["resourceVersion"] = Value::Null;
    admin.put(&format!("{MAPS}/a"), &unconditional).await.expect(200);
    let mut other = first.clone();
    other["metadata"]["name"] = "b".into();
    admin.put(&format!("{MAPS}/a"), &other).await.expect(400);
    let mut stranger = unconditional.clone();
    stranger["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000".into();
    admin.put(&format!("{MAPS}/a"), &stranger).await.expect(409);
    admin
        .put(&format!("{MAPS}/missing"), &config_map("missing"))
        .await
        .expect(404);
}

#[tokio::test]
async fn update_that_changes_nothing_is_not_written() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let first = admin.post(DEPLOYMENTS, &deployment("web")).await.expect(201);
    let second = admin
        .put(&format!("{DEPLOYMENTS}/web"), &deployment("web"))
        .await
        .expect(200);
    assert_eq!(version(&first), version(&second));
    let patched = admin.merge(&format!("{DEPLOYMENTS}/web"), &json!({})).await.expect(200);
    assert_eq!(version(&first), version(&patched));
}

#[tokio::test]
async fn patches_of_all_three_kinds_apply() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(DEPLOYMENTS, &deployment("web")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/web");
    let merged = admin
        .merge(&path, &json!({"metadata": {"labels": {"tier": "front"}}}))
        .await
        .expect(200);
    assert_eq!(merged["metadata"]["labels"]["tier"], "front");
    assert_eq!(merged["metadata"]["generation"], 1);
    let strategic = json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "demo:2"}]}}}});
    let strategic = admin
        .request(
            "PATCH",
            &path,
            "application/strategic-merge-patch+json",
            strategic.to_string(),
        )
        .await
        .expect(200);
    let containers = strategic["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    assert_eq!(containers[0]["image"], "demo:2");
    assert_eq!(strategic["metadata"]["generation"], 2);
    let operations = json!([
        {"op": "test", "path": "/spec/replicas", "value": 3}, {"op": "replace", "path": "/spec/replicas", "value": 5}
    ]);
    let patched = admin
        .request("PATCH", &path, "application/json-patch+json", operations.to_string())
        .await
        .expect(200);
    assert_eq!(patched["spec"]["replicas"], 5);
    let failed = admin
        .request("PATCH", &path, "application/json-patch+json", operations.to_string())
        .await;
    assert!(
        failed
            .message()
            .starts_with("the server rejected our request due to an error in our request")
    );
    failed.expect(422);
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 1}});
    admin.merge(&path, &stale).await.expect(409);
    let apply = admin
        .request("PATCH", &path, "application/apply-patch+yaml", "{}")
        .await;
    assert!(apply.message().contains("client-side apply"));
    apply.expect(415);
    admin
        .request("PATCH", &path, "application/json", "{}")
        .await
        .expect(415);
    let unknown = admin
        .merge(&format!("{path}?fieldValidation=Strict"), &json!({"spec": {"foo": 1}}))
        .await;
    assert!(
        unknown.message().contains("unknown field \"spec.foo\""),
        "{}",
        unknown.message()
    );
    unknown.expect(422);
}

#[tokio::test]
async fn concurrent_patches_all_land() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(MAPS, &config_map("a")).await.expect(201);
    let patches = (0..5).map(|number| {
        let admin = admin.clone();
        async move {
            let key = format!("k{number}");
            admin
                .merge(&format!("{MAPS}/a"), &json!({"data": {key: "v"}}))
                .await
                .expect(200);
        }
    });
    futures::future::join_all(patches).await;
    let data = admin.get(&format!("{MAPS}/a")).await.expect(200)["data"]
        .as_object()
        .unwrap()
        .len();
    assert_eq!(data, 6);
}

#[tokio::test]
async fn invalid_objects_are_told_field_by_field() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut object = deployment("web");
    object["spec"]["template"]["metadata"]["labels"]["app"] = "other".into();
    let refused = admin.post(DEPLOYMENTS, &object).await;
    assert!(
        refused.message().starts_with("Deployment.apps \"web\" is invalid: "),
        "{}",
        refused.message()
    );
    assert_eq!(refused.expect(422)["reason"], "Invalid");
    admin.post(DEPLOYMENTS, &deployment("web")).await.expect(201);
    let moved = json!({"spec": {"selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}}}}});
    let refused = admin.merge(&format!("{DEPLOYMENTS}/web"), &moved).await;
    assert!(
        refused.message().contains("field is immutable"),
        "{}",
        refused.message()
    );
    refused.expect(422);
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(DEPLOYMENTS, &deployment("web")).await.expect(201);
    let both = json!({"spec": {"replicas": 9}, "status": {"replicas": 2}});
    let status = admin
        .merge(&format!("{DEPLOYMENTS}/web/status"), &both)
        .await
        .expect(200);
    assert_eq!(
        (&status["spec"]["replicas"], &status["status"]["replicas"]),
        (&json!(3), &json!(2))
    );
    assert_eq!(status["metadata"]["generation"], 1);
    let spec = admin
        .merge(
            &format!("{DEPLOYMENTS}/web"),
            &json!({"spec": {"replicas": 9}, "status": {"replicas": 7}}),
        )
        .await
        .expect(200);
    assert_eq!(
        (&spec["spec"]["replicas"], &spec["status"]["replicas"]),
        (&json!(9), &json!(2))
    );
    assert_eq!(spec["metadata"]["generation"], 2);
}

#[tokio::test]
async fn scale_changes_replicas() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(DEPLOYMENTS, &deployment("web")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/web/scale");
    let scale = admin.get(&path).await.expect(200);
    assert_eq!(scale["kind"], "Scale");
    assert_eq!(scale["status"]["selector"], "app=web");
    let patched = admin.merge(&path, &json!({"spec": {"replicas": 5}})).await.expect(200);
    assert_eq!(patched["spec"]["replicas"], 5);
    let stale = admin.put(&path, &scale).await;
    assert!(
        stale.message().contains("the object has been modified"),
        "{}",
        stale.message()
    );
    let mut put = patched.clone();
    put["spec"]["replicas"] = 1.into();
    admin.put(&path, &put).await.expect(200);
    assert_eq!(
        admin.get(&format!("{DEPLOYMENTS}/web")).await.expect(200)["spec"]["replicas"],
        1
    );
    admin.merge(&path, &json!({"spec": {"replicas": -1}})).await.expect(422);
}

#[tokio::test]
async fn pod_is_bound_once_and_its_condition_says_so() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(PODS, &pod("a")).await.expect(201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "pi-1"}});
    assert_eq!(
        admin.post(&format!("{PODS}/a/binding"), &binding).await.expect(201)["status"],
        "Success"
    );
    let bound = admin.get(&format!("{PODS}/a")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "pi-1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let again = admin.post(&format!("{PODS}/a/binding"), &binding).await;
    assert!(
        again.message().contains("pod a is already assigned to node \"pi-1\""),
        "{}",
        again.message()
    );
    again.expect(409);
}

#[tokio::test]
async fn bound_pod_stays_until_its_node_confirms() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let pod = cluster.running_pod("a", "pi-1").await;
    let deleting = admin.delete(&format!("{PODS}/a")).await.expect(200);
    assert_eq!(deleting["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(deleting["metadata"]["deletionTimestamp"].is_string());
    admin.get(&format!("{PODS}/a")).await.expect(200);
    let wrong = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "another"}});
    let node = cluster.node("pi-1");
    let refused = node
        .request("DELETE", &format!("{PODS}/a"), "application/json", wrong.to_string())
        .await;
    assert!(
        refused
            .message()
            .contains("Precondition failed: UID in precondition: another"),
        "{}",
        refused.message()
    );
    refused.expect(409);
    let confirm = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}});
    node.request("DELETE", &format!("{PODS}/a"), "application/json", confirm.to_string())
        .await
        .expect(200);
    admin.get(&format!("{PODS}/a")).await.expect(404);
}

#[tokio::test]
async fn finalizers_hold_a_deleted_object() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut map = config_map("a");
    map["metadata"]["finalizers"] = json!(["example.com/hold"]);
    admin.post(MAPS, &map).await.expect(201);
    let held = admin.delete(&format!("{MAPS}/a")).await.expect(200);
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    let patch = json!([{"op": "remove", "path": "/metadata/finalizers/0"}]);
    admin
        .request(
            "PATCH",
            &format!("{MAPS}/a"),
            "application/json-patch+json",
            patch.to_string(),
        )
        .await
        .expect(200);
    admin.get(&format!("{MAPS}/a")).await.expect(404);
    admin.post(DEPLOYMENTS, &deployment("web")).await.expect(201);
    let foreground = admin
        .delete(&format!("{DEPLOYMENTS}/web?propagationPolicy=Foreground"))
        .await
        .expect(200);
    assert_eq!(foreground["metadata"]["finalizers"], json!(["foregroundDeletion"]));
}

#[tokio::test]
async fn deleted_object_is_named_with_its_uid() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let created = admin.post(MAPS, &config_map("a")).await.expect(201);
    let status = admin.delete(&format!("{MAPS}/a")).await.expect(200);
    assert_eq!(status["status"], "Success");
    assert_eq!(status["details"]["uid"], created["metadata"]["uid"]);
}

#[tokio::test]
async fn bodies_beyond_the_limit_are_refused() {
    let cluster = Cluster::start().await;
    let mut map = config_map("big");
    map["data"]["blob"] = "x".repeat(4 << 20).into();
    let refused = cluster.admin().post(MAPS, &map).await;
    assert_eq!(refused.message(), "Request entity too large: limit is 3145728");
    refused.expect(413);
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist_are_told_apart() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for path in [
        "/api/v1/foos",
        "/api/v1/pods/x",
        "/api/v1/namespaces/default/nodes",
        "/apis/none/v1/things",
        "/nowhere",
    ] {
        let answer = admin.get(path).await;
        assert_eq!(
            answer.message(),
            "the server could not find the requested resource",
            "{path}"
        );
        answer.expect(404);
    }
    admin.post("/api/v1/pods", &pod("a")).await.expect(405);
    admin.delete("/apis/metrics.k8s.io/v1beta1/nodes/x").await.expect(405);
    admin.get(&format!("{PODS}/a/unknown")).await.expect(404);
    let cbor = admin.request("POST", PODS, "application/cbor", "x").await;
    cbor.expect(415);
}

#[tokio::test]
async fn lease_is_created_by_a_put() {
    let cluster = Cluster::start().await;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "pi-1", "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": "pi-1", "leaseDurationSeconds": 40, "renewTime": "2024-05-01T10:00:00.000000Z"}
    });
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/pi-1";
    cluster.node("pi-1").put(path, &lease).await.expect(201);
    cluster.node("pi-1").put(path, &lease).await.expect(200);
    cluster.node("pi-2").put(path, &lease).await.expect(403);
}

#[tokio::test]
async fn discovery_openapi_and_health_answer() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    assert_eq!(admin.get("/api").await.expect(200)["kind"], "APIVersions");
    assert_eq!(admin.get("/apis").await.expect(200)["kind"], "APIGroupList");
    assert_eq!(admin.get("/apis/apps").await.expect(200)["kind"], "APIGroup");
    assert_eq!(admin.get("/api/v1").await.expect(200)["kind"], "APIResourceList");
    assert_eq!(admin.get("/apis/apps/v1").await.expect(200)["groupVersion"], "apps/v1");
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let answer = admin.get_as("/apis", aggregated).await;
    assert!(
        answer.headers["content-type"]
            .to_str()
            .unwrap()
            .contains("as=APIGroupDiscoveryList")
    );
    assert_eq!(answer.expect(200)["kind"], "APIGroupDiscoveryList");
    assert_eq!(admin.get("/openapi/v2").await.expect(200)["swagger"], "2.0");
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let answer = admin.get_as("/openapi/v2", protobuf).await;
    assert_eq!(
        answer.headers["content-type"],
        "application/com.github.proto-openapi.spec.v2.v1+protobuf"
    );
    let index = admin.get("/openapi/v3").await.expect(200);
    let document = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(admin.get(&document).await.expect(200)["paths"].is_object());
    let anonymous = cluster.anonymous();
    assert!(
        anonymous.get("/version").await.expect(200)["gitVersion"]
            .as_str()
            .unwrap()
            .starts_with("v1.36")
    );
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(anonymous.get(path).await.expect(200), "ok");
    }
    anonymous.get("/api").await.expect(403);
}

#[tokio::test]
async fn nonsense_is_refused_and_harms_nothing() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(PODS, &pod("a")).await.expect(201);
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let bodies = [
        "",
        "null",
        "[]",
        "1",
        "\"x\"",
        "{",
        "{}",
        "{\"metadata\": 5}",
        "{\"metadata\": {\"name\": 5}}",
        "{\"metadata\": {\"name\": \"a/b\"}}",
        "{\"metadata\": {\"labels\": [1]}}",
        "{\"spec\": []}",
        "{\"spec\": {\"containers\": {}}}",
        "{\"status\": 7}",
        "{\"kind\": \"Secret\"}",
        "\u{0}",
        &deep,
        "[{\"op\": \"replace\", \"path\": \"\", \"value\": []}]",
        "[{\"op\": \"remove\", \"path\": \"/metadata\"}]",
        "{\"$patch\": \"replace\"}",
        "{\"spec\": {\"$retainKeys\": [\"x\"]}}",
    ];
    let media = [
        "application/json",
        "application/yaml",
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/vnd.kubernetes.protobuf",
        "text/plain",
    ];
    let targets = [
        ("POST", PODS.to_owned()),
        ("PUT", format!("{PODS}/a")),
        ("PATCH", format!("{PODS}/a")),
        ("PATCH", format!("{PODS}/a/status")),
        ("POST", format!("{PODS}/a/binding")),
        ("DELETE", format!("{PODS}/none")),
        (
            "PUT",
            "/apis/coordination.k8s.io/v1/namespaces/default/leases/a%2Fb".to_owned(),
        ),
        (
            "PUT",
            "/apis/apps/v1/namespaces/default/deployments/web/scale".to_owned(),
        ),
        ("PUT", "/api/v1/namespaces/default/finalize".to_owned()),
    ];
    for (method, path) in &targets {
        for content in media {
            for body in bodies {
                let answer = admin.request(method, path, content, body.to_owned()).await;
                let code = answer.code.as_u16();
                assert!(
                    (200..500).contains(&code),
                    "{method} {path} {content} {body:.80}: {code} {}",
                    answer.body
                );
            }
        }
    }
    let after = admin.get(&format!("{PODS}/a")).await.expect(200);
    assert_eq!(
        (&after["metadata"]["name"], &after["spec"]["containers"][0]["name"]),
        (&json!("a"), &json!("main"))
    );
}

#[tokio::test]
async fn evicted_pod_says_so_and_ends() {
    let cluster = Cluster::start().await;
    cluster.running_pod("a", "pi-1").await;
    let admin = cluster.admin();
    let path = "/api/v1/namespaces/default/pods/a";
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}, "deleteOptions": {"gracePeriodSeconds": 7}});
    let wrong = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "b"}});
    admin.post(&format!("{path}/eviction"), &wrong).await.expect(400);
    admin
        .post(&format!("{path}/eviction?dryRun=All"), &eviction)
        .await
        .expect(201);
    assert_eq!(
        admin.get(path).await.expect(200)["metadata"]["deletionTimestamp"],
        Value::Null
    );
    let outdated = json!({"metadata": {"name": "a"}, "deleteOptions": {"preconditions": {"uid": "x"}}});
    admin.post(&format!("{path}/eviction"), &outdated).await.expect(409);
    let answer = admin.post(&format!("{path}/eviction"), &eviction).await.expect(201);
    assert_eq!(answer["status"], "Success");
    let ending = admin.get(path).await.expect(200);
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 7);
    let condition = &ending["status"]["conditions"][0];
    assert_eq!(condition["type"], "DisruptionTarget");
    assert_eq!(condition["reason"], "EvictionByEvictionAPI");
    // A pod that nobody runs goes at once; one that does not exist is not found.
    admin
        .post("/api/v1/namespaces/default/pods", &pod("b"))
        .await
        .expect(201);
    let other = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "b"}});
    let path = "/api/v1/namespaces/default/pods/b/eviction";
    admin.post(path, &other).await.expect(201);
    admin.post(path, &other).await.expect(404);
}
