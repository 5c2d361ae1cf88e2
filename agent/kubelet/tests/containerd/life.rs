//! The life of pods: start, crash, restart, adoption, power cuts, deletion.

use serde_json::{Value, json};

use crate::cluster::{Cluster, LIMIT, condition};
use crate::node::inside;
use crate::{SERVE, script, with_shell};

fn container(pod: &Value, index: usize) -> &Value {
    &pod["status"]["containerStatuses"][index]
}

/// Directories that pods leave: their own, their logs, their control groups.
fn leftovers(node: &crate::node::Node) -> Vec<String> {
    let mut found = Vec::new();
    for place in [
        node.path("agent/pods"),
        node.path("logs"),
        "/sys/fs/cgroup/memory/minidc/besteffort".into(),
        "/sys/fs/cgroup/minidc/besteffort".into(),
    ] {
        let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.file_type().unwrap().is_dir());
        found.extend(directories.map(|entry| entry.path().display().to_string()));
    }
    found
}

#[test]
fn pod_runs_and_goes_without_a_trace() {
    inside("life::pod_runs_and_goes_without_a_trace", |node| async move {
        let cluster = Cluster::new();
        with_shell(&cluster);
        let running = cluster.start(&node);
        cluster.pod("web", json!({"containers": [script("web", SERVE)]}));
        let pod = cluster.running("web").await;
        let status = &pod["status"];
        assert_eq!(status["phase"], "Running");
        assert!(status["podIP"].as_str().unwrap().starts_with("100.64.9."), "{status}");
        assert_eq!(status["hostIP"], "10.99.0.1");
        assert_eq!(container(&pod, 0)["restartCount"], 0);
        assert_eq!(container(&pod, 0)["image"], crate::IMAGE);
        assert!(container(&pod, 0)["imageID"].as_str().unwrap().contains("sha256:"));
        for (reason, message) in [
            (
                "Pulled",
                "spec.containers{web} Container image \"minidc.local/shell:1\" already present on machine and can be accessed by the pod",
            ),
            ("Created", "spec.containers{web} Container created"),
            ("Started", "spec.containers{web} Container started"),
        ] {
            cluster.wait_event(reason, message).await;
        }
        let health = running.handle.health();
        health
            .clone()
            .wait_for(|health| health.runtime_ok && health.network_ok && health.pods_running == 1)
            .await
            .unwrap();

        cluster.delete_pod("web", 2);
        cluster.wait_pod("web", Value::is_null).await;
        cluster.wait_event("Killing", "Stopping container web").await;
        assert_eq!(leftovers(&node), Vec::<String>::new());
        running.stop().await;
    });
}

#[test]
fn node_registers_and_reports_itself() {
    inside("life::node_registers_and_reports_itself", |node| async move {
        let cluster = Cluster::new();
        let running = cluster.start(&node);
        let object = cluster
            .wait("/api/v1/nodes/pi-1", |object| condition(object, "Ready") == "True")
            .await;
        assert_eq!(object["metadata"]["labels"]["kubernetes.io/hostname"], "pi-1");
        let status = &object["status"];
        assert_eq!(
            status["addresses"],
            json!([{"type": "InternalIP", "address": "10.99.0.1"}, {"type": "Hostname", "address": "pi-1"}])
        );
        assert!(
            status["nodeInfo"]["containerRuntimeVersion"]
                .as_str()
                .unwrap()
                .starts_with("containerd://")
        );
        assert_eq!(status["capacity"]["pods"], "110");
        // Somebody judges the node while it is away: the node says otherwise when it is back.
        cluster.set_connected(false);
        cluster.set_connected(true);
        cluster
            .wait("/api/v1/nodes/pi-1", |object| condition(object, "Ready") == "True")
            .await;
        running.stop().await;
    });
}

