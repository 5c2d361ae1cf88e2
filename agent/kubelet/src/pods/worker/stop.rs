//! Ending containers: the pod is withdrawn from its Services first, then come its hooks, then the signals.

use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1 as core;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::observed::{Observed, State};
use crate::plan::{Intent, Stop};
use crate::recorder::Severity;
use crate::runtime::RuntimeError;
use crate::sandbox;

use super::{Input, Worker};
use crate::pods::{hooks, start};

/// Least time between asking a container to end and killing it, as with Kubernetes.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// CRI counts in whole seconds.
const HALF_A_SECOND: Duration = Duration::from_millis(500);
/// Longest wait for the Services to stop offering a pod that is to go. The control plane may be away.
const LONGEST_WITHDRAWAL: Duration = Duration::from_secs(2);
/// For the other nodes, which hear of it at about the same time as this one, to change their rules.
const OTHER_NODES: Duration = Duration::from_millis(200);

/// The wait before a pod that takes requests is stopped.
pub(super) struct Drain {
    over: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

impl Worker {
    /// Whether the containers must go on for a moment because others may still send requests to them. Begins the wait
    /// when it is needed.
    pub(super) fn draining(&mut self, input: &Input, observed: &Observed) -> bool {
        // A pod whose object is gone has been withdrawn long ago, or nobody knows of it.
        let (Intent::Remove, true, Some(since)) = (input.intent, input.confirm, self.stopping_since) else {
            return false;
        };
        let grace = grace(input, None);
        let left = grace.saturating_sub(since.elapsed());
        let runs = observed
            .containers
            .iter()
            .any(|container| container.state == State::Running);
        if left.is_zero() || !runs {
            return false;
        }
        if self.drain.is_none() {
            let (namespace, name) = (self.identity.namespace.as_str(), self.identity.name.as_str());
            let over = CancellationToken::new();
            let surroundings = self.context.surroundings.clone();
            if !surroundings.offered(namespace, name) {
                over.cancel();
            }
            let withdrawn = surroundings.withdrawn(namespace, name);
            let (bell, signal) = (self.bell.clone(), over.clone());
            let task = tokio::spawn(async move {
                if signal.is_cancelled() {
                    return;
                }
                let wait = async {
                    // When it takes too long the pod goes all the same.
                    let _ = tokio::time::timeout(LONGEST_WITHDRAWAL, withdrawn).await;
                    tokio::time::sleep(OTHER_NODES).await;
                };
                let _ = tokio::time::timeout(left, wait).await;
                signal.cancel();
                bell.ring(None);
            });
            self.drain = Some(Drain {
                over,
                _task: AbortOnDropHandle::new(task),
            });
        }
        self.drain.as_ref().is_some_and(|drain| !drain.over.is_cancelled())
    }

    pub(super) async fn stop_containers(&mut self, input: &Input, observed: &Observed, stops: &[Stop]) {
        let empty = core::PodSpec::default();
        let spec = input.pod.spec.as_ref().unwrap_or(&empty);
        let begun = Instant::now();
        let since = self
            .stopping_since
            .filter(|_| input.intent == Intent::Remove)
            .unwrap_or(begun);
        let pod_ip = self.pod_ip(input, observed).unwrap_or_default();
        let mut orders = Vec::new();
        for stop in stops {
            let first = self.killing.insert(stop.id.clone());
            let field = start::field_path(spec, &stop.name);
            if first {
                self.context.recorder.container(
                    &self.identity,
                    &field,
                    Severity::Normal,
                    "Killing",
                    stop.message.clone(),
                );
            }
            let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
            let container = all.find(|container| container.name == stop.name);
            // A hook that was begun is not begun again.
            let hooked = container
                .filter(|_| first && observed.is_running(&stop.id))
                .and_then(|container| {
                    let handler = container.lifecycle.as_ref()?.pre_stop.as_ref()?;
                    Some((container, handler))
                });
            let (runtime, recorder, identity) = (
                self.context.runtime.clone(),
                self.context.recorder.clone(),
                self.identity.clone(),
            );
            let (mut wishes, id, own, pod_ip) = (self.input.clone(), stop.id.clone(), stop.grace, pod_ip.clone());
            orders.push(async move {
                if let Some((container, handler)) = hooked {
                    tokio::select! {
                        done = hooks::run(&*runtime, &identity, container, &id, &pod_ip, handler) => if let Err(error) = done {
                            tracing::info!(pod = %identity, error, "a hook before the stop failed");
                            // Without the reason, which may hold what the server keeps secret.
                            recorder.container(&identity, &field, Severity::Warning, "FailedPreStopHook", "PreStopHook failed");
                        },
                        () = expired(&mut wishes, since, own) => {}
                    }
                }
                loop {
                    let grace = grace(&wishes.borrow_and_update().clone(), own);
                    let left = grace.saturating_sub(since.elapsed()).max(LEAST_GRACE);
                    let seconds = i64::try_from((left + HALF_A_SECOND).as_secs()).unwrap_or(i64::MAX);
                    // Somebody may lose patience: then it is asked again with what is left.
                    let sooner = wishes.wait_for(|wish| self::grace(wish, own) < grace);
                    tokio::select! {
                        stopped = runtime.stop_container(&id, seconds) => return stopped,
                        Ok(_) = sooner => {}
                    }
                }
            });
        }
        let (bell, mut stopping) = (self.bell.clone(), std::pin::pin!(join_all(orders)));
        let results: Vec<Result<(), RuntimeError>> = loop {
            tokio::select! {
                results = &mut stopping => break results,
                // Who sends requests to the other containers hears of them all the while.
                () = bell.rung.notified() => self.tell_probed(input, observed),
            }
        };
        if let Some(error) = results.into_iter().find_map(Result::err) {
            tracing::warn!(pod = %self.identity, %error, "cannot stop a container, it is tried again");
            let delay = self.later("stop");
            tokio::time::sleep(delay).await;
        } else {
            self.failures.remove("stop");
        }
        self.killing.retain(|id| stops.iter().any(|stop| stop.id == *id));
    }
}

/// How long the containers of a pod may take to end; `own` is what the reason for the end allows, which a deletion
/// overrules.
fn grace(wish: &Input, own: Option<i64>) -> Duration {
    let deleted = wish.pod.metadata.deletion_grace_period_seconds.is_some();
    let seconds = own
        .filter(|_| !deleted)
        .unwrap_or_else(|| sandbox::grace_period(&wish.pod));
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// The time to end is over, by the newest wish.
async fn expired(wishes: &mut watch::Receiver<Input>, since: Instant, own: Option<i64>) {
    loop {
        let left = grace(&wishes.borrow_and_update().clone(), own).saturating_sub(since.elapsed());
        if left.is_zero() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(left) => {}
            changed = wishes.changed() => if changed.is_err() { return },
        }
    }
}
