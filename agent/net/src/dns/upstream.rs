//! The resolvers outside: which there are, how well each answers, which is asked next.
//!
//! Each is judged by what it does: the time it takes (smoothed as in TCP, RFC 6298), failures in a row. One that fails is left
//! alone for a while and then tried with a single question, so that a dead uplink costs nobody a wait. One that leads back to
//! us is never asked.

mod exchange;
mod resolv_conf;

use std::{
    fmt::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ring::rand::{SecureRandom, SystemRandom};
use tracing::{info, warn};

pub(crate) use exchange::{Failure, ask};

/// Where the resolvers outside are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstreams {
    /// These.
    Configured(Vec<SocketAddr>),
    /// Those of a file in the format of resolv.conf(5), which is looked at again while names are asked for.
    ResolvConf(PathBuf),
}

/// How a resolver outside does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// Answers, or was not asked yet.
    Up,
    /// Does not answer.
    Down,
    /// Asks us what we ask it.
    Loop,
}

/// A resolver outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerStats {
    /// Where it listens.
    pub address: SocketAddr,
    /// How it does.
    pub state: ServerState,
    /// Smoothed time to an answer; none before the first.
    pub round_trip: Option<Duration>,
}

/// The file is looked at at most so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many questions in a row without an answer, and a resolver counts as down.
const FAILURES_TO_DOWN: u32 = 3;
/// How long it is then left alone: at first, and at most.
const DOWN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// How long a resolver that leads back to us is left alone.
const LOOP: Duration = Duration::from_secs(60);
/// How far a resolver's time shrinks whenever another one is preferred, so that it is tried again in the end (as in BIND).
const FADE: f32 = 0.98;
/// Time that a resolver is thought to take before it was asked: those of the file are tried in its order.
const UNKNOWN: f32 = 0.020;
/// Longer times are not told apart.
const LONGEST: f32 = 5.0;

/// All resolvers outside.
pub(crate) struct Servers {
    source: Upstreams,
    /// Never asked: our own.
    own: Vec<SocketAddr>,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    servers: Arc<[Arc<Server>]>,
    looked: Option<Instant>,
    fingerprint: Option<resolv_conf::Fingerprint>,
    told: bool,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// A name that only this one is asked for: if we are, it leads back to us.
    token: [u8; 32],
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    /// Smoothed time in seconds.
    round_trip: Option<f32>,
    failures: u32,
    /// Not asked before.
    until: Option<Instant>,
    looping: bool,
    /// Does not give letters back as they were (no 0x20).
    changes_case: bool,
    /// Does not know EDNS.
    plain: bool,
    /// A question that would show a loop should be sent.
    probe: bool,
}

