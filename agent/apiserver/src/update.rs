//! `update` and `patch`, and the one way in which every stored object is changed.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use minidc_api::decode;
use minidc_api::status::Status;
use minidc_api::validate::FieldError;
use minidc_api::{defaults, patch, schema, validate};
use minidc_store::{Entry, Op, When};
use serde_json::Value;

use crate::admission::{self, NodeWrite};
use crate::call::{self, Call};
use crate::create;
use crate::error::{self, Failure};
use crate::negotiate;
use crate::object::{self, metadata};
use crate::respond;
use crate::services;
use crate::strategy::{self, Reach, is_namespace, is_pod};

/// How often a change is tried again when another writer was faster; as Kubernetes' patch handler.
const TRIES: u32 = 6;

/// `update` (PUT) of an object or of its status.
pub(crate) async fn update(call: &mut Call, body: Body, reach: Reach) -> Result<Response, Failure> {
    let shape = call.shape()?;
    let body = call::read_body(body).await?;
    let object = call.decode(&body)?;
    drop(body);
    if reach == Reach::Main
        && strategy::creates_on_update(call.kind)
        && call.server.store.get(&call.key()).is_none()
        && object::meta(&object, "resourceVersion").is_empty()
    {
        check_name(call, &object)?;
        let entry = create::create_object(call, object).await?;
        return respond::entry(call.kind, &entry, shape, StatusCode::CREATED);
    }
    if object::name(&object).is_empty() {
        let message = "name must be provided";
        return Err(Status::bad_request(message).into());
    }
    let entry = modify(call, reach, |_| Ok(object.clone())).await?;
    respond::entry(call.kind, &entry, shape, StatusCode::OK)
}

/// A patch as it was sent.
pub(crate) enum Patch {
    /// RFC 6902.
    Json(bytes::Bytes),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' own.
    Strategic(Value),
}

impl Patch {
    /// Reads a patch body by its content type.
    pub(crate) fn read(call: &Call, body: bytes::Bytes) -> Result<Self, Failure> {
        let value = |body: &[u8]| -> Result<Value, Failure> {
            serde_json::from_slice(body)
                .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")).into())
        };
        match negotiate::content_type(&call.headers) {
            "application/json-patch+json" => Ok(Self::Json(body)),
            "application/merge-patch+json" => Ok(Self::Merge(value(&body)?)),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic(value(&body)?)),
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => Err(error::apply_not_supported()),
            _ => Err(Status::unsupported_media(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
            ])
            .into()),
        }
    }

    /// Changes an object of a type of the schema.
    pub(crate) fn apply(&self, type_name: &str, target: &mut Value) -> Result<(), Failure> {
        match self {
            Self::Json(patch) => patch::json_patch(target, patch).map_err(|error| error.to_status().into()),
            Self::Merge(patch) => {
                patch::json_merge(target, patch);
                Ok(())
            }
            Self::Strategic(patch) => {
                patch::strategic(type_name, target, patch).map_err(|error| error.to_status().into())
            }
        }
    }

    /// The patch as an error message shows it.
    fn text(&self) -> String {
        match self {
            Self::Json(patch) => String::from_utf8_lossy(patch).into_owned(),
            Self::Merge(patch) | Self::Strategic(patch) => patch.to_string(),
        }
    }
}

/// `patch` of an object or of its status.
pub(crate) async fn patch(call: &mut Call, body: Body, reach: Reach) -> Result<Response, Failure> {
    let shape = call.shape()?;
    let body = call::read_body(body).await?;
    let patch = Patch::read(call, body)?;
    let mode = call.field_validation()?;
    let (kind, name) = (call.kind, call.name.clone());
    let mut warnings = Vec::new();
    let entry = modify(call, reach, |mut object| {
        patch.apply(kind.schema, &mut object)?;
        warnings = decode::check(kind, &mut object, mode).map_err(|error| {
            let wrong = FieldError::invalid("patch", patch.text(), error.problem());
            Failure::from(Status::invalid(kind, &name, &[wrong]))
        })?;
        Ok(object)
    })
    .await?;
    call.warnings.append(&mut warnings);
    respond::entry(call.kind, &entry, shape, StatusCode::OK)
}

