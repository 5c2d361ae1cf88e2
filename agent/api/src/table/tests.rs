use super::*;
use crate::kinds::by_resource;

const NOW: &str = "2026-03-01T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn cells(group: &str, version: &str, plural: &str, object: &Value) -> Vec<Value> {
    let kind = by_resource(group, version, plural).unwrap();
    kind.columns.iter().map(|column| (column.cell)(object, now())).collect()
}

fn pod_cells(pod: &Value) -> (String, String, String) {
    let cells = cells("", "v1", "pods", pod);
    let text = |index: usize| cells[index].as_str().unwrap().to_owned();
    (text(1), text(2), text(3))
}

#[test]
fn durations_are_rounded_as_kubectl_rounds() {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 3600;
    const DAY: i64 = 86_400;
    for (seconds, text) in [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (5 * MINUTE + 12, "5m12s"),
        (10 * MINUTE + 5, "10m"),
        (179 * MINUTE, "179m"),
        (3 * HOUR, "3h"),
        (3 * HOUR + 5 * MINUTE, "3h5m"),
        (8 * HOUR + 5 * MINUTE, "8h"),
        (47 * HOUR, "47h"),
        (2 * DAY, "2d"),
        (3 * DAY + 4 * HOUR, "3d4h"),
        (8 * DAY + 4 * HOUR, "8d"),
        (729 * DAY, "729d"),
        (730 * DAY, "2y"),
        (740 * DAY, "2y10d"),
        (9 * 365 * DAY, "9y"),
    ] {
        assert_eq!(time::human_duration(seconds), text, "{seconds}");
    }
}

#[test]
fn bytes_have_one_decimal_place() {
    for (bytes, text) in [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_572_864, "1.5 MiB"),
        (u64::MAX, "1677721.5 TiB"),
    ] {
        assert_eq!(time::human_bytes(bytes), text);
    }
}

