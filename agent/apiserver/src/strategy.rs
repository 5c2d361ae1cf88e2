//! What the server itself writes into an object before it is stored, per kind: Kubernetes' `PrepareForCreate` and
//! `PrepareForUpdate`. Pure functions on JSON.

use std::cmp::Ordering;

use minidc_api::kinds::{Kind, Storage, Subresource};
use minidc_api::quantity::Quantity;
use serde_json::{Map, Value, json};

use crate::object::{child, metadata};
use crate::services;

/// Metadata that only the server writes.
const SYSTEM: &[&str] = &[
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
];

/// Metadata that is accepted but not kept.
const DROPPED: &[&str] = &["managedFields", "selfLink", "resourceVersion"];

/// Parts of an object that a write reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The object itself: all but `status`.
    Main,
    /// `…/status`.
    Status,
    /// `namespaces/NAME/finalize`: only `spec.finalizers`.
    Finalize,
    /// `pods/NAME/binding`: the one way to set `spec.nodeName` later.
    Binding,
}

fn is(kind: &Kind, group: &str, name: &str) -> bool {
    kind.group == group && kind.kind == name
}

/// True for core pods.
pub(crate) fn is_pod(kind: &Kind) -> bool {
    is(kind, "", "Pod")
}

/// True for core nodes.
pub(crate) fn is_node(kind: &Kind) -> bool {
    is(kind, "", "Node")
}

/// True for namespaces.
pub(crate) fn is_namespace(kind: &Kind) -> bool {
    is(kind, "", "Namespace")
}

/// True for kinds that a PUT creates when they are absent.
pub(crate) fn creates_on_update(kind: &Kind) -> bool {
    let core = kind.group.is_empty() && matches!(kind.kind, "Event" | "Service" | "Endpoints");
    core || is(kind, "coordination.k8s.io", "Lease")
}

/// True for kinds whose objects are in the store.
pub(crate) fn is_stored(kind: &Kind) -> bool {
    kind.storage != Storage::Computed
}

/// Fills in what a new object gets from the server. `uid` and `now` are given so that this stays pure.
pub(crate) fn prepare_create(kind: &Kind, object: &mut Value, uid: &str, now: &str) {
    let meta = metadata(object);
    for field in SYSTEM.iter().chain(DROPPED) {
        meta.remove(*field);
    }
    meta.insert("uid".to_owned(), uid.into());
    meta.insert("creationTimestamp".to_owned(), now.into());
    if kind.has_generation {
        meta.insert("generation".to_owned(), 1.into());
    }
    // A node registers together with its first status; everybody else's status is for its controller to write.
    if kind.has(Subresource::Status) && !is_node(kind) {
        set(object, "status", first_status(kind));
    }
    if is_pod(kind) {
        let class = quality_of_service(object);
        object["status"]["qosClass"] = class.into();
    }
    if is_namespace(kind) {
        child(object, "spec").insert("finalizers".to_owned(), json!(["kubernetes"]));
    }
    if services::is_service(kind) {
        services::prepare_create(object);
    }
    normalize(object);
}

fn first_status(kind: &Kind) -> Option<Value> {
    match (kind.group, kind.kind) {
        ("", "Pod") => Some(json!({"phase": "Pending"})),
        ("", "Namespace") => Some(json!({"phase": "Active"})),
        ("", "Service") => Some(json!({"loadBalancer": {}})),
        ("apps", "ReplicaSet") => Some(json!({"replicas": 0})),
        ("apps", _) => Some(json!({})),
        _ => None,
    }
}

/// Keeps from the old object what this write may not reach, and counts the generation up when the rest changed.
pub(crate) fn prepare_update(kind: &Kind, new: &mut Value, old: &Value, reach: Reach) {
    match reach {
        Reach::Main => {
            if kind.has(Subresource::Status) {
                set(new, "status", old.get("status").cloned());
            }
            if is_namespace(kind) {
                let finalizers = old["spec"].get("finalizers").cloned();
                put(child(new, "spec"), "finalizers", finalizers);
            }
            if services::is_service(kind) {
                services::prepare_update(new, old);
            }
        }
        Reach::Status => keep_all_but_status(kind, new, old),
        Reach::Finalize => {
            let finalizers = new["spec"].get("finalizers").cloned();
            *new = old.clone();
            put(child(new, "spec"), "finalizers", finalizers);
        }
        Reach::Binding => {}
    }
    for field in ["apiVersion", "kind"] {
        set(new, field, old.get(field).cloned());
    }
    let meta = metadata(new);
    for field in DROPPED {
        meta.remove(*field);
    }
    for field in SYSTEM.iter().chain(&["name", "namespace"]) {
        put(meta, field, old["metadata"].get(*field).cloned());
    }
    normalize(new);
    // A slice's labels say whose it is: they are part of what is wanted, as in Kubernetes.
    let relabelled =
        is(kind, "discovery.k8s.io", "EndpointSlice") && new["metadata"].get("labels") != old["metadata"].get("labels");
    if kind.has_generation && (relabelled || desired_changed(new, old)) {
        bump_generation(new);
    }
}

/// Status writes reach only `status`; on nodes and pods labels and annotations too, as in Kubernetes.
fn keep_all_but_status(kind: &Kind, new: &mut Value, old: &Value) {
    let status = new.get_mut("status").map(Value::take);
    let mut kept = old.clone();
    set(&mut kept, "status", status);
    if is_pod(kind) || is_node(kind) {
        for field in ["labels", "annotations", "finalizers"] {
            let value = new["metadata"].get(field).cloned();
            put(metadata(&mut kept), field, value);
        }
    }
    if is_pod(kind) && kept["status"]["qosClass"].as_str().unwrap_or("").is_empty() {
        let class = old["status"].get("qosClass").cloned();
        put(child(&mut kept, "status"), "qosClass", class);
    }
    *new = kept;
}

