//! Walks an object beside its type: finds unknown fields and wrong types, drops nulls, canonicalises leaves.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::quantity::Quantity;
use crate::schema::{IntegerFormat, Shape, Type};

/// What Go calls a JSON value.
pub(super) fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Checks an object; unknown fields are removed and told in `strict`.
///
/// # Errors
/// The first wrong type, in the words of Go's `encoding/json`.
pub(super) fn check(object: &'static Type, value: &mut Value, strict: &mut Vec<String>) -> Result<(), String> {
    let mut walk = Walk {
        strict,
        path: String::new(),
        go_path: String::new(),
        owner: object.name,
    };
    walk.object(object, value)
}

struct Walk<'a> {
    strict: &'a mut Vec<String>,
    /// `spec.containers[0].name`
    path: String,
    /// `spec.containers.name`, as Go tells it.
    go_path: String,
    /// Name of the innermost type.
    owner: &'static str,
}

impl Walk<'_> {
    fn mismatch(&self, found: &str, wanted: &str) -> String {
        if self.go_path.is_empty() {
            return format!("json: cannot unmarshal {found} into Go value of type {wanted}");
        }
        format!(
            "json: cannot unmarshal {found} into Go struct field {}.{} of type {wanted}",
            self.owner, self.go_path
        )
    }

    /// What is said of a value that has its own syntax; Kubernetes leaves out the path.
    fn malformed(&self, problem: &str) -> String {
        format!("{problem} ({})", self.path)
    }

    fn object(&mut self, object: &'static Type, value: &mut Value) -> Result<(), String> {
        let Value::Object(fields) = value else {
            return Err(self.mismatch(name_of(value), &object.go_name()));
        };
        let outer = std::mem::replace(&mut self.owner, object.name);
        let unknown = self.fields(object, fields)?;
        for name in unknown {
            fields.remove(&name);
            let path = if self.path.is_empty() {
                name
            } else {
                format!("{}.{name}", self.path)
            };
            self.strict.push(format!("unknown field {path:?}"));
        }
        self.owner = outer;
        Ok(())
    }

    /// Checks the fields, and returns the names of those that do not exist.
    fn fields(&mut self, object: &'static Type, fields: &mut Map<String, Value>) -> Result<Vec<String>, String> {
        let mut unknown = Vec::new();
        let mut nulls = Vec::new();
        for (name, value) in fields.iter_mut() {
            let Some(field) = object.field(name) else {
                unknown.push(name.clone());
                continue;
            };
            if value.is_null() {
                nulls.push(field.name);
                continue;
            }
            let (length, go_length) = (self.path.len(), self.go_path.len());
            for path in [&mut self.path, &mut self.go_path] {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
            }
            self.value(&field.shape, value)?;
            self.path.truncate(length);
            self.go_path.truncate(go_length);
        }
        for name in nulls {
            fields.remove(name);
        }
        Ok(unknown)
    }

    fn value(&mut self, shape: &'static Shape, value: &mut Value) -> Result<(), String> {
        match shape {
            Shape::Any => Ok(()),
            Shape::Object(object) => self.object(object.get(), value),
            Shape::List(item) => {
                let Value::Array(items) = value else {
                    return Err(self.mismatch(name_of(value), &shape.go_name()));
                };
                for (index, value) in items.iter_mut().enumerate() {
                    let length = self.path.len();
                    self.path.push('[');
                    self.path.push_str(&index.to_string());
                    self.path.push(']');
                    self.item(item, value)?;
                    self.path.truncate(length);
                }
                Ok(())
            }
            Shape::Map(item) => {
                let Value::Object(entries) = value else {
                    return Err(self.mismatch(name_of(value), &shape.go_name()));
                };
                for (key, value) in entries.iter_mut() {
                    let length = self.path.len();
                    self.path.push('.');
                    self.path.push_str(key);
                    self.item(item, value)?;
                    self.path.truncate(length);
                }
                Ok(())
            }
            leaf => self.leaf(leaf, value),
        }
    }

    /// An item of a list or map, where Go reads null as the empty value.
    fn item(&mut self, shape: &'static Shape, value: &mut Value) -> Result<(), String> {
        if value.is_null()
            && let Some(empty) = empty(shape)
        {
            *value = empty;
            return Ok(());
        }
        self.value(shape, value)
    }

    fn leaf(&self, shape: &Shape, value: &mut Value) -> Result<(), String> {
        match (shape, &*value) {
            (Shape::String, Value::String(_))
            | (Shape::Boolean, Value::Bool(_))
            | (Shape::Number, Value::Number(_)) => Ok(()),
            (Shape::Integer(format), Value::Number(number)) => {
                let fits = match format {
                    IntegerFormat::Int64 => number.is_i64(),
                    IntegerFormat::Int32 => number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
                };
                if fits {
                    Ok(())
                } else {
                    Err(self.mismatch(&format!("number {number}"), &shape.go_name()))
                }
            }
            (Shape::IntOrString, Value::String(_)) => Ok(()),
            (Shape::IntOrString, Value::Number(number))
                if number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()) =>
            {
                Ok(())
            }
            (Shape::IntOrString, other) => Err(self.malformed(&format!(
                "json: cannot unmarshal {} into Go value of type int32",
                name_of(other)
            ))),
            (Shape::Quantity, Value::String(_) | Value::Number(_)) => match Quantity::from_value(value) {
                Ok(quantity) => {
                    *value = Value::String(quantity.to_string());
                    Ok(())
                }
                Err(problem) => Err(self.malformed(&problem.to_string())),
            },
            (Shape::Time, Value::String(text)) => {
                let time = timestamp(text)
                    .ok_or_else(|| self.malformed(&go_time_problem(text, "2006-01-02T15:04:05Z07:00")))?;
                *value = time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
                Ok(())
            }
            (Shape::MicroTime, Value::String(text)) => {
                let time = timestamp(text)
                    .ok_or_else(|| self.malformed(&go_time_problem(text, "2006-01-02T15:04:05.000000Z07:00")))?;
                *value = time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into();
                Ok(())
            }
            (Shape::Duration, Value::String(text)) => {
                if is_go_duration(text) {
                    Ok(())
                } else {
                    Err(self.malformed(&format!("time: invalid duration {text:?}")))
                }
            }
            (Shape::Time | Shape::MicroTime | Shape::Duration, other) => Err(self.malformed(&format!(
                "json: cannot unmarshal {} into Go value of type string",
                name_of(other)
            ))),
            (Shape::Quantity, _) => Err(self.malformed(&crate::quantity::Error::Form.to_string())),
            (Shape::Bytes, Value::String(text)) => match STANDARD.decode(text) {
                Ok(_) => Ok(()),
                Err(problem) => Err(self.malformed(&format!("illegal base64 data: {problem}").to_lowercase())),
            },
            (shape, other) => Err(self.mismatch(name_of(other), &shape.go_name())),
        }
    }
}

