//! Queries by UDP that wait for somebody outside.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

use nix::sys::socket::{self, MsgFlags, SockaddrStorage};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Shared, count, refuse};
use crate::dns::{
    message::{Rcode, UDP_SIZE},
    query::{Query, Refusal},
};

/// Most that wait at once: each takes about 2 KiB.
const MOST: usize = 1024;
/// Most of them that one client has: so that one that asks for what nobody answers leaves room for the others.
const MOST_PER_CLIENT: usize = 128;

/// A query that waits.
pub(in crate::dns) struct Miss {
    pub(super) query: Query,
    pub(super) client: IpAddr,
    pub(super) to: SocketAddr,
    pub(super) socket: Arc<OwnedFd>,
}

impl Miss {
    /// How many may be handed over before the first is looked at.
    pub(in crate::dns) fn channel() -> (mpsc::Sender<Self>, mpsc::Receiver<Self>) {
        mpsc::channel(MOST_PER_CLIENT)
    }

    /// Answers what comes until shutdown.
    pub(in crate::dns) async fn run(
        mut misses: mpsc::Receiver<Self>,
        shared: Arc<Shared>,
        shutdown: CancellationToken,
    ) {
        let mut waiting = JoinSet::new();
        let mut clients: HashMap<IpAddr, usize> = HashMap::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(done) = waiting.join_next() => {
                    // a task that panicked leaves its client with one place less
                    if let Ok(client) = done
                        && let Some(number) = clients.get_mut(&client)
                    {
                        *number -= 1;
                        if *number == 0 {
                            clients.remove(&client);
                        }
                    }
                }
                miss = misses.recv() => {
                    let Some(miss) = miss else { return };
                    let has = clients.get(&miss.client).copied().unwrap_or_default();
                    if waiting.len() >= MOST || has >= MOST_PER_CLIENT {
                        count(&shared.counters.limited, 1);
                        miss.refuse();
                        continue;
                    }
                    *clients.entry(miss.client).or_default() += 1;
                    count(&shared.counters.outside, 1);
                    waiting.spawn(miss.answer(Arc::clone(&shared)));
                }
            }
        }
    }

    async fn answer(self, shared: Arc<Shared>) -> IpAddr {
        let mut out = Vec::with_capacity(UDP_SIZE);
        shared
            .work(&self.query, self.client, self.query.udp_limit(), &mut out)
            .await;
        self.send(&out);
        self.client
    }

    fn refuse(&self) {
        let mut out = Vec::new();
        refuse(&Refusal::of(&self.query, Rcode::SERVFAIL), &mut out);
        self.send(&out);
    }

    fn send(&self, out: &[u8]) {
        // who cannot be reached asks again
        let _ = socket::sendto(
            self.socket.as_raw_fd(),
            out,
            &SockaddrStorage::from(self.to),
            MsgFlags::MSG_DONTWAIT,
        );
    }
}
