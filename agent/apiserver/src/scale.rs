//! The `scale` subresource: `spec.replicas` of deployments and replica sets as an `autoscaling/v1` `Scale`.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use minidc_api::selector::LabelSelector;
use minidc_api::status::Status;
use minidc_store::Entry;
use serde_json::{Value, json};

use crate::call::{self, Call};
use crate::error::Failure;
use crate::object::{self, child, metadata};
use crate::respond;
use crate::strategy::Reach;
use crate::update::{self, Patch};

const TYPE: &str = "io.k8s.api.autoscaling.v1.Scale";

/// `get`.
pub(crate) fn get(call: &Call) -> Result<Response, Failure> {
    answer(&call.stored()?)
}

/// `update`.
pub(crate) async fn update(call: &mut Call, body: Body) -> Result<Response, Failure> {
    let body = call::read_body(body).await?;
    let sent = call.decode_as(TYPE, &body)?;
    let given = object::name(&sent);
    if !given.is_empty() && given != call.name {
        let message = format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            call.name
        );
        return Err(Status::bad_request(message).into());
    }
    let entry = update::modify(call, Reach::Main, |object| apply(object, &sent)).await?;
    answer(&entry)
}

/// `patch`.
pub(crate) async fn patch(call: &mut Call, body: Body) -> Result<Response, Failure> {
    let body = call::read_body(body).await?;
    let patch = Patch::read(call, body)?;
    let entry = update::modify(call, Reach::Main, |object| {
        let mut scale = scale_of(&object);
        patch.apply(TYPE, &mut scale)?;
        apply(object, &scale)
    })
    .await?;
    answer(&entry)
}

fn answer(entry: &Entry) -> Result<Response, Failure> {
    let scale = scale_of(&object::parse_versioned(entry)?);
    Ok(respond::json(StatusCode::OK, scale.to_string()))
}

fn scale_of(object: &Value) -> Value {
    let mut meta = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            meta[field] = value.clone();
        }
    }
    let selector = LabelSelector::from_object(&object["spec"]["selector"]).map(|selector| selector.to_string());
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": {"replicas": object["spec"]["replicas"].as_i64().unwrap_or(0)},
        "status": {
            "replicas": object["status"]["replicas"].as_i64().unwrap_or(0),
            "selector": selector.unwrap_or_default(),
        }
    })
}

/// The object with what the scale says: replicas, and the version and UID it insists on.
fn apply(mut object: Value, scale: &Value) -> Result<Value, Failure> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let name = object::name(&object);
        let detail = format!("spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0");
        return Err(Status::passed_on(422, format!("Scale.autoscaling {name:?} is invalid: {detail}")).into());
    }
    child(&mut object, "spec").insert("replicas".to_owned(), replicas.into());
    for field in ["resourceVersion", "uid"] {
        let value = object::meta(scale, field);
        if !value.is_empty() {
            metadata(&mut object).insert(field.to_owned(), value.into());
        }
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_stands_for_replicas() {
        let deployment = json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "u", "resourceVersion": "5", "labels": {"x": "y"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}},
            "status": {"replicas": 2}
        });
        let mut scale = scale_of(&deployment);
        assert_eq!(
            scale["metadata"],
            json!({"name": "web", "namespace": "d", "uid": "u", "resourceVersion": "5"})
        );
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=web"}));
        scale["spec"]["replicas"] = 7.into();
        assert_eq!(apply(deployment.clone(), &scale).unwrap()["spec"]["replicas"], 7);
        scale["spec"]["replicas"] = (-1).into();
        assert_eq!(apply(deployment, &scale).unwrap_err().code(), 422);
    }
}
