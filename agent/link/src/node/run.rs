//! The loop that keeps the link up: decide what to do next, do it, wait as long as its outcome deserves.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, Stream, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::dial::{NoWay, Places, Shunned, connect};
use super::session::{Ended, session};
use super::{Config, IdentityFile, LinkState, Node, NodeIdentity, NodeLink, Shared};
use crate::Error;
use crate::discovery::Candidate;
use crate::pki::{Pin, client_config};
use crate::protocol::{self, Join, MAX_OPENING, Opening, OpeningReply, RefusalCode};

/// A control plane that takes the connection answers the opening within this time.
const REPLY_TIME: Duration = Duration::from_secs(10);
/// Between looks at the name service when `server` is configured and leads nowhere.
const RESOLVE_AGAIN: Duration = Duration::from_secs(5);
/// A session that lasted so long was a good one: the next failure counts as the first.
const GOOD_SESSION: Duration = Duration::from_secs(5);
/// Certificates got in a row without a session in between; more means that the two sides disagree about the time.
const CERTIFICATES_IN_A_ROW: u32 = 3;

/// What came of an attempt.
pub(super) enum Outcome {
    /// A step forward; the next may follow at once.
    Again,
    /// No address is known.
    Nothing { note: String },
    /// It may work soon; or a session has ended.
    Failed { reason: String },
    /// Only a person can help.
    Refused { code: RefusalCode, reason: String },
    /// We were told to stop.
    Stopped,
}

enum Plan {
    Join,
    Session,
    Cannot(RefusalCode, String),
}

struct Link {
    shared: Arc<Shared>,
    node: Arc<dyn Node>,
    config: Config,
    file: IdentityFile,
    identity: Option<NodeIdentity>,
    shunned: Shunned,
    backoff: Backoff,
    /// Since when the control plane has been away.
    away: Option<Instant>,
    /// Addresses of the last attempt.
    tried: HashSet<SocketAddr>,
    certificates: u32,
}

impl NodeLink {
    pub(super) async fn keep(self, shutdown: CancellationToken) -> Result<(), Error> {
        let file = IdentityFile::within(&self.config.directory);
        let identity = file.read()?;
        let link = Link {
            shared: self.shared,
            node: self.node,
            config: self.config,
            file,
            identity,
            shunned: Shunned::default(),
            backoff: Backoff::default(),
            away: None,
            tried: HashSet::new(),
            certificates: 0,
        };
        link.run(shutdown).await
    }
}

impl Link {
    async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        loop {
            let outcome = self.attempt(&shutdown).await?;
            let (wait, wake) = match outcome {
                Outcome::Stopped => {
                    self.away("this node is stopping".into());
                    return Ok(());
                }
                Outcome::Again => continue,
                Outcome::Nothing { note } => {
                    self.away(note);
                    ((!self.config.servers.is_empty()).then_some(RESOLVE_AGAIN), true)
                }
                Outcome::Failed { reason } => {
                    self.away(reason);
                    self.config.discovery.look_again();
                    (Some(self.backoff.failed()), true)
                }
                Outcome::Refused { code, reason } => {
                    self.away = None;
                    self.shared.set(LinkState::Refused { code, reason });
                    (Some(self.backoff.refused()), code == RefusalCode::ForeignCluster)
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = wait_for(wait) => {}
                () = self.new_address(), if wake => {}
            }
        }
    }

    /// Away, or still searching if this node has never been in.
    fn away(&mut self, reason: String) {
        let joined = self
            .identity
            .as_ref()
            .is_some_and(|identity| identity.certificate.is_some());
        self.shared.set(if joined {
            LinkState::Away {
                since: *self.away.get_or_insert_with(Instant::now),
                reason,
            }
        } else {
            LinkState::Searching { note: reason }
        });
    }

    /// Completes when discovery shows an address that the last attempt did not have. Not sooner than the shortest wait, unless there has
    /// been no attempt, so that nobody can make us spin by announcing.
    async fn new_address(&self) {
        if !self.tried.is_empty() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let mut found = self.config.discovery.candidates();
        loop {
            if self
                .discovered(&found.borrow_and_update())
                .any(|address| !self.tried.contains(&address))
            {
                return;
            }
            if found.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The cluster and pin that we look for.
    fn wanted(&self) -> Option<(String, Pin)> {
        match (&self.identity, &self.config.token) {
            (Some(identity), _) => Some((identity.cluster.clone(), identity.pin().ok()?)),
            (None, Some(token)) => Some((token.cluster().to_owned(), token.pin())),
            (None, None) => None,
        }
    }

    fn discovered<'a>(&self, candidates: &'a [Candidate]) -> impl Iterator<Item = SocketAddr> + use<'a> {
        of_cluster(self.wanted().as_ref(), candidates)
    }

