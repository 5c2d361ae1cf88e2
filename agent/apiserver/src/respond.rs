//! Answers: stored bytes as they are where possible, tables and bare metadata where asked for.

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use minidc_api::kinds::Kind;
use minidc_api::status::Status;
use minidc_api::table::{self, IncludeObject};
use minidc_store::{Entry, Revision};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::error::Failure;
use crate::negotiate::Form;
use crate::object;

/// A list with more JSON than this is sent in pieces as the client takes them.
const WHOLE: usize = 128 << 10;
/// Pieces are about this long.
const PIECE: usize = 32 << 10;
/// Rows of a table made at a time: so many parsed objects are in memory at once.
const ROWS: usize = 32;

/// JSON with the headers that every answer of the API carries.
pub(crate) fn json(code: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Plain text.
pub(crate) fn text(code: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// Adds `Warning: 299 - "…"` headers, at most 4 KiB of them, as Kubernetes bounds them.
pub(crate) fn add_warnings(headers: &mut HeaderMap, warnings: &[String]) {
    let mut room = 4096_usize;
    let mut seen: Vec<&str> = Vec::new();
    for warning in warnings {
        if seen.contains(&warning.as_str()) {
            continue;
        }
        seen.push(warning);
        let mut value = String::from("299 - \"");
        for character in warning.chars().filter(|character| !character.is_control()) {
            if matches!(character, '"' | '\\') {
                value.push('\\');
            }
            value.push(character);
        }
        value.push('"');
        let Some(left) = room.checked_sub(value.len()) else {
            return;
        };
        room = left;
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.append(header::WARNING, value);
        }
    }
}

/// How objects are to be sent: the form, and what rows of a table carry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Object, table or metadata.
    pub(crate) form: Form,
    /// `includeObject` of a table.
    pub(crate) include: IncludeObject,
}

/// JSON of an entry as it goes out; an entry of a dry run has no version yet.
pub(crate) fn entry_json(entry: &Entry) -> Bytes {
    if entry.revision == 0 {
        entry.envelope.json.clone()
    } else {
        entry.json()
    }
}

/// One stored object.
pub(crate) fn entry(kind: &Kind, entry: &Entry, shape: Shape, code: StatusCode) -> Result<Response, Failure> {
    let body = match shape.form {
        Form::Object => entry_json(entry),
        Form::Metadata => metadata_only(&entry_json(entry))?,
        Form::Table => {
            let object = object::parse_versioned(entry)?;
            let meta = json!({"resourceVersion": entry.revision.to_string()});
            let table = table::table(kind, std::iter::once(&object), meta, shape.include, Timestamp::now());
            table.to_string().into()
        }
    };
    Ok(json(code, body))
}

/// One object that is not stored.
pub(crate) fn value(kind: &Kind, value: &Value, shape: Shape) -> Result<Response, Failure> {
    let body = match shape.form {
        Form::Object => value.to_string().into(),
        Form::Metadata => metadata_only(value.to_string().as_bytes())?,
        Form::Table => {
            let table = table::table(kind, std::iter::once(value), json!({}), shape.include, Timestamp::now());
            table.to_string().into()
        }
    };
    Ok(json(StatusCode::OK, body))
}

#[derive(Deserialize)]
struct OnlyMetadata<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

/// A `PartialObjectMetadata` cut out of an object's JSON.
pub(crate) fn metadata_only(json: &[u8]) -> Result<Bytes, Failure> {
    let object: OnlyMetadata<'_> = serde_json::from_slice(json).map_err(Status::internal)?;
    let metadata = object.metadata.get();
    Ok(
        format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{metadata}}}")
            .into(),
    )
}

/// `metadata` of a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListMeta {
    /// Revision that the list shows; 0 for computed kinds, which have none.
    pub(crate) revision: Revision,
    /// Where the next page starts.
    pub(crate) next: Option<String>,
    /// Objects on later pages.
    pub(crate) remaining: Option<usize>,
}

