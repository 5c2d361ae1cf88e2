//! What runs here: the pods of one node, kept as the control plane wants them.
//!
//! Owns the containers and sandboxes that containerd runs for pods, the directories and tmpfs mounts of pods, their
//! logs, the status of pods and of the node, and the pause image. Pods become a plan by a pure function; one task per
//! pod applies it through containerd's CRI, so that a slow pod never holds up another.
//!
//! Never does: decide where a pod runs, touch another node's objects, speak TLS or HTTP (that is the link), or configure
//! the network (containerd calls CNI by itself).
//!
//! # Current limitations
//! No probes, lifecycle hooks, projected service account tokens or volumes beyond those in [`minidc_api::unsupported`].

pub mod archive;
mod back_off;
mod cgroup;
pub mod config;
mod container;
mod context;
pub mod control_plane;
pub mod desired;
mod directories;
mod environment;
#[cfg(test)]
mod fixture;
pub mod handle;
pub mod health;
mod identity;
mod logs;
mod observed;
pub mod pause;
mod plan;
mod pods;
mod recorder;
mod resources;
mod runtime;
mod sandbox;
mod status;
mod status_writer;
mod termination;
mod volumes;

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use control_plane::{ControlPlane, Offline};
pub use desired::{Desired, ImageSpec, ObjectKey};
pub use handle::{Handle, Serving};
pub use health::Health;

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
}

/// Runs the pods of one node.
pub struct Kubelet {
    handle: Handle,
}

impl Kubelet {
    /// A kubelet that does nothing yet; see [`Kubelet::run`].
    #[must_use]
    pub fn new(config: Config, control_plane: Arc<dyn ControlPlane>, desired: watch::Receiver<Arc<Desired>>) -> Self {
        let _ = (config, control_plane, desired);
        Self { handle: Handle { sample: watch::channel(Arc::default()).1, health: watch::channel(Health::default()).1 } }
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
        shutdown.cancelled().await;
        Ok(())
    }
}
