//! `minidc server`: identity, store, API, link, controllers and mDNS, in this order; then the node beside it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use futures::future::BoxFuture;
use minidc_api::{kinds, streams::Target};
use minidc_apiserver::{ApiServer, BoxedIo, DialError, NodeDialer};
use minidc_link::{
    discovery::{Announcement, Mdns, MdnsOptions},
    names::{Announcer, Wanted},
    pki::{self, ClusterIdentity, ServingCertificate},
    server::Server,
};
use minidc_net::Range;
use minidc_store::Store;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    addresses, carrier, clock,
    commands::kubeconfig::{Contents, with_address, write_private},
    config::{self, Config},
    listener::Listener,
    node, roll_call,
    sessions::{Ranges, Sessions},
    stages::Stages,
};

/// How often the own addresses are looked at: a cable that is plugged elsewhere gives new ones.
const ADDRESS_CHECK: Duration = Duration::from_secs(5);

/// The link's `dial`, as the API server wants it. Set once the link is there: each needs the other.
#[derive(Default)]
struct Dialer {
    link: std::sync::OnceLock<Server>,
}

impl NodeDialer for Dialer {
    fn dial(&self, node: String, target: Target) -> BoxFuture<'static, Result<BoxedIo, DialError>> {
        let link = self.link.get().cloned();
        Box::pin(async move {
            let Some(link) = link else {
                return Err(DialError {
                    code: 503,
                    message: "the control plane is starting".into(),
                });
            };
            match link.dial(&node, target).await {
                Ok(io) => Ok(BoxedIo::new(io)),
                Err((code, message)) => Err(DialError { code, message }),
            }
        })
    }
}

/// Runs the control plane until `shutdown`.
///
/// # Errors
/// If a part cannot start, or one ends that should not.
pub(crate) async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    check_ranges(&config.server)?;
    let directory = config.data.join("server");
    let images = directory.join("images");
    make_private(&directory)?;
    make_private(&images)?;
    std::fs::create_dir_all(&config.run).with_context(|| format!("make {}", config.run.display()))?;
    Stages::begin(&config.run);
    // the port first: a second server on this machine must not touch the store
    let socket = TcpListener::bind(config.server.listen)
        .await
        .with_context(|| format!("listen on {} (is a server running already?)", config.server.listen))?;
    let port = socket.local_addr()?.port();

    let identity = Arc::new(ClusterIdentity::load_or_create(
        &directory.join("pki"),
        &config.cluster.name,
    )?);
    let store = Store::open(
        directory.join("store"),
        minidc_store::Options {
            memory_prefixes: minidc_apiserver::memory_prefixes(),
            ..minidc_store::Options::default()
        },
    )
    .await?;
    tracing::info!(cluster = identity.cluster(), pin = %identity.pin(), store = %store.identity(), revision = store.revision(), "starting");

    let dialer = Arc::new(Dialer::default());
    let api = ApiServer::new(
        store.clone(),
        minidc_apiserver::Options {
            images: images.clone(),
            default_toleration_seconds: config.server.toleration_seconds,
            nodes: Arc::clone(&dialer) as Arc<dyn NodeDialer>,
            cluster: identity.cluster().to_owned(),
            service_range: config.server.service_range.clone(),
        },
    );
    api.bootstrap().await.context("make the first namespaces")?;
    let local_node = if config.server.node {
        Some(node::name(&config)?)
    } else {
        None
    };
    let sessions = Arc::new(Sessions::new(
        api.clone(),
        images,
        Ranges {
            pods: config.server.pod_range.clone(),
            // an older range stays in force while Services have addresses out of it
            services: api
                .service_range()
                .unwrap_or_else(|| config.server.service_range.clone()),
        },
        local_node,
    ));
    let link = Server::new(Arc::clone(&identity), sessions);
    let _ = dialer.link.set(link.clone());

    let serving = Arc::new(ServingCertificate::new(
        Arc::clone(&identity),
        &names(&config, identity.cluster(), &api),
    )?);
    let tls = pki::server_config(&identity, Arc::clone(&serving))?;
    let addresses = AddressKeeper {
        config: config.clone(),
        identity: Arc::clone(&identity),
        serving,
        port,
        announced: tokio::sync::watch::Sender::default(),
        api: api.clone(),
    };
    addresses.refresh()?;

    let mut parts = JoinSet::new();
    parts.spawn(
        Listener {
            socket,
            tls,
            api: api.router(),
            link: link.clone(),
        }
        .run(shutdown.clone()),
    );
    // people reach the API by the cluster's name on the LAN
    let (announced, stop) = (addresses.announced.subscribe(), shutdown.clone());
    parts.spawn(async move {
        Announcer::new().run(announced, stop.clone()).await;
        stop.cancelled().await;
        Ok(())
    });
    parts.spawn(addresses.run(shutdown.clone()));
    let in_process = api.clone();
    let clients =
        move |user: &'static str| kube::Client::new(in_process.router_as(user, &["system:authenticated"]), "default");
    let pod_range = config.server.pod_range.parse().context("pod-range")?;
    let mut options = minidc_controllers::Options::new(pod_range);
    options.node_silence = Duration::from_millis(config.server.node_silence_ms);
    let cut_off = tokio::sync::watch::Sender::new(false);
    options.evictions_paused = cut_off.subscribe();
    options.cluster = identity.cluster().to_owned();
    options.api_port = port;
    parts.spawn(carrier::watch(cut_off, shutdown.clone()));
    let stop = shutdown.clone();
    parts.spawn(async move { Ok(minidc_controllers::run(clients, options, stop).await?) });
    let announcement = Announcement {
        cluster: identity.cluster().to_owned(),
        pin: identity.pin(),
        port,
        instance: node::name(&config)?,
    };
    // announces until it is dropped, whether Avahi is there now, later or again
    let _mdns = Mdns::start(MdnsOptions {
        announce: Some(announcement),
        browse: false,
        pod_range: None,
    })?;
    parts.spawn(watch_identities(store.clone(), link.clone(), shutdown.clone()));
    let (roll, known) = tokio::sync::watch::channel(roll_call::Roll::new());
    parts.spawn(roll_call::run(
        store.clone(),
        api.clone(),
        link.clone(),
        roll,
        shutdown.clone(),
    ));
    if config.server.node {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let local = node::Local {
            identity: Arc::clone(&identity),
            address,
            link: link.clone(),
            roll: known,
        };
        parts.spawn(node::run(config.clone(), Some(local), shutdown.clone()));
    } else {
        parts.spawn(node::report_without_node(config.clone(), known, shutdown.clone()));
        parts.spawn(clock::keep(config.data.clone(), config.clock.set, shutdown.clone()));
    }
    let outcome = supervise(parts, shutdown).await;
    store.close().await;
    outcome
}

