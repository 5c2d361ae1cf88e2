//! Containers of a pod, init containers among them.

use serde_json::Value;

use super::fields::{child, index, items, text};

use super::{FieldError, names, probe, resources, volume};

/// Paths that an environment variable may take from the pod.
const FIELD_REFERENCES: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Amounts that an environment variable may take from a container.
const RESOURCE_REFERENCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// A port number: 1 to 65535.
pub(super) fn port_number(port: i64, path: &str, errors: &mut Vec<FieldError>) {
    if !(1..=65_535).contains(&port) {
        errors.push(FieldError::invalid(
            path,
            port,
            "must be between 1 and 65535, inclusive",
        ));
    }
}

/// A port number or the name of a port.
pub(super) fn port_number_or_name(port: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match port {
        Value::String(name) => {
            for message in names::port_name(name) {
                errors.push(FieldError::invalid(path, name.as_str(), message));
            }
        }
        other => port_number(other.as_i64().unwrap_or_default(), path, errors),
    }
}

/// What a container's checks need to know of its pod.
pub(super) struct Pod<'a> {
    /// Names of its volumes.
    pub(super) volumes: &'a [&'a str],
    /// Seconds of grace; a `sleep` cannot be longer.
    pub(super) grace: Option<i64>,
    /// A pod, not the template of one.
    pub(super) is_pod: bool,
}

/// Checks the containers and init containers of a pod's spec.
pub(super) fn containers(spec: &Value, path: &str, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    let mut taken: Vec<&str> = Vec::new();
    let place = child(path, "containers");
    let main = items(&spec["containers"]);
    if main.is_empty() {
        errors.push(FieldError::required(&place, ""));
    }
    for (position, container) in main.iter().enumerate() {
        let path = index(&place, position);
        common(container, &path, pod, errors);
        unique_name(container, &path, &mut taken, errors);
        probe::of_container(container, pod.grace, &path, errors);
        if container["restartPolicy"].is_string() {
            errors.push(FieldError::forbidden(
                child(&path, "restartPolicy"),
                "may not be set for non-init containers",
            ));
        }
    }
    host_port_conflicts(main, &place, errors);
    let place = child(path, "initContainers");
    for (position, container) in items(&spec["initContainers"]).iter().enumerate() {
        let path = index(&place, position);
        common(container, &path, pod, errors);
        let policy = &container["restartPolicy"];
        if policy.is_string() && policy != "Always" {
            errors.push(FieldError::not_supported(
                child(&path, "restartPolicy"),
                policy.clone(),
                &["Always"],
            ));
        }
        unique_name(container, &path, &mut taken, errors);
        if policy == "Always" {
            probe::of_container(container, pod.grace, &path, errors);
            continue;
        }
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if container[field].is_object() {
                let message = "may not be set for init containers without restartPolicy=Always";
                errors.push(FieldError::forbidden(child(&path, field), message));
            }
        }
    }
}

fn unique_name<'a>(container: &'a Value, path: &str, taken: &mut Vec<&'a str>, errors: &mut Vec<FieldError>) {
    let name = text(&container["name"]);
    if taken.contains(&name) {
        errors.push(FieldError::duplicate(child(path, "name"), name));
    } else if !name.is_empty() {
        taken.push(name);
    }
}

fn common(container: &Value, path: &str, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    let name = text(&container["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(child(path, "name"), ""));
    } else {
        for message in names::dns_label(name) {
            errors.push(FieldError::invalid(child(path, "name"), name, message));
        }
    }
    let image = text(&container["image"]);
    if image.is_empty() {
        errors.push(FieldError::required(child(path, "image"), ""));
    } else if pod.is_pod && image.trim() != image {
        let message = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(child(path, "image"), image, message));
    }
    ports(&container["ports"], &child(path, "ports"), errors);
    environment(&container["env"], &child(path, "env"), errors);
    environment_sources(&container["envFrom"], &child(path, "envFrom"), errors);
    mounts(container, path, pod.volumes, errors);
    resources::of_container(&container["resources"], &child(path, "resources"), errors);
    security(&container["securityContext"], &child(path, "securityContext"), errors);
}

