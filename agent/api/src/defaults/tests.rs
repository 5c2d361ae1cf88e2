use serde_json::json;

use super::*;
use crate::kinds;
use crate::schema;

fn defaulted(group: &str, kind: &str, mut object: Value) -> Value {
    apply(kinds::by_kind(group, "v1", kind).unwrap(), &mut object);
    object
}

#[test]
fn pod_gets_what_kubernetes_gives_it() {
    let pod = defaulted(
        "",
        "Pod",
        json!({"metadata": {"name": "a"}, "spec": {"containers": [
        {"name": "a", "image": "web:1", "ports": [{"containerPort": 80}], "livenessProbe": {"httpGet": {"port": 80}},
         "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}},
    ], "volumes": [{"name": "s", "secret": {"secretName": "s"}}, {"name": "h", "hostPath": {"path": "/x"}},
        {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}}),
    );
    assert_eq!(
        pod,
        json!({"metadata": {"name": "a"}, "status": {}, "spec": {
            "containers": [{
                "name": "a", "image": "web:1", "imagePullPolicy": "IfNotPresent",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
            "volumes": [
                {"name": "s", "secret": {"secretName": "s", "defaultMode": 420}},
                {"name": "h", "hostPath": {"path": "/x", "type": ""}},
                {"name": "p", "projected": {"defaultMode": 420,
                    "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}},
            ],
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
            "schedulerName": "default-scheduler", "securityContext": {}, "enableServiceLinks": true,
        }})
    );
}

#[test]
fn deployment_gets_what_kubernetes_gives_it() {
    let deployment = defaulted(
        "apps",
        "Deployment",
        json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}}),
    );
    let spec = &deployment["spec"];
    assert_eq!(spec["replicas"], 1);
    assert_eq!(spec["revisionHistoryLimit"], 10);
    assert_eq!(spec["progressDeadlineSeconds"], 600);
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    // A template is not a pod.
    assert_eq!(spec["template"]["spec"].get("enableServiceLinks"), None);
    assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
}

#[test]
fn volume_of_which_nothing_is_said_is_an_empty_directory() {
    let volumes = json!({"spec": {"volumes": [{"name": "a"}, {"name": "b", "hostPath": {"path": "/x"}}]}});
    let pod = defaulted("", "Pod", volumes);
    assert_eq!(
        pod["spec"]["volumes"],
        json!([{"name": "a", "emptyDir": {}}, {"name": "b", "hostPath": {"path": "/x", "type": ""}}])
    );
}

#[test]
fn recreate_has_no_rolling_update() {
    let deployment = defaulted(
        "apps",
        "Deployment",
        json!({"spec": {"strategy": {"type": "Recreate"}, "replicas": 0}}),
    );
    assert_eq!(deployment["spec"]["strategy"], json!({"type": "Recreate"}));
    assert_eq!(deployment["spec"]["replicas"], 0);
}

#[test]
fn pull_policy_follows_the_tag() {
    for (image, policy) in [
        ("web", "Always"),
        ("web:latest", "Always"),
        ("host:5000/web", "Always"),
        ("host:5000/web:1", "IfNotPresent"),
        ("web:1", "IfNotPresent"),
        ("web@sha256:00", "IfNotPresent"),
        ("web:latest@sha256:00", "IfNotPresent"),
        ("", "IfNotPresent"),
    ] {
        let pod = defaulted(
            "",
            "Pod",
            json!({"spec": {"containers": [{"name": "a", "image": image}]}}),
        );
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], policy, "{image}");
    }
}

#[test]
fn host_network_pods_use_their_own_ports_of_the_node() {
    let pod = defaulted(
        "",
        "Pod",
        json!({"spec": {"hostNetwork": true, "containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}}),
    );
    assert_eq!(
        pod["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}])
    );
}

#[test]
fn service_gets_what_kubernetes_gives_it() {
    let service = defaulted(
        "",
        "Service",
        json!({"spec": {"type": "NodePort", "ports": [{"port": 80}], "sessionAffinity": "ClientIP"}}),
    );
    assert_eq!(
        service,
        json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
            "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster"},
            "status": {"loadBalancer": {}}})
    );
}

#[test]
fn service_defaults_follow_its_type() {
    let spec = |spec: Value| defaulted("", "Service", json!({"spec": spec}))["spec"].take();
    let plain = spec(json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}));
    assert_eq!(
        plain,
        json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"})
    );
    let outside = spec(json!({"externalIPs": ["192.168.1.9"]}));
    assert_eq!(outside["externalTrafficPolicy"], "Cluster");
    let sticky = spec(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {}}}));
    assert_eq!(sticky["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10_800);
    let alias = spec(json!({"type": "ExternalName", "externalName": "a.b"}));
    assert_eq!(alias.get("internalTrafficPolicy"), None);
    let balanced = defaulted(
        "",
        "Service",
        json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "192.168.1.5"}]}}}),
    );
    assert_eq!(balanced["spec"]["allocateLoadBalancerNodePorts"], true);
    assert_eq!(balanced["status"]["loadBalancer"]["ingress"][0]["ipMode"], "VIP");
}

#[test]
fn zero_in_a_probe_means_the_default() {
    let pod = defaulted(
        "",
        "Pod",
        json!({"spec": {"containers": [{"name": "a", "livenessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 0, "initialDelaySeconds": 0, "failureThreshold": 5}}]}}),
    );
    assert_eq!(
        pod["spec"]["containers"][0]["livenessProbe"],
        json!({"tcpSocket": {"port": 80}, "initialDelaySeconds": 0, "periodSeconds": 10, "timeoutSeconds": 1,
            "successThreshold": 1, "failureThreshold": 5})
    );
}

#[test]
fn secret_texts_become_data() {
    let secret = defaulted(
        "",
        "Secret",
        json!({"data": {"a": "MQ==", "b": "MQ=="}, "stringData": {"b": "two"}}),
    );
    assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "MQ==", "b": "dHdv"}}));
}

#[test]
fn namespace_is_labelled_with_its_name() {
    let namespace = defaulted("", "Namespace", json!({"metadata": {"name": "blue"}}));
    assert_eq!(
        namespace["metadata"]["labels"],
        json!({"kubernetes.io/metadata.name": "blue"})
    );
}

#[test]
fn defaults_are_stable() {
    for kind in kinds::all() {
        let mut object = schema::tests::full_object(kind.object_type());
        apply(kind, &mut object);
        let once = object.clone();
        apply(kind, &mut object);
        assert_eq!(object, once, "{}", kind.kind);
    }
}
