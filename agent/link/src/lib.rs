//! How nodes meet their control plane: discovery, identity, join, and the one multiplexed connection that everything rides on.
//!
//! Owns the cluster's certificate authority and join key, the tokens that let a board in, both ends of the TLS connection,
//! the frames that travel over it, and the node's copy of what it is to run. It never decides what runs, never opens the
//! store, and never trusts what multicast DNS says: an announcement is a hint where to dial, no more.
//!
//! # A node joins
//!
//! 1. The node has a token (`minidc1.…`: cluster name, CA pin, id, node name or `*`, expiry, and an HMAC of all of these
//!    under the cluster's join key). It makes its key and writes it to disk before anything leaves the board, so that a power
//!    cut at any later point is followed by a retry with the same key.
//! 2. It dials every address it knows (configured, last good, announced with the token's pin) and takes the first that
//!    completes TLS. Its verifier wants a chain to a CA whose key hashes to the pin, the server role, and the name
//!    `server.<cluster>.minidc`. Dates are not looked at: the board may have no clock. It shows no certificate.
//! 3. Only now does it send [`protocol::Opening::Join`] with the token and a signing request.
//! 4. The server checks MAC, expiry and node name, then records through [`server::ControlPlane`], by compare-and-swap, that
//!    the token belongs to this key and that the node name belongs to this key. The same key may repeat this; another
//!    may not.
//! 5. The server signs. Of the request it takes nothing but the key, whose possession the request proves: the subject is
//!    `CN=system:node:NAME, O=system:nodes`, the only use is client authentication, the life is 24 h.
//! 6. The node stores the certificate and dials again, now with it: [`protocol::Opening::Session`]. Both sides switch to
//!    yamux; the node opens the first stream, says hello, is welcomed with the store's identity and revision, and receives
//!    its feed.
//!
//! At half its life the certificate is renewed over the live link with a fresh key. An expired certificate opens nothing
//! but [`protocol::Opening::Renew`], and only when its key is the newest on record for that node, or the one before it while
//! the newest was never used.
//!
//! # Silence, delay
//!
//! Both sides hang up after [`session::SILENCE`] without a byte. Bulk streams share a window of
//! [`window::SESSION_WINDOW`] bytes in flight per session and direction, so that a heartbeat finds the wire free.
//!
//! # Current limitations
//!
//! - One control plane: the node keeps one link. Several would need one link each and a merged feed.
//! - Requests of a node to the API ride on the control stream and are limited to
//!   [`protocol::MAX_FRAME`] bytes in either direction.
//! - Handshakes and failed joins are bounded, connections that have not yet said what they want are not, except by time.
//! - There is no way to change the cluster's CA other than a new cluster.

pub mod admission;
pub mod clock;
pub mod discovery;
mod error;
pub mod feed;
mod files;
pub mod names;
pub mod node;
pub mod pki;
pub mod protocol;
pub mod server;
pub mod session;
pub mod token;
pub mod window;

#[cfg(test)]
mod tests;

pub use error::Error;

use tokio::io::{AsyncRead, AsyncWrite};

/// Anything that bytes go into and come out of.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A stream to or from the other side, after its opening frames.
pub type BoxedIo = Box<dyn Io>;
