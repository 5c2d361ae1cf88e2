//! Endpoints: the older form of EndpointSlices, kept for programs that still read it. Nodes do not.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::backends::{self, Triggers};
use crate::cache::{Cache, Change};
use crate::events::{Level, Recorder};
use crate::objects::endpoint_slice::{HEADLESS, Pairs, TRIGGER_TIME};
use crate::objects::endpoints::{Endpoints, LEADER, Subset};
use crate::objects::pod::Pod;
use crate::objects::service::Service;
use crate::objects::{ENDPOINTS, Key, SERVICES};
use crate::pending::{LOOK_AGAIN, Pending};
use crate::queue::{Again, Queue};
use crate::requests::{Deletion, Reply, Requests};

mod subsets;

/// Services handled at the same time (`--concurrent-endpoint-syncs`).
const WORKERS: usize = 5;
/// Label: who keeps Endpoints.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Its value for this controller.
const MANAGER: &str = "endpoint-controller";
/// Annotation of Endpoints that do not hold all addresses.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// What the controller looks at.
pub(crate) struct Caches {
    pub(crate) services: Arc<Cache<Service>>,
    pub(crate) pods: Arc<Cache<Pod>>,
    pub(crate) endpoints: Arc<Cache<Endpoints>>,
}

/// The controller.
pub(crate) struct EndpointsController {
    requests: Requests,
    recorder: Recorder,
    caches: Caches,
    queue: Arc<Queue<Key>>,
    pending: Pending<Endpoints>,
    triggers: Triggers,
    /// Services that were seen to go: even Endpoints that a person made go with them.
    gone: Arc<Mutex<HashSet<Key>>>,
}

fn lock(gone: &Mutex<HashSet<Key>>) -> MutexGuard<'_, HashSet<Key>> {
    gone.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Labels of the Endpoints of a Service, sorted.
fn labels(service: &Service) -> Pairs {
    let mut labels: Vec<(Box<str>, Box<str>)> = service
        .metadata
        .labels
        .iter()
        .filter(|(name, _)| !matches!(&**name, HEADLESS | MANAGED_BY))
        .cloned()
        .collect();
    labels.push((MANAGED_BY.into(), MANAGER.into()));
    if service.headless {
        labels.push((HEADLESS.into(), "".into()));
    }
    labels.sort_unstable();
    labels.into()
}

impl EndpointsController {
    pub(crate) fn new(requests: Requests, recorder: Recorder, caches: Caches) -> Self {
        let queue = Queue::new();
        let gone: Arc<Mutex<HashSet<Key>>> = Arc::default();
        let (sink, seen) = (Arc::clone(&queue), Arc::clone(&gone));
        caches.services.on_change(move |change| {
            let key = &change.object().metadata.key;
            match change {
                Change::Gone(_) => {
                    lock(&seen).insert(key.clone());
                }
                Change::Put { .. } => {
                    lock(&seen).remove(key);
                }
            }
            sink.add(key.clone());
        });
        backends::wake_services(&caches.pods, &caches.services, &queue);
        let sink = Arc::clone(&queue);
        caches.endpoints.on_change(move |change| {
            let wanted = match change {
                // An own write has arrived, or somebody else's hand was in it; or it outlived its Service while nobody listened.
                Change::Put { current, .. } => current.metadata.label(MANAGED_BY) == Some(MANAGER),
                Change::Gone(_) => true,
            };
            if wanted {
                sink.add(change.object().metadata.key.clone());
            }
        });
        Self {
            requests,
            recorder,
            pending: Pending::new(caches.endpoints.clone()),
            caches,
            queue,
            triggers: Triggers::default(),
            gone,
        }
    }

