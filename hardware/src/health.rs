//! The facts that the LEDs are told.

/// Why the control plane sent the node away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The join token is wrong, expired or used by another board, or there is none.
    Token,
    /// A node of this name is connected already.
    NameInUse,
    /// The node was removed from the cluster.
    Removed,
    /// The control plane that answers belongs to another cluster.
    ForeignCluster,
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
    /// It was sent away.
    Refused(Refusal),
    /// It belongs to the cluster, and the link is up.
    Connected,
    /// It belongs to the cluster, and the link is down.
    Away,
    /// It met a control plane whose store is not the one it knew, or is older; it waits for `minidc node adopt`.
    ForeignStore,
}

/// Everything about a node that its LEDs can show.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeHealth {
    /// How far the node is on its way into the cluster.
    pub stage: Stage,
    /// containerd answers.
    pub runtime_ok: bool,
    /// The pod network is set up.
    pub network_ok: bool,
    /// Pods on this node whose containers all run.
    pub pods_running: u32,
    /// Pods on this node that crash, cannot start, or failed.
    pub pods_failing: u32,
    /// The disk is nearly full.
    pub disk_pressure: bool,
    /// Memory is nearly used up.
    pub memory_pressure: bool,
    /// Temperature of the processor in degrees Celsius, where the board tells it.
    pub temperature_celsius: Option<f32>,
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
            pods_running: 0,
            pods_failing: 0,
            disk_pressure: false,
            memory_pressure: false,
            temperature_celsius: None,
            locate: false,
        }
    }
}
