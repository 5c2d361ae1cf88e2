//! The control plane's end of the link: accepts connections, admits nodes, keeps the registry of live sessions.

mod attempts;
mod records;
mod registry;
mod session;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use minidc_api::feed::Feed;
use minidc_api::streams::{StreamReply, Target};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use self::attempts::Attempts;
use self::registry::Registry;
use crate::admission::{NodeRecord, TokenRecord};
use crate::pki::{ClusterIdentity, Peer, is_node_name};
use crate::protocol::{
    self, ApiRequest, ApiResponse, Command, Heartbeat, Hello, Join, MAX_OPENING, Opening, OpeningReply, RefusalCode,
    ServerFrame, StoreId, StreamOpen,
};
use crate::token::{Token, TokenError};
use crate::{BoxedIo, Error};

/// A peer that does not say what it wants within this time is sent away.
const OPENING_TIME: Duration = Duration::from_secs(10);
/// A node that does not answer on a stream within this time is taken for stuck.
const REPLY_TIME: Duration = Duration::from_secs(30);

/// A record with the version it was read at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The record.
    pub value: T,
    /// Opaque: the object's resourceVersion.
    pub version: String,
}

/// Outcome of a compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Written.
    Stored,
    /// Somebody else was first; read again.
    Conflict,
}

/// The control plane's store cannot answer now; the sentence says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// A refusal of the control plane, told to the node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct Refusal {
    /// Kind of refusal.
    pub code: RefusalCode,
    /// Reason for a person.
    pub reason: String,
}

impl Refusal {
    /// Both parts.
    pub fn new(code: RefusalCode, reason: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
        }
    }
}

impl From<Unavailable> for Refusal {
    fn from(unavailable: Unavailable) -> Self {
        Self {
            code: RefusalCode::Unavailable,
            reason: unavailable.0,
        }
    }
}

/// An attempt that was refused, for logs and events.
#[derive(Clone, Debug)]
pub struct RefusedAttempt {
    /// Where it came from.
    pub address: SocketAddr,
    /// The node name that was claimed or proven, if it got that far.
    pub node: Option<String>,
    /// The refusal, as the peer was told it.
    pub refusal: Refusal,
}

/// An image archive that can be read.
pub struct Archive {
    /// Length in bytes.
    pub size: u64,
    /// Exactly that many bytes.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
}

/// What the link needs of the control plane. Implemented over the API server and its store.
///
/// The four record methods are plain storage with compare-and-swap: which record may become which is decided by
/// [`crate::admission`]. `expected: None` means that the record must not exist.
pub trait ControlPlane: Send + Sync + 'static {
    /// The record of a used token (`jointokens.minidc.dev/ID`).
    fn token<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Versioned<TokenRecord>>, Unavailable>>;

    /// Writes it.
    fn put_token<'a>(
        &'a self,
        id: &'a str,
        record: TokenRecord,
        expected: Option<String>,
    ) -> BoxFuture<'a, Result<Put, Unavailable>>;

    /// The record of a node's keys (`nodeidentities.minidc.dev/NAME`).
    fn node<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Versioned<NodeRecord>>, Unavailable>>;

    /// Writes it.
    fn put_node<'a>(
        &'a self,
        name: &'a str,
        record: NodeRecord,
        expected: Option<String>,
    ) -> BoxFuture<'a, Result<Put, Unavailable>>;

    /// The store's identity and present revision, for the welcome.
    fn store(&self) -> StoreId;

    /// The control plane's clock in Unix milliseconds, never below its floor.
    fn wall_clock_ms(&self) -> u64;

    /// A node was admitted: make or update its Node object. Called before the welcome is sent; for a node that replaces its own
    /// older session, after `disconnected` of that one. May still refuse.
    fn connected<'a>(&'a self, hello: &'a Hello, address: SocketAddr) -> BoxFuture<'a, Result<(), Refusal>>;

    /// The session is over. Not an order: whether the node is unwell is judged by its heartbeats.
    fn disconnected<'a>(&'a self, node: &'a str, reason: &'a str) -> BoxFuture<'a, ()>;

    /// Everything the node needs: a snapshot, [`Feed::End`], changes. When it ends the session is ended, and the node comes again.
    fn feed(&self, node: &str) -> BoxStream<'static, Feed>;

    /// A sign of life. One at a time per node; when this is slow, heartbeats in between are dropped, the newest is kept.
    fn heartbeat<'a>(&'a self, node: &'a str, heartbeat: Heartbeat) -> BoxFuture<'a, ()>;

    /// A call of the node, to be executed as `system:node:NAME`. The id of the answer is filled in by the link.
    fn request(&self, node: &str, request: ApiRequest) -> BoxFuture<'static, ApiResponse>;

    /// The archive of an image; the error is an HTTP status code and a sentence.
    fn image_archive<'a>(&'a self, node: &'a str, name: &'a str) -> BoxFuture<'a, Result<Archive, (u16, String)>>;

    /// An attempt was refused. Must not block; called at most a few times per second and address.
    fn refused(&self, attempt: RefusedAttempt);
}

