//! What an object gets that its author left out.
//!
//! Plain defaults stand in the schema (`= "Always"`); only those that depend on other fields are code here. They are
//! those of Kubernetes' `pkg/apis/*/v1/defaults.go`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::kinds::Kind;
use crate::schema::{Shape, Type};
use crate::validate::service::is_externally_accessible;

/// Fills in the defaults of a decoded object.
pub fn apply(kind: &Kind, object: &mut Value) {
    apply_type(kind.object_type(), object);
    match (kind.group, kind.kind) {
        ("", "Pod") => pod(object),
        ("", "Namespace") => namespace(object),
        ("", "Secret") => secret(object),
        ("", "Service") => service_status(object),
        _ => {}
    }
}

/// Fills in the defaults of an object of a type that is no row, such as `Scale`.
pub fn apply_type(object: &'static Type, value: &mut Value) {
    let Some(fields) = value.as_object_mut() else { return };
    for field in &object.fields {
        if let Some(default) = &field.default
            && fields.get(field.name).is_none_or(Value::is_null)
        {
            fields.insert(field.name.to_owned(), default.clone());
        }
    }
    computed(object, fields);
    for (name, value) in fields.iter_mut() {
        if let Some(field) = object.field(name) {
            inside(&field.shape, value);
        }
    }
}

fn inside(shape: &'static Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Object(object), value) => apply_type(object.get(), value),
        (Shape::List(item), Value::Array(items)) => items.iter_mut().for_each(|value| inside(item, value)),
        (Shape::Map(item), Value::Object(entries)) => entries.values_mut().for_each(|value| inside(item, value)),
        _ => {}
    }
}

/// Defaults of one object that depend on its other fields.
fn computed(object: &Type, fields: &mut Map<String, Value>) {
    match (object.package, object.name) {
        ("io.k8s.api.core.v1", "Container" | "EphemeralContainer") => pull_policy(fields, "image", "imagePullPolicy"),
        ("io.k8s.api.core.v1", "ImageVolumeSource") => pull_policy(fields, "reference", "pullPolicy"),
        ("io.k8s.api.core.v1", "PodSpec") => host_ports(fields),
        // A volume with a name alone is an empty directory.
        ("io.k8s.api.core.v1", "Volume") if fields.iter().all(|(name, value)| name == "name" || value.is_null()) => {
            fields.insert("emptyDir".to_owned(), json!({}));
        }
        ("io.k8s.api.core.v1", "Probe") => probe(object, fields),
        ("io.k8s.api.core.v1", "ServiceSpec") => service(fields),
        ("io.k8s.api.core.v1", "ServicePort") => {
            let unset = fields
                .get("targetPort")
                .is_none_or(|port| port == &json!(0) || port == &json!(""));
            if let (true, Some(port)) = (unset, fields.get("port").cloned()) {
                fields.insert("targetPort".to_owned(), port);
            }
        }
        ("io.k8s.api.core.v1", "NodeStatus") => {
            if let (None, Some(capacity)) = (fields.get("allocatable"), fields.get("capacity").cloned()) {
                fields.insert("allocatable".to_owned(), capacity);
            }
        }
        ("io.k8s.api.apps.v1", "DeploymentStrategy")
            if fields.get("type").and_then(Value::as_str) == Some("RollingUpdate") =>
        {
            absent(fields, "rollingUpdate", || json!({}));
        }
        _ => {}
    }
}

fn absent(fields: &mut Map<String, Value>, name: &str, value: impl FnOnce() -> Value) {
    if fields.get(name).is_none_or(Value::is_null) {
        fields.insert(name.to_owned(), value());
    }
}

/// In a probe zero stands for the default, as it is one for Go; only the first delay may be none.
fn probe(object: &Type, fields: &mut Map<String, Value>) {
    for field in &object.fields {
        if let Some(default) = &field.default
            && fields.get(field.name) == Some(&json!(0))
        {
            fields.insert(field.name.to_owned(), default.clone());
        }
    }
}

/// `Always` for the tag `latest`, named or implied; else `IfNotPresent`.
fn pull_policy(fields: &mut Map<String, Value>, image: &str, policy: &str) {
    let image = fields.get(image).and_then(Value::as_str).unwrap_or_default();
    let value = if is_latest(image) { "Always" } else { "IfNotPresent" };
    absent(fields, policy, || value.into());
}

