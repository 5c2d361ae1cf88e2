//! Local facts for the LEDs: they hold also when the cluster does not work.

/// How the node does, judged by itself alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The container runtime answers and says that it is ready.
    pub runtime_ok: bool,
    /// The runtime says that the pod network is ready.
    pub network_ok: bool,
    /// Pods whose containers all run.
    pub pods_running: u32,
    /// Pods that should run but wait or crash.
    pub pods_failing: u32,
    /// Memory is nearly exhausted.
    pub memory_pressure: bool,
    /// The disk is nearly full.
    pub disk_pressure: bool,
}
