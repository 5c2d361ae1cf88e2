//! Names outside: the cache, and the resolvers that are asked for what is not in it.
//!
//! [`Resolver::cached`] may be called from any thread and never waits. What it cannot answer, [`Resolver::resolve`] can: it
//! asks the resolvers outside, the same question only once at a time, one after the other as they answer or do not, and in the
//! end gives out what is too old rather than nothing (RFC 8767).

mod clean;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, future::Shared, stream::FuturesUnordered};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub(crate) use super::cache::{Answer, Wants};
use super::{
    cache::{Cache, CacheStats, Key},
    message::{Kind, Rcode, Writer},
    name::Name,
    reply::{Delegation, Reply},
    upstream::{Failure, Server, ServerStats, Servers, Upstreams, ask},
};

/// What forwarding needs to know.
#[derive(Clone, Debug)]
pub(crate) struct ForwardConfig {
    /// Who is asked.
    pub(crate) upstreams: Upstreams,
    /// Our own addresses, which are never asked.
    pub(crate) own: Vec<SocketAddr>,
    /// Most bytes of the cache, about.
    pub(crate) cache_bytes: usize,
}

/// How forwarding goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardStats {
    /// Answers in the cache.
    pub entries: usize,
    /// Their bytes, about.
    pub bytes: usize,
    /// Questions answered from the cache.
    pub hits: u64,
    /// Of these with answers that were too old.
    pub stale: u64,
    /// Questions that were not in the cache.
    pub misses: u64,
    /// Questions put to resolvers outside, each counted once however many were asked.
    pub asked: u64,
    /// Of these without an answer.
    pub failed: u64,
    /// Resolvers outside.
    pub servers: Vec<ServerStats>,
}

/// A client that waits longer has asked somebody else.
const PATIENCE: Duration = Duration::from_secs(4);
/// After this time an answer that is too old is better than waiting (RFC 8767 section 5: the client response timer).
const STALE_AFTER: Duration = Duration::from_millis(1_800);
/// How long a failure is an answer, in seconds (RFC 9520 section 3.2 wants at least one).
const FAILURE_LIFETIME: u32 = 3;
/// Questions that are asked outside at the same time: each needs a socket.
const ASKED_AT_ONCE: usize = 256;
/// Questions that are asked or wait to be: beyond, the answer is SERVFAIL.
const FLIGHT_LIMIT: usize = 2_048;
/// Questions in all for one: as many times a packet may get lost.
const ATTEMPTS: usize = 4;
/// Hot names that may wait to be asked for again.
const REFRESH_LIMIT: usize = 256;

/// Answers for names outside. Clones are the same resolver.
#[derive(Clone)]
pub(crate) struct Resolver {
    inner: Arc<Inner>,
}

struct Inner {
    cache: Cache,
    servers: Servers,
    flights: Mutex<HashMap<Box<[u8]>, Flight>>,
    places: Semaphore,
    refresh: mpsc::Sender<Asked>,
    /// Taken by [`Resolver::run`].
    refreshes: Mutex<Option<mpsc::Receiver<Asked>>>,
    stop: CancellationToken,
    asked: AtomicU64,
    failed: AtomicU64,
}

/// A question that is being asked; all who want to know wait for the same.
type Flight = Shared<oneshot::Receiver<Arc<Answer>>>;

/// What is to be asked.
struct Asked {
    name: Box<Name>,
    kind: Kind,
    wants: Wants,
}

/// Whom to ask.
enum Route {
    /// The resolvers of the node.
    Outside,
    /// The servers of a zone below one of ours.
    Below(Vec<Arc<Server>>),
}

impl Resolver {
    /// Nobody is asked before there is a question.
    pub(crate) fn new(config: ForwardConfig) -> Self {
        let (refresh, refreshes) = mpsc::channel(REFRESH_LIMIT);
        Self {
            inner: Arc::new(Inner {
                cache: Cache::new(config.cache_bytes),
                servers: Servers::new(config.upstreams, config.own),
                flights: Mutex::default(),
                places: Semaphore::new(ASKED_AT_ONCE),
                refresh,
                refreshes: Mutex::new(Some(refreshes)),
                stop: CancellationToken::new(),
                asked: AtomicU64::new(0),
                failed: AtomicU64::new(0),
            }),
        }
    }

    /// Writes what is known of a name without asking anybody; none if it has to be asked for. The name is that of the
    /// question, or that of an alias which was written before.
    pub(crate) fn cached(&self, name: &Name, kind: Kind, wants: Wants, writer: &mut Writer<'_>) -> Option<Reply> {
        self.cached_at(Instant::now(), name, kind, wants, writer)
    }

    fn cached_at(&self, now: Instant, name: &Name, kind: Kind, wants: Wants, writer: &mut Writer<'_>) -> Option<Reply> {
        let key = Key::new(name, kind, wants);
        let hit = self.inner.cache.get(&key, now)?;
        if hit.refresh {
            let refresh = Asked {
                name: Box::new(name.clone()),
                kind,
                wants,
            };
            if self.inner.refresh.try_send(refresh).is_err() {
                // so many wait that this one will not be asked for in time: the next client asks
                self.inner.cache.forget_refresh(&key);
            }
        }
        Some(hit.answer.write(name, now, writer))
    }

