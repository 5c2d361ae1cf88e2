//! Finding the control plane, and being found. A hint and nothing else: whoever is found must still prove to be the one
//! that the token or the node's identity names.
//!
//! A control plane announces `_minidc._tcp` with TXT `cluster`, `pin` and `protocol`; the port is in the service itself.

mod mdns;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::sync::watch;

use crate::pki::{Pin, is_label};

pub use mdns::{Mdns, MdnsOptions, MdnsState};

/// A control plane that somebody says is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Name of its cluster.
    pub cluster: String,
    /// Hash of its CA's key.
    pub pin: Pin,
    /// Version of the link that it speaks.
    pub protocol: u16,
    /// Name of the announcement.
    pub instance: String,
    /// Host name that it is announced with.
    pub host: String,
    /// Addresses worth trying.
    pub addresses: Vec<IpAddr>,
    /// Port.
    pub port: u16,
}

impl Candidate {
    /// All addresses with the port.
    pub fn sockets(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.addresses
            .iter()
            .map(|address| SocketAddr::new(*address, self.port))
    }
}

/// What a control plane announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Name of the announcement; Avahi makes it unique. The host name is a good one.
    pub instance: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Hash of its CA's key.
    pub pin: Pin,
    /// Port of the one listener.
    pub port: u16,
}

/// A source of candidates.
pub trait Discovery: Send + Sync {
    /// The present candidates, and those to come.
    fn candidates(&self) -> watch::Receiver<Arc<Vec<Candidate>>>;

    /// Says that the present candidates lead nowhere. A source that learns of moved addresses by itself ignores it.
    fn look_again(&self) {}
}

/// Candidates that somebody sets: for tests, and for `--no-mdns` (none at all).
#[derive(Debug)]
pub struct Fixed(watch::Sender<Arc<Vec<Candidate>>>);

impl Fixed {
    /// Begins with these.
    pub fn new(candidates: Vec<Candidate>) -> Self {
        Self(watch::Sender::new(Arc::new(candidates)))
    }

    /// Replaces them.
    pub fn set(&self, candidates: Vec<Candidate>) {
        self.0.send_replace(Arc::new(candidates));
    }
}

impl Discovery for Fixed {
    fn candidates(&self) -> watch::Receiver<Arc<Vec<Candidate>>> {
        self.0.subscribe()
    }
}

/// What is known of this machine when an announced address is judged.
#[derive(Clone, Debug, Default)]
struct Surroundings {
    host: String,
    /// Interface name and address.
    interfaces: Vec<(String, IpAddr)>,
    pod_range: Option<(Ipv4Addr, u8)>,
}

