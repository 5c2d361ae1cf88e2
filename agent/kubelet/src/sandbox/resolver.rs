//! The `/etc/resolv.conf` of a pod: the node's, the cluster's or its own, by `pkg/kubelet/network/dns` in Kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_cri::v1;
use k8s_openapi::api::core::v1::PodSpec;

use crate::desired::Desired;
use crate::identity::PodIdentity;

/// The node's resolver configuration.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The one with the real name servers where `/etc/resolv.conf` names a stub of systemd on the loopback interface, which
/// pods cannot reach.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
/// Most search domains (`MaxDNSSearchPaths` in Kubernetes), which glibc takes since 2.26.
const MOST_SEARCHES: usize = 32;
/// Most characters of all search domains with a blank between them (`MaxDNSSearchListChars`).
const MOST_SEARCH_CHARACTERS: usize = 2048;
/// Longest domain name; older resolvers abort at longer ones.
const LONGEST_DOMAIN: usize = 253;
/// Most name servers that resolvers take (`MaxDNSNameservers`).
const MOST_SERVERS: usize = 3;

/// What a pod gets, and what its owner should know of it.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    pub(crate) config: v1::DnsConfig,
    /// Reasons and messages of Warning events.
    pub(crate) warnings: Vec<(&'static str, String)>,
}

/// The text of the node's resolver configuration; blocking.
pub(crate) fn node_resolv_conf() -> String {
    let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let servers = parse(&text).servers;
    let stub = !servers.is_empty() && servers.iter().all(|server| is_loopback(server));
    let behind = stub.then(|| std::fs::read_to_string(BEHIND_STUB).ok()).flatten();
    behind.unwrap_or(text)
}

fn is_loopback(server: &str) -> bool {
    server.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Works it out; `resolv_conf` is the node's.
pub(crate) fn resolver(desired: &Desired, pod: &PodIdentity, spec: &PodSpec, resolv_conf: &str) -> Resolver {
    let mut warnings = Vec::new();
    let host_network = spec.host_network == Some(true);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = policy == "ClusterFirstWithHostNet" || policy == "ClusterFirst" && !host_network;
    let mut config = parse(resolv_conf);
    if !host_network {
        config.servers.retain(|server| !is_loopback(server));
    }
    match desired.cluster_dns {
        _ if policy == "None" => config = v1::DnsConfig::default(),
        Some(server) if cluster => {
            let domain = &desired.cluster_domain;
            let mut searches = vec![
                format!("{}.svc.{domain}", pod.namespace),
                format!("svc.{domain}"),
                domain.clone(),
            ];
            searches.append(&mut config.searches);
            config = v1::DnsConfig {
                servers: vec![server.to_string()],
                searches,
                options: vec!["ndots:5".into()],
            };
        }
        None if cluster => {
            let message = format!(
                "pod: \"{pod}\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \
                 \"ClusterFirst\" policy. Falling back to \"Default\" policy."
            );
            warnings.push(("MissingClusterDNS", message));
        }
        _ => {}
    }
    if let Some(own) = &spec.dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        let mut options: BTreeMap<String, String> = BTreeMap::new();
        options.extend(config.options.iter().map(|option| {
            let (name, value) = option.split_once(':').unwrap_or((option, ""));
            (name.to_owned(), value.to_owned())
        }));
        options.extend(own.options.iter().flatten().filter_map(|option| {
            let value = option.value.clone().unwrap_or_default();
            Some((option.name.clone()?, value))
        }));
        let written = options.into_iter().map(|(name, value)| {
            if value.is_empty() {
                name
            } else {
                format!("{name}:{value}")
            }
        });
        config.options = written.collect();
    }
    for list in [&mut config.servers, &mut config.searches] {
        let mut seen = BTreeSet::new();
        list.retain(|entry| seen.insert(entry.clone()));
    }
    limit(&mut config, &mut warnings);
    Resolver { config, warnings }
}

/// Cuts what resolvers do not take.
fn limit(config: &mut v1::DnsConfig, warnings: &mut Vec<(&'static str, String)>) {
    let v1::DnsConfig { servers, searches, .. } = config;
    if servers.len() > MOST_SERVERS {
        servers.truncate(MOST_SERVERS);
        let message = format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            servers.join(" ")
        );
        warnings.push(("DNSConfigForming", message));
    }
    let before = searches.len();
    searches.truncate(MOST_SEARCHES);
    searches.retain(|domain| domain.len() <= LONGEST_DOMAIN);
    while searches.iter().map(|domain| domain.len() + 1).sum::<usize>() > MOST_SEARCH_CHARACTERS + 1 {
        searches.pop();
    }
    if searches.len() < before {
        let message = format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            searches.join(" ")
        );
        warnings.push(("DNSConfigForming", message));
    }
}

