//! `minidc agent`, and the node beside a control plane: link, kubelet, network and LEDs, and what they tell each other.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use futures::future::BoxFuture;
use minidc_api::{metrics::NodeSample, streams::Target};
use minidc_hardware::{NodeHealth, Reason, Refusal, Stage, held, sensors};
use minidc_kubelet::{ControlPlane, Desired, Kubelet, Offline, Surroundings};
use minidc_link::{
    BoxedIo,
    discovery::{Mdns, MdnsOptions},
    feed::FeedState,
    node::{Config as LinkConfig, LinkState, Node, NodeHandle, NodeLink, Serving},
    pki::ClusterIdentity,
    protocol::{Command, NodeFacts, RefusalCode},
    server::Server,
    token::Token,
};
use minidc_net::{
    NetworkState, Peers,
    dns::{SearchPaths, ZoneFiles},
    services::ProxyState,
};
use tokio::{io::AsyncRead, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    addresses, boot, clock,
    commands::status::{FILE, SERVER_ONLY, Status},
    config::Config,
    control_plane::{make_private, supervise},
    desired::{Item, Ranges, Translator},
    directory::Directory,
    drain::Drain,
    lan_names, lights,
    net_check::NetChecks,
    network_condition,
    networking::{Names, Networking, upstreams},
    reports::Reports,
    roll_call::Roll,
    stages::{self, Stages},
};

/// The control plane in the same process, which needs no token to be joined.
pub(crate) struct Local {
    /// The cluster's identity.
    pub(crate) identity: Arc<ClusterIdentity>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Where the node's key is put on record.
    pub(crate) link: Server,
    /// What is known of all nodes.
    pub(crate) roll: watch::Receiver<Roll>,
}

/// Name of this node: the configured one, else the host name.
pub(crate) fn name(config: &Config) -> anyhow::Result<String> {
    if let Some(name) = &config.name {
        return Ok(name.clone());
    }
    let host = nix::unistd::gethostname().context("read the host name")?;
    let host = host.to_string_lossy().to_lowercase();
    Ok(host.split('.').next().unwrap_or_default().to_owned())
}

/// Runs `minidc agent` until `shutdown`.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_agent(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    run(config, None, shutdown).await
}

