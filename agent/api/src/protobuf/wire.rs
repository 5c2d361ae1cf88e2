//! The encoding itself: fields of a message by number, each a varint, eight or four bytes, or a length with bytes.
//! <https://protobuf.dev/programming-guides/encoding/>

/// The content of a field, as far as the bytes alone tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    const fn name(self) -> &'static str {
        match self {
            Self::Varint(_) => "a varint",
            Self::Fixed64(_) => "eight bytes",
            Self::Fixed32 => "four bytes",
            Self::Bytes(_) => "a length with bytes",
        }
    }

    fn unlike<T>(self, wanted: &str) -> Result<T, String> {
        Err(format!("{} where {wanted} belongs", self.name()))
    }

    pub(super) fn bytes(self) -> Result<&'a [u8], String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            other => other.unlike("a length with bytes"),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, String> {
        str::from_utf8(self.bytes()?).map_err(|_| "a string that is not UTF-8".to_owned())
    }

    /// `int64`, and `int32`, whose negative numbers are as long.
    pub(super) fn signed(self) -> Result<i64, String> {
        match self {
            Self::Varint(number) => Ok(number.cast_signed()),
            other => other.unlike("a varint"),
        }
    }

    pub(super) fn double(self) -> Result<f64, String> {
        match self {
            Self::Fixed64(bits) => Ok(f64::from_bits(bits)),
            other => other.unlike("a double"),
        }
    }
}

/// The fields of a message; ends after the first error.
pub(super) struct Message<'a> {
    rest: &'a [u8],
}

impl<'a> Message<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn field(&mut self) -> Result<(u32, Wire<'a>), String> {
        let key = varint(&mut self.rest)?;
        let number = u32::try_from(key >> 3)
            .ok()
            .filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or_else(|| format!("{} is no field number", key >> 3))?;
        let wire = match key & 7 {
            0 => Wire::Varint(varint(&mut self.rest)?),
            1 => Wire::Fixed64(fixed64(&mut self.rest)?),
            2 => {
                let length = varint(&mut self.rest)?;
                let split = usize::try_from(length)
                    .ok()
                    .and_then(|length| self.rest.split_at_checked(length));
                let (bytes, rest) = split.ok_or_else(|| {
                    format!(
                        "field number {number} should have {length} bytes, but {} are left",
                        self.rest.len()
                    )
                })?;
                self.rest = rest;
                Wire::Bytes(bytes)
            }
            5 => {
                let (_, rest) = self
                    .rest
                    .split_first_chunk::<4>()
                    .ok_or("the body ends within a number")?;
                self.rest = rest;
                Wire::Fixed32
            }
            other => {
                return Err(format!(
                    "field number {number} is of wire type {other}, which Kubernetes does not use"
                ));
            }
        };
        Ok((number, wire))
    }
}

impl<'a> Iterator for Message<'a> {
    type Item = Result<(u32, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Numbers of a packed list.
pub(super) fn varints(bytes: &[u8]) -> Packed<'_> {
    Packed {
        rest: bytes,
        read: |rest| varint(rest).map(Wire::Varint),
    }
}

/// Doubles of a packed list.
pub(super) fn doubles(bytes: &[u8]) -> Packed<'_> {
    Packed {
        rest: bytes,
        read: |rest| fixed64(rest).map(Wire::Fixed64),
    }
}

/// The items of a packed list; ends after the first error.
pub(super) struct Packed<'a> {
    rest: &'a [u8],
    read: fn(&mut &'a [u8]) -> Result<Wire<'a>, String>,
}

impl<'a> Iterator for Packed<'a> {
    type Item = Result<Wire<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = (self.read)(&mut self.rest);
        if item.is_err() {
            self.rest = &[];
        }
        Some(item)
    }
}

/// Seven bits a byte, lowest first, at most ten bytes.
fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or("the body ends within a number")?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number of more than 64 bits".to_owned())
}

fn fixed64(rest: &mut &[u8]) -> Result<u64, String> {
    let (bytes, after) = rest.split_first_chunk::<8>().ok_or("the body ends within a number")?;
    *rest = after;
    Ok(u64::from_le_bytes(*bytes))
}
