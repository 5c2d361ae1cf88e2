//! Reads one container's log over its rotated files, and follows it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{line, rotation};

/// How much of a file is read at once when looking for its last lines.
const BLOCK: u64 = 64 << 10;
/// Longest line taken whole; CRI splits the lines of programs at 16 KiB.
const LONGEST_LINE: u64 = 1 << 20;

/// What of the log is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Prefix each line with its time.
    pub(crate) timestamps: bool,
    /// Only the last so many lines.
    pub(crate) tail: Option<u64>,
    /// Only lines at or after this.
    pub(crate) since: Option<Timestamp>,
    /// Stop after so many bytes.
    pub(crate) limit: Option<u64>,
}

/// A position in a log. Reading is blocking and in pieces, so that memory stays small however long the log is.
#[derive(Debug)]
pub(crate) struct LogReader {
    log: PathBuf,
    options: Options,
    /// Files still to be read before the present one.
    earlier: VecDeque<PathBuf>,
    open: Option<Open>,
    /// Bytes that may still be sent.
    left: Option<u64>,
    /// The line that is being put together from partial ones.
    line: Vec<u8>,
    /// The next text starts a line, so that a timestamp belongs before it.
    fresh: bool,
}

#[derive(Debug)]
struct Open {
    reader: BufReader<File>,
    inode: u64,
    /// This is the file that is being written now.
    present: bool,
    /// It has been renamed; the writer may have added a last line before it noticed.
    renamed: bool,
}

impl LogReader {
    /// Opens the log where `options` want it to start.
    pub(crate) fn open(log: &Path, options: Options) -> io::Result<Self> {
        let mut files: VecDeque<PathBuf> = rotation::rotated(log).into();
        files.push_back(log.to_owned());
        let mut start = 0;
        if let Some(wanted) = options.tail {
            // From the last file backwards until there are enough lines.
            let mut missing = wanted;
            let mut index = files.len();
            while index > 0 {
                index -= 1;
                let (offset, found) = tail_offset(&files[index], missing)?;
                start = offset;
                missing = missing.saturating_sub(found);
                if missing == 0 {
                    break;
                }
            }
            files.drain(..index);
        }
        let mut reader = Self {
            log: log.to_owned(),
            left: options.limit,
            options,
            earlier: files,
            open: None,
            line: Vec::new(),
            fresh: true,
        };
        reader.next_file(start)?;
        Ok(reader)
    }

