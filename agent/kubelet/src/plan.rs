//! What to do next for one pod: a pure function of what is wanted, what is there and what went wrong before.
//!
//! A plan holds only the next step. Whoever applies it looks again and plans again until nothing is left to do, so that
//! nothing rests on a step having worked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1 as core;

use crate::back_off::BackOff;
use crate::container;
use crate::identity::PodIdentity;
use crate::observed::{Container, Observed, Sandbox, State};
use crate::probes::{Kind, Verdicts, verdict};

/// What is wanted of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Run it.
    Run,
    /// It has reached its end (by its own status or the control plane's): let nothing of it run, keep its records.
    End,
    /// Stop it and remove all that is left of it.
    Remove,
}

/// What the kubelet remembers of a pod from one plan to the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// Waits of containers that ended, by container name.
    pub(crate) crashes: BackOff,
    /// When each ended container was first seen ended, by container id.
    pub(crate) exits: BTreeMap<String, Instant>,
    /// Highest instance number known from elsewhere than the runtime: log files and the pod's stored status.
    pub(crate) attempts: BTreeMap<String, u32>,
    /// No step of this kind before the time: `sandbox`, `volumes`, or a container's name.
    pub(crate) not_before: BTreeMap<String, Instant>,
    /// Sandboxes that have been stopped since the agent started; stopping one twice is work for nothing.
    pub(crate) stopped: BTreeSet<String>,
    /// What probes say of containers.
    pub(crate) verdicts: Verdicts,
}

/// Why a container does not run, as in `state.waiting`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// A container that is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Text of the event `Killing`.
    pub(crate) message: String,
    /// Seconds it may take, where that is not the pod's grace period.
    pub(crate) grace: Option<i64>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ask these to end, all at once, and kill them when the pod's grace period is over.
    StopContainers(Vec<Stop>),
    /// Remove what is left of a container.
    RemoveContainer(String),
    /// End all in a sandbox and free its addresses.
    StopSandbox(String),
    /// Remove a stopped sandbox with its containers.
    RemoveSandbox(String),
    /// Make a sandbox with this number.
    RunSandbox(u32),
    /// Have the image, make the container, start it.
    StartContainer {
        /// Id of the sandbox.
        sandbox: String,
        /// Name in the pod.
        name: String,
        /// Its number, and `restartCount`.
        attempt: u32,
        /// The instance that ended, when this replaces one.
        replaces: Option<String>,
    },
    /// Nothing runs and nothing is left in the runtime: remove files, and tell the control plane.
    Finish,
}

/// The next step, and what to tell meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    /// Plan again after this long even if nothing happens.
    pub(crate) wake_after: Option<Duration>,
    /// Containers that wait for a restart.
    pub(crate) crashing: BTreeMap<String, Waiting>,
}

impl Plan {
    fn wake(&mut self, after: Duration) {
        self.wake_after = Some(self.wake_after.map_or(after, |present| present.min(after)));
    }
}

/// All that a plan is made from.
pub(crate) struct Situation<'a> {
    pub(crate) pod: &'a core::Pod,
    pub(crate) intent: Intent,
    pub(crate) observed: &'a Observed,
    pub(crate) memory: &'a Memory,
    /// Every volume is there; without that nothing new starts.
    pub(crate) volumes_ready: bool,
    /// What runs goes on for a moment, though the pod is to go: requests may still come.
    pub(crate) draining: bool,
    pub(crate) now: Instant,
}

/// The next step for a pod.
pub(crate) fn plan(situation: &Situation<'_>) -> Plan {
    match situation.intent {
        Intent::Run => run(situation),
        Intent::End => stop(situation, false),
        Intent::Remove => stop(situation, true),
    }
}

