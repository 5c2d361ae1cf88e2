//! The last words of a container: what it wrote to its termination file, or the end of its log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::logs::line;

/// Longest message taken from a file (Kubernetes' `MaxPodTerminationMessageLength`).
const LONGEST_FILE: u64 = 4_096;
/// Longest message taken from a log, in bytes and in lines (Kubernetes' limits).
const LONGEST_LOG: usize = 2_048;
const MOST_LINES: usize = 80;
/// How much of the end of a log file is read to find them; CRI adds some 40 bytes to each line.
const LOG_TAIL: u64 = 8_192;

/// The message of a container that ended. `runtime` is what the runtime says itself.
pub(crate) fn message(file: &Path, policy: &str, log: &Path, exit_code: i32, runtime: &str) -> String {
    let mut own = read_head(file);
    if own.is_empty() && policy == "FallbackToLogsOnError" && exit_code != 0 {
        own = log_end(log);
    }
    match (runtime.is_empty(), own.is_empty()) {
        (true, _) => own,
        (false, true) => runtime.to_owned(),
        (false, false) => format!("{runtime}: {own}"),
    }
}

fn read_head(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        // An unreadable file is as good as an empty one: there is nobody to tell.
        let _ = file.take(LONGEST_FILE).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn log_end(path: &Path) -> String {
    let mut bytes = Vec::new();
    let Ok(mut file) = File::open(path) else {
        return String::new();
    };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let skipped = length.saturating_sub(LOG_TAIL);
    if file.seek(SeekFrom::Start(skipped)).is_err() || file.read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    if skipped > 0 && !lines.is_empty() {
        lines.remove(0);
    }
    let kept = &lines[lines.len().saturating_sub(MOST_LINES)..];
    let mut text = Vec::new();
    for entry in kept.iter().filter_map(|line| line::parse(line)) {
        text.extend_from_slice(entry.text);
        if !entry.partial {
            text.push(b'\n');
        }
    }
    let start = text.len().saturating_sub(LONGEST_LOG);
    String::from_utf8_lossy(&text[start..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_words_come_first_and_the_log_only_after_an_error() {
        let place = tempfile::tempdir().unwrap();
        let (file, log) = (place.path().join("t"), place.path().join("0.log"));
        std::fs::write(&log, "2026-01-01T00:00:00.0Z stderr F it broke\n").unwrap();
        assert_eq!(message(&file, "FallbackToLogsOnError", &log, 1, ""), "it broke\n");
        assert_eq!(message(&file, "FallbackToLogsOnError", &log, 0, ""), "");
        assert_eq!(message(&file, "File", &log, 1, ""), "");
        std::fs::write(&file, "x".repeat(5_000)).unwrap();
        assert_eq!(message(&file, "FallbackToLogsOnError", &log, 1, "").len(), 4_096);
        std::fs::write(&file, "gone").unwrap();
        assert_eq!(message(&file, "File", &log, 1, "killed"), "killed: gone");
    }
}