fn ports(ports: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut taken: Vec<&str> = Vec::new();
    for (position, port) in items(ports).iter().enumerate() {
        let path = index(path, position);
        let name = text(&port["name"]);
        if !name.is_empty() {
            let messages = names::port_name(name);
            if messages.is_empty() && taken.contains(&name) {
                errors.push(FieldError::duplicate(child(&path, "name"), name));
            }
            for message in messages {
                errors.push(FieldError::invalid(child(&path, "name"), name, message));
            }
            taken.push(name);
        }
        match port["containerPort"].as_i64().unwrap_or_default() {
            0 => errors.push(FieldError::required(child(&path, "containerPort"), "")),
            number => port_number(number, &child(&path, "containerPort"), errors),
        }
        match port["hostPort"].as_i64().unwrap_or_default() {
            0 => {}
            number => port_number(number, &child(&path, "hostPort"), errors),
        }
    }
}

fn host_port_conflicts(containers: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let mut taken: Vec<String> = Vec::new();
    for (position, container) in containers.iter().enumerate() {
        for (port_position, port) in items(&container["ports"]).iter().enumerate() {
            let number = port["hostPort"].as_i64().unwrap_or_default();
            if number == 0 {
                continue;
            }
            let claim = format!("{}/{}/{number}", text(&port["protocol"]), text(&port["hostIP"]));
            if taken.contains(&claim) {
                let path = index(&child(&index(path, position), "ports"), port_position);
                errors.push(FieldError::duplicate(child(&path, "hostPort"), claim));
            } else {
                taken.push(claim);
            }
        }
    }
}

fn environment(variables: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (position, variable) in items(variables).iter().enumerate() {
        let path = index(path, position);
        let name = text(&variable["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(child(&path, "name"), ""));
        } else {
            for message in names::environment_name(name) {
                errors.push(FieldError::invalid(child(&path, "name"), name, message));
            }
        }
        if variable["valueFrom"].is_object() {
            value_from(variable, &child(&path, "valueFrom"), errors);
        }
    }
}

fn value_from(variable: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let source = &variable["valueFrom"];
    let mut count = 0;
    for kind in [
        "fieldRef",
        "resourceFieldRef",
        "configMapKeyRef",
        "secretKeyRef",
        "fileKeyRef",
    ] {
        if !source[kind].is_object() {
            continue;
        }
        count += 1;
        let path = child(path, kind);
        match kind {
            "fieldRef" => field_reference(text(&source[kind]["fieldPath"]), &path, errors),
            "resourceFieldRef" => resource_reference(text(&source[kind]["resource"]), &path, errors),
            "configMapKeyRef" | "secretKeyRef" => key_reference(&source[kind], &path, errors),
            _ => {}
        }
    }
    if count == 0 {
        let message = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        errors.push(FieldError::invalid(path, "", message));
    } else if !text(&variable["value"]).is_empty() {
        errors.push(FieldError::invalid(
            path,
            "",
            "may not be specified when `value` is not empty",
        ));
    } else if count > 1 {
        errors.push(FieldError::invalid(
            path,
            "",
            "may not have more than one field specified at a time",
        ));
    }
}

/// `metadata.name`, `metadata.labels['key']`, …
fn field_reference(field: &str, path: &str, errors: &mut Vec<FieldError>) {
    let place = child(path, "fieldPath");
    if field.is_empty() {
        errors.push(FieldError::required(place, ""));
        return;
    }
    let subscript = field.strip_suffix("']").and_then(|field| field.split_once("['"));
    match subscript {
        Some(("metadata.labels" | "metadata.annotations", name)) => {
            for message in names::label_key(&name.to_lowercase()) {
                errors.push(FieldError::invalid(path, name, message));
            }
        }
        Some((field, _)) => errors.push(FieldError::invalid(path, field, "does not support subscript")),
        None if FIELD_REFERENCES.contains(&field) => {}
        None if matches!(field, "metadata.labels" | "metadata.annotations" | "status.phase") => {
            errors.push(FieldError::not_supported(place, field, FIELD_REFERENCES));
        }
        None => {
            let message = format!("error converting fieldPath: field label not supported: {field}");
            errors.push(FieldError::invalid(place, field, message));
        }
    }
}

fn resource_reference(resource: &str, path: &str, errors: &mut Vec<FieldError>) {
    let path = child(path, "resource");
    if resource.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !RESOURCE_REFERENCES.contains(&resource) {
        errors.push(FieldError::not_supported(path, resource, RESOURCE_REFERENCES));
    }
}

fn key_reference(reference: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let name = text(&reference["name"]);
    for message in names::dns_subdomain(name) {
        errors.push(FieldError::invalid(child(path, "name"), name, message));
    }
    let key = text(&reference["key"]);
    if key.is_empty() {
        errors.push(FieldError::required(child(path, "key"), ""));
    } else {
        for message in names::data_key(key) {
            errors.push(FieldError::invalid(child(path, "key"), key, message));
        }
    }
}

fn environment_sources(sources: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (position, source) in items(sources).iter().enumerate() {
        let place = index(path, position);
        let prefix = text(&source["prefix"]);
        if !prefix.is_empty() {
            for message in names::environment_name(prefix) {
                errors.push(FieldError::invalid(child(&place, "prefix"), prefix, message));
            }
        }
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            if !source[kind].is_object() {
                continue;
            }
            count += 1;
            let place = child(&child(&place, kind), "name");
            let name = text(&source[kind]["name"]);
            if name.is_empty() {
                errors.push(FieldError::required(place, ""));
                continue;
            }
            for message in names::dns_subdomain(name) {
                errors.push(FieldError::invalid(&place, name, message));
            }
        }
        if count == 0 {
            errors.push(FieldError::invalid(
                path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            ));
        } else if count > 1 {
            errors.push(FieldError::invalid(
                path,
                "",
                "may not have more than one field specified at a time",
            ));
        }
    }
}

