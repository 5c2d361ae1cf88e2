//! What the rest of the agent may ask a running kubelet.

use std::sync::Arc;

use minidc_api::metrics::NodeSample;
use minidc_api::streams::Target;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::health::Health;

/// A cheap handle on the kubelet; it works from any task, also before [`crate::Kubelet::run`] has started.
#[derive(Clone)]
pub struct Handle {
    pub(crate) sample: watch::Receiver<Arc<NodeSample>>,
    pub(crate) health: watch::Receiver<Health>,
}

/// A stream that can be served: what was asked for exists.
pub struct Serving {}

impl Handle {
    /// Checks that `target` can be served. `Err` is an HTTP status code and a sentence that names the object.
    ///
    /// # Errors
    /// 404 for an unknown pod or container, 400 for one that is not running or has no log, 500 for the runtime's errors.
    pub async fn prepare(&self, target: Target) -> Result<Serving, (u16, String)> {
        let _ = target;
        Err((503, "the kubelet is starting".into()))
    }

    /// The newest reading of the node.
    #[must_use]
    pub fn sample(&self) -> Arc<NodeSample> {
        self.sample.borrow().clone()
    }

    /// Local facts for the LEDs.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }
}

impl Serving {
    /// Serves the stream until it ends. Errors only end it: the peer sees the stream close.
    pub async fn run(self, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        drop(io);
    }
}