#[test]
fn crashing_container_is_restarted_with_back_off() {
    inside(
        "life::crashing_container_is_restarted_with_back_off",
        |node| async move {
            let cluster = Cluster::new();
            with_shell(&cluster);
            let running = cluster.start(&node);
            let text = "echo last words >/dev/termination-log; exit 3";
            cluster.pod("crash", json!({"containers": [script("c", text)]}));
            let waits = |pod: &Value| container(pod, 0)["state"]["waiting"]["reason"] == "CrashLoopBackOff";
            let pod = cluster.wait_pod("crash", waits).await;
            let status = container(&pod, 0);
            assert_eq!(status["restartCount"], 1);
            assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
            assert_eq!(status["lastState"]["terminated"]["reason"], "Error");
            assert_eq!(status["lastState"]["terminated"]["message"], "last words\n");
            let message = status["state"]["waiting"]["message"].as_str().unwrap();
            assert!(
                message.starts_with("back-off 10s restarting failed container=c pod=crash_default(uid-"),
                "{message}"
            );
            assert_eq!(condition(&pod, "Ready"), "False");
            cluster
                .wait_event(
                    "BackOff",
                    "Back-off restarting failed container c in pod crash_default(uid-",
                )
                .await;
            running
                .handle
                .health()
                .wait_for(|health| health.pods_failing == 1)
                .await
                .unwrap();
            running.stop().await;
        },
    );
}

#[test]
fn init_containers_come_first_and_a_job_like_pod_ends() {
    inside(
        "life::init_containers_come_first_and_a_job_like_pod_ends",
        |node| async move {
            let cluster = Cluster::new();
            with_shell(&cluster);
            let running = cluster.start(&node);
            let mount = json!([{"name": "work", "mountPath": "/work"}]);
            let step = |name: &str, text: &str| {
                let mut container = script(name, text);
                container["volumeMounts"] = mount.clone();
                container
            };
            cluster.pod("job", json!({
            "restartPolicy": "Never", "volumes": [{"name": "work", "emptyDir": {}}],
            "initContainers": [step("one", "echo 1 >/work/n"), step("two", "test $(cat /work/n) = 1 && echo 2 >/work/n")],
            "containers": [step("main", "test $(cat /work/n) = 2")],
        }));
            let pod = cluster
                .wait_pod("job", |pod| pod["status"]["phase"] == "Succeeded")
                .await;
            assert_eq!(condition(&pod, "Initialized"), "True");
            assert_eq!(container(&pod, 0)["state"]["terminated"]["reason"], "Completed");

            cluster.pod("broken", json!({
            "restartPolicy": "Never", "initContainers": [script("one", "exit 1")], "containers": [script("main", "true")],
        }));
            let pod = cluster
                .wait_pod("broken", |pod| pod["status"]["phase"] == "Failed")
                .await;
            assert_eq!(
                pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"],
                1
            );
            assert!(container(&pod, 0)["containerID"].is_null());
            running.stop().await;
        },
    );
}

#[test]
fn restarted_agent_adopts_what_runs() {
    inside("life::restarted_agent_adopts_what_runs", |node| async move {
        let cluster = Cluster::new();
        with_shell(&cluster);
        let running = cluster.start(&node);
        cluster.pod("web", json!({"containers": [script("web", SERVE)]}));
        let before = cluster.running("web").await;
        running.stop().await;
        let running = cluster.start(&node);
        running
            .handle
            .health()
            .wait_for(|health| health.pods_running == 1)
            .await
            .unwrap();
        // Only a kubelet that has looked at the pod knows that it runs; nothing was started for that.
        let after = cluster.get_pod("web");
        assert_eq!(
            container(&before, 0)["containerID"],
            container(&after, 0)["containerID"]
        );
        assert_eq!(container(&after, 0)["restartCount"], 0);
        running.stop().await;
    });
}

