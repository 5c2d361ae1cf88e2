//! BIND's `$GENERATE`: a line of a master file, once for each number of a range.

use std::fmt::Write as _;

use super::{lexer::Token, rdata};

/// A range and the line it is put into.
#[derive(Debug)]
pub(super) struct Generator {
    start: u32,
    stop: u32,
    step: u32,
    template: Vec<Piece>,
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Number { offset: i64, width: usize, base: Base },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Decimal,
    Octal,
    Lower,
    Upper,
    NibblesLower,
    NibblesUpper,
}

/// Wider numbers fit in no label.
const WIDTH_LIMIT: usize = 63;

impl Generator {
    /// Reads what stands behind `$GENERATE`: `START-STOP[/STEP] OWNER [TTL] [CLASS] TYPE DATA`.
    ///
    /// # Errors
    /// In words, about the first thing that is not so.
    pub(super) fn new(values: &[Token<'_>]) -> Result<Self, String> {
        let [range, owner, rest @ ..] = values else {
            return Err("$GENERATE needs a range, an owner, a type and data".into());
        };
        let (start, stop, step) = self::range(range.raw)
            .ok_or_else(|| format!("{:?} is not a range such as 1-10 or 0-100/2", range.show()))?;
        let mut template = Vec::new();
        pieces(owner, &mut template)?;
        for token in rest {
            push(&mut template, " ");
            pieces(token, &mut template)?;
        }
        push(&mut template, "\n");
        Ok(Self {
            start,
            stop,
            step,
            template,
        })
    }

    /// The lines, each as text of a master file.
    pub(super) fn lines(&self) -> impl Iterator<Item = Result<String, String>> {
        let numbers = std::iter::successors(Some(self.start), |number| number.checked_add(self.step));
        numbers
            .take_while(|number| *number <= self.stop)
            .map(|number| self.fill(number))
    }

    fn fill(&self, number: u32) -> Result<String, String> {
        let mut line = String::new();
        for piece in &self.template {
            match piece {
                Piece::Text(text) => line.push_str(text),
                Piece::Number { offset, width, base } => {
                    let value = u32::try_from(i64::from(number) + offset)
                        .map_err(|_| format!("$GENERATE: {number} with offset {offset} is out of range"))?;
                    base.write(&mut line, value, *width);
                }
            }
        }
        Ok(line)
    }
}

impl Base {
    fn write(self, line: &mut String, value: u32, width: usize) {
        // writing to a String cannot fail
        let _ = match self {
            Self::Decimal => write!(line, "{value:0width$}"),
            Self::Octal => write!(line, "{value:0width$o}"),
            Self::Lower => write!(line, "{value:0width$x}"),
            Self::Upper => write!(line, "{value:0width$X}"),
            Self::NibblesLower | Self::NibblesUpper => {
                nibbles(line, value, width, self == Self::NibblesUpper);
                Ok(())
            }
        };
    }
}

/// The lowest digit first, dots between. The width counts the dots; an even one leaves a dot at the end, as with BIND.
fn nibbles(line: &mut String, mut value: u32, mut width: usize, upper: bool) {
    loop {
        let digit = char::from_digit(value & 0xf, 16).unwrap_or('0');
        line.push(if upper { digit.to_ascii_uppercase() } else { digit });
        value >>= 4;
        width = width.saturating_sub(1);
        if width == 0 && value == 0 {
            return;
        }
        line.push('.');
        width = width.saturating_sub(1);
        if width == 0 && value == 0 {
            return;
        }
    }
}

fn range(raw: &[u8]) -> Option<(u32, u32, u32)> {
    let (span, step) = match raw.iter().position(|byte| *byte == b'/') {
        Some(at) => (&raw[..at], rdata::number(&raw[at + 1..])?),
        None => (raw, 1),
    };
    let dash = span.iter().position(|byte| *byte == b'-')?;
    let (start, stop) = (rdata::number(&span[..dash])?, rdata::number(&span[dash + 1..])?);
    (start <= stop && step > 0).then_some((start, stop, step))
}

fn push(template: &mut Vec<Piece>, text: &str) {
    if let Some(Piece::Text(last)) = template.last_mut() {
        last.push_str(text);
    } else {
        template.push(Piece::Text(text.to_owned()));
    }
}

/// Cuts a word at its `$`. `$$` and `\$` are a dollar sign, `${OFFSET,WIDTH,BASE}` a number in other clothes.
fn pieces(token: &Token<'_>, template: &mut Vec<Piece>) -> Result<(), String> {
    let text = String::from_utf8_lossy(token.raw);
    let mut rest = text.as_ref();
    while let Some(at) = rest.find(['$', '\\']) {
        push(template, &rest[..at]);
        let special = &rest[at..];
        if let Some(tail) = special.strip_prefix("$$").or_else(|| special.strip_prefix("\\$")) {
            push(template, "\\$");
            rest = tail;
        } else if let Some(tail) = special.strip_prefix("${") {
            let (inside, tail) = tail
                .split_once('}')
                .ok_or_else(|| format!("{:?}: ${{ without }}", token.show()))?;
            template.push(modifiers(inside).ok_or_else(|| format!("${{{inside}}} is not ${{OFFSET,WIDTH,BASE}}"))?);
            rest = tail;
        } else if let Some(tail) = special.strip_prefix('$') {
            template.push(Piece::Number {
                offset: 0,
                width: 0,
                base: Base::Decimal,
            });
            rest = tail;
        } else {
            // a backslash and what it escapes stay as they are
            let length = special.chars().take(2).map(char::len_utf8).sum();
            push(template, &special[..length]);
            rest = &special[length..];
        }
    }
    push(template, rest);
    Ok(())
}

fn modifiers(inside: &str) -> Option<Piece> {
    let mut parts = inside.split(',');
    let offset = parts
        .next()?
        .parse()
        .ok()
        .filter(|offset: &i64| offset.unsigned_abs() <= u64::from(u32::MAX))?;
    let width = match parts.next() {
        Some(width) => width.parse().ok().filter(|width| *width <= WIDTH_LIMIT)?,
        None => 0,
    };
    let base = match parts.next() {
        None | Some("d") => Base::Decimal,
        Some("o") => Base::Octal,
        Some("x") => Base::Lower,
        Some("X") => Base::Upper,
        Some("n") => Base::NibblesLower,
        Some("N") => Base::NibblesUpper,
        Some(_) => return None,
    };
    parts.next().is_none().then_some(Piece::Number { offset, width, base })
}
