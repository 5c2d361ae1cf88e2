//! Master files (RFC 1035 section 5, RFC 2308 `$TTL`, RFC 3597) as BIND reads them, `$GENERATE` included.
//!
//! Only the file as such is judged here: words, names, data. Whether its records make a zone is seen when one is built of
//! them ([`super::zones`]). `$INCLUDE` is refused, since there is no file beside this one.
//!
//! # Current limitations
//! - Of the types that are hardly used any more or hard to write, such as LOC, CERT and APL, the data can only be given as
//!   bytes (`TYPE29 \# …`). What is missing in the table of `zonefile/rdata.rs` is one row each.
//! - Signed zones are served without their signatures.

mod generate;
mod lexer;
mod name;
mod rdata;
mod svcb;
mod time;

use lexer::{Lexer, Line, Token};
use rdata::TypeWord;

use super::{message::Kind, name::Name};

/// Most records that a zone may have: some 10 MB in memory.
const RECORD_LIMIT: usize = 65_536;
/// So many faults are told of one file; a person fixes the first ones first.
const FAULT_LIMIT: usize = 20;

/// A record as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// On the wire, in small letters; in the zone.
    pub(crate) owner: Box<[u8]>,
    /// Type.
    pub(crate) kind: Kind,
    /// Seconds.
    pub(crate) ttl: u32,
    /// Names in it are not compressed.
    pub(crate) data: Box<[u8]>,
    /// Where it stands.
    pub(crate) line: u32,
}

/// Something about the file that its author should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// From 1; 0 is the file as a whole.
    pub(crate) line: u32,
    /// In words.
    pub(crate) reason: String,
    /// The zone is not served with this in it.
    pub(crate) fatal: bool,
}

impl Note {
    /// A note that the zone cannot be served with.
    pub(crate) fn fault(line: u32, reason: impl Into<String>) -> Self {
        Self {
            line,
            reason: reason.into(),
            fatal: true,
        }
    }

    /// A note that the zone is served in spite of.
    pub(crate) fn hint(line: u32, reason: impl Into<String>) -> Self {
        Self {
            line,
            reason: reason.into(),
            fatal: false,
        }
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// In the file's order, those of faulty lines left out.
    pub(crate) records: Vec<Record>,
    /// At most [`FAULT_LIMIT`] and one that says so.
    pub(crate) notes: Vec<Note>,
}

/// Reads the file of `zone`.
pub(crate) fn parse(text: &str, zone: &Name) -> Parsed {
    let mut parser = Parser::new(zone);
    let mut lexer = Lexer::new(text);
    loop {
        match lexer.next() {
            Ok(Some(line)) => parser.line(&line),
            Ok(None) => break,
            Err(error) => {
                parser.parsed.notes.push(Note::fault(error.line, error.reason));
                break;
            }
        }
        if parser.full() {
            break;
        }
    }
    parser.parsed
}

/// Whose records an indented line continues.
enum Owner {
    Unknown,
    Known(Box<Name>),
    /// The line that named it was faulty, and was told of.
    Faulty,
}

struct Parser {
    zone: Name,
    origin: Name,
    owner: Owner,
    /// `$TTL`.
    default_ttl: Option<u32>,
    /// The last one written at a record.
    last_ttl: Option<u32>,
    /// MINIMUM of the SOA record: the TTL of last resort, as in BIND.
    minimum: Option<u32>,
    signatures_told: bool,
    parsed: Parsed,
}

impl Parser {
    fn new(zone: &Name) -> Self {
        Self {
            zone: zone.clone(),
            origin: zone.clone(),
            owner: Owner::Unknown,
            default_ttl: None,
            last_ttl: None,
            minimum: None,
            signatures_told: false,
            parsed: Parsed::default(),
        }
    }

    fn full(&mut self) -> bool {
        if self.parsed.notes.len() < FAULT_LIMIT {
            return false;
        }
        self.parsed
            .notes
            .push(Note::hint(0, "what follows was not looked at: too many faults"));
        true
    }

    fn line(&mut self, line: &Line<'_>) {
        let Some(first) = line.tokens.first() else {
            return;
        };
        let result = if !line.indented && !first.quoted && first.raw.first() == Some(&b'$') {
            self.directive(line)
        } else {
            self.record(line, line.number)
        };
        if let Err(reason) = result {
            self.parsed.notes.push(Note::fault(line.number, reason));
        }
    }

