//! The data partition up to the end of the card, as the first start does it, on a table that is in use.

use super::{LEAST_ALIGNMENT, LayoutError, Partition, SECTOR, Table, read_entry};
use crate::device::{self, Target};
use crate::layout::DATA;

/// First byte of the entries in a sector of the table, and the one behind the last.
const ENTRIES: std::ops::Range<usize> = 446..510;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The data partition as the table has it now.
    pub data: Partition,
    /// Its bytes before.
    pub before: u64,
}

impl Growth {
    /// Whether the table was changed.
    pub fn is_new(&self) -> bool {
        self.data.bytes != self.before
    }
}

/// Lets the last partition (and the extended one around it) reach to the end of the card; does nothing if they do already.
///
/// Only the fields of these two are written, front to back and each flushed: the entry of the data partition itself is the last, so that
/// a power cut at any point leaves a table whose partitions are where they were, and the next start does the rest.
///
/// # Errors
/// If the table is not that of a minidc card, or the card fails.
pub fn grow(target: &mut dyn Target) -> Result<Growth, crate::Error> {
    let unexpected = |text: String| crate::Error::Layout(LayoutError::Unexpected(vec![text]));
    let table = Table::read(target)?;
    let grown = table.grown(target.bytes());
    // The grown one: a growth that was cut short may leave the data partition larger than the extended one.
    grown.check(target.bytes()).map_err(crate::Error::Layout)?;
    let find = |table: &Table| table.get(DATA).copied();
    let (Some(old), Some(data)) = (find(&table), find(&grown)) else {
        return Err(unexpected(format!("partition {DATA} is missing")));
    };
    let growth = Growth {
        data,
        before: old.bytes,
    };
    if grown == table {
        return Ok(growth);
    }
    for ((at, new), (_, old)) in grown.sectors().into_iter().zip(table.sectors()) {
        if new == old {
            continue;
        }
        let block = at / LEAST_ALIGNMENT * LEAST_ALIGNMENT;
        let mut buffer = device::Aligned::new(usize::try_from(LEAST_ALIGNMENT).unwrap_or_default());
        device::read_exact(target, block, &mut buffer)?;
        let start = usize::try_from(at - block).unwrap_or_default();
        let sector = &mut buffer[start..start + usize::try_from(SECTOR).unwrap_or_default()];
        // Another tool may have put the links elsewhere: then this would write into a partition.
        for slot in 0..4 {
            let (found, expected) = (read_entry(sector, slot), read_entry(&old, slot));
            if (found.0, found.1) != (expected.0, expected.1) {
                return Err(unexpected(format!(
                    "the entries at byte {at} are not where minidc writes them"
                )));
            }
        }
        sector[ENTRIES].copy_from_slice(&new[ENTRIES]);
        device::write_all(target, block, &buffer)?;
        device::flush(target, block)?;
    }
    if Table::read(target)? != grown {
        return Err(unexpected("the card does not keep the grown table".into()));
    }
    Ok(growth)
}
