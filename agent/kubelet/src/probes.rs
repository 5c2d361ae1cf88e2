//! Startup, readiness and liveness: whether a container that runs has started, may be sent requests, or must be
//! restarted. By the rules of `pkg/kubelet/prober` in Kubernetes.
//!
//! Each container instance that has probes gets one small task; between checks it costs a timer. What it finds is a
//! [`Verdict`] under the container's id, which plan and status read. The task of the pod is rung only when a verdict
//! changes.

mod check;
mod grpc;
pub(crate) mod http;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1 as core;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::context::Context;
use crate::identity::PodIdentity;
use crate::observed::{Observed, State};

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Startup,
    Readiness,
    Liveness,
}

/// As Kubernetes begins a sentence with it.
impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        })
    }
}

impl Kind {
    /// The probe of this kind.
    pub(crate) fn of(self, container: &core::Container) -> Option<&core::Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// What the probes of a running container say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The startup probe has succeeded, or there is none.
    pub(crate) started: bool,
    /// It may be sent requests.
    pub(crate) ready: bool,
    /// It must be restarted, since this probe failed.
    pub(crate) failed: Option<Kind>,
}

impl Verdict {
    /// Before any check.
    fn unprobed(container: &core::Container) -> Self {
        let started = container.startup_probe.is_none();
        Self {
            started,
            ready: started && container.readiness_probe.is_none(),
            failed: None,
        }
    }
}

/// By container id. A container without probes has none.
pub(crate) type Verdicts = BTreeMap<String, Verdict>;

/// What holds for a running container: what its probes say, or what its having none means.
pub(crate) fn verdict(verdicts: &Verdicts, container: &core::Container, id: &str) -> Verdict {
    let known = verdicts.get(id).copied();
    known.unwrap_or_else(|| Verdict::unprobed(container))
}

/// Verdicts, and who is told when one changes.
pub(crate) struct Board {
    verdicts: Mutex<Verdicts>,
    changed: Box<dyn Fn() + Send + Sync>,
}

impl Board {
    fn with<T>(&self, change: impl FnOnce(&mut Verdicts) -> T) -> T {
        // Every change is one assignment; the map is whole even if a holder of the lock panicked.
        change(&mut self.verdicts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn update(&self, id: &str, change: impl FnOnce(&mut Verdict)) {
        let news = self.with(|verdicts| {
            let Some(verdict) = verdicts.get_mut(id) else {
                return false;
            };
            let before = *verdict;
            change(verdict);
            *verdict != before
        });
        if news {
            (self.changed)();
        }
    }
}

/// What was known of a container instance before this agent started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remembered {
    pub(crate) started: bool,
    pub(crate) ready: bool,
}

/// The probing of one pod.
pub(crate) struct Probes {
    context: Arc<Context>,
    identity: PodIdentity,
    board: Arc<Board>,
    running: BTreeMap<String, AbortOnDropHandle<()>>,
    /// Startup and liveness no longer matter.
    ending: CancellationToken,
    /// From the stored status, by container id.
    remembered: BTreeMap<String, Remembered>,
}

impl Probes {
    /// No probing yet; `changed` is called whenever a verdict changes.
    pub(crate) fn new(
        context: Arc<Context>,
        identity: PodIdentity,
        changed: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let board = Board {
            verdicts: Mutex::default(),
            changed: Box::new(changed),
        };
        Self {
            context,
            identity,
            board: Arc::new(board),
            running: BTreeMap::new(),
            ending: CancellationToken::new(),
            remembered: BTreeMap::new(),
        }
    }

    /// Takes over what the stored status says of instances that may still run, so that a restart of the agent changes
    /// nothing for who sends them requests.
    pub(crate) fn remember(&mut self, stored: &core::PodStatus) {
        let statuses = stored
            .container_statuses
            .iter()
            .chain(&stored.init_container_statuses)
            .flatten();
        for status in statuses {
            let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
            if let Some((_, id)) = status.container_id.as_deref().and_then(|id| id.split_once("://"))
                && running
            {
                let remembered = Remembered {
                    started: status.started == Some(true),
                    ready: status.ready,
                };
                self.remembered.insert(id.to_owned(), remembered);
            }
        }
    }

    /// Starts probing what has begun to run, and ends it for what no longer does.
    pub(crate) fn follow(&mut self, pod: &core::Pod, observed: &Observed, pod_ip: Option<&str>) {
        self.running.retain(|id, _| observed.is_running(id));
        // A verdict outlives the container: whether a probe ended it decides over its restart.
        self.board
            .with(|verdicts| verdicts.retain(|id, _| observed.containers.iter().any(|container| container.id == *id)));
        let (Some(spec), Some(pod_ip)) = (&pod.spec, pod_ip) else {
            return;
        };
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            let probed = [Kind::Startup, Kind::Readiness, Kind::Liveness]
                .iter()
                .any(|kind| kind.of(container).is_some());
            let Some(found) = observed.latest(&container.name).filter(|_| probed) else {
                continue;
            };
            if found.state != State::Running || self.running.contains_key(&found.id) {
                continue;
            }
            let mut verdict = Verdict::unprobed(container);
            let remembered = self.remembered.remove(&found.id);
            if let Some(Remembered { started, ready }) = remembered {
                verdict.started |= started;
                verdict.ready |= ready && verdict.started;
            }
            let (since, first) = begin(&found.id, found.started_at, remembered.is_some());
            self.board.with(|verdicts| verdicts.insert(found.id.clone(), verdict));
            let watch = Box::new(watch::Watch {
                runtime: self.context.runtime.clone(),
                recorder: self.context.recorder.clone(),
                identity: self.identity.clone(),
                field: crate::pods::field_path(spec, &container.name),
                container: probed_part(container),
                id: found.id.clone(),
                pod_ip: pod_ip.to_owned(),
                since,
                first,
                board: self.board.clone(),
            });
            let task = tokio::spawn(watch.run(verdict, self.ending.clone()));
            self.running.insert(found.id.clone(), AbortOnDropHandle::new(task));
        }
    }

    /// The pod is to go: nothing of it is restarted any more, but readiness is still told.
    pub(crate) fn end(&self) {
        self.ending.cancel();
    }

    /// What is known now.
    pub(crate) fn verdicts(&self) -> Verdicts {
        self.board.with(|verdicts| verdicts.clone())
    }
}

/// What probing needs of a container; the rest would stay in memory for as long as it runs.
fn probed_part(container: &core::Container) -> core::Container {
    core::Container {
        name: container.name.clone(),
        ports: container.ports.clone(),
        startup_probe: container.startup_probe.clone(),
        readiness_probe: container.readiness_probe.clone(),
        liveness_probe: container.liveness_probe.clone(),
        ..core::Container::default()
    }
}

/// Since when the container runs, by the monotonic clock, and for one that ran before the agent did the fraction of the
/// period to wait first, so that not everything is probed in the first moment.
fn begin(id: &str, started_at: i64, adopted: bool) -> (Instant, f64) {
    let now = Instant::now();
    if !adopted {
        return (now, 0.0);
    }
    let present = jiff::Timestamp::now().as_nanosecond();
    let age = u64::try_from(present - i128::from(started_at)).unwrap_or(0);
    let since = now.checked_sub(Duration::from_nanos(age)).unwrap_or(now);
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    (since, f64::from(hasher.finish() as u16) / f64::from(u16::MAX))
}
