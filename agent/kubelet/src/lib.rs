//! What runs here: the pods of one node, kept as the control plane wants them.
//!
//! Owns the containers and sandboxes that containerd runs for pods, the directories and tmpfs mounts of pods, their
//! logs, probes and hooks, the status of pods and of the node, and the pause image. Pods become a plan by a pure function; one task per
//! pod applies it through containerd's CRI, so that a slow pod never holds up another.
//!
//! Never does: decide where a pod runs, touch another node's objects, speak TLS or HTTP to the control plane (that is the
//! link), or configure the network (containerd calls CNI by itself).
//!
//! # Current limitations
//! - What of a pod is not acted on is listed in [`minidc_api::unsupported`] and said in a Warning event when the pod
//!   starts.
//! - HTTPS probes and hooks speak HTTP/1.1 only.
//! - Images are pulled without credentials. Imported images stay when their `Image` object goes; nothing removes
//!   images that no pod uses, and disk pressure evicts nothing yet.
//! - Exec sessions end with the agent; the containers they were in do not.
//! - With cgroup v2 the container runtime must use the `cgroupfs` driver, since pods have cgroups of their own.

pub mod archive;
mod back_off;
mod cgroup;
pub mod clear;
pub mod config;
mod container;
mod context;
pub mod control_plane;
pub mod desired;
mod directories;
mod environment;
mod exec;
#[cfg(test)]
mod fixture;
pub mod handle;
pub mod health;
mod identity;
pub mod images;
mod logs;
mod node;
mod observed;
pub mod pause;
mod plan;
mod pods;
mod probes;
mod recorder;
mod resources;
mod runtime;
mod sandbox;
mod stats;
mod status;
mod status_writer;
pub mod surroundings;
mod termination;
mod volumes;

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use minidc_api::metrics::NodeSample;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use control_plane::{ControlPlane, Offline};
pub use desired::{Desired, ImageSpec, ObjectKey};
pub use handle::{Handle, Serving};
pub use health::Health;
pub use images::{ImageState, ImageStates};
pub use surroundings::{NoServices, ServiceAddress, ServicePort, Surroundings};

use cgroup::Cgroups;
use context::{Context, Registry};
use directories::Directories;
use images::Images;
use node::Node;
use pods::Pods;
use recorder::Recorder;
use runtime::{Containerd, Runtime};
use stats::{Stats, System};

/// Wait before the pause image is tried again; containerd may still be starting.
const PAUSE_AGAIN: Duration = Duration::from_millis(500);

/// Why the kubelet could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory of the kubelet's own.
    #[error("make directory {path}")]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
    /// A defect: a part of the kubelet panicked.
    #[error("run the kubelet: a part of it broke off")]
    BrokeOff {
        /// What it said.
        #[source]
        source: tokio::task::JoinError,
    },
}

/// Runs the pods of one node.
pub struct Kubelet {
    config: Config,
    control_plane: Arc<dyn ControlPlane>,
    surroundings: Arc<dyn Surroundings>,
    desired: watch::Receiver<Arc<Desired>>,
    runtime: Arc<dyn Runtime>,
    handle: Handle,
    sample: watch::Sender<Arc<NodeSample>>,
    health: watch::Sender<Health>,
    images: watch::Sender<ImageStates>,
}

impl Kubelet {
    /// A kubelet that does nothing yet; see [`Kubelet::run`]. Must be called inside a tokio runtime.
    #[must_use]
    pub fn new(
        config: Config,
        control_plane: Arc<dyn ControlPlane>,
        surroundings: Arc<dyn Surroundings>,
        desired: watch::Receiver<Arc<Desired>>,
    ) -> Self {
        let containerd = Containerd::new(config.containerd.clone());
        let (sample, sample_receiver) = watch::channel(Arc::default());
        let (health, health_receiver) = watch::channel(Health::default());
        let (images, images_receiver) = watch::channel(Arc::default());
        let handle = Handle {
            sample: sample_receiver,
            health: health_receiver,
            images: images_receiver,
            registry: Registry::default(),
            directories: Directories {
                pods: config.data.join("pods"),
                logs: config.log_dir.clone(),
            },
            run: config.run.clone(),
            channel: containerd.channel(),
        };
        Self {
            config,
            control_plane,
            surroundings,
            desired,
            runtime: Arc::new(containerd),
            handle,
            sample,
            health,
            images,
        }
    }