fn parse(text: &str) -> v1::DnsConfig {
    let mut config = v1::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            // The last search line counts.
            Some("search" | "domain") => {
                config.searches = words
                    .map(|word| word.trim_end_matches('.').to_owned())
                    .filter(|word| !word.is_empty())
                    .collect();
            }
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made_from(spec: &serde_json::Value, cluster_dns: Option<&str>, resolv_conf: &str) -> Resolver {
        let desired = Desired {
            cluster_dns: cluster_dns.and_then(|address| address.parse().ok()),
            ..Desired::default()
        };
        let pod = PodIdentity {
            namespace: "shop".into(),
            name: "web-1".into(),
            uid: "u1".into(),
        };
        let mut whole = json!({"containers": []});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        resolver(&desired, &pod, &serde_json::from_value(whole).unwrap(), resolv_conf)
    }

    fn made(spec: &serde_json::Value) -> v1::DnsConfig {
        made_from(spec, Some("100.65.0.10"), "nameserver 192.168.1.1\nsearch lan\n").config
    }

    #[test]
    fn cluster_first_asks_the_cluster_and_default_the_node() {
        for spec in [
            json!({}),
            json!({"dnsPolicy": "ClusterFirst"}),
            json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
        ] {
            let dns = made(&spec);
            assert_eq!(dns.servers, ["100.65.0.10"]);
            let searches = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"];
            assert_eq!(dns.searches, searches);
            assert_eq!(dns.options, ["ndots:5"]);
        }
        for spec in [json!({"dnsPolicy": "Default"}), json!({"hostNetwork": true})] {
            let dns = made(&spec);
            assert_eq!(
                (dns.servers, dns.searches),
                (vec!["192.168.1.1".into()], vec!["lan".into()])
            );
        }
    }

    #[test]
    fn without_a_cluster_server_the_node_is_asked_and_the_owner_told() {
        let got = made_from(&json!({}), None, "nameserver 192.168.1.1\n");
        assert_eq!(got.config.servers, ["192.168.1.1"]);
        let (reason, message) = &got.warnings[0];
        assert_eq!(*reason, "MissingClusterDNS");
        assert!(
            message.starts_with("pod: \"web-1_shop(u1)\". kubelet does not have"),
            "{message}"
        );
    }

    #[test]
    fn own_settings_are_added_and_win() {
        let own = json!({"nameservers": ["9.9.9.9"], "searches": ["x", "lan"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}, {"name": "rotate", "value": ""}]});
        let dns = made(&json!({"dnsPolicy": "None", "dnsConfig": own}));
        assert_eq!(dns.servers, ["9.9.9.9"]);
        assert_eq!(dns.searches, ["x", "lan"]);
        assert_eq!(dns.options, ["edns0", "ndots:2", "rotate"]);
        let dns = made(&json!({"dnsConfig": own}));
        assert_eq!(dns.servers, ["100.65.0.10", "9.9.9.9"]);
        assert_eq!(dns.searches[3..], ["lan", "x"]);
        assert_eq!(dns.options, ["edns0", "ndots:2", "rotate"]);
    }

    #[test]
    fn what_resolvers_do_not_take_is_left_out_with_a_word() {
        let many: Vec<String> = (0..40).map(|number| format!("domain-{number}")).collect();
        let servers = ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"];
        let own = json!({"nameservers": servers, "searches": many});
        let got = made_from(&json!({"dnsPolicy": "None", "dnsConfig": own}), None, "");
        assert_eq!((got.config.servers.len(), got.config.searches.len()), (3, 32));
        let reasons: Vec<_> = got.warnings.iter().map(|(reason, _)| *reason).collect();
        assert_eq!(reasons, ["DNSConfigForming", "DNSConfigForming"]);
        assert!(got.warnings[0].1.ends_with("line is: 1.1.1.1 2.2.2.2 3.3.3.3"));

        let long: Vec<String> = (0..20)
            .map(|number| format!("{number:02}{}", "x".repeat(198)))
            .collect();
        let own = json!({"nameservers": ["1.1.1.1"], "searches": long});
        let got = made_from(&json!({"dnsPolicy": "None", "dnsConfig": own}), None, "");
        assert_eq!(got.config.searches.len(), 10);
        let own = json!({"nameservers": ["1.1.1.1"], "searches": ["y".repeat(254), "z"]});
        let got = made_from(&json!({"dnsPolicy": "None", "dnsConfig": own}), None, "");
        assert_eq!(got.config.searches, ["z"]);
    }

    #[test]
    fn a_server_on_the_loopback_interface_is_only_for_the_node() {
        let text = "nameserver 127.0.0.53\nnameserver 10.0.0.1\n";
        let got = made_from(&json!({"dnsPolicy": "Default"}), None, text);
        assert_eq!(got.config.servers, ["10.0.0.1"]);
        let got = made_from(&json!({"hostNetwork": true}), None, text);
        assert_eq!(got.config.servers, ["127.0.0.53", "10.0.0.1"]);
    }
}
