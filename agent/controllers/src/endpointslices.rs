//! EndpointSlices: which pods answer for each Service with a selector, told to every node in pieces of a hundred.
//!
//! A pod's readiness is acted on as soon as it is heard of; what happens while a write is under way goes into the next one.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::backends::{self, Triggers};
use crate::cache::{Cache, Change};
use crate::events::{Level, Recorder};
use crate::objects::endpoint_slice::EndpointSlice;
use crate::objects::node::Node;
use crate::objects::pod::Pod;
use crate::objects::service::Service;
use crate::objects::{Key, Owner, SERVICES};
use crate::pending::{LOOK_AGAIN, Pending};
use crate::queue::{Again, Queue};
use crate::requests::Requests;

pub(crate) mod plan;
pub(crate) mod writer;

use plan::{Observed, ZONE, plan};
use writer::Owned;

/// Services handled at the same time (`--concurrent-service-endpoint-syncs`).
const WORKERS: usize = 5;
/// Most endpoints of a slice (`--max-endpoints-per-slice`).
const PER_SLICE: usize = 100;
/// Value of the label that says who keeps a slice.
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// What the controller looks at.
pub(crate) struct Caches {
    pub(crate) services: Arc<Cache<Service>>,
    pub(crate) pods: Arc<Cache<Pod>>,
    pub(crate) nodes: Arc<Cache<Node>>,
    pub(crate) slices: Arc<Cache<EndpointSlice>>,
}

/// The controller.
pub(crate) struct EndpointSlices {
    requests: Requests,
    recorder: Recorder,
    caches: Caches,
    queue: Arc<Queue<Key>>,
    pending: Pending<EndpointSlice>,
    triggers: Triggers,
}

/// Queues the owner's key when a slice that `manager` keeps changes: an own write has arrived, or somebody else's hand was in it.
pub(crate) fn wake_by_slices(slices: &Cache<EndpointSlice>, manager: &'static str, queue: &Arc<Queue<Key>>) {
    let queue = Arc::clone(queue);
    slices.on_change(move |change| {
        let before = match change {
            Change::Put { previous, .. } => *previous,
            Change::Gone(_) => None,
        };
        for slice in [Some(change.object()), before].into_iter().flatten() {
            if slice.is_kept_by(manager)
                && let Some(key) = slice.service()
            {
                queue.add(key);
            }
        }
    });
}

/// Slices that `manager` keeps for the object of that key, without those that are on their way out.
pub(crate) fn kept_for(slices: &Cache<EndpointSlice>, key: &Key, manager: &str) -> Vec<Arc<EndpointSlice>> {
    let mut kept = slices.group(key);
    kept.retain(|slice| slice.is_kept_by(manager) && !slice.metadata.terminating());
    kept
}

impl EndpointSlices {
    pub(crate) fn new(requests: Requests, recorder: Recorder, caches: Caches) -> Self {
        let queue = Queue::new();
        let sink = Arc::clone(&queue);
        caches
            .services
            .on_change(move |change| sink.add(change.object().metadata.key.clone()));
        backends::wake_services(&caches.pods, &caches.services, &queue);
        wake_by_slices(&caches.slices, MANAGER, &queue);
        // A node that comes, goes or is in another zone: rare, and it may concern any Service.
        let sink = Arc::clone(&queue);
        let services = Arc::clone(&caches.services);
        caches.nodes.on_change(move |change| {
            if let Change::Put {
                previous: Some(previous),
                current,
            } = change
                && previous.metadata.label(ZONE) == current.metadata.label(ZONE)
            {
                return;
            }
            for service in services.all(Service::selects) {
                sink.add(service.metadata.key.clone());
            }
        });
        Self {
            requests,
            recorder,
            pending: Pending::new(caches.slices.clone()),
            caches,
            queue,
            triggers: Triggers::default(),
        }
    }

    /// Works until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let complete = async {
            self.caches.services.completed().await;
            self.caches.pods.completed().await;
            self.caches.nodes.completed().await;
            self.caches.slices.completed().await;
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = complete => {}
        }
        self.queue.work(WORKERS, &shutdown, |key| self.reconcile(key)).await;
        Ok(())
    }

    async fn reconcile(&self, key: Key) -> Result<Again, Error> {
        let Some(service) = self.caches.services.get(&key) else {
            // Its slices go by their owner.
            self.pending.forget(&key);
            self.triggers.forget(&key);
            return Ok(None);
        };
        if !service.selects() {
            return Ok(None);
        }
        if !self.pending.settled(&key) {
            return Ok(Some(LOOK_AGAIN));
        }
        let pods = self
            .caches
            .pods
            .within(&key.namespace, |pod| service.matches(&pod.metadata));
        let slices = kept_for(&self.caches.slices, &key, MANAGER);
        let trigger = self.triggers.look(&service, pods.iter().map(|pod| &**pod));
        let actions = plan(&Observed {
            service: &service,
            pods: &pods,
            slices: &slices,
            node: &|name| self.caches.nodes.get(&Key::new("", name)),
        });
        if actions.is_empty() {
            return Ok(None);
        }
        let owned = Owned {
            key: &key,
            owner: Owner::controller(&SERVICES, &service.metadata),
            terminating: service.metadata.terminating(),
            trigger,
        };
        let outcome = writer::apply(&self.requests, &self.pending, &owned, &actions).await;
        if let Err(error) = &outcome
            && !error.is_conflict()
            && !error.is_not_found()
        {
            let message = format!(
                "Error updating Endpoint Slices for Service {key}: {}",
                error.api_message()
            );
            self.recorder.tell(
                &SERVICES,
                &service.metadata,
                Level::Warning,
                "FailedToUpdateEndpointSlices",
                message,
            );
        }
        outcome.map(|()| None)
    }
}
