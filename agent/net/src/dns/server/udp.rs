//! Queries by UDP: threads of their own, each with a socket of its own at the same address, that take and send packets by
//! the batch. They sleep in the kernel while nothing comes, and allocate nothing while something does.

use std::{
    array,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr},
    ops::Range,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use nix::{
    errno::Errno,
    sys::socket::{
        self, AddressFamily, MsgFlags, MultiHeaders, Shutdown, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt,
    },
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{Misses, Shared, count, refuse};
use crate::dns::{
    answer::Outcome,
    message::{HEADER, Header, Rcode, Reader, UDP_SIZE},
    query::{Query, Received, Refusal, read},
};

/// Packets taken and sent at once.
const BATCH: usize = 32;
/// Longest query that is read: a question, cookies and padding are far shorter.
const LONGEST: usize = 2048;
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
        sockets: Vec<OwnedFd>,
        shared: &Arc<Shared>,
        misses: &mpsc::Sender<Misses>,
    ) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let sockets: Vec<_> = sockets.into_iter().map(Arc::new).collect();
        let mut threads = JoinSet::new();
        for (number, socket) in sockets.iter().enumerate() {
            let worker = Worker {
                socket: Arc::clone(socket),
                shared: Arc::clone(shared),
                misses: misses.clone(),
                stopping: Arc::clone(&stopping),
                turn: number,
            };
            let (sender, receiver) = tokio::sync::oneshot::channel();
            thread::Builder::new()
                .name(format!("dns-{number}"))
                .stack_size(STACK)
                .spawn(move || drop(sender.send(worker.run())))?;
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

struct Worker {
    socket: Arc<OwnedFd>,
    shared: Arc<Shared>,
    misses: mpsc::Sender<Misses>,
    stopping: Arc<AtomicBool>,
    turn: usize,
}

/// A packet that came in.
#[derive(Clone, Copy, Default)]
struct Packet {
    length: usize,
    whole: bool,
    from: Option<SockaddrStorage>,
}

/// Answers to a batch, one after another in one buffer.
struct Answers {
    bytes: Vec<u8>,
    count: usize,
    places: [Range<usize>; BATCH],
    to: [Option<SockaddrStorage>; BATCH],
}

impl Worker {
    fn run(mut self) -> io::Result<()> {
        let mut buffers = vec![[0_u8; LONGEST]; BATCH].into_boxed_slice();
        let buffers: &mut [[u8; LONGEST]; BATCH] = (&mut *buffers).try_into().map_err(io::Error::other)?;
        let mut incoming = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
        let mut outgoing = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
        let mut answers = Answers {
            bytes: Vec::with_capacity(BATCH * UDP_SIZE),
            count: 0,
            places: array::from_fn(|_| 0..0),
            to: [None; BATCH],
        };
        loop {
            let mut packets = [Packet::default(); BATCH];
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
            self.answer(buffers, &packets[..taken], &mut answers);
            self.send(&answers, &mut outgoing);
        }
    }

    /// Waits for packets; how many came.
    fn take(
        &self,
        buffers: &mut [[u8; LONGEST]; BATCH],
        headers: &mut MultiHeaders<SockaddrStorage>,
        packets: &mut [Packet; BATCH],
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

    fn answer(&mut self, buffers: &[[u8; LONGEST]; BATCH], packets: &[Packet], answers: &mut Answers) {
        answers.bytes.clear();
        answers.count = 0;
        let mut limited = 0;
        let now = self.shared.queries.now();
        let shared = Arc::clone(&self.shared);
        let tables = shared.tables();
        for (packet, buffer) in packets.iter().zip(buffers) {
            let Some((to, client)) = packet.from.and_then(|from| Some((from, ip(&from)?))) else {
                continue;
            };
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
            if answers.bytes.len() > start
                && let (Some(place), Some(address)) =
                    (answers.places.get_mut(answers.count), answers.to.get_mut(answers.count))
            {
                *place = start..answers.bytes.len();
                *address = Some(to);
                answers.count += 1;
            }
        }
        drop(tables);
        count(&shared.counters.udp, packets.len());
        count(&shared.counters.limited, limited);
    }

    /// Hands over a query that has to wait for others; a refusal if the client, or all together, ask too much.
    fn ask(&self, query: Query, client: IpAddr, to: SockaddrStorage, now: u64) -> Option<Refusal> {
        if !self.shared.asked.admits(client, now) {
            return Some(Refusal::of(&query, Rcode::REFUSED));
        }
        let miss = Misses {
            query,
            client,
            to,
            socket: Arc::clone(&self.socket),
        };
        let query = self.misses.try_send(miss).err()?.into_inner().query;
        Some(Refusal::of(&query, Rcode::SERVFAIL))
    }

    fn send(&self, answers: &Answers, headers: &mut MultiHeaders<SockaddrStorage>) {
        // places beyond the count are of an earlier batch
        let slices: [[IoSlice<'_>; 1]; BATCH] = array::from_fn(|index| {
            let answer = answers.bytes.get(answers.places[index].clone());
            [IoSlice::new(answer.unwrap_or_default())]
        });
        let mut sent = 0;
        while sent < answers.count {
            let result = socket::sendmmsg(
                self.socket.as_raw_fd(),
                headers,
                &slices[sent..answers.count],
                &answers.to[sent..answers.count],
                [],
                MsgFlags::MSG_DONTWAIT,
            );
            match result {
                Ok(results) => sent += results.count().max(1),
                Err(Errno::EINTR) => {}
                // one client that cannot be reached, or does not take its answers, keeps nobody waiting
                Err(_) => sent += 1,
            }
        }
    }
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    if let Some(address) = address.as_sockaddr_in() {
        return Some(address.ip().into());
    }
    address
        .as_sockaddr_in6()
        .map(|address| IpAddr::V6(address.ip()).to_canonical())
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
