//! What a write must meet, and what it is given, beyond the shape of its kind: a living namespace, default
//! tolerations, and for nodes their own affairs only (Kubernetes' `NodeRestriction`).

use minidc_api::kinds::Kind;
use minidc_api::status::Status;
use minidc_store::Store;
use serde_json::{Value, json};

use crate::error::Failure;
use crate::identity::Identity;
use crate::object;
use crate::strategy::{is_namespace, is_node, is_pod};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Refuses new objects in a namespace that does not exist or is being deleted.
pub(crate) fn namespace_is_open(store: &Store, kind: &Kind, name: &str, namespace: &str) -> Result<(), Failure> {
    let Some(namespaces) = minidc_api::kinds::by_resource("", "v1", "namespaces") else {
        return Err(Status::internal("namespaces are missing from the table of kinds").into());
    };
    let Some(entry) = store.get(&namespaces.store_key("", namespace)) else {
        return Err(Status::not_found(namespaces, namespace).into());
    };
    if object::selector_field(&entry, "status.phase") == "Terminating" {
        return Err(Status::namespace_terminating(kind, name, namespace).into());
    }
    Ok(())
}

/// Refuses to delete the namespaces that must be there.
pub(crate) fn may_delete(kind: &Kind, name: &str) -> Result<(), Failure> {
    if is_namespace(kind) && IMMORTAL.contains(&name) {
        return Err(Status::forbidden(kind, name, "this namespace may not be deleted").into());
    }
    Ok(())
}

/// Gives a pod the tolerations that bound how long it stays on a node that is not ready or not reachable, unless it
/// has an opinion of its own (`DefaultTolerationSeconds`).
pub(crate) fn default_tolerations(pod: &mut Value, seconds: u32) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerations = object::child(pod, "spec")
            .entry("tolerations")
            .or_insert_with(|| json!([]));
        if tolerations.is_null() {
            *tolerations = json!([]);
        }
        let Some(list) = tolerations.as_array_mut() else { return };
        let decided = list.iter().any(|toleration| {
            let of = |field: &str| toleration[field].as_str().unwrap_or("");
            (of("key") == key || of("key").is_empty()) && matches!(of("effect"), "NoExecute" | "")
        });
        if !decided {
            list.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
            }));
        }
    }
}

/// A write that a node attempts. `old` is absent for a create, `new` for a delete.
pub(crate) struct NodeWrite<'a> {
    /// Kind of the object.
    pub(crate) kind: &'static Kind,
    /// Name of the object.
    pub(crate) name: &'a str,
    /// As it would be.
    pub(crate) new: Option<&'a Value>,
    /// As it is.
    pub(crate) old: Option<&'a Value>,
}

/// Lets nodes write only what is about themselves. Others pass.
pub(crate) fn node_restriction(identity: &Identity, write: &NodeWrite<'_>) -> Result<(), Failure> {
    let Some(node) = identity.node() else { return Ok(()) };
    let refuse = |reason: String| Err(Status::forbidden(write.kind, write.name, &reason).into());
    if is_node(write.kind) {
        if write.name != node {
            return refuse(format!("node {node:?} is not allowed to modify node {:?}", write.name));
        }
        if let Some(new) = write.new {
            return own_node(write, node, new);
        }
        return Ok(());
    }
    if is_pod(write.kind) {
        let Some(old) = write.old else {
            return refuse(format!("node {node:?} is not allowed to create pods"));
        };
        if old["spec"]["nodeName"].as_str() != Some(node) {
            return refuse(format!(
                "node {node:?} can only write pods with spec.nodeName set to itself"
            ));
        }
        if let Some(new) = write.new {
            if new["metadata"].get("labels") != old["metadata"].get("labels") {
                return refuse(format!("node {node:?} cannot update labels through pod status"));
            }
            if new["metadata"].get("finalizers") != old["metadata"].get("finalizers") {
                return refuse(format!("node {node:?} cannot update finalizers through pod status"));
            }
        }
        return Ok(());
    }
    if write.kind.group == "minidc.dev"
        && let (Some(new), Some(old)) = (write.new, write.old)
    {
        return if write.kind.kind == "NetCheck" {
            own_findings(write, node, new, old)
        } else {
            own_image_report(write, node, new, old)
        };
    }
    Ok(())
}

/// A node reports only what it found itself.
fn own_findings(write: &NodeWrite<'_>, node: &str, new: &Value, old: &Value) -> Result<(), Failure> {
    let others = |object: &Value| {
        let mut nodes = object["status"]["nodes"].as_object().cloned().unwrap_or_default();
        nodes.remove(node);
        nodes
    };
    if others(new) == others(old) {
        return Ok(());
    }
    let reason = format!("node {node:?} can only report about itself");
    Err(Status::forbidden(write.kind, write.name, &reason).into())
}

