use serde_json::{Value, json};

use super::*;
use crate::kinds::by_resource;

mod network;
mod pods;

fn kind(group: &str, plural: &str) -> &'static Kind {
    by_resource(group, "v1", plural).unwrap()
}

fn texts(errors: &[FieldError]) -> Vec<String> {
    distinct(errors).into_iter().map(ToString::to_string).collect()
}

/// All that the API says against a new object.
fn create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = crate::schema::violations(kind, object);
    errors.extend(super::create(kind, object));
    errors
}

/// A pod that breaks no rule.
fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "restartPolicy": "Always",
            "containers": [{"name": "a", "image": "nginx", "imagePullPolicy": "IfNotPresent",
                "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}],
                "env": [{"name": "A", "value": "b"}, {"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}],
                "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "64Mi"}},
                "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "x/y"}]}],
            "volumes": [{"name": "data", "emptyDir": {}}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}]
        }
    })
}

fn deployment() -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"restartPolicy": "Always", "containers": [{"name": "a", "image": "nginx"}]}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "progressDeadlineSeconds": 600}
    })
}

fn service() -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "ClusterIP", "clusterIP": "100.65.0.9", "clusterIPs": ["100.65.0.9"], "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}]}
    })
}

/// Puts a value at a JSON pointer, making what is missing.
fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let mut place = &mut object;
    for part in pointer.split('/').skip(1) {
        place = match part.parse::<usize>() {
            Ok(position) => {
                if place.is_null() {
                    *place = json!([]);
                }
                let list = place.as_array_mut().unwrap();
                while list.len() <= position {
                    list.push(Value::Null);
                }
                &mut list[position]
            }
            Err(_) => &mut place[part.replace("~1", "/")],
        };
    }
    *place = value;
    object
}

/// Each line: what is changed in the good object, and the errors that this must give.
fn check(group: &str, plural: &str, good: &Value, cases: &[(&str, Value, &[&str])]) {
    assert_eq!(texts(&create(kind(group, plural), good)), [""; 0], "the good object");
    for (pointer, value, expected) in cases {
        let object = with(good.clone(), pointer, value.clone());
        assert_eq!(
            texts(&create(kind(group, plural), &object)),
            *expected,
            "{pointer} = {value}"
        );
    }
}