/// The control plane's end. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Arc<ClusterIdentity>,
    control: Arc<dyn ControlPlane>,
    registry: Registry,
    attempts: Mutex<Attempts>,
}

/// A live session, for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Name of the node.
    pub node: String,
    /// Where it dialled from.
    pub address: SocketAddr,
    /// The program it runs.
    pub instance: uuid::Uuid,
}

impl Server {
    /// The link of `identity`'s cluster.
    pub fn new(identity: Arc<ClusterIdentity>, control: Arc<dyn ControlPlane>) -> Self {
        Self {
            inner: Arc::new(Inner {
                identity,
                control,
                registry: Registry::default(),
                attempts: Mutex::default(),
            }),
        }
    }

    /// Serves one connection whose handshake agreed on [`crate::pki::Application::Link`], until it ends. To be run in a task of its own;
    /// dropping the future cuts the connection. Everything worth telling is told to [`ControlPlane`].
    pub async fn serve<S>(&self, mut stream: S, peer: Peer, address: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let opening = tokio::time::timeout(OPENING_TIME, protocol::read_frame(&mut stream, MAX_OPENING)).await;
        let opening = match opening {
            Ok(Ok(bytes)) => protocol::decode_opening(&bytes).map_err(|(code, reason)| Refusal::new(code, reason)),
            Ok(Err(error)) => Err(Refusal::new(RefusalCode::Malformed, error.to_string())),
            Err(_) => Err(Refusal::new(RefusalCode::Malformed, "no opening frame came")),
        };
        let node = peer.node().map(ToOwned::to_owned);
        let (node, outcome) = match opening {
            Ok(Opening::Join(join)) => (Some(join.node.clone()), self.join(&join, address).await),
            Ok(Opening::Renew { request }) => (node, self.renew_expired(&peer, &request).await),
            Ok(Opening::Session) => match self.admit(&peer).await {
                Ok((node, key)) => {
                    if reply(&mut stream, &OpeningReply::Session).await.is_ok() {
                        Box::pin(self.session(stream, node, key, address)).await;
                    }
                    return;
                }
                Err(refusal) => (node, Err(refusal)),
            },
            Err(refusal) => (node, Err(refusal)),
        };
        let answer = match outcome {
            Ok(certificate) => OpeningReply::Certificate {
                certificate,
                wall_clock_ms: self.inner.control.wall_clock_ms(),
            },
            Err(refusal) => {
                let answer = OpeningReply::Refused {
                    code: refusal.code,
                    reason: refusal.reason.clone(),
                };
                // A name that nobody may have is not worth repeating in logs.
                let node = node.filter(|node| is_node_name(node));
                self.inner.control.refused(RefusedAttempt { address, node, refusal });
                answer
            }
        };
        if reply(&mut stream, &answer).await.is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(1), stream.shutdown()).await;
        }
    }

    /// Opens a stream to a node for `target`; the node's reply has been read. The error is an HTTP status code and a
    /// sentence for the user.
    pub async fn dial(&self, node: &str, target: Target) -> Result<BoxedIo, (u16, String)> {
        let live = self
            .inner
            .registry
            .get(node)
            .ok_or_else(|| (503, format!("node {node} is not connected")))?;
        let lost = |error: Error| (503, format!("the link to node {node} broke: {error}"));
        let talk = async {
            let mut stream = live.opener.bulk(&StreamOpen::Target(target)).await.map_err(lost)?;
            match protocol::read_stream_reply(&mut stream).await.map_err(lost)? {
                StreamReply::Ready => Ok(Box::new(stream) as BoxedIo),
                StreamReply::Refused { code, message } => Err((code, message)),
            }
        };
        tokio::time::timeout(REPLY_TIME, talk).await.unwrap_or_else(|_| {
            Err((
                504,
                format!("node {node} did not answer within {} s", REPLY_TIME.as_secs()),
            ))
        })
    }

    /// Tells a connected node to do something. Fails with [`Error::Offline`] when it is not connected.
    pub async fn command(&self, node: &str, command: Command) -> Result<(), Error> {
        let live = self.inner.registry.get(node).ok_or(Error::Offline)?;
        live.outbox.send_urgent(ServerFrame::Command(command)).await
    }

    /// The live sessions.
    pub fn connected(&self) -> Vec<Connected> {
        self.inner.registry.all().iter().map(|live| live.describe()).collect()
    }

    /// Ends a node's session, if there is one, and tells it why.
    pub fn disconnect(&self, node: &str, refusal: Refusal) {
        if let Some(live) = self.inner.registry.get(node) {
            live.end(refusal);
        }
    }

    /// Looks at the record of a node again, after somebody changed it, and ends the session that it no longer allows.
    pub async fn recheck(&self, node: &str) -> Result<(), Unavailable> {
        if let Some(live) = self.inner.registry.get(node)
            && let Some(record) = self.inner.control.node(node).await?
            && let Err(refusal) = crate::admission::admit(Some(&record.value), node, &live.key())
        {
            live.end(refusal);
        }
        Ok(())
    }

    /// Ends all sessions: the control plane stops. The nodes come again by themselves.
    pub fn close(&self) {
        for live in self.inner.registry.all() {
            live.end(Refusal::new(RefusalCode::Unavailable, "the control plane is stopping"));
        }
    }

    async fn join(&self, join: &Join, address: SocketAddr) -> Result<Vec<u8>, Refusal> {
        self.attempts().check(address.ip(), tokio::time::Instant::now())?;
        let outcome = self.try_join(join).await;
        if outcome
            .as_ref()
            .is_err_and(|refusal| refusal.code != RefusalCode::Unavailable)
        {
            self.attempts().failed(address.ip(), tokio::time::Instant::now());
        }
        outcome
    }

    async fn try_join(&self, join: &Join) -> Result<Vec<u8>, Refusal> {
        let node = &join.node;
        if !is_node_name(node) {
            return Err(Refusal::new(
                RefusalCode::Malformed,
                format!("{node:?} cannot be the name of a node"),
            ));
        }
        let token: Token = join
            .token
            .parse()
            .map_err(|error: TokenError| Refusal::new(RefusalCode::Token, error.to_string()))?;
        token
            .verify(self.inner.identity.join_key(), node, self.now())
            .map_err(|error| {
                let code = match error {
                    TokenError::Expired { .. } => RefusalCode::TokenExpired,
                    TokenError::OtherNode { .. } => RefusalCode::TokenOtherNode,
                    _ => RefusalCode::Token,
                };
                Refusal::new(code, error.to_string())
            })?;
        let key = ClusterIdentity::key_of_request(&join.request)
            .map_err(|error| Refusal::new(RefusalCode::Malformed, error.to_string()))?;
        self.claim(&token, node, &key).await?;
        self.sign(&join.request, node)
    }

    async fn renew_expired(&self, peer: &Peer, request: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (node, key, expired) = proven(peer)?;
        self.renew(node, key, request, expired)
            .await
            .map(|(certificate, _)| certificate)
    }

    /// Signs for the new key after it is on record. Returns the certificate and the new key's hash.
    async fn renew(&self, node: &str, key: &str, request: &[u8], expired: bool) -> Result<(Vec<u8>, String), Refusal> {
        let new_key = ClusterIdentity::key_of_request(request)
            .map_err(|error| Refusal::new(RefusalCode::Malformed, error.to_string()))?;
        self.change_node(node, |record| {
            crate::admission::renew(record, node, key, &new_key, expired)
        })
        .await?;
        Ok((self.sign(request, node)?, new_key))
    }

    /// The node and key of a peer that may have a session.
    async fn admit(&self, peer: &Peer) -> Result<(String, String), Refusal> {
        let (node, key, expired) = proven(peer)?;
        if expired {
            return Err(Refusal::new(
                RefusalCode::CertificateExpired,
                "the certificate has expired; renew it first",
            ));
        }
        self.change_node(node, |record| crate::admission::admit(record, node, key))
            .await?;
        Ok((node.to_owned(), key.to_owned()))
    }

    fn sign(&self, request: &[u8], node: &str) -> Result<Vec<u8>, Refusal> {
        let signed = self.inner.identity.sign_node(request, node, self.now());
        signed
            .map(|signed| signed.certificate)
            .map_err(|error| Refusal::new(RefusalCode::Malformed, error.to_string()))
    }

    /// The control plane's clock in Unix seconds.
    fn now(&self) -> u64 {
        self.inner.control.wall_clock_ms() / 1000
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, Attempts> {
        self.inner.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn proven(peer: &Peer) -> Result<(&str, &str, bool), Refusal> {
    match (peer, peer.node()) {
        (Peer::Client { key, expired, .. }, Some(node)) => Ok((node, key, *expired)),
        _ => Err(Refusal::new(RefusalCode::NotANode, "this takes a node's certificate")),
    }
}

async fn reply<S: AsyncWrite + Unpin>(stream: &mut S, answer: &OpeningReply) -> Result<(), Error> {
    let bytes = protocol::encode(answer)?;
    match tokio::time::timeout(OPENING_TIME, protocol::write_frame(stream, &bytes)).await {
        Ok(result) => result,
        Err(_) => Err(Error::protocol("write a reply", "the peer does not read")),
    }
}
