//! What every light did, in memory and in a file: lines `<unix ms> <light> <level>`, where a light is the number of a GPIO,
//! the name of an LED, or a pixel, and a level is 0, 1 or a colour.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::Error;

/// Edges kept in memory.
const EDGES: usize = 256;
/// Size in bytes at which the file is cut down to its newer half; it lies in memory (`/run`).
const LOG_BYTES: u64 = 32 * 1024;

/// One change of a light.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// When, in milliseconds since 1970 by the system's clock.
    pub unix_milliseconds: u64,
    /// Which light.
    pub light: String,
    /// `0`, `1`, or the colour of a pixel as six hexadecimal digits.
    pub level: String,
}

#[derive(Debug, Default)]
struct Records {
    edges: VecDeque<Edge>,
    log: Option<Log>,
}

/// Where lights say what they do; clones write to the same place.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Records>>);

impl Recorder {
    /// One that also appends to `log` (usually `/run/minidc/leds.log`), if one is given.
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be opened.
    pub fn new(log: Option<&Path>) -> Result<Self, Error> {
        let log = log.map(Log::open).transpose()?;
        let edges = VecDeque::new();
        Ok(Self(Arc::new(Mutex::new(Records { edges, log }))))
    }

    /// The newest 256 edges, oldest first.
    #[must_use]
    pub fn edges(&self) -> Vec<Edge> {
        self.lock().edges.iter().cloned().collect()
    }

    /// Level of a light now; `None` when it never changed, or not within the edges kept.
    #[must_use]
    pub fn level(&self, light: &str) -> Option<String> {
        let records = self.lock();
        let newest = records.edges.iter().rev().find(|edge| edge.light == light)?;
        Some(newest.level.clone())
    }

    /// Notes a change. A file that cannot be written is no reason for a light to stop.
    pub fn note(&self, light: &str, level: &str) {
        let unix_milliseconds = unix_milliseconds();
        let mut records = self.lock();
        if records.edges.len() == EDGES {
            records.edges.pop_front();
        }
        records.edges.push_back(Edge {
            unix_milliseconds,
            light: light.into(),
            level: level.into(),
        });
        if let Some(log) = &mut records.log
            && let Err(error) = log.append(&format!("{unix_milliseconds} {light} {level}\n"))
        {
            tracing::debug!(path = %log.path.display(), %error, "record of the lights");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        // a panic elsewhere leaves whole edges behind, so the content is still good
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Now, in milliseconds since 1970 by the system's clock; 0 when the clock is before that.
#[must_use]
pub fn unix_milliseconds() -> u64 {
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

    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.bytes + line.len() as u64 > LOG_BYTES {
            self.halve()?;
        }
        self.file.write_all(line.as_bytes())?;
        self.bytes += line.len() as u64;
        Ok(())
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
        let recorder = Recorder::new(Some(&path)).unwrap();
        for edge in 0..10_000u32 {
            recorder.note("17", if edge % 2 == 0 { "1" } else { "0" });
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() as u64 <= LOG_BYTES, "{}", text.len());
        assert!(text.len() as u64 > LOG_BYTES / 4);
        for line in text.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            assert!(fields.len() == 3 && fields[1] == "17", "{line}");
        }
        assert!(text.ends_with(" 17 0\n"));
        assert_eq!(recorder.edges().len(), EDGES);
        assert_eq!(recorder.level("17").as_deref(), Some("0"));
        assert_eq!(recorder.level("27"), None);
    }

    #[test]
    fn reopened_log_is_continued() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leds.log");
        Recorder::new(Some(&path)).unwrap().note("ACT", "1");
        Recorder::new(Some(&path)).unwrap().note("ACT", "0");
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
    }
}
