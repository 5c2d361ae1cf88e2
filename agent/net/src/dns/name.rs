//! Domain names in wire form (RFC 1035 section 3.1), held in place: no allocation.

use std::{
    fmt::{self, Write as _},
    hash::{Hash, Hasher},
};

/// Longest name on the wire, with the root label (RFC 1035 section 2.3.4).
pub(crate) const LONGEST_NAME: usize = 255;
/// Longest label (RFC 1035 section 2.3.4).
pub(crate) const LONGEST_LABEL: usize = 63;

/// A domain name: labels, each after its length, down to the empty one of the root. Always well formed.
///
/// The case of letters is kept; comparing and hashing ignore it (ASCII only, RFC 4343).
#[derive(Clone)]
pub(crate) struct Name {
    length: u8,
    bytes: [u8; LONGEST_NAME],
}

/// The text is no domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// Two dots without anything between them, or one at the beginning.
    #[error("a label is empty")]
    EmptyLabel,
    /// More than 63 bytes between dots.
    #[error("a label is longer than 63 bytes")]
    LongLabel,
    /// More than 255 bytes on the wire.
    #[error("the name is longer than 255 bytes")]
    LongName,
    /// A backslash that is followed by neither three digits up to 255 nor a character.
    #[error("a backslash is followed by neither a character nor a number up to 255")]
    Escape,
}

impl Name {
    /// The name `.`.
    pub(crate) const fn root() -> Self {
        Self {
            length: 1,
            bytes: [0; LONGEST_NAME],
        }
    }

    /// The name that exactly fills `wire`: uncompressed, with the root label. None if it is not one.
    pub(crate) fn from_wire(wire: &[u8]) -> Option<Self> {
        Self::first_of(wire).filter(|name| name.wire().len() == wire.len())
    }

    /// The name that `wire` begins with, uncompressed. None if there is none.
    pub(crate) fn first_of(wire: &[u8]) -> Option<Self> {
        let mut at = 0;
        loop {
            let length = usize::from(*wire.get(at)?);
            if length > LONGEST_LABEL {
                return None;
            }
            at += 1 + length;
            if length == 0 {
                break;
            }
        }
        let wire = wire.get(..at).filter(|wire| wire.len() <= LONGEST_NAME)?;
        Some(Self::of(wire))
    }

    /// `wire` is known to be well formed.
    fn of(wire: &[u8]) -> Self {
        let mut bytes = [0; LONGEST_NAME];
        bytes[..wire.len()].copy_from_slice(wire);
        Self {
            length: u8::try_from(wire.len()).unwrap_or(u8::MAX),
            bytes,
        }
    }

    /// Reads a name as it is written in text, with `\.` and `\065` escapes; a dot at the end changes nothing.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        let mut name = Self::root();
        if text == "." || text.is_empty() {
            return Ok(name);
        }
        let mut label = [0; LONGEST_LABEL];
        let mut length = 0;
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            let byte = match byte {
                b'.' => {
                    name.push(&label[..length])?;
                    length = 0;
                    continue;
                }
                b'\\' => escaped(&mut bytes)?,
                byte => byte,
            };
            *label.get_mut(length).ok_or(NameError::LongLabel)? = byte;
            length += 1;
        }
        if length > 0 {
            name.push(&label[..length])?;
        }
        Ok(name)
    }

    /// Adds a label at the end, next to the root.
    ///
    /// # Errors
    /// If the label is empty or too long, or the name gets too long.
    pub(crate) fn push(&mut self, label: &[u8]) -> Result<(), NameError> {
        if label.is_empty() {
            return Err(NameError::EmptyLabel);
        }
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| usize::from(*length) <= LONGEST_LABEL)
            .ok_or(NameError::LongLabel)?;
        let at = usize::from(self.length) - 1;
        let end = at + 1 + label.len();
        if end >= LONGEST_NAME {
            return Err(NameError::LongName);
        }
        self.bytes[at] = length;
        self.bytes[at + 1..end].copy_from_slice(label);
        self.bytes[end] = 0;
        self.length += length + 1;
        Ok(())
    }

    /// Adds all labels of the other name at the end.
    ///
    /// # Errors
    /// If the name gets too long; it is then unchanged.
    pub(crate) fn append(&mut self, other: &Self) -> Result<(), NameError> {
        let at = usize::from(self.length) - 1;
        let end = at + other.wire().len();
        if end > LONGEST_NAME {
            return Err(NameError::LongName);
        }
        self.bytes[at..end].copy_from_slice(other.wire());
        self.length += other.length - 1;
        Ok(())
    }

    /// A name of these labels below another one.
    ///
    /// # Errors
    /// If a label is empty or too long, or the name is too long.
    pub(crate) fn below(labels: &[&[u8]], parent: &Self) -> Result<Self, NameError> {
        let mut name = Self::root();
        for label in labels {
            name.push(label)?;
        }
        name.append(parent)?;
        Ok(name)
    }

    /// The bytes on the wire, uncompressed, with the root label.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Whether this is `.`.
    pub(crate) fn is_root(&self) -> bool {
        self.length == 1
    }

    /// The labels, leftmost first, without the root's.
    pub(crate) fn labels(&self) -> Labels<'_> {
        labels(self.wire())
    }

    /// The same name in small letters.
    pub(crate) fn lowered(&self) -> Self {
        let mut name = self.clone();
        // a length is at most 63 and so never a letter
        name.bytes[..usize::from(name.length)].make_ascii_lowercase();
        name
    }

    /// The name without its leftmost label; none for the root.
    pub(crate) fn parent(&self) -> Option<Self> {
        let wire = self.wire();
        let first = usize::from(*wire.first()?);
        (first > 0).then(|| Self::of(&wire[1 + first..]))
    }

    /// Whether the name is `zone` or below it.
    pub(crate) fn is_within(&self, zone: &Self) -> bool {
        self.prefix_length(zone).is_some()
    }

    /// How many bytes of [`Self::wire`] stand before the labels of `zone`; none if the name is not within it.
    pub(crate) fn prefix_length(&self, zone: &Self) -> Option<usize> {
        let (wire, zone) = (self.wire(), zone.wire());
        let at = wire.len().checked_sub(zone.len())?;
        if !wire[at..].eq_ignore_ascii_case(zone) {
            return None;
        }
        // the same bytes also stand inside a longer label: the place must be where a label begins
        let mut start = 0;
        while start < at {
            start += 1 + usize::from(wire[start]);
        }
        (start == at).then_some(at)
    }

    /// The name with the labels of `from` at its end replaced by those of `to`; none if it is not within `from` or gets
    /// too long.
    pub(crate) fn moved(&self, from: &Self, to: &Self) -> Option<Self> {
        let at = self.prefix_length(from)?;
        let mut name = Self::root();
        name.bytes[..at].copy_from_slice(&self.wire()[..at]);
        name.length = u8::try_from(at + 1).ok()?;
        name.append(to).ok()?;
        Some(name)
    }
}