fn stop(situation: &Situation<'_>, remove: bool) -> Plan {
    let Situation { observed, memory, .. } = situation;
    let mut plan = Plan::default();
    let running = observed
        .containers
        .iter()
        .filter(|container| matches!(container.state, State::Running | State::Unknown));
    let mut stops: Vec<Stop> = running.map(|container| stop_order(container, None)).collect();
    // Sidecars serve the others to their end, and each other in the order in which they were started.
    let sidecars = situation
        .pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars: Vec<&str> = sidecars
        .filter(|init| is_sidecar(init))
        .map(|init| init.name.as_str())
        .collect();
    let place = |stop: &Stop| sidecars.iter().position(|name| *name == stop.name);
    if stops.iter().any(|stop| place(stop).is_none()) {
        stops.retain(|stop| place(stop).is_none());
    } else {
        let last = stops.iter().filter_map(place).max();
        stops.retain(|stop| place(stop) == last);
    }
    if !stops.is_empty() {
        if situation.draining {
            return plan;
        }
        plan.actions.push(Action::StopContainers(stops));
        return plan;
    }
    for sandbox in &observed.sandboxes {
        if remove || sandbox.ready || !memory.stopped.contains(&sandbox.id) {
            plan.actions.push(Action::StopSandbox(sandbox.id.clone()));
        }
        if remove {
            plan.actions.push(Action::RemoveSandbox(sandbox.id.clone()));
        }
    }
    if remove {
        let known: BTreeSet<_> = observed.sandboxes.iter().map(|sandbox| &sandbox.id).collect();
        let orphans = observed
            .containers
            .iter()
            .filter(|container| !known.contains(&container.sandbox));
        plan.actions
            .extend(orphans.map(|container| Action::RemoveContainer(container.id.clone())));
        if plan.actions.is_empty() {
            plan.actions.push(Action::Finish);
        }
    }
    hold_back(situation, &mut plan, "sandbox");
    plan
}

fn stop_order(container: &Container, message: Option<String>) -> Stop {
    let message = message.unwrap_or_else(|| format!("Stopping container {}", container.name));
    Stop {
        id: container.id.clone(),
        name: container.name.clone(),
        message,
        grace: None,
    }
}

/// A container whose probe failed is ended in the time that the probe allows.
fn unhealthy_order(found: &Container, container: &core::Container, kind: Kind, policy: &str) -> Stop {
    let again = if policy == "Never" { "" } else { ", will be restarted" };
    let kind_name = kind.to_string().to_lowercase();
    let message = format!("Container {} failed {kind_name} probe{again}", container.name);
    Stop {
        grace: kind
            .of(container)
            .and_then(|probe| probe.termination_grace_period_seconds),
        ..stop_order(found, Some(message))
    }
}

/// Drops the steps when the last try of their kind was too short ago.
fn hold_back(situation: &Situation<'_>, plan: &mut Plan, kind: &str) {
    if !plan.actions.is_empty()
        && let Some(wait) = held(situation, kind)
    {
        plan.actions.clear();
        plan.wake(wait);
    }
}

fn held(situation: &Situation<'_>, kind: &str) -> Option<Duration> {
    let wait = situation
        .memory
        .not_before
        .get(kind)?
        .checked_duration_since(situation.now)?;
    (!wait.is_zero()).then_some(wait)
}

/// What is to become of one container.
enum Fate {
    /// It runs, or is done for good.
    Settled,
    /// Start it, after removing a leftover that never ran.
    Start {
        replaces: Option<String>,
        remove: Option<String>,
    },
    /// Start it once the wait is over.
    Wait(Duration),
    /// It is not what the pod asks for any more.
    Replace(Stop),
    /// It failed, and so does the pod.
    Failed,
}

