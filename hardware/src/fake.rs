//! Pins that only remember: what a virtual Pi has in place of a header.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{Error, Gpio};

/// Edges kept in memory: an hour of the fastest blinking of one LED would be 28,800, but nobody looks back that far.
const EDGES: usize = 256;
/// Size in bytes at which the log is cut down to its newer half; it lies in memory (`/run`).
const LOG_BYTES: u64 = 64 * 1024;

/// One change of a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// When, in milliseconds since 1970 by the system's clock.
    pub unix_milliseconds: u64,
    /// BCM number of the pin.
    pub gpio: u8,
    /// The level after the change.
    pub high: bool,
}

/// The newest edges of a [`FakeGpio`]; cheap to clone, and still readable once the pins are gone.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<VecDeque<Edge>>>);

impl History {
    /// The newest 256 edges, oldest first.
    #[must_use]
    pub fn edges(&self) -> Vec<Edge> {
        self.lock().iter().copied().collect()
    }

    /// Level of a pin now; `None` when it was never set, or not within the edges kept.
    #[must_use]
    pub fn level(&self, gpio: u8) -> Option<bool> {
        self.lock()
            .iter()
            .rev()
            .find(|edge| edge.gpio == gpio)
            .map(|edge| edge.high)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Edge>> {
        // A panic elsewhere leaves whole edges behind, so the content is still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pins that record their levels with timestamps, in memory and in a file of lines `<unix ms> <gpio> <0|1>`.
#[derive(Debug)]
pub struct FakeGpio {
    history: History,
    log: Option<Log>,
}

impl FakeGpio {
    /// Pins that remember in memory, and also append to `log` (usually `/run/minidc/leds.log`) if one is given.
    ///
    /// # Errors
    /// [`Error::File`] when the log cannot be opened.
    pub fn new(log: Option<&Path>) -> Result<Self, Error> {
        let log = log.map(Log::open).transpose()?;
        Ok(Self {
            history: History::default(),
            log,
        })
    }

    /// What the pins did; stays readable while the driver owns the pins.
    #[must_use]
    pub fn history(&self) -> History {
        self.history.clone()
    }
}

impl Gpio for FakeGpio {
    fn set(&mut self, gpio: u8, high: bool) -> Result<(), Error> {
        let unix_milliseconds = unix_milliseconds();
        let mut edges = self.history.lock();
        if edges.len() == EDGES {
            edges.pop_front();
        }
        edges.push_back(Edge {
            unix_milliseconds,
            gpio,
            high,
        });
        drop(edges);
        match &mut self.log {
            Some(log) => log.append(&format!("{unix_milliseconds} {gpio} {}\n", u8::from(high))),
            None => Ok(()),
        }
    }
}

/// Now, in milliseconds since 1970 by the system's clock; 0 when the clock is before that.
pub(crate) fn unix_milliseconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Log {
    fn open(path: &Path) -> Result<Self, Error> {
        let open = || -> io::Result<(File, u64)> {
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            let bytes = file.metadata()?.len();
            Ok((file, bytes))
        };
        let (file, bytes) = open().map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes,
        })
    }

    fn append(&mut self, line: &str) -> Result<(), Error> {
        let write = |log: &mut Self| -> io::Result<()> {
            if log.bytes + line.len() as u64 > LOG_BYTES {
                log.halve()?;
            }
            log.file.write_all(line.as_bytes())?;
            log.bytes += line.len() as u64;
            Ok(())
        };
        write(self).map_err(|source| Error::File {
            path: self.path.clone(),
            source,
        })
    }

    /// Keeps the newer half, whole lines only.
    fn halve(&mut self) -> io::Result<()> {
        let text = fs::read_to_string(&self.path)?;
        let middle = text.len() / 2;
        let keep = text
            .get(middle..)
            .and_then(|half| half.split_once('\n'))
            .map_or("", |(_, rest)| rest);
        self.file.set_len(0)?;
        self.file.write_all(keep.as_bytes())?;
        self.bytes = keep.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_stays_bounded_and_keeps_the_newest_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leds.log");
        let mut gpio = FakeGpio::new(Some(&path)).unwrap();
        for edge in 0..10_000u32 {
            gpio.set(17, edge % 2 == 0).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() as u64 <= LOG_BYTES, "{}", text.len());
        assert!(text.len() as u64 > LOG_BYTES / 4);
        for line in text.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            assert!(fields.len() == 3 && fields[1] == "17", "{line}");
        }
        assert!(text.ends_with(" 17 0\n"));
        assert_eq!(gpio.history().edges().len(), EDGES);
        assert_eq!(gpio.history().level(17), Some(false));
        assert_eq!(gpio.history().level(27), None);
    }

    #[test]
    fn reopened_log_is_continued() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leds.log");
        FakeGpio::new(Some(&path)).unwrap().set(17, true).unwrap();
        FakeGpio::new(Some(&path)).unwrap().set(17, false).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
    }
}
