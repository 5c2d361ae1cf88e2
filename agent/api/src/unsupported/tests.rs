use serde_json::json;

use super::*;
use crate::kinds::by_resource;
use crate::schema::type_named;

#[test]
fn what_is_acted_on_gives_no_warning() {
    let pod = json!({"spec": {
        "containers": [{
            "name": "a", "image": "i", "command": ["x"], "args": ["y"], "workingDir": "/", "imagePullPolicy": "Always",
            "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}],
            "envFrom": [{"secretRef": {"name": "s"}}],
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "1", "memory": "1Mi"}, "requests": {"cpu": "1"}},
            "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true, "subPath": "s"}],
            "securityContext": {"runAsUser": 1, "capabilities": {"add": ["NET_ADMIN"]}, "privileged": false},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "tty": true
        }],
        "volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, {"name": "c", "configMap": {"name": "c", "defaultMode": 420}}],
        "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "nodeName": "pi-1",
        "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "schedulerName": "default-scheduler",
        "serviceAccountName": "default", "automountServiceAccountToken": false, "enableServiceLinks": true,
        "preemptionPolicy": "PreemptLowerPriority", "priority": 0, "securityContext": {}, "hostUsers": true, "affinity": {},
        "topologySpreadConstraints": [], "os": {"name": "linux"}
    }});
    assert_eq!(pod_fields_not_acted_on(&pod), [""; 0]);
}

#[test]
fn each_field_without_effect_is_named_with_what_that_means() {
    for (spec, expected) in [
        (
            json!({"containers": [{}, {"livenessProbe": {"httpGet": {"port": 80}}, "lifecycle": {"preStop": {"sleep": {"seconds": 1}}, "stopSignal": "SIGINT"}}]}),
            vec![
                "spec.containers[1].lifecycle.stopSignal: not acted on yet: the image decides which signal ends the container",
            ],
        ),
        (
            json!({"initContainers": [{"resources": {"limits": {"example.com/gpu": 1, "cpu": 1}}}]}),
            vec![
                "spec.initContainers[0].resources.limits[example.com/gpu]: not acted on yet: the container is not limited in it",
            ],
        ),
        (
            json!({"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "x"}}, {"name": "b", "emptyDir": {"sizeLimit": "1Mi"}}]}),
            vec![
                "spec.volumes[0].persistentVolumeClaim: not acted on yet: there are no volumes of this kind: containers that mount it do not start",
                "spec.volumes[1].emptyDir.sizeLimit: not acted on yet: the volume can grow beyond it",
            ],
        ),
        (
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}, "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}}),
            vec!["spec.affinity.podAntiAffinity: not acted on yet: the pod is placed without regard to it"],
        ),
        (
            json!({"serviceAccountName": "robot", "hostUsers": false, "activeDeadlineSeconds": 5}),
            vec![
                "spec.activeDeadlineSeconds: not acted on yet: the pod is never ended for running too long",
                "spec.hostUsers: not acted on yet: the pod shares the node's user ids",
                "spec.serviceAccountName: not acted on yet: there are no service accounts: the pod gets no token",
            ],
        ),
        (
            json!({"brandNew": {"a": 1}}),
            vec!["spec.brandNew: not acted on yet: it has no effect"],
        ),
    ] {
        assert_eq!(pod_fields_not_acted_on(&json!({"spec": spec})), expected);
    }
}

#[test]
fn templates_and_services_are_looked_at_too() {
    let deployment = json!({"spec": {"template": {"spec": {"priority": 1}}}});
    assert_eq!(
        fields_not_acted_on(by_resource("apps", "v1", "deployments").unwrap(), &deployment),
        ["spec.template.spec.priority: not acted on yet: all pods are equally important"]
    );
    let service = json!({"spec": {"type": "LoadBalancer", "clusterIP": "100.65.0.9", "externalTrafficPolicy": "Local",
        "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "SCTP"}], "loadBalancerSourceRanges": ["10.0.0.0/8"]}});
    assert_eq!(
        fields_not_acted_on(by_resource("", "v1", "services").unwrap(), &service),
        [
            "spec.loadBalancerSourceRanges: not acted on yet: traffic from everywhere is let in",
            "spec.ports[1].protocol: not acted on yet: its traffic is not passed on",
        ]
    );
    assert_eq!(
        fields_not_acted_on(by_resource("", "v1", "nodes").unwrap(), &json!({})),
        [""; 0]
    );
}

#[test]
fn the_table_has_a_line_for_each_field_of_the_schema_and_no_other() {
    for (name, table) in table::TYPES {
        let known = type_named(name).unwrap();
        for field in &known.fields {
            assert!(
                table.iter().any(|(line, _)| *line == field.name),
                "{name}.{} has no line",
                field.name
            );
        }
        for (line, _) in *table {
            assert!(known.field(line).is_some(), "{name} has no field {line}");
        }
    }
}