/// Waits for the end of all parts. The first that ends without being asked to takes the others with it: a control plane
/// with a part missing would only look alive, and whoever supervises the process starts it again whole.
///
/// # Errors
/// The first part's.
pub(crate) async fn supervise(
    mut parts: JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    while let Some(ended) = parts.join_next().await {
        let ended = ended.unwrap_or_else(|panicked| Err(anyhow::Error::from(panicked)));
        if !shutdown.is_cancelled() {
            outcome = ended.and(Err(anyhow::anyhow!("a part ended by itself")));
            shutdown.cancel();
        } else if let Err(error) = ended {
            tracing::warn!("while stopping: {error:#}");
        }
    }
    outcome
}

/// Ends the sessions of nodes whose record was changed, as `minidc node remove` does.
async fn watch_identities(store: Store, link: Server, shutdown: CancellationToken) -> anyhow::Result<()> {
    let prefix = kinds::by_resource("minidc.dev", "v1", "nodeidentities")
        .context("no such kind")?
        .store_prefix();
    let mut changes = store.watch(&prefix, store.revision())?;
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            () = shutdown.cancelled() => return Ok(()),
        };
        match change {
            Ok(change) => {
                let node = change
                    .key()
                    .strip_prefix(&*prefix)
                    .unwrap_or_default()
                    .trim_start_matches('/')
                    .to_owned();
                if let Err(error) = link.recheck(&node).await {
                    tracing::warn!(node, %error, "look at a changed node identity");
                }
            }
            Err(_) => changes = store.watch(&prefix, store.revision())?,
        }
    }
}

/// Names and addresses that the serving certificate is to carry besides the fixed ones.
fn names(config: &Config, cluster: &str, api: &ApiServer) -> Vec<String> {
    let mut names = config.server.names.clone();
    names.push(format!("{cluster}.local"));
    // what pods are told as KUBERNETES_SERVICE_HOST
    let range = api.service_range().and_then(|range| range.parse::<Range>().ok());
    names.extend(range.map(|range| Ipv4Addr::from_bits(range.network().to_bits() + 1).to_string()));
    if let Ok(host) = node::name(config) {
        names.push(format!("{host}.local"));
        names.push(host);
    }
    names.extend(addresses::own().iter().map(ToString::to_string));
    names
}

