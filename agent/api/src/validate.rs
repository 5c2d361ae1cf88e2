//! Rules an object must keep, in the words of Kubernetes' `pkg/apis/*/validation`.
//!
//! Shapes (types, unknown fields) are the business of `decode`, required fields and fixed words that of
//! [`crate::schema::violations`]; here is what a schema cannot say: names, references inside an object, numbers that
//! must fit each other, and what may not change.

use std::fmt;

use serde_json::Value;

use crate::kinds::Kind;

mod container;
mod fields;
mod metadata;
pub mod names;
mod network;
mod others;
mod pod;
mod probe;
mod resources;
pub mod service;
mod volume;
mod workload;

/// One broken rule.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Full path of the field, e.g. `spec.containers[0].name`.
    pub path: String,
    /// Which sort of rule.
    pub kind: FieldErrorKind,
    /// The value found, where it is worth showing.
    pub value: Option<Value>,
    /// What is wrong; may be empty.
    pub detail: String,
}

/// Sorts of rules; [`FieldErrorKind::reason`] gives the words machines read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// Malformed or out of bounds.
    Invalid,
    /// Absent or empty.
    Required,
    /// Well formed, but not allowed here.
    Forbidden,
    /// Not one of a list of words.
    NotSupported,
    /// There twice.
    Duplicate,
    /// Names something that does not exist.
    NotFound,
    /// Too many bytes.
    TooLong,
    /// Too many items.
    TooMany,
}

impl FieldErrorKind {
    /// `reason` of a cause in a `Status`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "FieldValueInvalid",
            Self::Required => "FieldValueRequired",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotFound => "FieldValueNotFound",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid value",
            Self::Required => "Required value",
            Self::Forbidden => "Forbidden",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::NotFound => "Not found",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
        }
    }
}

impl FieldError {
    fn new(path: impl Into<String>, kind: FieldErrorKind, value: Option<Value>, detail: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            kind,
            value,
            detail: detail.into(),
        }
    }

    /// A malformed value.
    pub fn invalid(path: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(path, FieldErrorKind::Invalid, Some(value.into()), detail)
    }

    /// A missing value.
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(path, FieldErrorKind::Required, None, detail)
    }

    /// A value that is not allowed here.
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(path, FieldErrorKind::Forbidden, None, detail)
    }

    /// A value that is not one of `supported`.
    pub fn not_supported(path: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let listed: Vec<String> = supported.iter().map(|word| crate::status::quote(word)).collect();
        let detail = format!("supported values: {}", listed.join(", "));
        Self::new(path, FieldErrorKind::NotSupported, Some(value.into()), detail)
    }

    /// A value that is there twice.
    pub fn duplicate(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(path, FieldErrorKind::Duplicate, Some(value.into()), "")
    }

    /// A name of something that does not exist.
    pub fn not_found(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(path, FieldErrorKind::NotFound, Some(value.into()), "")
    }

    /// More than `limit` bytes.
    pub fn too_long(path: impl Into<String>, limit: usize) -> Self {
        let unit = if limit == 1 { "byte" } else { "bytes" };
        Self::new(
            path,
            FieldErrorKind::TooLong,
            None,
            format!("may not be more than {limit} {unit}"),
        )
    }

    /// More than `limit` items.
    pub fn too_many(path: impl Into<String>, count: usize, limit: usize) -> Self {
        let unit = if limit == 1 { "item" } else { "items" };
        Self::new(
            path,
            FieldErrorKind::TooMany,
            Some(count.into()),
            format!("must have at most {limit} {unit}"),
        )
    }

    /// The text without the path: `message` of a cause.
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_owned();
        match &self.value {
            None => {}
            Some(Value::String(value)) => {
                text.push_str(": ");
                text.push_str(&crate::status::quote(value));
            }
            Some(value) => {
                text.push_str(": ");
                text.push_str(&value.to_string());
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.path, self.body())
    }
}

/// Each error once. Schema and rules both ask for some fields; of two such demands the one with a reason stays.
pub fn distinct(errors: &[FieldError]) -> Vec<&FieldError> {
    let mut kept: Vec<&FieldError> = Vec::with_capacity(errors.len());
    for error in errors {
        let twin = kept.iter().position(|known| {
            let demands = known.kind == FieldErrorKind::Required && error.kind == FieldErrorKind::Required;
            *known == error || demands && known.path == error.path
        });
        match twin {
            None => kept.push(error),
            Some(index) if kept[index].detail.is_empty() => kept[index] = error,
            Some(_) => {}
        }
    }
    kept
}

/// What is wrong with a new object. Defaults have been applied and the name has been generated.
pub fn create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::create(kind, &object["metadata"], &mut errors);
    content(kind, object, &mut errors);
    if (kind.group, kind.kind) == ("", "Pod") {
        pod::create(object, &mut errors);
    }
    errors
}

/// What is wrong with a new version of an object, given the stored one.
///
/// The caller has carried over what clients may leave out: the name, times, and a service's addresses.
pub fn update(kind: &Kind, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::update(&new["metadata"], &old["metadata"], &mut errors);
    content(kind, new, &mut errors);
    let errors_so_far = &mut errors;
    match (kind.group, kind.kind) {
        ("", "Pod") => pod::update(new, old, errors_so_far),
        ("", "Service") => service::update(new, old, errors_so_far),
        ("", "ConfigMap") => others::config_map_update(new, old, errors_so_far),
        ("", "Secret") => others::secret_update(new, old, errors_so_far),
        ("", "Node") => others::node_update(new, old, errors_so_far),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice_update(new, old, errors_so_far),
        ("networking.k8s.io", "IPAddress") => network::ip_address_update(new, old, errors_so_far),
        ("networking.k8s.io", "ServiceCIDR") => network::service_cidr_update(new, old, errors_so_far),
        ("apps", "Deployment" | "ReplicaSet") => workload::selector_is_immutable(new, old, errors_so_far),
        ("minidc.dev", "JoinToken") => others::join_token_update(new, old, errors_so_far),
        ("minidc.dev", "Image") => others::image_update(new, old, errors_so_far),
        _ => {}
    }
    errors
}

/// The rules that hold for every version of an object, metadata aside.
fn content(kind: &Kind, object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    match (kind.group, kind.kind) {
        ("", "Pod") => pod::spec(spec, "spec", true, errors),
        ("", "Service") => service::spec(spec, errors),
        ("", "ConfigMap") => others::config_map(object, errors),
        ("", "Secret") => others::secret(object, errors),
        ("", "Node") => others::node(object, errors),
        ("", "Event") => others::event(object, errors),
        ("apps", "Deployment") => workload::deployment(spec, errors),
        ("apps", "ReplicaSet") => workload::replica_set(spec, errors),
        ("coordination.k8s.io", "Lease") => others::lease(spec, errors),
        ("", "Endpoints") => network::endpoints(object, errors),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice(object, errors),
        ("networking.k8s.io", "IPAddress") => network::ip_address(object, errors),
        ("networking.k8s.io", "ServiceCIDR") => network::service_cidr(object, errors),
        ("minidc.dev", "Image") => others::image(object, errors),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
