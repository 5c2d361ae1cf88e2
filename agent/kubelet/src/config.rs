//! What the kubelet is told once, at start.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The settings of one kubelet. Directories are made when absent.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the node object; also the `kubernetes.io/hostname` label.
    pub node: String,
    /// Directory for what must survive a reboot (`/var/lib/minidc/agent`): pod directories and the record of imported
    /// images. Made with mode 0700.
    pub data: PathBuf,
    /// Directory for what need not (`/run/minidc`): the FIFOs of running exec sessions. Must be on a tmpfs.
    pub run: PathBuf,
    /// containerd's socket, usually `/run/containerd/containerd.sock`.
    pub containerd: PathBuf,
    /// Where container logs go, usually `/var/log/pods`.
    pub log_dir: PathBuf,
    /// Labels beyond the well-known ones, for instance the board.
    pub labels: BTreeMap<String, String>,
    /// Pods this node takes (Kubernetes' default is 110).
    pub max_pods: u32,
    /// Name of the pause image that containerd is configured with as `sandbox_image`.
    pub pause_image: String,
}

impl Config {
    /// The usual places of a node called `node`.
    #[must_use]
    pub fn new(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            data: "/var/lib/minidc/agent".into(),
            run: "/run/minidc".into(),
            containerd: "/run/containerd/containerd.sock".into(),
            log_dir: "/var/log/pods".into(),
            labels: BTreeMap::new(),
            max_pods: 110,
            pause_image: crate::pause::IMAGE.into(),
        }
    }
}
