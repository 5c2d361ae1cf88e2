//! The real runtime: CRI version 1 over containerd's socket.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::BoxStream;
use hyper_util::rt::TokioIo;
use k8s_cri::v1;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::{Answer, Executed, Runtime, RuntimeError, RuntimeEvent, Trouble, broken_starts, exits, label};

/// How long one ordinary call may take, as with Kubernetes' kubelet.
const CALL_LIMIT: Duration = Duration::from_secs(120);
/// Starting a sandbox runs CNI plugins; on a busy Pi that takes long.
const SANDBOX_LIMIT: Duration = Duration::from_secs(240);
/// A container list with the configuration of some hundred containers; tonic's own limit is 4 MiB.
const LARGEST_ANSWER: usize = 16 << 20;

/// A connection to containerd that opens itself at the first call and again after each failure.
#[derive(Clone)]
pub(crate) struct Containerd {
    channel: Channel,
}

impl Containerd {
    /// Needs a tokio runtime; does not connect yet.
    pub(crate) fn new(socket: PathBuf) -> Self {
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The authority of a request; over a unix socket any valid one does.
        Self {
            channel: Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector),
        }
    }

    /// The channel itself, for containerd's own services beside CRI.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    fn image_store(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }
}

impl From<Status> for RuntimeError {
    fn from(status: Status) -> Self {
        let kind = match status.code() {
            Code::NotFound => Trouble::NotFound,
            Code::Unavailable => Trouble::Away,
            // tonic reports a socket that cannot be reached as Unknown with the transport's error below it.
            _ if std::error::Error::source(&status).is_some() => Trouble::Away,
            _ => Trouble::Other,
        };
        let message = match kind {
            Trouble::Away => "the container runtime is away".into(),
            _ => status.message().to_owned(),
        };
        Self { kind, message }
    }
}

fn request<T>(message: T, limit: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit);
    request
}

fn call<T>(message: T) -> tonic::Request<T> {
    request(message, CALL_LIMIT)
}

/// Repeating a removal must be fine, and containerd sometimes says that what is to go is gone already.
fn gone_is_fine(result: Result<(), Status>) -> Result<(), RuntimeError> {
    match result {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        other => other.map_err(RuntimeError::from),
    }
}

/// A removal that containerd refuses because it holds a task to be running; see [`broken_starts`].
fn is_refused<T>(result: &Result<T, Status>) -> bool {
    result
        .as_ref()
        .is_err_and(|status| status.code() == Code::FailedPrecondition)
}

fn of_pod(pod_uid: Option<&str>) -> HashMap<String, String> {
    pod_uid
        .map(|uid| (label::POD_UID.to_owned(), uid.to_owned()))
        .into_iter()
        .collect()
}

fn missing(what: &str) -> RuntimeError {
    RuntimeError {
        kind: Trouble::Other,
        message: format!("the runtime answered without {what}"),
    }
}

/// containerd notes the time of a start after the fact, the end where it happens: a program that ends at once has then
/// ended before it began. It began no later than it ended.
fn in_order(mut status: v1::ContainerStatus) -> v1::ContainerStatus {
    if status.finished_at > 0 {
        status.started_at = status.started_at.min(status.finished_at);
    }
    status
}

fn too_long(message: &str) -> RuntimeError {
    RuntimeError {
        kind: Trouble::TooLong,
        message: message.to_owned(),
    }
}

fn image_spec(name: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec {
        image: name.to_owned(),
        ..Default::default()
    })
}

impl Runtime for Containerd {
    fn sandboxes<'a>(&'a self, pod_uid: Option<&'a str>) -> Answer<'a, Vec<v1::PodSandbox>> {
        let filter = v1::PodSandboxFilter {
            label_selector: of_pod(pod_uid),
            ..Default::default()
        };
        async move {
            let answer = self
                .runtime()
                .list_pod_sandbox(call(v1::ListPodSandboxRequest { filter: Some(filter) }))
                .await?;
            Ok(answer.into_inner().items)
        }
        .boxed()
    }

