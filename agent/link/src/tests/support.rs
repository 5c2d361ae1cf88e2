//! A control plane in memory, a node that does nothing, and a cluster of the two.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use minidc_api::feed::{Feed, FeedItem, FeedKind, FeedOp};
use minidc_api::metrics::NodeSample;
use minidc_api::streams::{ContainerRef, LogQuery, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::admission::{NodeRecord, TokenRecord};
use crate::clock;
use crate::discovery::{Candidate, Fixed};
use crate::node::{Config, LinkState, Node, NodeHandle, NodeIdentity, NodeLink, Serving};
use crate::pki::{Acceptor, ClusterIdentity, ServingCertificate, client_config, server_config};
use crate::protocol::{
    self, ApiRequest, ApiResponse, Command, Heartbeat, Hello, MAX_OPENING, NodeFacts, Opening, OpeningReply,
    RefusalCode, StoreId,
};
use crate::server::{Archive, ControlPlane, Put, Refusal, RefusedAttempt, Server, Unavailable, Versioned};
use crate::token::Token;

pub(super) const CLUSTER: &str = "garage";
pub(super) const IMAGE: &str = "sha256-abc";
pub(super) const IMAGE_SIZE: u64 = 3_000_000;

/// Far more than anything takes, also on a machine that does other work.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `wanted` holds, with a limit.
pub(super) async fn until<T: Clone + std::fmt::Debug>(
    receiver: &mut watch::Receiver<T>,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let found = tokio::time::timeout(LIMIT, receiver.wait_for(|value| wanted(value))).await;
    let found = found.map(|value| value.unwrap().clone());
    found.unwrap_or_else(|_| panic!("still {:?}", *receiver.borrow()))
}

type Stored<T> = Mutex<HashMap<String, (T, u64)>>;

pub(super) struct FakeControl {
    pub(super) tokens: Stored<TokenRecord>,
    pub(super) nodes: Stored<NodeRecord>,
    pub(super) store: Mutex<StoreId>,
    /// Seconds that the control plane's clock is ahead of ours.
    pub(super) ahead: AtomicI64,
    pub(super) snapshot: Mutex<Vec<FeedItem>>,
    pub(super) changes: broadcast::Sender<Feed>,
    /// What happened, oldest first.
    pub(super) events: watch::Sender<Vec<String>>,
    pub(super) refusals: watch::Sender<Vec<(Option<String>, RefusalCode)>>,
    pub(super) heartbeats: watch::Sender<Vec<(String, Heartbeat)>>,
    pub(super) last_reason: Mutex<String>,
    version: AtomicU64,
}

impl Default for FakeControl {
    fn default() -> Self {
        Self {
            tokens: Mutex::default(),
            nodes: Mutex::default(),
            store: Mutex::new(StoreId {
                identity: Uuid::from_u128(1),
                revision: 100,
            }),
            ahead: AtomicI64::new(0),
            snapshot: Mutex::default(),
            changes: broadcast::Sender::new(64),
            events: watch::Sender::new(Vec::new()),
            refusals: watch::Sender::new(Vec::new()),
            heartbeats: watch::Sender::new(Vec::new()),
            last_reason: Mutex::default(),
            version: AtomicU64::new(1),
        }
    }
}

impl FakeControl {
    fn get<T: Clone>(stored: &Stored<T>, name: &str) -> Option<Versioned<T>> {
        stored.lock().unwrap().get(name).map(|(value, version)| Versioned {
            value: value.clone(),
            version: version.to_string(),
        })
    }

    fn put<T>(&self, stored: &Stored<T>, name: &str, value: T, expected: Option<&str>) -> Put {
        let mut map = stored.lock().unwrap();
        if map.get(name).map(|(_, version)| version.to_string()).as_deref() != expected {
            return Put::Conflict;
        }
        map.insert(name.to_owned(), (value, self.version.fetch_add(1, Ordering::Relaxed)));
        Put::Stored
    }

    pub(super) fn record(&self, node: &str) -> Option<NodeRecord> {
        self.nodes.lock().unwrap().get(node).map(|(record, _)| record.clone())
    }

    fn note(&self, event: String) {
        self.events.send_modify(|events| events.push(event));
    }

    pub(super) fn now(&self) -> u64 {
        clock::system().saturating_add_signed(self.ahead.load(Ordering::Relaxed))
    }
}

impl ControlPlane for FakeControl {
    fn token<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Versioned<TokenRecord>>, Unavailable>> {
        async move { Ok(Self::get(&self.tokens, id)) }.boxed()
    }

    fn put_token<'a>(
        &'a self,
        id: &'a str,
        record: TokenRecord,
        expected: Option<String>,
    ) -> BoxFuture<'a, Result<Put, Unavailable>> {
        async move { Ok(self.put(&self.tokens, id, record, expected.as_deref())) }.boxed()
    }

    fn node<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Versioned<NodeRecord>>, Unavailable>> {
        async move { Ok(Self::get(&self.nodes, name)) }.boxed()
    }

    fn put_node<'a>(
        &'a self,
        name: &'a str,
        record: NodeRecord,
        expected: Option<String>,
    ) -> BoxFuture<'a, Result<Put, Unavailable>> {
        async move { Ok(self.put(&self.nodes, name, record, expected.as_deref())) }.boxed()
    }

    fn store(&self) -> StoreId {
        *self.store.lock().unwrap()
    }

    fn wall_clock_ms(&self) -> u64 {
        self.now() * 1000
    }

    fn connected<'a>(&'a self, hello: &'a Hello, _address: SocketAddr) -> BoxFuture<'a, Result<(), Refusal>> {
        async move {
            self.note(format!("connected {}", hello.node));
            Ok(())
        }
        .boxed()
    }

    fn disconnected<'a>(&'a self, node: &'a str, reason: &'a str) -> BoxFuture<'a, ()> {
        async move {
            reason.clone_into(&mut self.last_reason.lock().unwrap());
            self.note(format!("disconnected {node}"));
        }
        .boxed()
    }

    fn feed(&self, _node: &str) -> BoxStream<'static, Feed> {
        let changes = tokio_stream(self.changes.subscribe());
        let snapshot: Vec<_> = self.snapshot.lock().unwrap().iter().cloned().map(Feed::Item).collect();
        let end = Feed::End {
            revision: self.store.lock().unwrap().revision,
        };
        futures::stream::iter(snapshot)
            .chain(futures::stream::iter([end]))
            .chain(changes)
            .boxed()
    }

    fn heartbeat<'a>(&'a self, node: &'a str, heartbeat: Heartbeat) -> BoxFuture<'a, ()> {
        async move {
            self.heartbeats
                .send_modify(|beats| beats.push((node.to_owned(), heartbeat)));
        }
        .boxed()
    }

    fn request(&self, node: &str, request: ApiRequest) -> BoxFuture<'static, ApiResponse> {
        let node = node.to_owned();
        async move {
            if request.path == "/never" {
                std::future::pending::<()>().await;
            }
            let body = format!("{node} {} {} {}", request.method, request.path, request.body.len()).into_bytes();
            ApiResponse {
                id: 0,
                status: 200,
                body,
            }
        }
        .boxed()
    }

    fn image_archive<'a>(&'a self, _node: &'a str, name: &'a str) -> BoxFuture<'a, Result<Archive, (u16, String)>> {
        async move {
            match name {
                IMAGE => Ok(Archive {
                    size: IMAGE_SIZE,
                    reader: Box::new(tokio::io::repeat(7)),
                }),
                "sha256-short" => Ok(Archive {
                    size: IMAGE_SIZE,
                    reader: Box::new(tokio::io::repeat(7).take(1000)),
                }),
                _ => Err((404, format!("image {name} is not here"))),
            }
        }
        .boxed()
    }

    fn refused(&self, attempt: RefusedAttempt) {
        self.refusals
            .send_modify(|refusals| refusals.push((attempt.node, attempt.refusal.code)));
    }
}

