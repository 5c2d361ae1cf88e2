//! What stands behind services, and the addresses they have: endpoint slices, endpoints, IP addresses and ranges.

use std::net::IpAddr;

use serde_json::Value;

use super::container::port_number;
use super::fields::{child, index, items, same, text};
use super::metadata::{IMMUTABLE, label_key};
use super::{FieldError, names, pod};

const MOST_ENDPOINTS: usize = 1000;
const MOST_ADDRESSES: usize = 100;
/// Kubernetes since 1.29; 100 before.
const MOST_PORTS: usize = 20_000;

/// An address that traffic can be sent to: not unspecified, not loopback, not link-local.
pub(super) fn ordinary_address(ip: &str, path: &str, errors: &mut Vec<FieldError>) {
    let Ok(address) = ip.parse::<IpAddr>() else {
        pod::address(ip, path, errors);
        return;
    };
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let local_multicast = match address {
        IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
    };
    let message = if address.is_unspecified() {
        format!("may not be unspecified ({ip})")
    } else if address.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()
    } else if link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
    } else if local_multicast {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()
    } else {
        return;
    };
    errors.push(FieldError::invalid(path, ip, message));
}

/// Checks an endpoint slice.
pub(super) fn endpoint_slice(object: &Value, errors: &mut Vec<FieldError>) {
    let endpoints = items(&object["endpoints"]);
    if endpoints.len() > MOST_ENDPOINTS {
        errors.push(FieldError::too_many("endpoints", endpoints.len(), MOST_ENDPOINTS));
    } else {
        for (position, endpoint) in endpoints.iter().enumerate() {
            slice_endpoint(
                endpoint,
                text(&object["addressType"]),
                &index("endpoints", position),
                errors,
            );
        }
    }
    let ports = items(&object["ports"]);
    if ports.len() > MOST_PORTS {
        errors.push(FieldError::too_many("ports", ports.len(), MOST_PORTS));
        return;
    }
    let mut taken: Vec<&str> = Vec::new();
    for (position, port) in ports.iter().enumerate() {
        let path = index("ports", position);
        let name = text(&port["name"]);
        if !name.is_empty() {
            for message in names::dns_label(name) {
                errors.push(FieldError::invalid(child(&path, "name"), name, message));
            }
        }
        if taken.contains(&name) {
            errors.push(FieldError::duplicate(child(&path, "name"), name));
        }
        taken.push(name);
        if let Some(number) = port["port"].as_i64() {
            port_number(number, &child(&path, "port"), errors);
        }
        if let Some(application) = port["appProtocol"].as_str() {
            label_key(application, &child(&path, "appProtocol"), errors);
        }
    }
}

fn slice_endpoint(endpoint: &Value, kind: &str, path: &str, errors: &mut Vec<FieldError>) {
    let addresses = items(&endpoint["addresses"]);
    let at = child(path, "addresses");
    if addresses.is_empty() {
        errors.push(FieldError::required(&at, "must contain at least 1 address"));
    } else if addresses.len() > MOST_ADDRESSES {
        errors.push(FieldError::too_many(&at, addresses.len(), MOST_ADDRESSES));
    }
    for (position, address) in addresses.iter().enumerate() {
        let (at, address) = (index(&at, position), text(address));
        let parsed = address.parse::<IpAddr>().ok();
        match kind {
            "IPv4" if !parsed.is_some_and(|ip| ip.is_ipv4()) => {
                errors.push(FieldError::invalid(at, address, "must be a valid IPv4 address"));
            }
            "IPv6" if !parsed.is_some_and(|ip| ip.is_ipv6()) => {
                errors.push(FieldError::invalid(at, address, "must be a valid IPv6 address"));
            }
            "IPv4" | "IPv6" => ordinary_address(address, &at, errors),
            "FQDN" => {
                let name = address.strip_suffix('.').unwrap_or(address);
                for message in names::dns_subdomain(name) {
                    errors.push(FieldError::invalid(at.clone(), address, message));
                }
                if !name.contains('.') {
                    let message = "should be a domain with at least two segments separated by dots";
                    errors.push(FieldError::invalid(at, address, message));
                }
            }
            _ => {}
        }
    }
    if let Some(hostname) = endpoint["hostname"].as_str() {
        for message in names::dns_label(hostname) {
            errors.push(FieldError::invalid(child(path, "hostname"), hostname, message));
        }
    }
    if let Some(node) = endpoint["nodeName"].as_str() {
        for message in names::dns_subdomain(node) {
            errors.push(FieldError::invalid(child(path, "nodeName"), node, message));
        }
    }
}

