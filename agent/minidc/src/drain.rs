//! A board that is to be powered off takes no new pods (cordon) and has those that others can run evicted, so that they are started elsewhere
//! before they end here. When it starts again, it takes pods again.
//!
//! `minidc halt` asks for it with SIGUSR2, and reads in [`DRAINED`] how it went.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use minidc_hardware::Reason;
use minidc_kubelet::{ControlPlane, Offline};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    lights::Wish,
    local::{JSON, MERGE_PATCH},
};

/// File in the run directory that says how it went, in a line.
pub(crate) const DRAINED: &str = "drained";
/// Longest time for it: pods have 30 s to end unless they say otherwise.
pub(crate) const LIMIT: Duration = Duration::from_secs(45);
/// Annotation of a node that was cordoned by its own halt, and not by a person.
const HALTED_ANNOTATION: &str = "minidc.dev/halted";
/// Between two looks at the pods that are left, and two attempts to reach the control plane.
const LOOK: Duration = Duration::from_millis(500);

/// Drains this node when it is told to.
pub(crate) struct Drain {
    /// Its name.
    pub(crate) node: String,
    /// Who is asked.
    pub(crate) upstream: Arc<dyn ControlPlane>,
    /// The run directory.
    pub(crate) run: PathBuf,
}

impl Drain {
    /// Takes pods again if a halt kept them away, and waits for the next.
    ///
    /// # Errors
    /// If the signal cannot be waited for.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut halts = signal(SignalKind::user_defined2())?;
        let mut is_back = false;
        loop {
            let back = async {
                while let Err(error) = self.come_back().await {
                    tracing::debug!("take pods again: {error:#}");
                    tokio::time::sleep(LOOK).await;
                }
            };
            tokio::select! {
                () = back, if !is_back => is_back = true,
                _ = halts.recv() => {
                    is_back = true;
                    let drained = tokio::select! {
                        drained = tokio::time::timeout(LIMIT, self.drain()) => drained,
                        () = shutdown.cancelled() => return Ok(()),
                    };
                    let told = match drained {
                        Ok(Ok(count)) => format!("{count} pods were evicted, to be started elsewhere"),
                        Ok(Err(error)) => format!("not all pods were evicted: {error:#}"),
                        Err(_) => format!("not all pods were gone within {LIMIT:?}"),
                    };
                    tracing::info!("halt: {told}");
                    let path = self.run.join(DRAINED);
                    std::fs::write(&path, told).with_context(|| format!("write {}", path.display()))?;
                }
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    async fn ask(
        &self,
        method: &'static str,
        path: String,
        kind: &'static str,
        body: &Value,
    ) -> anyhow::Result<(u16, Value)> {
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let asked = self.upstream.request(method, path.clone(), kind, body).await;
        let (status, body) = asked.map_err(|Offline| anyhow::anyhow!("the control plane is not reached"))?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        // a disruption budget may forbid it for now, and what is gone needs nothing
        if !matches!(status, 200..=299 | 404 | 429) {
            bail!(
                "{method} {path}: {status}: {}",
                answer["message"].as_str().unwrap_or_default()
            );
        }
        Ok((status, answer))
    }

    fn own_path(&self) -> String {
        format!("/api/v1/nodes/{}", self.node)
    }

    async fn own_node(&self) -> anyhow::Result<Value> {
        let (status, node) = self.ask("GET", self.own_path(), JSON, &Value::Null).await?;
        if status == 404 {
            bail!("there is no node {} yet", self.node);
        }
        Ok(node)
    }

    async fn come_back(&self) -> anyhow::Result<()> {
        let node = self.own_node().await?;
        if node["metadata"]["annotations"][HALTED_ANNOTATION].is_string() {
            let patch =
                json!({"metadata": {"annotations": {HALTED_ANNOTATION: null}}, "spec": {"unschedulable": null}});
            self.ask("PATCH", self.own_path(), MERGE_PATCH, &patch).await?;
        }
        Ok(())
    }

    /// Gives the number of pods that were evicted, once they are gone.
    async fn drain(&self) -> anyhow::Result<usize> {
        Wish {
            reason: Reason::Halting,
            for_ms: LIMIT.as_millis(),
        }
        .write(&self.run)?;
        // whoever cordoned it by hand wants it to stay so
        if self.own_node().await?["spec"]["unschedulable"] != true {
            let patch =
                json!({"metadata": {"annotations": {HALTED_ANNOTATION: "true"}}, "spec": {"unschedulable": true}});
            self.ask("PATCH", self.own_path(), MERGE_PATCH, &patch).await?;
        }
        let mut evicted = std::collections::BTreeSet::new();
        loop {
            let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.node);
            let (_, pods) = self.ask("GET", path, JSON, &Value::Null).await?;
            let left = movable(&pods);
            if left.is_empty() {
                return Ok(evicted.len());
            }
            for pod in left {
                if !pod.ending {
                    let eviction = json!({
                        "apiVersion": "policy/v1", "kind": "Eviction",
                        "metadata": {"namespace": pod.namespace, "name": pod.name},
                    });
                    let path = format!("/api/v1/namespaces/{}/pods/{}/eviction", pod.namespace, pod.name);
                    self.ask("POST", path, JSON, &eviction).await?;
                }
                evicted.insert((pod.namespace, pod.name));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A pod that another node can run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Movable {
    namespace: String,
    name: String,
    /// It was told to end already.
    ending: bool,
}

/// The pods of a list that somebody makes anew elsewhere. One without an owner would be gone for good: it is stopped here, and runs
/// again if the board is back before its absence is taken for good.
fn movable(pods: &Value) -> Vec<Movable> {
    let pods = pods["items"].as_array().into_iter().flatten();
    pods.filter(|pod| {
        let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let mut owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        // a DaemonSet would start it on this node again
        !ended && owners.any(|owner| owner["controller"] == true && owner["kind"] != "DaemonSet")
    })
    .map(|pod| {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
        Movable {
            namespace: text("namespace"),
            name: text("name"),
            ending: pod["metadata"]["deletionTimestamp"].is_string(),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pods_that_somebody_makes_anew_are_evicted() {
        let pod = |name: &str, owner: &str, phase: &str, deleted: Option<&str>| {
            let owners = match owner {
                "" => json!([]),
                kind => json!([{"kind": kind, "controller": true}]),
            };
            json!({
                "metadata": {"namespace": "d", "name": name, "ownerReferences": owners, "deletionTimestamp": deleted},
                "status": {"phase": phase},
            })
        };
        let pods = json!({"items": [
            pod("alone", "", "Running", None),
            pod("web-1", "ReplicaSet", "Running", None),
            pod("web-2", "ReplicaSet", "Running", Some("2026-01-01T00:00:00Z")),
            pod("done", "Job", "Succeeded", None),
            pod("agent", "DaemonSet", "Running", None),
            pod("waiting", "StatefulSet", "Pending", None),
        ]});
        let found: Vec<(String, bool)> = movable(&pods).into_iter().map(|pod| (pod.name, pod.ending)).collect();
        let expected = [("web-1", false), ("web-2", true), ("waiting", false)];
        assert_eq!(found, expected.map(|(name, ending)| (name.to_owned(), ending)));
        assert!(movable(&json!({})).is_empty());
    }
}
