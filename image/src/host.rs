//! What a device is, and every reason not to overwrite it, from sysfs and procfs.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::Error;

/// Directories whose file system makes a disk the system's.
const SYSTEM: &[&str] = &[
    "/",
    "/boot",
    "/boot/efi",
    "/boot/firmware",
    "/efi",
    "/home",
    "/nix",
    "/opt",
    "/usr",
    "/var",
];
/// Unit of `size` in sysfs, whatever the disk's sectors are (Documentation/ABI/stable/sysfs-block).
const SYSFS_SECTOR: u64 = 512;

/// What a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole block device.
    Disk,
    /// A part of one.
    Partition {
        /// Name of the whole one, as "sda".
        disk: String,
    },
    /// A regular file that stands for a card.
    File,
    /// Something that cannot be written to.
    Other(&'static str),
}

/// Why a device is not overwritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Neither a block device nor a regular file.
    NotADevice(&'static str),
    /// It is the image that should be written.
    IsTheImage,
    /// One partition only.
    Partition {
        /// Path of the whole device.
        disk: String,
    },
    /// This computer runs from it.
    System,
    /// It is mounted.
    Mounted {
        /// Device that is.
        part: String,
        /// Where.
        at: String,
    },
    /// It is swap space in use.
    Swap {
        /// Device that is.
        part: String,
    },
    /// LVM, RAID, encryption or the like uses it.
    Held {
        /// Device that is held.
        part: String,
        /// By which device.
        by: String,
    },
    /// A loop device stands on this file.
    Loop {
        /// Its name.
        by: String,
    },
    /// It is built into this computer.
    Internal,
    /// It is read-only.
    ReadOnly,
    /// There is no card in the reader.
    NoCard,
    /// A regular file without a size.
    EmptyFile,
    /// The image does not fit.
    TooSmall {
        /// Bytes it has.
        bytes: u64,
        /// Bytes needed.
        needed: u64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADevice(what) => write!(f, "it is {what}, neither a card nor an image file"),
            Self::IsTheImage => f.write_str("it is the image itself"),
            Self::Partition { disk } => write!(f, "it is one partition; name the whole card, {disk}"),
            Self::System => f.write_str("this computer runs from it"),
            Self::Mounted { part, at } => {
                write!(f, "{part} is mounted at {at}; unmount it first if it is the right card")
            }
            Self::Swap { part } => write!(f, "{part} is in use as swap space"),
            Self::Held { part, by } => write!(f, "{part} is in use by {by} (LVM, RAID or encryption)"),
            Self::Loop { by } => write!(f, "the loop device {by} uses it"),
            Self::Internal => f.write_str("it is a disk built into this computer, not a card or a USB device"),
            Self::ReadOnly => f.write_str("it is read-only (look for a switch on the SD adapter)"),
            Self::NoCard => f.write_str("there is no card in it"),
            Self::EmptyFile => {
                f.write_str("it is an empty file; give it the size of a card first, as with: truncate -s 8G FILE")
            }
            Self::TooSmall { bytes, needed } => write!(f, "it has {}, the image needs {}", size(*bytes), size(*needed)),
        }
    }
}

/// Decimal, as printed on cards.
pub fn size(bytes: u64) -> String {
    if bytes >= 10_000_000_000 {
        format!("{}.{} GB", bytes / 1_000_000_000, bytes / 100_000_000 % 10)
    } else {
        format!("{}.{:02} GB", bytes / 1_000_000_000, bytes / 10_000_000 % 100)
    }
}

/// A device as this computer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// As the person named it.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Its name in sysfs, as "sda"; empty for a file.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Vendor and model, as far as they are known.
    pub model: Option<String>,
    /// Whether it can be taken out: a card, or on USB, or virtual.
    pub external: bool,
    /// Whether the kernel allows no writes.
    pub read_only: bool,
    /// Reasons from who uses it.
    pub uses: Vec<Refusal>,
}

impl Device {
    /// Every reason not to write `needed` bytes to it.
    pub fn refusals(&self, needed: u64) -> Vec<Refusal> {
        let mut reasons = Vec::new();
        match &self.kind {
            Kind::Other(what) => return vec![Refusal::NotADevice(what)],
            Kind::Partition { disk } => reasons.push(Refusal::Partition {
                disk: format!("/dev/{disk}"),
            }),
            Kind::Disk | Kind::File => {}
        }
        if self.uses.contains(&Refusal::System) {
            // Nothing else matters, and "unmount it first" would be bad advice.
            reasons.push(Refusal::System);
            return reasons;
        }
        reasons.extend(self.uses.iter().cloned());
        if !self.external {
            reasons.push(Refusal::Internal);
        }
        match (self.bytes, &self.kind) {
            (0, Kind::File) => reasons.push(Refusal::EmptyFile),
            (0, _) => reasons.push(Refusal::NoCard),
            (bytes, Kind::Disk | Kind::File) if bytes < needed => reasons.push(Refusal::TooSmall { bytes, needed }),
            _ => {}
        }
        if self.read_only {
            reasons.push(Refusal::ReadOnly);
        }
        reasons
    }
}

