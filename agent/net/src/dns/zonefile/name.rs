//! Domain names as they are written in master files.

use super::lexer::{Token, escape};
use crate::dns::name::{LONGEST_LABEL, Name};

/// Reads a name; one without a dot at its end is below `origin`, and `@` is the origin.
///
/// # Errors
/// In words: empty or long labels, a long name, a broken escape.
pub(super) fn parse(token: &Token<'_>, origin: &Name) -> Result<Name, String> {
    if token.raw == b"@" && !token.quoted {
        return Ok(origin.clone());
    }
    read(token.raw, origin).map_err(|reason| format!("name {:?}: {reason}", token.show()))
}

fn read(raw: &[u8], origin: &Name) -> Result<Name, String> {
    let mut name = Name::root();
    if raw.is_empty() {
        return Err("it is empty".into());
    }
    if raw == b"." {
        return Ok(name);
    }
    let mut label = Vec::with_capacity(LONGEST_LABEL);
    let mut rest = raw;
    let mut relative = true;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'.' => {
                name.push(&label).map_err(|error| error.to_string())?;
                label.clear();
                relative = !rest.is_empty();
            }
            b'\\' => {
                let (value, tail) = escape(rest)?;
                label.push(value);
                rest = tail;
            }
            byte => label.push(byte),
        }
    }
    if relative {
        name.push(&label).map_err(|error| error.to_string())?;
        name.append(origin).map_err(|error| error.to_string())?;
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_relative_absolute_or_the_origin() {
        let origin = Name::parse("example.com").unwrap();
        let read = |raw: &str| {
            let token = Token {
                raw: raw.as_bytes(),
                quoted: false,
                line: 1,
                at: 0,
            };
            parse(&token, &origin).map(|name| name.to_string())
        };
        assert_eq!(read("@").unwrap(), "example.com.");
        assert_eq!(read("WWW").unwrap(), "WWW.example.com.");
        assert_eq!(read("a.b.").unwrap(), "a.b.");
        assert_eq!(read(".").unwrap(), ".");
        assert_eq!(read(r"a\.b").unwrap(), r"a\.b.example.com.");
        assert_eq!(read(r"a\032b").unwrap(), r"a\032b.example.com.");
        assert!(read("a..b").unwrap_err().contains("empty"));
        assert!(read(".a").unwrap_err().contains("empty"));
        assert!(read(&"x".repeat(64)).unwrap_err().contains("63"));
        assert!(read(&"abcdefg.".repeat(32)).unwrap_err().contains("255"));
    }
}
