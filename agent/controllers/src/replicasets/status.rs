//! What a ReplicaSet says of its pods.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::objects::metadata::{Condition, condition};
use crate::objects::pod::Pod;
use crate::objects::replica_set::{ReplicaSet, ReplicaSetStatus};

/// Type of the condition that tells of failing creation or deletion.
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// Reason and message of what went wrong.
pub(crate) type Failure = (&'static str, String);

/// How long until a pod counts as available: zero if it does now, none while it is not ready.
pub(crate) fn until_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    if !pod.ready {
        return None;
    }
    if min_ready_seconds <= 0 {
        return Some(Duration::ZERO);
    }
    let since = pod.ready_since?;
    let left = since
        .saturating_add(SignedDuration::from_secs(i64::from(min_ready_seconds)))
        .ok()?
        .duration_since(now);
    Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
}

/// The status of a set with these active pods, and when it will change by mere waiting.
pub(crate) fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    failure: Option<Failure>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let template = set.template.value();
    let labels = template["metadata"]["labels"].as_object();
    let labeled = |pod: &Pod| {
        labels
            .into_iter()
            .flatten()
            .all(|(key, value)| pod.metadata.label(key) == value.as_str().or(Some("")))
    };
    let count = |wanted: &dyn Fn(&Pod) -> bool| {
        i32::try_from(pods.iter().filter(|pod| wanted(pod)).count()).unwrap_or(i32::MAX)
    };
    let waits: Vec<Duration> = pods
        .iter()
        .filter_map(|pod| until_available(pod, set.min_ready_seconds, now))
        .collect();
    let available = waits.iter().filter(|wait| wait.is_zero()).count();
    let again = waits.iter().filter(|wait| !wait.is_zero()).min().copied();

    let mut conditions = set.status.conditions.clone();
    match failure {
        Some((reason, message)) => {
            if condition(&conditions, REPLICA_FAILURE).is_none_or(|known| !known.because(reason)) {
                conditions.retain(|known| known.kind != REPLICA_FAILURE);
                conditions.push(Condition::new(REPLICA_FAILURE, "True", reason, message, now));
            }
        }
        None => conditions.retain(|known| known.kind != REPLICA_FAILURE),
    }
    let status = ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: count(&labeled),
        ready_replicas: count(&|pod| pod.ready),
        available_replicas: i32::try_from(available).unwrap_or(i32::MAX),
        observed_generation: set.metadata.generation,
        conditions,
    };
    (status, again)
}

/// A pod made from the set's template.
pub(crate) fn pod_from_template(set: &ReplicaSet, owner: &crate::objects::Owner) -> Value {
    let mut template = set.template.value();
    let mut metadata = serde_json::Map::new();
    metadata.insert("generateName".into(), format!("{}-", set.metadata.key.name).into());
    metadata.insert("namespace".into(), (&*set.metadata.key.namespace).into());
    for field in ["labels", "annotations", "finalizers"] {
        let value = template["metadata"][field].take();
        if !value.is_null() {
            metadata.insert(field.into(), value);
        }
    }
    metadata.insert("ownerReferences".into(), serde_json::json!([owner]));
    serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"].take()})
}
