//! The one port: TLS, then ALPN says whether it is kubectl or a node.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::Request};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use minidc_apiserver::Identity;
use minidc_link::{
    pki::{self, Peer},
    protocol::ALPN,
    server::Server,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

/// A handshake that takes longer is hung up on.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes under way at once; further connections wait in the kernel's queue.
const HANDSHAKES: usize = 32;
/// Connections at once.
const CONNECTIONS: usize = 1024;

/// Accepts connections until told to stop.
pub(crate) struct Listener {
    /// The bound socket.
    pub(crate) socket: TcpListener,
    /// TLS of both protocols.
    pub(crate) tls: Arc<ServerConfig>,
    /// The Kubernetes API.
    pub(crate) api: Router,
    /// The nodes' protocol.
    pub(crate) link: Server,
}

impl Listener {
    /// Serves until `shutdown`, then waits a moment for requests under way.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let acceptor = TlsAcceptor::from(self.tls);
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // out of file descriptors, or a connection that went before it was accepted: both pass
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&connections).try_acquire_owned() else {
                tracing::warn!(%address, "too many connections: refused one");
                continue;
            };
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
                break;
            };
            let (acceptor, api, link) = (acceptor.clone(), self.api.clone(), self.link.clone());
            let shutdown = shutdown.clone();
            tasks.spawn(async move {
                let handshake = tokio::time::timeout(HANDSHAKE_LIMIT, handshake(acceptor, stream)).await;
                drop(permit);
                match handshake {
                    Ok(Ok((stream, peer))) if stream.get_ref().1.alpn_protocol() == Some(ALPN) => {
                        link.serve(stream, peer, address).await;
                    }
                    Ok(Ok((stream, peer))) => serve_api(stream, peer, api, address, shutdown).await,
                    Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake"),
                    Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
                }
                drop(place);
            });
        }
        tasks.close();
        // watches never end by themselves; what is left after this is cut
        let _ = tokio::time::timeout(Duration::from_secs(2), tasks.wait()).await;
        Ok(())
    }
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream) -> anyhow::Result<(TlsStream<TcpStream>, Peer)> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let peer = pki::peer(stream.get_ref().1, minidc_link::clock::system())?;
    Ok((stream, peer))
}

/// Speaks HTTP/1.1 or HTTP/2 with one client.
async fn serve_api(
    stream: TlsStream<TcpStream>,
    peer: Peer,
    api: Router,
    address: SocketAddr,
    shutdown: CancellationToken,
) {
    let identity = match peer {
        Peer::Client {
            common_name,
            organizations,
            expired: false,
            ..
        } => Some(Identity {
            user: common_name,
            groups: organizations,
        }),
        // an expired certificate proves nothing here
        _ => None,
    };
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        if let Some(identity) = &identity {
            request.extensions_mut().insert(identity.clone());
        }
        let mut api = api.clone();
        async move { api.call(request).await }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .max_concurrent_streams(256);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%address, %error, "connection");
                }
                return;
            }
            () = shutdown.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
