//! What a pod says of its health, and what it is told of its surroundings.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use minidc_tests::{PATIENCE, Rack, eventually, run};
use serde_json::{Value, json};

use crate::services::{apply, cluster_ip};

pub(crate) const ALL: &[crate::Promise] = &[
    (
        "a_liveness_probe_that_fails_restarts_the_container",
        a_liveness_probe_that_fails_restarts_the_container,
    ),
    (
        "a_startup_probe_holds_the_others_back",
        a_startup_probe_holds_the_others_back,
    ),
    (
        "exec_and_tcp_probes_decide_readiness",
        exec_and_tcp_probes_decide_readiness,
    ),
    ("hooks_run_before_and_after", hooks_run_before_and_after),
    ("a_host_port_leads_to_the_pod", a_host_port_leads_to_the_pod),
    (
        "pods_know_services_by_environment_and_hosts_by_file",
        pods_know_services_by_environment_and_hosts_by_file,
    ),
];

/// A pod of the web image; `container` is merged into its only container.
fn pod(name: &str, container: &Value, spec: &Value) -> Value {
    let mut only = json!({"name": "web", "image": "minidc.local/web:1", "imagePullPolicy": "IfNotPresent"});
    merge(&mut only, container);
    let mut whole = json!({"terminationGracePeriodSeconds": 5, "containers": [only]});
    merge(&mut whole, spec);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole})
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

fn with_pod(rack: &Rack, pod: &Value, prove: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    let name = pod["metadata"]["name"].as_str().context("no name")?;
    rack.kubectl_with(&["apply", "-f", "-"], &pod.to_string())?;
    let outcome = prove(name);
    rack.kubectl(&["delete", "pod", name, "--ignore-not-found", "--timeout=120s"])?;
    outcome
}

fn restarts(rack: &Rack, name: &str) -> Result<i64> {
    let pod = rack.get(&["pod", name])?;
    Ok(pod["status"]["containerStatuses"][0]["restartCount"]
        .as_i64()
        .unwrap_or(0))
}

fn is_ready(rack: &Rack, name: &str) -> Result<bool> {
    Ok(minidc_tests::condition(&rack.get(&["pod", name])?, "Ready") == "True")
}

fn a_liveness_probe_that_fails_restarts_the_container(rack: &Rack) -> Result<()> {
    let probe = json!({"livenessProbe": {"httpGet": {"path": "/about", "port": 8080}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 5}});
    with_pod(rack, &pod("lively", &probe, &json!({})), |name| {
        rack.kubectl(&["wait", "--for=condition=Ready", "pod/lively", "--timeout=120s"])?;
        ensure!(restarts(rack, name)? == 0, "restarted without a reason");
        rack.kubectl(&["exec", name, "--", "rm", "/www/about"])?;
        eventually(PATIENCE, "a restart", || Ok(restarts(rack, name)? > 0))?;
        let words = [
            "Liveness probe failed: HTTP probe failed with statuscode: 404",
            "failed liveness probe, will be restarted",
        ];
        rack.describes("pod", name, &words)
    })
}

fn a_startup_probe_holds_the_others_back(rack: &Rack) -> Result<()> {
    let probes = json!({
        "startupProbe": {"exec": {"command": ["test", "-e", "/started"]}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 300},
        "livenessProbe": {"exec": {"command": ["test", "-e", "/started"]}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 1},
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 10}});
    with_pod(rack, &pod("slow-start", &probes, &json!({})), |name| {
        rack.wait_for_phase(name, "Running", PATIENCE)?;
        rack.describes("pod", name, &["Startup probe failed"])?;
        let status = rack.get(&["pod", name])?;
        ensure!(
            status["status"]["containerStatuses"][0]["started"] == json!(false),
            "{status}"
        );
        ensure!(!is_ready(rack, name)? && restarts(rack, name)? == 0, "{status}");
        rack.kubectl(&["exec", name, "--", "touch", "/started"])?;
        eventually(PATIENCE, "Ready", || is_ready(rack, name))?;
        ensure!(restarts(rack, name)? == 0, "the liveness probe did not wait");
        Ok(())
    })
}