/// Changes the object of the call's path: reads it, lets `change` make the new one (from the present one with its
/// `resourceVersion`), checks and completes that, and stores it if nobody was faster; otherwise all over again.
///
/// A `resourceVersion` in the new object that is not the present one is a conflict, so callers decide by what they
/// leave in whether they insist on a version. A deletion that waited only for this change is finished.
pub(crate) async fn modify(
    call: &mut Call,
    reach: Reach,
    mut change: impl FnMut(Value) -> Result<Value, Failure>,
) -> Result<Entry, Failure> {
    let kind = call.kind;
    let key = call.key();
    let dry = call.is_dry_run()?;
    for _ in 0..TRIES {
        let entry = call.stored()?;
        let old = object::parse(&entry)?;
        let mut versioned = old.clone();
        metadata(&mut versioned).insert("resourceVersion".to_owned(), entry.revision.to_string().into());
        let mut new = change(versioned)?;
        check_identity(call, &new, &old, &entry)?;
        metadata(&mut new).insert("name".to_owned(), call.name.as_str().into());
        if reach != Reach::Finalize {
            defaults::apply(kind, &mut new);
        }
        strategy::prepare_update(kind, &mut new, &old, reach);
        let write = NodeWrite {
            kind,
            name: &call.name,
            new: Some(&new),
            old: Some(&old),
        };
        admission::node_restriction(&call.identity, &write)?;
        let claims = if reach == Reach::Main {
            services::allot(&call.server.store, kind, &mut new, Some(&old))?
        } else {
            Vec::new()
        };
        check_rules(call, reach, &new, &old)?;
        if reach == Reach::Main && new.get("spec") != old.get("spec") {
            call.warn_unsupported(&new);
        }
        let envelope = object::seal(kind, &new)?;
        let finished = is_deletion_finished(kind, &new);
        if dry {
            return Ok(Entry {
                envelope: envelope.into(),
                ..entry
            });
        }
        let when = When::Is(entry.revision);
        let mut operations = Vec::with_capacity(1);
        if finished {
            operations.push(Op::Delete { key: key.clone(), when });
            operations.extend(services::release(&call.server.store, kind, &old));
        } else if *entry.envelope == envelope {
            return Ok(entry);
        } else {
            operations.push(Op::Put {
                key: key.clone(),
                envelope: envelope.clone(),
                when,
            });
            operations.extend(claims);
        }
        if let Some(answers) = call.commit(operations).await? {
            let Some(Some(answer)) = answers.into_iter().next() else {
                return Err(Status::internal("the store kept nothing of an update").into());
            };
            if finished {
                call.server.deleted(kind, &call.name);
                return Ok(Entry {
                    envelope: envelope.into(),
                    ..answer
                });
            }
            return Ok(answer);
        }
    }
    Err(Status::modified(kind, &call.name).into())
}

fn check_name(call: &Call, object: &Value) -> Result<(), Failure> {
    let name = object::name(object);
    if !name.is_empty() && name != call.name {
        let message = format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name
        );
        return Err(Status::bad_request(message).into());
    }
    let namespace = object::namespace(object);
    if !namespace.is_empty() && namespace != call.namespace {
        let message = format!(
            "the namespace of the object ({namespace}) does not match the namespace on the URL ({})",
            call.namespace
        );
        return Err(Status::bad_request(message).into());
    }
    Ok(())
}

/// The new object must mean the stored one: same name, and where said, same UID and version.
fn check_identity(call: &Call, new: &Value, old: &Value, entry: &Entry) -> Result<(), Failure> {
    check_name(call, new)?;
    let version = object::meta(new, "resourceVersion");
    // "0" stands for any version, as in Kubernetes.
    if !version.is_empty() && version != "0" {
        let Ok(asked) = version.parse::<u64>() else {
            let wrong = FieldError::invalid("metadata.resourceVersion", version, "must be a whole number");
            return Err(Status::invalid(call.kind, &call.name, &[wrong]).into());
        };
        if asked != entry.revision {
            return Err(Status::modified(call.kind, &call.name).into());
        }
    }
    let (wanted, found) = (object::meta(new, "uid"), object::meta(old, "uid"));
    if !wanted.is_empty() && wanted != found {
        let reason = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
        return Err(Status::conflict(call.kind, &call.name, &reason).into());
    }
    Ok(())
}

fn check_rules(call: &Call, reach: Reach, new: &Value, old: &Value) -> Result<(), Failure> {
    if matches!(reach, Reach::Finalize | Reach::Binding) {
        return Ok(());
    }
    let mut errors = schema::violations(call.kind, new);
    errors.extend(validate::update(call.kind, new, old));
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(call.kind, &call.name, &errors).into())
    }
}

/// True when nothing keeps a deleted object any more.
pub(crate) fn is_deletion_finished(kind: &minidc_api::kinds::Kind, object: &Value) -> bool {
    let grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    object::is_terminating(object)
        && object::finalizers(object).next().is_none()
        && (!is_pod(kind) || grace == 0)
        && (!is_namespace(kind) || object["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty))
}
