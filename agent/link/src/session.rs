//! One connection, many streams: drives yamux in one task, and notices silence.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use futures::future::poll_fn;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use tokio_util::sync::CancellationToken;

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
        Self {
            began: Instant::now(),
            milliseconds: Arc::default(),
        }
    }

    /// Begins the count anew.
    pub(crate) fn note(&self) {
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
        let io = Listening {
            io,
            heard: heard.clone(),
        };
        let (ask, requests) = mpsc::channel(8);
        let (inbound, accept) = mpsc::channel(STREAMS);
        let share = Share::default();
        let session = Self {
            connection: yamux::Connection::new(io.compat(), config, mode),
            requests,
            inbound,
        };
        let opener = Opener {
            requests: ask,
            share: share.clone(),
        };
        (
            session,
            Handles {
                opener,
                inbound: accept,
                share,
                heard,
            },
        )
    }

    /// Moves bytes until the connection ends or `stop` is told; returns why, for the log. What was written before `stop` still leaves.
    /// Dropping the future cuts the connection.
    pub(crate) async fn drive(mut self, stop: CancellationToken) -> String {
        let mut wanted: Option<oneshot::Sender<Stream>> = None;
        let mut stopped = Box::pin(stop.cancelled());
        let ended = poll_fn(|cx| {
            if stopped.as_mut().poll(cx).is_ready() {
                return Poll::Ready("closed by this side".to_owned());
            }
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
        drop(stopped);
        // Let the last frames (a refusal, say) leave, but not for long.
        let close = poll_fn(|cx| self.connection.poll_close(cx));
        let _ = tokio::time::timeout(Duration::from_millis(500), close).await;
        ended
    }
}

/// Frames that wait to be written on the control stream: urgent ones (heartbeats, acknowledgements) pass the others.
#[derive(Debug)]
pub(crate) struct Outbox<F> {
    urgent: mpsc::Sender<F>,
    normal: mpsc::Sender<F>,
    last: mpsc::Sender<F>,
}

impl<F> Clone for Outbox<F> {
    fn clone(&self) -> Self {
        Self {
            urgent: self.urgent.clone(),
            normal: self.normal.clone(),
            last: self.last.clone(),
        }
    }
}

impl<F> Outbox<F> {
    /// Waits for room.
    pub(crate) async fn send(&self, frame: F) -> Result<(), Error> {
        self.normal.send(frame).await.map_err(|_| Error::Offline)
    }

    /// Waits for room, and passes what waits in the other queue.
    pub(crate) async fn send_urgent(&self, frame: F) -> Result<(), Error> {
        self.urgent.send(frame).await.map_err(|_| Error::Offline)
    }

    /// The last frame: passes everything, and the stream is closed after it.
    pub(crate) fn finish(&self, frame: F) {
        // A second last frame has nothing to add.
        let _ = self.last.try_send(frame);
    }
}

/// The writing end of the control stream.
pub(crate) struct Writer<F> {
    urgent: mpsc::Receiver<F>,
    normal: mpsc::Receiver<F>,
    last: mpsc::Receiver<F>,
}

/// Queues for the control stream. Short: what waits in them cannot be passed by anything but urgent frames.
pub(crate) fn outbox<F>() -> (Outbox<F>, Writer<F>) {
    let (urgent, urgent_receiver) = mpsc::channel(16);
    let (normal, normal_receiver) = mpsc::channel(8);
    let (last, last_receiver) = mpsc::channel(1);
    (
        Outbox { urgent, normal, last },
        Writer {
            urgent: urgent_receiver,
            normal: normal_receiver,
            last: last_receiver,
        },
    )
}

impl<F: Serialize> Writer<F> {
    /// Writes frames until the last one, or until the stream breaks.
    pub(crate) async fn run(mut self, io: WriteHalf<Stream>) -> Result<(), Error> {
        let mut io = BufWriter::with_capacity(4096, io);
        loop {
            let frame = tokio::select! {
                biased;
                Some(frame) = self.last.recv() => {
                    put(&mut io, &frame, true).await?;
                    return io.shutdown().await.map_err(|error| Error::protocol("close the control stream", error));
                }
                Some(frame) = self.urgent.recv() => frame,
                Some(frame) = self.normal.recv() => frame,
                else => return Ok(()),
            };
            let idle = self.urgent.is_empty() && self.normal.is_empty();
            put(&mut io, &frame, idle).await?;
        }
    }
}

async fn put<F: Serialize, W: AsyncWrite + Unpin>(io: &mut W, frame: &F, flush: bool) -> Result<(), Error> {
    let bytes = protocol::encode(frame)?;
    let length = u32::try_from(bytes.len())
        .ok()
        .filter(|length| *length as usize <= protocol::MAX_FRAME)
        .ok_or_else(|| Error::protocol("write a frame", format_args!("{} bytes are too many", bytes.len())))?;
    let write = async {
        io.write_all(&length.to_be_bytes()).await?;
        io.write_all(&bytes).await?;
        if flush { io.flush().await } else { Ok(()) }
    };
    write.await.map_err(|error| Error::protocol("write a frame", error))
}

/// The reading end of the control stream.
pub(crate) struct Reader(FramedRead<ReadHalf<Stream>, LengthDelimitedCodec>);

impl Reader {
    pub(crate) fn new(io: ReadHalf<Stream>) -> Self {
        Self(FramedRead::new(io, protocol::codec(protocol::MAX_FRAME)))
    }

    /// The next frame. Cancel safe.
    pub(crate) async fn next<F: DeserializeOwned>(&mut self) -> Result<F, Error> {
        let bytes: BytesMut = match self.0.next().await {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => return Err(Error::protocol("read a frame", error)),
            None => {
                return Err(Error::protocol(
                    "read a frame",
                    "the other side closed the control stream",
                ));
            }
        };
        protocol::decode(&bytes)
    }
}
