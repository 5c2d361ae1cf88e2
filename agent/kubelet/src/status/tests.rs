use super::*;
use crate::observed::Sandbox;
use serde_json::json;

fn pod(spec: serde_json::Value) -> core::Pod {
    let mut pod = json!({"metadata": {"name": "web-1", "namespace": "shop", "uid": "u1"}});
    pod["spec"] = spec;
    serde_json::from_value(pod).unwrap()
}

fn simple(policy: &str) -> core::Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "web", "image": "i:1"}]}))
}

fn instance(name: &str, attempt: u32, state: State, exit_code: i32) -> Container {
    Container {
        id: format!("{name}-{attempt}"),
        name: name.into(),
        sandbox: "s0".into(),
        attempt,
        state,
        exit_code,
        started_at: 1_700_000_000_500_000_000,
        finished_at: 1_700_000_001_500_000_000,
        image: "docker.io/library/i:1".into(),
        image_id: "sha256:00".into(),
        ..Container::default()
    }
}

fn made(pod: &core::Pod, containers: Vec<Container>, waiting: &[(&str, &str)], over: bool) -> core::PodStatus {
    with(
        pod,
        containers,
        waiting,
        over,
        &core::PodStatus::default(),
        1_700_000_010,
    )
}

fn with(
    pod: &core::Pod,
    containers: Vec<Container>,
    waiting: &[(&str, &str)],
    over: bool,
    previous: &core::PodStatus,
    now: i64,
) -> core::PodStatus {
    let sandbox = Sandbox {
        id: "s0".into(),
        ready: !over,
        ips: vec!["100.64.0.2".into()],
        ..Sandbox::default()
    };
    let waiting = waiting.iter().map(|(name, reason)| {
        (
            (*name).to_owned(),
            Waiting {
                reason: (*reason).to_owned(),
                message: "m".into(),
            },
        )
    });
    status(&Facts {
        pod,
        observed: &Observed::new(vec![sandbox], containers),
        waiting: &waiting.collect(),
        verdicts: &BTreeMap::new(),
        history: &BTreeMap::new(),
        previous,
        host_ips: &["10.0.0.1".into()],
        over,
        now: Timestamp::from_second(now).unwrap(),
    })
}

fn condition<'a>(status: &'a core::PodStatus, kind: &str) -> &'a core::PodCondition {
    status
        .conditions
        .as_ref()
        .unwrap()
        .iter()
        .find(|condition| condition.type_ == kind)
        .unwrap()
}

fn phase_of(status: &core::PodStatus) -> &str {
    status.phase.as_deref().unwrap()
}

#[test]
fn pod_without_containers_yet_is_pending_and_creating() {
    let status = made(&simple("Always"), vec![], &[], false);
    assert_eq!(phase_of(&status), "Pending");
    let container = &status.container_statuses.as_ref().unwrap()[0];
    let waiting = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("ContainerCreating"));
    assert_eq!(
        condition(&status, "Ready").message.as_deref(),
        Some("containers with unready status: [web]")
    );
    assert_eq!(condition(&status, "PodReadyToStartContainers").status, "True");
    assert_eq!(condition(&status, "Initialized").status, "True");
}

#[test]
fn running_pod_is_ready_and_has_addresses() {
    let status = made(
        &simple("Always"),
        vec![instance("web", 0, State::Running, 0)],
        &[],
        false,
    );
    assert_eq!(phase_of(&status), "Running");
    assert_eq!(condition(&status, "Ready").status, "True");
    assert_eq!(status.pod_ip.as_deref(), Some("100.64.0.2"));
    assert_eq!(status.host_ips.as_ref().unwrap()[0].ip, "10.0.0.1");
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(container.container_id.as_deref(), Some("containerd://web-0"));
    assert_eq!((container.ready, container.started), (true, Some(true)));
    let started = container
        .state
        .as_ref()
        .unwrap()
        .running
        .as_ref()
        .unwrap()
        .started_at
        .as_ref()
        .unwrap();
    assert_eq!(started.0.to_string(), "2023-11-14T22:13:20Z");
}

#[test]
fn crashing_container_waits_and_shows_how_it_ended() {
    let containers = vec![instance("web", 2, State::Exited, 3)];
    let status = made(&simple("Always"), containers, &[("web", "CrashLoopBackOff")], false);
    assert_eq!(phase_of(&status), "Running");
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(container.restart_count, 2);
    let waiting = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    let last = container.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
}

