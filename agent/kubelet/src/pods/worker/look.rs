//! Looking: what the runtime holds of the pod now, and what was known before this agent started.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1 as core;

use crate::directories;
use crate::observed::{self, Container, Observed, State};
use crate::runtime::{RuntimeError, label};
use crate::status::{self, History};
use crate::termination;

use super::Worker;

/// First wait for CRI to notice an end that containerd has told, and when to leave it to the next relist.
pub(super) const LAG_FIRST: Duration = Duration::from_millis(20);
const LAG_LONGEST: Duration = Duration::from_secs(30);
/// An end may be followed by the news that memory was the reason.
const SETTLING: Duration = Duration::from_secs(2);

impl Worker {
    /// What is known of the pod from before this agent started: its stored status and its log files.
    pub(super) fn remember(&mut self, pod: &core::Pod) {
        let stored = pod.status.clone().unwrap_or_default();
        let statuses = stored
            .container_statuses
            .iter()
            .chain(&stored.init_container_statuses)
            .flatten();
        for status in statuses.filter(|status| status.container_id.is_some() || status.restart_count > 0) {
            let count = u32::try_from(status.restart_count).unwrap_or(0);
            let ended =
                |state: &Option<core::ContainerState>| state.as_ref().and_then(|state| state.terminated.clone());
            let last = ended(&status.state).or_else(|| ended(&status.last_state));
            self.memory.attempts.insert(status.name.clone(), count);
            let image = (status.image.clone(), status.image_id.clone());
            self.history.insert(
                status.name.clone(),
                History {
                    restart_count: count,
                    last,
                    image,
                },
            );
        }
        self.probes.remember(&stored);
        let logs = self.context.directories.pod_logs(&self.identity);
        for container in pod
            .spec
            .iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
        {
            if let Some(number) = directories::last_attempt(&logs, &container.name) {
                let known = self.memory.attempts.entry(container.name.clone()).or_default();
                *known = number.max(*known);
                let history = self.history.entry(container.name.clone()).or_default();
                history.restart_count = history.restart_count.max(*known);
            }
        }
        // Times and a final phase go on from what is stored.
        self.previous = core::PodStatus {
            conditions: stored.conditions,
            start_time: stored.start_time,
            phase: stored
                .phase
                .filter(|phase| matches!(phase.as_str(), "Succeeded" | "Failed")),
            reason: stored.reason,
            message: stored.message,
            pod_ip: stored.pod_ip,
            pod_ips: stored.pod_ips,
            ..core::PodStatus::default()
        };
    }

    /// When to look again because CRI still shows as running what has ended: it hears of that after us.
    pub(super) fn lag(&mut self, observed: &Observed) -> Option<Duration> {
        let alive = |id: &str| {
            observed
                .containers
                .iter()
                .any(|container| container.id == id && container.state == State::Running)
                || observed
                    .sandboxes
                    .iter()
                    .any(|sandbox| sandbox.id == id && sandbox.ready)
        };
        self.ending
            .retain(|id, (since, _)| alive(id) && since.elapsed() < LAG_LONGEST);
        self.ending
            .values_mut()
            .map(|(_, delay)| {
                let present = *delay;
                *delay *= 2;
                present
            })
            .min()
    }

    pub(super) async fn observe(&mut self) -> Result<Observed, RuntimeError> {
        let runtime = self.context.runtime.clone();
        let uid = self.identity.uid.clone();
        let (sandboxes, containers) = futures::join!(runtime.sandboxes(Some(&uid)), runtime.containers(Some(&uid)));
        let (listed_sandboxes, listed_containers) = (sandboxes?, containers?);
        self.failures.remove("observe");
        let mut sandboxes = Vec::new();
        for listed in &listed_sandboxes {
            let mut sandbox = observed::sandbox(listed, None);
            if sandbox.ready {
                if !self.sandbox_ips.contains_key(&sandbox.id) {
                    let status = runtime.sandbox_status(&sandbox.id).await?;
                    self.sandbox_ips
                        .insert(sandbox.id.clone(), observed::sandbox(listed, Some(&status)).ips);
                }
                sandbox.ips = self.sandbox_ips.get(&sandbox.id).cloned().unwrap_or_default();
            }
            sandboxes.push(sandbox);
        }
        self.sandbox_ips
            .retain(|id, _| sandboxes.iter().any(|sandbox| sandbox.id == *id));
        let mut containers = Vec::new();
        for listed in &listed_containers {
            containers.push(self.observe_container(listed).await?);
        }
        self.seen
            .retain(|id, _| containers.iter().any(|container| container.id == *id));
        let now = Instant::now();
        for ended in containers.iter().filter(|container| container.state == State::Exited) {
            self.memory.exits.entry(ended.id.clone()).or_insert(now);
        }
        self.memory
            .exits
            .retain(|id, _| containers.iter().any(|container| container.id == *id));
        self.memory
            .stopped
            .retain(|id| sandboxes.iter().any(|sandbox| sandbox.id == *id));
        let observed = Observed::new(sandboxes, containers);
        // What leaves the runtime's records with its sandbox stays in memory.
        for container in observed
            .containers
            .iter()
            .rev()
            .filter(|container| container.state != State::Created)
        {
            let known = self.memory.attempts.entry(container.name.clone()).or_default();
            *known = container.attempt.max(*known);
            let history = self.history.entry(container.name.clone()).or_default();
            if container.attempt >= history.restart_count {
                history.restart_count = container.attempt;
                history.image = (container.image.clone(), container.image_id.clone());
                if container.state == State::Exited {
                    history.last = Some(status::terminated(container));
                }
            }
        }
        Ok(observed)
    }

    async fn observe_container(&mut self, listed: &k8s_cri::v1::Container) -> Result<Container, RuntimeError> {
        let now = Instant::now();
        if let Some(known) = self.seen.get(&listed.id) {
            let settled = self
                .memory
                .exits
                .get(&listed.id)
                .is_none_or(|since| now.duration_since(*since) > SETTLING);
            let same = match known.state {
                State::Created => listed.state() == k8s_cri::v1::ContainerState::ContainerCreated,
                State::Running => listed.state() == k8s_cri::v1::ContainerState::ContainerRunning,
                State::Exited => listed.state() == k8s_cri::v1::ContainerState::ContainerExited && settled,
                State::Unknown => false,
            };
            if same {
                return Ok(known.clone());
            }
        }
        let answer = self.context.runtime.container_status(&listed.id).await?;
        let mut container = observed::container(listed, &answer);
        if container.state == State::Exited {
            let directories = &self.context.directories;
            let file = directories.termination_message(&self.identity.uid, &container.name, container.attempt);
            let log = directories.container_log(&self.identity, &container.name, container.attempt);
            let policy = listed
                .annotations
                .get(label::TERMINATION_MESSAGE_POLICY)
                .map_or("File", String::as_str)
                .to_owned();
            let (exit_code, runtime) = (container.exit_code, container.message.clone());
            let read = move || termination::message(&file, &policy, &log, exit_code, &runtime);
            if let Ok(message) = tokio::task::spawn_blocking(read).await {
                container.message = message;
            }
        }
        self.seen.insert(container.id.clone(), container.clone());
        Ok(container)
    }
}
