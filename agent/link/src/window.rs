//! Small windows for bulk streams.
//!
//! yamux gives every stream 256 KiB to send before its peer has read anything, which is a quarter of a second on a bad
//! Wi-Fi, and a heartbeat would wait behind it. Bulk streams therefore count again: a sender has at most its share of
//! [`SESSION_WINDOW`] bytes under way, and the reader returns credit as the bytes are taken from it. With 128 KiB for all
//! bulk streams of one direction, a heartbeat waits some 130 ms on a link of 1 MB/s, and a LAN with 1 ms of round trip still carries
//! 64 MB/s per stream.
//!
//! On the stream: `[kind: u8][length or credit: u24 big endian]` and, for data, the bytes. A stream that ends without
//! `END` was cut, and its reader gets an error, so that half a log or image is never taken for a whole one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::{Buf, BytesMut};
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that all bulk streams of a session may have under way in one direction, as long as there are no more than
/// [`SESSION_WINDOW`] / [`SMALLEST_WINDOW`] of them.
pub const SESSION_WINDOW: usize = 128 * 1024;
/// Bytes that one stream may have under way.
pub const STREAM_WINDOW: usize = 64 * 1024;
/// Bytes that a stream may have under way at least, however many there are.
pub const SMALLEST_WINDOW: usize = 8 * 1024;
/// Longest piece in bytes: what a heartbeat may find half-sent before it.
const PIECE: usize = 8 * 1024;
/// Credit is returned in lots of at least so many bytes, or when the buffer is empty.
const CREDIT_LOT: usize = 4 * 1024;

const HEADER: usize = 4;
const DATA: u8 = 0;
const CREDIT: u8 = 1;
const END: u8 = 2;

/// How many bulk streams a session has: they share its window.
#[derive(Clone, Debug, Default)]
pub struct Share(Arc<AtomicUsize>);

impl Share {
    fn window(&self) -> usize {
        (SESSION_WINDOW / self.0.load(Ordering::Relaxed).max(1)).clamp(SMALLEST_WINDOW, STREAM_WINDOW)
    }
}

/// Wakes reader and writer: either may be the one that waits for what the inner stream does next.
#[derive(Default)]
struct Both {
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.reader.wake();
        self.writer.wake();
    }
}

/// A stream with a window of its own over `io`.
pub struct Windowed<T> {
    io: T,
    share: Share,
    both: Arc<Both>,
    waker: Waker,
    /// Bytes sent that the peer has not taken yet.
    under_way: usize,
    /// Frames to be written to `io`.
    outgoing: BytesMut,
    /// Bytes from `io`, not yet parsed.
    incoming: BytesMut,
    /// Data that the reader has not taken yet.
    ready: BytesMut,
    /// Bytes taken, for which credit is due.
    owed: usize,
    ended_by_peer: bool,
    cut: bool,
    ended: bool,
    /// The rule that the peer has broken.
    violation: Option<&'static str>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Windowed<T> {
    /// Both sides must wrap.
    pub fn new(io: T, share: Share) -> Self {
        share.0.fetch_add(1, Ordering::Relaxed);
        let both = Arc::new(Both::default());
        Self {
            io,
            share,
            waker: Waker::from(Arc::clone(&both)),
            both,
            under_way: 0,
            outgoing: BytesMut::new(),
            incoming: BytesMut::new(),
            ready: BytesMut::new(),
            owed: 0,
            ended_by_peer: false,
            cut: false,
            ended: false,
            violation: None,
        }
    }

    /// Moves what can be moved: frames out, frames in. `Err` when the inner stream is broken or the peer has broken the rules.
    fn advance(&mut self) -> io::Result<()> {
        if let Some(rule) = self.violation {
            return Err(io::Error::new(io::ErrorKind::InvalidData, rule));
        }
        let waker = self.waker.clone();
        let mut context = Context::from_waker(&waker);
        self.receive(&mut context)?;
        self.send(&mut context)
    }

