//! What a pod asks to be done after a container has started and before it is stopped.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::identity::PodIdentity;
use crate::probes::http;
use crate::runtime::Runtime;

/// Does what `handler` says in or to the container `id`, and waits until it is done.
///
/// # Errors
/// What went wrong, in Kubernetes' words. As there, any answer to an HTTP request is a good one, and `tcpSocket`, which
/// was never acted on, is an error.
pub(super) async fn run(
    runtime: &dyn Runtime,
    pod: &PodIdentity,
    container: &Container,
    id: &str,
    pod_ip: &str,
    handler: &LifecycleHandler,
) -> Result<(), String> {
    let of = || {
        format!(
            "for Container {:?} in Pod {:?} failed - error",
            container.name,
            pod.to_string()
        )
    };
    if let Some(action) = &handler.exec {
        let command = action.command.as_deref().unwrap_or_default();
        let hook = || format!("Exec lifecycle hook ([{}]) {}", command.join(" "), of());
        return match runtime.execute(id, command, None).await {
            Ok(executed) if executed.exit_code == 0 => Ok(()),
            Ok(executed) => Err(format!(
                "{}: command '{}' exited with {}: , message: {:?}",
                hook(),
                command.join(" "),
                executed.exit_code,
                executed.output
            )),
            Err(error) => Err(format!("{}: {}, message: \"\"", hook(), error.message)),
        };
    }
    if let Some(action) = &handler.http_get {
        let path = action.path.as_deref().unwrap_or_default();
        let hook = |error: String| format!("HTTP lifecycle hook ({path}) {}: {error}", of());
        let request = http::Request::of(action, container, pod_ip, "kube-lifecycle").map_err(hook)?;
        http::get(request, None).await.map_err(hook)?;
        return Ok(());
    }
    if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("Cannot run handler: invalid handler".into())
}
