//! A network between node and control plane, as good or bad as wanted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Forwards TCP. With a rate it is a slow link with a bottomless queue, the worst kind for whoever waits behind a copy.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    /// Nothing gets through while this is true; nothing is closed either.
    pub(super) hold: watch::Sender<bool>,
    cut: Arc<Notify>,
    _running: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(super) async fn start(to: SocketAddr, bytes_per_second: Option<u32>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hold = watch::Sender::new(false);
        let cut = Arc::new(Notify::new());
        let (holding, cutting) = (hold.clone(), Arc::clone(&cut));
        let running = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(to).await else {
                    continue;
                };
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                let cutting = Arc::clone(&cutting);
                tokio::spawn(forward(
                    server_read,
                    client_write,
                    bytes_per_second,
                    holding.subscribe(),
                ));
                let holding = holding.subscribe();
                tokio::spawn(async move {
                    // The server's half of a cut connection stays open: it learns nothing.
                    let kept = forward_until(client_read, server_write, bytes_per_second, holding, &cutting).await;
                    tokio::time::sleep(Duration::from_secs(30)).await;
                    drop(kept);
                });
            }
        });
        Self {
            address,
            hold,
            cut,
            _running: AbortOnDropHandle::new(running),
        }
    }

    /// Nodes see their connections closed; the control plane sees nothing.
    pub(super) fn cut_clients(&self) {
        self.cut.notify_waiters();
    }
}

async fn forward_until(
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    rate: Option<u32>,
    hold: watch::Receiver<bool>,
    cut: &Notify,
) -> Option<OwnedWriteHalf> {
    let (queue, sending) = pipe(write, rate, hold);
    let ended = tokio::select! {
        () = fill(read, queue) => true,
        () = cut.notified() => false,
    };
    if ended {
        let _ = sending.await;
        return None;
    }
    std::future::pending().await
}

async fn forward(read: OwnedReadHalf, write: OwnedWriteHalf, rate: Option<u32>, hold: watch::Receiver<bool>) {
    let (queue, sending) = pipe(write, rate, hold);
    fill(read, queue).await;
    let _ = sending.await;
}

async fn fill(mut read: OwnedReadHalf, queue: mpsc::UnboundedSender<Vec<u8>>) {
    let mut buffer = vec![0; 1500];
    while let Ok(length @ 1..) = read.read(&mut buffer).await {
        if queue.send(buffer[..length].to_vec()).is_err() {
            return;
        }
    }
}

fn pipe(
    mut write: OwnedWriteHalf,
    rate: Option<u32>,
    mut hold: watch::Receiver<bool>,
) -> (mpsc::UnboundedSender<Vec<u8>>, tokio::task::JoinHandle<()>) {
    let (queue, mut packets) = mpsc::unbounded_channel::<Vec<u8>>();
    let sending = tokio::spawn(async move {
        let mut free = Instant::now();
        while let Some(packet) = packets.recv().await {
            if hold.wait_for(|hold| !hold).await.is_err() {
                return;
            }
            if let Some(rate) = rate {
                // Timers are late by a millisecond or two: what that cost may be made up for.
                let late = Instant::now().checked_sub(Duration::from_millis(5)).unwrap_or(free);
                free = free.max(late) + Duration::from_secs_f64(packet.len() as f64 / f64::from(rate));
                tokio::time::sleep_until(free).await;
            }
            if write.write_all(&packet).await.is_err() {
                return;
            }
        }
        // The end of a connection does not get through either.
        let _ = hold.wait_for(|hold| !hold).await;
    });
    (queue, sending)
}
