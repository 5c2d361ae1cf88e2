//! From a pod to the sandbox that its containers share.

mod names;
mod resolver;

use std::collections::HashMap;

use k8s_cri::v1;
use k8s_openapi::api::core::v1::{Pod, PodSpec, SeccompProfile};

use crate::directories::Directories;
use crate::identity::PodIdentity;
use crate::plan::is_sidecar;
use crate::resources;
use crate::runtime::label;

pub(crate) use names::{hosts_file, node_name};
pub(crate) use resolver::{Resolver, node_resolv_conf, resolver};

/// Above all pods, below it one directory per class.
pub(crate) const CGROUP_ROOT: &str = "minidc";
/// An annotation that `kubectl apply` makes as large as the object itself; no runtime wants it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Where a pod's cgroup is below each controller's root.
pub(crate) fn cgroup_parent(pod: &PodIdentity, spec: &PodSpec) -> String {
    format!(
        "/{CGROUP_ROOT}/{}/pod{}",
        resources::qos_class(spec).directory(),
        pod.uid
    )
}

/// What CRI is told of the sandbox. The same configuration accompanies each container of it, then without `dns_config`,
/// which is the sandbox's affair.
pub(crate) fn config(
    directories: &Directories,
    pod: &Pod,
    attempt: u32,
    hostname: String,
    dns_config: Option<v1::DnsConfig>,
) -> v1::PodSandboxConfig {
    let identity = PodIdentity::of(pod);
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let host_network = spec.host_network == Some(true);

    let mut labels: HashMap<String, String> = pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(pod_labels(&identity));
    let mut annotations: HashMap<String, String> = pod
        .metadata
        .annotations
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    annotations.remove(LAST_APPLIED);
    annotations.insert(label::GRACE_PERIOD.into(), grace_period(pod).to_string());

    v1::PodSandboxConfig {
        hostname: if host_network { String::new() } else { hostname },
        log_directory: directories.pod_logs(&identity).display().to_string(),
        dns_config,
        port_mappings: if host_network { Vec::new() } else { port_mappings(spec) },
        labels,
        annotations,
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent(&identity, spec),
            security_context: Some(security_context(spec)),
            sysctls: spec
                .security_context
                .iter()
                .flat_map(|context| context.sysctls.iter().flatten())
                .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
                .collect(),
            ..Default::default()
        }),
        metadata: Some(v1::PodSandboxMetadata {
            name: identity.name,
            uid: identity.uid,
            namespace: identity.namespace,
            attempt,
        }),
        ..Default::default()
    }
}

/// Seconds between asking a pod to end and killing it; what a deletion asked for counts before the pod's own wish.
pub(crate) fn grace_period(pod: &Pod) -> i64 {
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    pod.metadata.deletion_grace_period_seconds.or(own).unwrap_or(30).max(0)
}

/// The labels that tie runtime objects to their pod.
pub(crate) fn pod_labels(pod: &PodIdentity) -> [(String, String); 3] {
    [
        (label::POD_NAME.into(), pod.name.clone()),
        (label::POD_NAMESPACE.into(), pod.namespace.clone()),
        (label::POD_UID.into(), pod.uid.clone()),
    ]
}

/// Which namespaces are shared with whom.
pub(crate) fn namespaces(spec: &PodSpec) -> v1::NamespaceOption {
    let node_or = |node: Option<bool>, otherwise: v1::NamespaceMode| {
        if node == Some(true) {
            v1::NamespaceMode::Node
        } else {
            otherwise
        }
    };
    let shared_pid = spec.share_process_namespace == Some(true);
    let pid = if shared_pid {
        v1::NamespaceMode::Pod
    } else {
        v1::NamespaceMode::Container
    };
    v1::NamespaceOption {
        network: node_or(spec.host_network, v1::NamespaceMode::Pod).into(),
        pid: node_or(spec.host_pid, pid).into(),
        ipc: node_or(spec.host_ipc, v1::NamespaceMode::Pod).into(),
        ..Default::default()
    }
}

