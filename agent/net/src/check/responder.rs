//! Takes part in checks as long as they last, and tidies up after them.

use std::{
    collections::HashMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt as _, join_all};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Attachment, Check, Cni, Finding, NAMESPACE, PORT, Phase, Report, Target, Task, mtu, outside,
    probe::{self, Outcome},
    service_name,
    stand_in::StandIn,
};
use crate::{Error, NetworkState};

/// Checks at a time; each costs a thread and an address.
const MOST: usize = 4;
/// After so long a stand-in is taken away although its check is still there, as when the control plane went away.
const LIFETIME: Duration = Duration::from_secs(300);

/// What takes part.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node.
    pub node: String,
    /// The pod network's plugins.
    pub cni: Cni,
    /// Directory for what there is to take away after a crash; does not survive a reboot, as namespaces do not.
    pub run: PathBuf,
    /// Address of the cluster's DNS.
    pub dns: Ipv4Addr,
    /// Domain of the cluster, without a dot at its end.
    pub domain: String,
}

/// Takes part in checks.
#[derive(Debug)]
pub struct Responder {
    config: Config,
    network: watch::Receiver<NetworkState>,
}

/// A check this node takes part in.
struct Running {
    targets: watch::Sender<Arc<Task>>,
    stop: CancellationToken,
}

impl Responder {
    /// `network`: how the pod network of this node does.
    #[must_use]
    pub fn new(config: Config, network: watch::Receiver<NetworkState>) -> Self {
        Self { config, network }
    }

    /// Takes part in all of `tasks` that name this node, until each is gone from the list, or `shutdown`. `tasks` are those
    /// that the control plane has now; what a node remembers from before it restarted does not belong there.
    ///
    /// # Errors
    /// None at present: what fails is reported with its reason.
    pub async fn run(
        self,
        mut tasks: watch::Receiver<Arc<Vec<Task>>>,
        reports: mpsc::Sender<Report>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let this = Arc::new(self);
        this.tidy().await;
        let mut running: HashMap<String, Running> = HashMap::new();
        let mut members = JoinSet::new();
        let mut told = true;
        loop {
            let now = Arc::clone(&tasks.borrow_and_update());
            running.retain(|name, running| {
                let kept = now.iter().any(|task| task.name == *name);
                if !kept {
                    running.stop.cancel();
                }
                kept
            });
            for task in now.iter().filter(|task| task.nodes.contains(&this.config.node)) {
                if let Some(running) = running.get(&task.name) {
                    running.targets.send_if_modified(|known| {
                        let news = **known != *task;
                        if news {
                            *known = Arc::new(task.clone());
                        }
                        news
                    });
                    continue;
                }
                let (targets, receiver) = watch::channel(Arc::new(task.clone()));
                let stop = shutdown.child_token();
                running.insert(
                    task.name.clone(),
                    Running {
                        targets,
                        stop: stop.clone(),
                    },
                );
                if members.len() >= MOST {
                    let report = failed(task, "this node takes part in too many checks already");
                    let _ = reports.try_send(report);
                    continue;
                }
                members.spawn(Arc::clone(&this).take_part(receiver, reports.clone(), stop));
            }
            tokio::select! {
                changed = tasks.changed(), if told => told = changed.is_ok(),
                Some(_) = members.join_next() => {}
                () = shutdown.cancelled() => break,
            }
        }
        while members.join_next().await.is_some() {}
        Ok(())
    }

    /// One check from its beginning to its end.
    async fn take_part(
        self: Arc<Self>,
        mut task: watch::Receiver<Arc<Task>>,
        reports: mpsc::Sender<Report>,
        stop: CancellationToken,
    ) {
        let known = Arc::clone(&task.borrow_and_update());
        let container = format!("minidc-net-check-{}", known.name);
        let outcome = self.join(&container).await;
        let (stand_in, address) = match outcome {
            Ok(joined) => joined,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    check = known.name,
                    "net check"
                );
                let _ = reports.send(failed(&known, &with_sources(&error))).await;
                self.leave(&container, None).await;
                return;
            }
        };
        let mut report = Report {
            task: known.name.clone(),
            address: Some(address),
            phase: Phase::Ready,
            message: None,
            results: Vec::new(),
        };
        let check = async {
            let _ = reports.send(report.clone()).await;
            let Ok(known) = task
                .wait_for(|task| !task.targets.is_empty())
                .await
                .map(|known| Arc::clone(&known))
            else {
                return;
            };
            report.results = self.find_out(&stand_in, &known).await;
            report.phase = Phase::Done;
            let _ = reports.send(report).await;
            // the others may not be done yet
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = check => {}
            () = tokio::time::sleep(LIFETIME) => {}
            () = stop.cancelled() => {}
        }
        self.leave(&container, Some(&stand_in.path)).await;
    }

    /// Makes a stand-in and plugs it in.
    async fn join(&self, container: &str) -> Result<(StandIn, IpAddr), Error> {
        let record = self.record(container);
        let remember = || -> io::Result<()> {
            fs::create_dir_all(&self.config.run)?;
            fs::write(&record, "")
        };
        remember().map_err(|source| Error::File {
            path: record.clone(),
            source,
        })?;
        let stand_in = StandIn::start(&self.config.node).await?;
        let attachment = Attachment {
            container,
            namespace: Some(&stand_in.path),
            ports: &[],
        };
        let address = self.config.cni.add(attachment).await?;
        Ok((stand_in, address))
    }

    /// Gives back what the stand-in had.
    async fn leave(&self, container: &str, namespace: Option<&Path>) {
        let attachment = Attachment {
            container,
            namespace,
            ports: &[],
        };
        match self.config.cni.delete(attachment).await {
            Ok(()) => {
                let _ = fs::remove_file(self.record(container));
            }
            // tried again when the agent starts
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, container, "net check"),
        }
    }

    fn record(&self, container: &str) -> PathBuf {
        self.config.run.join(container)
    }

    /// Takes away what a crash left: the namespaces went with the process, their addresses are still reserved.
    async fn tidy(&self) {
        let Ok(records) = fs::read_dir(&self.config.run) else {
            return;
        };
        for record in records.flatten() {
            if let Some(container) = record.file_name().to_str() {
                self.leave(container, None).await;
            }
        }
    }

    async fn find_out(&self, stand_in: &StandIn, task: &Task) -> Vec<Finding> {
        let network = self.network.borrow().clone();
        let resolvers = outside::resolvers();
        let (seen, tried) = (resolvers.clone(), resolvers.clone());
        let (reached, reach) = tokio::sync::oneshot::channel();
        let probes = probes(&self.config, &network, task);
        let work = async move {
            let outside = async {
                let _ = reached.send(outside::reach(tried).await);
            };
            let (found, ()) = tokio::join!(join_all(probes), outside);
            found
        };
        let (mut results, node) = tokio::join!(stand_in.inside(work), outside::reach(seen));
        let pod = reach.await.ok().flatten();
        results.push(outside::finding(&resolvers, pod, node));
        results.extend(own_findings(&network));
        results
    }
}

