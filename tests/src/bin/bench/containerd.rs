//! The peer of "created to Running": the same three CRI calls with nothing of minidc around them, against the same
//! containerd in the same run.

use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, LinuxPodSandboxConfig, PodSandboxConfig,
    PodSandboxMetadata, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest,
    runtime_service_client::RuntimeServiceClient,
};
use tokio::net::UnixStream;
use tonic::transport::{Endpoint, Uri};

/// Times of `rounds` bare starts (sandbox, container, start), sorted.
pub(crate) fn starts(socket: PathBuf, image: &str, rounds: usize) -> Result<Vec<Duration>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await?;
        let mut cri = RuntimeServiceClient::new(channel);
        let mut times = Vec::new();
        for round in 0..rounds {
            let sandbox_config = sandbox(round);
            let begin = Instant::now();
            let request = RunPodSandboxRequest {
                config: Some(sandbox_config.clone()),
                ..Default::default()
            };
            let sandbox = cri
                .run_pod_sandbox(request)
                .await
                .context("run a sandbox")?
                .into_inner()
                .pod_sandbox_id;
            let request = CreateContainerRequest {
                pod_sandbox_id: sandbox.clone(),
                config: Some(container(image)),
                sandbox_config: Some(sandbox_config),
            };
            let container = cri
                .create_container(request)
                .await
                .context("create a container")?
                .into_inner()
                .container_id;
            cri.start_container(StartContainerRequest {
                container_id: container,
            })
            .await
            .context("start a container")?;
            times.push(begin.elapsed());
            cri.stop_pod_sandbox(StopPodSandboxRequest {
                pod_sandbox_id: sandbox.clone(),
            })
            .await?;
            cri.remove_pod_sandbox(RemovePodSandboxRequest {
                pod_sandbox_id: sandbox,
            })
            .await?;
        }
        times.sort_unstable();
        Ok(times)
    })
}

fn sandbox(round: usize) -> PodSandboxConfig {
    PodSandboxConfig {
        // no kubelet label: minidc must not take it for one of its pods
        metadata: Some(PodSandboxMetadata {
            name: format!("bare-{round}"),
            uid: format!("bare-{round}"),
            namespace: "bench".into(),
            attempt: 0,
        }),
        hostname: format!("bare-{round}"),
        log_directory: format!("/var/log/pods/bare-{round}"),
        linux: Some(LinuxPodSandboxConfig::default()),
        labels: HashMap::new(),
        ..Default::default()
    }
}

fn container(image: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: "main".into(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: image.into(),
            ..Default::default()
        }),
        log_path: "main.log".into(),
        ..Default::default()
    }
}
