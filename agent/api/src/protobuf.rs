//! Reads Kubernetes protobuf: the form in which kubectl's typed commands (`create configmap`, `expose`, …) send objects.
//!
//! The body is `k8s\0` and a `runtime.Unknown` message: the object's `apiVersion` and `kind`, and its bytes. What the bytes
//! mean is told by the field numbers of the schema. The result is the JSON form, with absent what Go's `omitempty` leaves
//! out: zero, `false`, `""` and the zero time, unless the schema says that presence counts. Everything that JSON is checked
//! for comes afterwards, for both alike.
//!
//! Answers are JSON; clients that send protobuf accept that, too.

use std::num::NonZeroU16;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use crate::schema::{Field, IntegerFormat, Shape, Type};

mod wire;

use wire::{Message, Wire};

/// What stands before every message, so that it cannot be taken for JSON or YAML.
const MAGIC: &[u8] = b"k8s\0";

/// Keeps a hostile body from taking much more memory, or stack, than its length.
#[derive(Clone, Copy)]
struct Limits {
    /// Messages within messages. A pod has about ten levels.
    depth: u32,
    /// Values of all kinds. An object of 3 MiB, the limit of a body, has fewer: each has its bytes.
    values: u32,
}

const LIMITS: Limits = Limits {
    depth: 64,
    values: 1 << 18,
};

/// Enough for any message.
const MOST_UNKNOWN: usize = 100;

/// Reads an object of a type, and tells fields that the type does not have (`unknown field number 99 in "spec.template"`).
///
/// # Errors
/// What is wrong with the bytes, and in which field.
pub(crate) fn read(object: &'static Type, body: &[u8]) -> Result<(Value, Vec<String>), String> {
    read_within(LIMITS, object, body)
}

fn read_within(limits: Limits, object: &'static Type, body: &[u8]) -> Result<(Value, Vec<String>), String> {
    if object.fields.iter().all(|field| field.number.is_none()) {
        return Err(format!("{} has no protobuf form", object.go_name()));
    }
    let body = body
        .strip_prefix(MAGIC)
        .ok_or("the body does not begin with the bytes of Kubernetes protobuf")?;
    let envelope = Envelope::read(body)?;
    let mut walk = Walk {
        left: limits,
        path: String::new(),
        unknown: Vec::new(),
    };
    let mut fields = Map::new();
    walk.message(object, None, envelope.raw, &mut fields)?;
    for (name, text) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
        if !text.is_empty() {
            fields.insert(name.to_owned(), text.into());
        }
    }
    Ok((Value::Object(fields), walk.unknown))
}

