//! A network namespace with a thread in it that answers like a pod, and that asks other stand-ins on request.

use std::{future::Future, io, net::Ipv4Addr, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use nix::sched::{CloneFlags, unshare};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, mpsc, oneshot},
};

use super::{Finding, PORT};
use crate::Error;

/// Connections answered at a time.
const CONNECTIONS: usize = 64;
/// Longest time for a connection to say what it wants.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of stack of the thread.
const STACK: usize = 512 << 10;

/// What a connection sends, ended by a newline; the answer is the node's name and a newline.
pub(super) const GREETING: &[u8] = b"who is there?\n";

type Work = Pin<Box<dyn Future<Output = Vec<Finding>> + Send>>;

struct Order {
    work: Work,
    answer: oneshot::Sender<Vec<Finding>>,
}

/// The thread's side is over once this is dropped, and the namespace with it.
pub(super) struct StandIn {
    /// The namespace, as long as the thread lives.
    pub(super) path: PathBuf,
    orders: mpsc::Sender<Order>,
}

impl StandIn {
    /// Makes the namespace. It has no way out until it is plugged in.
    pub(super) async fn start(node: &str) -> Result<Self, Error> {
        let (orders, receiver) = mpsc::channel(1);
        let (ready, started) = oneshot::channel();
        let node = format!("{node}\n").into_bytes();
        std::thread::Builder::new()
            .name("net-check".into())
            .stack_size(STACK)
            .spawn(move || live(node, receiver, ready))
            .map_err(failed)?;
        let path = started
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended")))
            .map_err(failed)?;
        Ok(Self { path, orders })
    }

    /// Does the work inside the namespace: every socket that it opens is a pod's.
    pub(super) async fn inside(&self, work: impl Future<Output = Vec<Finding>> + Send + 'static) -> Vec<Finding> {
        let (answer, answered) = oneshot::channel();
        let work: Work = Box::pin(work);
        if self.orders.send(Order { work, answer }).await.is_err() {
            return Vec::new();
        }
        answered.await.unwrap_or_default()
    }
}

fn failed(source: io::Error) -> Error {
    Error::StandIn { source }
}

fn live(node: Vec<u8>, mut orders: mpsc::Receiver<Order>, ready: oneshot::Sender<io::Result<PathBuf>>) {
    let begin = || -> io::Result<(tokio::runtime::Runtime, PathBuf)> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
        // all on this thread, the only one in the namespace
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok((runtime, path.into()))
    };
    let (runtime, path) = match begin() {
        Ok(begun) => begun,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    runtime.block_on(async {
        let listen = async {
            let any = (Ipv4Addr::UNSPECIFIED, PORT);
            io::Result::Ok((TcpListener::bind(any).await?, UdpSocket::bind(any).await?))
        };
        let (tcp, udp) = match listen.await {
            Ok(sockets) => sockets,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let node: Arc<[u8]> = node.into();
        tokio::spawn(answer_connections(tcp, Arc::clone(&node)));
        tokio::spawn(answer_datagrams(udp, node));
        let _ = ready.send(Ok(path));
        while let Some(Order { work, answer }) = orders.recv().await {
            let _ = answer.send(work.await);
        }
    });
}

async fn answer_connections(listener: TcpListener, node: Arc<[u8]>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        let Ok((connection, _)) = listener.accept().await else {
            // out of file descriptors, or the peer gave up: let others go first
            tokio::task::yield_now().await;
            continue;
        };
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            let _ = tokio::time::timeout(LIMIT, answer(connection, &node)).await;
            drop(permit);
        });
    }
}

async fn answer(connection: TcpStream, node: &[u8]) -> io::Result<()> {
    let mut connection = BufReader::with_capacity(64, connection);
    // whatever it says, as far as the buffer holds it
    connection.fill_buf().await?;
    connection.get_mut().write_all(node).await?;
    connection.get_mut().shutdown().await
}

/// Answers with as many bytes as came, so that nobody gets more than they sent and both ways carry the same.
async fn answer_datagrams(socket: UdpSocket, node: Arc<[u8]>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let name = node.len().min(length);
        buffer[..name].copy_from_slice(&node[..name]);
        buffer[name..length].fill(0);
        let _ = socket.send_to(&buffer[..length], from).await;
    }
}
