//! The cgroups of a rack: one per node in each hierarchy, below `minidc-rack/<rack>`.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    Error,
    process::{self, Process},
};

/// The name below which all racks are.
const TOP: &str = "minidc-rack";
/// In version 2 a group with children holds no processes of its own: the node's daemons live here.
const LEAF: &str = "init";
/// How long processes may take to die, and groups to empty.
const LIMIT: Duration = Duration::from_secs(10);

/// A mounted hierarchy of cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// Mount options that name it: `cpu,cpuacct` or `name=systemd`; empty for version 2.
    pub(crate) options: String,
}

impl Hierarchy {
    pub(crate) fn is_version_2(&self) -> bool {
        self.options.is_empty()
    }

    fn has(&self, controller: &str) -> bool {
        self.options.split(',').any(|option| option == controller)
    }

    fn rack(&self, rack: &str) -> PathBuf {
        self.mount.join(TOP).join(rack)
    }

    fn node(&self, rack: &str, node: &str) -> PathBuf {
        self.rack(rack).join(node)
    }
}

/// The hierarchies of this host: those of version 1, or else the one of version 2.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>, Error> {
    let path = "/proc/self/mountinfo";
    let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
    Ok(parse(&text))
}

fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    /// Options of any mount or of any hierarchy; the others name the controllers.
    const COMMON: [&str; 6] = ["rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode"];
    let mut first: Vec<Hierarchy> = Vec::new();
    let mut second = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let (Some(mount), mut right) = (left.split(' ').nth(4), right.split(' ')) else {
            continue;
        };
        let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
        let mount = PathBuf::from(mount);
        match kind {
            "cgroup" => {
                let options = options
                    .split(',')
                    .filter(|option| !COMMON.contains(option) && !option.starts_with("release_agent="))
                    .collect::<Vec<_>>()
                    .join(",");
                if !options.is_empty() && !first.iter().any(|known| known.options == options) {
                    first.push(Hierarchy { mount, options });
                }
            }
            "cgroup2" if second.is_empty() => second.push(Hierarchy {
                mount,
                options: String::new(),
            }),
            _ => {}
        }
    }
    // A name alone manages nothing: a host with systemd's own hierarchy beside version 2 uses version 2.
    if first.iter().any(|hierarchy| !hierarchy.options.starts_with("name=")) {
        first
    } else {
        second
    }
}

/// Makes the groups of a node; `memory` caps all its processes together, in bytes.
pub(crate) fn create(rack: &str, node: &str, memory: Option<u64>) -> Result<(), Error> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.node(rack, node);
        fs::create_dir_all(&group).map_err(Error::file("create", &group))?;
        let levels = [hierarchy.mount.join(TOP), hierarchy.rack(rack), group.clone()];
        if hierarchy.is_version_2() {
            enable(&hierarchy.mount)?;
            enable(&levels[0])?;
            enable(&levels[1])?;
            let leaf = group.join(LEAF);
            fs::create_dir_all(&leaf).map_err(Error::file("create", &leaf))?;
        }
        if hierarchy.has("cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let from = hierarchy.mount.join(file);
                let all = fs::read_to_string(&from).map_err(Error::file("read", &from))?;
                for level in &levels {
                    write(&level.join(file), all.trim())?;
                }
            }
        }
        if let Some(memory) = memory {
            if hierarchy.has("memory") {
                write(&group.join("memory.limit_in_bytes"), &memory.to_string())?;
            } else if hierarchy.is_version_2() {
                write(&group.join("memory.max"), &memory.to_string())?;
            }
        }
    }
    Ok(())
}

/// Hands all controllers of a group of version 2 to its children. Called by process 1 of a node too, for its own root.
pub(crate) fn enable(group: &Path) -> Result<(), Error> {
    let file = group.join("cgroup.controllers");
    let controllers = fs::read_to_string(&file).map_err(Error::file("read", &file))?;
    for controller in controllers.split_ascii_whitespace() {
        write(&group.join("cgroup.subtree_control"), &format!("+{controller}"))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::file("write", path))
}