/// True when anything but metadata and status differs.
fn desired_changed(new: &Value, old: &Value) -> bool {
    fn desired(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
        object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| *key != "metadata" && *key != "status")
    }
    !desired(new).eq(desired(old))
}

/// Adds one to `metadata.generation`.
pub(crate) fn bump_generation(object: &mut Value) {
    let next = object["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
    metadata(object).insert("generation".to_owned(), next.into());
}

/// Empty lists and maps of the metadata are not kept, as Go's `omitempty` does.
fn normalize(object: &mut Value) {
    let meta = metadata(object);
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let empty = match meta.get(field) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if empty {
            meta.remove(field);
        }
    }
}

fn set(object: &mut Value, field: &str, value: Option<Value>) {
    if let Value::Object(map) = object {
        put(map, field, value);
    }
}

fn put(map: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    match value {
        Some(value) => map.insert(field.to_owned(), value),
        None => map.remove(field),
    };
}

/// `Guaranteed`, `Burstable` or `BestEffort`, by Kubernetes' rules (`component-helpers/resource` and `core/v1/helper/qos`):
/// only CPU and memory count, and zero counts as absent.
fn quality_of_service(pod: &Value) -> &'static str {
    const COUNTED: [&str; 2] = ["cpu", "memory"];
    let mut requests = [Quantity::ZERO; 2];
    let mut limits = [Quantity::ZERO; 2];
    let mut every_container_is_limited = true;
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array().into_iter().flatten() {
            for (index, resource) in COUNTED.into_iter().enumerate() {
                let amount = |what: &str| {
                    let value = &container["resources"][what][resource];
                    Quantity::from_value(value)
                        .ok()
                        .filter(|amount| amount.cmp(&Quantity::ZERO) == Ordering::Greater)
                };
                requests[index] = requests[index] + amount("requests").unwrap_or_default();
                match amount("limits") {
                    Some(limit) => limits[index] = limits[index] + limit,
                    None => every_container_is_limited = false,
                }
            }
        }
    }
    let none = requests.iter().chain(&limits).all(|amount| amount.is_zero());
    if none {
        "BestEffort"
    } else if every_container_is_limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use minidc_api::kinds::by_resource;

    use super::*;

    fn kind(group: &str, plural: &str) -> &'static Kind {
        by_resource(group, "v1", plural).unwrap()
    }

    fn pod(resources: &Value) -> Value {
        json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        for (resources, class) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "0"}}), "BestEffort"),
            (json!({"requests": {"cpu": "100m"}}), "Burstable"),
            (
                json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1024Mi"}}),
                "Guaranteed",
            ),
            (json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}), "Burstable"),
        ] {
            assert_eq!(quality_of_service(&pod(&resources)), class, "{resources}");
        }
    }

    #[test]
    fn create_replaces_what_only_the_server_writes() {
        let mut object = pod(&json!({}));
        object["metadata"]["uid"] = "mine".into();
        object["metadata"]["labels"] = json!({});
        object["status"] = json!({"phase": "Running"});
        prepare_create(kind("", "pods"), &mut object, "u1", "2024-01-01T00:00:00Z");
        assert_eq!(object["metadata"]["uid"], "u1");
        assert_eq!(object["metadata"]["generation"], 1);
        assert_eq!(object["metadata"].get("labels"), None);
        assert_eq!(object["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    }

    #[test]
    fn generation_counts_only_changes_of_the_spec() {
        let old =
            json!({"metadata": {"name": "a", "generation": 3}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let deployments = kind("apps", "deployments");
        let mut labelled = old.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        prepare_update(deployments, &mut labelled, &old, Reach::Main);
        assert_eq!(labelled["metadata"]["generation"], 3);
        let mut scaled = old.clone();
        scaled["spec"]["replicas"] = 2.into();
        scaled["status"]["replicas"] = 9.into();
        prepare_update(deployments, &mut scaled, &old, Reach::Main);
        assert_eq!(scaled["metadata"]["generation"], 4);
        assert_eq!(scaled["status"]["replicas"], 1);
        let mut reported = old.clone();
        reported["spec"]["replicas"] = 7.into();
        reported["status"]["replicas"] = 2.into();
        prepare_update(deployments, &mut reported, &old, Reach::Status);
        assert_eq!(reported["spec"]["replicas"], 1);
        assert_eq!(reported["status"]["replicas"], 2);
        assert_eq!(reported["metadata"]["generation"], 3);
    }

    #[test]
    fn only_finalize_changes_the_finalizers_of_a_namespace() {
        let namespaces = kind("", "namespaces");
        let mut object = json!({"metadata": {"name": "a"}});
        prepare_create(namespaces, &mut object, "u", "t");
        assert_eq!(object["spec"]["finalizers"], json!(["kubernetes"]));
        let mut updated = object.clone();
        updated["spec"] = json!({});
        prepare_update(namespaces, &mut updated, &object, Reach::Main);
        assert_eq!(updated, object);
        let mut finalized = json!({"spec": {"finalizers": []}});
        prepare_update(namespaces, &mut finalized, &object, Reach::Finalize);
        assert_eq!(finalized["spec"]["finalizers"], json!([]));
    }
}
