//! Names for pods: the Kubernetes DNS specification 1.1.0, user zones, the names on the LAN, and everything else by asking
//! the node's resolvers.
//!
//! [`Dns`] answers at the cluster's DNS address on its node, without a pod, an address translation or a connection entry on
//! the way. It is told of Services by [`Fact`]s, of user zones by their files, and of pods by their [`SearchPaths`].
//!
//! The way of a query: `server` takes it in, `query` reads it, `limit` counts it, `answer` asks in turn `cluster`, `zones`,
//! `special` and `forward`, and writes with `draft` what they say. All of that happens on the worker's thread; only what has
//! to be asked outside goes on to `server/misses`.
//!
//! What answers are made of stands behind one lock, which workers hold for reading during a batch of queries, and a fact
//! for writing for microseconds: nothing is copied because something changed.
//!
//! # Current limitations
//! - No DNSSEC of our own: our answers are not signed, those from outside are not validated here.
//! - Names of pods (`a-b-c-d.NAMESPACE.pod`) are answered for every address if the namespace exists, as CoreDNS does with
//!   `pods insecure`, the default of kubeadm.
//! - Addresses lead back to endpoints of headless Services only, as the specification has it.
//! - Names are completed by the search list for A and AAAA questions only; other kinds cost the client its own search.
//! - One address. Clients of another family or on the LAN need another instance.

mod answer;
mod cache;
mod cluster;
mod draft;
mod forward;
mod limit;
pub(crate) mod message;
pub(crate) mod name;
mod query;
mod reply;
mod reverse;
mod server;
mod special;
mod upstream;
mod zonefile;
mod zones;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    thread,
};

use nix::sys::socket::{SockaddrStorage, getsockname};
use tokio::{
    sync::{mpsc::UnboundedReceiver, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub use self::{
    answer::{SearchPath, SearchPaths},
    forward::ForwardStats,
    limit::Rate,
    upstream::{ServerState, ServerStats, Upstreams},
    zones::{Serving, ZoneFile, ZoneFiles, ZoneProblem},
};
use self::{
    answer::{Settings, Tables},
    cluster::Cluster,
    forward::{ForwardConfig, Resolver},
    limit::Limiter,
    name::Name,
    server::{Listener, Miss, Shared, Workers},
    zones::{ZoneKeeper, Zones},
};
use crate::{Range, facts::Fact};

/// More workers than that are of no use on a Pi, which has four cores.
const MOST_WORKERS: usize = 4;
/// Facts that are taken in while the workers wait once.
const FACTS_AT_ONCE: usize = 64;

/// What the DNS server of a node needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens, by UDP and TCP. The address need not be there yet. Port 0 takes a free one.
    pub address: SocketAddr,
    /// The cluster's domain, such as `cluster.local`.
    pub domain: Box<str>,
    /// This node's name: the answer to `id.server`.
    pub node: Box<str>,
    /// Range of all pods: names for these addresses are never asked outside.
    pub pod_range: Range,
    /// Range of all Services: likewise.
    pub service_range: Range,
    /// Who is asked for other names.
    pub upstreams: Upstreams,
    /// Directory for the last good versions of user zones, so that they survive a restart.
    pub keep: Option<PathBuf>,
    /// Most bytes of the cache, about.
    pub cache_bytes: usize,
    /// How much each client may ask.
    pub limits: Limits,
    /// Threads that answer; none means one per core, at most four.
    pub workers: Option<NonZero<usize>>,
}

/// How much each client address may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Queries of any kind. What is more is not answered.
    pub queries: Rate,
    /// Queries that have to be asked outside, since the answer is not in the cache. What is more is refused.
    pub outside: Rate,
}

impl Default for Limits {
    /// Far more than a pod needs, and less than what one thread of a Pi can answer.
    fn default() -> Self {
        Self {
            queries: Rate {
                per_second: 5_000,
                burst: 5_000,
            },
            outside: Rate {
                per_second: 200,
                burst: 400,
            },
        }
    }
}

/// Numbers since the start.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Queries by UDP.
    pub udp: u64,
    /// Queries by TCP.
    pub tcp: u64,
    /// Queries that had to wait for somebody outside.
    pub waited: u64,
    /// Queries that were refused or not answered, since a client or all clients together asked too much.
    pub limited: u64,
    /// Services that have names.
    pub services: usize,
    /// Asking outside, and the cache.
    pub forward: ForwardStats,
}

/// The DNS server cannot be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The domain is no domain name.
    #[error("take {domain:?} as the cluster's domain: {reason}")]
    Domain {
        /// What was given.
        domain: Box<str>,
        /// What is wrong with it.
        reason: String,
    },
    /// Something else listens there, or we may not.
    #[error("listen for DNS queries at {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A worker could not go on.
    #[error("answer DNS queries at {address}")]
    Worker {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// The DNS server of a node.
pub struct Dns {
    address: SocketAddr,
    sockets: Vec<std::os::fd::OwnedFd>,
    listener: Listener,
    shared: Arc<Shared>,
    keeper: ZoneKeeper,
}

/// Tells how a server does, also while it runs.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    problems: watch::Receiver<Arc<[ZoneProblem]>>,
}