fn tokio_stream(receiver: broadcast::Receiver<Feed>) -> impl futures::Stream<Item = Feed> + Send + 'static {
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.ok().map(|feed| (feed, receiver))
    })
}

/// A node that answers log queries with what the container is called, and exec with an echo.
#[derive(Default)]
pub(super) struct FakeNode {
    pub(super) commands: Mutex<Vec<Command>>,
}

impl Node for FakeNode {
    fn facts(&self) -> NodeFacts {
        NodeFacts {
            board: "none".into(),
            ..NodeFacts::default()
        }
    }

    fn heartbeat(&self) -> (NodeSample, String) {
        (NodeSample::default(), "ready".into())
    }

    fn open(&self, target: Target) -> BoxFuture<'static, Result<Serving, (u16, String)>> {
        async move {
            let Target::Logs(query) = target else {
                return Err((400, "only logs".to_owned()));
            };
            match query.of.container.as_str() {
                "missing" => Err((404, "container missing is not here".to_owned())),
                "endless" => Ok(Box::new(|mut io: crate::BoxedIo| {
                    async move { while io.write_all(&[b'x'; 4096]).await.is_ok() {} }.boxed()
                }) as Serving),
                "broken" => {
                    Ok(
                        Box::new(|mut io: crate::BoxedIo| async move { io.write_all(b"half").await.unwrap() }.boxed())
                            as Serving,
                    )
                }
                name => {
                    let text = format!("log of {name}\n");
                    Ok(Box::new(|mut io: crate::BoxedIo| {
                        async move {
                            io.write_all(text.as_bytes()).await.unwrap();
                            io.shutdown().await.unwrap();
                        }
                        .boxed()
                    }) as Serving)
                }
            }
        }
        .boxed()
    }

    fn command(&self, command: Command) {
        self.commands.lock().unwrap().push(command);
    }

    fn wall_clock(&self, _unix_ms: u64) {}
}