#[test]
fn ends_follow_restart_policy_and_exit_code() {
    for (policy, exit_code, expected) in [
        ("Never", 0, "Succeeded"),
        ("Never", 1, "Failed"),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 1, "Running"),
        ("Always", 0, "Running"),
    ] {
        let status = made(
            &simple(policy),
            vec![instance("web", 0, State::Exited, exit_code)],
            &[],
            false,
        );
        assert_eq!(phase_of(&status), expected, "{policy} {exit_code}");
    }
    let status = made(&simple("Never"), vec![instance("web", 0, State::Exited, 0)], &[], false);
    assert_eq!(condition(&status, "Ready").reason.as_deref(), Some("PodCompleted"));
    let status = made(&simple("Never"), vec![instance("web", 0, State::Exited, 1)], &[], false);
    assert_eq!(
        condition(&status, "ContainersReady").reason.as_deref(),
        Some("PodFailed")
    );
}

#[test]
fn stopped_pod_ends_by_its_exit_codes() {
    let status = made(&simple("Always"), vec![instance("web", 0, State::Exited, 0)], &[], true);
    assert_eq!(phase_of(&status), "Succeeded");
    let status = made(
        &simple("Always"),
        vec![instance("web", 0, State::Exited, 137)],
        &[],
        true,
    );
    assert_eq!(phase_of(&status), "Failed");
    let status = made(&simple("Always"), vec![], &[], true);
    assert_eq!(phase_of(&status), "Failed");
}

