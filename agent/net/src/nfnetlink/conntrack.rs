//! Tracked connections: UDP ones are listed, and forgotten one by one.

use std::net::{Ipv4Addr, SocketAddrV4};

use nix::errno::Errno;

use super::{
    message::{self, Message},
    socket::Socket,
};

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const UDP: u8 = 17;
/// `CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY`, `CTA_ID`, `CTA_FILTER`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const IDENTITY: u16 = 12;
const FILTER: u16 = 25;
/// `CTA_FILTER_F_CTA_PROTO_NUM` of the kernel: compare the protocol. In the order of the machine.
const FILTER_PROTOCOL: u32 = 1 << 3;

/// A UDP conversation that the kernel remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// The first packet's source and destination, as sent.
    pub(crate) source: SocketAddrV4,
    pub(crate) destination: SocketAddrV4,
    /// An answer's source and destination: the endpoint that was chosen, and who it thinks asked.
    pub(crate) answers_from: SocketAddrV4,
    pub(crate) answers_to: SocketAddrV4,
    identity: [u8; 4],
}

impl Flow {
    #[cfg(test)]
    pub(crate) fn new(source: &str, destination: &str, answers_from: &str, answers_to: &str) -> Self {
        let parse = |text: &str| text.parse().expect("an address");
        Self {
            source: parse(source),
            destination: parse(destination),
            answers_from: parse(answers_from),
            answers_to: parse(answers_to),
            identity: [0; 4],
        }
    }

    fn read(message: &Message<'_>) -> Option<Self> {
        let (mut original, mut reply, mut identity) = (None, None, [0; 4]);
        for (kind, value) in message.attributes() {
            match kind {
                ORIGINAL => original = tuple(value),
                REPLY => reply = tuple(value),
                IDENTITY => identity = value.try_into().ok()?,
                _ => {}
            }
        }
        let ((source, destination), (answers_from, answers_to)) = (original?, reply?);
        Some(Self {
            source,
            destination,
            answers_from,
            answers_to,
            identity,
        })
    }
}

/// Source and destination of a UDP tuple.
fn tuple(value: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let addresses = message::find(value, 1)?;
    let protocol = message::find(value, 2)?;
    if message::find(protocol, 1)? != [UDP] {
        return None;
    }
    let end = |address: u16, port: u16| {
        let address: [u8; 4] = message::find(addresses, address)?.try_into().ok()?;
        let port: [u8; 2] = message::find(protocol, port)?.try_into().ok()?;
        Some(SocketAddrV4::new(Ipv4Addr::from(address), u16::from_be_bytes(port)))
    };
    Some((end(1, 2)?, end(2, 3)?))
}

/// All UDP flows that `wanted` picks. Costs by the number of tracked connections.
pub(crate) fn list(socket: &mut Socket, wanted: impl Fn(&Flow) -> bool) -> Result<Vec<Flow>, Errno> {
    let mut flows = Vec::new();
    socket.dump(
        GET,
        |request| {
            // Kernels before 5.8 take no notice of it and give all protocols.
            request.nested(FILTER, |filter| {
                filter.bytes(1, &FILTER_PROTOCOL.to_ne_bytes());
            });
            request.nested(ORIGINAL, |tuple| {
                tuple.nested(2, |protocol| protocol.bytes(1, &[UDP]));
            });
        },
        |message| flows.extend(Flow::read(message).filter(&wanted)),
    )?;
    Ok(flows)
}

/// Makes the kernel forget a flow: its next packet is a first one. One that is gone already is no error.
pub(crate) fn forget(socket: &mut Socket, flow: &Flow) -> Result<(), Errno> {
    let result = socket.request(
        DELETE,
        |request| {
            request.nested(ORIGINAL, |tuple| {
                tuple.nested(1, |addresses| {
                    addresses.bytes(1, &flow.source.ip().octets());
                    addresses.bytes(2, &flow.destination.ip().octets());
                });
                tuple.nested(2, |protocol| {
                    protocol.bytes(1, &[UDP]);
                    protocol.bytes(2, &flow.source.port().to_be_bytes());
                    protocol.bytes(3, &flow.destination.port().to_be_bytes());
                });
            });
            // Another flow may have come into its place.
            request.bytes(IDENTITY, &flow.identity);
        },
        |_| {},
    );
    match result {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}
