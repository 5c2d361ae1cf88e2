//! The live sessions, one per node name.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Connected, Refusal};
use crate::protocol::{RefusalCode, ServerFrame};
use crate::session::{HEARTBEAT, Opener, Outbox};

/// A session that holds a name and has a heartbeat within this time is alive.
const PROOF_OF_LIFE: Duration = HEARTBEAT.saturating_add(Duration::from_millis(500));
/// A session that was told to end is given this long to do so.
const PARTING: Duration = Duration::from_secs(2);

/// A session that holds a node name.
pub(super) struct Live {
    pub(super) node: String,
    pub(super) address: SocketAddr,
    pub(super) instance: Uuid,
    pub(super) opener: Opener,
    pub(super) outbox: Outbox<ServerFrame>,
    /// The key that the node has proven last.
    key: Mutex<String>,
    /// Set once: the session is to end.
    ending: watch::Sender<Option<Refusal>>,
    /// Sequence of the last heartbeat.
    pub(super) beat: watch::Sender<u64>,
    /// The session has ended, and the control plane was told.
    gone: CancellationToken,
}

impl Live {
    pub(super) fn new(
        node: String,
        key: String,
        address: SocketAddr,
        instance: Uuid,
        opener: Opener,
        outbox: Outbox<ServerFrame>,
    ) -> Arc<Self> {
        Arc::new(Self {
            node,
            address,
            instance,
            opener,
            outbox,
            key: Mutex::new(key),
            ending: watch::Sender::new(None),
            beat: watch::Sender::new(0),
            gone: CancellationToken::new(),
        })
    }

    pub(super) fn key(&self) -> String {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_key(&self, key: String) {
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = key;
    }

    /// Asks the session to end; the first reason counts.
    pub(super) fn end(&self, refusal: Refusal) {
        self.ending.send_if_modified(|ending| {
            let first = ending.is_none();
            if first {
                *ending = Some(refusal);
            }
            first
        });
    }

    /// Completes when the session is to end.
    pub(super) async fn ending(&self) -> Refusal {
        let mut receiver = self.ending.subscribe();
        match receiver.wait_for(Option::is_some).await.map(|ending| ending.clone()) {
            Ok(Some(refusal)) => refusal,
            _ => Refusal::new(RefusalCode::Unavailable, "the control plane is stopping"),
        }
    }

    pub(super) fn describe(&self) -> Connected {
        Connected {
            node: self.node.clone(),
            address: self.address,
            instance: self.instance,
        }
    }
}

#[derive(Default)]
pub(super) struct Registry(Arc<Mutex<HashMap<String, Arc<Live>>>>);

/// The right to a name, given back when dropped.
pub(super) struct Place {
    registry: Arc<Mutex<HashMap<String, Arc<Live>>>>,
    live: Arc<Live>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut map = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if map
            .get(&self.live.node)
            .is_some_and(|live| Arc::ptr_eq(live, &self.live))
        {
            map.remove(&self.live.node);
        }
        drop(map);
        self.live.gone.cancel();
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Live>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, node: &str) -> Option<Arc<Live>> {
        self.lock().get(node).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Live>> {
        self.lock().values().cloned().collect()
    }

    /// Takes the place of `live.node`. A session of the same program is replaced at once: the node dialled again because it
    /// heard nothing. One of another program is replaced too, if it shows no sign of life: the board was restarted. Otherwise
    /// two boards carry the same identity, and the second is refused.
    pub(super) async fn take(&self, live: &Arc<Live>) -> Result<Place, Refusal> {
        loop {
            let other = {
                let mut map = self.lock();
                match map.get(&live.node) {
                    Some(other) => Arc::clone(other),
                    None => {
                        map.insert(live.node.clone(), Arc::clone(live));
                        return Ok(Place {
                            registry: Arc::clone(&self.0),
                            live: Arc::clone(live),
                        });
                    }
                }
            };
            if other.instance != live.instance && is_alive(&other).await {
                return Err(Refusal::new(
                    RefusalCode::DuplicateName,
                    format!(
                        "a board with the identity of node {} is connected from {}; is this card a copy?",
                        live.node,
                        other.address.ip()
                    ),
                ));
            }
            other.end(Refusal::new(
                RefusalCode::Replaced,
                "a newer session of this node has come",
            ));
            if tokio::time::timeout(PARTING, other.gone.cancelled()).await.is_err() {
                return Err(Refusal::new(
                    RefusalCode::Unavailable,
                    "the session before this one has not ended yet",
                ));
            }
        }
    }
}

async fn is_alive(live: &Live) -> bool {
    let mut beat = live.beat.subscribe();
    tokio::select! {
        changed = tokio::time::timeout(PROOF_OF_LIFE, beat.changed()) => matches!(changed, Ok(Ok(()))),
        () = live.gone.cancelled() => false,
    }
}
