//! Queries by TCP (RFC 7766): several on one connection, answered as they are ready.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, tcp::OwnedReadHalf},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::debug;

use super::{Shared, count, refuse};
use crate::dns::{
    answer::Outcome,
    message::Rcode,
    query::{Query, Received, Refusal, read},
};

/// How long a connection may be silent, or take to send a query or to accept an answer. RFC 7766 section 6.2.3: some
/// seconds.
const IDLE: Duration = Duration::from_secs(10);
/// Most connections.
const MOST: usize = 128;
/// Most connections of one client.
const MOST_PER_CLIENT: usize = 16;
/// Most queries of one connection that wait for others.
const MOST_WAITING: usize = 32;
/// Connections that the kernel keeps before they are accepted.
const BACKLOG: u32 = 128;

/// Accepts connections.
pub(in crate::dns) struct Listener(TcpListener);

impl Listener {
    /// Binds. The address need not be there yet.
    pub(in crate::dns) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
        socket.bind(address)?;
        Ok(Self(socket.listen(BACKLOG)?))
    }

    /// Serves until shutdown.
    pub(in crate::dns) async fn run(self, shared: Arc<Shared>, shutdown: CancellationToken) {
        let mut connections = JoinSet::new();
        let mut clients: HashMap<IpAddr, usize> = HashMap::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(done) = connections.join_next() => {
                    if let Ok(client) = done
                        && let Some(number) = clients.get_mut(&client)
                    {
                        *number -= 1;
                        if *number == 0 {
                            clients.remove(&client);
                        }
                    }
                }
                accepted = self.0.accept(), if connections.len() < MOST => match accepted {
                    Ok((stream, peer)) => {
                        let client = peer.ip().to_canonical();
                        let number = clients.entry(client).or_default();
                        if *number >= MOST_PER_CLIENT {
                            // dropped, which closes it
                            count(&shared.counters.limited, 1);
                            continue;
                        }
                        *number += 1;
                        let shared = Arc::clone(&shared);
                        connections.spawn(async move {
                            if let Err(error) = serve(stream, client, &shared).await {
                                debug!(%client, %error, "a DNS connection broke");
                            }
                            client
                        });
                    }
                    Err(error) => {
                        // out of file descriptors, or the client is gone already: give it time, or others a chance
                        debug!(%error, "accept a DNS connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
    }
}

/// Reads queries as they come from a task of its own: a query that is half read must not be lost when an answer is ready.
async fn serve(stream: TcpStream, client: IpAddr, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reading, mut writing) = stream.into_split();
    let (sender, mut queries) = mpsc::channel(1);
    let _reader = AbortOnDropHandle::new(tokio::spawn(receive(reading, sender)));
    let mut waiting = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(answer) = waiting.next() => send(&mut writing, answer).await?,
            message = queries.recv(), if waiting.len() < MOST_WAITING => match message {
                Some(message) => match handle(&message, client, shared)? {
                    Handled::Answer(answer) => send(&mut writing, answer).await?,
                    Handled::Wait(query) => waiting.push(work(*query, client, shared)),
                },
                None => break,
            },
        }
    }
    // what was asked is still answered
    while let Some(answer) = waiting.next().await {
        send(&mut writing, answer).await?;
    }
    Ok(())
}

/// Reads queries until the client has no more, or is silent for too long.
async fn receive(mut stream: OwnedReadHalf, queries: mpsc::Sender<Vec<u8>>) {
    loop {
        let message = timeout(IDLE, async {
            let length = stream.read_u16().await?;
            let mut message = vec![0; usize::from(length)];
            stream.read_exact(&mut message).await?;
            io::Result::Ok(message)
        });
        match message.await {
            Ok(Ok(message)) => {
                if queries.send(message).await.is_err() {
                    return;
                }
            }
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

async fn send(stream: &mut (impl AsyncWriteExt + Unpin), mut answer: Vec<u8>) -> io::Result<()> {
    let length = u16::try_from(answer.len() - 2).map_err(io::Error::other)?;
    answer[..2].copy_from_slice(&length.to_be_bytes());
    timeout(IDLE, stream.write_all(&answer)).await?
}

/// What became of a query.
enum Handled {
    /// The answer, after two bytes for its length.
    Answer(Vec<u8>),
    /// Somebody outside has to be asked.
    Wait(Box<Query>),
}

fn handle(message: &[u8], client: IpAddr, shared: &Shared) -> io::Result<Handled> {
    let now = shared.queries.now();
    count(&shared.counters.tcp, 1);
    if !shared.queries.admits(client, now) {
        count(&shared.counters.limited, 1);
        return Err(io::Error::other("the client asks too much"));
    }
    let mut out = vec![0; 2];
    match read(message) {
        Received::Nothing => return Err(io::Error::other("the client sends something else than queries")),
        Received::Refused(refusal) => refuse(&refusal, &mut out),
        Received::Query(query) => {
            let turn = shared.next_turn();
            let outcome = shared.answer(&shared.tables(), &query, client, usize::from(u16::MAX), turn, &mut out);
            if let Outcome::Ask(_) = outcome {
                if shared.asked.admits(client, now) {
                    count(&shared.counters.outside, 1);
                    return Ok(Handled::Wait(Box::new(query)));
                }
                count(&shared.counters.limited, 1);
                refuse(&Refusal::of(&query, Rcode::REFUSED), &mut out);
            }
        }
    }
    Ok(Handled::Answer(out))
}

async fn work(query: Query, client: IpAddr, shared: &Shared) -> Vec<u8> {
    let mut out = vec![0; 2];
    shared.work(&query, client, usize::from(u16::MAX), &mut out).await;
    out
}
