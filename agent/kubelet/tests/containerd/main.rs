//! The kubelet on a real containerd. Each test has a virtual node of its own; they need root and fail without containerd.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod cluster;
mod node;
mod power;

mod images;
mod life;
mod names;
mod probes;
mod streams;
mod volumes;

use minidc_kubelet::archive::{File, ImageBuilder};
use serde_json::{Value, json};

/// An image with a shell.
fn busybox(name: &str) -> Vec<u8> {
    let program = std::fs::read("/bin/busybox").expect("this test needs busybox-static");
    let mut builder = ImageBuilder::new(name)
        .entrypoint(["/bin/sh", "-c"])
        .file(File::program("/bin/busybox", program));
    for name in [
        "sh", "sleep", "cat", "echo", "ls", "stty", "kill", "true", "dd", "df", "hostname", "wget", "httpd", "grep",
        "head", "tail", "id", "touch", "rm", "mkdir", "test", "nc",
    ] {
        builder = builder.file(File::link(format!("/bin/{name}"), "busybox"));
    }
    let mut archive = Vec::new();
    builder.write_to(&mut archive).unwrap();
    archive
}

const IMAGE: &str = "minidc.local/shell:1";

/// Has the shell image on the node.
fn with_shell(cluster: &cluster::Cluster) {
    cluster.image(busybox(IMAGE), &[IMAGE]);
}

/// A container that runs a script.
fn script(name: &str, text: &str) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "args": [text]})
}

/// Runs until it is told to end.
const SERVE: &str = "trap 'exit 0' TERM; while true; do sleep 0.1; done";
