//! Services: what their fields ask of each other.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::container::{port_number, port_number_or_name};
use super::fields::{child, index, items, text};
use super::metadata::{IMMUTABLE, label_key, labels};
use super::network::ordinary_address;
use super::{FieldError, names, pod};

const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";
const ONCE_SET: &str = "may not change once set";
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameNode", "PreferSameZone"];

/// The kubelet's port on other systems, which Kubernetes keeps load balancers from.
const KUBELET_PORT: i64 = 10250;

fn is_headless(spec: &Value) -> bool {
    items(&spec["clusterIPs"]).len() == 1 && spec["clusterIPs"][0] == "None"
}

fn kind(spec: &Value) -> &str {
    text(&spec["type"])
}

/// True for services that something outside the cluster can reach.
pub fn is_externally_accessible(kind: &str, external_ips: Option<&Value>) -> bool {
    match kind {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => external_ips.is_some_and(|list| !items(list).is_empty()),
        _ => false,
    }
}

/// True for services that get a port at which load balancers ask whether a node has endpoints.
pub fn needs_health_check(spec: &Value) -> bool {
    kind(spec) == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

/// Checks the spec of a service, whose addresses and ports have been allotted.
pub(super) fn spec(spec: &Value, errors: &mut Vec<FieldError>) {
    let kind = kind(spec);
    let ports = items(&spec["ports"]);
    if ports.is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" => {
            if kind == "LoadBalancer" {
                not_the_kubelet(ports, errors);
            }
            if is_headless(spec) {
                let message = format!("may not be set to 'None' for {kind} services");
                errors.push(FieldError::invalid("spec.clusterIPs[0]", "None", message));
            }
        }
        "ExternalName" => external_name(spec, errors),
        _ => {}
    }
    let mut taken: Vec<&str> = Vec::new();
    for (position, service_port) in ports.iter().enumerate() {
        let path = index("spec.ports", position);
        port(service_port, ports.len() > 1, &path, &mut taken, errors);
    }
    labels(&spec["selector"], "spec.selector", errors);
    affinity(spec, errors);
    if kind != "ExternalName" {
        cluster_addresses(spec, errors);
    }
    for (position, ip) in items(&spec["externalIPs"]).iter().enumerate() {
        ordinary_address(text(ip), &index("spec.externalIPs", position), errors);
    }
    if kind == "ClusterIP" {
        for (position, service_port) in ports.iter().enumerate() {
            if number(&service_port["nodePort"]) != 0 {
                let path = child(&index("spec.ports", position), "nodePort");
                let message = "may not be used when `type` is 'ClusterIP'";
                errors.push(FieldError::forbidden(path, message));
            }
        }
    }
    duplicates(ports, errors);
    load_balancer(spec, errors);
    traffic(spec, errors);
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

fn not_the_kubelet(ports: &[Value], errors: &mut Vec<FieldError>) {
    for (position, port) in ports.iter().enumerate() {
        if number(&port["port"]) == KUBELET_PORT {
            let message = format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
            errors.push(FieldError::invalid(
                index("spec.ports", position),
                KUBELET_PORT,
                message,
            ));
        }
    }
}

