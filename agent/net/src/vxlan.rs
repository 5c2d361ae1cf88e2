//! The tunnel to nodes that are on no link of this one, as when the rack spans a wired and a Wi-Fi network. Pure.
//!
//! As flannel does it: one device for all peers that learns nothing. The tunnel's end on a node has the first address of that
//! node's pod range and a hardware address made from it, so that a pod range and an address of a node are all that must be
//! known of a peer: its neighbour entry (end → hardware address) and its forwarding entry (hardware address → node) are
//! permanent, and there is neither ARP nor flooding.

use std::net::Ipv4Addr;

use crate::Range;

/// Name of the tunnel's device.
pub const DEVICE: &str = "minidc.vx";
/// Network identifier of the tunnel; any would do, ours is the number of our routes.
pub const NETWORK: u32 = crate::ROUTE_PROTOCOL as u32;
/// UDP port of all ends, assigned by IANA (RFC 7348, section 8).
pub const PORT: u16 = 4789;
/// Bytes that the tunnel adds to a packet: outer IPv4 (20), UDP (8), VXLAN (8) and inner Ethernet (14) headers.
pub const OVERHEAD: u32 = 50;

/// A hardware address.
pub type Mac = [u8; 6];

/// Hardware address for a device of ours with this address: locally administered, the same at every start.
#[must_use]
pub fn mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0x6d, a, b, c, d]
}

/// This node's end of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its address, alone on the device: the source of what the node itself sends into the tunnel.
    pub address: Ipv4Addr,
    /// Its hardware address.
    pub mac: Mac,
}

impl End {
    /// The end on the node with this pod range.
    #[must_use]
    pub fn of(range: Range) -> Self {
        let address = range.network();
        Self {
            address,
            mac: mac(address),
        }
    }
}

/// Another node's end of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remote {
    /// Its address in the tunnel.
    pub address: Ipv4Addr,
    /// The node's own address, where packets for it are sent.
    pub node: Ipv4Addr,
}

/// The tunnel's device as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its hardware address.
    pub mac: Mac,
    /// Its network identifier, if it is a VXLAN device at all.
    pub network: Option<u32>,
    /// Its UDP port.
    pub port: Option<u16>,
    /// Largest packet it takes.
    pub mtu: u32,
    /// Neighbour entries on it.
    pub neighbours: Vec<(Ipv4Addr, Mac)>,
    /// Forwarding entries on it.
    pub forwarding: Vec<(Mac, Ipv4Addr)>,
}

impl Device {
    /// Whether the device can serve as `end`, or must be made anew.
    pub(crate) fn serves(&self, end: &End) -> bool {
        self.mac == end.mac && self.network == Some(NETWORK) && self.port == Some(PORT)
    }

    /// Whether both entries for a remote end are there.
    pub(crate) fn knows(&self, remote: &Remote) -> bool {
        let mac = mac(remote.address);
        self.neighbours.contains(&(remote.address, mac)) && self.forwarding.contains(&(mac, remote.node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_locally_administered_unicast_and_distinct() {
        let (one, two) = (mac("100.64.1.0".parse().unwrap()), mac("100.64.2.0".parse().unwrap()));
        assert_eq!(one, [0x02, 0x6d, 100, 64, 1, 0]);
        assert_ne!(one, two);
        assert_eq!(one[0] & 0b11, 0b10);
    }
}
