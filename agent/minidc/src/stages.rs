//! When a start reached what: for people who want to know what takes long, and for the tests that hold it to a time.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use minidc_hardware::{NodeHealth, Stage};
use tokio_util::sync::CancellationToken;

use crate::{addresses, boot};

/// Name of the file in the run directory: a line for each stage, its name and the seconds since the kernel started.
pub(crate) const FILE: &str = "stages";
/// How often the first address is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// Notes each stage once.
pub(crate) struct Stages {
    file: PathBuf,
    seen: HashSet<&'static str>,
}

impl Stages {
    /// Goes on with the file.
    pub(crate) fn new(run: &std::path::Path) -> Self {
        Self {
            file: run.join(FILE),
            seen: HashSet::new(),
        }
    }

    /// Begins it anew.
    pub(crate) fn begin(run: &std::path::Path) -> Self {
        let mut stages = Self::new(run);
        let _ = std::fs::remove_file(&stages.file);
        stages.note("start");
        stages
    }

    /// Notes a stage, unless it was reached before.
    pub(crate) fn note(&mut self, name: &'static str) {
        if self.seen.insert(name) {
            boot::note_stage(&self.file, name);
            tracing::info!(stage = name, uptime = format!("{:.3}", boot::uptime()), "reached");
        }
    }

    /// Notes what a node's health says. `ready` is when all of it is well.
    pub(crate) fn of(&mut self, health: &NodeHealth) {
        match health.stage {
            Stage::Joining => self.note("joining"),
            Stage::Connected => {
                self.note("connected");
                if health.runtime_ok && health.network_ok {
                    self.note("ready");
                }
            }
            _ => {}
        }
    }
}

/// Notes when this machine can be reached first, and ends.
pub(crate) async fn watch_network(mut stages: Stages, shutdown: CancellationToken) {
    let mut timer = tokio::time::interval(LOOK);
    while addresses::own().is_empty() {
        tokio::select! {
            _ = timer.tick() => {}
            () = shutdown.cancelled() => return,
        }
    }
    stages.note("network");
}
