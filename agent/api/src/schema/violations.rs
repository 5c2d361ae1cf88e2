//! What the schema alone can say against an object that already has its defaults.

use serde_json::Value;

use super::{Field, Shape, Type};
use crate::kinds::Kind;
use crate::validate::FieldError;

/// Required fields that are absent (`spec.selector: Required value`) and strings that are not among the allowed ones
/// (`spec.restartPolicy: Unsupported value: "Maybe"`), in the order of paths. `status` is left alone, as in Kubernetes:
/// it is written by programs, a piece at a time. An empty string counts as absent where a list of strings is given.
pub fn violations(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut found = Vec::new();
    walk(kind.object_type(), object, "", &mut found);
    found
}

fn walk(object: &'static Type, value: &Value, path: &str, found: &mut Vec<FieldError>) {
    let Some(present) = value.as_object() else { return };
    for field in &object.fields {
        if path.is_empty() && field.name == "status" {
            continue;
        }
        let here = if path.is_empty() {
            field.name.to_owned()
        } else {
            format!("{path}.{}", field.name)
        };
        match present.get(field.name) {
            None | Some(Value::Null) if field.required => found.push(FieldError::required(here, "")),
            None | Some(Value::Null) => {}
            Some(value) => inside(field, &field.shape, value, &here, found),
        }
    }
}

fn inside(field: &'static Field, shape: &'static Shape, value: &Value, path: &str, found: &mut Vec<FieldError>) {
    match (shape, value) {
        (Shape::Object(object), value) => walk(object.get(), value, path, found),
        (Shape::List(item), Value::Array(items)) => {
            for (index, value) in items.iter().enumerate() {
                inside(field, item, value, &format!("{path}[{index}]"), found);
            }
        }
        (Shape::Map(item), Value::Object(entries)) => {
            for (key, value) in entries {
                inside(field, item, value, &format!("{path}[{key}]"), found);
            }
        }
        (Shape::String, Value::String(text))
            if !field.values.is_empty() && !text.is_empty() && !field.values.contains(&text.as_str()) =>
        {
            found.push(FieldError::not_supported(path, text.as_str(), &field.values));
        }
        _ => {}
    }
}
