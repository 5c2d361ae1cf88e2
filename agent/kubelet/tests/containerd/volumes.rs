//! Volumes and environment, as the container sees them.

use serde_json::json;

use crate::client::run;
use crate::cluster::{Cluster, LIMIT};
use crate::node::inside;
use crate::{SERVE, script, with_shell};

#[test]
fn container_sees_its_volumes_and_their_changes() {
    inside(
        "volumes::container_sees_its_volumes_and_their_changes",
        |node| async move {
            let cluster = Cluster::new();
            with_shell(&cluster);
            cluster.config_map("settings", json!({"colour": "red", "size": "big"}));
            cluster.secret("login", json!({"password": "aHVudGVyMg=="}));
            let running = cluster.start(&node);
            let mut web = script("web", SERVE);
            web["env"] = json!([
            {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
            web["volumeMounts"] = json!([
            {"name": "settings", "mountPath": "/settings"}, {"name": "login", "mountPath": "/login", "readOnly": true},
            {"name": "memory", "mountPath": "/memory"}, {"name": "settings", "mountPath": "/etc/size", "subPath": "size"},
            {"name": "disk", "mountPath": "/part", "subPath": "a/b"}, {"name": "disk", "mountPath": "/disk"},
            {"name": "info", "mountPath": "/info"}]);
            cluster.pod("web", json!({"containers": [web], "volumes": [
            {"name": "settings", "configMap": {"name": "settings"}}, {"name": "login", "secret": {"secretName": "login", "defaultMode": 0o400}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, {"name": "disk", "emptyDir": {}},
            {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}));
            let pod = cluster.running("web").await;
            let handle = &running.handle;
            let shell = async |text: &str| run(handle, "web", "web", &["sh", "-c", text]).await;
            assert_eq!(
                shell("cat /settings/colour; echo; cat /login/password; echo; cat /etc/size").await,
                "red\nhunter2\nbig"
            );
            assert_eq!(shell("echo $COLOUR").await, "red\n");
            assert_eq!(shell("echo $POD").await.trim(), pod["status"]["podIP"]);
            assert_eq!(shell("cat /info/labels").await, "app=\"web\"");
            assert_eq!(shell("echo x >/part/file; cat /disk/a/b/file").await, "x\n");
            let mounts = shell("grep -E ' /(login|memory) ' /proc/mounts").await;
            assert_eq!(
                mounts
                    .lines()
                    .filter(|line| line.starts_with("tmpfs") || line.contains(" tmpfs "))
                    .count(),
                2,
                "{mounts}"
            );
            assert!(mounts.contains("size=1024k"), "{mounts}");
            assert!(
                shell("cat /etc/hosts")
                    .await
                    .contains(&format!("{}\tweb", pod["status"]["podIP"].as_str().unwrap()))
            );

            cluster.config_map("settings", json!({"colour": "blue", "size": "big"}));
            let changed = async { while shell("cat /settings/colour").await != "blue" {} };
            tokio::time::timeout(LIMIT, changed).await.expect("the change shows");

            cluster.delete_pod("web", 2);
            cluster.wait_pod("web", serde_json::Value::is_null).await;
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!mounts.contains("agent/pods"), "nothing stays mounted:\n{mounts}");
            running.stop().await;
        },
    );
}

#[test]
fn pod_waits_for_what_it_refers_to() {
    inside("volumes::pod_waits_for_what_it_refers_to", |node| async move {
        let cluster = Cluster::new();
        with_shell(&cluster);
        let running = cluster.start(&node);
        let mut env = script("env", SERVE);
        env["env"] = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "k"}}}]);
        cluster.pod("env", json!({"containers": [env]}));
        let mut mounted = script("mounted", SERVE);
        mounted["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        cluster.pod(
            "mounted",
            json!({"containers": [mounted], "volumes": [{"name": "v", "configMap": {"name": "late"}}]}),
        );
        let pod = cluster
            .wait_pod("env", |pod| {
                pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
            })
            .await;
        assert_eq!(
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"],
            "configmap \"late\" not found"
        );
        cluster
            .wait_event("Failed", "Error: configmap \"late\" not found")
            .await;
        cluster
            .wait_event(
                "FailedMount",
                "MountVolume.SetUp failed for volume \"v\" : configmap \"late\" not found",
            )
            .await;
        cluster.config_map("late", json!({"k": "v"}));
        cluster.running("env").await;
        cluster.running("mounted").await;
        running.stop().await;
    });
}
