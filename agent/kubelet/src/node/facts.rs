//! What a node is: kernel, names, addresses, labels.

use std::net::IpAddr;
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use serde_json::{Map, Value, json};

use crate::archive::architecture;
use crate::config::Config;

/// Interfaces whose addresses are not the node's own.
const VIRTUAL: [&str; 9] = [
    "lo", "veth", "cni", "br-", "docker", "vxlan", "flannel", "minidc", "virbr",
];

fn text(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim_matches(['\0', '\n', ' ']).to_owned()
}

/// `status.nodeInfo`; `runtime` is name and version.
pub(super) fn node_info(runtime: Option<&(String, String)>) -> Value {
    let release = text("/etc/os-release");
    let image = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("Linux")
        .trim_matches('"');
    let version = format!(
        "v1.{}.0+minidc-{}",
        minidc_api::discovery::KUBERNETES_MINOR,
        env!("CARGO_PKG_VERSION")
    );
    let machine = text("/etc/machine-id");
    // Boards without firmware tables have a serial number instead.
    let system = [
        text("/sys/class/dmi/id/product_uuid"),
        text("/proc/device-tree/serial-number"),
        machine.clone(),
    ];
    json!({
        "architecture": architecture(),
        "bootID": text("/proc/sys/kernel/random/boot_id"),
        "containerRuntimeVersion": runtime.map(|(name, version)| format!("{name}://{version}")).unwrap_or_default(),
        "kernelVersion": text("/proc/sys/kernel/osrelease"),
        "kubeProxyVersion": "",
        "kubeletVersion": version,
        "machineID": machine,
        "operatingSystem": "linux",
        "osImage": image,
        "systemUUID": system.into_iter().find(|id| !id.is_empty()).unwrap_or_default(),
    })
}

/// The labels that the node puts on itself.
pub(super) fn labels(config: &Config) -> Map<String, Value> {
    let known = [
        ("kubernetes.io/arch", architecture()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/hostname", &config.node),
    ];
    let known = known.into_iter().map(|(key, value)| (key.to_owned(), json!(value)));
    config
        .labels
        .iter()
        .map(|(key, value)| (key.clone(), json!(value)))
        .chain(known)
        .collect()
}

/// Processes and threads there are, and the most there may be.
pub(super) fn processes() -> (u64, u64) {
    let loads = text("/proc/loadavg");
    let now = loads
        .split_whitespace()
        .nth(3)
        .and_then(|word| word.split_once('/'))
        .and_then(|(_, all)| all.parse().ok());
    (now.unwrap_or(0), text("/proc/sys/kernel/pid_max").parse().unwrap_or(0))
}

/// The node's own addresses, IPv4 before IPv6, those of the interface with the default route first.
pub(crate) fn addresses() -> Vec<String> {
    let main = default_interface(&text("/proc/net/route"));
    let mut found = Vec::new();
    for interface in getifaddrs().into_iter().flatten() {
        let name = interface.interface_name.as_str();
        if !interface.flags.contains(InterfaceFlags::IFF_UP) || VIRTUAL.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let Some(address) = interface.address else { continue };
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let Some(ip) = v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()))) else {
            continue;
        };
        found.push((Some(name) == main.as_deref(), ip));
    }
    best(found)
}

/// The best of the addresses, each with whether its interface has the default route: one of each family, as Kubernetes has it. An
/// IPv4 address that only holds on one link counts where there is no other: nobody gives addresses there, and the rack finds itself
/// by those it took.
fn best(found: Vec<(bool, IpAddr)>) -> Vec<String> {
    let mut ranked: Vec<(bool, bool, bool, IpAddr)> = found
        .into_iter()
        .filter_map(|(is_main, ip)| match ip {
            IpAddr::V4(v4) if !v4.is_loopback() => Some((false, v4.is_link_local(), !is_main, ip)),
            IpAddr::V6(v6) if !v6.is_loopback() && !v6.is_unicast_link_local() => Some((true, false, !is_main, ip)),
            _ => None,
        })
        .collect();
    ranked.sort();
    ranked.dedup_by_key(|(is_ipv6, ..)| *is_ipv6);
    ranked.into_iter().map(|(.., ip)| ip.to_string()).collect()
}

/// The interface with the default route that costs least.
fn default_interface(routes: &str) -> Option<String> {
    let rows = routes
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let defaults = rows.filter(|row| row.len() > 7 && row[1] == "00000000" && row[7] == "00000000");
    let best = defaults.min_by_key(|row| row[6].parse::<u32>().unwrap_or(u32::MAX))?;
    // A link that is plugged in may still have no carrier, but then the kernel marks its routes dead soon enough.
    Path::new("/sys/class/net")
        .join(best[0])
        .exists()
        .then(|| best[0].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_tells_what_it_is() {
        let info = node_info(Some(&("containerd".into(), "1.6.20".into())));
        assert_eq!(info["containerRuntimeVersion"], "containerd://1.6.20");
        assert!(info["kubeletVersion"].as_str().unwrap().starts_with("v1.36.0+minidc-"));
        assert!(!info["kernelVersion"].as_str().unwrap().is_empty());
        let (now, most) = processes();
        assert!(now > 0 && most > now);
    }

    #[test]
    fn an_address_of_one_link_counts_where_there_is_no_other() {
        let best = |found: &[(bool, &str)]| {
            best(
                found
                    .iter()
                    .map(|(is_main, ip)| (*is_main, ip.parse().unwrap()))
                    .collect(),
            )
        };
        let all = [
            (false, "127.0.0.1"),
            (true, "169.254.3.4"),
            (false, "192.168.0.9"),
            (true, "192.168.0.7"),
            (true, "fe80::1"),
            (true, "2001:db8::1"),
        ];
        assert_eq!(best(&all), ["192.168.0.7", "2001:db8::1"]);
        assert_eq!(best(&all[..3]), ["192.168.0.9"]);
        assert_eq!(best(&all[..2]), ["169.254.3.4"]);
        assert_eq!(best(&all[..1]), [""; 0]);
    }

    #[test]
    fn default_route_with_least_metric_wins() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                      lo\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\neth9\t00000000\t0\t3\t0\t0\t600\t00000000\n";
        assert_eq!(default_interface(routes).as_deref(), Some("lo"));
        assert_eq!(default_interface("Iface\n"), None);
    }

    #[test]
    fn own_labels_come_with_those_of_the_configuration() {
        let mut config = Config::new("pi-1");
        config.labels.insert("minidc.dev/board".into(), "pi-4".into());
        let labels = labels(&config);
        assert_eq!(labels["kubernetes.io/hostname"], "pi-1");
        assert_eq!(labels["minidc.dev/board"], "pi-4");
    }
}
