//! What each value of a seed may be. Every function answers with what is wrong and how to write it instead.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

/// Nothing was made before the first commit; a clock that says so was never set. 2024-01-01.
const EARLIEST: i64 = 1_704_067_200;
/// The end of 2099: later is a typing error.
const LATEST: i64 = 4_102_444_799;
/// Types of public keys that OpenSSH takes.
const SSH_TYPES: &[&str] = &[
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

pub(super) type Wrong = Option<String>;

/// A lower-case DNS label, as cluster and node names are. What is wrong begins with a verb, to follow the name.
pub(crate) fn wrong_label(name: &str) -> Wrong {
    let allowed = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
    if name.is_empty() {
        return Some("is empty".into());
    }
    if name.len() > 63 {
        return Some("is longer than 63 characters".into());
    }
    if name.chars().all(allowed) && !name.starts_with('-') && !name.ends_with('-') {
        return None;
    }
    let better: String = name
        .chars()
        .map(|character| character.to_ascii_lowercase())
        .map(|character| if allowed(character) { character } else { '-' })
        .collect();
    let better = better.trim_matches('-');
    let hint = if better.is_empty() {
        String::new()
    } else {
        format!("; write {better:?}")
    };
    Some(format!(
        "may have only small letters, digits and, inside, hyphens{hint}"
    ))
}

/// Three parts joined by dots, the first "minidc1"; the meaning is the caller's to check.
pub(super) fn wrong_token(token: &str) -> Wrong {
    let mut parts = token.split('.');
    let alphabet = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let version = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    if version.strip_prefix("minidc").is_none_or(str::is_empty) {
        return Some("this is not a join token: it must begin with \"minidc1.\"".into());
    }
    match rest.as_slice() {
        // A MAC of 32 bytes is 43 characters.
        [payload, mac] if alphabet(payload) && alphabet(mac) && mac.len() >= 43 => None,
        [payload, mac] if alphabet(payload) && (mac.is_empty() || alphabet(mac)) => {
            Some("the join token is cut short: copy all of it".into())
        }
        [] | [_] => Some("the join token is cut short: copy all of it, it has three parts joined by dots".into()),
        _ => Some("the join token is damaged: it has characters that no token has".into()),
    }
}

/// 32 bytes in hex, as pins and join keys are.
pub(super) fn wrong_hex(text: &str) -> Wrong {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    (digits != 64 || text.len() != 64).then(|| {
        if digits == text.chars().count() {
            format!("it must be 64 hex digits, these are {digits}")
        } else {
            "it must be 64 hex digits (0 to 9, a to f)".into()
        }
    })
}

/// One PEM block with this label.
pub(super) fn wrong_pem(text: &str, label: &str) -> Wrong {
    let begin = format!("-----BEGIN {label}-----");
    let end = format!("-----END {label}-----");
    let Some(body) = text.trim().strip_prefix(&begin) else {
        return Some(format!("it must begin with {begin}"));
    };
    let Some(body) = body.strip_suffix(&end) else {
        return Some(format!("it is cut short: it must end with {end}"));
    };
    let joined: String = body.split_whitespace().collect();
    match STANDARD.decode(&joined) {
        Ok(bytes) if !bytes.is_empty() => None,
        _ => Some("it is damaged: what is between its first and last line is not base64".into()),
    }
}

/// `host`, `host:port`, `[v6]:port` or a bare IPv6 address.
pub(super) fn wrong_server(text: &str) -> Wrong {
    if text.parse::<IpAddr>().is_ok() {
        return None;
    }
    if text.contains("://") {
        return Some(format!(
            "{text:?} must be an address or a name only, without \"https://\""
        ));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    if let Some(port) = port
        && !port.parse::<u16>().is_ok_and(|port| port > 0)
    {
        return Some(format!("the port of {text:?} must be a number from 1 to 65535"));
    }
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    let dotted = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && !host.is_empty();
    let right = if dotted {
        host.parse::<std::net::Ipv4Addr>().is_ok()
    } else {
        host.len() <= 253
            && host
                .trim_end_matches('.')
                .split('.')
                .all(|label| wrong_label(&label.to_ascii_lowercase()).is_none())
    };
    (!bracketed && !right).then(|| format!("{text:?} is neither an address (192.168.1.10) nor a name (pi-1.local)"))
}

pub(super) fn wrong_ssid(ssid: &str) -> Wrong {
    match ssid.len() {
        0 => Some("the name of the Wi-Fi network is empty".into()),
        33.. => Some(format!("a Wi-Fi name has at most 32 bytes, this has {}", ssid.len())),
        _ if ssid.chars().any(char::is_control) => Some("it has a line break or another control character".into()),
        _ => None,
    }
}

/// Passphrases as IEEE 802.11 has them: 8 to 63 printable ASCII characters; or the key itself. The message never shows it.
pub(super) fn wrong_password(password: &str) -> Wrong {
    if password.len() == 64 && password.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    if password.is_empty() {
        return Some("it is empty; for an open network remove this line".into());
    }
    if !password.bytes().all(|byte| (32..=126).contains(&byte)) {
        return Some("a Wi-Fi password has only letters, digits and signs of ASCII; this has another character".into());
    }
    let length = password.len();
    (!(8..=63).contains(&length)).then(|| format!("a Wi-Fi password has 8 to 63 characters, this has {length}"))
}

pub(super) fn wrong_country(country: &str) -> Wrong {
    if country == "UK" {
        return Some("the code of the United Kingdom is \"GB\"".into());
    }
    if country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    if country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Some(format!(
            "it must be in capital letters: {:?}",
            country.to_ascii_uppercase()
        ));
    }
    Some("it must be the two capital letters of your country, such as \"DE\" or \"US\": they decide which channels are allowed".into())
}

/// A line of `authorized_keys` without options: type, base64, comment.
pub(super) fn wrong_ssh_key(key: &str) -> Wrong {
    if key.contains("PRIVATE KEY") {
        return Some(
            "this is a private key. It must not be on a card: use the line in the file that ends in .pub".into(),
        );
    }
    if key.chars().any(char::is_control) {
        return Some("an SSH key is one line; this has a line break".into());
    }
    let mut words = key.split(' ').filter(|word| !word.is_empty());
    let kind = words.next().unwrap_or_default();
    if !SSH_TYPES.contains(&kind) {
        return Some(
            "an SSH key begins with its type, such as \"ssh-ed25519\": copy the whole line of the .pub file".into(),
        );
    }
    let body = words
        .next()
        .and_then(|word| STANDARD.decode(word).ok())
        .unwrap_or_default();
    // RFC 4253, 6.6: the blob begins with the length and name of its type.
    let inner = body
        .get(..4)
        .and_then(|length| Some(u32::from_be_bytes(length.try_into().ok()?)))
        .and_then(|length| body.get(4..4 + usize::try_from(length).ok()?));
    (inner != Some(kind.as_bytes()) || body.len() < 4 + kind.len() + 32)
        .then(|| "the SSH key is damaged or cut short: copy the whole line of the .pub file".into())
}

pub(super) fn wrong_time(time: Timestamp) -> Wrong {
    let second = time.as_second();
    (!(EARLIEST..=LATEST).contains(&second))
        .then(|| "it must be when this card was made, between 2024 and 2099; remove the line if you do not know".into())
}