fn mounts(container: &Value, path: &str, volumes: &[&str], errors: &mut Vec<FieldError>) {
    let path = child(path, "volumeMounts");
    let mut taken: Vec<&str> = Vec::new();
    for (position, mount) in items(&container["volumeMounts"]).iter().enumerate() {
        let path = index(&path, position);
        let name = text(&mount["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(child(&path, "name"), ""));
        }
        if !volumes.contains(&name) {
            errors.push(FieldError::not_found(child(&path, "name"), name));
        }
        let target = text(&mount["mountPath"]);
        if target.is_empty() {
            errors.push(FieldError::required(child(&path, "mountPath"), ""));
        }
        if taken.contains(&target) {
            errors.push(FieldError::invalid(child(&path, "mountPath"), target, "must be unique"));
        }
        taken.push(target);
        let inner = text(&mount["subPath"]);
        volume::descending(inner, &child(&path, "subPath"), errors);
        let expression = text(&mount["subPathExpr"]);
        volume::descending(expression, &child(&path, "subPathExpr"), errors);
        if !inner.is_empty() && !expression.is_empty() {
            let message = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(child(&path, "subPathExpr"), expression, message));
        }
        let privileged = container["securityContext"]["privileged"] == true;
        if mount["mountPropagation"] == "Bidirectional" && !privileged {
            let message = "Bidirectional mount propagation is available only to privileged containers";
            errors.push(FieldError::forbidden(child(&path, "mountPropagation"), message));
        }
    }
}

/// User and group ids, of a container's or a pod's security context.
pub(super) fn ids(context: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        if let Some(id) = context[field].as_i64() {
            id_range(id, &child(path, field), errors);
        }
    }
}

pub(super) fn id_range(id: i64, path: &str, errors: &mut Vec<FieldError>) {
    if !(0..=i64::from(i32::MAX)).contains(&id) {
        errors.push(FieldError::invalid(
            path,
            id,
            "must be between 0 and 2147483647, inclusive",
        ));
    }
}

fn security(context: &Value, path: &str, errors: &mut Vec<FieldError>) {
    ids(context, path, errors);
    if context["allowPrivilegeEscalation"] == false {
        if context["privileged"] == true {
            let message = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(path, context.clone(), message));
        }
        if items(&context["capabilities"]["add"])
            .iter()
            .any(|capability| capability == "CAP_SYS_ADMIN")
        {
            let message = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(path, context.clone(), message));
        }
    }
}
