//! The cables: a bridge in a namespace of its own, a cable to each node, one to the host, and routes to pods.

use std::{fs, net::Ipv4Addr, path::Path};

use serde::Deserialize;

use crate::{Error, names, tool};

/// Where iproute2 keeps namespaces.
const NAMESPACES: &str = "/run/netns";

/// A route from the host to the pods of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRoute {
    /// The node's pod range, such as `100.64.1.0/24`.
    pub range: String,
    /// The node's address.
    pub via: Ipv4Addr,
}

/// File through which a namespace is entered.
pub(crate) fn namespace_file(namespace: &str) -> String {
    format!("{NAMESPACES}/{namespace}")
}

/// The part of `ip -j route` and `ip -j address` that is looked at.
#[derive(Deserialize)]
struct RouteEntry {
    dst: String,
    #[serde(default)]
    dev: String,
}

/// A K for which neither the host nor another rack knows 10.77.K.0/24.
pub(crate) fn free_subnet(rack: &str, taken: &[u8]) -> Result<u8, Error> {
    let routes = routes(&["route", "show", "table", "all"])?;
    let destinations: Vec<&str> = routes.iter().map(|route| route.dst.as_str()).collect();
    (0..=u8::MAX)
        .find(|subnet| {
            !taken.contains(subnet)
                && !destinations.iter().any(|destination| overlaps(*subnet, destination))
                && !Path::new("/sys/class/net")
                    .join(names::host_interface(*subnet))
                    .exists()
        })
        .ok_or_else(|| Error::NoFreeNetwork(rack.to_owned()))
}

fn routes(arguments: &[&str]) -> Result<Vec<RouteEntry>, Error> {
    let mut all = vec!["-j", "-4"];
    all.extend(arguments);
    let text = tool::run("ip", &all)?;
    // Nothing found is printed as nothing at all by some versions.
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&text).map_err(|error| Error::Command {
        command: format!("ip {}", all.join(" ")),
        detail: error.to_string(),
    })
}

/// Whether a route's destination has addresses of 10.77.`subnet`.0/24. The default route does not count.
fn overlaps(subnet: u8, destination: &str) -> bool {
    let (address, prefix) = destination.split_once('/').unwrap_or((destination, "32"));
    let (Ok(address), Ok(prefix)) = (address.parse::<Ipv4Addr>(), prefix.parse::<u32>()) else {
        return false;
    };
    let shortest = prefix.min(24);
    let mask = u32::MAX.checked_shl(32 - shortest).unwrap_or(0);
    shortest > 0 && address.to_bits() & mask == names::address(subnet, 0).to_bits() & mask
}

/// Lays the switch and the host's cable to it.
pub(crate) fn create_switch(rack: &str, subnet: u8) -> Result<(), Error> {
    let namespace = names::switch_namespace(rack);
    let interface = names::host_interface(subnet);
    tool::run("ip", &["netns", "add", &namespace])?;
    let (host, gateway) = (
        names::address(subnet, names::HOST),
        names::address(subnet, names::GATEWAY),
    );
    tool::ip(
        Some(&namespace),
        &[
            // With snooping, the bridge may drop mDNS.
            "link add br0 type bridge mcast_snooping 0".into(),
            "link set lo up".into(),
            "link set br0 up".into(),
            format!("address add {gateway}/24 dev br0"),
        ],
    )?;
    tool::ip(
        None,
        &[
            format!("link add name {interface} type veth peer name host netns {namespace}"),
            format!("link set {interface} addrgenmode none"),
            format!("address add {host}/24 dev {interface}"),
            format!("link set {interface} up"),
        ],
    )?;
    tool::ip(Some(&namespace), &["link set host master br0 up".into()])
}

/// Gives a node a fresh network namespace with a cable to the switch. What the node had before is gone, as at a boot: also
/// connections that its kernel had not finished.
pub(crate) fn create_node(rack: &str, subnet: u8, index: u32) -> Result<(), Error> {
    let (switch, node) = (names::switch_namespace(rack), names::node_namespace(rack, index));
    let port = names::port(index);
    if Path::new(&namespace_file(&node)).exists() {
        // The old namespace may live on for a while with its last sockets: take its cable away first.
        let _ = tool::ip(Some(&switch), &[format!("link delete {port}")]);
        tool::run("ip", &["netns", "delete", &node])?;
    }
    tool::run("ip", &["netns", "add", &node])?;
    let address = names::address(subnet, u8::try_from(index).unwrap_or(u8::MAX));
    let gateway = names::address(subnet, names::GATEWAY);
    let hardware = names::hardware_address(subnet, index);
    tool::ip(
        Some(&switch),
        &[
            format!("link add name {port} type veth peer name eth0 address {hardware} netns {node}"),
            format!("link set {port} master br0 up"),
        ],
    )?;
    tool::ip(
        Some(&node),
        &[
            "link set lo up".into(),
            format!("address add {address}/24 brd + dev eth0"),
            "link set eth0 up".into(),
            format!("route add default via {gateway}"),
        ],
    )
}

