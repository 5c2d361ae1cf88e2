//! A runtime in memory for tests. It passes the same suite as the real one, see [`super::suite`].
//!
//! A container runs until it is stopped, except one with the argument `exit N`, which ends at once with that code. A
//! command in a container ends at once, except one whose last word is `sleep N`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use k8s_cri::v1;
use tokio::sync::broadcast;

use super::{Answer, Executed, Runtime, RuntimeError, RuntimeEvent, Trouble, label};

#[derive(Default)]
struct State {
    number: u64,
    sandboxes: BTreeMap<String, (v1::PodSandbox, String)>,
    containers: BTreeMap<String, (v1::Container, v1::ContainerStatus, Vec<String>)>,
    images: BTreeSet<String>,
    slow_sandboxes: BTreeSet<String>,
    slow_pulls: bool,
    slow_starts: bool,
    /// Containers whose start is under way or was broken off.
    starting: BTreeSet<String>,
    /// How commands end, by their first word; `None` never ends.
    commands: BTreeMap<String, Option<Executed>>,
    /// First words of the commands that were run, and containers that were stopped, in order.
    done: Vec<String>,
}

/// The runtime.
pub(crate) struct FakeRuntime {
    state: Mutex<State>,
    events: broadcast::Sender<RuntimeEvent>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            events: broadcast::channel(64).0,
        }
    }
}

fn missing(what: &str) -> RuntimeError {
    RuntimeError {
        kind: Trouble::NotFound,
        message: format!("{what} not found"),
    }
}

fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap()
}

impl FakeRuntime {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// An image is there from now on.
    pub(crate) fn add_image(&self, name: &str) {
        self.state().images.insert(name.to_owned());
        self.say(RuntimeEvent::Images);
    }

    /// The sandbox of this pod never comes up.
    pub(crate) fn hold_sandbox_of(&self, pod: &str) {
        self.state().slow_sandboxes.insert(pod.to_owned());
    }

    /// No pull ever ends.
    pub(crate) fn hold_pulls(&self) {
        self.state().slow_pulls = true;
    }

    /// A start takes a moment, and one whose caller hangs up leaves what cannot be removed, as in containerd 1.6.
    pub(crate) fn slow_starts(&self) {
        self.state().slow_starts = true;
    }

    /// Whether a start is under way or was broken off.
    pub(crate) fn is_starting(&self) -> bool {
        !self.state().starting.is_empty()
    }

    /// A command that starts with this word ends so from now on; unknown ones succeed.
    pub(crate) fn set_command(&self, word: &str, exit_code: i32) {
        let executed = Executed {
            exit_code,
            output: format!("{word} said {exit_code}"),
        };
        self.state().commands.insert(word.to_owned(), Some(executed));
    }

    /// A command that starts with this word does not end by itself.
    pub(crate) fn hold_command(&self, word: &str) {
        self.state().commands.insert(word.to_owned(), None);
    }

    /// The commands that were run (first words) and the containers that were stopped (`stop NAME SECONDS`), in order.
    pub(crate) fn done(&self) -> Vec<String> {
        self.state().done.clone()
    }

    fn say(&self, event: RuntimeEvent) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    fn end(&self, id: &str, exit_code: i32) {
        if let Some((listed, status, _)) = self.state().containers.get_mut(id)
            && status.state() == v1::ContainerState::ContainerRunning
        {
            listed.set_state(v1::ContainerState::ContainerExited);
            status.set_state(v1::ContainerState::ContainerExited);
            status.exit_code = exit_code;
            status.finished_at = now();
            status.reason = if exit_code == 0 { "Completed" } else { "Error" }.into();
        } else {
            return;
        }
        self.say(RuntimeEvent::Container {
            id: id.to_owned(),
            ended: true,
        });
    }

    fn in_sandbox(&self, sandbox: &str) -> Vec<String> {
        let state = self.state();
        let inside = state
            .containers
            .values()
            .filter(|(listed, ..)| listed.pod_sandbox_id == sandbox);
        inside.map(|(listed, ..)| listed.id.clone()).collect()
    }
}

fn of_pod(labels: &std::collections::HashMap<String, String>, pod_uid: Option<&str>) -> bool {
    pod_uid.is_none_or(|uid| labels.get(label::POD_UID).is_some_and(|found| found == uid))
}

