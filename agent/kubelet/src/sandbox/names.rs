//! What a pod is called: its host name, its domain, and the `/etc/hosts` that it sees.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::identity::PodIdentity;

/// Longest host name without its domain.
const LONGEST_HOSTNAME: usize = 63;
/// Longest node name that the kernel takes (`__NEW_UTS_LEN`).
const LONGEST_NODE_NAME: usize = 64;

/// The host name that the pod sees.
fn hostname(pod: &PodIdentity, spec: &PodSpec) -> String {
    let wanted = spec
        .hostname_override
        .as_ref()
        .or(spec.hostname.as_ref())
        .filter(|name| !name.is_empty());
    let mut name = wanted.unwrap_or(&pod.name).clone();
    if name.len() > LONGEST_HOSTNAME && spec.hostname_override.is_none() {
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

/// The domain that the pod's host name is in, when its owner gave it one.
fn domain(pod: &PodIdentity, spec: &PodSpec, cluster_domain: &str) -> Option<String> {
    let subdomain = spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty());
    let subdomain = subdomain.filter(|_| spec.hostname_override.is_none())?;
    Some(format!("{subdomain}.{}.svc.{cluster_domain}", pod.namespace))
}

/// The host name as the kernel is told it, with the domain where the pod asks for that.
///
/// # Errors
/// The kernel takes no name that long; in Kubernetes' words.
pub(crate) fn node_name(pod: &PodIdentity, spec: &PodSpec, cluster_domain: &str) -> Result<String, String> {
    let name = hostname(pod, spec);
    let domain = domain(pod, spec, cluster_domain).filter(|_| spec.set_hostname_as_fqdn == Some(true));
    let Some(domain) = domain else { return Ok(name) };
    let whole = format!("{name}.{domain}");
    if whole.len() > LONGEST_NODE_NAME {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {whole} is too long \
             ({LONGEST_NODE_NAME} characters is the max, {} characters requested)",
            whole.len()
        ));
    }
    Ok(whole)
}

/// The text of the pod's `/etc/hosts`; a pod on the host's network sees `node_hosts`, the node's own.
pub(crate) fn hosts_file(cluster_domain: &str, pod: &Pod, pod_ips: &[String], node_hosts: &str) -> String {
    let identity = PodIdentity::of(pod);
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let mut text = if spec.host_network == Some(true) {
        format!("# Kubernetes-managed hosts file (host network).\n{node_hosts}")
    } else {
        let mut text = String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let name = hostname(&identity, spec);
        let domain = domain(&identity, spec, cluster_domain);
        // Writing to a String cannot fail.
        for ip in pod_ips {
            let _ = match &domain {
                Some(domain) => writeln!(text, "{ip}\t{name}.{domain}\t{name}"),
                None => writeln!(text, "{ip}\t{name}"),
            };
        }
        text
    };
    if let Some(aliases) = spec.host_aliases.as_ref().filter(|aliases| !aliases.is_empty()) {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            let _ = writeln!(text, "{}\t{names}", alias.ip);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DOMAIN: &str = "cluster.local";

    fn pod(spec: &serde_json::Value) -> Pod {
        let mut pod =
            json!({"metadata": {"name": "web-1", "namespace": "shop", "uid": "u1"}, "spec": {"containers": []}});
        pod["spec"]
            .as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        serde_json::from_value(pod).unwrap()
    }

    fn named(spec: &serde_json::Value) -> Result<String, String> {
        let pod = pod(spec);
        node_name(&PodIdentity::of(&pod), pod.spec.as_ref().unwrap(), DOMAIN)
    }

    #[test]
    fn pod_is_called_as_it_asks() {
        let whole = json!({"hostname": "db", "subdomain": "data", "setHostnameAsFQDN": true});
        let long = json!({"hostname": "d".repeat(60), "subdomain": "data", "setHostnameAsFQDN": true});
        assert_eq!(named(&json!({})).as_deref(), Ok("web-1"));
        assert_eq!(
            named(&json!({"hostname": "db", "subdomain": "data"})).as_deref(),
            Ok("db")
        );
        assert_eq!(named(&whole).as_deref(), Ok("db.data.shop.svc.cluster.local"));
        assert_eq!(named(&json!({"setHostnameAsFQDN": true})).as_deref(), Ok("web-1"));
        let refused = named(&long).unwrap_err();
        assert!(
            refused.ends_with("is too long (64 characters is the max, 88 characters requested)"),
            "{refused}"
        );
        let overridden = json!({"hostnameOverride": "me.example", "hostname": "db", "subdomain": "data"});
        assert_eq!(named(&overridden).as_deref(), Ok("me.example"));
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

    #[test]
    fn hosts_file_has_the_pod_its_aliases_and_on_the_host_network_the_node() {
        let ips = ["100.64.0.2".to_owned()];
        let aliases = json!([{"ip": "10.1.2.3", "hostnames": ["foo", "bar"]}]);
        let text = hosts_file(DOMAIN, &pod(&json!({"hostAliases": aliases})), &ips, "");
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(
            text.ends_with("100.64.0.2\tweb-1\n\n# Entries added by HostAliases.\n10.1.2.3\tfoo\tbar\n"),
            "{text}"
        );
        let text = hosts_file(DOMAIN, &pod(&json!({"hostname": "db", "subdomain": "data"})), &ips, "");
        assert!(
            text.ends_with("100.64.0.2\tdb.data.shop.svc.cluster.local\tdb\n"),
            "{text}"
        );
        let on_node = pod(&json!({"hostNetwork": true, "hostAliases": aliases}));
        let text = hosts_file(DOMAIN, &on_node, &ips, "127.0.0.1 localhost\n");
        assert_eq!(
            text,
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n\n\
             # Entries added by HostAliases.\n10.1.2.3\tfoo\tbar\n"
        );
    }
}
