//! Hooks, and the wait for Services before a pod is stopped.

use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;
use crate::surroundings::{ServiceAddress, Surroundings};

/// A Service offers every pod until it is told to stop.
#[derive(Default)]
pub(super) struct Offered {
    withdrawn: watch::Sender<bool>,
}

impl Offered {
    pub(super) fn withdraw(&self) {
        self.withdrawn.send_replace(true);
    }
}

impl Surroundings for Offered {
    fn services(&self, _namespace: &str) -> Vec<ServiceAddress> {
        Vec::new()
    }

    fn withdrawn(&self, _namespace: &str, _pod: &str) -> BoxFuture<'static, ()> {
        let mut withdrawn = self.withdrawn.subscribe();
        async move {
            let _ = withdrawn.wait_for(|withdrawn| *withdrawn).await;
        }
        .boxed()
    }
}

fn offered() -> (Rig, Arc<Offered>) {
    let runtime = Arc::new(FakeRuntime::default());
    runtime.add_image("web:1");
    let surroundings = Arc::new(Offered::default());
    (Rig::with(runtime, surroundings.clone()), surroundings)
}

fn deleted_in(pod: Value, seconds: i64) -> Value {
    let mut pod = deleted(pod);
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(seconds);
    pod
}

fn hooked(hook: &str, action: Value) -> Value {
    let mut web = pod("web", "u1", "web:1");
    web["spec"]["containers"][0]["lifecycle"][hook] = action;
    web
}

#[tokio::test]
async fn deleted_pod_goes_on_until_no_service_offers_it() {
    let (rig, surroundings) = offered();
    let web = hooked("preStop", json!({"exec": {"command": ["bye"]}}));
    rig.want(std::slice::from_ref(&web));
    rig.phase("web", "Running").await;
    rig.want(&[deleted_in(web, 60)]);
    surroundings.withdraw();
    rig.removed("web").await;
    let done = rig.runtime.done();
    assert!(
        matches!(&done[..], [bye, stop] if bye == "bye" && stop.starts_with("stop c ")),
        "{done:?}"
    );
}

#[tokio::test]
async fn deleted_pod_goes_when_the_services_do_not_hear_of_it() {
    let (rig, _surroundings) = offered();
    let web = pod("web", "u1", "web:1");
    rig.want(std::slice::from_ref(&web));
    rig.phase("web", "Running").await;
    let begun = Instant::now();
    rig.want(&[deleted_in(web, 60)]);
    rig.removed("web").await;
    assert!(begun.elapsed() >= Duration::from_secs(2), "it has waited");
}

#[tokio::test]
async fn pod_that_must_go_at_once_waits_for_nobody() {
    let (rig, surroundings) = offered();
    let web = hooked("preStop", json!({"sleep": {"seconds": 3600}}));
    rig.want(std::slice::from_ref(&web));
    rig.phase("web", "Running").await;
    rig.want(&[deleted_in(web.clone(), 3600)]);
    surroundings.withdraw();
    rig.event("Killing", "Stopping container c").await;
    // Somebody loses patience while the hook sleeps.
    rig.want(&[deleted_in(web, 0)]);
    rig.removed("web").await;
    assert_eq!(rig.runtime.done(), ["stop c 2"]);
}

#[tokio::test]
async fn hook_that_fails_holds_nothing_up() {
    let rig = Rig::new();
    let web = hooked("preStop", json!({"exec": {"command": ["bye"]}}));
    rig.runtime.set_command("bye", 1);
    rig.want(std::slice::from_ref(&web));
    rig.phase("web", "Running").await;
    rig.want(&[deleted_in(web, 60)]);
    rig.event("FailedPreStopHook", "PreStopHook failed").await;
    rig.removed("web").await;
    assert_eq!(rig.runtime.done().len(), 2, "the hook ran once");
}

#[tokio::test]
async fn container_whose_start_hook_fails_is_restarted() {
    let rig = Rig::new();
    rig.runtime.set_command("hello", 5);
    rig.want(&[hooked("postStart", json!({"exec": {"command": ["hello", "you"]}}))]);
    rig.event("FailedPostStartHook", "PostStartHook failed").await;
    rig.event("Killing", "FailedPostStartHook").await;
    let waits = |status: &Value| status["containerStatuses"][0]["state"]["waiting"]["reason"] == "PostStartHookError";
    let status = rig.status("web", waits).await;
    let message = status["containerStatuses"][0]["state"]["waiting"]["message"]
        .as_str()
        .unwrap();
    assert_eq!(
        message,
        "Exec lifecycle hook ([hello you]) for Container \"c\" in Pod \"web_default(u1)\" failed - error: \
         command 'hello you' exited with 5: , message: \"hello said 5\""
    );
    rig.runtime.set_command("hello", 0);
    rig.status("web", |status| status["containerStatuses"][0]["ready"] == true)
        .await;
}
