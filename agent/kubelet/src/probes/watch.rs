//! The task that probes one container instance.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1 as core;
use tokio::time::{MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::identity::PodIdentity;
use crate::recorder::{Recorder, Severity};
use crate::runtime::Runtime;

use super::check::{Outcome, check};
use super::{Board, Kind, Verdict};

/// Tries of a check that could not be made (`maxProbeRetries` in Kubernetes).
const TRIES: u32 = 3;

/// What is probed, and who is told.
pub(super) struct Watch {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) recorder: Recorder,
    pub(super) identity: PodIdentity,
    /// Path of the container in the pod, for events.
    pub(super) field: String,
    pub(super) container: core::Container,
    pub(super) id: String,
    pub(super) pod_ip: String,
    /// When the container began to run.
    pub(super) since: Instant,
    /// Part of a period to wait before the first check.
    pub(super) first: f64,
    pub(super) board: Arc<Board>,
}

/// A positive number of seconds or tries, with Kubernetes' default.
fn positive(value: Option<i32>, default: u32) -> u32 {
    value
        .and_then(|value| u32::try_from(value).ok())
        .filter(|value| *value > 0)
        .unwrap_or(default)
}

/// How long one check may take.
pub(super) fn limit(probe: &core::Probe) -> Duration {
    Duration::from_secs(positive(probe.timeout_seconds, 1).into())
}

impl Watch {
    /// Probes until a probe says that the container must be restarted; else for ever. After `ending` only readiness
    /// counts.
    pub(super) async fn run(self: Box<Self>, verdict: Verdict, ending: CancellationToken) {
        if let Some(probe) = self.container.startup_probe.as_ref().filter(|_| !verdict.started) {
            let mut started = false;
            let starting = self.watch(Kind::Startup, probe, |success| {
                started = success;
                ControlFlow::Break(())
            });
            tokio::select! {
                () = starting => {}
                () = ending.cancelled() => {}
            }
            if !started {
                if !ending.is_cancelled() {
                    self.fail(Kind::Startup);
                }
                return;
            }
            let ready = self.container.readiness_probe.is_none();
            self.board.update(&self.id, |verdict| {
                verdict.started = true;
                verdict.ready |= ready;
            });
        }
        let readiness = async {
            if let Some(probe) = &self.container.readiness_probe {
                self.watch(Kind::Readiness, probe, |success| {
                    self.board.update(&self.id, |verdict| verdict.ready = success);
                    ControlFlow::Continue(())
                })
                .await;
            }
        };
        let liveness = async {
            if let Some(probe) = &self.container.liveness_probe {
                let mut failed = false;
                let living = self.watch(Kind::Liveness, probe, |success| {
                    failed = !success;
                    if success {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                });
                tokio::select! {
                    () = living => {}
                    () = ending.cancelled() => {}
                }
                if failed && !ending.is_cancelled() {
                    self.fail(Kind::Liveness);
                }
            }
        };
        futures::join!(readiness, liveness);
    }

    fn fail(&self, kind: Kind) {
        self.board.update(&self.id, |verdict| verdict.failed = Some(kind));
    }

    /// Checks at every turn of the probe's period, and acts whenever a threshold is reached.
    async fn watch(&self, kind: Kind, probe: &core::Probe, mut act: impl FnMut(bool) -> ControlFlow<()>) {
        let period = Duration::from_secs(positive(probe.period_seconds, 10).into());
        let delay = u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0);
        let begin = self.since + Duration::from_secs(delay);
        let begin = begin.max(Instant::now() + period.mul_f64(self.first));
        let mut turns = interval_at(begin.into(), period);
        // As a Go ticker: a turn that was missed comes at once, the others stay where they were.
        turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut count = Count::new(probe);
        loop {
            turns.tick().await;
            if let Some(success) = self.once(kind, probe).await
                && let Some(reached) = count.add(success)
                && act(reached).is_break()
            {
                return;
            }
        }
    }

    /// One check with its event; `None` when it could not be made, which counts neither way.
    async fn once(&self, kind: Kind, probe: &core::Probe) -> Option<bool> {
        let mut tries = 0;
        let outcome = loop {
            tries += 1;
            // On the heap only while it is under way: a waiting task stays small.
            let outcome = Box::pin(check(
                &*self.runtime,
                &self.id,
                &self.container,
                &self.pod_ip,
                probe,
                limit(probe),
            ))
            .await;
            if tries == TRIES || !matches!(outcome, Outcome::Error(_)) {
                break outcome;
            }
        };
        let (result, reason, message) = match outcome {
            Outcome::Success => return Some(true),
            Outcome::Warning(text) => (Some(true), "ProbeWarning", format!("{kind} probe warning: {text}")),
            Outcome::Failure(text) => (Some(false), "Unhealthy", format!("{kind} probe failed: {text}")),
            Outcome::Error(text) => (
                None,
                "Unhealthy",
                format!("{kind} probe errored and resulted in unknown state: {text}"),
            ),
        };
        self.recorder
            .container(&self.identity, &self.field, Severity::Warning, reason, message);
        result
    }
}

/// Results in a row, against the thresholds.
struct Count {
    successes: u32,
    failures: u32,
    last: Option<bool>,
    run: u32,
}

impl Count {
    fn new(probe: &core::Probe) -> Self {
        Self {
            successes: positive(probe.success_threshold, 1),
            failures: positive(probe.failure_threshold, 3),
            last: None,
            run: 0,
        }
    }

    /// The result, once it has come often enough in a row.
    fn add(&mut self, success: bool) -> Option<bool> {
        if self.last != Some(success) {
            (self.last, self.run) = (Some(success), 0);
        }
        self.run = self.run.saturating_add(1);
        let threshold = if success { self.successes } else { self.failures };
        (self.run >= threshold).then_some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_counts_once_it_came_often_enough_in_a_row() {
        let mut count = Count {
            successes: 2,
            failures: 3,
            last: None,
            run: 0,
        };
        let results = [false, false, true, false, false, false, false, true, true, true];
        let reached: Vec<_> = results.into_iter().map(|success| count.add(success)).collect();
        let (no, yes) = (Some(false), Some(true));
        assert_eq!(reached, [None, None, None, None, None, no, no, None, yes, yes]);
    }

    #[test]
    fn what_is_not_said_has_kubernetes_defaults() {
        let count = Count::new(&core::Probe::default());
        assert_eq!((count.successes, count.failures), (1, 3));
        assert_eq!(limit(&core::Probe::default()), Duration::from_secs(1));
    }
}
