use serde_json::json;

use super::*;

const POD: &str = "io.k8s.api.core.v1.Pod";
const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";
const SERVICE: &str = "io.k8s.api.core.v1.Service";

#[test]
fn strategic_merge_follows_keys_and_directives() {
    for (name, type_name, original, patch, expected) in [
        (
            "objects merge, null removes",
            POD,
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"nodeName": "x"}}),
            json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}, "spec": {"nodeName": "x"}}),
        ),
        (
            "containers merge by name",
            POD,
            json!({"spec": {"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"}]}}),
            json!({"spec": {"containers": [{"name": "b", "image": "2"}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "2"}]}}),
        ),
        (
            "a new container comes first, as in Kubernetes",
            POD,
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "c"}]}}),
            json!({"spec": {"containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}]}}),
        ),
        (
            "lists without a strategy are replaced",
            POD,
            json!({"spec": {"containers": [{"name": "a", "args": ["x", "y"]}]}}),
            json!({"spec": {"containers": [{"name": "a", "args": ["z"]}]}}),
            json!({"spec": {"containers": [{"name": "a", "args": ["z"]}]}}),
        ),
        (
            "an item is deleted by its key",
            POD,
            json!({"spec": {"containers": [{"name": "a", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]}}),
            json!({"spec": {"containers": [{"name": "a", "env": [{"name": "A", "$patch": "delete"}, {"name": "C", "value": "3"}]}]}}),
            json!({"spec": {"containers": [{"name": "a", "env": [{"name": "C", "value": "3"}, {"name": "B", "value": "2"}]}]}}),
        ),
        (
            "a list is replaced on demand",
            POD,
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "c", "image": "1"}]}}),
            json!({"spec": {"containers": [{"name": "c", "image": "1"}]}}),
        ),
        (
            "an object is replaced on demand",
            POD,
            json!({"spec": {"nodeSelector": {"a": "1", "b": "2"}}}),
            json!({"spec": {"nodeSelector": {"$patch": "replace", "c": "3"}}}),
            json!({"spec": {"nodeSelector": {"c": "3"}}}),
        ),
        (
            "an object is emptied on demand",
            POD,
            json!({"spec": {"nodeSelector": {"a": "1"}}}),
            json!({"spec": {"nodeSelector": {"$patch": "delete"}}}),
            json!({"spec": {"nodeSelector": {}}}),
        ),
        (
            "ports merge by containerPort",
            POD,
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "http"}]}]}}),
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 81}]}]}}),
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "http", "protocol": "TCP"}, {"containerPort": 81}]}]}}),
        ),
        (
            "service ports merge by port",
            SERVICE,
            json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}}),
            json!({"spec": {"ports": [{"port": 80, "targetPort": 9090}]}}),
            json!({"spec": {"ports": [{"port": 80, "targetPort": 9090}]}}),
        ),
        (
            "finalizers are a set",
            POD,
            json!({"metadata": {"finalizers": ["a/1", "b/2"]}}),
            json!({"metadata": {"finalizers": ["b/2", "c/3"]}}),
            json!({"metadata": {"finalizers": ["a/1", "b/2", "c/3"]}}),
        ),
        (
            "scalars are deleted from a set",
            POD,
            json!({"metadata": {"finalizers": ["a/1", "b/2"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/1", "x/y"]}}),
            json!({"metadata": {"finalizers": ["b/2"]}}),
        ),
        (
            "retainKeys drops what is not listed",
            DEPLOYMENT,
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
        ),
        (
            "retainKeys in a volume switches its source",
            POD,
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "emptyDir": null, "hostPath": {"path": "/x"}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}),
        ),
        (
            "setElementOrder orders containers",
            POD,
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}}),
            json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "c", "image": "2"}]}}),
            json!({"spec": {"containers": [{"name": "b"}, {"name": "c", "image": "2"}, {"name": "a"}]}}),
        ),
        (
            "setElementOrder alone reorders",
            POD,
            json!({"metadata": {"finalizers": ["a/1", "b/2"]}}),
            json!({"metadata": {"$setElementOrder/finalizers": ["b/2", "a/1"]}}),
            json!({"metadata": {"finalizers": ["b/2", "a/1"]}}),
        ),
        (
            "setElementOrder with a deletion, as kubectl apply sends it",
            POD,
            json!({"spec": {"containers": [{"name": "a", "env": [{"name": "A"}, {"name": "B"}]}]}}),
            json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [
                {"$setElementOrder/env": [{"name": "B"}], "env": [{"$patch": "delete", "name": "A"}], "name": "a"}]}}),
            json!({"spec": {"containers": [{"name": "a", "env": [{"name": "B"}]}]}}),
        ),
        (
            "directives never get into what is new",
            POD,
            json!({"spec": {"containers": []}}),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}, "secret": null}],
                "$setElementOrder/containers": [{"name": "n"}],
                "containers": [{"name": "n", "$setElementOrder/env": [{"name": "A"}], "env": [{"name": "A", "value": null}]}]}}),
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "n", "env": [{"name": "A"}]}]}}),
        ),
        (
            "another type replaces",
            SERVICE,
            json!({"spec": {"ports": [{"port": 80, "targetPort": "http"}], "selector": {"a": "b"}}}),
            json!({"spec": {"ports": [{"port": 80, "targetPort": 80}], "selector": null}}),
            json!({"spec": {"ports": [{"port": 80, "targetPort": 80}]}}),
        ),
        (
            "conditions merge by type",
            POD,
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}]}}),
            json!({"status": {"$setElementOrder/conditions": [{"type": "Ready"}, {"type": "Initialized"}], "conditions": [{"type": "Ready", "status": "False"}]}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Initialized", "status": "True"}]}}),
        ),
        (
            "owner references merge by uid",
            POD,
            json!({"metadata": {"ownerReferences": [{"uid": "1", "name": "a"}]}}),
            json!({"metadata": {"ownerReferences": [{"uid": "1", "$patch": "delete"}]}}),
            json!({"metadata": {"ownerReferences": []}}),
        ),
        (
            "a field nobody knows merges as JSON",
            POD,
            json!({"x": {"a": [1], "b": 2}}),
            json!({"x": {"a": [2], "b": null, "c": {"d": null, "e": 1}}}),
            json!({"x": {"a": [2], "c": {"e": 1}}}),
        ),
        (
            "tolerations are replaced, image pull secrets merge",
            POD,
            json!({"spec": {"tolerations": [{"key": "a"}], "imagePullSecrets": [{"name": "a"}]}}),
            json!({"spec": {"tolerations": [{"key": "b"}], "imagePullSecrets": [{"name": "b"}]}}),
            json!({"spec": {"tolerations": [{"key": "b"}], "imagePullSecrets": [{"name": "b"}, {"name": "a"}]}}),
        ),
    ] {
        let mut target = original;
        strategic(type_name, &mut target, &patch).unwrap();
        assert_eq!(target, expected, "{name}");
    }
}

