//! What a node measures each second, as it travels in a heartbeat.

use serde::{Deserialize, Serialize};

/// One reading of a node; rates are over the time since the reading before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeSample {
    /// Length of the window that rates are over, in milliseconds.
    pub window_ms: u32,
    /// CPU used, in nanocores (a thousand-millionth of a core).
    pub cpu_nanocores: u64,
    /// Memory working set in bytes: used less inactive file cache.
    pub memory_bytes: u64,
    /// Bytes of memory that can still be had without swapping.
    pub memory_available_bytes: u64,
    /// Bytes used and size of the file system that holds minidc's data.
    pub disk_used_bytes: u64,
    /// Size of that file system.
    pub disk_size_bytes: u64,
    /// Bytes per second received on the node's own interfaces (no veths, no bridges).
    pub network_received_per_second: u64,
    /// Bytes per second sent on them.
    pub network_sent_per_second: u64,
    /// Temperature of the SoC in thousandths of a degree Celsius, when there is a sensor.
    pub temperature_millicelsius: Option<i32>,
    /// One-minute load average times 100.
    pub load_hundredths: u32,
    /// The pods of this node.
    pub pods: Vec<PodSample>,
}

/// One reading of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSample {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// One entry per running container.
    pub containers: Vec<ContainerSample>,
}

/// One reading of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSample {
    /// Name of the container in its pod.
    pub name: String,
    /// CPU used, in nanocores.
    pub cpu_nanocores: u64,
    /// Memory working set in bytes.
    pub memory_bytes: u64,
}