/// `runtime.Unknown`, whose numbers come from k8s.io/apimachinery/pkg/runtime.
#[derive(Default)]
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn read(body: &'a [u8]) -> Result<Self, String> {
        let mut envelope = Self::default();
        let text = |wire: Wire<'a>| wire.text().map_err(|problem| format!("the envelope: {problem}"));
        for field in Message::new(body) {
            match field.map_err(|problem| format!("the envelope: {problem}"))? {
                (1, Wire::Bytes(type_meta)) => {
                    for field in Message::new(type_meta) {
                        match field.map_err(|problem| format!("the envelope: {problem}"))? {
                            (1, wire) => envelope.api_version = text(wire)?,
                            (2, wire) => envelope.kind = text(wire)?,
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(raw)) => envelope.raw = raw,
                (3, wire) => {
                    let encoding = text(wire)?;
                    if !encoding.is_empty() {
                        return Err(format!("the envelope: content encoding {encoding:?} is not understood"));
                    }
                }
                (4, wire) => {
                    let media = text(wire)?;
                    if !matches!(media, "" | "application/vnd.kubernetes.protobuf") {
                        return Err(format!("the envelope: content type {media:?} is not understood"));
                    }
                }
                (1 | 2, _) => return Err("the envelope: not a message".to_owned()),
                _ => {}
            }
        }
        Ok(envelope)
    }
}

struct Walk {
    left: Limits,
    /// `spec.containers[0].name`
    path: String,
    unknown: Vec<String>,
}

impl Walk {
    fn malformed(&self, problem: impl std::fmt::Display) -> String {
        if self.path.is_empty() {
            problem.to_string()
        } else {
            format!("{}: {problem}", self.path)
        }
    }

    /// Adds the fields of a message. Of what comes twice, lists and messages grow and the last scalar wins, as protobuf says.
    fn message(
        &mut self,
        object: &'static Type,
        embedded: Option<NonZeroU16>,
        bytes: &[u8],
        into: &mut Map<String, Value>,
    ) -> Result<(), String> {
        self.left.depth = self
            .left
            .depth
            .checked_sub(1)
            .ok_or_else(|| self.malformed("nested too deeply"))?;
        for field in Message::new(bytes) {
            let (number, wire) = field.map_err(|problem| self.malformed(problem))?;
            if embedded.is_none() && object.fields.iter().any(|field| holds(field, number)) {
                let bytes = wire.bytes().map_err(|problem| self.malformed(problem))?;
                let number = u16::try_from(number).ok().and_then(NonZeroU16::new);
                self.message(object, number, bytes, into)?;
                continue;
            }
            let Some(field) = object.fields.iter().find(|field| is_at(field, embedded, number)) else {
                self.note_unknown(embedded, number);
                continue;
            };
            let length = self.enter(field.name);
            self.field(field, wire, into)?;
            self.path.truncate(length);
        }
        self.left.depth += 1;
        Ok(())
    }

    /// Goes one step down; the result is where to come back to.
    fn enter(&mut self, name: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        length
    }

    fn note_unknown(&mut self, embedded: Option<NonZeroU16>, number: u32) {
        let mut text = "unknown field number ".to_owned();
        if let Some(embedded) = embedded {
            text.push_str(&format!("{embedded}."));
        }
        text.push_str(&number.to_string());
        if !self.path.is_empty() {
            text.push_str(&format!(" in {:?}", self.path));
        }
        if self.unknown.len() < MOST_UNKNOWN && !self.unknown.contains(&text) {
            self.unknown.push(text);
        }
    }

    fn field(&mut self, field: &'static Field, wire: Wire<'_>, into: &mut Map<String, Value>) -> Result<(), String> {
        match &field.shape {
            Shape::List(item) => {
                let Value::Array(list) = into.entry(field.name).or_insert_with(|| Value::Array(Vec::new())) else {
                    return Ok(());
                };
                self.items(item, wire, list)
            }
            Shape::Map(item) => {
                let Value::Object(map) = into.entry(field.name).or_insert_with(|| Value::Object(Map::new())) else {
                    return Ok(());
                };
                self.entry(item, wire, map)
            }
            Shape::Object(object) => {
                self.count()?;
                let bytes = wire.bytes().map_err(|problem| self.malformed(problem))?;
                let Value::Object(fields) = into.entry(field.name).or_insert_with(|| Value::Object(Map::new())) else {
                    return Ok(());
                };
                self.message(object.get(), None, bytes, fields)
            }
            leaf => {
                let value = self.leaf(leaf, wire)?;
                let explicit = field.required || field.number.is_some_and(|number| number.explicit);
                match value.filter(|value| explicit || !is_zero(value)) {
                    Some(value) => into.insert(field.name.to_owned(), value),
                    None => into.remove(field.name),
                };
                Ok(())
            }
        }
    }

    /// One item of a list, or several numbers that are packed into one field.
    fn items(&mut self, shape: &'static Shape, wire: Wire<'_>, list: &mut Vec<Value>) -> Result<(), String> {
        let packed = match (shape, wire) {
            (Shape::Integer(_) | Shape::Boolean, Wire::Bytes(bytes)) => wire::varints(bytes),
            (Shape::Number, Wire::Bytes(bytes)) => wire::doubles(bytes),
            _ => {
                let length = self.path.len();
                self.path.push_str(&format!("[{}]", list.len()));
                list.extend(self.value(shape, wire)?);
                self.path.truncate(length);
                return Ok(());
            }
        };
        for wire in packed {
            let wire = wire.map_err(|problem| self.malformed(problem))?;
            list.extend(self.leaf(shape, wire)?);
        }
        Ok(())
    }

    /// One entry of a map: a message of key and value, either of which may be left out when empty.
    fn entry(&mut self, shape: &'static Shape, wire: Wire<'_>, map: &mut Map<String, Value>) -> Result<(), String> {
        let bytes = wire.bytes().map_err(|problem| self.malformed(problem))?;
        let (mut key, mut content) = ("", empty(shape));
        for field in Message::new(bytes) {
            match field.map_err(|problem| self.malformed(problem))? {
                (1, wire) => key = wire.text().map_err(|problem| self.malformed(problem))?,
                (2, wire) => content = wire,
                (number, _) => self.note_unknown(None, number),
            }
        }
        let length = self.enter(key);
        let value = self.value(shape, content)?;
        self.path.truncate(length);
        map.insert(key.to_owned(), value.unwrap_or_default());
        Ok(())
    }

    /// An item of a list or the value of a map.
    fn value(&mut self, shape: &'static Shape, wire: Wire<'_>) -> Result<Option<Value>, String> {
        let Some(object) = shape.object() else {
            return self.leaf(shape, wire);
        };
        self.count()?;
        let mut fields = Map::new();
        let bytes = wire.bytes().map_err(|problem| self.malformed(problem))?;
        self.message(object, None, bytes, &mut fields)?;
        Ok(Some(Value::Object(fields)))
    }

    fn count(&mut self) -> Result<(), String> {
        self.left.values = self
            .left
            .values
            .checked_sub(1)
            .ok_or_else(|| self.malformed("too many values"))?;
        Ok(())
    }

    fn leaf(&mut self, shape: &Shape, wire: Wire<'_>) -> Result<Option<Value>, String> {
        self.count()?;
        leaf(shape, wire).map_err(|problem| self.malformed(problem))
    }
}

/// True for a field that is inside the embedded message of that number.
fn holds(field: &Field, number: u32) -> bool {
    let embedded = field.number.and_then(|number| number.embedded);
    embedded.is_some_and(|embedded| u32::from(embedded.get()) == number)
}

fn is_at(field: &Field, embedded: Option<NonZeroU16>, number: u32) -> bool {
    field
        .number
        .is_some_and(|known| known.embedded == embedded && u32::from(known.number.get()) == number)
}

/// What `omitempty` leaves out.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// What a map's value is when its entry leaves it out.
fn empty(shape: &Shape) -> Wire<'static> {
    match shape {
        Shape::Integer(_) | Shape::Boolean => Wire::Varint(0),
        Shape::Number => Wire::Fixed64(0),
        _ => Wire::Bytes(&[]),
    }
}