fn security_context(spec: &PodSpec) -> v1::LinuxSandboxSecurityContext {
    let context = spec.security_context.clone().unwrap_or_default();
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(spec)),
        run_as_user: context.run_as_user.map(|value| v1::Int64Value { value }),
        run_as_group: context.run_as_group.map(|value| v1::Int64Value { value }),
        supplemental_groups: supplemental_groups(spec),
        privileged: containers.any(|container| {
            container
                .security_context
                .as_ref()
                .is_some_and(|context| context.privileged == Some(true))
        }),
        // The sandbox's own program needs next to nothing.
        seccomp: Some(v1::SecurityProfile::default()),
        ..Default::default()
    }
}

/// The pod's extra groups, the one that owns its volumes among them.
pub(crate) fn supplemental_groups(spec: &PodSpec) -> Vec<i64> {
    let Some(context) = &spec.security_context else {
        return Vec::new();
    };
    context
        .fs_group
        .into_iter()
        .chain(context.supplemental_groups.iter().flatten().copied())
        .collect()
}

/// Kubernetes runs containers unconfined unless the pod says otherwise.
pub(crate) fn seccomp(profile: Option<&SeccompProfile>) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (kind, localhost_ref) = match profile.map(|profile| (profile.type_.as_str(), &profile.localhost_profile)) {
        Some(("RuntimeDefault", _)) => (ProfileType::RuntimeDefault, String::new()),
        Some(("Localhost", file)) => {
            let file = file.as_deref().unwrap_or_default();
            (ProfileType::Localhost, format!("/var/lib/kubelet/seccomp/{file}"))
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    v1::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref,
    }
}

fn port_mappings(spec: &PodSpec) -> Vec<v1::PortMapping> {
    let sidecars = spec.init_containers.iter().flatten().filter(|init| is_sidecar(init));
    let ports = sidecars
        .chain(&spec.containers)
        .flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            };
            Some(v1::PortMapping {
                protocol: protocol.into(),
                container_port: port.container_port,
                host_port: port.host_port.filter(|port| *port > 0)?,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made(spec: serde_json::Value) -> v1::PodSandboxConfig {
        let directories = Directories {
            pods: "/data/pods".into(),
            logs: "/var/log/pods".into(),
        };
        let mut pod = json!({"metadata": {"name": "web-1", "namespace": "shop", "uid": "u1"}});
        pod["spec"] = spec;
        let pod: Pod = serde_json::from_value(pod).unwrap();
        config(&directories, &pod, 2, "web-1".into(), None)
    }

    #[test]
    fn sandbox_carries_identity_cgroup_and_log_directory() {
        let got = made(json!({"containers": [{"name": "c"}]}));
        let linux = got.linux.unwrap();
        assert_eq!(linux.cgroup_parent, "/minidc/besteffort/podu1");
        assert_eq!(got.log_directory, "/var/log/pods/shop_web-1_u1");
        assert_eq!(got.hostname, "web-1");
        assert_eq!(got.metadata.unwrap().attempt, 2);
        assert_eq!(got.labels[label::POD_UID], "u1");
        assert_eq!(got.annotations[label::GRACE_PERIOD], "30");
    }

    #[test]
    fn only_host_ports_are_mapped_and_never_on_the_host_network() {
        let containers = json!([{"name": "c", "ports": [{"containerPort": 80}, {"containerPort": 53, "hostPort": 5353, "protocol": "UDP"}]}]);
        let ports = made(json!({"containers": containers})).port_mappings;
        assert_eq!(ports.len(), 1);
        assert_eq!(
            (ports[0].host_port, ports[0].container_port, ports[0].protocol),
            (5353, 53, 1)
        );
        assert!(
            made(json!({"containers": containers, "hostNetwork": true}))
                .port_mappings
                .is_empty()
        );
    }
}
