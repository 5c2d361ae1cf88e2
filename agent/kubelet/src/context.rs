//! What all parts of a running kubelet share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Semaphore, watch};

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::directories::Directories;
use crate::environment::NodeFacts;
use crate::health::Health;
use crate::identity::PodIdentity;
use crate::observed::Observed;
use crate::recorder::Recorder;
use crate::runtime::Runtime;
use crate::status_writer::Statuses;
use crate::surroundings::{NoServices, Surroundings};

/// Pulls at once: one registry that does not answer must not hold up the others for long.
const PULLS: usize = 3;
/// Sandboxes and containers that start at once, so that thirty pods after a power cut do not thrash a Pi.
const STARTS: usize = 4;

/// Shared by all tasks of a kubelet.
pub(crate) struct Context {
    pub(crate) directories: Directories,
    pub(crate) cgroups: Cgroups,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) surroundings: Arc<dyn Surroundings>,
    pub(crate) recorder: Recorder,
    pub(crate) statuses: Statuses,
    pub(crate) node: watch::Receiver<Arc<NodeFacts>>,
    /// Counts changes of the image store.
    pub(crate) images_changed: watch::Sender<u64>,
    /// The node's health; sandboxes need the network.
    pub(crate) health: watch::Receiver<Health>,
    pub(crate) pulls: Semaphore,
    pub(crate) starts: Semaphore,
    pub(crate) registry: Registry,
}

impl Context {
    pub(crate) fn new(
        config: &Config,
        runtime: Arc<dyn Runtime>,
        recorder: Recorder,
        node: watch::Receiver<Arc<NodeFacts>>,
        registry: Registry,
        cgroups: Cgroups,
        health: watch::Receiver<Health>,
    ) -> Self {
        let directories = Directories {
            pods: config.data.join("pods"),
            logs: config.log_dir.clone(),
        };
        Self {
            directories,
            cgroups,
            runtime,
            surroundings: Arc::new(NoServices),
            recorder,
            statuses: Statuses::default(),
            node,
            images_changed: watch::Sender::new(0),
            health,
            pulls: Semaphore::new(PULLS),
            starts: Semaphore::new(STARTS),
            registry,
        }
    }

    /// With Services around the pods.
    pub(crate) fn among(self, surroundings: Arc<dyn Surroundings>) -> Self {
        Self { surroundings, ..self }
    }
}

/// How a pod does, for the LEDs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Condition {
    /// On its way up or down, or done.
    #[default]
    Quiet,
    /// All its containers run.
    Running,
    /// Something of it waits after a failure.
    Failing,
}

/// A pod as its task saw it last.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) pod: Arc<Pod>,
    pub(crate) observed: Arc<Observed>,
    pub(crate) condition: Condition,
    /// Why containers wait, by name, as far as it is known.
    pub(crate) waiting: BTreeMap<String, String>,
}

impl Seen {
    /// Containers that must end before the others start.
    pub(crate) fn has_init_containers(&self) -> bool {
        self.pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.init_containers.as_ref().is_some_and(|all| !all.is_empty()))
    }
}

/// The pods of this node, as their tasks saw them last; for logs, exec, statistics and health.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    inner: Arc<RegistryInner>,
}

#[derive(Debug)]
struct RegistryInner {
    pods: Mutex<BTreeMap<PodIdentity, Seen>>,
    changed: watch::Sender<u64>,
}

impl Default for RegistryInner {
    fn default() -> Self {
        Self {
            pods: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl Registry {
    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<PodIdentity, Seen>) -> T) -> T {
        change(&mut self.inner.pods.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes what a task saw.
    pub(crate) fn set(&self, pod: &PodIdentity, seen: Seen) {
        let same = self.with(|pods| {
            let same = pods.get(pod).is_some_and(|old| {
                old.condition == seen.condition && old.observed == seen.observed && old.waiting == seen.waiting
            });
            pods.insert(pod.clone(), seen);
            same
        });
        if !same {
            self.inner.changed.send_modify(|count| *count += 1);
        }
    }

    /// The pod is gone.
    pub(crate) fn remove(&self, pod: &PodIdentity) {
        self.with(|pods| pods.remove(pod));
        self.inner.changed.send_modify(|count| *count += 1);
    }

    /// One pod; an empty UID means whichever has the name.
    pub(crate) fn find(&self, namespace: &str, name: &str, uid: &str) -> Option<Seen> {
        self.with(|pods| {
            let mut found = pods
                .iter()
                .filter(|(pod, _)| pod.namespace == namespace && pod.name == name);
            found
                .find(|(pod, _)| uid.is_empty() || pod.uid == uid)
                .map(|(_, seen)| seen.clone())
        })
    }

    /// All pods.
    pub(crate) fn all(&self) -> Vec<(PodIdentity, Seen)> {
        self.with(|pods| pods.iter().map(|(pod, seen)| (pod.clone(), seen.clone())).collect())
    }

    /// Turns whenever something about a pod has changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }
}