    fn directive(&mut self, line: &Line<'_>) -> Result<(), String> {
        let [directive, values @ ..] = line.tokens.as_slice() else {
            return Ok(());
        };
        if directive.is("$GENERATE") {
            return self.generate(values, line.number);
        }
        if directive.is("$INCLUDE") {
            return Err("$INCLUDE is not followed: put the records of that file into this one".into());
        }
        let one = |what: &str| match values {
            [value] => Ok(value),
            [] => Err(format!("{} needs {what}", directive.show())),
            [_, extra, ..] => Err(format!("{:?} is more than {} takes", extra.show(), directive.show())),
        };
        if directive.is("$ORIGIN") {
            self.origin = name::parse(one("a name")?, &self.origin)?;
            return Ok(());
        }
        if directive.is("$TTL") {
            let value = one("a span of time")?;
            let ttl = time::parse(value.raw).ok_or_else(|| format!("{:?} is not a span of time", value.show()))??;
            self.default_ttl = Some(ttl);
            return Ok(());
        }
        Err(format!("unknown directive {:?}", directive.show()))
    }

    fn generate(&mut self, values: &[Token<'_>], line: u32) -> Result<(), String> {
        let generator = generate::Generator::new(values)?;
        for text in generator.lines() {
            let text = text?;
            let mut lexer = Lexer::new(&text);
            let made = lexer
                .next()
                .map_err(|error| format!("$GENERATE made {text:?}: {}", error.reason))?;
            if let Some(made) = made {
                self.record(&made, line)
                    .map_err(|reason| format!("$GENERATE made {text:?}: {reason}"))?;
            }
        }
        Ok(())
    }

    /// Reads a record. `number` is its line in the file.
    fn record(&mut self, line: &Line<'_>, number: u32) -> Result<(), String> {
        let mut tokens = line.tokens.as_slice();
        if !line.indented {
            let [first, rest @ ..] = tokens else {
                return Ok(());
            };
            tokens = rest;
            self.owner = Owner::Faulty;
            self.owner = Owner::Known(Box::new(name::parse(first, &self.origin)?));
        }
        let owner = match &self.owner {
            Owner::Known(owner) => owner.clone(),
            Owner::Faulty => return Ok(()),
            Owner::Unknown => return Err("the first record has no owner: the line begins with white space".into()),
        };

        let mut ttl = None;
        let mut class = false;
        let word = loop {
            let [token, rest @ ..] = tokens else {
                return Err("a type is missing at the end".into());
            };
            tokens = rest;
            if !class && is_class(token)? {
                class = true;
                continue;
            }
            if ttl.is_none()
                && !token.quoted
                && let Some(seconds) = time::parse(token.raw)
            {
                ttl = Some(seconds?);
                continue;
            }
            break rdata::type_word(token).ok_or_else(|| {
                format!(
                    r"{:?} is not a type that is known here (any can be written as TYPEn \# LENGTH HEX)",
                    token.show()
                )
            })?;
        };

        let kind = match word {
            TypeWord::Known(kind, _) | TypeWord::Numbered(kind) => kind,
            TypeWord::Signature(word) => {
                if !std::mem::replace(&mut self.signatures_told, true) {
                    let reason =
                        format!("{word} and other records of a signed zone are left out: answers are not signed here");
                    self.parsed.notes.push(Note::hint(number, reason));
                }
                return Ok(());
            }
        };
        let data = rdata::read(word, tokens, &self.origin).map_err(|reason| format!("{kind}: {reason}"))?;
        if kind == Kind::SOA {
            self.minimum = data.last_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        }
        if ttl.is_some() {
            self.last_ttl = ttl;
        }
        let ttl = match ttl.or(self.default_ttl).or(self.last_ttl) {
            Some(ttl) => ttl,
            None => {
                // from here on it is the default, also as in BIND
                self.default_ttl = self.minimum;
                self.minimum.ok_or("no TTL: neither here, nor before, nor by $TTL")?
            }
        };

        if !owner.is_within(&self.zone) {
            let reason = format!("{owner} is not in the zone {}: left out", self.zone);
            self.parsed.notes.push(Note::hint(number, reason));
            return Ok(());
        }
        if self.parsed.records.len() >= RECORD_LIMIT {
            return Err(format!("the zone has more than {RECORD_LIMIT} records"));
        }
        self.parsed.records.push(Record {
            owner: owner.lowered().wire().into(),
            kind,
            ttl,
            data,
            line: number,
        });
        Ok(())
    }
}

/// Whether the word is the class that is served.
///
/// # Errors
/// It is another class.
fn is_class(token: &Token<'_>) -> Result<bool, String> {
    if token.is("IN") || token.is("CLASS1") {
        return Ok(true);
    }
    let numbered = token.raw.split_at_checked(5).is_some_and(|(head, digits)| {
        !token.quoted && head.eq_ignore_ascii_case(b"CLASS") && rdata::number::<u16>(digits).is_some()
    });
    if numbered || token.is("CH") || token.is("HS") || token.is("CS") {
        return Err(format!("class {} is not served: only IN", token.show()));
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
