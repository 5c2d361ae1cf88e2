//! Types, classes and response codes by their numbers (IANA, "Domain Name System Parameters").

use std::fmt;

use super::Part;

/// Type of a record or a question.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Kind(pub(crate) u16);

/// Class of a record or a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Class(pub(crate) u16);

/// How a query went. Values above 15 need EDNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rcode(pub(crate) u16);

impl Class {
    /// The Internet.
    pub(crate) const IN: Self = Self(1);
    /// Chaosnet, today for questions about the server itself.
    pub(crate) const CHAOS: Self = Self(3);
}

impl Rcode {
    pub(crate) const NOERROR: Self = Self(0);
    /// The query is malformed.
    pub(crate) const FORMERR: Self = Self(1);
    /// The server could not find out.
    pub(crate) const SERVFAIL: Self = Self(2);
    /// There is no such name.
    pub(crate) const NXDOMAIN: Self = Self(3);
    /// Such queries are not served.
    pub(crate) const NOTIMP: Self = Self(4);
    /// The server does not want to answer this.
    pub(crate) const REFUSED: Self = Self(5);
    /// A version of EDNS that is not served (RFC 6891).
    pub(crate) const BADVERS: Self = Self(16);
}

/// Numbers and mnemonics of the types that are known by name.
const NAMES: [(Kind, &str); 33] = [
    (Kind::A, "A"),
    (Kind::NS, "NS"),
    (Kind::CNAME, "CNAME"),
    (Kind::SOA, "SOA"),
    (Kind::PTR, "PTR"),
    (Kind::HINFO, "HINFO"),
    (Kind::MINFO, "MINFO"),
    (Kind::MX, "MX"),
    (Kind::TXT, "TXT"),
    (Kind::RP, "RP"),
    (Kind::AFSDB, "AFSDB"),
    (Kind::AAAA, "AAAA"),
    (Kind::LOC, "LOC"),
    (Kind::SRV, "SRV"),
    (Kind::NAPTR, "NAPTR"),
    (Kind::KX, "KX"),
    (Kind::CERT, "CERT"),
    (Kind::DNAME, "DNAME"),
    (Kind::OPT, "OPT"),
    (Kind::DS, "DS"),
    (Kind::SSHFP, "SSHFP"),
    (Kind::RRSIG, "RRSIG"),
    (Kind::NSEC, "NSEC"),
    (Kind::DNSKEY, "DNSKEY"),
    (Kind::NSEC3, "NSEC3"),
    (Kind::TLSA, "TLSA"),
    (Kind::SVCB, "SVCB"),
    (Kind::HTTPS, "HTTPS"),
    (Kind::SPF, "SPF"),
    (Kind::IXFR, "IXFR"),
    (Kind::AXFR, "AXFR"),
    (Kind::ANY, "ANY"),
    (Kind::CAA, "CAA"),
];

impl Kind {
    pub(crate) const A: Self = Self(1);
    pub(crate) const NS: Self = Self(2);
    pub(crate) const CNAME: Self = Self(5);
    pub(crate) const SOA: Self = Self(6);
    pub(crate) const PTR: Self = Self(12);
    pub(crate) const HINFO: Self = Self(13);
    pub(crate) const MINFO: Self = Self(14);
    pub(crate) const MX: Self = Self(15);
    pub(crate) const TXT: Self = Self(16);
    pub(crate) const RP: Self = Self(17);
    pub(crate) const AFSDB: Self = Self(18);
    pub(crate) const AAAA: Self = Self(28);
    pub(crate) const LOC: Self = Self(29);
    pub(crate) const SRV: Self = Self(33);
    pub(crate) const NAPTR: Self = Self(35);
    pub(crate) const KX: Self = Self(36);
    pub(crate) const CERT: Self = Self(37);
    pub(crate) const DNAME: Self = Self(39);
    pub(crate) const OPT: Self = Self(41);
    pub(crate) const DS: Self = Self(43);
    pub(crate) const SSHFP: Self = Self(44);
    pub(crate) const RRSIG: Self = Self(46);
    pub(crate) const NSEC: Self = Self(47);
    pub(crate) const DNSKEY: Self = Self(48);
    pub(crate) const NSEC3: Self = Self(50);
    pub(crate) const TLSA: Self = Self(52);
    pub(crate) const SVCB: Self = Self(64);
    pub(crate) const HTTPS: Self = Self(65);
    pub(crate) const SPF: Self = Self(99);
    pub(crate) const IXFR: Self = Self(251);
    pub(crate) const AXFR: Self = Self(252);
    pub(crate) const ANY: Self = Self(255);
    pub(crate) const CAA: Self = Self(257);

    /// The type of this mnemonic.
    #[cfg(test)]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        NAMES.iter().find(|(_, name)| *name == text).map(|(kind, _)| *kind)
    }

    /// Whether it only has a meaning in questions, or between two hosts (RFC 6895 section 3.1): never data of a zone.
    pub(crate) const fn is_meta(self) -> bool {
        self.0 == Self::OPT.0 || (self.0 >= 128 && self.0 <= 255) || self.0 == 0
    }

    /// What the data consist of.
    pub(crate) const fn layout(self) -> &'static [Part] {
        use Part::{Bytes, Name, Rest, Text, Texts};
        match self {
            Self::A => &[Bytes(4)],
            Self::AAAA => &[Bytes(16)],
            // MD, MF, MB, MG and MR are as NS
            Self::NS | Self::CNAME | Self::PTR | Self::DNAME | Self(3 | 4 | 7 | 8 | 9) => &[Name],
            Self::SOA => &[Name, Name, Bytes(20)],
            Self::MINFO | Self::RP => &[Name, Name],
            Self::HINFO => &[Text, Text],
            // 21 is RT
            Self::MX | Self::AFSDB | Self::KX | Self(21) => &[Bytes(2), Name],
            Self::TXT | Self::SPF => &[Texts],
            Self::SRV => &[Bytes(6), Name],
            Self::NAPTR => &[Bytes(4), Text, Text, Text, Name],
            // PX
            Self(26) => &[Bytes(2), Name, Name],
            _ => &[Rest],
        }
    }

    /// Whether names in the data may be compressed: only for the types of RFC 1035 (RFC 3597 section 4).
    pub(crate) const fn compresses(self) -> bool {
        matches!(
            self,
            Self::NS | Self::CNAME | Self::SOA | Self::PTR | Self::MINFO | Self::MX
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(kind, _)| kind == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