fn restart_policy(spec: &core::PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// An init container that keeps running beside the others.
pub(crate) fn is_sidecar(container: &core::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn run(situation: &Situation<'_>) -> Plan {
    let Situation { pod, observed, .. } = situation;
    let mut plan = Plan::default();
    let Some(spec) = &pod.spec else { return plan };
    let sandbox = observed.ready_sandbox();
    let here = sandbox.map(|sandbox| sandbox.id.as_str()).unwrap_or_default();

    let mut starts = Vec::new();
    let mut first = Vec::new();
    // Init containers run once per sandbox, in order; once a main container exists here they are known to be done.
    let mains_exist = spec
        .containers
        .iter()
        .any(|container| observed.instances(&container.name).any(|found| found.sandbox == here));
    let mut initialized = true;
    let mut failed = false;
    for container in spec.init_containers.iter().flatten() {
        let sidecar = is_sidecar(container);
        if mains_exist && !sidecar {
            continue;
        }
        let policy = match (sidecar, restart_policy(spec)) {
            (true, _) => "Always",
            // An init container that has succeeded is never run again.
            (false, "Never") => "Never",
            (false, _) => "OnFailure",
        };
        let fate = fate(situation, container, policy, here);
        let done = match &fate {
            Fate::Settled => latest_here(observed, &container.name, here).is_some_and(|found| {
                if sidecar {
                    // The next one may need it.
                    found.state == State::Running && verdict(&situation.memory.verdicts, container, &found.id).started
                } else {
                    found.state == State::Exited && found.exit_code == 0
                }
            }),
            _ => false,
        };
        failed |= matches!(fate, Fate::Failed);
        apply(situation, &mut plan, &mut starts, &mut first, container, fate);
        if !done && !mains_exist {
            initialized = false;
            break;
        }
    }
    // After a pod's restart in a new sandbox main containers that are done for good stay done.
    let mut unfinished = false;
    let mut main_starts = Vec::new();
    for container in &spec.containers {
        let fate = fate(situation, container, restart_policy(spec), here);
        unfinished |= !matches!(fate, Fate::Settled)
            || observed
                .latest(&container.name)
                .is_some_and(|found| found.state != State::Exited);
        if initialized && !failed {
            apply(situation, &mut plan, &mut main_starts, &mut first, container, fate);
        }
    }
    starts.append(&mut main_starts);

    if failed || !unfinished {
        // The pod is over: its sidecars go, its network too.
        return stop(situation, false);
    }
    let Some(sandbox) = sandbox else {
        return new_sandbox(situation);
    };
    // Sandboxes of the past, left by a crash.
    for old in observed.sandboxes.iter().filter(|old| old.id != sandbox.id) {
        first.extend([
            Action::StopSandbox(old.id.clone()),
            Action::RemoveSandbox(old.id.clone()),
        ]);
    }
    first.extend(superseded(observed, sandbox).map(|container| Action::RemoveContainer(container.id.clone())));
    if !situation.volumes_ready {
        starts.clear();
    }
    plan.actions = first;
    plan.actions.append(&mut starts);
    plan
}

fn latest_here<'a>(observed: &'a Observed, name: &'a str, sandbox: &str) -> Option<&'a Container> {
    observed.instances(name).find(|found| found.sandbox == sandbox)
}

/// Dead instances but the last one, whose record and log are still of use.
fn superseded<'a>(observed: &'a Observed, sandbox: &'a Sandbox) -> impl Iterator<Item = &'a Container> {
    let mut kept = BTreeSet::new();
    observed.containers.iter().filter(move |container| {
        container.sandbox == sandbox.id && container.state == State::Exited && !kept.insert(container.name.as_str())
    })
}

fn new_sandbox(situation: &Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    for old in &situation.observed.sandboxes {
        // Frees the address and ends what may still run in it; needed also for one that a power cut left.
        plan.actions.extend([
            Action::StopSandbox(old.id.clone()),
            Action::RemoveSandbox(old.id.clone()),
        ]);
    }
    if situation.volumes_ready {
        let attempt = situation
            .observed
            .sandboxes
            .first()
            .map_or(0, |sandbox| sandbox.attempt + 1);
        plan.actions.push(Action::RunSandbox(attempt));
    }
    hold_back(situation, &mut plan, "sandbox");
    plan
}

fn fate(situation: &Situation<'_>, container: &core::Container, policy: &str, here: &str) -> Fate {
    let Situation {
        observed, memory, now, ..
    } = situation;
    let Some(found) = latest_here(observed, &container.name, here) else {
        // Not in this sandbox. What ended for good in an earlier one is not run again.
        let before = observed
            .latest(&container.name)
            .filter(|found| found.state == State::Exited);
        let is_init = situation.pod.spec.as_ref().is_some_and(|spec| {
            spec.init_containers
                .iter()
                .flatten()
                .any(|init| init.name == container.name)
        });
        return match before {
            Some(ended) if !is_init && policy == "Never" && ended.exit_code != 0 => Fate::Settled,
            Some(ended) if !is_init && policy != "Always" && ended.exit_code == 0 => Fate::Settled,
            before => Fate::Start {
                replaces: before.map(|ended| ended.id.clone()),
                remove: None,
            },
        };
    };
    match found.state {
        State::Running if found.hash != container::hash(container) => {
            let message = format!("Container {} definition changed, will be restarted", container.name);
            Fate::Replace(stop_order(found, Some(message)))
        }
        State::Running => match verdict(&memory.verdicts, container, &found.id).failed {
            Some(kind) => Fate::Replace(unhealthy_order(found, container, kind, policy)),
            None => Fate::Settled,
        },
        // The agent ended between making and starting it.
        State::Created => Fate::Start {
            replaces: None,
            remove: Some(found.id.clone()),
        },
        State::Unknown => Fate::Replace(stop_order(found, None)),
        State::Exited => {
            let definition_changed = found.hash != container::hash(container);
            match (policy, found.exit_code) {
                _ if definition_changed => {}
                // Its probe ended it: that it did so gracefully does not mean that its work is done.
                ("OnFailure", 0) if verdict(&memory.verdicts, container, &found.id).failed.is_some() => {}
                ("Never", 0) | ("OnFailure", 0) => return Fate::Settled,
                ("Never", _) => {
                    return if is_main(situation, container) {
                        Fate::Settled
                    } else {
                        Fate::Failed
                    };
                }
                _ => {}
            }
            let ended = memory.exits.get(&found.id).copied().unwrap_or(*now);
            match memory.crashes.remaining(&container.name, ended, *now) {
                Some(wait) => Fate::Wait(wait),
                None => Fate::Start {
                    replaces: Some(found.id.clone()),
                    remove: None,
                },
            }
        }
    }
}

fn is_main(situation: &Situation<'_>, container: &core::Container) -> bool {
    situation
        .pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.containers.iter().any(|main| main.name == container.name))
}

fn apply(
    situation: &Situation<'_>,
    plan: &mut Plan,
    starts: &mut Vec<Action>,
    first: &mut Vec<Action>,
    container: &core::Container,
    fate: Fate,
) {
    match fate {
        Fate::Settled | Fate::Failed => {}
        Fate::Replace(order) => match first.iter_mut().find_map(|action| match action {
            Action::StopContainers(orders) => Some(orders),
            _ => None,
        }) {
            Some(orders) => orders.push(order),
            None => first.push(Action::StopContainers(vec![order])),
        },
        Fate::Wait(wait) => {
            let delay = situation.memory.crashes.delay(&container.name);
            plan.crashing.insert(
                container.name.clone(),
                crash_waiting(situation.pod, &container.name, delay),
            );
            plan.wake(wait);
        }
        Fate::Start { replaces, remove } => {
            if let Some(wait) = held(situation, &container.name) {
                plan.wake(wait);
                return;
            }
            first.extend(remove.map(Action::RemoveContainer));
            let sandbox = situation
                .observed
                .ready_sandbox()
                .map(|sandbox| sandbox.id.clone())
                .unwrap_or_default();
            let attempt = next_attempt(situation, &container.name);
            starts.push(Action::StartContainer {
                sandbox,
                name: container.name.clone(),
                attempt,
                replaces,
            });
        }
    }
}

/// Kubernetes' own words.
fn crash_waiting(pod: &core::Pod, name: &str, delay: Duration) -> Waiting {
    let pod = PodIdentity::of(pod);
    Waiting {
        reason: "CrashLoopBackOff".into(),
        message: format!(
            "back-off {} restarting failed container={name} pod={pod}",
            go_duration(delay)
        ),
    }
}

/// As Go prints a duration of whole seconds: `10s`, `1m20s`, `5m0s`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{seconds}s")
    } else {
        format!("{}m{}s", seconds / 60, seconds % 60)
    }
}

/// One more than any instance known of; instances that were made but never ran do not count.
fn next_attempt(situation: &Situation<'_>, name: &str) -> u32 {
    let ran = situation
        .observed
        .instances(name)
        .filter(|found| found.state != State::Created)
        .map(|found| found.attempt);
    let remembered = situation.memory.attempts.get(name).copied();
    ran.chain(remembered).max().map_or(0, |attempt| attempt + 1)
}

#[cfg(test)]
mod tests;