#[test]
fn metadata_follows_the_rules_for_names_and_labels() {
    check(
        "",
        "pods",
        &pod(),
        &[
            (
                "/metadata/name",
                json!("Web"),
                &[
                    "metadata.name: Invalid value: \"Web\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (
                "/metadata/name",
                json!(""),
                &["metadata.name: Required value: name or generateName is required"],
            ),
            ("/metadata/generateName", json!("web-"), &[]),
            (
                "/metadata/namespace",
                Value::Null,
                &["metadata.namespace: Required value"],
            ),
            (
                "/metadata/labels/bad key",
                json!("x"),
                &[
                    "metadata.labels: Invalid value: \"bad key\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ],
            ),
            (
                "/metadata/labels/a",
                json!("x y"),
                &[
                    "metadata.labels: Invalid value: \"x y\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                ],
            ),
            ("/metadata/annotations/Example.com~1a", json!("anything at all"), &[]),
            (
                "/metadata/annotations/a",
                json!("x".repeat(300_000)),
                &["metadata.annotations: Too long: may not be more than 262144 bytes"],
            ),
            (
                "/metadata/ownerReferences",
                json!([{"kind": "ReplicaSet", "name": "x", "apiVersion": "apps/v1"}]),
                &["metadata.ownerReferences[0].uid: Required value: must not be empty"],
            ),
        ],
    );
    let node = json!({"metadata": {"name": "pi-1", "namespace": "default"}});
    assert_eq!(
        texts(&create(kind("", "nodes"), &node)),
        ["metadata.namespace: Forbidden: not allowed on this type"]
    );
    let namespace = json!({"metadata": {"name": "a.b"}});
    assert_eq!(
        texts(&create(kind("", "namespaces"), &namespace)),
        ["metadata.name: Invalid value: \"a.b\": must not contain dots"]
    );
}

#[test]
fn deployments_follow_their_rules() {
    check(
        "apps",
        "deployments",
        &deployment(),
        &[
            (
                "/spec/replicas",
                json!(-1),
                &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                "/spec/selector",
                json!({}),
                &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
            ),
            ("/spec/selector", Value::Null, &["spec.selector: Required value"]),
            (
                "/spec/template/metadata/labels/app",
                json!("api"),
                &[
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"api\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                "/spec/template/spec/restartPolicy",
                json!("Never"),
                &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
            ),
            (
                "/spec/template/spec/containers",
                json!([]),
                &["spec.template.spec.containers: Required value"],
            ),
            (
                "/spec/strategy/rollingUpdate",
                json!({"maxSurge": 0, "maxUnavailable": "0%"}),
                &[
                    "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
                ],
            ),
            (
                "/spec/strategy/rollingUpdate/maxUnavailable",
                json!("200%"),
                &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"200%\": must not be greater than 100%"],
            ),
            (
                "/spec/strategy/rollingUpdate/maxSurge",
                json!("some"),
                &[
                    "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"some\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                ],
            ),
            (
                "/spec/strategy/type",
                json!("Recreate"),
                &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
            ),
            (
                "/spec/strategy/type",
                json!("Fast"),
                &["spec.strategy.type: Unsupported value: \"Fast\": supported values: \"Recreate\", \"RollingUpdate\""],
            ),
            (
                "/spec/minReadySeconds",
                json!(700),
                &["spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"],
            ),
            (
                "/spec/selector/matchExpressions",
                json!([{"key": "app", "operator": "In"}]),
                &[
                    "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                    "spec.selector: Invalid value: {\"matchExpressions\":[{\"key\":\"app\",\"operator\":\"In\"}],\"matchLabels\":{\"app\":\"web\"}}: invalid label selector",
                ],
            ),
        ],
    );
    let changed = with(
        with(deployment(), "/spec/selector/matchLabels/app", json!("x")),
        "/spec/template/metadata/labels/app",
        json!("x"),
    );
    assert_eq!(
        texts(&update(kind("apps", "deployments"), &changed, &deployment())),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\"}}: field is immutable"]
    );
}

#[test]
fn services_follow_their_rules() {
    check(
        "",
        "services",
        &service(),
        &[
            (
                "/metadata/name",
                json!("1web"),
                &[
                    "metadata.name: Invalid value: \"1web\": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            ("/spec/ports", json!([]), &["spec.ports: Required value"]),
            (
                "/spec/ports/0/port",
                json!(0),
                &["spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"],
            ),
            (
                "/spec/ports/1",
                json!({"port": 80, "protocol": "TCP", "name": "b"}),
                &[
                    "spec.ports[0].name: Required value",
                    "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
                ],
            ),
            (
                "/spec/ports/0/nodePort",
                json!(30080),
                &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
            ),
            (
                "/spec/type",
                json!("Magic"),
                &[
                    "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
                ],
            ),
            (
                "/spec/clusterIPs",
                json!(["100.65.0.8"]),
                &["spec.clusterIPs: Invalid value: [\"100.65.0.8\"]: first value must match `clusterIP`"],
            ),
            (
                "/spec/externalTrafficPolicy",
                json!("Local"),
                &[
                    "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
                ],
            ),
        ],
    );
    let headless = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "internalTrafficPolicy": "Cluster"}});
    assert_eq!(texts(&create(kind("", "services"), &headless)), [""; 0]);
    let external = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"type": "ExternalName"}});
    assert_eq!(
        texts(&create(kind("", "services"), &external)),
        ["spec.externalName: Required value"]
    );
}

