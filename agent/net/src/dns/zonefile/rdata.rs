//! What the records of each type are made of: one table serves the reading of master files and the checking of data that
//! came as bytes.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    lexer::{Token, unescape},
    name, svcb, time,
};
use crate::dns::{
    message::{Class, HEADER, Kind, Record},
    name::{LONGEST_NAME, Name},
};

/// A part of a record's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Byte,
    Short,
    Long,
    /// Four bytes of seconds, units allowed.
    Time,
    Name,
    Address,
    Address6,
    /// A text of at most 255 bytes behind its length.
    Text,
    /// One or more of them.
    Texts,
    /// The tag of a CAA record: letters and digits behind their length.
    Tag,
    /// A text without its length, to the end.
    Rest,
    /// Number or mnemonic of a DNSSEC algorithm.
    Algorithm,
    /// To the end, white space allowed between.
    Hex,
    Base64,
    /// So many bytes in hexadecimal, joined by `-` (EUI48, EUI64).
    Dashed(usize),
    /// Parameters of SVCB and HTTPS (RFC 9460).
    Parameters,
}

use Part::{
    Address, Address6, Algorithm, Base64, Byte, Dashed, Hex, Long, Parameters, Rest, Short, Tag, Text, Texts, Time,
};

/// Mnemonic, number, data. Numbers: IANA's registry of resource record types.
const TYPES: &[(&str, Kind, &[Part])] = &[
    ("A", Kind::A, &[Address]),
    ("NS", Kind::NS, &[Part::Name]),
    ("CNAME", Kind::CNAME, &[Part::Name]),
    (
        "SOA",
        Kind::SOA,
        &[Part::Name, Part::Name, Long, Time, Time, Time, Time],
    ),
    ("MB", Kind(7), &[Part::Name]),
    ("MG", Kind(8), &[Part::Name]),
    ("MR", Kind(9), &[Part::Name]),
    ("PTR", Kind(12), &[Part::Name]),
    ("HINFO", Kind(13), &[Text, Text]),
    ("MINFO", Kind(14), &[Part::Name, Part::Name]),
    ("MX", Kind::MX, &[Short, Part::Name]),
    ("TXT", Kind(16), &[Texts]),
    ("RP", Kind(17), &[Part::Name, Part::Name]),
    ("AFSDB", Kind(18), &[Short, Part::Name]),
    ("X25", Kind(19), &[Text]),
    ("ISDN", Kind(20), &[Texts]),
    ("RT", Kind(21), &[Short, Part::Name]),
    ("AAAA", Kind::AAAA, &[Address6]),
    ("SRV", Kind::SRV, &[Short, Short, Short, Part::Name]),
    ("NAPTR", Kind(35), &[Short, Short, Text, Text, Text, Part::Name]),
    ("KX", Kind(36), &[Short, Part::Name]),
    ("DNAME", Kind::DNAME, &[Part::Name]),
    ("DS", Kind::DS, &[Short, Algorithm, Byte, Hex]),
    ("SSHFP", Kind(44), &[Byte, Byte, Hex]),
    ("DNSKEY", Kind(48), &[Short, Byte, Algorithm, Base64]),
    ("DHCID", Kind(49), &[Base64]),
    ("TLSA", Kind(52), &[Byte, Byte, Byte, Hex]),
    ("SMIMEA", Kind(53), &[Byte, Byte, Byte, Hex]),
    ("CDS", Kind(59), &[Short, Algorithm, Byte, Hex]),
    ("CDNSKEY", Kind(60), &[Short, Byte, Algorithm, Base64]),
    ("OPENPGPKEY", Kind(61), &[Base64]),
    ("SVCB", Kind(64), &[Short, Part::Name, Parameters]),
    ("HTTPS", Kind(65), &[Short, Part::Name, Parameters]),
    ("SPF", Kind(99), &[Texts]),
    ("LP", Kind(107), &[Short, Part::Name]),
    ("EUI48", Kind(108), &[Dashed(6)]),
    ("EUI64", Kind(109), &[Dashed(8)]),
    ("URI", Kind(256), &[Short, Short, Rest]),
    ("CAA", Kind(257), &[Byte, Tag, Rest]),
];

/// Types that only a signed zone has. Answers are not signed here, so such records are left out.
const SIGNATURES: &[(&str, Kind)] = &[
    ("RRSIG", Kind::RRSIG),
    ("NSEC", Kind::NSEC),
    ("NSEC3", Kind::NSEC3),
    ("NSEC3PARAM", Kind(51)),
];

