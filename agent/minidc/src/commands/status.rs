//! `minidc status`: what runs on this machine, from the file its process keeps in the run directory, and the cluster's
//! nodes if the API answers.

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::{
    boot::Left,
    cli::ClientArgs,
    client::{self, Client},
    config::Config,
};

/// Name of the file in the run directory.
pub(crate) const FILE: &str = "status.json";

/// Role of a control plane without node.
pub(crate) const SERVER_ONLY: &str = "server";

/// What a running process says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Name of the node, or of the host for a control plane without node.
    pub(crate) node: String,
    /// `server`, `server and node`, or `node`.
    pub(crate) role: String,
    /// Process id.
    pub(crate) pid: u32,
    /// The link, in words.
    pub(crate) link: String,
    /// Name of the LED state.
    pub(crate) led: String,
    /// Running pods.
    pub(crate) pods: u32,
    /// Version of the running program.
    pub(crate) version: String,
}

impl Status {
    /// Whether the process that wrote this still runs.
    pub(crate) fn is_alive(&self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/comm", self.pid)).is_ok_and(|name| name.contains("minidc"))
    }

    /// Whether it is a node, and not a control plane only.
    pub(crate) fn has_node(&self) -> bool {
        self.role != SERVER_ONLY
    }
}

/// Runs `minidc status`.
pub(crate) async fn run(arguments: ClientArgs, config: &Config) -> anyhow::Result<()> {
    let path = config.run.join(FILE);
    match tokio::fs::read(&path).await {
        Ok(bytes) => {
            let status: Status = serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))?;
            println!(
                "this machine: {} ({}), version {}",
                status.node, status.role, status.version
            );
            println!(
                "process:      {}{}",
                status.pid,
                if status.is_alive() { "" } else { " (gone: see its log)" }
            );
            println!("link:         {}", status.link);
            println!("LEDs:         {}", status.led);
            println!("pods:         {} running", status.pods);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("this machine: minidc does not run here");
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    }
    if let Some(left) = Left::read(config) {
        println!("\n{}", left.text.trim());
    }
    let Ok(kubeconfig) = client::kubeconfig_path(arguments.kubeconfig.as_deref(), config) else {
        return Ok(());
    };
    println!();
    super::node::print(&mut Client::connect(&kubeconfig).await?).await
}
