//! What is refused, on pretended computers.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use minidc_image::host::{Device, Host, Kind, Refusal};

const GB: u64 = 1_000_000_000;

/// A computer with a system disk `sda` (`sda1` boot, `sda2` encrypted and mapped as `dm-0` with LVM `dm-1` as root, `sda3` swap), a card
/// in a USB reader `sdb` with two partitions, a card `mmcblk0`, soldered eMMC `mmcblk1`, an empty reader `sdc` and an NVMe disk.
struct Computer {
    root: tempfile::TempDir,
}

impl Computer {
    fn new() -> Self {
        let computer = Self {
            root: tempfile::tempdir().unwrap(),
        };
        let disk = |place: &str, number: &str, bytes: u64, files: &[(&str, &str)]| {
            computer.device(place, number, bytes, files);
        };
        let sda = "devices/pci0000:00/ata1/block/sda";
        disk(
            sda,
            "8:0",
            500 * GB,
            &[("device/vendor", "ATA     "), ("device/model", "Disk")],
        );
        disk(&format!("{sda}/sda1"), "8:1", GB, &[("partition", "1")]);
        disk(&format!("{sda}/sda2"), "8:2", GB, &[("partition", "2")]);
        disk(&format!("{sda}/sda3"), "8:3", GB, &[("partition", "3")]);
        disk("devices/virtual/block/dm-0", "253:0", GB, &[("dm/name", "luks-root")]);
        disk("devices/virtual/block/dm-1", "253:1", GB, &[("dm/name", "vg-root")]);
        computer.hold(&format!("{sda}/sda2"), "dm-0");
        computer.hold("devices/virtual/block/dm-0", "dm-1");
        let sdb = "devices/pci0000:00/usb1/1-1/block/sdb";
        disk(
            sdb,
            "8:16",
            32 * GB,
            &[
                ("removable", "1"),
                ("device/vendor", "Generic "),
                ("device/model", "USB SD Reader   "),
            ],
        );
        disk(&format!("{sdb}/sdb1"), "8:17", GB, &[("partition", "1")]);
        disk(&format!("{sdb}/sdb2"), "8:18", GB, &[("partition", "2")]);
        disk(
            "devices/pci0000:00/usb1/1-2/block/sdc",
            "8:32",
            0,
            &[("removable", "1")],
        );
        let mmc = "devices/pci0000:00/mmc_host";
        disk(
            &format!("{mmc}/mmc0/block/mmcblk0"),
            "179:0",
            16 * GB,
            &[("device/type", "SD"), ("device/name", "SC16G")],
        );
        disk(
            &format!("{mmc}/mmc1/block/mmcblk1"),
            "179:8",
            16 * GB,
            &[("device/type", "MMC")],
        );
        disk("devices/pci0000:00/nvme/block/nvme0n1", "259:0", 900 * GB, &[]);
        computer.write(
            "proc/self/mountinfo",
            "21 1 253:1 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw\n",
        );
        computer.write(
            "proc/swaps",
            "Filename Type Size Used Priority\n/dev/sda3 partition 1 0 -2\n",
        );
        computer
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn device(&self, place: &str, number: &str, bytes: u64, files: &[(&str, &str)]) {
        let directory = format!("sys/{place}");
        self.write(&format!("{directory}/dev"), &format!("{number}\n"));
        self.write(&format!("{directory}/size"), &format!("{}\n", bytes / 512));
        self.write(&format!("{directory}/ro"), "0\n");
        for (name, text) in files {
            self.write(&format!("{directory}/{name}"), &format!("{text}\n"));
        }
        let whole = self.root.path().join(&directory);
        let link = |from: String| {
            let from = self.root.path().join(from);
            fs::create_dir_all(from.parent().unwrap()).unwrap();
            symlink(&whole, from).unwrap();
        };
        link(format!("sys/dev/block/{number}"));
        if !files.iter().any(|(name, _)| *name == "partition") {
            link(format!("sys/block/{}", place.rsplit('/').next().unwrap()));
        }
    }

    fn hold(&self, place: &str, holder: &str) {
        let directory = self.root.path().join(format!("sys/{place}/holders"));
        fs::create_dir_all(&directory).unwrap();
        let target = self.root.path().join(format!("sys/devices/virtual/block/{holder}"));
        symlink(target, directory.join(holder)).unwrap();
    }

    fn look(&self, name: &str, major: u64, minor: u64) -> Device {
        Host::at(self.root.path())
            .block(&Path::new("/dev").join(name), major, minor)
            .unwrap()
    }
}

fn mounted(part: &str, at: &str) -> Refusal {
    Refusal::Mounted {
        part: part.into(),
        at: at.into(),
    }
}

#[test]
fn a_card_in_a_reader_is_taken_and_shown_with_model_and_size() {
    let computer = Computer::new();
    let card = computer.look("sdb", 8, 16);
    assert_eq!(card.kind, Kind::Disk);
    assert_eq!(card.refusals(4 * GB), []);
    assert_eq!(card.to_string(), "/dev/sdb (Generic USB SD Reader, 32.0 GB)");
    let card = computer.look("mmcblk0", 179, 0);
    assert_eq!(card.refusals(4 * GB), []);
    assert_eq!(card.to_string(), "/dev/mmcblk0 (SC16G, 16.0 GB)");
}

#[test]
fn the_system_disk_is_refused_through_encryption_and_lvm() {
    let disk = Computer::new().look("sda", 8, 0);
    assert!(disk.uses.contains(&mounted("dm-1", "/")), "{:?}", disk.uses);
    assert_eq!(disk.refusals(GB), [Refusal::System]);
}

#[test]
fn swap_and_holders_are_refused() {
    let computer = Computer::new();
    // The root is elsewhere now: what is left are swap and a mapping that nobody mounts.
    computer.write("proc/self/mountinfo", "");
    let reasons = computer.look("sda", 8, 0).refusals(GB);
    let held = |part: &str, by: &str| Refusal::Held {
        part: part.into(),
        by: by.into(),
    };
    assert_eq!(
        reasons,
        [
            held("dm-0", "vg-root"),
            held("sda2", "luks-root"),
            Refusal::Swap { part: "sda3".into() },
            Refusal::Internal
        ]
    );
}

#[test]
fn a_disk_is_refused_while_itself_or_one_of_its_partitions_is_mounted() {
    let computer = Computer::new();
    // By number, by the name behind a link (btrfs has no number of a disk), with a blank in the path, and the whole card.
    for (line, part, at) in [
        (
            "40 21 8:18 / /media/me/data rw - vfat /dev/sdb2 rw",
            "sdb2",
            "/media/me/data",
        ),
        (
            "40 21 0:44 / /mnt rw - btrfs /dev/disk/by-id/reader-part1 rw",
            "sdb1",
            "/mnt",
        ),
        (
            "40 21 8:17 / /media/My\\040Card rw - vfat /dev/sdb1 rw",
            "sdb1",
            "/media/My Card",
        ),
        ("40 21 8:16 / /mnt rw - ext4 /dev/sdb rw", "sdb", "/mnt"),
    ] {
        computer.write("proc/self/mountinfo", &format!("{line}\n"));
        computer.write("dev/sdb1", "");
        let link = computer.root.path().join("dev/disk/by-id/reader-part1");
        if fs::symlink_metadata(&link).is_err() {
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink("../../sdb1", &link).unwrap();
        }
        assert_eq!(computer.look("sdb", 8, 16).refusals(GB), [mounted(part, at)], "{line}");
    }
}

#[test]
fn an_old_boot_partition_of_a_card_mounted_as_boot_makes_it_the_system_disk() {
    let computer = Computer::new();
    computer.write(
        "proc/self/mountinfo",
        "40 21 8:17 / /boot/firmware rw - vfat /dev/sdb1 rw\n",
    );
    assert_eq!(computer.look("sdb", 8, 16).refusals(GB)[0], Refusal::System);
}

#[test]
fn internal_disks_are_refused_even_when_nobody_uses_them() {
    let computer = Computer::new();
    assert_eq!(computer.look("nvme0n1", 259, 0).refusals(GB), [Refusal::Internal]);
    assert_eq!(computer.look("mmcblk1", 179, 8).refusals(GB), [Refusal::Internal]);
}

#[test]
fn a_partition_is_refused_and_the_whole_card_named() {
    let reasons = Computer::new().look("sdb1", 8, 17).refusals(2 * GB);
    assert_eq!(
        reasons,
        [Refusal::Partition {
            disk: "/dev/sdb".into()
        }]
    );
}

#[test]
fn small_read_only_and_absent_cards_are_refused() {
    let computer = Computer::new();
    assert_eq!(
        computer.look("sdb", 8, 16).refusals(64 * GB),
        [Refusal::TooSmall {
            bytes: 32 * GB,
            needed: 64 * GB
        }]
    );
    assert_eq!(computer.look("sdc", 8, 32).refusals(GB), [Refusal::NoCard]);
    computer.write("sys/devices/pci0000:00/usb1/1-1/block/sdb/ro", "1\n");
    assert_eq!(computer.look("sdb", 8, 16).refusals(GB), [Refusal::ReadOnly]);
}

#[test]
fn every_reason_is_given_at_once_in_words() {
    let computer = Computer::new();
    computer.write("sys/devices/pci0000:00/usb1/1-1/block/sdb/ro", "1\n");
    computer.write("proc/self/mountinfo", "40 21 8:18 / /media/x rw - vfat /dev/sdb2 rw\n");
    let words: Vec<String> = computer
        .look("sdb", 8, 16)
        .refusals(64 * GB)
        .iter()
        .map(ToString::to_string)
        .collect();
    let text = words.join("\n");
    for word in [
        "sdb2 is mounted at /media/x",
        "it has 32.0 GB, the image needs 64.0 GB",
        "read-only",
    ] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn a_loop_device_upon_a_file_refuses_it() {
    let computer = Computer::new();
    let file = computer.root.path().join("card.img");
    fs::write(&file, [0; 4096]).unwrap();
    computer.write(
        "sys/block/loop3/loop/backing_file",
        &format!("{}\n", file.canonicalize().unwrap().display()),
    );
    let device = Host::at(computer.root.path()).inspect(&file).unwrap();
    assert_eq!(device.refusals(4096), [Refusal::Loop { by: "loop3".into() }]);
}

#[test]
fn only_cards_that_could_be_written_are_offered() {
    let computer = Computer::new();
    let names: Vec<String> = Host::at(computer.root.path())
        .candidates()
        .into_iter()
        .map(|device| device.name)
        .collect();
    assert_eq!(names, ["mmcblk0", "sdb"]);
}

#[test]
fn what_is_no_device_is_refused() {
    let host = Host::default();
    let directory = tempfile::tempdir().unwrap();
    for (path, word) in [
        (directory.path(), "a directory"),
        (Path::new("/dev/null"), "a character device"),
    ] {
        let reasons = host.inspect(path).unwrap().refusals(1);
        assert_eq!(reasons.len(), 1);
        assert!(reasons[0].to_string().contains(word), "{reasons:?}");
    }
    let error = host.inspect(&directory.path().join("missing")).unwrap_err();
    assert!(error.to_string().starts_with("there is no "), "{error}");
}
