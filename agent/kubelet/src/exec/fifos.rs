//! The named pipes between a command and its session; gone with the session.

use std::io;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::net::unix::pipe;

use super::Output;

/// A directory with up to three FIFOs.
pub(super) struct Fifos {
    id: String,
    directory: PathBuf,
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl Fifos {
    /// Makes them below `run`, which must be private.
    pub(super) fn make(run: &Path, stdin: bool, stdout: bool, stderr: bool) -> io::Result<Self> {
        let id = format!("exec-{}", uuid::Uuid::new_v4());
        let fifos = Self {
            directory: run.join(&id),
            id,
            stdin,
            stdout,
            stderr,
        };
        std::fs::create_dir_all(&fifos.directory)?;
        for (wanted, name) in [(stdin, "stdin"), (stdout, "stdout"), (stderr, "stderr")] {
            if wanted {
                mkfifo(&fifos.directory.join(name), Mode::S_IRUSR | Mode::S_IWUSR)?;
            }
        }
        Ok(fifos)
    }

    /// Name of the session, for containerd.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Path of a FIFO; empty for one that is not wanted.
    pub(super) fn path(&self, name: &str) -> String {
        let wanted = match name {
            "stdin" => self.stdin,
            "stdout" => self.stdout,
            _ => self.stderr,
        };
        if wanted {
            self.directory.join(name).display().to_string()
        } else {
            String::new()
        }
    }

    /// The reading ends. Opening them does not wait for the writer.
    pub(super) fn output(&self) -> io::Result<Output> {
        let open = |wanted: bool, name: &str| {
            wanted
                .then(|| pipe::OpenOptions::new().open_receiver(self.directory.join(name)))
                .transpose()
        };
        Ok(Output {
            stdout: open(self.stdout, "stdout")?,
            stderr: open(self.stderr, "stderr")?,
        })
    }

    /// The writing end. It is opened for both, since there is no reader yet; what counts is that it is closed.
    pub(super) fn input(&self) -> io::Result<Option<pipe::Sender>> {
        let open = || {
            pipe::OpenOptions::new()
                .read_write(true)
                .open_sender(self.directory.join("stdin"))
        };
        self.stdin.then(open).transpose()
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        // What cannot be removed now goes with the tmpfs.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
