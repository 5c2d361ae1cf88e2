//! What every runtime must do. The fake and the real one pass the same statements.

use std::time::Duration;

use futures::StreamExt;
use k8s_cri::v1;

use super::fake::FakeRuntime;
use super::{Containerd, Runtime, RuntimeEvent, Trouble, label};
use crate::archive::{File, ImageBuilder};
use crate::images;

#[path = "../../tests/containerd/node.rs"]
mod node;

const IMAGE: &str = "minidc.local/suite:1";
const LIMIT: Duration = Duration::from_secs(60);

fn labels(uid: &str) -> std::collections::HashMap<String, String> {
    let pairs = [
        (label::POD_UID, uid),
        (label::POD_NAME, "pod"),
        (label::POD_NAMESPACE, "default"),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn sandbox_config(uid: &str) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "pod".into(),
            uid: uid.into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        labels: labels(uid),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: format!("/minidc/suite/{uid}"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container_config(uid: &str, name: &str, script: &str) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: name.into(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: IMAGE.into(),
            ..Default::default()
        }),
        args: vec![script.into()],
        labels: labels(uid),
        annotations: [(label::RESTART_COUNT.to_owned(), "4".to_owned())].into(),
        ..Default::default()
    }
}

/// The suite; the image is there.
async fn passes(runtime: &dyn Runtime) {
    let mut events = runtime.events();
    let first = tokio::time::timeout(LIMIT, events.next()).await;
    assert_eq!(
        first.unwrap(),
        Some(RuntimeEvent::Opened),
        "the stream says when it stands"
    );

    let conditions = runtime.status().await.unwrap();
    assert!(conditions.iter().all(|condition| condition.status), "{conditions:?}");
    assert!(runtime.image(IMAGE).await.unwrap().is_some());
    assert!(runtime.image("minidc.local/none:1").await.unwrap().is_none());
    assert!(
        runtime
            .images()
            .await
            .unwrap()
            .iter()
            .any(|image| image.repo_tags.contains(&IMAGE.to_owned()))
    );
    assert_eq!(
        runtime.pull("127.0.0.1:1/none:1").await.unwrap_err().kind,
        Trouble::Other
    );
    assert_eq!(
        runtime.container_status("none").await.unwrap_err().kind,
        Trouble::NotFound
    );

    // A sandbox is found by its pod, has an address, and can be stopped and removed twice.
    let sandbox = runtime.run_sandbox(sandbox_config("u1")).await.unwrap();
    let other = runtime.run_sandbox(sandbox_config("u2")).await.unwrap();
    let found = runtime.sandboxes(Some("u1")).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].id.as_str(), found[0].state()),
        (sandbox.as_str(), v1::PodSandboxState::SandboxReady)
    );
    assert_eq!(runtime.sandboxes(None).await.unwrap().len(), 2);
    let status = runtime.sandbox_status(&sandbox).await.unwrap();
    assert!(status.network.is_some_and(|network| !network.ip.is_empty()));
    assert_eq!(status.labels[label::POD_UID], "u1");

    // A container is created, runs, is stopped; what it was told stays with it.
    let make = |name: &'static str, script: &'static str| {
        runtime.create_container(
            sandbox.clone(),
            container_config("u1", name, script),
            sandbox_config("u1"),
        )
    };
    let server = make("server", "trap 'exit 0' TERM; while true; do sleep 0.1; done")
        .await
        .unwrap();
    assert_eq!(
        runtime.container_status(&server).await.unwrap().state(),
        v1::ContainerState::ContainerCreated
    );
    runtime.start_container(&server).await.unwrap();
    let status = runtime.container_status(&server).await.unwrap();
    assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
    assert_eq!(status.annotations[label::RESTART_COUNT], "4");
    assert!(status.started_at > 0);

    // A command in it tells how it ended, and is ended when it takes too long.
    let shell = |script: &str| ["/bin/sh", "-c", script].map(str::to_owned);
    let executed = runtime.execute(&server, &shell("exit 4"), Some(LIMIT)).await.unwrap();
    assert_eq!(executed.exit_code, 4);
    let second = Some(Duration::from_secs(1));
    let endless = runtime.execute(&server, &shell("sleep 300"), second).await.unwrap_err();
    assert_eq!(endless.kind, Trouble::TooLong, "{endless}");

    runtime.stop_container(&server, 10).await.unwrap();
    let refused = runtime
        .execute(&server, &shell("exit 0"), Some(LIMIT))
        .await
        .unwrap_err();
    assert_ne!(refused.kind, Trouble::TooLong, "{refused}");
    let status = runtime.container_status(&server).await.unwrap();
    assert_eq!(
        (status.state(), status.exit_code),
        (v1::ContainerState::ContainerExited, 0)
    );
    runtime.stop_container(&server, 10).await.unwrap();

    // One that ends by itself is told of.
    let failing = make("failing", "exit 3").await.unwrap();
    runtime.start_container(&failing).await.unwrap();
    let told = async {
        let expected = RuntimeEvent::Container {
            id: failing.clone(),
            ended: true,
        };
        while events.next().await != Some(expected.clone()) {}
    };
    tokio::time::timeout(LIMIT, told).await.unwrap();
    let ended = async {
        loop {
            let status = runtime.container_status(&failing).await.unwrap();
            if status.state() == v1::ContainerState::ContainerExited {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let status = tokio::time::timeout(LIMIT, ended).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.finished_at >= status.started_at);

    assert_eq!(runtime.containers(Some("u1")).await.unwrap().len(), 2);
    assert!(runtime.containers(Some("u2")).await.unwrap().is_empty());
    for _ in 0..2 {
        runtime.remove_container(&failing).await.unwrap();
    }
    assert_eq!(runtime.containers(Some("u1")).await.unwrap().len(), 1);

    // The sandbox takes its containers with it.
    for _ in 0..2 {
        runtime.stop_sandbox(&sandbox).await.unwrap();
    }
    assert_eq!(
        runtime.sandboxes(Some("u1")).await.unwrap()[0].state(),
        v1::PodSandboxState::SandboxNotready
    );
    for _ in 0..2 {
        runtime.remove_sandbox(&sandbox).await.unwrap();
    }
    assert!(runtime.containers(Some("u1")).await.unwrap().is_empty());
    runtime.stop_sandbox(&other).await.unwrap();
    runtime.remove_sandbox(&other).await.unwrap();
    assert!(runtime.sandboxes(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn fake_runtime_passes() {
    let runtime = FakeRuntime::default();
    runtime.add_image(IMAGE);
    passes(&runtime).await;
}

#[test]
fn real_containerd_passes() {
    node::inside("runtime::suite::real_containerd_passes", |node| async move {
        let runtime = Containerd::new(node.socket());
        let program = std::fs::read("/bin/busybox").expect("this test needs busybox-static");
        let shell = ImageBuilder::new(IMAGE)
            .entrypoint(["/bin/sh", "-c"])
            .file(File::program("/bin/busybox", program))
            .file(File::link("/bin/sh", "busybox"))
            .file(File::link("/bin/sleep", "busybox"));
        let mut archive = Vec::new();
        shell.write_to(&mut archive).unwrap();
        let up = async {
            while runtime.status().await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(LIMIT, up).await.expect("containerd answers");
        for (name, archive) in [
            (IMAGE, archive),
            (crate::pause::IMAGE, crate::pause::archive(crate::pause::IMAGE).unwrap()),
        ] {
            images::import(&node.socket(), &archive[..], None).await.unwrap();
            let known = async {
                while runtime.image(name).await.unwrap().is_none() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(LIMIT, known).await.expect("the image is there");
        }
        passes(&runtime).await;
    });
}