    /// Where to dial, with what discovery finds meanwhile; otherwise why there is nothing.
    fn places(&self) -> Result<Places<'_, impl Stream<Item = SocketAddr> + use<>>, Outcome> {
        let discovery = self.config.discovery.candidates();
        let mut known = Vec::new();
        let mut names = Vec::new();
        for server in &self.config.servers {
            match server.parse() {
                Ok(address) => known.push(address),
                Err(_) => names.push(server.as_str()),
            }
        }
        known.extend(self.identity.as_ref().and_then(|identity| identity.last_good));
        let candidates = Arc::clone(&discovery.borrow());
        known.extend(self.discovered(&candidates));
        if !known.is_empty() || !names.is_empty() {
            let wanted = self.wanted();
            let changes = stream::unfold(discovery, async |mut discovery| {
                discovery.changed().await.ok()?;
                let candidates = Arc::clone(&discovery.borrow_and_update());
                Some((candidates, discovery))
            });
            let found = changes
                .flat_map(move |candidates| stream::iter(of_cluster(wanted.as_ref(), &candidates).collect::<Vec<_>>()));
            return Ok(Places { known, names, found });
        }
        let cluster = self.wanted().map(|(cluster, _)| cluster).unwrap_or_default();
        let others: Vec<_> = candidates
            .iter()
            .map(|other| {
                format!(
                    "{} announces cluster {} with pin {}…",
                    other.host,
                    other.cluster,
                    &other.pin.to_string()[..8]
                )
            })
            .collect();
        let note = match others.as_slice() {
            [] => format!("no control plane of cluster {cluster} is announced on this network"),
            others => format!(
                "no control plane of cluster {cluster} is announced on this network, but {}",
                others.join(", ")
            ),
        };
        Err(Outcome::Nothing { note })
    }

    fn plan(&mut self) -> Result<Plan, Error> {
        let token = self.config.token.as_ref();
        if let Some(token) = token
            && let Err(error) = token.check_node(&self.config.node)
            && self
                .identity
                .as_ref()
                .is_none_or(|identity| identity.certificate.is_none())
        {
            return Ok(Plan::Cannot(RefusalCode::TokenOtherNode, error.to_string()));
        }
        if let Some(identity) = &self.identity
            && identity.certificate.is_some()
        {
            if identity.node != self.config.node {
                let reason = format!(
                    "the identity in {} is of node {}, this node is configured to be {}; delete it to join under the new name",
                    self.file.path().display(),
                    identity.node,
                    self.config.node
                );
                return Ok(Plan::Cannot(RefusalCode::NotANode, reason));
            }
            if let Some(token) = token
                && token.pin() != identity.pin()?
            {
                let reason = format!(
                    "this node is in cluster {}, its join token is of another cluster ({}); delete {} to move it",
                    identity.cluster,
                    token.cluster(),
                    self.file.path().display()
                );
                return Ok(Plan::Cannot(RefusalCode::ForeignCluster, reason));
            }
            return Ok(Plan::Session);
        }
        let Some(token) = token else {
            return Ok(Plan::Cannot(
                RefusalCode::Token,
                "this node has neither an identity nor a join token: get one with minidc token create on the control plane".into(),
            ));
        };
        // The key is on disk before anything leaves the board: after a power cut the same key tries again.
        let fits =
            |identity: &NodeIdentity| identity.node == self.config.node && identity.pin == token.pin().to_string();
        if !self.identity.as_ref().is_some_and(fits) {
            let identity = NodeIdentity::new(&self.config.node, token.cluster(), token.pin())?;
            self.file.write(&identity)?;
            self.identity = Some(identity);
        }
        Ok(Plan::Join)
    }

    async fn attempt(&mut self, shutdown: &CancellationToken) -> Result<Outcome, Error> {
        let plan = self.plan()?;
        if self.certificates > CERTIFICATES_IN_A_ROW {
            self.certificates = 0;
            let reason = "the control plane signs certificates and then finds them expired".to_owned();
            return Ok(Outcome::Refused {
                code: RefusalCode::CertificateExpired,
                reason,
            });
        }
        match plan {
            Plan::Cannot(code, reason) => Ok(Outcome::Refused { code, reason }),
            Plan::Join => unless(shutdown, self.join()).await,
            Plan::Session => self.begin(shutdown).await,
        }
    }

    async fn join(&mut self) -> Result<Outcome, Error> {
        let (Some(identity), Some(token)) = (&self.identity, &self.config.token) else {
            return Ok(Outcome::Failed {
                reason: "there is nothing to join with".into(),
            });
        };
        let config = client_config(identity.pin()?, &identity.cluster, None)?;
        let opening = Opening::Join(Join {
            token: token.to_string(),
            node: identity.node.clone(),
            request: identity.request()?,
        });
        self.ask(&config, &opening, true).await
    }

    /// Gets a certificate by one exchange on a connection of its own.
    async fn ask(
        &mut self,
        config: &Arc<rustls::ClientConfig>,
        opening: &Opening,
        joining: bool,
    ) -> Result<Outcome, Error> {
        let (mut stream, address) = match self.connect(config, joining).await {
            Ok(connected) => connected,
            Err(outcome) => return Ok(outcome),
        };
        match exchange(&mut stream, opening).await {
            Ok(OpeningReply::Certificate {
                certificate,
                wall_clock_ms,
            }) => {
                let _ = stream.shutdown().await;
                if let Some(identity) = &mut self.identity {
                    if let Err(error) = identity.accept(certificate) {
                        return Ok(Outcome::Failed {
                            reason: error.to_string(),
                        });
                    }
                    identity.last_good = Some(address);
                    save(&self.file, identity).await?;
                }
                self.node.wall_clock(wall_clock_ms);
                self.certificates += 1;
                Ok(Outcome::Again)
            }
            Ok(OpeningReply::Session) => Ok(Outcome::Failed {
                reason: format!("{address} answered out of order"),
            }),
            Ok(OpeningReply::Refused { code, reason }) if code.is_passing() => Ok(Outcome::Failed { reason }),
            Ok(OpeningReply::Refused { code, reason }) => Ok(Outcome::Refused { code, reason }),
            Err(error) => Ok(Outcome::Failed {
                reason: format!("{address}: {error}"),
            }),
        }
    }

    async fn connect(
        &mut self,
        config: &Arc<rustls::ClientConfig>,
        joining: bool,
    ) -> Result<(tokio_rustls::client::TlsStream<tokio::net::TcpStream>, SocketAddr), Outcome> {
        let (mut shunned, mut tried) = (std::mem::take(&mut self.shunned), HashSet::new());
        let outcome = match self.places() {
            Ok(places) => {
                if joining {
                    self.shared.set(LinkState::Joining);
                }
                let cluster = self.wanted().map(|(cluster, _)| cluster).unwrap_or_default();
                connect(places, &mut tried, &mut shunned, config, &cluster)
                    .await
                    .map_err(|NoWay { code, reason }| match code {
                        Some(code) => Outcome::Refused { code, reason },
                        // names that lead nowhere
                        None if tried.is_empty() => Outcome::Nothing { note: reason },
                        None => Outcome::Failed { reason },
                    })
            }
            Err(outcome) => Err(outcome),
        };
        (self.shunned, self.tried) = (shunned, tried);
        outcome
    }

    async fn begin(&mut self, shutdown: &CancellationToken) -> Result<Outcome, Error> {
        let Some(identity) = &self.identity else {
            return Ok(Outcome::Again);
        };
        let config = client_config(identity.pin()?, &identity.cluster, identity.credentials()?)?;
        let connecting = async {
            let (mut stream, address) = self.connect(&config, false).await?;
            match exchange(&mut stream, &Opening::Session).await {
                Ok(reply) => Ok((stream, address, reply)),
                Err(error) => Err(Outcome::Failed {
                    reason: format!("{address}: {error}"),
                }),
            }
        };
        let connected = tokio::select! {
            connected = connecting => connected,
            () = shutdown.cancelled() => Err(Outcome::Stopped),
        };
        let (stream, address, reply) = match connected {
            Ok(connected) => connected,
            Err(outcome) => return Ok(outcome),
        };
        let (code, reason) = match reply {
            OpeningReply::Session => match self.session(stream, address, shutdown).await? {
                Outcome::Refused { code, reason } => (code, reason),
                outcome => return Ok(outcome),
            },
            OpeningReply::Refused { code, reason } => (code, reason),
            OpeningReply::Certificate { .. } => {
                return Ok(Outcome::Failed {
                    reason: format!("{address} answered out of order"),
                });
            }
        };
        match code {
            RefusalCode::CertificateExpired => unless(shutdown, self.renew()).await,
            code if code.is_passing() => Ok(Outcome::Failed { reason }),
            // A person may have put a fresh token on the card to let the board in again.
            RefusalCode::Removed | RefusalCode::Superseded if self.config.token.is_some() => {
                match unless(shutdown, self.join()).await? {
                    Outcome::Refused { .. } => Ok(Outcome::Refused { code, reason }),
                    outcome => Ok(outcome),
                }
            }
            code => Ok(Outcome::Refused { code, reason }),
        }
    }

    async fn session(
        &mut self,
        stream: tokio_rustls::client::TlsStream<tokio::net::TcpStream>,
        address: SocketAddr,
        shutdown: &CancellationToken,
    ) -> Result<Outcome, Error> {
        let Some(identity) = &mut self.identity else {
            return Ok(Outcome::Again);
        };
        // Worth a write: it is what a node finds home with where there is no mDNS.
        if identity.last_good != Some(address) {
            identity.last_good = Some(address);
            save(&self.file, identity).await?;
        }
        let began = Instant::now();
        let ended = Box::pin(session(
            stream,
            address,
            &self.shared,
            &self.node,
            identity,
            &self.file,
            shutdown,
        ))
        .await?;
        if began.elapsed() >= GOOD_SESSION {
            self.away = None;
            self.certificates = 0;
            self.backoff.reset();
        }
        Ok(match ended {
            Ended::Stopped => Outcome::Stopped,
            Ended::Adopted => Outcome::Again,
            Ended::Lost(reason) => Outcome::Failed { reason },
            Ended::Refused { code, reason } => Outcome::Refused { code, reason },
        })
    }

    /// The exchange that an expired certificate opens.
    async fn renew(&mut self) -> Result<Outcome, Error> {
        let Some(identity) = &mut self.identity else {
            return Ok(Outcome::Again);
        };
        let had_key = identity.next_key.is_some();
        let request = identity.next_request()?;
        if !had_key {
            save(&self.file, identity).await?;
        }
        let config = client_config(identity.pin()?, &identity.cluster, identity.credentials()?)?;
        self.ask(&config, &Opening::Renew { request }, false).await
    }
}