    fn containers<'a>(&'a self, pod_uid: Option<&'a str>) -> Answer<'a, Vec<v1::Container>> {
        let filter = v1::ContainerFilter {
            label_selector: of_pod(pod_uid),
            ..Default::default()
        };
        async move {
            let answer = self
                .runtime()
                .list_containers(call(v1::ListContainersRequest { filter: Some(filter) }))
                .await?;
            Ok(answer.into_inner().containers)
        }
        .boxed()
    }

    fn sandbox_status<'a>(&'a self, id: &'a str) -> Answer<'a, v1::PodSandboxStatus> {
        async move {
            let message = v1::PodSandboxStatusRequest {
                pod_sandbox_id: id.to_owned(),
                verbose: false,
            };
            let answer = self.runtime().pod_sandbox_status(call(message)).await?;
            answer.into_inner().status.ok_or_else(|| missing("a sandbox status"))
        }
        .boxed()
    }

    fn container_status<'a>(&'a self, id: &'a str) -> Answer<'a, v1::ContainerStatus> {
        async move {
            let message = v1::ContainerStatusRequest {
                container_id: id.to_owned(),
                verbose: false,
            };
            let answer = self.runtime().container_status(call(message)).await?;
            let status = answer.into_inner().status;
            status.map(in_order).ok_or_else(|| missing("a container status"))
        }
        .boxed()
    }