/// Keeps the serving certificate and the admin's kubeconfig true when addresses change.
struct AddressKeeper {
    config: Config,
    identity: Arc<ClusterIdentity>,
    serving: Arc<ServingCertificate>,
    port: u16,
    /// The cluster's name on the LAN.
    announced: tokio::sync::watch::Sender<Wanted>,
    api: ApiServer,
}

impl AddressKeeper {
    async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut timer = tokio::time::interval(ADDRESS_CHECK);
        loop {
            tokio::select! {
                _ = timer.tick() => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            // a full disk or the like must not stop the API
            if let Err(error) = self.refresh() {
                tracing::warn!("follow the own addresses: {error:#}");
            }
            // pods reach the API through the service `kubernetes`
            if let Err(error) = self
                .api
                .publish_endpoints(&published(&addresses::own()), self.port)
                .await
            {
                tracing::warn!(error = &error as &dyn std::error::Error, "publish the API's addresses");
            }
        }
    }

    fn refresh(&self) -> anyhow::Result<()> {
        if self
            .serving
            .set_names(&names(&self.config, self.identity.cluster(), &self.api))?
        {
            tracing::info!(names = ?self.serving.names(), "serving certificate issued");
        }
        let own = addresses::own();
        let first = own.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let label = self.identity.cluster().to_owned();
        let wanted: BTreeMap<String, Ipv4Addr> = first.map(|address| (label, address)).into_iter().collect();
        self.announced.send_if_modified(|present| {
            let news = **present != wanted;
            if news {
                *present = Arc::new(wanted);
            }
            news
        });
        let host = own.first().map_or_else(|| "127.0.0.1".to_owned(), ToString::to_string);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let address = format!("{host}:{}", self.port);
        let path = self.config.data.join("server/admin.kubeconfig");
        match std::fs::read_to_string(&path) {
            Ok(text) if with_address(&text, &address) == text => Ok(()),
            Ok(text) => write_private(&path, &with_address(&text, &address)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let admin = self.identity.issue_admin()?;
                let contents = Contents {
                    cluster: self.identity.cluster(),
                    address: &address,
                    authority: self.identity.ca_pem(),
                    certificate: &admin.certificate_pem,
                    key: &admin.key_pem,
                };
                write_private(&path, &contents.render())
            }
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
}

/// The address that pods are led to: one, since a node that reaches only the wired network would lose every second connection
/// if the wireless address stood beside it. A link-local one only if there is no other.
fn published(own: &[IpAddr]) -> Vec<IpAddr> {
    let link_local = |address: &&IpAddr| matches!(address, IpAddr::V4(address) if address.is_link_local());
    let first = own.iter().find(|address| !link_local(address)).or(own.first());
    first.copied().into_iter().collect()
}

/// Pods and Services must not share addresses, and a /24 per node and a DNS address must fit.
fn check_ranges(server: &config::Server) -> anyhow::Result<()> {
    let parse = |key: &'static str, text: &str| -> anyhow::Result<Range> {
        text.parse()
            .with_context(|| format!("{key} = {text:?} (a range is written like 100.65.0.0/16)"))
    };
    let pods = parse("pod-range", &server.pod_range)?;
    let services = parse("service-range", &server.service_range)?;
    anyhow::ensure!(
        !pods.overlaps(services),
        "pod-range {pods} and service-range {services} overlap: choose ranges apart"
    );
    anyhow::ensure!(
        (12..=24).contains(&services.prefix()),
        "service-range {services}: the prefix must be /12 to /24"
    );
    Ok(())
}

/// Makes a directory that only its owner may enter.
pub(crate) fn make_private(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("make {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_led_to_one_address_and_to_a_link_local_one_only_if_there_is_no_other() {
        let parse = |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        assert_eq!(
            published(&parse(&["169.254.3.4", "10.0.0.1", "192.168.0.9"])),
            parse(&["10.0.0.1"])
        );
        assert_eq!(published(&parse(&["169.254.3.4"])), parse(&["169.254.3.4"]));
        assert!(published(&[]).is_empty());
    }
}
