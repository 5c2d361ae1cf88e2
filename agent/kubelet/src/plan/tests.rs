use super::*;
use serde_json::json;

fn pod(spec: serde_json::Value) -> core::Pod {
    let mut pod = json!({"metadata": {"name": "web-1", "namespace": "shop", "uid": "u1"}});
    pod["spec"] = spec;
    serde_json::from_value(pod).unwrap()
}

fn simple(policy: &str) -> core::Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "web", "image": "i:1"}]}))
}

fn sandbox(id: &str, attempt: u32, ready: bool) -> Sandbox {
    Sandbox {
        id: id.into(),
        attempt,
        ready,
        created_at: i64::from(attempt) + 1,
        ips: vec!["100.64.0.2".into()],
    }
}

fn instance(name: &str, attempt: u32, state: State, exit_code: i32) -> Container {
    let spec: core::Container = serde_json::from_value(json!({"name": name, "image": "i:1"})).unwrap();
    Container {
        id: format!("{name}-{attempt}"),
        name: name.into(),
        sandbox: "s0".into(),
        attempt,
        state,
        created_at: i64::from(attempt) + 1,
        exit_code,
        hash: container::hash(&spec),
        ..Container::default()
    }
}

struct Case {
    pod: core::Pod,
    intent: Intent,
    observed: Observed,
    memory: Memory,
    volumes_ready: bool,
    draining: bool,
    now: Instant,
}

impl Case {
    fn new(pod: core::Pod, sandboxes: Vec<Sandbox>, containers: Vec<Container>) -> Self {
        let observed = Observed::new(sandboxes, containers);
        Self {
            pod,
            intent: Intent::Run,
            observed,
            memory: Memory::default(),
            volumes_ready: true,
            draining: false,
            now: Instant::now(),
        }
    }

    fn plan(&self) -> Plan {
        plan(&Situation {
            pod: &self.pod,
            intent: self.intent,
            observed: &self.observed,
            memory: &self.memory,
            volumes_ready: self.volumes_ready,
            draining: self.draining,
            now: self.now,
        })
    }

    fn actions(&self) -> Vec<Action> {
        self.plan().actions
    }
}

fn start(name: &str, attempt: u32, replaces: Option<&str>) -> Action {
    Action::StartContainer {
        sandbox: "s0".into(),
        name: name.into(),
        attempt,
        replaces: replaces.map(Into::into),
    }
}

#[test]
fn new_pod_gets_a_sandbox_and_then_its_containers() {
    let mut case = Case::new(simple("Always"), vec![], vec![]);
    assert_eq!(case.actions(), [Action::RunSandbox(0)]);
    case.observed = Observed::new(vec![sandbox("s0", 0, true)], vec![]);
    assert_eq!(case.actions(), [start("web", 0, None)]);
    case.observed.containers.push(instance("web", 0, State::Running, 0));
    assert_eq!(case.plan(), Plan::default());
}

#[test]
fn nothing_starts_before_its_volumes_are_there() {
    let mut case = Case::new(simple("Always"), vec![], vec![]);
    case.volumes_ready = false;
    assert_eq!(case.plan(), Plan::default());
    case.observed = Observed::new(vec![sandbox("s0", 0, true)], vec![]);
    assert_eq!(case.plan(), Plan::default());
}

#[test]
fn failed_sandbox_is_tried_again_only_after_a_while() {
    let mut case = Case::new(simple("Always"), vec![], vec![]);
    case.memory
        .not_before
        .insert("sandbox".into(), case.now + Duration::from_secs(2));
    let plan = case.plan();
    assert!(plan.actions.is_empty());
    assert_eq!(plan.wake_after, Some(Duration::from_secs(2)));
    case.now += Duration::from_secs(2);
    assert_eq!(case.actions(), [Action::RunSandbox(0)]);
}

