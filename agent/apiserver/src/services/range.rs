//! A range of addresses in CIDR form, of either IP family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::order::{order, reserved};

/// Numbers of a range beyond this are not given out: enough for anybody, and they fit a `u64`.
const MOST: u128 = 1 << 62;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    network: IpAddr,
    prefix: u8,
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

impl Range {
    /// Reads `100.65.0.0/16`; bits beyond the prefix do not matter.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        let width = width(address);
        if prefix > width {
            return None;
        }
        let hosts = width - prefix;
        let network = number(address).checked_shr(hosts.into()).unwrap_or(0);
        let network = network.checked_shl(hosts.into()).unwrap_or(0);
        Some(Self {
            network: address_of(address.is_ipv4(), network),
            prefix,
        })
    }

    /// `IPv4` or `IPv6`.
    pub(crate) fn family(&self) -> &'static str {
        if self.network.is_ipv4() { "IPv4" } else { "IPv6" }
    }

    /// All addresses of the range, the unusable ones included.
    fn size(&self) -> u128 {
        let hosts = u32::from(width(self.network) - self.prefix);
        1_u128.checked_shl(hosts).unwrap_or(u128::MAX)
    }

    /// How many addresses can be given: not the network's own, and in IPv4 not the last, which is for broadcasts.
    pub(crate) fn usable(&self) -> u64 {
        let unusable = if self.network.is_ipv4() { 2 } else { 1 };
        u64::try_from(self.size().saturating_sub(unusable).min(MOST)).unwrap_or(u64::MAX)
    }

    /// The address of that number, counted from 1.
    pub(crate) fn nth(&self, nth: u64) -> Option<IpAddr> {
        let inside = (1..=self.usable()).contains(&nth);
        inside.then(|| address_of(self.network.is_ipv4(), number(self.network) + u128::from(nth)))
    }

    /// True for an address that can be given out of this range.
    pub(crate) fn holds(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4()
            && number(address)
                .checked_sub(number(self.network))
                .is_some_and(|nth| (1..=u128::from(self.usable())).contains(&nth))
    }

    /// The usable addresses in the order in which they are tried.
    pub(crate) fn candidates(&self, random: u64) -> impl Iterator<Item = IpAddr> {
        let range = *self;
        order(range.usable(), reserved(range.size(), 16, 256), random).filter_map(move |index| range.nth(index + 1))
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn address_of(is_v4: bool, number: u128) -> IpAddr {
    if is_v4 {
        Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into()
    } else {
        Ipv6Addr::from(number).into()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        Range::parse(text).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn first_and_last_addresses_are_usable_ones() {
        let services = range("100.65.3.4/16");
        assert_eq!(services.to_string(), "100.65.0.0/16");
        assert_eq!(services.nth(1), Some(ip("100.65.0.1")));
        assert_eq!(services.nth(10), Some(ip("100.65.0.10")));
        assert_eq!(services.nth(services.usable()), Some(ip("100.65.255.254")));
        assert_eq!(services.nth(services.usable() + 1), None);
        for (address, held) in [
            ("100.65.0.0", false),
            ("100.65.0.1", true),
            ("100.65.255.254", true),
            ("100.65.255.255", false),
            ("100.66.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(services.holds(ip(address)), held, "{address}");
        }
        let six = range("fd00::/112");
        assert_eq!(
            (six.nth(1), six.nth(65_535)),
            (Some(ip("fd00::1")), Some(ip("fd00::ffff")))
        );
        assert!(six.holds(ip("fd00::ffff")) && !six.holds(ip("fd00::")));
        assert_eq!(range("::/0").usable(), 1 << 62);
    }

    #[test]
    fn what_is_no_range_is_none() {
        for text in ["", "1.2.3.4", "1.2.3.4/33", "x/8", "1.2.3/24", "fd00::/129"] {
            assert_eq!(Range::parse(text), None, "{text}");
        }
    }

    #[test]
    fn low_addresses_are_tried_last() {
        let services = range("100.65.0.0/24");
        let all: Vec<IpAddr> = services.candidates(12_345).collect();
        assert_eq!(all.len(), 254);
        assert!(all[..238].iter().all(|address| *address > ip("100.65.0.16")));
        assert!(all[238..].iter().all(|address| *address <= ip("100.65.0.16")));
    }
}
