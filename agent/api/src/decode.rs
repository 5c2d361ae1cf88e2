//! From bytes to an object: JSON, YAML or Kubernetes protobuf, checked against the schema, with the words that Kubernetes uses.
//!
//! [`decode`] sees what serde alone forgives: fields that appear twice and fields that do not exist, each with its full
//! path. It brings quantities and times into their canonical form and drops nulls, as Kubernetes does. Required fields
//! and lists of allowed strings are no matter of decoding (defaults come first): see [`crate::schema::violations`].

use serde_json::{Map, Value};
use thiserror::Error;

use crate::kinds::{self, Kind};
use crate::protobuf;
use crate::schema::Type;

mod check;
mod read;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

impl Media {
    const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Yaml => "yaml",
            Self::Protobuf => "protobuf",
        }
    }
}

/// What becomes of unknown and duplicate fields; the query parameter `fieldValidation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Dropped silently.
    Ignore,
    /// Dropped, with a warning for each. What the server does unless asked otherwise.
    #[default]
    Warn,
    /// The request is refused.
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter; empty is the default.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "Ignore" => Self::Ignore,
            "" | "Warn" => Self::Warn,
            "Strict" => Self::Strict,
            _ => return None,
        })
    }
}

/// A decoded object.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object, with `apiVersion` and `kind`.
    pub object: Value,
    /// Texts for `Warning` headers: `unknown field "spec.foo"`.
    pub warnings: Vec<String>,
}

/// Why a body is no object of the kind. The text is the message of a `BadRequest`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Not of the form it should be, or nested too deeply.
    #[error(
        "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; {media} parse error: {problem}"
    )]
    Syntax {
        /// Kind that was expected.
        kind: String,
        /// `json`, `yaml` or `protobuf`.
        media: &'static str,
        /// What the parser says: with line and column, or with the field.
        problem: String,
    },
    /// The object is of another API version.
    #[error("the API version in the data ({found}) does not match the expected API version ({expected})")]
    ApiVersion {
        /// `apiVersion` of the object.
        found: String,
        /// `apiVersion` of the path.
        expected: String,
    },
    /// The object is of another kind.
    #[error("{found} in version {version:?} cannot be handled as a {expected}: the request is for another kind")]
    Kind {
        /// `kind` of the object.
        found: String,
        /// Version of its group.
        version: String,
        /// Kind that was expected.
        expected: String,
    },
    /// A value is of the wrong type or malformed.
    #[error("{kind} in version {version:?} cannot be handled as a {kind}: {problem}")]
    Type {
        /// Kind of the object.
        kind: String,
        /// Version of its group.
        version: String,
        /// For example `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`.
        problem: String,
    },
    /// Unknown or duplicate fields under [`FieldValidation::Strict`].
    #[error("{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {}", fields.join(", "))]
    Strict {
        /// Kind of the object.
        kind: String,
        /// Version of its group.
        version: String,
        /// For example `unknown field "spec.foo"`.
        fields: Vec<String>,
    },
}

impl DecodeError {
    /// The fault alone, without the object: what Kubernetes puts behind `patch: Invalid value: …`.
    pub fn problem(&self) -> String {
        match self {
            Self::Syntax { problem, .. } | Self::Type { problem, .. } => problem.clone(),
            Self::Strict { fields, .. } => format!("strict decoding error: {}", fields.join(", ")),
            Self::ApiVersion { .. } | Self::Kind { .. } => self.to_string(),
        }
    }
}

/// What a body must be.
#[derive(Clone, Copy)]
struct Expected {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    object: &'static Type,
    /// `DeleteOptions` belong to every group and version.
    any_version: bool,
}

impl Expected {
    fn of(kind: &Kind) -> Self {
        Self {
            group: kind.group,
            version: kind.version,
            kind: kind.kind,
            object: kind.object_type(),
            any_version: false,
        }
    }

    fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// Reads an object of a kind. Missing `apiVersion` and `kind` are those of the kind.
///
/// # Errors
/// All are answered with 400 `BadRequest` and the error's text.
pub fn decode(kind: &Kind, body: &[u8], media: Media, mode: FieldValidation) -> Result<Decoded, DecodeError> {
    decode_expected(Expected::of(kind), body, media, mode)
}

/// Reads a body that is of no stored kind: `Scale`, `Binding` or `DeleteOptions`, by the full or short name of its type.
/// An empty body is an empty object.
///
/// # Errors
/// As [`decode`].
pub fn decode_request(
    object: &'static Type,
    body: &[u8],
    media: Media,
    mode: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let (group, version, kind) = object.group_version_kind.map_or(("", "v1", object.name), |known| {
        (known.group, known.version, known.kind)
    });
    let expected = Expected {
        group,
        version,
        kind,
        object,
        any_version: kind == "DeleteOptions",
    };
    let (body, media) = if body.is_empty() {
        (&b"{}"[..], Media::Json)
    } else {
        (body, media)
    };
    decode_expected(expected, body, media, mode)
}

/// The same checks for an object that was put together by a patch: changes it to its canonical form, returns the warnings.
///
/// # Errors
/// As [`decode`], but for the syntax.
pub fn check(kind: &Kind, object: &mut Value, mode: FieldValidation) -> Result<Vec<String>, DecodeError> {
    check_expected(Expected::of(kind), object, Vec::new(), mode)
}

fn decode_expected(
    expected: Expected,
    body: &[u8],
    media: Media,
    mode: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let read = match media {
        Media::Json => read::json(body),
        Media::Yaml => read::yaml(body),
        Media::Protobuf => protobuf::read(expected.object, body),
    };
    let (mut object, strict) = read.map_err(|problem| DecodeError::Syntax {
        kind: expected.kind.to_owned(),
        media: media.name(),
        problem,
    })?;
    let warnings = check_expected(expected, &mut object, strict, mode)?;
    Ok(Decoded { object, warnings })
}

fn check_expected(
    expected: Expected,
    object: &mut Value,
    mut strict: Vec<String>,
    mode: FieldValidation,
) -> Result<Vec<String>, DecodeError> {
    let wrong_type = |problem| DecodeError::Type {
        kind: expected.kind.to_owned(),
        version: expected.version.to_owned(),
        problem,
    };
    let Some(fields) = object.as_object_mut() else {
        let problem = format!(
            "json: cannot unmarshal {} into Go value of type {}",
            check::name_of(object),
            expected.object.go_name()
        );
        return Err(wrong_type(problem));
    };
    identify(expected, fields)?;
    check::check(expected.object, object, &mut strict).map_err(wrong_type)?;
    strict.truncate(MOST_FIELDS_TOLD);
    match mode {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(strict),
        FieldValidation::Strict if strict.is_empty() => Ok(strict),
        FieldValidation::Strict => Err(DecodeError::Strict {
            kind: expected.kind.to_owned(),
            version: expected.version.to_owned(),
            fields: strict,
        }),
    }
}

/// As in sigs.k8s.io/json.
const MOST_FIELDS_TOLD: usize = 100;

/// Compares or fills in `apiVersion` and `kind`.
fn identify(expected: Expected, fields: &mut Map<String, Value>) -> Result<(), DecodeError> {
    let text = |name: &str| fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let wanted = expected.api_version();
    let api_version = text("apiVersion").unwrap_or(&wanted);
    let kind = text("kind").unwrap_or(expected.kind);
    if kind != expected.kind {
        return Err(DecodeError::Kind {
            found: kind.to_owned(),
            version: kinds::split_api_version(api_version).1.to_owned(),
            expected: expected.kind.to_owned(),
        });
    }
    if api_version != wanted && !expected.any_version {
        return Err(DecodeError::ApiVersion {
            found: api_version.to_owned(),
            expected: wanted,
        });
    }
    for (name, value) in [("apiVersion", wanted.as_str()), ("kind", expected.kind)] {
        if fields
            .get(name)
            .is_none_or(|present| present.is_null() || present.as_str() == Some(""))
        {
            fields.insert(name.to_owned(), value.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
