//! Deployments: ReplicaSets of one template after the other, brought up and down within the bounds asked for.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::cache::{Cache, Change};
use crate::events::{Level, Recorder};
use crate::objects::deployment::Deployment;
use crate::objects::pod::Pod;
use crate::objects::replica_set::{ReplicaSet, Template};
use crate::objects::{DEPLOYMENTS, Key, Owner, REPLICA_SETS};
use crate::owners::{self, Claim, claim};
use crate::pending::{LOOK_AGAIN, Pending};
use crate::queue::{Again, Queue};
use crate::requests::{Deletion, Requests};

pub(crate) mod plan;
pub(crate) mod revision;
pub(crate) mod scaling;
pub(crate) mod status;

use plan::{NewSet, Observed, Plan, Update, plan};

/// Deployments handled at the same time.
const WORKERS: usize = 4;
/// The controller.
pub(crate) struct Deployments {
    requests: Requests,
    recorder: Recorder,
    deployments: Arc<Cache<Deployment>>,
    sets: Arc<Cache<ReplicaSet>>,
    pods: Arc<Cache<Pod>>,
    queue: Arc<Queue<Key>>,
    written: Pending<Deployment>,
    written_sets: Pending<ReplicaSet>,
}

impl Deployments {
    pub(crate) fn new(
        requests: Requests,
        recorder: Recorder,
        deployments: Arc<Cache<Deployment>>,
        sets: Arc<Cache<ReplicaSet>>,
        pods: Arc<Cache<Pod>>,
    ) -> Self {
        let queue = Queue::new();
        let sink = Arc::clone(&queue);
        deployments.on_change(move |change| sink.add(change.object().metadata.key.clone()));

        owners::wake_owners(&sets, &deployments, DEPLOYMENTS, &queue, |deployment| {
            deployment.selector.as_ref()
        });

        // Recreate waits until the last old pod is gone; nothing else of a pod concerns a Deployment directly.
        let sink = Arc::clone(&queue);
        let known = Arc::clone(&sets);
        pods.on_change(move |change| {
            let ended = match change {
                Change::Gone(_) => true,
                Change::Put { previous, current } => {
                    current.finished() && previous.is_none_or(|previous| !previous.finished())
                }
            };
            if !ended {
                return;
            }
            if let Some(set) =
                owners::managed_by(&REPLICA_SETS, &change.object().metadata).and_then(|key| known.get(&key))
                && let Some(key) = owners::managed_by(&DEPLOYMENTS, &set.metadata)
            {
                sink.add(key);
            }
        });
        Self {
            requests,
            recorder,
            written: Pending::new(Arc::clone(&deployments)),
            written_sets: Pending::new(Arc::clone(&sets)),
            deployments,
            sets,
            pods,
            queue,
        }
    }

