//! Probes and hooks in real containers.

use serde_json::{Value, json};

use crate::client::{log_query, logs, run};
use crate::cluster::{Cluster, condition};
use crate::node::inside;
use crate::{SERVE, script, with_shell};

fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

/// Serves what is below `/www` on port 8080, which is called `web`.
fn server() -> Value {
    let mut web = script(
        "web",
        &format!("mkdir /www; echo fine >/www/live; httpd -p 8080 -h /www; {SERVE}"),
    );
    web["ports"] = json!([{"name": "web", "containerPort": 8080}]);
    web
}

fn often(mut probe: Value) -> Value {
    probe["periodSeconds"] = json!(1);
    probe["timeoutSeconds"] = json!(5);
    probe
}

#[test]
fn http_probes_decide_over_readiness_and_restart() {
    inside(
        "probes::http_probes_decide_over_readiness_and_restart",
        |node| async move {
            let cluster = Cluster::new();
            with_shell(&cluster);
            let running = cluster.start(&node);
            let mut web = server();
            web["startupProbe"] = often(json!({"tcpSocket": {"port": "web"}, "failureThreshold": 100}));
            web["readinessProbe"] = often(json!({"httpGet": {"path": "/ready", "port": "web"}}));
            web["livenessProbe"] =
                often(json!({"httpGet": {"path": "/live", "port": 8080}, "terminationGracePeriodSeconds": 1}));
            cluster.pod("web", json!({"containers": [web]}));
            let message = "spec.containers{web} Readiness probe failed: HTTP probe failed with statuscode: 404";
            cluster.wait_event("Unhealthy", message).await;
            let pod = cluster.wait_pod("web", |pod| pod["status"]["phase"] == "Running").await;
            assert_eq!(condition(&pod, "Ready"), "False");
            run(&running.handle, "web", "web", &["touch", "/www/ready"]).await;
            cluster.running("web").await;
            run(&running.handle, "web", "web", &["rm", "/www/ready"]).await;
            cluster.wait_pod("web", |pod| condition(pod, "Ready") == "False").await;
            run(&running.handle, "web", "web", &["rm", "/www/live"]).await;
            let message = "spec.containers{web} Container web failed liveness probe, will be restarted";
            cluster.wait_event("Killing", message).await;
            let again = |pod: &Value| container(pod)["restartCount"] == 1 && container(pod)["started"] == true;
            cluster.wait_pod("web", again).await;
            running.stop().await;
        },
    );
}

#[test]
fn commands_probe_and_hooks_run_around_a_container() {
    inside(
        "probes::commands_probe_and_hooks_run_around_a_container",
        |node| async move {
            let cluster = Cluster::new();
            with_shell(&cluster);
            let running = cluster.start(&node);
            let work = node.path("work");
            let mut web = script("web", SERVE);
            let command = |text: &str| json!({"exec": {"command": ["sh", "-c", text]}});
            web["readinessProbe"] = often(command("test -e /work/ready || { echo not yet; exit 1; }"));
            web["lifecycle"] =
                json!({"postStart": command("echo hello >/work/hello"), "preStop": command("echo bye >/work/bye")});
            web["volumeMounts"] = json!([{"name": "work", "mountPath": "/work"}]);
            cluster.pod(
                "web",
                json!({"containers": [web],
            "volumes": [{"name": "work", "hostPath": {"path": work, "type": "DirectoryOrCreate"}}]}),
            );
            let message = "spec.containers{web} Readiness probe failed: not yet\n";
            cluster.wait_event("Unhealthy", message).await;
            assert_eq!(std::fs::read_to_string(work.join("hello")).unwrap(), "hello\n");
            std::fs::write(work.join("ready"), "").unwrap();
            let before = cluster.running("web").await;

            // A restart of the agent is no reason to take requests elsewhere.
            running.stop().await;
            let mut changes = 0;
            let running = cluster.start(&node);
            let mut health = running.handle.health();
            health.wait_for(|health| health.pods_running == 1).await.unwrap();
            let after = cluster.get_pod("web");
            changes += usize::from(container(&before)["containerID"] != container(&after)["containerID"]);
            changes += usize::from(condition(&after, "Ready") != "True");
            assert_eq!(changes, 0, "{after:#}");

            cluster.delete_pod("web", 10);
            cluster.wait_pod("web", Value::is_null).await;
            assert_eq!(std::fs::read_to_string(work.join("bye")).unwrap(), "bye\n");
            running.stop().await;
        },
    );
}

#[test]
fn command_that_takes_too_long_is_a_failure_and_a_broken_one_none() {
    inside(
        "probes::command_that_takes_too_long_is_a_failure_and_a_broken_one_none",
        |node| async move {
            let cluster = Cluster::new();
            with_shell(&cluster);
            let running = cluster.start(&node);
            let mut slow = script("slow", SERVE);
            slow["livenessProbe"] =
                json!({"exec": {"command": ["sleep", "100"]}, "periodSeconds": 1, "failureThreshold": 1});
            let mut broken = script("broken", SERVE);
            broken["livenessProbe"] =
                json!({"exec": {"command": ["nonsense"]}, "periodSeconds": 1, "failureThreshold": 1});
            cluster.pod("web", json!({"containers": [slow, broken]}));
            let message = "spec.containers{slow} Liveness probe failed: command \"sleep 100\" timed out";
            cluster.wait_event("Unhealthy", message).await;
            let message = "spec.containers{broken} Liveness probe errored and resulted in unknown state: ";
            cluster.wait_event("Unhealthy", message).await;
            let restarted = |pod: &Value| {
                let statuses = pod["status"]["containerStatuses"].as_array().unwrap();
                let of = |name: &str| statuses.iter().find(|status| status["name"] == name).unwrap();
                assert_eq!(of("broken")["restartCount"], 0);
                of("slow")["restartCount"] == 1
            };
            cluster.wait_pod("web", restarted).await;
            running.stop().await;
        },
    );
}

#[test]
fn container_on_a_host_port_is_reached_at_the_node() {
    inside(
        "probes::container_on_a_host_port_is_reached_at_the_node",
        |node| async move {
            let cluster = Cluster::new();
            with_shell(&cluster);
            let running = cluster.start(&node);
            let mut web = server();
            web["ports"][0]["hostPort"] = json!(8888);
            web["readinessProbe"] = often(json!({"httpGet": {"path": "/live", "port": "web"}}));
            cluster.pod("web", json!({"containers": [web]}));
            cluster.running("web").await;
            // From another pod, as from another machine: the answer comes through the node's address.
            let asking = script("asking", "exec wget -q -O - http://10.99.0.1:8888/live");
            cluster.pod("asking", json!({"restartPolicy": "Never", "containers": [asking]}));
            let ended = cluster
                .wait_pod("asking", |pod| !container(pod)["state"]["terminated"].is_null())
                .await;
            assert_eq!(container(&ended)["state"]["terminated"]["exitCode"], 0, "{ended:#}");
            let text = logs(&running.handle, log_query("asking", "asking")).await.unwrap();
            assert_eq!(text, "fine\n");
            running.stop().await;
        },
    );
}
