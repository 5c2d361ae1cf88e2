//! What the board itself tells of its supply and its card.

use std::{fs, path::Path};

/// Facts that only the board knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sensors {
    /// The firmware measured too low a voltage since this was asked last.
    pub under_voltage: bool,
    /// The file system of the data directory gave errors, or was made read-only because of them.
    pub disk_failing: bool,
}

/// Looks below `root` (usually `/`) at the supply and at the file system that holds `data`.
#[must_use]
pub fn read(root: &Path, data: &Path) -> Sensors {
    Sensors {
        under_voltage: under_voltage(root),
        disk_failing: disk_failing(root, data),
    }
}

/// The driver `raspberrypi-hwmon`: `in0_lcrit_alarm` stays set from the dip until it is read.
fn under_voltage(root: &Path) -> bool {
    let Ok(sensors) = fs::read_dir(root.join("sys/class/hwmon")) else {
        return false;
    };
    sensors.flatten().any(|sensor| {
        let read = |file: &str| fs::read_to_string(sensor.path().join(file)).unwrap_or_default();
        read("name").trim() == "rpi_volt" && read("in0_lcrit_alarm").trim() == "1"
    })
}

fn disk_failing(root: &Path, data: &Path) -> bool {
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    let Some(mount) = mount_of(&mounts, data) else {
        return false;
    };
    if mount.read_only {
        return true;
    }
    let Some(name) = mount.source.strip_prefix("/dev/") else {
        return false;
    };
    let errors = fs::read_to_string(root.join("sys/fs/ext4").join(name).join("errors_count"));
    errors.is_ok_and(|count| count.trim().parse::<u64>().is_ok_and(|count| count > 0))
}

struct Mount<'a> {
    read_only: bool,
    source: &'a str,
}

/// The mount that holds `path`, of lines as proc_pid_mountinfo(5) has them. The last of the same length is on top.
fn mount_of<'a>(mounts: &'a str, path: &Path) -> Option<Mount<'a>> {
    let mut found: Option<(usize, Mount<'a>)> = None;
    for line in mounts.lines() {
        let (before, after) = line.split_once(" - ")?;
        let fields: Vec<&str> = before.split(' ').collect();
        let (Some(point), Some(options)) = (fields.get(4), fields.get(5)) else {
            continue;
        };
        let mut last = after.split(' ').skip(1);
        let (Some(source), Some(of_all)) = (last.next(), last.next()) else {
            continue;
        };
        let length = point.len();
        if path.starts_with(point) && found.as_ref().is_none_or(|(known, _)| length >= *known) {
            let is_read_only = |options: &str| options.split(',').any(|option| option == "ro");
            let read_only = is_read_only(options) || is_read_only(of_all);
            found = Some((length, Mount { read_only, source }));
        }
    }
    found.map(|(_, mount)| mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "22 1 0:20 / / rw,relatime - overlay overlay rw,lowerdir=/x\n\
        30 22 179:7 / /var/lib/minidc rw,noatime - ext4 /dev/mmcblk0p7 rw,errors=remount-ro\n\
        31 22 0:25 / /run rw - tmpfs tmpfs rw\n";

    fn root(mounts: &str, errors: &str, alarm: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("proc/self/mountinfo", mounts),
            ("sys/fs/ext4/mmcblk0p7/errors_count", errors),
            ("sys/class/hwmon/hwmon0/name", "cpu_thermal\n"),
            ("sys/class/hwmon/hwmon1/name", "rpi_volt\n"),
            ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", alarm),
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn weak_supply_and_worn_card_are_told() {
        let data = Path::new("/var/lib/minidc");
        let read_only = MOUNTS.replace("rw,errors=remount-ro", "ro,errors=remount-ro");
        for (mounts, errors, alarm, expected) in [
            (MOUNTS, "0\n", "0\n", (false, false)),
            (MOUNTS, "0\n", "1\n", (true, false)),
            (MOUNTS, "3\n", "0\n", (false, true)),
            (read_only.as_str(), "0\n", "0\n", (false, true)),
        ] {
            let root = root(mounts, errors, alarm);
            let sensors = read(root.path(), data);
            assert_eq!((sensors.under_voltage, sensors.disk_failing), expected);
        }
        let nothing = tempfile::tempdir().unwrap();
        assert_eq!(read(nothing.path(), data), Sensors::default());
    }

    #[test]
    fn a_read_only_mount_elsewhere_is_no_fault() {
        let root = root(
            &format!("{MOUNTS}40 22 7:0 / /var/lib/other ro - ext4 /dev/loop0 ro\n"),
            "0\n",
            "0\n",
        );
        assert!(!read(root.path(), Path::new("/var/lib/minidc/agent")).disk_failing);
    }
}
