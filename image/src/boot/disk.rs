//! Which disk this system was started from, told without udev: by the kernel's command line, sysfs, and the first sector of each disk.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// What `root=` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// A partition of the disk whose MBR has this signature (`root=PARTUUID=6d696469-05`).
    Signature(u32),
    /// A device by name (`root=/dev/mmcblk0p5`): the name alone.
    Device(String),
}

impl Root {
    /// Reads the kernel's command line; `None` if it says nothing that can be followed.
    pub fn of_command_line(line: &str) -> Option<Self> {
        // As the kernel has it, the last one counts.
        let value = line
            .split_whitespace()
            .rev()
            .find_map(|word| word.strip_prefix("root="))?;
        if let Some(id) = value.strip_prefix("PARTUUID=") {
            let (signature, partition) = id.split_once('-')?;
            let right = signature.len() == 8 && partition.len() == 2 && u8::from_str_radix(partition, 16).is_ok();
            return u32::from_str_radix(signature, 16)
                .ok()
                .filter(|_| right)
                .map(Self::Signature);
        }
        let name = value.strip_prefix("/dev/")?;
        (!name.is_empty() && !name.contains('/')).then(|| Self::Device(name.to_owned()))
    }

    /// The whole disk that holds it, as sysfs (`/sys`) and the device directory (`/dev`) show it now; `None` while there is none.
    pub fn disk(&self, sys: &Path, dev: &Path) -> Option<PathBuf> {
        match self {
            Self::Signature(signature) => disks(sys)
                .into_iter()
                .map(|name| dev.join(name))
                .find(|disk| mbr_signature(disk) == Some(*signature)),
            Self::Device(name) => {
                let place = fs::canonicalize(sys.join("class/block").join(name)).ok()?;
                // A partition's directory lies in that of its disk.
                let disk = if place.join("partition").exists() {
                    place.parent()?.file_name()?.to_owned()
                } else {
                    name.into()
                };
                Some(dev.join(disk))
            }
        }
    }
}

/// Disks that can be cards, in a fixed order.
fn disks(sys: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(sys.join("block")) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            !["loop", "ram", "zram", "dm-", "sr", "md"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .collect();
    names.sort();
    names
}

fn mbr_signature(disk: &Path) -> Option<u32> {
    let mut sector = [0; 512];
    File::open(disk)
        .and_then(|mut file| file.read_exact(&mut sector))
        .ok()?;
    let signature = [sector[440], sector[441], sector[442], sector[443]];
    (sector[510..] == [0x55, 0xaa]).then(|| u32::from_le_bytes(signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_the_root() {
        let cases = [
            (
                "console=tty1 root=PARTUUID=6d696469-05 ro",
                Some(Root::Signature(0x6d69_6469)),
            ),
            ("root=PARTUUID=6D696469-06", Some(Root::Signature(0x6d69_6469))),
            (
                "root=/dev/sda1 root=/dev/mmcblk0p5",
                Some(Root::Device("mmcblk0p5".into())),
            ),
            ("root=PARTUUID=0f0e2b0a-93b4-4d6e-8a44-6e4bb8d2a1f0", None),
            ("root=LABEL=root", None),
            ("root=/dev/disk/by-label/x", None),
            ("quiet", None),
        ];
        for (line, expected) in cases {
            assert_eq!(Root::of_command_line(line), expected, "{line}");
        }
    }

    #[test]
    fn the_disk_is_found_by_its_signature_and_by_a_partition_of_it() {
        let place = tempfile::tempdir().unwrap();
        let (sys, dev) = (place.path().join("sys"), place.path().join("dev"));
        fs::create_dir_all(sys.join("block")).unwrap();
        fs::create_dir_all(sys.join("class/block")).unwrap();
        fs::create_dir(&dev).unwrap();
        for (name, signature) in [("loop0", 5_u32), ("mmcblk0", 5), ("sda", 9)] {
            let mut sector = [0; 512];
            sector[440..444].copy_from_slice(&signature.to_le_bytes());
            sector[510..].copy_from_slice(&[0x55, 0xaa]);
            fs::create_dir_all(sys.join("devices").join(name).join(format!("{name}p5"))).unwrap();
            fs::write(sys.join("devices").join(name).join(format!("{name}p5/partition")), "5").unwrap();
            std::os::unix::fs::symlink(format!("../devices/{name}"), sys.join("block").join(name)).unwrap();
            std::os::unix::fs::symlink(
                format!("../../devices/{name}/{name}p5"),
                sys.join("class/block").join(format!("{name}p5")),
            )
            .unwrap();
            fs::write(dev.join(name), sector).unwrap();
        }
        assert_eq!(Root::Signature(5).disk(&sys, &dev), Some(dev.join("mmcblk0")));
        assert_eq!(Root::Signature(9).disk(&sys, &dev), Some(dev.join("sda")));
        assert_eq!(Root::Signature(1).disk(&sys, &dev), None);
        assert_eq!(
            Root::Device("mmcblk0p5".into()).disk(&sys, &dev),
            Some(dev.join("mmcblk0"))
        );
        assert_eq!(Root::Device("nvme0n1p1".into()).disk(&sys, &dev), None);
    }
}
