//! Mirroring: Endpoints that somebody made for a Service without a selector become slices, which is what nodes read.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::cache::{Cache, Change};
use crate::endpointslices::writer::{self, Owned};
use crate::endpointslices::{kept_for, wake_by_slices};
use crate::events::{Level, Recorder};
use crate::objects::endpoint_slice::EndpointSlice;
use crate::objects::endpoints::{Endpoints, LEADER};
use crate::objects::service::Service;
use crate::objects::{ENDPOINT_SLICES, ENDPOINTS, Key, Owner, SERVICES};
use crate::pending::{LOOK_AGAIN, Pending};
use crate::queue::{Again, Queue};
use crate::requests::{Deletion, Reply, Requests};

mod plan;

use plan::{MOST, plan};

/// Endpoints handled at the same time (`--mirroring-concurrent-service-endpoint-syncs`).
const WORKERS: usize = 5;
/// Value of the label that says who keeps a slice.
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Label of Endpoints that want no mirror.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";

/// What the controller looks at.
pub(crate) struct Caches {
    pub(crate) services: Arc<Cache<Service>>,
    pub(crate) endpoints: Arc<Cache<Endpoints>>,
    pub(crate) slices: Arc<Cache<EndpointSlice>>,
}

/// The controller.
pub(crate) struct Mirroring {
    requests: Requests,
    recorder: Recorder,
    caches: Caches,
    queue: Arc<Queue<Key>>,
    pending: Pending<EndpointSlice>,
}

fn wants_mirror(endpoints: &Endpoints) -> bool {
    endpoints.metadata.label(SKIP) != Some("true") && endpoints.annotation(LEADER).is_none()
}

impl Mirroring {
    pub(crate) fn new(requests: Requests, recorder: Recorder, caches: Caches) -> Self {
        let queue = Queue::new();
        let sink = Arc::clone(&queue);
        caches.services.on_change(move |change| {
            let service = change.object();
            let same = match change {
                Change::Put {
                    previous: Some(previous),
                    current,
                } => previous.selector.is_empty() == current.selector.is_empty(),
                Change::Put { previous: None, .. } | Change::Gone(_) => !service.selector.is_empty(),
            };
            if !same {
                sink.add(service.metadata.key.clone());
            }
        });
        let sink = Arc::clone(&queue);
        let services = Arc::clone(&caches.services);
        caches.endpoints.on_change(move |change| {
            let key = &change.object().metadata.key;
            // Those of Services with a selector change with every pod, and are nobody's concern here.
            if services.get(key).is_none_or(|service| service.selector.is_empty()) {
                sink.add(key.clone());
            }
        });
        wake_by_slices(&caches.slices, MANAGER, &queue);
        Self {
            requests,
            recorder,
            pending: Pending::new(caches.slices.clone()),
            caches,
            queue,
        }
    }

    /// Works until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let complete = async {
            self.caches.services.completed().await;
            self.caches.endpoints.completed().await;
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
        if !self.pending.settled(&key) {
            return Ok(Some(LOOK_AGAIN));
        }
        let slices = kept_for(&self.caches.slices, &key, MANAGER);
        let endpoints = self.caches.endpoints.get(&key).filter(|known| wants_mirror(known));
        let service = self.caches.services.get(&key);
        let (Some(endpoints), Some(service)) = (endpoints, service) else {
            return self.remove(&key, &slices).await;
        };
        if !service.selector.is_empty() {
            return self.delete(&key, &slices).await;
        }
        let (actions, skipped) = plan(&endpoints, &slices);
        if skipped.invalid > 0 {
            let message = format!(
                "Skipped {} invalid IP addresses when mirroring to EndpointSlices",
                skipped.invalid
            );
            self.tell(&endpoints, "InvalidIPAddress", message);
        }
        if skipped.beyond > 0 {
            let message = format!(
                "A max of {MOST} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                skipped.beyond
            );
            self.tell(&endpoints, "TooManyAddressesToMirror", message);
        }
        if actions.is_empty() {
            return Ok(None);
        }
        let owned = Owned {
            key: &key,
            owner: Owner::controller(&ENDPOINTS, &endpoints.metadata),
            terminating: endpoints.metadata.terminating(),
            trigger: None,
        };
        writer::apply(&self.requests, &self.pending, &owned, &actions).await?;
        Ok(None)
    }

    fn tell(&self, endpoints: &Endpoints, reason: &'static str, message: String) {
        self.recorder
            .tell(&ENDPOINTS, &endpoints.metadata, Level::Warning, reason, message);
    }

    /// Takes the mirror away if, by the API's own word, there is nothing to mirror or nobody to mirror it for.
    async fn remove(&self, key: &Key, slices: &[Arc<EndpointSlice>]) -> Result<Again, Error> {
        if slices.is_empty() {
            self.pending.forget(key);
            return Ok(None);
        }
        let unwanted = self
            .caches
            .endpoints
            .get(key)
            .is_some_and(|known| !wants_mirror(&known));
        if !unwanted {
            let endpoints: Option<Reply> = self.requests.get(&ENDPOINTS.path_of(key)).await?;
            let service: Option<Reply> = self.requests.get(&SERVICES.path_of(key)).await?;
            if endpoints.is_some() && service.is_some() {
                return Ok(Some(LOOK_AGAIN));
            }
        }
        self.delete(key, slices).await
    }

    async fn delete(&self, key: &Key, slices: &[Arc<EndpointSlice>]) -> Result<Again, Error> {
        for slice in slices {
            self.pending.deletes(key, &slice.metadata);
            let path = ENDPOINT_SLICES.path_of(&slice.metadata.key);
            if let Err(error) = self.requests.delete(&path, Deletion::of(&slice.metadata)).await {
                self.pending.kept(key, &slice.metadata);
                return Err(error);
            }
        }
        Ok(None)
    }
}
