//! Tables, chains, rules, sets and elements, as messages of a batch.

use super::{
    expression::{Expression, Verdict},
    message::{self, ACK, APPEND, Attributes, CREATE, Head, Message},
};

/// `NFNL_SUBSYS_NFTABLES`.
pub(crate) const SUBSYSTEM: u16 = 10;
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
/// `NFPROTO_IPV4`.
pub(crate) const IPV4: u8 = 2;

/// `NFT_MSG_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    NewTable = 0,
    GetTable = 1,
    DeleteTable = 2,
    NewChain = 3,
    GetChain = 4,
    DeleteChain = 5,
    NewRule = 6,
    DeleteRule = 8,
    NewSet = 9,
    GetSet = 10,
    NewElement = 12,
    GetElement = 13,
    DeleteElement = 14,
}

impl Kind {
    pub(crate) fn number(self) -> u16 {
        SUBSYSTEM << 8 | self as u16
    }
}

/// Where a chain hangs in the way of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) place: Place,
    pub(crate) priority: i32,
    pub(crate) nat: bool,
}

/// `NF_INET_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// A set or, with a value, a map. Types are nft's numbers for its data types, six bits for each part of a concatenation;
/// the kernel stores them for nft to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) key: &'static [Type],
    pub(crate) value: Value,
    /// Filled by rules, with elements that time out; the most there may be.
    pub(crate) dynamic: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    None,
    Data(&'static [Type]),
    Verdict,
}

/// nft's numbers for data types (`enum datatypes`); each takes four bytes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// A plain number, of which nft must be told where it is from.
    Number = 4,
    Address = 7,
    Protocol = 12,
    Port = 13,
    /// `classid`: two halves, written as `1:3`.
    Halves = 23,
}

/// `NFT_DATA_VERDICT`.
const VERDICT: u32 = 0xffff_ff00;

fn concatenated(types: &[Type]) -> (u32, u32) {
    let number = types.iter().fold(0, |number, part| number << 6 | *part as u32);
    (number, u32::try_from(types.len() * 4).unwrap_or(u32::MAX))
}

impl Set {
    fn flags(&self) -> u32 {
        let map = if self.value == Value::None { 0 } else { 0x8 };
        let dynamic = if self.dynamic.is_some() { 0x10 | 0x20 } else { 0 };
        map | dynamic
    }

    /// Whether a set of the kernel's is this one, by its name and types.
    pub(crate) fn is(&self, message: &Message<'_>) -> bool {
        let number = |wanted| number_of(message, wanted).unwrap_or(0);
        let (value, length) = match self.value {
            Value::None => (0, 0),
            Value::Data(types) => concatenated(types),
            // Verdicts have a length of the kernel's own.
            Value::Verdict => (VERDICT, number(7)),
        };
        name_of(message, 2) == self.name
            && number(3) == self.flags()
            && (number(4), number(5)) == concatenated(self.key)
            && (number(6), number(7)) == (value, length)
    }
}

impl Hook {
    /// Whether a chain of the kernel's hangs here, or nowhere.
    pub(crate) fn is(hook: Option<&Self>, message: &Message<'_>) -> bool {
        let place = message
            .attributes()
            .find(|(kind, _)| *kind == 4)
            .map(|(_, value)| value);
        match (hook, place) {
            (None, None) => true,
            (Some(hook), Some(place)) => {
                let number = |kind| Some(u32::from_be_bytes(message::find(place, kind)?.try_into().ok()?));
                number(1) == Some(hook.place as u32)
                    && number(2) == Some(hook.priority.cast_unsigned())
                    && name_of(message, 7) == hook.kind()
                    // A packet that no rule speaks of is accepted; whatever chain is made without saying so does that.
                    && number_of(message, 5) == Some(1)
            }
            _ => false,
        }
    }

    fn kind(&self) -> &'static str {
        if self.nat { "nat" } else { "filter" }
    }
}

/// A number among the attributes of a message.
pub(crate) fn number_of(message: &Message<'_>, wanted: u16) -> Option<u32> {
    let (_, value) = message.attributes().find(|(kind, _)| *kind == wanted)?;
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// A text among the attributes of a message: as a rule, 1 is the table and 2 or 3 the object.
pub(crate) fn name_of<'a>(message: &Message<'a>, wanted: u16) -> &'a str {
    let mut attributes = message.attributes();
    let found = attributes.find(|(kind, _)| *kind == wanted);
    found.map_or("", |(_, value)| message::text(value))
}

/// What nft wants to know of a set beyond what the kernel does, in its own notation: type, length, value
/// (`NFTNL_UDATA_SET_*`). Without it nft would show numbers with their bytes reversed, and could not read again what it
/// listed.
fn notes(set: &Set) -> Vec<u8> {
    let values = match set.value {
        Value::Data(types) => types,
        Value::None | Value::Verdict => &[],
    };
    // `BYTEORDER_HOST_ENDIAN`, or unknown for several types at once.
    let order = |types: &[Type]| u32::from(types == [Type::Halves]);
    let mut notes = Vec::new();
    note(&mut notes, 0, &order(set.key).to_ne_bytes());
    note(&mut notes, 1, &order(values).to_ne_bytes());
    if set.key.contains(&Type::Number) {
        note(&mut notes, 3, &type_of_all(set.key));
        note(&mut notes, 4, &type_of_all(values));
    }
    notes
}

