//! Objects as JSON values: their metadata, and how they become what the store keeps.

use jiff::Timestamp;
use minidc_api::kinds::Kind;
use minidc_api::status::Status;
use minidc_store::{Entry, Envelope};
use serde_json::{Map, Value};

use crate::error::Failure;

/// `metadata`, made if it is missing or no object.
pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    child(object, "metadata")
}

/// A child object, made if it is missing or no object.
pub(crate) fn child<'a>(object: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    as_map(as_map(object).entry(name).or_insert(Value::Null))
}

fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object above"),
    }
}

/// A string of the metadata; empty when absent.
pub(crate) fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or("")
}

/// `metadata.name`, empty when absent.
pub(crate) fn name(object: &Value) -> &str {
    meta(object, "name")
}

/// `metadata.namespace`, empty when absent.
pub(crate) fn namespace(object: &Value) -> &str {
    meta(object, "namespace")
}

/// True once a delete was asked for.
pub(crate) fn is_terminating(object: &Value) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

/// `metadata.finalizers`.
pub(crate) fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// The present time as objects carry it: RFC 3339 in whole seconds.
pub(crate) fn now() -> String {
    time(Timestamp::now())
}

/// A time as objects carry it.
pub(crate) fn time(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// The object of a stored entry, without `resourceVersion`.
pub(crate) fn parse(entry: &Entry) -> Result<Value, Failure> {
    serde_json::from_slice(&entry.envelope.json)
        .map_err(|error| Status::internal(format!("read stored object {}: {error}", entry.key)).into())
}

/// The object of a stored entry, with `resourceVersion`.
pub(crate) fn parse_versioned(entry: &Entry) -> Result<Value, Failure> {
    let mut object = parse(entry)?;
    metadata(&mut object).insert("resourceVersion".to_owned(), entry.revision.to_string().into());
    Ok(object)
}

/// Namespace and name out of a store key.
pub(crate) fn key_parts(key: &str) -> (&str, &str) {
    let mut parts = key.rsplitn(3, '/');
    let name = parts.next().unwrap_or("");
    (parts.next().unwrap_or(""), name)
}

/// What a selector field is when the object does not have it; such values are not stored.
fn default_of(path: &str) -> &'static str {
    match path {
        "spec.unschedulable" | "spec.hostNetwork" => "false",
        "status.replicas" => "0",
        _ => "",
    }
}

/// The value of a selector field of a stored entry.
pub(crate) fn selector_field<'a>(entry: &'a Entry, path: &str) -> &'a str {
    match path {
        "metadata.name" => key_parts(&entry.key).1,
        "metadata.namespace" => key_parts(&entry.key).0,
        other => entry.envelope.field(other).unwrap_or(default_of(other)),
    }
}

/// The value of a selector field of an object.
fn field_of(object: &Value, path: &str) -> Option<String> {
    let at = |path: &str| path.split('.').try_fold(object, |value, step| value.get(step));
    let value = match path {
        // As Kubernetes: the event's source, or who reported it where that is empty.
        "source" => at("source.component")
            .filter(|value| value.as_str() != Some(""))
            .or_else(|| at("reportingComponent")),
        other => at(other),
    };
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Makes the stored form: JSON without `resourceVersion`, the place where that goes, and what selectors look at.
pub(crate) fn seal(kind: &Kind, object: &Value) -> Result<Envelope, Failure> {
    let Value::Object(map) = object else {
        return Err(Status::internal(format!("a {} is no JSON object", kind.kind)).into());
    };
    let mut json = Vec::with_capacity(2048);
    let mut splice = 0;
    json.push(b'{');
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write(&mut json, key)?;
        json.push(b':');
        if key == "metadata" {
            splice = json.len() + 1;
        }
        write(&mut json, value)?;
    }
    json.push(b'}');
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    let labels = labels
        .filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into())))
        .collect();
    let fields = kind.fields.iter().filter_map(|path| {
        let value = field_of(object, path)?;
        (value != default_of(path)).then(|| ((*path).into(), value.into()))
    });
    let splice = u32::try_from(splice).map_err(Status::internal)?;
    Ok(Envelope::new(json, splice, labels, fields.collect()))
}

fn write<T: serde::Serialize + ?Sized>(json: &mut Vec<u8>, value: &T) -> Result<(), Failure> {
    serde_json::to_writer(json, value).map_err(|error| Status::internal(error).into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use minidc_api::kinds::by_resource;
    use serde_json::json;

    use super::*;

    #[test]
    fn sealed_object_gets_its_version_spliced_in() {
        let pods = by_resource("", "v1", "pods").unwrap();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "namespace": "d", "labels": {"app": "x"}},
            "spec": {"nodeName": "pi-1", "hostNetwork": false}
        });
        let envelope = seal(pods, &object).unwrap();
        assert_eq!(envelope.label("app"), Some("x"));
        let entry = Entry {
            key: "core/pods/d/a".into(),
            revision: 7,
            created: 7,
            envelope: Arc::new(envelope),
        };
        assert_eq!(selector_field(&entry, "spec.nodeName"), "pi-1");
        assert_eq!(selector_field(&entry, "spec.hostNetwork"), "false");
        assert_eq!(selector_field(&entry, "status.phase"), "");
        assert_eq!(selector_field(&entry, "metadata.name"), "a");
        assert_eq!(selector_field(&entry, "metadata.namespace"), "d");
        let sent: Value = serde_json::from_slice(&entry.json()).unwrap();
        assert_eq!(sent, parse_versioned(&entry).unwrap());
        assert_eq!(sent["metadata"]["resourceVersion"], "7");
    }
}
