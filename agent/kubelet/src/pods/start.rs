//! Starting things: the sandbox of a pod, and one container in it.

use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::container::{self, Parts, ReadyMount};
use crate::context::Context;
use crate::desired::Desired;
use crate::environment::{Environment, Lookup, NodeFacts, environment, services};
use crate::identity::PodIdentity;
use crate::plan::Waiting;
use crate::recorder::Severity;
use crate::runtime::{RuntimeError, Trouble};
use crate::sandbox::Resolver;
use crate::volumes::Volumes;
use crate::{resources, sandbox, volumes};

use super::hooks;
use super::image::{self, Pulls};

/// Where the pod sees its names.
const HOSTS: &str = "/etc/hosts";

/// The path of a container in the pod, as events and `kubectl describe` name it.
pub(crate) fn field_path(spec: &PodSpec, name: &str) -> String {
    let init = spec
        .init_containers
        .iter()
        .flatten()
        .any(|container| container.name == name);
    format!("spec.{}{{{name}}}", if init { "initContainers" } else { "containers" })
}

/// Makes and starts a sandbox.
pub(crate) async fn sandbox(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    desired: &Arc<Desired>,
    attempt: u32,
) -> Result<String, RuntimeError> {
    let (shared, wanted, desired) = (context.clone(), pod.clone(), desired.clone());
    let config = tokio::task::spawn_blocking(move || {
        let identity = PodIdentity::of(&wanted);
        let empty = PodSpec::default();
        let spec = wanted.spec.as_ref().unwrap_or(&empty);
        let group = sandbox::cgroup_parent(&identity, spec);
        if let Err(error) = shared.cgroups.prepare(&group, &resources::pod_resources(spec)) {
            tracing::warn!(pod = %identity, group, %error, "the pod runs without its share among pods");
        }
        for directory in [
            shared.directories.pod(&identity.uid),
            shared.directories.pod_logs(&identity),
        ] {
            if let Err(error) = std::fs::create_dir_all(&directory) {
                tracing::warn!(directory = %directory.display(), %error, "cannot make a directory of a pod");
            }
        }
        let hostname = sandbox::node_name(&identity, spec, &desired.cluster_domain)?;
        let Resolver { config, warnings } = sandbox::resolver(&desired, &identity, spec, &sandbox::node_resolv_conf());
        for (reason, message) in warnings {
            shared.recorder.pod(&identity, Severity::Warning, reason, message);
        }
        Ok(sandbox::config(
            &shared.directories,
            &wanted,
            attempt,
            hostname,
            Some(config),
        ))
    })
    .await;
    let config = config
        .unwrap_or_else(|_| Err("preparing the sandbox failed".into()))
        .map_err(|message| RuntimeError {
            kind: Trouble::Other,
            message,
        })?;
    let _permit = context.starts.acquire().await;
    context.runtime.run_sandbox(config).await
}

/// What a container is started with, beside the pod.
pub(crate) struct Around<'a> {
    pub(crate) pod: &'a Arc<Pod>,
    pub(crate) desired: &'a Arc<Desired>,
    pub(crate) node: &'a Arc<NodeFacts>,
    pub(crate) pod_ips: &'a [String],
    pub(crate) volumes: &'a Arc<Volumes>,
    pub(crate) sandbox: &'a str,
    pub(crate) sandbox_attempt: u32,
}

