//! The configuration that a card image would carry, written anew at each boot.

use std::{fs, io, path::Path};

use crate::{Error, spec::InitSpec};

/// Writes what belongs below `/etc`, into a root that is not entered yet.
pub(super) fn write(spec: &InitSpec, root: &Path) -> Result<(), Error> {
    let InitSpec {
        node,
        address,
        machine_id,
        ..
    } = spec;
    put(root, "etc/hostname", &format!("{node}\n"))?;
    put(
        root,
        "etc/hosts",
        &format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n{address} {node}\n"),
    )?;
    // A rack of virtual Pis has no name server, and the host's is out of reach.
    put(root, "etc/resolv.conf", "# no name server\n")?;
    put(root, "etc/machine-id", &format!("{machine_id}\n"))?;
    put(root, "var/lib/dbus/machine-id", &format!("{machine_id}\n"))?;
    put(root, "etc/avahi/avahi-daemon.conf", &avahi(node))?;
    if spec.guest {
        return put(root, "etc/nsswitch.conf", NAME_SERVICES);
    }
    put(&spec.disk, "disk/etc/containerd/config.toml", CONTAINERD)
}

/// Makes the directories below `/run` that Debian's units would make.
pub(super) fn write_run(spec: &InitSpec) -> Result<(), Error> {
    for directory in ["/run/lock", "/run/dbus", "/run/netns", "/run/rack", "/run/minidc"] {
        fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
    }
    let plain = Path::new("/run/rack/node");
    fs::write(plain, &spec.node).map_err(Error::file("write", plain))
}

/// Replaces a file; also one that is a link into the host's `/run`, as resolv.conf often is.
fn put(root: &Path, path: &str, text: &str) -> Result<(), Error> {
    let path = root.join(path);
    let replace = || -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::write(&path, text)
    };
    replace().map_err(Error::file("write", &path))
}

/// Avahi on eth0 only: else it also publishes the pod bridge's address. Limits of its own would be the host's, shared with
/// all other nodes' Avahis, since they count per user.
fn avahi(node: &str) -> String {
    format!(
        "[server]
host-name={node}
use-ipv4=yes
use-ipv6=no
allow-interfaces=eth0
enable-dbus=yes
ratelimit-interval-usec=1000000
ratelimit-burst=1000

[wide-area]
enable-wide-area=no

[publish]
publish-hinfo=no
publish-workstation=no
publish-aaaa-on-ipv4=no

[rlimits]
"
    )
}

/// Where a guest's programs look for names: with Debian's `libnss-mdns` on the host they find those ending in `.local`
/// through Avahi, as on most desktops; without it the word is ignored.
const NAME_SERVICES: &str = "passwd: files
group: files
hosts: files mdns4_minimal [NOTFOUND=return] dns
";

/// containerd for a node: nothing it does not need, since each plugin costs memory.
///
/// `restrict_oom_score_adj`: a host may not let its root lower the score, and then no sandbox starts.
const CONTAINERD: &str = r#"version = 2
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.native",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
]

[debug]
  level = "warn"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "minidc.local/pause:1"
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_replaced_and_not_followed() {
        let directory = std::env::temp_dir().join(format!("minidc-rack-files-{}", std::process::id()));
        let outside = directory.join("outside");
        fs::create_dir_all(directory.join("root/etc")).unwrap();
        fs::write(&outside, "the host's").unwrap();
        std::os::unix::fs::symlink(&outside, directory.join("root/etc/resolv.conf")).unwrap();
        put(&directory.join("root"), "etc/resolv.conf", "own").unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "the host's");
        assert_eq!(
            fs::read_to_string(directory.join("root/etc/resolv.conf")).unwrap(),
            "own"
        );
        fs::remove_dir_all(&directory).unwrap();
    }
}