impl Runtime for FakeRuntime {
    fn sandboxes<'a>(&'a self, pod_uid: Option<&'a str>) -> Answer<'a, Vec<v1::PodSandbox>> {
        let state = self.state();
        let all = state.sandboxes.values().map(|(sandbox, _)| sandbox);
        let found: Vec<_> = all
            .filter(|sandbox| of_pod(&sandbox.labels, pod_uid))
            .cloned()
            .collect();
        async move { Ok(found) }.boxed()
    }

    fn containers<'a>(&'a self, pod_uid: Option<&'a str>) -> Answer<'a, Vec<v1::Container>> {
        let state = self.state();
        let all = state.containers.values().map(|(container, ..)| container);
        let found: Vec<_> = all
            .filter(|container| of_pod(&container.labels, pod_uid))
            .cloned()
            .collect();
        async move { Ok(found) }.boxed()
    }

    fn sandbox_status<'a>(&'a self, id: &'a str) -> Answer<'a, v1::PodSandboxStatus> {
        let found = self.state().sandboxes.get(id).cloned();
        async move {
            let (sandbox, ip) = found.ok_or_else(|| missing("sandbox"))?;
            Ok(v1::PodSandboxStatus {
                id: sandbox.id,
                state: sandbox.state,
                labels: sandbox.labels,
                network: Some(v1::PodSandboxNetworkStatus {
                    ip,
                    additional_ips: Vec::new(),
                }),
                ..Default::default()
            })
        }
        .boxed()
    }

    fn container_status<'a>(&'a self, id: &'a str) -> Answer<'a, v1::ContainerStatus> {
        let found = self.state().containers.get(id).map(|(_, status, _)| status.clone());
        async move { found.ok_or_else(|| missing("container")) }.boxed()
    }

