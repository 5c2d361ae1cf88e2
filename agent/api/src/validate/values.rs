//! Fields whose value must be one of a few words; the schema lists them.

use serde_json::Value;

use super::FieldError;
use super::fields::{child, index, key};
use crate::schema::{Field, Shape, Type};

/// Fields whose words Kubernetes lists in the order of their meaning; all others it sorts.
const IN_ORDER_OF_MEANING: &[(&str, &[&str])] = &[
    ("restartPolicy", &["Always", "OnFailure", "Never"]),
    (
        "dnsPolicy",
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    ),
    ("effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"]),
];

/// Checks all fields of an object, however deep.
pub(super) fn check(known: &'static Type, object: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Value::Object(map) = object else { return };
    for (name, value) in map {
        // Status is written by our own parts, metadata has rules of its own.
        if path.is_empty() && (name == "status" || name == "metadata") {
            continue;
        }
        if let Some(field) = known.field(name) {
            inside(field, &field.shape, value, &child(path, name), errors);
        }
    }
}

fn inside(field: &'static Field, shape: &'static Shape, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match (shape, value) {
        (Shape::Object(reference), value) => check(reference.get(), value, path, errors),
        (Shape::List(item), Value::Array(values)) => {
            for (position, value) in values.iter().enumerate() {
                inside(field, item, value, &index(path, position), errors);
            }
        }
        (Shape::Map(item), Value::Object(values)) => {
            for (name, value) in values {
                inside(field, item, value, &key(path, name), errors);
            }
        }
        (Shape::String, Value::String(word)) => {
            // An empty word means that the field is not set.
            let fits = word.is_empty() || field.values.is_empty() || field.values.contains(&word.as_str());
            if !fits {
                let meaning = IN_ORDER_OF_MEANING.iter().find(|(name, _)| *name == field.name);
                let mut supported = field.values.to_vec();
                supported.sort_unstable();
                let supported = meaning.map_or(supported.as_slice(), |(_, words)| words);
                errors.push(FieldError::not_supported(path, word.as_str(), supported));
            }
        }
        _ => {}
    }
}
