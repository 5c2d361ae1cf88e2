//! Pods and pod templates.

use serde_json::Value;

use super::container::{self, id_range, ids};
use super::fields::{child, differences, entries, index, items, same, text};
use super::metadata::{annotations, label_key, labels};
use super::{FieldError, names, resources, volume};

/// What a running pod may still change; the text of Kubernetes.
const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` \
    (allow it to be set to 1 if it was previously negative)";

/// Checks a pod's spec, or that of a template.
pub(super) fn spec(spec: &Value, path: &str, is_pod: bool, errors: &mut Vec<FieldError>) {
    let volumes = volume::volumes(&spec["volumes"], &child(path, "volumes"), errors);
    let grace = spec["terminationGracePeriodSeconds"].as_i64();
    let pod = container::Pod {
        volumes: &volumes,
        grace,
        is_pod,
    };
    container::containers(spec, path, &pod, errors);
    for list in ["containers", "initContainers"] {
        for (position, container) in items(&spec[list]).iter().enumerate() {
            resources::claims(
                container,
                &spec["resourceClaims"],
                &index(&child(path, list), position),
                errors,
            );
        }
    }
    labels(&spec["nodeSelector"], &child(path, "nodeSelector"), errors);
    for (field, check) in [
        ("nodeName", names::dns_subdomain as fn(&str) -> Vec<String>),
        ("serviceAccountName", names::dns_subdomain),
        ("priorityClassName", names::dns_subdomain),
        ("runtimeClassName", names::dns_subdomain),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
    ] {
        let value = text(&spec[field]);
        if !value.is_empty() {
            for message in check(value) {
                errors.push(FieldError::invalid(child(path, field), value, message));
            }
        }
    }
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let message = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(
            child(path, "activeDeadlineSeconds"),
            seconds,
            message,
        ));
    }
    host_network(spec, path, is_pod, errors);
    security(spec, path, errors);
    tolerations(&spec["tolerations"], &child(path, "tolerations"), errors);
    dns(spec, path, errors);
    host_aliases(&spec["hostAliases"], &child(path, "hostAliases"), errors);
}

/// Checks a pod template: its labels, annotations and spec.
pub(super) fn template(template: &Value, path: &str, errors: &mut Vec<FieldError>) {
    // Kubernetes leaves `metadata` out of these two paths.
    labels(&template["metadata"]["labels"], &child(path, "labels"), errors);
    annotations(
        &template["metadata"]["annotations"],
        &child(path, "annotations"),
        errors,
    );
    spec(&template["spec"], &child(path, "spec"), false, errors);
    if !items(&template["spec"]["ephemeralContainers"]).is_empty() {
        let place = child(path, "spec.ephemeralContainers");
        errors.push(FieldError::forbidden(
            place,
            "ephemeral containers not allowed in pod template",
        ));
    }
}

/// Checks what only a new pod must keep.
pub(super) fn create(pod: &Value, errors: &mut Vec<FieldError>) {
    let body = &pod["spec"];
    if !items(&body["ephemeralContainers"]).is_empty() {
        errors.push(FieldError::forbidden(
            "spec.ephemeralContainers",
            "cannot be set on create",
        ));
    }
    if !text(&body["nodeName"]).is_empty() && !items(&body["schedulingGates"]).is_empty() {
        let message = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden("spec.nodeName", message));
    }
}

/// Checks that a new version changes only what a running pod can change.
pub(super) fn update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let (new, old) = (&new["spec"], &old["spec"]);
    for list in ["containers", "initContainers"] {
        if items(&new[list]).len() != items(&old[list]).len() {
            let message = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(child("spec", list), message));
            return;
        }
    }
    let path = "spec.activeDeadlineSeconds";
    match (
        new["activeDeadlineSeconds"].as_i64(),
        old["activeDeadlineSeconds"].as_i64(),
    ) {
        (Some(seconds), Some(before)) if seconds > before => {
            errors.push(FieldError::invalid(
                path,
                seconds,
                "must be less than or equal to previous value",
            ));
            return;
        }
        (None, Some(_)) => {
            let message = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(path, Value::Null, message));
        }
        _ => {}
    }
    only_added_tolerations(new, old, errors);
    only_deleted_gates(new, old, errors);

    let mut munged = new.clone();
    for list in ["containers", "initContainers"] {
        for (position, container) in items(&old[list]).iter().enumerate() {
            munged[list][position]["image"] = container["image"].clone();
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        munged[field] = old[field].clone();
    }
    let negative = old["terminationGracePeriodSeconds"]
        .as_i64()
        .is_some_and(|seconds| seconds < 0);
    if negative && munged["terminationGracePeriodSeconds"] == 1 {
        munged["terminationGracePeriodSeconds"] = old["terminationGracePeriodSeconds"].clone();
    }
    // A gated pod is not placed yet: it may be told where to go more narrowly.
    if !items(&old["schedulingGates"]).is_empty() {
        let kept = entries(&old["nodeSelector"]).all(|(key, value)| munged["nodeSelector"].get(key) == Some(value));
        if !kept {
            let message = "only additions are allowed for nodeSelector (no mutations or deletions)";
            errors.push(FieldError::invalid(
                "spec.nodeSelector",
                new["nodeSelector"].clone(),
                message,
            ));
        }
        munged["nodeSelector"] = old["nodeSelector"].clone();
    }
    let mut changes = Vec::new();
    differences(old, &munged, "spec", &mut changes);
    if !changes.is_empty() {
        let detail = format!(
            "pod updates may not change fields other than {UPDATABLE}\n  {}\n",
            changes.join("\n  ")
        );
        errors.push(FieldError::forbidden("spec", detail));
    }
}

fn only_added_tolerations(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    for before in items(&old["tolerations"]) {
        let kept = items(&new["tolerations"]).iter().any(|after| {
            let mut comparable = before.clone();
            comparable["tolerationSeconds"] = after["tolerationSeconds"].clone();
            same(&comparable, after)
        });
        if !kept {
            let message = "existing toleration can not be modified except its tolerationSeconds";
            errors.push(FieldError::forbidden("spec.tolerations", message));
            return;
        }
    }
}

fn only_deleted_gates(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    for (position, gate) in items(&new["schedulingGates"]).iter().enumerate() {
        if !items(&old["schedulingGates"])
            .iter()
            .any(|before| before["name"] == gate["name"])
        {
            let path = child(&index("spec.schedulingGates", position), "name");
            let message = format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                text(&gate["name"])
            );
            errors.push(FieldError::forbidden(path, message));
        }
    }
}

fn host_network(spec: &Value, path: &str, is_pod: bool, errors: &mut Vec<FieldError>) {
    if spec["hostNetwork"] != true {
        return;
    }
    for (position, container) in items(&spec["containers"]).iter().enumerate() {
        let path = child(&index(&child(path, "containers"), position), "ports");
        for (position, port) in items(&container["ports"]).iter().enumerate() {
            let host = port["hostPort"].as_i64().unwrap_or_default();
            let inside = port["containerPort"].as_i64().unwrap_or_default();
            if (is_pod || host != 0) && host != inside {
                let path = child(&index(&path, position), "hostPort");
                let message = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(path, host, message));
            }
        }
    }
}

fn security(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let context = &spec["securityContext"];
    let path = child(path, "securityContext");
    ids(context, &path, errors);
    for (position, group) in items(&context["supplementalGroups"]).iter().enumerate() {
        let path = index(&child(&path, "supplementalGroups"), position);
        id_range(group.as_i64().unwrap_or_default(), &path, errors);
    }
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let message = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(
            child(&path, "shareProcessNamespace"),
            true,
            message,
        ));
    }
    let mut taken: Vec<&str> = Vec::new();
    for (position, sysctl) in items(&context["sysctls"]).iter().enumerate() {
        let path = child(&index(&child(&path, "sysctls"), position), "name");
        let name = text(&sysctl["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(path, ""));
        } else if !names::is_sysctl(name) {
            let message = "must have at most 253 characters and match regex \
                           ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(FieldError::invalid(path, name, message));
        } else if taken.contains(&name) {
            errors.push(FieldError::duplicate(path, name));
        } else if spec["hostNetwork"] == true && name.starts_with("net.") {
            errors.push(FieldError::invalid(
                path,
                name,
                "may not be specified when 'hostNetwork' is true",
            ));
        }
        taken.push(name);
    }
}

fn tolerations(tolerations: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (position, toleration) in items(tolerations).iter().enumerate() {
        let path = index(path, position);
        let name = text(&toleration["key"]);
        let operator = text(&toleration["operator"]);
        let value = text(&toleration["value"]);
        let effect = text(&toleration["effect"]);
        if !name.is_empty() {
            label_key(name, &child(&path, "key"), errors);
        } else if operator != "Exists" {
            let message = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(child(&path, "operator"), operator, message));
        }
        if !toleration["tolerationSeconds"].is_null() && effect != "NoExecute" {
            let message = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(child(&path, "effect"), effect, message));
        }
        match operator {
            "" | "Equal" => {
                if let Some(message) = names::label_value(value) {
                    errors.push(FieldError::invalid(child(&path, "operator"), value, message));
                }
            }
            "Exists" if !value.is_empty() => {
                let message = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(child(&path, "operator"), value, message));
            }
            // The schema knows Lt and Gt, our scheduler does not.
            "Lt" | "Gt" => {
                errors.push(FieldError::not_supported(
                    child(&path, "operator"),
                    operator,
                    &["Equal", "Exists"],
                ));
            }
            _ => {}
        }
    }
}

fn dns(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let config = &spec["dnsConfig"];
    let path = child(path, "dnsConfig");
    let servers = items(&config["nameservers"]);
    if spec["dnsPolicy"] == "None" {
        if !config.is_object() {
            let message = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required(path, message));
            return;
        }
        if servers.is_empty() {
            let message = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(child(&path, "nameservers"), message));
            return;
        }
    }
    if servers.len() > 3 {
        let message = "must not have more than 3 nameservers";
        errors.push(FieldError::invalid(
            child(&path, "nameservers"),
            config["nameservers"].clone(),
            message,
        ));
    }
    for (position, server) in servers.iter().enumerate() {
        address(text(server), &index(&child(&path, "nameservers"), position), errors);
    }
    if items(&config["searches"]).len() > 32 {
        let message = "must not have more than 32 search paths";
        errors.push(FieldError::invalid(
            child(&path, "searches"),
            config["searches"].clone(),
            message,
        ));
    }
    for (position, option) in items(&config["options"]).iter().enumerate() {
        if text(&option["name"]).is_empty() {
            let path = index(&child(&path, "options"), position);
            errors.push(FieldError::required(path, "must not be empty"));
        }
    }
}

fn host_aliases(aliases: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (position, alias) in items(aliases).iter().enumerate() {
        let path = index(path, position);
        address(text(&alias["ip"]), &child(&path, "ip"), errors);
        for (position, name) in items(&alias["hostnames"]).iter().enumerate() {
            for message in names::dns_subdomain(text(name)) {
                let path = index(&child(&path, "hostnames"), position);
                errors.push(FieldError::invalid(path, name.clone(), message));
            }
        }
    }
}

/// An IP address of either family.
pub(super) fn address(ip: &str, path: &str, errors: &mut Vec<FieldError>) {
    if ip.parse::<std::net::IpAddr>().is_err() {
        let message = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(FieldError::invalid(path, ip, message));
    }
}