/// Interfaces of pods and their bridges: an address on one of these leads to this machine only.
fn is_pod_interface(name: &str) -> bool {
    ["cni", "veth", "vxlan", "flannel", "docker", "podman"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

fn in_range(address: Ipv4Addr, (base, prefix): (Ipv4Addr, u8)) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    u32::from(address) & mask == u32::from(base) & mask
}

impl Surroundings {
    fn is_own_host(&self, host: &str) -> bool {
        let label = |name: &str| {
            name.trim_end_matches('.')
                .trim_end_matches(".local")
                .to_ascii_lowercase()
        };
        !self.host.is_empty() && label(host) == label(&self.host)
    }

    /// Whether a dial to this address, announced by `host`, can lead to it.
    fn is_usable(&self, address: IpAddr, host: &str) -> bool {
        if address.is_unspecified() || address.is_multicast() {
            return false;
        }
        if address.is_loopback() {
            return self.is_own_host(host);
        }
        match address {
            IpAddr::V4(v4) if self.pod_range.is_some_and(|range| in_range(v4, range)) => return false,
            // Avahi tells no scope, and without one it cannot be dialled.
            IpAddr::V6(v6) if v6.is_unicast_link_local() => return false,
            _ => {}
        }
        !self
            .interfaces
            .iter()
            .any(|(name, own)| *own == address && is_pod_interface(name))
    }
}

/// One resolved announcement, as the library gives it: one per interface and protocol.
#[derive(Clone, Debug)]
struct Sighting {
    instance: String,
    host: String,
    address: String,
    port: u16,
    cluster: Option<String>,
    pin: Option<String>,
    protocol: Option<String>,
}

/// Adds a sighting to the candidates. Returns whether they changed.
fn add(candidates: &mut Vec<Candidate>, sighting: &Sighting, surroundings: &Surroundings) -> bool {
    let Some(address) = sighting
        .address
        .parse()
        .ok()
        .filter(|address| surroundings.is_usable(*address, &sighting.host))
    else {
        return false;
    };
    let (Some(cluster), Some(pin)) = (
        &sighting.cluster,
        sighting.pin.as_ref().and_then(|pin| pin.parse().ok()),
    ) else {
        tracing::debug!(
            instance = sighting.instance,
            "ignored an announcement without cluster and pin"
        );
        return false;
    };
    if !is_label(cluster) {
        return false;
    }
    let seen = Candidate {
        cluster: cluster.clone(),
        pin,
        protocol: sighting
            .protocol
            .as_ref()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
        instance: sighting.instance.clone(),
        host: sighting.host.clone(),
        addresses: vec![address],
        port: sighting.port,
    };
    let same = |other: &&mut Candidate| {
        (&other.instance, &other.cluster, &other.pin, other.port)
            == (&seen.instance, &seen.cluster, &seen.pin, seen.port)
    };
    if let Some(known) = candidates.iter_mut().find(same) {
        if known.addresses.contains(&address) {
            return false;
        }
        known.addresses.push(address);
        // IPv4 first: on small networks it is the one that works.
        known.addresses.sort_by_key(|address| (address.is_ipv6(), *address));
        return true;
    }
    // Anybody on the network can announce anything, as often as they like.
    if candidates.len() >= 64 {
        return false;
    }
    candidates.push(seen);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Surroundings {
        Surroundings {
            host: "pi-1".into(),
            interfaces: vec![
                ("eth0".into(), "10.0.0.1".parse().unwrap()),
                ("cni0".into(), "10.88.0.1".parse().unwrap()),
                ("veth12".into(), "10.88.0.9".parse().unwrap()),
            ],
            pod_range: Some(("100.64.0.0".parse().unwrap(), 16)),
        }
    }

    fn sighting(address: &str, host: &str) -> Sighting {
        Sighting {
            instance: host.into(),
            host: format!("{host}.local"),
            address: address.into(),
            port: 6443,
            cluster: Some("garage".into()),
            pin: Some(Pin([3; 32]).to_string()),
            protocol: Some("1".into()),
        }
    }

    #[test]
    fn addresses_that_lead_nowhere_are_ignored() {
        let here = here();
        let usable = |address: &str, host: &str| here.is_usable(address.parse().unwrap(), host);
        assert!(usable("10.0.0.2", "pi-2.local"));
        assert!(usable("10.0.0.1", "pi-1.local"));
        assert!(usable("fd00::2", "pi-2.local"));
        assert!(
            usable("169.254.10.1", "pi-2.local"),
            "a rack with no router has no others"
        );
        assert!(!usable("fe80::1", "pi-2.local"));
        assert!(!usable("10.88.0.1", "pi-1.local"));
        assert!(!usable("10.88.0.9", "pi-1.local"));
        assert!(!usable("100.64.3.1", "pi-2.local"));
        assert!(usable("100.65.3.1", "pi-2.local"));
        assert!(!usable("127.0.0.1", "pi-2.local"));
        assert!(usable("127.0.0.1", "pi-1.local"));
        assert!(!usable("0.0.0.0", "pi-2.local"));
    }

    #[test]
    fn sightings_of_one_announcement_become_one_candidate() {
        let mut candidates = Vec::new();
        assert!(add(&mut candidates, &sighting("fd00::2", "pi-2"), &here()));
        assert!(add(&mut candidates, &sighting("10.0.0.2", "pi-2"), &here()));
        assert!(!add(&mut candidates, &sighting("10.0.0.2", "pi-2"), &here()));
        assert!(!add(&mut candidates, &sighting("nonsense", "pi-2"), &here()));
        assert!(!add(
            &mut candidates,
            &Sighting {
                pin: Some("12".into()),
                ..sighting("10.0.0.3", "pi-3")
            },
            &here()
        ));
        assert!(!add(
            &mut candidates,
            &Sighting {
                cluster: None,
                ..sighting("10.0.0.3", "pi-3")
            },
            &here()
        ));
        assert_eq!(candidates.len(), 1);
        let sockets: Vec<_> = candidates[0].sockets().map(|socket| socket.to_string()).collect();
        assert_eq!(sockets, ["10.0.0.2:6443", "[fd00::2]:6443"]);
        let rogue = Sighting {
            pin: Some(Pin([4; 32]).to_string()),
            ..sighting("10.0.0.66", "pi-2")
        };
        assert!(add(&mut candidates, &rogue, &here()));
        assert_eq!(
            candidates.len(),
            2,
            "another pin is another candidate, whatever it is called"
        );
    }
}
