//! The selector partition: what `minidc` writes there never costs a board the files that it starts from.

use std::{collections::BTreeMap, io, path::Path};

use anyhow::{Context, Result, ensure};
use minidc_image::{
    device::{DeviceFile, Target},
    fat::{self, File},
    layout::{FAT, Partition},
};
use minidc_tests::history::Random;

use crate::{
    card::{Blocks, Record, Recording, SIZE},
    replay::{Manner, Replay},
};

const PARTITION: Partition = Partition {
    number: 1,
    kind: FAT,
    start: 4 << 20,
    bytes: 64 << 20,
};

/// A card that is written without a kernel between.
struct Direct(Recording, Blocks);

impl Target for Direct {
    fn bytes(&self) -> u64 {
        SIZE
    }

    fn write_at(&mut self, offset: u64, buffer: &[u8]) -> io::Result<usize> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.1.write(offset, buffer);
        let bytes = buffer.into();
        self.0.log.push(Record::Write { offset, bytes });
        Ok(buffer.len())
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.1.copy(usize::try_from(offset).map_err(io::Error::other)?, buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.log.push(Record::Flush);
        Ok(())
    }
}

/// What became of the file that was being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Old,
    New,
    /// Each sector old or new.
    Mixed,
    Absent,
    /// Empty, short, or unreadable.
    Broken,
}

/// How a file is written, and what a cut may make of it.
struct Case {
    name: &'static str,
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
    write: fn(&Case, &mut dyn Target) -> Result<()>,
    allowed: &'static [Fate],
}

impl Case {
    fn after(&self) -> &[u8] {
        self.after.as_deref().unwrap_or_default()
    }
}

fn replace(case: &Case, card: &mut dyn Target) -> Result<()> {
    Ok(fat::write(card, &PARTITION, &[file(case.name, case.after())])?)
}

fn overwrite(case: &Case, card: &mut dyn Target) -> Result<()> {
    let now = fat::overwrite(card, &PARTITION, case.name, case.after())?;
    ensure!(now == case.after(), "{} has another length", case.name);
    Ok(())
}

fn remove(case: &Case, card: &mut dyn Target) -> Result<()> {
    Ok(fat::remove(card, &PARTITION, case.name)?)
}

fn file(name: &str, contents: &[u8]) -> File {
    File {
        name: name.into(),
        contents: contents.into(),
    }
}

/// What a running board does to its selector: the seed and the choice of the slot are overwritten, the report of a mistake is
/// made, replaced and removed.
pub(crate) fn cut_everywhere(place: &Path) -> Result<()> {
    const REPORT: &str = "minidc-problem.txt";
    const ANY: &[Fate] = &[Fate::Old, Fate::New, Fate::Mixed, Fate::Absent, Fate::Broken];
    let case = |name, before: &[u8], after: &[u8], write, allowed| Case {
        name,
        before: (!before.is_empty()).then(|| before.to_vec()),
        after: (!after.is_empty()).then(|| after.to_vec()),
        write,
        allowed,
    };
    let slot = |number: u32| format!("[all]\ntryboot_a_b=1\nboot_partition={number}\n").into_bytes();
    let (long, short) = ([b'l'; 3000], [b's'; 700]);
    // what is torn in the seed is bridged by the last good one on the data partition; a torn report hurts nobody
    let cases = [
        case("autoboot.txt", &slot(2), &slot(3), overwrite, &[Fate::Old, Fate::New]),
        case(
            "minidc.toml",
            &long,
            &[b'n'; 3000],
            overwrite,
            &[Fate::Old, Fate::New, Fate::Mixed],
        ),
        case(REPORT, &[], &long, replace, ANY),
        case(REPORT, &short, &long, replace, ANY),
        case(REPORT, &long, &short, replace, ANY),
        case(REPORT, &long, &[], remove, ANY),
    ];
    cases.iter().try_for_each(|case| cut(place, case))
}

fn cut(place: &Path, case: &Case) -> Result<()> {
    let mut card = Direct(Recording::default(), Blocks::default());
    fat::format(&mut card, &PARTITION, "minidc")?;
    let mut others = vec![
        file("bootcode.bin", &[7; 52_000]),
        file("autoboot.txt", b"[all]\nboot_partition=2\n"),
        file("minidc.toml", &[b'#'; 3000]),
        file("start.elf", &[9; 9000]),
    ];
    others.retain(|other| other.name != case.name);
    // the file lies between others
    let (first, last) = others.split_at(1);
    fat::write(&mut card, &PARTITION, first)?;
    if let Some(before) = &case.before {
        fat::write(&mut card, &PARTITION, &[file(case.name, before)])?;
    }
    fat::write(&mut card, &PARTITION, last)?;

    card.0 = Recording {
        before: card.1.clone(),
        log: Vec::new(),
    };
    (case.write)(case, &mut card)?;
    let Direct(recording, _) = card;
    let copy = place.join("selector");
    let mut fates = BTreeMap::<_, usize>::new();
    let mut random = Random(7);
    for manner in [Manner::InOrder, Manner::AnyOfThem] {
        let mut replay = Replay::new(&recording, &copy);
        for at in 0..=recording.log.len() {
            for _ in 0..10 {
                replay.cut(at, manner, &mut random)?;
                let mut card = DeviceFile::open(&copy, false)?;
                let after_cut = || format!("{} cut at {at}, {manner:?}", case.name);
                unharmed(&mut card, &others).with_context(after_cut)?;
                let fate = fate(case, &mut card);
                ensure!(case.allowed.contains(&fate), "{fate:?}: {}", after_cut());
                *fates.entry(fate).or_default() += 1;
                // the next start
                (case.write)(case, &mut card).with_context(after_cut)?;
                unharmed(&mut card, &others).with_context(after_cut)?;
            }
        }
    }
    println!(
        "{}, {:?} bytes to {:?}: {fates:?}",
        case.name,
        case.before.as_ref().map(Vec::len),
        case.after.as_ref().map(Vec::len)
    );
    Ok(())
}

fn unharmed(card: &mut dyn Target, others: &[File]) -> Result<()> {
    for other in others {
        let found = fat::read(card, &PARTITION, &other.name)?;
        ensure!(found.as_ref() == Some(&other.contents), "{} is harmed", other.name);
    }
    Ok(())
}

fn fate(case: &Case, card: &mut dyn Target) -> Fate {
    let found = match fat::read(card, &PARTITION, case.name) {
        Ok(Some(found)) => found,
        Ok(None) => return Fate::Absent,
        Err(_) => return Fate::Broken,
    };
    let before = case.before.as_deref().unwrap_or_default();
    let sector = |bytes: &[u8], number: usize| bytes.chunks(512).nth(number).map(<[u8]>::to_vec);
    let known = |(number, found): (usize, &[u8])| {
        [before, case.after()]
            .iter()
            .any(|known| sector(known, number).as_deref() == Some(found))
    };
    match &*found {
        found if Some(found) == case.after.as_deref() => Fate::New,
        found if Some(found) == case.before.as_deref() => Fate::Old,
        found if !found.is_empty() && found.chunks(512).enumerate().all(known) => Fate::Mixed,
        _ => Fate::Broken,
    }
}
