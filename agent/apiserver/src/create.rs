//! `create`.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use minidc_api::status::Status;
use minidc_api::{defaults, schema, validate};
use minidc_store::{Entry, Op, When};
use serde_json::Value;

use crate::admission::{self, NodeWrite};
use crate::call::{self, Call, Committed};
use crate::error::Failure;
use crate::object::{self, metadata};
use crate::respond;
use crate::services;
use crate::strategy::{self, is_pod};

/// Characters that generated names end with; Kubernetes' set, which spells no words and no doubtful letters.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longest part of `generateName` that is used, so that the suffix still fits a label.
const LONGEST_BASE: usize = 58;
/// How often another generated name is tried; as in Kubernetes.
const NAMES_TRIED: u32 = 8;

/// `create`.
pub(crate) async fn create(call: &mut Call, body: Body) -> Result<Response, Failure> {
    let shape = call.shape()?;
    let body = call::read_body(body).await?;
    let object = call.decode(&body)?;
    drop(body);
    let entry = create_object(call, object).await?;
    respond::entry(call.kind, &entry, shape, StatusCode::CREATED)
}

/// Checks, completes and stores a new object; with a dry run all but the storing.
pub(crate) async fn create_object(call: &mut Call, mut object: Value) -> Result<Entry, Failure> {
    let kind = call.kind;
    check_namespace(call, &mut object)?;
    if !object::meta(&object, "resourceVersion").is_empty() {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created").into());
    }
    if object::meta(&object, "creationTimestamp").is_empty() {
        metadata(&mut object).remove("creationTimestamp");
    }
    let base = object::meta(&object, "generateName").to_owned();
    let generated = object::name(&object).is_empty() && !base.is_empty();
    if generated {
        metadata(&mut object).insert("name".to_owned(), generate(&base).into());
    }
    defaults::apply(kind, &mut object);
    if is_pod(kind) {
        admission::default_tolerations(&mut object, call.server.options.default_toleration_seconds);
    }
    strategy::prepare_create(kind, &mut object, &uuid::Uuid::new_v4().to_string(), &object::now());
    let name = object::name(&object).to_owned();
    if kind.is_namespaced() {
        admission::namespace_is_open(&call.server.store, kind, &name, &call.namespace)?;
    }
    let write = NodeWrite {
        kind,
        name: &name,
        new: Some(&object),
        old: None,
    };
    admission::node_restriction(&call.identity, &write)?;
    services::may_create(kind, &name, &call.identity)?;
    call.warn_unsupported(&object);
    store(call, object, generated.then_some(base)).await
}

async fn store(call: &Call, prepared: Value, base: Option<String>) -> Result<Entry, Failure> {
    let kind = call.kind;
    let dry = call.is_dry_run()?;
    let mut name = object::name(&prepared).to_owned();
    let mut names_tried = 0;
    loop {
        let mut object = prepared.clone();
        metadata(&mut object).insert("name".to_owned(), name.as_str().into());
        let claims = services::allot(&call.server.store, kind, &mut object, None)?;
        let mut errors = schema::violations(kind, &object);
        errors.extend(validate::create(kind, &object));
        if !errors.is_empty() {
            return Err(Status::invalid(kind, &name, &errors).into());
        }
        let key = kind.store_key(&call.namespace, &name);
        let envelope = object::seal(kind, &object)?;
        if dry {
            if call.server.store.get(&key).is_none() {
                return Ok(Entry {
                    key: key.into(),
                    revision: 0,
                    created: 0,
                    envelope: envelope.into(),
                });
            }
        } else {
            let mut operations = vec![Op::Put {
                key: key.clone(),
                envelope,
                when: When::Absent,
            }];
            operations.extend(claims);
            match call.try_commit(operations).await? {
                Committed::Done(entries) => {
                    return entries
                        .into_iter()
                        .next()
                        .flatten()
                        .ok_or_else(|| Status::internal("the store kept nothing of a create").into());
                }
                // Another service was faster with an address or a port; there are others, or it is said that there are not.
                Committed::Conflict(taken) if taken != key => continue,
                Committed::Conflict(_) => {}
            }
        }
        let Some(base) = &base else {
            return Err(Status::already_exists(kind, &name).into());
        };
        names_tried += 1;
        if names_tried >= NAMES_TRIED {
            return Err(Status::generate_name_conflict(kind, &name).into());
        }
        name = generate(base);
    }
}

/// The namespace of the object is that of the path, or none for cluster-wide kinds.
fn check_namespace(call: &Call, object: &mut Value) -> Result<(), Failure> {
    let given = object::namespace(object).to_owned();
    if !call.kind.is_namespaced() {
        metadata(object).remove("namespace");
        return Ok(());
    }
    if !given.is_empty() && given != call.namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(message).into());
    }
    metadata(object).insert("namespace".to_owned(), call.namespace.as_str().into());
    Ok(())
}

/// A name from its base and five random characters.
pub(crate) fn generate(base: &str) -> String {
    let mut name: String = base.chars().take(LONGEST_BASE).collect();
    let mut random = uuid::Uuid::new_v4().as_u64_pair().1;
    let letters = ALPHABET.len() as u64;
    for _ in 0..5 {
        let letter = usize::try_from(random % letters)
            .ok()
            .and_then(|index| ALPHABET.get(index));
        name.push(letter.map_or('x', |letter| char::from(*letter)));
        random /= letters;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_keep_their_base_and_differ() {
        let name = generate("web-");
        assert_eq!(name.len(), 9);
        assert!(name.starts_with("web-") && name.bytes().skip(4).all(|byte| ALPHABET.contains(&byte)));
        assert_ne!(generate("web-"), generate("web-"));
        assert_eq!(generate(&"a".repeat(80)).len(), LONGEST_BASE + 5);
    }
}