/// What a server can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manner {
    /// Letters of mixed case come back as they were.
    pub(crate) mixed_case: bool,
    /// EDNS is understood.
    pub(crate) edns: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // what another thread left is whole: nothing panics half way
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Servers {
    /// Nobody is asked yet.
    pub(crate) fn new(source: Upstreams, own: Vec<SocketAddr>) -> Self {
        Self {
            source,
            own,
            list: Mutex::default(),
        }
    }

    /// The resolvers there are now, and whether they are others than the last time.
    pub(crate) fn current(&self, now: Instant) -> (Arc<[Arc<Server>]>, bool) {
        let mut list = lock(&self.list);
        let due = list
            .looked
            .is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_EVERY);
        if !due {
            return (Arc::clone(&list.servers), false);
        }
        let first = list.looked.replace(now).is_none();
        let addresses = match &self.source {
            Upstreams::Configured(addresses) if first => addresses.clone(),
            Upstreams::Configured(_) => return (Arc::clone(&list.servers), false),
            // a small file of the host, usually in memory
            Upstreams::ResolvConf(path) => match resolv_conf::fingerprint(path) {
                Ok(fingerprint) if list.fingerprint == Some(fingerprint) => return (Arc::clone(&list.servers), false),
                Ok(fingerprint) => match std::fs::read(path) {
                    Ok(bytes) => {
                        list.fingerprint = Some(fingerprint);
                        list.told = false;
                        resolv_conf::parse(&String::from_utf8_lossy(&bytes))
                    }
                    Err(error) => return self.unreadable(&mut list, &error),
                },
                Err(error) => return self.unreadable(&mut list, &error),
            },
        };
        self.replace(&mut list, addresses);
        (Arc::clone(&list.servers), true)
    }

    /// The file may be gone for a moment, while another program writes it: those of before are still asked.
    fn unreadable(&self, list: &mut List, error: &std::io::Error) -> (Arc<[Arc<Server>]>, bool) {
        if !std::mem::replace(&mut list.told, true) {
            warn!(source = ?self.source, %error, "cannot read which resolvers to ask for names outside");
        }
        (Arc::clone(&list.servers), false)
    }

    fn replace(&self, list: &mut List, addresses: Vec<SocketAddr>) {
        let mut servers: Vec<Arc<Server>> = Vec::new();
        for address in addresses {
            if self.is_own(address) {
                warn!(%address, "a resolver for names outside is this very server: it is not asked");
                continue;
            }
            let known = list.servers.iter().find(|server| server.address == address);
            let server = known.cloned().unwrap_or_else(|| Arc::new(Server::new(address)));
            // the network may be another one
            server.forget();
            servers.push(server);
        }
        info!(resolvers = ?servers.iter().map(|server| server.address).collect::<Vec<_>>(), "names outside are asked of these");
        list.servers = servers.into();
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        let same_port = |own: &&SocketAddr| own.port() == address.port();
        self.own
            .iter()
            .filter(same_port)
            .any(|own| own.ip() == address.ip() || (own.ip().is_unspecified() && address.ip().is_loopback()))
    }

    /// Those to ask, best first. Those that are down are left out, but for one whose time has come.
    pub(crate) fn order(&self, now: Instant) -> Vec<Arc<Server>> {
        let (servers, _) = self.current(now);
        let mut ready: Vec<(f32, Arc<Server>)> = Vec::with_capacity(servers.len());
        let mut due = None;
        for server in servers.iter() {
            let health = lock(&server.health);
            if health.looping {
                continue;
            }
            match health.until {
                None => ready.push((health.round_trip.unwrap_or(UNKNOWN), Arc::clone(server))),
                Some(until) if until <= now && due.is_none() => due = Some(Arc::clone(server)),
                Some(_) => {}
            }
        }
        // equal ones stay in the order of the file
        ready.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut order: Vec<Arc<Server>> = ready.into_iter().map(|(_, server)| server).collect();
        for server in order.iter().skip(1) {
            let mut health = lock(&server.health);
            health.round_trip = health.round_trip.map(|seconds| seconds * FADE);
        }
        if let Some(server) = due {
            // nobody else tries it meanwhile
            let mut health = lock(&server.health);
            health.until = Some(now + DOWN.1);
            drop(health);
            order.push(server);
        }
        order
    }

    /// Those that should be asked whether they lead back to us. Each is given once.
    pub(crate) fn to_probe(&self, now: Instant) -> Vec<Arc<Server>> {
        let (servers, _) = self.current(now);
        let mut wanted = Vec::new();
        for server in servers.iter() {
            let mut health = lock(&server.health);
            if health.looping && health.until.is_none_or(|until| until <= now) {
                health.until = Some(now + LOOP);
                wanted.push(Arc::clone(server));
            } else if std::mem::take(&mut health.probe) {
                wanted.push(Arc::clone(server));
            }
        }
        wanted
    }

    /// Takes note if somebody asks us the name that only one of the resolvers was asked for. True if so.
    pub(crate) fn is_probe(&self, wire: &[u8], now: Instant) -> bool {
        // length, token, root
        if wire.len() != 34 || wire.first() != Some(&32) {
            return false;
        }
        let servers = Arc::clone(&lock(&self.list).servers);
        let token = &wire[1..33];
        let Some(server) = servers.iter().find(|server| server.token.eq_ignore_ascii_case(token)) else {
            return false;
        };
        let mut health = lock(&server.health);
        health.until = Some(now + LOOP);
        if !std::mem::replace(&mut health.looping, true) {
            warn!(address = %server.address, "this resolver asks us for what we ask it: it is left out");
        }
        true
    }

    /// How each does.
    pub(crate) fn stats(&self) -> Vec<ServerStats> {
        let servers = Arc::clone(&lock(&self.list).servers);
        servers.iter().map(|server| server.stats()).collect()
    }
}