/// DNSSEC algorithms by name (RFC 8624).
const ALGORITHMS: &[(&str, u8)] = &[
    ("RSAMD5", 1),
    ("DH", 2),
    ("DSA", 3),
    ("RSASHA1", 5),
    ("NSEC3DSA", 6),
    ("NSEC3RSASHA1", 7),
    ("RSASHA256", 8),
    ("RSASHA512", 10),
    ("ECCGOST", 12),
    ("ECDSAP256SHA256", 13),
    ("ECDSAP384SHA384", 14),
    ("ED25519", 15),
    ("ED448", 16),
];

/// The longest data of a record that an answer over TCP can carry beside its name and question.
const DATA_LIMIT: usize = 65_535 - HEADER - 2 * (LONGEST_NAME + 4) - 10;

/// What a word that should be a type is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TypeWord {
    /// A type whose data can be read.
    Known(Kind, &'static [Part]),
    /// A type by number (RFC 3597), whose data only comes as bytes.
    Numbered(Kind),
    /// Part of a signed zone.
    Signature(&'static str),
}

/// The type that a word names. Types that are questions only are none.
pub(super) fn type_word(token: &Token<'_>) -> Option<TypeWord> {
    if let Some((_, number, parts)) = TYPES.iter().find(|(word, ..)| token.is(word)) {
        return Some(TypeWord::Known(*number, parts));
    }
    if let Some((word, _)) = SIGNATURES.iter().find(|(word, _)| token.is(word)) {
        return Some(TypeWord::Signature(word));
    }
    let (head, digits) = token.raw.split_at_checked(4)?;
    if token.quoted || !head.eq_ignore_ascii_case(b"TYPE") {
        return None;
    }
    let kind = Kind(number(digits)?);
    if kind.is_meta() {
        return None;
    }
    if let Some((word, _)) = SIGNATURES.iter().find(|(_, signature)| *signature == kind) {
        return Some(TypeWord::Signature(word));
    }
    Some(match TYPES.iter().find(|(_, known, _)| *known == kind) {
        Some((_, kind, parts)) => TypeWord::Known(*kind, parts),
        None => TypeWord::Numbered(kind),
    })
}

/// Reads a decimal number that fits.
pub(super) fn number<T: FromStr>(raw: &[u8]) -> Option<T> {
    if raw.is_empty() || !raw.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(raw).ok()?.parse().ok()
}

/// The words of a record's data, taken one by one.
pub(super) struct Words<'a, 't> {
    tokens: &'t [Token<'a>],
    origin: &'t Name,
}

impl<'a, 't> Words<'a, 't> {
    pub(super) fn new(tokens: &'t [Token<'a>], origin: &'t Name) -> Self {
        Self { tokens, origin }
    }

    /// The next word, which must be there.
    pub(super) fn take(&mut self, what: &str) -> Result<&'t Token<'a>, String> {
        self.next().ok_or_else(|| format!("{what} is missing at the end"))
    }

    pub(super) fn next(&mut self) -> Option<&'t Token<'a>> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    pub(super) fn peek(&self) -> Option<&'t Token<'a>> {
        self.tokens.first()
    }

    fn integer<T: FromStr>(&mut self, what: &str) -> Result<T, String> {
        let token = self.take(what)?;
        number(token.raw).ok_or_else(|| format!("{:?} is not {what}", token.show()))
    }

    /// All that is left, written together.
    fn joined(&mut self, what: &str) -> Result<Vec<u8>, String> {
        let mut all = self.take(what)?.raw.to_vec();
        while let Some(token) = self.next() {
            all.extend_from_slice(token.raw);
        }
        Ok(all)
    }
}

