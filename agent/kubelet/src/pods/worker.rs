//! The task of one pod: look, plan, do the next step, tell; until nothing is left to do, and then wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use tokio::sync::{Notify, watch};

use crate::context::{Condition, Context, Seen};
use crate::desired::Desired;
use crate::environment::Lookup;
use crate::identity::PodIdentity;
use crate::observed::{Container, Observed, State};
use crate::plan::{Action, Intent, Memory, Plan, Situation, Waiting, plan};
use crate::probes::Probes;
use crate::recorder::Severity;
use crate::runtime::RuntimeError;
use crate::status::{self, Facts, History};
use crate::volumes::{self, Volumes};

use super::image::{IMAGE_REASONS, Pulls};
use super::start;

mod look;
mod stop;

/// First and longest wait after a step that failed; containers that crash wait by [`crate::back_off`] instead.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(30);
/// How often the same steps are done in a row at full speed.
const MOST_REPEATS: u32 = 3;

/// What a pod's task is told; replaced as a whole.
#[derive(Clone)]
pub(crate) struct Input {
    pub(crate) pod: Arc<core::Pod>,
    pub(crate) intent: Intent,
    pub(crate) desired: Arc<Desired>,
    /// The object still exists and waits for word that the pod has stopped.
    pub(crate) confirm: bool,
    /// Counts changes that concern the pod; a new `desired` alone does not.
    pub(crate) version: u64,
}

/// How a task is reached.
#[derive(Default)]
pub(crate) struct Bell {
    /// Containers and sandboxes that something happened to, and whether that was their end.
    touched: Mutex<BTreeMap<String, bool>>,
    rung: Notify,
}

impl Bell {
    /// Something happened to a container or sandbox of the pod.
    pub(crate) fn ring(&self, what: Option<(&str, bool)>) {
        if let Some((id, ended)) = what {
            let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
            *touched.entry(id.to_owned()).or_default() |= ended;
        }
        self.rung.notify_one();
    }