pub(super) fn logs_of(container: &str) -> Target {
    Target::Logs(LogQuery {
        of: ContainerRef {
            namespace: "default".into(),
            pod: "p".into(),
            uid: "u".into(),
            container: container.into(),
        },
        follow: false,
        previous: false,
        timestamps: false,
        tail_lines: None,
        since_seconds: None,
        since_time: None,
        limit_bytes: None,
    })
}

pub(super) fn pod(name: &str, revision: u64) -> FeedItem {
    let json = format!(r#"{{"metadata":{{"name":"{name}","resourceVersion":"{revision}"}}}}"#);
    FeedItem {
        kind: FeedKind::Pod,
        namespace: "default".into(),
        name: name.into(),
        revision,
        op: FeedOp::Put(json.into_bytes()),
    }
}

/// A control plane that listens.
pub(super) struct Cluster {
    pub(super) identity: Arc<ClusterIdentity>,
    pub(super) control: Arc<FakeControl>,
    pub(super) server: Server,
    pub(super) address: SocketAddr,
    listening: Option<AbortOnDropHandle<()>>,
    pub(super) directory: Arc<tempfile::TempDir>,
}

impl Cluster {
    pub(super) async fn start() -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let identity = Arc::new(ClusterIdentity::load_or_create(&directory.path().join("pki"), CLUSTER).unwrap());
        Self::start_with(directory, identity, Arc::default(), "127.0.0.1:0".parse().unwrap()).await
    }

    async fn start_with(
        directory: Arc<tempfile::TempDir>,
        identity: Arc<ClusterIdentity>,
        control: Arc<FakeControl>,
        address: SocketAddr,
    ) -> Self {
        let serving = Arc::new(ServingCertificate::new(Arc::clone(&identity), &[]).unwrap());
        let now = Arc::clone(&control);
        let acceptor = Acceptor::new(server_config(&identity, serving).unwrap(), Arc::new(move || now.now()));
        let server = Server::new(Arc::clone(&identity), Arc::clone(&control) as Arc<dyn ControlPlane>);
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let link = server.clone();
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, from)) = listener.accept().await {
                let (acceptor, link) = (acceptor.clone(), link.clone());
                connections.spawn(async move {
                    if let Ok(accepted) = acceptor.accept(tcp, from).await {
                        link.serve(accepted.stream, accepted.peer, from).await;
                    }
                });
            }
        });
        Self {
            identity,
            control,
            server,
            address,
            listening: Some(AbortOnDropHandle::new(listening)),
            directory,
        }
    }

    /// Ends it as `kill -9` would.
    pub(super) fn kill(&mut self) {
        self.listening = None;
    }

    /// Starts it again at the same place with the same records.
    pub(super) async fn start_again(&mut self) {
        self.kill();
        // The port is free once the aborted task has dropped its listener.
        let started = async {
            while TcpStream::connect(self.address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, started).await.unwrap();
        let again = Self::start_with(
            Arc::clone(&self.directory),
            Arc::clone(&self.identity),
            Arc::clone(&self.control),
            self.address,
        );
        *self = again.await;
    }

    pub(super) fn token(&self, node: Option<&str>) -> Token {
        self.identity.mint_token(node, self.control.now() + 3600).unwrap()
    }

    pub(super) fn candidate(&self) -> Candidate {
        Candidate {
            cluster: CLUSTER.into(),
            pin: self.identity.pin(),
            protocol: 1,
            instance: "cp".into(),
            host: "cp.local".into(),
            addresses: vec![self.address.ip()],
            port: self.address.port(),
        }
    }

    /// A node that knows where the control plane is.
    pub(super) fn node(&self, name: &str, token: Option<Token>) -> RunningNode {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        RunningNode::start(name, directory, token, Some(self.address), vec![])
    }

    /// One join by hand.
    pub(super) async fn join(&self, token: &Token, node: &str, request: Vec<u8>) -> OpeningReply {
        let opening = Opening::Join(protocol::Join {
            token: token.to_string(),
            node: node.into(),
            request,
        });
        ask(self.address, &self.identity, None, &opening).await
    }

    pub(super) async fn refusal(&self, code: RefusalCode) -> Option<String> {
        let mut refusals = self.control.refusals.subscribe();
        let refusals = until(&mut refusals, |all| all.iter().any(|(_, found)| *found == code)).await;
        refusals.into_iter().find(|(_, found)| *found == code).unwrap().0
    }

    pub(super) async fn happened(&self, event: &str, times: usize) {
        let mut events = self.control.events.subscribe();
        until(&mut events, |all| {
            all.iter().filter(|one| *one == event).count() >= times
        })
        .await;
    }
}