fn own_node(write: &NodeWrite<'_>, node: &str, new: &Value) -> Result<(), Failure> {
    let refuse = |reason: String| Err(Status::forbidden(write.kind, write.name, &reason).into());
    let none = Value::Null;
    let old = write.old.unwrap_or(&none);
    // A node may say its taints when it registers, never change them: they are how others keep pods off it.
    if write.old.is_some() && new["spec"].get("taints") != old["spec"].get("taints") {
        return refuse(format!("node {node:?} is not allowed to modify taints"));
    }
    if write.old.is_some() && new["metadata"].get("ownerReferences") != old["metadata"].get("ownerReferences") {
        return refuse(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    let empty = serde_json::Map::new();
    let labels = |object: &Value| object["metadata"]["labels"].as_object().unwrap_or(&empty).clone();
    let (before, after) = (labels(old), labels(new));
    let changed = after
        .keys()
        .chain(before.keys())
        .filter(|key| after.get(*key) != before.get(*key));
    let mut refused: Vec<&str> = changed
        .map(String::as_str)
        .filter(|key| !is_nodes_own_label(key))
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    refused.sort_unstable();
    refused.dedup();
    refuse(format!("is not allowed to modify labels: {}", refused.join(", ")))
}

/// Labels that a node may put on itself: anything outside Kubernetes' namespaces, and those the kubelet reports.
fn is_nodes_own_label(key: &str) -> bool {
    const OWN: [&str; 11] = [
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
    ];
    let Some((domain, _)) = key.split_once('/') else {
        return true;
    };
    let within = |suffix: &str| domain == suffix || domain.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    if OWN.contains(&key) || within("kubelet.kubernetes.io") || within("node.kubernetes.io") {
        return true;
    }
    !within("kubernetes.io") && !within("k8s.io")
}

/// A node reports only whether it holds an image itself.
fn own_image_report(write: &NodeWrite<'_>, node: &str, new: &Value, old: &Value) -> Result<(), Failure> {
    let others = |object: &Value| {
        let holders = object["status"]["nodes"].as_array().cloned().unwrap_or_default();
        let failures = object["status"]["failures"].as_array().cloned().unwrap_or_default();
        let mut kept: Vec<Value> = holders
            .into_iter()
            .filter(|holder| holder.as_str() != Some(node))
            .collect();
        kept.extend(
            failures
                .into_iter()
                .filter(|failure| failure["node"].as_str() != Some(node)),
        );
        kept.sort_by_key(Value::to_string);
        kept
    };
    if others(new) != others(old) {
        let reason = format!("node {node:?} can only report about itself");
        return Err(Status::forbidden(write.kind, write.name, &reason).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use minidc_api::kinds::by_resource;

    use super::*;

    #[test]
    fn pods_get_tolerations_unless_they_decide_themselves() {
        let mut pod = json!({"spec": {"tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}
        ]}});
        default_tolerations(&mut pod, 3);
        let list = pod["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(list[0]["tolerationSeconds"], 60);
        assert_eq!(list[1]["key"], "node.kubernetes.io/unreachable");
        assert_eq!(list[1]["tolerationSeconds"], 3);
        let mut tolerant = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        default_tolerations(&mut tolerant, 3);
        assert_eq!(tolerant["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }

    fn attempt(old: &Value, new: &Value) -> Result<(), String> {
        let write = NodeWrite {
            kind: by_resource("", "v1", "nodes").unwrap(),
            name: "pi-1",
            new: Some(new),
            old: Some(old),
        };
        node_restriction(&Identity::new("system:node:pi-1", &["system:nodes"]), &write)
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn node_writes_its_own_labels_but_no_taints_and_no_reserved_labels() {
        let old = json!({"metadata": {"name": "pi-1", "labels": {}}});
        let with = |key: &str| json!({"metadata": {"name": "pi-1", "labels": {key: "x"}}});
        for key in ["kubernetes.io/arch", "minidc.dev/board", "rack", "node.kubernetes.io/x"] {
            attempt(&old, &with(key)).unwrap();
        }
        for key in [
            "node-role.kubernetes.io/control-plane",
            "node-restriction.kubernetes.io/a",
            "x.k8s.io/y",
        ] {
            let text = attempt(&old, &with(key)).unwrap_err();
            assert!(text.contains("is not allowed to modify labels"), "{text}");
        }
        let tainted = json!({"metadata": {"name": "pi-1", "labels": {}}, "spec": {"taints": [{"key": "a"}]}});
        assert!(attempt(&old, &tainted).unwrap_err().contains("taints"));
    }

    #[test]
    fn node_reports_images_for_itself_only() {
        let images = by_resource("minidc.dev", "v1", "images").unwrap();
        let old = json!({"status": {"nodes": ["pi-2"]}});
        let identity = Identity::new("system:node:pi-1", &["system:nodes"]);
        let report = |new: &Value| {
            let write = NodeWrite {
                kind: images,
                name: "i",
                new: Some(new),
                old: Some(&old),
            };
            node_restriction(&identity, &write)
        };
        report(&json!({"status": {"nodes": ["pi-1", "pi-2"]}})).unwrap();
        report(&json!({"status": {"nodes": ["pi-2"], "failures": [{"node": "pi-1", "message": "no space"}]}})).unwrap();
        report(&json!({"status": {"nodes": ["pi-1"]}})).unwrap_err();
        report(&json!({"status": {"nodes": ["pi-2", "pi-3"]}})).unwrap_err();
    }

    #[test]
    fn node_reports_its_own_findings_only() {
        let checks = by_resource("minidc.dev", "v1", "netchecks").unwrap();
        let old = json!({"status": {"nodes": {"pi-2": {"phase": "Ready"}}}});
        let identity = Identity::new("system:node:pi-1", &["system:nodes"]);
        let report = |new: &Value| {
            let write = NodeWrite {
                kind: checks,
                name: "c",
                new: Some(new),
                old: Some(&old),
            };
            node_restriction(&identity, &write)
        };
        report(&json!({"status": {"nodes": {"pi-1": {"phase": "Ready"}, "pi-2": {"phase": "Ready"}}}})).unwrap();
        report(&json!({"status": {"nodes": {"pi-1": {"phase": "Ready"}}}})).unwrap_err();
        report(&json!({"status": {"nodes": {"pi-2": {"phase": "Done"}}}})).unwrap_err();
    }
}
