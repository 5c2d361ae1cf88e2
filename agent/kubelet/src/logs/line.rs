//! One line of a log in CRI's format: `2026-01-02T03:04:05.123456789Z stdout F text`.

/// A line, taken apart. A long line of the program is written as several partial ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// RFC 3339, with nanoseconds.
    pub(crate) time: &'a str,
    /// More of the same line follows.
    pub(crate) partial: bool,
    /// Without the newline.
    pub(crate) text: &'a [u8],
}

/// `None` for what is not of this format, such as a line that a power cut ended.
pub(crate) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = parts.next()?;
    let tags = parts.next()?;
    if !matches!(stream, b"stdout" | b"stderr") || time.len() < 20 {
        return None;
    }
    // Tags are separated by colons; only the first is defined.
    let partial = match tags.split(|byte| *byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Line {
        time,
        partial,
        text: parts.next().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let line = parse(b"2026-01-02T03:04:05.123456789Z stdout F hello  world \n").unwrap();
        assert_eq!(
            (line.time, line.partial, line.text),
            ("2026-01-02T03:04:05.123456789Z", false, &b"hello  world "[..])
        );
        assert!(
            parse(b"2026-01-02T03:04:05.123456789Z stderr P part\n")
                .unwrap()
                .partial
        );
        assert_eq!(parse(b"2026-01-02T03:04:05.1Z stdout F \n").unwrap().text, b"");
        for broken in [
            &b""[..],
            b"\n",
            b"x",
            b"2026-01-02T03:04:05Z stdout",
            b"2026-01-02T03:04:05Z other F x",
            b"\xff stdout F x",
        ] {
            assert_eq!(parse(broken), None);
        }
    }
}