/// True when the tag of an image is `latest`, or when it has neither tag nor digest.
fn is_latest(image: &str) -> bool {
    if image.is_empty() || image.contains('@') {
        return false;
    }
    // A colon before the last slash belongs to the registry's port.
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// On the node's network a container's port is the node's port.
fn host_ports(spec: &mut Map<String, Value>) {
    if spec.get("hostNetwork") != Some(&Value::Bool(true)) {
        return;
    }
    for list in ["containers", "initContainers"] {
        for port in items(spec, list)
            .flat_map(|container| container.as_object_mut())
            .flat_map(|container| items(container, "ports"))
        {
            if let Some(port) = port.as_object_mut()
                && port.get("hostPort").is_none_or(|number| number == &json!(0))
                && let Some(number) = port.get("containerPort").cloned()
            {
                port.insert("hostPort".to_owned(), number);
            }
        }
    }
}

fn items<'a>(fields: &'a mut Map<String, Value>, name: &str) -> impl Iterator<Item = &'a mut Value> {
    fields.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

fn service(spec: &mut Map<String, Value>) {
    match spec.get("sessionAffinity").and_then(Value::as_str) {
        Some("ClientIP") => client_affinity(spec),
        Some("None") => {
            spec.remove("sessionAffinityConfig");
        }
        _ => {}
    }
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        absent(spec, "internalTrafficPolicy", || "Cluster".into());
    }
    let outside = is_externally_accessible(&kind, spec.get("externalIPs"));
    if outside && spec.get("externalTrafficPolicy").is_none_or(|policy| policy == "") {
        spec.insert("externalTrafficPolicy".to_owned(), "Cluster".into());
    }
    if kind == "LoadBalancer" {
        absent(spec, "allocateLoadBalancerNodePorts", || true.into());
    }
}

/// Three hours, unless the author says how long.
fn client_affinity(spec: &mut Map<String, Value>) {
    absent(spec, "sessionAffinityConfig", || json!({}));
    let config = spec.get_mut("sessionAffinityConfig").and_then(Value::as_object_mut);
    let Some(config) = config else { return };
    absent(config, "clientIP", || json!({}));
    if let Some(client) = config.get_mut("clientIP").and_then(Value::as_object_mut) {
        absent(client, "timeoutSeconds", || 10_800.into());
    }
}

/// An address of a load balancer is reached as it is, unless the balancer says otherwise.
fn service_status(object: &mut Value) {
    if object["spec"]["type"] != "LoadBalancer" {
        return;
    }
    let ingress = object
        .pointer_mut("/status/loadBalancer/ingress")
        .and_then(Value::as_array_mut);
    for point in ingress.into_iter().flatten().filter_map(Value::as_object_mut) {
        if point.get("ip").and_then(Value::as_str).is_some_and(|ip| !ip.is_empty()) {
            absent(point, "ipMode", || "VIP".into());
        }
    }
}

/// What pods get, but pod templates do not.
fn pod(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    absent(spec, "enableServiceLinks", || true.into());
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            requests_from_limits(container);
        }
    }
}

/// What has a limit but no request is requested up to the limit.
fn requests_from_limits(container: &mut Value) {
    let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else {
        return;
    };
    if limits.is_empty() {
        return;
    }
    absent(resources, "requests", || json!({}));
    if let Some(requests) = resources.get_mut("requests").and_then(Value::as_object_mut) {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// Every namespace can be selected by its name.
fn namespace(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(name) = metadata
        .get("name")
        .filter(|name| name.as_str().is_some_and(|name| !name.is_empty()))
        .cloned()
    else {
        return;
    };
    absent(metadata, "labels", || json!({}));
    if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
}

/// `stringData` is for writing only: it becomes `data`.
fn secret(object: &mut Value) {
    let Some(fields) = object.as_object_mut() else { return };
    let Some(Value::Object(texts)) = fields.remove("stringData") else {
        return;
    };
    if texts.is_empty() {
        return;
    }
    absent(fields, "data", || json!({}));
    if let Some(data) = fields.get_mut("data").and_then(Value::as_object_mut) {
        for (key, text) in texts {
            if let Value::String(text) = text {
                data.insert(key, STANDARD.encode(text).into());
            }
        }
    }
}

#[cfg(test)]
mod tests;
