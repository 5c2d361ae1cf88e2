//! The node as a whole. Inside a container or a virtual node that is what the control group at the root of the mount
//! allows and uses, not the whole machine.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use sysinfo::{Component, Components};

use crate::cgroup::Cgroups;

use super::meter::{cpu_nanoseconds, field, inactive_key, read};

/// A sensor of the processor itself, by the names that the kernel uses on Raspberry Pis and on PCs.
const SENSORS: [&str; 5] = ["cpu_thermal", "cpu-thermal", "soc", "coretemp", "k10temp"];
/// Interfaces that carry traffic of pods, which passes a real one again.
const VIRTUAL: [&str; 8] = ["lo", "veth", "cni", "br-", "docker", "vxlan", "flannel", "minidc"];
/// Ticks per second of `/proc/stat`; fixed at 100 for user space on all architectures of Linux that matter here.
const TICK_NANOSECONDS: u64 = 10_000_000;

/// What is there, in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Thousandths of a core.
    pub(crate) cpu_milli: i64,
    /// Bytes.
    pub(crate) memory: u64,
    /// Bytes of the file system with minidc's data.
    pub(crate) storage: u64,
}

/// One reading.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    pub(super) cpu_nanoseconds: u64,
    pub(super) memory_bytes: u64,
    pub(super) memory_available_bytes: u64,
    pub(super) disk_used_bytes: u64,
    pub(super) disk_size_bytes: u64,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    pub(super) temperature_millicelsius: Option<i32>,
    pub(super) load_hundredths: u32,
}

/// Where the node is read from.
pub(crate) struct System {
    cgroups: Cgroups,
    data: PathBuf,
    memory: Option<sysinfo::System>,
    sensor: Option<Components>,
}

impl System {
    /// `data` is a directory on the file system that counts.
    pub(crate) fn new(cgroups: Cgroups, data: PathBuf) -> Self {
        let sensors = Components::new_with_refreshed_list().ok();
        let sensor = sensors.filter(|sensors| sensors.iter().any(is_processor));
        Self {
            cgroups,
            data,
            memory: sysinfo::System::new().ok(),
            sensor,
        }
    }

    /// What is there.
    pub(crate) fn capacity(&mut self) -> Capacity {
        self.refresh_memory();
        let cores = std::thread::available_parallelism().map_or(1, |count| i64::try_from(count.get()).unwrap_or(1));
        Capacity {
            cpu_milli: self.cpu_limit_milli().unwrap_or(i64::MAX).min(cores * 1_000),
            memory: self
                .memory_limit()
                .unwrap_or(u64::MAX)
                .min(self.memory_of(sysinfo::System::total_memory)),
            storage: disk(&self.data).map_or(0, |(_, size)| size),
        }
    }