/// Runs the node until `shutdown`. Its containers keep running after that.
///
/// # Errors
/// If a part cannot start, or one ends that should not.
pub(crate) async fn run(config: Config, local: Option<Local>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let node = name(&config)?;
    let directory = config.data.join("agent");
    make_private(&directory)?;
    std::fs::create_dir_all(&config.run).with_context(|| format!("make {}", config.run.display()))?;

    // beside a control plane it was begun before that
    let stages = match &local {
        Some(_) => Stages::new(&config.run),
        None => Stages::begin(&config.run),
    };
    let health = watch::Sender::new(NodeHealth::default());
    let mut parts = JoinSet::new();
    let roll = local.as_ref().map(|local| local.roll.clone());
    parts.spawn(lights::run(
        config.clone(),
        health.subscribe(),
        roll.clone(),
        shutdown.clone(),
    ));
    tokio::spawn(stages::watch_network(Stages::new(&config.run), shutdown.clone()));
    parts.spawn(clock::keep(config.data.clone(), config.clock.set, shutdown.clone()));

    // the kubelet and the link need each other: the link is handed to the kubelet's upstream once it is made
    let (desired_sender, desired) = watch::channel(Arc::new(Desired::default()));
    let upstream = Arc::new(Upstream::default());
    let services = Arc::new(Directory::new(&node));
    let mut kubelet_config = minidc_kubelet::Config::new(node.clone());
    kubelet_config.data.clone_from(&directory);
    kubelet_config.run.clone_from(&config.run);
    kubelet_config.containerd.clone_from(&config.agent.containerd);
    kubelet_config.log_dir.clone_from(&config.agent.pod_logs);
    let kubelet = Kubelet::new(
        kubelet_config,
        Arc::clone(&upstream) as Arc<dyn ControlPlane>,
        Arc::clone(&services) as Arc<dyn Surroundings>,
        desired,
    );
    let handle = kubelet.handle();

    let mdns = Arc::new(Mdns::start(MdnsOptions {
        announce: None,
        browse: local.is_none(),
        pod_range: None,
    })?);
    let link_config = LinkConfig {
        node: node.clone(),
        directory: directory.clone(),
        token: read_token(&config)?,
        servers: match &local {
            Some(local) => vec![local.address.to_string()],
            None => config.agent.server.with_ports(),
        },
        discovery: mdns,
    };
    if let Some(local) = &local {
        let key = local
            .identity
            .issue_local_node(&directory, &node, local.address, minidc_link::clock::system())?;
        local.link.trust_local(&node, &key).await?;
    }
    let board = Arc::new(BoardNode {
        located: Arc::default(),
        name: node.clone(),
        kubelet: handle.clone(),
        health: health.clone(),
        may_set_clock: config.clock.set,
    });
    let (link, link_handle) = NodeLink::new(link_config, board)?;
    upstream.set(link_handle.clone());

    let kubelet_health = handle.health();
    let stop = shutdown.clone();
    parts.spawn(async move { Ok(link.run(stop).await?) });
    // nothing of pods is touched before the node belongs to a cluster
    let (state, stop, feed) = (link_handle.state(), shutdown.clone(), link_handle.feed());
    parts.spawn(async move {
        if wait_until_member(state, feed, &stop).await {
            kubelet.run(stop).await?;
        }
        Ok(())
    });

    let (peers_sender, peers) = watch::channel(Arc::new(Peers::default()));
    let (ranges_sender, ranges) = watch::channel(None);
    let network_state = watch::Sender::new(NetworkState::default());
    let proxy_state = watch::Sender::new(ProxyState::default());
    let (zones_sender, zones) = watch::channel(Arc::default());
    let (zone_maps_sender, zone_maps) = watch::channel(Arc::default());
    let (searching_sender, searching) = watch::channel(Arc::default());
    let dns_problem = watch::Sender::new(None);
    let translation = Translation {
        zones: zones_sender,
        zone_maps: zone_maps_sender,
        searching: searching_sender,
        desired: desired_sender,
        peers: peers_sender,
        ranges: ranges_sender,
    };
    parts.spawn(translation.run(Translator::new(&node), link_handle.feed(), shutdown.clone()));
    parts.spawn(Arc::clone(&services).run(link_handle.changes(), shutdown.clone()));
    let reports = Reports::new(node.clone(), Arc::clone(&upstream) as Arc<dyn ControlPlane>);
    let drain = Drain {
        node: node.clone(),
        upstream: Arc::clone(&upstream) as Arc<dyn ControlPlane>,
        run: config.run.clone(),
    };
    parts.spawn(drain.run(shutdown.clone()));
    parts.spawn(lan_names::run(Arc::clone(&services), reports.clone(), shutdown.clone()));
    let net_checks = NetChecks {
        node: node.clone(),
        run: config.run.clone(),
        upstream: Arc::clone(&upstream) as Arc<dyn ControlPlane>,
        feed: link_handle.feed(),
        ranges: ranges.clone(),
        network: network_state.subscribe(),
    };
    parts.spawn(net_checks.run(shutdown.clone()));
    let networking = Networking {
        names: Names {
            upstreams: upstreams(&config.dns.upstream)?,
            keep: directory.join("zones"),
            zones,
            zone_maps,
            pods: searching,
            reports,
        },
        dns_problem: dns_problem.clone(),
        node: node.clone(),
        ranges,
        peers,
        directory: services,
        state: network_state.clone(),
        proxy: proxy_state.clone(),
    };
    parts.spawn(networking.run(shutdown.clone()));
    parts.spawn(network_condition::run(
        node.clone(),
        upstream,
        network_state.subscribe(),
        shutdown.clone(),
    ));
    parts.spawn(adopt_on_signal(link_handle.clone(), shutdown.clone()));
    let watched = Watched {
        roll,
        data: config.data.clone(),
        samples: handle.samples(),
        link: link_handle.state(),
        kubelet: kubelet_health,
        network: network_state.subscribe(),
        proxy: proxy_state.subscribe(),
        dns_problem: dns_problem.subscribe(),
        trouble: boot::Left::read(&config).map(|left| left.trouble),
    };
    let role = if local.is_some() { "server and node" } else { "node" };
    parts.spawn(keep_health(
        watched,
        health,
        StatusFile::new(&config, &node, role),
        stages,
        shutdown.clone(),
    ));
    supervise(parts, shutdown).await
}

