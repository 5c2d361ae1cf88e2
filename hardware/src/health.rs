//! The facts that the LEDs are told.

/// Why the node was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// What was written on the card for this board has a mistake, or is meant for another cluster.
    Seed,
    /// The join token is wrong, expired or used by another board, or there is none.
    Token,
    /// A node of this name is connected already.
    NameInUse,
    /// The node was removed from the cluster.
    Removed,
    /// The control plane that answers belongs to another cluster.
    ForeignCluster,
    /// The control plane's store is not the one this node knew, or is older: the node waits for `minidc node adopt`.
    ForeignStore,
    /// Node and control plane speak different versions of the protocol.
    Version,
    /// Any other reason; the log has it.
    Other,
}

/// How far the node is on its way into the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The agent has just started.
    #[default]
    Booting,
    /// It looks for a control plane.
    Searching,
    /// It has found one and asks to be let in.
    Joining,
    /// It was sent away, or refuses what it found.
    Refused(Refusal),
    /// It belongs to the cluster, and the link is up.
    Connected,
    /// It belongs to the cluster, and the link is down.
    Away,
    /// It stops what runs, to be powered off.
    Halting,
}

/// Everything about a node that its LEDs can show.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeHealth {
    /// How far the node is on its way into the cluster.
    pub stage: Stage,
    /// containerd answers.
    pub runtime_ok: bool,
    /// Pods, Services and names are reached as they should be.
    pub network_ok: bool,
    /// The address ranges of pods or Services are in use on the LAN, too.
    pub ranges_overlap: bool,
    /// Pods on this node whose containers all run.
    pub pods_running: u32,
    /// Pods on this node that crash, cannot start, or failed.
    pub pods_failing: u32,
    /// The disk is nearly full.
    pub disk_pressure: bool,
    /// The disk gave errors, or cannot be written any more.
    pub disk_failing: bool,
    /// Memory is nearly used up.
    pub memory_pressure: bool,
    /// The supply is too weak: the board measured too low a voltage since it was last looked at.
    pub under_voltage: bool,
    /// Temperature of the processor in degrees Celsius, where the board tells it.
    pub temperature_celsius: Option<f32>,
    /// Use of all cores together, 0 to 100.
    pub cpu_percent: u8,
    /// Use of the memory, 0 to 100.
    pub memory_percent: u8,
    /// On the control plane: nodes that are not heard of.
    pub nodes_lost: u32,
    /// Somebody asked this node to show itself.
    pub locate: bool,
}

impl Default for NodeHealth {
    /// A node that has just started and of which nothing bad is known.
    fn default() -> Self {
        Self {
            stage: Stage::default(),
            runtime_ok: true,
            network_ok: true,
            ranges_overlap: false,
            pods_running: 0,
            pods_failing: 0,
            disk_pressure: false,
            disk_failing: false,
            memory_pressure: false,
            under_voltage: false,
            temperature_celsius: None,
            cpu_percent: 0,
            memory_percent: 0,
            nodes_lost: 0,
            locate: false,
        }
    }
}

/// A measure that is called high from `high` on, and no more below `low`: what lies between keeps what was said `before`, so
/// that a light does not change its mind each second.
#[must_use]
pub fn held(before: u8, now: u8, high: u8, low: u8) -> u8 {
    if before >= high && now >= low {
        now.max(high)
    } else {
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_high_stays_so_until_it_is_clearly_low() {
        for (before, now, expected) in [(0, 89, 89), (0, 90, 90), (95, 80, 90), (95, 74, 74), (74, 80, 80)] {
            assert_eq!(held(before, now, 90, 75), expected, "{now} after {before}");
        }
    }
}
