use serde_json::{Value, json};

use super::*;
use crate::objects::from_json;

fn node(name: &str, change: impl Into<Value>) -> Arc<Node> {
    let mut object = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "cores": "4"}},
        "spec": {},
        "status": {
            "allocatable": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    let change = change.into();
    for (pointer, value) in change.as_object().into_iter().flatten() {
        match pointer.as_str() {
            "spec" => object["spec"] = value.clone(),
            "ready" => object["status"]["conditions"][0]["status"] = value.clone(),
            resource => object["status"]["allocatable"][resource] = value.clone(),
        }
    }
    from_json(object)
}

fn pod(name: &str, spec: impl Into<Value>) -> Arc<Pod> {
    let spec: Value = spec.into();
    from_json(json!({
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "labels": {"app": "web", "pod-template-hash": "x"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": true}],
        },
        "spec": spec,
    }))
}

fn asks(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

fn refusal(spec: Value, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> String {
    choose(&pod("x", spec), &Cluster::new(nodes, pods))
        .unwrap_err()
        .message()
}

#[test]
fn refusals_say_what_is_wrong_with_how_many_nodes() {
    let plain = || {
        vec![
            node("pi-1", json!({})),
            node("pi-2", json!({})),
            node("pi-3", json!({})),
        ]
    };
    let tainted = |taint: Value| node("pi-9", json!({"spec": {"taints": [taint]}}));
    let none: Vec<Arc<Pod>> = Vec::new();
    let everything = [
        node("pi-1", json!({})),
        tainted(json!({"key": "dedicated", "value": "db", "effect": "NoSchedule"})),
        node("pi-3", json!({"ready": "Unknown"})),
    ];
    for (spec, nodes, expected) in [
        (asks("2", "0"), plain(), "0/3 nodes are available: 3 Insufficient cpu."),
        (
            asks("2", "2Gi"),
            plain(),
            "0/3 nodes are available: 3 Insufficient cpu, 3 Insufficient memory.",
        ),
        (asks("1", "0"), vec![], "no nodes available to schedule pods"),
        (
            asks("2", "0"),
            everything.to_vec(),
            "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {dedicated: db}, \
             1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }.",
        ),
        (
            json!({"nodeSelector": {"disk": "ssd"}}),
            plain(),
            "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
        ),
        (
            json!({}),
            vec![node("pi-1", json!({"spec": {"unschedulable": true}}))],
            "0/1 nodes are available: 1 node(s) were unschedulable.",
        ),
        (
            json!({}),
            vec![node("pi-1", json!({"ready": "False"}))],
            "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.",
        ),
        (
            json!({}),
            vec![node("pi-1", json!({"pods": "0"}))],
            "0/1 nodes are available: 1 Too many pods.",
        ),
        (
            json!({"containers": [{"resources": {"requests": {"example.com/camera": "1"}}}]}),
            vec![node("pi-1", json!({}))],
            "0/1 nodes are available: 1 Insufficient example.com/camera.",
        ),
    ] {
        assert_eq!(refusal(spec.clone(), &nodes, &none), expected, "{spec}");
    }
}

#[test]
fn host_ports_and_used_resources_count() {
    let port = json!({"nodeName": "pi-1", "containers": [{"ports": [{"hostPort": 80, "containerPort": 80}]}]});
    let nodes = [node("pi-1", json!({}))];
    assert_eq!(
        refusal(port.clone(), &nodes, &[pod("a", port.clone())]),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
    );
    let mut half = asks("600m", "1Mi");
    half["nodeName"] = "pi-1".into();
    assert_eq!(
        refusal(half.clone(), &nodes, &[pod("a", half.clone())]),
        "0/1 nodes are available: 1 Insufficient cpu."
    );
    // A finished pod takes nothing.
    let finished = from_json::<Pod>(json!({"metadata": {"name": "a"}, "spec": half, "status": {"phase": "Succeeded"}}));
    assert!(choose(&pod("x", asks("600m", "1Mi")), &Cluster::new(&nodes, &[finished])).is_ok());
}

#[test]
fn tolerations_and_affinity_open_the_way() {
    let chosen = |spec: Value, nodes: &[Arc<Node>]| choose(&pod("x", spec), &Cluster::new(nodes, &[])).ok();
    let dedicated = [node(
        "pi-1",
        json!({"spec": {"taints": [{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]}}),
    )];
    let tolerant = json!({"tolerations": [{"key": "dedicated", "value": "db"}]});
    assert!(chosen(json!({}), &dedicated).is_none());
    assert_eq!(chosen(tolerant, &dedicated).as_deref(), Some("pi-1"));

    let nodes = [node("pi-1", json!({})), node("pi-2", json!({}))];
    let required = |term: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}});
    for (term, expected) in [
        (
            json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["pi-2"]}]}),
            Some("pi-2"),
        ),
        (
            json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["pi-1"]}]}),
            Some("pi-2"),
        ),
        (
            json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["pi-2"]}]}),
            Some("pi-2"),
        ),
        (
            json!({"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["3"]}]}),
            Some("pi-1"),
        ),
        (
            json!({"matchExpressions": [{"key": "cores", "operator": "Lt", "values": ["4"]}]}),
            None,
        ),
        (
            json!({"matchExpressions": [{"key": "disk", "operator": "Exists"}]}),
            None,
        ),
        (
            json!({"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]}),
            Some("pi-1"),
        ),
        (json!({}), None),
    ] {
        assert_eq!(chosen(required(term.clone()), &nodes).as_deref(), expected, "{term}");
    }
}

#[test]
fn a_burst_of_pods_spreads_evenly() {
    let nodes = [
        node("pi-1", json!({"pods": "110"})),
        node("pi-2", json!({"pods": "110"})),
        node("pi-3", json!({"pods": "110"})),
    ];
    let mut cluster = Cluster::new(&nodes, &[]);
    let mut counts: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    for index in 0..100 {
        let pod = pod(&format!("web-{index}"), asks("1m", "1Mi"));
        let node = choose(&pod, &cluster).unwrap();
        cluster.put(&pod, &node);
        *counts.entry(node).or_default() += 1;
    }
    let counts: Vec<usize> = counts.into_values().collect();
    assert_eq!(counts.iter().sum::<usize>(), 100);
    assert!(counts.iter().all(|count| (33..=34).contains(count)), "{counts:?}");
}

#[test]
fn spread_comes_before_room_and_a_shy_node_comes_last() {
    let busy = |name: &str, node: &str| {
        let mut spec = asks("700m", "700Mi");
        spec["nodeName"] = node.into();
        from_json::<Pod>(json!({"metadata": {"name": name, "namespace": "other", "uid": name}, "spec": spec}))
    };
    let mine = |node: &str| {
        let mut spec = asks("1m", "1Mi");
        spec["nodeName"] = node.into();
        pod("mine", spec)
    };
    let nodes = [node("pi-1", json!({})), node("pi-2", json!({}))];
    let chosen = |nodes: &[Arc<Node>], pods: &[Arc<Pod>]| {
        choose(&pod("x", asks("1m", "1Mi")), &Cluster::new(nodes, pods))
            .unwrap()
            .to_string()
    };
    assert_eq!(chosen(&nodes, &[busy("b", "pi-1")]), "pi-2");
    assert_eq!(chosen(&nodes, &[busy("b", "pi-1"), mine("pi-2")]), "pi-1");
    let shy = node(
        "pi-1",
        json!({"spec": {"taints": [{"key": "a", "effect": "PreferNoSchedule"}]}}),
    );
    assert_eq!(
        chosen(&[shy, Arc::clone(&nodes[1])], &[busy("b", "pi-2"), mine("pi-2")]),
        "pi-2"
    );
}
