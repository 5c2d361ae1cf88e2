//! Power cuts: what was acknowledged is on the card, and the card always mounts.
//!
//! Each test lets real writers loose on a real ext4 on a card that records what reaches it, and then looks at what is left when the
//! power goes at random records of that log: see `replay::Manner` for what a card may do with the writes under way.
//! `POWER_CUTS` says how many cuts there are in all.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use minidc_tests::history::{Found, History, Random};

use crate::{
    card::{Card, Record, Recording},
    filesystem::Mounted,
    replay::{Manner, Replay},
};

mod api;
mod card;
mod files;
mod filesystem;
mod replay;
mod selector;
mod transactions;
mod writer;

/// Writers, and how what they wrote is found again.
struct Subject {
    name: &'static str,
    /// Writes to the mounted file system.
    write: fn(&Stage) -> Result<History>,
    /// Reads what a mounted copy of it holds; every complaint of whoever opens it is a failure.
    find: fn(&Stage) -> Result<Found>,
}

/// Where a subject works.
struct Stage {
    /// The mounted data partition.
    data: PathBuf,
    /// What it needs besides; no cut takes that.
    scratch: PathBuf,
    /// The card, while it is recorded.
    card: Option<Card>,
    /// Number of the cut.
    number: usize,
}

impl Stage {
    fn card(&self) -> Result<&Card> {
        self.card.as_ref().context("there is no card to write to")
    }
}

/// Cuts in all, of which each test makes its share.
fn cuts(share: usize) -> usize {
    let all = std::env::var("POWER_CUTS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1000);
    usize::div_ceil(all * share, 100)
}

struct Trial {
    subject: &'static Subject,
    place: PathBuf,
    recording: Recording,
    history: History,
}

impl Trial {
    /// Lets the subject write.
    fn record(subject: &'static Subject) -> Result<Self> {
        let place = filesystem::own_place()?;
        let (history, recording) = on_a_new_card(&place, subject.write)?;
        Ok(Self {
            subject,
            place,
            recording,
            history,
        })
    }

    /// That many records, in their order.
    fn anywhere(&self, cuts: usize) -> Vec<usize> {
        let mut random = Random(cuts as u64);
        let mut places: Vec<_> = (0..cuts).map(|_| random.below(self.recording.log.len() + 1)).collect();
        places.sort_unstable();
        places
    }

    /// Cuts the power at these records; the failures, of which the first is told.
    fn cut(&self, places: Vec<usize>, manners: &[Manner]) -> Result<(usize, Option<anyhow::Error>)> {
        let (cuts, records) = (places.len(), self.recording.log.len());
        let mut random = Random(cuts as u64);
        let file = self.place.join("cut");
        let (mut failures, mut first) = (0, None);
        let mut replay = Replay::new(&self.recording, &file);
        for (number, at) in places.into_iter().enumerate() {
            let manner = manners[number % manners.len()];
            replay.cut(at, manner, &mut random)?;
            if let Err(error) = self.survives(number, at, &file) {
                failures += 1;
                first = first.or(Some(
                    error.context(format!("cut {number}, at record {at} of {records}, {manner:?}")),
                ));
            }
        }
        println!(
            "{}: {cuts} cuts in {records} records, {} attempts to write: {failures} failures",
            self.subject.name,
            self.history.attempts()
        );
        Ok((failures, first))
    }

    fn survives(&self, number: usize, at: usize, file: &Path) -> Result<()> {
        filesystem::repair(file)?;
        let data = self.place.join("data");
        let mounted = Mounted::new(file, &data)?;
        let stage = Stage {
            data: data.clone(),
            scratch: self.place.join("scratch"),
            card: None,
            number,
        };
        let found = (self.subject.find)(&stage)?;
        self.history.judge(at, &found)?;
        mounted.unmount()?;
        filesystem::examine(file)
    }

    fn survives_all(&self, places: Vec<usize>) -> Result<()> {
        let (failures, first) = self.cut(places, &[Manner::InOrder, Manner::AnyOfThem])?;
        first.map_or(Ok(()), |first| Err(first.context(format!("{failures} failures"))))
    }
}

/// Works on a data partition that is recorded.
fn on_a_new_card<T>(place: &Path, work: impl FnOnce(&Stage) -> Result<T>) -> Result<(T, Recording)> {
    for directory in ["reader", "data", "scratch"] {
        std::fs::create_dir(place.join(directory))?;
    }
    let blocks = filesystem::make(&place.join("image"))?;
    let card = Card::insert(blocks, &place.join("reader"))?;
    // so that a killed test never waits for itself: the thread that answers for the card has no part in what is mounted from it
    filesystem::own_mounts()?;
    let device = card.device();
    let stage = Stage {
        data: place.join("data"),
        scratch: place.join("scratch"),
        card: Some(card),
        number: 0,
    };
    let mounted = Mounted::new(&device, &stage.data)?;
    let done = work(&stage)?;
    mounted.unmount()?;
    let recording = stage.card()?.take();
    Ok((done, recording))
}

#[test]
fn every_acknowledged_transaction_survives_power_cuts_whole() -> Result<()> {
    let trial = Trial::record(&transactions::SUBJECT)?;
    trial.survives_all(trial.anywhere(cuts(40)))
}

#[test]
fn every_acknowledged_write_to_the_api_survives_power_cuts() -> Result<()> {
    let trial = Trial::record(&api::SUBJECT)?;
    trial.survives_all(trial.anywhere(cuts(40)))
}

#[test]
fn identities_and_desired_state_survive_power_cuts_whole() -> Result<()> {
    let trial = Trial::record(&files::SUBJECT)?;
    trial.survives_all(trial.anywhere(cuts(20)))
}

#[test]
fn a_superblock_that_is_torn_is_mended_at_the_next_start() -> Result<()> {
    let trial = Trial::record(&transactions::SUBJECT)?;
    let holds_it = |record: &Record| matches!(record, Record::Write { offset: 0, .. });
    let writes = trial
        .recording
        .log
        .iter()
        .enumerate()
        .filter(|(_, record)| holds_it(record));
    let places: Vec<_> = writes.flat_map(|(at, _)| [at; 16]).collect();
    ensure!(!places.is_empty(), "nothing wrote the superblock");
    trial.survives_all(places)
}

#[test]
fn a_write_to_the_api_costs_one_flush_and_an_idle_control_plane_none() -> Result<()> {
    on_a_new_card(&filesystem::own_place()?, api::cost).map(drop)
}

#[test]
fn what_is_acknowledged_before_it_is_flushed_is_missed() -> Result<()> {
    let trial = Trial::record(&files::CARELESS)?;
    let (failures, _) = trial.cut(trial.anywhere(20), &[Manner::InOrder])?;
    ensure!(failures > 10, "{failures} of 20 cuts noticed");
    Ok(())
}

#[test]
fn what_a_card_forgets_though_it_flushed_is_missed() -> Result<()> {
    let trial = Trial::record(&transactions::SUBJECT)?;
    let (failures, _) = trial.cut(trial.anywhere(20), &[Manner::Lies(3)])?;
    ensure!(failures > 10, "{failures} of 20 cuts noticed");
    Ok(())
}

#[test]
fn the_selector_keeps_every_file_that_is_not_being_written() -> Result<()> {
    selector::cut_everywhere(&filesystem::own_place()?)
}