/// Sends one opening and reads the reply.
pub(super) async fn ask(
    address: SocketAddr,
    identity: &ClusterIdentity,
    node: Option<&NodeIdentity>,
    opening: &Opening,
) -> OpeningReply {
    let mut stream = open(address, identity, node).await;
    protocol::write_frame(&mut stream, &protocol::encode_opening(opening).unwrap())
        .await
        .unwrap();
    protocol::decode(&protocol::read_frame(&mut stream, MAX_OPENING).await.unwrap()).unwrap()
}

pub(super) async fn open(
    address: SocketAddr,
    identity: &ClusterIdentity,
    node: Option<&NodeIdentity>,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let credentials = node.and_then(|node| node.credentials().unwrap());
    let config = client_config(identity.pin(), identity.cluster(), credentials).unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = crate::pki::name(identity.cluster()).unwrap();
    tokio_rustls::TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .unwrap()
}

/// A node's link, running.
pub(super) struct RunningNode {
    pub(super) handle: NodeHandle,
    pub(super) node: Arc<FakeNode>,
    pub(super) discovery: Arc<Fixed>,
    pub(super) directory: Arc<tempfile::TempDir>,
    shutdown: CancellationToken,
    running: AbortOnDropHandle<Result<(), crate::Error>>,
}

impl RunningNode {
    pub(super) fn start(
        name: &str,
        directory: Arc<tempfile::TempDir>,
        token: Option<Token>,
        server: Option<SocketAddr>,
        candidates: Vec<Candidate>,
    ) -> Self {
        let discovery = Arc::new(Fixed::new(candidates));
        let config = Config {
            node: name.into(),
            directory: directory.path().to_owned(),
            token,
            servers: server.map(|server| server.to_string()).into_iter().collect(),
            discovery: Arc::clone(&discovery) as Arc<dyn crate::discovery::Discovery>,
        };
        let node = Arc::new(FakeNode::default());
        let (link, handle) = NodeLink::new(config, Arc::clone(&node) as Arc<dyn Node>).unwrap();
        let shutdown = CancellationToken::new();
        let running = AbortOnDropHandle::new(tokio::spawn(link.run(shutdown.clone())));
        Self {
            handle,
            node,
            discovery,
            directory,
            shutdown,
            running,
        }
    }

    pub(super) async fn state(&self, wanted: impl Fn(&LinkState) -> bool) -> LinkState {
        until(&mut self.handle.state(), wanted).await
    }

    pub(super) async fn connected(&self) {
        self.state(LinkState::is_connected).await;
    }

    pub(super) async fn refused(&self, code: RefusalCode) -> String {
        let state = self.state(|state| matches!(state, LinkState::Refused { .. })).await;
        match state {
            LinkState::Refused { code: found, reason } if found == code => reason,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn synced(&self) -> Vec<String> {
        let state = until(&mut self.handle.feed(), |feed| feed.synced).await;
        state.items.keys().map(|key| key.2.clone()).collect()
    }

    /// Stops it in order, and returns its directory.
    pub(super) async fn stop(self) -> Arc<tempfile::TempDir> {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
        self.directory
    }

    pub(super) fn identity(&self) -> NodeIdentity {
        identity_in(self.directory.path())
    }
}

pub(super) fn identity_in(directory: &Path) -> NodeIdentity {
    crate::node::IdentityFile::within(directory).read().unwrap().unwrap()
}
