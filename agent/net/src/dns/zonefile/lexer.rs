//! Master files as lines of words: comments, parentheses, quotes and escapes (RFC 1035 section 5.1).

/// A word of a line. Escapes are still in it, since names and texts read them differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    /// Without the quotes.
    pub(super) raw: &'a [u8],
    /// Stood in quotes.
    pub(super) quoted: bool,
    /// Line it stands on, from 1.
    pub(super) line: u32,
    /// Offset of `raw` in the file.
    pub(super) at: usize,
}

impl Token<'_> {
    /// As shown to a person: cut when long.
    pub(super) fn show(&self) -> String {
        let text = String::from_utf8_lossy(self.raw);
        let mut short: String = text.chars().take(40).collect();
        if short.len() < text.len() {
            short.push('…');
        }
        short
    }

    /// Compares with an ASCII word in any case; quoted words are never keywords.
    pub(super) fn is(&self, word: &str) -> bool {
        !self.quoted && self.raw.eq_ignore_ascii_case(word.as_bytes())
    }

    /// Whether `next` follows with nothing between, as the value in `alpn="h2"`.
    pub(super) fn touches(&self, next: &Token<'_>) -> bool {
        next.quoted && self.at + self.raw.len() + 1 == next.at
    }
}

/// What one entry of the file is made of.
#[derive(Debug)]
pub(super) struct Line<'a> {
    /// The line began with white space: the owner is the one before.
    pub(super) indented: bool,
    /// Words, parentheses resolved. Never empty.
    pub(super) tokens: Vec<Token<'a>>,
    /// Line of the first word.
    pub(super) number: u32,
}

/// Why the file cannot be cut into words from here on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LexError {
    pub(super) line: u32,
    pub(super) reason: &'static str,
}

/// Cuts a file into lines.
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text: text.strip_prefix('\u{feff}').unwrap_or(text).as_bytes(),
            at: 0,
            line: 1,
        }
    }

    /// The next line that says something; none at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<Line<'a>>, LexError> {
        let mut tokens = Vec::new();
        let mut indented = false;
        let mut open: Option<u32> = None;
        let mut start = true;
        loop {
            let Some(&byte) = self.text.get(self.at) else {
                if let Some(line) = open {
                    return Err(LexError {
                        line,
                        reason: "this parenthesis is never closed",
                    });
                }
                return Ok(Self::line(indented, tokens));
            };
            match byte {
                b'\n' => {
                    self.at += 1;
                    self.line += 1;
                    if open.is_none() {
                        if !tokens.is_empty() {
                            return Ok(Self::line(indented, tokens));
                        }
                        start = true;
                        indented = false;
                        continue;
                    }
                }
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => {
                    indented |= start && byte != b'\r';
                    self.at += 1;
                }
                b';' => {
                    while self.text.get(self.at).is_some_and(|byte| *byte != b'\n') {
                        self.at += 1;
                    }
                }
                b'(' => {
                    if open.is_some() {
                        return Err(LexError {
                            line: self.line,
                            reason: "a parenthesis inside of parentheses",
                        });
                    }
                    open = Some(self.line);
                    self.at += 1;
                }
                b')' => {
                    if open.take().is_none() {
                        return Err(LexError {
                            line: self.line,
                            reason: "a closing parenthesis that was never opened",
                        });
                    }
                    self.at += 1;
                }
                b'"' => tokens.push(self.quoted()?),
                _ => tokens.push(self.word()?),
            }
            start = false;
        }
    }

    fn line(indented: bool, tokens: Vec<Token<'a>>) -> Option<Line<'a>> {
        let number = tokens.first()?.line;
        Some(Line {
            indented,
            tokens,
            number,
        })
    }

    fn quoted(&mut self) -> Result<Token<'a>, LexError> {
        let line = self.line;
        let begin = self.at + 1;
        let mut at = begin;
        loop {
            match self.text.get(at) {
                None | Some(b'\n') => {
                    return Err(LexError {
                        line,
                        reason: "this quotation mark has no partner on its line",
                    });
                }
                Some(b'\\') if self.text.get(at + 1).is_some_and(|byte| *byte != b'\n') => at += 2,
                Some(b'"') => break,
                Some(_) => at += 1,
            }
        }
        self.at = at + 1;
        Ok(Token {
            raw: &self.text[begin..at],
            quoted: true,
            line,
            at: begin,
        })
    }

    fn word(&mut self) -> Result<Token<'a>, LexError> {
        let line = self.line;
        let begin = self.at;
        let mut at = begin;
        while let Some(&byte) = self.text.get(at) {
            match byte {
                b'\\' => {
                    if self.text.get(at + 1).is_none_or(|byte| matches!(byte, b'\n' | b'\r')) {
                        return Err(LexError {
                            line,
                            reason: "a backslash at the end of a line escapes nothing",
                        });
                    }
                    at += 2;
                }
                b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c | b';' | b'(' | b')' | b'"' => break,
                _ => at += 1,
            }
        }
        self.at = at;
        Ok(Token {
            raw: &self.text[begin..at],
            quoted: false,
            line,
            at: begin,
        })
    }
}

