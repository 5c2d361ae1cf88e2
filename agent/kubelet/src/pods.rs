//! All pods of the node: one task for each, told what is wanted and what happened.

mod hooks;
mod image;
mod news;
mod start;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::desired::Desired;
use crate::identity::PodIdentity;
use crate::plan::Intent;
use crate::resources::{self, QosClass};
use crate::runtime::{RuntimeError, RuntimeEvent, label};

pub(crate) use start::field_path;

use news::{asks_the_same, same_sources};
use worker::{Bell, Input, Worker};

/// Everything is looked at this often, in case an event was lost.
const RELIST: Duration = Duration::from_secs(60);
/// Between containerd's event of a new image and its CRI part knowing it.
const IMAGE_SETTLES: Duration = Duration::from_millis(100);
/// Wait before a look that failed is repeated.
const RELIST_AGAIN: Duration = Duration::from_secs(2);

/// A pod's task as seen from here.
struct Task {
    input: watch::Sender<Input>,
    bell: Arc<Bell>,
    /// What the runtime held of the pod at the last look: ids and states.
    fingerprint: Vec<(String, i32)>,
}

/// What the runtime holds of a pod, by its labels.
struct Listed {
    pod: PodIdentity,
    /// Ids and states of its sandboxes and containers.
    states: Vec<(String, i32)>,
    /// Its grace period in seconds.
    grace: i64,
}

/// Keeps one task per pod.
pub(crate) struct Pods {
    context: Arc<Context>,
    desired: watch::Receiver<Arc<Desired>>,
    tasks: BTreeMap<String, Task>,
    running: JoinSet<PodIdentity>,
    /// Pods that are finished here but whose objects have not gone yet.
    finished: BTreeSet<String>,
    /// Which pod a container or sandbox belongs to.
    owners: BTreeMap<String, String>,
    last: Arc<Desired>,
    /// Directories without a pod have been looked for since the desired state became complete.
    swept: bool,
}

impl Pods {
    pub(crate) fn new(context: Arc<Context>, desired: watch::Receiver<Arc<Desired>>) -> Self {
        Self {
            context,
            desired,
            tasks: BTreeMap::new(),
            running: JoinSet::new(),
            finished: BTreeSet::new(),
            owners: BTreeMap::new(),
            last: Arc::default(),
            swept: false,
        }
    }

