//! Queries by UDP: threads of their own, each with a socket of its own at the same address, that take and send packets by
//! the batch. They sleep in the kernel while nothing comes, and allocate nothing while something does.

use std::{
    io::{self, IoSliceMut},
    marker::PhantomData,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::prctl::set_timerslack,
    sys::socket::{
        self, AddressFamily, MsgFlags, MultiHeaders, Shutdown, SockFlag, SockType, SockaddrIn, SockaddrIn6,
        SockaddrStorage, setsockopt, sockopt,
    },
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Miss, Shared,
    batch::{Answers, BATCH, Peer, Sender},
    count, refuse,
};
use crate::dns::{
    answer::Outcome,
    message::{HEADER, Header, Rcode, Reader},
    query::{Query, Received, Refusal, read},
};

/// Longest query that is read: a question, cookies and padding are far shorter.
const LONGEST: usize = 1024;
/// Bytes of a worker's stack: the deepest call holds some names of 256 bytes.
const STACK: usize = 256 << 10;
/// Bytes the kernel may keep of queries that wait: so that a burst from all pods finds room (a packet takes about 1 KiB).
const WAITING: usize = 1 << 20;

/// Binds a socket of one worker. The address need not be there yet.
pub(in crate::dns) fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket::socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    // more than the system's limit is cut down to it
    setsockopt(&socket, sockopt::RcvBuf, &WAITING)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// All workers.
pub(in crate::dns) struct Workers {
    sockets: Vec<Arc<OwnedFd>>,
    stopping: Arc<AtomicBool>,
    threads: JoinSet<io::Result<()>>,
}

impl Workers {
    /// Starts a worker for each socket.
    pub(in crate::dns) fn start(
        address: SocketAddr,
        sockets: Vec<OwnedFd>,
        shared: &Arc<Shared>,
        misses: &mpsc::Sender<Miss>,
    ) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let sockets: Vec<_> = sockets.into_iter().map(Arc::new).collect();
        let mut threads = JoinSet::new();
        for (number, socket) in sockets.iter().enumerate() {
            let worker = Worker::<SockaddrIn> {
                socket: Arc::clone(socket),
                shared: Arc::clone(shared),
                misses: misses.clone(),
                stopping: Arc::clone(&stopping),
                turn: number,
                family: PhantomData,
            };
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let thread = thread::Builder::new().name(format!("dns-{number}")).stack_size(STACK);
            // either way the thread tells how it ended, and drops the sender if it panics
            if address.is_ipv4() {
                thread.spawn(move || drop(sender.send(worker.run())))?;
            } else {
                thread.spawn(move || drop(sender.send(worker.with_family::<SockaddrIn6>().run())))?;
            }
            threads.spawn(async move { receiver.await.unwrap_or_else(|_| Err(io::Error::other("it panicked"))) });
        }
        Ok(Self {
            sockets,
            stopping,
            threads,
        })
    }

    /// Waits until a worker ends, which it only does when it cannot go on.
    pub(in crate::dns) async fn failed(&mut self) -> io::Error {
        match self.threads.join_next().await {
            Some(Ok(Err(error))) => error,
            _ => io::Error::other("it ended"),
        }
    }

    /// Ends all workers and waits for that.
    pub(in crate::dns) async fn stop(mut self) {
        self.halt();
        while self.threads.join_next().await.is_some() {}
    }

    fn halt(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        for socket in &self.sockets {
            // ENOTCONN, and yet Linux wakes whoever waits at the socket (inet_shutdown)
            let _ = socket::shutdown(socket.as_raw_fd(), Shutdown::Both);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.halt();
    }
}

struct Worker<P> {
    socket: Arc<OwnedFd>,
    shared: Arc<Shared>,
    misses: mpsc::Sender<Miss>,
    stopping: Arc<AtomicBool>,
    turn: usize,
    /// Of which family the clients are.
    family: PhantomData<P>,
}

/// A packet that came in.
#[derive(Clone, Copy)]
struct Packet<P> {
    length: usize,
    whole: bool,
    from: Option<P>,
}

impl<P: Peer> Worker<P> {
    /// The same for clients of another family.
    fn with_family<Q: Peer>(self) -> Worker<Q> {
        Worker {
            socket: self.socket,
            shared: self.shared,
            misses: self.misses,
            stopping: self.stopping,
            turn: self.turn,
            family: PhantomData,
        }
    }

