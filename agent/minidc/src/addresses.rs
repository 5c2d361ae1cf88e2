//! The addresses this machine has now.

use std::net::IpAddr;

/// Interfaces whose addresses mean nothing to other machines.
pub(crate) fn is_inner(name: &str) -> bool {
    ["lo", "cni", "veth", "docker", "br-", "minidc"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Addresses that other machines can reach this one at: those of its own interfaces, without loopback, link-local ones of
/// IPv6 and those of pod networks. IPv4 first, in the kernel's order.
pub(crate) fn own() -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let interfaces = match nix::ifaddrs::getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "list the addresses of this machine");
            return found;
        }
    };
    for interface in interfaces.filter(|interface| !is_inner(&interface.interface_name)) {
        let Some(address) = interface.address else { continue };
        let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) if !v6.ip().is_unicast_link_local() => IpAddr::V6(v6.ip()),
            _ => continue,
        };
        if !address.is_loopback() && !found.contains(&address) {
            found.push(address);
        }
    }
    found.sort_by_key(IpAddr::is_ipv6);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_never_an_address_for_others() {
        assert!(own().iter().all(|address| !address.is_loopback()));
    }
}