#[test]
fn after_a_power_cut_pods_start_again_and_count_on() {
    inside(
        "life::after_a_power_cut_pods_start_again_and_count_on",
        |mut node| async move {
            let cluster = Cluster::new();
            with_shell(&cluster);
            let running = cluster.start(&node);
            let mut web = script("web", SERVE);
            web["env"] = json!([{"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]);
            web["volumeMounts"] = json!([{"name": "s", "mountPath": "/s"}]);
            cluster.secret("s", json!({"k": "eA=="}));
            cluster.pod(
                "web",
                json!({"containers": [web], "volumes": [{"name": "s", "secret": {"secretName": "s"}}]}),
            );
            cluster.pod(
                "once",
                json!({"restartPolicy": "Never", "containers": [script("once", SERVE)]}),
            );
            let before = cluster.running("web").await;
            cluster.running("once").await;
            running.stop().await;
            node.cut_power();
            node.start_containerd();
            let running = cluster.start(&node);
            let restarted = |pod: &Value| container(pod, 0)["restartCount"] == 1 && condition(pod, "Ready") == "True";
            let after = cluster.wait_pod("web", restarted).await;
            assert_ne!(
                container(&before, 0)["containerID"],
                container(&after, 0)["containerID"]
            );
            assert_eq!(
                container(&after, 0)["lastState"]["terminated"]["containerID"],
                container(&before, 0)["containerID"]
            );
            cluster.wait_pod("once", |pod| pod["status"]["phase"] == "Failed").await;
            running.stop().await;
        },
    );
}

#[test]
fn exit_is_noticed_after_containerd_was_restarted() {
    inside(
        "life::exit_is_noticed_after_containerd_was_restarted",
        |mut node| async move {
            let cluster = Cluster::new();
            with_shell(&cluster);
            let running = cluster.start(&node);
            let text = "trap 'exit 0' TERM; while ! [ -e /work/end ]; do sleep 0.1; done; exit 7";
            let mut waits = script("c", text);
            waits["volumeMounts"] = json!([{"name": "work", "mountPath": "/work"}]);
            let work = node.path("work");
            cluster.pod(
                "web",
                json!({"restartPolicy": "Never", "containers": [waits],
            "volumes": [{"name": "work", "hostPath": {"path": work, "type": "DirectoryOrCreate"}}]}),
            );
            let before = cluster.running("web").await;
            node.kill_containerd();
            running
                .handle
                .health()
                .wait_for(|health| !health.runtime_ok)
                .await
                .unwrap();
            node.start_containerd();
            running
                .handle
                .health()
                .wait_for(|health| health.runtime_ok)
                .await
                .unwrap();
            assert_eq!(
                container(&cluster.get_pod("web"), 0)["containerID"],
                container(&before, 0)["containerID"]
            );
            std::fs::write(work.join("end"), "").unwrap();
            let pod = cluster.wait_pod("web", |pod| pod["status"]["phase"] == "Failed").await;
            assert_eq!(container(&pod, 0)["state"]["terminated"]["exitCode"], 7);
            running.stop().await;
        },
    );
}

#[test]
fn absence_is_an_order_only_when_the_picture_is_complete() {
    inside(
        "life::absence_is_an_order_only_when_the_picture_is_complete",
        |node| async move {
            let cluster = Cluster::new();
            with_shell(&cluster);
            let running = cluster.start(&node);
            cluster.pod("web", json!({"containers": [script("web", SERVE)]}));
            cluster.running("web").await;
            running.stop().await;
            cluster.set_synced(false);
            cluster.forget_pod("web");
            cluster.pod("other", json!({"containers": [script("web", SERVE)]}));
            let running = cluster.start(&node);
            cluster.running("other").await;
            let count = || std::fs::read_dir(node.path("agent/pods")).unwrap().count();
            assert_eq!(count(), 2, "the unknown pod is left alone");
            cluster.set_synced(true);
            let gone = async {
                while count() != 1 {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(LIMIT, gone)
                .await
                .expect("the pod that nobody wants is stopped");
            assert_eq!(condition(&cluster.get_pod("other"), "Ready"), "True");
            running.stop().await;
        },
    );
}

#[test]
fn container_that_does_not_end_is_killed_after_its_grace() {
    inside(
        "life::container_that_does_not_end_is_killed_after_its_grace",
        |node| async move {
            let cluster = Cluster::new();
            with_shell(&cluster);
            let running = cluster.start(&node);
            cluster.pod("deaf", json!({"terminationGracePeriodSeconds": 60, "containers": [script("c", "trap '' TERM; while true; do sleep 0.1; done")]}));
            cluster.running("deaf").await;
            cluster.delete_pod("deaf", 60);
            cluster.wait_event("Killing", "Stopping container c").await;
            // Somebody loses patience, long before the sixty seconds are over.
            let started = std::time::Instant::now();
            cluster.delete_pod("deaf", 3);
            cluster.wait_pod("deaf", Value::is_null).await;
            assert!(
                started.elapsed() < std::time::Duration::from_secs(45),
                "{:?}",
                started.elapsed()
            );
            running.stop().await;
        },
    );
}

#[test]
fn memory_limit_ends_what_takes_too_much() {
    inside("life::memory_limit_ends_what_takes_too_much", |node| async move {
        let cluster = Cluster::new();
        with_shell(&cluster);
        let running = cluster.start(&node);
        let mut hog = script("hog", "head -c 200m /dev/zero | tail");
        hog["command"] = json!(["/bin/busybox", "sh", "-c"]);
        hog["resources"] = json!({"limits": {"memory": "24Mi", "cpu": "500m"}});
        cluster.pod("hog", json!({"restartPolicy": "Never", "containers": [hog]}));
        let pod = cluster.wait_pod("hog", |pod| pod["status"]["phase"] == "Failed").await;
        let ended = &container(&pod, 0)["state"]["terminated"];
        assert!(ended["reason"] == "OOMKilled" || ended["exitCode"] == 137, "{ended}");
        assert_eq!(pod["status"]["qosClass"], "Guaranteed");
        running.stop().await;
    });
}

#[test]
fn use_of_each_container_is_measured() {
    inside("life::use_of_each_container_is_measured", |node| async move {
        let cluster = Cluster::new();
        with_shell(&cluster);
        let running = cluster.start(&node);
        let mut busy = script("busy", "while true; do true; done");
        // its part of a machine that does other work too
        busy["resources"] = json!({"requests": {"cpu": "2"}});
        cluster.pod("busy", json!({"containers": [busy, script("idle", SERVE)]}));
        cluster.running("busy").await;
        let mut sample = running.handle.samples();
        let measured = sample.wait_for(|sample| {
            sample.pods.iter().any(|pod| {
                pod.containers.len() == 2
                    && pod.containers[0].cpu_nanocores > 100_000_000
                    && pod.containers[0].memory_bytes > 0
            })
        });
        tokio::time::timeout(LIMIT, measured)
            .await
            .expect("a busy container shows")
            .unwrap();
        running.stop().await;
    });
}

#[test]
fn container_has_the_user_network_and_limits_it_asked_for() {
    inside(
        "life::container_has_the_user_network_and_limits_it_asked_for",
        |node| async move {
            let cluster = Cluster::new();
            with_shell(&cluster);
            let running = cluster.start(&node);
            let mut user = script("user", SERVE);
            user["securityContext"] = json!({"runAsUser": 1234, "runAsGroup": 99, "readOnlyRootFilesystem": true});
            user["volumeMounts"] =
                json!([{"name": "disk", "mountPath": "/disk"}, {"name": "settings", "mountPath": "/settings"}]);
            user["resources"] = json!({"limits": {"memory": "32Mi"}, "requests": {"cpu": "100m"}});
            cluster.config_map("settings", json!({"k": "v"}));
            cluster.pod("user", json!({
            "securityContext": {"fsGroup": 77}, "containers": [user],
            "volumes": [{"name": "disk", "emptyDir": {}}, {"name": "settings", "configMap": {"name": "settings", "defaultMode": 0o400}}]}));
            cluster.pod(
                "host",
                json!({"hostNetwork": true, "hostPID": true, "containers": [script("host", SERVE)]}),
            );
            cluster.running("user").await;
            let host = cluster.running("host").await;
            assert_eq!(host["status"]["podIP"], "10.99.0.1");
            let shell =
                async |pod: &str, text: &str| crate::client::run(&running.handle, pod, pod, &["sh", "-c", text]).await;
            assert_eq!(shell("user", "id -u; id -g; id -G").await, "1234\n99\n99 77\n");
            assert_eq!(
                shell(
                    "user",
                    "echo x >/disk/file && cat /settings/k; echo x 2>/dev/null >/file || echo no"
                )
                .await,
                "vno\n"
            );
            let limit = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
            let limit = shell(
                "user",
                &format!("cat {limit} 2>/dev/null || cat /sys/fs/cgroup/memory.max"),
            )
            .await;
            assert_eq!(limit.trim(), (32 << 20).to_string());
            let shares = "/sys/fs/cgroup/cpu/minidc/burstable/poduid-1/cpu.shares";
            if let Ok(shares) = std::fs::read_to_string(shares) {
                assert_eq!(shares.trim(), "102");
            }
            assert_eq!(shell("host", "hostname").await, "test-node\n");
            running.stop().await;
        },
    );
}
