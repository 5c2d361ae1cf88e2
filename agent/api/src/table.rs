//! Tables: what `kubectl get` prints, computed here so that every client shows the same columns.
//!
//! The columns of Kubernetes' kinds are those of its `pkg/printers/internalversion`, word for word in their names and
//! cells; descriptions are our own.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::kinds::Kind;

pub mod columns;
mod pod;
pub mod time;

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Heading as Kubernetes writes it, e.g. `Up-to-date`; kubectl prints it in capitals.
    pub name: &'static str,
    /// OpenAPI type of the cells: `string` or `integer`.
    pub data_type: &'static str,
    /// OpenAPI format; `name` marks the object's name, else empty.
    pub format: &'static str,
    /// What the column tells.
    pub description: &'static str,
    /// 0: always shown; 1: only with `-o wide`.
    pub priority: i32,
    /// Computes the cell of an object.
    pub cell: fn(&Value, Timestamp) -> Value,
}

/// How much of each object comes along in its row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// A `PartialObjectMetadata`; what kubectl asks for unless it sorts or prints labels itself.
    #[default]
    Metadata,
    /// The object.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter `includeObject`; empty means `Metadata`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "None" => Self::None,
            "" | "Metadata" => Self::Metadata,
            "Object" => Self::Object,
            _ => return None,
        })
    }
}

/// A `meta.k8s.io/v1` `Table` of objects; `list_meta` is the `metadata` of the list it stands for.
pub fn table<'a>(
    kind: &Kind,
    objects: impl Iterator<Item = &'a Value>,
    list_meta: Value,
    include: IncludeObject,
    now: Timestamp,
) -> Value {
    let columns = kind.columns;
    let rows: Vec<Value> = objects.map(|object| row(columns, object, include, now)).collect();
    assemble(list_meta, definitions(columns), rows)
}

/// The table of one object as it goes into a watch event; only the first of a watch needs the column definitions.
pub fn watch_table(kind: &Kind, object: &Value, include: IncludeObject, first: bool, now: Timestamp) -> Value {
    let columns = kind.columns;
    let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
    let definitions = if first { definitions(columns) } else { Value::Null };
    assemble(
        json!({"resourceVersion": version}),
        definitions,
        vec![row(columns, object, include, now)],
    )
}

fn assemble(list_meta: Value, definitions: Value, rows: Vec<Value>) -> Value {
    let mut table = Map::new();
    table.insert("kind".to_owned(), "Table".into());
    table.insert("apiVersion".to_owned(), "meta.k8s.io/v1".into());
    table.insert("metadata".to_owned(), list_meta);
    table.insert("columnDefinitions".to_owned(), definitions);
    table.insert("rows".to_owned(), rows.into());
    Value::Object(table)
}

fn definitions(columns: &[Column]) -> Value {
    columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name, "type": column.data_type, "format": column.format,
                "description": column.description, "priority": column.priority
            })
        })
        .collect()
}

fn row(columns: &[Column], object: &Value, include: IncludeObject, now: Timestamp) -> Value {
    let mut row = Map::new();
    let cells: Vec<Value> = columns.iter().map(|column| (column.cell)(object, now)).collect();
    row.insert("cells".to_owned(), cells.into());
    if object["kind"] == "Pod"
        && let Some(condition) = pod::completed(object)
    {
        row.insert("conditions".to_owned(), json!([condition]));
    }
    let included = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]
        }),
        IncludeObject::Object => object.clone(),
    };
    row.insert("object".to_owned(), included);
    Value::Object(row)
}

#[cfg(test)]
mod tests;