    fn run_sandbox(&self, config: v1::PodSandboxConfig) -> Answer<'_, String> {
        async move {
            let message = v1::RunPodSandboxRequest {
                config: Some(config),
                runtime_handler: String::new(),
            };
            Ok(self
                .runtime()
                .run_pod_sandbox(request(message, SANDBOX_LIMIT))
                .await?
                .into_inner()
                .pod_sandbox_id)
        }
        .boxed()
    }

    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        async move {
            let message = v1::StopPodSandboxRequest {
                pod_sandbox_id: id.to_owned(),
            };
            gone_is_fine(self.runtime().stop_pod_sandbox(call(message)).await.map(drop))
        }
        .boxed()
    }

    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        async move {
            let message = v1::RemovePodSandboxRequest {
                pod_sandbox_id: id.to_owned(),
            };
            let mut result = self.runtime().remove_pod_sandbox(call(message.clone())).await;
            if is_refused(&result) {
                let filter = v1::ContainerFilter {
                    pod_sandbox_id: id.to_owned(),
                    ..Default::default()
                };
                let inside = self
                    .runtime()
                    .list_containers(call(v1::ListContainersRequest { filter: Some(filter) }))
                    .await?;
                for container in inside.into_inner().containers {
                    broken_starts::end_task(&self.channel, &container.id).await;
                }
                result = self.runtime().remove_pod_sandbox(call(message)).await;
            }
            gone_is_fine(result.map(drop))
        }
        .boxed()
    }

    fn create_container(
        &self,
        sandbox: String,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Answer<'_, String> {
        async move {
            let message = v1::CreateContainerRequest {
                pod_sandbox_id: sandbox,
                config: Some(config),
                sandbox_config: Some(sandbox_config),
            };
            Ok(self
                .runtime()
                .create_container(call(message))
                .await?
                .into_inner()
                .container_id)
        }
        .boxed()
    }

    fn start_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        async move {
            let message = v1::StartContainerRequest {
                container_id: id.to_owned(),
            };
            self.runtime().start_container(call(message)).await?;
            Ok(())
        }
        .boxed()
    }

    fn stop_container<'a>(&'a self, id: &'a str, seconds: i64) -> Answer<'a, ()> {
        async move {
            let message = v1::StopContainerRequest {
                container_id: id.to_owned(),
                timeout: seconds,
            };
            let limit = CALL_LIMIT + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            gone_is_fine(self.runtime().stop_container(request(message, limit)).await.map(drop))
        }
        .boxed()
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        async move {
            let message = v1::RemoveContainerRequest {
                container_id: id.to_owned(),
            };
            let mut result = self.runtime().remove_container(call(message.clone())).await;
            if is_refused(&result) {
                broken_starts::end_task(&self.channel, id).await;
                result = self.runtime().remove_container(call(message)).await;
            }
            gone_is_fine(result.map(drop))
        }
        .boxed()
    }

    fn execute<'a>(&'a self, id: &'a str, command: &'a [String], limit: Option<Duration>) -> Answer<'a, Executed> {
        async move {
            let message = v1::ExecSyncRequest {
                container_id: id.to_owned(),
                cmd: command.to_vec(),
                timeout: limit.map_or(0, |limit| i64::try_from(limit.as_secs()).unwrap_or(i64::MAX)),
            };
            let mut message = tonic::Request::new(message);
            if let Some(limit) = limit {
                // containerd keeps the limit itself; this is for one that does not answer.
                message.set_timeout(limit + CALL_LIMIT);
            }
            let answer = self.runtime().exec_sync(message).await;
            let answer = answer.map_err(|status| match status.code() {
                Code::DeadlineExceeded => too_long(status.message()),
                // containerd 1.6 has no code of its own for it.
                _ if status.message().contains("context deadline exceeded") => too_long(status.message()),
                _ => RuntimeError::from(status),
            })?;
            let answer = answer.into_inner();
            let mut output = answer.stdout;
            output.extend(answer.stderr);
            Ok(Executed {
                exit_code: answer.exit_code,
                output: String::from_utf8_lossy(&output).into_owned(),
            })
        }
        .boxed()
    }

    fn reopen_log<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        async move {
            let message = v1::ReopenContainerLogRequest {
                container_id: id.to_owned(),
            };
            self.runtime().reopen_container_log(call(message)).await?;
            Ok(())
        }
        .boxed()
    }

    fn image<'a>(&'a self, name: &'a str) -> Answer<'a, Option<v1::Image>> {
        async move {
            let message = v1::ImageStatusRequest {
                image: image_spec(name),
                verbose: false,
            };
            Ok(self.image_store().image_status(call(message)).await?.into_inner().image)
        }
        .boxed()
    }

    fn images(&self) -> Answer<'_, Vec<v1::Image>> {
        async move {
            let message = v1::ListImagesRequest { filter: None };
            Ok(self.image_store().list_images(call(message)).await?.into_inner().images)
        }
        .boxed()
    }

    fn pull<'a>(&'a self, name: &'a str) -> Answer<'a, String> {
        async move {
            // No limit: containerd itself gives up when no byte arrives for long.
            let message = v1::PullImageRequest {
                image: image_spec(name),
                auth: None,
                sandbox_config: None,
            };
            Ok(self.image_store().pull_image(message).await?.into_inner().image_ref)
        }
        .boxed()
    }

    fn status(&self) -> Answer<'_, Vec<v1::RuntimeCondition>> {
        async move {
            let answer = self
                .runtime()
                .status(call(v1::StatusRequest { verbose: false }))
                .await?;
            Ok(answer
                .into_inner()
                .status
                .map(|status| status.conditions)
                .unwrap_or_default())
        }
        .boxed()
    }

    fn version(&self) -> Answer<'_, (String, String)> {
        async move {
            let answer = self
                .runtime()
                .version(call(v1::VersionRequest { version: "v1".into() }))
                .await?
                .into_inner();
            Ok((answer.runtime_name, answer.runtime_version))
        }
        .boxed()
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        exits::events(self.channel.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_ends_at_once_began_no_later_than_it_ended() {
        let status = |started_at, finished_at| {
            let status = in_order(v1::ContainerStatus {
                started_at,
                finished_at,
                ..Default::default()
            });
            (status.started_at, status.finished_at)
        };
        assert_eq!(status(9, 7), (7, 7));
        assert_eq!(status(5, 7), (5, 7));
        assert_eq!(status(5, 0), (5, 0), "still running");
    }
}
