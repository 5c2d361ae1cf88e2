//! What the lights of a board did, read back from the files that its agent keeps in the run directory.
//!
//! Drawn from the recorded levels and not from what the pattern ought to be: an agent that is dead or stopped leaves its
//! last state behind, but moves nothing any more.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use crate::{LOG, REPORT, Report};

/// A light that did not move for so long belongs to an agent that does not live: each state moves within two seconds.
const STILL: Duration = Duration::from_millis(3000);

/// What the agent said last, and what its lights did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// What it said.
    pub report: Report,
    /// Level of each light that ever changed, by its name: `0`, `1`, or a colour.
    pub levels: BTreeMap<String, String>,
    /// When the newest edge was, in milliseconds since 1970; 0 without any.
    pub moved: u64,
}

impl Recording {
    /// Reads `leds.json` and `leds.log` of a run directory; `None` when no agent left them there.
    #[must_use]
    pub fn read(run: &Path) -> Option<Self> {
        let report = serde_json::from_slice(&fs::read(run.join(REPORT)).ok()?).ok()?;
        let (mut levels, mut moved) = (BTreeMap::new(), 0);
        for line in fs::read_to_string(run.join(LOG)).unwrap_or_default().lines() {
            let mut fields = line.split(' ');
            let (Some(Ok(time)), Some(name), Some(level)) =
                (fields.next().map(str::parse), fields.next(), fields.next())
            else {
                continue;
            };
            moved = time;
            match levels.get(name) {
                Some(known) if known == level => {}
                _ => drop(levels.insert(name.to_owned(), level.to_owned())),
            }
        }
        Some(Self { report, levels, moved })
    }

    /// Whether the lights still move at this time (milliseconds since 1970).
    #[must_use]
    pub fn moves(&self, now: u64) -> bool {
        u128::from(now.saturating_sub(self.moved)) <= STILL.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reason, Recorder};

    #[test]
    fn what_was_recorded_is_read_back() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(Recording::read(run.path()), None);
        let report = Report::new(Reason::Away, Vec::new(), 5);
        report.write(&run.path().join(REPORT)).unwrap();
        let recorder = Recorder::new(Some(&run.path().join(LOG))).unwrap();
        for (light, level) in [("17", "1"), ("pixel0", "ff0000"), ("17", "0")] {
            recorder.note(light, level);
        }
        let recording = Recording::read(run.path()).unwrap();
        assert_eq!(recording.report, report);
        let levels = [("17", "0"), ("pixel0", "ff0000")].map(|(light, level)| (light.to_owned(), level.to_owned()));
        assert_eq!(recording.levels, BTreeMap::from(levels));
        assert!(recording.moves(recording.moved + 3000) && !recording.moves(recording.moved + 3001));
    }
}
