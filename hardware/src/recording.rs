//! What the lights of a board did, read back from the files that its agent keeps in the run directory.
//!
//! Drawn from the recorded levels and not from what the pattern ought to be: an agent that is dead or stopped leaves its
//! last state behind, but moves nothing any more.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use crate::Report;

/// A light that did not move for so long belongs to an agent that does not live: each state moves within two seconds.
const STILL: Duration = Duration::from_millis(3000);

/// What the agent said last, and what its lights did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// What it said.
    pub report: Report,
    /// Level of each light that ever changed, by its name.
    pub levels: BTreeMap<String, bool>,
    /// When the newest edge was, in milliseconds since 1970; 0 without any.
    pub moved: u64,
}

impl Recording {
    /// Reads `leds.json` and `leds.log` of a run directory; `None` when no agent left them there.
    #[must_use]
    pub fn read(run: &Path) -> Option<Self> {
        let report = serde_json::from_slice(&fs::read(run.join("leds.json")).ok()?).ok()?;
        let (mut levels, mut moved) = (BTreeMap::new(), 0);
        for line in fs::read_to_string(run.join("leds.log")).unwrap_or_default().lines() {
            let mut fields = line.split(' ');
            let (Some(Ok(time)), Some(name), Some(level)) =
                (fields.next().map(str::parse), fields.next(), fields.next())
            else {
                continue;
            };
            moved = time;
            match levels.get_mut(name) {
                Some(known) => *known = level != "0",
                None => drop(levels.insert(name.to_owned(), level != "0")),
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
    use crate::{Board, FakeGpio, Gpio, Reason};

    #[test]
    fn what_was_recorded_is_read_back() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(Recording::read(run.path()), None);
        let report = Report::new(Reason::Away, &Board::virtual_pi().unwrap(), 5);
        fs::write(run.path().join("leds.json"), serde_json::to_vec(&report).unwrap()).unwrap();
        let mut pins = FakeGpio::new(Some(&run.path().join("leds.log"))).unwrap();
        for (gpio, high) in [(17, true), (22, true), (17, false)] {
            pins.set(gpio, high).unwrap();
        }
        let recording = Recording::read(run.path()).unwrap();
        assert_eq!(recording.report, report);
        assert_eq!(
            recording.levels,
            BTreeMap::from([("17".into(), false), ("22".into(), true)])
        );
        assert!(recording.moves(recording.moved + 3000) && !recording.moves(recording.moved + 3001));
    }
}
