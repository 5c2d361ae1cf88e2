//! Processes of the host, as `/proc` shows them.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::Error;

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Start time in clock ticks since the host's boot (field 22 of `/proc/PID/stat`).
    pub(crate) started: u64,
}

impl Process {
    /// The process that has this number now.
    pub(crate) fn current(pid: i32) -> Option<Self> {
        let (state, started) = stat(pid)?;
        (state != 'Z' && state != 'X').then_some(Self { pid, started })
    }

    /// Whether it still runs; one that is dead but not yet reaped does not.
    pub(crate) fn is_alive(self) -> bool {
        Self::current(self.pid) == Some(self)
    }

    /// Sends a signal, if it still runs.
    pub(crate) fn signal(self, signal: Signal) -> Result<(), Error> {
        if !self.is_alive() {
            return Ok(());
        }
        match signal::kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
            Err(error) => Err(Error::system("send a signal")(error)),
        }
    }
}

fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold blanks and parentheses of its own.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // `rest` begins with field 3, so field 22 is the 19th after it.
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

/// The name that `/proc/PID/comm` shows: at most 15 bytes.
pub(crate) fn name(pid: i32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .ok()
        .map(|name| name.trim_end().to_owned())
}

/// Waits until `condition` holds. The kernel gives no event for what is waited for here (a cgroup without processes, the
/// death of a process that is nobody's child), and it is a matter of milliseconds.
pub(crate) fn wait_until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<(), Error> {
    let end = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= end {
            return Err(Error::Timeout(what.to_owned()));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_number_and_start() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let this = Process::current(pid).unwrap();
        assert!(this.is_alive());
        assert!(
            !Process {
                started: this.started + 1,
                ..this
            }
            .is_alive()
        );
        assert!(Process::current(i32::MAX).is_none());
    }

    #[test]
    fn a_dead_child_is_dead_before_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::current(i32::try_from(child.id()).unwrap()).unwrap();
        process.signal(Signal::SIGKILL).unwrap();
        wait_until(Duration::from_secs(60), "the death of the child", || {
            !process.is_alive()
        })
        .unwrap();
        child.wait().unwrap();
    }
}
