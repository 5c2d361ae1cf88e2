//! The cells of a pod: kubectl's READY, STATUS and RESTARTS sum up all its containers.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::time;

/// What the containers of a pod add up to.
pub(super) struct Summary {
    /// `1/2`
    pub(super) ready: String,
    /// `Running`, `Init:0/1`, `CrashLoopBackOff`, …
    pub(super) status: String,
    /// `3 (5m ago)`
    pub(super) restarts: String,
}

/// Restarts so far and the last time one ended.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += container["restartCount"].as_i64().unwrap_or_default();
        self.last = self
            .last
            .max(time::timestamp(&container["lastState"]["terminated"]["finishedAt"]));
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `OOMKilled`, else `Signal:9`, else `ExitCode:1`.
fn ending(terminated: &Value) -> String {
    let reason = text(&terminated["reason"]);
    let signal = terminated["signal"].as_i64().unwrap_or_default();
    if !reason.is_empty() {
        reason.to_owned()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or_default())
    }
}

fn condition_is_true(pod: &Value, name: &str) -> bool {
    items(&pod["status"]["conditions"])
        .iter()
        .any(|condition| condition["type"] == name && condition["status"] == "True")
}

/// The init container of that name is one that keeps running beside the others (a sidecar).
fn is_sidecar(pod: &Value, name: &Value) -> bool {
    items(&pod["spec"]["initContainers"])
        .iter()
        .any(|container| &container["name"] == name && container["restartPolicy"] == "Always")
}

/// What an init container that is not done yet makes of the status; `None` when it is done (or a sidecar that started).
fn initializing(pod: &Value, index: usize, container: &Value) -> Option<String> {
    let state = &container["state"];
    let terminated = &state["terminated"];
    if terminated.is_object() && terminated["exitCode"].as_i64().unwrap_or_default() == 0 {
        return None;
    }
    if is_sidecar(pod, &container["name"]) && container["started"] == true {
        return None;
    }
    if terminated.is_object() {
        return Some(format!("Init:{}", ending(terminated)));
    }
    let waiting = text(&state["waiting"]["reason"]);
    if !waiting.is_empty() && waiting != "PodInitializing" {
        return Some(format!("Init:{waiting}"));
    }
    Some(format!("Init:{index}/{}", items(&pod["spec"]["initContainers"]).len()))
}

/// Sums a pod up as `printPod` of Kubernetes does.
pub(super) fn summary(pod: &Value, now: Timestamp) -> Summary {
    let status = &pod["status"];
    let phase = text(&status["phase"]);
    let mut reason = match text(&status["reason"]) {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    let gated = |condition: &Value| condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated";
    if items(&status["conditions"]).iter().any(gated) {
        "SchedulingGated".clone_into(&mut reason);
    }

    let sidecars = items(&pod["spec"]["initContainers"])
        .iter()
        .filter(|container| container["restartPolicy"] == "Always")
        .count();
    let total = items(&pod["spec"]["containers"]).len() + sidecars;
    let mut ready = 0;
    let mut restarts = Restarts::default();
    let mut sidecar_restarts = Restarts::default();
    let mut is_initializing = false;
    for (index, container) in items(&status["initContainerStatuses"]).iter().enumerate() {
        restarts.add(container);
        let sidecar = is_sidecar(pod, &container["name"]);
        if sidecar {
            sidecar_restarts.add(container);
        }
        if let Some(text) = initializing(pod, index, container) {
            reason = text;
            is_initializing = true;
            break;
        }
        let ended = container["state"]["terminated"].is_object();
        if sidecar && !ended && container["ready"] == true {
            ready += 1;
        }
    }

    if !is_initializing || condition_is_true(pod, "Initialized") {
        restarts = sidecar_restarts;
        let mut has_running = false;
        for container in items(&status["containerStatuses"]).iter().rev() {
            restarts.add(container);
            let state = &container["state"];
            let waiting = text(&state["waiting"]["reason"]);
            if !waiting.is_empty() {
                waiting.clone_into(&mut reason);
            } else if state["terminated"].is_object() {
                reason = ending(&state["terminated"]);
            } else if container["ready"] == true && state["running"].is_object() {
                has_running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && has_running {
            let back = if condition_is_true(pod, "Ready") {
                "Running"
            } else {
                "NotReady"
            };
            back.clone_into(&mut reason);
        }
    }

    let deleting = pod["metadata"]["deletionTimestamp"].is_string();
    if deleting && status["reason"] == "NodeLost" {
        "Unknown".clone_into(&mut reason);
    } else if deleting && !matches!(phase, "Succeeded" | "Failed") {
        "Terminating".clone_into(&mut reason);
    }

    let restarts = match restarts {
        Restarts {
            count,
            last: Some(last),
        } if count != 0 => {
            format!(
                "{count} ({} ago)",
                time::human_duration(now.duration_since(last).as_secs())
            )
        }
        Restarts { count, .. } => count.to_string(),
    };
    Summary {
        ready: format!("{ready}/{total}"),
        status: reason,
        restarts,
    }
}

/// `1/2`: readiness gates that are open.
pub(super) fn readiness_gates(pod: &Value) -> String {
    let gates = items(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates
        .iter()
        .filter(|gate| condition_is_true(pod, text(&gate["conditionType"])))
        .count();
    format!("{open}/{}", gates.len())
}

/// The row condition by which kubectl can leave finished pods out.
pub(super) fn completed(pod: &Value) -> Option<Value> {
    match text(&pod["status"]["phase"]) {
        "Succeeded" => Some(json!({
            "type": "Completed", "status": "True", "reason": "Succeeded",
            "message": "The pod has completed successfully."
        })),
        "Failed" => {
            Some(json!({"type": "Completed", "status": "True", "reason": "Failed", "message": "The pod failed."}))
        }
        _ => None,
    }
}
