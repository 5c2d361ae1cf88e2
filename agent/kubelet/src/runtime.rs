//! The container runtime as the kubelet sees it: CRI's messages behind one trait, so that a fake can stand in.

mod broken_starts;
mod containerd;
mod exits;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod suite;

use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use k8s_cri::v1;

pub(crate) use containerd::Containerd;

/// What the runtime answered instead of doing what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct RuntimeError {
    /// What kind of trouble it is.
    pub(crate) kind: Trouble,
    /// The runtime's own words, without gRPC's decoration; they end up in events and statuses, as with Kubernetes.
    pub(crate) message: String,
}

/// What a caller can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The socket does not answer; nothing is known about the request.
    Away,
    /// The object does not exist.
    NotFound,
    /// It took longer than it was allowed to.
    TooLong,
    /// Everything else.
    Other,
}

/// What the runtime tells by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RuntimeEvent {
    /// The stream has just been opened (again): everything before may have been missed.
    Opened,
    /// The main process of a container or sandbox started or ended, or ran out of memory.
    Container {
        /// Id of the container or sandbox.
        id: String,
        /// It has ended, though CRI may take a moment to say so too.
        ended: bool,
    },
    /// The image store has changed: a pull or an import finished, or something was removed.
    Images,
}

/// How a command in a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Executed {
    pub(crate) exit_code: i32,
    /// What it wrote, standard output first.
    pub(crate) output: String,
}

type Answer<'a, T> = BoxFuture<'a, Result<T, RuntimeError>>;

/// A container runtime with an image store. Every method may be cancelled by dropping its future;
/// what a dropped start leaves is only fit to be removed.
pub(crate) trait Runtime: Send + Sync + 'static {
    /// All sandboxes, or those of one pod.
    fn sandboxes<'a>(&'a self, pod_uid: Option<&'a str>) -> Answer<'a, Vec<v1::PodSandbox>>;
    /// All containers, or those of one pod.
    fn containers<'a>(&'a self, pod_uid: Option<&'a str>) -> Answer<'a, Vec<v1::Container>>;
    /// Status of a sandbox, with its addresses.
    fn sandbox_status<'a>(&'a self, id: &'a str) -> Answer<'a, v1::PodSandboxStatus>;
    /// Status of a container, with exit code and times.
    fn container_status<'a>(&'a self, id: &'a str) -> Answer<'a, v1::ContainerStatus>;
    /// Makes and starts a sandbox; the answer is its id.
    fn run_sandbox(&self, config: v1::PodSandboxConfig) -> Answer<'_, String>;
    /// Ends all that runs in the sandbox and frees its addresses; fine to repeat.
    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// Removes a stopped sandbox and its containers; fine to repeat.
    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// Makes a container; the answer is its id.
    fn create_container(
        &self,
        sandbox: String,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Answer<'_, String>;
    /// Starts a created container.
    fn start_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// Asks the container to end and kills it after `seconds`; answers once it has ended.
    fn stop_container<'a>(&'a self, id: &'a str, seconds: i64) -> Answer<'a, ()>;
    /// Removes a container, killing it when it still runs; fine to repeat.
    fn remove_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// Runs a command in a running container and waits for its end, for at most `limit` in whole seconds
    /// ([`Trouble::TooLong`]; the command is ended then).
    fn execute<'a>(&'a self, id: &'a str, command: &'a [String], limit: Option<Duration>) -> Answer<'a, Executed>;
    /// Makes the runtime open the log file anew after the old one was renamed.
    fn reopen_log<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// The image of that name, when it is there.
    fn image<'a>(&'a self, name: &'a str) -> Answer<'a, Option<v1::Image>>;
    /// All images.
    fn images(&self) -> Answer<'_, Vec<v1::Image>>;
    /// Fetches an image from its registry; the answer is a reference to it.
    fn pull<'a>(&'a self, name: &'a str) -> Answer<'a, String>;
    /// The conditions `RuntimeReady` and `NetworkReady`.
    fn status(&self) -> Answer<'_, Vec<v1::RuntimeCondition>>;
    /// Name and version, for instance `containerd` and `1.6.20`.
    fn version(&self) -> Answer<'_, (String, String)>;
    /// Events without end: the stream reconnects by itself and says [`RuntimeEvent::Opened`] each time.
    fn events(&self) -> BoxStream<'static, RuntimeEvent>;
}

/// Labels and annotations that tie sandboxes and containers to pods; those with Kubernetes' prefix are its own.
pub(crate) mod label {
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub(crate) const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub(crate) const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub(crate) const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub(crate) const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
}
