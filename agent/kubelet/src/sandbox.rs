//! From a pod to the sandbox that its containers share.

use std::collections::{BTreeMap, HashMap};

use k8s_cri::v1;
use k8s_openapi::api::core::v1::{Pod, PodSpec, SeccompProfile};

use crate::desired::Desired;
use crate::directories::Directories;
use crate::identity::PodIdentity;
use crate::resources;
use crate::runtime::label;

/// Above all pods, below it one directory per class.
pub(crate) const CGROUP_ROOT: &str = "minidc";
/// Longest host name that the kernel takes.
const LONGEST_HOSTNAME: usize = 63;
/// An annotation that `kubectl apply` makes as large as the object itself; no runtime wants it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Most search domains that glibc takes.
const MOST_SEARCHES: usize = 32;
/// Most name servers that glibc takes.
const MOST_SERVERS: usize = 3;

/// Where a pod's cgroup is below each controller's root.
pub(crate) fn cgroup_parent(pod: &PodIdentity, spec: &PodSpec) -> String {
    format!(
        "/{CGROUP_ROOT}/{}/pod{}",
        resources::qos_class(spec).directory(),
        pod.uid
    )
}

/// The host name that the pod sees.
pub(crate) fn hostname(pod: &PodIdentity, spec: &PodSpec) -> String {
    let wanted = spec
        .hostname_override
        .as_ref()
        .or(spec.hostname.as_ref())
        .filter(|name| !name.is_empty());
    let mut name = wanted.unwrap_or(&pod.name).clone();
    if name.len() > LONGEST_HOSTNAME {
        name.truncate(
            (0..=LONGEST_HOSTNAME)
                .rev()
                .find(|at| name.is_char_boundary(*at))
                .unwrap_or(0),
        );
        name.truncate(name.trim_end_matches(['-', '.']).len());
    }
    name
}

/// What CRI is told of the sandbox. The same configuration accompanies each container of it.
pub(crate) fn config(
    desired: &Desired,
    directories: &Directories,
    pod: &Pod,
    attempt: u32,
    resolv_conf: &str,
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
        hostname: if host_network {
            String::new()
        } else {
            hostname(&identity, spec)
        },
        log_directory: directories.pod_logs(&identity).display().to_string(),
        dns_config: Some(dns(desired, &identity, spec, resolv_conf)),
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
    let ports = spec
        .containers
        .iter()
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

/// The pod's `/etc/resolv.conf`; `resolv_conf` is the node's.
fn dns(desired: &Desired, pod: &PodIdentity, spec: &PodSpec, resolv_conf: &str) -> v1::DnsConfig {
    let host_network = spec.host_network == Some(true);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = desired.cluster_dns.is_some()
        && (policy == "ClusterFirstWithHostNet" || policy == "ClusterFirst" && !host_network);
    let node = parse_resolv_conf(resolv_conf);
    let mut dns = if policy == "None" {
        v1::DnsConfig::default()
    } else if cluster {
        let domain = &desired.cluster_domain;
        let mut searches = vec![
            format!("{}.svc.{domain}", pod.namespace),
            format!("svc.{domain}"),
            domain.clone(),
        ];
        searches.extend(node.searches);
        v1::DnsConfig {
            servers: desired.cluster_dns.iter().map(ToString::to_string).collect(),
            searches,
            options: vec!["ndots:5".into()],
        }
    } else {
        node
    };
    if let Some(own) = &spec.dns_config {
        dns.servers.extend(own.nameservers.iter().flatten().cloned());
        dns.searches.extend(own.searches.iter().flatten().cloned());
        let mut options: BTreeMap<String, Option<String>> = BTreeMap::new();
        let given = dns.options.iter().map(|option| match option.split_once(':') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (option.clone(), None),
        });
        options.extend(given);
        options.extend(
            own.options
                .iter()
                .flatten()
                .filter_map(|option| Some((option.name.clone()?, option.value.clone()))),
        );
        dns.options = options
            .into_iter()
            .map(|(name, value)| value.map_or(name.clone(), |value| format!("{name}:{value}")))
            .collect();
    }
    for list in [&mut dns.servers, &mut dns.searches] {
        let mut seen = std::collections::BTreeSet::new();
        list.retain(|entry| seen.insert(entry.clone()));
    }
    dns.servers.truncate(MOST_SERVERS);
    dns.searches.truncate(MOST_SEARCHES);
    dns
}

