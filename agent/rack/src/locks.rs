//! One at a time: locks on the directories of a rack and its nodes. They end with the process that holds them.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{Error, paths};

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

/// Locks a directory for this caller alone, and makes it first if it is missing.
pub(crate) fn exclusive(directory: &Path) -> Result<Lock, Error> {
    acquire(directory, File::lock)
}

/// Locks a directory against exclusive locks; makes it first if it is missing.
pub(crate) fn shared(directory: &Path) -> Result<Lock, Error> {
    acquire(directory, File::lock_shared)
}

/// The lock under which networks are given out.
pub(crate) fn allocation() -> Result<Lock, Error> {
    exclusive(&PathBuf::from(paths::STATE))
}

fn acquire(directory: &Path, lock: fn(&File) -> io::Result<()>) -> Result<Lock, Error> {
    loop {
        let attempt = || -> io::Result<Option<File>> {
            fs::create_dir_all(directory)?;
            let file = File::open(directory)?;
            lock(&file)?;
            // Whoever held it before may have removed the directory: then this is a lock on nothing.
            let same = fs::metadata(directory)?.ino() == file.metadata()?.ino();
            Ok(same.then_some(file))
        };
        match attempt() {
            Ok(Some(file)) => return Ok(Lock(file)),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::file("lock", directory)(error)),
        }
    }
}
