//! What a service gets from its stored self, and what it loses with its type, before anything is allotted: Kubernetes'
//! `patchAllocatedValues`, `normalizeClusterIPs` and `dropTypeDependentFields`.

use std::collections::BTreeSet;

use minidc_api::validate::service::{is_externally_accessible, needs_health_check};
use serde_json::{Map, Value, json};

use crate::object;

fn kind(spec: &Value) -> &str {
    spec["type"].as_str().unwrap_or("")
}

fn has_cluster_ip(spec: &Value) -> bool {
    kind(spec) != "ExternalName"
}

fn has_node_ports(spec: &Value) -> bool {
    matches!(kind(spec), "NodePort" | "LoadBalancer")
}

fn is_outside(spec: &Value) -> bool {
    is_externally_accessible(kind(spec), spec.get("externalIPs"))
}

/// The node port of a port, if it has one.
fn node_port(port: &Value) -> Option<i64> {
    port["nodePort"].as_i64().filter(|number| *number != 0)
}

fn ports(spec: &Value) -> impl Iterator<Item = &Value> {
    spec["ports"].as_array().into_iter().flatten()
}

fn node_ports(spec: &Value) -> BTreeSet<i64> {
    ports(spec).filter_map(node_port).collect()
}

/// A field of a stored and of a new service says the same; absent and null do.
fn same(new: &Value, old: &Value, field: &str) -> bool {
    new[field] == old[field]
}

/// Readies a new service.
pub(crate) fn prepare_create(service: &mut Value) {
    let spec = object::child(service, "spec");
    drop_empty(spec);
    if let (Some(ip), None) = (spec.get("clusterIP").cloned(), spec.get("clusterIPs")) {
        spec.insert("clusterIPs".to_owned(), json!([ip]));
    }
}

/// Readies a new version of a service.
pub(crate) fn prepare_update(service: &mut Value, old: &Value) {
    let old = &old["spec"];
    drop_empty(object::child(service, "spec"));
    keep_allotted(service, old);
    align_addresses(service, old);
    drop_by_type(service, old);
}

/// Leaves out what Go's `omitempty` leaves out, so that absent and empty are one.
fn drop_empty(spec: &mut Map<String, Value>) {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        _ => false,
    };
    for field in [
        "clusterIP",
        "clusterIPs",
        "ipFamilies",
        "ipFamilyPolicy",
        "healthCheckNodePort",
        "externalTrafficPolicy",
    ] {
        if spec.get(field).is_some_and(is_empty) {
            spec.remove(field);
        }
    }
    for port in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Value::Object(port) = port
            && port.get("nodePort").is_some_and(is_empty)
        {
            port.remove("nodePort");
        }
    }
}

fn put(service: &mut Value, field: &str, value: &Value) {
    let spec = object::child(service, "spec");
    if value.is_null() {
        spec.remove(field);
    } else {
        spec.insert(field.to_owned(), value.clone());
    }
}

/// Who replaces a service need not know what it was given.
fn keep_allotted(service: &mut Value, old: &Value) {
    let new = &service["spec"];
    let addresses = has_cluster_ip(new) && has_cluster_ip(old);
    let check = needs_health_check(new) && needs_health_check(old);
    let node_ports = has_node_ports(new) && has_node_ports(old);
    if addresses {
        // Both, and each by itself: a client may know the one and not the other.
        for field in ["clusterIP", "clusterIPs"] {
            if service["spec"][field].is_null() {
                put(service, field, &old[field]);
            }
        }
    }
    if check && service["spec"]["healthCheckNodePort"].is_null() {
        put(service, "healthCheckNodePort", &old["healthCheckNodePort"]);
    }
    if node_ports {
        keep_node_ports(service, old);
    }
}

/// Ports are known by their names; what another port took meanwhile is not given again.
fn keep_node_ports(service: &mut Value, old: &Value) {
    let used = node_ports(&service["spec"]);
    let list = object::child(service, "spec")
        .get_mut("ports")
        .and_then(Value::as_array_mut);
    for port in list.into_iter().flatten() {
        if node_port(port).is_some() {
            continue;
        }
        let named = ports(old).filter(|before| before["name"] == port["name"]).last();
        if let (Some(number), Value::Object(port)) = (named.and_then(node_port), port)
            && !used.contains(&number)
        {
            port.insert("nodePort".to_owned(), number.into());
        }
    }
}