/// Checks a change of an endpoint slice.
pub(super) fn endpoint_slice_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if new["addressType"] != old["addressType"] {
        errors.push(FieldError::invalid(
            "addressType",
            new["addressType"].clone(),
            IMMUTABLE,
        ));
    }
}

/// Checks endpoints of the old form.
pub(super) fn endpoints(object: &Value, errors: &mut Vec<FieldError>) {
    for (position, subset) in items(&object["subsets"]).iter().enumerate() {
        let path = index("subsets", position);
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|list| items(&subset[*list]).is_empty()) {
            let message = "must specify `addresses` or `notReadyAddresses`";
            errors.push(FieldError::required(&path, message));
        }
        for list in lists {
            for (position, address) in items(&subset[list]).iter().enumerate() {
                let path = index(&child(&path, list), position);
                ordinary_address(text(&address["ip"]), &child(&path, "ip"), errors);
                let hostname = text(&address["hostname"]);
                if !hostname.is_empty() {
                    for message in names::dns_label(hostname) {
                        errors.push(FieldError::invalid(child(&path, "hostname"), hostname, message));
                    }
                }
                if let Some(node) = address["nodeName"].as_str() {
                    for message in names::dns_subdomain(node) {
                        errors.push(FieldError::invalid(child(&path, "nodeName"), node, message));
                    }
                }
            }
        }
        let ports = items(&subset["ports"]);
        for (position, port) in ports.iter().enumerate() {
            let path = index(&child(&path, "ports"), position);
            let name = text(&port["name"]);
            if name.is_empty() {
                if ports.len() > 1 {
                    errors.push(FieldError::required(child(&path, "name"), ""));
                }
            } else {
                for message in names::dns_label(name) {
                    errors.push(FieldError::invalid(child(&path, "name"), name, message));
                }
            }
            port_number(port["port"].as_i64().unwrap_or_default(), &child(&path, "port"), errors);
            if let Some(application) = port["appProtocol"].as_str() {
                label_key(application, &child(&path, "appProtocol"), errors);
            }
        }
    }
}

/// Checks an IP address object: its name is the address in its only canonical form.
pub(super) fn ip_address(object: &Value, errors: &mut Vec<FieldError>) {
    let name = text(&object["metadata"]["name"]);
    match name.parse::<IpAddr>() {
        Err(_) => pod::address(name, "metadata.name", errors),
        Ok(address) if address.to_string() != name => {
            let message = format!("must be in canonical form (\"{address}\")");
            errors.push(FieldError::invalid("metadata.name", name, message));
        }
        Ok(_) => {}
    }
    let parent = &object["spec"]["parentRef"];
    if !parent.is_null() {
        for field in ["resource", "name"] {
            if parent[field] == "" {
                errors.push(FieldError::required(child("spec.parentRef", field), ""));
            }
        }
    }
}

/// Checks a change of an IP address object.
pub(super) fn ip_address_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let (new, old) = (&new["spec"]["parentRef"], &old["spec"]["parentRef"]);
    if !same(new, old) {
        errors.push(FieldError::invalid("spec.parentRef", new.clone(), IMMUTABLE));
    }
}

/// Checks ranges of service addresses.
pub(super) fn service_cidr(object: &Value, errors: &mut Vec<FieldError>) {
    let ranges = items(&object["spec"]["cidrs"]);
    if ranges.is_empty() {
        errors.push(FieldError::required("spec.cidrs", "at least one CIDR required"));
    }
    if ranges.len() > 2 {
        let message = "may only hold up to 2 values";
        errors.push(FieldError::invalid(
            "spec.cidrs",
            object["spec"]["cidrs"].clone(),
            message,
        ));
    }
    for (position, range) in ranges.iter().enumerate() {
        super::others::range(text(range), &index("spec.cidrs", position), errors);
    }
}

/// Checks a change of ranges of service addresses.
pub(super) fn service_cidr_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let (new, old) = (&new["spec"]["cidrs"], &old["spec"]["cidrs"]);
    if !same(new, old) {
        errors.push(FieldError::invalid("spec.cidrs", new.clone(), IMMUTABLE));
    }
}