#[test]
fn strategic_merge_refuses_what_breaks_its_rules() {
    let pod = json!({"spec": {"containers": [{"name": "a"}]}, "metadata": {"finalizers": ["a/b"]}});
    for (patch, message) in [
        (json!([]), "invalid JSON document"),
        (
            json!({"spec": {"containers": [{"image": "x"}]}}),
            r#"map: {"image":"x"} does not contain declared merge key: name"#,
        ),
        (
            json!({"spec": {"containers": [{"$patch": "delete"}]}}),
            r#"map: {"$patch":"delete"} does not contain declared merge key: name"#,
        ),
        (
            json!({"spec": {"containers": [{"$patch": "merge"}]}}),
            "merging lists cannot yet be specified in the patch",
        ),
        (
            json!({"spec": {"$patch": "explode"}}),
            "unknown patch type: explode in map: {}",
        ),
        (
            json!({"spec": {"$retainKeys": "x"}}),
            "invalid patch format of retainKeys",
        ),
        (
            json!({"spec": {"$retainKeys": ["a"], "b": 1}}),
            "invalid patch format of retainKeys",
        ),
        (
            json!({"spec": {"$setElementOrder/containers": 1}}),
            "invalid patch format of setElementOrder list",
        ),
        (
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}}),
            "The order in patch list:\n[{\"name\":\"a\"}]\n doesn't match $setElementOrder list:\n[{\"name\":\"b\"}]\n",
        ),
        (
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}),
            "invalid patch format of primitive list",
        ),
        (
            json!({"metadata": {"finalizers": [1]}}),
            "list element types are not identical: finalizers",
        ),
    ] {
        let mut target = pod.clone();
        assert_eq!(
            strategic(POD, &mut target, &patch).unwrap_err().to_string(),
            message,
            "{patch}"
        );
        assert_eq!(target, pod, "left as it was");
    }
}

