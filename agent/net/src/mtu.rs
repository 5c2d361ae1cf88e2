//! How large a packet of a pod may be. Pure.

use crate::vxlan;

/// What Ethernet takes, and what is assumed while no network is plugged in.
pub(crate) const ETHERNET: u32 = 1500;

/// Largest packet of the pods of this node.
///
/// `uplink`: the smallest limit of this node's networks. `tunnelled`: some packets go through the tunnel, or did since the
/// agent started: pods of one node are to agree, so a rack that moves does not change it forth and back. `present`: what the
/// CNI configuration says now; it is not raised before the list of nodes is whole (`synced`).
pub(crate) fn of_pods(uplink: Option<u32>, tunnelled: bool, synced: bool, present: Option<u32>) -> u32 {
    let Some(uplink) = uplink else {
        return present.unwrap_or(ETHERNET);
    };
    let wanted = if tunnelled {
        uplink.saturating_sub(vxlan::OVERHEAD)
    } else {
        uplink
    };
    match present {
        Some(present) if !synced => wanted.min(present),
        _ => wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnel_takes_its_overhead_from_every_pod() {
        for (uplink, tunnelled, synced, present, expected) in [
            (Some(1500), false, true, None, 1500),
            (Some(1500), true, true, Some(1500), 1450),
            (Some(1500), false, true, Some(1450), 1500),
            // before the list of nodes is whole, a tunnel that was needed may be needed still
            (Some(1500), false, false, Some(1450), 1450),
            (Some(1400), false, false, Some(1450), 1400),
            // the cable is out: nothing changes
            (None, false, true, Some(1450), 1450),
            (None, true, true, None, 1500),
        ] {
            assert_eq!(
                of_pods(uplink, tunnelled, synced, present),
                expected,
                "{uplink:?} {tunnelled} {synced} {present:?}"
            );
        }
    }
}
