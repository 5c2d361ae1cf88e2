//! The controllers on the real API server, with nodes that only pretend: what is asked for comes about, and stays.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "controllers/cluster.rs"]
mod cluster;
#[path = "controllers/endpoints.rs"]
mod endpoints;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cluster::{Api, Cluster, DEPLOYMENTS, REPLICA_SETS, SILENCE, condition, is_ready, is_terminating, template, text};
use serde_json::{Value, json};

const THREE: [&str; 3] = ["pi-1", "pi-2", "pi-3"];

fn nodes_of(pods: &[Value]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !is_terminating(pod)) {
        *counts.entry(text(&pod["spec"]["nodeName"])).or_default() += 1;
    }
    counts
}

fn names(objects: &[Value]) -> BTreeSet<String> {
    objects
        .iter()
        .map(|object| text(&object["metadata"]["name"]).to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_becomes_pods_spread_over_the_nodes_and_tells_of_it() {
    let cluster = Cluster::start(&THREE).await;
    cluster.deploy("web", 3, json!({})).await;
    let deployment = cluster.rolled_out("web").await;
    let pods = cluster.api.pods().await;
    assert_eq!(nodes_of(&pods).len(), 3, "{pods:#?}");

    assert_eq!(
        deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "1"
    );
    let available = condition(&deployment, "Available").unwrap();
    assert_eq!(
        (&available["status"], &available["reason"]),
        (&json!("True"), &json!("MinimumReplicasAvailable"))
    );
    let progressing = cluster
        .until("progress is complete", async |api| {
            let deployment = api.get(&format!("{DEPLOYMENTS}/web")).await?;
            condition(&deployment, "Progressing")
                .filter(|one| one["reason"] == "NewReplicaSetAvailable")
                .cloned()
        })
        .await;
    let set = cluster.api.list(REPLICA_SETS).await.remove(0);
    let set_name = text(&set["metadata"]["name"]);
    let hash = text(&set["metadata"]["labels"]["pod-template-hash"]);
    assert_eq!(set_name, format!("web-{hash}"));
    assert_eq!(
        progressing["message"],
        format!("ReplicaSet \"{set_name}\" has successfully progressed.")
    );
    assert!(text(&pods[0]["metadata"]["name"]).starts_with(&format!("{set_name}-")));

    cluster
        .until("every event is told", async |api| {
            let deployment = api.events("Deployment", "web").await;
            let sets = api.events("ReplicaSet", set_name).await;
            let pods = api.events("Pod", "web").await;
            let scaled = (
                "ScalingReplicaSet".to_owned(),
                format!("Scaled up replica set {set_name} from 0 to 3"),
            );
            let created = sets.iter().filter(|(reason, _)| reason == "SuccessfulCreate").count();
            let scheduled = pods
                .iter()
                .filter(|(reason, message)| {
                    reason == "Scheduled" && message.starts_with("Successfully assigned default/web-")
                })
                .count();
            (deployment.contains(&scaled) && created == 3 && scheduled == 3).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_goes_up_and_down_and_never_makes_a_pod_too_many() {
    let cluster = Cluster::start(&THREE).await;
    cluster.deploy("web", 1, json!({})).await;
    cluster.rolled_out("web").await;
    let mut seen = names(&cluster.api.pods().await);
    for (replicas, made) in [(60, 60), (2, 60), (7, 65), (0, 65)] {
        cluster
            .api
            .merge(
                &format!("{DEPLOYMENTS}/web/scale"),
                &json!({"spec": {"replicas": replicas}}),
            )
            .await;
        cluster.rolled_out("web").await;
        let counts = cluster
            .until("the pods too many are gone", async |api| {
                let pods = api.pods().await;
                (pods.len() == replicas).then_some(pods)
            })
            .await;
        seen.extend(names(&counts));
        // Every pod ever made was seen: none was made beyond those asked for.
        assert_eq!(seen.len(), made, "at {replicas} replicas");
        let spread = nodes_of(&counts);
        assert!(
            spread.values().max().unwrap_or(&0) - spread.values().min().unwrap_or(&0) <= 1,
            "{spread:?}"
        );
    }
    let created = cluster.api.events("ReplicaSet", "web").await;
    assert_eq!(
        created
            .iter()
            .filter(|(reason, _)| reason == "SuccessfulCreate")
            .count(),
        65
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_update_keeps_enough_pods_available_and_can_be_undone() {
    let cluster = Cluster::start(&THREE).await;
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 1}});
    cluster.deploy("web", 6, json!({"strategy": strategy})).await;
    cluster.rolled_out("web").await;

    let over = Arc::new(AtomicBool::new(false));
    let watching = {
        let (api, over) = (cluster.api.clone(), Arc::clone(&over));
        tokio::spawn(async move {
            let (mut fewest, mut most) = (usize::MAX, 0);
            while !over.load(Ordering::Relaxed) {
                let pods = api.pods().await;
                fewest = fewest.min(pods.iter().filter(|pod| is_ready(pod) && !is_terminating(pod)).count());
                most = most.max(pods.iter().filter(|pod| !is_terminating(pod)).count());
            }
            (fewest, most)
        })
    };
    for image in ["v2", "v1"] {
        cluster
            .api
            .merge(
                &format!("{DEPLOYMENTS}/web"),
                &json!({"spec": {"template": template("web", image)}}),
            )
            .await;
        cluster.rolled_out("web").await;
    }
    over.store(true, Ordering::Relaxed);
    let (fewest, most) = watching.await.unwrap();
    assert!(fewest >= 5 && most <= 8, "fewest {fewest}, most {most}");

    let sets = cluster.api.list(REPLICA_SETS).await;
    assert_eq!(sets.len(), 2);
    let revisions: BTreeMap<String, Value> = sets
        .iter()
        .map(|set| {
            let revision = text(&set["metadata"]["annotations"]["deployment.kubernetes.io/revision"]);
            (revision.to_owned(), set["spec"]["replicas"].clone())
        })
        .collect();
    assert_eq!(
        revisions,
        BTreeMap::from([("2".to_owned(), json!(0)), ("3".to_owned(), json!(6))])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_version_stops_at_its_bounds_and_says_so() {
    let cluster = Cluster::start(&THREE).await;
    cluster
        .deploy("web", 4, json!({"progressDeadlineSeconds": 2, "minReadySeconds": 0}))
        .await;
    cluster.rolled_out("web").await;
    let broken = template("web", "broken");
    cluster
        .api
        .merge(&format!("{DEPLOYMENTS}/web"), &json!({"spec": {"template": broken}}))
        .await;
    // on a busy machine the first version may have exceeded it, too
    let deployment = cluster
        .until("the deadline is exceeded with three of the old pods", async |api| {
            let deployment = api.get(&format!("{DEPLOYMENTS}/web")).await?;
            let reason = condition(&deployment, "Progressing")?["reason"].clone();
            (reason == "ProgressDeadlineExceeded" && deployment["status"]["availableReplicas"] == 3)
                .then_some(deployment)
        })
        .await;
    assert_eq!(condition(&deployment, "Available").unwrap()["status"], "True");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreate_never_runs_two_versions_at_once() {
    let cluster = Cluster::start(&THREE).await;
    cluster.deploy("db", 3, json!({"strategy": {"type": "Recreate"}})).await;
    cluster.rolled_out("db").await;
    cluster
        .api
        .merge(
            &format!("{DEPLOYMENTS}/db"),
            &json!({"spec": {"template": template("db", "v2")}}),
        )
        .await;
    cluster
        .until("the new version is there", async |api| {
            let pods = api.pods().await;
            let images: BTreeSet<&str> = pods
                .iter()
                .map(|pod| text(&pod["spec"]["containers"][0]["image"]))
                .collect();
            assert!(images.len() <= 1, "{images:?}");
            (images.contains("minidc.local/v2") && pods.iter().filter(|pod| is_ready(pod)).count() == 3).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletion_takes_the_dependents_along_first_or_not_at_all() {
    let cluster = Cluster::start(&THREE).await;
    for app in ["background", "foreground", "orphan"] {
        cluster.deploy(app, 2, json!({})).await;
    }
    for app in ["background", "foreground", "orphan"] {
        cluster.rolled_out(app).await;
    }
    let of = |objects: Vec<Value>, app: &str| -> Vec<Value> {
        objects
            .into_iter()
            .filter(|object| object["metadata"]["labels"]["app"] == app)
            .collect()
    };
    let delete = async |app: &str, policy: &str| {
        cluster
            .api
            .delete(&format!("{DEPLOYMENTS}/{app}"), &json!({"propagationPolicy": policy}))
            .await;
    };

    delete("background", "Background").await;
    cluster
        .until("all of it is gone", async |api| {
            let left = of(api.list(REPLICA_SETS).await, "background").len() + of(api.pods().await, "background").len();
            (left == 0).then_some(())
        })
        .await;

    delete("foreground", "Foreground").await;
    cluster
        .until("the deployment goes last", async |api| {
            let pods = of(api.pods().await, "foreground").len();
            let sets = of(api.list(REPLICA_SETS).await, "foreground").len();
            let deployment = api.get(&format!("{DEPLOYMENTS}/foreground")).await;
            if deployment.is_none() {
                assert_eq!((pods, sets), (0, 0));
            }
            deployment.is_none().then_some(())
        })
        .await;

    delete("orphan", "Orphan").await;
    let set = cluster
        .until("the set stands alone", async |api| {
            if api.get(&format!("{DEPLOYMENTS}/orphan")).await.is_some() {
                return None;
            }
            of(api.list(REPLICA_SETS).await, "orphan").pop()
        })
        .await;
    assert!(set["metadata"]["ownerReferences"].is_null());
    // A deployment of the same kind takes it over again, pods and all.
    let before = names(&of(cluster.api.pods().await, "orphan"));
    cluster.deploy("orphan", 2, json!({})).await;
    cluster.rolled_out("orphan").await;
    assert_eq!(names(&of(cluster.api.pods().await, "orphan")), before);
    assert_eq!(of(cluster.api.list(REPLICA_SETS).await, "orphan").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_silent_node_are_replaced_and_it_comes_back_clean() {
    let mut cluster = Cluster::start(&THREE).await;
    cluster.deploy("web", 6, json!({})).await;
    cluster.rolled_out("web").await;
    cluster.unplug("pi-3");
    let node = cluster
        .until("pi-3 is NotReady and tainted", async |api| {
            let node = api.get("/api/v1/nodes/pi-3").await?;
            (node["spec"]["taints"].as_array()?.len() == 2).then_some(node)
        })
        .await;
    let ready = condition(&node, "Ready").unwrap();
    assert_eq!(
        (&ready["status"], &ready["reason"]),
        (&json!("Unknown"), &json!("NodeStatusUnknown"))
    );
    assert_eq!(ready["message"], "Kubelet stopped posting node status.");
    assert!(
        node["spec"]["taints"]
            .as_array()
            .unwrap()
            .iter()
            .all(|taint| taint["key"] == "node.kubernetes.io/unreachable")
    );

    cluster
        .until("its pods are replaced", async |api| {
            let pods = api.pods().await;
            let well = pods.iter().filter(|pod| is_ready(pod) && !is_terminating(pod)).count();
            let lost: Vec<&Value> = pods.iter().filter(|pod| pod["spec"]["nodeName"] == "pi-3").collect();
            // The old ones stay until their node confirms their end, and say that they are not ready.
            (well == 6 && lost.len() == 2 && lost.iter().all(|pod| is_terminating(pod) && !is_ready(pod))).then_some(())
        })
        .await;
    cluster
        .until("every event is told", async |api| {
            let pods = api.events("Pod", "web").await;
            let told = |reason: &str| pods.iter().any(|(known, _)| known == reason);
            let node = (
                "NodeNotReady".to_owned(),
                "Node pi-3 status is now: NodeNotReady".to_owned(),
            );
            let nodes = api.events("Node", "pi-3").await;
            (told("NodeNotReady") && told("TaintManagerEviction") && nodes.contains(&node)).then_some(())
        })
        .await;

    cluster.plug("pi-3").await;
    cluster
        .until("pi-3 is back", async |api| {
            let node = api.get("/api/v1/nodes/pi-3").await?;
            let pods = api.pods().await;
            (is_ready(&node) && node["spec"]["taints"].is_null() && pods.len() == 6).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_evicted_while_no_node_at_all_is_heard() {
    let mut cluster = Cluster::start(&THREE).await;
    cluster.deploy("web", 3, json!({})).await;
    cluster.rolled_out("web").await;
    let before = cluster.api.pods().await;
    for node in THREE {
        cluster.unplug(node);
    }
    cluster
        .until("all are silent, and closed to new pods", async |api| {
            let nodes = api.list("/api/v1/nodes").await;
            let closed = |node: &Value| {
                condition(node, "Ready").unwrap()["status"] == "Unknown" && node["spec"]["taints"].is_array()
            };
            nodes.iter().all(closed).then_some(())
        })
        .await;
    // With one of them back the others are no longer taken for well.
    cluster.plug("pi-1").await;
    cluster
        .until("the pods of the others are replaced", async |api| {
            let pods = api.pods().await;
            let well = pods.iter().filter(|pod| is_ready(pod) && !is_terminating(pod)).count();
            (well == 3 && pods.iter().filter(|pod| is_terminating(pod)).count() == 2).then_some(())
        })
        .await;
    let kept = before.iter().find(|pod| pod["spec"]["nodeName"] == "pi-1").unwrap();
    assert!(names(&cluster.api.pods().await).contains(text(&kept["metadata"]["name"])));
}

/// Waits until a node's lease is older than pi-1's by more than a silence that counts.
async fn silent(cluster: &Cluster, node: &str) {
    let renewed = async |api: &Api, node: &str| -> Option<jiff::Timestamp> {
        let lease = api
            .get(&format!(
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}"
            ))
            .await?;
        text(&lease["spec"]["renewTime"]).parse().ok()
    };
    cluster
        .until(&format!("{node} is behind by more than a silence"), async |api| {
            let behind = renewed(api, "pi-1").await?.duration_since(renewed(api, node).await?);
            (behind.unsigned_abs() > SILENCE + Duration::from_secs(1)).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_does_not_count_while_the_control_plane_itself_is_cut_off() {
    let cluster = Cluster::start(&["pi-1", "pi-2"]).await;
    cluster.cut_off.send_replace(true);
    cluster.unplug("pi-2");
    silent(&cluster, "pi-2").await;
    let node = cluster.api.get("/api/v1/nodes/pi-2").await.unwrap();
    assert!(is_ready(&node) && node["spec"]["taints"].is_null());
    cluster.cut_off.send_replace(false);
    cluster
        .until("pi-2 is silent", async |api| {
            let node = api.get("/api/v1/nodes/pi-2").await?;
            (!is_ready(&node)).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_the_control_plane_nodes_get_time_to_be_heard() {
    let mut cluster = Cluster::start(&THREE).await;
    cluster.deploy("web", 3, json!({})).await;
    cluster.rolled_out("web").await;
    let before = names(&cluster.api.pods().await);
    cluster.unplug("pi-3");
    cluster.restart_controllers().await;
    // Others keep working meanwhile.
    cluster.deploy("other", 2, json!({})).await;
    cluster.rolled_out("other").await;
    silent(&cluster, "pi-3").await;
    let node = cluster.api.get("/api/v1/nodes/pi-3").await.unwrap();
    assert!(is_ready(&node));
    cluster.plug("pi-3").await;
    cluster
        .api
        .merge(&format!("{DEPLOYMENTS}/web/scale"), &json!({"spec": {"replicas": 4}}))
        .await;
    cluster.rolled_out("web").await;
    assert!(names(&cluster.api.pods().await).is_superset(&before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_and_starts_when_there_is_room() {
    let mut cluster = Cluster::start(&["pi-1"]).await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "big"},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": "pi-2"},
            "containers": [{"name": "main", "image": "minidc.local/v1"}],
        },
    });
    cluster.api.create("/api/v1/namespaces/default/pods", &pod).await;
    let message = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    cluster
        .until("the refusal is told", async |api| {
            let pod = api.get("/api/v1/namespaces/default/pods/big").await?;
            let condition = condition(&pod, "PodScheduled")?;
            assert_eq!(
                (&condition["status"], &condition["reason"]),
                (&json!("False"), &json!("Unschedulable"))
            );
            let events = api.events("Pod", "big").await;
            (condition["message"] == message && events.contains(&("FailedScheduling".into(), message.into())))
                .then_some(())
        })
        .await;
    cluster.plug("pi-2").await;
    cluster
        .until("it runs", async |api| {
            let pod = api.get("/api/v1/namespaces/default/pods/big").await?;
            (is_ready(&pod) && pod["spec"]["nodeName"] == "pi-2").then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cordoned_node_gets_no_pods() {
    let cluster = Cluster::start(&["pi-1", "pi-2"]).await;
    cluster
        .api
        .merge("/api/v1/nodes/pi-1", &json!({"spec": {"unschedulable": true}}))
        .await;
    cluster
        .until("it is tainted", async |api| {
            let node = api.get("/api/v1/nodes/pi-1").await?;
            (node["spec"]["taints"][0]["key"] == "node.kubernetes.io/unschedulable").then_some(())
        })
        .await;
    cluster.deploy("web", 4, json!({})).await;
    cluster.rolled_out("web").await;
    assert_eq!(nodes_of(&cluster.api.pods().await), BTreeMap::from([("pi-2", 4)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_has_its_own_pod_range_and_keeps_it() {
    let mut cluster = Cluster::start(&["pi-1", "pi-2", "pi-3", "pi-4", "pi-5"]).await;
    let ranges = async |cluster: &Cluster| -> BTreeMap<String, String> {
        let nodes = cluster.api.list("/api/v1/nodes").await;
        nodes
            .iter()
            .map(|node| {
                assert_eq!(node["spec"]["podCIDRs"], json!([node["spec"]["podCIDR"]]));
                (
                    text(&node["metadata"]["name"]).to_owned(),
                    text(&node["spec"]["podCIDR"]).to_owned(),
                )
            })
            .collect()
    };
    let before = ranges(&cluster).await;
    assert_eq!(before.values().collect::<BTreeSet<_>>().len(), 5, "{before:?}");
    cluster.unplug("pi-2");
    cluster.api.delete("/api/v1/nodes/pi-2", &Value::Null).await;
    cluster.plug("pi-6").await;
    cluster.plug("pi-2").await;
    cluster
        .until("both have a range", async |api| {
            let nodes = api.list("/api/v1/nodes").await;
            (nodes.len() == 6 && nodes.iter().all(|node| node["spec"]["podCIDR"].is_string())).then_some(())
        })
        .await;
    let after = ranges(&cluster).await;
    assert_eq!(after.values().collect::<BTreeSet<_>>().len(), 6, "{after:?}");
    assert_eq!(after["pi-2"], before["pi-2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_removed_node_go_and_finished_ones_are_thinned_out() {
    let cluster = Cluster::start(&["pi-1", "pi-2"]).await;
    cluster.deploy("web", 4, json!({})).await;
    cluster.rolled_out("web").await;
    cluster.unplug("pi-2");
    cluster.api.delete("/api/v1/nodes/pi-2", &Value::Null).await;
    cluster
        .until("all of them are on pi-1", async |api| {
            let pods = api.pods().await;
            (nodes_of(&pods) == BTreeMap::from([("pi-1", 4)]) && pods.len() == 4 && pods.iter().all(is_ready))
                .then_some(())
        })
        .await;

    for index in 0..6 {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("job-{index}")},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "minidc.local/once"}]},
        });
        cluster.api.create("/api/v1/namespaces/default/pods", &pod).await;
    }
    cluster
        .until("three finished pods are left", async |api| {
            let pods = api.pods().await;
            let jobs: Vec<&Value> = pods
                .iter()
                .filter(|pod| text(&pod["metadata"]["name"]).starts_with("job-"))
                .collect();
            (jobs.len() == 3 && jobs.iter().all(|job| job["status"]["phase"] == "Succeeded")).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_namespace_is_emptied_and_goes() {
    let cluster = Cluster::start(&["pi-1"]).await;
    let api = &cluster.api;
    api.create(
        "/api/v1/namespaces",
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
    )
    .await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", "v1")},
    });
    api.create("/apis/apps/v1/namespaces/shop/deployments", &deployment)
        .await;
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}});
    api.create("/api/v1/namespaces/shop/configmaps", &config).await;
    cluster
        .until("its pods run", async |api| {
            let pods = api.list("/api/v1/namespaces/shop/pods").await;
            (pods.len() == 2 && pods.iter().all(is_ready)).then_some(())
        })
        .await;
    api.delete("/api/v1/namespaces/shop", &Value::Null).await;
    cluster
        .until("it is gone", async |api| {
            api.get("/api/v1/namespaces/shop").await.is_none().then_some(())
        })
        .await;
    for path in [
        "apis/apps/v1/namespaces/shop/replicasets",
        "api/v1/namespaces/shop/pods",
        "api/v1/namespaces/shop/configmaps",
    ] {
        assert!(cluster.api.list(&format!("/{path}")).await.is_empty(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_set_adopts_what_matches_and_releases_what_does_not() {
    let cluster = Cluster::start(&["pi-1"]).await;
    let mut orphan = template("web", "v1");
    orphan["metadata"]["name"] = "stray".into();
    cluster.api.create("/api/v1/namespaces/default/pods", &orphan).await;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", "v1")},
    });
    cluster.api.create(REPLICA_SETS, &set).await;
    cluster
        .until("two pods, one of them the stray", async |api| {
            let set = api.get(&format!("{REPLICA_SETS}/web")).await?;
            let stray = api.get("/api/v1/namespaces/default/pods/stray").await?;
            (set["status"]["availableReplicas"] == 2 && stray["metadata"]["ownerReferences"][0]["name"] == "web")
                .then_some(())
        })
        .await;
    assert_eq!(cluster.api.pods().await.len(), 2);
    cluster
        .api
        .merge(
            "/api/v1/namespaces/default/pods/stray",
            &json!({"metadata": {"labels": {"app": "other"}}}),
        )
        .await;
    cluster
        .until("it is released and replaced", async |api| {
            let pods = api.pods().await;
            let stray = pods.iter().find(|pod| pod["metadata"]["name"] == "stray")?;
            (pods.len() == 3 && stray["metadata"]["ownerReferences"].is_null()).then_some(())
        })
        .await;
}
