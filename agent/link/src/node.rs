//! The node's end of the link: finds the control plane, joins, stays connected, renews.

mod backoff;
mod dial;
mod identity;
mod run;
mod session;
mod up;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use minidc_api::metrics::NodeSample;
use minidc_api::streams::Target;
use tokio::io::AsyncRead;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::up::Up;
use crate::discovery::Discovery;
use crate::feed::{FeedState, Keeper, Told};
use crate::pki::is_node_name;
use crate::protocol::{Command, NodeFacts, RefusalCode, StoreId};
use crate::token::Token;
use crate::{BoxedIo, Error};

pub use identity::{IdentityFile, NodeIdentity};

/// A stream's work, ready to be done: the reply is sent between its making and its running.
pub type Serving = Box<dyn FnOnce(BoxedIo) -> BoxFuture<'static, ()> + Send>;

/// What the link needs of the node.
pub trait Node: Send + Sync + 'static {
    /// Facts for the hello; asked at each connection.
    fn facts(&self) -> NodeFacts;

    /// The latest reading and the name of the state that the LEDs show; asked each second, so it must not measure.
    fn heartbeat(&self) -> (NodeSample, String);

    /// Gets ready to serve a stream (finds the container, say). The error is an HTTP status code and a sentence.
    fn open(&self, target: Target) -> BoxFuture<'static, Result<Serving, (u16, String)>>;

    /// The control plane wants something done. Must not block.
    fn command(&self, command: Command);

    /// The control plane's clock in Unix milliseconds, at each welcome and once a minute after. A board without a clock may set its own
    /// by it.
    fn wall_clock(&self, unix_ms: u64);
}

/// How a node's link is set up.
pub struct Config {
    /// Name of the node.
    pub node: String,
    /// Where its identity (`identity.json`) and its desired state (`desired`) are kept.
    pub directory: PathBuf,
    /// To join with, where there is no identity yet.
    pub token: Option<Token>,
    /// `HOST:PORT`s to dial besides what discovery finds.
    pub servers: Vec<String>,
    /// Where control planes are found.
    pub discovery: Arc<dyn Discovery>,
}

/// How the link is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// No control plane of this cluster is known.
    Searching {
        /// What there is instead, for a person.
        note: String,
    },
    /// Asking to be let in.
    Joining,
    /// Up, and the feed is followed.
    Connected {
        /// The control plane.
        server: SocketAddr,
    },
    /// The control plane is known but not there. What runs goes on.
    Away {
        /// Since when.
        since: Instant,
        /// Why the last attempt failed.
        reason: String,
    },
    /// Refused, by the other side or by this one. Tried again, rarely.
    Refused {
        /// Kind of refusal.
        code: RefusalCode,
        /// Reason for a person.
        reason: String,
    },
    /// Connected to a store that this node does not know, or to an older state of its own: what runs is kept, the feed is
    /// ignored, until a person says `minidc node adopt`.
    ForeignStore {
        /// The control plane.
        server: SocketAddr,
        /// What this node follows.
        known: StoreId,
        /// What it was offered.
        offered: StoreId,
    },
}

impl LinkState {
    /// Whether requests go through.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

/// The work of the link; see [`NodeLink::run`].
pub struct NodeLink {
    shared: Arc<Shared>,
    node: Arc<dyn Node>,
    config: Config,
}

/// Access to the link for the rest of the node. Cheap to clone.
#[derive(Clone)]
pub struct NodeHandle {
    shared: Arc<Shared>,
}

struct Shared {
    /// This program, as opposed to one before a restart or on a copy of this card.
    instance: Uuid,
    state: watch::Sender<LinkState>,
    connected: watch::Sender<bool>,
    up: watch::Sender<Option<Arc<Up>>>,
    keeper: Keeper,
    adopt: Notify,
}

impl NodeLink {
    /// Reads the desired state from disk; dials nothing yet.
    pub fn new(config: Config, node: Arc<dyn Node>) -> Result<(Self, NodeHandle), Error> {
        if !is_node_name(&config.node) {
            return Err(Error::Name {
                what: "node name",
                name: config.node,
            });
        }
        crate::files::make_private_directory(&config.directory)?;
        let keeper = Keeper::load(config.directory.join("desired"));
        let shared = Arc::new(Shared {
            instance: Uuid::new_v4(),
            state: watch::Sender::new(LinkState::Searching {
                note: "starting".into(),
            }),
            connected: watch::Sender::new(false),
            up: watch::Sender::new(None),
            keeper,
            adopt: Notify::new(),
        });
        let handle = NodeHandle {
            shared: Arc::clone(&shared),
        };
        Ok((Self { shared, node, config }, handle))
    }

    /// Keeps the link up until `shutdown`. Fails only when the identity on disk can be neither read nor written.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        // Writing ends after the link, so that what came last is on disk.
        let done = CancellationToken::new();
        let linking = Box::pin(async {
            let result = self.keep(shutdown).await;
            done.cancel();
            result
        });
        let (result, ()) = tokio::join!(linking, shared.keeper.run(done.clone()));
        result
    }
}

impl NodeHandle {
    /// How the link is doing.
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.shared.state.subscribe()
    }

    /// Whether requests go through.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.shared.connected.subscribe()
    }

    /// What the node is to run.
    pub fn feed(&self) -> watch::Receiver<Arc<FeedState>> {
        self.shared.keeper.subscribe()
    }

    /// Services, EndpointSlices and namespaces: all as they are now, then each change.
    pub fn changes(&self) -> mpsc::UnboundedReceiver<Told> {
        self.shared.keeper.changes()
    }

    /// Calls the Kubernetes API as this node. Returns the HTTP status code and the body. Fails with [`Error::Offline`] when the
    /// link is not up, or goes before the answer has come: the call may or may not have been executed.
    pub async fn request(
        &self,
        method: &str,
        path: String,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<(u16, Vec<u8>), Error> {
        self.up()?.request(method, path, content_type, body).await
    }

    /// Opens the archive of an Image object: its length in bytes and its content. The reader fails if the link goes before the end.
    pub async fn image_archive(&self, name: &str) -> Result<(u64, Box<dyn AsyncRead + Send + Unpin>), Error> {
        self.up()?.image_archive(name).await
    }

    /// Takes the store that the node is connected to for the right one. Nothing happens when the node waits for no such word.
    pub fn adopt(&self) {
        self.shared.adopt.notify_waiters();
    }

    fn up(&self) -> Result<Arc<Up>, Error> {
        self.shared.up.borrow().clone().ok_or(Error::Offline)
    }
}

impl Shared {
    fn set(&self, state: LinkState) {
        self.connected.send_if_modified(|connected| {
            let now = state.is_connected();
            std::mem::replace(connected, now) != now
        });
        self.state.send_if_modified(|present| {
            let news = *present != state;
            if news {
                tracing::info!(?state, "the link");
                *present = state;
            }
            news
        });
    }
}
