//! The control groups of pods: made before their sandbox, removed after it, on cgroup v1 and v2.
//!
//! containerd puts containers below the pod's group, and runc sets their own limits. What is set here is the share that
//! pods have among each other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::identity::PodIdentity;
use crate::resources::{PodResources, QosClass};
use crate::sandbox::CGROUP_ROOT;

/// Where the kernel's control groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// Controllers that a pod's limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Which of the kernel's two interfaces is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cgroups {
    root: PathBuf,
    unified: bool,
}

impl Cgroups {
    /// Looks at what is mounted.
    pub(crate) fn detect() -> Self {
        Self::at(PathBuf::from(MOUNT))
    }

    /// The groups mounted at `root`.
    pub(crate) fn at(root: PathBuf) -> Self {
        let unified = root.join("cgroup.controllers").exists();
        Self { root, unified }
    }

    /// Whether this is version 2.
    pub(crate) fn unified(&self) -> bool {
        self.unified
    }

    /// A file of a group; `controller` counts with version 1 only.
    pub(crate) fn file(&self, controller: &str, group: &str, file: &str) -> PathBuf {
        let base = if self.unified {
            self.root.clone()
        } else {
            self.root.join(controller)
        };
        base.join(group.trim_start_matches('/')).join(file)
    }

    /// Makes the group of a pod and sets its share. Errors are for the log only: without it the pod still runs.
    pub(crate) fn prepare(&self, group: &str, resources: &PodResources) -> io::Result<()> {
        if self.unified {
            self.make_unified(group)?;
            fs::write(self.file("", group, "cpu.weight"), weight(resources.shares).to_string())?;
            if let Some(quota) = resources.quota {
                fs::write(self.file("", group, "cpu.max"), format!("{quota} {}", resources.period))?;
            }
            if let Some(memory) = resources.memory {
                fs::write(self.file("", group, "memory.max"), memory.to_string())?;
            }
            return Ok(());
        }
        for controller in ["cpu", "memory"] {
            fs::create_dir_all(self.file(controller, group, ""))?;
        }
        fs::write(self.file("cpu", group, "cpu.shares"), resources.shares.to_string())?;
        if let Some(quota) = resources.quota {
            fs::write(
                self.file("cpu", group, "cpu.cfs_period_us"),
                resources.period.to_string(),
            )?;
            fs::write(self.file("cpu", group, "cpu.cfs_quota_us"), quota.to_string())?;
        }
        if let Some(memory) = resources.memory {
            fs::write(self.file("memory", group, "memory.limit_in_bytes"), memory.to_string())?;
        }
        Ok(())
    }

    /// The share of a whole class among the classes.
    pub(crate) fn set_class_shares(&self, class: QosClass, shares: i64) -> io::Result<()> {
        let group = format!("{CGROUP_ROOT}/{}", class.directory());
        if self.unified {
            self.make_unified(&group)?;
            fs::write(self.file("", &group, "cpu.weight"), weight(shares).to_string())
        } else {
            fs::create_dir_all(self.file("cpu", &group, ""))?;
            fs::write(self.file("cpu", &group, "cpu.shares"), shares.to_string())
        }
    }

    /// Version 2: every group above must hand its controllers down.
    fn make_unified(&self, group: &str) -> io::Result<()> {
        let wanted = CONTROLLERS.map(|controller| format!("+{controller}")).join(" ");
        let mut path = self.root.clone();
        for part in Path::new(group.trim_start_matches('/')).components() {
            fs::write(path.join("cgroup.subtree_control"), &wanted)?;
            path.push(part);
            fs::create_dir_all(&path)?;
        }
        // The containers' own groups need them too.
        fs::write(path.join("cgroup.subtree_control"), &wanted)
    }

    /// Removes what containerd and we made for a pod, in every class: the pod may be known by its UID only.
    pub(crate) fn remove(&self, pod: &PodIdentity) {
        if pod.uid.is_empty() || pod.uid.contains('/') {
            return;
        }
        for class in QosClass::ALL {
            let group = format!("{CGROUP_ROOT}/{}/pod{}", class.directory(), pod.uid);
            if self.unified {
                remove_tree(&self.file("", &group, ""));
                continue;
            }
            for controller in fs::read_dir(&self.root).into_iter().flatten().flatten() {
                remove_tree(&controller.path().join(&group));
            }
        }
    }

    /// Removes the groups of all pods and classes. One that still holds a process stays.
    pub(crate) fn remove_all(&self) {
        if self.unified {
            return remove_tree(&self.file("", CGROUP_ROOT, ""));
        }
        for controller in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            remove_tree(&controller.path().join(CGROUP_ROOT));
        }
    }
}

/// Groups are removed by `rmdir`, the innermost first; one that still holds a process stays.
fn remove_tree(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// From version 1's shares (2…262144) to version 2's weight (1…10000), with runc's formula.
fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_span_their_range() {
        assert_eq!([2, 1_024, 262_144].map(weight), [1, 39, 10_000]);
    }

    #[test]
    fn version_is_seen_by_what_is_mounted() {
        let root = tempfile::tempdir().unwrap();
        let first = Cgroups::at(root.path().into());
        assert!(first.file("cpu", "/a/b", "cpu.shares").ends_with("cpu/a/b/cpu.shares"));
        fs::write(root.path().join("cgroup.controllers"), "cpu").unwrap();
        let second = Cgroups::at(root.path().into());
        assert!(second.unified() && second.file("cpu", "/a", "cpu.weight") == root.path().join("a/cpu.weight"));
    }
}
