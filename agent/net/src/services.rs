//! Services: which packets go to which pod, as elements of one nftables table.

use std::net::Ipv4Addr;

use tokio::sync::{mpsc::UnboundedReceiver, watch};
use tokio_util::sync::CancellationToken;

use crate::{Error, Range, facts::Fact};

/// What the service proxy is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node, as `nodeName` of endpoints says it.
    pub node: Box<str>,
    /// The range that all nodes' pod ranges are cut from.
    pub pod_range: Range,
    /// The range that cluster IPs are taken from.
    pub service_range: Range,
    /// This node's own `spec.podCIDR`, once it has one.
    pub own: watch::Receiver<Option<Range>>,
    /// The cluster DNS address, answered on this node itself: port 53 is kept out of connection tracking.
    pub dns: Ipv4Addr,
}

/// How the service proxy does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyState {
    /// The kernel has rules for everything that was told, and everything was told.
    pub ready: bool,
    /// Services that rules exist for.
    pub services: usize,
    /// Endpoints behind them; one that serves two ports counts twice.
    pub endpoints: usize,
    /// Why the rules are not what they should be, in one line.
    pub problem: Option<String>,
}

/// The service proxy of this node.
#[derive(Debug)]
pub struct Proxy {
    config: Config,
    state: watch::Sender<ProxyState>,
}

impl Proxy {
    /// A proxy that has not touched the kernel; [`Proxy::run`] does.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            state: watch::Sender::default(),
        }
    }

    /// How it does from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ProxyState> {
        self.state.subscribe()
    }

    /// Keeps the table `ip minidc` as the facts ask, until `shutdown`. The table stays at the end: connections go on
    /// without the agent.
    ///
    /// # Errors
    /// When the kernel cannot be spoken to at all. Refused changes are in [`ProxyState::problem`] and tried again.
    pub async fn run(self, mut facts: UnboundedReceiver<Fact>, shutdown: CancellationToken) -> Result<(), Error> {
        tracing::debug!(node = %self.config.node, "services are not served yet");
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                fact = facts.recv() => if fact.is_none() {
                    shutdown.cancelled().await;
                    return Ok(());
                },
            }
        }
    }
}