    fn send(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            match Pin::new(&mut self.io).poll_write(context, &self.outgoing)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => self.outgoing.advance(written),
                Poll::Pending => return Ok(()),
            }
        }
        match Pin::new(&mut self.io).poll_flush(context) {
            Poll::Ready(Err(error)) => Err(error),
            _ => Ok(()),
        }
    }

    fn receive(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let mut piece = [0; 4096];
        while !self.ended_by_peer && !self.cut {
            let mut buffer = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.io).poll_read(context, &mut buffer)? {
                Poll::Pending => break,
                Poll::Ready(()) if buffer.filled().is_empty() => self.cut = true,
                Poll::Ready(()) => {
                    self.incoming.extend_from_slice(buffer.filled());
                    self.parse().map_err(|rule| {
                        self.violation = Some(rule);
                        io::Error::new(io::ErrorKind::InvalidData, rule)
                    })?;
                }
            }
        }
        Ok(())
    }

    fn parse(&mut self) -> Result<(), &'static str> {
        while self.incoming.len() >= HEADER {
            let kind = self.incoming[0];
            let number = usize::from(self.incoming[1]) << 16
                | usize::from(self.incoming[2]) << 8
                | usize::from(self.incoming[3]);
            if number == 0 && kind != END {
                return Err("an empty frame");
            }
            match kind {
                DATA => {
                    // The reader's buffer never holds more than one window, whatever the peer does.
                    if number > PIECE || self.ready.len() + number > STREAM_WINDOW {
                        return Err("more bytes than the window allows");
                    }
                    if self.incoming.len() < HEADER + number {
                        return Ok(());
                    }
                    self.incoming.advance(HEADER);
                    let data = self.incoming.split_to(number);
                    self.ready.extend_from_slice(&data);
                }
                CREDIT => {
                    self.incoming.advance(HEADER);
                    self.under_way = self
                        .under_way
                        .checked_sub(number)
                        .ok_or("credit for bytes that were not sent")?;
                }
                END => {
                    self.ended_by_peer = true;
                    return Ok(());
                }
                _ => return Err("a frame of no known kind"),
            }
        }
        Ok(())
    }

    fn put(&mut self, kind: u8, number: usize) {
        // All numbers are at most STREAM_WINDOW, far below 2^24.
        let bytes = u32::try_from(number).unwrap_or(0).to_be_bytes();
        self.outgoing.extend_from_slice(&[kind, bytes[1], bytes[2], bytes[3]]);
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Windowed<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.both.reader.register(cx.waker());
        let advanced = this.advance();
        if !this.ready.is_empty() {
            let taken = this.ready.len().min(buf.remaining());
            buf.put_slice(&this.ready.split_to(taken));
            this.owed += taken;
            if this.owed >= CREDIT_LOT || this.ready.is_empty() {
                let owed = std::mem::take(&mut this.owed);
                if !this.ended_by_peer && !this.cut && advanced.is_ok() {
                    this.put(CREDIT, owed);
                    // An error will be met again by the next call; these bytes are good.
                    let _ = this.advance();
                }
            }
            if this.ready.is_empty() {
                // Give the memory back: most streams are idle most of the time.
                this.ready = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        if this.ended_by_peer {
            return Poll::Ready(Ok(()));
        }
        advanced?;
        if this.cut {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream was cut")));
        }
        Poll::Pending
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Windowed<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.both.writer.register(cx.waker());
        this.advance()?;
        if this.cut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // One piece at a time in our buffer: what waits here cannot be overtaken, and costs memory.
        let room = this.share.window().saturating_sub(this.under_way);
        if room == 0 || !this.outgoing.is_empty() {
            return Poll::Pending;
        }
        let taken = buf.len().min(room).min(PIECE);
        this.put(DATA, taken);
        this.outgoing.extend_from_slice(&buf[..taken]);
        this.under_way += taken;
        this.advance()?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.both.writer.register(cx.waker());
        this.advance()?;
        if this.outgoing.is_empty() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            self.ended = true;
            self.put(END, 0);
        }
        // The inner stream stays open for the peer's data and our credits; it is closed when this is dropped.
        ready!(self.as_mut().poll_flush(cx))?;
        Poll::Ready(Ok(()))
    }
}