/// The labels of an uncompressed name, leftmost first, without the root's.
pub(crate) fn labels(wire: &[u8]) -> Labels<'_> {
    Labels { wire }
}

/// See [`Name::labels`].
#[derive(Clone)]
pub(crate) struct Labels<'a> {
    wire: &'a [u8],
}

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.wire.split_first()?;
        let length = usize::from(*length);
        if length == 0 || length > rest.len() {
            return None;
        }
        let (label, rest) = rest.split_at(length);
        self.wire = rest;
        Some(label)
    }
}

fn escaped(bytes: &mut std::str::Bytes<'_>) -> Result<u8, NameError> {
    let first = bytes.next().ok_or(NameError::Escape)?;
    if !first.is_ascii_digit() {
        return Ok(first);
    }
    let mut number = u16::from(first - b'0');
    for _ in 0..2 {
        let digit = bytes.next().filter(u8::is_ascii_digit).ok_or(NameError::Escape)?;
        number = number * 10 + u16::from(digit - b'0');
    }
    u8::try_from(number).map_err(|_| NameError::Escape)
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.wire().eq_ignore_ascii_case(other.wire())
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for byte in self.wire() {
            state.write_u8(byte.to_ascii_lowercase());
        }
    }
}

impl fmt::Display for Name {
    /// As it is written in text, with a dot at its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_char('.');
        }
        for label in self.labels() {
            for byte in label {
                match byte {
                    b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'$' => write!(f, "\\{}", char::from(*byte))?,
                    0x21..=0x7e => f.write_char(char::from(*byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_char('.')?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn text_and_wire_say_the_same() {
        assert_eq!(name("Web.Example.").wire(), b"\x03Web\x07Example\0");
        assert_eq!(name("web.example").to_string(), "web.example.");
        assert_eq!(name(".").wire(), [0]);
        assert_eq!(name("").to_string(), ".");
        assert_eq!(name(r"a\.b\032c.d").wire(), b"\x05a.b c\x01d\0");
        assert_eq!(name(r"a\.b\032c.d").to_string(), r"a\.b\032c.d.");
        assert_eq!(Name::from_wire(name("a.b").wire()), Some(name("a.b")));
    }

    #[test]
    fn what_is_too_long_or_empty_is_no_name() {
        assert_eq!(Name::parse("a..b"), Err(NameError::EmptyLabel));
        assert_eq!(Name::parse(".a"), Err(NameError::EmptyLabel));
        assert_eq!(Name::parse(&"a".repeat(64)), Err(NameError::LongLabel));
        assert!(Name::parse(&"a".repeat(63)).is_ok());
        assert_eq!(Name::parse(r"a\25"), Err(NameError::Escape));
        assert_eq!(Name::parse(r"a\256"), Err(NameError::Escape));
        assert_eq!(Name::parse(r"a\"), Err(NameError::Escape));
        let longest = format!("{}abcde", "abc.".repeat(62));
        assert_eq!(name(&longest).wire().len(), 255);
        assert_eq!(Name::parse(&format!("{longest}f")), Err(NameError::LongName));
        for bad in [&b""[..], b"\x01", b"\x01a", b"\x01a\0\0", b"\xc0\x0c", b"\x40"] {
            assert_eq!(Name::from_wire(bad), None);
        }
    }

    #[test]
    fn names_are_compared_without_regard_to_case() {
        assert_eq!(name("WEB.example"), name("web.EXAMPLE"));
        assert_ne!(name("web.example"), name("web.examples"));
        assert_eq!(name("WEB").lowered().wire(), b"\x03web\0");
    }

    #[test]
    fn a_name_is_within_a_zone_only_at_a_label() {
        assert!(name("a.example").is_within(&name("Example")));
        assert!(name("example").is_within(&name("example")));
        assert!(name("example").is_within(&Name::root()));
        assert!(!name("anexample").is_within(&name("example")));
        // "\x07example" inside one label
        assert!(
            !Name::from_wire(b"\x09a\x07example\0")
                .unwrap()
                .is_within(&name("example"))
        );
        assert_eq!(
            name("a.b.old").moved(&name("old"), &name("new.er")),
            Some(name("a.b.new.er"))
        );
        assert_eq!(name("a.b").parent(), Some(name("b")));
        assert_eq!(Name::root().parent(), None);
    }
}
