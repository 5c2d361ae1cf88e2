//! The watchdogs that are fed while the agent lives: that of systemd, which starts the agent anew, and the board's own, which
//! resets the board.
//!
//! Under systemd the board's watchdog is systemd's (`RuntimeWatchdogSec`), and the agent tells systemd that it lives: a hung
//! agent is started anew without taking the pods' board down, and a hung kernel or systemd resets the board all the same. So
//! [`Watchdog`] is for boards without systemd, and refuses a device that another program feeds.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{Error, Fault};

/// The board's watchdog. Once fed, it has to be fed on: the shortest time-out of the supported boards is 15 s.
#[derive(Debug)]
pub struct Watchdog {
    path: PathBuf,
    file: File,
    told: bool,
}

impl Watchdog {
    /// Opens the device, which begins its count.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is none, another program feeds it, or this user may not.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(|error| match error.kind() {
                io::ErrorKind::ResourceBusy => Error::refused(
                    "the board's watchdog",
                    path,
                    Fault::Busy,
                    "another program feeds it, usually systemd (RuntimeWatchdogSec)",
                    "leave it to systemd: take watchdog from [leds] in the configuration",
                ),
                _ => Error::system("the board's watchdog", path, &error, "root"),
            })?;
        Ok(Self {
            path: path.into(),
            file,
            told: false,
        })
    }

    /// Says that all is well.
    pub fn feed(&mut self) {
        match self.file.write_all(b"1") {
            Ok(()) => self.told = false,
            Err(error) if !self.told => {
                self.told = true;
                tracing::warn!(path = %self.path.display(), %error, "feed the watchdog");
            }
            Err(_) => {}
        }
    }

    /// Ends the count, as a program does that ends on purpose ("magic close" of the kernel's watchdog interface).
    pub fn stop(mut self) {
        let _ = self.file.write_all(b"V");
    }
}

/// Who started this process and wants to hear that it lives: systemd, by `NOTIFY_SOCKET`.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    to: SocketAddr,
    /// How often it wants to hear it, halved.
    pub every: Option<Duration>,
}

impl Notifier {
    /// The one that the environment names; `None` when nobody wants to hear anything.
    #[must_use]
    pub fn of_environment() -> Option<Self> {
        let socket = std::env::var("NOTIFY_SOCKET").ok()?;
        let every = std::env::var("WATCHDOG_USEC").ok();
        Self::new(&socket, every.as_deref())
    }

    fn new(socket: &str, microseconds: Option<&str>) -> Option<Self> {
        let to = match socket.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(socket),
        };
        let every = microseconds
            .and_then(|text| text.parse().ok())
            .map(|time| Duration::from_micros(time) / 2);
        Some(Self {
            socket: UnixDatagram::unbound().ok()?,
            to: to.ok()?,
            every,
        })
    }

    /// Sends a line of sd_notify(3), such as `READY=1` or `WATCHDOG=1`.
    pub fn tell(&self, line: &str) {
        if let Err(error) = self.socket.send_to_addr(line.as_bytes(), &self.to) {
            tracing::debug!(%error, line, "tell systemd");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_hears_that_the_process_lives() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(path.to_str().unwrap(), Some("10000000")).unwrap();
        assert_eq!(notifier.every, Some(Duration::from_secs(5)));
        notifier.tell("WATCHDOG=1");
        let mut buffer = [0; 64];
        let length = systemd.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"WATCHDOG=1");
        assert!(Notifier::new("@minidc-nobody", None).is_some_and(|notifier| notifier.every.is_none()));
    }

    #[test]
    fn watchdog_is_fed_and_stopped_with_the_magic_letter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("watchdog");
        assert_eq!(Watchdog::open(&path).unwrap_err().fault(), Some(Fault::Missing));
        File::create(&path).unwrap();
        let mut watchdog = Watchdog::open(&path).unwrap();
        watchdog.feed();
        watchdog.feed();
        watchdog.stop();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "11V");
    }
}