/// The bytes that `raw` stands for: `\DDD` is a decimal byte, `\X` is X itself.
///
/// # Errors
/// A backslash with nothing behind it, or with a number above 255.
pub(super) fn unescape(raw: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'\\' {
            let (value, tail) = escape(tail)?;
            bytes.push(value);
            rest = tail;
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    Ok(bytes)
}

/// Reads what follows a backslash: the byte it means, and what is left.
pub(super) fn escape(rest: &[u8]) -> Result<(u8, &[u8]), String> {
    match rest {
        [a, b, c, tail @ ..] if a.is_ascii_digit() && b.is_ascii_digit() && c.is_ascii_digit() => {
            let value = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
            let byte = u8::try_from(value).map_err(|_| format!("escape \\{value} is above 255"))?;
            Ok((byte, tail))
        }
        [digit, ..] if digit.is_ascii_digit() => Err("an escape by number needs three digits".into()),
        [byte, tail @ ..] => Ok((*byte, tail)),
        [] => Err("a backslash that escapes nothing".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<(bool, u32, Vec<String>)> {
        let mut lexer = Lexer::new(text);
        let mut lines = Vec::new();
        while let Some(line) = lexer.next().unwrap() {
            let tokens = line.tokens.iter().map(Token::show).collect();
            lines.push((line.indented, line.number, tokens));
        }
        lines
    }

    #[test]
    fn comments_parentheses_and_blank_lines_are_resolved() {
        let text = "\u{feff}; nothing\n\n@ IN SOA ns root ( 1 ; serial\n  2\r\n 3 )\r\n  A 1.2.3.4\n   \na TXT \"x ; (y)\\\"\"z\n";
        assert_eq!(
            words(text),
            [
                (
                    false,
                    3,
                    ["@", "IN", "SOA", "ns", "root", "1", "2", "3"]
                        .map(String::from)
                        .to_vec()
                ),
                (true, 6, ["A", "1.2.3.4"].map(String::from).to_vec()),
                (false, 8, ["a", "TXT", "x ; (y)\\\"", "z"].map(String::from).to_vec()),
            ]
        );
    }

    #[test]
    fn a_line_that_begins_inside_parentheses_is_not_indented() {
        assert_eq!(words("( a\n b )\n"), [(false, 1, vec!["a".to_owned(), "b".to_owned()])]);
    }

    #[test]
    fn what_is_not_closed_is_told_with_its_line() {
        for (text, line) in [
            ("\na ( b\n\n", 2),
            ("a )\n", 1),
            ("a \"b\nc\"", 1),
            ("a ((b))", 1),
            ("a b\\\n", 1),
        ] {
            let mut lexer = Lexer::new(text);
            let error = loop {
                match lexer.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{text:?} was read"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.line, line, "{text:?}: {}", error.reason);
        }
    }

    #[test]
    fn escapes_are_bytes() {
        assert_eq!(unescape(br#"a\.b\065\"\\"#).unwrap(), br#"a.bA"\"#);
        assert!(unescape(br"\256").is_err());
        assert!(unescape(br"\12").is_err());
    }
}
