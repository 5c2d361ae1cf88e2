//! Images: imported over the link, pulled, missing.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::node::inside;
use crate::{IMAGE, SERVE, busybox, script, with_shell};

fn waiting(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]["waiting"]
}

#[test]
fn pod_goes_on_at_once_when_its_image_is_imported() {
    inside(
        "images::pod_goes_on_at_once_when_its_image_is_imported",
        |node| async move {
            let cluster = Cluster::new();
            let running = cluster.start(&node);
            let mut web = script("web", SERVE);
            web["imagePullPolicy"] = json!("Never");
            cluster.pod("web", json!({"containers": [web]}));
            let pod = cluster
                .wait_pod("web", |pod| waiting(pod)["reason"] == "ErrImageNeverPull")
                .await;
            assert_eq!(
                waiting(&pod)["message"],
                format!("Container image \"{IMAGE}\" is not present with pull policy of Never")
            );
            cluster.wait_event("Failed", "Error: ErrImageNeverPull").await;
            let name = cluster.image(busybox(IMAGE), &[IMAGE]);
            cluster.running("web").await;
            let image = cluster
                .wait(&format!("/apis/minidc.dev/v1/images/{name}"), |image| {
                    image["status"]["nodes"] == json!(["pi-1"])
                })
                .await;
            assert_eq!(image["status"]["failures"], json!([]));
            running.stop().await;

            // The record is believed only while containerd has the image.
            assert!(
                std::process::Command::new("ctr")
                    .args(["-n", "k8s.io", "images", "rm", IMAGE])
                    .status()
                    .unwrap()
                    .success()
            );
            let running = cluster.start(&node);
            let mut images = running.handle.images();
            let held = |state: Option<&minidc_kubelet::ImageState>| {
                matches!(state, Some(minidc_kubelet::ImageState::Held { .. }))
            };
            images.wait_for(|states| held(states.get(&name))).await.unwrap();
            let listed = std::process::Command::new("ctr")
                .args(["-n", "k8s.io", "images", "ls", "-q"])
                .output()
                .unwrap();
            assert!(String::from_utf8_lossy(&listed.stdout).contains(IMAGE));
            running.stop().await;
        },
    );
}

#[test]
fn missing_image_is_pulled_with_back_off() {
    inside("images::missing_image_is_pulled_with_back_off", |node| async move {
        let cluster = Cluster::new();
        let running = cluster.start(&node);
        let mut web = script("web", SERVE);
        web["image"] = json!("127.0.0.1:1/none:1");
        cluster.pod("web", json!({"containers": [web]}));
        cluster
            .wait_pod("web", |pod| waiting(pod)["reason"] == "ErrImagePull")
            .await;
        let pod = cluster
            .wait_pod("web", |pod| waiting(pod)["reason"] == "ImagePullBackOff")
            .await;
        let message = waiting(&pod)["message"].as_str().unwrap();
        assert!(
            message.starts_with("Back-off pulling image \"127.0.0.1:1/none:1\": ErrImagePull: "),
            "{message}"
        );
        for (reason, part) in [
            ("Pulling", "Pulling image \"127.0.0.1:1/none:1\""),
            ("Failed", "Failed to pull image \"127.0.0.1:1/none:1\""),
            ("Failed", "Error: ErrImagePull"),
            ("BackOff", "Back-off pulling image \"127.0.0.1:1/none:1\""),
        ] {
            cluster.wait_event(reason, part).await;
        }
        running.stop().await;
    });
}

#[test]
fn image_that_cannot_be_imported_is_reported() {
    inside("images::image_that_cannot_be_imported_is_reported", |node| async move {
        let cluster = Cluster::new();
        let running = cluster.start(&node);
        let name = cluster.image(vec![0; 10_000], &["x:1"]);
        let path = format!("/apis/minidc.dev/v1/images/{name}");
        let image = cluster
            .wait(&path, |image| image["status"]["failures"][0]["node"] == "pi-1")
            .await;
        assert!(
            image["status"]["failures"][0]["message"]
                .as_str()
                .unwrap()
                .starts_with("import the image archive: "),
            "{image}"
        );
        running.stop().await;
    });
}

#[test]
fn changed_image_restarts_the_container() {
    inside("images::changed_image_restarts_the_container", |node| async move {
        let cluster = Cluster::new();
        with_shell(&cluster);
        cluster.image(busybox("minidc.local/shell:2"), &["minidc.local/shell:2"]);
        let running = cluster.start(&node);
        cluster.pod("web", json!({"containers": [script("web", SERVE)]}));
        cluster.running("web").await;
        cluster.edit_pod("web", |pod| {
            pod["spec"]["containers"][0]["image"] = json!("minidc.local/shell:2");
            pod["metadata"]["generation"] = json!(2);
        });
        let replaced = |pod: &Value| {
            let status = &pod["status"]["containerStatuses"][0];
            status["restartCount"] == 1 && status["ready"] == true
        };
        cluster.wait_pod("web", replaced).await;
        cluster
            .wait_event("Killing", "Container web definition changed, will be restarted")
            .await;
        running.stop().await;
    });
}
