//! Writers are processes of their own: this test program, started again.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};
use minidc_tests::{
    history::{History, Written},
    run,
};

use crate::{Stage, card, files, transactions};

const NAME: &str = "POWER_CUTS_WRITER";
const DIRECTORY: &str = "POWER_CUTS_DIRECTORY";
const COUNTER: &str = "POWER_CUTS_COUNTER";
const HISTORY: &str = "POWER_CUTS_HISTORY";

/// Runs the writer `name` to its end.
pub(crate) fn process(name: &str, stage: &Stage) -> Result<History> {
    let history = stage.scratch.join("history.json");
    run(Command::new(std::env::current_exe()?)
        .args([
            "--exact",
            "writer::process_that_writes",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(NAME, name)
        .env(DIRECTORY, &stage.data)
        .env(COUNTER, stage.card()?.counter())
        .env(HISTORY, &history))?;
    let attempts: Vec<Written> = serde_json::from_slice(&std::fs::read(&history)?)?;
    Ok(History::new(attempts))
}

#[test]
#[ignore = "the process that the other tests let write"]
fn process_that_writes() -> Result<()> {
    let path = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .context("started by another test")
    };
    let (directory, log) = (path(DIRECTORY)?, Log(path(COUNTER)?));
    let attempts = match &*std::env::var(NAME)? {
        "transactions" => transactions::write(&directory, &log)?,
        "files" => files::write(&directory, &log)?,
        _ => files::write_carelessly(&directory, &log)?,
    };
    Ok(std::fs::write(path(HISTORY)?, serde_json::to_vec(&attempts)?)?)
}

/// Says where in the card's log an attempt began and was acknowledged.
#[derive(Clone)]
pub(crate) struct Log(PathBuf);

impl Log {
    pub(crate) fn position(&self) -> Result<usize> {
        card::position(&self.0)
    }

    /// An attempt that ends before this returns.
    pub(crate) fn attempt(&self, name: &str, value: &str, write: impl FnOnce() -> Result<()>) -> Result<Written> {
        let started = self.position()?;
        write()?;
        Ok(Written {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            started,
            acknowledged: self.position()?,
        })
    }
}