#[test]
fn init_containers_hold_the_pod_in_pending() {
    let pod = pod(
        json!({"restartPolicy": "Never", "initContainers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "web"}]}),
    );
    let status = made(&pod, vec![instance("a", 0, State::Running, 0)], &[], false);
    assert_eq!(phase_of(&status), "Pending");
    let initialized = condition(&status, "Initialized");
    assert_eq!(initialized.reason.as_deref(), Some("ContainersNotInitialized"));
    assert_eq!(
        initialized.message.as_deref(),
        Some("containers with incomplete status: [a b]")
    );
    let waiting = status.container_statuses.as_ref().unwrap()[0]
        .state
        .as_ref()
        .unwrap()
        .waiting
        .as_ref()
        .unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
    let status = made(&pod, vec![instance("a", 0, State::Exited, 1)], &[], false);
    assert_eq!(phase_of(&status), "Failed");
}

#[test]
fn ended_init_container_that_never_restarted_has_no_last_state() {
    let pod = pod(json!({"initContainers": [{"name": "a"}], "containers": [{"name": "web"}]}));
    let ended = instance("a", 0, State::Exited, 0);
    let history = History {
        last: Some(terminated(&ended)),
        ..History::default()
    };
    let status = status(&Facts {
        pod: &pod,
        observed: &Observed::new(Vec::new(), vec![ended]),
        waiting: &BTreeMap::new(),
        verdicts: &BTreeMap::new(),
        history: &BTreeMap::from([("a".to_owned(), history)]),
        previous: &core::PodStatus::default(),
        host_ips: &[],
        over: false,
        now: Timestamp::UNIX_EPOCH,
    });
    let init = &status.init_container_statuses.as_ref().unwrap()[0];
    assert!(init.state.as_ref().unwrap().terminated.is_some());
    assert_eq!(init.last_state, None);
}

#[test]
fn image_is_shown_by_the_name_in_the_pod_while_it_is_the_one_that_runs() {
    let pod = simple("Always");
    let mut running = instance("web", 0, State::Running, 0);
    running.image = "docker.io/library/same-content:2".into();
    let shown = |running: Container| {
        let status = made(&pod, vec![running], &[], false);
        status.container_statuses.unwrap()[0].image.clone()
    };
    assert_eq!(shown(running.clone()), "docker.io/library/same-content:2");
    running.hash = container::hash(&pod.spec.as_ref().unwrap().containers[0]);
    assert_eq!(shown(running), "docker.io/library/i:1");
}

#[test]
fn container_that_could_not_start_started_at_the_epoch() {
    let mut failed = instance("web", 0, State::Exited, 128);
    failed.started_at = 0;
    let started = terminated(&failed).started_at.unwrap();
    assert_eq!(started.0.to_string(), "1970-01-01T00:00:00Z");
}

#[test]
fn condition_keeps_its_time_until_it_turns() {
    let first = made(
        &simple("Always"),
        vec![instance("web", 0, State::Running, 0)],
        &[],
        false,
    );
    let later = with(
        &simple("Always"),
        vec![instance("web", 0, State::Running, 0)],
        &[],
        false,
        &first,
        1_700_000_100,
    );
    assert_eq!(first, later);
    let turned = with(&simple("Always"), vec![], &[], false, &first, 1_700_000_100);
    let time = |status: &core::PodStatus| {
        condition(status, "Ready")
            .last_transition_time
            .as_ref()
            .unwrap()
            .0
            .as_second()
    };
    assert_eq!((time(&first), time(&turned)), (1_700_000_010, 1_700_000_100));
    assert_eq!(turned.start_time, first.start_time);
}

#[test]
fn an_end_is_final() {
    let previous = core::PodStatus {
        phase: Some("Failed".into()),
        ..core::PodStatus::default()
    };
    let status = with(
        &simple("Always"),
        vec![instance("web", 0, State::Running, 0)],
        &[],
        false,
        &previous,
        1_700_000_010,
    );
    assert_eq!(phase_of(&status), "Failed");
}

#[test]
fn readiness_gate_holds_back_ready_but_not_containers_ready() {
    let pod = pod(json!({"readinessGates": [{"conditionType": "x"}], "containers": [{"name": "web"}]}));
    let status = made(&pod, vec![instance("web", 0, State::Running, 0)], &[], false);
    assert_eq!(condition(&status, "ContainersReady").status, "True");
    assert_eq!(
        condition(&status, "Ready").reason.as_deref(),
        Some("ReadinessGatesNotReady")
    );
}

#[test]
fn host_network_pod_has_the_addresses_of_its_node() {
    let pod = pod(json!({"hostNetwork": true, "containers": [{"name": "web"}]}));
    let status = made(&pod, vec![instance("web", 0, State::Running, 0)], &[], false);
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.1"));
}

fn probed(pod: &core::Pod, containers: Vec<Container>, verdicts: &Verdicts) -> core::PodStatus {
    status(&Facts {
        pod,
        observed: &Observed::new(Vec::new(), containers),
        waiting: &BTreeMap::new(),
        verdicts,
        history: &BTreeMap::new(),
        previous: &core::PodStatus::default(),
        host_ips: &[],
        over: false,
        now: Timestamp::UNIX_EPOCH,
    })
}

#[test]
fn probes_decide_whether_what_runs_has_started_and_is_ready() {
    let pod = pod(json!({"containers": [{"name": "web", "startupProbe": {}, "readinessProbe": {}}]}));
    let shown = |verdict: Option<(bool, bool)>| {
        let verdict = verdict.map(|(started, ready)| crate::probes::Verdict {
            started,
            ready,
            failed: None,
        });
        let verdicts = verdict
            .map(|verdict| ("web-0".to_owned(), verdict))
            .into_iter()
            .collect();
        let status = probed(&pod, vec![instance("web", 0, State::Running, 0)], &verdicts);
        let container = &status.container_statuses.as_ref().unwrap()[0];
        let ready = condition(&status, "Ready").status == "True";
        assert_eq!(ready, container.ready);
        assert_eq!(phase_of(&status), "Running");
        (container.started.unwrap(), ready)
    };
    assert_eq!(shown(None), (false, false), "nothing is known before the first check");
    for verdict in [(false, false), (true, false), (true, true)] {
        assert_eq!(shown(Some(verdict)), verdict);
    }
}

#[test]
fn sidecar_that_is_not_ready_keeps_the_pod_from_being_ready() {
    let pod = pod(
        json!({"initContainers": [{"name": "side", "restartPolicy": "Always", "readinessProbe": {}}],
        "containers": [{"name": "web"}]}),
    );
    let containers = vec![
        instance("side", 0, State::Running, 0),
        instance("web", 0, State::Running, 0),
    ];
    let status = probed(&pod, containers, &BTreeMap::new());
    assert_eq!(
        condition(&status, "ContainersReady").message.as_deref(),
        Some("containers with unready status: [side]")
    );
}

#[test]
fn init_container_is_ready_once_it_has_succeeded() {
    let pod = pod(json!({"initContainers": [{"name": "a"}], "containers": [{"name": "web"}]}));
    let status = probed(&pod, vec![instance("a", 0, State::Running, 0)], &BTreeMap::new());
    assert!(!status.init_container_statuses.as_ref().unwrap()[0].ready);
    let status = probed(&pod, vec![instance("a", 0, State::Exited, 0)], &BTreeMap::new());
    assert!(status.init_container_statuses.as_ref().unwrap()[0].ready);
}