impl Dns {
    /// Binds, without answering yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the address cannot be listened at, or the domain is no name.
    pub fn new(config: Config) -> Result<Self, Error> {
        let domain_error = |error: name::NameError| Error::Domain {
            domain: config.domain.clone(),
            reason: error.to_string(),
        };
        let domain = Name::parse(&config.domain).map_err(domain_error)?;
        let keeper = ZoneKeeper::new(&config.domain, config.keep).map_err(domain_error)?;
        let bind_error = |address| move |source| Error::Bind { address, source };
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let workers = config.workers.map_or(cores.min(MOST_WORKERS), NonZero::get);
        let first = server::bind(config.address).map_err(bind_error(config.address))?;
        // a free port becomes known only now, and all listen at the same
        let address = local_address(&first).map_err(bind_error(config.address))?;
        let mut sockets = vec![first];
        for _ in 1..workers {
            sockets.push(server::bind(address).map_err(bind_error(address))?);
        }
        let listener = Listener::bind(address).map_err(bind_error(address))?;
        let resolver = Resolver::new(ForwardConfig {
            upstreams: config.upstreams,
            own: vec![address],
            cache_bytes: config.cache_bytes,
        });
        let settings = Settings {
            node: config.node,
            ranges: vec![config.pod_range, config.service_range],
        };
        let tables = Tables {
            cluster: Cluster::new(&domain, address.ip()),
            zones: Arc::new(Zones::default()),
            paths: Arc::default(),
        };
        let limits = config.limits;
        Ok(Self {
            address,
            sockets,
            listener,
            shared: Arc::new(Shared::new(
                settings,
                tables,
                resolver,
                Limiter::new(limits.queries),
                Limiter::new(limits.outside),
            )),
            keeper,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// To learn how it does while it runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            shared: Arc::clone(&self.shared),
            problems: self.keeper.problems(),
        }
    }

    /// Answers until shutdown. `facts` tell of the cluster, `zones` are the files of user zones, `pods` those whose names may
    /// be completed.
    ///
    /// # Errors
    /// If a worker cannot go on.
    pub async fn run(
        self,
        mut facts: UnboundedReceiver<Fact>,
        zones: watch::Receiver<Arc<ZoneFiles>>,
        mut pods: watch::Receiver<Arc<SearchPaths>>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let shared = self.shared;
        let stop = shutdown.child_token();
        let mut loaded = self.keeper.zones();
        let mut tasks = JoinSet::new();
        tasks.spawn(self.keeper.run(zones, stop.clone()));
        tasks.spawn(shared.resolver.clone().run(stop.clone()));
        let (sender, misses) = Miss::channel();
        tasks.spawn(Miss::run(misses, Arc::clone(&shared), stop.clone()));
        tasks.spawn(self.listener.run(Arc::clone(&shared), stop.clone()));
        let address = self.address;
        let worker_error = |source| Error::Worker { address, source };
        let mut workers = Workers::start(address, self.sockets, &shared, &sender).map_err(worker_error)?;
        drop(sender);

        let mut news = Vec::with_capacity(FACTS_AT_ONCE);
        let (mut more_facts, mut more_zones, mut more_pods) = (true, true, true);
        shared.tables_mut().paths = Arc::clone(&pods.borrow_and_update());
        let result = loop {
            tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                error = workers.failed() => break Err(worker_error(error)),
                count = facts.recv_many(&mut news, FACTS_AT_ONCE), if more_facts => {
                    more_facts = count > 0;
                    let mut tables = shared.tables_mut();
                    for fact in news.drain(..) {
                        tables.cluster.apply(fact);
                    }
                }
                changed = loaded.changed(), if more_zones => {
                    more_zones = changed.is_ok();
                    shared.tables_mut().zones = Arc::clone(&loaded.borrow_and_update());
                }
                changed = pods.changed(), if more_pods => {
                    more_pods = changed.is_ok();
                    shared.tables_mut().paths = Arc::clone(&pods.borrow_and_update());
                }
            }
        };
        stop.cancel();
        workers.stop().await;
        while tasks.join_next().await.is_some() {}
        result
    }
}

impl Handle {
    /// Numbers since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        Stats {
            udp: counters.udp.load(Ordering::Relaxed),
            tcp: counters.tcp.load(Ordering::Relaxed),
            waited: counters.outside.load(Ordering::Relaxed),
            limited: counters.limited.load(Ordering::Relaxed),
            services: self.shared.tables().cluster.len(),
            forward: self.shared.resolver.stats(),
        }
    }

    /// What is wrong or odd about the files of user zones.
    #[must_use]
    pub fn problems(&self) -> watch::Receiver<Arc<[ZoneProblem]>> {
        self.problems.clone()
    }
}

fn local_address(socket: &std::os::fd::OwnedFd) -> io::Result<SocketAddr> {
    use std::os::fd::AsRawFd as _;
    let address: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    if let Some(v4) = address.as_sockaddr_in() {
        return Ok(SocketAddr::new(IpAddr::V4(v4.ip()), v4.port()));
    }
    address
        .as_sockaddr_in6()
        .map(|v6| SocketAddr::new(IpAddr::V6(v6.ip()), v6.port()))
        .ok_or_else(|| io::Error::other("the socket has no address"))
}