fn note(notes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    notes.extend([kind, u8::try_from(value.len()).unwrap_or(u8::MAX)]);
    notes.extend(value);
}

/// Several expressions (nft's `EXPR_CONCAT`).
fn type_of_all(types: &[Type]) -> Vec<u8> {
    let mut parts = Vec::new();
    for (index, part) in (0..).zip(types) {
        note(&mut parts, index, &type_of(*part));
    }
    kind_and_data(13, &parts)
}

/// The expression that a type stands for: `ip daddr`, `meta l4proto`, `th dport` or a random number.
fn type_of(part: Type) -> Vec<u8> {
    let (kind, numbers): (u32, &[u32]) = match part {
        Type::Address | Type::Halves => (7, &[12, 12]),
        Type::Protocol => (9, &[16]),
        Type::Port => (7, &[11, 2]),
        Type::Number => (23, &[1, 2, 0]),
    };
    let mut data = Vec::new();
    for (index, number) in (0..).zip(numbers) {
        note(&mut data, index, &number.to_ne_bytes());
    }
    kind_and_data(kind, &data)
}

fn kind_and_data(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut notes = Vec::new();
    note(&mut notes, 0, &kind.to_ne_bytes());
    note(&mut notes, 1, data);
    notes
}

/// A key or a value: up to four parts of four bytes each, in place, since there are tens of thousands at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Parts {
    bytes: [u8; 16],
    length: usize,
}

impl Parts {
    /// Further bytes, filled up with zeros to a multiple of four. More than fit in all are left out.
    pub(crate) fn and(mut self, part: &[u8]) -> Self {
        for (place, byte) in self.bytes.iter_mut().skip(self.length).zip(part) {
            *place = *byte;
        }
        self.length = (self.length + part.len().next_multiple_of(4)).min(self.bytes.len());
        self
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// A part by its number, from 0 on.
    pub(crate) fn part(&self, number: usize) -> Option<[u8; 4]> {
        self.bytes().chunks_exact(4).nth(number)?.try_into().ok()
    }
}

/// One element: its key and what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Parts,
    pub(crate) value: Option<ElementValue>,
    /// For dynamic sets: how long elements live, and how long this one has left, both in milliseconds.
    pub(crate) life: Option<(u64, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ElementValue {
    Data(Parts),
    Verdict(Verdict),
}

/// Bytes of elements in one message; an attribute cannot be longer than 65,535.
const MOST_BYTES: usize = 48 << 10;

/// Changes of one table that take effect together.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    table: &'static str,
    /// Where the last message begins, to ask for its acknowledgement.
    last: usize,
}

impl Batch {
    pub(crate) fn new(table: &'static str) -> Self {
        let mut bytes = Vec::new();
        message::write(&mut bytes, bracket(BEGIN, 0), |_| {});
        Self {
            bytes,
            sequence: 1,
            table,
            last: 0,
        }
    }

    /// Whether nothing was asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.last == 0
    }

    pub(crate) fn add_table(&mut self) {
        self.message(Kind::NewTable, CREATE, |_| {});
    }

    /// With everything in it.
    pub(crate) fn remove_table(&mut self) {
        self.message(Kind::DeleteTable, 0, |_| {});
    }

    pub(crate) fn add_chain(&mut self, name: &str, hook: Option<Hook>) {
        self.message(Kind::NewChain, CREATE, |chain| {
            chain.text(3, name);
            if let Some(hook) = hook {
                chain.nested(4, |place| {
                    place.u32(1, hook.place as u32);
                    place.u32(2, hook.priority.cast_unsigned());
                });
                chain.text(7, hook.kind());
            }
        });
    }

    /// With its rules. Nothing may lead to it any more.
    pub(crate) fn remove_chain(&mut self, name: &str) {
        self.message(Kind::DeleteChain, 0, |chain| chain.text(3, name));
    }

    /// Takes all rules out of it.
    pub(crate) fn empty_chain(&mut self, name: &str) {
        self.message(Kind::DeleteRule, 0, |rule| rule.text(2, name));
    }

    pub(crate) fn add_rule(&mut self, chain: &str, expressions: &[Expression]) {
        self.message(Kind::NewRule, CREATE | APPEND, |rule| {
            rule.text(2, chain);
            rule.nested(4, |list| {
                for expression in expressions {
                    expression.write(list);
                }
            });
        });
    }

    pub(crate) fn add_set(&mut self, set: &Set) {
        let identity = self.sequence;
        self.message(Kind::NewSet, CREATE, |attributes| {
            let (key, length) = concatenated(set.key);
            attributes.text(2, set.name);
            attributes.u32(3, set.flags());
            attributes.u32(4, key);
            attributes.u32(5, length);
            match set.value {
                Value::None => {}
                Value::Data(types) => {
                    let (value, length) = concatenated(types);
                    attributes.u32(6, value);
                    attributes.u32(7, length);
                }
                Value::Verdict => {
                    attributes.u32(6, VERDICT);
                    attributes.u32(7, 0);
                }
            }
            if let Some(most) = set.dynamic {
                attributes.nested(9, |description| description.u32(1, most));
            }
            // Unique within the batch.
            attributes.u32(10, identity);
            attributes.bytes(13, &notes(set));
        });
    }