impl fmt::Display for Device {
    /// For the question before writing: path, model and size.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = match (&self.kind, &self.model) {
            (Kind::File, _) => "a file",
            (_, Some(model)) => model,
            (_, None) => "unknown model",
        };
        write!(f, "{} ({model}, {})", self.path.display(), size(self.bytes))
    }
}

/// Where the facts of this computer are read.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self { root: "/".into() }
    }
}

impl Host {
    /// Another root for `sys`, `proc` and `dev`, for tests.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// What `path` is. An error only when it cannot be looked at.
    pub fn inspect(&self, path: &Path) -> Result<Device, Error> {
        let failed = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => Error::NoDevice { path: path.to_owned() },
            _ => Error::Read {
                path: path.to_owned(),
                source,
            },
        };
        let metadata = fs::metadata(path).map_err(failed)?;
        let kind = metadata.file_type();
        if kind.is_block_device() {
            let number = metadata.rdev();
            return self.block(path, nix::sys::stat::major(number), nix::sys::stat::minor(number));
        }
        let other = |what| Kind::Other(what);
        let kind = if metadata.is_file() {
            Kind::File
        } else if metadata.is_dir() {
            other("a directory")
        } else if kind.is_char_device() {
            other("a character device")
        } else {
            other("a pipe or socket")
        };
        let real = fs::canonicalize(path).map_err(failed)?;
        let uses = if kind == Kind::File {
            self.loops(&real)
        } else {
            Vec::new()
        };
        Ok(Device {
            path: path.to_owned(),
            kind,
            name: String::new(),
            bytes: metadata.len(),
            model: None,
            external: true,
            read_only: metadata.permissions().readonly(),
            uses,
        })
    }

    /// The block device with this number; `path` is only what it is called.
    pub fn block(&self, path: &Path, major: u64, minor: u64) -> Result<Device, Error> {
        let link = self.sys(&format!("dev/block/{major}:{minor}"));
        let directory = fs::canonicalize(&link).map_err(|source| Error::Read { path: link, source })?;
        let name = file_name(&directory);
        let kind = if directory.join("partition").exists() {
            Kind::Partition {
                disk: directory.parent().map(file_name).unwrap_or_default(),
            }
        } else {
            Kind::Disk
        };
        let whole = match &kind {
            Kind::Partition { .. } => directory.parent().unwrap_or(&directory).to_owned(),
            _ => directory.clone(),
        };
        Ok(Device {
            path: path.to_owned(),
            bytes: number(&directory.join("size"))
                .unwrap_or(0)
                .saturating_mul(SYSFS_SECTOR),
            model: model(&whole),
            external: external(&whole),
            read_only: number(&whole.join("ro")) == Some(1) || number(&directory.join("ro")) == Some(1),
            uses: self.uses(&whole),
            kind,
            name,
        })
    }

    /// Whole devices that a card could be in, for the message when none was named: external, with a card in it.
    pub fn candidates(&self) -> Vec<Device> {
        let mut found: Vec<Device> = children(&self.sys("block"))
            .into_iter()
            .filter_map(|directory| {
                let text = read(&directory.join("dev"))?;
                let (major, minor) = text.split_once(':')?;
                let path = Path::new("/dev").join(file_name(&directory));
                self.block(&path, major.parse().ok()?, minor.parse().ok()?).ok()
            })
            .filter(|device| {
                let real = !["loop", "ram", "zram", "dm-", "md", "nbd"]
                    .iter()
                    .any(|prefix| device.name.starts_with(prefix));
                real && device.refusals(0).is_empty()
            })
            .collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found
    }

    fn sys(&self, path: &str) -> PathBuf {
        self.root.join("sys").join(path)
    }

    fn loops(&self, file: &Path) -> Vec<Refusal> {
        children(&self.sys("block"))
            .iter()
            .filter(|device| read(&device.join("loop/backing_file")).is_some_and(|backing| Path::new(&backing) == file))
            .map(|device| Refusal::Loop { by: file_name(device) })
            .collect()
    }

    /// Who uses the disk in `whole`: itself, its partitions, and all that is built upon them.
    fn uses(&self, whole: &Path) -> Vec<Refusal> {
        let mounts = self.mounts();
        let swaps = self.swaps();
        let mut reasons = Vec::new();
        let mut seen = BTreeSet::new();
        let mut open: Vec<PathBuf> = vec![whole.to_owned()];
        open.extend(
            children(whole)
                .into_iter()
                .filter(|path| path.join("partition").exists()),
        );
        let mut system = false;
        while let Some(directory) = open.pop() {
            let name = file_name(&directory);
            if !seen.insert(name.clone()) {
                continue;
            }
            let device = read(&directory.join("dev")).unwrap_or_default();
            for mount in &mounts {
                if mount.device == device || mount.source.as_deref() == Some(&name) {
                    system |= SYSTEM.contains(&mount.at.as_str());
                    reasons.push(Refusal::Mounted {
                        part: name.clone(),
                        at: mount.at.clone(),
                    });
                }
            }
            if swaps.contains(&name) {
                // What holds the running system's memory is part of it.
                reasons.push(Refusal::Swap { part: name.clone() });
            }
            for holder in children(&directory.join("holders")) {
                reasons.push(Refusal::Held {
                    part: name.clone(),
                    by: holder_name(&holder),
                });
                if let Ok(real) = fs::canonicalize(&holder) {
                    open.push(real);
                }
            }
        }
        reasons.sort_by_key(ToString::to_string);
        reasons.dedup();
        if system {
            reasons.insert(0, Refusal::System);
        }
        reasons
    }

    fn mounts(&self) -> Vec<Mount> {
        let text = read(&self.root.join("proc/self/mountinfo")).unwrap_or_default();
        text.lines().filter_map(|line| self.mount(line)).collect()
    }

    /// A line of mountinfo (proc_pid_mountinfo(5)): `36 35 98:0 / /mnt rw … - ext4 /dev/sda1 rw`.
    fn mount(&self, line: &str) -> Option<Mount> {
        let (front, back) = line.split_once(" - ")?;
        let front: Vec<&str> = front.split(' ').collect();
        let source = back.split(' ').nth(1)?;
        Some(Mount {
            device: (*front.get(2)?).to_owned(),
            at: unescape(front.get(4)?),
            source: self.device_name(&unescape(source)),
        })
    }

    fn swaps(&self) -> BTreeSet<String> {
        let text = read(&self.root.join("proc/swaps")).unwrap_or_default();
        text.lines()
            .skip(1)
            .filter_map(|line| self.device_name(&unescape(line.split_whitespace().next()?)))
            .collect()
    }

    /// Name in sysfs of a path under /dev, through links such as /dev/mapper/root.
    fn device_name(&self, path: &str) -> Option<String> {
        let inside = path.strip_prefix("/dev/")?;
        let path = self.root.join("dev").join(inside);
        Some(file_name(&fs::canonicalize(&path).unwrap_or(path)))
    }
}

