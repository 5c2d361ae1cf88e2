//! Columns of services and of what belongs to them.

use serde_json::Value;

use super::{AGE, Column, NAME, NONE, column, count, items, labels, number, text, text_or, wide};

/// Most items that one cell lists, as in Kubernetes.
const SHOWN: usize = 3;

/// The first of some items, and how many more there are.
fn some(all: impl Iterator<Item = String>) -> String {
    let mut shown = String::new();
    let mut total = 0;
    for item in all {
        if total < SHOWN {
            if total > 0 {
                shown.push(',');
            }
            shown.push_str(&item);
        }
        total += 1;
    }
    if total > SHOWN {
        format!("{shown} + {} more...", total - SHOWN)
    } else {
        shown
    }
}

fn or_unset(shown: String) -> Value {
    if shown.is_empty() {
        "<unset>".into()
    } else {
        shown.into()
    }
}

fn address_and_port(ip: &str, port: i64) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

fn subset_endpoints(subset: &Value) -> Vec<String> {
    let addresses = || items(&subset["addresses"]).iter().map(|address| text(&address["ip"]));
    let ports = items(&subset["ports"]);
    if ports.is_empty() {
        // Headless services may have no ports.
        return addresses().map(str::to_owned).collect();
    }
    ports
        .iter()
        .flat_map(|port| addresses().map(|ip| address_and_port(ip, count(&port["port"]))))
        .collect()
}

/// Columns of `Endpoints`.
pub const ENDPOINTS: &[Column] = &[
    NAME,
    column(
        "Endpoints",
        "Addresses and ports that are ready.",
        |object, _| match items(&object["subsets"]) {
            [] => NONE.into(),
            subsets => some(subsets.iter().flat_map(subset_endpoints)).into(),
        },
    ),
    AGE,
];

fn slice_port(port: &Value) -> String {
    match port["port"].as_i64() {
        Some(number) => number.to_string(),
        None => port["name"].as_str().unwrap_or("*").to_owned(),
    }
}

/// Columns of `EndpointSlice`.
pub const ENDPOINT_SLICES: &[Column] = &[
    NAME,
    column("AddressType", "What the addresses are.", |object, _| {
        text(&object["addressType"]).into()
    }),
    column("Ports", "Ports of each endpoint.", |object, _| {
        or_unset(some(items(&object["ports"]).iter().map(slice_port)))
    }),
    column("Endpoints", "Addresses, ready or not.", |object, _| {
        let addresses = items(&object["endpoints"])
            .iter()
            .flat_map(|endpoint| items(&endpoint["addresses"]));
        or_unset(some(addresses.map(|address| text(address).to_owned())))
    }),
    AGE,
];

/// Columns of `IPAddress`.
pub const IP_ADDRESSES: &[Column] = &[
    NAME,
    column("ParentRef", "The object that has the address.", |object, _| {
        let parent = &object["spec"]["parentRef"];
        if parent.is_null() {
            return NONE.into();
        }
        let mut shown = text(&parent["resource"]).to_lowercase();
        for (separator, field) in [('.', "group"), ('/', "namespace"), ('/', "name")] {
            let part = text(&parent[field]);
            if !part.is_empty() {
                shown.push(separator);
                shown.push_str(part);
            }
        }
        shown.into()
    }),
    AGE,
];

/// Columns of `ServiceCIDR`.
pub const SERVICE_CIDRS: &[Column] = &[
    NAME,
    column("CIDRs", "The ranges.", |object, _| {
        let ranges: Vec<&str> = items(&object["spec"]["cidrs"]).iter().map(text).collect();
        ranges.join(",").into()
    }),
    AGE,
];

fn results(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["nodes"]
        .as_object()
        .into_iter()
        .flat_map(serde_json::Map::values)
        .flat_map(|node| items(&node["results"]))
}

/// Columns of `NetCheck`.
pub const NET_CHECKS: &[Column] = &[
    NAME,
    number("Nodes", "How many nodes take part.", |object, _| {
        items(&object["spec"]["nodes"]).len().into()
    }),
    number("Ok", "Checks that went well.", |object, _| {
        results(object).filter(|result| result["ok"] == true).count().into()
    }),
    number("Failed", "Checks that failed.", |object, _| {
        results(object).filter(|result| result["ok"] == false).count().into()
    }),
    AGE,
];

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let listed = items(&spec["externalIPs"]).iter().map(text).collect::<Vec<_>>();
    match text(&spec["type"]) {
        "ClusterIP" | "NodePort" if listed.is_empty() => NONE.to_owned(),
        "ClusterIP" | "NodePort" => listed.join(","),
        "LoadBalancer" => {
            let mut found: Vec<&str> = items(&service["status"]["loadBalancer"]["ingress"])
                .iter()
                .map(|ingress| match text(&ingress["ip"]) {
                    "" => text(&ingress["hostname"]),
                    ip => ip,
                })
                .filter(|address| !address.is_empty())
                .collect();
            found.sort_unstable();
            found.dedup();
            found.extend(listed);
            if found.is_empty() {
                "<pending>".to_owned()
            } else {
                found.join(",")
            }
        }
        "ExternalName" => text(&spec["externalName"]).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn service_ports(service: &Value) -> String {
    let ports: Vec<String> = items(&service["spec"]["ports"])
        .iter()
        .map(|port| {
            let protocol = text(&port["protocol"]);
            match count(&port["nodePort"]) {
                0 => format!("{}/{protocol}", count(&port["port"])),
                node_port => format!("{}:{node_port}/{protocol}", count(&port["port"])),
            }
        })
        .collect();
    if ports.is_empty() {
        NONE.to_owned()
    } else {
        ports.join(",")
    }
}

/// Columns of `Service`.
pub const SERVICES: &[Column] = &[
    NAME,
    column("Type", "How it can be reached.", |object, _| {
        text(&object["spec"]["type"]).into()
    }),
    column("Cluster-IP", "Address inside the cluster.", |object, _| {
        match text(&object["spec"]["clusterIPs"][0]) {
            "" => text_or(&object["spec"]["clusterIP"], NONE),
            ip => ip.into(),
        }
    }),
    column("External-IP", "Addresses from outside.", |object, _| {
        external_ip(object).into()
    }),
    column("Port(s)", "`port:nodePort/protocol` of each port.", |object, _| {
        service_ports(object).into()
    }),
    AGE,
    wide(column("Selector", "Labels of the pods behind it.", |object, _| {
        labels(&object["spec"]["selector"]).into()
    })),
];