/// Who changes `clusterIP` and leaves `clusterIPs` as it was means both.
fn align_addresses(service: &mut Value, old: &Value) {
    let new = &service["spec"];
    let unknown = new["clusterIPs"].is_null();
    if !unknown && (same(new, old, "clusterIP") || !same(new, old, "clusterIPs")) {
        return;
    }
    let plural = match &new["clusterIP"] {
        Value::Null => Value::Null,
        ip => json!([ip]),
    };
    put(service, "clusterIPs", &plural);
}

/// Who changes the type and leaves what only the old one had means it to go.
fn drop_by_type(service: &mut Value, old: &Value) {
    let new = &service["spec"];
    let mut gone: Vec<&str> = Vec::new();
    if has_cluster_ip(old) && !has_cluster_ip(new) {
        if same(new, old, "clusterIP") && same(new, old, "clusterIPs") {
            gone.extend(["clusterIP", "clusterIPs"]);
        }
        gone.extend(
            ["ipFamilies", "ipFamilyPolicy"]
                .into_iter()
                .filter(|field| same(new, old, field)),
        );
    }
    let was = |condition: fn(&Value) -> bool, field: &'static str| {
        (condition(old) && !condition(new) && same(new, old, field)).then_some(field)
    };
    let is_balanced = |spec: &Value| kind(spec) == "LoadBalancer";
    gone.extend(was(needs_health_check, "healthCheckNodePort"));
    gone.extend(was(is_outside, "externalTrafficPolicy"));
    gone.extend(was(is_balanced, "allocateLoadBalancerNodePorts"));
    gone.extend(was(is_balanced, "loadBalancerClass"));
    let ports_go = has_node_ports(old) && !has_node_ports(new) && node_ports(old).is_superset(&node_ports(new));
    for field in gone {
        put(service, field, &Value::Null);
    }
    if ports_go {
        let list = object::child(service, "spec")
            .get_mut("ports")
            .and_then(Value::as_array_mut);
        for port in list.into_iter().flatten().filter_map(Value::as_object_mut) {
            port.remove("nodePort");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> Value {
        json!({"spec": {"type": "NodePort", "clusterIP": "100.65.1.1", "clusterIPs": ["100.65.1.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "externalTrafficPolicy": "Cluster",
            "ports": [{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30081}]}})
    }

    fn updated(spec: &Value) -> Value {
        let mut service = json!({"spec": spec});
        prepare_update(&mut service, &stored());
        service["spec"].take()
    }

    #[test]
    fn replacement_keeps_what_it_does_not_know() {
        let spec = updated(&json!({"type": "NodePort", "clusterIP": "", "ports": [
            {"name": "b", "port": 8081}, {"name": "c", "port": 82, "nodePort": 30080}, {"name": "a", "port": 80, "nodePort": 0}
        ]}));
        assert_eq!(spec["clusterIP"], "100.65.1.1");
        assert_eq!(spec["clusterIPs"], json!(["100.65.1.1"]));
        let given: Vec<Option<i64>> = ports(&spec).map(node_port).collect();
        assert_eq!(given, [Some(30081), Some(30080), None], "another port took 30080");
    }

    #[test]
    fn what_belonged_to_the_old_type_goes_unless_it_was_changed_too() {
        let mut spec = stored()["spec"].take();
        spec["type"] = "ClusterIP".into();
        let plain = updated(&spec);
        assert_eq!(node_ports(&plain), BTreeSet::new());
        assert_eq!(plain.get("externalTrafficPolicy"), None);
        assert_eq!(plain["clusterIP"], "100.65.1.1");
        spec["ports"][0]["nodePort"] = 30099.into();
        assert_eq!(node_ports(&updated(&spec)), BTreeSet::from([30081, 30099]));
        spec["type"] = "ExternalName".into();
        let alias = updated(&spec);
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            assert_eq!(alias.get(field), None, "{field}");
        }
    }

    #[test]
    fn one_address_changed_alone_means_both_fields() {
        let mut spec = stored()["spec"].take();
        spec["clusterIP"] = "100.65.1.2".into();
        assert_eq!(updated(&spec)["clusterIPs"], json!(["100.65.1.2"]));
        let mut service = json!({"spec": {"clusterIP": "None"}});
        prepare_create(&mut service);
        assert_eq!(service["spec"]["clusterIPs"], json!(["None"]));
    }
}