#[test]
fn config_maps_and_secrets_follow_their_rules() {
    let map = json!({"metadata": {"name": "a", "namespace": "b"}, "data": {"a.txt": "x"}, "immutable": true});
    check(
        "",
        "configmaps",
        &map,
        &[
            (
                "/data/a~1b",
                json!(""),
                &[
                    "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                ],
            ),
            (
                "/binaryData",
                json!({"a.txt": ""}),
                &["data[a.txt]: Invalid value: \"a.txt\": duplicate of key present in binaryData"],
            ),
            (
                "/data/big",
                json!("x".repeat(1_100_000)),
                &["[]: Too long: may not be more than 1048576 bytes"],
            ),
        ],
    );
    let changed = with(with(map.clone(), "/data/a.txt", json!("y")), "/immutable", json!(false));
    assert_eq!(
        texts(&update(kind("", "configmaps"), &changed, &map)),
        [
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set"
        ]
    );
    let secret = json!({"metadata": {"name": "a", "namespace": "b"}, "type": "Opaque", "data": {"a": "eA=="}});
    check(
        "",
        "secrets",
        &secret,
        &[
            (
                "/type",
                json!("kubernetes.io/tls"),
                &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
            ),
            (
                "/type",
                json!("kubernetes.io/dockerconfigjson"),
                &["data[.dockerconfigjson]: Required value"],
            ),
            ("/type", json!("example.com/own"), &[]),
        ],
    );
    assert_eq!(
        texts(&update(
            kind("", "secrets"),
            &with(secret.clone(), "/type", json!("x")),
            &secret
        )),
        ["type: Invalid value: \"x\": field is immutable"]
    );
}

#[test]
fn nodes_leases_and_events_follow_their_rules() {
    let node =
        json!({"metadata": {"name": "pi-1"}, "spec": {"podCIDR": "100.64.1.0/24", "podCIDRs": ["100.64.1.0/24"]}});
    check(
        "",
        "nodes",
        &node,
        &[
            (
                "/spec/podCIDRs/0",
                json!("100.64.1.0/40"),
                &[
                    "spec.podCIDRs[0]: Invalid value: \"100.64.1.0/40\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                ],
            ),
            (
                "/spec/taints",
                json!([{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]),
                &[
                    "spec.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}: taints must be unique by key and effect pair",
                ],
            ),
            (
                "/spec/taints",
                json!([{"key": "a", "effect": "Nothing"}]),
                &[
                    "spec.taints[0].effect: Unsupported value: \"Nothing\": supported values: \"NoExecute\", \"NoSchedule\", \"PreferNoSchedule\"",
                ],
            ),
            (
                "/status/capacity",
                json!({"cpu": "-1"}),
                &["status.capacity.cpu: Invalid value: \"-1\": must be greater than or equal to 0"],
            ),
        ],
    );
    assert_eq!(
        texts(&update(
            kind("", "nodes"),
            &with(node.clone(), "/spec/podCIDRs/0", json!("100.64.2.0/24")),
            &node
        )),
        ["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"]
    );
    let bare = json!({"metadata": {"name": "pi-1"}});
    assert_eq!(texts(&update(kind("", "nodes"), &node, &bare)), [""; 0]);
    let lease = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"leaseDurationSeconds": 0}});
    assert_eq!(
        texts(&create(kind("coordination.k8s.io", "leases"), &lease)),
        ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]
    );
    let event = json!({"metadata": {"name": "a", "namespace": "b"}, "involvedObject": {"namespace": "c"}});
    assert_eq!(
        texts(&create(kind("", "events"), &event)),
        ["involvedObject.namespace: Invalid value: \"c\": does not match event.namespace"]
    );
}

#[test]
fn own_kinds_keep_their_promises() {
    let token = json!({"metadata": {"name": "abc"}, "spec": {"usedBy": {"node": "pi-1", "key": "00"}}});
    assert_eq!(texts(&create(kind("minidc.dev", "jointokens"), &token)), [""; 0]);
    let stolen = with(token.clone(), "/spec/usedBy/key", json!("11"));
    assert_eq!(
        texts(&update(kind("minidc.dev", "jointokens"), &stolen, &token)),
        ["spec.usedBy: Invalid value: {\"key\":\"11\",\"node\":\"pi-1\"}: field is immutable"]
    );
    let image = json!({"metadata": {"name": format!("sha256-{}", "a".repeat(64))}, "spec": {"size": 7}});
    assert_eq!(texts(&create(kind("minidc.dev", "images"), &image)), [""; 0]);
    let odd = with(image, "/metadata/name", json!("web"));
    assert_eq!(texts(&create(kind("minidc.dev", "images"), &odd)).len(), 1);
}

#[test]
fn odd_objects_never_panic() {
    for kind in crate::kinds::all() {
        for object in [
            Value::Null,
            json!({}),
            json!({"metadata": 3, "spec": [], "data": "x"}),
            json!({"spec": {"containers": [1, {"ports": 3}], "volumes": {}}}),
        ] {
            create(kind, &object);
            update(kind, &object, &pod());
            update(kind, &pod(), &object);
        }
    }
}
