//! Netlink messages: written into one buffer, read without copying.

/// Length of a netlink header and of the nfnetlink header that follows it.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;
/// Marks an attribute that holds attributes.
const NESTED: u16 = 1 << 15;
/// The two highest bits of an attribute's type are flags.
const KIND: u16 = !(3 << 14);

/// `NLM_F_REQUEST`.
pub(crate) const REQUEST: u16 = 1;
/// `NLM_F_ACK`: answer also when all is well.
pub(crate) const ACK: u16 = 4;
/// `NLM_F_DUMP`: answer with all there is.
pub(crate) const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: after what is there.
pub(crate) const APPEND: u16 = 0x800;

/// `NLMSG_ERROR`: the answer to one message; code 0 is a success.
pub(crate) const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
pub(crate) const DONE: u16 = 3;

/// Head of a message to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// Subsystem in the high byte, message in the low one.
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Address family, `AF_INET` mostly.
    pub(crate) family: u8,
    pub(crate) resource: u16,
}

/// Appends a message.
pub(crate) fn write(buffer: &mut Vec<u8>, head: Head, fill: impl FnOnce(&mut Attributes<'_>)) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&head.kind.to_ne_bytes());
    buffer.extend_from_slice(&(head.flags | REQUEST).to_ne_bytes());
    buffer.extend_from_slice(&head.sequence.to_ne_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&[head.family, 0]);
    buffer.extend_from_slice(&head.resource.to_be_bytes());
    fill(&mut Attributes(buffer));
    let length = u32::try_from(buffer.len() - start).unwrap_or(u32::MAX);
    buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// The attributes of a message, or of an attribute, in the making.
pub(crate) struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |buffer| buffer.extend_from_slice(value));
    }

    /// A text with the zero byte that the kernel expects.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |buffer| {
            buffer.extend_from_slice(value.as_bytes());
            buffer.push(0);
        });
    }

    /// Numbers are in network order in nfnetlink.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.attribute(kind | NESTED, |buffer| fill(&mut Attributes(buffer)));
    }

    fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        fill(self.0);
        let length = self.0.len() - start;
        debug_assert!(
            length <= usize::from(u16::MAX),
            "attribute {kind} is {length} bytes long"
        );
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// A message that was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    /// Whose request it is about.
    pub(crate) port: u32,
    /// What follows the netlink header.
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The error number of an [`ERROR`]; 0 is a success.
    pub(crate) fn code(&self) -> i32 {
        let code = number(self.body.get(..4)).map_or(0, u32::cast_signed);
        code.saturating_neg()
    }

    /// The sequence number of the message that an [`ERROR`] is about.
    pub(crate) fn about(&self) -> Option<u32> {
        number(self.body.get(12..16))
    }

    pub(crate) fn family(&self) -> u8 {
        self.body.first().copied().unwrap_or(0)
    }

    pub(crate) fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        attributes(self.body.get(FAMILY_HEADER..).unwrap_or_default())
    }
}

fn number(bytes: Option<&[u8]>) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes?.try_into().ok()?))
}

/// The messages in what one `recv` gave, or in a batch. Ends at the first malformed one.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(number(bytes.get(..4))?).ok()?;
        let whole = bytes.get(..length)?;
        let kind = u16::from_ne_bytes(whole.get(4..6)?.try_into().ok()?);
        let message = Message {
            kind,
            sequence: number(whole.get(8..12))?,
            port: number(whole.get(12..16))?,
            body: whole.get(HEADER..)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in a value, without their flags. Ends at the first malformed one.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & KIND;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of an attribute.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// A text without the zero byte at its end.
pub(crate) fn text(value: &[u8]) -> &str {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head {
        kind: 0x0a0c,
        flags: ACK,
        sequence: 7,
        family: 2,
        resource: 10,
    };

    #[test]
    fn what_is_written_is_read_back() {
        let mut buffer = Vec::new();
        write(&mut buffer, HEAD, |attributes| {
            attributes.text(1, "minidc");
            attributes.nested(3, |inner| inner.u32(2, 0x0102_0304));
        });
        write(&mut buffer, HEAD, |_| {});
        let read: Vec<_> = messages(&buffer).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].sequence, read[0].family()), (0x0a0c, 7, 2));
        let attributes: Vec<_> = read[0].attributes().collect();
        assert_eq!(text(attributes[0].1), "minidc");
        assert_eq!(attributes[1].0, 3);
        assert_eq!(find(attributes[1].1, 2), Some(&[1, 2, 3, 4][..]));
        assert!(read[1].attributes().next().is_none());
    }

    #[test]
    fn cut_short_and_lying_messages_end_the_reading() {
        let mut buffer = Vec::new();
        write(&mut buffer, HEAD, |attributes| attributes.text(1, "minidc"));
        for end in 0..buffer.len() {
            assert_eq!(messages(&buffer[..end]).count(), 0, "{end} bytes");
        }
        // A length of zero would be read for ever.
        buffer[..4].copy_from_slice(&[0; 4]);
        assert_eq!(messages(&buffer).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 1, 2, 3, 4]).count(), 0);
    }
}
