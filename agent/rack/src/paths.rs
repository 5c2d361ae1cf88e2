//! Where a rack's files lie.

use std::path::{Path, PathBuf};

use crate::names;

/// What is gone after a reboot of the host.
pub(crate) const STATE: &str = "/run/minidc-rack";
/// What is large: the nodes' disks.
pub(crate) const DATA: &str = "/var/lib/minidc-rack";

/// Directories of a node that bypass the overlay, with their place below the node's directory on the host: what is written
/// often, what the overlay file system must not lie under (containerd's snapshots), and configuration that the host's own
/// must not shine through.
pub(crate) const PLAIN: [(&str, &str); 7] = [
    ("/var/lib/minidc", "disk/var/lib/minidc"),
    ("/var/lib/containerd", "disk/var/lib/containerd"),
    ("/var/lib/cni", "disk/var/lib/cni"),
    ("/var/log", "log"),
    ("/etc/minidc", "disk/etc/minidc"),
    ("/etc/containerd", "disk/etc/containerd"),
    ("/etc/cni", "disk/etc/cni"),
];

/// The places of one rack.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    /// `/run/minidc-rack/<rack>`.
    pub(crate) state: PathBuf,
    /// `/var/lib/minidc-rack/<rack>`.
    pub(crate) data: PathBuf,
}

impl Paths {
    pub(crate) fn new(rack: &str) -> Self {
        Self {
            state: Path::new(STATE).join(rack),
            data: Path::new(DATA).join(rack),
        }
    }

    /// What is known of the rack.
    pub(crate) fn record(&self) -> PathBuf {
        self.state.join("rack.json")
    }

    /// The minidc that all nodes run: a copy, so that a rebuild does not change a running rack.
    pub(crate) fn binary(&self) -> PathBuf {
        self.data.join("bin/minidc")
    }

    /// A node's disk.
    pub(crate) fn node(&self, index: u32) -> PathBuf {
        self.data.join(names::node(index))
    }

    /// A node's `/run`.
    pub(crate) fn run(&self, index: u32) -> PathBuf {
        self.state.join(names::node(index))
    }

    /// What is known of a node's power.
    pub(crate) fn power(&self, index: u32) -> PathBuf {
        self.state.join(format!("{}.json", names::node(index)))
    }

    /// Where a file of a node lies on the host.
    pub(crate) fn inside(&self, index: u32, path: &Path) -> PathBuf {
        let node = self.node(index);
        if let Ok(rest) = path.strip_prefix("/run") {
            return join(&self.run(index), rest);
        }
        for (inside, outside) in PLAIN {
            if let Ok(rest) = path.strip_prefix(inside) {
                return join(&node.join(outside), rest);
            }
        }
        join(&node.join("root"), path.strip_prefix("/").unwrap_or(path))
    }
}

/// As `Path::join`, without a trailing slash when there is nothing to add.
fn join(directory: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() {
        directory.to_owned()
    } else {
        directory.join(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_node_are_found_on_the_host() {
        let paths = Paths::new("demo");
        for (inside, outside) in [
            (
                "/var/lib/minidc/server/admin.kubeconfig",
                "/var/lib/minidc-rack/demo/pi-2/disk/var/lib/minidc/server/admin.kubeconfig",
            ),
            ("/run/minidc/leds.json", "/run/minidc-rack/demo/pi-2/minidc/leds.json"),
            ("/var/log/pods", "/var/lib/minidc-rack/demo/pi-2/log/pods"),
            (
                "/etc/minidc/config.toml",
                "/var/lib/minidc-rack/demo/pi-2/disk/etc/minidc/config.toml",
            ),
            ("/etc/hostname", "/var/lib/minidc-rack/demo/pi-2/root/etc/hostname"),
            ("/var/lib/minidc", "/var/lib/minidc-rack/demo/pi-2/disk/var/lib/minidc"),
            (
                "/var/lib/minidc-other",
                "/var/lib/minidc-rack/demo/pi-2/root/var/lib/minidc-other",
            ),
        ] {
            assert_eq!(paths.inside(2, Path::new(inside)), Path::new(outside));
        }
    }
}
