//! The long-running part: looks, plans, applies, reports; woken by news of the cluster, by the kernel, and by a timer
//! after a failure.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use tokio::{process::Command, sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, NetworkState, Peers, Problem, Range, Reason, conflist, mtu,
    netlink::Netlink,
    routes::{self, Ranges},
};

/// First wait after a failed change; doubled up to [`RETRY_LONGEST`].
const RETRY: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(30);
/// Kernel events come in bunches; one look serves them all.
const SETTLE: Duration = Duration::from_millis(50);

/// Longest wait for a kernel module.
const LOAD: Duration = Duration::from_secs(10);

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
    /// The tunnel was needed since the agent started.
    tunnelled: bool,
    /// The kernel was asked to show bridged packets to the rules.
    asked_bridge: bool,
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
            tunnelled: false,
            asked_bridge: false,
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
                let before = self.state.borrow().clone();
                let state = NetworkState {
                    problems: Vec::new(),
                    ..before
                };
                self.failed(&[error], state);
                return;
            }
        };
        let mut desired = routes::desired(&self.ranges(), peers, &observed);
        self.tunnelled |= desired.tunnel.is_some();
        let present = conflist::mtu(&self.config.conflist);
        let pod_mtu = mtu::of_pods(desired.uplink_mtu, self.tunnelled, peers.synced, present);
        desired.pod_mtu = Some(pod_mtu);
        let mut own_ready = desired.own.is_some();
        if own_ready && let Err(error) = self.prepare().await {
            own_ready = false;
            failures.push(error);
        }
        for action in routes::plan(&desired, &observed, peers.synced) {
            match netlink.apply(&action).await {
                Ok(()) => tracing::info!(?action, "pod network"),
                // The kernel took it away with its link.
                Err(error) if action.removes() && error.is_not_found() => {}
                Err(error) => failures.push(error),
            }
        }
        // The CNI configuration comes last: once it is there, pods are started.
        if let Some(own) = desired.own
            && let Err(error) = self.configure(own, pod_mtu)
        {
            own_ready = false;
            failures.push(error);
        }
        let state = NetworkState {
            ready: own_ready,
            problems: desired.problems,
            paths: Arc::new(desired.paths),
        };
        if failures.is_empty() {
            self.retry = None;
            self.publish(state);
        } else {
            self.failed(&failures, state);
        }
    }

    fn ranges(&self) -> Ranges {
        Ranges {
            pods: self.config.pod_range,
            services: self.config.service_range,
            dns: self.config.dns,
        }
    }

    /// Makes this node able to pass packets on.
    async fn prepare(&mut self) -> Result<(), Error> {
        switch_on(Path::new("/proc/sys/net/ipv4/ip_forward"))?;
        if !std::mem::replace(&mut self.asked_bridge, true) {
            show_bridged_packets().await;
        }
        Ok(())
    }

    fn configure(&self, own: Range, mtu: u32) -> Result<(), Error> {
        if conflist::write(&self.config.conflist, &conflist::text(own, mtu))? {
            tracing::info!(range = %own, mtu, file = %self.config.conflist.display(), "CNI configuration written");
        }
        Ok(())
    }

    fn failed(&mut self, failures: &[Error], mut state: NetworkState) {
        self.retry = Some(self.retry.map_or(RETRY, |wait| (wait * 2).min(RETRY_LONGEST)));
        for (index, error) in failures.iter().enumerate() {
            tracing::warn!(error = error as &dyn std::error::Error, "pod network");
            let message = with_source(error);
            state.problems.insert(
                index,
                Problem {
                    reason: Reason::ApplyFailed,
                    message,
                },
            );
        }
        self.publish(state);
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

/// Sets a switch of the kernel to 1, unless it is already.
fn switch_on(switch: &Path) -> Result<(), Error> {
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

/// Has packets between pods of this node pass the rules, so that a pod reached through a Service sees who called. The rules
/// for Services work without it too: a kernel that cannot do it is no fault.
async fn show_bridged_packets() {
    let switch = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if !switch.exists() {
        let mut load = Command::new("modprobe");
        load.arg("br_netfilter")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let loaded = tokio::time::timeout(LOAD, load.status()).await;
        tracing::debug!(?loaded, "load br_netfilter");
    }
    if let Err(error) = switch_on(switch) {
        tracing::info!(
            error = &error as &dyn std::error::Error,
            "pods of this node that call each other through a Service will be seen as the node"
        );
    }
}

/// The error and what caused it, in one line for a condition.
fn with_source(error: &Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