impl<T> Drop for Windowed<T> {
    fn drop(&mut self) {
        self.share.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn pair() -> (Windowed<DuplexStream>, Windowed<DuplexStream>) {
        let (near, far) = duplex(1 << 20);
        (
            Windowed::new(near, Share::default()),
            Windowed::new(far, Share::default()),
        )
    }

    #[tokio::test]
    async fn bytes_arrive_both_ways_at_once() {
        let (near, far) = pair();
        let sent: Vec<u8> = (0..1_000_003_u32).map(|number| number.to_le_bytes()[0]).collect();
        let side = |stream: Windowed<DuplexStream>, sent: Vec<u8>| async move {
            let (mut read, mut write) = tokio::io::split(stream);
            let writing = tokio::spawn(async move {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
                write
            });
            let mut received = Vec::new();
            read.read_to_end(&mut received).await.unwrap();
            writing.await.unwrap();
            received
        };
        let both = futures::future::join(side(near, sent.clone()), side(far, sent.clone()));
        let (one, other) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
        assert!(one == sent && other == sent);
    }

    #[tokio::test]
    async fn writer_stops_at_the_window_of_a_reader_that_does_not_read() {
        let (mut near, mut far) = pair();
        let mut written = 0;
        while let Ok(result) = tokio::time::timeout(Duration::from_millis(100), near.write(&[1; 5000])).await {
            written += result.unwrap();
        }
        assert_eq!(written, STREAM_WINDOW);
        far.read_exact(&mut vec![0; STREAM_WINDOW]).await.unwrap();
        assert!(near.write(&[1; 10]).await.is_ok());
    }

    #[tokio::test]
    async fn streams_of_a_session_share_its_window() {
        let share = Share::default();
        let ends: Vec<_> = (0..8).map(|_| duplex(1 << 20)).collect();
        let mut far = Vec::new();
        let mut near = Vec::new();
        for (one, other) in ends {
            near.push(Windowed::new(one, share.clone()));
            far.push(other);
        }
        let mut written = 0;
        for stream in &mut near {
            while let Ok(result) = tokio::time::timeout(Duration::from_millis(100), stream.write(&[1; 5000])).await {
                written += result.unwrap();
            }
        }
        assert_eq!(written, SESSION_WINDOW);
    }

    #[tokio::test]
    async fn cut_stream_is_not_taken_for_its_end() {
        let (mut near, mut far) = pair();
        near.write_all(b"half").await.unwrap();
        near.flush().await.unwrap();
        drop(near);
        let mut received = Vec::new();
        let error = far.read_to_end(&mut received).await.unwrap_err();
        assert_eq!(
            (error.kind(), received.as_slice()),
            (io::ErrorKind::UnexpectedEof, &b"half"[..])
        );
        assert!(far.write(b"x").await.is_err());
    }

    #[tokio::test]
    async fn ended_stream_still_receives() {
        let (mut near, mut far) = pair();
        near.shutdown().await.unwrap();
        assert!(near.write(b"x").await.is_err());
        assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
        far.write_all(b"answer").await.unwrap();
        far.shutdown().await.unwrap();
        let mut received = Vec::new();
        near.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"answer");
    }

    #[tokio::test]
    async fn peer_that_breaks_the_rules_is_an_error() {
        for bytes in [
            &[DATA, 0xff, 0xff, 0xff][..],
            &[DATA, 0, 0, 0],
            &[CREDIT, 0, 0, 1],
            &[CREDIT, 0, 0, 0],
            &[9, 0, 0, 1],
        ] {
            let (mut raw, far) = duplex(1 << 16);
            let mut far = Windowed::new(far, Share::default());
            raw.write_all(bytes).await.unwrap();
            let error = far.read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        let (mut raw, far) = duplex(1 << 20);
        let mut far = Windowed::new(far, Share::default());
        for _ in 0..=STREAM_WINDOW / 4096 {
            raw.write_all(&[DATA, 0, 0x10, 0]).await.unwrap();
            raw.write_all(&[0; 4096]).await.unwrap();
        }
        let mut received = Vec::new();
        assert!(far.read_to_end(&mut received).await.is_err());
        assert!(received.len() <= STREAM_WINDOW);
    }
}