/// Has the image, makes the container and starts it; `Err` says why it waits, `None` that `given_up` came first.
///
/// A pull may take long and is dropped when the pod is to go. The start itself is not: containerd 1.6 leaves a task that
/// it can neither stop nor remove when the caller of a start hangs up.
pub(crate) async fn container(
    context: &Arc<Context>,
    around: &Around<'_>,
    wanted: &Container,
    attempt: u32,
    pulls: &mut Pulls,
    given_up: impl Future<Output = ()>,
) -> Option<Result<(), Waiting>> {
    let mut given_up = std::pin::pin!(given_up);
    let identity = PodIdentity::of(around.pod);
    let empty = PodSpec::default();
    let spec = around.pod.spec.as_ref().unwrap_or(&empty);
    let field = field_path(spec, &wanted.name);
    let say =
        |severity, reason, message: String| context.recorder.container(&identity, &field, severity, reason, message);
    let fail = |reason: &str, message: String, event: String| {
        say(Severity::Warning, "Failed", event);
        Some(Err(Waiting {
            reason: reason.into(),
            message,
        }))
    };

    let ensured = tokio::select! {
        ensured = image::ensure(context, &identity, &field, wanted, pulls) => ensured,
        () = &mut given_up => return None,
    };
    let image = match ensured {
        Ok(image) => image,
        Err(waiting) => {
            say(Severity::Warning, "Failed", format!("Error: {}", waiting.reason));
            return Some(Err(waiting));
        }
    };
    let prepared = {
        let (context, pod, wanted) = (context.clone(), around.pod.clone(), wanted.clone());
        let (desired, node, volumes) = (around.desired.clone(), around.node.clone(), around.volumes.clone());
        let pod_ips = around.pod_ips.to_vec();
        tokio::task::spawn_blocking(move || {
            let lookup = Lookup {
                pod: &pod,
                desired: &desired,
                node: &node,
                pod_ips: &pod_ips,
            };
            prepare(&context, &lookup, &wanted, &volumes, attempt)
        })
        .await
        .unwrap_or_else(|_| Err("preparing the container failed".into()))
    };
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(message) => {
            return fail(
                "CreateContainerConfigError",
                message.clone(),
                format!("Error: {message}"),
            );
        }
    };
    for message in &prepared.environment.skipped {
        say(Severity::Warning, "InvalidEnvironmentVariableNames", message.clone());
    }
    let parts = Parts {
        pod: around.pod,
        container: wanted,
        attempt,
        environment: &prepared.environment,
        image: &image,
        mounts: prepared.mounts,
        termination_message: &prepared.termination_message,
        memory_capacity: around.node.memory,
    };
    let config = match container::config(&parts) {
        Ok(config) => config,
        Err(message) => {
            return fail(
                "CreateContainerConfigError",
                message.clone(),
                format!("Error: {message}"),
            );
        }
    };
    let hostname = sandbox::node_name(&identity, spec, &around.desired.cluster_domain).unwrap_or_default();
    let sandbox_config = sandbox::config(&context.directories, around.pod, around.sandbox_attempt, hostname, None);
    let _permit = tokio::select! {
        permit = context.starts.acquire() => permit,
        () = &mut given_up => return None,
    };
    let created = context
        .runtime
        .create_container(around.sandbox.to_owned(), config, sandbox_config)
        .await;
    let id = match created {
        Ok(id) => id,
        Err(error) => {
            return fail(
                "CreateContainerError",
                error.message.clone(),
                format!("Error: {}", error.message),
            );
        }
    };
    say(Severity::Normal, "Created", "Container created".into());
    if let Err(error) = context.runtime.start_container(&id).await {
        return fail(
            "RunContainerError",
            error.message.clone(),
            format!("Error: {}", error.message),
        );
    }
    say(Severity::Normal, "Started", "Container started".into());
    let Some(handler) = wanted.lifecycle.as_ref().and_then(|hooks| hooks.post_start.as_ref()) else {
        return Some(Ok(()));
    };
    let addresses = if spec.host_network == Some(true) {
        &around.node.addresses
    } else {
        around.pod_ips
    };
    let pod_ip = addresses.first().map(String::as_str).unwrap_or_default();
    let done = tokio::select! {
        done = hooks::run(&*context.runtime, &identity, wanted, &id, pod_ip, handler) => done,
        () = &mut given_up => return None,
    };
    let Err(message) = done else {
        return Some(Ok(()));
    };
    // Without the reason, which may hold what the server keeps secret.
    say(Severity::Warning, "FailedPostStartHook", "PostStartHook failed".into());
    say(Severity::Normal, "Killing", "FailedPostStartHook".into());
    if let Err(error) = context
        .runtime
        .stop_container(&id, sandbox::grace_period(around.pod))
        .await
    {
        tracing::warn!(pod = %identity, %error, "cannot stop a container whose hook failed");
    }
    Some(Err(Waiting {
        reason: "PostStartHookError".into(),
        message,
    }))
}

struct Prepared {
    environment: Environment,
    mounts: Vec<ReadyMount>,
    termination_message: std::path::PathBuf,
}

/// The blocking part: files and mounts.
fn prepare(
    context: &Context,
    lookup: &Lookup<'_>,
    wanted: &Container,
    volumes: &Volumes,
    attempt: u32,
) -> Result<Prepared, String> {
    let identity = PodIdentity::of(lookup.pod);
    let services = services::variables(&*context.surroundings, lookup.pod);
    let environment = environment(lookup, wanted, services)?;
    let directories = &context.directories;
    let mut mounts = volumes::container_mounts(directories, lookup.pod, wanted, volumes, &environment)?;
    let termination_message = directories.termination_message(&identity.uid, &wanted.name, attempt);
    let hosts = directories.hosts(&identity.uid);
    let files = (|| {
        if let Some(parent) = termination_message.parent() {
            // The words of earlier instances have been read.
            if parent.exists() {
                std::fs::remove_dir_all(parent)?;
            }
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&termination_message, "")?;
        // The container may run as any user.
        set_mode(&termination_message, 0o666)?;
        let host_network = lookup
            .pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.host_network == Some(true));
        let node_hosts = if host_network {
            std::fs::read_to_string(HOSTS).unwrap_or_default()
        } else {
            String::new()
        };
        let domain = &lookup.desired.cluster_domain;
        let text = sandbox::hosts_file(domain, lookup.pod, lookup.pod_ips, &node_hosts);
        if std::fs::read_to_string(&hosts).ok().as_ref() != Some(&text) {
            std::fs::write(&hosts, text)?;
            set_mode(&hosts, 0o644)?;
        }
        Ok::<_, std::io::Error>(())
    })();
    files.map_err(|error| format!("write the files of container \"{}\": {error}", wanted.name))?;
    if !mounts.iter().any(|mount| mount.container_path == HOSTS) {
        let read_only = wanted
            .security_context
            .as_ref()
            .is_some_and(|context| context.read_only_root_filesystem == Some(true));
        mounts.push(ReadyMount {
            container_path: HOSTS.into(),
            host_path: hosts,
            read_only,
            propagation: None,
        });
    }
    Ok(Prepared {
        environment,
        mounts,
        termination_message,
    })
}

fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}
