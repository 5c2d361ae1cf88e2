//! The network of a node: pods, Services and DNS, run once the cluster's ranges are known and anew when they change.

use std::sync::Arc;

use minidc_net::{
    Network, NetworkState, Peers, Range,
    services::{self, Proxy, ProxyState},
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{control_plane::supervise, desired::Ranges, directory::Directory};

/// The CNI configuration that containerd gives pods their addresses by.
pub(crate) const CONFLIST: &str = "/etc/cni/net.d/10-minidc.conflist";

/// What the network of a node runs by.
pub(crate) struct Networking {
    /// Name of the node.
    pub(crate) node: String,
    /// Ranges of the cluster, once known.
    pub(crate) ranges: watch::Receiver<Option<Ranges>>,
    /// The other nodes, and this node's own range.
    pub(crate) peers: watch::Receiver<Arc<Peers>>,
    /// Services and their endpoints.
    pub(crate) directory: Arc<Directory>,
    /// Where the pod network says how it does.
    pub(crate) state: watch::Sender<NetworkState>,
    /// Where the service proxy says how it does.
    pub(crate) proxy: watch::Sender<ProxyState>,
}

impl Networking {
    /// Runs until `shutdown`. What is set up stays: pods go on without the agent.
    ///
    /// # Errors
    /// If the kernel or the DNS socket cannot be used at all.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        loop {
            let known = *self.ranges.borrow_and_update();
            let stop = shutdown.child_token();
            let running = async {
                match known {
                    Some(ranges) => self.serve(ranges, stop.clone()).await,
                    None => {
                        stop.cancelled().await;
                        Ok(())
                    }
                }
            };
            let mut ranges = self.ranges.clone();
            let mut running = std::pin::pin!(running);
            let ended = tokio::select! {
                ended = running.as_mut() => Some(ended),
                changed = ranges.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    None
                }
            };
            match ended {
                Some(ended) => return ended,
                None => {
                    tracing::info!("the cluster's address ranges have changed");
                    stop.cancel();
                    running.await?;
                }
            }
        }
    }

    async fn serve(&self, ranges: Ranges, stop: CancellationToken) -> anyhow::Result<()> {
        let mut parts = JoinSet::new();
        let network = Network::new(minidc_net::Config {
            pod_range: ranges.pods,
            service_range: Some(ranges.services),
            dns: Some(ranges.dns()),
            conflist: CONFLIST.into(),
        });
        parts.spawn(forward(network.state(), self.state.clone(), stop.clone()));
        let (peers, token) = (self.peers.clone(), stop.clone());
        parts.spawn(async move { Ok(network.run(peers, token).await?) });

        let (own, own_range) = watch::channel(None);
        parts.spawn(follow_own_range(self.peers.clone(), own, stop.clone()));
        let proxy = Proxy::new(services::Config {
            node: self.node.as_str().into(),
            pod_range: ranges.pods,
            service_range: ranges.services,
            own: own_range,
            dns: ranges.dns(),
        });
        parts.spawn(forward(proxy.state(), self.proxy.clone(), stop.clone()));
        let (facts, token) = (self.directory.facts(), stop.clone());
        parts.spawn(async move { Ok(proxy.run(facts, token).await?) });
        supervise(parts, stop).await
    }
}

/// Hands a part's state on to those who knew it before it was started.
async fn forward<T: Clone + PartialEq + Send + Sync>(
    mut from: watch::Receiver<T>,
    to: watch::Sender<T>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let now = from.borrow_and_update().clone();
        to.send_if_modified(|present| {
            let news = *present != now;
            if news {
                *present = now;
            }
            news
        });
        tokio::select! {
            changed = from.changed() => if changed.is_err() { break },
            () = stop.cancelled() => break,
        }
    }
    stop.cancelled().await;
    Ok(())
}

async fn follow_own_range(
    mut peers: watch::Receiver<Arc<Peers>>,
    own: watch::Sender<Option<Range>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let now = peers.borrow_and_update().own;
        own.send_if_modified(|present| std::mem::replace(present, now) != now);
        tokio::select! {
            changed = peers.changed() => if changed.is_err() { break },
            () = stop.cancelled() => break,
        }
    }
    stop.cancelled().await;
    Ok(())
}
