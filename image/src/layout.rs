//! The partition table of a card.
//!
//! An MBR with three primary FAT partitions and an extended one:
//!
//! | partition | type | what |
//! | --- | --- | --- |
//! | 1 | 0x0c | selector: `autoboot.txt`, first-stage files, the seed |
//! | 2 | 0x0c | slot A: kernel, device trees, `config.txt`, `cmdline.txt` |
//! | 3 | 0x0c | slot B: the same |
//! | 4 | 0x05 | extended, up to the end of the card |
//! | 5 | 0x83 | slot A: root, read-only |
//! | 6 | 0x83 | slot B: root, read-only |
//! | 7 | 0x83 | data, ext4, grown at first boot |
//!
//! Why so. The firmware's partition number in `autoboot.txt` is the plain partition number only with MBR: on GPT, `start.elf` of the
//! Pi 4 and older counts bootable FAT partitions instead (raspberrypi/rpi-eeprom#654, raspberrypi/firmware#1733), and the boot ROM of the
//! Pi 3 and Zero 2 W reads no GPT. The ROM does not know type 0xef (raspberrypi/firmware#1711), and the bootloader follows an extended
//! partition of type 0x05, not 0x0f (raspberrypi/documentation#1659); FAT partitions that it boots are therefore primary and come first.

mod grow;

use std::fmt;
use std::io;

use crate::device::{self, Target};

pub use grow::{Growth, grow};

/// Bytes of a sector, the unit of an MBR.
pub const SECTOR: u64 = 512;
/// What every start is a multiple of: a usual erase block of SD cards, 4 MiB.
pub const ALIGNMENT: u64 = 4 << 20;
/// What a start must at least be a multiple of, so that direct I/O works everywhere.
const LEAST_ALIGNMENT: u64 = 4096;
/// FAT32 with LBA.
pub const FAT: u8 = 0x0c;
/// Extended, the type that the Pi's firmware follows.
pub const EXTENDED: u8 = 0x05;
/// Linux.
pub const LINUX: u8 = 0x83;
/// Least size of a FAT32 file system: 65,525 clusters of one sector and its tables, rounded up.
pub const LEAST_FAT: u64 = 36 << 20;
/// Most bytes an MBR can describe.
const MOST: u64 = u32::MAX as u64 * SECTOR;
/// More logical partitions than anybody makes by hand: a chain that is longer goes in circles.
const MOST_LOGICAL: usize = 32;

/// Number of the selector partition.
pub const SELECTOR: u32 = 1;
/// Number of the data partition.
pub const DATA: u32 = 7;

/// One of the two systems on a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Partitions 2 and 5.
    A,
    /// Partitions 3 and 6.
    B,
}

impl Slot {
    /// Number of the slot's boot partition.
    pub fn boot(self) -> u32 {
        match self {
            Self::A => 2,
            Self::B => 3,
        }
    }

    /// Number of the slot's root partition.
    pub fn root(self) -> u32 {
        match self {
            Self::A => 5,
            Self::B => 6,
        }
    }

    /// The one that is not this.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// Contents of `autoboot.txt` that boots `slot`, and the other one when a try is asked for (`reboot "0 tryboot"`).
/// It fits one sector, as the firmware demands, so that it can be changed in one write.
pub fn autoboot(slot: Slot) -> String {
    format!(
        "[all]\ntryboot_a_b=1\nboot_partition={}\n[tryboot]\nboot_partition={}\n",
        slot.boot(),
        slot.other().boot()
    )
}

/// What is wrong with a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// No signature in the first sector.
    #[error("there is no partition table (no 55 AA at the end of the first sector)")]
    NoTable,
    /// It is a GPT.
    #[error("it is a GPT, which the first-stage loader of older Pis cannot read; it must be an MBR")]
    Gpt,
    /// The chain of logical partitions is broken.
    #[error("the chain of logical partitions is broken at sector {sector}")]
    BrokenChain {
        /// Sector that should hold the next link.
        sector: u64,
    },
    /// It is a table, but not ours.
    #[error("{}", .0.join("; "))]
    Unexpected(Vec<String>),
    /// Sizes that do not make a card.
    #[error("{0}")]
    Sizes(String),
}

