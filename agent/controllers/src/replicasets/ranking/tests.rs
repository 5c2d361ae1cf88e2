use serde_json::{Value, json};

use super::*;
use crate::objects::from_json;

const NOW: &str = "2026-01-01T01:00:00Z";

/// Name, then what is other than in a well pod.
fn pod(name: &str, change: Value) -> Arc<Pod> {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": name},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": [{"restartCount": 0}],
        },
    });
    fn merge(target: &mut Value, patch: Value) {
        match patch {
            Value::Object(map) => map.into_iter().for_each(|(key, value)| merge(&mut target[key], value)),
            value => *target = value,
        }
    }
    merge(&mut object, change);
    from_json(object)
}

#[test]
fn the_pod_best_missed_goes_first() {
    let well = || pod("well", json!({}));
    let not_ready = json!({"status": {"conditions": []}});
    for (name, first) in [
        ("unbound", pod("a", json!({"spec": {"nodeName": null}}))),
        ("pending", pod("a", json!({"status": {"phase": "Pending"}}))),
        ("not ready", pod("a", not_ready.clone())),
        (
            "cheap",
            pod(
                "a",
                json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-1"}}}),
            ),
        ),
        (
            "ready for less time",
            pod(
                "a",
                json!({"status": {"conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:59:00Z"}
                ]}}),
            ),
        ),
        (
            "often restarted",
            pod("a", json!({"status": {"containerStatuses": [{"restartCount": 3}]}})),
        ),
        (
            "younger",
            pod("a", json!({"metadata": {"creationTimestamp": "2026-01-01T00:59:30Z"}})),
        ),
    ] {
        for mut pods in [vec![well(), Arc::clone(&first)], vec![Arc::clone(&first), well()]] {
            sort_by_dispensability(&mut pods, &[], NOW.parse().unwrap());
            assert_eq!(&*pods[0].metadata.key.name, "a", "{name}");
        }
    }
    // An earlier rule outweighs the later ones.
    let mut pods = vec![
        pod("old-not-ready", not_ready),
        pod(
            "young",
            json!({"metadata": {"creationTimestamp": "2026-01-01T00:59:59Z"}}),
        ),
    ];
    sort_by_dispensability(&mut pods, &[], NOW.parse().unwrap());
    assert_eq!(&*pods[0].metadata.key.name, "old-not-ready");
}

#[test]
fn of_equal_pods_the_one_in_company_goes_first() {
    let at = |name: &str, node: &str| pod(name, json!({"spec": {"nodeName": node}}));
    let mut pods = vec![at("a", "pi-1"), at("b", "pi-2")];
    let related = [at("a", "pi-1"), at("b", "pi-2"), at("sibling", "pi-2")];
    sort_by_dispensability(&mut pods, &related, NOW.parse().unwrap());
    assert_eq!(&*pods[0].metadata.key.name, "b");
}
