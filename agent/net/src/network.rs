//! The long-running part: looks, plans, applies, reports; woken by news of the cluster, by the kernel, and by a timer
//! after a failure.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, NetworkState, Peers, Problem, Range, Reason, conflist, masquerade,
    netlink::Netlink,
    routes::{self, Action},
};

/// First wait after a failed change; doubled up to [`RETRY_LONGEST`].
const RETRY: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(30);
/// Kernel events come in bunches; one look serves them all.
const SETTLE: Duration = Duration::from_millis(50);

/// What the network is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// The range that all nodes' pod ranges are cut from; the same on every node.
    pub pod_range: Range,
    /// The range that the addresses of Services are taken from; the same on every node. Without it, the node itself reaches
    /// them only if it has a default route.
    pub service_range: Option<Range>,
    /// Address of the cluster's DNS, to be put on `lo`; within the range of Services.
    pub dns: Option<Ipv4Addr>,
    /// The CNI configuration to write; `/etc/cni/net.d/10-minidc.conflist`.
    pub conflist: PathBuf,
}

/// The pod network of this node.
pub struct Network {
    config: Config,
    state: watch::Sender<NetworkState>,
    /// Rules that nft took last.
    rules: Option<String>,
    /// Wait before the next try, once one has failed.
    retry: Option<Duration>,
}

impl Network {
    /// A network that is not set up yet; [`Network::run`] does that.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            state: watch::Sender::default(),
            rules: None,
            retry: None,
        }
    }

    /// How it is from now on. Not `ready` until the first pass is through.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<NetworkState> {
        self.state.subscribe()
    }

    /// Keeps the network as `peers` asks, until `shutdown`. What is set up stays at the end: pods go on without the agent.
    ///
    /// # Errors
    /// [`Error::Socket`] when the kernel cannot be spoken to at all. Refused changes are reported as
    /// [`Reason::ApplyFailed`] and tried again.
    pub async fn run(
        mut self,
        mut peers: watch::Receiver<Arc<Peers>>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let mut netlink = Netlink::open()?;
        let mut told = true;
        loop {
            let known = peers.borrow_and_update().clone();
            self.pass(&netlink, &known).await;
            let again = self.retry.map(|wait| Instant::now() + wait);
            let retry = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                changed = peers.changed(), if told => told = changed.is_ok(),
                heard = netlink.changed() => {
                    if heard {
                        tokio::time::sleep(SETTLE).await;
                        netlink.drain();
                    } else {
                        // The socket died, which the kernel does not do of itself: begin anew.
                        tokio::time::sleep(RETRY).await;
                        netlink = Netlink::open()?;
                    }
                }
                () = retry => {}
            }
        }
    }

    async fn pass(&mut self, netlink: &Netlink, peers: &Peers) {
        let mut failures = Vec::new();
        let observed = match netlink.observe().await {
            Ok(observed) => observed,
            Err(error) => {
                let ready = self.state.borrow().ready;
                self.failed(&[error], Vec::new(), ready);
                return;
            }
        };
        let desired = routes::desired(self.config.pod_range, peers, &observed.addresses);
        if let Some(own) = desired.own
            && let Err(error) = self.prepare(own).await
        {
            failures.push(error);
        }
        let own_ready = desired.own.is_some() && failures.is_empty();
        for action in routes::plan(&desired, &observed, peers.synced) {
            match netlink.apply(&action).await {
                Ok(()) => tracing::info!(?action, "pod network"),
                // The kernel took it away with its link.
                Err(error) if !matches!(action, Action::Replace(_)) && error.is_not_found() => {}
                Err(error) => failures.push(error),
            }
        }
        if failures.is_empty() {
            self.retry = None;
            self.publish(NetworkState {
                ready: own_ready,
                problems: desired.problems,
            });
        } else {
            self.failed(&failures, desired.problems, own_ready);
        }
    }

    /// Makes this node able to give its pods addresses and a way out. The CNI configuration comes last: once it is there,
    /// pods are started.
    async fn prepare(&mut self, own: Range) -> Result<(), Error> {
        forward(Path::new("/proc/sys/net/ipv4/ip_forward"))?;
        let rules = masquerade::rules(own, self.config.pod_range);
        if self.rules.as_ref() != Some(&rules) {
            masquerade::apply(&rules).await?;
            self.rules = Some(rules);
        }
        if conflist::write(&self.config.conflist, &conflist::text(own))? {
            tracing::info!(range = %own, file = %self.config.conflist.display(), "CNI configuration written");
        }
        Ok(())
    }

    fn failed(&mut self, failures: &[Error], mut problems: Vec<Problem>, ready: bool) {
        self.retry = Some(self.retry.map_or(RETRY, |wait| (wait * 2).min(RETRY_LONGEST)));
        for (index, error) in failures.iter().enumerate() {
            tracing::warn!(error = error as &dyn std::error::Error, "pod network");
            let message = with_source(error);
            problems.insert(
                index,
                Problem {
                    reason: Reason::ApplyFailed,
                    message,
                },
            );
        }
        self.publish(NetworkState { ready, problems });
    }

    fn publish(&self, state: NetworkState) {
        self.state.send_if_modified(|present| {
            let changed = *present != state;
            if changed {
                *present = state;
            }
            changed
        });
    }
}

/// Lets the node pass packets on, unless it does already.
fn forward(switch: &Path) -> Result<(), Error> {
    let set = || -> io::Result<()> {
        if fs::read_to_string(switch)?.trim() == "1" {
            Ok(())
        } else {
            fs::write(switch, "1")
        }
    };
    set().map_err(|source| Error::File {
        path: switch.to_owned(),
        source,
    })
}

/// The error and what caused it, in one line for a condition.
fn with_source(error: &Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