fn exec_and_tcp_probes_decide_readiness(rack: &Rack) -> Result<()> {
    let by_file = json!({"readinessProbe": {"exec": {"command": ["test", "-e", "/well"]}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 1}});
    with_pod(rack, &pod("by-file", &by_file, &json!({})), |name| {
        rack.wait_for_phase(name, "Running", PATIENCE)?;
        ensure!(!is_ready(rack, name)?, "ready without the file");
        rack.kubectl(&["exec", name, "--", "touch", "/well"])?;
        eventually(PATIENCE, "Ready with the file", || is_ready(rack, name))?;
        rack.kubectl(&["exec", name, "--", "rm", "/well"])?;
        eventually(PATIENCE, "not Ready without it", || Ok(!is_ready(rack, name)?))?;
        Ok(())
    })?;
    let by_port = json!({"readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 1},
        "command": ["sh", "-c", "while [ ! -e /go ]; do sleep 1; done; exec httpd -f -p 8080 -h /www"]});
    with_pod(rack, &pod("by-port", &by_port, &json!({})), |name| {
        rack.wait_for_phase(name, "Running", PATIENCE)?;
        ensure!(!is_ready(rack, name)?, "ready without a listener");
        rack.kubectl(&["exec", name, "--", "touch", "/go"])?;
        eventually(PATIENCE, "Ready with a listener", || is_ready(rack, name))?;
        Ok(())
    })
}

fn hooks_run_before_and_after(rack: &Rack) -> Result<()> {
    let hooks = json!({"lifecycle": {"postStart": {"exec": {"command": ["touch", "/trace/began"]}},
            "preStop": {"exec": {"command": ["touch", "/trace/ended"]}}},
        "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"],
        "volumeMounts": [{"name": "trace", "mountPath": "/trace"}]});
    let spec = json!({"volumes": [{"name": "trace", "hostPath": {"path": "/var/tmp/minidc-hooks", "type": "DirectoryOrCreate"}}],
        "nodeName": "pi-2", "terminationGracePeriodSeconds": 60});
    let listed = || rack.in_node("pi-2", &["sh", "-c", "ls /var/tmp/minidc-hooks"]);
    with_pod(rack, &pod("hooked", &hooks, &spec), |name| {
        rack.wait_for_phase(name, "Running", PATIENCE)?;
        ensure!(listed()?.trim() == "began", "{}", listed()?);
        Ok(())
    })?;
    let after = listed()?;
    rack.in_node("pi-2", &["rm", "-r", "/var/tmp/minidc-hooks"])?;
    ensure!(after.split_whitespace().eq(["began", "ended"]), "{after}");
    Ok(())
}

fn a_host_port_leads_to_the_pod(rack: &Rack) -> Result<()> {
    let port = json!({"ports": [{"containerPort": 8080, "hostPort": 8081}]});
    with_pod(rack, &pod("ported", &port, &json!({"nodeName": "pi-3"})), |name| {
        rack.kubectl(&["wait", "--for=condition=Ready", "pod/ported", "--timeout=120s"])?;
        let address = rack.kubectl(&["get", "pod", name, "-o", "jsonpath={.status.hostIP}"])?;
        eventually(PATIENCE, "the host port answers", || {
            let url = format!("http://{address}:8081/");
            Ok(run(Command::new("curl").args(["-sS", "--max-time", "5", &url]))?.trim() == name)
        })?;
        Ok(())
    })
}

fn pods_know_services_by_environment_and_hosts_by_file(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let spec = json!({"hostAliases": [{"ip": "192.0.2.33", "hostnames": ["printer", "printer.example"]}]});
    with_pod(rack, &pod("informed", &json!({}), &spec), |name| {
        rack.kubectl(&["wait", "--for=condition=Ready", "pod/informed", "--timeout=120s"])?;
        let environment = rack.kubectl(&["exec", name, "--", "env"])?;
        for (variable, value) in [
            ("KUBERNETES_SERVICE_HOST", cluster_ip(rack, "kubernetes")?),
            ("KUBERNETES_SERVICE_PORT", "443".into()),
            ("ECHO_SERVICE_HOST", cluster_ip(rack, "echo")?),
            ("ECHO_SERVICE_PORT_HTTP", "80".into()),
        ] {
            ensure!(
                environment.lines().any(|line| line == format!("{variable}={value}")),
                "{variable}={value} is not in\n{environment}"
            );
        }
        let hosts = rack.kubectl(&["exec", name, "--", "cat", "/etc/hosts"])?;
        ensure!(hosts.contains("192.0.2.33\tprinter\tprinter.example"), "{hosts}");
        let own = rack.kubectl(&["get", "pod", name, "-o", "jsonpath={.status.podIP}"])?;
        ensure!(hosts.contains(&format!("{own}\tinformed")), "{hosts}");
        Ok(())
    })
}
