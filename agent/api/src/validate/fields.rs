//! Small steps through JSON: every check needs a value and the path that led to it.

use serde_json::{Map, Value};

/// `path.name`
pub(super) fn child(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// `path[3]`
pub(super) fn index(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// `path[key]`
pub(super) fn key(path: &str, key: &str) -> String {
    format!("{path}[{key}]")
}

/// The string, or an empty one.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The items of a list, or none.
pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The entries of an object, or none.
pub(super) fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// Equal but for what Go's semantic equality ignores: absent, null, `{}` and `[]` are the same.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(left), Value::Object(right)) => {
            left.iter()
                .all(|(key, value)| same(value, right.get(key).unwrap_or(&Value::Null)))
                && right
                    .iter()
                    .all(|(key, value)| left.contains_key(key) || same(&Value::Null, value))
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        _ => a == b || (is_empty(a) && is_empty(b)),
    }
}

/// Absent, null, `{}` or `[]`.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// The paths at which two values differ, each with what was and what is.
pub(super) fn differences(old: &Value, new: &Value, path: &str, found: &mut Vec<String>) {
    if same(old, new) {
        return;
    }
    match (old, new) {
        (Value::Object(left), Value::Object(right)) => {
            let added = right.keys().filter(|key| !left.contains_key(*key));
            for name in left.keys().chain(added) {
                let get = |map: &Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                differences(&get(left), &get(right), &child(path, name), found);
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (position, (left, right)) in left.iter().zip(right).enumerate() {
                differences(left, right, &index(path, position), found);
            }
        }
        _ => found.push(format!("{path}: was {old}, is {new}")),
    }
}
