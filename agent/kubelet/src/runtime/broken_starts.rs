//! Ending what a start that was broken off left behind.
//!
//! When the caller of a start hangs up (a power cut of the agent alone, an agent killed), containerd 1.6 records the
//! container as ended, keeps its task, and from then on refuses to remove it: `cannot delete running task`. Its own task
//! service still can.

use std::time::Duration;

use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{DeleteTaskRequest, KillRequest, WaitRequest};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::exits::NAMESPACE;

/// A killed process is gone at once, unless the kernel holds it.
const LIMIT: Duration = Duration::from_secs(5);
const KILL: u32 = 9;

fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(LIMIT);
    request
        .metadata_mut()
        .insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request
}

/// Kills the task of a container and removes it; what cannot be done is left for the next try.
pub(super) async fn end_task(channel: &Channel, container: &str) {
    let mut tasks = TasksClient::new(channel.clone());
    let container_id = container.to_owned();
    let killed = tasks
        .kill(request(KillRequest {
            container_id: container_id.clone(),
            signal: KILL,
            all: true,
            ..KillRequest::default()
        }))
        .await;
    if killed.is_ok() {
        let exec_id = String::new();
        let wait = WaitRequest {
            container_id: container_id.clone(),
            exec_id,
        };
        // Whether it has ended shows in the next call.
        let _ = tasks.wait(request(wait)).await;
    }
    match tasks.delete(request(DeleteTaskRequest { container_id })).await {
        Ok(_) => tracing::info!(container, "ended what a broken start had left"),
        Err(error) => tracing::debug!(container, %error, "there is no task to end"),
    }
}
