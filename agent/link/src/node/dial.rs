//! Finding addresses and making a connection to the first that proves to be our control plane.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Error;
use crate::pki::{handshake_failure, name};
use crate::protocol::RefusalCode;

/// One address gets this long for TCP and TLS together; a Pi that is busy starting takes a second.
const CONNECT_TIME: Duration = Duration::from_secs(4);
/// The next address is tried when the one before has not answered for so long (RFC 8305 has 250 ms).
const STAGGER: Duration = Duration::from_millis(250);
/// An address whose server has proven to be somebody else is left alone for so long, doubled each time.
const SHUN_FIRST: Duration = Duration::from_secs(5);
const SHUN_LONGEST: Duration = Duration::from_secs(60);
const RESOLVE_TIME: Duration = Duration::from_secs(5);

/// Addresses whose servers turned out to be others. Anybody can announce anything: one liar must not slow down the way to the
/// real control plane.
#[derive(Debug, Default)]
pub(super) struct Shunned(HashMap<SocketAddr, (Instant, Duration)>);

impl Shunned {
    fn add(&mut self, address: SocketAddr, now: Instant) {
        if self.0.len() >= 256 {
            self.0.clear();
        }
        let wait = self
            .0
            .get(&address)
            .map_or(SHUN_FIRST, |(_, wait)| (*wait * 2).min(SHUN_LONGEST));
        self.0.insert(address, (now + wait, wait));
    }

    fn is_shunned(&self, address: &SocketAddr, now: Instant) -> bool {
        self.0.get(address).is_some_and(|(until, _)| now < *until)
    }
}

/// Why no address led to the control plane.
#[derive(Debug)]
pub(super) struct NoWay {
    /// Set when every server that answered was somebody else.
    pub(super) code: Option<RefusalCode>,
    pub(super) reason: String,
}

/// The addresses of `HOST:PORT`.
async fn resolve(server: &str) -> Result<Vec<SocketAddr>, Error> {
    let wrong = |reason: String| Error::Connect {
        attempt: "resolve",
        peer: server.to_owned(),
        reason,
    };
    tokio::time::timeout(RESOLVE_TIME, tokio::net::lookup_host(server))
        .await
        .map_err(|_| wrong("no answer".into()))?
        .map(Iterator::collect)
        .map_err(|error| wrong(error.to_string()))
}

/// Where a control plane may be.
pub(super) struct Places<'a, S> {
    /// Addresses known at once, the likeliest first.
    pub(super) known: Vec<SocketAddr>,
    /// `HOST:PORT` whose addresses the name service is to tell; nobody waits for it.
    pub(super) names: Vec<&'a str>,
    /// Addresses that turn up meanwhile.
    pub(super) found: S,
}

/// Dials the known addresses one after the other, not waiting long for any, and those that turn up meanwhile at once. Returns the
/// first connection whose server is the control plane of `cluster` as `config` judges it; `tried` is what was dialled or shunned.
pub(super) async fn connect(
    places: Places<'_, impl Stream<Item = SocketAddr>>,
    tried: &mut HashSet<SocketAddr>,
    shunned: &mut Shunned,
    config: &Arc<ClientConfig>,
    cluster: &str,
) -> Result<(TlsStream<TcpStream>, SocketAddr), NoWay> {
    let mut found = std::pin::pin!(places.found.fuse());
    let mut resolving: FuturesUnordered<_> = places.names.into_iter().map(resolve).collect();
    tried.clear();
    let mut is_new = |address: &SocketAddr, shunned: &Shunned| {
        tried.insert(*address) && !shunned.is_shunned(address, Instant::now())
    };
    let mut waiting = places
        .known
        .into_iter()
        .filter(|address| is_new(address, shunned))
        .collect::<Vec<_>>()
        .into_iter();
    let mut failures = Vec::new();
    let mut foreign = 0;
    let mut dialling = FuturesUnordered::new();
    if let Some(address) = waiting.next() {
        dialling.push(dial(address, config, cluster));
    }
    loop {
        let outcome = tokio::select! {
            Some(outcome) = dialling.next() => outcome,
            Some(resolved) = resolving.next() => {
                match resolved {
                    Ok(addresses) => {
                        let new = addresses.into_iter().filter(|address| is_new(address, shunned));
                        dialling.extend(new.map(|address| dial(address, config, cluster)));
                    }
                    Err(error) => failures.push((false, error.to_string())),
                }
                continue;
            }
            // alone it is nothing to wait for: who calls does that
            Some(address) = found.next(), if !dialling.is_empty() || !resolving.is_empty() => {
                if is_new(&address, shunned) {
                    dialling.push(dial(address, config, cluster));
                }
                continue;
            }
            () = tokio::time::sleep(STAGGER), if waiting.len() > 0 => {
                dialling.extend(waiting.next().map(|address| dial(address, config, cluster)));
                continue;
            }
            else => break,
        };
        match outcome {
            Ok(connected) => return Ok(connected),
            Err((address, code, reason)) => {
                if code.is_some() {
                    shunned.add(address, Instant::now());
                    foreign += 1;
                }
                failures.push((code.is_some(), format!("{address}: {reason}")));
                dialling.extend(waiting.next().map(|address| dial(address, config, cluster)));
            }
        }
    }
    if failures.is_empty() {
        let reason = "every address known is of somebody else's server".to_owned();
        return Err(NoWay {
            code: Some(RefusalCode::ForeignCluster),
            reason,
        });
    }
    let code = (foreign == failures.len()).then_some(RefusalCode::ForeignCluster);
    // What a person should know first: a control plane that does not answer, rather than a stranger that does.
    failures.sort_by_key(|(is_foreign, _)| *is_foreign);
    let reason = failures
        .into_iter()
        .map(|(_, text)| text)
        .collect::<Vec<_>>()
        .join("; ");
    Err(NoWay { code, reason })
}

type Failure = (SocketAddr, Option<RefusalCode>, String);

async fn dial(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    cluster: &str,
) -> Result<(TlsStream<TcpStream>, SocketAddr), Failure> {
    let attempt = async {
        let failed = |error: std::io::Error| (address, None, error.to_string());
        let tcp = TcpStream::connect(address).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        let name = name(cluster).map_err(|error| (address, None, error.to_string()))?;
        let stream = TlsConnector::from(Arc::clone(config))
            .connect(name, tcp)
            .await
            .map_err(|error| {
                let (code, reason) = handshake_failure(&error);
                (address, code, reason)
            })?;
        if stream.get_ref().1.alpn_protocol() != Some(crate::protocol::ALPN) {
            return Err((address, None, "the server there does not speak minidc".to_owned()));
        }
        Ok((stream, address))
    };
    tokio::time::timeout(CONNECT_TIME, attempt)
        .await
        .unwrap_or_else(|_| Err((address, None, format!("no answer within {} s", CONNECT_TIME.as_secs()))))
}
