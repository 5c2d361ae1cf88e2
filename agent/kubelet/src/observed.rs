//! What the runtime holds of one pod, reduced to what decisions and status need.

use k8s_cri::v1;

use crate::runtime::label;

/// A sandbox of the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    /// How many sandboxes the pod had before this one.
    pub(crate) attempt: u32,
    /// It runs, and its network is up.
    pub(crate) ready: bool,
    /// Nanoseconds since the epoch, by the node's clock.
    pub(crate) created_at: i64,
    /// Its addresses; none on the host's network.
    pub(crate) ips: Vec<String>,
}

/// State of a container, as CRI has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Made but not started.
    #[default]
    Created,
    /// Its main process runs.
    Running,
    /// Its main process has ended.
    Exited,
    /// The runtime lost track of it.
    Unknown,
}

/// One instance of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    /// Name in the pod.
    pub(crate) name: String,
    pub(crate) sandbox: String,
    /// How many instances came before; this is also the pod's `restartCount`.
    pub(crate) attempt: u32,
    pub(crate) state: State,
    /// Nanoseconds since the epoch, by the node's clock, as the next two; zero when it has not happened.
    pub(crate) created_at: i64,
    pub(crate) started_at: i64,
    pub(crate) finished_at: i64,
    pub(crate) exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled` …
    pub(crate) reason: String,
    /// Its last words, or why it could not start.
    pub(crate) message: String,
    /// Name of the image.
    pub(crate) image: String,
    /// Digest of the image.
    pub(crate) image_id: String,
    /// See [`crate::container::hash`].
    pub(crate) hash: String,
}

/// All of one pod, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<Container>,
}

impl Observed {
    /// Puts the newest first.
    pub(crate) fn new(mut sandboxes: Vec<Sandbox>, mut containers: Vec<Container>) -> Self {
        sandboxes.sort_by_key(|sandbox| std::cmp::Reverse((sandbox.attempt, sandbox.created_at)));
        containers.sort_by_key(|container| std::cmp::Reverse((container.attempt, container.created_at)));
        Self { sandboxes, containers }
    }

    /// The sandbox that containers can be started in.
    pub(crate) fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    /// Whether an instance runs.
    pub(crate) fn is_running(&self, id: &str) -> bool {
        let mut all = self.containers.iter();
        all.any(|container| container.id == id && container.state == State::Running)
    }

    /// The newest instance of a container.
    pub(crate) fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// All instances of a container, the newest first.
    pub(crate) fn instances<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers.iter().filter(move |container| container.name == name)
    }
}

/// From CRI's list entry and status.
pub(crate) fn sandbox(listed: &v1::PodSandbox, status: Option<&v1::PodSandboxStatus>) -> Sandbox {
    let network = status.and_then(|status| status.network.as_ref());
    let ips = network.into_iter().flat_map(|network| {
        std::iter::once(network.ip.clone()).chain(network.additional_ips.iter().map(|ip| ip.ip.clone()))
    });
    Sandbox {
        id: listed.id.clone(),
        attempt: listed.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        ready: listed.state() == v1::PodSandboxState::SandboxReady,
        created_at: listed.created_at,
        ips: ips.filter(|ip| !ip.is_empty()).collect(),
    }
}

/// From CRI's list entry and status.
pub(crate) fn container(listed: &v1::Container, status: &v1::ContainerStatus) -> Container {
    let metadata = listed.metadata.clone().unwrap_or_default();
    let annotation = |key: &str| listed.annotations.get(key).cloned().unwrap_or_default();
    Container {
        id: listed.id.clone(),
        name: metadata.name,
        sandbox: listed.pod_sandbox_id.clone(),
        attempt: annotation(label::RESTART_COUNT).parse().unwrap_or(metadata.attempt),
        state: match status.state() {
            v1::ContainerState::ContainerCreated => State::Created,
            v1::ContainerState::ContainerRunning => State::Running,
            v1::ContainerState::ContainerExited => State::Exited,
            v1::ContainerState::ContainerUnknown => State::Unknown,
        },
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message: status.message.clone(),
        image: status
            .image
            .as_ref()
            .map(|image| image.image.clone())
            .unwrap_or_default(),
        image_id: status.image_ref.clone(),
        hash: annotation(label::CONTAINER_HASH),
    }
}
