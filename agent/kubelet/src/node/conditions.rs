//! The node's conditions, with hysteresis: trouble counts at once, its end only when it lasts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::recorder::stamp;

/// Trouble must be over for this long.
const CALM: Duration = Duration::from_secs(30);
/// Least memory that must be free: Kubernetes' `memory.available<100Mi`, or a tenth on small boards.
const LEAST_MEMORY: u64 = 100 << 20;
/// Least part of the disk that must be free, in percent: Kubernetes' `nodefs.available<10%`.
const LEAST_DISK: u64 = 10;
/// No disk needs more than this free, or a tenth of a large one could never be used.
const ENOUGH_DISK: u64 = 1 << 30;

/// What the conditions are judged by.
#[derive(Clone, Debug, Default)]
pub(super) struct Inputs {
    /// Why the runtime cannot run pods.
    pub(super) not_ready: Option<String>,
    pub(super) memory_available: u64,
    pub(super) memory: u64,
    pub(super) disk_available: u64,
    pub(super) disk: u64,
    /// There has been a reading of memory and disk.
    pub(super) measured: bool,
    /// Processes and threads there are, and may be.
    pub(super) processes: (u64, u64),
}

/// One condition of the four.
#[derive(Clone, Debug)]
struct One {
    holds: bool,
    reason: &'static str,
    message: String,
    since: Timestamp,
}

/// The conditions at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Judged {
    conditions: BTreeMap<&'static str, One>,
}

impl Judged {
    /// Whether a condition is true.
    pub(super) fn holds(&self, kind: &str) -> bool {
        self.conditions.get(kind).is_some_and(|condition| condition.holds)
    }

    /// In the order of `kubectl describe node`, without heartbeat times.
    pub(super) fn as_json(&self) -> Value {
        let entry = |kind: &&str| {
            let condition = self.conditions.get(*kind)?;
            let status = if condition.holds { "True" } else { "False" };
            Some(json!({
                "type": kind, "status": status, "reason": condition.reason, "message": condition.message,
                "lastTransitionTime": stamp(condition.since),
            }))
        };
        ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
            .iter()
            .filter_map(entry)
            .collect()
    }
}

/// Judges and remembers.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    judged: Judged,
    /// Since when the trouble of a condition is over.
    calm_since: BTreeMap<&'static str, Instant>,
}

impl Conditions {
    /// The conditions now.
    pub(super) fn judge(&mut self, inputs: &Inputs, now: Instant) -> Judged {
        let memory_floor = LEAST_MEMORY.min(inputs.memory / 10);
        // Half as much again before it is called over.
        let low = |available: u64, floor: u64, before: bool| available < if before { floor + floor / 2 } else { floor };
        let memory = inputs.measured
            && low(
                inputs.memory_available,
                memory_floor,
                self.judged.holds("MemoryPressure"),
            );
        let disk = inputs.measured
            && low(
                inputs.disk_available,
                ENOUGH_DISK.min(inputs.disk / 100 * LEAST_DISK),
                self.judged.holds("DiskPressure"),
            );
        let (processes, most) = inputs.processes;
        let crowded = most > 0 && processes > most / 100 * 95;
        let memory = self.lasting("MemoryPressure", memory, now);
        let disk = self.lasting("DiskPressure", disk, now);
        let crowded = self.lasting("PIDPressure", crowded, now);
        self.set(
            "MemoryPressure",
            memory,
            if memory {
                (
                    "KubeletHasInsufficientMemory",
                    "kubelet has insufficient memory available".into(),
                )
            } else {
                (
                    "KubeletHasSufficientMemory",
                    "kubelet has sufficient memory available".into(),
                )
            },
        );
        self.set(
            "DiskPressure",
            disk,
            if disk {
                ("KubeletHasDiskPressure", "kubelet has disk pressure".into())
            } else {
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure".into())
            },
        );
        self.set(
            "PIDPressure",
            crowded,
            if crowded {
                (
                    "KubeletHasInsufficientPID",
                    "kubelet has insufficient PID available".into(),
                )
            } else {
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available".into())
            },
        );
        self.set(
            "Ready",
            inputs.not_ready.is_none(),
            match &inputs.not_ready {
                None => ("KubeletReady", "kubelet is posting ready status".into()),
                Some(problem) => ("KubeletNotReady", problem.clone()),
            },
        );
        self.judged.clone()
    }

    /// True at once, false only after a calm while.
    fn lasting(&mut self, kind: &'static str, trouble: bool, now: Instant) -> bool {
        if trouble || !self.judged.holds(kind) {
            self.calm_since.remove(kind);
            return trouble;
        }
        let since = *self.calm_since.entry(kind).or_insert(now);
        now.duration_since(since) < CALM
    }

    fn set(&mut self, kind: &'static str, holds: bool, (reason, message): (&'static str, String)) {
        let since = match self.judged.conditions.get(kind) {
            Some(known) if known.holds == holds => known.since,
            _ => Timestamp::now(),
        };
        self.judged.conditions.insert(
            kind,
            One {
                holds,
                reason,
                message,
                since,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(memory_available: u64, disk_available: u64) -> Inputs {
        Inputs {
            memory_available,
            memory: 1 << 30,
            disk_available,
            disk: 1_000,
            measured: true,
            ..Inputs::default()
        }
    }

    #[test]
    fn trouble_counts_at_once_and_its_end_when_it_lasts() {
        let start = Instant::now();
        let mut conditions = Conditions::default();
        assert!(!conditions.judge(&inputs(500 << 20, 500), start).holds("MemoryPressure"));
        assert!(conditions.judge(&inputs(90 << 20, 500), start).holds("MemoryPressure"));
        assert!(
            conditions.judge(&inputs(120 << 20, 500), start).holds("MemoryPressure"),
            "hardly better is not better"
        );
        assert!(conditions.judge(&inputs(500 << 20, 500), start).holds("MemoryPressure"));
        assert!(
            !conditions
                .judge(&inputs(500 << 20, 500), start + CALM)
                .holds("MemoryPressure")
        );
    }

    #[test]
    fn a_card_is_full_at_a_tenth_and_a_large_disk_at_one_gibibyte() {
        let full = |available: u64, disk: u64| {
            let inputs = Inputs {
                disk_available: available,
                disk,
                ..inputs(500 << 20, 50)
            };
            Conditions::default()
                .judge(&inputs, Instant::now())
                .holds("DiskPressure")
        };
        assert!(full(700 << 20, 8 << 30) && !full(900 << 20, 8 << 30));
        assert!(full(900 << 20, 256 << 30) && !full(2 << 30, 256 << 30));
    }

    #[test]
    fn nothing_is_under_pressure_before_it_is_measured() {
        let judged = Conditions::default().judge(&Inputs::default(), Instant::now());
        assert!(!judged.holds("MemoryPressure") && !judged.holds("DiskPressure") && judged.holds("Ready"));
    }

    #[test]
    fn conditions_are_in_kubectls_order_with_kubernetes_words() {
        let mut conditions = Conditions::default();
        let down = Inputs {
            not_ready: Some("container runtime is down".into()),
            ..inputs(500 << 20, 50)
        };
        let list = conditions.judge(&down, Instant::now()).as_json();
        let kinds: Vec<_> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]);
        assert_eq!(list[1]["reason"], "KubeletHasDiskPressure");
        assert_eq!(
            (&list[3]["status"], &list[3]["reason"]),
            (&json!("False"), &json!("KubeletNotReady"))
        );
    }
}
