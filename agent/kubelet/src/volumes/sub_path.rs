//! `subPath`: a part of a volume, chosen so that nothing a container did inside the volume leads out of it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};

use super::mounts;

/// Binds `root`/`sub_path` at `target` and answers with `target`. A missing directory is made.
pub(super) fn bind(root: &Path, sub_path: &str, target: &Path) -> io::Result<PathBuf> {
    let relative = Path::new(sub_path);
    if relative
        .components()
        .any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{sub_path} is not a plain path inside the volume"),
        ));
    }
    let source = open_beneath(root, relative)?;
    if target.exists() && mounts::is_mounted(target)? {
        // From the instance before; the volume may have been swapped since.
        mounts::unmount_below(target)?;
    }
    let is_directory = is_directory(&fstat(&source)?);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() == is_directory => {}
        Ok(found) => {
            if found.is_dir() {
                fs::remove_dir(target)?;
            } else {
                fs::remove_file(target)?;
            }
            make(target, is_directory)?;
        }
        Err(_) => make(target, is_directory)?,
    }
    mounts::bind(&source, target)?;
    Ok(target.to_owned())
}

fn is_directory(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

fn make(target: &Path, directory: bool) -> io::Result<()> {
    if directory {
        fs::create_dir(target)
    } else {
        fs::File::create(target).map(drop)
    }
}

/// Opens a path below `root`; the kernel itself refuses links that lead out. Missing directories are made with the mode
/// of the volume.
fn open_beneath(root: &Path, relative: &Path) -> io::Result<OwnedFd> {
    let beneath = |from: &OwnedFd, path: &Path| {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(from, path, how)
    };
    // The root itself is trusted: a hostPath may well be a link.
    let base = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    match beneath(&base, relative) {
        Ok(found) => return Ok(found),
        Err(nix::errno::Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let mode = Mode::from_bits_truncate(fs::metadata(root)?.permissions().mode() & 0o777);
    let mut made = PathBuf::new();
    let mut parent = base.try_clone()?;
    for part in relative
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
    {
        made.push(part);
        match beneath(&base, &made) {
            Ok(found) => parent = found,
            Err(nix::errno::Errno::ENOENT) => {
                mkdirat(&parent, part.as_os_str(), mode)?;
                parent = beneath(&base, &made)?;
                fs::set_permissions(
                    format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&parent)),
                    fs::Permissions::from_mode(mode.bits()),
                )?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_out_of_the_volume_do_not_lead_out() {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("volume");
        fs::create_dir_all(volume.join("inside")).unwrap();
        fs::write(root.path().join("secret"), "host").unwrap();
        std::os::unix::fs::symlink("../secret", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("inside", volume.join("link")).unwrap();
        assert!(open_beneath(&volume, Path::new("link")).is_ok());
        // Inside the root ".." stays in the root: the link leads to a file that is not there, so a directory is made.
        let found = open_beneath(&volume, Path::new("out"));
        assert!(found.is_err() || is_directory(&fstat(found.unwrap()).unwrap()));
        assert_eq!(fs::read_to_string(root.path().join("secret")).unwrap(), "host");
    }

    #[test]
    fn missing_directories_are_made() {
        let volume = tempfile::tempdir().unwrap();
        let made = open_beneath(volume.path(), Path::new("a/b")).unwrap();
        assert!(is_directory(&fstat(&made).unwrap()));
        assert!(volume.path().join("a/b").is_dir());
    }
}