    pub(crate) fn add_elements(&mut self, set: &str, elements: impl IntoIterator<Item = Element>) {
        self.elements(Kind::NewElement, CREATE, set, elements);
    }

    pub(crate) fn remove_elements(&mut self, set: &str, elements: impl IntoIterator<Item = Element>) {
        self.elements(Kind::DeleteElement, 0, set, elements);
    }

    fn elements(&mut self, kind: Kind, flags: u16, set: &str, elements: impl IntoIterator<Item = Element>) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            let mut budget = MOST_BYTES;
            self.message(kind, flags, |attributes| {
                attributes.text(2, set);
                attributes.nested(3, |list| {
                    while let Some(element) = elements.next_if(|_| budget > 0) {
                        budget = budget.saturating_sub(element.key.length + 100);
                        element.write(list, kind == Kind::NewElement);
                    }
                });
            });
        }
    }

    fn message(&mut self, kind: Kind, flags: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.last = self.bytes.len();
        let head = Head {
            kind: kind.number(),
            flags,
            sequence: self.sequence,
            family: IPV4,
            resource: 0,
        };
        self.sequence += 1;
        let table = self.table;
        message::write(&mut self.bytes, head, |attributes| {
            attributes.text(1, table);
            fill(attributes);
        });
    }

    /// The bytes to send, and the sequence number that is acknowledged when all is well.
    pub(crate) fn finish(mut self) -> (Vec<u8>, u32) {
        // Flags are two bytes at offset 6 of a header.
        if let Some(flags) = self.bytes.get_mut(self.last + 6..self.last + 8) {
            let asked = u16::from_ne_bytes([flags[0], flags[1]]) | ACK;
            flags.copy_from_slice(&asked.to_ne_bytes());
        }
        message::write(&mut self.bytes, bracket(END, self.sequence), |_| {});
        (self.bytes, self.sequence - 1)
    }
}

fn bracket(kind: u16, sequence: u32) -> Head {
    Head {
        kind,
        flags: 0,
        sequence,
        family: 0,
        resource: SUBSYSTEM,
    }
}

impl ElementValue {
    fn read(value: &[u8]) -> Option<Self> {
        match message::find(value, 2) {
            Some(verdict) => Verdict::read(verdict).map(Self::Verdict),
            None => message::find(value, 1).map(|data| Self::Data(Parts::default().and(data))),
        }
    }
}

impl Element {
    fn write(&self, list: &mut Attributes<'_>, with_value: bool) {
        list.nested(1, |element| {
            element.nested(1, |key| key.bytes(1, self.key.bytes()));
            if !with_value {
                return;
            }
            match &self.value {
                None => {}
                Some(ElementValue::Data(value)) => element.nested(2, |data| data.bytes(1, value.bytes())),
                Some(ElementValue::Verdict(verdict)) => element.nested(2, |data| verdict.write(data)),
            }
            if let Some((timeout, left)) = self.life {
                element.u64(4, timeout);
                element.u64(5, left);
            }
        });
    }

    /// The elements in one message of a dump.
    pub(crate) fn read(message: &Message<'_>) -> Vec<Self> {
        let number = |value: Option<&[u8]>| Some(u64::from_be_bytes(value?.try_into().ok()?));
        let list = message.attributes().find(|(kind, _)| *kind == 3);
        let elements = message::attributes(list.map(|(_, value)| value).unwrap_or_default());
        elements
            .filter_map(|(_, element)| {
                let data = |kind| message::find(message::find(element, kind)?, 1);
                let life = number(message::find(element, 4)).zip(number(message::find(element, 5)));
                Some(Self {
                    key: Parts::default().and(data(1)?),
                    value: message::find(element, 2).and_then(ElementValue::read),
                    life,
                })
            })
            .collect()
    }
}

/// What a message of a batch was to do, for people.
pub(crate) fn describe(message: &Message<'_>) -> String {
    let name = |wanted| name_of(message, wanted);
    let is = |kind: Kind| message.kind == kind.number();
    if is(Kind::NewChain) || is(Kind::DeleteChain) {
        format!("chain {}", name(3))
    } else if is(Kind::NewRule) {
        let list = message.attributes().find(|(kind, _)| *kind == 4);
        let names: Vec<&str> = message::attributes(list.map(|(_, value)| value).unwrap_or_default())
            .filter_map(|(_, expression)| message::find(expression, 1).map(message::text))
            .collect();
        format!("a rule of chain {} ({})", name(2), names.join(", "))
    } else if is(Kind::DeleteRule) {
        format!("the rules of chain {}", name(2))
    } else if is(Kind::NewSet) {
        format!("set {}", name(2))
    } else if is(Kind::NewElement) || is(Kind::DeleteElement) {
        format!("elements of set {}", name(2))
    } else {
        format!("table {}", name(1))
    }
}
