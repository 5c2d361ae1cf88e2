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
        }
    }

    /// Moves what can be moved: frames out, frames in. `Err` when the inner stream is broken or the peer breaks the rules.
    fn advance(&mut self) -> io::Result<()> {
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
                    self.parse()?;
                }
            }
        }
        Ok(())
    }

    fn parse(&mut self) -> io::Result<()> {
        while self.incoming.len() >= HEADER {
            let kind = self.incoming[0];
            let number = usize::from(self.incoming[1]) << 16 | usize::from(self.incoming[2]) << 8 | usize::from(self.incoming[3]);
            if number == 0 && kind != END {
                return Err(broken("an empty frame"));
            }
            match kind {
                DATA => {
                    // The reader's buffer never holds more than one window, whatever the peer does.
                    if number > PIECE || self.ready.len() + number > STREAM_WINDOW {
                        return Err(broken("more bytes than the window allows"));
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
                    self.under_way =
                        self.under_way.checked_sub(number).ok_or_else(|| broken("credit for bytes that were not sent"))?;
                }
                END => {
                    self.ended_by_peer = true;
                    return Ok(());
                }
                _ => return Err(broken("a frame of no known kind")),
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

fn broken(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
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
        if this.outgoing.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
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