/// What the node itself finds wrong, or that it finds nothing.
fn own_findings(network: &NetworkState) -> Vec<Finding> {
    let finding = |ok, detail: &str| Finding {
        to: String::new(),
        check: Check::Network,
        ok,
        detail: detail.to_owned(),
    };
    if network.ready && network.problems.is_empty() {
        return vec![finding(true, "")];
    }
    let problems = network.problems.iter();
    problems.map(|problem| finding(false, &problem.message)).collect()
}

type Probe = BoxFuture<'static, Finding>;

/// Everything that is tried from inside the stand-in.
fn probes(config: &Config, network: &NetworkState, task: &Task) -> Vec<Probe> {
    let dns = SocketAddr::from((config.dns, 53));
    let kubernetes = format!("kubernetes.default.svc.{}", config.domain);
    let asked = format!(" (asked {} on this node)", config.dns);
    let mut probes = vec![dns_probe(String::new(), dns, kubernetes, None, asked.clone())];
    for (place, node) in task.nodes.iter().enumerate() {
        let target = task.targets.get(node).cloned().unwrap_or_default();
        let name = format!("{}.{NAMESPACE}.svc.{}", service_name(&task.id, place), config.domain);
        let path = network
            .paths
            .get(node)
            .map(|path| format!(" ({path})"))
            .unwrap_or_default();
        // a pod reaches its own node's pods without the network, but its own Service not without care
        if *node != config.node {
            probes.extend(pod_probes(node, &target, &path));
        }
        probes.extend(service_probes(node, &target));
        if target.service.is_some() {
            probes.push(dns_probe(node.clone(), dns, name, target.service, asked.clone()));
        }
    }
    probes
}

fn pod_probes(node: &str, target: &Target, path: &str) -> Vec<Probe> {
    let Some(address) = target.address else {
        return vec![absent(node, Check::Pod, "it has made no stand-in")];
    };
    let target = SocketAddr::from((address, PORT));
    let (node, path) = (Arc::<str>::from(node), Arc::<str>::from(path));
    let (of_udp, by_udp) = (Arc::clone(&node), Arc::clone(&path));
    let (of_mtu, by_mtu) = (Arc::clone(&node), Arc::clone(&path));
    vec![
        async move { finding(&node, Check::Pod, probe::tcp(target, &node).await, &path) }.boxed(),
        async move { finding(&of_udp, Check::PodUdp, probe::udp(target, &of_udp).await, &by_udp) }.boxed(),
        async move { finding(&of_mtu, Check::Mtu, mtu::check(target, &of_mtu).await, &by_mtu) }.boxed(),
    ]
}

fn service_probes(node: &str, target: &Target) -> Vec<Probe> {
    let Some(service) = target.service else {
        return vec![absent(node, Check::Service, "there is no Service in front of it")];
    };
    let address = SocketAddr::from((service, PORT));
    let node = Arc::<str>::from(node);
    let of_udp = Arc::clone(&node);
    vec![
        async move { finding(&node, Check::Service, probe::tcp(address, &node).await, "") }.boxed(),
        async move { finding(&of_udp, Check::ServiceUdp, probe::udp(address, &of_udp).await, "") }.boxed(),
    ]
}

fn dns_probe(to: String, server: SocketAddr, name: String, expected: Option<IpAddr>, asked: String) -> Probe {
    async move {
        let outcome = probe::name(server, &name, expected).await;
        finding(&to, Check::Dns, outcome, &asked)
    }
    .boxed()
}

fn absent(node: &str, check: Check, reason: &'static str) -> Probe {
    let node = node.to_owned();
    async move { finding(&node, check, Err(reason.into()), "") }.boxed()
}

/// `path` is said with what fails.
fn finding(to: &str, check: Check, outcome: Outcome, path: &str) -> Finding {
    let (ok, detail) = match outcome {
        Ok(detail) => (true, detail),
        Err(reason) => (false, format!("{reason}{path}")),
    };
    Finding {
        to: to.to_owned(),
        check,
        ok,
        detail,
    }
}

fn failed(task: &Task, message: &str) -> Report {
    Report {
        task: task.name.clone(),
        address: None,
        phase: Phase::Failed,
        message: Some(message.to_owned()),
        results: Vec::new(),
    }
}

fn with_sources(error: &Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