impl ListMeta {
    fn to_value(&self) -> Value {
        let mut meta = json!({});
        if self.revision > 0 {
            meta["resourceVersion"] = self.revision.to_string().into();
        }
        if let Some(next) = &self.next {
            meta["continue"] = next.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
    }
}

/// A list of stored objects. Objects are copied, or parsed for a table, only as the client takes the pieces.
pub(crate) fn list(kind: &'static Kind, entries: Vec<Entry>, meta: &ListMeta, shape: Shape) -> Response {
    let size: usize = entries.iter().map(|entry| entry.envelope.json.len() + 40).sum();
    let (head, tail) = frame(kind, meta, shape);
    let pieces = Pieces {
        kind,
        entries: entries.into_iter(),
        shape,
        first: true,
    };
    let pieces = std::iter::once(head).chain(pieces).chain(std::iter::once(tail));
    if size <= WHOLE {
        let mut body = BytesMut::with_capacity(size + 256);
        pieces.for_each(|piece| body.put(piece));
        return json(StatusCode::OK, body.freeze());
    }
    let pieces = pieces.map(Ok::<_, std::convert::Infallible>);
    json(StatusCode::OK, Body::from_stream(futures::stream::iter(pieces)))
}

/// A list of objects that are not stored.
pub(crate) fn list_values(kind: &'static Kind, values: &[Value], shape: Shape) -> Result<Response, Failure> {
    let (head, tail) = frame(kind, &ListMeta::default(), shape);
    let mut body = BytesMut::new();
    body.put(head);
    let items: Vec<Bytes> = match shape.form {
        Form::Object => values.iter().map(|value| value.to_string().into()).collect(),
        Form::Metadata => values
            .iter()
            .map(|value| metadata_only(value.to_string().as_bytes()))
            .collect::<Result<_, _>>()?,
        Form::Table => rows(kind, values.iter(), shape.include),
    };
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            body.put_u8(b',');
        }
        body.put(item);
    }
    body.put(tail);
    Ok(json(StatusCode::OK, body.freeze()))
}

/// What comes before the first item and after the last.
fn frame(kind: &Kind, meta: &ListMeta, shape: Shape) -> (Bytes, Bytes) {
    let meta = meta.to_value();
    let head = match shape.form {
        Form::Object => {
            format!(
                "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
                kind.kind,
                kind.api_version()
            )
        }
        Form::Metadata => format!(
            "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{meta},\"items\":["
        ),
        Form::Table => {
            let empty = table::table(
                kind,
                std::iter::empty(),
                Value::Null,
                shape.include,
                Timestamp::UNIX_EPOCH,
            );
            format!(
                "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{meta},\"columnDefinitions\":{},\"rows\":[",
                empty["columnDefinitions"]
            )
        }
    };
    (head.into(), Bytes::from_static(b"]}"))
}

fn rows<'a>(kind: &Kind, objects: impl Iterator<Item = &'a Value>, include: IncludeObject) -> Vec<Bytes> {
    let table = table::table(kind, objects, Value::Null, include, Timestamp::now());
    table["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| row.to_string().into())
        .collect()
}

struct Pieces {
    kind: &'static Kind,
    entries: std::vec::IntoIter<Entry>,
    shape: Shape,
    first: bool,
}

impl Pieces {
    fn item(&mut self, piece: &mut BytesMut, item: &[u8]) {
        if !std::mem::take(&mut self.first) {
            piece.put_u8(b',');
        }
        piece.put_slice(item);
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    /// The next piece. A stored object that cannot be parsed is left out of tables rather than breaking off a list whose
    /// head the client already has.
    fn next(&mut self) -> Option<Bytes> {
        let mut piece = BytesMut::with_capacity(PIECE);
        while piece.len() < PIECE && !self.entries.as_slice().is_empty() {
            if self.shape.form == Form::Table {
                let batch: Vec<Value> = self
                    .entries
                    .by_ref()
                    .take(ROWS)
                    .filter_map(|entry| object::parse_versioned(&entry).ok())
                    .collect();
                for row in rows(self.kind, batch.iter(), self.shape.include) {
                    self.item(&mut piece, &row);
                }
                continue;
            }
            let Some(entry) = self.entries.next() else { break };
            let json = entry.json();
            match self.shape.form {
                Form::Metadata => {
                    if let Ok(metadata) = metadata_only(&json) {
                        self.item(&mut piece, &metadata);
                    }
                }
                _ => self.item(&mut piece, &json),
            }
        }
        (!piece.is_empty()).then(|| piece.freeze())
    }
}
