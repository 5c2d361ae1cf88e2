//! The data partition's file system: made, mounted and checked as on a card.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::card::Blocks;
use anyhow::{Context, Result, bail};
use minidc_tests::{PATIENCE, eventually, run, workspace};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// A place for this test alone: what this thread and its children mount there is seen by nobody else, and is gone when
/// the last of them ends, however it ends.
pub(crate) fn own_place() -> Result<PathBuf> {
    own_mounts()?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("keep mounts private")?;
    mount(
        Some("tmpfs"),
        "/mnt",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=512m"),
    )
    .context("mount a tmpfs")?;
    Ok("/mnt".into())
}

/// Parts this thread's mounts from those of all others, also of the threads that it has started.
pub(crate) fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("leave the mounts of the others")
}

/// A new data partition, as the image has it.
pub(crate) fn make(file: &Path) -> Result<Blocks> {
    run(Command::new(workspace().join("image/build/data.sh")).arg(file))?;
    Blocks::read(file)
}

/// How the image mounts it.
fn mount_options() -> Result<String> {
    let table = std::fs::read_to_string(workspace().join("image/root/etc/fstab"))?;
    let line = table.lines().find(|line| line.contains(" /var/lib/minidc "));
    let options = line
        .and_then(|line| line.split_whitespace().nth(3))
        .context("the data partition in fstab")?;
    let of_systemd = |option: &&str| option.starts_with("x-systemd.") || *option == "nofail";
    let kept = options.split(',').filter(|option| !of_systemd(option));
    Ok(kept.chain(["loop"]).collect::<Vec<_>>().join(","))
}

/// A mounted file system; the loop device goes with it.
pub(crate) struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    pub(crate) fn new(file: &Path, directory: &'a Path) -> Result<Self> {
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", &mount_options()?])
            .args([file, directory]))?;
        Ok(Self(directory))
    }

    pub(crate) fn unmount(self) -> Result<()> {
        let directory = self.0;
        std::mem::forget(self);
        // a process that another test is just starting has our files until it is what it is to be
        let unmounted = || run(Command::new("umount").arg(directory)).map(|_| true);
        eventually(PATIENCE, "it is unmounted", unmounted).map(drop)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").args(["-l".as_ref(), self.0.as_os_str()]));
    }
}

/// What is done at boot before the partition is mounted.
pub(crate) fn repair(file: &Path) -> Result<()> {
    let parameters = std::fs::read_to_string(workspace().join("image/boot/cmdline.txt"))?;
    // as systemd-fsck reads it; by `-a` no backup is taken for a superblock that was torn
    let answers = if parameters.contains("fsck.repair=yes") {
        "-y"
    } else {
        "-a"
    };
    let output = Command::new("e2fsck").arg(answers).arg(file).output()?;
    // 1: something was corrected, as the journal's replay always is
    match output.status.code() {
        Some(0 | 1) => Ok(()),
        _ => bail!(
            "e2fsck {answers}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

/// Fails unless everything about the file system is right.
pub(crate) fn examine(file: &Path) -> Result<()> {
    run(Command::new("e2fsck").args(["-fn".as_ref(), file.as_os_str()])).map(drop)
}