impl Server {
    /// One that was not asked yet.
    pub(crate) fn new(address: SocketAddr) -> Self {
        let mut random = [0; 16];
        // without randomness the token can be guessed, and then somebody can only make us not ask this resolver
        let _ = SystemRandom::new().fill(&mut random);
        let mut text = String::with_capacity(32);
        for byte in random {
            // writing to a String cannot fail
            let _ = write!(text, "{byte:02x}");
        }
        let mut token = [0; 32];
        token.copy_from_slice(text.as_bytes());
        Self {
            address,
            token,
            health: Mutex::new(Health {
                probe: true,
                ..Health::default()
            }),
        }
    }

    /// The name that shows a loop, on the wire.
    pub(crate) fn probe_name(&self) -> [u8; 34] {
        let mut wire = [0; 34];
        wire[0] = 32;
        wire[1..33].copy_from_slice(&self.token);
        wire
    }

    /// Before it is asked whether it leads back to us.
    pub(crate) fn begin_probe(&self) {
        let mut health = lock(&self.health);
        if std::mem::take(&mut health.looping) {
            health.until = None;
        }
    }

    fn forget(&self) {
        *lock(&self.health) = Health {
            probe: true,
            ..Health::default()
        };
    }

    /// It answered.
    pub(crate) fn answered(&self, took: Duration) {
        let mut health = lock(&self.health);
        let took = took.as_secs_f32().min(LONGEST);
        health.round_trip = Some(health.round_trip.map_or(took, |before| before + (took - before) / 8.0));
        health.failures = 0;
        if !health.looping && health.until.take().is_some() {
            info!(address = %self.address, "a resolver answers again");
        }
    }

    /// It did not answer for so long, though another one did, or it may still.
    pub(crate) fn is_slow(&self, took: Duration) {
        let mut health = lock(&self.health);
        let took = took.as_secs_f32().min(LONGEST);
        health.round_trip = Some(health.round_trip.map_or(took, |before| before.max(took)));
    }

    /// It did not answer, or could not be reached.
    pub(crate) fn failed(&self, now: Instant) {
        let mut health = lock(&self.health);
        health.failures = health.failures.saturating_add(1);
        let over = health.failures.checked_sub(FAILURES_TO_DOWN);
        if let Some(over) = over {
            let pause = DOWN.0.saturating_mul(1 << over.min(8)).min(DOWN.1);
            if health.until.replace(now + pause).is_none() {
                // a loop looks the same: what we ask waits for itself
                health.probe = true;
                warn!(address = %self.address, "a resolver does not answer");
            }
        }
    }

    /// What it can do, as far as is known.
    pub(crate) fn manner(&self) -> Manner {
        let health = lock(&self.health);
        Manner {
            mixed_case: !health.changes_case,
            edns: !health.plain,
        }
    }

    /// It changes the case of letters.
    pub(crate) fn changes_case(&self) {
        lock(&self.health).changes_case = true;
    }

    /// It does not know EDNS.
    pub(crate) fn is_plain(&self) {
        lock(&self.health).plain = true;
    }

    /// After this time without an answer another one is asked as well.
    pub(crate) fn patience(&self) -> Duration {
        let round_trip = lock(&self.health).round_trip;
        // before anything is known, as RFC 6298 section 2 does for TCP, but shorter: resolvers are near
        let seconds = round_trip.map_or(0.4, |seconds| 3.0 * seconds + 0.05);
        Duration::from_secs_f32(seconds.clamp(0.15, 1.0))
    }

    fn stats(&self) -> ServerStats {
        let health = lock(&self.health);
        ServerStats {
            address: self.address,
            state: if health.looping {
                ServerState::Loop
            } else if health.until.is_some() {
                ServerState::Down
            } else {
                ServerState::Up
            },
            round_trip: health.round_trip.map(Duration::from_secs_f32),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)
    }
}

#[cfg(test)]
mod tests;
