//! What a board of our image does at each start, before its network: it makes of the seed on its card what the rest of the system reads.
//!
//! The card's first partition is never mounted; what must survive is on the data partition, all other files are in memory and written anew
//! each time. Everything may be cut off at any point and is done again at the next start.

pub(crate) mod adopt;
pub(crate) mod configure;
pub(crate) mod files;
#[cfg(test)]
mod tests;

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use minidc_hardware::{NodeHealth, Refusal, Stage};

use crate::config::Config;

/// Where the files for the rest of the system are, below the root.
pub(crate) const RUN: &str = "run/minidc-boot";
/// What survives of the start, below the data directory.
pub(crate) const KEPT: &str = "boot";
/// The join token, in [`KEPT`].
pub(crate) const TOKEN: &str = "token";
/// The last good seed, in [`KEPT`].
pub(crate) const SEED: &str = "seed.toml";
/// In [`RUN`]: what a person has to do.
pub(crate) const PROBLEM: &str = "problem.txt";
/// In [`RUN`]: what kind of problem it is, one word of [`Trouble`].
pub(crate) const TROUBLE: &str = "problem";
/// In [`RUN`]: how far the start is, and when.
pub(crate) const STAGES: &str = "stage";

/// What keeps a board from starting as its card says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The seed.
    Seed,
    /// The data partition.
    Data,
}

impl Trouble {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Seed => "seed",
            Self::Data => "data",
        }
    }

    /// Lets it be seen on the LEDs.
    pub(crate) fn show(self, health: &mut NodeHealth) {
        match self {
            Self::Seed => health.stage = Stage::Refused(Refusal::Seed),
            Self::Data => health.disk_failing = true,
        }
    }
}

/// What `minidc boot` left for the process that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Its kind.
    pub(crate) trouble: Trouble,
    /// In words, for a person.
    pub(crate) text: String,
}

impl Left {
    /// Reads it; `None` when all is well, or this is not our image.
    pub(crate) fn read(config: &Config) -> Option<Self> {
        let directory = directory(config);
        let trouble = match std::fs::read_to_string(directory.join(TROUBLE)).ok()?.trim() {
            "data" => Trouble::Data,
            _ => Trouble::Seed,
        };
        let text = std::fs::read_to_string(directory.join(PROBLEM)).unwrap_or_default();
        Some(Self { trouble, text })
    }
}

/// `/run/minidc-boot`, beside the run directory of the process.
fn directory(config: &Config) -> PathBuf {
    config.run.with_file_name("minidc-boot")
}

/// Seconds since the kernel started.
pub(crate) fn uptime() -> f64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0.0, |time| std::time::Duration::from(time).as_secs_f64())
}

/// Adds a line to a file of stages: name, and seconds since the kernel started. For people and tests that want to know what takes long.
pub(crate) fn note_stage(file: &Path, name: &str) {
    let line = format!("{name} {:.3}\n", uptime());
    let attempt = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(file)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = attempt {
        tracing::debug!(%error, "write {}", file.display());
    }
}
