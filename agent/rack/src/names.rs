//! Names and numbers of everything that a rack has on its host.

use std::net::Ipv4Addr;

use crate::Error;

/// Most nodes of a rack; addresses from 201 on are left for the host, the gateway and guests.
pub(crate) const MOST_NODES: u32 = 200;
/// Number of the first guest. Guests are numbered after all nodes that there could be, so that a number is an address, too.
pub(crate) const FIRST_GUEST: u32 = MOST_NODES + 1;
/// Most guests of a rack.
pub(crate) const MOST_GUESTS: usize = 50;

/// Checks the name of a rack: it becomes part of paths, cgroups and namespaces.
pub(crate) fn check_rack(name: &str) -> Result<(), Error> {
    let good = (1..=20).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.ends_with('-');
    if good {
        Ok(())
    } else {
        Err(Error::BadName(name.to_owned()))
    }
}

/// Checks the host name of a guest.
pub(crate) fn check_guest(name: &str) -> Result<(), Error> {
    let good = (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && node_index(name).is_none();
    if good {
        Ok(())
    } else {
        Err(Error::BadGuest {
            guest: name.to_owned(),
            reason: "a host name of lower-case letters, digits and dashes is wanted, other than those of nodes",
        })
    }
}

/// Name of a node, counted from 1, or what belongs to a guest, whatever its host name.
pub(crate) fn node(index: u32) -> String {
    if index < FIRST_GUEST {
        format!("pi-{index}")
    } else {
        format!("guest-{}", index - MOST_NODES)
    }
}

/// Number of a node from its name.
pub(crate) fn node_index(name: &str) -> Option<u32> {
    number(name.strip_prefix("pi-")?)
}

fn number(digits: &str) -> Option<u32> {
    if digits.starts_with(['0', '+']) {
        None
    } else {
        digits.parse().ok()
    }
}

/// Network namespace of the bridge.
pub(crate) fn switch_namespace(rack: &str) -> String {
    format!("minidc-{rack}-sw")
}

/// Network namespace of a node.
pub(crate) fn node_namespace(rack: &str, index: u32) -> String {
    format!("minidc-{rack}-{}", node(index))
}

/// Whether a namespace is one of this rack's. Racks `a` and `a-b` share a prefix, so the rest must be exact.
pub(crate) fn is_namespace_of(rack: &str, namespace: &str) -> bool {
    namespace
        .strip_prefix("minidc-")
        .and_then(|rest| rest.strip_prefix(rack))
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|rest| {
            let machine = || node_index(rest).or_else(|| number(rest.strip_prefix("guest-")?));
            rest == "sw" || machine().is_some()
        })
}

/// The host's end of its cable into the switch.
pub(crate) fn host_interface(subnet: u8) -> String {
    format!("minidc{subnet}")
}

/// A node's port of the switch.
pub(crate) fn port(index: u32) -> String {
    format!("port{index}")
}

/// An address in the rack's network 10.77.`subnet`.0/24.
pub(crate) fn address(subnet: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, subnet, host)
}

/// The host's last byte in the rack's network.
pub(crate) const HOST: u8 = 253;
/// The bridge's last byte in the rack's network.
pub(crate) const GATEWAY: u8 = 254;

/// Hardware address of a node's eth0: locally administered, the same at each boot, as on a real board.
pub(crate) fn hardware_address(subnet: u8, index: u32) -> String {
    format!("02:4d:44:43:{subnet:02x}:{:02x}", index & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_break_paths_are_refused() {
        for good in ["demo", "a", "two-racks", "r2", "abcdefghijklmnopqrst"] {
            assert!(check_rack(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "Demo",
            "2r",
            "-a",
            "a-",
            "a/b",
            "..",
            "a b",
            "a.b",
            "abcdefghijklmnopqrstu",
            "é",
        ] {
            assert!(check_rack(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_guest_is_not_called_like_a_node() {
        for good in ["laptop", "a", "2nd-laptop", "pi", "pi-0", "pi-x"] {
            assert!(check_guest(good).is_ok(), "{good}");
        }
        for bad in ["", "pi-1", "pi-77", "Laptop", "a.b", "-a", "a-", "a/b", ".."] {
            assert!(check_guest(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn namespaces_of_a_rack_with_a_longer_name_are_not_ours() {
        assert!(is_namespace_of("a", "minidc-a-sw"));
        assert!(is_namespace_of("a", "minidc-a-pi-12"));
        assert!(is_namespace_of("a", &node_namespace("a", FIRST_GUEST)));
        for other in [
            "minidc-a-b-sw",
            "minidc-a-b-pi-1",
            "minidc-ab-sw",
            "minidc-a",
            "minidc-a-pi-",
            "minidc-a-pi-01",
            "minidc-a-guest-",
            "minidc-a-guest-b",
            "x",
        ] {
            assert!(!is_namespace_of("a", other), "{other}");
        }
    }

    #[test]
    fn interface_names_fit_the_kernel() {
        assert!(host_interface(255).len() <= 15);
        assert!(port(MOST_NODES).len() <= 15);
        let last = FIRST_GUEST + u32::try_from(MOST_GUESTS).unwrap() - 1;
        assert!(last < u32::from(HOST));
        assert_eq!(node(FIRST_GUEST), "guest-1");
        assert_eq!(node_index("pi-7"), Some(7));
        assert_eq!(node_index("pi-07"), None);
        assert_eq!(hardware_address(3, 2), "02:4d:44:43:03:02");
    }
}