fn parse_resolv_conf(text: &str) -> v1::DnsConfig {
    let mut dns = v1::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            // The last search line counts.
            Some("search" | "domain") => {
                dns.searches = words
                    .map(|word| word.trim_end_matches('.').to_owned())
                    .filter(|word| !word.is_empty())
                    .collect();
            }
            Some("options") => dns.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    dns
}

/// The text of the pod's `/etc/hosts`.
pub(crate) fn hosts_file(cluster_domain: &str, pod: &Pod, pod_ips: &[String]) -> String {
    use std::fmt::Write as _;
    let identity = PodIdentity::of(pod);
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let name = hostname(&identity, spec);
    let domain = spec.subdomain.as_deref().filter(|domain| !domain.is_empty());
    // Writing to a String cannot fail.
    for ip in pod_ips {
        let _ = match domain {
            Some(domain) => {
                writeln!(
                    text,
                    "{ip}\t{name}.{domain}.{}.svc.{cluster_domain}\t{name}",
                    identity.namespace
                )
            }
            None => writeln!(text, "{ip}\t{name}"),
        };
    }
    if let Some(aliases) = spec.host_aliases.as_ref().filter(|aliases| !aliases.is_empty()) {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let _ = writeln!(
                text,
                "{}\t{}",
                alias.ip,
                alias.hostnames.as_deref().unwrap_or_default().join("\t")
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made(spec: serde_json::Value) -> v1::PodSandboxConfig {
        let settings = Desired {
            cluster_dns: "100.65.0.10".parse().ok(),
            ..Desired::default()
        };
        let directories = Directories {
            pods: "/data/pods".into(),
            logs: "/var/log/pods".into(),
        };
        let mut pod = json!({"metadata": {"name": "web-1", "namespace": "shop", "uid": "u1"}});
        pod["spec"] = spec;
        let pod: Pod = serde_json::from_value(pod).unwrap();
        config(&settings, &directories, &pod, 2, "nameserver 192.168.1.1\nsearch lan\n")
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
    fn cluster_first_asks_the_cluster_and_default_the_node() {
        let dns = made(json!({"containers": []})).dns_config.unwrap();
        assert_eq!(dns.servers, ["100.65.0.10"]);
        assert_eq!(
            dns.searches,
            ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"]
        );
        assert_eq!(dns.options, ["ndots:5"]);
        for spec in [
            json!({"containers": [], "dnsPolicy": "Default"}),
            json!({"containers": [], "hostNetwork": true}),
        ] {
            assert_eq!(made(spec).dns_config.unwrap().servers, ["192.168.1.1"]);
        }
    }

    #[test]
    fn own_dns_settings_are_added() {
        let dns = made(json!({"containers": [], "dnsPolicy": "None", "dnsConfig":
            {"nameservers": ["9.9.9.9"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}));
        let dns = dns.dns_config.unwrap();
        assert_eq!(
            (dns.servers, dns.searches),
            (vec!["9.9.9.9".to_owned()], vec!["x".to_owned()])
        );
        assert_eq!(dns.options, ["edns0", "ndots:2"]);
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

    #[test]
    fn long_host_name_is_cut_cleanly() {
        let pod = PodIdentity {
            namespace: "a".into(),
            name: format!("{}-b", "x".repeat(62)),
            uid: "u".into(),
        };
        assert_eq!(hostname(&pod, &PodSpec::default()), "x".repeat(62));
    }
}