    /// What is known of a name, after asking for it if need be. There is always an answer; it may be SERVFAIL. Must be called
    /// within a tokio runtime.
    pub(crate) async fn resolve(&self, name: &Name, kind: Kind, wants: Wants) -> Arc<Answer> {
        self.look_up(name, kind, wants, || Route::Outside).await
    }

    /// The same for a name that servers below a user zone know.
    pub(crate) async fn resolve_below(&self, name: &Name, kind: Kind, wants: Wants, below: &Delegation) -> Arc<Answer> {
        let mut addresses = below.addresses.clone();
        if addresses.is_empty() {
            for host in &below.servers {
                let answer = self.resolve(host, Kind::A, Wants::default()).await;
                addresses.extend(answer.addresses());
                if !addresses.is_empty() {
                    break;
                }
            }
        }
        let server = |address: std::net::IpAddr| Arc::new(Server::new((address, 53).into()));
        self.look_up(name, kind, wants, || {
            Route::Below(addresses.into_iter().map(server).collect())
        })
        .await
    }

    async fn look_up(&self, name: &Name, kind: Kind, wants: Wants, route: impl FnOnce() -> Route) -> Arc<Answer> {
        let now = Instant::now();
        let inner = &self.inner;
        let empty = |rcode| Arc::new(Answer::empty(name, kind, wants, rcode, 0, now));
        if inner.servers.is_probe(name.wire(), now) {
            return empty(Rcode::REFUSED);
        }
        if name
            .labels()
            .last()
            .is_some_and(|label| label.eq_ignore_ascii_case(b"local"))
        {
            // announced on the LAN or nowhere (RFC 6762 section 22.1)
            return empty(Rcode::NXDOMAIN);
        }
        let key = Key::new(name, kind, wants);
        let last = inner.cache.last(&key, now);
        if let Some(answer) = last.as_ref().filter(|answer| answer.is_fresh(now)) {
            return Arc::clone(answer);
        }
        let Some(flight) = self.fly(&key, name, kind, wants, route) else {
            return last
                .filter(|last| last.is_knowledge())
                .unwrap_or_else(|| empty(Rcode::SERVFAIL));
        };
        let Some(last) = last.filter(|last| last.is_knowledge()) else {
            return flight.await.unwrap_or_else(|_| empty(Rcode::SERVFAIL));
        };
        match timeout(STALE_AFTER, flight).await {
            Ok(Ok(answer)) if answer.is_knowledge() => answer,
            Ok(_) => last,
            Err(_) => {
                inner.cache.failed(&key, now);
                last
            }
        }
    }

    /// Asks, or joins those who wait for the same; none if too many questions are being asked.
    fn fly(&self, key: &Key, name: &Name, kind: Kind, wants: Wants, route: impl FnOnce() -> Route) -> Option<Flight> {
        let mut flights = self.inner.flights();
        if let Some(flight) = flights.get(key.bytes()) {
            return Some(flight.clone());
        }
        if flights.len() >= FLIGHT_LIMIT {
            return None;
        }
        let (landed, flight) = oneshot::channel();
        let flight = flight.shared();
        flights.insert(key.bytes().into(), flight.clone());
        drop(flights);
        let landing = Landing {
            inner: Arc::clone(&self.inner),
            key: key.bytes().into(),
        };
        let question = Asked {
            name: Box::new(name.lowered()),
            kind,
            wants,
        };
        let route = route();
        // on its own, since it goes on when those who wait give up
        tokio::spawn(async move {
            let inner = &landing.inner;
            if let Some(answer) = inner.stop.run_until_cancelled(inner.fetch(&question, &route)).await {
                // nobody may wait any more
                let _ = landed.send(answer);
            }
        });
        Some(flight)
    }

    /// Asks for hot names before their answers end. Until it is stopped; then nobody is asked any more.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let refreshes = self
            .inner
            .refreshes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(mut refreshes) = refreshes else {
            return;
        };
        let _stop = self.inner.stop.clone().drop_guard();
        while let Some(Some(refresh)) = shutdown.run_until_cancelled(refreshes.recv()).await {
            let key = Key::new(&refresh.name, refresh.kind, refresh.wants);
            if self
                .fly(&key, &refresh.name, refresh.kind, refresh.wants, || Route::Outside)
                .is_none()
            {
                self.inner.cache.forget_refresh(&key);
            }
        }
    }

    /// How it goes.
    pub(crate) fn stats(&self) -> ForwardStats {
        let CacheStats {
            entries,
            bytes,
            hits,
            stale,
            misses,
        } = self.inner.cache.stats();
        ForwardStats {
            entries,
            bytes,
            hits,
            stale,
            misses,
            asked: self.inner.asked.load(Ordering::Relaxed),
            failed: self.inner.failed.load(Ordering::Relaxed),
            servers: self.inner.servers.stats(),
        }
    }
}

