//! Config maps, secrets, nodes, leases, events, and the kinds of `minidc.dev`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::fields::{child, entries, index, items, key, same, text};
use super::metadata::{IMMUTABLE, label_key, not_negative};
use super::{FieldError, names, resources};

/// Most bytes of data in a config map or secret.
const DATA_LIMIT: usize = 1024 * 1024;
const WHEN_IMMUTABLE: &str = "field is immutable when `immutable` is set";

fn decoded_length(value: &Value) -> usize {
    let encoded = text(value);
    encoded.len() / 4 * 3 - encoded.bytes().rev().take_while(|byte| *byte == b'=').count().min(2)
}

fn keys(data: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (name, _) in entries(data) {
        for message in names::data_key(name) {
            errors.push(FieldError::invalid(key(path, name), name.as_str(), message));
        }
    }
}

fn kept_when_immutable(new: &Value, old: &Value, fields: &[&str], errors: &mut Vec<FieldError>) {
    if old["immutable"] != true {
        return;
    }
    if new["immutable"] != true {
        errors.push(FieldError::forbidden("immutable", WHEN_IMMUTABLE));
    }
    for field in fields {
        if !same(&new[*field], &old[*field]) {
            errors.push(FieldError::forbidden(*field, WHEN_IMMUTABLE));
        }
    }
}

/// Checks a config map.
pub(super) fn config_map(object: &Value, errors: &mut Vec<FieldError>) {
    keys(&object["data"], "data", errors);
    keys(&object["binaryData"], "binaryData", errors);
    let mut size = 0;
    for (name, value) in entries(&object["data"]) {
        if object["binaryData"].get(name).is_some() {
            let message = "duplicate of key present in binaryData";
            errors.push(FieldError::invalid(key("data", name), name.as_str(), message));
        }
        size += text(value).len();
    }
    size += entries(&object["binaryData"])
        .map(|(_, value)| decoded_length(value))
        .sum::<usize>();
    if size > DATA_LIMIT {
        errors.push(FieldError::too_long("[]", DATA_LIMIT));
    }
}

/// Checks a change of a config map.
pub(super) fn config_map_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    kept_when_immutable(new, old, &["data", "binaryData"], errors);
}

/// Checks a secret; `stringData` has been merged into `data`.
pub(super) fn secret(object: &Value, errors: &mut Vec<FieldError>) {
    let data = &object["data"];
    keys(data, "data", errors);
    if entries(data).map(|(_, value)| decoded_length(value)).sum::<usize>() > DATA_LIMIT {
        errors.push(FieldError::too_long("data", DATA_LIMIT));
    }
    match text(&object["type"]) {
        "kubernetes.io/tls" => {
            need(data, "tls.crt", errors);
            need(data, "tls.key", errors);
        }
        "kubernetes.io/basic-auth" if data["username"].is_null() && data["password"].is_null() => {
            need(data, "username", errors);
            need(data, "password", errors);
        }
        "kubernetes.io/ssh-auth" => need(data, "ssh-privatekey", errors),
        "kubernetes.io/dockercfg" => docker_config(data, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => docker_config(data, ".dockerconfigjson", errors),
        "kubernetes.io/service-account-token" => {
            let name = "kubernetes.io/service-account.name";
            if text(&object["metadata"]["annotations"][name]).is_empty() {
                errors.push(FieldError::required(key("metadata.annotations", name), ""));
            }
        }
        _ => {}
    }
}

fn need(data: &Value, name: &str, errors: &mut Vec<FieldError>) {
    if data[name].is_null() {
        errors.push(FieldError::required(key("data", name), ""));
    }
}

/// The credentials of a registry: a JSON object.
fn docker_config(data: &Value, name: &str, errors: &mut Vec<FieldError>) {
    need(data, name, errors);
    let Some(Ok(bytes)) = data[name].as_str().map(|text| STANDARD.decode(text)) else {
        return;
    };
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        errors.push(FieldError::invalid(
            key("data", name),
            "<secret contents redacted>",
            error.to_string(),
        ));
    }
}

/// Checks a change of a secret.
pub(super) fn secret_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if !same(&new["type"], &old["type"]) {
        errors.push(FieldError::invalid("type", new["type"].clone(), IMMUTABLE));
    }
    kept_when_immutable(new, old, &["data"], errors);
}