/// The files into which a process writes its number to join the node: before it unshares its cgroup namespace, and after.
pub(crate) fn join_files(rack: &str, node: &str) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Error> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for hierarchy in hierarchies()? {
        let group = hierarchy.node(rack, node);
        before.push(group.join("cgroup.procs"));
        if hierarchy.is_version_2() {
            after.push(group.join(LEAF).join("cgroup.procs"));
        }
    }
    Ok((before, after))
}

/// All processes of a rack, or of one of its nodes.
pub(crate) fn processes(rack: &str, node: Option<&str>) -> Result<BTreeSet<i32>, Error> {
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies()? {
        let top = node.map_or_else(|| hierarchy.rack(rack), |node| hierarchy.node(rack, node));
        for group in groups(&top)? {
            // A group may vanish while we look: then it is empty.
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            found.extend(
                text.lines()
                    .filter_map(|line| line.trim().parse::<i32>().ok())
                    .filter(|pid| *pid > 0),
            );
        }
    }
    Ok(found)
}

/// Whether a rack has cgroups.
pub(crate) fn exist(rack: &str) -> bool {
    hierarchies().is_ok_and(|all| all.iter().any(|hierarchy| hierarchy.rack(rack).exists()))
}

/// Kills everything in a rack, or in one of its nodes, and removes the groups. Fine if there is nothing.
pub(crate) fn remove(rack: &str, node: Option<&str>) -> Result<(), Error> {
    let what = format!("the processes of {rack} {} to end", node.unwrap_or_default());
    process::wait_until(LIMIT, &what, || {
        let Ok(all) = processes(rack, node) else { return false };
        let living: Vec<Process> = all.into_iter().filter_map(Process::current).collect();
        for process in &living {
            // Again at each look: a process may have forked meanwhile. Failures show as a time-out.
            let _ = process.signal(Signal::SIGKILL);
        }
        living.is_empty()
    })?;
    let mut problem = None;
    process::wait_until(
        LIMIT,
        &format!("the cgroups of {rack} to be removed"),
        || match remove_groups(rack, node) {
            Ok(()) => true,
            Err(error) => {
                problem = Some(error);
                false
            }
        },
    )
    .map_err(|timeout| problem.unwrap_or(timeout))
}

fn remove_groups(rack: &str, node: Option<&str>) -> Result<(), Error> {
    for hierarchy in hierarchies()? {
        let top = node.map_or_else(|| hierarchy.rack(rack), |node| hierarchy.node(rack, node));
        // Children first.
        for group in groups(&top)?.iter().rev() {
            match fs::remove_dir(group) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::file("remove", group)(error)),
            }
        }
        if node.is_none() {
            // Other racks may still be in it.
            let _ = fs::remove_dir(hierarchy.mount.join(TOP));
        }
    }
    Ok(())
}

/// The group and all groups below it, parents before children; none if it does not exist.
fn groups(top: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut open = vec![top.to_owned()];
    while let Some(group) = open.pop() {
        let entries = match fs::read_dir(&group) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::file("read", &group)(error)),
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
        found.push(group);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_is_used_where_it_has_controllers() {
        let text = "\
30 24 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
31 24 0:27 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
32 24 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
33 24 0:26 / /elsewhere rw,relatime shared:1 - cgroup cgroup rw,cpu,cpuacct
";
        let found = parse(text);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0],
            Hierarchy {
                mount: "/sys/fs/cgroup/cpu".into(),
                options: "cpu,cpuacct".into()
            }
        );
        assert_eq!(found[1].options, "name=systemd");
        assert!(found[0].has("cpu") && !found[0].is_version_2());
    }

    #[test]
    fn version_2_is_used_where_it_is_alone_or_has_all_controllers() {
        let unified = "35 24 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = parse(unified);
        assert_eq!(
            found,
            [Hierarchy {
                mount: "/sys/fs/cgroup".into(),
                options: String::new()
            }]
        );
        let with_name = format!("{unified}36 24 0:29 / /x rw - cgroup cgroup rw,name=systemd\n");
        assert_eq!(parse(&with_name), found);
        assert!(parse("22 1 8:1 / / rw - ext4 /dev/vda rw\n").is_empty());
    }
}
