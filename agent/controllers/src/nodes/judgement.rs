//! Who is silent, which conditions and taints follow, and which pods may no longer stay. Pure.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::objects::metadata::{Condition, time_text};
use crate::objects::node::{Node, Taint};
use crate::objects::pod::Toleration;
use crate::taints::{NO_EXECUTE, NO_SCHEDULE, NOT_READY, UNREACHABLE, UNSCHEDULABLE, tolerates};

/// What was heard of a node, by the monotonic clock: what the Lease itself says of time is never read as one.
#[derive(Clone, Debug)]
pub(crate) struct Hearing {
    /// When its Lease was last seen to change, or, where it never was, when the node was first seen.
    pub(crate) at: Instant,
    /// Whether its Lease was ever seen to change.
    pub(crate) heard: bool,
    /// The Lease's renewTime.
    pub(crate) renewed: Box<str>,
}

/// When a node counts as silent, unless it is heard again before. Nothing before `floor` counts as silence: then nobody listened.
pub(crate) fn silent_from(hearing: &Hearing, floor: Instant, silence: Duration, grace: Duration) -> Instant {
    hearing.at.max(floor) + if hearing.heard { silence } else { grace }
}

/// Conditions that a kubelet reports, and nobody else can when it is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Condition that says what the lights of a node say, where it has one.
const BOARD_HEALTHY: &str = "BoardHealthy";

/// What becomes of a silent node's conditions; empty when all of it is said already.
pub(crate) fn unknown_conditions(node: &Node, now: Timestamp) -> Vec<Condition> {
    REPORTED
        .into_iter()
        .filter_map(|kind| match node.condition(kind) {
            Some(known) if known.status == "Unknown" => None,
            Some(_) => Some(Condition::new(
                kind,
                "Unknown",
                "NodeStatusUnknown",
                "Kubelet stopped posting node status.",
                now,
            )),
            None => Some(Condition::new(
                kind,
                "Unknown",
                "NodeStatusNeverUpdated",
                "Kubelet never posted node status.",
                now,
            )),
        })
        .chain(
            node.condition(BOARD_HEALTHY)
                .filter(|known| known.status != "Unknown")
                .map(|_| {
                    let message = "Nobody knows what its lights say: look at the board.";
                    Condition::new(BOARD_HEALTHY, "Unknown", "NodeStatusUnknown", message, now)
                }),
        )
        .collect()
}

/// Condition, the status that is bad, and the taint that follows.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// The taints a node should carry, if other than those it has. Others' taints stay as they are.
///
/// While evictions are not allowed no NoExecute taint is added; those there stay until the node is well.
pub(crate) fn taints(node: &Node, evictions_allowed: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let mut wanted = Vec::new();
    let reason = match node.ready() {
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        Some(_) => Some(NOT_READY),
        None => {
            wanted.push(Taint::new(NOT_READY, NO_SCHEDULE));
            None
        }
    };
    if let Some(key) = reason {
        wanted.push(Taint::new(key, NO_SCHEDULE));
        let present = node
            .taints
            .iter()
            .any(|taint| taint.effect == NO_EXECUTE && (taint.key == UNREACHABLE || taint.key == NOT_READY));
        if evictions_allowed || present {
            wanted.push(Taint::new(key, NO_EXECUTE));
        }
    }
    for (condition, key) in PRESSURES {
        if node
            .condition(condition)
            .is_some_and(|condition| condition.status == "True")
        {
            wanted.push(Taint::new(key, NO_SCHEDULE));
        }
    }
    if node.unschedulable {
        wanted.push(Taint::new(UNSCHEDULABLE, NO_SCHEDULE));
    }
    let managed = |taint: &Taint| match taint.effect.as_str() {
        NO_SCHEDULE => {
            [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&taint.key.as_str())
                || PRESSURES.iter().any(|(_, key)| *key == taint.key)
        }
        NO_EXECUTE => [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()),
        _ => false,
    };
    let mut result: Vec<Taint> = node
        .taints
        .iter()
        .filter(|taint| !managed(taint) || wanted.iter().any(|wanted| wanted.is(taint)))
        .cloned()
        .collect();
    for mut taint in wanted {
        if !result.iter().any(|present| present.is(&taint)) {
            taint.time_added = Some(time_text(now));
            result.push(taint);
        }
    }
    (result != node.taints).then_some(result)
}

/// How long a pod may stay on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stay {
    /// No taint drives it away.
    Forever,
    /// Counted from the moment the taints are seen.
    For(Duration),
}

/// What the node's NoExecute taints mean for a pod with these tolerations.
pub(crate) fn stay(taints: &[Taint], tolerations: &[Toleration]) -> Stay {
    let mut shortest = Stay::Forever;
    for taint in taints.iter().filter(|taint| taint.effect == NO_EXECUTE) {
        let mut matching = tolerations
            .iter()
            .filter(|toleration| tolerates(toleration, taint))
            .peekable();
        if matching.peek().is_none() {
            return Stay::For(Duration::ZERO);
        }
        for seconds in matching.filter_map(|toleration| toleration.toleration_seconds) {
            let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
            shortest = match shortest {
                Stay::For(known) => Stay::For(known.min(limit)),
                Stay::Forever => Stay::For(limit),
            };
        }
    }
    shortest
}

#[cfg(test)]
mod tests;
