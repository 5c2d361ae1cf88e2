//! A small image with everything that flashing looks at, for tests of this crate and of those that use it.

use crate::Error;
use crate::device::faulty::Memory;
use crate::fat::{self, File};
use crate::layout::{self, EXTENDED, FAT, LINUX, Partition, SELECTOR, Slot, Table};

/// Bytes of the image.
pub const BYTES: u64 = 10 << 20;

/// Its partitions, of 1 MiB each: those of a real image, in their order.
pub fn table() -> Table {
    let partition = |number, kind, start: u64, mebibytes: u64| Partition {
        number,
        kind,
        start: start << 20,
        bytes: mebibytes << 20,
    };
    Table {
        disk: 7,
        partitions: vec![
            partition(1, FAT, 1, 1),
            partition(2, FAT, 2, 1),
            partition(3, FAT, 3, 1),
            partition(4, EXTENDED, 4, 6),
            partition(5, LINUX, 5, 1),
            partition(6, LINUX, 7, 1),
            partition(7, LINUX, 9, 1),
        ],
    }
}

/// The image: a table, a FAT selector with `autoboot.txt` and `files`, and something that does not compress in each other partition.
pub fn image(files: &[File]) -> Result<Vec<u8>, Error> {
    let mut image = Memory(vec![0; usize::try_from(BYTES).unwrap_or(0)]);
    let table = table();
    if let Some(selector) = table.get(SELECTOR) {
        fat::format(&mut image, selector, "MINIDC")?;
        let autoboot = File {
            name: "autoboot.txt".into(),
            contents: layout::autoboot(Slot::A).into_bytes(),
        };
        fat::write(&mut image, selector, &[&[autoboot], files].concat())?;
    }
    let mut state = 1_u64;
    for partition in table
        .partitions
        .iter()
        .filter(|partition| ![SELECTOR, 4].contains(&partition.number))
    {
        let start = usize::try_from(partition.start).unwrap_or(0);
        for byte in &mut image.0[start + 5000..start + 25_000] {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = state.to_be_bytes()[0];
        }
    }
    layout::write(&table, &mut image)?;
    Ok(image.0)
}