/// Says by LEDs and `minidc status` why nothing runs here, until `shutdown`: the card has to be changed by a person.
///
/// # Errors
/// If the LEDs fail.
pub(crate) async fn wait_for_a_person(
    config: Config,
    left: boot::Left,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.run).with_context(|| format!("make {}", config.run.display()))?;
    tracing::error!("nothing is started here: {}", left.text);
    let mut health = NodeHealth::default();
    left.trouble.show(&mut health);
    let mut file = StatusFile::new(&config, &name(&config)?, "nothing");
    file.write("none: see below", &Reason::of(&health).to_string(), 0);
    let health = watch::Sender::new(health);
    let mut parts = JoinSet::new();
    parts.spawn(lights::run(config.clone(), health.subscribe(), None, shutdown.clone()));
    parts.spawn(lights::repeat(health, None, shutdown.clone()));
    let outcome = supervise(parts, shutdown).await;
    file.remove();
    outcome
}

/// Keeps `minidc status` informed where there is no node.
pub(crate) async fn report_without_node(
    config: Config,
    roll: watch::Receiver<Roll>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.run).with_context(|| format!("make {}", config.run.display()))?;
    let mut file = StatusFile::new(&config, &name(&config)?, SERVER_ONLY);
    let health = watch::Sender::new(NodeHealth {
        stage: Stage::Connected,
        ..NodeHealth::default()
    });
    let mut told = health.subscribe();
    let mut parts = JoinSet::new();
    parts.spawn(lights::run(
        config.clone(),
        health.subscribe(),
        Some(roll.clone()),
        shutdown.clone(),
    ));
    parts.spawn(lights::repeat(health, Some(roll), shutdown.clone()));
    let stop = shutdown.clone();
    parts.spawn(async move {
        loop {
            let said = Reason::of(&told.borrow_and_update()).to_string();
            file.write("none: this is the control plane", &said, 0);
            tokio::select! {
                changed = told.changed() => if changed.is_err() { break },
                () = stop.cancelled() => break,
            }
        }
        stop.cancelled().await;
        file.remove();
        Ok(())
    });
    supervise(parts, shutdown).await
}

fn read_token(config: &Config) -> anyhow::Result<Option<Token>> {
    let text = match (&config.agent.token, &config.agent.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) => match std::fs::read_to_string(path) {
            Ok(text) => text,
            // whoever has joined needs it no more, and may have removed it
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound && config.data.join("agent/identity.json").exists() =>
            {
                return Ok(None);
            }
            Err(error) => {
                return Err(error).with_context(|| format!("read the join token from {}", path.display()));
            }
        },
        (None, None) => return Ok(None),
    };
    let token: Token = text.trim().parse().context("the join token is refused")?;
    Ok(Some(token))
}

/// True once the node has been in the cluster, now or in an earlier life; false if it is stopped before.
async fn wait_until_member(
    mut state: watch::Receiver<LinkState>,
    mut feed: watch::Receiver<Arc<FeedState>>,
    shutdown: &CancellationToken,
) -> bool {
    tokio::select! {
        connected = state.wait_for(LinkState::is_connected) => connected.is_ok(),
        known = feed.wait_for(|feed| !feed.items.is_empty()) => known.is_ok(),
        () = shutdown.cancelled() => false,
    }
}