fn external_name(spec: &Value, errors: &mut Vec<FieldError>) {
    const MESSAGE: &str = "may not be set for ExternalName services";
    for field in ["clusterIPs", "ipFamilies"] {
        if !items(&spec[field]).is_empty() {
            errors.push(FieldError::forbidden(child("spec", field), MESSAGE));
        }
    }
    if !spec["ipFamilyPolicy"].is_null() {
        errors.push(FieldError::forbidden("spec.ipFamilyPolicy", MESSAGE));
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
    port_number(number(&port["port"]), &child(path, "port"), errors);
    let target = &port["targetPort"];
    if !target.is_null() {
        port_number_or_name(target, &child(path, "targetPort"), errors);
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
        if number(&port["nodePort"]) != 0 && twin("nodePort") {
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
        let message = "must be greater than 0 and less than 86400";
        errors.push(FieldError::invalid(path, seconds, message));
    }
}

/// Checks `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`, which depend on each other. The server asks before
/// it allots addresses, too.
pub fn cluster_addresses(spec: &Value, errors: &mut Vec<FieldError>) {
    let first = text(&spec["clusterIP"]);
    let all = items(&spec["clusterIPs"]);
    let wrong = |message: &str| FieldError::invalid("spec.clusterIPs", spec["clusterIPs"].clone(), message);
    if first.is_empty() {
        if !all.is_empty() {
            errors.push(wrong("must be empty when `clusterIP` is not specified"));
        }
    } else if all.is_empty() {
        errors.push(FieldError::required("spec.clusterIPs", ""));
    } else if all[0] != first {
        errors.push(wrong("first value must match `clusterIP`"));
    }
    let families = items(&spec["ipFamilies"]);
    for (position, family) in families.iter().enumerate() {
        if FAMILIES.contains(&text(family)) && families[..position].contains(family) {
            errors.push(FieldError::duplicate(
                index("spec.ipFamilies", position),
                family.clone(),
            ));
        }
    }
    let before = errors.len();
    let mut addresses: Vec<Option<IpAddr>> = Vec::with_capacity(all.len());
    for (position, ip) in all.iter().enumerate() {
        if position == 0 && ip == "None" {
            if all.len() > 1 {
                errors.push(wrong("'None' must be the first and only value"));
            }
            continue;
        }
        pod::address(text(ip), &index("spec.clusterIPs", position), errors);
        addresses.push(text(ip).parse().ok());
    }
    let malformed = errors.len() > before;
    if all.len() > 2 {
        errors.push(wrong("may only hold up to 2 values"));
    }
    if malformed {
        return;
    }
    let is_v4 = |address: &Option<IpAddr>| address.is_some_and(|address| address.is_ipv4());
    if addresses.len() > 1 && addresses.iter().map(is_v4).filter(|v4| *v4).count() != 1 {
        errors.push(wrong("may specify no more than one IP for each IP family"));
    }
    for (position, (address, family)) in addresses.iter().zip(families).enumerate() {
        let expected = text(family);
        let fits = match expected {
            "IPv4" => is_v4(address),
            "IPv6" => !is_v4(address),
            _ => true,
        };
        if !fits {
            let message = format!("expected an {expected} value as indicated by `ipFamilies[{position}]`");
            errors.push(FieldError::invalid(
                index("spec.clusterIPs", position),
                all[position].clone(),
                message,
            ));
        }
    }
}

fn load_balancer(spec: &Value, errors: &mut Vec<FieldError>) {
    let is_load_balancer = kind(spec) == "LoadBalancer";
    let ranges = items(&spec["loadBalancerSourceRanges"]);
    // The capital letter is Kubernetes'.
    let path = "spec.LoadBalancerSourceRanges";
    if !ranges.is_empty() && !is_load_balancer {
        errors.push(FieldError::forbidden(path, ONLY_LOAD_BALANCER));
    }
    for (position, range) in ranges.iter().enumerate() {
        super::others::range(text(range).trim(), &index(path, position), errors);
    }
    if !spec["allocateLoadBalancerNodePorts"].is_null() && !is_load_balancer {
        errors.push(FieldError::forbidden(
            "spec.allocateLoadBalancerNodePorts",
            ONLY_LOAD_BALANCER,
        ));
    }
    if let Some(class) = spec["loadBalancerClass"].as_str() {
        if is_load_balancer {
            label_key(class, "spec.loadBalancerClass", errors);
        } else {
            errors.push(FieldError::forbidden("spec.loadBalancerClass", ONLY_LOAD_BALANCER));
        }
    }
}

fn traffic(spec: &Value, errors: &mut Vec<FieldError>) {
    let policy = text(&spec["externalTrafficPolicy"]);
    if is_externally_accessible(kind(spec), spec.get("externalIPs")) {
        if policy.is_empty() {
            errors.push(FieldError::required("spec.externalTrafficPolicy", ""));
        }
    } else if !policy.is_empty() {
        let message = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid("spec.externalTrafficPolicy", policy, message));
    }
    let check = number(&spec["healthCheckNodePort"]);
    let path = "spec.healthCheckNodePort";
    if !needs_health_check(spec) {
        if check != 0 {
            let message = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(FieldError::invalid(path, check, message));
        }
    } else if check == 0 {
        errors.push(FieldError::required(path, ""));
    } else {
        port_number(check, path, errors);
    }
    if spec["internalTrafficPolicy"].is_null() && kind(spec) != "ExternalName" {
        errors.push(FieldError::required("spec.internalTrafficPolicy", ""));
    }
    if let Some(distribution) = spec["trafficDistribution"].as_str()
        && !DISTRIBUTIONS.contains(&distribution)
    {
        errors.push(FieldError::not_supported(
            "spec.trafficDistribution",
            distribution,
            &DISTRIBUTIONS,
        ));
    }
}

/// Checks a change of a service. Addresses, once given, stay; the server carries over what a client leaves out.
pub(super) fn update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if new["status"] != old["status"] {
        status(new, errors);
    }
    let (new, old) = (&new["spec"], &old["spec"]);
    if kind(new) != "ExternalName" && kind(old) != "ExternalName" {
        addresses_stay(new, old, errors);
        families_stay(new, old, errors);
    }
    if kind(new) == "LoadBalancer"
        && kind(old) == "LoadBalancer"
        && new["loadBalancerClass"] != old["loadBalancerClass"]
    {
        errors.push(FieldError::invalid(
            "spec.loadBalancerClass",
            new["loadBalancerClass"].clone(),
            ONCE_SET,
        ));
    }
    if needs_health_check(new)
        && needs_health_check(old)
        && number(&new["healthCheckNodePort"]) != number(&old["healthCheckNodePort"])
    {
        errors.push(FieldError::forbidden("spec.healthCheckNodePort", IMMUTABLE));
    }
}

