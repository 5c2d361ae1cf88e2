//! IPv4 ranges in CIDR notation.

use std::{fmt, net::Ipv4Addr, str::FromStr};

/// An IPv4 range such as `100.64.1.0/24`; host bits are always zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    network: Ipv4Addr,
    prefix: u8,
}

/// The text is no IPv4 range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an IPv4 range such as 100.64.0.0/16: {problem}")]
pub struct ParseRangeError {
    text: String,
    problem: &'static str,
}

impl Range {
    /// The range that contains `address` and has this prefix length (at most 32; more counts as 32).
    #[must_use]
    pub fn around(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self {
            network: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)),
            prefix,
        }
    }

    /// First address.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// Prefix length, 0 to 32.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether the address lies in the range.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.network.to_bits()
    }

    /// Whether the other range lies within this one, or is the same.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.network)
    }

    /// Whether the two have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Range {
    type Err = ParseRangeError;

    fn from_str(text: &str) -> Result<Self, ParseRangeError> {
        let error = |problem| ParseRangeError {
            text: text.to_owned(),
            problem,
        };
        let (address, prefix) = text
            .split_once('/')
            .ok_or_else(|| error("the prefix length is missing"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| error("the address is malformed"))?;
        let prefix: u8 = prefix.parse().map_err(|_| error("the prefix length is not a number"))?;
        if prefix > 32 {
            return Err(error("the prefix length is more than 32"));
        }
        let range = Self::around(address, prefix);
        if range.network != address {
            return Err(error("the address has bits set beyond the prefix length"));
        }
        Ok(range)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_ranges_are_taken() {
        assert_eq!("100.64.1.0/24".parse::<Range>().unwrap().to_string(), "100.64.1.0/24");
        assert_eq!("0.0.0.0/0".parse::<Range>().unwrap().prefix(), 0);
        for bad in [
            "",
            "100.64.1.0",
            "100.64.1.1/24",
            "100.64.1.0/33",
            "100.64.1/24",
            "fd00::/64",
            "100.64.1.0/-1",
        ] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_overlap_when_one_holds_the_other() {
        let range = |text: &str| text.parse::<Range>().unwrap();
        assert!(range("100.64.0.0/10").overlaps(range("100.64.3.0/24")));
        assert!(range("100.64.3.0/24").overlaps(range("100.64.0.0/10")));
        assert!(!range("100.64.3.0/24").overlaps(range("100.64.4.0/24")));
        assert!(range("0.0.0.0/0").covers(range("10.0.0.0/8")));
        assert!(!range("10.0.0.0/8").covers(range("0.0.0.0/0")));
        assert!(range("10.1.2.3/32").contains(Ipv4Addr::new(10, 1, 2, 3)));
    }
}