/// SIGUSR1 is what `minidc node adopt` sends.
async fn adopt_on_signal(link: NodeHandle, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::user_defined1())?;
    loop {
        tokio::select! {
            _ = signal.recv() => {
                tracing::info!("told to adopt the store of the control plane");
                link.adopt();
            }
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// The link, as the kubelet sees it. Set once the link is there.
#[derive(Default)]
struct Upstream {
    link: std::sync::OnceLock<NodeHandle>,
}

impl Upstream {
    fn set(&self, link: NodeHandle) {
        let _ = self.link.set(link);
    }
}

impl ControlPlane for Upstream {
    fn request(
        &self,
        method: &'static str,
        path: String,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> BoxFuture<'static, Result<(u16, Vec<u8>), Offline>> {
        let link = self.link.get().cloned();
        Box::pin(async move {
            link.ok_or(Offline)?
                .request(method, path, content_type, body)
                .await
                .map_err(|_| Offline)
        })
    }

    fn image_archive(&self, name: String) -> BoxFuture<'static, Result<Box<dyn AsyncRead + Send + Unpin>, Offline>> {
        let link = self.link.get().cloned();
        Box::pin(async move {
            let (_, reader) = link.ok_or(Offline)?.image_archive(&name).await.map_err(|error| {
                tracing::warn!(image = name, %error, "fetch an image archive");
                Offline
            })?;
            Ok(reader)
        })
    }

    fn connected(&self) -> watch::Receiver<bool> {
        // the kubelet is started after the link was set
        self.link
            .get()
            .map_or_else(|| watch::channel(false).1, NodeHandle::connected)
    }
}

/// This board, as the link sees it.
struct BoardNode {
    /// How often it was asked to show itself.
    located: Arc<AtomicU64>,
    name: String,
    kubelet: minidc_kubelet::Handle,
    health: watch::Sender<NodeHealth>,
    may_set_clock: bool,
}

impl Node for BoardNode {
    fn facts(&self) -> NodeFacts {
        let line = |path: &str| {
            std::fs::read_to_string(path)
                .map(|text| text.trim_matches(['\0', '\n', ' ']).to_owned())
                .unwrap_or_default()
        };
        let release = line("/etc/os-release");
        let pretty = release
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="))
            .unwrap_or("Linux")
            .trim_matches('"');
        NodeFacts {
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            machine_id: line("/etc/machine-id"),
            kernel_version: line("/proc/sys/kernel/osrelease"),
            os_image: pretty.to_owned(),
            agent_version: crate::VERSION.to_owned(),
            architecture: minidc_kubelet::archive::architecture().to_owned(),
            board: line("/proc/device-tree/model"),
            hostname: self.name.clone(),
            addresses: addresses::own(),
            ..NodeFacts::default()
        }
    }

    fn heartbeat(&self) -> (NodeSample, String) {
        (
            self.kubelet.sample().as_ref().clone(),
            Reason::of(&self.health.borrow()).to_string(),
        )
    }

    fn open(&self, target: Target) -> BoxFuture<'static, Result<Serving, (u16, String)>> {
        let kubelet = self.kubelet.clone();
        Box::pin(async move {
            let serving = kubelet.prepare(target).await?;
            Ok(Box::new(move |io: BoxedIo| -> BoxFuture<'static, ()> { Box::pin(serving.run(io)) }) as Serving)
        })
    }

    fn command(&self, command: Command) {
        match command {
            Command::Locate { seconds } => {
                let (health, located) = (self.health.clone(), Arc::clone(&self.located));
                let own = located.fetch_add(1, Ordering::Relaxed) + 1;
                health.send_modify(|health| health.locate = seconds > 0);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(seconds.into())).await;
                    // whoever asked again meanwhile gets the whole time
                    if located.load(Ordering::Relaxed) == own {
                        health.send_modify(|health| health.locate = false);
                    }
                });
            }
            // the link itself has done what there is to do
            Command::Adopt => {}
            Command::Reboot => tracing::warn!("the control plane asks for a reboot, which this version does not do"),
        }
    }

    fn wall_clock(&self, unix_ms: u64) {
        let own = minidc_link::clock::system_milliseconds();
        // who has a time service knows better than the control plane
        let may_set = self.may_set_clock && !clock::is_confirmed();
        match clock::follow(own, unix_ms, may_set) {
            clock::Follow::Stay => {}
            clock::Follow::Tell { behind_ms } => {
                tracing::warn!(behind_ms, "this board's clock is behind the control plane's");
            }
            clock::Follow::Set { behind_ms } => match clock::set(Duration::from_millis(unix_ms)) {
                Ok(()) => tracing::info!(behind_ms, "the clock was behind the control plane's: set"),
                Err(error) => tracing::warn!(behind_ms, "the clock is behind the control plane's: {error:#}"),
            },
        }
    }
}

/// Hands on what the feed says.
struct Translation {
    desired: watch::Sender<Arc<Desired>>,
    peers: watch::Sender<Arc<Peers>>,
    ranges: watch::Sender<Option<Ranges>>,
    zones: watch::Sender<Arc<ZoneFiles>>,
    zone_maps: watch::Sender<Arc<BTreeMap<Box<str>, String>>>,
    searching: watch::Sender<Arc<SearchPaths>>,
}

