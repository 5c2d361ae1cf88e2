//! The bytes of the log file.
//!
//! ```text
//! header   64 bytes: magic, format number, identity, epoch, CRC-32
//! frame    length u32, CRC-32 u32 over (epoch, offset in the file, length, payload), payload
//! payload  records: put | patch | delete | reserve | end
//! ```
//!
//! All numbers are little-endian; those inside records are LEB128. The frames up to the one with the `end` record are what the last rewrite
//! left: one put for each entry. Each further frame is one batch, written and synced before the next one is begun. So only the last frame can be
//! torn, and an unreadable frame with a readable one behind it is damage. The CRC covers epoch and offset, so that neither old
//! bytes of a reused block nor a frame quoted inside a value can pass for a frame. Zeros follow the last frame.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    delta,
    varint::{Reader, put_bytes, put_varint},
};
use crate::{Change, Entry, Envelope, Pairs, Revision};

pub(super) const HEADER_BYTES: usize = 64;
pub(super) const FRAME_HEADER_BYTES: usize = 8;
/// The newest format this code reads, and the one it writes.
pub(super) const FORMAT: u16 = 1;
const MAGIC: &[u8; 8] = b"minidcKV";

const PUT: u8 = 1;
const PATCH: u8 = 2;
const DELETE: u8 = 3;
const RESERVE: u8 = 4;
const END: u8 = 5;

/// The first bytes of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) identity: Uuid,
    /// Counts the rewrites.
    pub(super) epoch: u64,
}

/// Why a header cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    Damaged(&'static str),
    Newer(u16),
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..32].copy_from_slice(self.identity.as_bytes());
        bytes[32..40].copy_from_slice(&self.epoch.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, BadHeader> {
        if bytes[..8] != *MAGIC {
            return Err(BadHeader::Damaged("it does not begin as a store's log does"));
        }
        if crc32fast::hash(&bytes[..60]).to_le_bytes() != bytes[60..] {
            return Err(BadHeader::Damaged("the checksum of the header is wrong"));
        }
        let format = u16::from_le_bytes([bytes[8], bytes[9]]);
        if format > FORMAT {
            return Err(BadHeader::Newer(format));
        }
        let mut identity = [0; 16];
        identity.copy_from_slice(&bytes[16..32]);
        let mut epoch = [0; 8];
        epoch.copy_from_slice(&bytes[32..40]);
        Ok(Self {
            identity: Uuid::from_bytes(identity),
            epoch: u64::from_le_bytes(epoch),
        })
    }
}

/// Collects records into one frame.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; FRAME_HEADER_BYTES],
        }
    }

    pub(super) fn payload_bytes(&self) -> usize {
        self.bytes.len() - FRAME_HEADER_BYTES
    }

    /// The whole value.
    pub(super) fn put(&mut self, entry: &Entry) {
        self.bytes.push(PUT);
        self.place(entry);
        put_head(&mut self.bytes, &entry.envelope);
        put_bytes(&mut self.bytes, &entry.envelope.json);
    }

    pub(super) fn change(&mut self, change: &Change) {
        match change {
            Change::Put { entry, previous: None } => self.put(entry),
            Change::Put {
                entry,
                previous: Some(previous),
            } => {
                let start = self.bytes.len();
                self.patch(entry, previous);
                if self.bytes.len() - start > entry.envelope.json.len() / 4 * 3 {
                    self.bytes.truncate(start);
                    self.put(entry);
                }
            }
            Change::Delete { previous, revision } => {
                self.bytes.push(DELETE);
                put_bytes(&mut self.bytes, previous.key.as_bytes());
                put_varint(&mut self.bytes, *revision);
            }
        }
    }

    /// Only what differs from the previous value.
    fn patch(&mut self, entry: &Entry, previous: &Entry) {
        self.bytes.push(PATCH);
        self.place(entry);
        let (mut old, mut new) = (Vec::new(), Vec::new());
        put_head(&mut old, &previous.envelope);
        put_head(&mut new, &entry.envelope);
        put_bytes(&mut self.bytes, if old == new { &[] } else { &new });
        let mut steps = Vec::new();
        delta::encode(&previous.envelope.json, &entry.envelope.json, &mut steps);
        put_bytes(&mut self.bytes, &steps);
    }

    fn place(&mut self, entry: &Entry) {
        put_bytes(&mut self.bytes, entry.key.as_bytes());
        put_varint(&mut self.bytes, entry.revision);
        // The distance is short for most objects.
        put_varint(&mut self.bytes, entry.revision - entry.created);
    }

    pub(super) fn reserve(&mut self, reserved: Revision) {
        self.bytes.push(RESERVE);
        put_varint(&mut self.bytes, reserved);
    }

    pub(super) fn end(&mut self, revision: Revision, reserved: Revision) {
        self.bytes.push(END);
        put_varint(&mut self.bytes, revision);
        put_varint(&mut self.bytes, reserved);
    }

    /// The bytes to write at `offset`; `None` when it is too long for its length field.
    pub(super) fn seal(mut self, epoch: u64, offset: u64) -> Option<Vec<u8>> {
        let length = u32::try_from(self.payload_bytes()).ok()?;
        let sum = checksum(epoch, offset, length, &self.bytes[FRAME_HEADER_BYTES..]);
        self.bytes[..4].copy_from_slice(&length.to_le_bytes());
        self.bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        Some(self.bytes)
    }
}

