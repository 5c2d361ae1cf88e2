//! The control plane's end of the link: accepts connections, admits nodes, keeps the registry of live sessions.

use std::net::SocketAddr;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use minidc_api::feed::Feed;
use tokio::io::AsyncRead;

use crate::admission::{NodeRecord, TokenRecord};
use crate::protocol::{ApiRequest, ApiResponse, Heartbeat, Hello, RefusalCode, StoreId};

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
        Self { code, reason: reason.into() }
    }
}

impl From<Unavailable> for Refusal {
    fn from(unavailable: Unavailable) -> Self {
        Self { code: RefusalCode::Unavailable, reason: unavailable.0 }
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
