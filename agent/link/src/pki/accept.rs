//! The TLS handshake of a connection that was just accepted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Peer, peer};
use crate::Error;
use crate::protocol::ALPN;

/// Handshakes that may run at once; one costs a Pi a few milliseconds of CPU and some 40 KB.
const HANDSHAKES: usize = 32;
/// A handshake that takes longer is given up.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Completes TLS with those who connect, a bounded number at a time.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    permits: Arc<Semaphore>,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// A connection after its handshake.
pub struct Accepted {
    /// The connection.
    pub stream: TlsStream<TcpStream>,
    /// Who is there.
    pub peer: Peer,
    /// What it wants to speak.
    pub application: Application,
}

/// What ALPN agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Application {
    /// The link: hand it to [`crate::server::Server::serve`].
    Link,
    /// HTTP/2.
    Http2,
    /// HTTP/1.1, also when the peer named nothing.
    Http1,
}

impl Acceptor {
    /// `clock` gives the control plane's time in Unix seconds, by which client certificates are judged.
    pub fn new(config: Arc<ServerConfig>, clock: Arc<dyn Fn() -> u64 + Send + Sync>) -> Self {
        Self {
            tls: TlsAcceptor::from(config),
            permits: Arc::new(Semaphore::new(HANDSHAKES)),
            clock,
        }
    }

    /// Completes the handshake; waits its turn when too many are under way. To be called in a task of its own. The error is
    /// for the log.
    pub async fn accept(&self, tcp: TcpStream, address: SocketAddr) -> Result<Accepted, Error> {
        let wrong = |reason: String| Error::Connect {
            attempt: "complete TLS with",
            peer: address.to_string(),
            reason,
        };
        let _permit = self.permits.acquire().await.map_err(|error| wrong(error.to_string()))?;
        tcp.set_nodelay(true).map_err(|error| wrong(error.to_string()))?;
        let stream = tokio::time::timeout(HANDSHAKE_TIME, self.tls.accept(tcp))
            .await
            .map_err(|_| wrong(format!("no handshake within {} s", HANDSHAKE_TIME.as_secs())))?
            .map_err(|error| wrong(reason(&error)))?;
        let connection = stream.get_ref().1;
        let application = match connection.alpn_protocol() {
            Some(ALPN) => Application::Link,
            Some(b"h2") => Application::Http2,
            _ => Application::Http1,
        };
        let peer = peer(connection, (self.clock)())?;
        Ok(Accepted {
            stream,
            peer,
            application,
        })
    }
}

fn reason(error: &std::io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(AlertDescription::UnknownCA)) => {
            "it does not trust this cluster's CA (a node or kubeconfig of another cluster?)".into()
        }
        Some(rustls::Error::InvalidCertificate(error)) => {
            format!("it shows a certificate that is not a client's of this cluster ({error:?})")
        }
        _ => error.to_string(),
    }
}