/// One partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number as the kernel counts: 1 to 4 primary, from 5 logical.
    pub number: u32,
    /// Type byte.
    pub kind: u8,
    /// First byte on the card.
    pub start: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Partition {
    /// Offset behind its last byte.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "partition {} (type 0x{:02x}) from byte {} to {}",
            self.number,
            self.kind,
            self.start,
            self.end()
        )
    }
}

/// Sizes in bytes, each rounded up to [`ALIGNMENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Selector and seed; at least [`LEAST_FAT`].
    pub selector: u64,
    /// Boot files of one slot; at least [`LEAST_FAT`].
    pub boot: u64,
    /// Root of one slot.
    pub root: u64,
    /// Data, before it grows.
    pub data: u64,
}

/// All partitions of a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The disk's signature; `PARTUUID` is this and a partition's number.
    pub disk: u32,
    /// In the order of their numbers, the extended one included.
    pub partitions: Vec<Partition>,
}

impl Table {
    /// The table of a minidc image.
    pub fn plan(disk: u32, sizes: Sizes) -> Result<Self, LayoutError> {
        for (what, size) in [("selector", sizes.selector), ("boot", sizes.boot)] {
            if size < LEAST_FAT {
                return Err(LayoutError::Sizes(format!(
                    "the {what} partition needs at least {LEAST_FAT} bytes to be FAT32, not {size}"
                )));
            }
        }
        let mut next = ALIGNMENT;
        let mut partitions = Vec::with_capacity(7);
        let mut add = |number, kind, size: u64, gap: u64| {
            let start = next + gap;
            let bytes = size
                .max(1)
                .checked_next_multiple_of(ALIGNMENT)
                .filter(|bytes| start + bytes <= MOST)
                .ok_or_else(|| LayoutError::Sizes("the partitions do not fit an MBR (2 TiB)".into()))?;
            partitions.push(Partition {
                number,
                kind,
                start,
                bytes,
            });
            next = start + bytes;
            Ok(())
        };
        add(1, FAT, sizes.selector, 0)?;
        add(2, FAT, sizes.boot, 0)?;
        add(3, FAT, sizes.boot, 0)?;
        // Before each logical partition one alignment unit is left for its link, as partitioning tools do.
        add(5, LINUX, sizes.root, ALIGNMENT)?;
        add(6, LINUX, sizes.root, ALIGNMENT)?;
        add(7, LINUX, sizes.data, ALIGNMENT)?;
        let start = partitions[2].end();
        let extended = Partition {
            number: 4,
            kind: EXTENDED,
            start,
            bytes: next - start,
        };
        partitions.insert(3, extended);
        Ok(Self { disk, partitions })
    }

