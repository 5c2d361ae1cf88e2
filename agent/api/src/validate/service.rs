//! Services.

use serde_json::{Value, json};

use super::container::{port_number, port_number_or_name};
use super::fields::{child, index, items, text};
use super::metadata::{label_key, labels};
use super::{FieldError, names, pod};

fn is_headless(spec: &Value) -> bool {
    spec["clusterIP"] == "None" || spec["clusterIPs"][0] == "None"
}

/// Checks the spec of a service.
pub(super) fn spec(spec: &Value, errors: &mut Vec<FieldError>) {
    let kind = text(&spec["type"]);
    let ports = items(&spec["ports"]);
    let headless = is_headless(spec);
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let message = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid("spec.clusterIPs[0]", "None", message));
        }
        "ExternalName" => external_name(spec, errors),
        _ => {}
    }
    let mut taken: Vec<&str> = Vec::new();
    for (position, service_port) in ports.iter().enumerate() {
        port(
            service_port,
            ports.len() > 1,
            &index("spec.ports", position),
            &mut taken,
            errors,
        );
        if kind == "ClusterIP" && service_port["nodePort"].as_i64().unwrap_or_default() != 0 {
            let path = child(&index("spec.ports", position), "nodePort");
            errors.push(FieldError::forbidden(
                path,
                "may not be used when `type` is 'ClusterIP'",
            ));
        }
    }
    duplicates(ports, errors);
    labels(&spec["selector"], "spec.selector", errors);
    affinity(spec, errors);
    cluster_addresses(spec, errors);
    for (position, ip) in items(&spec["externalIPs"]).iter().enumerate() {
        pod::address(text(ip), &index("spec.externalIPs", position), errors);
    }
    for field in [
        "loadBalancerSourceRanges",
        "loadBalancerClass",
        "allocateLoadBalancerNodePorts",
    ] {
        let given = !spec[field].is_null() && spec[field] != json!([]);
        if given && kind != "LoadBalancer" {
            errors.push(FieldError::forbidden(
                child("spec", field),
                "may only be used when `type` is 'LoadBalancer'",
            ));
        }
    }
    let outside = kind == "NodePort" || kind == "LoadBalancer" || !items(&spec["externalIPs"]).is_empty();
    let policy = &spec["externalTrafficPolicy"];
    if !outside && !text(policy).is_empty() {
        let message = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid(
            "spec.externalTrafficPolicy",
            policy.clone(),
            message,
        ));
    }
}

fn external_name(spec: &Value, errors: &mut Vec<FieldError>) {
    for field in ["clusterIPs", "ipFamilies"] {
        if !items(&spec[field]).is_empty() {
            errors.push(FieldError::forbidden(
                child("spec", field),
                "may not be set for ExternalName services",
            ));
        }
    }
    if !spec["ipFamilyPolicy"].is_null() {
        errors.push(FieldError::forbidden(
            "spec.ipFamilyPolicy",
            "may not be set for ExternalName services",
        ));
    }
    let name = text(&spec["externalName"]);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        errors.push(FieldError::required("spec.externalName", ""));
    } else {
        for message in names::dns_subdomain(name) {
            errors.push(FieldError::invalid("spec.externalName", name, message));
        }
    }
}

fn port<'a>(port: &'a Value, needs_name: bool, path: &str, taken: &mut Vec<&'a str>, errors: &mut Vec<FieldError>) {
    let name = text(&port["name"]);
    if name.is_empty() {
        if needs_name {
            errors.push(FieldError::required(child(path, "name"), ""));
        }
    } else {
        for message in names::dns_label(name) {
            errors.push(FieldError::invalid(child(path, "name"), name, message));
        }
        if taken.contains(&name) {
            errors.push(FieldError::duplicate(child(path, "name"), name));
        }
        taken.push(name);
    }
    port_number(port["port"].as_i64().unwrap_or_default(), &child(path, "port"), errors);
    let target = &port["targetPort"];
    if !target.is_null() {
        port_number_or_name(target, &child(path, "targetPort"), errors);
    }
    match port["nodePort"].as_i64().unwrap_or_default() {
        0 => {}
        number => port_number(number, &child(path, "nodePort"), errors),
    }
    let application = text(&port["appProtocol"]);
    if !application.is_empty() {
        label_key(application, &child(path, "appProtocol"), errors);
    }
}

fn duplicates(ports: &[Value], errors: &mut Vec<FieldError>) {
    for (position, port) in ports.iter().enumerate() {
        let before = &ports[..position];
        let twin = |field: &str| {
            before
                .iter()
                .any(|other| other["protocol"] == port["protocol"] && other[field] == port[field])
        };
        let path = index("spec.ports", position);
        if port["nodePort"].as_i64().unwrap_or_default() != 0 && twin("nodePort") {
            errors.push(FieldError::duplicate(
                child(&path, "nodePort"),
                port["nodePort"].clone(),
            ));
        }
        if twin("port") {
            let value = json!({"port": port["port"], "protocol": port["protocol"]});
            errors.push(FieldError::duplicate(path, value));
        }
    }
}

fn affinity(spec: &Value, errors: &mut Vec<FieldError>) {
    let config = &spec["sessionAffinityConfig"];
    if spec["sessionAffinity"] == "None" && !config.is_null() {
        let message = "must not be set when session affinity is None";
        errors.push(FieldError::forbidden("spec.sessionAffinityConfig", message));
    }
    if spec["sessionAffinity"] == "ClientIP"
        && let Some(seconds) = config["clientIP"]["timeoutSeconds"].as_i64()
        && !(1..=86_400).contains(&seconds)
    {
        let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        errors.push(FieldError::invalid(
            path,
            seconds,
            "must be greater than 0 and less than 86400",
        ));
    }
}

fn cluster_addresses(spec: &Value, errors: &mut Vec<FieldError>) {
    let first = text(&spec["clusterIP"]);
    let all = items(&spec["clusterIPs"]);
    if first.is_empty() && !all.is_empty() {
        errors.push(FieldError::forbidden(
            "spec.clusterIPs",
            "must be empty when `clusterIP` is not specified",
        ));
    } else if !all.is_empty() && all[0] != first {
        let message = "first value must match `clusterIP`";
        errors.push(FieldError::invalid(
            "spec.clusterIPs",
            spec["clusterIPs"].clone(),
            message,
        ));
    }
    if all.len() > 2 {
        let message = "may only hold up to 2 values";
        errors.push(FieldError::invalid(
            "spec.clusterIPs",
            spec["clusterIPs"].clone(),
            message,
        ));
    }
    if all.len() > 1 && all.iter().any(|ip| ip == "None") {
        let message = "'None' must be the first and only value";
        errors.push(FieldError::invalid(
            "spec.clusterIPs",
            spec["clusterIPs"].clone(),
            message,
        ));
    }
    for (position, ip) in all.iter().enumerate() {
        if ip != "None" {
            pod::address(text(ip), &index("spec.clusterIPs", position), errors);
        }
    }
    if all.is_empty() && !first.is_empty() && first != "None" {
        pod::address(first, "spec.clusterIP", errors);
    }
}

/// Addresses, once given, stay. The server carries them over when a client leaves them out.
pub(super) fn update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let (new, old) = (&new["spec"], &old["spec"]);
    if new["type"] == "ExternalName" || old["type"] == "ExternalName" {
        return;
    }
    let before = text(&old["clusterIP"]);
    if !before.is_empty() && new["clusterIP"] != before {
        let value = if new["clusterIPs"].is_null() {
            json!([new["clusterIP"]])
        } else {
            new["clusterIPs"].clone()
        };
        errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            value,
            "may not change once set",
        ));
    }
}
