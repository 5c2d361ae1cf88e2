//! The node's file systems: an overlay over the host's root, and what lies on top of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd,
};

use super::files;
use crate::{
    Error,
    cgroups::{self, Hierarchy},
    paths::{self, PLAIN},
    spec::InitSpec,
};

/// Leaves the host's file systems behind.
///
/// The root is an overlay, so that whatever a node or a pod with a hostPath volume writes stays within the node. containerd's
/// snapshots are overlays themselves, which cannot lie in an overlay's upper layer: they have a plain directory.
pub(super) fn enter(spec: &InitSpec) -> Result<(), Error> {
    let hierarchies = cgroups::hierarchies()?;
    attach(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    let root = overlay(spec)?;
    files::write(spec, &root)?;
    system(&root, &hierarchies)?;
    bind(&spec.run, &root.join("run"))?;
    for (inside, outside) in PLAIN {
        let (from, to) = (spec.disk.join(outside), below(&root, inside));
        create(&from)?;
        create(&to)?;
        bind(&from, &to)?;
    }
    tmpfs(&root.join("tmp"), "mode=1777,size=256m")?;
    if !spec.guest {
        program(spec, &root)?;
    }
    // The other nodes' disks, and this one's own: reading an upper layer through its overlay ends in loops.
    tmpfs(&below(&root, paths::DATA), "mode=555,size=4k")?;
    pivot(&root)?;
    if hierarchies.iter().any(Hierarchy::is_version_2) {
        cgroups::enable(Path::new("/sys/fs/cgroup"))?;
    }
    files::write_run(spec)
}

fn overlay(spec: &InitSpec) -> Result<PathBuf, Error> {
    let (upper, work, root) = (spec.disk.join("root"), spec.disk.join("work"), spec.disk.join("merged"));
    for directory in [&upper, &work, &root] {
        create(directory)?;
    }
    let options = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    attach(
        Some("overlay"),
        &root,
        Some("overlay"),
        MsFlags::empty(),
        Some(&options),
    )?;
    Ok(root)
}

/// What the kernel shows of itself.
fn system(root: &Path, hierarchies: &[Hierarchy]) -> Result<(), Error> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    attach(Some("proc"), &root.join("proc"), Some("proc"), safe, None)?;
    // A sysfs made here shows this network namespace's interfaces.
    attach(Some("sysfs"), &root.join("sys"), Some("sysfs"), safe, None)?;
    let top = root.join("sys/fs/cgroup");
    if hierarchies.iter().any(Hierarchy::is_version_2) {
        attach(Some("cgroup2"), &top, Some("cgroup2"), safe, None)?;
    } else {
        tmpfs(&top, "mode=755")?;
        for hierarchy in hierarchies {
            // Where the host has it, by its last name: `cpu,cpuacct`, `systemd`.
            let Some(name) = hierarchy.mount.file_name() else {
                continue;
            };
            let point = top.join(name);
            create(&point)?;
            // A hierarchy that only has a name must be asked for with no controller.
            let options = if hierarchy.options.starts_with("name=") {
                format!("none,{}", hierarchy.options)
            } else {
                hierarchy.options.clone()
            };
            attach(Some("cgroup"), &point, Some("cgroup"), safe, Some(&options))?;
            for alias in hierarchy
                .options
                .split(',')
                .filter(|alias| hierarchy.options.contains(',') && *alias != name)
            {
                let link = top.join(alias);
                std::os::unix::fs::symlink(name, &link).map_err(Error::file("link", &link))?;
            }
        }
    }
    let devices = root.join("dev");
    attach(Some("/dev"), &devices, None, MsFlags::MS_BIND | MsFlags::MS_REC, None)?;
    let shared = devices.join("shm");
    if shared.exists() {
        tmpfs(&shared, "mode=1777,size=64m")?;
    }
    Ok(())
}

/// minidc, where a Pi has it.
fn program(spec: &InitSpec, root: &Path) -> Result<(), Error> {
    let place = root.join("usr/local/bin/minidc");
    if !place.exists() {
        if let Some(directory) = place.parent() {
            create(directory)?;
        }
        fs::write(&place, "").map_err(Error::file("create", &place))?;
    }
    bind(&spec.binary, &place)
}

/// Makes `root` the root, and lets go of the host's.
fn pivot(root: &Path) -> Result<(), Error> {
    unistd::chdir(root).map_err(Error::kernel("enter", root))?;
    // pivot_root(2): with "." twice, the old root lies on top of the new one until it is detached.
    unistd::pivot_root(".", ".").map_err(Error::kernel("change the root to", root))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(Error::system("detach the host's root"))?;
    unistd::chdir("/").map_err(Error::system("enter the new root"))
}

fn create(directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(Error::file("create", directory))
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn bind(from: &Path, to: &Path) -> Result<(), Error> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(Error::kernel("bind", to))
}

fn tmpfs(to: &Path, options: &str) -> Result<(), Error> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    attach(Some("tmpfs"), to, Some("tmpfs"), flags, Some(options))
}

fn attach(
    source: Option<&str>,
    to: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<(), Error> {
    mount(source, to, kind, flags, options).map_err(Error::kernel("mount", to))
}
