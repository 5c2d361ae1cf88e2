//! A process added to a running container.

use std::time::Duration;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    CloseIoRequest, DeleteProcessRequest, ExecProcessRequest, GetContainerRequest, KillRequest, ResizePtyRequest,
    StartRequest, WaitRequest,
};
use nix::sys::signal::Signal;
use prost_types::Any;
use serde_json::{Value, json};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::fifos::Fifos;

/// The namespace of containerd's CRI plugin.
const NAMESPACE: &str = "k8s.io";
/// What containerd calls a process of the OCI runtime specification.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Between asking a command to end and killing it.
const GRACE: Duration = Duration::from_secs(2);

/// containerd's task service.
#[derive(Clone)]
pub(super) struct Tasks {
    channel: Channel,
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request
}

fn words(status: &Status) -> String {
    status.message().to_owned()
}

impl Tasks {
    pub(super) fn new(channel: Channel) -> Self {
        Self { channel }
    }

    fn client(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
    }

    /// The container's own process with other arguments, so that user, environment, directory and rights are the same.
    pub(super) async fn process_spec(&self, container: &str, command: &[String], tty: bool) -> Result<Any, String> {
        let mut containers = ContainersClient::new(self.channel.clone());
        let answer = containers
            .get(request(GetContainerRequest {
                id: container.to_owned(),
            }))
            .await
            .map_err(|status| words(&status))?;
        let spec = answer
            .into_inner()
            .container
            .and_then(|container| container.spec)
            .unwrap_or_default();
        let spec: Value = serde_json::from_slice(&spec.value)
            .map_err(|error| format!("read the container's specification: {error}"))?;
        let value = process_of(&spec, command, tty).to_string().into_bytes();
        Ok(Any {
            type_url: PROCESS_TYPE.to_owned(),
            value,
        })
    }

    /// Starts the process; the shim opens its ends of the FIFOs.
    pub(super) async fn start(&self, container: &str, fifos: &Fifos, spec: Any, tty: bool) -> Result<Process, String> {
        let process = Process {
            tasks: self.clone(),
            container: container.to_owned(),
            id: fifos.id().to_owned(),
        };
        let message = ExecProcessRequest {
            container_id: process.container.clone(),
            exec_id: process.id.clone(),
            stdin: fifos.path("stdin"),
            stdout: fifos.path("stdout"),
            stderr: fifos.path("stderr"),
            terminal: tty,
            spec: Some(spec),
        };
        self.client()
            .exec(request(message))
            .await
            .map_err(|status| words(&status))?;
        let message = StartRequest {
            container_id: process.container.clone(),
            exec_id: process.id.clone(),
        };
        if let Err(status) = self.client().start(request(message)).await {
            process.delete().await;
            return Err(words(&status));
        }
        Ok(process)
    }
}

fn process_of(spec: &Value, command: &[String], tty: bool) -> Value {
    let mut process = spec["process"].clone();
    process["args"] = json!(command);
    process["terminal"] = json!(tty);
    if let Some(map) = process.as_object_mut() {
        map.remove("consoleSize");
        map.remove("commandLine");
    }
    if tty {
        let set = |entry: &Value| entry.as_str().is_some_and(|entry| entry.starts_with("TERM="));
        match process["env"].as_array_mut() {
            Some(variables) if variables.iter().any(set) => {}
            Some(variables) => variables.push(json!("TERM=xterm")),
            None => process["env"] = json!(["TERM=xterm"]),
        }
    }
    process
}

/// A process that has been started.
#[derive(Clone)]
pub(super) struct Process {
    tasks: Tasks,
    container: String,
    id: String,
}

impl Process {
    /// The exit code, once it has ended.
    pub(super) async fn wait(&self) -> Result<u32, String> {
        let message = WaitRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
        };
        let answer = self
            .tasks
            .client()
            .wait(request(message))
            .await
            .map_err(|status| words(&status))?;
        Ok(answer.into_inner().exit_status)
    }

    pub(super) async fn resize(&self, width: u32, height: u32) {
        let message = ResizePtyRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
            width,
            height,
        };
        // A terminal of the wrong size is no reason to end a session.
        let _ = self.tasks.client().resize_pty(request(message)).await;
    }

    /// The shim keeps a writing end of its own; this makes it let go.
    pub(super) async fn close_stdin(&self) {
        let message = CloseIoRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
            stdin: true,
        };
        let _ = self.tasks.client().close_io(request(message)).await;
    }

    async fn signal(&self, signal: Signal) {
        let message = KillRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
            signal: signal as u32,
            all: false,
        };
        let _ = self.tasks.client().kill(request(message)).await;
    }

    /// Ends it as a closed terminal would, then for good.
    pub(super) async fn end(&self) {
        self.signal(Signal::SIGHUP).await;
        if tokio::time::timeout(GRACE, self.wait()).await.is_err() {
            self.signal(Signal::SIGKILL).await;
            let _ = tokio::time::timeout(GRACE, self.wait()).await;
        }
    }

    /// Makes containerd forget it.
    pub(super) async fn delete(&self) {
        let message = DeleteProcessRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
        };
        let _ = self.tasks.client().delete_process(request(message)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_keeps_all_of_the_container_but_its_arguments() {
        let spec = json!({"process": {"args": ["server"], "cwd": "/srv", "user": {"uid": 5}, "env": ["A=1"], "terminal": false}});
        let process = process_of(&spec, &["sh".into(), "-c".into()], true);
        assert_eq!(process["args"], json!(["sh", "-c"]));
        assert_eq!((&process["cwd"], &process["user"]["uid"]), (&json!("/srv"), &json!(5)));
        assert_eq!(process["env"], json!(["A=1", "TERM=xterm"]));
        assert_eq!(process_of(&spec, &["ls".into()], false)["env"], json!(["A=1"]));
    }
}
