//! Files that change all at once, as Kubernetes' `AtomicWriter` does it: the files are in a directory of their own, the
//! link `..data` points to it, and what the pod sees are links through `..data`. A change writes a new directory and
//! renames the link, so that a reader sees the old files or the new ones, never a mixture.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path};

/// Relative path → content and mode.
pub(super) type Payload = BTreeMap<String, (Vec<u8>, i32)>;

const DATA: &str = "..data";
const NEXT_DATA: &str = "..data_tmp";

/// Brings the directory to hold exactly `payload`; does nothing when it already does.
pub(super) fn write(root: &Path, payload: &Payload, group: Option<i64>) -> io::Result<()> {
    let group = group.and_then(|group| u32::try_from(group).ok());
    let current = fs::read_link(root.join(DATA)).ok();
    if let Some(current) = &current
        && holds(&root.join(current), payload)
    {
        return Ok(());
    }
    // The name must be new; the time is in it only because people expect it there.
    let stamp = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    let mut name = stamp.clone();
    let mut number = 0;
    while root.join(&name).exists() {
        number += 1;
        name = format!("{stamp}.{number}");
    }
    let fresh = root.join(&name);
    make_directory(&fresh, group)?;
    let mut tops = BTreeSet::new();
    for (path, (data, mode)) in payload {
        let relative = checked(path)?;
        if let Some(Component::Normal(top)) = relative.components().next() {
            tops.insert(top.to_owned());
        }
        let mut above = fresh.clone();
        for part in relative.parent().into_iter().flat_map(Path::components) {
            above.push(part);
            if !above.is_dir() {
                make_directory(&above, group)?;
            }
        }
        let file = fresh.join(relative);
        fs::write(&file, data)?;
        let mut mode = u32::try_from(*mode).unwrap_or(0o644) & 0o777;
        if let Some(group) = group {
            chown(&file, None, Some(group))?;
            // What the owner may read or write, the pod's group may read.
            mode |= (mode & 0o400) >> 3;
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
    }
    let next = root.join(NEXT_DATA);
    let _ = fs::remove_file(&next);
    symlink(&name, &next)?;
    fs::rename(&next, root.join(DATA))?;
    for top in &tops {
        let link = root.join(top);
        if fs::read_link(&link).is_err() {
            symlink(Path::new(DATA).join(top), &link)?;
        }
    }
    // What is visible but no longer meant to be, and files of earlier versions or of a write that a power cut ended.
    for entry in fs::read_dir(root)?.flatten() {
        let found = entry.file_name();
        if found == *DATA || found == *name || tops.contains(&found) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn make_directory(path: &Path, group: Option<u32>) -> io::Result<()> {
    fs::create_dir(path)?;
    if let Some(group) = group {
        chown(path, None, Some(group))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// The API refuses such paths; a second look costs nothing.
fn checked(path: &str) -> io::Result<&Path> {
    let relative = Path::new(path);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if plain && !path.is_empty() && !path.starts_with("..") {
        Ok(relative)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("path {path} leads out of the volume"),
        ))
    }
}

/// Whether the directory holds exactly these files with these contents.
fn holds(directory: &Path, payload: &Payload) -> bool {
    let mut files = 0;
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(directory) else {
            return false;
        };
        for entry in entries.flatten() {
            if entry.path().is_dir() {
                open.push(entry.path());
            } else {
                files += 1;
            }
        }
    }
    let same = |(path, (data, mode)): (&String, &(Vec<u8>, i32))| {
        let file = directory.join(path);
        let Ok(found) = fs::metadata(&file) else { return false };
        found.len() == data.len() as u64
            // With a group the group bits may be wider than asked.
            && (found.permissions().mode() & 0o707) == (u32::try_from(*mode).unwrap_or(0o644) & 0o707)
            && fs::read(&file).is_ok_and(|found| found == *data)
    };
    files == payload.len() && payload.iter().all(same)
}
