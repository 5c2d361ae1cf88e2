//! The status of a pod, worked out from what the runtime holds: phase, conditions, containers, addresses.
//!
//! The rules are those of `getPhase`, `convertStatusToAPIStatus` and `pkg/kubelet/status/generate.go` in Kubernetes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::observed::{Container, Observed, State};
use crate::plan::{Waiting, is_sidecar};
use crate::probes::{Verdicts, verdict};
use crate::{archive, container, resources};

/// What was known of a container before the runtime's present records.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct History {
    /// Its `restartCount` then.
    pub(crate) restart_count: u32,
    /// How its last instance ended.
    pub(crate) last: Option<core::ContainerStateTerminated>,
    /// Name and digest of the image it ran.
    pub(crate) image: (String, String),
}

/// All that a status is made from.
pub(crate) struct Facts<'a> {
    pub(crate) pod: &'a core::Pod,
    pub(crate) observed: &'a Observed,
    /// Why containers do not run, as far as more is known than "not yet".
    pub(crate) waiting: &'a BTreeMap<String, Waiting>,
    /// What probes say of containers.
    pub(crate) verdicts: &'a Verdicts,
    pub(crate) history: &'a BTreeMap<String, History>,
    /// The status worked out before, for the times of conditions.
    pub(crate) previous: &'a core::PodStatus,
    /// Addresses of the node, the first one is *the* address.
    pub(crate) host_ips: &'a [String],
    /// Nothing of the pod runs and nothing will be started.
    pub(crate) over: bool,
    pub(crate) now: Timestamp,
}

/// A time of the runtime, in whole seconds as Kubernetes writes them; `None` for "not happened".
pub(crate) fn time(nanoseconds: i64) -> Option<Time> {
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    if nanoseconds <= 0 {
        None
    } else {
        Timestamp::from_second(seconds).ok().map(Time)
    }
}

/// The status as it is to be stored.
pub(crate) fn status(facts: &Facts<'_>) -> core::PodStatus {
    let Facts {
        pod,
        observed,
        previous,
        ..
    } = facts;
    let empty = core::PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let inits: Vec<_> = spec.init_containers.iter().flatten().collect();
    let has_inits = !inits.is_empty();
    let init_statuses: Vec<_> = inits
        .iter()
        .map(|container| container_status(facts, container, has_inits))
        .collect();
    let statuses: Vec<_> = spec
        .containers
        .iter()
        .map(|container| container_status(facts, container, has_inits))
        .collect();
    let phase = phase(spec, &init_statuses, &statuses, facts.over);
    let phase = match previous.phase.as_deref() {
        // An end is final.
        Some(end @ ("Succeeded" | "Failed")) => end,
        _ => phase,
    };
    let host_network = spec.host_network == Some(true);
    let pod_ips: &[String] = match observed.ready_sandbox() {
        Some(_) if host_network => facts.host_ips,
        Some(sandbox) => &sandbox.ips,
        None => &[],
    };
    let ready_sandbox = observed
        .ready_sandbox()
        .is_some_and(|sandbox| host_network || !sandbox.ips.is_empty());
    let final_phase = matches!(phase, "Succeeded" | "Failed");
    let conditions = conditions(facts, spec, &init_statuses, &statuses, phase, ready_sandbox);
    core::PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        message: previous.message.clone(),
        reason: previous.reason.clone(),
        host_ip: facts.host_ips.first().cloned(),
        host_ips: none_if_empty(
            facts
                .host_ips
                .iter()
                .map(|ip| core::HostIP { ip: ip.clone() })
                .collect(),
        ),
        // A pod that is over shows the address it had.
        pod_ip: pod_ips
            .first()
            .cloned()
            .or_else(|| previous.pod_ip.clone().filter(|_| final_phase)),
        pod_ips: none_if_empty(pod_ips.iter().map(|ip| core::PodIP { ip: ip.clone() }).collect())
            .or_else(|| previous.pod_ips.clone().filter(|_| final_phase)),
        start_time: Some(previous.start_time.clone().unwrap_or_else(|| whole_seconds(facts.now))),
        init_container_statuses: none_if_empty(init_statuses),
        container_statuses: none_if_empty(statuses),
        qos_class: Some(resources::qos_class(spec).name().to_owned()),
        observed_generation: pod.metadata.generation,
        ..core::PodStatus::default()
    }
}