    /// Works until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let caches = async {
            self.deployments.completed().await;
            self.sets.completed().await;
            self.pods.completed().await;
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = caches => {}
        }
        self.queue.work(WORKERS, &shutdown, |key| self.reconcile(key)).await;
        Ok(())
    }

    async fn reconcile(&self, key: Key) -> Result<Again, Error> {
        let Some(deployment) = self.deployments.get(&key) else {
            self.written.forget(&key);
            self.written_sets.forget(&key);
            return Ok(None);
        };
        if !self.written.settled(&key) || !self.written_sets.settled(&key) {
            return Ok(Some(LOOK_AGAIN));
        }
        let Some(selector) = &deployment.selector else {
            return Ok(None);
        };
        if selector.is_empty() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.tell(
                &DEPLOYMENTS,
                &deployment.metadata,
                Level::Warning,
                "SelectingAll",
                message,
            );
            return Ok(None);
        }

        let mut mine = Vec::new();
        for set in self.sets.within(&key.namespace, |_| true) {
            match claim(&deployment.metadata, selector.matches(&set.metadata), &set.metadata) {
                Claim::Mine => mine.push(set),
                Claim::Adopt => {
                    // The adopted set comes back through the cache, and with it the next look.
                    return owners::adopt(
                        &self.requests,
                        (&DEPLOYMENTS, &deployment.metadata),
                        (&REPLICA_SETS, &set.metadata),
                    )
                    .await
                    .map(|()| Some(LOOK_AGAIN));
                }
                Claim::Release => {
                    owners::release(&self.requests, &deployment.metadata, (&REPLICA_SETS, &set.metadata)).await?;
                }
                Claim::Other => {}
            }
        }
        let pods = self.pods.within(&key.namespace, |pod| {
            pod.metadata
                .controller()
                .is_some_and(|owner| mine.iter().any(|set| set.metadata.uid == owner.uid))
        });
        let observed = Observed {
            deployment: &deployment,
            sets: &mine,
            pods: &pods,
            now: Timestamp::now(),
        };
        self.apply(&deployment, plan(&observed)).await
    }

    async fn apply(&self, deployment: &Deployment, mut plan: Plan) -> Result<Again, Error> {
        let key = &deployment.metadata.key;
        let mut failure = None;
        if let Some(new) = &plan.create
            && let Err(error) = self.create(deployment, new, &mut plan.status).await
        {
            plan.revision = None;
            failure = Some(error);
        }
        for update in &plan.updates {
            self.update(deployment, update).await?;
        }
        for set in &plan.delete {
            self.requests
                .delete(&REPLICA_SETS.path_of(&set.metadata.key), Deletion::of(&set.metadata))
                .await?;
        }

        let mut at = deployment.metadata.revision;
        let path = DEPLOYMENTS.path_of(key);
        if let Some(revision) = plan.revision {
            let body = json!({"metadata": {
                "resourceVersion": at.to_string(),
                "annotations": {revision::REVISION: revision},
            }});
            at = self.requests.merge(&path, &body).await?.revision();
            self.written.wrote(key, at);
        }
        if plan.status != deployment.status {
            let body = json!({"metadata": {"resourceVersion": at.to_string()}, "status": plan.status});
            let reply = self.requests.merge(&format!("{path}/status"), &body).await?;
            self.written.wrote(key, reply.revision());
        }
        failure.map_or(Ok(plan.again), Err)
    }

    /// Makes a new set. A set of the same name that is ours is taken for it; one that is not counts as a collision of hashes.
    async fn create(
        &self,
        deployment: &Deployment,
        new: &NewSet,
        status: &mut crate::objects::deployment::DeploymentStatus,
    ) -> Result<(), Error> {
        let key = &deployment.metadata.key;
        match self
            .requests
            .create(&REPLICA_SETS.collection(&key.namespace), &body(deployment, new))
            .await
        {
            Ok(reply) => {
                self.written_sets.wrote(key, reply.revision());
                if new.replicas > 0 {
                    let message = format!("Scaled up replica set {} from 0 to {}", new.name, new.replicas);
                    self.recorder.tell(
                        &DEPLOYMENTS,
                        &deployment.metadata,
                        Level::Normal,
                        "ScalingReplicaSet",
                        message,
                    );
                }
                Ok(())
            }
            Err(error) if error.is_already_exists() => {
                let path = REPLICA_SETS.path(&key.namespace, &new.name);
                let there: Option<Value> = self.requests.get(&path).await?;
                let ours = there.is_some_and(|there| {
                    let owned = there["metadata"]["ownerReferences"].as_array().is_some_and(|owners| {
                        owners.iter().any(|owner| {
                            owner["controller"] == json!(true) && owner["uid"] == json!(deployment.metadata.uid)
                        })
                    });
                    owned && revision::same_template(&Template::new(&there["spec"]["template"]), &deployment.template)
                });
                if !ours {
                    status.collision_count = Some(status.collision_count.unwrap_or_default().saturating_add(1));
                }
                Ok(())
            }
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => {
                let message = format!(
                    "Failed to create new replica set \"{}\": {}",
                    new.name,
                    error.api_message()
                );
                if deployment.progress_deadline.is_some() {
                    let failed = status::new_condition(
                        status::PROGRESSING,
                        "False",
                        "ReplicaSetCreateError",
                        message.clone(),
                        Timestamp::now(),
                    );
                    status::set_condition(&mut status.conditions, failed);
                }
                self.recorder.tell(
                    &DEPLOYMENTS,
                    &deployment.metadata,
                    Level::Warning,
                    "ReplicaSetCreateError",
                    message,
                );
                Err(error)
            }
        }
    }

    async fn update(&self, deployment: &Deployment, update: &Update) -> Result<(), Error> {
        let set = &update.set;
        let mut body = json!({"metadata": {"resourceVersion": set.metadata.revision.to_string()}});
        if !update.annotations.is_empty() {
            body["metadata"]["annotations"] = json!(update.annotations);
        }
        if let Some(replicas) = update.replicas {
            body["spec"]["replicas"] = replicas.into();
        }
        if let Some(seconds) = update.min_ready_seconds {
            body["spec"]["minReadySeconds"] = seconds.into();
        }
        let reply = self
            .requests
            .merge(&REPLICA_SETS.path_of(&set.metadata.key), &body)
            .await?;
        self.written_sets.wrote(&deployment.metadata.key, reply.revision());
        if let Some(replicas) = update.replicas {
            let direction = if replicas > set.replicas { "up" } else { "down" };
            let name = &set.metadata.key.name;
            let message = format!(
                "Scaled {direction} replica set {name} from {} to {replicas}",
                set.replicas
            );
            self.recorder.tell(
                &DEPLOYMENTS,
                &deployment.metadata,
                Level::Normal,
                "ScalingReplicaSet",
                message,
            );
        }
        Ok(())
    }
}

/// A ReplicaSet of the Deployment's present template.
fn body(deployment: &Deployment, new: &NewSet) -> Value {
    let mut template = deployment.template.value();
    let labelled = |mut holder: Value| {
        if !holder.is_object() {
            holder = json!({});
        }
        holder[revision::TEMPLATE_HASH] = new.hash.clone().into();
        holder
    };
    let labels = labelled(template["metadata"]["labels"].take());
    template["metadata"]["labels"] = labels.clone();
    let mut selector = deployment.selector_value.clone();
    selector["matchLabels"] = labelled(selector["matchLabels"].take());
    json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": new.name,
            "namespace": &*deployment.metadata.key.namespace,
            "labels": labels,
            "annotations": new.annotations,
            "ownerReferences": [Owner::controller(&DEPLOYMENTS, &deployment.metadata)],
        },
        "spec": {
            "replicas": new.replicas,
            "minReadySeconds": deployment.min_ready_seconds,
            "selector": selector,
            "template": template,
        },
    })
}
