//! Use of CPU and memory of one container, from its control group.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use crate::cgroup::Cgroups;

use super::rate;

/// How many readings the inactive file cache counts for; making the kernel sum it up costs more than all the rest.
const CACHE_READINGS: u32 = 10;
/// Longest of the files: `memory.stat` has some sixty lines.
const LONGEST: usize = 8 << 10;

/// The open files of one container.
pub(super) struct Meter {
    id: String,
    unified: bool,
    cpu: Option<File>,
    memory: Option<File>,
    memory_stat: Option<File>,
    last: Option<(Instant, u64)>,
    inactive_file: u64,
    readings: u32,
}

impl Meter {
    /// Opens the files of the group; one that is not there gives no reading.
    pub(super) fn new(cgroups: &Cgroups, id: &str, group: &str) -> Self {
        let open = |controller: &str, file: &str| File::open(cgroups.file(controller, group, file)).ok();
        let unified = cgroups.unified();
        let (cpu, memory) = if unified {
            ("cpu.stat", "memory.current")
        } else {
            ("cpuacct.usage", "memory.usage_in_bytes")
        };
        Self {
            id: id.to_owned(),
            unified,
            cpu: open("cpuacct", cpu),
            memory: open("memory", memory),
            memory_stat: open("memory", "memory.stat"),
            last: None,
            inactive_file: 0,
            readings: 0,
        }
    }

    /// Id of the container.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// CPU in nanocores since the reading before, and working set in bytes; `None` when the group has gone.
    pub(super) fn read(&mut self, now: Instant) -> Option<(u64, u64)> {
        let mut buffer = [0; LONGEST];
        let cpu = cpu_nanoseconds(text(self.cpu.as_ref()?, &mut buffer)?, self.unified)?;
        let used: u64 = text(self.memory.as_ref()?, &mut buffer)?.trim().parse().ok()?;
        if self.readings.is_multiple_of(CACHE_READINGS) {
            let key = inactive_key(self.unified);
            let stat = self.memory_stat.as_ref().and_then(|file| text(file, &mut buffer));
            self.inactive_file = stat.and_then(|stat| field(stat, key)).unwrap_or(0);
        }
        self.readings = self.readings.wrapping_add(1);
        let (then, before) = self.last.map_or((now, None), |(then, cpu)| (then, Some(cpu)));
        self.last = Some((now, cpu));
        Some((
            rate(cpu, before, now.duration_since(then)),
            used.saturating_sub(self.inactive_file),
        ))
    }
}

/// Line of `memory.stat` with the file cache that can be given up first.
pub(super) fn inactive_key(unified: bool) -> &'static str {
    if unified {
        "inactive_file"
    } else {
        "total_inactive_file"
    }
}

/// The content of an open kernel file, from its start.
fn text<'b>(file: &File, buffer: &'b mut [u8]) -> Option<&'b str> {
    let length = file.read_at(buffer, 0).ok()?;
    std::str::from_utf8(&buffer[..length]).ok()
}

/// `cpuacct.usage` is in nanoseconds, `usage_usec` of `cpu.stat` in microseconds.
pub(super) fn cpu_nanoseconds(text: &str, unified: bool) -> Option<u64> {
    if unified {
        field(text, "usage_usec")?.checked_mul(1_000)
    } else {
        text.trim().parse().ok()
    }
}

/// The number after `key` in lines of `key number`.
pub(super) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A small kernel file.
pub(super) fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_interfaces_are_read() {
        assert_eq!(cpu_nanoseconds("123\n", false), Some(123));
        assert_eq!(cpu_nanoseconds("usage_usec 5\nuser_usec 3\n", true), Some(5_000));
        assert_eq!(
            field("cache 1\ninactive_file 7\ntotal_inactive_file 9\n", inactive_key(false)),
            Some(9)
        );
        assert_eq!(field("anon 1\ninactive_file 7\n", inactive_key(true)), Some(7));
    }

    #[test]
    fn working_set_leaves_out_the_inactive_cache() {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cpuacct/g/cpuacct.usage", "1000"),
            ("memory/g/memory.usage_in_bytes", "500"),
            ("memory/g/memory.stat", "total_inactive_file 100\n"),
        ] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let cgroups = Cgroups::at(root.path().into());
        let mut meter = Meter::new(&cgroups, "c", "/g");
        let start = Instant::now();
        assert_eq!(meter.read(start), Some((0, 400)));
        std::fs::write(root.path().join("cpuacct/g/cpuacct.usage"), "2000").unwrap();
        assert_eq!(
            meter.read(start + std::time::Duration::from_micros(10)),
            Some((100_000_000, 400))
        );
        assert_eq!(Meter::new(&cgroups, "c", "/none").read(start), None);
    }
}
