//! What the kubelet asks of the node's view of Services; implemented by the agent from its feed.

use std::net::IpAddr;

use futures::FutureExt;
use futures::future::BoxFuture;

/// A Service as pods learn of it by environment variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAddress {
    /// `metadata.name`.
    pub name: String,
    /// Its cluster IP.
    pub address: IpAddr,
    /// `spec.ports`, in their order; the first one counts as *the* port.
    pub ports: Vec<ServicePort>,
}

/// A port of a [`ServiceAddress`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty for the only port of a Service.
    pub name: String,
    /// Port of the cluster IP.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
}

/// The Services around the pods of this node, as far as the node has heard of them.
pub trait Surroundings: Send + Sync + 'static {
    /// Services of a namespace that have a cluster IP (no headless ones, no aliases).
    fn services(&self, namespace: &str) -> Vec<ServiceAddress>;

    /// Resolves once no EndpointSlice of a Service offers this pod as ready, at once if none does. Dropping the future
    /// ends the wait.
    fn withdrawn(&self, namespace: &str, pod: &str) -> BoxFuture<'static, ()>;

    /// Whether an EndpointSlice of a Service lists this pod, ready or not. Without an own answer: whether one offers it
    /// as ready, which misses a pod that was withdrawn before the kubelet asked.
    fn offered(&self, namespace: &str, pod: &str) -> bool {
        self.withdrawn(namespace, pod).now_or_never().is_none()
    }
}

/// No Services at all: nothing to tell pods of, nothing to wait for.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoServices;

impl Surroundings for NoServices {
    fn services(&self, _namespace: &str) -> Vec<ServiceAddress> {
        Vec::new()
    }

    fn withdrawn(&self, _namespace: &str, _pod: &str) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}