/// The addresses of those that announce the wanted cluster.
fn of_cluster<'a>(
    wanted: Option<&(String, Pin)>,
    candidates: &'a [Candidate],
) -> impl Iterator<Item = SocketAddr> + use<'a> {
    let wanted = wanted.cloned();
    candidates
        .iter()
        .filter(move |candidate| {
            wanted
                .as_ref()
                .is_some_and(|(cluster, pin)| *cluster == candidate.cluster && *pin == candidate.pin)
        })
        .flat_map(Candidate::sockets)
}

async fn wait_for(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

async fn unless(
    shutdown: &CancellationToken,
    work: impl Future<Output = Result<Outcome, Error>>,
) -> Result<Outcome, Error> {
    tokio::select! {
        outcome = work => outcome,
        () = shutdown.cancelled() => Ok(Outcome::Stopped),
    }
}

async fn exchange<S>(stream: &mut S, opening: &Opening) -> Result<OpeningReply, Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let talk = async {
        protocol::write_frame(stream, &protocol::encode_opening(opening)?).await?;
        protocol::decode(&protocol::read_frame(stream, MAX_OPENING).await?)
    };
    match tokio::time::timeout(REPLY_TIME, talk).await {
        Ok(reply) => reply,
        Err(_) => Err(Error::protocol(
            "wait for a reply",
            format_args!("none came within {} s", REPLY_TIME.as_secs()),
        )),
    }
}

/// Writes the identity without holding up the others on this thread.
pub(super) async fn save(file: &IdentityFile, identity: &NodeIdentity) -> Result<(), Error> {
    let (file, identity) = (file.clone(), identity.clone());
    tokio::task::spawn_blocking(move || file.write(&identity))
        .await
        .unwrap_or_else(|error| Err(Error::protocol("write the node identity", error)))
}