/// Puts a node's cable into the switch, or pulls it out.
pub(crate) fn set_cable(rack: &str, index: u32, joined: bool) -> Result<(), Error> {
    let state = if joined { "up" } else { "down" };
    let switch = names::switch_namespace(rack);
    tool::ip(Some(&switch), &[format!("link set {} {state}", names::port(index))])
}

/// Loses this part of the packets to and from a node; 0 ends it.
pub(crate) fn set_loss(rack: &str, index: u32, percent: u8) -> Result<(), Error> {
    let port = names::port(index);
    let mut rules = format!("table bridge loss-{port} {{}}\ndelete table bridge loss-{port}\n");
    if percent > 0 {
        let drop = if percent < 100 {
            format!("numgen random mod 100 < {percent} drop")
        } else {
            "drop".into()
        };
        rules.push_str(&format!(
            "table bridge loss-{port} {{\n chain forward {{\n  type filter hook forward priority 0; policy accept;\n  \
             iifname \"{port}\" {drop}\n  oifname \"{port}\" {drop}\n }}\n}}\n"
        ));
    }
    let enter = format!("--net={}", namespace_file(&names::switch_namespace(rack)));
    tool::feed("nsenter", &[&enter, "nft", "-f", "-"], &rules).map(drop)
}

/// Routes ranges of pods from the host to their nodes.
pub(crate) fn add_routes(rack: &str, subnet: u8, wanted: &[PodRoute]) -> Result<(), Error> {
    let interface = names::host_interface(subnet);
    let mut commands = Vec::new();
    for PodRoute { range, via } in wanted {
        if let Some(other) = routes(&["route", "show", range])?
            .iter()
            .find(|route| route.dev != interface)
        {
            return Err(Error::RouteTaken {
                range: range.clone(),
                rack: rack.to_owned(),
                present: format!("{} dev {}", other.dst, other.dev),
            });
        }
        commands.push(format!("route replace {range} via {via} dev {interface}"));
    }
    if commands.is_empty() {
        Ok(())
    } else {
        tool::ip(None, &commands)
    }
}

/// Namespaces of a rack that exist.
pub(crate) fn namespaces(rack: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(NAMESPACES) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| names::is_namespace_of(rack, name))
        .collect()
}

/// Processes in a rack's namespaces, whatever cgroup they are in.
pub(crate) fn processes(rack: &str) -> Vec<i32> {
    namespaces(rack)
        .iter()
        .filter_map(|namespace| tool::run("ip", &["netns", "pids", namespace]).ok())
        .flat_map(|text| {
            text.lines()
                .filter_map(|line| line.trim().parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Removes the rack's namespaces and cables. Fine if there are none.
pub(crate) fn remove(rack: &str) -> Result<(), Error> {
    let switch = names::switch_namespace(rack);
    if Path::new(&namespace_file(&switch)).exists() {
        // A namespace ends in the background, some time after its name; the host's cable is to be gone when this returns.
        let _ = tool::ip(Some(&switch), &["link delete host".into()]);
    }
    for namespace in namespaces(rack) {
        if let Err(error) = tool::run("ip", &["netns", "delete", &namespace])
            && Path::new(&namespace_file(&namespace)).exists()
        {
            return Err(error);
        }
    }
    Ok(())
}

/// Removes the mount that `ip netns add` makes for its own use, once no namespace is left in it.
pub(crate) fn remove_namespace_mount() {
    let empty = fs::read_dir(NAMESPACES).is_ok_and(|mut entries| entries.next().is_none());
    if empty && nix::mount::umount(NAMESPACES).is_ok() {
        let _ = fs::remove_dir(NAMESPACES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_the_host_knows_is_not_free() {
        assert!(overlaps(0, "10.77.0.0/24"));
        assert!(overlaps(0, "10.77.0.9"));
        assert!(overlaps(200, "10.0.0.0/8"));
        assert!(overlaps(3, "10.77.0.0/22"));
        assert!(!overlaps(4, "10.77.0.0/22"));
        assert!(!overlaps(0, "default"));
        assert!(!overlaps(0, "0.0.0.0/0"));
        assert!(!overlaps(0, "10.77.1.0/24"));
    }
}
