//! Names that no resolver outside may be asked for (RFC 6761, RFC 6303 and others), and questions about this server.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    cluster::Step,
    draft::Draft,
    message::{Class, Kind, Question, Rcode, Section},
    name::Name,
    reverse::Reverse,
};

/// Seconds that answers about such names may be kept.
const TTL: u32 = 86_400;

/// Domains with nothing in them: RFC 6761 (invalid, test), RFC 7686 (onion), RFC 9476 (alt), RFC 9462 (resolver.arpa: what
/// it tells is for who asked the resolver, not for us).
const EMPTY: [&[u8]; 5] = [
    b"\x07invalid\0",
    b"\x04test\0",
    b"\x05onion\0",
    b"\x03alt\0",
    b"\x08resolver\x04arpa\0",
];

/// The domain of the names on the LAN.
pub(super) const LOCAL: &[u8] = b"\x05local\0";

/// Whether a name in small letters is this domain, which is given on the wire, or below it.
pub(super) fn is_within(name: &Name, domain: &[u8]) -> bool {
    name.wire().ends_with(domain) && Name::from_wire(domain).is_some_and(|domain| name.is_within(&domain))
}

/// Answers about a name in small letters that is special. Says in which zone it is.
pub(super) fn answer(name: &Name, kind: Kind, draft: &mut Draft<'_>) -> Option<(Step, Name)> {
    const LOCALHOST: &[u8] = b"\x09localhost\0";
    // every query for a name outside comes here: most end with none of these
    if is_within(name, LOCALHOST) {
        match kind {
            Kind::A => draft.v4(name, TTL, &[Ipv4Addr::LOCALHOST]),
            Kind::AAAA => draft.v6(name, TTL, &[Ipv6Addr::LOCALHOST]),
            _ => {}
        }
        return Some((Step::Done(Rcode::NOERROR), Name::from_wire(LOCALHOST)?));
    }
    let domain = EMPTY.iter().find(|domain| is_within(name, domain))?;
    let domain = Name::from_wire(domain)?;
    let rcode = match *name == domain {
        true => Rcode::NOERROR,
        false => Rcode::NXDOMAIN,
    };
    Some((Step::Done(rcode), domain))
}

/// Answers about addresses that mean something else on every machine: loopback, "this host", link-local, broadcast.
pub(super) fn answer_reverse(name: &Name, address: Reverse, kind: Kind, draft: &mut Draft<'_>) -> Option<(Step, Name)> {
    let loopback = match address {
        Reverse::Address(address) => address.is_loopback(),
        _ => false,
    };
    let first = match address {
        Reverse::Address(std::net::IpAddr::V4(address)) => Some((address.octets(), 4)),
        Reverse::Part(parts, count) => Some((parts, count)),
        _ => None,
    };
    let zone = match (first, address) {
        (Some(([127, ..], 1..)), _) => "127.in-addr.arpa",
        (Some(([0, ..], 1..)), _) => "0.in-addr.arpa",
        (Some(([169, 254, ..], 2..)), _) => "254.169.in-addr.arpa",
        (Some(([255, 255, 255, 255], 4)), _) => "255.255.255.255.in-addr.arpa",
        (_, Reverse::Address(std::net::IpAddr::V6(address))) if loopback || address.is_unspecified() => "ip6.arpa",
        _ => return None,
    };
    let zone = Name::parse(zone).ok()?;
    if loopback && address == Reverse::Address(Ipv4Addr::LOCALHOST.into())
        || address == Reverse::Address(Ipv6Addr::LOCALHOST.into())
    {
        if kind == Kind::PTR {
            draft.answer(name, Kind::PTR, TTL, b"\x09localhost\0");
        }
        return Some((Step::Done(Rcode::NOERROR), zone));
    }
    let rcode = match *name == zone || !matches!(address, Reverse::Address(_)) {
        true => Rcode::NOERROR,
        false => Rcode::NXDOMAIN,
    };
    Some((Step::Done(rcode), zone))
}

/// Answers what this server is (class CHAOS): its version and its node.
pub(super) fn answer_chaos(question: &Question, name: &Name, node: &str, draft: &mut Draft<'_>) -> Rcode {
    let text = match name.wire() {
        b"\x07version\x04bind\0" | b"\x07version\x06server\0" => concat!("minidc ", env!("CARGO_PKG_VERSION")),
        b"\x08hostname\x04bind\0" | b"\x02id\x06server\0" => node,
        _ => return Rcode::REFUSED,
    };
    if matches!(question.kind, Kind::TXT | Kind::ANY) {
        let text = &text.as_bytes()[..text.len().min(255)];
        let mut data = vec![u8::try_from(text.len()).unwrap_or(u8::MAX)];
        data.extend_from_slice(text);
        let written = draft
            .writer
            .record(Section::Answer, &question.name, Kind::TXT, Class::CHAOS, 0, &data);
        if written.is_err() {
            draft.set_full();
        }
    }
    Rcode::NOERROR
}
