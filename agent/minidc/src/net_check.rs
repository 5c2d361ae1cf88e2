//! This node's part in `minidc net check`: what the feed asks, and where the findings go.

use std::{path::PathBuf, sync::Arc, time::Duration};

use minidc_api::feed::FeedKind;
use minidc_kubelet::ControlPlane;
use minidc_link::feed::FeedState;
use minidc_net::{
    NetworkState,
    check::{self, Cni, Report, Responder, Task},
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{control_plane::supervise, desired::Ranges, local::MERGE_PATCH, networking::CONFLIST};

/// Directories of CNI plugins: upstream's, and Debian's.
const PLUGINS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
/// Attempts to deliver a report, and the time between them: the command does not wait longer.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// What takes part in checks.
pub(crate) struct NetChecks {
    /// Name of the node.
    pub(crate) node: String,
    /// Directory that does not survive a reboot.
    pub(crate) run: PathBuf,
    /// Where findings go.
    pub(crate) upstream: Arc<dyn ControlPlane>,
    /// What the control plane asks.
    pub(crate) feed: watch::Receiver<Arc<FeedState>>,
    /// Ranges of the cluster, once known.
    pub(crate) ranges: watch::Receiver<Option<Ranges>>,
    /// How the pod network does.
    pub(crate) network: watch::Receiver<NetworkState>,
}

impl NetChecks {
    /// Takes part until `shutdown`.
    ///
    /// # Errors
    /// None at present.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let known = tokio::select! {
            known = self.ranges.wait_for(Option::is_some) => known.ok().and_then(|known| *known),
            () = shutdown.cancelled() => return Ok(()),
        };
        // a cluster that changes its ranges starts its agents anew
        let Some(ranges) = known else { return Ok(()) };
        let config = check::Config {
            node: self.node.clone(),
            cni: Cni {
                conflist: CONFLIST.into(),
                plugins: PLUGINS.map(PathBuf::from).to_vec(),
            },
            run: self.run.join("net-check"),
            dns: ranges.dns(),
            domain: "cluster.local".to_owned(),
        };
        let responder = Responder::new(config, self.network.clone());
        let (tasks, receiver) = watch::channel(Arc::default());
        let (sender, reports) = mpsc::channel(16);
        let mut parts = JoinSet::new();
        let stop = shutdown.clone();
        parts.spawn(async move { Ok(responder.run(receiver, sender, stop).await?) });
        parts.spawn(follow(self.feed, tasks, shutdown.clone()));
        parts.spawn(deliver(self.node, self.upstream, reports, shutdown.clone()));
        supervise(parts, shutdown).await
    }
}

/// The checks that the control plane has now. Those on disk are from before a restart, and over.
fn tasks(feed: &FeedState) -> Vec<Task> {
    if !feed.synced || feed.from_disk {
        return Vec::new();
    }
    let first = (FeedKind::NetCheck, String::new(), String::new());
    let entries = feed.items.range(first..);
    let entries = entries.take_while(|((kind, ..), _)| *kind == FeedKind::NetCheck);
    let tasks = entries.filter_map(|((_, _, name), entry)| {
        Task::from_json(&entry.json)
            .inspect_err(|error| {
                tracing::warn!(error = error as &dyn std::error::Error, name, "a check of the network");
            })
            .ok()
    });
    tasks.collect()
}

async fn follow(
    mut feed: watch::Receiver<Arc<FeedState>>,
    sender: watch::Sender<Arc<Vec<Task>>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let now = tasks(&feed.borrow_and_update());
        sender.send_if_modified(|present| {
            let news = **present != now;
            if news {
                *present = Arc::new(now);
            }
            news
        });
        tokio::select! {
            changed = feed.changed() => if changed.is_err() { break },
            () = shutdown.cancelled() => return Ok(()),
        }
    }
    shutdown.cancelled().await;
    Ok(())
}

async fn deliver(
    node: String,
    upstream: Arc<dyn ControlPlane>,
    mut reports: mpsc::Receiver<Report>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let report = tokio::select! {
            report = reports.recv() => report,
            () = shutdown.cancelled() => return Ok(()),
        };
        let Some(report) = report else { break };
        let path = format!("/apis/minidc.dev/v1/netchecks/{}/status", report.task);
        let body = json!({"status": {"nodes": {&node: report}}}).to_string().into_bytes();
        for _ in 0..ATTEMPTS {
            let answer = upstream.request("PATCH", path.clone(), MERGE_PATCH, body.clone()).await;
            match answer {
                // gone with its check
                Ok((200 | 404, _)) => break,
                Ok((code, body)) => {
                    tracing::debug!(code, body = %String::from_utf8_lossy(&body), path, "report a check of the network");
                }
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }
    shutdown.cancelled().await;
    Ok(())
}
