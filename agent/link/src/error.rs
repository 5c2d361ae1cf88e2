//! The crate's error.

use std::path::PathBuf;

use crate::protocol::RefusalCode;

/// What can go wrong. The text says what was tried and on what; the source says why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be used.
    #[error("{attempt} {path}", path = path.display())]
    File {
        /// For example `write`.
        attempt: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The cluster's identity on disk cannot be used, and is not made anew: nodes trust it.
    #[error("load the cluster identity in {directory}: {reason}", directory = directory.display())]
    ClusterIdentity {
        /// Where it was looked for.
        directory: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A node's identity on disk cannot be used.
    #[error("load the node identity in {path}: {reason}", path = path.display())]
    NodeIdentity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that must be a DNS label is not one.
    #[error("{what} {name:?} is not a lower-case DNS label of at most 63 characters")]
    Name {
        /// Whose name it is.
        what: &'static str,
        /// The name as given.
        name: String,
    },
    /// A key or certificate could not be made.
    #[error("make {what}")]
    Certificate {
        /// The key or certificate.
        what: String,
        /// The generator's answer.
        source: rcgen::Error,
    },
    /// A certificate could not be read.
    #[error("read {what}: {reason}")]
    Decode {
        /// The certificate or request.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The system gave no random bytes.
    #[error("get random bytes from the system")]
    Random,
    /// TLS could not be configured.
    #[error("configure TLS for {what}")]
    Tls {
        /// The role.
        what: &'static str,
        /// The library's answer.
        source: rustls::Error,
    },
    /// A peer could not be reached, or TLS with it failed.
    #[error("{attempt} {peer}: {reason}")]
    Connect {
        /// For example `dial`.
        attempt: &'static str,
        /// Address of the peer.
        peer: String,
        /// Why, in a sentence for a person.
        reason: String,
    },
    /// The other side broke the protocol, or the stream broke.
    #[error("{attempt}: {reason}")]
    Protocol {
        /// For example `read a frame`.
        attempt: &'static str,
        /// What was wrong.
        reason: String,
    },
    /// The other side refused.
    #[error("refused ({code}): {reason}")]
    Refused {
        /// Kind of refusal.
        code: RefusalCode,
        /// Reason for a person.
        reason: String,
    },
    /// The control plane answered a request of the node with an error.
    #[error("{attempt}: {message} ({code})")]
    Status {
        /// For example `fetch image sha256-…`.
        attempt: String,
        /// HTTP status code.
        code: u16,
        /// The control plane's sentence.
        message: String,
    },
    /// The link is not up.
    #[error("the link to the control plane is not up")]
    Offline,
}

impl Error {
    /// Shorthand for `map_err` on file operations.
    pub(crate) fn file(attempt: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { attempt, path, source }
    }

    pub(crate) fn protocol(attempt: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Protocol {
            attempt,
            reason: reason.to_string(),
        }
    }
}
