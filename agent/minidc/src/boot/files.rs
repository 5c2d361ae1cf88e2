//! Files that a power cut leaves old or new.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use anyhow::Context;

/// Makes a directory (and those above it) that only its owner may enter.
pub(crate) fn make_private(directory: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("make {}", directory.display()))
}

/// Replaces `path` with a file that only its owner may read; on the disk when this returns.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    put(path, contents, 0o600, true)
}

/// Replaces `path` for readers, not for power cuts: what is in memory needs no flush.
pub(crate) fn write(path: &Path, contents: &[u8], mode: u32) -> anyhow::Result<()> {
    put(path, contents, mode, false)
}

fn put(path: &Path, contents: &[u8], mode: u32, flush: bool) -> anyhow::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = directory.join(name);
    let attempt = || -> io::Result<()> {
        fs::create_dir_all(directory)?;
        // one that a power cut left may have another mode
        remove(&new)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(contents)?;
        if flush {
            file.sync_all()?;
        }
        fs::rename(&new, path)?;
        if flush {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    };
    attempt().with_context(|| format!("write {}", path.display()))
}

/// Removes a file; that there is none is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a file so that it does not come back after a power cut.
pub(crate) fn remove_durably(path: &Path) -> anyhow::Result<()> {
    let attempt = || {
        remove(path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    attempt().with_context(|| format!("remove {}", path.display()))
}

/// Contents of a file; `None` when there is none.
pub(crate) fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}
