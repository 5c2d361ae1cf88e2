//! How a look-up went, beside the records that it wrote.

use std::net::IpAddr;

use super::{
    message::Rcode,
    name::{LONGEST_NAME, Name},
};

/// What the header has to say of records that were written.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// How it went.
    pub(crate) rcode: Rcode,
    /// The name asked for is in a zone of ours.
    pub(crate) authoritative: bool,
    /// Records of the answer did not fit.
    pub(crate) truncated: bool,
    /// The last alias that was written leads to this name, which is in no user zone. None: the answer is whole.
    pub(crate) alias: Option<Box<Name>>,
    /// The zone says that other servers know: a referral to them was written, without an answer.
    pub(crate) delegation: Option<Box<Delegation>>,
}

/// Servers of a zone below one of ours.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delegation {
    /// Those whose addresses our zone knows.
    pub(crate) addresses: Vec<IpAddr>,
    /// Those whose addresses must be looked up.
    pub(crate) servers: Vec<Name>,
}

impl Reply {
    /// An answer, with records or without, from who is `authoritative` for the name.
    pub(crate) const fn new(rcode: Rcode, authoritative: bool) -> Self {
        Self {
            rcode,
            authoritative,
            truncated: false,
            alias: None,
            delegation: None,
        }
    }
}

/// The name on the wire, then without its first label, and so on to the root.
pub(crate) fn suffixes(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut next = Some(wire);
    std::iter::from_fn(move || {
        let current = next.filter(|wire| !wire.is_empty())?;
        next = parent(current);
        Some(current)
    })
}

/// The name on the wire without its first label; none for the root.
pub(crate) fn parent(wire: &[u8]) -> Option<&[u8]> {
    let length = usize::from(*wire.first()?);
    if length == 0 { None } else { wire.get(length + 1..) }
}

/// A name in small letters, on the stack, as maps are asked.
pub(crate) struct Lowered {
    length: usize,
    bytes: [u8; LONGEST_NAME],
}

impl Lowered {
    /// The name in small letters.
    pub(crate) fn new(name: &Name) -> Self {
        let wire = name.wire();
        let mut bytes = [0; LONGEST_NAME];
        for (place, byte) in bytes.iter_mut().zip(wire) {
            *place = byte.to_ascii_lowercase();
        }
        Self {
            length: wire.len(),
            bytes,
        }
    }

    /// Its bytes on the wire.
    pub(crate) fn wire(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}
