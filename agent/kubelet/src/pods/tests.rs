use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::DropGuard;

use super::*;
use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::context::Registry;
use crate::environment::NodeFacts;
use crate::fixture::{Recorded, RecordingControlPlane};
use crate::recorder::Recorder;
use crate::runtime::Runtime;
use crate::runtime::fake::FakeRuntime;

mod hooks;
mod probes;

/// All of a kubelet but the node, on a runtime in memory.
struct Rig {
    runtime: Arc<FakeRuntime>,
    control_plane: Arc<RecordingControlPlane>,
    desired: watch::Sender<Arc<Desired>>,
    _stop: DropGuard,
    _place: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let runtime = Arc::new(FakeRuntime::default());
        runtime.add_image("web:1");
        Self::with(runtime, Arc::new(crate::NoServices))
    }

    fn with(runtime: Arc<FakeRuntime>, surroundings: Arc<dyn crate::Surroundings>) -> Self {
        let place = tempfile::tempdir().unwrap();
        let control_plane = Arc::new(RecordingControlPlane::default());
        let mut config = Config::new("pi-1");
        config.data = place.path().join("data");
        config.log_dir = place.path().join("logs");
        let shutdown = CancellationToken::new();
        let (recorder, events) = Recorder::new("pi-1".into(), control_plane.clone());
        tokio::spawn(events.run(shutdown.clone()));
        let facts = watch::channel(Arc::new(NodeFacts::default())).1;
        let cgroups = Cgroups::at(place.path().join("cgroup"));
        let health = watch::channel(crate::health::Health::default()).1;
        let runtime_object: Arc<dyn Runtime> = runtime.clone();
        let context = Context::new(
            &config,
            runtime_object,
            recorder,
            facts,
            Registry::default(),
            cgroups,
            health,
        );
        let context = Arc::new(context.among(surroundings));
        tokio::spawn(context.statuses.clone().run(control_plane.clone(), shutdown.clone()));
        let desired = watch::Sender::new(Arc::new(Desired {
            synced: true,
            ..Desired::default()
        }));
        tokio::spawn(Pods::new(context, desired.subscribe()).run(shutdown.clone()));
        Self {
            runtime,
            control_plane,
            desired,
            _stop: shutdown.drop_guard(),
            _place: place,
        }
    }

    fn want(&self, pods: &[Value]) {
        let pods: Vec<Pod> = pods
            .iter()
            .map(|pod| serde_json::from_value(pod.clone()).unwrap())
            .collect();
        let keyed = pods.into_iter().map(|pod| {
            let identity = PodIdentity::of(&pod);
            ((identity.namespace, identity.name), Arc::new(pod))
        });
        let pods: BTreeMap<_, _> = keyed.collect();
        self.desired.send_modify(|desired| {
            *desired = Arc::new(Desired {
                pods,
                ..desired.as_ref().clone()
            });
        });
    }

    async fn phase(&self, pod: &str, phase: &str) {
        self.status(pod, |status| status["phase"] == phase).await;
    }

    /// Waits until the newest status that was sent fulfils the condition, and answers with it.
    async fn status(&self, pod: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/api/v1/namespaces/default/pods/{pod}/status");
        let newest = |requests: &[Recorded]| {
            let mut all = requests.iter().rev();
            all.find(|request| request.path == path)
                .map(|request| request.body["status"].clone())
        };
        self.control_plane
            .wait(|requests| newest(requests).is_some_and(|status| condition(&status)))
            .await;
        newest(&self.control_plane.requests()).unwrap()
    }

    /// Waits for an event.
    async fn event(&self, reason: &str, message: &str) {
        self.control_plane
            .wait(|requests| {
                requests
                    .iter()
                    .any(|request| request.body["reason"] == reason && request.body["message"] == message)
            })
            .await;
    }

    async fn removed(&self, pod: &str) {
        let path = format!("/api/v1/namespaces/default/pods/{pod}");
        self.control_plane
            .wait(|requests| {
                requests
                    .iter()
                    .any(|request| request.method == "DELETE" && request.path == path)
            })
            .await;
    }
}

fn pod(name: &str, uid: &str, image: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": uid},
        "spec": {"containers": [{"name": "c", "image": image, "imagePullPolicy": "IfNotPresent"}]}})
}

fn deleted(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(1);
    pod
}

#[tokio::test]
async fn slow_pod_holds_up_no_other() {
    let rig = Rig::new();
    rig.runtime.hold_sandbox_of("slow");
    rig.want(&[pod("slow", "u1", "web:1"), pod("web", "u2", "web:1")]);
    rig.phase("web", "Running").await;
    rig.phase("slow", "Pending").await;
}

#[tokio::test]
async fn deleted_pod_does_not_wait_for_its_pull() {
    let rig = Rig::new();
    rig.runtime.hold_pulls();
    let web = pod("web", "u1", "far:1");
    rig.want(std::slice::from_ref(&web));
    let pulling = |requests: &[Recorded]| requests.iter().any(|request| request.body["reason"] == "Pulling");
    rig.control_plane.wait(pulling).await;
    rig.want(&[deleted(web)]);
    rig.removed("web").await;
    assert!(rig.runtime.sandboxes(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn deleted_pod_lets_a_start_under_way_end() {
    let rig = Rig::new();
    rig.runtime.slow_starts();
    let web = pod("web", "u1", "web:1");
    rig.want(std::slice::from_ref(&web));
    let starting = async {
        while !rig.runtime.is_starting() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), starting)
        .await
        .expect("the container starts");
    rig.want(&[deleted(web)]);
    rig.removed("web").await;
    assert!(rig.runtime.sandboxes(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn pod_of_the_same_name_starts_beside_the_one_that_goes() {
    let rig = Rig::new();
    rig.want(&[pod("web", "u1", "web:1")]);
    rig.phase("web", "Running").await;
    rig.want(&[pod("web", "u2", "web:1")]);
    let gone = async {
        loop {
            let left = rig.runtime.sandboxes(None).await.unwrap();
            if left.len() == 1 && left[0].labels[label::POD_UID] == "u2" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone)
        .await
        .expect("the old pod is stopped, the new one runs");
}

#[tokio::test]
async fn pod_waits_for_an_image_and_goes_on_when_it_appears() {
    let rig = Rig::new();
    let mut web = pod("web", "u1", "late:1");
    web["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    rig.want(&[web]);
    rig.control_plane
        .wait(|requests| {
            let reason = |status: &Value| status["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
            requests
                .iter()
                .any(|request| reason(&request.body["status"]) == "ErrImageNeverPull")
        })
        .await;
    rig.runtime.add_image("late:1");
    rig.phase("web", "Running").await;
}

#[tokio::test]
async fn pod_that_ended_is_not_started_again() {
    let rig = Rig::new();
    let mut once = pod("once", "u1", "web:1");
    once["spec"]["restartPolicy"] = json!("Never");
    once["spec"]["containers"][0]["args"] = json!(["exit 0"]);
    rig.want(std::slice::from_ref(&once));
    rig.phase("once", "Succeeded").await;
    once["status"] = json!({"phase": "Succeeded"});
    rig.want(std::slice::from_ref(&once));
    rig.want(&[once, pod("web", "u2", "web:1")]);
    rig.phase("web", "Running").await;
    assert_eq!(rig.runtime.containers(Some("u1")).await.unwrap().len(), 1);
}