/// A value that is no list, map or object of a type; `None` is what JSON would leave out.
fn leaf(shape: &Shape, wire: Wire<'_>) -> Result<Option<Value>, String> {
    Ok(Some(match shape {
        Shape::String => wire.text()?.into(),
        Shape::Bytes => STANDARD.encode(wire.bytes()?).into(),
        Shape::Boolean => Value::Bool(wire.signed()? != 0),
        Shape::Integer(IntegerFormat::Int64) => wire.signed()?.into(),
        Shape::Integer(IntegerFormat::Int32) => int32(wire)?.into(),
        Shape::Number => Number::from_f64(wire.double()?)
            .map(Value::Number)
            .ok_or("a number must be finite")?,
        Shape::Quantity => {
            let mut quantity = "0";
            for field in Message::new(wire.bytes()?) {
                if let (1, wire) = field? {
                    quantity = wire.text()?;
                }
            }
            quantity.into()
        }
        Shape::IntOrString => int_or_string(wire.bytes()?)?,
        Shape::Time => return time(wire.bytes()?, "%Y-%m-%dT%H:%M:%SZ"),
        Shape::MicroTime => return time(wire.bytes()?, "%Y-%m-%dT%H:%M:%S.%6fZ"),
        Shape::Duration => {
            let mut nanoseconds = 0;
            for field in Message::new(wire.bytes()?) {
                if let (1, wire) = field? {
                    nanoseconds = wire.signed()?;
                }
            }
            duration(nanoseconds).into()
        }
        Shape::Any => return any(wire.bytes()?),
        // Not reached: the callers take these apart. Lists in lists and maps in maps do not exist in protobuf.
        Shape::Object(_) | Shape::List(_) | Shape::Map(_) => return Err("no single value".to_owned()),
    }))
}

fn int32(wire: Wire<'_>) -> Result<i32, String> {
    let number = wire.signed()?;
    i32::try_from(number).map_err(|_| format!("{number} does not fit into 32 bits"))
}

/// `intstr.IntOrString`: which of the two it is, the number, the string.
fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut kind, mut number, mut text) = (0, 0, "");
    for field in Message::new(bytes) {
        match field? {
            (1, wire) => kind = wire.signed()?,
            (2, wire) => number = int32(wire)?,
            (3, wire) => text = wire.text()?,
            _ => {}
        }
    }
    match kind {
        0 => Ok(number.into()),
        1 => Ok(text.into()),
        other => Err(format!("neither number nor string, but {other}")),
    }
}

/// Seconds and nanoseconds since 1970. Without either it is Go's zero time, which stands for absence.
fn time(bytes: &[u8], format: &str) -> Result<Option<Value>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanoseconds) = (0, 0);
    for field in Message::new(bytes) {
        match field? {
            (1, wire) => seconds = wire.signed()?,
            (2, wire) => nanoseconds = int32(wire)?,
            _ => {}
        }
    }
    // jiff reads a negative fraction together with positive seconds, too; Kubernetes does not have it.
    let time = Timestamp::new(seconds, nanoseconds.max(0)).map_err(|_| format!("{seconds} s is not a time"))?;
    Ok(Some(time.strftime(format).to_string().into()))
}

/// As Go writes a duration: `1m30s`, and `1.5s` with its fraction.
fn duration(nanoseconds: i64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let (seconds, fraction) = (total / SECOND, total % SECOND);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let mut text = sign.to_owned();
    if hours > 0 {
        text.push_str(&format!("{hours}h"));
    }
    if hours > 0 || minutes > 0 {
        text.push_str(&format!("{minutes}m"));
    }
    text.push_str(&(seconds % 60).to_string());
    if fraction > 0 {
        text.push_str(format!(".{fraction:09}").trim_end_matches('0'));
    }
    text.push('s');
    text
}

/// `RawExtension` and `FieldsV1`: a message that holds JSON.
fn any(bytes: &[u8]) -> Result<Option<Value>, String> {
    let mut json: &[u8] = &[];
    for field in Message::new(bytes) {
        if let (1, wire) = field? {
            json = wire.bytes()?;
        }
    }
    if json.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(json)
        .map(Some)
        .map_err(|problem| format!("JSON within protobuf: {problem}"))
}

#[cfg(test)]
mod tests;
