//! ReplicaSets: as many pods as asked for, no more and no fewer.
//!
//! A pod that was just created or deleted is expected in the cache before the next pod is: so none is made twice.

use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::cache::Cache;
use crate::events::{Level, Recorder};
use crate::objects::pod::Pod;
use crate::objects::replica_set::ReplicaSet;
use crate::objects::{Key, Owner, PODS, REPLICA_SETS, Stored};
use crate::owners::{self, Claim, claim};
use crate::pending::{LOOK_AGAIN, Pending};
use crate::queue::{Again, Queue};
use crate::requests::{Deletion, Requests};

pub(crate) mod ranking;
pub(crate) mod status;

use ranking::sort_by_dispensability;
use status::Failure;

/// ReplicaSets handled at the same time.
const WORKERS: usize = 8;
/// Most pods created or deleted in one go (`replicaset.BurstReplicas`).
const BURST: usize = 500;
/// Size of the first batch of pods, doubled while creation works (`controller.SlowStartInitialBatchSize`).
const FIRST_BATCH: usize = 1;
/// Most requests under way at once for one set: enough for the store to gather writes, little enough for one user.
const AT_ONCE: usize = 32;
/// The controller.
pub(crate) struct ReplicaSets {
    requests: Requests,
    recorder: Recorder,
    pods: Arc<Cache<Pod>>,
    sets: Arc<Cache<ReplicaSet>>,
    queue: Arc<Queue<Key>>,
    /// Pods created and deleted.
    made: Pending<Pod>,
    /// Own status of the sets.
    written: Pending<ReplicaSet>,
}

impl ReplicaSets {
    pub(crate) fn new(
        requests: Requests,
        recorder: Recorder,
        pods: Arc<Cache<Pod>>,
        sets: Arc<Cache<ReplicaSet>>,
    ) -> Self {
        let queue = Queue::new();
        let sink = Arc::clone(&queue);
        sets.on_change(move |change| sink.add(change.object().metadata().key.clone()));
        owners::wake_owners(&pods, &sets, REPLICA_SETS, &queue, |set| set.selector.as_ref());
        Self {
            requests,
            recorder,
            made: Pending::new(Arc::clone(&pods)),
            written: Pending::new(Arc::clone(&sets)),
            pods,
            sets,
            queue,
        }
    }