/// What Go reads null as inside lists and maps.
fn empty(shape: &Shape) -> Option<Value> {
    Some(match shape {
        Shape::String | Shape::Bytes => "".into(),
        Shape::Integer(_) | Shape::Number | Shape::IntOrString => 0.into(),
        Shape::Boolean => false.into(),
        Shape::Quantity => "0".into(),
        Shape::Object(_) | Shape::Map(_) => Value::Object(Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Time | Shape::MicroTime | Shape::Duration | Shape::Any => return None,
    })
}

/// RFC 3339 and nothing else that jiff understands.
fn timestamp(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let plain = bytes.len() >= 20 && bytes[10] == b'T' && bytes.iter().all(|byte| b"0123456789T:.-+Z".contains(byte));
    if plain { text.parse().ok() } else { None }
}

fn go_time_problem(text: &str, layout: &str) -> String {
    format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"")
}

/// `1h15m30.5s`: numbers with units, an optional sign, or `0`.
fn is_go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let end = rest
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        if number.parse::<f64>().is_err() {
            return false;
        }
        let unit = ["ns", "us", "µs", "ms", "s", "m", "h"]
            .iter()
            .filter(|unit| after.starts_with(**unit))
            .max_by_key(|unit| unit.len());
        match unit {
            Some(unit) => rest = &after[unit.len()..],
            None => return false,
        }
    }
    true
}
