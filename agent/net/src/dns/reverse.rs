//! Addresses in names: backwards below `in-addr.arpa` and `ip6.arpa`, and with dashes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::Name;
use crate::Range;

/// What a name below `in-addr.arpa` or `ip6.arpa` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reverse {
    /// One address.
    Address(IpAddr),
    /// The first bytes of an IPv4 address, and how many (0 to 3).
    Part([u8; 4], usize),
    /// Something else that can have no address.
    Other,
}

/// Reads a name in small letters; none if it is not below those domains.
pub(super) fn reverse(name: &Name) -> Option<Reverse> {
    let wire = name.wire();
    if wire.ends_with(b"\x07in-addr\x04arpa\0") {
        let mut parts = [0; 4];
        let mut count = 0;
        // "in-addr" and "arpa" are the last two
        let mut rest = name.labels();
        let total = rest.clone().count().saturating_sub(2);
        for label in rest.by_ref().take(total) {
            let Some(part) = parts.get_mut(count) else {
                return Some(Reverse::Other);
            };
            let Some(byte) = decimal(label) else {
                return Some(Reverse::Other);
            };
            *part = byte;
            count += 1;
        }
        parts[..count].reverse();
        return Some(match count {
            4 => Reverse::Address(Ipv4Addr::from(parts).into()),
            _ => Reverse::Part(parts, count),
        });
    }
    if !wire.ends_with(b"\x03ip6\x04arpa\0") {
        return None;
    }
    let mut bits = 0_u128;
    let mut count = 0;
    let total = name.labels().count().saturating_sub(2);
    for label in name.labels().take(total) {
        let &[digit] = label else { return Some(Reverse::Other) };
        let Some(digit) = char::from(digit).to_digit(16).filter(|_| count < 32) else {
            return Some(Reverse::Other);
        };
        bits |= u128::from(digit) << (4 * count);
        count += 1;
    }
    Some(match count {
        32 => Reverse::Address(Ipv6Addr::from_bits(bits).into()),
        _ => Reverse::Other,
    })
}

fn decimal(label: &[u8]) -> Option<u8> {
    if label.len() > 1 && label[0] == b'0' || !label.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(label).ok()?.parse().ok()
}

/// The reverse zone of a range that a name lies in, as a name; none if it lies in none. A range whose prefix does not end
/// with a byte is as many zones as it needs.
pub(super) fn zone(reverse: Reverse, range: Range) -> Option<Name> {
    let bytes = usize::from(range.prefix()).div_ceil(8).max(1);
    let (parts, count) = match reverse {
        Reverse::Address(IpAddr::V4(address)) => (address.octets(), 4),
        Reverse::Part(parts, count) => (parts, count),
        _ => return None,
    };
    if count < bytes || !range.contains(Ipv4Addr::from(parts)) {
        return None;
    }
    let mut text = String::with_capacity(28);
    for part in parts[..bytes].iter().rev() {
        text.push_str(&part.to_string());
        text.push('.');
    }
    text.push_str("in-addr.arpa");
    Name::parse(&text).ok()
}

/// Reads `100-64-1-5` or `fd00--1`.
pub(super) fn dashed(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    let mut bytes = [0; 45];
    let copy = bytes.get_mut(..text.len())?;
    copy.copy_from_slice(label);
    let v4 = text.bytes().filter(|byte| *byte == b'-').count() == 3 && !text.contains("--");
    for byte in copy.iter_mut().filter(|byte| **byte == b'-') {
        *byte = if v4 { b'.' } else { b':' };
    }
    let text = std::str::from_utf8(copy).ok()?;
    match v4 {
        true => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        false => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn addresses_are_read_backwards() {
        let v4 = Reverse::Address("100.65.0.10".parse().unwrap());
        assert_eq!(reverse(&name("10.0.65.100.in-addr.arpa")), Some(v4));
        assert_eq!(
            reverse(&name("65.100.in-addr.arpa")),
            Some(Reverse::Part([100, 65, 0, 0], 2))
        );
        assert_eq!(reverse(&name("in-addr.arpa")), Some(Reverse::Part([0; 4], 0)));
        for other in [
            "a.0.65.100.in-addr.arpa",
            "1.10.0.65.100.in-addr.arpa",
            "256.0.65.100.in-addr.arpa",
            "010.0.65.100.in-addr.arpa",
        ] {
            assert_eq!(reverse(&name(other)), Some(Reverse::Other), "{other}");
        }
        let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(
            reverse(&name(v6)),
            Some(Reverse::Address("2001:db8::1".parse().unwrap()))
        );
        assert_eq!(reverse(&name("8.b.d.0.1.0.0.2.ip6.arpa")), Some(Reverse::Other));
        assert_eq!(reverse(&name("xin-addr.arpa")), None);
    }

    #[test]
    fn a_range_has_reverse_zones_that_end_with_a_byte() {
        let zone_of = |text: &str, range: &str| {
            zone(reverse(&name(text)).unwrap(), range.parse().unwrap()).map(|zone| zone.to_string())
        };
        assert_eq!(
            zone_of("10.0.65.100.in-addr.arpa", "100.65.0.0/16").as_deref(),
            Some("65.100.in-addr.arpa.")
        );
        assert_eq!(
            zone_of("65.100.in-addr.arpa", "100.65.0.0/16").as_deref(),
            Some("65.100.in-addr.arpa.")
        );
        assert_eq!(zone_of("100.in-addr.arpa", "100.65.0.0/16"), None);
        assert_eq!(zone_of("10.0.66.100.in-addr.arpa", "100.65.0.0/16"), None);
        assert_eq!(
            zone_of("10.0.65.100.in-addr.arpa", "100.64.0.0/10").as_deref(),
            Some("65.100.in-addr.arpa.")
        );
        assert_eq!(
            zone_of("1.17.65.100.in-addr.arpa", "100.65.16.0/20").as_deref(),
            Some("17.65.100.in-addr.arpa.")
        );
    }

    #[test]
    fn addresses_are_read_with_dashes() {
        assert_eq!(dashed(b"100-64-1-5"), Some("100.64.1.5".parse().unwrap()));
        assert_eq!(dashed(b"fd00--1"), Some("fd00::1".parse().unwrap()));
        for bad in [
            "100-64-1",
            "100-64-1-256",
            "web-1-2-3",
            "",
            "-",
            "100.64.1.5",
            "a-very-long-label-that-is-no-address-whatever-it-says",
        ] {
            assert_eq!(dashed(bad.as_bytes()), None, "{bad}");
        }
    }
}