    /// The partition with this number.
    pub fn get(&self, number: u32) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.number == number)
    }

    /// Offset behind the last partition: the least size of a card.
    pub fn end(&self) -> u64 {
        self.partitions.iter().map(Partition::end).max().unwrap_or(0)
    }

    /// The table on a card.
    pub fn read(target: &mut dyn Target) -> Result<Self, crate::Error> {
        let mut first = device::Aligned::new(LEAST_ALIGNMENT as usize);
        device::read_exact(target, 0, &mut first)?;
        let mbr = Mbr::parse(&first).map_err(crate::Error::Layout)?;
        mbr.follow(target)
    }

    /// Every way in which this is not the table of a minidc card of `bytes`.
    pub fn check(&self, bytes: u64) -> Result<(), LayoutError> {
        let mut wrong = Vec::new();
        let fat = |kind| matches!(kind, 0x0b | 0x0c | 0x0e);
        for number in 1..=7 {
            let Some(partition) = self.get(number) else {
                wrong.push(format!("partition {number} is missing"));
                continue;
            };
            let right = match number {
                1..=3 => fat(partition.kind),
                4 => partition.kind == EXTENDED,
                _ => partition.kind == LINUX,
            };
            if !right {
                wrong.push(format!("partition {number} has type 0x{:02x}", partition.kind));
            }
        }
        for partition in &self.partitions {
            if partition.number > 7 {
                wrong.push(format!("there is a partition {} more than expected", partition.number));
            }
            if partition.bytes == 0 {
                wrong.push(format!("partition {} is empty", partition.number));
            }
            if !partition.start.is_multiple_of(LEAST_ALIGNMENT) || partition.start == 0 {
                wrong.push(format!("partition {} is not aligned to 4096 bytes", partition.number));
            }
            if partition.end() > bytes {
                wrong.push(format!("{partition} ends behind the {bytes} bytes of the card"));
            }
        }
        let logical = |partition: &Partition| partition.number > 4;
        if let Some(extended) = self.get(4) {
            for inner in self.partitions.iter().filter(|partition| logical(partition)) {
                // One sector at least belongs to the link.
                if inner.start < extended.start + SECTOR || inner.end() > extended.end() {
                    wrong.push(format!("{inner} is not inside {extended}"));
                }
            }
        }
        for (index, one) in self.partitions.iter().enumerate() {
            for other in &self.partitions[index + 1..] {
                let nested = (one.number == 4 && logical(other)) || (other.number == 4 && logical(one));
                if !nested && one.start < other.end() && other.start < one.end() {
                    wrong.push(format!("{one} and {other} overlap"));
                }
            }
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(LayoutError::Unexpected(wrong))
        }
    }

    /// The same table with the data partition (and the extended one around it) up to the end of a card of `bytes`. Never smaller.
    #[must_use]
    pub fn grown(&self, bytes: u64) -> Self {
        let end = bytes.min(MOST) / ALIGNMENT * ALIGNMENT;
        let mut table = self.clone();
        for partition in &mut table.partitions {
            if partition.number == 4 || partition.number == DATA {
                partition.bytes = partition.bytes.max(end.saturating_sub(partition.start));
            }
        }
        table
    }

    /// The sectors that say this: offset in bytes and contents. The first is sector 0, to be written last by whoever wants a card to be
    /// whole or nothing. Boot code is left zero: no Pi runs it.
    pub fn sectors(&self) -> Vec<(u64, [u8; SECTOR as usize])> {
        let mut first = [0; SECTOR as usize];
        first[440..444].copy_from_slice(&self.disk.to_le_bytes());
        for partition in self.partitions.iter().filter(|partition| partition.number <= 4) {
            if let Some(slot) = usize::try_from(partition.number)
                .ok()
                .and_then(|number| number.checked_sub(1))
            {
                entry(&mut first, slot, partition.kind, partition.start, partition.bytes);
            }
        }
        sign(&mut first);
        let mut sectors = vec![(0, first)];
        let Some(extended) = self.get(4) else {
            return sectors;
        };
        let logical: Vec<&Partition> = self
            .partitions
            .iter()
            .filter(|partition| partition.number > 4)
            .collect();
        // The first link is the first sector of the extended partition; each further one lies before its partition.
        let link = |index: usize, partition: &Partition| {
            if index == 0 {
                extended.start
            } else {
                partition
                    .start
                    .saturating_sub(ALIGNMENT.min(partition.start - logical[index - 1].end()))
            }
        };
        for (index, partition) in logical.iter().enumerate() {
            let here = link(index, partition);
            let mut sector = [0; SECTOR as usize];
            entry(&mut sector, 0, partition.kind, partition.start - here, partition.bytes);
            if let Some(next) = logical.get(index + 1) {
                let there = link(index + 1, next);
                entry(&mut sector, 1, EXTENDED, there - extended.start, next.end() - there);
            }
            sign(&mut sector);
            sectors.push((here, sector));
        }
        sectors
    }
}

fn sign(sector: &mut [u8; SECTOR as usize]) {
    sector[510] = 0x55;
    sector[511] = 0xaa;
}

/// Writes an entry. The old cylinder, head and sector fields get their "look at the LBA" value.
fn entry(sector: &mut [u8; SECTOR as usize], slot: usize, kind: u8, start: u64, bytes: u64) {
    let sectors = |bytes: u64| u32::try_from(bytes / SECTOR).unwrap_or(u32::MAX).to_le_bytes();
    let at = 446 + 16 * slot;
    sector[at + 1..at + 4].copy_from_slice(&[0xfe, 0xff, 0xff]);
    sector[at + 4] = kind;
    sector[at + 5..at + 8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    sector[at + 8..at + 12].copy_from_slice(&sectors(start));
    sector[at + 12..at + 16].copy_from_slice(&sectors(bytes));
}

fn read_entry(sector: &[u8], slot: usize) -> (u8, u64, u64) {
    let at = 446 + 16 * slot;
    let number = |at: usize| {
        let bytes = [sector[at], sector[at + 1], sector[at + 2], sector[at + 3]];
        u64::from(u32::from_le_bytes(bytes)) * SECTOR
    };
    (sector[at + 4], number(at + 8), number(at + 12))
}

fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

/// What the first sector alone says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mbr {
    disk: u32,
    primary: Vec<Partition>,
}

