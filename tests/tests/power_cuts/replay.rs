//! A card as a power cut leaves it.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use minidc_tests::history::Random;

use crate::card::{Blocks, Record, Recording, SIZE};

const SECTOR: usize = 512;

/// What a card makes of the writes that it was not told to flush yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Keeps them in order; of the last one any number of sectors from its start.
    InOrder,
    /// Keeps some and forgets others, as one with a cache of its own may; each sector of the last one for itself.
    AnyOfThem,
    /// Says that it flushed, and forgets: of what the last `0` flushes should have kept it has nothing.
    Lies(usize),
}

/// Goes through a recording once, from cut to cut.
pub(crate) struct Replay<'a> {
    log: &'a [Record],
    /// What the card holds for certain: everything up to the last flush before the cut.
    kept: Blocks,
    /// Records in `kept`.
    applied: usize,
    file: PathBuf,
}

impl<'a> Replay<'a> {
    /// Cut cards are written to `file`.
    pub(crate) fn new(recording: &'a Recording, file: &Path) -> Self {
        Self {
            log: &recording.log,
            kept: recording.before.clone(),
            applied: 0,
            file: file.to_owned(),
        }
    }

    /// Makes the card as it is when the power goes while record `at` is on its way and all before were answered. `at` never goes
    /// back.
    pub(crate) fn cut(&mut self, at: usize, manner: Manner, random: &mut Random) -> io::Result<&Path> {
        let mut flushes = self.log[..at]
            .iter()
            .enumerate()
            .rev()
            .filter_map(|(index, record)| matches!(record, Record::Flush).then_some(index));
        let skipped = if let Manner::Lies(flushes) = manner { flushes } else { 0 };
        let certain = flushes.nth(skipped).unwrap_or(0).max(self.applied);
        for record in &self.log[self.applied..certain] {
            if let Record::Write { offset, bytes } = record {
                self.kept.write(*offset, bytes);
            }
        }
        self.applied = certain;

        let file = File::create(&self.file)?;
        file.set_len(SIZE)?;
        for (offset, block) in &self.kept.0 {
            file.write_all_at(block, *offset as u64)?;
        }
        let pending = self.log[certain..self.log.len().min(at + 1)].iter().enumerate();
        for (index, record) in pending {
            let Record::Write { offset, bytes } = record else {
                continue;
            };
            let last = certain + index == at;
            let sectors = bytes.chunks(SECTOR).enumerate();
            let written = random.below(bytes.len().div_ceil(SECTOR) + 1);
            let whole = random.below(2) == 0;
            for (number, sector) in sectors {
                let kept = match manner {
                    Manner::InOrder => !last || number < written,
                    Manner::AnyOfThem if last => random.below(2) == 0,
                    Manner::AnyOfThem => whole,
                    Manner::Lies(_) => false,
                };
                if kept {
                    file.write_all_at(sector, (offset + number * SECTOR) as u64)?;
                }
            }
        }
        Ok(&self.file)
    }
}