#[test]
fn init_containers_run_one_after_the_other() {
    let pod = pod(
        json!({"initContainers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i:1"}],
        "containers": [{"name": "web", "image": "i:1"}]}),
    );
    let mut case = Case::new(pod, vec![sandbox("s0", 0, true)], vec![]);
    assert_eq!(case.actions(), [start("a", 0, None)]);
    case.observed.containers.push(instance("a", 0, State::Running, 0));
    assert_eq!(case.plan(), Plan::default());
    case.observed.containers[0] = instance("a", 0, State::Exited, 0);
    assert_eq!(case.actions(), [start("b", 0, None)]);
    case.observed.containers.push(instance("b", 0, State::Exited, 0));
    assert_eq!(case.actions(), [start("web", 0, None)]);
    // Their records may be removed once a main container exists.
    case.observed.containers = vec![instance("web", 0, State::Running, 0)];
    assert_eq!(case.plan(), Plan::default());
}

#[test]
fn failed_init_container_is_repeated_or_fails_the_pod() {
    let with = |policy: &str| {
        let pod = pod(
            json!({"restartPolicy": policy, "initContainers": [{"name": "a", "image": "i:1"}],
            "containers": [{"name": "web", "image": "i:1"}]}),
        );
        Case::new(
            pod,
            vec![sandbox("s0", 0, true)],
            vec![instance("a", 0, State::Exited, 1)],
        )
    };
    assert_eq!(with("Always").actions(), [start("a", 1, Some("a-0"))]);
    assert_eq!(with("OnFailure").actions(), [start("a", 1, Some("a-0"))]);
    assert_eq!(with("Never").actions(), [Action::StopSandbox("s0".into())]);
}

#[test]
fn sidecar_does_not_hold_up_the_pod_and_goes_with_it() {
    let pod = pod(json!({"restartPolicy": "Never",
        "initContainers": [{"name": "side", "image": "i:1", "restartPolicy": "Always"}, {"name": "a", "image": "i:1"}],
        "containers": [{"name": "web", "image": "i:1"}]}));
    let mut case = Case::new(pod, vec![sandbox("s0", 0, true)], vec![]);
    assert_eq!(case.actions(), [start("side", 0, None)]);
    case.observed.containers.push(instance("side", 0, State::Running, 0));
    assert_eq!(case.actions(), [start("a", 0, None)]);
    case.observed.containers.extend([
        instance("a", 0, State::Exited, 0),
        instance("web", 0, State::Running, 0),
    ]);
    assert_eq!(case.plan(), Plan::default());
    case.observed.containers[2] = instance("web", 0, State::Exited, 0);
    assert!(matches!(&case.actions()[..], [Action::StopContainers(stops)] if stops[0].name == "side"));
    case.observed.containers[2] = instance("web", 0, State::Running, 0);
    case.observed.containers[0] = instance("side", 0, State::Exited, 0);
    assert_eq!(case.actions(), [start("side", 1, Some("side-0"))]);
}

#[test]
fn restart_policy_decides_over_what_ended() {
    for (policy, exit_code, restarted) in [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ] {
        let case = Case::new(
            simple(policy),
            vec![sandbox("s0", 0, true)],
            vec![instance("web", 0, State::Exited, exit_code)],
        );
        let expected = if restarted {
            start("web", 1, Some("web-0"))
        } else {
            Action::StopSandbox("s0".into())
        };
        assert_eq!(case.actions(), [expected], "{policy} {exit_code}");
    }
}

#[test]
fn crashing_container_waits_longer_each_time() {
    let mut case = Case::new(
        simple("Always"),
        vec![sandbox("s0", 0, true)],
        vec![instance("web", 1, State::Exited, 1)],
    );
    case.memory.crashes.next("web", case.now, case.now);
    case.memory.exits.insert("web-1".into(), case.now);
    let plan = case.plan();
    assert!(plan.actions.is_empty());
    assert_eq!(plan.wake_after, Some(Duration::from_secs(10)));
    let waiting = &plan.crashing["web"];
    assert_eq!(waiting.reason, "CrashLoopBackOff");
    assert_eq!(
        waiting.message,
        "back-off 10s restarting failed container=web pod=web-1_shop(u1)"
    );
    case.now += Duration::from_secs(10);
    assert_eq!(case.actions(), [start("web", 2, Some("web-1"))]);
}

