//! The three patches of the Kubernetes API: JSON merge patch (RFC 7386), JSON patch (RFC 6902) and strategic merge patch.

use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::Value;

use crate::status::Status;

mod strategic;

/// Most operations in one JSON patch; the limit of Kubernetes.
pub const MAX_OPERATIONS: usize = 10_000;
/// Most bytes that the `copy` operations of one JSON patch may add together: the size limit of a request, so that a
/// small patch cannot fill the memory.
pub const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Why a patch was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The patch itself is malformed.
    #[error("{0}")]
    Malformed(String),
    /// The patch is well formed, but does not fit the object.
    #[error("{0}")]
    DoesNotApply(String),
    /// The patch has, or makes, too much.
    #[error("{0}")]
    TooLarge(String),
}

impl Error {
    /// As the API answers it. Kubernetes leaves the detail out of its 422; here it is kept.
    pub fn to_status(&self) -> Status {
        match self {
            Self::Malformed(text) => Status::bad_request(text),
            Self::DoesNotApply(text) => Status::passed_on(
                422,
                format!("the server rejected our request due to an error in our request: {text}"),
            ),
            Self::TooLarge(text) => Status::passed_on(413, format!("Request entity too large: {text}")),
        }
    }
}

/// Applies a JSON merge patch: objects merge, `null` removes, all else replaces.
pub fn json_merge(target: &mut Value, patch: &Value) {
    json_patch::merge(target, patch);
}

/// Applies a JSON patch, a list of operations. On an error the target is left as it was.
///
/// # Errors
/// The text is no JSON patch, it is too large, or one of its operations does not apply.
pub fn json_patch(target: &mut Value, patch: &[u8]) -> Result<(), Error> {
    let operations: Vec<PatchOperation> =
        serde_json::from_slice(patch).map_err(|error| Error::Malformed(format!("error decoding patch: {error}")))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(Error::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut patched = target.clone();
    let mut copied = 0;
    for operation in operations {
        if let PatchOperation::Copy(copy) = &operation {
            copied += patched.pointer(copy.from.as_str()).map_or(0, size);
            if copied > MAX_COPIED {
                return Err(Error::TooLarge(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the \
                     limit {MAX_COPIED}"
                )));
            }
        }
        json_patch::patch_unsafe(&mut patched, std::slice::from_ref(&operation))
            .map_err(|error| Error::DoesNotApply(explain(&operation, &error.kind)))?;
    }
    *target = patched;
    Ok(())
}

fn explain(operation: &PatchOperation, kind: &PatchErrorKind) -> String {
    let path = operation.path();
    match (operation, kind) {
        (PatchOperation::Test(_), PatchErrorKind::TestFailed) => format!("testing value {path} failed: test failed"),
        (PatchOperation::Test(_), _) => format!("error in test for path: '{path}': missing value"),
        (PatchOperation::Add(_), _) => {
            format!("add operation does not apply: doc is missing path: \"{path}\": missing value")
        }
        (PatchOperation::Remove(_), _) => {
            format!("remove operation does not apply: doc is missing path: \"{path}\": missing value")
        }
        (PatchOperation::Replace(_), _) => {
            format!("replace operation does not apply: doc is missing path: {path}: missing value")
        }
        (PatchOperation::Move(moved), PatchErrorKind::InvalidFromPointer) => {
            format!(
                "move operation does not apply: doc is missing from path: {}: missing value",
                moved.from
            )
        }
        (PatchOperation::Copy(copied), PatchErrorKind::InvalidFromPointer) => {
            format!(
                "copy operation does not apply: doc is missing from path: {}: missing value",
                copied.from
            )
        }
        (PatchOperation::Move(_), kind) => format!("move operation does not apply: {path}: {kind}"),
        (PatchOperation::Copy(_), kind) => format!("copy operation does not apply: {path}: {kind}"),
    }
}

/// Bytes of a value as JSON, near enough: escapes are not counted.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| size(item) + 1).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(key, item)| key.len() + 4 + size(item)).sum::<usize>() + 2,
    }
}

/// Applies a strategic merge patch to an object of the type `type_name` (full name in the schema, as in `Kind::schema`).
///
/// Lists merge by the keys that the schema gives; `$patch`, `$retainKeys`, `$setElementOrder/…` and
/// `$deleteFromPrimitiveList/…` are followed as `apimachinery/pkg/util/strategicpatch` does. On an error the target is
/// left as it was.
///
/// # Errors
/// The patch is no object, or breaks the rules of its directives.
pub fn strategic(type_name: &str, target: &mut Value, patch: &Value) -> Result<(), Error> {
    let Value::Object(patch) = patch else {
        return Err(Error::Malformed("invalid JSON document".to_owned()));
    };
    let mut original = match target {
        Value::Object(map) => map.clone(),
        _ => serde_json::Map::new(),
    };
    strategic::merge_map(&mut original, patch.clone(), strategic::Known::of(type_name))?;
    *target = Value::Object(original);
    Ok(())
}

#[cfg(test)]
mod tests;
