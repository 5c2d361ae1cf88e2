//! Join tokens: what a person copies to a card so that a board may join.
//!
//! `minidc1.<payload>.<mac>`, both parts base64url without padding. The payload is postcard; the MAC is HMAC-SHA256 of it under
//! the cluster's join key. Whoever holds the cluster's identity can mint tokens with no contact to the control plane:
//! only ids that were used are stored.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::pki::Pin;

/// First part of every token of this version.
const PREFIX: &str = "minidc1";
/// Length of a MAC in bytes (SHA-256).
const MAC_BYTES: usize = 32;
/// Makes a MAC of a token different from any other use of the join key.
const DOMAIN: &[u8] = b"minidc join token 1\0";

/// Why a text is not a token that can be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token at all.
    #[error("this is not a minidc join token: it must begin with \"{PREFIX}.\"")]
    NotAToken,
    /// Made by a later version.
    #[error("the join token is of version {found:?}; this program reads \"{PREFIX}\"")]
    Version {
        /// The version it begins with.
        found: String,
    },
    /// Characters are missing at its end.
    #[error("the join token is cut short: copy all of it, it has three parts joined by dots")]
    CutShort,
    /// It has characters that no token has, or too many.
    #[error("the join token is damaged: {0}")]
    Damaged(&'static str),
    /// Its MAC is not of this cluster's join key.
    #[error("the join token was not made by this cluster")]
    WrongMac,
    /// Too late.
    #[error("the join token has expired {seconds_ago} s ago")]
    Expired {
        /// Seconds since it expired.
        seconds_ago: u64,
    },
    /// It names another node.
    #[error("the join token is for node {expected:?}, this is {found:?}")]
    OtherNode {
        /// Node that it was made for.
        expected: String,
        /// Node that shows it.
        found: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Payload {
    cluster: String,
    pin: [u8; 32],
    id: String,
    node: Option<String>,
    expires: u64,
}

/// A parsed token. Its MAC is checked only by [`Token::verify`].
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    payload: Payload,
    mac: [u8; MAC_BYTES],
}

impl Token {
    /// Makes a token. `node` is the name it is for, `None` for any; `expires` is in Unix seconds; `id` must be fit for an object name.
    pub fn mint(join_key: &[u8; 32], cluster: &str, pin: Pin, id: &str, node: Option<&str>, expires: u64) -> Self {
        let payload = Payload {
            cluster: cluster.to_owned(),
            pin: pin.0,
            id: id.to_owned(),
            node: node.map(ToOwned::to_owned),
            expires,
        };
        let mac = keyed(join_key, &payload).finalize().into_bytes().into();
        Self { payload, mac }
    }

    /// Name of the cluster.
    pub fn cluster(&self) -> &str {
        &self.payload.cluster
    }

    /// Hash of the cluster's CA key.
    pub fn pin(&self) -> Pin {
        Pin(self.payload.pin)
    }

    /// Id under which its use is recorded.
    pub fn id(&self) -> &str {
        &self.payload.id
    }

    /// The only node that may use it; `None` for any.
    pub fn node(&self) -> Option<&str> {
        self.payload.node.as_deref()
    }

    /// Unix seconds after which it opens nothing.
    pub fn expires(&self) -> u64 {
        self.payload.expires
    }

    /// Checks the node name, which needs no key and no clock.
    pub fn check_node(&self, node: &str) -> Result<(), TokenError> {
        match self.node() {
            Some(expected) if expected != node => Err(TokenError::OtherNode {
                expected: expected.to_owned(),
                found: node.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Checks everything the control plane can check without its store: MAC (in constant time), expiry against `now` in Unix
    /// seconds, node name. The MAC comes first, so that a forged token learns nothing else.
    pub fn verify(&self, join_key: &[u8; 32], node: &str, now: u64) -> Result<(), TokenError> {
        keyed(join_key, &self.payload)
            .verify_slice(&self.mac)
            .map_err(|_| TokenError::WrongMac)?;
        if now > self.payload.expires {
            return Err(TokenError::Expired {
                seconds_ago: now - self.payload.expires,
            });
        }
        self.check_node(node)
    }
}

fn encode(payload: &Payload) -> Vec<u8> {
    postcard::to_stdvec(payload).expect("strings and integers always serialise to memory")
}

fn keyed(join_key: &[u8; 32], payload: &Payload) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(join_key).expect("HMAC takes keys of any length");
    mac.update(DOMAIN);
    mac.update(&encode(payload));
    mac
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{PREFIX}.{}.{}",
            URL_SAFE_NO_PAD.encode(encode(&self.payload)),
            URL_SAFE_NO_PAD.encode(self.mac)
        )
    }
}

impl fmt::Debug for Token {
    /// Without the MAC: tokens end up in logs by way of `Debug`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("payload", &self.payload)
            .finish_non_exhaustive()
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let mut parts = text.split('.');
        let version = parts.next().unwrap_or_default();
        if version != PREFIX {
            return Err(if version.starts_with("minidc") && version.len() > "minidc".len() {
                TokenError::Version {
                    found: version.to_owned(),
                }
            } else if !version.is_empty() && PREFIX.starts_with(version) {
                TokenError::CutShort
            } else {
                TokenError::NotAToken
            });
        }
        let (Some(payload), Some(mac)) = (parts.next(), parts.next()) else {
            return Err(TokenError::CutShort);
        };
        if parts.next().is_some() {
            return Err(TokenError::Damaged("it has more than three parts"));
        }
        let alphabet = |part: &str| {
            part.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if !alphabet(payload) || !alphabet(mac) {
            return Err(TokenError::Damaged("it has a character that no token has"));
        }
        // 32 bytes are 43 characters.
        if mac.len() < 43 {
            return Err(TokenError::CutShort);
        }
        let mac: [u8; MAC_BYTES] = URL_SAFE_NO_PAD
            .decode(mac)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(TokenError::Damaged("its last part has the wrong length"))?;
        let bytes = URL_SAFE_NO_PAD
            .decode(payload)
            .map_err(|_| TokenError::Damaged("its middle part is not base64url"))?;
        let payload: Payload =
            postcard::from_bytes(&bytes).map_err(|_| TokenError::Damaged("its middle part does not parse"))?;
        Ok(Self { payload, mac })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn token(node: Option<&str>) -> Token {
        Token::mint(&KEY, "garage", Pin([9; 32]), "0123456789abcdef", node, 1000)
    }

    #[test]
    fn token_survives_text() {
        let text = token(Some("pi-2")).to_string();
        let parsed: Token = format!("  {text}\n").parse().unwrap();
        assert_eq!(parsed, token(Some("pi-2")));
        assert_eq!(parsed.cluster(), "garage");
        assert_eq!(parsed.pin(), Pin([9; 32]));
        assert_eq!(parsed.verify(&KEY, "pi-2", 999), Ok(()));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let text = token(None).to_string();
        for cut in 1..text.len() {
            let error = text[..cut].parse::<Token>().unwrap_err();
            assert_eq!(error, TokenError::CutShort, "cut to {:?}", &text[..cut]);
        }
        assert_eq!("".parse::<Token>(), Err(TokenError::NotAToken));
        assert_eq!("K10abc::server:xyz".parse::<Token>(), Err(TokenError::NotAToken));
        assert_eq!(
            text.replace("minidc1", "minidc2").parse::<Token>(),
            Err(TokenError::Version {
                found: "minidc2".into()
            })
        );
        assert!(matches!(
            format!("{text}A").parse::<Token>(),
            Err(TokenError::Damaged(_))
        ));
        assert!(matches!(
            format!("{text}.x").parse::<Token>(),
            Err(TokenError::Damaged(_))
        ));
        assert!(matches!(
            text.replacen('A', "*", 1).parse::<Token>(),
            Err(TokenError::Damaged(_))
        ));
    }

    #[test]
    fn forged_expired_and_foreign_tokens_open_nothing() {
        assert_eq!(token(None).verify(&[8; 32], "pi-2", 0), Err(TokenError::WrongMac));
        assert_eq!(
            token(None).verify(&KEY, "pi-2", 1005),
            Err(TokenError::Expired { seconds_ago: 5 })
        );
        assert_eq!(token(None).verify(&KEY, "pi-2", 1000), Ok(()));
        assert!(matches!(
            token(Some("pi-3")).verify(&KEY, "pi-2", 0),
            Err(TokenError::OtherNode { .. })
        ));
        let mut forged = token(Some("pi-3"));
        forged.payload.node = None;
        assert_eq!(forged.verify(&KEY, "pi-2", 0), Err(TokenError::WrongMac));
    }

    #[test]
    fn debug_output_does_not_open_the_cluster() {
        let token = token(None);
        let mac = URL_SAFE_NO_PAD.encode(token.mac);
        assert!(!format!("{token:?}").contains(&mac));
        assert!(!format!("{token:?}").contains("mac"));
    }
}
