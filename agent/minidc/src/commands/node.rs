//! `minidc node …`

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Value, json};

use crate::{
    cli::NodeCommand,
    client::{self, Client},
    config::Config,
    sessions,
};

const MERGE_PATCH: &str = "application/merge-patch+json";

/// Runs one `node` subcommand.
pub(crate) async fn run(command: NodeCommand, config: &Config) -> anyhow::Result<()> {
    match command {
        NodeCommand::List(client) => {
            let mut api = Client::connect(&client::kubeconfig_path(client.kubeconfig.as_deref(), config)?).await?;
            print(&mut api).await
        }
        NodeCommand::Remove { name, client } => {
            let mut api = Client::connect(&client::kubeconfig_path(client.kubeconfig.as_deref(), config)?).await?;
            remove(&mut api, &name).await
        }
        NodeCommand::Adopt => adopt(config),
        NodeCommand::Clear => clear(config).await,
    }
}

/// What a package that is removed calls: nothing of minidc runs or shows in the network afterwards.
pub(crate) async fn clear(config: &Config) -> anyhow::Result<()> {
    let path = config.run.join(super::status::FILE);
    let status = std::fs::read(&path).unwrap_or_default();
    // a file that cannot be read is no reason to keep pods
    if let Ok(status) = serde_json::from_slice::<super::status::Status>(&status)
        && status.is_alive()
    {
        bail!(
            "minidc still runs here (process {}): stop it first, or it starts the pods again",
            status.pid
        );
    }
    // without a runtime there are no pods to stop; its own directories and the network may be there all the same
    let pods = if config.agent.containerd.exists() {
        let mut kubelet = minidc_kubelet::Config::new("");
        kubelet.data = config.data.join("agent");
        kubelet.run.clone_from(&config.run);
        kubelet.containerd.clone_from(&config.agent.containerd);
        kubelet.log_dir.clone_from(&config.agent.pod_logs);
        minidc_kubelet::clear::clear(&kubelet).await
    } else {
        Ok(0)
    };
    // the network in any case: pods that stayed would else hold it up
    let network = minidc_net::clear(std::path::Path::new(crate::networking::CONFLIST)).await;
    let pods = pods?;
    network?;
    println!("{pods} pods stopped; their network is removed");
    Ok(())
}

/// Tells the agent on this machine, by the signal that means this.
fn adopt(config: &Config) -> anyhow::Result<()> {
    let path = config.run.join(super::status::FILE);
    let text = std::fs::read(&path).with_context(|| format!("no node runs here: read {}", path.display()))?;
    let status: super::status::Status =
        serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))?;
    // a process that was killed leaves its file, and another may have its number; a control plane alone knows no such signal
    if !status.has_node() || !status.is_alive() {
        bail!(
            "no node runs here: {} (process {}) is {}",
            status.node,
            status.pid,
            if status.is_alive() {
                "a control plane only"
            } else {
                "gone"
            }
        );
    }
    let process = nix::unistd::Pid::from_raw(i32::try_from(status.pid)?);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGUSR1)
        .with_context(|| format!("signal process {process}"))?;
    println!("the node takes the store of the control plane for its own: see minidc status");
    Ok(())
}

async fn remove(api: &mut Client, name: &str) -> anyhow::Result<()> {
    let identity = format!("/apis/minidc.dev/v1/nodeidentities/{name}");
    let node = format!("/api/v1/nodes/{name}");
    // the key first: a node that still runs must not come back between the two steps
    let patch = json!({"spec": {"removed": true, "removedReason": "removed with minidc node remove"}});
    let (status, body) = api
        .send(
            Method::PATCH,
            &identity,
            MERGE_PATCH,
            client::full(patch.to_string().into()),
        )
        .await?;
    let known = status != http::StatusCode::NOT_FOUND;
    if known {
        client::expect_success(status, &body)?;
    }
    let (status, body) = api
        .send(Method::DELETE, &node, "application/json", client::full(Vec::new()))
        .await?;
    if status != http::StatusCode::NOT_FOUND {
        client::expect_success(status, &body)?;
    } else if !known {
        bail!("no node {name:?}: see minidc node list");
    }
    println!(
        "{name} is removed: its key is refused, its pods are replaced elsewhere. A new token lets the board join again."
    );
    Ok(())
}

/// Prints the node table: what `kubectl get nodes` shows, and minidc's own columns.
pub(crate) async fn print(api: &mut Client) -> anyhow::Result<()> {
    let nodes = api.get("/api/v1/nodes").await?;
    let mut rows = Vec::new();
    for node in nodes["items"].as_array().into_iter().flatten() {
        let text = |pointer: &str| node.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
        let condition = |name: &str, key: &str| {
            let list = node.pointer("/status/conditions").and_then(Value::as_array);
            let found = list.into_iter().flatten().find(|condition| condition["type"] == name);
            found
                .and_then(|condition| condition[key].as_str())
                .unwrap_or("-")
                .to_owned()
        };
        let address = node.pointer("/status/addresses").and_then(Value::as_array);
        let address = address
            .into_iter()
            .flatten()
            .find(|address| address["type"] == "InternalIP");
        let ready = condition("Ready", "status");
        rows.push(vec![
            text("/metadata/name"),
            if ready == "True" {
                "Ready".into()
            } else {
                "NotReady".into()
            },
            if ready == "True" {
                "-".into()
            } else {
                condition("Ready", "reason")
            },
            sessions::said(node).unwrap_or_else(|| "-".into()),
            address
                .and_then(|address| address["address"].as_str())
                .unwrap_or("-")
                .to_owned(),
            text("/spec/podCIDR"),
            text("/status/nodeInfo/kubeletVersion"),
        ]);
    }
    super::print_table(
        &["NAME", "STATUS", "REASON", "LED", "ADDRESS", "PODS", "VERSION"],
        &rows,
    );
    Ok(())
}
