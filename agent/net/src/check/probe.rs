//! Asking another node's stand-in, and the cluster's DNS. What fails is tried again for a while: rules and routes of a
//! stand-in that was only just made may still be on their way.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
};

use super::ask::{self, Answer};
use super::stand_in::GREETING;

/// How long a thing that fails is tried again.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long one try may take.
const TRY: Duration = Duration::from_secs(2);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest answer: the longest name of a node and a newline.
const ANSWER: u64 = 254;
/// Bytes of a small datagram: room for the longest answer.
const SMALL: usize = 254;

/// How a probe went, and what there is to say.
pub(super) type Outcome = Result<String, String>;

/// Tries until it goes well or patience ends, and tells how long it takes once the way is known, or why the last try failed.
async fn patiently<F: Future<Output = io::Result<String>>>(attempt: impl Fn() -> F) -> Outcome {
    let begin = Instant::now();
    loop {
        let mut start = Instant::now();
        let reason = match tokio::time::timeout(TRY, attempt()).await {
            Ok(Ok(said)) => {
                // the first try also had to find the neighbours
                let mut took = start.elapsed();
                start = Instant::now();
                if let Ok(Ok(_)) = tokio::time::timeout(TRY, attempt()).await {
                    took = took.min(start.elapsed());
                }
                return Ok(format!("{said}{:.1} ms", took.as_secs_f64() * 1e3));
            }
            Ok(Err(error)) => described(&error),
            Err(_) => format!("no answer within {} s", TRY.as_secs()),
        };
        if begin.elapsed() > PATIENCE {
            return Err(reason);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The error in words that say what it means here.
pub(super) fn described(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".into(),
        io::ErrorKind::HostUnreachable => "no host there answers".into(),
        io::ErrorKind::NetworkUnreachable => "no route leads there".into(),
        io::ErrorKind::PermissionDenied => "a firewall on this node forbids it".into(),
        _ => error.to_string(),
    }
}

fn expect(node: &str, said: &[u8]) -> io::Result<String> {
    let name = said.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if name == node.as_bytes() {
        return Ok(String::new());
    }
    Err(io::Error::other(match std::str::from_utf8(name) {
        Ok("") => "the connection ended without an answer".into(),
        Ok(other) => format!("{other} answered instead"),
        Err(_) => "something else answered".into(),
    }))
}

/// A TCP connection on which the stand-in of `node` answers.
pub(super) async fn tcp(target: SocketAddr, node: &str) -> Outcome {
    patiently(|| async {
        let mut connection = TcpStream::connect(target).await?;
        connection.write_all(GREETING).await?;
        let mut said = Vec::new();
        connection.take(ANSWER).read_to_end(&mut said).await?;
        expect(node, &said)
    })
    .await
}

/// A datagram that the stand-in of `node` answers.
pub(super) async fn udp(target: SocketAddr, node: &str) -> Outcome {
    patiently(|| async {
        let socket = socket(target).await?;
        exchange(&socket, SMALL, node).await
    })
    .await
}

pub(super) async fn socket(target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// Sends so many bytes and expects as many back.
pub(super) async fn exchange(socket: &UdpSocket, length: usize, node: &str) -> io::Result<String> {
    socket.send(&vec![b'?'; length]).await?;
    let mut answer = vec![0; length];
    let received = socket.recv(&mut answer).await?;
    expect(node, &answer[..received])
}

/// A name of the cluster leads to `expected`, or to any address if there is none.
pub(super) async fn name(server: SocketAddr, name: &str, expected: Option<IpAddr>) -> Outcome {
    patiently(|| async {
        let found = match ask::address(server, name).await? {
            Answer::Address(address) => IpAddr::V4(address),
            Answer::Other(what) => return Err(io::Error::other(format!("{name}: {what}"))),
        };
        match expected {
            Some(expected) if expected != found => {
                Err(io::Error::other(format!("{name} is {found} and not {expected}")))
            }
            _ => Ok(format!("{name} is {found}, ")),
        }
    })
    .await
}