const ONE_FAMILY: &str = "must be set to 'SingleStack' when releasing the secondary";

fn addresses_stay(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if is_headless(new) && is_headless(old) {
        return;
    }
    let (after, before) = (items(&new["clusterIPs"]), items(&old["clusterIPs"]));
    let path = "spec.clusterIPs";
    if before.is_empty() {
        return;
    }
    if after.is_empty() {
        let message = "primary clusterIP can not be unset";
        errors.push(FieldError::invalid(index(path, 0), new["clusterIPs"].clone(), message));
    }
    for (position, (after, before)) in after.iter().zip(before).enumerate() {
        if after != before {
            errors.push(FieldError::invalid(
                index(path, position),
                new["clusterIPs"].clone(),
                ONCE_SET,
            ));
        }
    }
    if after.len() == 1 && before.len() > 1 && new["ipFamilyPolicy"] != "SingleStack" {
        errors.push(FieldError::invalid(
            "spec.ipFamilyPolicy",
            new["ipFamilyPolicy"].clone(),
            format!("{ONE_FAMILY} clusterIP"),
        ));
    }
}

fn families_stay(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if is_headless(new) || is_headless(old) {
        return;
    }
    let (after, before) = (items(&new["ipFamilies"]), items(&old["ipFamilies"]));
    if after.iter().zip(before).any(|(after, before)| after != before) {
        errors.push(FieldError::invalid(
            "spec.ipFamilies[0]",
            new["ipFamilies"].clone(),
            ONCE_SET,
        ));
    }
    if after.len() == 1 && before.len() > 1 && new["ipFamilyPolicy"] != "SingleStack" {
        errors.push(FieldError::invalid(
            "spec.ipFamilyPolicy",
            new["ipFamilyPolicy"].clone(),
            format!("{ONE_FAMILY} ipFamily"),
        ));
    }
}

/// Checks what a load balancer reports.
fn status(service: &Value, errors: &mut Vec<FieldError>) {
    let path = "status.loadBalancer.ingress";
    let ingress = items(&service["status"]["loadBalancer"]["ingress"]);
    if !ingress.is_empty() && kind(&service["spec"]) != "LoadBalancer" {
        let message = "may only be used when `spec.type` is \"LoadBalancer\"";
        errors.push(FieldError::forbidden(path, message));
        return;
    }
    for (position, point) in ingress.iter().enumerate() {
        let path = index(path, position);
        let ip = text(&point["ip"]);
        if !ip.is_empty() {
            pod::address(ip, &child(&path, "ip"), errors);
        }
        if !point["ipMode"].is_null() {
            let at = child(&path, "ipMode");
            if ip.is_empty() {
                errors.push(FieldError::forbidden(at, "may not be specified when `ip` is not set"));
            } else if !["VIP", "Proxy"].contains(&text(&point["ipMode"])) {
                errors.push(FieldError::not_supported(
                    at,
                    point["ipMode"].clone(),
                    &["Proxy", "VIP"],
                ));
            }
        } else if !ip.is_empty() {
            errors.push(FieldError::required(
                child(&path, "ipMode"),
                "must be specified when `ip` is set",
            ));
        }
        let hostname = text(&point["hostname"]);
        if !hostname.is_empty() {
            for message in names::dns_subdomain(hostname) {
                errors.push(FieldError::invalid(child(&path, "hostname"), hostname, message));
            }
            if hostname.parse::<IpAddr>().is_ok() {
                let message = "must be a DNS name, not an IP address";
                errors.push(FieldError::invalid(child(&path, "hostname"), hostname, message));
            }
        }
    }
}