fn none_if_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn whole_seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// How an ended container ended.
pub(crate) fn terminated(container: &Container) -> core::ContainerStateTerminated {
    let reason = match (container.reason.as_str(), container.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    core::ContainerStateTerminated {
        container_id: Some(format!("containerd://{}", container.id)),
        exit_code: container.exit_code,
        reason: Some(reason.to_owned()),
        message: (!container.message.is_empty()).then(|| container.message.clone()),
        // Kubernetes writes the epoch for what never started.
        started_at: time(container.started_at).or(Some(Time(Timestamp::UNIX_EPOCH))),
        finished_at: time(container.finished_at),
        signal: None,
    }
}

fn container_status(facts: &Facts<'_>, spec: &core::Container, has_inits: bool) -> core::ContainerStatus {
    let history = facts.history.get(&spec.name);
    let waiting = facts.waiting.get(&spec.name);
    let last_of = |terminated: core::ContainerStateTerminated| core::ContainerState {
        terminated: Some(terminated),
        ..core::ContainerState::default()
    };
    let waiting_state = |waiting: Option<&Waiting>| {
        let reason = if has_inits {
            "PodInitializing"
        } else {
            "ContainerCreating"
        };
        core::ContainerState {
            waiting: Some(core::ContainerStateWaiting {
                reason: Some(waiting.map_or(reason, |waiting| &waiting.reason).to_owned()),
                message: waiting
                    .map(|waiting| waiting.message.clone())
                    .filter(|message| !message.is_empty()),
            }),
            ..core::ContainerState::default()
        }
    };
    let mut status = core::ContainerStatus {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        started: Some(false),
        ..core::ContainerStatus::default()
    };
    let Some(found) = facts.observed.latest(&spec.name) else {
        if let Some(history) = history {
            status.restart_count = i32::try_from(history.restart_count).unwrap_or(i32::MAX);
            status.last_state = history.last.clone().map(last_of);
        }
        // What the runtime has no record of any more, in a pod that is over, ended as it did.
        match history.and_then(|history| history.last.clone()).filter(|_| facts.over) {
            Some(ended) => {
                if let Some(history) = history {
                    (status.image, status.image_id) = history.image.clone();
                }
                status.container_id.clone_from(&ended.container_id);
                status.state = Some(last_of(ended));
                status.last_state = None;
            }
            None => status.state = Some(waiting_state(waiting)),
        }
        return status;
    };
    let id = format!("containerd://{}", found.id);
    status.container_id = Some(id.clone());
    if found.hash == container::hash(spec) {
        // Made from the image that the pod names; the runtime may show another name of the same content.
        status.image = archive::full_name(&status.image);
    } else if !found.image.is_empty() {
        status.image.clone_from(&found.image);
    }
    status.image_id.clone_from(&found.image_id);
    status.restart_count = i32::try_from(found.attempt).unwrap_or(i32::MAX);
    let earlier = facts
        .observed
        .instances(&spec.name)
        .skip(1)
        .find(|earlier| earlier.state == State::Exited);
    status.last_state = earlier
        .map(terminated)
        .or_else(|| {
            // What is known of the present instance is no earlier one.
            history
                .and_then(|history| history.last.clone())
                .filter(|last| last.container_id.as_ref() != Some(&id))
        })
        .map(last_of);
    match found.state {
        State::Running => {
            let running = core::ContainerStateRunning {
                started_at: time(found.started_at),
            };
            status.state = Some(core::ContainerState {
                running: Some(running),
                ..core::ContainerState::default()
            });
            let verdict = verdict(facts.verdicts, spec, &found.id);
            status.started = Some(verdict.started);
            // An init container is ready when it has succeeded.
            status.ready = verdict.ready && (is_sidecar(spec) || !is_init(facts.pod, &spec.name));
        }
        State::Exited => {
            let ended = last_of(terminated(found));
            if let Some(waiting) = waiting.filter(|_| !facts.over) {
                status.last_state = Some(ended);
                status.state = Some(waiting_state(Some(waiting)));
            } else {
                // An init container that succeeded counts as ready.
                status.ready = is_init(facts.pod, &spec.name) && found.exit_code == 0;
                status.state = Some(ended);
            }
        }
        State::Created | State::Unknown => status.state = Some(waiting_state(waiting)),
    }
    status
}

fn is_init(pod: &core::Pod, name: &str) -> bool {
    pod.spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .any(|container| container.name == name)
}

fn ended(state: Option<&core::ContainerState>) -> Option<&core::ContainerStateTerminated> {
    state.and_then(|state| state.terminated.as_ref())
}

fn is_running(status: &core::ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// Whether an init container lets the next one start.
fn init_done(spec: &core::PodSpec, status: &core::ContainerStatus) -> bool {
    let sidecar = spec
        .init_containers
        .iter()
        .flatten()
        .any(|container| container.name == status.name && is_sidecar(container));
    if sidecar {
        is_running(status) && status.started == Some(true)
    } else {
        ended(status.state.as_ref()).is_some_and(|ended| ended.exit_code == 0)
    }
}

fn phase(
    spec: &core::PodSpec,
    inits: &[core::ContainerStatus],
    mains: &[core::ContainerStatus],
    over: bool,
) -> &'static str {
    let never = spec.restart_policy.as_deref() == Some("Never");
    let plain = || {
        let plain = |status: &&core::ContainerStatus| {
            !spec
                .init_containers
                .iter()
                .flatten()
                .any(|container| container.name == status.name && is_sidecar(container))
        };
        inits.iter().filter(plain)
    };
    let init_failed = plain().any(|status| {
        ended(status.state.as_ref())
            .or_else(|| ended(status.last_state.as_ref()))
            .is_some_and(|ended| ended.exit_code != 0)
            && !init_done(spec, status)
    });
    if init_failed && (never || over) {
        return "Failed";
    }
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in mains {
        if is_running(status) {
            running += 1;
        } else if let Some(ended) = ended(status.state.as_ref()) {
            stopped += 1;
            succeeded += u32::from(ended.exit_code == 0);
        } else if ended(status.last_state.as_ref()).is_some() {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    // Once a main container has run the init containers' records may be gone.
    let initialized = running + stopped > 0 || plain().all(|status| init_done(spec, status));
    if over && running == 0 {
        // A pod that was stopped before all its containers ran has not done its work.
        return if stopped > 0 && succeeded == stopped && waiting == 0 {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    match (initialized, waiting, running, stopped) {
        (false, ..) => "Pending",
        (true, 1.., ..) => "Pending",
        (true, 0, 1.., _) => "Running",
        (true, 0, 0, 1..) => match spec.restart_policy.as_deref() {
            Some("Never") if stopped == succeeded => "Succeeded",
            Some("Never") => "Failed",
            Some("OnFailure") if stopped == succeeded => "Succeeded",
            _ => "Running",
        },
        _ => "Pending",
    }
}

/// Status, reason and message of a condition.
type Verdict = (bool, Option<&'static str>, Option<String>);

fn conditions(
    facts: &Facts<'_>,
    spec: &core::PodSpec,
    inits: &[core::ContainerStatus],
    mains: &[core::ContainerStatus],
    phase: &str,
    sandbox_ready: bool,
) -> Vec<core::PodCondition> {
    let names = |statuses: &[&core::ContainerStatus]| {
        format!(
            "[{}]",
            statuses
                .iter()
                .map(|status| status.name.as_str())
                .collect::<Vec<_>>()
                .join(" ")
        )
    };
    let mains_ran = mains
        .iter()
        .any(|status| is_running(status) || status.container_id.is_some());
    let incomplete: Vec<_> = inits.iter().filter(|status| !init_done(spec, status)).collect();
    let initialized: Verdict = if phase == "Succeeded" {
        (true, Some("PodCompleted"), None)
    } else if incomplete.is_empty() || mains_ran {
        (true, None, None)
    } else {
        (
            false,
            Some("ContainersNotInitialized"),
            Some(format!("containers with incomplete status: {}", names(&incomplete))),
        )
    };
    let sidecars = inits.iter().filter(|status| {
        let mut all = spec.init_containers.iter().flatten();
        all.any(|container| container.name == status.name && is_sidecar(container))
    });
    let unready: Vec<_> = sidecars.chain(mains).filter(|status| !status.ready).collect();
    let containers_ready: Verdict = match phase {
        "Succeeded" => (false, Some("PodCompleted"), None),
        "Failed" => (false, Some("PodFailed"), None),
        _ if unready.is_empty() => (true, None, None),
        _ => (
            false,
            Some("ContainersNotReady"),
            Some(format!("containers with unready status: {}", names(&unready))),
        ),
    };
    let stored = facts
        .pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let stored: BTreeMap<&str, &core::PodCondition> =
        stored.map(|condition| (condition.type_.as_str(), condition)).collect();
    let open: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| match stored.get(gate.condition_type.as_str()) {
            Some(condition) if condition.status == "True" => None,
            Some(condition) => Some(format!(
                "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                gate.condition_type, condition.status
            )),
            None => Some(format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            )),
        })
        .collect();
    let ready = if containers_ready.0 && !open.is_empty() {
        (false, Some("ReadinessGatesNotReady"), Some(open.join(", ")))
    } else {
        containers_ready.clone()
    };
    let verdicts: [(&str, Verdict); 5] = [
        ("PodReadyToStartContainers", (sandbox_ready, None, None)),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", (true, None, None)),
    ];
    let previous = |kind: &str| {
        let mine = facts
            .previous
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == kind);
        mine.or_else(|| stored.get(kind).copied())
    };
    verdicts
        .into_iter()
        .map(|(kind, (holds, reason, message))| {
            let status = if holds { "True" } else { "False" };
            let unchanged = previous(kind).filter(|condition| condition.status == status);
            let since = unchanged.and_then(|condition| condition.last_transition_time.clone());
            core::PodCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: reason.map(str::to_owned),
                message,
                last_transition_time: Some(since.unwrap_or_else(|| whole_seconds(facts.now))),
                last_probe_time: None,
                observed_generation: facts.pod.metadata.generation,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
