//! What rules are made of. Each packet runs through the expressions of a rule from left to right; one that does not match
//! ends the rule.

use std::net::Ipv4Addr;

use super::message::{self, Attributes};

/// A register of the packet filter: sixteen words of four bytes. Register `n` here is word `n`.
///
/// Written as nft writes it: as one of the four registers of sixteen bytes where it begins one (`NFT_REG_1`…), else as a
/// word (`NFT_REG32_00` + n).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register(pub(crate) u8);

impl Register {
    fn number(self) -> u32 {
        let word = u32::from(self.0);
        if word.is_multiple_of(4) { 1 + word / 4 } else { 8 + word }
    }
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Drop,
    Jump(String),
    Goto(String),
}

/// `NFT_META_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meta {
    Priority = 2,
    Mark = 3,
    OutName = 7,
    Protocol = 16,
}

/// `NFT_CT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracked {
    State = 0,
    Status = 2,
    /// Port that the first packet was for, before translation.
    OriginalPort = 12,
    /// Source of the first packet, before translation.
    OriginalSource = 19,
    /// Destination of the first packet, before translation.
    OriginalDestination = 20,
}

/// Which header a payload is counted from; `NFT_PAYLOAD_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Network = 1,
    Transport = 2,
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    TcpReset,
    PortUnreachable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    /// Bytes of a header into a register.
    Payload {
        base: Base,
        offset: u32,
        length: u32,
        to: Register,
    },
    /// Something about the packet into a register.
    LoadMeta {
        key: Meta,
        to: Register,
    },
    /// Something about the packet from a register.
    SetMeta {
        key: Meta,
        from: Register,
    },
    /// A constant into a register.
    Constant {
        value: [u8; 4],
        to: Register,
    },
    /// Something about the connection into a register.
    Tracked {
        key: Tracked,
        to: Register,
    },
    /// What the packet's destination (or source) is to this node: `RTN_LOCAL` and so on.
    AddressType {
        source: bool,
        to: Register,
    },
    /// Goes on only if the register is (or is not) the value.
    Compare {
        from: Register,
        equal: bool,
        value: Vec<u8>,
    },
    /// `register = (register & mask) ^ flip`.
    Bits {
        register: Register,
        mask: [u8; 4],
        flip: [u8; 4],
    },
    /// Goes on only if the set holds the key; of a map, the value into a register, or acted on if it is a verdict.
    Lookup {
        set: &'static str,
        from: Register,
        to: Option<Register>,
        verdict: bool,
    },
    /// A number from `offset` to `offset + modulus - 1`: a random one, or for modulus 1 always `offset`.
    Number {
        modulus: u32,
        offset: u32,
        to: Register,
    },
    /// Adds key and value to a map, or only prolongs the key if it is there. Goes on unless the map is full.
    Remember {
        map: &'static str,
        key: Register,
        value: Register,
        seconds: u32,
    },
    /// New destination: the address in `address`, the port in `port`.
    Destination {
        address: Register,
        port: Register,
    },
    /// New source: the address of the interface it leaves by, any free port.
    Masquerade,
    Refuse(Refusal),
    /// Not to be tracked.
    NoTrack,
    Go(Verdict),
}

