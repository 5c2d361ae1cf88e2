//! Certificates and keys: the cluster's identity, what it issues, and how either side judges the other's certificate.

mod accept;
mod identity;
mod serving;
mod verify;

use std::fmt;
use std::str::FromStr;

use ring::digest;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

pub use accept::{Accepted, Acceptor, Application};
pub use identity::{ClusterIdentity, Issued, NODE_LIFETIME, Parts, Signed};
pub(crate) use identity::{make_request, new_key, random_u32, subject};
pub use serving::ServingCertificate;
pub use verify::{Peer, client_config, peer, server_config};
pub(crate) use verify::{handshake_failure, name};

use crate::Error;

/// Name that a control plane's certificate must carry for nodes of `cluster`.
pub fn server_name(cluster: &str) -> String {
    format!("server.{cluster}.minidc")
}

/// Common name of a node's certificate.
pub fn node_user(node: &str) -> String {
    format!("system:node:{node}")
}

/// The node that a common name stands for.
pub fn node_of(common_name: &str) -> Option<&str> {
    common_name
        .strip_prefix("system:node:")
        .filter(|node| is_node_name(node))
}

/// Organization (group) of every node.
pub const NODE_GROUP: &str = "system:nodes";

/// A lower-case DNS label, as RFC 1123 has it.
pub fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// A name that a Node object can have: labels joined by dots, at most 253 characters.
pub fn is_node_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

/// SHA-256 of a CA's SubjectPublicKeyInfo: what nodes know a cluster by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    /// The pin of a certificate's key.
    pub fn of_certificate(certificate: &[u8]) -> Result<Self, Error> {
        Ok(Self(sha256(parse(certificate)?.public_key().raw)))
    }
}

impl fmt::Display for Pin {
    /// 64 hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        unhex(text)
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| Error::Decode {
                what: "CA pin",
                reason: "it is not 64 hex digits".into(),
            })
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim().as_bytes();
    digits.len().is_multiple_of(2).then_some(())?;
    digits
        .chunks(2)
        .map(|pair| {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            u8::try_from(high * 16 + low).ok()
        })
        .collect()
}

pub(crate) fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, Error> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(Error::Decode {
            what: "certificate",
            reason: "bytes follow it".into(),
        }),
        Err(error) => Err(Error::Decode {
            what: "certificate",
            reason: error.to_string(),
        }),
    }
}

/// Hex SHA-256 of a certificate's SubjectPublicKeyInfo: how keys are recorded.
pub(crate) fn key_of(certificate: &CertificateDer<'_>) -> Result<String, Error> {
    Ok(hex(&sha256(parse(certificate)?.public_key().raw)))
}

/// End of a certificate's life in Unix seconds.
pub(crate) fn not_after(certificate: &[u8]) -> Result<u64, Error> {
    Ok(u64::try_from(parse(certificate)?.validity().not_after.timestamp()).unwrap_or(0))
}

#[cfg(test)]
mod tests;