#[test]
fn pod_status_sums_up_the_containers() {
    let running = json!({"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}});
    let cases: Vec<(&str, Value, (&str, &str, &str))> = vec![
        (
            "pending",
            json!({"spec": {"containers": [{}]}, "status": {"phase": "Pending"}}),
            ("0/1", "Pending", "0"),
        ),
        (
            "creating",
            json!({"spec": {"containers": [{}]}, "status": {"phase": "Pending", "containerStatuses":
                [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}}),
            ("0/1", "ContainerCreating", "0"),
        ),
        (
            "running",
            json!({"spec": {"containers": [{}]}, "status": {"phase": "Running", "containerStatuses": [running]}}),
            ("1/1", "Running", "0"),
        ),
        (
            "crash loop",
            json!({"spec": {"containers": [{}]}, "status": {"phase": "Running", "containerStatuses":
                [{"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                  "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-03-01T11:55:00Z"}}}]}}),
            ("0/1", "CrashLoopBackOff", "3 (5m ago)"),
        ),
        (
            "one of two completed",
            json!({"spec": {"containers": [{}, {}]}, "status": {"phase": "Running",
                "containerStatuses": [{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}, running]}}),
            ("1/2", "NotReady", "0"),
        ),
        (
            "exit code without a reason",
            json!({"spec": {"containers": [{}]}, "status": {"phase": "Failed", "containerStatuses":
                [{"state": {"terminated": {"exitCode": 7}}}]}}),
            ("0/1", "ExitCode:7", "0"),
        ),
        (
            "signal",
            json!({"spec": {"containers": [{}]}, "status": {"phase": "Failed", "containerStatuses":
                [{"state": {"terminated": {"exitCode": 137, "signal": 9}}}]}}),
            ("0/1", "Signal:9", "0"),
        ),
        (
            "first of two init containers runs",
            json!({"spec": {"containers": [{}], "initContainers": [{"name": "x"}, {"name": "y"}]},
                "status": {"phase": "Pending",
                    "initContainerStatuses": [{"name": "x", "state": {"running": {}}}, {"name": "y", "state": {"waiting": {"reason": "PodInitializing"}}}],
                    "containerStatuses": [{"state": {"waiting": {"reason": "PodInitializing"}}}]}}),
            ("0/1", "Init:0/2", "0"),
        ),
        (
            "init container fails again and again",
            json!({"spec": {"containers": [{}], "initContainers": [{"name": "x"}]},
                "status": {"phase": "Pending", "initContainerStatuses": [{"name": "x", "restartCount": 2,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"finishedAt": "2026-03-01T11:59:50Z"}}}]}}),
            ("0/1", "Init:CrashLoopBackOff", "2 (10s ago)"),
        ),
        (
            "init container failed",
            json!({"spec": {"containers": [{}], "initContainers": [{"name": "x"}]},
                "status": {"phase": "Failed", "initContainerStatuses": [{"name": "x",
                    "state": {"terminated": {"exitCode": 2, "reason": "Error"}}}]}}),
            ("0/1", "Init:Error", "0"),
        ),
        (
            "sidecar counts",
            json!({"spec": {"containers": [{}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]},
                "status": {"phase": "Running",
                    "initContainerStatuses": [{"name": "s", "ready": true, "started": true, "restartCount": 1, "state": {"running": {}}}],
                    "containerStatuses": [running]}}),
            ("2/2", "Running", "1"),
        ),
        (
            "being deleted",
            json!({"metadata": {"deletionTimestamp": NOW}, "spec": {"containers": [{}]},
                "status": {"phase": "Running", "containerStatuses": [running]}}),
            ("1/1", "Terminating", "0"),
        ),
        (
            "deleted on a lost node",
            json!({"metadata": {"deletionTimestamp": NOW}, "spec": {"containers": [{}]},
                "status": {"phase": "Running", "reason": "NodeLost", "containerStatuses": [running]}}),
            ("1/1", "Unknown", "0"),
        ),
        (
            "finished pod being deleted",
            json!({"metadata": {"deletionTimestamp": NOW}, "spec": {"containers": [{}]},
                "status": {"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}}),
            ("0/1", "Completed", "0"),
        ),
        (
            "evicted",
            json!({"spec": {"containers": [{}]}, "status": {"phase": "Failed", "reason": "Evicted"}}),
            ("0/1", "Evicted", "0"),
        ),
        (
            "gated",
            json!({"spec": {"containers": [{}]}, "status": {"phase": "Pending", "conditions":
                [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}}),
            ("0/1", "SchedulingGated", "0"),
        ),
    ];
    for (name, pod, (ready, status, restarts)) in cases {
        assert_eq!(
            pod_cells(&pod),
            (ready.to_owned(), status.to_owned(), restarts.to_owned()),
            "{name}"
        );
    }
}

#[test]
fn wide_columns_of_a_pod_say_where_it_is() {
    let pod = json!({
        "metadata": {"name": "web-1", "creationTimestamp": "2026-03-01T11:00:00Z"},
        "spec": {"nodeName": "pi-1", "containers": [{}], "readinessGates": [{"conditionType": "a"}, {"conditionType": "b"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "100.64.1.2"}], "conditions": [{"type": "a", "status": "True"}]}
    });
    assert_eq!(
        cells("", "v1", "pods", &pod),
        [
            json!("web-1"),
            json!("0/1"),
            json!("Running"),
            json!("0"),
            json!("60m"),
            json!("100.64.1.2"),
            json!("pi-1"),
            json!("<none>"),
            json!("1/2")
        ]
    );
}

#[test]
fn nodes_show_readiness_roles_and_addresses() {
    let node = json!({
        "metadata": {"name": "pi-1", "creationTimestamp": "2026-02-27T10:00:00Z", "labels": {
            "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "led", "x": "y"}},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "Unknown"}],
            "addresses": [{"type": "Hostname", "address": "pi-1"}, {"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1.36.0+minidc-0.1.0", "osImage": "Debian", "containerRuntimeVersion": "containerd://1.6.20"}
        }
    });
    assert_eq!(
        cells("", "v1", "nodes", &node),
        [
            json!("pi-1"),
            json!("NotReady,SchedulingDisabled"),
            json!("control-plane,led"),
            json!("2d2h"),
            json!("v1.36.0+minidc-0.1.0"),
            json!("10.0.0.1"),
            json!("<none>"),
            json!("Debian"),
            json!("<unknown>"),
            json!("containerd://1.6.20"),
            json!("Unknown")
        ]
    );
    assert_eq!(cells("", "v1", "nodes", &json!({}))[1], "Unknown");
    let heard = json!({"metadata": {"annotations": {"minidc.dev/led": "lost (node-lost)"}}});
    assert_eq!(
        cells("", "v1", "nodes", &heard).last(),
        Some(&json!("lost (node-lost)"))
    );
}

#[test]
fn workloads_show_counts_and_templates() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j"}]}});
    let deployment = json!({
        "metadata": {"name": "web", "creationTimestamp": "2026-03-01T11:59:30Z"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template},
        "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1}
    });
    assert_eq!(
        cells("apps", "v1", "deployments", &deployment),
        [
            json!("web"),
            json!("2/3"),
            json!(3),
            json!(1),
            json!("30s"),
            json!("a,b"),
            json!("i:1,j"),
            json!("app=web")
        ]
    );
    let set = json!({"metadata": {"name": "web-1"}, "spec": {"replicas": 3, "selector": {}, "template": template}, "status": {"replicas": 2}});
    assert_eq!(
        cells("apps", "v1", "replicasets", &set),
        [
            json!("web-1"),
            json!(3),
            json!(2),
            json!(0),
            json!("<unknown>"),
            json!("a,b"),
            json!("i:1,j"),
            json!("<none>")
        ]
    );
}

#[test]
fn services_show_addresses_and_ports() {
    let service = json!({
        "metadata": {"name": "web"},
        "spec": {"type": "NodePort", "clusterIP": "100.65.0.9", "clusterIPs": ["100.65.0.9"], "selector": {"app": "web"},
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}
    });
    assert_eq!(
        cells("", "v1", "services", &service)[1..],
        [
            json!("NodePort"),
            json!("100.65.0.9"),
            json!("<none>"),
            json!("80:30080/TCP,53/UDP"),
            json!("<unknown>"),
            json!("app=web")
        ]
    );
    assert_eq!(
        cells("", "v1", "services", &json!({"spec": {"type": "LoadBalancer"}}))[3],
        "<pending>"
    );
    assert_eq!(
        cells(
            "",
            "v1",
            "services",
            &json!({"spec": {"type": "ExternalName", "externalName": "a.b"}})
        )[3],
        "a.b"
    );
}

#[test]
fn events_show_when_what_and_whom() {
    let event = json!({
        "metadata": {"name": "e"}, "type": "Warning", "reason": "BackOff", "message": " oops \n", "count": 4,
        "firstTimestamp": "2026-03-01T11:00:00Z", "lastTimestamp": "2026-03-01T11:59:58Z",
        "involvedObject": {"kind": "Pod", "name": "web-1", "fieldPath": "spec.containers{a}"},
        "source": {"component": "kubelet", "host": "pi-1"}
    });
    assert_eq!(
        cells("", "v1", "events", &event),
        [
            json!("2s"),
            json!("Warning"),
            json!("BackOff"),
            json!("pod/web-1"),
            json!("spec.containers{a}"),
            json!("kubelet, pi-1"),
            json!("oops"),
            json!("60m"),
            json!(4),
            json!("e")
        ]
    );
    let modern = json!({"eventTime": "2026-03-01T11:59:00.000000Z", "reportingComponent": "minidc"});
    let cells = cells("", "v1", "events", &modern);
    assert_eq!(
        (&cells[0], &cells[5], &cells[8]),
        (&json!("60s"), &json!("minidc"), &json!(1))
    );
}

#[test]
fn small_kinds_have_their_columns() {
    let age = json!("<unknown>");
    assert_eq!(
        cells(
            "",
            "v1",
            "secrets",
            &json!({"metadata": {"name": "s"}, "type": "Opaque", "data": {"a": ""}})
        ),
        [json!("s"), json!("Opaque"), json!(1), age.clone()]
    );
    assert_eq!(
        cells(
            "",
            "v1",
            "configmaps",
            &json!({"metadata": {"name": "c"}, "data": {"a": ""}, "binaryData": {"b": ""}})
        ),
        [json!("c"), json!(2), age.clone()]
    );
    assert_eq!(
        cells(
            "coordination.k8s.io",
            "v1",
            "leases",
            &json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "pi-1"}})
        ),
        [json!("l"), json!("pi-1"), age.clone()]
    );
    assert_eq!(
        cells(
            "",
            "v1",
            "namespaces",
            &json!({"metadata": {"name": "n"}, "status": {"phase": "Active"}})
        ),
        [json!("n"), json!("Active"), age.clone()]
    );
    assert_eq!(
        cells(
            "minidc.dev",
            "v1",
            "jointokens",
            &json!({"metadata": {"name": "t"}, "spec": {"expires": "2026-03-01T13:00:00Z"}})
        ),
        [json!("t"), json!("<none>"), json!("60m"), age]
    );
    assert_eq!(
        cells(
            "metrics.k8s.io",
            "v1beta1",
            "pods",
            &json!({"metadata": {"name": "p"}, "window": "1s", "containers": [
            {"usage": {"cpu": "1500u", "memory": "2Mi"}}, {"usage": {"cpu": "500u", "memory": "1Mi"}}]})
        ),
        [json!("p"), json!("2m"), json!("3Mi"), json!("1s")]
    );
}

#[test]
fn a_table_carries_definitions_cells_and_metadata() {
    let kind = by_resource("", "v1", "pods").unwrap();
    let pod =
        json!({"kind": "Pod", "metadata": {"name": "a", "resourceVersion": "7"}, "status": {"phase": "Succeeded"}});
    let made = table(
        kind,
        [&pod].into_iter(),
        json!({"resourceVersion": "9"}),
        IncludeObject::Metadata,
        now(),
    );
    assert_eq!(made["kind"], "Table");
    assert_eq!(made["apiVersion"], "meta.k8s.io/v1");
    assert_eq!(made["metadata"]["resourceVersion"], "9");
    assert_eq!(made["columnDefinitions"][0]["format"], "name");
    assert_eq!(made["columnDefinitions"][5]["priority"], 1);
    assert_eq!(made["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(made["rows"][0]["conditions"][0]["reason"], "Succeeded");
    assert_eq!(
        made["rows"][0]["cells"].as_array().unwrap().len(),
        made["columnDefinitions"].as_array().unwrap().len()
    );
    let later = watch_table(kind, &pod, IncludeObject::Object, false, now());
    assert_eq!(later["columnDefinitions"], Value::Null);
    assert_eq!(later["metadata"]["resourceVersion"], "7");
    assert_eq!(later["rows"][0]["object"], pod);
}

#[test]
fn odd_objects_never_panic() {
    for kind in crate::kinds::all() {
        for object in [
            Value::Null,
            json!({}),
            json!({"metadata": 3, "spec": [], "status": "x"}),
        ] {
            table(kind, [&object].into_iter(), json!({}), IncludeObject::None, now());
        }
    }
}

#[test]
fn what_stands_behind_services_is_listed_in_short() {
    let slice = json!({
        "metadata": {"name": "web-abc"}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}, {"addresses": ["10.0.0.3"]}, {"addresses": ["10.0.0.4"]}],
        "ports": [{"name": "http", "port": 80}, {"name": "any"}, {}]
    });
    assert_eq!(
        cells("discovery.k8s.io", "v1", "endpointslices", &slice)[1..4],
        [
            json!("IPv4"),
            json!("80,any,*"),
            json!("10.0.0.1,10.0.0.2,10.0.0.3 + 1 more...")
        ]
    );
    let empty = json!({"metadata": {"name": "web-abc"}, "addressType": "IPv4", "endpoints": []});
    assert_eq!(
        cells("discovery.k8s.io", "v1", "endpointslices", &empty)[2..4],
        [json!("<unset>"), json!("<unset>")]
    );
    let endpoints = |subsets: Value| cells("", "v1", "endpoints", &json!({"subsets": subsets}))[1].clone();
    assert_eq!(endpoints(Value::Null), "<none>");
    assert_eq!(endpoints(json!([{"addresses": [{"ip": "10.0.0.1"}]}])), "10.0.0.1");
    let two = json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}, {"port": 81}]}]);
    assert_eq!(endpoints(two), "10.0.0.1:80,[fd00::1]:80,10.0.0.1:81 + 1 more...");
    let parent = json!({"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "web"}}});
    assert_eq!(
        cells("networking.k8s.io", "v1", "ipaddresses", &parent)[1],
        "services/default/web"
    );
    let ranges = json!({"spec": {"cidrs": ["100.65.0.0/16", "fd00::/112"]}});
    assert_eq!(
        cells("networking.k8s.io", "v1", "servicecidrs", &ranges)[1],
        "100.65.0.0/16,fd00::/112"
    );
    let check = json!({"spec": {"nodes": ["pi-1", "pi-2"]}, "status": {"nodes": {
        "pi-1": {"results": [{"check": "mtu", "ok": true}, {"check": "dns", "ok": false}]}, "pi-2": {"results": [{"check": "mtu", "ok": true}]}
    }}});
    assert_eq!(
        cells("minidc.dev", "v1", "netchecks", &check)[1..4],
        [json!(2), json!(2), json!(1)]
    );
}