    /// Works until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = async { self.pods.completed().await; self.sets.completed().await } => {}
        }
        self.queue.work(WORKERS, &shutdown, |key| self.reconcile(key)).await;
        Ok(())
    }

    async fn reconcile(&self, key: Key) -> Result<Again, Error> {
        let Some(set) = self.sets.get(&key) else {
            self.made.forget(&key);
            self.written.forget(&key);
            return Ok(None);
        };
        if !self.made.settled(&key) || !self.written.settled(&key) {
            return Ok(Some(LOOK_AGAIN));
        }
        let Some(selector) = set.selector.as_ref().filter(|selector| !selector.is_empty()) else {
            return Ok(None);
        };

        let mut mine = Vec::new();
        let candidates = self.pods.within(&key.namespace, |pod| {
            pod.active() && (selector.matches(&pod.metadata) || pod.metadata.controller().is_some())
        });
        for pod in candidates {
            match claim(&set.metadata, selector.matches(&pod.metadata), &pod.metadata) {
                Claim::Mine => mine.push(pod),
                Claim::Adopt => {
                    owners::adopt(&self.requests, (&REPLICA_SETS, &set.metadata), (&PODS, &pod.metadata)).await?;
                    mine.push(pod);
                }
                Claim::Release => owners::release(&self.requests, &set.metadata, (&PODS, &pod.metadata)).await?,
                Claim::Other => {}
            }
        }

        let outcome = if set.metadata.terminating() {
            Ok(())
        } else {
            self.manage(&set, mine.clone()).await
        };
        let uid = &set.metadata.uid;
        let ending = self.pods.within(&key.namespace, |pod| {
            pod.metadata.terminating()
                && !pod.finished()
                && pod.metadata.controller().is_some_and(|owner| owner.uid == *uid)
        });
        let ending = ending.len();
        let (failure, error) = match outcome {
            Ok(()) => (None, None),
            Err((failure, error)) => (Some(failure), Some(error)),
        };
        let (status, again) = status::status(&set, &mine, ending, failure, Timestamp::now());
        if status != set.status {
            let body = json!({"metadata": {"resourceVersion": set.metadata.revision.to_string()}, "status": status});
            let reply = self
                .requests
                .merge(&format!("{}/status", REPLICA_SETS.path_of(&key)), &body)
                .await;
            match reply {
                Ok(reply) => self.written.wrote(&key, reply.revision()),
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        error.map_or(Ok(again), Err)
    }

    /// Creates what is missing or deletes what is too much.
    async fn manage(&self, set: &Arc<ReplicaSet>, pods: Vec<Arc<Pod>>) -> Result<(), (Failure, Error)> {
        let wanted = usize::try_from(set.replicas).unwrap_or_default();
        if pods.len() < wanted {
            let missing = (wanted - pods.len()).min(BURST);
            self.create(set, missing)
                .await
                .map_err(|error| (("FailedCreate", error.api_message()), error))
        } else if pods.len() > wanted {
            let surplus = (pods.len() - wanted).min(BURST);
            self.delete(set, pods, surplus)
                .await
                .map_err(|error| (("FailedDelete", error.api_message()), error))
        } else {
            Ok(())
        }
    }

    async fn create(&self, set: &ReplicaSet, count: usize) -> Result<(), Error> {
        let owner = Owner::controller(&REPLICA_SETS, &set.metadata);
        let body = status::pod_from_template(set, &owner);
        let collection = PODS.collection(&set.metadata.key.namespace);
        let mut left = count;
        let mut batch = FIRST_BATCH;
        while left > 0 {
            let size = batch.min(left);
            let replies = join_all((0..size).map(|_| self.requests.create(&collection, &body))).await;
            let mut failed = None;
            for reply in replies {
                match reply {
                    Ok(reply) => {
                        self.made.wrote(&set.metadata.key, reply.revision());
                        let message = format!("Created pod: {}", reply.metadata.name);
                        self.recorder
                            .tell(&REPLICA_SETS, &set.metadata, Level::Normal, "SuccessfulCreate", message);
                    }
                    // Its namespace goes, and the set with it.
                    Err(error) if error.is_namespace_terminating() => return Ok(()),
                    Err(error) => {
                        let message = format!("Error creating: {}", error.api_message());
                        self.recorder
                            .tell(&REPLICA_SETS, &set.metadata, Level::Warning, "FailedCreate", message);
                        failed = Some(error);
                    }
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            left -= size;
            batch = (size * 2).min(AT_ONCE);
        }
        Ok(())
    }

    async fn delete(&self, set: &ReplicaSet, mut pods: Vec<Arc<Pod>>, count: usize) -> Result<(), Error> {
        if count < pods.len() {
            sort_by_dispensability(&mut pods, &self.related(set), Timestamp::now());
        }
        pods.truncate(count);
        for pod in &pods {
            self.made.deletes(&set.metadata.key, &pod.metadata);
        }
        let mut outcomes = Vec::with_capacity(pods.len());
        for some in pods.chunks(AT_ONCE) {
            let work = some.iter().map(|pod| async move {
                self.requests
                    .delete(&PODS.path_of(&pod.metadata.key), Deletion::of(&pod.metadata))
                    .await
            });
            outcomes.extend(join_all(work).await);
        }
        let mut failed = None;
        for (pod, outcome) in pods.iter().zip(outcomes) {
            match outcome {
                Ok(()) => {
                    let message = format!("Deleted pod: {}", pod.metadata.key.name);
                    self.recorder
                        .tell(&REPLICA_SETS, &set.metadata, Level::Normal, "SuccessfulDelete", message);
                }
                Err(error) => {
                    self.made.kept(&set.metadata.key, &pod.metadata);
                    let message = format!("Error deleting: {}", error.api_message());
                    self.recorder
                        .tell(&REPLICA_SETS, &set.metadata, Level::Warning, "FailedDelete", message);
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Pods of the sets that the same controller manages, e.g. of one Deployment.
    fn related(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let namespace = &set.metadata.key.namespace;
        let parent = set.metadata.controller().map(|owner| owner.uid.clone());
        let siblings = self.sets.within(namespace, |other| {
            other.metadata.uid == set.metadata.uid
                || parent.is_some() && other.metadata.controller().map(|owner| &owner.uid) == parent.as_ref()
        });
        self.pods.within(namespace, |pod| {
            pod.metadata
                .controller()
                .is_some_and(|owner| siblings.iter().any(|sibling| sibling.metadata().uid == owner.uid))
        })
    }
}
