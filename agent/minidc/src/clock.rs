//! The clock of a board that has no clock chip: what can be true at least, kept on disk, and setting the system's clock by it and by the
//! control plane's. The judgement is `minidc_link::clock`'s.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use minidc_image::seed::{Seed, Stage};
use minidc_link::clock::{Floor, system};
use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_settime},
};
use tokio_util::sync::CancellationToken;

use crate::boot::{KEPT, SEED, files};

/// The last time, in Unix seconds, below the data directory's `boot`.
const FILE: &str = "clock";
/// Time between two writes of it while the machine runs.
const INTERVAL: Duration = Duration::from_secs(60 * 60);
/// The end of 2099. A file that says more is damaged.
const LATEST: u64 = 4_102_444_799;
/// What time services leave while they look after the clock. systemd's says so only once it is right; the others are believed.
const TIME_SERVICES: [&str; 4] = [
    "/run/systemd/timesync/synchronized",
    "/run/chrony/chronyd.pid",
    "/run/ntpd.pid",
    "/run/openntpd/ntpd.pid",
];

/// Whether something that knows the time has set the clock.
pub(crate) fn is_confirmed() -> bool {
    TIME_SERVICES.iter().any(|path| Path::new(path).exists())
}

/// What the data directory says of the time.
pub(crate) struct Kept {
    file: PathBuf,
    /// When the card was made, in Unix seconds.
    pub(crate) seed: Option<u64>,
}

impl Kept {
    /// Below this data directory; the time of its last good seed counts.
    pub(crate) fn new(data: &Path) -> Self {
        let kept = data.join(KEPT);
        let seed = files::read(&kept.join(SEED))
            .ok()
            .flatten()
            .and_then(|text| Seed::parse_bytes(&text, Stage::Joined).ok());
        Self {
            file: kept.join(FILE),
            seed: seed.as_ref().and_then(time),
        }
    }

    /// The last time that was saved. A damaged file is as good as none.
    pub(crate) fn saved(&self) -> Option<u64> {
        let text = std::fs::read_to_string(&self.file).ok()?;
        text.trim().parse().ok().filter(|seconds| *seconds <= LATEST)
    }

    /// The earliest time that can be true.
    pub(crate) fn floor(&self) -> Floor {
        Floor::new(self.seed, self.saved())
    }

    /// Writes the present time down if it may be believed; `confirmed` says that NTP or a person vouches for it. Returns what was written.
    pub(crate) fn save(&self, confirmed: bool) -> anyhow::Result<Option<u64>> {
        self.save_time(system(), confirmed)
    }

    fn save_time(&self, now: u64, confirmed: bool) -> anyhow::Result<Option<u64>> {
        let Some(now) = self.floor().to_save(now, confirmed) else {
            return Ok(None);
        };
        if let Some(directory) = self.file.parent() {
            files::make_private(directory)?;
        }
        files::replace(&self.file, format!("{now}\n").as_bytes())?;
        Ok(Some(now))
    }
}

/// When the card was made, in Unix seconds.
pub(crate) fn time(seed: &Seed) -> Option<u64> {
    seed.time.and_then(|time| u64::try_from(time.as_second()).ok())
}

/// Sets the system's clock, which needs the right to.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn set(unix: Duration) -> anyhow::Result<()> {
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from(unix)).context("set the system's clock")
}

/// A clock this far behind the control plane's is set by it: more than a message can be late.
const TOLERANCE_MS: u64 = 2_000;

/// What follows from the control plane's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    /// Nothing.
    Stay,
    /// It is told only.
    Tell {
        /// By how much the own clock is behind, in milliseconds.
        behind_ms: u64,
    },
    /// The own clock is set.
    Set {
        /// By how much it was behind, in milliseconds.
        behind_ms: u64,
    },
}

