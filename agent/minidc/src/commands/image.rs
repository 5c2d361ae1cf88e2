//! `minidc image …`: archives go to the API once; every node fetches them over its link.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::TryStreamExt;
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use crate::{
    cli::ImageCommand,
    client::{self, Client},
    config::Config,
};

const IMAGES: &str = "/apis/minidc.dev/v1/images";

/// Runs one `image` subcommand.
pub(crate) async fn run(command: ImageCommand, config: &Config) -> anyhow::Result<()> {
    match command {
        ImageCommand::Import { files, timeout, client } => {
            let mut api = Client::connect(&client::kubeconfig_path(client.kubeconfig.as_deref(), config)?).await?;
            // all files are read and checked before the first is sent
            let mut archives = Vec::new();
            for file in &files {
                archives.push(Archive::examine(file).await?);
            }
            for archive in &archives {
                println!(
                    "{}: {} ({})",
                    archive.path.display(),
                    archive.references.join(", "),
                    human_size(archive.size)
                );
                upload(&mut api, archive).await?;
            }
            for archive in &archives {
                report(
                    &archive.references.join(", "),
                    &wait_for_nodes(&mut api, &archive.name, timeout).await?,
                );
            }
            Ok(())
        }
        ImageCommand::List(client) => {
            let mut api = Client::connect(&client::kubeconfig_path(client.kubeconfig.as_deref(), config)?).await?;
            list(&mut api).await
        }
    }
}

/// An archive that was read once and found good.
pub(crate) struct Archive {
    path: std::path::PathBuf,
    /// Name of its `Image` object.
    pub(crate) name: String,
    /// Names of the images in it.
    pub(crate) references: Vec<String>,
    size: u64,
}

impl Archive {
    /// Reads `path` once: its digest, and the image names in it.
    pub(crate) async fn examine(path: &Path) -> anyhow::Result<Self> {
        let attempt = || format!("import {}", path.display());
        let mut file = tokio::fs::File::open(path).await.with_context(attempt)?;
        let size = file.metadata().await.with_context(attempt)?.len();
        let owned = path.to_owned();
        let references = tokio::task::spawn_blocking(move || {
            minidc_kubelet::archive::references(std::io::BufReader::new(std::fs::File::open(owned)?))
                .map_err(anyhow::Error::from)
        })
        .await?
        .with_context(attempt)?;
        if references.is_empty() {
            bail!(
                "{}: the archive names no image: save it with a name, as in `docker save NAME:TAG`",
                path.display()
            );
        }
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = file.read(&mut buffer).await.with_context(attempt)?;
            if count == 0 {
                break;
            }
            digest.update(&buffer[..count]);
        }
        let name = format!("sha256-{:x}", digest.finalize());
        Ok(Self {
            path: path.into(),
            name,
            references,
            size,
        })
    }
}

/// Sends an archive to the control plane, which keeps it for the nodes.
pub(crate) async fn upload(api: &mut Client, archive: &Archive) -> anyhow::Result<()> {
    let file = tokio::fs::File::open(&archive.path).await?;
    let frames = tokio_util::io::ReaderStream::with_capacity(file, 64 << 10).map_ok(Frame::<Bytes>::data);
    let references: Vec<String> = archive
        .references
        .iter()
        .map(|reference| percent_encode(reference))
        .collect();
    let path = format!("{IMAGES}/{}/archive?references={}", archive.name, references.join(","));
    let (status, body) = api
        .send(
            Method::PUT,
            &path,
            "application/vnd.oci.image.layer.v1.tar",
            StreamBody::new(frames).boxed(),
        )
        .await?;
    client::expect_success(status, &body).with_context(|| format!("send {}", archive.path.display()))
}

/// Which nodes have an image.
pub(crate) struct Spread {
    /// Nodes that hold it.
    pub(crate) held: Vec<String>,
    /// Nodes that could not load it, with the reason.
    pub(crate) failed: Vec<(String, String)>,
    /// Nodes that are away and will catch up when they return.
    pub(crate) away: Vec<String>,
    /// Nodes that are there but were not done in time.
    pub(crate) late: Vec<String>,
}

/// Waits until every node that is Ready holds the image or says why not, or `timeout` is over.
pub(crate) async fn wait_for_nodes(api: &mut Client, image: &str, timeout: Duration) -> anyhow::Result<Spread> {
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        let object = api.get(&format!("{IMAGES}/{image}")).await?;
        let nodes = api.get("/api/v1/nodes").await?;
        let strings = |pointer: &str| -> Vec<String> {
            let list = object.pointer(pointer).and_then(Value::as_array);
            list.into_iter()
                .flatten()
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect()
        };
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let failures = object.pointer("/status/failures").and_then(Value::as_array);
        let mut spread = Spread {
            held: strings("/status/nodes"),
            failed: failures
                .into_iter()
                .flatten()
                .map(|failure| (text(failure, "node"), text(failure, "message")))
                .collect(),
            away: Vec::new(),
            late: Vec::new(),
        };
        for node in nodes["items"].as_array().into_iter().flatten() {
            let name = node
                .pointer("/metadata/name")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            if spread.held.contains(&name) || spread.failed.iter().any(|(failed, _)| *failed == name) {
                continue;
            }
            if is_ready(node) {
                spread.late.push(name);
            } else {
                spread.away.push(name);
            }
        }
        if spread.late.is_empty() || tokio::time::Instant::now() >= deadline {
            return Ok(spread);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn report(references: &str, spread: &Spread) {
    println!(
        "{references}: on {}",
        if spread.held.is_empty() {
            "no node yet".into()
        } else {
            spread.held.join(", ")
        }
    );
    if !spread.away.is_empty() {
        println!("  missed {}: away now, catches up on return", spread.away.join(", "));
    }
    if !spread.late.is_empty() {
        println!("  missed {}: not done yet, goes on by itself", spread.late.join(", "));
    }
    for (node, message) in &spread.failed {
        println!("  missed {node}: {message}");
    }
}

/// Whether a node's Ready condition is True.
pub(crate) fn is_ready(node: &Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

async fn list(api: &mut Client) -> anyhow::Result<()> {
    let images = api.get(IMAGES).await?;
    let joined = |value: Option<&Value>| {
        let list = value.and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(",")
    };
    let mut rows = Vec::new();
    for image in images["items"].as_array().into_iter().flatten() {
        let size = image.pointer("/spec/size").and_then(Value::as_u64).unwrap_or_default();
        rows.push(vec![
            joined(image.pointer("/spec/references")),
            human_size(size),
            joined(image.pointer("/status/nodes")),
        ]);
    }
    super::print_table(&["REFERENCES", "SIZE", "NODES"], &rows);
    Ok(())
}

fn human_size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Percent-encodes what is not allowed in a query value.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