/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`: two connections at once do not race for a port.
const RANDOM_FULLY: u32 = 1 << 4;

impl Expression {
    /// The kernel's name of it; a kernel may lack it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Payload { .. } => "payload",
            Self::LoadMeta { .. } | Self::SetMeta { .. } => "meta",
            Self::Tracked { .. } => "ct",
            Self::AddressType { .. } => "fib",
            Self::Compare { .. } => "cmp",
            Self::Bits { .. } => "bitwise",
            Self::Lookup { .. } => "lookup",
            Self::Number { .. } => "numgen",
            Self::Remember { .. } => "dynset",
            Self::Destination { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Refuse(_) => "reject",
            Self::NoTrack => "notrack",
            Self::Constant { .. } | Self::Go(_) => "immediate",
        }
    }

    /// Writes it as one element of a list.
    pub(crate) fn write(&self, list: &mut Attributes<'_>) {
        list.nested(1, |expression| {
            expression.text(1, self.name());
            expression.nested(2, |data| self.data(data));
        });
    }

    fn data(&self, data: &mut Attributes<'_>) {
        match self {
            Self::Payload {
                base,
                offset,
                length,
                to,
            } => {
                data.u32(1, to.number());
                data.u32(2, *base as u32);
                data.u32(3, *offset);
                data.u32(4, *length);
            }
            Self::LoadMeta { key, to } => {
                data.u32(1, to.number());
                data.u32(2, *key as u32);
            }
            Self::SetMeta { key, from } => {
                data.u32(2, *key as u32);
                data.u32(3, from.number());
            }
            Self::Constant { value, to } => {
                data.u32(1, to.number());
                data.nested(2, |inner| inner.bytes(1, value));
            }
            Self::Tracked { key, to } => {
                data.u32(1, to.number());
                data.u32(2, *key as u32);
                match key {
                    Tracked::State | Tracked::Status => {}
                    Tracked::OriginalPort | Tracked::OriginalSource | Tracked::OriginalDestination => {
                        data.bytes(3, &[0]);
                    }
                }
            }
            Self::AddressType { source, to } => {
                data.u32(1, to.number());
                data.u32(2, 3);
                data.u32(3, if *source { 1 } else { 2 });
            }
            Self::Compare { from, equal, value } => {
                data.u32(1, from.number());
                data.u32(2, u32::from(!*equal));
                data.nested(3, |inner| inner.bytes(1, value));
            }
            Self::Bits { register, mask, flip } => {
                data.u32(1, register.number());
                data.u32(2, register.number());
                data.u32(3, 4);
                data.nested(4, |inner| inner.bytes(1, mask));
                data.nested(5, |inner| inner.bytes(1, flip));
            }
            Self::Lookup { set, from, to, verdict } => {
                data.text(1, set);
                data.u32(2, from.number());
                if *verdict {
                    data.u32(3, 0);
                } else if let Some(to) = to {
                    data.u32(3, to.number());
                }
            }
            Self::Number { modulus, offset, to } => {
                data.u32(1, to.number());
                data.u32(2, *modulus);
                data.u32(3, u32::from(*modulus > 1));
                data.u32(4, *offset);
            }
            Self::Remember {
                map,
                key,
                value,
                seconds,
            } => {
                data.text(1, map);
                data.u32(3, 1);
                data.u32(4, key.number());
                data.u32(5, value.number());
                data.u64(6, u64::from(*seconds) * 1000);
            }
            Self::Destination { address, port } => {
                data.u32(1, 1);
                data.u32(2, 2);
                data.u32(3, address.number());
                data.u32(5, port.number());
            }
            Self::Masquerade => data.u32(1, RANDOM_FULLY),
            Self::Refuse(refusal) => {
                let (kind, code) = match refusal {
                    Refusal::TcpReset => (1, 0),
                    Refusal::PortUnreachable => (0, 3),
                };
                data.u32(1, kind);
                data.bytes(2, &[code]);
            }
            Self::NoTrack => {}
            Self::Go(verdict) => {
                data.u32(1, 0);
                data.nested(2, |inner| verdict.write(inner));
            }
        }
    }
}

impl Verdict {
    /// From the value of an element; only those that are written here are known.
    pub(crate) fn read(value: &[u8]) -> Option<Self> {
        let code = u32::from_be_bytes(message::find(value, 1)?.try_into().ok()?);
        let chain = message::find(value, 2).map(|chain| message::text(chain).to_owned());
        match (code.cast_signed(), chain) {
            (0, _) => Some(Self::Drop),
            (-3, Some(chain)) => Some(Self::Jump(chain)),
            (-4, Some(chain)) => Some(Self::Goto(chain)),
            _ => None,
        }
    }

    /// As the value of an element or of an immediate.
    pub(crate) fn write(&self, data: &mut Attributes<'_>) {
        data.nested(2, |verdict| {
            let (code, chain) = match self {
                Self::Drop => (0, None),
                Self::Jump(chain) => (-3_i32, Some(chain)),
                Self::Goto(chain) => (-4, Some(chain)),
            };
            verdict.u32(1, code.cast_unsigned());
            if let Some(chain) = chain {
                verdict.text(2, chain);
            }
        });
    }
}

/// The source or destination address of an IPv4 header into a register.
pub(crate) fn address(source: bool, to: Register) -> Expression {
    Expression::Payload {
        base: Base::Network,
        offset: if source { 12 } else { 16 },
        length: 4,
        to,
    }
}

/// The source or destination port of TCP or UDP into a register.
pub(crate) fn port(source: bool, to: Register) -> Expression {
    Expression::Payload {
        base: Base::Transport,
        offset: if source { 0 } else { 2 },
        length: 2,
        to,
    }
}

/// Goes on only if the address in the register lies (or does not lie) in the range.
pub(crate) fn within(from: Register, network: Ipv4Addr, prefix: u8, inside: bool) -> Vec<Expression> {
    let mut expressions = Vec::new();
    if prefix < 32 {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        expressions.push(Expression::Bits {
            register: from,
            mask: mask.to_be_bytes(),
            flip: [0; 4],
        });
    }
    expressions.push(Expression::Compare {
        from,
        equal: inside,
        value: network.octets().to_vec(),
    });
    expressions
}
