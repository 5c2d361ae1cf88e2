//! Requests and limits.

use serde_json::Value;

use super::fields::{child, entries, items, key, text};
use super::metadata::NEGATIVE;
use super::{FieldError, names};
use crate::quantity::Quantity;

/// Checks the resources of a container.
pub(super) fn of_container(resources: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let limits_path = child(path, "limits");
    let requests_path = child(path, "requests");
    for (name, value) in entries(&resources["limits"]) {
        let path = key(&limits_path, name);
        container_resource(name, &path, errors);
        amount(name, value, &path, errors);
    }
    for (name, value) in entries(&resources["requests"]) {
        let path = key(&requests_path, name);
        container_resource(name, &path, errors);
        let request = amount(name, value, &path, errors);
        let limit = &resources["limits"][name];
        if limit.is_null() {
            if !may_overcommit(name) {
                let message = "Limit must be set for non overcommitable resources";
                errors.push(FieldError::required(&limits_path, message));
            }
            continue;
        }
        let (Some(request), Ok(limit)) = (request, Quantity::from_value(limit)) else {
            continue;
        };
        if request != limit && !may_overcommit(name) {
            let message = format!("must be equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(&requests_path, request.to_string(), message));
        } else if request > limit {
            let message = format!("must be less than or equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(&requests_path, request.to_string(), message));
        }
    }
}

/// Amounts of a node.
pub(super) fn of_node(amounts: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (name, value) in entries(amounts) {
        amount(name, value, &child(path, name), errors);
    }
}

/// A resource that nodes share out beyond what they have.
fn may_overcommit(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn container_resource(name: &str, path: &str, errors: &mut Vec<FieldError>) {
    let messages = names::label_key(name);
    if !messages.is_empty() {
        for message in messages {
            errors.push(FieldError::invalid(path, name, message));
        }
        return;
    }
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        // Kubernetes knows more names, but these are all that a container can have.
        let known = matches!(name, "pods" | "services" | "secrets" | "configmaps" | "storage");
        if !known {
            let message = "must be a standard resource type or fully qualified";
            errors.push(FieldError::invalid(path, name, message));
        }
        errors.push(FieldError::invalid(
            path,
            name,
            "must be a standard resource for containers",
        ));
    }
}

fn amount(name: &str, value: &Value, path: &str, errors: &mut Vec<FieldError>) -> Option<Quantity> {
    let quantity = match Quantity::from_value(value) {
        Ok(quantity) => quantity,
        Err(error) => {
            errors.push(FieldError::invalid(path, value.clone(), error.to_string()));
            return None;
        }
    };
    if quantity.is_negative() {
        errors.push(FieldError::invalid(path, quantity.to_string(), NEGATIVE));
    }
    let whole = name == "pods" || !is_native(name);
    if whole && !quantity.is_whole() {
        errors.push(FieldError::invalid(path, value.clone(), "must be an integer"));
    }
    Some(quantity)
}

/// Claims of a container name claims of its pod.
pub(super) fn claims(container: &Value, known: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for claim in items(&container["resources"]["claims"]) {
        let name = text(&claim["name"]);
        if !items(known).iter().any(|known| known["name"] == name) {
            errors.push(FieldError::not_found(child(&child(path, "resources"), "claims"), name));
        }
    }
}
