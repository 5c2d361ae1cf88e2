//! Which pods of a ReplicaSet go first when there are too many: `controller.ActivePodsWithRanks` of Kubernetes.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::objects::pod::{Phase, Pod};

/// Sorts the pods that are best missed to the front.
///
/// `related` are all pods of the same Deployment: of two pods the one on a node with more of them goes first.
pub(crate) fn sort_by_dispensability(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut company: HashMap<&str, u32> = HashMap::new();
    for pod in related {
        if pod.active()
            && let Some(node) = pod.node.as_deref()
        {
            *company.entry(node).or_default() += 1;
        }
    }
    let company = |pod: &Pod| {
        pod.node
            .as_deref()
            .and_then(|node| company.get(node))
            .copied()
            .unwrap_or_default()
    };
    pods.sort_by(|a, b| {
        let first = |pod: &Pod| {
            let phase = match pod.phase {
                Phase::Pending => 0,
                Phase::Unknown => 1,
                _ => 2,
            };
            (
                pod.node.is_some(),
                phase,
                pod.ready,
                pod.deletion_cost,
                Reverse(company(pod)),
            )
        };
        first(a).cmp(&first(b)).then_with(|| by_age(a, b, now))
    });
}

/// Shorter ready, more often restarted, younger: first. Ages count as powers of two, so that a few seconds decide nothing.
fn by_age(a: &Pod, b: &Pod, now: Timestamp) -> Ordering {
    if a.ready && b.ready && a.ready_since != b.ready_since {
        return match (a.ready_since, b.ready_since) {
            (Some(one), Some(other)) => magnitude(one, now)
                .cmp(&magnitude(other, now))
                .then_with(|| a.metadata.uid.cmp(&b.metadata.uid)),
            (one, other) => one.is_some().cmp(&other.is_some()),
        };
    }
    b.restarts.cmp(&a.restarts).then_with(|| {
        magnitude(a.metadata.created, now)
            .cmp(&magnitude(b.metadata.created, now))
            .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
    })
}

/// Logarithm, base two, of the nanoseconds since then.
fn magnitude(since: Timestamp, now: Timestamp) -> u32 {
    let elapsed = now.as_nanosecond().saturating_sub(since.as_nanosecond());
    u128::try_from(elapsed)
        .unwrap_or_default()
        .checked_ilog2()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
