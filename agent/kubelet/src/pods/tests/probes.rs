//! Probes and what follows from them.

use super::*;

/// A pod with these probes, each asking a command of its own name.
fn probed(probes: &[&str]) -> Value {
    let mut web = pod("web", "u1", "web:1");
    for probe in probes {
        web["spec"]["containers"][0][format!("{probe}Probe")] =
            json!({"exec": {"command": [probe]}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1});
    }
    web
}

fn is_ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().unwrap();
    let ready = conditions
        .iter()
        .find(|condition| condition["type"] == "Ready")
        .unwrap();
    ready["status"] == "True"
}

fn container(status: &Value) -> &Value {
    &status["containerStatuses"][0]
}

#[tokio::test]
async fn container_is_ready_while_its_probe_succeeds() {
    let rig = Rig::new();
    rig.runtime.set_command("readiness", 1);
    rig.want(&[probed(&["readiness"])]);
    rig.event("Unhealthy", "Readiness probe failed: readiness said 1").await;
    let status = rig.status("web", |status| status["phase"] == "Running").await;
    assert!(!is_ready(&status));
    assert_eq!(container(&status)["started"], true);
    rig.runtime.set_command("readiness", 0);
    rig.status("web", is_ready).await;
    rig.runtime.set_command("readiness", 2);
    let status = rig.status("web", |status| !is_ready(status)).await;
    assert_eq!(container(&status)["restartCount"], 0);
}

#[tokio::test]
async fn container_whose_liveness_probe_fails_is_restarted() {
    let rig = Rig::new();
    let mut web = probed(&["liveness"]);
    web["spec"]["containers"][0]["livenessProbe"]["terminationGracePeriodSeconds"] = json!(7);
    rig.want(&[web]);
    rig.status("web", is_ready).await;
    rig.runtime.set_command("liveness", 1);
    rig.event("Unhealthy", "Liveness probe failed: liveness said 1").await;
    rig.event("Killing", "Container c failed liveness probe, will be restarted")
        .await;
    rig.runtime.set_command("liveness", 0);
    rig.status("web", |status| {
        container(status)["restartCount"] == 1 && is_ready(status)
    })
    .await;
    assert!(
        rig.runtime.done().contains(&"stop c 7".to_owned()),
        "{:?}",
        rig.runtime.done()
    );
}

#[tokio::test]
async fn nothing_else_is_probed_before_the_start_is_done() {
    let rig = Rig::new();
    rig.runtime.set_command("startup", 1);
    let mut web = probed(&["startup", "liveness", "readiness"]);
    web["spec"]["containers"][0]["startupProbe"]["failureThreshold"] = json!(1000);
    rig.want(&[web]);
    rig.event("Unhealthy", "Startup probe failed: startup said 1").await;
    let status = rig.status("web", |status| status["phase"] == "Running").await;
    assert_eq!(
        (container(&status)["started"].clone(), is_ready(&status)),
        (json!(false), false)
    );
    assert!(rig.runtime.done().iter().all(|word| word == "startup"));
    rig.runtime.set_command("startup", 0);
    let status = rig.status("web", is_ready).await;
    assert_eq!(container(&status)["started"], true);
    assert!(rig.runtime.done().contains(&"readiness".to_owned()));
}

#[tokio::test]
async fn container_that_never_starts_is_restarted() {
    let rig = Rig::new();
    rig.runtime.hold_command("startup");
    rig.want(&[probed(&["startup"])]);
    rig.event("Unhealthy", "Startup probe failed: command \"startup\" timed out")
        .await;
    rig.event("Killing", "Container c failed startup probe, will be restarted")
        .await;
    rig.status("web", |status| container(status)["restartCount"] == 1).await;
}

#[tokio::test]
async fn restarted_agent_keeps_what_it_said_of_a_container() {
    let first = Rig::new();
    let web = probed(&["startup", "readiness"]);
    first.want(std::slice::from_ref(&web));
    let status = first.status("web", is_ready).await;
    let runtime = first.runtime.clone();
    drop(first);
    runtime.hold_command("readiness");
    let second = Rig::with(runtime, Arc::new(crate::NoServices));
    let mut stored = web;
    stored["status"] = status;
    second.want(&[stored]);
    let status = second.status("web", |status| status["phase"] == "Running").await;
    assert!(is_ready(&status), "no check has ended yet");
    second
        .event("Unhealthy", "Readiness probe failed: command \"readiness\" timed out")
        .await;
    second.status("web", |status| !is_ready(status)).await;
}

#[tokio::test]
async fn pod_that_goes_is_not_restarted_but_still_tells_whether_it_is_ready() {
    let surroundings = Arc::new(hooks::Offered::default());
    let runtime = Arc::new(FakeRuntime::default());
    runtime.add_image("web:1");
    let rig = Rig::with(runtime, surroundings.clone());
    let web = probed(&["liveness", "readiness"]);
    rig.want(std::slice::from_ref(&web));
    rig.status("web", is_ready).await;
    let mut gone = deleted(web);
    gone["metadata"]["deletionGracePeriodSeconds"] = json!(60);
    rig.want(&[gone]);
    rig.runtime.set_command("readiness", 1);
    rig.runtime.set_command("liveness", 1);
    rig.status("web", |status| !is_ready(status)).await;
    surroundings.withdraw();
    rig.removed("web").await;
    let requests = rig.control_plane.requests();
    let killing: Vec<_> = requests
        .iter()
        .filter(|request| request.body["reason"] == "Killing")
        .map(|request| request.body["message"].clone())
        .collect();
    assert_eq!(killing, ["Stopping container c"]);
}

#[tokio::test]
async fn readiness_is_told_while_another_container_waits_for_its_image() {
    let rig = Rig::new();
    rig.runtime.set_command("readiness", 1);
    rig.runtime.hold_pulls();
    let mut web = probed(&["readiness"]);
    let far = json!({"name": "far", "image": "far:1", "imagePullPolicy": "IfNotPresent"});
    web["spec"]["containers"].as_array_mut().unwrap().push(far);
    rig.want(&[web]);
    rig.event("Pulling", "Pulling image \"far:1\"").await;
    rig.runtime.set_command("readiness", 0);
    rig.status("web", |status| container(status)["ready"] == true).await;
}
