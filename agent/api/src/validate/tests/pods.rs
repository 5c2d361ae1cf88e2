use serde_json::{Value, json};

use super::*;

#[test]
fn containers_follow_their_rules() {
    check(
        "",
        "pods",
        &pod(),
        &[
            ("/spec/containers", json!([]), &["spec.containers: Required value"]),
            (
                "/spec/containers/0/name",
                json!(""),
                &["spec.containers[0].name: Required value"],
            ),
            (
                "/spec/containers/1",
                json!({"name": "a", "image": "x"}),
                &["spec.containers[1].name: Duplicate value: \"a\""],
            ),
            (
                "/spec/initContainers",
                json!([{"name": "a", "image": "x"}]),
                &["spec.initContainers[0].name: Duplicate value: \"a\""],
            ),
            (
                "/spec/containers/0/image",
                Value::Null,
                &["spec.containers[0].image: Required value"],
            ),
            (
                "/spec/containers/0/image",
                json!("x "),
                &["spec.containers[0].image: Invalid value: \"x \": must not have leading or trailing whitespace"],
            ),
            (
                "/spec/containers/0/imagePullPolicy",
                json!("Sometimes"),
                &[
                    "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
                ],
            ),
            (
                "/spec/containers/0/restartPolicy",
                json!("Always"),
                &["spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers"],
            ),
            (
                "/spec/containers/0/ports/0/containerPort",
                json!(70000),
                &[
                    "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                ],
            ),
            (
                "/spec/containers/0/ports/1",
                json!({"containerPort": 81, "name": "http", "protocol": "TCP"}),
                &["spec.containers[0].ports[1].name: Duplicate value: \"http\""],
            ),
            (
                "/spec/containers/0/ports/0/protocol",
                json!("QUIC"),
                &[
                    "spec.containers[0].ports[0].protocol: Unsupported value: \"QUIC\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                ],
            ),
            (
                "/spec/containers/0/env/0/name",
                json!("A=B"),
                &[
                    "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name must consist only of printable ASCII characters other than '='",
                ],
            ),
            (
                "/spec/containers/0/env/1/value",
                json!("x"),
                &[
                    "spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
                ],
            ),
            (
                "/spec/containers/0/env/1/valueFrom",
                json!({}),
                &[
                    "spec.containers[0].env[1].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
                ],
            ),
            (
                "/spec/containers/0/env/1/valueFrom/fieldRef/fieldPath",
                json!("spec.foo"),
                &[
                    "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.foo\": error converting fieldPath: field label not supported: spec.foo",
                ],
            ),
            (
                "/spec/containers/0/env/1/valueFrom/fieldRef/fieldPath",
                json!("metadata.labels['app']"),
                &[],
            ),
            (
                "/spec/containers/0/envFrom",
                json!([{}]),
                &[
                    "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
                ],
            ),
            (
                "/spec/containers/0/resources/requests/cpu",
                json!("2"),
                &[
                    "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                ],
            ),
            (
                "/spec/containers/0/resources/limits/memory",
                json!("-1Mi"),
                &[
                    "spec.containers[0].resources.limits[memory]: Invalid value: \"-1Mi\": must be greater than or equal to 0",
                ],
            ),
            (
                "/spec/containers/0/resources/limits/gpu",
                json!("1"),
                &[
                    "spec.containers[0].resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
                    "spec.containers[0].resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
                ],
            ),
            (
                "/spec/containers/0/resources/requests/example.com~1gpu",
                json!("1"),
                &[
                    "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
                ],
            ),
            (
                "/spec/containers/0/securityContext",
                json!({"privileged": true, "allowPrivilegeEscalation": false}),
                &[
                    "spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
                ],
            ),
            (
                "/spec/containers/0/securityContext",
                json!({"runAsUser": -1}),
                &[
                    "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                ],
            ),
        ],
    );
}

#[test]
fn probes_follow_their_rules() {
    check(
        "",
        "pods",
        &pod(),
        &[
            (
                "/spec/containers/0/livenessProbe",
                json!({"httpGet": {"path": "/", "port": "http", "scheme": "HTTP"}, "successThreshold": 1}),
                &[],
            ),
            (
                "/spec/containers/0/livenessProbe",
                json!({"tcpSocket": {"port": 0}, "successThreshold": 2}),
                &[
                    "spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
                ],
            ),
            (
                "/spec/containers/0/readinessProbe",
                json!({"periodSeconds": -1}),
                &[
                    "spec.containers[0].readinessProbe: Required value: must specify a handler type",
                    "spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                "/spec/containers/0/readinessProbe",
                json!({"exec": {"command": []}, "grpc": {"port": 1}}),
                &[
                    "spec.containers[0].readinessProbe.exec.command: Required value",
                    "spec.containers[0].readinessProbe.grpc: Forbidden: may not specify more than 1 handler type",
                ],
            ),
            (
                "/spec/initContainers",
                json!([{"name": "i", "image": "x", "livenessProbe": {}}]),
                &[
                    "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
                ],
            ),
        ],
    );
}

#[test]
fn volumes_and_mounts_fit_together() {
    check(
        "",
        "pods",
        &pod(),
        &[
            (
                "/spec/volumes/0/name",
                json!("other"),
                &["spec.containers[0].volumeMounts[0].name: Not found: \"data\""],
            ),
            (
                "/spec/volumes/1",
                json!({"name": "data", "emptyDir": {}}),
                &["spec.volumes[1].name: Duplicate value: \"data\""],
            ),
            (
                "/spec/volumes/0",
                json!({"name": "data"}),
                &["spec.volumes[0]: Required value: must specify a volume type"],
            ),
            (
                "/spec/volumes/0/hostPath",
                json!({"path": "/x"}),
                &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
            ),
            (
                "/spec/volumes/0",
                json!({"name": "data", "hostPath": {"path": "/a/../b"}}),
                &["spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"],
            ),
            (
                "/spec/volumes/0",
                json!({"name": "data", "hostPath": {"path": "/a", "type": "Disk"}}),
                &[
                    "spec.volumes[0].hostPath.type: Unsupported value: \"Disk\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
                ],
            ),
            (
                "/spec/volumes/0",
                json!({"name": "data", "secret": {"defaultMode": 4096, "items": [{"key": "a", "path": "/b"}]}}),
                &[
                    "spec.volumes[0].secret.secretName: Required value",
                    "spec.volumes[0].secret.defaultMode: Invalid value: 4096: must be a number between 0 and 0777 (octal), both inclusive",
                    "spec.volumes[0].secret.items[0].path: Invalid value: \"/b\": must be a relative path",
                ],
            ),
            (
                "/spec/containers/0/volumeMounts/1",
                json!({"name": "data", "mountPath": "/data"}),
                &["spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/data\": must be unique"],
            ),
            (
                "/spec/containers/0/volumeMounts/0/subPath",
                json!("../x"),
                &["spec.containers[0].volumeMounts[0].subPath: Invalid value: \"../x\": must not contain '..'"],
            ),
        ],
    );
}

#[test]
fn pod_wide_fields_follow_their_rules() {
    check(
        "",
        "pods",
        &pod(),
        &[
            (
                "/spec/restartPolicy",
                json!("Sometimes"),
                &[
                    "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
                ],
            ),
            ("/spec/tolerations/0/operator", json!("Equal"), &[]),
            (
                "/spec/tolerations/0/effect",
                json!("NoSchedule"),
                &[
                    "spec.tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
                ],
            ),
            (
                "/spec/tolerations/0",
                json!({"operator": "Equal"}),
                &[
                    "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
                ],
            ),
            (
                "/spec/tolerations/0",
                json!({"key": "a", "operator": "Gt", "value": "1"}),
                &["spec.tolerations[0].operator: Unsupported value: \"Gt\": supported values: \"Equal\", \"Exists\""],
            ),
            (
                "/spec/hostNetwork",
                json!(true),
                &[
                    "spec.containers[0].ports[0].hostPort: Invalid value: 0: must match `containerPort` when `hostNetwork` is true",
                ],
            ),
            (
                "/spec/dnsPolicy",
                json!("None"),
                &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
            ),
            (
                "/spec/securityContext/sysctls",
                json!([{"name": "Bad Name", "value": "1"}]),
                &[
                    "spec.securityContext.sysctls[0].name: Invalid value: \"Bad Name\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
                ],
            ),
            (
                "/spec/ephemeralContainers",
                json!([{"name": "x"}]),
                &["spec.ephemeralContainers: Forbidden: cannot be set on create"],
            ),
        ],
    );
}

#[test]
fn a_running_pod_can_change_little() {
    let pods = kind("", "pods");
    let stored = with(pod(), "/spec/nodeName", json!("pi-1"));
    for (pointer, value) in [
        ("/spec/containers/0/image", json!("nginx:2")),
        ("/spec/activeDeadlineSeconds", json!(5)),
        ("/spec/tolerations/0/tolerationSeconds", json!(30)),
        ("/spec/tolerations/1", json!({"key": "x", "operator": "Exists"})),
        ("/metadata/labels/new", json!("x")),
        ("/spec/securityContext", json!({})),
    ] {
        let errors = update(pods, &with(stored.clone(), pointer, value), &stored);
        assert_eq!(texts(&errors), [""; 0], "{pointer}");
    }
    let errors = update(
        pods,
        &with(stored.clone(), "/spec/containers/0/env/0/value", json!("c")),
        &stored,
    );
    assert_eq!(
        texts(&errors),
        [
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n  spec.containers[0].env[0].value: was \"b\", is \"c\"\n"
        ]
    );
    let errors = update(
        pods,
        &with(stored.clone(), "/spec/containers/1", json!({"name": "b", "image": "x"})),
        &stored,
    );
    assert_eq!(
        texts(&errors),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
    let errors = update(pods, &with(stored.clone(), "/spec/tolerations", json!([])), &stored);
    assert_eq!(
        texts(&errors),
        ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]
    );
    let errors = update(pods, &with(stored.clone(), "/spec/nodeName", json!("pi-2")), &stored);
    assert!(texts(&errors)[0].contains("spec.nodeName: was \"pi-1\", is \"pi-2\""));
    let errors = update(pods, &with(stored.clone(), "/metadata/name", json!("other")), &stored);
    assert_eq!(
        texts(&errors),
        ["metadata.name: Invalid value: \"other\": field is immutable"]
    );
}