impl Mbr {
    /// Parses the first sector; `head` may be longer.
    pub fn parse(head: &[u8]) -> Result<Self, LayoutError> {
        if head.len() < SECTOR as usize || head[510..512] != [0x55, 0xaa] {
            return Err(LayoutError::NoTable);
        }
        let mut primary = Vec::new();
        for (slot, number) in (0..4).zip(1..) {
            let (kind, start, bytes) = read_entry(head, slot);
            match kind {
                0 => {}
                0xee => return Err(LayoutError::Gpt),
                _ => primary.push(Partition {
                    number,
                    kind,
                    start,
                    bytes,
                }),
            }
        }
        if primary.is_empty() {
            return Err(LayoutError::NoTable);
        }
        let disk = u32::from_le_bytes([head[440], head[441], head[442], head[443]]);
        Ok(Self { disk, primary })
    }

    /// Offset behind the last partition: how long the image must be.
    pub fn end(&self) -> u64 {
        self.primary.iter().map(Partition::end).max().unwrap_or(0)
    }

    /// Where the first partition starts.
    pub fn first(&self) -> u64 {
        self.primary.iter().map(|partition| partition.start).min().unwrap_or(0)
    }

    /// Adds the logical partitions, whose links are read from `target`. Sector 0 itself is not read again.
    pub fn follow(&self, target: &mut dyn Target) -> Result<Table, crate::Error> {
        let mut partitions = self.primary.clone();
        let broken = |at: u64| crate::Error::Layout(LayoutError::BrokenChain { sector: at / SECTOR });
        if let Some(extended) = self.primary.iter().find(|partition| is_extended(partition.kind)) {
            let mut at = extended.start;
            for number in (5..).take(MOST_LOGICAL) {
                let block = at / LEAST_ALIGNMENT * LEAST_ALIGNMENT;
                if at < extended.start || at + SECTOR > extended.end() || block + LEAST_ALIGNMENT > target.bytes() {
                    return Err(broken(at));
                }
                let mut buffer = device::Aligned::new(LEAST_ALIGNMENT as usize);
                device::read_exact(target, block, &mut buffer)?;
                let offset = usize::try_from(at - block).map_err(|_| broken(at))?;
                let sector = &buffer[offset..offset + SECTOR as usize];
                if sector[510..] != [0x55, 0xaa] {
                    return Err(broken(at));
                }
                let (kind, start, bytes) = read_entry(sector, 0);
                if kind != 0 {
                    partitions.push(Partition {
                        number,
                        kind,
                        start: at + start,
                        bytes,
                    });
                }
                let (next, offset, _) = read_entry(sector, 1);
                if !is_extended(next) {
                    break;
                }
                let next = extended.start + offset;
                // Links go forward only, so the chain ends.
                if next <= at {
                    return Err(broken(next));
                }
                at = next;
            }
        }
        Ok(Table {
            disk: self.disk,
            partitions,
        })
    }
}

/// Writes the table's sectors to a card or image file, sector 0 last, and flushes.
pub fn write(table: &Table, target: &mut dyn Target) -> Result<(), crate::Error> {
    for (offset, sector) in table.sectors().into_iter().rev() {
        let block = offset / LEAST_ALIGNMENT * LEAST_ALIGNMENT;
        let mut buffer = device::Aligned::new(LEAST_ALIGNMENT as usize);
        device::read_exact(target, block, &mut buffer)?;
        let at = usize::try_from(offset - block).map_err(|error| {
            crate::Error::device("write to", offset, io::Error::new(io::ErrorKind::InvalidInput, error))
        })?;
        buffer[at..at + SECTOR as usize].copy_from_slice(&sector);
        device::write_all(target, block, &buffer)?;
        device::flush(target, block)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
