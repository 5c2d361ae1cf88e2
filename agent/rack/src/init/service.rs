//! The daemons of a node.

use std::{collections::BTreeMap, path::PathBuf};

use crate::spec::InitSpec;

/// A daemon, as a unit file would describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    /// Short name; its log is `/var/log/NAME.log`.
    pub(super) name: &'static str,
    /// Program and arguments.
    pub(super) command: Vec<String>,
    /// Environment besides `PATH` and `HOME`.
    pub(super) environment: BTreeMap<String, String>,
    /// The socket that is there once it answers; without one, it counts as up when it was started.
    pub(super) socket: Option<PathBuf>,
    /// Daemons that must be up before this one is started for the first time.
    pub(super) after: &'static [&'static str],
}

/// The daemons of a node or guest, in the order in which they are started; they are stopped in the reverse one.
pub(super) fn all(spec: &InitSpec) -> Vec<Service> {
    let service = |name, command: &[&str], socket: &str, after| Service {
        name,
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        environment: BTreeMap::new(),
        socket: Some(socket.into()),
        after,
    };
    let dbus = service(
        "dbus",
        &["dbus-daemon", "--system", "--nofork", "--nopidfile"],
        "/run/dbus/system_bus_socket",
        &[],
    );
    let avahi = service(
        "avahi",
        &["avahi-daemon", "--no-rlimits", "-f", "/etc/avahi/avahi-daemon.conf"],
        "/run/avahi-daemon/socket",
        &["dbus"],
    );
    if spec.guest {
        return vec![dbus, avahi];
    }
    let mut minidc = vec!["/usr/local/bin/minidc".to_owned()];
    minidc.extend(spec.arguments.iter().cloned());
    vec![
        dbus,
        service("containerd", &["containerd"], "/run/containerd/containerd.sock", &[]),
        avahi,
        Service {
            name: "minidc",
            command: minidc,
            environment: spec.environment.clone(),
            socket: None,
            after: &["avahi", "containerd"],
        },
    ]
}
