//! Parameters of SVCB and HTTPS records (RFC 9460 section 2.1 and appendix A).

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    lexer::{Token, unescape},
    rdata::{Words, number},
};

const MANDATORY: u16 = 0;
const ALPN: u16 = 1;
const NO_DEFAULT_ALPN: u16 = 2;
const PORT: u16 = 3;
const IPV4_HINT: u16 = 4;
const ECH: u16 = 5;
const IPV6_HINT: u16 = 6;

const KEYS: &[(&str, u16)] = &[
    ("mandatory", MANDATORY),
    ("alpn", ALPN),
    ("no-default-alpn", NO_DEFAULT_ALPN),
    ("port", PORT),
    ("ipv4hint", IPV4_HINT),
    ("ech", ECH),
    ("ipv6hint", IPV6_HINT),
    ("dohpath", 7),
    ("ohttp", 8),
];

/// Reads what is left of the words as `key=value` and appends it in order of the keys' numbers.
///
/// # Errors
/// In words, about the first parameter that is none.
pub(super) fn read(words: &mut Words<'_, '_>, data: &mut Vec<u8>) -> Result<(), String> {
    let mut parameters: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
    while let Some(token) = words.next() {
        let (name, value) = match token.raw.iter().position(|byte| *byte == b'=') {
            Some(at) => (&token.raw[..at], Some(&token.raw[at + 1..])),
            None => (token.raw, None),
        };
        let mut value = value.map(<[u8]>::to_vec);
        if value.as_ref().is_some_and(Vec::is_empty)
            && let Some(next) = words.peek()
            && token.touches(next)
        {
            value = Some(next.raw.to_vec());
            words.next();
        }
        let key = key(name).ok_or_else(|| format!("{:?} is not a parameter", token.show()))?;
        let bytes = encode(key, value.as_deref(), token)?;
        if parameters.insert(key, bytes).is_some() {
            return Err(format!("parameter {:?} is there twice", String::from_utf8_lossy(name)));
        }
    }
    if let Some(mandatory) = parameters.get(&MANDATORY) {
        for listed in mandatory.chunks_exact(2) {
            let listed = u16::from_be_bytes([listed[0], listed[1]]);
            if listed == MANDATORY || !parameters.contains_key(&listed) {
                return Err(format!("mandatory names key{listed}, which is not there"));
            }
        }
    }
    for (key, value) in parameters {
        let length =
            u16::try_from(value.len()).map_err(|_| format!("parameter key{key} is longer than 65535 bytes"))?;
        data.extend_from_slice(&key.to_be_bytes());
        data.extend_from_slice(&length.to_be_bytes());
        data.extend_from_slice(&value);
    }
    Ok(())
}

fn key(name: &[u8]) -> Option<u16> {
    if let Some((_, known)) = KEYS.iter().find(|(word, _)| word.as_bytes() == name) {
        return Some(*known);
    }
    number(name.strip_prefix(b"key")?)
}

fn encode(key: u16, value: Option<&[u8]>, token: &Token<'_>) -> Result<Vec<u8>, String> {
    let wrong = |what: &str| format!("parameter {:?} needs {what}", token.show());
    let needed = || value.filter(|value| !value.is_empty()).ok_or_else(|| wrong("a value"));
    match key {
        MANDATORY => {
            let mut keys = Vec::new();
            for name in needed()?.split(|byte| *byte == b',') {
                keys.push(self::key(name).ok_or_else(|| wrong("names of parameters"))?);
            }
            keys.sort_unstable();
            Ok(keys.iter().flat_map(|key| key.to_be_bytes()).collect())
        }
        ALPN => {
            let mut bytes = Vec::new();
            for id in list(needed()?)? {
                let length = u8::try_from(id.len())
                    .ok()
                    .filter(|length| *length > 0)
                    .ok_or_else(|| wrong("short protocol names"))?;
                bytes.push(length);
                bytes.extend_from_slice(&id);
            }
            Ok(bytes)
        }
        NO_DEFAULT_ALPN => match value {
            None => Ok(Vec::new()),
            Some(_) => Err(wrong("no value")),
        },
        PORT => Ok(number::<u16>(needed()?)
            .ok_or_else(|| wrong("a port"))?
            .to_be_bytes()
            .to_vec()),
        IPV4_HINT => addresses::<Ipv4Addr>(needed()?, |address, bytes| bytes.extend_from_slice(&address.octets()))
            .ok_or_else(|| wrong("IPv4 addresses")),
        IPV6_HINT => addresses::<Ipv6Addr>(needed()?, |address, bytes| bytes.extend_from_slice(&address.octets()))
            .ok_or_else(|| wrong("IPv6 addresses")),
        ECH => STANDARD
            .decode(needed()?)
            .map_err(|error| format!("parameter ech: {error}")),
        _ => unescape(value.unwrap_or_default()),
    }
}

/// A list with commas. The value is first unescaped as any text, then `\,` is a comma that does not divide.
fn list(value: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut items = vec![Vec::new()];
    let mut escaped = false;
    for byte in unescape(value)? {
        match byte {
            b'\\' if !escaped => escaped = true,
            b',' if !escaped => items.push(Vec::new()),
            byte => {
                escaped = false;
                if let Some(last) = items.last_mut() {
                    last.push(byte);
                }
            }
        }
    }
    Ok(items)
}

fn addresses<T: std::str::FromStr>(value: &[u8], write: fn(T, &mut Vec<u8>)) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for address in std::str::from_utf8(value).ok()?.split(',') {
        write(address.parse().ok()?, &mut bytes);
    }
    Some(bytes)
}