#[test]
fn one_crashing_container_does_not_stop_the_other() {
    let pod = pod(json!({"containers": [{"name": "web", "image": "i:1"}, {"name": "log", "image": "i:1"}]}));
    let mut case = Case::new(
        pod,
        vec![sandbox("s0", 0, true)],
        vec![instance("web", 0, State::Exited, 1)],
    );
    case.memory.crashes.next("web", case.now, case.now);
    case.memory.exits.insert("web-0".into(), case.now);
    assert_eq!(case.actions(), [start("log", 0, None)]);
}

#[test]
fn after_a_power_cut_the_pod_starts_again_and_counts_on() {
    let mut dead = instance("web", 3, State::Exited, 255);
    dead.sandbox = "old".into();
    let mut case = Case::new(simple("Always"), vec![sandbox("old", 1, false)], vec![dead]);
    let remove = [Action::StopSandbox("old".into()), Action::RemoveSandbox("old".into())];
    assert_eq!(case.actions(), [&remove[..], &[Action::RunSandbox(2)]].concat());
    // The record went with the sandbox; the log files still tell the number.
    case.memory.attempts.insert("web".into(), 3);
    case.observed = Observed::new(vec![sandbox("s0", 2, true)], vec![]);
    assert_eq!(case.actions(), [start("web", 4, None)]);
}

#[test]
fn pod_that_must_not_restart_stays_ended_after_a_power_cut() {
    let mut dead = instance("web", 0, State::Exited, 255);
    dead.sandbox = "old".into();
    let mut case = Case::new(simple("Never"), vec![sandbox("old", 0, false)], vec![dead]);
    assert_eq!(case.actions(), [Action::StopSandbox("old".into())]);
    case.memory.stopped.insert("old".into());
    assert_eq!(case.plan(), Plan::default());
}