    fn run_sandbox(&self, config: v1::PodSandboxConfig) -> Answer<'_, String> {
        async move {
            let metadata = config.metadata.clone().unwrap_or_default();
            if self.state().slow_sandboxes.contains(&metadata.name) {
                std::future::pending::<()>().await;
            }
            let mut state = self.state();
            state.number += 1;
            let id = format!("sandbox-{}", state.number);
            let ip = format!("100.64.0.{}", state.number + 1);
            let sandbox = v1::PodSandbox {
                id: id.clone(),
                metadata: Some(metadata),
                created_at: now(),
                labels: config.labels,
                annotations: config.annotations,
                ..Default::default()
            };
            state.sandboxes.insert(id.clone(), (sandbox, ip));
            Ok(id)
        }
        .boxed()
    }

    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        async move {
            for container in self.in_sandbox(id) {
                self.end(&container, 137);
            }
            if let Some((sandbox, _)) = self.state().sandboxes.get_mut(id) {
                sandbox.set_state(v1::PodSandboxState::SandboxNotready);
            }
            Ok(())
        }
        .boxed()
    }

    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        async move {
            let inside = self.in_sandbox(id);
            let mut state = self.state();
            if inside.iter().any(|container| state.starting.contains(container)) {
                return Err(RuntimeError {
                    kind: Trouble::Other,
                    message: "cannot delete running task: failed precondition".into(),
                });
            }
            state.containers.retain(|container, _| !inside.contains(container));
            state.sandboxes.remove(id);
            Ok(())
        }
        .boxed()
    }

    fn create_container(
        &self,
        sandbox: String,
        config: v1::ContainerConfig,
        _sandbox_config: v1::PodSandboxConfig,
    ) -> Answer<'_, String> {
        async move {
            let mut state = self.state();
            if !state.sandboxes.contains_key(&sandbox) {
                return Err(missing("sandbox"));
            }
            state.number += 1;
            let id = format!("container-{}", state.number);
            let listed = v1::Container {
                id: id.clone(),
                pod_sandbox_id: sandbox,
                metadata: config.metadata.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
                created_at: now(),
                ..Default::default()
            };
            let status = v1::ContainerStatus {
                id: id.clone(),
                metadata: config.metadata,
                labels: config.labels,
                annotations: config.annotations,
                created_at: listed.created_at,
                image: config.image,
                image_ref: "sha256:00".into(),
                ..Default::default()
            };
            state.containers.insert(id.clone(), (listed, status, config.args));
            Ok(id)
        }
        .boxed()
    }

    fn start_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        async move {
            if self.state().slow_starts {
                self.state().starting.insert(id.to_owned());
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                self.state().starting.remove(id);
            }
            let args = {
                let mut state = self.state();
                let (listed, status, args) = state.containers.get_mut(id).ok_or_else(|| missing("container"))?;
                listed.set_state(v1::ContainerState::ContainerRunning);
                status.set_state(v1::ContainerState::ContainerRunning);
                status.started_at = now();
                args.clone()
            };
            self.say(RuntimeEvent::Container {
                id: id.to_owned(),
                ended: false,
            });
            if let Some(code) = args.iter().find_map(|word| word.strip_prefix("exit ")?.parse().ok()) {
                self.end(id, code);
            }
            Ok(())
        }
        .boxed()
    }

    fn execute<'a>(&'a self, id: &'a str, command: &'a [String], limit: Option<Duration>) -> Answer<'a, Executed> {
        async move {
            let word = command.first().cloned().unwrap_or_default();
            let ending = {
                let mut state = self.state();
                let (_, status, _) = state.containers.get(id).ok_or_else(|| missing("container"))?;
                if status.state() != v1::ContainerState::ContainerRunning {
                    return Err(RuntimeError {
                        kind: Trouble::Other,
                        message: "container is not running".into(),
                    });
                }
                state.done.push(word.clone());
                let script = command.last().map(String::as_str).unwrap_or_default();
                let plain = (!script.starts_with("sleep ")).then(|| Executed {
                    exit_code: script
                        .strip_prefix("exit ")
                        .and_then(|code| code.parse().ok())
                        .unwrap_or(0),
                    output: String::new(),
                });
                state.commands.get(&word).cloned().unwrap_or(plain)
            };
            if let Some(ending) = ending {
                return Ok(ending);
            }
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
            Err(RuntimeError {
                kind: Trouble::TooLong,
                message: "context deadline exceeded".into(),
            })
        }
        .boxed()
    }

    fn stop_container<'a>(&'a self, id: &'a str, seconds: i64) -> Answer<'a, ()> {
        async move {
            {
                let mut state = self.state();
                let known = state.containers.get(id);
                let metadata = known.and_then(|(_, status, _)| status.metadata.clone());
                if let Some(metadata) = metadata {
                    state.done.push(format!("stop {} {seconds}", metadata.name));
                }
            }
            self.end(id, 0);
            Ok(())
        }
        .boxed()
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        async move {
            self.state().containers.remove(id);
            Ok(())
        }
        .boxed()
    }

    fn reopen_log<'a>(&'a self, _id: &'a str) -> Answer<'a, ()> {
        async { Ok(()) }.boxed()
    }

    fn image<'a>(&'a self, name: &'a str) -> Answer<'a, Option<v1::Image>> {
        let found = self.state().images.contains(name);
        async move {
            Ok(found.then(|| v1::Image {
                id: "sha256:00".into(),
                repo_tags: vec![name.to_owned()],
                ..Default::default()
            }))
        }
        .boxed()
    }

    fn images(&self) -> Answer<'_, Vec<v1::Image>> {
        let images = self.state().images.clone();
        let image = |name: String| v1::Image {
            id: name.clone(),
            repo_tags: vec![name],
            ..Default::default()
        };
        async move { Ok(images.into_iter().map(image).collect()) }.boxed()
    }

    fn pull<'a>(&'a self, name: &'a str) -> Answer<'a, String> {
        async move {
            if self.state().slow_pulls {
                std::future::pending::<()>().await;
            }
            Err(RuntimeError {
                kind: Trouble::Other,
                message: format!("no registry for {name}"),
            })
        }
        .boxed()
    }

    fn status(&self) -> Answer<'_, Vec<v1::RuntimeCondition>> {
        let condition = |kind: &str| v1::RuntimeCondition {
            r#type: kind.into(),
            status: true,
            ..Default::default()
        };
        let conditions = ["RuntimeReady", "NetworkReady"].map(condition).to_vec();
        async move { Ok(conditions) }.boxed()
    }

    fn version(&self) -> Answer<'_, (String, String)> {
        async { Ok(("fake".into(), "0".into())) }.boxed()
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        let events = tokio_stream::wrappers::BroadcastStream::new(self.events.subscribe());
        let opened = futures::stream::once(async { RuntimeEvent::Opened });
        opened.chain(events.filter_map(|event| async { event.ok() })).boxed()
    }
}
