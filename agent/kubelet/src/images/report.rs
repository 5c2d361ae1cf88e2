//! Telling the control plane which nodes hold an archive: one object, written by many nodes.

use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, Offline};

/// Tries against other nodes that write the same object; they all start when an image is imported.
const TRIES: u32 = 20;

/// Adds this node to those that hold the archive, or to those that could not import it. `false` when it was not taken.
pub(super) async fn report(
    control_plane: &dyn ControlPlane,
    node: &str,
    image: &str,
    failure: Option<&str>,
) -> Result<bool, Offline> {
    let path = format!("/apis/minidc.dev/v1/images/{image}");
    for _ in 0..TRIES {
        let (code, answer) = control_plane
            .request("GET", path.clone(), "application/json", Vec::new())
            .await?;
        let Ok(object) = serde_json::from_slice::<Value>(&answer) else {
            return Ok(false);
        };
        match code {
            200..300 => {}
            // The object is gone: nobody wants to know.
            404 => return Ok(true),
            _ => return Ok(false),
        }
        let Some(status) = with_report(&object["status"], node, failure) else {
            return Ok(true);
        };
        let version = &object["metadata"]["resourceVersion"];
        let patch = json!({"metadata": {"resourceVersion": version}, "status": status})
            .to_string()
            .into_bytes();
        let answer = control_plane
            .request("PATCH", format!("{path}/status"), "application/merge-patch+json", patch)
            .await?;
        match answer.0 {
            200..300 => return Ok(true),
            // Another node was faster.
            409 => {}
            code => {
                tracing::warn!(image, code, answer = %String::from_utf8_lossy(&answer.1), "the report on an image is refused");
                return Ok(false);
            }
        }
    }
    Ok(false)
}

/// The status with this node's report in it; `None` when it is there already.
fn with_report(status: &Value, node: &str, failure: Option<&str>) -> Option<Value> {
    let list = |field: &str| status[field].as_array().cloned().unwrap_or_default();
    let (mut nodes, mut failures) = (list("nodes"), list("failures"));
    nodes.retain(|known| known != node);
    failures.retain(|known| known["node"] != node);
    match failure {
        None => nodes.push(json!(node)),
        Some(message) => failures.push(json!({"node": node, "message": message})),
    }
    nodes.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
    let same = |field: &str, new: &[Value]| {
        list(field).len() == new.len() && new.iter().all(|entry| list(field).contains(entry))
    };
    if same("nodes", &nodes) && same("failures", &failures) {
        return None;
    }
    Some(json!({"nodes": nodes, "failures": failures}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_is_added_once_and_its_failure_goes() {
        let before = json!({"nodes": ["pi-2"], "failures": [{"node": "pi-1", "message": "no space"}]});
        let after = with_report(&before, "pi-1", None).unwrap();
        assert_eq!(after, json!({"nodes": ["pi-1", "pi-2"], "failures": []}));
        assert_eq!(with_report(&after, "pi-1", None), None);
    }

    #[test]
    fn failure_replaces_the_one_before_and_leaves_others() {
        let before = json!({"nodes": ["pi-1"], "failures": [{"node": "pi-2", "message": "x"}]});
        let after = with_report(&before, "pi-1", Some("no space")).unwrap();
        assert_eq!(after["nodes"], json!([]));
        assert_eq!(
            after["failures"],
            json!([{"node": "pi-2", "message": "x"}, {"node": "pi-1", "message": "no space"}])
        );
    }
}
