//! The CNI configuration through which containerd gives pods their addresses.

use std::{fs, io, path::Path};

use serde_json::json;

use crate::{Error, Range};

/// The bridge that a node's pods are plugged into.
pub(crate) const BRIDGE: &str = "cni0";
/// Where host-local notes which addresses are taken.
pub(crate) const LEASES: &str = "/run/minidc/cni";

/// The configuration list for a node with this pod range and this largest packet: bridge, host-local addresses, port
/// mappings.
///
/// host-local keeps its leases under `/run`: no writes to the SD card, and none left over after a power cut, when all
/// sandboxes are gone anyway.
pub(crate) fn text(own: Range, mtu: u32) -> String {
    let list = json!({
        "cniVersion": "0.4.0",
        "name": "minidc",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": true,
                "hairpinMode": true,
                "ipMasq": false,
                "mtu": mtu,
                "ipam": {
                    "type": "host-local",
                    "dataDir": LEASES,
                    "ranges": [[{"subnet": own.to_string()}]],
                    "routes": [{"dst": "0.0.0.0/0"}]
                }
            },
            {"type": "portmap", "capabilities": {"portMappings": true}}
        ]
    });
    format!("{list:#}\n")
}

/// The largest packet that the file at `path` gives to pods; none if there is no such file.
pub(crate) fn mtu(path: &Path) -> Option<u32> {
    let list: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    list.pointer("/plugins/0/mtu")?.as_u64()?.try_into().ok()
}

/// Makes the file say so, in one step, and only if it does not already: containerd reloads at each write.
pub(crate) fn write(path: &Path, text: &str) -> Result<bool, Error> {
    let replace = || -> io::Result<bool> {
        match fs::read(path) {
            Ok(present) if present == text.as_bytes() => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        // containerd reads *.conflist, *.conf and *.json only: the unfinished file is not seen. It lies in the same
        // directory, since containerd reads again when a file is renamed within it, but not when one is moved into it.
        let fresh = path.with_extension("new");
        fs::write(&fresh, text)?;
        fs::File::open(&fresh)?.sync_all()?;
        fs::rename(&fresh, path)?;
        Ok(true)
    };
    replace().map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_names_the_range_and_no_masquerade() {
        let list: serde_json::Value = serde_json::from_str(&text("100.64.2.0/24".parse().unwrap(), 1450)).unwrap();
        assert_eq!(list["cniVersion"], "0.4.0");
        assert_eq!(list["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "100.64.2.0/24");
        assert_eq!(list["plugins"][0]["ipMasq"], false);
        assert_eq!(list["plugins"][0]["mtu"], 1450);
        assert_eq!(list["plugins"][1]["type"], "portmap");
    }

    #[test]
    fn unchanged_file_is_not_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("net.d/10-minidc.conflist");
        assert_eq!(mtu(&path), None);
        assert!(write(&path, "one").unwrap());
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let before = inode(&path);
        assert!(!write(&path, "one").unwrap());
        assert_eq!(inode(&path), before);
        assert!(write(&path, "two").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(directory.path().join("net.d")).unwrap().count(), 1);
        assert_eq!(mtu(&path), None);
        assert!(write(&path, &text("100.64.2.0/24".parse().unwrap(), 1450)).unwrap());
        assert_eq!(mtu(&path), Some(1450));
    }
}
