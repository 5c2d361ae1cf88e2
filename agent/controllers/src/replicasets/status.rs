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

/// The status of a set with these active pods and so many that are ending, and when it will change by mere waiting.
pub(crate) fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    terminating: usize,
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
        terminating_replicas: i32::try_from(terminating).unwrap_or(i32::MAX),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::objects::{Owner, REPLICA_SETS, from_json};

    fn set(min_ready: i32, conditions: &Value) -> Arc<ReplicaSet> {
        from_json(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "r", "generation": 4},
            "spec": {
                "replicas": 3,
                "minReadySeconds": min_ready,
                "template": {
                    "metadata": {"labels": {"app": "web"}, "annotations": {"a": "b"}},
                    "spec": {"containers": [{"name": "c"}]},
                },
            },
            "status": {"replicas": 0, "conditions": conditions},
        }))
    }

    fn pod(app: &str, ready_since: Option<&str>) -> Arc<Pod> {
        let ready: Vec<Value> = ready_since
            .map(|since| json!({"type": "Ready", "status": "True", "lastTransitionTime": since}))
            .into_iter()
            .collect();
        from_json(json!({"metadata": {"labels": {"app": app}}, "status": {"conditions": ready}}))
    }

    #[test]
    fn pods_are_counted_and_waiting_ones_looked_at_again() {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let pods = [
            pod("web", Some("2026-01-01T00:00:00Z")),
            pod("web", Some("2026-01-01T00:00:55Z")),
            pod("other", Some("2026-01-01T00:00:40Z")),
            pod("web", None),
        ];
        let (status, again) = status(&set(30, &json!([])), &pods, 0, None, now);
        assert_eq!((status.replicas, status.fully_labeled_replicas), (4, 3));
        assert_eq!(
            (
                status.ready_replicas,
                status.available_replicas,
                status.observed_generation
            ),
            (3, 1, 4)
        );
        assert_eq!(again, Some(Duration::from_secs(10)));
        let (status, again) = super::status(&set(0, &json!([])), &pods, 0, None, now);
        assert_eq!((status.available_replicas, again), (3, None));
    }

    #[test]
    fn failure_is_a_condition_until_it_is_over() {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let failing = status(
            &set(0, &json!([])),
            &[],
            0,
            Some(("FailedCreate", "no room".into())),
            now,
        )
        .0;
        assert_eq!(failing.conditions[0].reason.as_deref(), Some("FailedCreate"));
        let known = json!(failing.conditions);
        let later = "2026-01-01T00:05:00Z".parse().unwrap();
        let still = status(&set(0, &known), &[], 0, Some(("FailedCreate", "still".into())), later).0;
        assert_eq!(still.conditions, failing.conditions);
        assert!(status(&set(0, &known), &[], 0, None, later).0.conditions.is_empty());
    }

    #[test]
    fn a_pod_is_its_template_with_name_and_owner() {
        let set = set(0, &json!([]));
        let pod = pod_from_template(&set, &Owner::controller(&REPLICA_SETS, &set.metadata));
        assert_eq!(
            pod,
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "generateName": "web-",
                    "namespace": "default",
                    "labels": {"app": "web"},
                    "annotations": {"a": "b"},
                    "ownerReferences": [{
                        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "r",
                        "controller": true, "blockOwnerDeletion": true,
                    }],
                },
                "spec": {"containers": [{"name": "c"}]},
            })
        );
    }
}
