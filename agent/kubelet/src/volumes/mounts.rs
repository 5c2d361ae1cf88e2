//! Mounts below a pod's directory.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A tmpfs of `size` bytes at `path`, once.
pub(crate) fn tmpfs(path: &Path, size: u64) -> io::Result<()> {
    if nix::sys::statfs::statfs(path)?.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC && is_mounted(path)? {
        return Ok(());
    }
    let options = format!("size={size},mode=0755");
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(options.as_str()),
    )?;
    Ok(())
}

/// Makes `target` show the file or directory that `source` is open on.
pub(crate) fn bind(source: &impl AsRawFd, target: &Path) -> io::Result<()> {
    // Through the descriptor, so that what was checked is what is mounted.
    let opened = format!("/proc/self/fd/{}", source.as_raw_fd());
    mount(
        Some(opened.as_str()),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?;
    Ok(())
}

/// Whether something is mounted exactly at `path`.
pub(crate) fn is_mounted(path: &Path) -> io::Result<bool> {
    let path = path.canonicalize()?;
    Ok(mount_points()?.contains(&path))
}

/// Unmounts all that is mounted at or below `directory`, the innermost first.
pub(crate) fn unmount_below(directory: &Path) -> io::Result<()> {
    let directory = directory.canonicalize()?;
    for point in mount_points()?
        .iter()
        .rev()
        .filter(|point| point.starts_with(&directory))
    {
        // Detach: a process of the pod that still lingers must not keep the pod from going.
        match umount2(point, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// In the order of mounting.
fn mount_points() -> io::Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .collect())
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((first, rest)) = bytes.split_first() {
        let code = (*first == b'\\').then(|| rest.get(..3)).flatten();
        match code
            .and_then(|code| std::str::from_utf8(code).ok())
            .and_then(|code| u8::from_str_radix(code, 8).ok())
        {
            Some(byte) => {
                out.push(byte);
                bytes = &rest[3..];
            }
            None => {
                out.push(*first);
                bytes = rest;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_spaces_are_read() {
        assert_eq!(unescape("/a\\040b\\134"), "/a b\\");
        assert_eq!(unescape("/a\\"), "/a\\");
        assert!(mount_points().unwrap().contains(&PathBuf::from("/")));
    }
}