/// Checks a node.
pub(super) fn node(object: &Value, errors: &mut Vec<FieldError>) {
    let mut taken: Vec<(&str, &str)> = Vec::new();
    for (position, taint) in items(&object["spec"]["taints"]).iter().enumerate() {
        let path = index("spec.taints", position);
        let (name, effect) = (text(&taint["key"]), text(&taint["effect"]));
        label_key(name, &child(&path, "key"), errors);
        if let Some(message) = names::label_value(text(&taint["value"])) {
            errors.push(FieldError::invalid(
                child(&path, "value"),
                taint["value"].clone(),
                message,
            ));
        }
        if effect.is_empty() {
            errors.push(FieldError::required(child(&path, "effect"), ""));
        }
        if taken.contains(&(name, effect)) {
            let mut twice = FieldError::duplicate(path, taint.clone());
            "taints must be unique by key and effect pair".clone_into(&mut twice.detail);
            errors.push(twice);
        }
        taken.push((name, effect));
    }
    resources::of_node(&object["status"]["capacity"], "status.capacity", errors);
    resources::of_node(&object["status"]["allocatable"], "status.allocatable", errors);
    for (position, cidr) in items(&object["spec"]["podCIDRs"]).iter().enumerate() {
        range(text(cidr), &index("spec.podCIDRs", position), errors);
    }
}

/// Checks a range of addresses in CIDR form.
pub(super) fn range(text: &str, path: &str, errors: &mut Vec<FieldError>) {
    if !is_range(text) {
        let message = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        errors.push(FieldError::invalid(path, text, message));
    }
}

fn is_range(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else {
        return false;
    };
    let Ok(address) = address.parse::<std::net::IpAddr>() else {
        return false;
    };
    let limit = if address.is_ipv4() { 32 } else { 128 };
    prefix.parse::<u8>().is_ok_and(|prefix| prefix <= limit)
}

/// Checks a change of a node.
pub(super) fn node_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let (new, old) = (&new["spec"], &old["spec"]);
    let ranges = !items(&old["podCIDRs"]).is_empty() && !same(&new["podCIDRs"], &old["podCIDRs"]);
    let range = !text(&old["podCIDR"]).is_empty() && !same(&new["podCIDR"], &old["podCIDR"]);
    if ranges || range {
        let message = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden("spec.podCIDRs", message));
    }
    if !text(&old["providerID"]).is_empty() && !same(&new["providerID"], &old["providerID"]) {
        let message = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden("spec.providerID", message));
    }
}

/// Checks a lease.
pub(super) fn lease(spec: &Value, errors: &mut Vec<FieldError>) {
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64()
        && seconds <= 0
    {
        errors.push(FieldError::invalid(
            "spec.leaseDurationSeconds",
            seconds,
            "must be greater than 0",
        ));
    }
    not_negative(spec, "leaseTransitions", "spec", errors);
}

/// Checks an event: it belongs to the namespace of the object it is about.
pub(super) fn event(object: &Value, errors: &mut Vec<FieldError>) {
    let about = text(&object["involvedObject"]["namespace"]);
    let own = text(&object["metadata"]["namespace"]);
    let fits = if about.is_empty() {
        matches!(own, "" | "default")
    } else {
        about == own
    };
    if !fits {
        errors.push(FieldError::invalid(
            "involvedObject.namespace",
            about,
            "does not match event.namespace",
        ));
    }
}

/// A token belongs to the first key that used it, for ever.
pub(super) fn join_token_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let (new, old) = (&new["spec"]["usedBy"], &old["spec"]["usedBy"]);
    if !old.is_null() && !same(new, old) {
        errors.push(FieldError::invalid("spec.usedBy", new.clone(), IMMUTABLE));
    }
}

/// Checks an image: its name is the checksum of its archive.
pub(super) fn image(object: &Value, errors: &mut Vec<FieldError>) {
    let name = text(&object["metadata"]["name"]);
    let checksum = name.strip_prefix("sha256-").unwrap_or_default();
    let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if checksum.len() != 64 || !checksum.bytes().all(lower_hex) {
        let message = "must be 'sha256-' and the archive's checksum in 64 hexadecimal digits";
        errors.push(FieldError::invalid("metadata.name", name, message));
    }
    not_negative(&object["spec"], "size", "spec", errors);
}

/// The archive behind an image never changes.
pub(super) fn image_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if !same(&new["spec"]["size"], &old["spec"]["size"]) {
        errors.push(FieldError::invalid("spec.size", new["spec"]["size"].clone(), IMMUTABLE));
    }
}
