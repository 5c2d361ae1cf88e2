//! `metadata`: names, labels, annotations, owners; and label selectors, which follow the same rules.

use serde_json::Value;

use super::fields::{child, entries, index, is_empty, items, same, text};
use super::{FieldError, names};
use crate::kinds::Kind;

/// Most bytes in all annotations together.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// Text of every refusal to change a field.
pub(super) const IMMUTABLE: &str = "field is immutable";
/// Text for a negative number.
pub(super) const NEGATIVE: &str = "must be greater than or equal to 0";

/// What is wrong with a name of an object of this kind.
fn name_messages(kind: &Kind, name: &str) -> Vec<String> {
    match (kind.group, kind.kind) {
        ("", "Namespace") => names::dns_label(name),
        ("", "Service") => names::dns1035_label(name),
        // An address is no domain name if it has colons; the rule for its form is elsewhere.
        ("networking.k8s.io", "IPAddress") => Vec::new(),
        _ => names::dns_subdomain(name),
    }
}

/// Checks the metadata of a new object.
pub(super) fn create(kind: &Kind, metadata: &Value, errors: &mut Vec<FieldError>) {
    let name = text(&metadata["name"]);
    let prefix = text(&metadata["generateName"]);
    if !prefix.is_empty() {
        for message in name_messages(kind, &names::masked(prefix)) {
            errors.push(FieldError::invalid("metadata.generateName", prefix, message));
        }
    }
    if name.is_empty() {
        errors.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else {
        for message in name_messages(kind, name) {
            errors.push(FieldError::invalid("metadata.name", name, message));
        }
    }
    let namespace = text(&metadata["namespace"]);
    if kind.is_namespaced() {
        if namespace.is_empty() {
            errors.push(FieldError::required("metadata.namespace", ""));
        } else {
            for message in names::dns_label(namespace) {
                errors.push(FieldError::invalid("metadata.namespace", namespace, message));
            }
        }
    } else if !namespace.is_empty() {
        errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
    }
    common(metadata, errors);
    finalizers(metadata, errors);
}

/// Checks the metadata of a new version. What the server fills in (`resourceVersion`, `uid`, times) may be absent.
pub(super) fn update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if !old["deletionTimestamp"].is_null() {
        let added: Vec<String> = items(&new["finalizers"])
            .iter()
            .filter(|finalizer| !items(&old["finalizers"]).contains(finalizer))
            .map(|finalizer| crate::status::quote(text(finalizer)))
            .collect();
        if !added.is_empty() {
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.join(", ")
                ),
            ));
        }
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        if !new[field].is_null() && !same(&new[field], &old[field]) {
            errors.push(FieldError::invalid(
                child("metadata", field),
                new[field].clone(),
                IMMUTABLE,
            ));
        }
    }
    common(new, errors);
    finalizers(new, errors);
}

fn common(metadata: &Value, errors: &mut Vec<FieldError>) {
    labels(&metadata["labels"], "metadata.labels", errors);
    annotations(&metadata["annotations"], "metadata.annotations", errors);
    owners(metadata, errors);
}

/// Checks a map of labels.
pub(super) fn labels(labels: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (name, value) in entries(labels) {
        label_key(name, path, errors);
        if let Some(message) = names::label_value(text(value)) {
            errors.push(FieldError::invalid(path, value.clone(), message));
        }
    }
}

/// Checks the key of a label, annotation or taint.
pub(super) fn label_key(name: &str, path: &str, errors: &mut Vec<FieldError>) {
    for message in names::label_key(name) {
        errors.push(FieldError::invalid(path, name, message));
    }
}

/// Checks a map of annotations: keys like those of labels, in any case, and their size.
pub(super) fn annotations(annotations: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut size = 0;
    for (name, value) in entries(annotations) {
        for message in names::label_key(&name.to_lowercase()) {
            errors.push(FieldError::invalid(path, name.as_str(), message));
        }
        size += name.len() + text(value).len();
    }
    if size > ANNOTATIONS_LIMIT {
        errors.push(FieldError::too_long(path, ANNOTATIONS_LIMIT));
    }
}

fn owners(metadata: &Value, errors: &mut Vec<FieldError>) {
    let mut controller: Option<String> = None;
    for (position, owner) in items(&metadata["ownerReferences"]).iter().enumerate() {
        let path = index("metadata.ownerReferences", position);
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(&owner[field]).is_empty() {
                errors.push(FieldError::required(child(&path, field), "must not be empty"));
            }
        }
        if owner["apiVersion"] == "v1" && owner["kind"] == "Event" {
            let message = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(path, owner.clone(), message));
        }
        if owner["controller"] == true {
            let this = format!("{}/{}", text(&owner["kind"]), text(&owner["name"]));
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let message = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {this}"
                    );
                    let all = metadata["ownerReferences"].clone();
                    errors.push(FieldError::invalid("metadata.ownerReferences", all, message));
                }
            }
        }
    }
}

fn finalizers(metadata: &Value, errors: &mut Vec<FieldError>) {
    for finalizer in items(&metadata["finalizers"]) {
        label_key(text(finalizer), "metadata.finalizers", errors);
    }
    let has = |name: &str| items(&metadata["finalizers"]).iter().any(|finalizer| finalizer == name);
    if has("orphan") && has("foregroundDeletion") {
        let message = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(
            "metadata.finalizers",
            metadata["finalizers"].clone(),
            message,
        ));
    }
}

/// Checks a `metav1.LabelSelector`.
pub(super) fn selector(selector: &Value, path: &str, errors: &mut Vec<FieldError>) {
    labels(&selector["matchLabels"], &child(path, "matchLabels"), errors);
    for (position, expression) in items(&selector["matchExpressions"]).iter().enumerate() {
        let path = index(&child(path, "matchExpressions"), position);
        let values = &expression["values"];
        match text(&expression["operator"]) {
            "In" | "NotIn" if is_empty(values) => errors.push(FieldError::required(
                child(&path, "values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !is_empty(values) => errors.push(FieldError::forbidden(
                child(&path, "values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(
                child(&path, "operator"),
                other,
                "not a valid selector operator",
            )),
        }
        label_key(text(&expression["key"]), &child(&path, "key"), errors);
        for (position, value) in items(values).iter().enumerate() {
            if let Some(message) = names::label_value(text(value)) {
                let path = index(&child(&path, "values"), position);
                errors.push(FieldError::invalid(path, value.clone(), message));
            }
        }
    }
}

/// A number that must not be negative, where it is given.
pub(super) fn not_negative(object: &Value, field: &str, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(number) = object[field].as_i64()
        && number < 0
    {
        errors.push(FieldError::invalid(child(path, field), number, NEGATIVE));
    }
}