    /// Runs until `shutdown`; containers keep running.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut events = self.context.runtime.events();
        let mut relist = tokio::time::interval(RELIST);
        relist.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.desired.mark_changed();
        let mut images_at = None;
        loop {
            let images_settled = async {
                match images_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = images_settled => {
                    images_at = None;
                    self.context.images_changed.send_modify(|count| *count += 1);
                }
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let desired = self.desired.borrow_and_update().clone();
                    let newly_synced = desired.synced && !self.last.synced;
                    self.dispatch(&desired);
                    if newly_synced {
                        relist.reset_immediately();
                    }
                }
                Some(event) = events.next() => match event {
                    RuntimeEvent::Opened => {
                        self.tasks.values().for_each(|task| task.bell.ring(None));
                        relist.reset_immediately();
                    }
                    RuntimeEvent::Container { id, ended } => self.touched(&id, ended).await,
                    RuntimeEvent::Images => images_at = Some(tokio::time::Instant::now() + IMAGE_SETTLES),
                },
                _ = relist.tick() => if let Err(error) = self.relist().await {
                    tracing::debug!(%error, "the runtime cannot be listed");
                    relist.reset_after(RELIST_AGAIN);
                },
                Some(ended) = self.running.join_next(), if !self.running.is_empty() => match ended {
                    Ok(pod) => {
                        self.tasks.remove(&pod.uid);
                        self.owners.retain(|_, uid| *uid != pod.uid);
                        self.finished.insert(pod.uid);
                        let desired = self.last.clone();
                        self.finished.retain(|uid| desired.pods.values().any(|pod| pod.metadata.uid.as_ref() == Some(uid)));
                    }
                    Err(error) => {
                        // A defect; the pod gets a new task, and what runs of it is adopted.
                        tracing::error!(%error, "the task of a pod broke off");
                        self.tasks.retain(|_, task| !task.input.is_closed());
                        let desired = self.last.clone();
                        self.dispatch(&desired);
                        relist.reset_after(RELIST_AGAIN);
                    }
                },
            }
        }
        self.running.shutdown().await;
    }

    fn dispatch(&mut self, desired: &Arc<Desired>) {
        let old = std::mem::replace(&mut self.last, desired.clone());
        let mut wanted = BTreeSet::new();
        for pod in desired.pods.values() {
            let identity = PodIdentity::of(pod);
            wanted.insert(identity.uid.clone());
            if self.finished.contains(&identity.uid) {
                continue;
            }
            self.want(&old, desired, identity, pod);
        }
        self.finished.retain(|uid| wanted.contains(uid));
        if desired.synced {
            // Absence is an order only once the whole picture is known.
            for (uid, task) in &self.tasks {
                if !wanted.contains(uid) {
                    task.input.send_if_modified(|input| {
                        let news = input.intent != Intent::Remove || input.confirm;
                        if news {
                            *input = Input {
                                intent: Intent::Remove,
                                confirm: false,
                                version: input.version + 1,
                                ..input.clone()
                            };
                        }
                        news
                    });
                }
            }
        }
        self.share_cpu(desired);
    }

    fn want(&mut self, old: &Desired, desired: &Arc<Desired>, identity: PodIdentity, pod: &Arc<Pod>) {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let confirm = pod.metadata.deletion_timestamp.is_some();
        let intent = match phase {
            _ if confirm => Intent::Remove,
            Some("Succeeded" | "Failed") => Intent::End,
            _ => Intent::Run,
        };
        let Some(task) = self.tasks.get(&identity.uid) else {
            let input = Input {
                pod: pod.clone(),
                intent,
                desired: desired.clone(),
                confirm,
                version: 0,
            };
            self.spawn(identity, input);
            return;
        };
        self.context.statuses.compare(&identity, pod);
        task.input.send_if_modified(|input| {
            let same_pod = Arc::ptr_eq(&input.pod, pod);
            let same_pod = same_pod || asks_the_same(&input.pod, pod);
            let news =
                input.intent != intent || input.confirm != confirm || !same_pod || !same_sources(old, desired, pod);
            input.desired = desired.clone();
            input.pod = pod.clone();
            if news {
                (input.intent, input.confirm) = (intent, confirm);
                input.version += 1;
            }
            news
        });
    }

    fn spawn(&mut self, identity: PodIdentity, input: Input) {
        let (sender, receiver) = watch::channel(input);
        let bell = Arc::new(Bell::default());
        let worker = Worker::new(self.context.clone(), identity.clone(), receiver, bell.clone());
        self.running.spawn(worker.run());
        self.tasks.insert(
            identity.uid,
            Task {
                input: sender,
                bell,
                fingerprint: Vec::new(),
            },
        );
    }

    /// Rings for the pod that a container or sandbox belongs to.
    async fn touched(&mut self, id: &str, ended: bool) {
        if !self.owners.contains_key(id) {
            // Made since the last look; the runtime knows whose it is.
            let runtime = &self.context.runtime;
            let labels = match runtime.container_status(id).await {
                Ok(status) => status.labels,
                Err(_) => runtime
                    .sandbox_status(id)
                    .await
                    .map(|status| status.labels)
                    .unwrap_or_default(),
            };
            if let Some(uid) = labels.get(label::POD_UID) {
                self.owners.insert(id.to_owned(), uid.clone());
            }
        }
        if let Some(task) = self.owners.get(id).and_then(|uid| self.tasks.get(uid)) {
            task.bell.ring(Some((id, ended)));
        }
    }

    async fn relist(&mut self) -> Result<(), RuntimeError> {
        let runtime = &self.context.runtime;
        let (sandboxes, containers) = futures::join!(runtime.sandboxes(None), runtime.containers(None));
        let (sandboxes, containers) = (sandboxes?, containers?);
        let mut found: BTreeMap<String, Listed> = BTreeMap::new();
        self.owners.clear();
        let listed = sandboxes
            .iter()
            .map(|sandbox| (&sandbox.id, &sandbox.labels, &sandbox.annotations, sandbox.state));
        let listed = listed.chain(containers.iter().map(|container| {
            (
                &container.id,
                &container.labels,
                &container.annotations,
                container.state + 100,
            )
        }));
        for (id, labels, annotations, state) in listed {
            let of = |key: &str| labels.get(key).cloned().unwrap_or_default();
            let pod = PodIdentity {
                namespace: of(label::POD_NAMESPACE),
                name: of(label::POD_NAME),
                uid: of(label::POD_UID),
            };
            if pod.uid.is_empty() {
                continue;
            }
            self.owners.insert(id.clone(), pod.uid.clone());
            let grace = annotations
                .get(label::GRACE_PERIOD)
                .and_then(|grace| grace.parse().ok())
                .unwrap_or(30);
            let fresh = |pod| Listed {
                pod,
                states: Vec::new(),
                grace,
            };
            let entry = found.entry(pod.uid.clone()).or_insert_with(|| fresh(pod));
            entry.states.push((id.clone(), state));
        }
        for (uid, task) in &mut self.tasks {
            let mut now = found.get(uid).map(|listed| listed.states.clone()).unwrap_or_default();
            now.sort();
            if now != task.fingerprint {
                task.fingerprint = now;
                task.bell.ring(None);
            }
        }
        if !self.last.synced {
            return Ok(());
        }
        let known: BTreeSet<String> = self
            .last
            .pods
            .values()
            .filter_map(|pod| pod.metadata.uid.clone())
            .chain(self.tasks.keys().cloned())
            .collect();
        let orphans: Vec<_> = found.into_iter().filter(|(uid, _)| !known.contains(uid)).collect();
        for (_, Listed { pod, grace, .. }) in orphans {
            tracing::info!(%pod, "runs here but is not wanted any more");
            let input = Input {
                pod: Arc::new(stand_in(&pod, grace)),
                intent: Intent::Remove,
                desired: self.last.clone(),
                confirm: false,
                version: 0,
            };
            self.spawn(pod, input);
        }
        if !std::mem::replace(&mut self.swept, true) {
            self.sweep(&known).await;
        }
        Ok(())
    }

    /// Removes what pods left on disk that neither run nor are wanted.
    async fn sweep(&self, known: &BTreeSet<String>) {
        let context = self.context.clone();
        let known: BTreeSet<String> = known.iter().chain(self.tasks.keys()).cloned().collect();
        let swept = tokio::task::spawn_blocking(move || {
            for entry in std::fs::read_dir(&context.directories.pods)
                .into_iter()
                .flatten()
                .flatten()
            {
                let uid = entry.file_name().to_string_lossy().into_owned();
                if !known.contains(&uid) {
                    let pod = PodIdentity {
                        namespace: String::new(),
                        name: String::new(),
                        uid,
                    };
                    if let Err(error) = crate::volumes::clean_up(&context.directories, &pod) {
                        tracing::warn!(uid = pod.uid, %error, "cannot remove the files of a pod that is gone");
                    }
                    context.cgroups.remove(&pod);
                }
            }
            for entry in std::fs::read_dir(&context.directories.logs)
                .into_iter()
                .flatten()
                .flatten()
            {
                let name = entry.file_name().to_string_lossy().into_owned();
                // namespace_name_uid; none of them has an underscore.
                let mut parts = name.split('_');
                let (Some(_), Some(_), Some(uid), None) = (parts.next(), parts.next(), parts.next(), parts.next())
                else {
                    continue;
                };
                if !known.contains(uid)
                    && let Err(error) = std::fs::remove_dir_all(entry.path())
                {
                    tracing::warn!(uid, %error, "cannot remove the logs of a pod that is gone");
                }
            }
        });
        if swept.await.is_err() {
            tracing::error!("looking for leftovers broke off");
        }
    }

    /// The classes compete by what their pods requested.
    fn share_cpu(&self, desired: &Desired) {
        let mut sums = QosClass::ALL.map(|class| (class, 0));
        for pod in desired.pods.values() {
            let class = pod.spec.as_ref().map_or(QosClass::BestEffort, resources::qos_class);
            if let Some((_, sum)) = sums.iter_mut().find(|(known, _)| *known == class) {
                *sum += resources::requested_cpu(pod);
            }
        }
        for (class, milli) in sums {
            if let Err(error) = self
                .context
                .cgroups
                .set_class_shares(class, resources::cpu_shares(milli))
            {
                tracing::debug!(?class, %error, "the class runs without its share");
            }
        }
    }
}

/// A pod of which only the runtime's labels are known.
fn stand_in(pod: &PodIdentity, grace: i64) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            termination_grace_period_seconds: Some(grace),
            ..PodSpec::default()
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests;