/// Data of a type by its parts, or as bytes (`\# LENGTH HEX`, RFC 3597).
///
/// # Errors
/// In words, about the first part that is not what it should be.
pub(super) fn read(word: TypeWord, tokens: &[Token<'_>], origin: &Name) -> Result<Box<[u8]>, String> {
    let mut words = Words::new(tokens, origin);
    let (kind, parts) = match word {
        TypeWord::Known(kind, parts) => (Some(kind), Some(parts)),
        TypeWord::Numbered(_) | TypeWord::Signature(_) => (None, None),
    };
    let mut data = Vec::new();
    if tokens.first().is_some_and(|token| !token.quoted && token.raw == br"\#") {
        words.next();
        let length: usize = words.integer("a length in bytes")?;
        if words.peek().is_some() {
            data = hex(&words.joined("data in hexadecimal")?)?;
        }
        if data.len() != length {
            return Err(format!("{length} bytes are announced and {} are there", data.len()));
        }
        if let Some(kind) = kind {
            data = expand(kind, &data).ok_or("these bytes are no data of this type")?;
        }
    } else {
        let Some(parts) = parts else {
            return Err(r"data of a type by number is written \# LENGTH HEX".into());
        };
        for part in parts {
            part.read(&mut words, &mut data)?;
        }
    }
    if let Some(extra) = words.next() {
        return Err(format!("{:?} is more than this type takes", extra.show()));
    }
    if data.len() > DATA_LIMIT {
        return Err(format!("data of {} bytes fits in no answer", data.len()));
    }
    Ok(data.into())
}

impl Part {
    fn read(self, words: &mut Words<'_, '_>, data: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Byte => data.push(words.integer("a number up to 255")?),
            Short => data.extend_from_slice(&words.integer::<u16>("a number up to 65535")?.to_be_bytes()),
            Long => data.extend_from_slice(&words.integer::<u32>("a number up to 4294967295")?.to_be_bytes()),
            Time => {
                let token = words.take("a span of time")?;
                let seconds =
                    time::parse(token.raw).ok_or_else(|| format!("{:?} is not a span of time", token.show()))??;
                data.extend_from_slice(&seconds.to_be_bytes());
            }
            Self::Name => {
                let token = words.take("a name")?;
                data.extend_from_slice(name::parse(token, words.origin)?.wire());
            }
            Address => data.extend_from_slice(&address::<Ipv4Addr>(words, "an IPv4 address")?.octets()),
            Address6 => data.extend_from_slice(&address::<Ipv6Addr>(words, "an IPv6 address")?.octets()),
            Text => text(words.take("a text")?, data)?,
            Texts => {
                text(words.take("a text")?, data)?;
                while let Some(token) = words.next() {
                    text(token, data)?;
                }
            }
            Tag => {
                let token = words.take("a tag")?;
                if token.raw.is_empty() || !token.raw.iter().all(u8::is_ascii_alphanumeric) {
                    return Err(format!("{:?} is not a tag of letters and digits", token.show()));
                }
                text(token, data)?;
            }
            Rest => data.extend_from_slice(&unescape(words.take("a text")?.raw)?),
            Algorithm => {
                let token = words.take("an algorithm")?;
                let known = ALGORITHMS
                    .iter()
                    .find(|(word, _)| token.is(word))
                    .map(|(_, number)| *number);
                let number = known.or_else(|| number(token.raw));
                data.push(number.ok_or_else(|| format!("{:?} is not an algorithm", token.show()))?);
            }
            Hex => {
                let bytes = hex(&words.joined("data in hexadecimal")?)?;
                if bytes.is_empty() {
                    return Err("data in hexadecimal is empty".into());
                }
                data.extend_from_slice(&bytes);
            }
            Base64 => {
                let all = words.joined("data in base64")?;
                let bytes = STANDARD
                    .decode(&all)
                    .map_err(|error| format!("data in base64: {error}"))?;
                data.extend_from_slice(&bytes);
            }
            Dashed(length) => {
                let token = words.take("bytes in hexadecimal joined by -")?;
                let bytes: Option<Vec<u8>> = token.raw.split(|byte| *byte == b'-').map(pair).collect();
                match bytes {
                    Some(bytes) if bytes.len() == length => data.extend_from_slice(&bytes),
                    _ => {
                        return Err(format!(
                            "{:?} is not {length} bytes in hexadecimal joined by -",
                            token.show()
                        ));
                    }
                }
            }
            Parameters => svcb::read(words, data)?,
        }
        Ok(())
    }
}

fn address<T: FromStr>(words: &mut Words<'_, '_>, what: &str) -> Result<T, String> {
    let token = words.take(what)?;
    std::str::from_utf8(token.raw)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("{:?} is not {what}", token.show()))
}

fn text(token: &Token<'_>, data: &mut Vec<u8>) -> Result<(), String> {
    let bytes = unescape(token.raw)?;
    let length = u8::try_from(bytes.len()).map_err(|_| {
        format!(
            "text {:?} is longer than 255 bytes: split it into several",
            token.show()
        )
    })?;
    data.push(length);
    data.extend_from_slice(&bytes);
    Ok(())
}

fn pair(raw: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    match raw {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    }
}

fn hex(raw: &[u8]) -> Result<Vec<u8>, String> {
    raw.chunks(2)
        .map(|chunk| pair(chunk).ok_or_else(|| "data in hexadecimal has odd or other characters".to_owned()))
        .collect()
}

/// The data if they are what the type says.
fn expand(kind: Kind, data: &[u8]) -> Option<Vec<u8>> {
    let record = Record {
        name: Name::root(),
        kind,
        class: Class::IN,
        ttl: 0,
        ttl_at: 0,
        data_at: 0,
        data,
    };
    let mut out = Vec::new();
    record.expand(data, &mut out).ok().map(|()| out)
}