/// Compares the own clock with the control plane's, both in Unix milliseconds. It is never set back: what time it is at least is known.
pub(crate) fn follow(own: u64, control_plane: u64, may_set: bool) -> Follow {
    let behind_ms = control_plane.saturating_sub(own);
    match (behind_ms > TOLERANCE_MS, may_set) {
        (false, _) => Follow::Stay,
        (true, false) => Follow::Tell { behind_ms },
        (true, true) => Follow::Set { behind_ms },
    }
}

/// Sets the clock when it is behind the floor; returns by how many seconds it was.
pub(crate) fn lift(floor: Floor) -> anyhow::Result<Option<u64>> {
    let reading = floor.judge(system());
    if !reading.behind {
        return Ok(None);
    }
    let behind = reading.seconds.saturating_sub(system());
    set(Duration::from_secs(reading.seconds))?;
    Ok(Some(behind))
}

/// Keeps the file until `shutdown`: one small write an hour, and one at the end.
pub(crate) async fn keep(data: PathBuf, may_set: bool, shutdown: CancellationToken) -> anyhow::Result<()> {
    let kept = Kept::new(&data);
    if may_set && !is_confirmed() {
        match lift(kept.floor()) {
            Ok(Some(behind)) => tracing::warn!(behind, "the clock was behind what can be true: set"),
            Ok(None) => {}
            Err(error) => tracing::warn!("the clock is behind what can be true: {error:#}"),
        }
    }
    loop {
        let over = tokio::select! {
            () = shutdown.cancelled() => true,
            () = tokio::time::sleep(INTERVAL) => false,
        };
        if kept.floor().judge(system()).far_ahead && !is_confirmed() {
            tracing::warn!(
                "the clock jumped more than a day ahead; it is not saved until NTP or `minidc clock confirm` confirms it"
            );
        }
        if let Err(error) = kept.save(is_confirmed()) {
            tracing::warn!("save the time: {error:#}");
        }
        if over {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 60 * 60;

    #[test]
    fn the_time_is_saved_unless_it_jumped_and_a_damaged_file_counts_as_none() {
        let place = tempfile::tempdir().unwrap();
        let kept = Kept::new(place.path());
        let build = kept.floor().seconds();
        assert_eq!(kept.save_time(build - DAY, true).unwrap(), None, "behind the floor");
        assert_eq!(kept.save_time(build + 60, false).unwrap(), Some(build + 60));
        assert_eq!(Kept::new(place.path()).floor().seconds(), build + 60);
        let jump = build + 60 + DAY + 1;
        assert_eq!(
            kept.save_time(jump, false).unwrap(),
            None,
            "a jump that nobody confirms"
        );
        assert_eq!(kept.save_time(jump, true).unwrap(), Some(jump));
        for damaged in ["", "x", "99999999999999", "-1"] {
            std::fs::write(place.path().join("boot/clock"), damaged).unwrap();
            assert_eq!(kept.floor().seconds(), build, "{damaged:?}");
        }
    }

    #[test]
    fn a_clock_in_1970_takes_the_control_planes_time_and_none_is_set_back() {
        let now = 1_800_000_000_000;
        assert_eq!(
            follow(10_000, now, true),
            Follow::Set {
                behind_ms: now - 10_000
            }
        );
        assert_eq!(
            follow(10_000, now, false),
            Follow::Tell {
                behind_ms: now - 10_000
            }
        );
        for own in [now - 2_000, now, now + 1, 2 * now] {
            assert_eq!(follow(own, now, true), Follow::Stay, "{own}");
        }
    }

    #[test]
    fn the_floor_is_not_below_the_time_when_the_card_was_made() {
        let place = tempfile::tempdir().unwrap();
        files::replace(
            &place.path().join("boot/seed.toml"),
            b"cluster = \"a\"\nname = \"b\"\nrole = \"server\"\ntime = 2090-01-01T00:00:00Z\n",
        )
        .unwrap();
        assert_eq!(Kept::new(place.path()).floor().seconds(), 3_786_912_000);
    }
}
