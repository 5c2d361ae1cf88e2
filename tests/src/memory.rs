//! The memory of a virtual Pi: the physical pages that its processes have, each counted once, and what its kernel holds
//! for them.
//!
//! Boards of one machine share the pages of files that they both run, so neither the resident size of processes nor what
//! a cgroup is charged tells what one board alone would need: the page tables do.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Bytes of a page.
const PAGE: u64 = 4096;

/// What some processes of a node have, in bytes. A page of several of the node's processes counts for each in part.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// How many processes they are.
    pub processes: usize,
    /// Memory of their own: heap, stacks, changed data.
    pub anonymous: f64,
    /// Pages of files: programs, libraries, the mapped parts of databases.
    pub files: f64,
}

impl Share {
    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> f64 {
        self.anonymous + self.files
    }

    fn add(&mut self, other: Self) {
        self.processes += other.processes;
        self.anonymous += other.anonymous;
        self.files += other.files;
    }
}

/// The memory of one virtual Pi.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The node's own programs by name. Process 1, which stands in for systemd, is left out.
    pub programs: BTreeMap<String, Share>,
    /// The processes of all pods.
    pub pods: Share,
    /// What the kernel keeps for the node's processes, in bytes: page tables, stacks, sockets, names of files.
    pub kernel: u64,
    /// What is written to file systems in memory, in bytes.
    pub tmpfs: u64,
    /// The kernel's own sum for the node's cgroup without what it could drop at once, in bytes (Kubernetes' working set).
    pub working_set: u64,
}

impl Memory {
    /// Reads it.
    ///
    /// # Errors
    /// If the node does not run, or without root.
    pub fn of(rack: &str, node: &str) -> Result<Self> {
        let group = group(rack, node)?;
        let mut processes = Vec::new();
        for (directory, pid) in members(&group)? {
            // a process may end while it is looked at
            if let Ok(process) = Process::read(pid, directory != group) {
                processes.push(process);
            }
        }
        let mut users: HashMap<u64, u32> = HashMap::new();
        for page in processes.iter().flat_map(|process| &process.pages) {
            *users.entry(page.frame).or_default() += 1;
        }
        let mut memory = Self::default();
        for process in processes {
            let mut share = Share {
                processes: 1,
                ..Share::default()
            };
            for page in &process.pages {
                let part = PAGE as f64 / f64::from(users[&page.frame]);
                if page.of_a_file {
                    share.files += part;
                } else {
                    share.anonymous += part;
                }
            }
            if process.in_a_pod {
                memory.pods.add(share);
            } else {
                memory.programs.entry(process.name).or_default().add(share);
            }
        }
        memory.read_group(&group)?;
        Ok(memory)
    }

    /// What the node itself needs, in bytes: everything but the pods' own processes and what could be dropped.
    #[must_use]
    pub fn of_the_node(&self) -> f64 {
        self.programs.values().map(Share::bytes).sum::<f64>() + (self.kernel + self.tmpfs) as f64
    }

    fn read_group(&mut self, group: &Path) -> Result<()> {
        let number = |file: &str| -> Result<u64> {
            let path = group.join(file);
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Ok(text.trim().parse()?)
        };
        let statistics = std::fs::read_to_string(group.join("memory.stat")).context("read memory.stat")?;
        let statistic = |name: &str| -> u64 {
            let line = statistics.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        let droppable;
        if group.join("memory.max").exists() {
            (self.kernel, self.tmpfs) = (statistic("kernel "), statistic("shmem "));
            droppable = statistic("inactive_file ");
            self.working_set = number("memory.current")?;
        } else {
            (self.kernel, self.tmpfs) = (number("memory.kmem.usage_in_bytes")?, statistic("total_shmem "));
            droppable = statistic("total_inactive_file ");
            self.working_set = number("memory.usage_in_bytes")?;
        }
        self.working_set = self.working_set.saturating_sub(droppable);
        Ok(())
    }
}

/// A node's cgroup, in either version.
fn group(rack: &str, node: &str) -> Result<PathBuf> {
    ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"]
        .iter()
        .map(|mount| Path::new(mount).join("minidc-rack").join(rack).join(node))
        .find(|path| path.exists())
        .with_context(|| format!("{node} of rack {rack} has no cgroup of memory"))
}

/// Each process below a group, with its own group; the node's daemons count as members of the top.
fn members(top: &Path) -> Result<Vec<(PathBuf, u32)>> {
    let mut found = Vec::new();
    let mut open = vec![top.to_owned()];
    while let Some(group) = open.pop() {
        for entry in std::fs::read_dir(&group)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
        let text = std::fs::read_to_string(group.join("cgroup.procs"))?;
        // in version 2 the daemons live in a leaf of their own
        let own = if group == top.join("init") {
            top.to_owned()
        } else {
            group
        };
        found.extend(
            text.lines()
                .filter_map(|line| line.parse().ok())
                .map(|pid| (own.clone(), pid)),
        );
    }
    Ok(found)
}

/// A page that a process has mapped and that is in memory.
struct Page {
    /// Number of the physical page.
    frame: u64,
    of_a_file: bool,
}

struct Process {
    name: String,
    in_a_pod: bool,
    pages: Vec<Page>,
}

impl Process {
    fn read(pid: u32, in_a_pod: bool) -> Result<Self> {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let read = |file: &str| std::fs::read_to_string(directory.join(file));
        let name = read("comm")?.trim().to_owned();
        let command = read("cmdline")?;
        anyhow::ensure!(!command.contains("\0rack\0init\0"), "process 1");
        let table = File::open(directory.join("pagemap"))?;
        let mut pages = Vec::new();
        let mut range = None;
        for line in read("smaps")?.lines() {
            let first = line.split(' ').next().unwrap_or_default();
            if let Some((from, to)) = first.split_once('-')
                && let (Ok(from), Ok(to)) = (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16))
            {
                range = Some((from, to));
            } else if first == "Rss:"
                && !line.ends_with(" 0 kB")
                && let Some((from, to)) = range
            {
                read_pages(&table, from / PAGE, to / PAGE, &mut pages)?;
            }
        }
        Ok(Self { name, in_a_pod, pages })
    }
}

/// Reads entries of `/proc/PID/pagemap` (the kernel's Documentation/admin-guide/mm/pagemap.rst): bit 63 says that the page is
/// in memory, bit 61 that it is of a file, bits 0 to 54 are its frame.
fn read_pages(table: &File, from: u64, to: u64, pages: &mut Vec<Page>) -> Result<()> {
    let mut buffer = vec![0; usize::try_from((to - from) * 8)?];
    table.read_exact_at(&mut buffer, from * 8)?;
    for entry in buffer.chunks_exact(8) {
        let entry = u64::from_le_bytes(entry.try_into()?);
        if entry >> 63 == 1 {
            pages.push(Page {
                frame: entry & ((1 << 55) - 1),
                of_a_file: entry >> 61 & 1 == 1,
            });
        }
    }
    Ok(())
}