/// Hands on what is new.
fn renew<T: PartialEq>(to: &watch::Sender<Arc<T>>, now: T) {
    to.send_if_modified(|present| {
        let news = **present != now;
        if news {
            *present = Arc::new(now);
        }
        news
    });
}

impl Translation {
    async fn run(
        self,
        mut translator: Translator,
        mut feed: watch::Receiver<Arc<FeedState>>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            let state = Arc::clone(&feed.borrow_and_update());
            let items = state.items.iter().map(|((kind, namespace, name), entry)| Item {
                kind: *kind,
                namespace,
                name,
                revision: entry.revision,
                json: &entry.json,
            });
            let translated = translator.translate(state.synced, items);
            self.desired.send_replace(Arc::new(translated.desired));
            renew(&self.peers, translated.peers);
            renew(&self.zones, translated.zones);
            renew(&self.zone_maps, translated.zone_maps);
            renew(&self.searching, translated.searching);
            self.ranges
                .send_if_modified(|present| std::mem::replace(present, translator.ranges) != translator.ranges);
            tokio::select! {
                changed = feed.changed() => if changed.is_err() { return Ok(()) },
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }
}

/// Longest time between two looks, and the sign of life, where there is no measurement each second.
const LOOK: Duration = Duration::from_millis(1200);

/// The facts that make up a node's health.
struct Watched {
    roll: Option<watch::Receiver<Roll>>,
    data: std::path::PathBuf,
    samples: watch::Receiver<Arc<NodeSample>>,
    link: watch::Receiver<LinkState>,
    kubelet: watch::Receiver<minidc_kubelet::Health>,
    network: watch::Receiver<NetworkState>,
    proxy: watch::Receiver<ProxyState>,
    dns_problem: watch::Receiver<Option<String>>,
    /// What keeps the board from starting as its card says.
    trouble: Option<boot::Trouble>,
}

impl Watched {
    /// The node's health now; some of it depends on how it was `before`.
    fn health(&mut self, before: &NodeHealth) -> NodeHealth {
        let stage = stage(&self.link.borrow_and_update());
        let network = self.network.borrow_and_update().clone();
        let rules_ok = self.proxy.borrow_and_update().problem.is_none();
        let names_ok = self.dns_problem.borrow_and_update().is_none();
        let kubelet = self.kubelet.borrow_and_update().clone();
        // a node that never was a member has neither pods nor network, and that is no fault
        let member = !matches!(
            stage,
            Stage::Booting | Stage::Searching | Stage::Joining | Stage::Refused(_)
        );
        let overlaps = |reason| {
            matches!(
                reason,
                minidc_net::Reason::PodRangeOverlapsLan | minidc_net::Reason::ServiceRangeOverlapsLan
            )
        };
        let sample = self.samples.borrow_and_update().clone();
        let sensors = sensors::read(std::path::Path::new("/"), &self.data);
        let percent =
            |part: u64, whole: u64| u8::try_from((part * 100).checked_div(whole).unwrap_or(0).min(100)).unwrap_or(100);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        let cpu = percent(sample.cpu_nanocores, cores * 1_000_000_000);
        let memory = percent(sample.memory_bytes, sample.memory_bytes + sample.memory_available_bytes);
        NodeHealth {
            stage,
            runtime_ok: !member || kubelet.runtime_ok,
            network_ok: !member || (network.is_sound() && rules_ok && names_ok),
            ranges_overlap: network.problems.iter().any(|problem| overlaps(problem.reason)),
            cpu_percent: held(before.cpu_percent, cpu, 90, 75),
            memory_percent: held(before.memory_percent, memory, 90, 85),
            disk_failing: sensors.disk_failing,
            under_voltage: sensors.under_voltage,
            pods_running: kubelet.pods_running,
            pods_failing: kubelet.pods_failing,
            disk_pressure: kubelet.disk_pressure,
            memory_pressure: kubelet.memory_pressure,
            temperature_celsius: sample
                .temperature_millicelsius
                .map(|thousandths| thousandths as f32 / 1000.0),
            nodes_lost: self
                .roll
                .as_mut()
                .map_or(0, |roll| lights::lost(&roll.borrow_and_update())),
            locate: before.locate,
        }
    }
}

async fn keep_health(
    mut watched: Watched,
    health: watch::Sender<NodeHealth>,
    mut file: StatusFile,
    mut stages: Stages,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let before = health.borrow().clone();
        let mut now = watched.health(&before);
        stages.of(&now);
        if let Some(trouble) = watched.trouble {
            trouble.show(&mut now);
        }
        file.write(
            &describe(&watched.link.borrow()),
            &Reason::of(&now).to_string(),
            now.pods_running,
        );
        // also when it is the same: it is the sign of life that the lights and systemd's watchdog wait for
        health.send_modify(|present| {
            // said by somebody else, perhaps just now
            let locate = present.locate;
            *present = NodeHealth { locate, ..now };
        });
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            changed = watched.samples.changed() => if changed.is_err() { break },
            changed = changed(watched.roll.as_mut()) => if !changed { break },
            changed = watched.link.changed() => if changed.is_err() { break },
            changed = watched.kubelet.changed() => if changed.is_err() { break },
            changed = watched.network.changed() => if changed.is_err() { break },
            changed = watched.proxy.changed() => if changed.is_err() { break },
            changed = watched.dns_problem.changed() => if changed.is_err() { break },
            () = shutdown.cancelled() => break,
        }
    }
    shutdown.cancelled().await;
    file.remove();
    Ok(())
}