    fn take(&self) -> BTreeMap<String, bool> {
        std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The state of one pod's task.
pub(crate) struct Worker {
    context: Arc<Context>,
    identity: PodIdentity,
    input: watch::Receiver<Input>,
    bell: Arc<Bell>,
    memory: Memory,
    pulls: Pulls,
    /// Why containers wait, beyond what the plan says.
    waiting: BTreeMap<String, Waiting>,
    history: BTreeMap<String, History>,
    previous: core::PodStatus,
    /// Status answers that cannot change any more, or have not yet.
    seen: BTreeMap<String, Container>,
    sandbox_ips: BTreeMap<String, Vec<String>>,
    volumes: Arc<Volumes>,
    volumes_of: Option<u64>,
    /// The input whose volumes could not be had; a newer one is tried at once.
    volumes_tried: Option<u64>,
    failures: BTreeMap<String, Duration>,
    /// Containers whose end has been asked for, so that the event is said once.
    killing: BTreeSet<String>,
    stopping_since: Option<Instant>,
    drain: Option<stop::Drain>,
    probes: Probes,
    /// What has ended by containerd's word, since when, and the next wait for CRI to say the same.
    ending: BTreeMap<String, (Instant, Duration)>,
    warned_fields: bool,
    /// The steps done last, and how often in a row before.
    last_actions: (Vec<Action>, u32),
}

impl Worker {
    pub(crate) fn new(
        context: Arc<Context>,
        identity: PodIdentity,
        input: watch::Receiver<Input>,
        bell: Arc<Bell>,
    ) -> Self {
        let pod = input.borrow().pod.clone();
        let ringing = bell.clone();
        let probes = Probes::new(context.clone(), identity.clone(), move || ringing.ring(None));
        let mut worker = Self {
            context,
            identity,
            input,
            bell,
            memory: Memory::default(),
            pulls: Pulls::default(),
            waiting: BTreeMap::new(),
            history: BTreeMap::new(),
            previous: core::PodStatus::default(),
            seen: BTreeMap::new(),
            sandbox_ips: BTreeMap::new(),
            volumes: Arc::default(),
            volumes_of: None,
            volumes_tried: None,
            failures: BTreeMap::new(),
            killing: BTreeSet::new(),
            stopping_since: None,
            drain: None,
            probes,
            ending: BTreeMap::new(),
            warned_fields: false,
            last_actions: (Vec::new(), 0),
        };
        worker.remember(&pod);
        worker
    }

    /// Runs until the pod is finished.
    pub(crate) async fn run(mut self) -> PodIdentity {
        let mut images = self.context.images_changed.subscribe();
        let mut health = self.context.health.clone();
        let mut network = health.borrow_and_update().network_ok;
        let mut version = None;
        loop {
            let input = self.input.borrow_and_update().clone();
            if version.replace(input.version) != Some(input.version) {
                self.news();
            }
            if input.intent == Intent::Remove {
                self.stopping_since.get_or_insert_with(Instant::now);
                self.probes.end();
            }
            let touched = self.bell.take();
            self.seen.retain(|id, _| !touched.contains_key(id));
            let now = Instant::now();
            self.ending.extend(
                touched
                    .into_iter()
                    .filter(|(_, ended)| *ended)
                    .map(|(id, _)| (id, (now, look::LAG_FIRST))),
            );
            let step = match self.observe().await {
                Ok(observed) => {
                    let lag = self.lag(&observed);
                    match self.step(&input, &observed).await {
                        Step::Wait(after) => Step::Wait(after.into_iter().chain(lag).min()),
                        step => step,
                    }
                }
                Err(error) => {
                    tracing::debug!(pod = %self.identity, %error, "the runtime cannot be asked");
                    Step::Wait(Some(self.later("observe")))
                }
            };
            match step {
                Step::Again => {}
                Step::Done => return self.identity,
                Step::Wait(after) => {
                    let image_wanted = self
                        .waiting
                        .values()
                        .any(|waiting| IMAGE_REASONS.contains(&waiting.reason.as_str()));
                    tokio::select! {
                        changed = self.input.changed() => if changed.is_err() { return self.identity },
                        () = self.bell.rung.notified() => {}
                        () = sleep(after) => {}
                        Ok(()) = images.changed(), if image_wanted => self.images_changed(),
                        Ok(()) = health.changed() => {
                            let before = std::mem::replace(&mut network, health.borrow_and_update().network_ok);
                            if network && !before {
                                self.worked("sandbox");
                            }
                        }
                    }
                }
            }
            if !self
                .waiting
                .values()
                .any(|waiting| IMAGE_REASONS.contains(&waiting.reason.as_str()))
            {
                images.mark_unchanged();
            }
        }
    }

    /// Something that the pod refers to may have appeared: look at once.
    fn news(&mut self) {
        for (name, waiting) in &self.waiting {
            if waiting.reason == "CreateContainerConfigError" {
                self.memory.not_before.remove(name);
                self.failures.remove(name);
            }
        }
    }

    /// An import or another pod's pull may have brought what was missing: look at once.
    fn images_changed(&mut self) {
        for (name, waiting) in &self.waiting {
            if IMAGE_REASONS.contains(&waiting.reason.as_str()) {
                self.memory.not_before.remove(name);
            }
        }
    }

    /// The wait before the next try of a kind of step; it doubles.
    fn later(&mut self, kind: &str) -> Duration {
        let delay = self
            .failures
            .get(kind)
            .map_or(RETRY_FIRST, |last| (*last * 2).min(RETRY_LONGEST));
        self.failures.insert(kind.to_owned(), delay);
        delay
    }

    fn hold(&mut self, kind: &str) {
        let delay = self.later(kind);
        self.memory.not_before.insert(kind.to_owned(), Instant::now() + delay);
    }

    fn worked(&mut self, kind: &str) {
        self.failures.remove(kind);
        self.memory.not_before.remove(kind);
    }

    async fn step(&mut self, input: &Input, observed: &Observed) -> Step {
        let mut volumes_ready = true;
        if input.intent == Intent::Run && self.volumes_of != Some(input.version) {
            volumes_ready = self.prepare_volumes(input, observed).await;
        }
        let pod_ip = self.pod_ip(input, observed);
        self.probes.follow(&input.pod, observed, pod_ip.as_deref());
        self.memory.verdicts = self.probes.verdicts();
        let draining = self.draining(input, observed);
        let now = Instant::now();
        let mut plan = plan(&Situation {
            pod: &input.pod,
            intent: input.intent,
            observed,
            memory: &self.memory,
            volumes_ready,
            draining,
            now,
        });
        if !volumes_ready && let Some(at) = self.memory.not_before.get("volumes") {
            let wait = at.saturating_duration_since(now);
            plan.wake_after = Some(plan.wake_after.map_or(wait, |present| present.min(wait)));
        }
        self.note_waiting(input, observed, &plan);
        self.tell(input, observed);
        if plan.actions.is_empty() {
            return Step::Wait(plan.wake_after);
        }
        if self.repeated(&plan.actions) {
            // Steps that change nothing would be repeated for ever at full speed.
            return Step::Wait(Some(self.later("repeat")));
        }
        for action in &plan.actions {
            match self.apply(input, observed, action).await {
                Applied::Next => {}
                Applied::Look => return Step::Again,
                Applied::Done => return Step::Done,
            }
            // A new wish counts before the rest of an old plan.
            if self.input.has_changed().unwrap_or(true) {
                break;
            }
        }
        Step::Again
    }

    /// The address that probes and hooks reach the pod at.
    fn pod_ip(&self, input: &Input, observed: &Observed) -> Option<String> {
        let ready = observed.ready_sandbox()?;
        let spec = input.pod.spec.as_ref();
        if spec.is_some_and(|spec| spec.host_network == Some(true)) {
            self.context.node.borrow().addresses.first().cloned()
        } else {
            ready.ips.first().cloned()
        }
    }

    /// Whether these very steps have been done several times in a row.
    fn repeated(&mut self, actions: &[Action]) -> bool {
        if self.last_actions.0 == actions {
            self.last_actions.1 += 1;
        } else {
            self.last_actions = (actions.to_vec(), 0);
            self.failures.remove("repeat");
        }
        self.last_actions.1 > MOST_REPEATS
    }

    async fn prepare_volumes(&mut self, input: &Input, observed: &Observed) -> bool {
        let now = Instant::now();
        if self.memory.not_before.get("volumes").is_some_and(|at| *at > now)
            && self.volumes_tried == Some(input.version)
        {
            return false;
        }
        let (context, pod, desired) = (self.context.clone(), input.pod.clone(), input.desired.clone());
        let node = self.context.node.borrow().clone();
        let pod_ips = observed
            .ready_sandbox()
            .map(|sandbox| sandbox.ips.clone())
            .unwrap_or_default();
        let prepared = tokio::task::spawn_blocking(move || {
            let lookup = Lookup {
                pod: &pod,
                desired: &desired,
                node: &node,
                pod_ips: &pod_ips,
            };
            volumes::prepare(&context.directories, &lookup).map_err(|error| error.to_string())
        });
        match prepared
            .await
            .unwrap_or_else(|_| Err("preparing the volumes failed".into()))
        {
            Ok(volumes) => {
                self.volumes = Arc::new(volumes);
                self.volumes_of = Some(input.version);
                self.worked("volumes");
                true
            }
            Err(message) => {
                self.context
                    .recorder
                    .pod(&self.identity, Severity::Warning, "FailedMount", message);
                self.volumes_tried = Some(input.version);
                self.hold("volumes");
                false
            }
        }
    }

    /// Keeps the reasons why containers wait in step with what is there, and says the event of a new back-off.
    fn note_waiting(&mut self, input: &Input, observed: &Observed, plan: &Plan) {
        let running = |name: &str| observed.latest(name).is_some_and(|found| found.state == State::Running);
        self.waiting.retain(|name, _| !running(name));
        let empty = core::PodSpec::default();
        let spec = input.pod.spec.as_ref().unwrap_or(&empty);
        for (name, waiting) in &plan.crashing {
            let old = self.waiting.insert(name.clone(), waiting.clone());
            if old.as_ref() != Some(waiting) {
                let message = format!("Back-off restarting failed container {name} in pod {}", self.identity);
                let field = start::field_path(spec, name);
                self.context
                    .recorder
                    .container(&self.identity, &field, Severity::Warning, "BackOff", message);
            }
        }
        // A container that ended and is about to start again is not "waiting"; it shows how it ended.
        self.waiting
            .retain(|name, waiting| waiting.reason != "CrashLoopBackOff" || plan.crashing.contains_key(name));
    }

    /// Tells what probes have found since `observed` was seen.
    fn tell_probed(&mut self, input: &Input, observed: &Observed) {
        self.memory.verdicts = self.probes.verdicts();
        self.tell(input, observed);
    }

    /// Works out the status and leaves it where others look.
    fn tell(&mut self, input: &Input, observed: &Observed) {
        let idle = !observed
            .containers
            .iter()
            .any(|container| container.state == State::Running);
        let has_records = !observed.containers.is_empty() || !observed.sandboxes.is_empty();
        let over = idle && input.intent != Intent::Run;
        // Once the records are being removed there is nothing new to say of a pod.
        let mut telling = false;
        if input.intent == Intent::Run || has_records {
            let node = self.context.node.borrow().clone();
            let status = status::status(&Facts {
                pod: &input.pod,
                observed,
                waiting: &self.waiting,
                verdicts: &self.memory.verdicts,
                history: &self.history,
                previous: &self.previous,
                host_ips: &node.addresses,
                over,
                now: Timestamp::now(),
            });
            self.previous = status;
            telling = input.intent != Intent::Remove || input.confirm;
        }
        let failing = self
            .waiting
            .values()
            .any(|waiting| !matches!(waiting.reason.as_str(), "ContainerCreating" | "PodInitializing"))
            || !self.failures.is_empty();
        let wanted = input.pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
        let running = self
            .previous
            .container_statuses
            .iter()
            .flatten()
            .filter(|status| status.ready)
            .count();
        let condition = match input.intent {
            Intent::Run if failing => Condition::Failing,
            Intent::Run if running == wanted => Condition::Running,
            _ => Condition::Quiet,
        };
        let waiting = self
            .waiting
            .iter()
            .map(|(name, waiting)| (name.clone(), waiting.reason.clone()))
            .collect();
        let seen = Seen {
            pod: input.pod.clone(),
            observed: Arc::new(observed.clone()),
            condition,
            waiting,
        };
        // Whoever reads that the pod is ready must be served by this node.
        self.context.registry.set(&self.identity, seen);
        if telling {
            self.context.statuses.set(&self.identity, &self.previous);
        }
    }

    async fn apply(&mut self, input: &Input, observed: &Observed, action: &Action) -> Applied {
        let runtime = self.context.runtime.clone();
        match action {
            Action::StopContainers(stops) => {
                self.stop_containers(input, observed, stops).await;
                Applied::Look
            }
            Action::RemoveContainer(id) => self.simple("sandbox", runtime.remove_container(id).await),
            Action::StopSandbox(id) => {
                let result = runtime.stop_sandbox(id).await;
                if result.is_ok() {
                    self.memory.stopped.insert(id.clone());
                }
                self.simple("sandbox", result)
            }
            Action::RemoveSandbox(id) => self.simple("sandbox", runtime.remove_sandbox(id).await),
            Action::RunSandbox(attempt) => {
                self.warn_of_fields(&input.pod);
                let made = start::sandbox(&self.context, &input.pod, &input.desired, *attempt).await;
                match made {
                    Ok(_) => self.worked("sandbox"),
                    Err(error) => {
                        let message = format!("Failed to create pod sandbox: {error}");
                        self.context
                            .recorder
                            .pod(&self.identity, Severity::Warning, "FailedCreatePodSandBox", message);
                        self.hold("sandbox");
                    }
                }
                Applied::Look
            }
            Action::StartContainer {
                sandbox,
                name,
                attempt,
                replaces,
            } => {
                self.start_container(input, observed, sandbox, name, *attempt, replaces.as_deref())
                    .await;
                // The next one may take long; what has started is probed and told meanwhile.
                Applied::Look
            }
            Action::Finish => self.finish(input).await,
        }
    }

    fn simple(&mut self, kind: &str, result: Result<(), RuntimeError>) -> Applied {
        match result {
            Ok(()) => {
                self.worked(kind);
                Applied::Next
            }
            Err(error) => {
                tracing::warn!(pod = %self.identity, %error, "a step failed, it is tried again");
                if kind == "sandbox" && self.stopping_since.is_some() {
                    self.context.recorder.pod(
                        &self.identity,
                        Severity::Warning,
                        "FailedKillPod",
                        format!("error killing pod: {error}"),
                    );
                }
                self.hold(kind);
                Applied::Look
            }
        }
    }

    fn warn_of_fields(&mut self, pod: &core::Pod) {
        if std::mem::replace(&mut self.warned_fields, true) {
            return;
        }
        let fields = serde_json::to_value(pod)
            .map(|pod| minidc_api::unsupported::pod_fields_not_acted_on(&pod))
            .unwrap_or_default();
        if !fields.is_empty() {
            self.context
                .recorder
                .pod(&self.identity, Severity::Warning, "FieldNotActedOn", fields.join("; "));
        }
    }

    async fn start_container(
        &mut self,
        input: &Input,
        observed: &Observed,
        sandbox: &str,
        name: &str,
        attempt: u32,
        replaces: Option<&str>,
    ) {
        let Some(spec) = &input.pod.spec else { return };
        let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
        let Some(container) = all.find(|container| container.name == name) else {
            return;
        };
        let node = self.context.node.borrow().clone();
        let (ready, volumes) = (observed.ready_sandbox(), self.volumes.clone());
        let around = start::Around {
            pod: &input.pod,
            desired: &input.desired,
            node: &node,
            pod_ips: ready.map(|sandbox| sandbox.ips.as_slice()).unwrap_or_default(),
            volumes: &volumes,
            sandbox,
            sandbox_attempt: ready.map_or(0, |sandbox| sandbox.attempt),
        };
        let context = self.context.clone();
        let (mut pulls, mut wishes) = (std::mem::take(&mut self.pulls), self.input.clone());
        let version = input.version;
        let given_up = async {
            let _ = wishes
                .wait_for(|wish| wish.version != version && wish.intent != Intent::Run)
                .await;
        };
        let outcome = {
            let starting = start::container(&context, &around, container, attempt, &mut pulls, given_up);
            let (bell, mut starting) = (self.bell.clone(), std::pin::pin!(starting));
            loop {
                tokio::select! {
                    outcome = &mut starting => break outcome,
                    // A pull may take long: who sends requests to the other containers hears of them all the while.
                    () = bell.rung.notified() => self.tell_probed(input, observed),
                }
            }
        };
        self.pulls = pulls;
        let Some(outcome) = outcome else { return };
        let now = Instant::now();
        // Counted as a try whether it worked or not, but an image that is missing has back-off of its own.
        let image_missing = outcome
            .as_ref()
            .is_err_and(|waiting| IMAGE_REASONS.contains(&waiting.reason.as_str()));
        if let Some(ended) = replaces
            .filter(|_| !image_missing)
            .map(|id| self.memory.exits.get(id).copied().unwrap_or(now))
        {
            self.memory.crashes.next(name, ended, now);
        }
        match outcome {
            Ok(()) => {
                self.waiting.remove(name);
                self.worked(name);
            }
            Err(waiting) => {
                let back_off = waiting.reason == "ImagePullBackOff";
                self.waiting.insert(name.to_owned(), waiting);
                let image = container.image.as_deref().unwrap_or_default();
                let wait = self.pulls.back_off.updated(image).filter(|_| back_off);
                match wait.and_then(|last| self.pulls.back_off.remaining(image, last, now)) {
                    Some(wait) => {
                        self.memory.not_before.insert(name.to_owned(), now + wait);
                    }
                    None => self.hold(name),
                }
            }
        }
    }

    async fn finish(&mut self, input: &Input) -> Applied {
        let (context, identity) = (self.context.clone(), self.identity.clone());
        let cleaned = tokio::task::spawn_blocking(move || {
            volumes::clean_up(&context.directories, &identity)?;
            context.cgroups.remove(&identity);
            match std::fs::remove_dir_all(context.directories.pod_logs(&identity)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        });
        if let Ok(Err(error)) = cleaned.await {
            tracing::warn!(pod = %self.identity, %error, "cannot remove the files of a pod, it is tried again");
            let delay = self.later("finish");
            tokio::time::sleep(delay).await;
            return Applied::Look;
        }
        self.context.registry.remove(&self.identity);
        if input.confirm {
            self.context.statuses.confirm(&self.identity);
        } else {
            self.context.statuses.forget(&self.identity);
        }
        Applied::Done
    }
}

async fn sleep(after: Option<Duration>) {
    match after {
        Some(after) => tokio::time::sleep(after).await,
        None => std::future::pending().await,
    }
}

enum Step {
    Again,
    Wait(Option<Duration>),
    Done,
}

enum Applied {
    /// Go on with the plan.
    Next,
    /// Look again before anything else.
    Look,
    /// The pod is finished.
    Done,
}
