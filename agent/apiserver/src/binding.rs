//! `pods/binding`: gives a pod its node, once.

use axum::body::Body;
use axum::response::Response;
use minidc_api::status::Status;
use serde_json::{Value, json};

use crate::call::{self, Call};
use crate::error::{self, Failure};
use crate::object::{self, child, metadata};
use crate::strategy::Reach;
use crate::update;

/// `create` of a binding.
pub(crate) async fn create(call: &mut Call, body: Body) -> Result<Response, Failure> {
    let body = call::read_body(body).await?;
    let binding = call.decode_as("Binding", &body)?;
    let given = object::name(&binding);
    if !given.is_empty() && given != call.name {
        let message = format!("name in URL does not match name in Binding object: {given}");
        return Err(Status::bad_request(message).into());
    }
    let target = &binding["target"];
    let kind = target["kind"].as_str().unwrap_or("");
    if !kind.is_empty() && kind != "Node" {
        return Err(invalid(
            &call.name,
            &format!("target.kind: Unsupported value: {kind:?}: supported values: \"Node\", \"\""),
        ));
    }
    let node = target["name"].as_str().unwrap_or("").to_owned();
    if node.is_empty() {
        return Err(invalid(&call.name, "target.name: Required value"));
    }
    let (pods, name) = (call.kind, call.name.clone());
    update::modify(call, Reach::Binding, |mut pod| {
        bind(&mut pod, &node, &binding).map_err(|reason| Failure::from(Status::conflict(pods, &name, &reason)))?;
        Ok(pod)
    })
    .await?;
    Ok(error::status_response(&Status::created()))
}

fn invalid(name: &str, detail: &str) -> Failure {
    Status::passed_on(422, format!("Binding {name:?} is invalid: {detail}")).into()
}

/// Sets the node and what goes with it; the error is the reason of a conflict.
fn bind(pod: &mut Value, node: &str, binding: &Value) -> Result<(), String> {
    let name = object::name(pod).to_owned();
    let uid = object::meta(binding, "uid");
    if !uid.is_empty() && uid != object::meta(pod, "uid") {
        return Err(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object::meta(pod, "uid")
        ));
    }
    if object::is_terminating(pod) {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let present = pod["spec"]["nodeName"].as_str().unwrap_or("");
    if !present.is_empty() {
        return Err(format!("pod {name} is already assigned to node {present:?}"));
    }
    child(pod, "spec").insert("nodeName".to_owned(), node.into());
    if let Some(annotations) = binding["metadata"]["annotations"].as_object() {
        let meta = metadata(pod);
        let merged = meta.entry("annotations").or_insert_with(|| json!({}));
        if !merged.is_object() {
            *merged = json!({});
        }
        for (key, value) in annotations {
            merged[key] = value.clone();
        }
    }
    let conditions = child(pod, "status").entry("conditions").or_insert_with(|| json!([]));
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|condition| condition["type"] != "PodScheduled");
        list.push(json!({
            "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": object::now(),
        }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_is_bound_once() {
        let mut pod = json!({
            "metadata": {"name": "a"}, "spec": {},
            "status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}
        });
        bind(&mut pod, "pi-1", &json!({"metadata": {"annotations": {"x": "y"}}})).unwrap();
        assert_eq!(pod["spec"]["nodeName"], "pi-1");
        assert_eq!(pod["metadata"]["annotations"]["x"], "y");
        assert_eq!(pod["status"]["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(pod["status"]["conditions"][0]["status"], "True");
        let refusal = bind(&mut pod, "pi-2", &json!({})).unwrap_err();
        assert_eq!(refusal, "pod a is already assigned to node \"pi-1\"");
    }
}