/// Ends a flight, however it ends.
struct Landing {
    inner: Arc<Inner>,
    key: Box<[u8]>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.inner.flights().remove(&self.key);
    }
}

/// Why nobody gave an answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("there is no resolver to ask")]
    Nobody,
    #[error("no answer in time")]
    Late,
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error("answer of {server}")]
    Unusable {
        server: SocketAddr,
        #[source]
        source: clean::Unusable,
    },
}

impl Inner {
    fn flights(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks and keeps what comes of it.
    async fn fetch(&self, question: &Asked, route: &Route) -> Arc<Answer> {
        let Asked { name, kind, wants } = question;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let place = timeout_at(deadline, self.places.acquire()).await;
        self.asked.fetch_add(1, Ordering::Relaxed);
        let result = match place {
            Ok(Ok(_place)) => timeout_at(deadline, self.ask(question, route))
                .await
                .unwrap_or(Err(Unanswered::Late)),
            _ => Err(Unanswered::Late),
        };
        let now = Instant::now();
        match result {
            Ok(answer) => {
                let answer = Arc::new(answer);
                if answer.lifetime() > 0 {
                    self.cache.put(Arc::clone(&answer), now);
                }
                answer
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                debug!(%name, %kind, error = &error as &dyn std::error::Error, "no answer for a name outside");
                let failure = Answer::empty(name, *kind, *wants, Rcode::SERVFAIL, FAILURE_LIFETIME, now);
                let failure = Arc::new(failure);
                let key = Key::new(name, *kind, *wants);
                if self.cache.last(&key, now).is_some_and(|last| last.is_knowledge()) {
                    self.cache.failed(&key, now);
                } else {
                    self.cache.put(Arc::clone(&failure), now);
                }
                failure
            }
        }
    }

    /// Asks one after the other: the next one when one failed, or when it takes longer than usual.
    async fn ask(&self, question: &Asked, route: &Route) -> Result<Answer, Unanswered> {
        let now = Instant::now();
        let (order, recursive) = match route {
            Route::Outside => {
                self.probe(now);
                (self.servers.order(now), true)
            }
            Route::Below(servers) => (servers.clone(), false),
        };
        let rounds = ATTEMPTS.div_ceil(order.len().max(1));
        let mut queue = std::iter::repeat_n(&order, rounds).flatten();
        let mut running = FuturesUnordered::new();
        let mut pending: Vec<(SocketAddr, Instant)> = Vec::new();
        let mut done: Vec<SocketAddr> = Vec::new();
        let mut reason = Unanswered::Nobody;
        loop {
            let mut hedge = None;
            if let Some(server) = queue.find(|server| !done.contains(&server.address)) {
                hedge = Some(tokio::time::Instant::now() + server.patience());
                pending.push((server.address, Instant::now()));
                running.push(ask_one(server, question, recursive));
            }
            if running.is_empty() {
                return Err(reason);
            }
            let ended = match hedge {
                Some(hedge) => match timeout_at(hedge, running.next()).await {
                    Ok(ended) => ended,
                    // nothing yet: somebody else is asked as well
                    Err(_) => continue,
                },
                None => running.next().await,
            };
            let Some((address, result)) = ended else {
                continue;
            };
            match result {
                Ok(answer) => {
                    for (slow, since) in pending
                        .iter()
                        .filter(|(slow, _)| *slow != address && !done.contains(slow))
                    {
                        if let Some(server) = order.iter().find(|server| server.address == *slow) {
                            server.is_slow(since.elapsed());
                        }
                    }
                    return Ok(answer);
                }
                Err(error) => {
                    if !matches!(error, Unanswered::Failure(Failure::Silence(_))) {
                        // the same would come again
                        done.push(address);
                    }
                    reason = error;
                }
            }
        }
    }

    /// Asks the resolvers that may lead back to us a name that only each of them knows.
    fn probe(&self, now: Instant) {
        for server in self.servers.to_probe(now) {
            let stop = self.stop.clone();
            tokio::spawn(async move {
                server.begin_probe();
                let Some(name) = Name::from_wire(&server.probe_name()) else {
                    return;
                };
                // what counts is whether the question comes back, not what is answered
                let probe = ask(&server, &name, Kind::HINFO, Wants::default(), true);
                let _ = stop.run_until_cancelled(probe).await;
            });
        }
    }
}

async fn ask_one(server: &Server, question: &Asked, recursive: bool) -> (SocketAddr, Result<Answer, Unanswered>) {
    let Asked { name, kind, wants } = question;
    let result = match ask(server, name, *kind, *wants, recursive).await {
        Ok(message) => {
            clean::clean(name, *kind, *wants, &message, Instant::now()).map_err(|source| Unanswered::Unusable {
                server: server.address,
                source,
            })
        }
        Err(failure) => Err(failure.into()),
    };
    (server.address, result)
}

#[cfg(test)]
mod tests;
