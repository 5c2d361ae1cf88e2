//! Which fields of pods and services have no effect yet, and what that means for its owner.
//!
//! Kubernetes promises that a field does what it says. Where we do not keep that promise yet we say so, twice: in a
//! `Warning` header when the object is written and in a Warning event when the pod is started. The table is in
//! `table.rs`; whoever teaches the kubelet, the scheduler or the network a field changes its line there.

use serde_json::{Map, Value};

use crate::kinds::Kind;

mod table;

/// What happens to a field.
enum Use {
    /// Acted on, with all that is below it.
    Acted,
    /// Acted on when it has one of these values (strings, or JSON for others); else the sentence holds.
    Only(&'static [&'static str], &'static str),
    /// Not acted on; the sentence says what that means.
    Not(&'static str),
    /// Acted on only when the field beside it has the value given; else the sentence holds.
    Beside(&'static str, &'static str, &'static str),
    /// An object of which each field has a line of its own.
    Fields(Table),
    /// A list of such objects.
    Items(Table),
    /// An object with free keys of which these are acted on; for the others the sentence holds.
    Keys(&'static [&'static str], &'static str),
}

/// One line per field.
type Table = &'static [(&'static str, Use)];

/// What is not acted on in a pod: one sentence with the full path for each field, e.g.
/// `spec.priority: not acted on yet: all pods are equally important`.
pub fn pod_fields_not_acted_on(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    spec(&pod["spec"], "spec", &mut found);
    found
}

/// As [`pod_fields_not_acted_on`] for any object: pods, the templates in workloads, and services.
pub fn fields_not_acted_on(kind: &Kind, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match (kind.group, kind.kind) {
        ("", "Pod") => spec(&object["spec"], "spec", &mut found),
        ("apps", "Deployment" | "ReplicaSet") => {
            spec(&object["spec"]["template"]["spec"], "spec.template.spec", &mut found);
        }
        ("", "Service") => {
            if let Value::Object(spec) = &object["spec"] {
                fields(table::SERVICE, spec, "spec", &mut found);
            }
        }
        _ => {}
    }
    found
}

fn sentence(path: &str, meaning: &str) -> String {
    format!("{path}: not acted on yet: {meaning}")
}

fn spec(spec: &Value, path: &str, found: &mut Vec<String>) {
    if let Value::Object(map) = spec {
        fields(table::POD, map, path, found);
    }
}

fn fields(table: Table, object: &Map<String, Value>, path: &str, found: &mut Vec<String>) {
    for (name, value) in object {
        let path = format!("{path}.{name}");
        match table.iter().find(|(known, _)| known == name) {
            Some((_, Use::Beside(other, wanted, meaning))) => {
                if !is_unset(value) && object.get(*other).is_none_or(|other| other != wanted) {
                    found.push(sentence(&path, meaning));
                }
            }
            Some((_, action)) => field(action, value, &path, found),
            None if is_unset(value) => {}
            None => found.push(sentence(&path, "it has no effect")),
        }
    }
}

fn field(action: &Use, value: &Value, path: &str, found: &mut Vec<String>) {
    match (action, value) {
        (Use::Acted, _) => {}
        (Use::Only(_, _), Value::Null) => {}
        (Use::Only(values, meaning), value) => {
            let fits = match value.as_str() {
                Some(text) => text.is_empty() || values.contains(&text),
                None => values.contains(&value.to_string().as_str()),
            };
            if !fits {
                found.push(sentence(path, meaning));
            }
        }
        (Use::Not(meaning), value) if !is_unset(value) => found.push(sentence(path, meaning)),
        (Use::Fields(table), Value::Object(map)) => fields(table, map, path, found),
        (Use::Items(table), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                if let Value::Object(map) = item {
                    fields(table, map, &format!("{path}[{index}]"), found);
                }
            }
        }
        (Use::Keys(keys, meaning), Value::Object(map)) => {
            for key in map.keys().filter(|key| !keys.contains(&key.as_str())) {
                found.push(sentence(&format!("{path}[{key}]"), meaning));
            }
        }
        _ => {}
    }
}

/// A value that says the same as leaving the field out.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

#[cfg(test)]
mod tests;
