//! How long a boot took, stage by stage.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

/// A moment of a boot, since the machine was switched on.
#[derive(Clone, Debug)]
pub(crate) struct Mark(Option<(String, f64)>);

impl Mark {
    /// `what` was the case at `when`.
    pub(crate) fn new(what: &str, when: Duration) -> Self {
        Self(Some((what.to_owned(), when.as_secs_f64())))
    }

    /// It counts for one machine only.
    pub(crate) fn take(&mut self) -> Option<Self> {
        self.0.take().map(|mark| Self(Some(mark)))
    }
}

/// The stages of one machine's boot, in seconds.
#[derive(Clone, Debug)]
pub(crate) struct Stages {
    machine: String,
    seconds: BTreeMap<String, f64>,
}

impl Stages {
    /// Prints `stage seconds` lines on a board: those that it wrote itself, and when systemd had started what.
    pub(crate) const SCRIPT: &str = "cat /run/minidc-boot/stage 2>/dev/null
        for unit in minidc-grow.service local-fs.target systemd-networkd.service minidc-boot.service var-lib-minidc.mount dbus.service avahi-daemon.service \
          network-online.target minidc-containerd.service minidc.service multi-user.target; do
          echo \"unit:$unit $(systemctl show --value -p ActiveEnterTimestampMonotonic $unit)\"; done
        echo \"unit:systemd $(systemctl show --value -p UserspaceTimestampMonotonic)\"";

    /// From what the script printed, and what was seen from outside.
    pub(crate) fn of(machine: &str, printed: &str, seen: [Option<Mark>; 2]) -> Self {
        let mut seconds = BTreeMap::new();
        for line in printed.lines() {
            let Some((stage, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let Ok(value) = value.parse::<f64>() else { continue };
            match stage.strip_prefix("unit:") {
                // Microseconds; 0 is never.
                Some(unit) if value > 0.0 => seconds.insert(format!("{unit} started"), value / 1e6),
                Some(_) => None,
                None => seconds.insert(stage.to_owned(), value),
            };
        }
        for Mark(mark) in seen.into_iter().flatten() {
            seconds.extend(mark);
        }
        Self {
            machine: machine.to_owned(),
            seconds,
        }
    }

    /// All machines side by side, in the order in which things happened on the first.
    pub(crate) fn table(all: &[Self]) -> String {
        let mut names: Vec<(&String, f64)> = Vec::new();
        for stages in all {
            for (name, seconds) in &stages.seconds {
                if !names.iter().any(|(known, _)| *known == name) {
                    names.push((name, *seconds));
                }
            }
        }
        names.sort_by(|one, other| one.1.total_cmp(&other.1));
        let mut table = format!("{:<44}", "stage");
        for stages in all {
            let _ = write!(table, "{:>10}", stages.machine);
        }
        for (name, _) in names {
            let _ = write!(table, "\n{name:<44}");
            for stages in all {
                let cell = stages.seconds.get(name).map(|seconds| format!("{seconds:.1}"));
                let _ = write!(table, "{:>10}", cell.unwrap_or_default());
            }
        }
        table
    }
}