#[test]
fn json_merge_replaces_lists_and_drops_nulls() {
    let mut target = json!({"a": [1, 2], "b": {"c": 1, "d": 2}, "e": 1});
    json_merge(
        &mut target,
        &json!({"a": [3], "b": {"c": null}, "e": {"f": {"g": null}}}),
    );
    assert_eq!(target, json!({"a": [3], "b": {"d": 2}, "e": {"f": {}}}));
}

#[test]
fn json_patch_applies_all_or_nothing() {
    let mut target = json!({"spec": {"replicas": 1}, "list": [1]});
    let patch = br#"[{"op":"test","path":"/spec/replicas","value":1},{"op":"replace","path":"/spec/replicas","value":2},
        {"op":"add","path":"/list/-","value":2},{"op":"add","path":"/a~1b","value":{"x":1}},{"op":"copy","from":"/a~1b","path":"/c"},
        {"op":"move","from":"/c","path":"/d"}]"#;
    json_patch(&mut target, patch).unwrap();
    let patched = json!({"spec": {"replicas": 2}, "list": [1, 2], "a/b": {"x": 1}, "d": {"x": 1}});
    assert_eq!(target, patched);
    for (patch, message) in [
        (
            r#"[{"op":"remove","path":"/list"},{"op":"test","path":"/spec/replicas","value":1}]"#,
            "testing value /spec/replicas failed: test failed",
        ),
        (
            r#"[{"op":"remove","path":"/nope"}]"#,
            "remove operation does not apply: doc is missing path: \"/nope\": missing value",
        ),
        (
            r#"[{"op":"replace","path":"/nope","value":1}]"#,
            "replace operation does not apply: doc is missing path: /nope: missing value",
        ),
        (
            r#"[{"op":"add","path":"/nope/x","value":1}]"#,
            "add operation does not apply: doc is missing path: \"/nope/x\": missing value",
        ),
        (
            r#"[{"op":"move","from":"/nope","path":"/x"}]"#,
            "move operation does not apply: doc is missing from path: /nope: missing value",
        ),
    ] {
        let error = json_patch(&mut target, patch.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(error.to_status().code, 422);
        assert_eq!(target, patched);
    }
    assert_eq!(json_patch(&mut target, b"{}").unwrap_err().to_status().code, 400);
}

#[test]
fn json_patch_is_bounded() {
    let many: Vec<Value> = (0..=MAX_OPERATIONS)
        .map(|_| json!({"op": "test", "path": "", "value": {}}))
        .collect();
    let error = json_patch(&mut json!({}), &serde_json::to_vec(&many).unwrap()).unwrap_err();
    assert_eq!(error.to_status().code, 413);
    assert!(
        error
            .to_string()
            .starts_with("The allowed maximum operations in a JSON patch is 10000, got 10001")
    );
    // Each copy doubles the object: forty would be a terabyte.
    let doubling: Vec<Value> = (0..40)
        .map(|step| json!({"op": "copy", "from": "", "path": format!("/{step}")}))
        .collect();
    let error = json_patch(&mut json!({"a": "b"}), &serde_json::to_vec(&doubling).unwrap()).unwrap_err();
    assert!(matches!(error, Error::TooLarge(_)), "{error}");
}