    /// A handle for the rest of the agent.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until `shutdown`; containers keep running after that.
    ///
    /// # Errors
    /// Only what no retry can mend: see [`Error`]. A runtime or control plane that is away is waited for.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self {
            config,
            control_plane,
            surroundings,
            desired,
            runtime,
            handle,
            sample,
            health,
            images,
        } = self;
        let sessions = config.run.join("exec");
        // FIFOs of sessions that an earlier run of the agent did not live to end.
        let _ = std::fs::remove_dir_all(&sessions);
        for directory in [&config.data, &config.data.join("pods"), &sessions] {
            make_private(directory)?;
        }
        std::fs::create_dir_all(&config.log_dir).map_err(|source| Error::Directory {
            path: config.log_dir.clone(),
            source,
        })?;

        let cgroups = Cgroups::detect();
        let registry = handle.registry.clone();
        let capacity = System::new(cgroups.clone(), config.data.clone()).capacity();
        let (facts, facts_receiver) = watch::channel(Arc::new(node::node_facts(capacity, node::addresses())));
        let (recorder, events) = Recorder::new(config.node.clone(), control_plane.clone());
        let context = Context::new(
            &config,
            runtime.clone(),
            recorder.clone(),
            facts_receiver,
            registry.clone(),
            cgroups.clone(),
            handle.health.clone(),
        );
        let context = Arc::new(context.among(surroundings));
        let mut parts = JoinSet::new();
        parts.spawn(events.run(shutdown.clone()));
        parts.spawn(context.statuses.clone().run(control_plane.clone(), shutdown.clone()));
        let stats = Stats::new(registry.clone(), cgroups, config.data.clone(), sample);
        parts.spawn(stats.run(shutdown.clone()));
        let node = Node {
            config: config.clone(),
            capacity,
            runtime: runtime.clone(),
            control_plane: control_plane.clone(),
            recorder,
            registry: registry.clone(),
            sample: handle.sample.clone(),
            images_changed: context.images_changed.subscribe(),
            facts,
            health,
        };
        parts.spawn(node.run(shutdown.clone()));
        let images = Images::new(
            config.node.clone(),
            config.containerd.clone(),
            config.data.join("images.json"),
            runtime.clone(),
            control_plane,
            desired.clone(),
            context.images_changed.subscribe(),
            images,
        );
        parts.spawn(logs::rotation::run(context.clone(), shutdown.clone()));
        let stop = shutdown.clone();
        parts.spawn(async move {
            // No sandbox starts without the pause image.
            tokio::select! {
                () = have_pause_image(&config, &*runtime) => {}
                () = stop.cancelled() => return,
            }
            tokio::join!(images.run(stop.clone()), Pods::new(context, desired).run(stop));
        });
        // Every part ends by itself on shutdown; one that breaks off takes the others with it.
        while let Some(ended) = parts.join_next().await {
            if let Err(source) = ended {
                shutdown.cancel();
                parts.join_all().await;
                return Err(Error::BrokeOff { source });
            }
        }
        Ok(())
    }
}

fn make_private(directory: &Path) -> Result<(), Error> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| Error::Directory {
        path: directory.to_owned(),
        source,
    })
}

/// Imports the pause image unless it is there; repeats until that has worked.
async fn have_pause_image(config: &Config, runtime: &dyn Runtime) {
    loop {
        match runtime.image(&config.pause_image).await {
            Ok(Some(_)) => return,
            Ok(None) => {
                let archive = pause::archive(&config.pause_image).unwrap_or_default();
                match images::import(&config.containerd, &archive[..], None).await {
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "the pause image cannot be imported, it is tried again"),
                }
            }
            Err(error) => tracing::debug!(%error, "the runtime is not there yet"),
        }
        tokio::time::sleep(PAUSE_AGAIN).await;
    }
}