    fn refresh_memory(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.refresh_memory();
        }
    }

    fn memory_of(&self, what: fn(&sysinfo::System) -> u64) -> u64 {
        self.memory.as_ref().map_or(0, what)
    }

    fn root_file(&self, controller: &str, file: &str) -> Option<String> {
        read(&self.cgroups.file(controller, "", file))
    }

    fn cpu_limit_milli(&self) -> Option<i64> {
        let (quota, period) = if self.cgroups.unified() {
            let text = self.root_file("", "cpu.max")?;
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.parse::<i64>().ok()?, period.parse::<i64>().ok()?)
        } else {
            let number = |file: &str| self.root_file("cpu", file)?.trim().parse::<i64>().ok();
            (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
        };
        (quota > 0 && period > 0).then(|| quota * 1_000 / period)
    }

    fn memory_limit(&self) -> Option<u64> {
        let file = if self.cgroups.unified() {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        self.root_file("memory", file)?.trim().parse().ok()
    }

    pub(super) fn read(&mut self) -> Reading {
        self.refresh_memory();
        let (disk_used_bytes, disk_size_bytes) = disk(&self.data).unwrap_or_default();
        let (memory_bytes, memory_available_bytes) = self.memory();
        let (received_bytes, sent_bytes) = network(&read(Path::new("/proc/net/dev")).unwrap_or_default());
        let load = sysinfo::System::load_average();
        Reading {
            cpu_nanoseconds: self.cpu(),
            memory_bytes,
            memory_available_bytes,
            disk_used_bytes,
            disk_size_bytes,
            received_bytes,
            sent_bytes,
            temperature_millicelsius: self.temperature(),
            load_hundredths: load.map_or(0, |load| hundredths(load.one)),
        }
    }

    fn temperature(&mut self) -> Option<i32> {
        let sensor = self.sensor.as_mut()?.iter_mut().find(|sensor| is_processor(sensor))?;
        sensor.refresh();
        sensor.temperature().map(millicelsius)
    }

    fn cpu(&self) -> u64 {
        let unified = self.cgroups.unified();
        let file = if unified { "cpu.stat" } else { "cpuacct.usage" };
        let own = self
            .root_file("cpuacct", file)
            .and_then(|text| cpu_nanoseconds(&text, unified));
        own.unwrap_or_else(|| busy_nanoseconds(&read(Path::new("/proc/stat")).unwrap_or_default()))
    }

    /// Working set, and what can still be had.
    fn memory(&self) -> (u64, u64) {
        let total = self.memory_of(sysinfo::System::total_memory);
        let limit = self.memory_limit().unwrap_or(u64::MAX);
        let unified = self.cgroups.unified();
        let file = if unified {
            "memory.current"
        } else {
            "memory.usage_in_bytes"
        };
        let own: Option<u64> = self.root_file("memory", file).and_then(|text| text.trim().parse().ok());
        let inactive = self
            .root_file("memory", "memory.stat")
            .and_then(|text| field(&text, inactive_key(unified)));
        let used = match own {
            Some(used) => used.saturating_sub(inactive.unwrap_or(0)),
            None => total
                .saturating_sub(self.memory_of(sysinfo::System::free_memory))
                .saturating_sub(inactive.unwrap_or(0)),
        };
        let available = self.memory_of(sysinfo::System::available_memory);
        if limit < total {
            (used, limit.saturating_sub(used).min(available))
        } else {
            (used, available)
        }
    }
}

fn is_processor(sensor: &Component) -> bool {
    SENSORS.iter().any(|known| sensor.label().starts_with(known))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a saturating cast of a temperature or load is what is wanted"
)]
fn millicelsius(celsius: f32) -> i32 {
    (f64::from(celsius) * 1_000.0).round() as i32
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "loads are small and never negative"
)]
fn hundredths(load: f64) -> u32 {
    (load * 100.0).round() as u32
}

/// Used and size, as `df` counts them: what only root may use is not free.
fn disk(path: &Path) -> Option<(u64, u64)> {
    let found = statvfs(path).ok()?;
    let unit = found.fragment_size();
    let size = found.blocks() * unit;
    Some((size.saturating_sub(found.blocks_available() * unit), size))
}

fn busy_nanoseconds(stat: &str) -> u64 {
    let Some(line) = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")) else {
        return 0;
    };
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal: all but idle and iowait is work.
    let busy: u64 = ticks
        .iter()
        .take(8)
        .enumerate()
        .filter(|(index, _)| !matches!(index, 3 | 4))
        .map(|(_, ticks)| ticks)
        .sum();
    busy * TICK_NANOSECONDS
}

/// Bytes received and sent on the node's own interfaces.
fn network(text: &str) -> (u64, u64) {
    let mut sum = (0, 0);
    for (name, counters) in text.lines().filter_map(|line| line.split_once(':')) {
        if VIRTUAL.iter().any(|prefix| name.trim().starts_with(prefix)) {
            continue;
        }
        let mut numbers = counters.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(0));
        sum.0 += numbers.next().unwrap_or(0);
        sum.1 += numbers.nth(7).unwrap_or(0);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_interfaces_count() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  \
                    eth0: 100 1 0 0 0 0 0 0 50 1 0 0 0 0 0 0\n  cni0: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\nveth1: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n";
        assert_eq!(network(text), (100, 50));
    }

    #[test]
    fn idle_time_is_not_work() {
        assert_eq!(
            busy_nanoseconds("cpu  1 2 3 400 500 6 7 8 9 10\ncpu0 1"),
            27 * TICK_NANOSECONDS
        );
    }
}
