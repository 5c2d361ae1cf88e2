//! The network of a node: pods, Services and DNS, run once the cluster's ranges are known and anew when they change.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use minidc_net::{
    Network, NetworkState, Peers, Range,
    dns::{self, Dns, SearchPaths, Serving, Upstreams, ZoneFiles, ZoneProblem},
    services::{self, Proxy, ProxyState},
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    control_plane::supervise,
    desired::Ranges,
    directory::Directory,
    reports::{About, Reports},
};

/// The cluster's domain.
pub(crate) const DOMAIN: &str = "cluster.local";
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
    /// What DNS answers by, besides Services.
    pub(crate) names: Names,
    /// Why DNS is not answered, if it is not.
    pub(crate) dns_problem: watch::Sender<Option<String>>,
}

/// What DNS answers by, besides Services.
#[derive(Clone)]
pub(crate) struct Names {
    /// Who is asked for names outside the cluster.
    pub(crate) upstreams: Upstreams,
    /// Directory for the last good versions of user zones.
    pub(crate) keep: PathBuf,
    /// User zones.
    pub(crate) zones: watch::Receiver<Arc<ZoneFiles>>,
    /// Config maps that these come from: name and uid.
    pub(crate) zone_maps: watch::Receiver<Arc<BTreeMap<Box<str>, String>>>,
    /// This node's pods whose names are completed.
    pub(crate) pods: watch::Receiver<Arc<SearchPaths>>,
    /// Where a bad zone file is told.
    pub(crate) reports: Reports,
}

/// Port of DNS.
const DNS_PORT: u16 = 53;
/// Most bytes of answers from outside that a node keeps.
const DNS_CACHE: usize = 2 << 20;
/// Between attempts to listen where something else listens.
const DNS_RETRY: Duration = Duration::from_secs(5);

/// The resolvers that the configuration names, `ADDRESS` or `ADDRESS:PORT`; the node's own when it names none.
///
/// # Errors
/// If one is no address.
pub(crate) fn upstreams(configured: &[String]) -> anyhow::Result<Upstreams> {
    if configured.is_empty() {
        return Ok(Upstreams::ResolvConf("/etc/resolv.conf".into()));
    }
    let parse = |text: &String| {
        let address = text.parse::<SocketAddr>().ok();
        address
            .or_else(|| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, DNS_PORT)))
            .ok_or_else(|| anyhow::anyhow!("[dns] upstream: {text:?} is no address: write ADDRESS or ADDRESS:PORT"))
    };
    Ok(Upstreams::Configured(
        configured.iter().map(parse).collect::<anyhow::Result<_>>()?,
    ))
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
        let naming = Naming {
            node: self.node.clone(),
            directory: Arc::clone(&self.directory),
            names: self.names.clone(),
            problem: self.dns_problem.clone(),
        };
        parts.spawn(naming.run(ranges, stop.clone()));
        supervise(parts, stop).await
    }
}

/// DNS for the pods of a node.
struct Naming {
    node: String,
    directory: Arc<Directory>,
    names: Names,
    problem: watch::Sender<Option<String>>,
}

impl Naming {
    /// Answers until told to stop. Something else that listens at the address is waited for: pods without names are better
    /// than no pods.
    async fn run(self, ranges: Ranges, stop: CancellationToken) -> anyhow::Result<()> {
        let Names {
            upstreams,
            keep,
            zones,
            zone_maps,
            pods,
            reports,
        } = self.names;
        let config = dns::Config {
            address: SocketAddr::new(ranges.dns().into(), DNS_PORT),
            domain: DOMAIN.into(),
            node: self.node.as_str().into(),
            pod_range: ranges.pods,
            service_range: ranges.services,
            upstreams,
            keep: Some(keep),
            cache_bytes: DNS_CACHE,
            limits: dns::Limits::default(),
            workers: None,
        };
        let server = loop {
            let message = match Dns::new(config.clone()) {
                Ok(server) => break server,
                Err(error) => format!("{:#}", anyhow::Error::from(error)),
            };
            self.problem.send_if_modified(|present| {
                let news = present.as_ref() != Some(&message);
                if news {
                    tracing::error!("DNS is not answered: {message}");
                    *present = Some(message);
                }
                news
            });
            tokio::select! {
                () = tokio::time::sleep(DNS_RETRY) => {}
                () = stop.cancelled() => return Ok(()),
            }
        };
        self.problem.send_if_modified(|present| present.take().is_some());
        let telling = tell_problems(server.handle().problems(), zone_maps, reports);
        let answering = server.run(self.directory.facts(), zones, pods, stop.clone());
        tokio::select! {
            ended = answering => Ok(ended?),
            never = telling => match never {},
        }
    }
}

/// Writes an event for each fault of a zone file.
async fn tell_problems(
    mut problems: watch::Receiver<Arc<[ZoneProblem]>>,
    maps: watch::Receiver<Arc<BTreeMap<Box<str>, String>>>,
    reports: Reports,
) -> std::convert::Infallible {
    let mut told: Vec<ZoneProblem> = Vec::new();
    loop {
        let now = Arc::clone(&problems.borrow_and_update());
        told.retain(|problem| now.contains(problem));
        let mut missed = false;
        for problem in now.iter() {
            if told.contains(problem) {
                continue;
            }
            let (warning, reason, message) = describe(problem);
            let uid = maps.borrow().get(&problem.config_map).cloned();
            let about = About {
                kind: "ConfigMap",
                namespace: "kube-system",
                name: &problem.config_map,
                uid: uid.as_deref(),
            };
            if reports.write(&about, warning, reason, &message).await {
                told.push(problem.clone());
            } else {
                missed = true;
            }
        }
        let again = async {
            if missed {
                tokio::time::sleep(DNS_RETRY).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            changed = problems.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
            () = again => {}
        }
    }
}

fn describe(problem: &ZoneProblem) -> (bool, &'static str, String) {
    let place = match problem.line {
        0 => problem.file.to_string(),
        line => format!("{}:{line}", problem.file),
    };
    let (warning, reason, meanwhile) = match problem.serving {
        Serving::This => (false, "ZoneHint", ""),
        Serving::Earlier => (true, "ZoneRefused", "; the last good version is served"),
        Serving::Nothing => (true, "ZoneRefused", "; the zone is not served"),
    };
    (warning, reason, format!("{place}: {}{meanwhile}", problem.reason))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_addresses_with_or_without_a_port() {
        let given = [
            "192.0.2.1".to_owned(),
            "192.0.2.2:5353".to_owned(),
            "[2001:db8::1]:53".to_owned(),
        ];
        let Ok(Upstreams::Configured(addresses)) = upstreams(&given) else {
            panic!("refused");
        };
        assert_eq!(addresses[0], "192.0.2.1:53".parse().unwrap());
        assert_eq!(addresses[1].port(), 5353);
        assert!(matches!(upstreams(&[]), Ok(Upstreams::ResolvConf(_))));
        let said = upstreams(&["dns.example".to_owned()]).unwrap_err().to_string();
        assert!(said.contains("dns.example") && said.contains("ADDRESS:PORT"), "{said}");
    }

    #[test]
    fn a_fault_names_file_line_reason_and_what_is_served() {
        let problem = ZoneProblem {
            config_map: "zones".into(),
            file: "db.example.lan".into(),
            line: 6,
            reason: "no address".into(),
            serving: Serving::Earlier,
        };
        let (warning, reason, message) = describe(&problem);
        assert!(warning);
        assert_eq!(
            (reason, message.as_str()),
            (
                "ZoneRefused",
                "db.example.lan:6: no address; the last good version is served"
            )
        );
    }
}
