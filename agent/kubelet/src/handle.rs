//! What the rest of the agent may ask a running kubelet.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use minidc_api::metrics::NodeSample;
use minidc_api::streams::{ContainerRef, ExecQuery, LogQuery, Target};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::context::{Registry, Seen};
use crate::directories::Directories;
use crate::health::Health;
use crate::identity::PodIdentity;
use crate::images::{ImageState, ImageStates};
use crate::observed::State;
use crate::{exec, logs};

/// A cheap handle on the kubelet; it works from any task, also before [`crate::Kubelet::run`] has started.
#[derive(Clone)]
pub struct Handle {
    pub(crate) sample: watch::Receiver<Arc<NodeSample>>,
    pub(crate) health: watch::Receiver<Health>,
    pub(crate) images: watch::Receiver<ImageStates>,
    pub(crate) registry: Registry,
    pub(crate) directories: Directories,
    pub(crate) run: PathBuf,
    pub(crate) channel: tonic::transport::Channel,
}

/// A stream that can be served: what was asked for exists.
pub struct Serving {
    session: Session,
}

enum Session {
    Logs(logs::serve::Session),
    Exec(exec::Session),
}

impl Handle {
    /// Checks that `target` can be served. `Err` is an HTTP status code and a sentence that names the object.
    ///
    /// # Errors
    /// 404 for an unknown pod or container, 400 for a container that has written no log, 500 for one that a command
    /// cannot run in.
    pub async fn prepare(&self, target: Target) -> Result<Serving, (u16, String)> {
        let session = match target {
            Target::Logs(query) => Session::Logs(self.logs(query)?),
            Target::Exec(query) => Session::Exec(self.exec(query)?),
        };
        Ok(Serving { session })
    }

    fn pod(&self, of: &ContainerRef) -> Result<Seen, (u16, String)> {
        let seen = self.registry.find(&of.namespace, &of.pod, &of.uid);
        let seen = seen.ok_or_else(|| (404, format!("pods \"{}\" not found on this node", of.pod)))?;
        let spec = seen.pod.spec.as_ref();
        let mut names = spec
            .into_iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        if names.any(|container| container.name == of.container) {
            Ok(seen)
        } else {
            Err((
                404,
                format!("container {} is not valid for pod {}", of.container, of.pod),
            ))
        }
    }

    fn logs(&self, query: LogQuery) -> Result<logs::serve::Session, (u16, String)> {
        let of = query.of.clone();
        let seen = self.pod(&of)?;
        // An instance that was made but has not run has no log yet.
        let mut instances = seen
            .observed
            .instances(&of.container)
            .filter(|instance| instance.state != State::Created);
        let identity = PodIdentity::of(&seen.pod);
        let (id, attempt) = match (instances.next(), query.previous) {
            (Some(latest), false) => (latest.id.clone(), latest.attempt),
            (Some(latest), true) if latest.attempt > 0 => (String::new(), latest.attempt - 1),
            (_, true) => {
                let message = format!(
                    "previous terminated container \"{}\" in pod \"{}\" not found",
                    of.container, of.pod
                );
                return Err((400, message));
            }
            (None, false) => {
                let why = match seen.waiting.get(&of.container).map(String::as_str) {
                    Some("ErrImagePull") => "image can't be pulled",
                    Some("ImagePullBackOff") => "trying and failing to pull image",
                    Some(reason) => reason,
                    None if seen.has_init_containers() => "PodInitializing",
                    None => "ContainerCreating",
                };
                let message = format!(
                    "container \"{}\" in pod \"{}\" is waiting to start: {why}",
                    of.container, of.pod
                );
                return Err((400, message));
            }
        };
        let log = self.directories.container_log(&identity, &of.container, attempt);
        if query.previous && !log.exists() && logs::rotation::rotated(&log).is_empty() {
            let message = format!(
                "previous terminated container \"{}\" in pod \"{}\" not found",
                of.container, of.pod
            );
            return Err((400, message));
        }
        logs::serve::Session::new(self.registry.clone(), query, id, log).map_err(|message| (400, message))
    }

    fn exec(&self, query: ExecQuery) -> Result<exec::Session, (u16, String)> {
        let seen = self.pod(&query.of)?;
        let running = seen
            .observed
            .instances(&query.of.container)
            .find(|instance| instance.state == State::Running);
        let Some(running) = running else {
            return Err((500, format!("container not found (\"{}\")", query.of.container)));
        };
        Ok(exec::Session::new(
            self.channel.clone(),
            running.id.clone(),
            query,
            self.run.join("exec"),
        ))
    }

    /// The newest reading of the node.
    #[must_use]
    pub fn sample(&self) -> Arc<NodeSample> {
        self.sample.borrow().clone()
    }

    /// The readings as they come, one each second.
    #[must_use]
    pub fn samples(&self) -> watch::Receiver<Arc<NodeSample>> {
        self.sample.clone()
    }

    /// Local facts for the LEDs.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// How it stands with the image archives that the cluster wants on this node.
    #[must_use]
    pub fn images(&self) -> watch::Receiver<Arc<BTreeMap<String, ImageState>>> {
        self.images.clone()
    }
}

impl Serving {
    /// Serves the stream until it ends. Errors only end it: the peer sees the stream close.
    pub async fn run(self, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        match self.session {
            Session::Logs(session) => session.run(io).await,
            Session::Exec(session) => session.run(io).await,
        }
    }
}
