//! `pods/eviction`: a deletion that says on the pod why it happens. Draining a node asks for it.

use axum::body::Body;
use axum::response::Response;
use minidc_api::status::Status;
use serde_json::{Value, json};

use crate::call::{self, Call};
use crate::delete::{self, DeleteOptions};
use crate::error::{self, Failure};
use crate::object::{self, child};
use crate::strategy::Reach;
use crate::update;

/// `create` of an eviction.
pub(crate) async fn create(call: &mut Call, body: Body) -> Result<Response, Failure> {
    let body = call::read_body(body).await?;
    let eviction = call.decode_as("Eviction", &body)?;
    let given = object::name(&eviction);
    if !given.is_empty() && given != call.name {
        let message = format!("name in URL does not match name in Eviction object: {given:?}");
        return Err(Status::bad_request(message).into());
    }
    let options = DeleteOptions::of(call, &eviction["deleteOptions"])?;
    let pod = object::parse(&call.stored()?)?;
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !options.dry && !ended && !object::is_terminating(&pod) {
        options.check(call, &pod, &call.stored()?)?;
        update::modify(call, Reach::Binding, |mut pod| {
            say_why(&mut pod);
            Ok(pod)
        })
        .await?;
    }
    delete::delete_one(call, &options.without_version()).await?;
    Ok(error::status_response(&Status::created()))
}

/// Sets the condition `DisruptionTarget`, by which controllers tell an eviction from a failure.
fn say_why(pod: &mut Value) {
    const CONDITION: &str = "DisruptionTarget";
    let conditions = child(pod, "status").entry("conditions").or_insert_with(|| json!([]));
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|condition| condition["type"] != CONDITION);
        list.push(json!({
            "type": CONDITION, "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": object::now(),
        }));
    }
}