    fn run(mut self) -> io::Result<()> {
        let mut buffers = vec![[0_u8; LONGEST]; BATCH].into_boxed_slice();
        let buffers: &mut [[u8; LONGEST]; BATCH] = (&mut *buffers).try_into().map_err(io::Error::other)?;
        let mut incoming = MultiHeaders::<P>::preallocate(BATCH, None);
        let mut sender = Sender::new();
        let mut answers = Answers::new();
        let mut pace = Pace::default();
        // so that a pause is as long as it is meant to be; without it pauses are longer
        let _ = set_timerslack(1);
        let none = Packet {
            length: 0,
            whole: true,
            from: None,
        };
        let mut packets = [none; BATCH];
        loop {
            let taken = self.take(buffers, &mut incoming, &mut packets);
            if self.stopping.load(Ordering::Relaxed) {
                return Ok(());
            }
            let taken = match taken {
                Ok(taken) => taken,
                // an error of a packet that was sent before, told late
                Err(Errno::EINTR | Errno::EAGAIN | Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => {
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let now = self.shared.queries.now();
            self.answer(buffers, &packets[..taken], now, &mut answers);
            sender.send(self.socket.as_raw_fd(), &answers);
            if let Some(pause) = pace.pause(taken, now) {
                thread::sleep(pause);
            }
        }
    }

    /// Waits for packets; how many came.
    fn take(
        &self,
        buffers: &mut [[u8; LONGEST]; BATCH],
        headers: &mut MultiHeaders<P>,
        packets: &mut [Packet<P>; BATCH],
    ) -> nix::Result<usize> {
        let mut slices = buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let flags = MsgFlags::MSG_WAITFORONE;
        let messages = socket::recvmmsg(self.socket.as_raw_fd(), headers, slices.iter_mut(), flags, None)?;
        let mut taken = 0;
        for (message, packet) in messages.zip(packets) {
            *packet = Packet {
                length: message.bytes,
                whole: !message.flags.contains(MsgFlags::MSG_TRUNC),
                from: message.address,
            };
            taken += 1;
        }
        Ok(taken)
    }

    fn answer(&mut self, buffers: &[[u8; LONGEST]; BATCH], packets: &[Packet<P>], now: u64, answers: &mut Answers<P>) {
        answers.clear();
        let mut limited = 0;
        let shared = Arc::clone(&self.shared);
        let tables = shared.tables();
        for (packet, buffer) in packets.iter().zip(buffers) {
            let Some(from) = packet.from else { continue };
            let to = from.address();
            let client = to.ip().to_canonical();
            if !shared.queries.admits(client, now) {
                // silence: an answer would cost what the limit is to save
                limited += 1;
                continue;
            }
            let start = answers.bytes.len();
            let message = &buffer[..packet.length.min(LONGEST)];
            let received = if packet.whole { read(message) } else { too_long(message) };
            match received {
                Received::Nothing => continue,
                Received::Refused(refusal) => refuse(&refusal, &mut answers.bytes),
                Received::Query(query) => {
                    self.turn = self.turn.wrapping_add(1);
                    let limit = query.udp_limit();
                    let outcome = shared.answer(&tables, &query, client, limit, self.turn, &mut answers.bytes);
                    if let Outcome::Ask(_) = outcome
                        && let Some(refusal) = self.ask(query, client, to, now)
                    {
                        limited += 1;
                        refuse(&refusal, &mut answers.bytes);
                    }
                }
            }
            if answers.bytes.len() > start {
                answers.end(start, from);
            }
        }
        drop(tables);
        count(&shared.counters.udp, packets.len());
        count(&shared.counters.limited, limited);
    }

    /// Hands over a query that has to wait for others; a refusal if the client, or all together, ask too much.
    fn ask(&self, query: Query, client: IpAddr, to: SocketAddr, now: u64) -> Option<Refusal> {
        if !self.shared.asked.admits(client, now) {
            return Some(Refusal::of(&query, Rcode::REFUSED));
        }
        let miss = Miss {
            query,
            client,
            to,
            socket: Arc::clone(&self.socket),
        };
        let query = self.misses.try_send(miss).err()?.into_inner().query;
        Some(Refusal::of(&query, Rcode::SERVFAIL))
    }
}

/// Lets queries gather while many come: to wake up for each costs more than to answer it. As network cards do (interrupt
/// moderation), and with the same price: some microseconds of delay, and only then.
#[derive(Default)]
struct Pace {
    since: u64,
    packets: u64,
    pause: Option<Duration>,
}

impl Pace {
    /// Queries per second from which on they gather.
    const MANY: u64 = 20_000;
    /// Nanoseconds over which they are counted.
    const WINDOW: u64 = 1_000_000;
    /// So many may gather, as long as that takes no longer than the longest pause.
    const GATHER: u64 = 12;
    /// Nanoseconds.
    const LONGEST: u64 = 100_000;

    /// How long to wait after a batch of so many that came at `now`, in nanoseconds.
    fn pause(&mut self, taken: usize, now: u64) -> Option<Duration> {
        self.packets += taken as u64;
        let elapsed = now.saturating_sub(self.since);
        if elapsed >= Self::WINDOW {
            let each = elapsed / self.packets.max(1);
            let many = each < 1_000_000_000 / Self::MANY;
            self.pause = many.then(|| Duration::from_nanos((each * Self::GATHER).min(Self::LONGEST)));
            self.since = now;
            self.packets = 0;
        }
        // half a batch and more: others wait already
        self.pause.filter(|_| taken < BATCH / 2)
    }
}

/// A query that is longer than we read.
fn too_long(message: &[u8]) -> Received {
    let header = message
        .get(..HEADER)
        .and_then(|header| Reader::new(header).header().ok());
    match header {
        Some(Header { id, flags, .. }) if !flags.has(crate::dns::message::Flags::RESPONSE) => {
            Received::Refused(Refusal {
                id,
                flags,
                rcode: Rcode::FORMERR,
                question: None,
                edns: false,
            })
        }
        _ => Received::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_gather_only_while_many_come() {
        const SECOND: u64 = 1_000_000_000;
        let mut pace = Pace::default();
        let after = |pace: &mut Pace, per_second: u64, batch: usize| {
            let mut pause = None;
            // three windows from a fresh start
            let start = pace.since + SECOND;
            for number in 0..per_second / 300 {
                let now = start + number * batch as u64 * SECOND / per_second;
                pause = pace.pause(batch, now);
            }
            pause
        };
        assert_eq!(after(&mut pace, 10_000, 1), None);
        assert!(after(&mut pace, 100_000, 1).is_some_and(|pause| pause <= Duration::from_micros(120)));
        assert_eq!(
            after(&mut pace, 100_000, BATCH),
            None,
            "those that wait already are taken at once"
        );
        assert_eq!(after(&mut pace, 1_000, 1), None);
    }
}