    /// Opens the next file that exists; `false` when there is none.
    fn next_file(&mut self, start: u64) -> io::Result<bool> {
        let mut start = start;
        while let Some(path) = self.earlier.pop_front() {
            match File::open(&path) {
                Ok(mut file) => {
                    file.seek(SeekFrom::Start(start))?;
                    let inode = file.metadata()?.ino();
                    self.open = Some(Open {
                        reader: BufReader::new(file),
                        inode,
                        present: self.earlier.is_empty(),
                        renamed: false,
                    });
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => start = 0,
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Nothing more may be sent.
    pub(crate) fn limit_reached(&self) -> bool {
        self.left == Some(0)
    }

    /// Appends what there is to `out`, at most about `most` bytes; appends nothing at the present end of the log.
    pub(crate) fn read(&mut self, out: &mut Vec<u8>, most: usize) -> io::Result<()> {
        while out.len() < most && !self.limit_reached() {
            let Some(open) = &mut self.open else {
                // The log is not there yet, or has just been rotated.
                self.earlier.push_back(self.log.clone());
                if !self.next_file(0)? {
                    return Ok(());
                }
                continue;
            };
            let read = open
                .reader
                .by_ref()
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut self.line)?;
            if self.line.last() == Some(&b'\n') || self.line.len() as u64 >= LONGEST_LINE {
                self.emit(out);
                self.line.clear();
                continue;
            }
            if read > 0 {
                // Half a line: the rest is about to be written.
                continue;
            }
            // The end of this file: go on with the next, if there is one.
            if !open.present {
                self.line.clear();
                self.next_file(0)?;
            } else if open.renamed {
                self.line.clear();
                self.open = None;
            } else if std::fs::metadata(&self.log).is_ok_and(|found| found.ino() != open.inode) {
                open.renamed = true;
            } else {
                return Ok(());
            }
        }
        Ok(())
    }

    fn emit(&mut self, out: &mut Vec<u8>) {
        let Some(line) = line::parse(&self.line) else { return };
        if let Some(since) = self.options.since
            && line.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return;
        }
        let start = out.len();
        if self.options.timestamps && self.fresh {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        self.fresh = !line.partial;
        if let Some(left) = &mut self.left {
            let added = (out.len() - start) as u64;
            let kept = added.min(*left);
            *left -= kept;
            out.truncate(start + usize::try_from(kept).unwrap_or(usize::MAX));
        }
    }
}

/// Where the last `wanted` lines of a file start, and how many there are (at most `wanted`).
fn tail_offset(path: &Path, wanted: u64) -> io::Result<(u64, u64)> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    if wanted == 0 {
        return Ok((length, 0));
    }
    let mut lines = 0;
    let mut end = length;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        file.by_ref().take(end - start).read_to_end(&mut block)?;
        for (index, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let at = start + index as u64 + 1;
            // The whole line is nearly always in the block; only the first one of a block may start before it.
            let full = match block[..index].iter().rposition(|byte| *byte == b'\n') {
                Some(before) => is_full(&block[before + 1..index]),
                None => is_full_line_end(&mut file, at)?,
            };
            if full {
                if lines == wanted {
                    return Ok((at, lines));
                }
                lines += 1;
            }
        }
        end = start;
    }
    Ok((0, lines))
}

/// Whether a line of the log completes a line of the program. What cannot be read counts as a line of its own.
fn is_full(text: &[u8]) -> bool {
    line::parse(text).is_none_or(|line| !line.partial)
}

/// The same of the line that ends just before `at`.
fn is_full_line_end(file: &mut File, at: u64) -> io::Result<bool> {
    // The tag is at the start of the line; find it by reading back. Partial lines are rare and at most some 16 KiB.
    let back = at.saturating_sub(20 << 10);
    file.seek(SeekFrom::Start(back))?;
    let mut bytes = Vec::new();
    file.by_ref().take(at - back).read_to_end(&mut bytes)?;
    let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let start = body
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |index| index + 1);
    Ok(is_full(&body[start..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn entry(second: u32, tag: &str, text: &str) -> String {
        format!("2026-01-01T00:00:{second:02}.5Z stdout {tag} {text}\n")
    }

    fn place(files: &[(&str, String)]) -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(place.path().join(name), text).unwrap();
        }
        let log = place.path().join("0.log");
        (place, log)
    }

    fn all(log: &Path, options: Options) -> String {
        let mut reader = LogReader::open(log, options).unwrap();
        let mut out = Vec::new();
        loop {
            let before = out.len();
            reader.read(&mut out, before + 100).unwrap();
            if out.len() == before {
                return String::from_utf8(out).unwrap();
            }
        }
    }

    fn ten() -> String {
        (0..10).map(|n| entry(n, "F", &format!("line {n}"))).collect()
    }

    #[test]
    fn tail_takes_the_last_lines() {
        let (_place, log) = place(&[("0.log", ten())]);
        let tail = |lines| {
            all(
                &log,
                Options {
                    tail: Some(lines),
                    ..Options::default()
                },
            )
        };
        assert_eq!(tail(2), "line 8\nline 9\n");
        assert_eq!(tail(0), "");
        assert_eq!(tail(100).lines().count(), 10);
    }

    #[test]
    fn tail_and_reading_go_over_rotated_files() {
        let (_place, log) = place(&[
            ("0.log.20260101-000000", entry(1, "F", "old")),
            ("0.log", entry(2, "F", "a") + &entry(3, "F", "b")),
        ]);
        assert_eq!(all(&log, Options::default()), "old\na\nb\n");
        assert_eq!(
            all(
                &log,
                Options {
                    tail: Some(3),
                    ..Options::default()
                }
            ),
            "old\na\nb\n"
        );
        assert_eq!(
            all(
                &log,
                Options {
                    tail: Some(2),
                    ..Options::default()
                }
            ),
            "a\nb\n"
        );
    }

    #[test]
    fn partial_lines_are_joined_and_counted_as_one() {
        let text = entry(1, "F", "first") + &entry(2, "P", "se") + &entry(3, "P", "con") + &entry(4, "F", "d");
        let (_place, log) = place(&[("0.log", text)]);
        assert_eq!(all(&log, Options::default()), "first\nsecond\n");
        assert_eq!(
            all(
                &log,
                Options {
                    tail: Some(1),
                    ..Options::default()
                }
            ),
            "second\n"
        );
        let stamped = all(
            &log,
            Options {
                timestamps: true,
                tail: Some(1),
                ..Options::default()
            },
        );
        assert_eq!(stamped, "2026-01-01T00:00:02.5Z second\n");
    }

    #[test]
    fn since_and_limit_cut() {
        let (_place, log) = place(&[("0.log", ten())]);
        let since = "2026-01-01T00:00:08Z".parse().ok();
        assert_eq!(
            all(
                &log,
                Options {
                    since,
                    ..Options::default()
                }
            ),
            "line 8\nline 9\n"
        );
        assert_eq!(
            all(
                &log,
                Options {
                    limit: Some(9),
                    ..Options::default()
                }
            ),
            "line 0\nli"
        );
    }

    #[test]
    fn following_sees_new_lines_over_a_rotation() {
        let (_place, log) = place(&[("0.log", entry(1, "F", "a"))]);
        let mut reader = LogReader::open(&log, Options::default()).unwrap();
        let mut more = || {
            let mut out = Vec::new();
            reader.read(&mut out, 1_000).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(more(), "a\n");
        let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
        file.write_all(b"2026-01-01T00:00:02.5Z std").unwrap();
        assert_eq!(more(), "");
        file.write_all(b"out F b\n").unwrap();
        assert_eq!(more(), "b\n");
        file.write_all(entry(3, "F", "c").as_bytes()).unwrap();
        assert!(rotation::rotate(&log, 1).unwrap());
        assert_eq!(more(), "c\n", "the rest of the renamed file");
        std::fs::write(&log, entry(4, "F", "d")).unwrap();
        assert_eq!(more(), "d\n");
    }
}
