//! Version 2 as protobuf: the messages of `openapi.v2` in github.com/google/gnostic-models (`OpenAPIv2.proto`), whose field
//! numbers stand below. Values that are free there (defaults, extensions) travel as YAML, of which JSON is a part.

use serde_json::{Value, json};

use super::{Dialect, definitions, info, paths};
use crate::kinds::{self, Kind};

/// A message being written; protobuf needs no more than each field's number and bytes.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.number(field << 3 | 2);
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(self, field: u64, text: &str) -> Self {
        if text.is_empty() {
            self
        } else {
            self.bytes(field, text.as_bytes())
        }
    }

    fn message(self, field: u64, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }

    fn yes(mut self, field: u64, yes: bool) -> Self {
        if yes {
            self.number(field << 3);
            self.number(1);
        }
        self
    }
}

/// `NamedSchema`, `NamedAny`, `NamedPathItem`: all alike.
fn named(name: &str, value: &Message) -> Message {
    Message::default().text(1, name).message(2, value)
}

/// `Any`
fn any(value: &Value) -> Message {
    Message::default().text(2, &value.to_string())
}

pub(super) fn document() -> Vec<u8> {
    let info = info();
    let text = |name: &str| info[name].as_str().unwrap_or_default();
    let info = Message::default().text(1, text("title")).text(2, text("version"));
    let mut all_paths = Message::default();
    for kind in kinds::all().iter().filter(|kind| kind.allows("patch")) {
        let name = format!("{}/{{name}}", paths::collection(kind));
        all_paths = all_paths.message(2, &named(&name, &path_item(kind)));
    }
    let mut all = Message::default();
    let rows: Vec<&'static Kind> = kinds::all().iter().collect();
    definitions::each(&rows, Dialect::V2, |name, definition| {
        all = std::mem::take(&mut all).message(1, &named(name, &schema(definition)));
    });
    Message::default()
        .text(1, "2.0")
        .message(2, &info)
        .message(8, &all_paths)
        .message(9, &all)
        .0
}

/// `PathItem` with the patch alone.
fn path_item(kind: &Kind) -> Message {
    let about = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let mut operation = Message::default();
    for name in paths::WRITE {
        // QueryParameterSubSchema in NonBodyParameter in Parameter in ParametersItem
        let query = Message::default().text(2, "query").text(4, name).text(6, "string");
        let parameter = Message::default().message(2, &Message::default().message(3, &query));
        operation = operation.message(8, &Message::default().message(1, &parameter));
    }
    operation = operation
        .message(13, &named("x-kubernetes-action", &any(&"patch".into())))
        .message(13, &named("x-kubernetes-group-version-kind", &any(&about)));
    Message::default().message(7, &operation)
}

/// `Schema`
fn schema(value: &Value) -> Message {
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    let mut message = Message::default()
        .text(1, text("$ref"))
        .text(2, text("format"))
        .text(4, text("description"));
    if let Some(default) = value.get("default") {
        message = message.message(5, &any(default));
    }
    for name in value["required"].as_array().into_iter().flatten() {
        message = message.text(19, name.as_str().unwrap_or_default());
    }
    for allowed in value["enum"].as_array().into_iter().flatten() {
        message = message.message(20, &any(allowed));
    }
    match value.get("additionalProperties") {
        Some(Value::Bool(yes)) => message = message.message(21, &Message::default().yes(2, *yes)),
        Some(item) => message = message.message(21, &Message::default().message(1, &schema(item))),
        None => {}
    }
    if let Some(kind) = value["type"].as_str() {
        message = message.message(22, &Message::default().text(1, kind));
    }
    if let Some(items) = value.get("items") {
        message = message.message(23, &Message::default().message(1, &schema(items)));
    }
    if let Some(fields) = value["properties"].as_object() {
        let mut properties = Message::default();
        for (name, field) in fields {
            properties = properties.message(1, &named(name, &schema(field)));
        }
        message = message.message(25, &properties);
    }
    for (name, extension) in value.as_object().into_iter().flatten() {
        if name.starts_with("x-") {
            message = message.message(31, &named(name, &any(extension)));
        }
    }
    message
}