    /// Works until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let complete = async {
            self.caches.services.completed().await;
            self.caches.pods.completed().await;
            self.caches.endpoints.completed().await;
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
            self.pending.forget(&key);
            self.triggers.forget(&key);
            return self.remove(&key).await;
        };
        if !service.selects() || service.metadata.terminating() {
            return Ok(None);
        }
        if !self.pending.settled(&key) {
            return Ok(Some(LOOK_AGAIN));
        }
        let pods = self
            .caches
            .pods
            .within(&key.namespace, |pod| service.matches(&pod.metadata));
        let trigger = self.triggers.look(&service, pods.iter().map(|pod| &**pod));
        let mut wanted = subsets::subsets(&service, &pods);
        let truncated = subsets::truncate(&mut wanted).then_some("truncated");
        let labels = labels(&service);
        let present = self.caches.endpoints.get(&key);
        if present.as_ref().is_some_and(|present| {
            present.subsets == wanted
                && crate::endpointslices::plan::labelled(&present.metadata, &labels)
                && present.annotation(OVER_CAPACITY) == truncated
        }) {
            return Ok(None);
        }

        let mut body = json!({
            "metadata": {"annotations": {TRIGGER_TIME: trigger, OVER_CAPACITY: truncated}},
            "subsets": wanted.iter().map(Subset::to_value).collect::<Vec<_>>(),
        });
        let mut all: Map<String, Value> = Map::new();
        if let Some(present) = &present {
            all.extend(
                present
                    .metadata
                    .labels
                    .iter()
                    .map(|(name, _)| (name.to_string(), Value::Null)),
            );
            body["metadata"]["uid"] = (*present.metadata.uid).into();
            body["metadata"]["resourceVersion"] = present.metadata.revision.to_string().into();
        }
        all.extend(labels.iter().map(|(name, value)| (name.to_string(), (**value).into())));
        body["metadata"]["labels"] = all.into();
        let reply = if present.is_some() {
            self.requests.merge(&ENDPOINTS.path_of(&key), &body).await
        } else {
            body["apiVersion"] = ENDPOINTS.api_version().into();
            body["kind"] = (*ENDPOINTS.kind).into();
            body["metadata"]["name"] = (*key.name).into();
            if let Some(annotations) = body["metadata"]["annotations"].as_object_mut() {
                annotations.retain(|_, value| !value.is_null());
            }
            self.requests.create(&ENDPOINTS.collection(&key.namespace), &body).await
        };
        match reply {
            Ok(reply) => {
                self.pending.wrote(&key, reply.revision());
                Ok(None)
            }
            // Its namespace goes, and the Service with it.
            Err(error) if error.is_namespace_terminating() => Ok(None),
            Err(error) => {
                if !error.is_conflict() && !error.is_not_found() && !error.is_already_exists() {
                    let (reason, attempt) = match present {
                        Some(_) => ("FailedToUpdateEndpoint", "update endpoint"),
                        None => ("FailedToCreateEndpoint", "create endpoint for service"),
                    };
                    let message = format!("Failed to {attempt} {key}: {}", error.api_message());
                    self.recorder
                        .tell(&SERVICES, &service.metadata, Level::Warning, reason, message);
                }
                Err(error)
            }
        }
    }

    /// Endpoints go with their Service, once the API itself says that it is gone. Those that a person made stay if nobody saw it go: it may
    /// never have been there.
    async fn remove(&self, key: &Key) -> Result<Again, Error> {
        let seen = lock(&self.gone).contains(key);
        let left = self.caches.endpoints.get(key).filter(|left| {
            (seen || left.metadata.label(MANAGED_BY) == Some(MANAGER))
                && left.annotation(LEADER).is_none()
                && !left.metadata.terminating()
        });
        if let Some(left) = left {
            let live: Option<Reply> = self.requests.get(&SERVICES.path_of(key)).await?;
            if live.is_none() {
                self.requests
                    .delete(&ENDPOINTS.path_of(key), Deletion::of(&left.metadata))
                    .await?;
            }
        }
        lock(&self.gone).remove(key);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::from_json;

    #[test]
    fn endpoints_carry_the_labels_of_their_service_and_say_who_keeps_them() {
        let service = |address: &str| {
            from_json::<Service>(json!({
                "metadata": {"name": "web", "labels": {"app": "web", HEADLESS: "no", MANAGED_BY: "somebody"}},
                "spec": {"clusterIP": address},
            }))
        };
        let pairs = |list: &[(&str, &str)]| -> Pairs { list.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect() };
        assert_eq!(
            labels(&service("100.65.0.9")),
            pairs(&[("app", "web"), (MANAGED_BY, MANAGER)])
        );
        assert_eq!(
            labels(&service("None")),
            pairs(&[("app", "web"), (MANAGED_BY, MANAGER), (HEADLESS, "")])
        );
    }
}
