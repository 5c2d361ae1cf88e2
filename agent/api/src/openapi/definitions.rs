//! Definitions of types.

use serde_json::{Map, Value, json};

use super::{Dialect, META, Reached, Writer};
use crate::kinds::Kind;
use crate::schema::{Field, IntegerFormat, ListKind, Shape, Type};

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const DURATION: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Duration";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// The definition that a leaf refers to, when it is one of its own.
pub(super) fn plain_name(shape: &Shape) -> Option<&'static str> {
    Some(match shape {
        Shape::Quantity => QUANTITY,
        Shape::IntOrString => INT_OR_STRING,
        Shape::Time => TIME,
        Shape::MicroTime => MICRO_TIME,
        Shape::Duration => DURATION,
        _ => return None,
    })
}

/// Where definitions are referred to.
pub(super) fn reference(name: &str, dialect: Dialect) -> Value {
    match dialect {
        Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
        Dialect::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
    }
}

/// Name of the definition of a kind's list.
pub(super) fn list_name(kind: &Kind) -> String {
    format!("{}List", kind.schema)
}

/// The object of all definitions that these kinds need.
pub(super) fn write(rows: &[&'static Kind], dialect: Dialect, writer: &mut Writer) {
    writer.open();
    each(rows, dialect, |name, definition| writer.entry(name, definition));
    writer.close();
}

/// Calls back with name and content of one definition after the other.
pub(super) fn each(rows: &[&'static Kind], dialect: Dialect, mut take: impl FnMut(&str, &Value)) {
    let reached = Reached::of(rows);
    for (package, name) in &reached.types {
        let full = format!("{package}.{name}");
        if let Some(object) = crate::schema::type_named(&full) {
            take(&full, &definition(object, dialect));
        }
    }
    for kind in rows {
        take(&list_name(kind), &list(kind, dialect));
    }
    for name in &reached.plain {
        take(name, &plain(name, dialect));
    }
    take(
        PATCH,
        &json!({"description": "A patch, in one of the forms that its media type names.", "type": "object"}),
    );
}

/// Name of the definition of a patch.
pub(super) const fn patch_name() -> &'static str {
    PATCH
}

fn plain(name: &str, dialect: Dialect) -> Value {
    let (description, v2, v3) = match name {
        QUANTITY => (
            "A number with an optional suffix: 100m, 1.5, 64Mi, 2G.",
            json!({"type": "string"}),
            json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        ),
        INT_OR_STRING => (
            "A whole number, or a string such as a percentage or the name of a port.",
            json!({"type": "string", "format": "int-or-string"}),
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        ),
        DURATION => (
            "A length of time such as 1m30s.",
            json!({"type": "string"}),
            json!({"type": "string"}),
        ),
        _ => (
            "A point in time as RFC 3339.",
            json!({"type": "string", "format": "date-time"}),
            json!({"type": "string", "format": "date-time"}),
        ),
    };
    let mut value = if dialect == Dialect::V2 { v2 } else { v3 };
    value["description"] = description.into();
    value
}

fn definition(object: &'static Type, dialect: Dialect) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in &object.fields {
        properties.insert(field.name.to_owned(), property(field, dialect));
        // What has a default need not be sent.
        if field.required && field.default.is_none() {
            required.push(field.name);
        }
    }
    let mut value = json!({"description": object.description, "type": "object", "properties": properties});
    if !required.is_empty() {
        value["required"] = required.into();
    }
    if object.atomic {
        value["x-kubernetes-map-type"] = "atomic".into();
    }
    if let Some(known) = object.group_version_kind {
        let mut names = Vec::new();
        if known.kind == "DeleteOptions" {
            // Sent to every group, under that group's version.
            for (group, version) in crate::discovery::group_versions() {
                names.push(json!({"group": group, "version": version, "kind": known.kind}));
            }
        } else {
            names.push(json!({"group": known.group, "version": known.version, "kind": known.kind}));
        }
        value["x-kubernetes-group-version-kind"] = names.into();
    }
    value
}

fn list(kind: &'static Kind, dialect: Dialect) -> Value {
    let object = kind.object_type();
    json!({
        "description": format!("A list of {} objects.", kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"description": "Group and version of this list.", "type": "string"},
            "kind": {"description": "What this list is.", "type": "string"},
            "metadata": referring(&format!("{META}.ListMeta"), "Standard metadata of lists.", dialect),
            "items": {"description": "The objects.", "type": "array", "items": bare(&object.full_name(), dialect)},
        },
        "x-kubernetes-group-version-kind": [
            {"group": kind.group, "version": kind.version, "kind": format!("{}List", kind.kind)},
        ],
    })
}

/// A reference with a description; in version 3 nothing may stand beside `$ref`.
fn referring(name: &str, description: &str, dialect: Dialect) -> Value {
    let mut value = bare(name, dialect);
    value["description"] = description.into();
    value
}

fn bare(name: &str, dialect: Dialect) -> Value {
    match dialect {
        Dialect::V2 => reference(name, dialect),
        Dialect::V3 => json!({"allOf": [reference(name, dialect)]}),
    }
}

fn property(field: &'static Field, dialect: Dialect) -> Value {
    let mut value = shape(&field.shape, dialect);
    let mut put = |name: &str, content: Value| {
        value[name] = content;
    };
    put("description", field.description.into());
    if let Some(default) = &field.default {
        put("default", default.clone());
    }
    if let Shape::List(_) = field.shape {
        match &field.list {
            ListKind::Atomic => put("x-kubernetes-list-type", "atomic".into()),
            ListKind::Set => put("x-kubernetes-list-type", "set".into()),
            ListKind::Map(keys) => {
                put("x-kubernetes-list-type", "map".into());
                put("x-kubernetes-list-map-keys", keys.to_vec().into());
            }
        }
    }
    if field.atomic {
        put("x-kubernetes-map-type", "atomic".into());
    }
    if let Some(key) = field.patch_merge_key {
        put("x-kubernetes-patch-merge-key", key.into());
    }
    let strategy = match (field.patch_strategy.merge, field.patch_strategy.retain_keys) {
        (true, true) => "merge,retainKeys",
        (true, false) => "merge",
        (false, true) => "retainKeys",
        (false, false) => "",
    };
    if !strategy.is_empty() {
        put("x-kubernetes-patch-strategy", strategy.into());
    }
    if !field.values.is_empty() && matches!(field.shape, Shape::String) {
        put("enum", field.values.to_vec().into());
    }
    value
}

fn shape(shape: &'static Shape, dialect: Dialect) -> Value {
    match shape {
        Shape::String => json!({"type": "string"}),
        Shape::Integer(IntegerFormat::Int32) => json!({"type": "integer", "format": "int32"}),
        Shape::Integer(IntegerFormat::Int64) => json!({"type": "integer", "format": "int64"}),
        Shape::Number => json!({"type": "number", "format": "double"}),
        Shape::Boolean => json!({"type": "boolean"}),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::Any => json!({"type": "object"}),
        Shape::Object(object) => bare(&object.get().full_name(), dialect),
        Shape::List(item) => json!({"type": "array", "items": self::shape(item, dialect)}),
        Shape::Map(item) => json!({"type": "object", "additionalProperties": self::shape(item, dialect)}),
        leaf => plain_name(leaf).map_or_else(|| json!({}), |name| bare(name, dialect)),
    }
}
