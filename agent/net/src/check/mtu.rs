//! Whether the largest packets pass between two pods.
//!
//! Linux forbids on the way to take such a packet apart, and learns from the complaint of a router that it was too large
//! (path MTU discovery, RFC 1191). A smaller limit that is told is therefore in order; packets that vanish are not.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use nix::sys::socket::{getsockopt, sockopt::IpMtu};
use tokio::net::UdpSocket;

use super::probe::{self, Outcome};

/// IPv4 and UDP headers.
const HEADERS: usize = 28;
/// How long an answer is waited for; one that comes, comes within milliseconds.
const TRY: Duration = Duration::from_secs(1);
/// How long the same is tried again, while routes may still be on their way.
const PATIENCE: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_millis(250);
/// Packet sizes that are tried when the largest do not pass: a tunnel in Ethernet, other tunnels, the smallest that IPv6 and
/// that IPv4 must carry.
const SMALLER: [usize; 4] = [1450, 1400, 1280, 576];

/// Sends a packet of the size that the route to `target` has, and expects one as large back from the stand-in of `node`.
pub(super) async fn check(target: SocketAddr, node: &str) -> Outcome {
    let socket = probe::socket(target).await.map_err(|error| probe::described(&error))?;
    let first = size(&socket).map_err(|error| error.to_string())?;
    let begin = Instant::now();
    loop {
        let now = size(&socket).map_err(|error| error.to_string())?;
        if passes(&socket, now, node).await {
            return Ok(if now < first {
                format!("{now} bytes: something on the way takes no more, and says so")
            } else {
                format!("{now} bytes")
            });
        }
        if begin.elapsed() > PATIENCE {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    for smaller in SMALLER.into_iter().filter(|smaller| *smaller < first) {
        if passes(&socket, smaller, node).await {
            return Err(format!(
                "packets of {first} bytes are lost on the way, those of {smaller} arrive"
            ));
        }
    }
    Err("no packet of any size is answered".into())
}

/// The largest packet that the route takes, as far as is known.
fn size(socket: &UdpSocket) -> io::Result<usize> {
    let size = getsockopt(socket, IpMtu)?;
    Ok(usize::try_from(size).unwrap_or_default().max(HEADERS))
}

async fn passes(socket: &UdpSocket, size: usize, node: &str) -> bool {
    let exchange = probe::exchange(socket, size.saturating_sub(HEADERS), node);
    matches!(tokio::time::timeout(TRY, exchange).await, Ok(Ok(_)))
}