/// Length and checksum from the first bytes of a frame.
pub(super) fn frame_header(bytes: [u8; FRAME_HEADER_BYTES]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = bytes;
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

pub(super) fn checksum(epoch: u64, offset: u64, length: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&epoch.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(&length.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn put_head(output: &mut Vec<u8>, envelope: &Envelope) {
    put_varint(output, envelope.storage_version.into());
    put_varint(output, envelope.splice.into());
    for pairs in [&envelope.labels, &envelope.fields] {
        put_varint(output, pairs.len() as u64);
        for (name, value) in pairs {
            put_bytes(output, name.as_bytes());
            put_bytes(output, value.as_bytes());
        }
    }
}

struct Head {
    storage_version: u16,
    splice: u32,
    labels: Pairs,
    fields: Pairs,
}

impl Head {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let storage_version = reader.varint()?.try_into().ok()?;
        let splice = reader.varint()?.try_into().ok()?;
        let mut pairs = || -> Option<Pairs> {
            let count = reader.varint()?;
            (0..count)
                .map(|_| Some((reader.string()?.into(), reader.string()?.into())))
                .collect()
        };
        Some(Self {
            storage_version,
            splice,
            labels: pairs()?,
            fields: pairs()?,
        })
    }

    fn with(self, json: Bytes) -> Arc<Envelope> {
        let Self {
            storage_version,
            splice,
            labels,
            fields,
        } = self;
        Arc::new(Envelope {
            labels,
            fields,
            splice,
            json,
            storage_version,
        })
    }
}

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Change(Change),
    Reserve(Revision),
    End { revision: Revision, reserved: Revision },
}

/// Reads the next record, which may build on the present entries; `None` when it makes no sense.
pub(super) fn record(reader: &mut Reader<'_>, entries: &BTreeMap<Arc<str>, Entry>) -> Option<Record> {
    match reader.byte()? {
        tag @ (PUT | PATCH) => {
            let key = reader.string()?;
            let revision = reader.varint()?;
            let created = revision.checked_sub(reader.varint()?)?;
            let previous = entries.get(key).cloned();
            let envelope = if tag == PUT {
                let head = Head::read(reader)?;
                head.with(Bytes::copy_from_slice(reader.bytes()?))
            } else {
                let old = &previous.as_ref()?.envelope;
                let head = reader.bytes()?;
                let json = Bytes::from(delta::decode(&old.json, reader.bytes()?)?.into_boxed_slice());
                if head.is_empty() {
                    Arc::new(Envelope {
                        json,
                        ..(**old).clone()
                    })
                } else {
                    Head::read(&mut Reader::new(head))?.with(json)
                }
            };
            let key = previous
                .as_ref()
                .map_or_else(|| Arc::from(key), |previous| Arc::clone(&previous.key));
            Some(Record::Change(Change::Put {
                entry: Entry {
                    key,
                    revision,
                    created,
                    envelope,
                },
                previous,
            }))
        }
        DELETE => {
            let previous = entries.get(reader.string()?)?.clone();
            Some(Record::Change(Change::Delete {
                previous,
                revision: reader.varint()?,
            }))
        }
        RESERVE => Some(Record::Reserve(reader.varint()?)),
        END => Some(Record::End {
            revision: reader.varint()?,
            reserved: reader.varint()?,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_the_round_trip_and_damage_is_seen() {
        let header = Header {
            identity: Uuid::new_v4(),
            epoch: 7,
        };
        let mut bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for at in 0..HEADER_BYTES {
            bytes[at] ^= 1;
            assert!(
                matches!(Header::decode(&bytes), Err(BadHeader::Damaged(_))),
                "byte {at}"
            );
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn a_frame_is_only_valid_at_its_place_and_in_its_epoch() {
        let mut frame = Frame::new();
        frame.reserve(9);
        let bytes = frame.seal(1, 64).unwrap();
        let (length, sum) = frame_header(bytes[..8].try_into().unwrap());
        assert_eq!(sum, checksum(1, 64, length, &bytes[8..]));
        assert_ne!(sum, checksum(2, 64, length, &bytes[8..]));
        assert_ne!(sum, checksum(1, 65, length, &bytes[8..]));
    }
}
