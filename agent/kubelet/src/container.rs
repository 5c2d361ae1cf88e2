//! From a container of a pod to what CRI is told of it.

use std::path::{Path, PathBuf};

use k8s_cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, SecurityContext};
use sha2::{Digest, Sha256};

use crate::directories::log_path;
use crate::environment::Environment;
use crate::identity::PodIdentity;
use crate::runtime::label;
use crate::{resources, sandbox};

/// Where a container writes its last words when it says nothing else.
const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";
/// Hidden from containers unless `procMount: Unmasked`; Kubernetes' list.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Not to be written by containers unless `procMount: Unmasked`; Kubernetes' list.
const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Tells whether a running container is still the one that the pod asks for. As in Kubernetes only name and image
/// count: the other fields cannot change, and a new default must not restart what runs.
pub(crate) fn hash(container: &Container) -> String {
    let mut hash = Sha256::new();
    hash.update(&container.name);
    hash.update([0]);
    hash.update(container.image.as_deref().unwrap_or_default());
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Where the container's last words are expected inside of it.
pub(crate) fn termination_message_path(container: &Container) -> &str {
    container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or(TERMINATION_MESSAGE_PATH)
}

/// A volume or file, ready on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadyMount {
    pub(crate) container_path: String,
    pub(crate) host_path: PathBuf,
    pub(crate) read_only: bool,
    /// As in `mountPropagation`.
    pub(crate) propagation: Option<String>,
}

/// All that goes into the configuration beside the pod itself.
pub(crate) struct Parts<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) attempt: u32,
    pub(crate) environment: &'a Environment,
    /// Reference of the image as the runtime knows it.
    pub(crate) image: &'a v1::Image,
    pub(crate) mounts: Vec<ReadyMount>,
    /// The file for the last words.
    pub(crate) termination_message: &'a Path,
    /// Memory of the node in bytes.
    pub(crate) memory_capacity: u64,
}

/// The configuration.
///
/// # Errors
/// The message of `CreateContainerConfigError`.
pub(crate) fn config(parts: &Parts<'_>) -> Result<v1::ContainerConfig, String> {
    let Parts {
        pod,
        container,
        attempt,
        environment,
        image,
        ..
    } = parts;
    let identity = PodIdentity::of(pod);
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let context = effective_context(spec, container);
    check_user(&identity, container, &context, image)?;

    let expand = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|word| environment.expand(word)).collect()
    };
    let mut mounts: Vec<v1::Mount> = parts.mounts.iter().map(mount).collect();
    let termination_path = termination_message_path(container);
    mounts.push(v1::Mount {
        container_path: termination_path.to_owned(),
        host_path: parts.termination_message.display().to_string(),
        ..Default::default()
    });
    let mut labels: std::collections::HashMap<_, _> = sandbox::pod_labels(&identity).into();
    labels.insert(label::CONTAINER_NAME.into(), container.name.clone());
    let policy = container.termination_message_policy.as_deref().unwrap_or("File");
    let annotations = [
        (label::CONTAINER_HASH, hash(container)),
        (label::RESTART_COUNT, attempt.to_string()),
        (label::TERMINATION_MESSAGE_PATH, termination_path.to_owned()),
        (label::TERMINATION_MESSAGE_POLICY, policy.to_owned()),
        (label::GRACE_PERIOD, sandbox::grace_period(pod).to_string()),
    ];
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: container.name.clone(),
            attempt: *attempt,
        }),
        image: Some(v1::ImageSpec {
            image: image.id.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: environment
            .variables
            .iter()
            .map(|(key, value)| v1::KeyValue {
                key: key.clone(),
                value: value.clone(),
            })
            .collect(),
        mounts,
        labels,
        annotations: annotations
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        log_path: log_path(&container.name, *attempt).display().to_string(),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::container_resources(spec, container, parts.memory_capacity)),
            security_context: Some(security_context(spec, &context, image)),
        }),
        ..Default::default()
    })
}

fn mount(ready: &ReadyMount) -> v1::Mount {
    let propagation = match ready.propagation.as_deref() {
        Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
        _ => v1::MountPropagation::PropagationPrivate,
    };
    v1::Mount {
        container_path: ready.container_path.clone(),
        host_path: ready.host_path.display().to_string(),
        readonly: ready.read_only,
        propagation: propagation.into(),
        ..Default::default()
    }
}

/// The container's own security context with the pod's where it says nothing.
fn effective_context(spec: &PodSpec, container: &Container) -> SecurityContext {
    let mut context = container.security_context.clone().unwrap_or_default();
    let pod = spec.security_context.clone().unwrap_or_default();
    context.run_as_user = context.run_as_user.or(pod.run_as_user);
    context.run_as_group = context.run_as_group.or(pod.run_as_group);
    context.run_as_non_root = context.run_as_non_root.or(pod.run_as_non_root);
    context.seccomp_profile = context.seccomp_profile.or(pod.seccomp_profile);
    context
}