struct Mount {
    /// "major:minor"; not that of a block device for btrfs, which is why the source counts, too.
    device: String,
    at: String,
    source: Option<String>,
}

/// Undoes the octal escapes of blank, tab, newline and backslash.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

fn number(path: &Path) -> Option<u64> {
    read(path)?.trim().parse().ok()
}

/// Entries of a directory, sorted; none if there is no directory.
fn children(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(directory)
        .map(|entries| {
            entries
                .filter_map(|entry| entry.ok().map(|entry| entry.path()))
                .collect()
        })
        .unwrap_or_default();
    found.sort();
    found
}

/// The name that people gave a mapped device, or the kernel's.
fn holder_name(holder: &Path) -> String {
    read(&holder.join("dm/name"))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| file_name(holder))
}

fn model(whole: &Path) -> Option<String> {
    let part = |name: &str| {
        read(&whole.join("device").join(name))
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
    };
    let words: Vec<String> = ["vendor", "model", "name"].into_iter().filter_map(part).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Whether a person can take it out: removable media, SD (not soldered eMMC, which says "MMC"), anything on USB, and what is no
/// hardware at all.
fn external(whole: &Path) -> bool {
    let path = whole.to_string_lossy();
    number(&whole.join("removable")) == Some(1)
        || read(&whole.join("device/type")).is_some_and(|kind| kind == "SD")
        || path.contains("/usb")
        || path.contains("/devices/virtual/")
}
