use serde_json::json;

use super::deployment::{Deployment, Share, Strategy};
use super::from_json;
use super::metadata::{Condition, time_text};
use super::node::Node;
use super::pod::{HostPort, Pod};
use super::replica_set::ReplicaSet;

fn cpu(spec: &serde_json::Value) -> u64 {
    from_json::<Pod>(json!({"metadata": {"name": "a"}, "spec": spec}))
        .requests
        .cpu
}

fn asks(cpu: &str) -> serde_json::Value {
    json!({"resources": {"requests": {"cpu": cpu}}})
}

fn starts_first(cpu: &str, restart: Option<&str>) -> serde_json::Value {
    json!({"restartPolicy": restart, "resources": {"requests": {"cpu": cpu}}})
}

#[test]
fn a_pod_asks_for_its_hungriest_moment() {
    for (spec, expected) in [
        (json!({"containers": [asks("100m"), asks("0.2")]}), 300),
        (json!({"containers": [{}]}), 0),
        (
            json!({"containers": [asks("100m")], "initContainers": [starts_first("1", None)]}),
            1000,
        ),
        (
            json!({"containers": [asks("2")], "initContainers": [starts_first("1", None)]}),
            2000,
        ),
        // A sidecar runs beside the containers and beside what starts after it.
        (
            json!({"containers": [asks("1")], "initContainers": [starts_first("500m", Some("Always"))]}),
            1500,
        ),
        (
            json!({"containers": [asks("1")], "initContainers": [starts_first("500m", Some("Always")), starts_first("2", None)]}),
            2500,
        ),
        (json!({"containers": [asks("1")], "overhead": {"cpu": "10m"}}), 1010),
        (
            json!({"containers": [asks("1")], "resources": {"requests": {"cpu": "3"}}}),
            3000,
        ),
    ] {
        assert_eq!(cpu(&spec), expected, "{spec}");
    }
}

#[test]
fn host_ports_conflict_by_address_protocol_and_number() {
    let port = |address: &str, protocol: &str, port| HostPort {
        address: address.into(),
        protocol: protocol.into(),
        port,
    };
    let base = port("", "TCP", 80);
    for (other, conflicts) in [
        (port("", "TCP", 80), true),
        (port("10.0.0.1", "TCP", 80), true),
        (port("", "UDP", 80), false),
        (port("", "TCP", 81), false),
    ] {
        assert_eq!(base.conflicts(&other), conflicts, "{other:?}");
    }
    assert!(!port("10.0.0.1", "TCP", 80).conflicts(&port("10.0.0.2", "TCP", 80)));
}

#[test]
fn pods_are_read_whole_and_in_part() {
    let pod = from_json::<Pod>(json!({
        "metadata": {
            "name": "web-1", "namespace": "default", "uid": "u", "resourceVersion": "17", "generation": 2,
            "labels": {"app": "web"}, "annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "r", "controller": true}],
        },
        "spec": {"nodeName": "pi-1", "hostNetwork": true, "containers": [{"ports": [{"containerPort": 53, "protocol": "UDP"}]}]},
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z"},
                {"type": "PodScheduled", "status": "True"},
            ],
            "containerStatuses": [{"restartCount": 2}, {"restartCount": 1}],
        },
    }));
    assert_eq!(pod.metadata.key.to_string(), "default/web-1");
    assert_eq!(pod.metadata.revision, 17);
    assert_eq!(pod.metadata.label("app"), Some("web"));
    assert_eq!(pod.metadata.controller().map(super::Owner::group), Some("apps"));
    assert_eq!(pod.node.as_deref(), Some("pi-1"));
    assert_eq!(
        pod.host_ports[0],
        HostPort {
            address: "".into(),
            protocol: "UDP".into(),
            port: 53
        }
    );
    assert!(pod.ready && pod.active() && pod.unscheduled.is_none());
    assert_eq!(pod.ready_since.map(time_text).as_deref(), Some("2026-01-02T03:04:05Z"));
    assert_eq!((pod.restarts, pod.deletion_cost, pod.modest), (2, -5, (1, 1)));

    let bare = from_json::<Pod>(json!({"metadata": {}, "spec": null, "status": {"conditions": null}}));
    assert!(bare.node.is_none() && bare.active());
}

#[test]
fn nodes_sets_and_deployments_are_read() {
    let node = from_json::<Node>(json!({
        "metadata": {"name": "pi-1"},
        "spec": {"podCIDR": "", "taints": [{"key": "a", "effect": "NoSchedule"}]},
        "status": {
            "allocatable": {"cpu": "4", "memory": "900Mi", "pods": "110", "example.com/camera": 1},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }));
    assert_eq!(
        (node.allocatable.cpu, node.allocatable.memory, node.pods),
        (4000, 900 << 20, 110)
    );
    assert_eq!(
        (
            node.ready(),
            node.pod_cidr.as_deref(),
            node.allocatable.other("example.com/camera")
        ),
        (Some("True"), None, 1)
    );

    let set = from_json::<ReplicaSet>(json!({"metadata": {"name": "a"}, "status": {"replicas": 0}}));
    assert_eq!(
        (set.replicas, set.selector.is_none(), set.status.replicas),
        (1, true, 0)
    );

    let deployment = from_json::<Deployment>(json!({
        "metadata": {"name": "a"},
        "spec": {
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 0}},
            "progressDeadlineSeconds": i32::MAX,
        },
    }));
    let expected = Strategy::RollingUpdate {
        surge: Share::Percent(50),
        unavailable: Share::Count(0),
    };
    assert_eq!((deployment.strategy, deployment.progress_deadline), (expected, None));
    assert_eq!(
        (Share::Percent(25).of(3, true), Share::Percent(25).of(3, false)),
        (1, 0)
    );
}

#[test]
fn conditions_are_written_as_kubernetes_writes_them() {
    let condition = Condition::new("Ready", "Unknown", "R", "m", jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(
        serde_json::to_value(condition).unwrap(),
        json!({"type": "Ready", "status": "Unknown", "reason": "R", "message": "m", "lastTransitionTime": "1970-01-01T00:00:00Z"})
    );
}