/// `runAsNonRoot` is kept before anything runs.
fn check_user(
    pod: &PodIdentity,
    container: &Container,
    context: &SecurityContext,
    image: &v1::Image,
) -> Result<(), String> {
    if context.run_as_non_root != Some(true) {
        return Ok(());
    }
    let of = format!("(pod: \"{pod}\", container: {})", container.name);
    match context.run_as_user {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {of}")),
        Some(_) => return Ok(()),
        None => {}
    }
    match &image.uid {
        Some(uid) if uid.value == 0 => Err(format!("container has runAsNonRoot and image will run as root {of}")),
        None if image.username.is_empty() => Err(format!("container has runAsNonRoot and image will run as root {of}")),
        None => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {of}",
            image.username
        )),
        Some(_) => Ok(()),
    }
}

fn security_context(spec: &PodSpec, context: &SecurityContext, image: &v1::Image) -> v1::LinuxContainerSecurityContext {
    let privileged = context.privileged == Some(true);
    let capabilities = context.capabilities.clone().unwrap_or_default();
    let unmasked = context.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| {
        if unmasked {
            Vec::new()
        } else {
            list.iter().map(|path| (*path).to_owned()).collect()
        }
    };
    let seccomp = if privileged {
        sandbox::seccomp(None)
    } else {
        sandbox::seccomp(context.seccomp_profile.as_ref())
    };
    let run_as_user = context.run_as_user.or(image.uid.as_ref().map(|uid| uid.value));
    v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            ..Default::default()
        }),
        privileged,
        namespace_options: Some(sandbox::namespaces(spec)),
        run_as_user: run_as_user.map(|value| v1::Int64Value { value }),
        run_as_username: if run_as_user.is_none() {
            image.username.clone()
        } else {
            String::new()
        },
        run_as_group: context.run_as_group.map(|value| v1::Int64Value { value }),
        readonly_rootfs: context.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: sandbox::supplemental_groups(spec),
        no_new_privs: context.allow_privilege_escalation == Some(false) && !privileged,
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READ_ONLY_PATHS),
        seccomp: Some(seccomp),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made(spec: serde_json::Value, image: &v1::Image) -> Result<v1::ContainerConfig, String> {
        let mut pod = json!({"metadata": {"name": "web-1", "namespace": "shop", "uid": "u1"}});
        pod["spec"] = spec;
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let environment = Environment {
            variables: vec![("A".into(), "1".into())],
            skipped: Vec::new(),
        };
        config(&Parts {
            pod: &pod,
            container,
            attempt: 3,
            environment: &environment,
            image,
            mounts: Vec::new(),
            termination_message: Path::new("/t"),
            memory_capacity: 1 << 30,
        })
    }

    #[test]
    fn command_and_arguments_are_expanded() {
        let spec =
            json!({"containers": [{"name": "c", "image": "i", "command": ["run", "$(A)"], "args": ["$(B)", "$$(A)"]}]});
        let got = made(
            spec,
            &v1::Image {
                id: "sha256:1".into(),
                ..Default::default()
            },
        )
        .unwrap();
        assert_eq!(got.command, ["run", "1"]);
        assert_eq!(got.args, ["$(B)", "$(A)"]);
        assert_eq!(got.log_path, "c/3.log");
        assert_eq!(got.annotations[label::RESTART_COUNT], "3");
        assert_eq!(got.image.unwrap().image, "sha256:1");
    }

    #[test]
    fn root_image_is_refused_for_non_root_pods() {
        let spec = json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c"}]});
        let refused = made(spec.clone(), &v1::Image::default()).unwrap_err();
        assert_eq!(
            refused,
            "container has runAsNonRoot and image will run as root (pod: \"web-1_shop(u1)\", container: c)"
        );
        let user = v1::Image {
            uid: Some(v1::Int64Value { value: 1000 }),
            ..Default::default()
        };
        assert!(made(spec, &user).is_ok());
    }

    #[test]
    fn container_says_more_than_the_pod() {
        let spec = json!({"securityContext": {"runAsUser": 5, "fsGroup": 7}, "containers": [
            {"name": "c", "securityContext": {"runAsUser": 6, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
        let got = made(spec, &v1::Image::default())
            .unwrap()
            .linux
            .unwrap()
            .security_context
            .unwrap();
        assert_eq!(got.run_as_user.unwrap().value, 6);
        assert_eq!(got.supplemental_groups, [7]);
        assert!(got.no_new_privs);
        assert_eq!(got.capabilities.unwrap().drop_capabilities, ["ALL"]);
    }

    #[test]
    fn only_name_and_image_make_another_container() {
        let of = |value: serde_json::Value| hash(&serde_json::from_value(value).unwrap());
        let first = of(json!({"name": "c", "image": "i:1"}));
        assert_eq!(first, of(json!({"name": "c", "image": "i:1", "env": [{"name": "A"}]})));
        assert_ne!(first, of(json!({"name": "c", "image": "i:2"})));
    }
}
