//! A socket to the packet filter.
//!
//! The kernel works on a request while it is being sent, and has put its answer into the socket when sending returns: so
//! nothing here waits longer than the work itself takes.

use std::{
    future::poll_fn,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, sendto,
        setsockopt, socket, sockopt,
    },
};
use rtnetlink::sys::{AsyncSocket as _, SocketAddr, TokioSocket};

use super::{
    message::{self, DONE, DUMP, ERROR, Head, Message},
    table::{self, Batch},
};

/// `NETLINK_NETFILTER`.
const PROTOCOL: isize = 12;
/// `NFNLGRP_NFTABLES` as a bit: news of any change of any table.
const TABLES: u32 = 1 << (7 - 1);
/// More than the kernel puts into one datagram of a dump (32 KiB).
const RECEIVE: usize = 64 << 10;
/// Room for news while nobody reads, in bytes.
const NEWS_ROOM: u32 = 512 << 10;

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}")]
pub(crate) struct Refused {
    pub(crate) attempt: String,
    #[source]
    pub(crate) source: io::Error,
}

impl Refused {
    fn new(attempt: impl Into<String>, errno: Errno) -> Self {
        Self {
            attempt: attempt.into(),
            source: errno.into(),
        }
    }

    /// Whether the object that was asked for is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.source.raw_os_error() == Some(Errno::ENOENT as i32)
    }
}

/// A connection to nfnetlink for requests.
#[derive(Debug)]
pub(crate) struct Socket {
    socket: OwnedFd,
    sequence: u32,
    /// Send buffer asked for so far, in bytes.
    room: usize,
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            room: 0,
            buffer: vec![0; RECEIVE],
        })
    }

    /// By this number news tells whose change it was.
    pub(crate) fn port(&self) -> io::Result<u32> {
        Ok(getsockname::<NetlinkAddr>(self.socket.as_raw_fd())?.pid())
    }

    /// Applies a batch: all of it or nothing.
    pub(crate) fn apply(&mut self, batch: Batch) -> Result<(), Refused> {
        let (bytes, last) = batch.finish();
        let attempt = "change the table of the packet filter";
        self.make_room(bytes.len());
        self.send(&bytes).map_err(|errno| Refused::new(attempt, errno))?;
        let mut acknowledged = false;
        let mut refused = None;
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(Refused::new(attempt, errno)),
            };
            for answer in message::messages(&self.buffer[..length]).filter(|answer| answer.kind == ERROR) {
                match answer.code() {
                    0 => acknowledged |= answer.about() == Some(last),
                    // The first one is the cause, the others follow from it.
                    code if refused.is_none() => refused = Some((answer.about(), code)),
                    _ => {}
                }
            }
        }
        match refused {
            Some((about, code)) => {
                let what = message::messages(&bytes)
                    .find(|message| Some(message.sequence) == about && message.kind >> 8 == table::SUBSYSTEM)
                    .map_or_else(|| "its end".to_owned(), |message| table::describe(&message));
                Err(Refused::new(format!("{attempt}: {what}"), Errno::from_raw(code)))
            }
            None if acknowledged => Ok(()),
            None => Err(Refused::new(format!("{attempt}: no answer"), Errno::EIO)),
        }
    }

    /// Asks for all of something and hands over each message of the answer.
    pub(crate) fn dump(
        &mut self,
        kind: u16,
        fill: impl FnOnce(&mut message::Attributes<'_>),
        each: impl FnMut(&Message<'_>),
    ) -> Result<(), Errno> {
        self.ask(kind, DUMP, fill, each)
    }

    /// Asks for one thing or one change, and hands over what is answered before the acknowledgement.
    pub(crate) fn request(
        &mut self,
        kind: u16,
        fill: impl FnOnce(&mut message::Attributes<'_>),
        each: impl FnMut(&Message<'_>),
    ) -> Result<(), Errno> {
        self.ask(kind, message::ACK, fill, each)
    }

    /// A dump ends with `NLMSG_DONE`, everything else with `NLMSG_ERROR`, which is also the acknowledgement.
    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        fill: impl FnOnce(&mut message::Attributes<'_>),
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<(), Errno> {
        self.sequence += 1;
        let mut request = Vec::new();
        let head = Head {
            kind,
            flags,
            sequence: self.sequence,
            family: table::IPV4,
            resource: 0,
        };
        message::write(&mut request, head, fill);
        self.send(&request)?;
        loop {
            let length = self.receive()?;
            for answer in message::messages(&self.buffer[..length]) {
                match answer.kind {
                    _ if answer.sequence != self.sequence => {}
                    DONE | ERROR => return errno(answer.code()),
                    _ => each(&answer),
                }
            }
        }
    }

    /// A batch travels as one datagram, however long it is.
    fn make_room(&mut self, length: usize) {
        // The kernel doubles it; more than that is its own bookkeeping.
        let wanted = (length + 4096).max(self.room);
        if wanted > self.room {
            // Without the privilege to force it the ordinary limit holds, and sending says so.
            let forced = setsockopt(&self.socket, sockopt::SndBufForce, &wanted);
            if forced.is_ok() {
                self.room = wanted;
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> nix::Result<()> {
        loop {
            match sendto(
                self.socket.as_raw_fd(),
                bytes,
                &NetlinkAddr::new(0, 0),
                MsgFlags::empty(),
            ) {
                Err(Errno::EINTR) => {}
                result => return result.map(drop),
            }
        }
    }

    fn receive(&mut self) -> nix::Result<usize> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                result => return result,
            }
        }
    }
}

fn errno(code: i32) -> Result<(), Errno> {
    if code == 0 { Ok(()) } else { Err(Errno::from_raw(code)) }
}

/// News of changes of tables, whoever makes them.
pub(crate) struct News(TokioSocket);

impl News {
    /// Must be called within a tokio runtime.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(PROTOCOL)?;
        socket.socket_mut().bind(&SocketAddr::new(0, TABLES))?;
        // Less room only means that more must be looked up.
        let _ = socket.socket_mut().set_rx_buf_sz(NEWS_ROOM);
        Ok(Self(socket))
    }

    /// Waits until anybody but the owner of port `own` has changed this table, or may have: news that did not fit are lost.
    pub(crate) async fn foreign_change(&self, table: &str, own: u32) -> io::Result<()> {
        loop {
            let bytes = match poll_fn(|context| self.0.poll_recv_from_full(context)).await {
                Ok((bytes, _)) => bytes,
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => return Ok(()),
                Err(error) => return Err(error),
            };
            let foreign = message::messages(&bytes)
                .filter(|message| message.port != own && message.family() == table::IPV4)
                .any(|message| {
                    // Whatever the message, the table's name comes as attribute 1.
                    message
                        .attributes()
                        .any(|(kind, value)| kind == 1 && message::text(value) == table)
                });
            if foreign {
                return Ok(());
            }
        }
    }
}