#[test]
fn changed_image_replaces_the_container() {
    let pod = pod(json!({"containers": [{"name": "web", "image": "i:2"}]}));
    let mut case = Case::new(
        pod,
        vec![sandbox("s0", 0, true)],
        vec![instance("web", 0, State::Running, 0)],
    );
    let actions = case.actions();
    let [Action::StopContainers(stops)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(stops[0].message, "Container web definition changed, will be restarted");
    case.observed.containers[0].state = State::Exited;
    assert_eq!(case.actions(), [start("web", 1, Some("web-0"))]);
}

#[test]
fn only_the_last_dead_instance_is_kept() {
    let containers = vec![
        instance("web", 0, State::Exited, 1),
        instance("web", 1, State::Exited, 1),
        instance("web", 2, State::Running, 0),
    ];
    let case = Case::new(simple("Always"), vec![sandbox("s0", 0, true)], containers);
    assert_eq!(case.actions(), [Action::RemoveContainer("web-0".into())]);
}

#[test]
fn container_made_but_never_started_is_made_again_with_its_number() {
    let case = Case::new(
        simple("Always"),
        vec![sandbox("s0", 0, true)],
        vec![instance("web", 0, State::Created, 0)],
    );
    assert_eq!(
        case.actions(),
        [Action::RemoveContainer("web-0".into()), start("web", 0, None)]
    );
}

#[test]
fn removed_pod_is_stopped_then_cleared_then_finished() {
    let mut case = Case::new(
        simple("Always"),
        vec![sandbox("s0", 0, true)],
        vec![instance("web", 0, State::Running, 0)],
    );
    case.intent = Intent::Remove;
    let actions = case.actions();
    assert!(
        matches!(&actions[..], [Action::StopContainers(stops)] if stops[0].message == "Stopping container web"),
        "{actions:?}"
    );
    case.observed.containers[0].state = State::Exited;
    assert_eq!(
        case.actions(),
        [Action::StopSandbox("s0".into()), Action::RemoveSandbox("s0".into())]
    );
    case.observed = Observed::default();
    assert_eq!(case.actions(), [Action::Finish]);
}

#[test]
fn ended_pod_keeps_its_records() {
    let mut case = Case::new(
        simple("Always"),
        vec![sandbox("s0", 0, true)],
        vec![instance("web", 0, State::Exited, 0)],
    );
    case.intent = Intent::End;
    assert_eq!(case.actions(), [Action::StopSandbox("s0".into())]);
    case.observed.sandboxes[0].ready = false;
    case.memory.stopped.insert("s0".into());
    assert_eq!(case.plan(), Plan::default());
}

#[test]
fn durations_are_written_as_go_does() {
    for (seconds, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s")] {
        assert_eq!(go_duration(Duration::from_secs(seconds)), text);
    }
}

fn failed_by(kind: Kind) -> crate::probes::Verdict {
    crate::probes::Verdict {
        started: true,
        ready: false,
        failed: Some(kind),
    }
}

#[test]
fn container_whose_probe_failed_is_restarted_unless_it_must_not_be() {
    for (policy, kind, message, again) in [
        (
            "Always",
            Kind::Liveness,
            "Container web failed liveness probe, will be restarted",
            true,
        ),
        (
            "OnFailure",
            Kind::Startup,
            "Container web failed startup probe, will be restarted",
            true,
        ),
        ("Never", Kind::Liveness, "Container web failed liveness probe", false),
    ] {
        let pod = pod(
            json!({"restartPolicy": policy, "containers": [{"name": "web", "image": "i:1",
            "livenessProbe": {"terminationGracePeriodSeconds": 7}, "startupProbe": {}}]}),
        );
        let running = instance("web", 0, State::Running, 0);
        let mut case = Case::new(pod, vec![sandbox("s0", 0, true)], vec![running]);
        case.memory.verdicts.insert("web-0".into(), failed_by(kind));
        let grace = (kind == Kind::Liveness).then_some(7);
        let stop = Stop {
            id: "web-0".into(),
            name: "web".into(),
            message: message.into(),
            grace,
        };
        assert_eq!(case.actions(), [Action::StopContainers(vec![stop])]);
        // It ends in order, which is not to be taken for success.
        case.observed.containers[0].state = State::Exited;
        let next = if again {
            start("web", 1, Some("web-0"))
        } else {
            Action::StopSandbox("s0".into())
        };
        assert_eq!(case.actions(), [next], "{policy}");
    }
}

#[test]
fn sidecar_must_have_started_before_the_next_container_does() {
    let pod = pod(
        json!({"initContainers": [{"name": "side", "image": "i:1", "restartPolicy": "Always", "startupProbe": {}}],
        "containers": [{"name": "web", "image": "i:1"}]}),
    );
    let side = instance("side", 0, State::Running, 0);
    let mut case = Case::new(pod, vec![sandbox("s0", 0, true)], vec![side]);
    assert_eq!(case.plan(), Plan::default());
    let started = crate::probes::Verdict {
        started: true,
        ready: true,
        failed: None,
    };
    case.memory.verdicts.insert("side-0".into(), started);
    assert_eq!(case.actions(), [start("web", 0, None)]);
}

#[test]
fn pod_that_still_takes_requests_is_not_stopped_yet() {
    let running = instance("web", 0, State::Running, 0);
    let mut case = Case::new(simple("Always"), vec![sandbox("s0", 0, true)], vec![running]);
    (case.intent, case.draining) = (Intent::Remove, true);
    assert_eq!(case.plan(), Plan::default());
    case.draining = false;
    assert!(matches!(&case.actions()[..], [Action::StopContainers(_)]));
}

#[test]
fn sidecars_end_after_the_others_the_last_one_first() {
    let pod = pod(json!({"initContainers": [
        {"name": "one", "image": "i:1", "restartPolicy": "Always"}, {"name": "two", "image": "i:1", "restartPolicy": "Always"}],
        "containers": [{"name": "web", "image": "i:1"}, {"name": "log", "image": "i:1"}]}));
    let running = ["one", "two", "web", "log"].map(|name| instance(name, 0, State::Running, 0));
    let mut case = Case::new(pod, vec![sandbox("s0", 0, true)], running.into());
    case.intent = Intent::Remove;
    let mut order = Vec::new();
    while let [Action::StopContainers(stops)] = &case.actions()[..] {
        order.push(stops.iter().map(|stop| stop.name.clone()).collect::<Vec<_>>());
        for container in &mut case.observed.containers {
            if stops.iter().any(|stop| stop.id == container.id) {
                container.state = State::Exited;
            }
        }
    }
    assert_eq!(order, [vec!["web", "log"], vec!["two"], vec!["one"]]);
}
