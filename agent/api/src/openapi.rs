//! OpenAPI documents, written from the table of kinds and the schema each time they are asked for; nothing is kept but a
//! hash per group and version.
//!
//! kubectl reads version 3 (`explain`, `apply`'s patches, whether `fieldValidation` is known) as JSON. Version 2 is here
//! as JSON for other clients, and as protobuf for kubectl, which asks for it where version 3 has no answer: for a `List`,
//! and for kinds that are not served.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::discovery::{api_version, group_versions};
use crate::kinds::{self, Kind};
use crate::schema::{self, Shape, Type};

mod definitions;
mod paths;
mod protobuf;

/// Which version of OpenAPI is being written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

/// `GET /openapi/v2`: one document with everything, as JSON.
pub fn v2() -> Vec<u8> {
    let mut writer = Writer::default();
    writer.open();
    writer.entry("swagger", &json!("2.0"));
    writer.entry("info", &info());
    writer.key("paths");
    writer.open();
    for kind in kinds::all() {
        paths::write(kind, Dialect::V2, &mut writer);
    }
    writer.close();
    writer.key("definitions");
    definitions::write(&kinds::all().iter().collect::<Vec<_>>(), Dialect::V2, &mut writer);
    writer.close();
    writer.bytes
}

/// `GET /openapi/v2` as protobuf, in the form of `openapi.v2.Document` of google/gnostic. Of the paths only the patches
/// are in it, which is what clients look up there.
pub fn v2_protobuf() -> Vec<u8> {
    protobuf::document()
}

/// `GET /openapi/v3`: where the documents are; the hash in an address changes with the document.
pub fn v3_index() -> Vec<u8> {
    let paths: Map<String, Value> = HASHES
        .iter()
        .map(|(path, hash)| {
            (
                path.clone(),
                json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash:016X}")}),
            )
        })
        .collect();
    json!({"paths": paths}).to_string().into_bytes()
}

/// `GET /openapi/v3/PATH`, where the path is `api/v1` or `apis/apps/v1`.
pub fn v3(path: &str) -> Option<Vec<u8>> {
    let (group, version) = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] if !group.is_empty() => (*group, *version),
        _ => return None,
    };
    let rows: Vec<&'static Kind> = kinds::all()
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
        .collect();
    if rows.is_empty() {
        return None;
    }
    let mut writer = Writer::default();
    writer.open();
    writer.entry("openapi", &json!("3.0.0"));
    writer.entry("info", &info());
    writer.key("paths");
    writer.open();
    for kind in &rows {
        paths::write(kind, Dialect::V3, &mut writer);
    }
    writer.close();
    writer.key("components");
    writer.open();
    writer.key("schemas");
    definitions::write(&rows, Dialect::V3, &mut writer);
    writer.close();
    writer.close();
    Some(writer.bytes)
}

/// The hash that belongs to a document of version 3, for its `ETag`.
pub fn v3_hash(path: &str) -> Option<String> {
    HASHES
        .iter()
        .find(|(known, _)| known == path)
        .map(|(_, hash)| format!("{hash:016X}"))
}

/// Path and hash of each document of version 3; made when the index is first asked for.
static HASHES: LazyLock<Vec<(String, u64)>> = LazyLock::new(|| {
    group_versions()
        .into_iter()
        .filter_map(|(group, version)| {
            let prefix = if group.is_empty() { "api" } else { "apis" };
            let path = format!("{prefix}/{}", api_version(group, version));
            let hash = fnv(&v3(&path)?);
            Some((path, hash))
        })
        .collect()
});

/// FNV-1a, 64 bits: tells versions of a document apart, no more.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": crate::discovery::git_version()})
}

/// Types that are reached from a set of kinds, and the plain types that are definitions of their own.
#[derive(Default)]
struct Reached {
    types: BTreeSet<(&'static str, &'static str)>,
    plain: BTreeSet<&'static str>,
}

impl Reached {
    fn object(&mut self, object: &'static Type) {
        if self.types.insert((object.package, object.name)) {
            for field in &object.fields {
                self.shape(&field.shape);
            }
        }
    }

    fn shape(&mut self, shape: &'static Shape) {
        if let Some(name) = definitions::plain_name(shape) {
            self.plain.insert(name);
        }
        if let Some(object) = shape.object() {
            self.object(object);
        }
        if let Some(item) = shape.item() {
            self.shape(item);
        }
    }

    fn of(kinds: &[&'static Kind]) -> Self {
        let mut reached = Self::default();
        for kind in kinds {
            reached.object(kind.object_type());
        }
        for name in ["ListMeta", "Status", "DeleteOptions"] {
            reached.object(schema::type_or_empty(&format!("{META}.{name}")));
        }
        for name in paths::request_types(kinds) {
            reached.object(schema::type_or_empty(name));
        }
        reached
    }
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Writes JSON a piece at a time, so that no document is ever held as a tree.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn open(&mut self) {
        self.bytes.push(b'{');
    }

    fn close(&mut self) {
        self.bytes.push(b'}');
    }

    fn key(&mut self, name: &str) {
        if self.bytes.last() != Some(&b'{') {
            self.bytes.push(b',');
        }
        self.value(&Value::from(name));
        self.bytes.push(b':');
    }

    fn value(&mut self, value: &Value) {
        self.bytes.extend_from_slice(value.to_string().as_bytes());
    }

    fn entry(&mut self, name: &str, value: &Value) {
        self.key(name);
        self.value(value);
    }
}

#[cfg(test)]
mod tests;