/// Waits for the next change; false when there will be none. Without anything to watch it waits for ever.
async fn changed<T>(receiver: Option<&mut watch::Receiver<T>>) -> bool {
    match receiver {
        Some(receiver) => receiver.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}

fn stage(link: &LinkState) -> Stage {
    match link {
        LinkState::Searching { .. } => Stage::Searching,
        LinkState::Joining => Stage::Joining,
        LinkState::Connected { .. } => Stage::Connected,
        LinkState::Away { .. } => Stage::Away,
        LinkState::ForeignStore { .. } => Stage::Refused(Refusal::ForeignStore),
        LinkState::Refused { code, .. } => Stage::Refused(match code {
            RefusalCode::Token
            | RefusalCode::TokenExpired
            | RefusalCode::TokenOtherNode
            | RefusalCode::TokenUsed
            | RefusalCode::NotANode => Refusal::Token,
            RefusalCode::DuplicateName | RefusalCode::Replaced => Refusal::NameInUse,
            RefusalCode::Removed | RefusalCode::Superseded => Refusal::Removed,
            RefusalCode::ForeignCluster => Refusal::ForeignCluster,
            RefusalCode::Protocol => Refusal::Version,
            _ => Refusal::Other,
        }),
    }
}

fn describe(link: &LinkState) -> String {
    match link {
        LinkState::Searching { note } => format!("searching: {note}"),
        LinkState::Joining => "joining".into(),
        LinkState::Connected { server } => format!("connected to {server}"),
        // without the time: this is written down when it changes, not each second
        LinkState::Away { reason, .. } => format!("the control plane is away: {reason}"),
        LinkState::Refused { code, reason } => format!("refused ({code}): {reason}"),
        LinkState::ForeignStore { server, .. } => {
            format!(
                "{server} has another or older store than this node knows; what runs is kept until `minidc node adopt`"
            )
        }
    }
}

/// The file that `minidc status` reads.
struct StatusFile {
    path: std::path::PathBuf,
    last: Status,
}

impl StatusFile {
    fn new(config: &Config, node: &str, role: &str) -> Self {
        let last = Status {
            node: node.to_owned(),
            role: role.to_owned(),
            pid: std::process::id(),
            version: crate::VERSION.to_owned(),
            ..Status::default()
        };
        Self {
            path: config.run.join(FILE),
            last,
        }
    }

    fn write(&mut self, link: &str, led: &str, pods: u32) {
        let now = Status {
            link: link.to_owned(),
            led: led.to_owned(),
            pods,
            ..self.last.clone()
        };
        if now == self.last {
            return;
        }
        let written = serde_json::to_vec(&now)
            .map_err(anyhow::Error::from)
            .and_then(|bytes| Ok(std::fs::write(&self.path, bytes)?));
        if let Err(error) = written {
            tracing::debug!("write {}: {error:#}", self.path.display());
        }
        self.last = now;
    }

    fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
