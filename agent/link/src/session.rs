//! One connection, many streams: drives yamux in one task, and notices silence.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use crate::Error;
use crate::protocol::{self, StreamOpen};
use crate::window::{Share, Windowed};

/// A side that has heard nothing for so long hangs up; heartbeats and their acknowledgements come each second.
pub const SILENCE: Duration = Duration::from_secs(3);
/// Time between heartbeats.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Streams that may be open at once on one session. Each may hold up to 256 KiB that its reader has not taken, though only the
/// control stream does; bulk streams have their own windows.
const STREAMS: usize = 128;
/// The credit that yamux gives each stream (its `DEFAULT_CREDIT`): with no more than this for all of them, windows never grow.
const YAMUX_CREDIT: usize = 256 * 1024;
/// Longest piece that yamux sends of one stream before it looks at the others.
const PIECE: usize = 8 * 1024;

/// A stream of a session.
pub(crate) type Stream = Compat<yamux::Stream>;

/// Which side of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Node,
    Server,
}

/// When something was last heard. Counts bytes of any kind, so that a big frame that takes its time is not silence.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    began: Instant,
    milliseconds: Arc<AtomicU64>,
}

impl Heard {
    fn new() -> Self {
        Self { began: Instant::now(), milliseconds: Arc::default() }
    }

    fn note(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.milliseconds.store(now, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.milliseconds.load(Ordering::Relaxed))
    }

    /// Completes once nothing was heard for [`SILENCE`].
    pub(crate) async fn silence(&self) {
        loop {
            let deadline = self.last() + SILENCE;
            if Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

struct Listening<T> {
    io: T,
    heard: Heard,
}

impl<T: AsyncRead + Unpin> AsyncRead for Listening<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.note();
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Listening<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Opens streams on a session; cheap to clone. All fail once the session is over.
#[derive(Clone, Debug)]
pub(crate) struct Opener {
    requests: mpsc::Sender<oneshot::Sender<Stream>>,
    share: Share,
}

impl Opener {
    pub(crate) async fn stream(&self) -> Result<Stream, Error> {
        let (reply, stream) = oneshot::channel();
        self.requests.send(reply).await.map_err(|_| Error::Offline)?;
        stream.await.map_err(|_| Error::Offline)
    }

    /// A bulk stream with its first frame sent.
    pub(crate) async fn bulk(&self, open: &StreamOpen) -> Result<Windowed<Stream>, Error> {
        let mut stream = Windowed::new(self.stream().await?, self.share.clone());
        protocol::write_frame(&mut stream, &protocol::encode(open)?).await?;
        Ok(stream)
    }
}

/// A session's ends for its owner: the driver runs until the connection ends.
pub(crate) struct Session<T> {
    connection: yamux::Connection<Compat<Listening<T>>>,
    requests: mpsc::Receiver<oneshot::Sender<Stream>>,
    inbound: mpsc::Sender<Stream>,
}

/// What the owner of a session works with.
pub(crate) struct Handles {
    pub(crate) opener: Opener,
    /// Streams that the other side opened.
    pub(crate) inbound: mpsc::Receiver<Stream>,
    pub(crate) share: Share,
    pub(crate) heard: Heard,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Session<T> {
    pub(crate) fn new(io: T, side: Side) -> (Self, Handles) {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(STREAMS);
        config.set_max_connection_receive_window(Some(STREAMS * YAMUX_CREDIT));
        config.set_split_send_size(PIECE);
        let mode = match side {
            Side::Node => yamux::Mode::Client,
            Side::Server => yamux::Mode::Server,
        };
        let heard = Heard::new();
        let io = Listening { io, heard: heard.clone() };
        let (ask, requests) = mpsc::channel(8);
        let (inbound, accept) = mpsc::channel(STREAMS);
        let share = Share::default();
        let session = Self { connection: yamux::Connection::new(io.compat(), config, mode), requests, inbound };
        let opener = Opener { requests: ask, share: share.clone() };
        (session, Handles { opener, inbound: accept, share, heard })
    }

    /// Moves bytes until the connection ends; returns why, for the log. Dropping the future cuts the connection.
    pub(crate) async fn drive(mut self) -> String {
        let mut wanted: Option<oneshot::Sender<Stream>> = None;
        let ended = poll_fn(|cx| {
            // Every turn polls the connection last, so that what a new stream queued is seen.
            loop {
                if wanted.is_none()
                    && let Poll::Ready(Some(reply)) = self.requests.poll_recv(cx)
                {
                    wanted = Some(reply);
                }
                let mut again = false;
                if let Some(reply) = wanted.take() {
                    match self.connection.poll_new_outbound(cx) {
                        Poll::Ready(Ok(stream)) => {
                            // Whoever asked may have gone: the stream is then dropped, which closes it.
                            let _ = reply.send(stream.compat());
                            again = true;
                        }
                        Poll::Ready(Err(yamux::ConnectionError::TooManyStreams)) => {
                            drop(reply);
                            again = true;
                        }
                        Poll::Ready(Err(error)) => return Poll::Ready(error.to_string()),
                        Poll::Pending => wanted = Some(reply),
                    }
                }
                match self.connection.poll_next_inbound(cx) {
                    Poll::Ready(Some(Ok(stream))) => {
                        // The queue holds as many as there can be; a full one means that the owner is stuck.
                        if self.inbound.try_send(stream.compat()).is_err() {
                            tracing::debug!("dropped a stream that nobody takes");
                        }
                        again = true;
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(error.to_string()),
                    Poll::Ready(None) => return Poll::Ready("the other side closed the connection".to_owned()),
                    Poll::Pending => {}
                }
                if !again {
                    return Poll::Pending;
                }
            }
        })
        .await;
        // Let the last frames (a refusal, say) leave, but not for long.
        let close = poll_fn(|cx| self.connection.poll_close(cx));
        let _ = tokio::time::timeout(Duration::from_millis(500), close).await;
        ended
    }
}
