//! The programs that a rack needs on its host.

use std::path::Path;

use crate::tool;

/// How to tell that a package is there.
enum Probe {
    /// All these programs can be found.
    Programs(&'static [&'static str]),
    /// This file exists.
    File(&'static str),
}

/// Debian's packages and what a rack uses of them.
const NEEDED: [(&str, Probe); 10] = [
    ("avahi-daemon", Probe::Programs(&["avahi-daemon"])),
    ("busybox-static", Probe::Programs(&["busybox"])),
    (
        "containerd",
        Probe::Programs(&["containerd", "ctr", "containerd-shim-runc-v2"]),
    ),
    ("containernetworking-plugins", Probe::File("/usr/lib/cni/bridge")),
    ("dbus", Probe::Programs(&["dbus-daemon"])),
    ("iproute2", Probe::Programs(&["ip"])),
    ("iptables", Probe::Programs(&["iptables"])),
    ("nftables", Probe::Programs(&["nft"])),
    ("runc", Probe::Programs(&["runc"])),
    ("util-linux", Probe::Programs(&["unshare", "nsenter", "setsid"])),
];

/// Debian packages that a rack needs and this machine lacks, in alphabetical order.
#[must_use]
pub fn missing_packages() -> Vec<&'static str> {
    NEEDED
        .iter()
        .filter(|(_, probe)| match probe {
            Probe::Programs(programs) => !programs.iter().all(|program| tool::is_installed(program)),
            Probe::File(path) => !Path::new(path).exists(),
        })
        .map(|(package, _)| *package)
        .collect()
}

/// The command that installs these packages.
#[must_use]
pub fn install_hint(packages: &[&str]) -> String {
    format!("apt-get install -y --no-install-recommends {}", packages.join(" "))
}
