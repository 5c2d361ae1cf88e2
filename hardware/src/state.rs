//! Which one thing the LEDs say, out of all that is true of the node.

use std::{fmt, time::Duration};

use crate::{LedName, NodeHealth, Pattern, Refusal, Stage};

/// Temperature from which the firmware of every supported board slows the processor down (80 °C, Raspberry Pi
/// documentation, "Frequency management and thermal control").
const HOT_CELSIUS: f32 = 80.0;

/// What the LEDs say. One at a time: [`State::of`] picks the most urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Somebody looks for this board.
    Locate,
    /// The control plane sent the node away.
    Refused(Refusal),
    /// The control plane's store is not the one this node knew.
    ForeignStore,
    /// containerd does not answer.
    RuntimeDown,
    /// The pod network is not set up.
    NetworkDown,
    /// The disk is nearly full.
    DiskPressure,
    /// Memory is nearly used up.
    MemoryPressure,
    /// The processor is so hot that it slows down.
    Hot,
    /// The agent has just started.
    Booting,
    /// It looks for a control plane.
    Searching,
    /// It asks to be let in.
    Joining,
    /// The link to the control plane is down; pods keep running.
    Away,
    /// In the cluster, but pods crash or cannot start.
    PodsFailing,
    /// In the cluster, pods running.
    Working,
    /// In the cluster, no pods.
    Ready,
}

/// A pattern for each LED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patterns {
    /// Green.
    pub power: Pattern,
    /// Yellow.
    pub activity: Pattern,
    /// Red.
    pub fault: Pattern,
}

impl Patterns {
    /// The pattern of one LED.
    #[must_use]
    pub fn of(&self, led: LedName) -> Pattern {
        match led {
            LedName::Power => self.power,
            LedName::Activity => self.activity,
            LedName::Fault => self.fault,
        }
    }
}

impl State {
    /// All states, the most urgent first.
    pub const ALL: [Self; 20] = [
        Self::Locate,
        Self::Refused(Refusal::Token),
        Self::Refused(Refusal::NameInUse),
        Self::Refused(Refusal::Removed),
        Self::Refused(Refusal::ForeignCluster),
        Self::Refused(Refusal::Version),
        Self::Refused(Refusal::Other),
        Self::ForeignStore,
        Self::Booting,
        Self::RuntimeDown,
        Self::DiskPressure,
        Self::MemoryPressure,
        Self::Hot,
        Self::Searching,
        Self::Joining,
        Self::Away,
        Self::NetworkDown,
        Self::PodsFailing,
        Self::Working,
        Self::Ready,
    ];

    /// The most urgent thing to say.
    ///
    /// What only a person can mend comes before what mends itself; a node that is not in the cluster says so before it
    /// speaks of pods. While the agent boots, what it has not looked at yet is not called broken.
    #[must_use]
    pub fn of(health: &NodeHealth) -> Self {
        let hot = health
            .temperature_celsius
            .is_some_and(|temperature| temperature >= HOT_CELSIUS);
        match health.stage {
            _ if health.locate => Self::Locate,
            Stage::Refused(refusal) => Self::Refused(refusal),
            Stage::ForeignStore => Self::ForeignStore,
            Stage::Booting => Self::Booting,
            _ if !health.runtime_ok => Self::RuntimeDown,
            _ if health.disk_pressure => Self::DiskPressure,
            _ if health.memory_pressure => Self::MemoryPressure,
            _ if hot => Self::Hot,
            Stage::Searching => Self::Searching,
            Stage::Joining => Self::Joining,
            Stage::Away => Self::Away,
            Stage::Connected if !health.network_ok => Self::NetworkDown,
            Stage::Connected if health.pods_failing > 0 => Self::PodsFailing,
            Stage::Connected if health.pods_running > 0 => Self::Working,
            Stage::Connected => Self::Ready,
        }
    }

    /// How this state looks. No two states look the same.
    #[must_use]
    pub fn patterns(self) -> Patterns {
        use Pattern::{Off, On, Pulses};
        let slow = Pattern::blink(2000);
        let fast = Pattern::blink(250);
        let flash = Pattern::Blink {
            period: Duration::from_secs(3),
            on: Duration::from_millis(100),
        };
        let (power, activity, fault) = match self {
            Self::Locate => (fast, fast, fast),
            Self::Booting => (fast, Off, Off),
            Self::Searching => (On, slow, Off),
            Self::Joining => (On, fast, Off),
            Self::Away => (On, flash, Off),
            Self::Ready => (On, Off, Off),
            Self::Working => (On, On, Off),
            Self::PodsFailing => (On, On, slow),
            Self::NetworkDown => (On, On, On),
            Self::RuntimeDown => (On, Off, On),
            Self::DiskPressure => (slow, Off, On),
            Self::MemoryPressure => (slow, On, On),
            Self::Hot => (slow, slow, On),
            Self::ForeignStore => (
                On,
                Pattern::blink(1000),
                Pattern::Alternate {
                    period: Duration::from_millis(1000),
                },
            ),
            Self::Refused(refusal) => (On, Off, Pulses(flashes(refusal))),
        };
        Patterns { power, activity, fault }
    }

    /// Name in lower case with dashes, as in `leds.json`, heartbeats and `minidc node list`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Locate => "locate",
            Self::Refused(Refusal::Token) => "refused-token",
            Self::Refused(Refusal::NameInUse) => "refused-name-in-use",
            Self::Refused(Refusal::Removed) => "refused-removed",
            Self::Refused(Refusal::ForeignCluster) => "refused-foreign-cluster",
            Self::Refused(Refusal::Version) => "refused-version",
            Self::Refused(Refusal::Other) => "refused",
            Self::ForeignStore => "foreign-store",
            Self::RuntimeDown => "runtime-down",
            Self::NetworkDown => "network-down",
            Self::DiskPressure => "disk-pressure",
            Self::MemoryPressure => "memory-pressure",
            Self::Hot => "hot",
            Self::Booting => "booting",
            Self::Searching => "searching",
            Self::Joining => "joining",
            Self::Away => "away",
            Self::PodsFailing => "pods-failing",
            Self::Working => "working",
            Self::Ready => "ready",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Flashes of the red LED for each reason; 1 is easily overlooked and 7 is miscounted, so 2 to 6 and a long group.
fn flashes(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::Token => 2,
        Refusal::NameInUse => 3,
        Refusal::Removed => 4,
        Refusal::ForeignCluster => 5,
        Refusal::Version => 6,
        Refusal::Other => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected() -> NodeHealth {
        NodeHealth {
            stage: Stage::Connected,
            ..NodeHealth::default()
        }
    }

    #[test]
    fn every_state_looks_and_is_named_differently() {
        for (index, one) in State::ALL.iter().enumerate() {
            for other in &State::ALL[index + 1..] {
                assert_ne!(one.patterns(), other.patterns(), "{one} and {other}");
                assert_ne!(one.name(), other.name());
            }
        }
    }

    #[test]
    fn the_most_urgent_is_said() {
        let bad = NodeHealth {
            runtime_ok: false,
            network_ok: false,
            pods_running: 3,
            pods_failing: 2,
            disk_pressure: true,
            memory_pressure: true,
            temperature_celsius: Some(91.0),
            ..connected()
        };
        let cases: [(NodeHealth, State); 17] = [
            (
                NodeHealth {
                    locate: true,
                    stage: Stage::Refused(Refusal::Removed),
                    ..bad.clone()
                },
                State::Locate,
            ),
            (
                NodeHealth {
                    stage: Stage::Refused(Refusal::Removed),
                    ..bad.clone()
                },
                State::Refused(Refusal::Removed),
            ),
            (
                NodeHealth {
                    stage: Stage::ForeignStore,
                    ..bad.clone()
                },
                State::ForeignStore,
            ),
            (
                NodeHealth {
                    stage: Stage::Booting,
                    ..bad.clone()
                },
                State::Booting,
            ),
            (bad.clone(), State::RuntimeDown),
            (
                NodeHealth {
                    runtime_ok: true,
                    ..bad.clone()
                },
                State::DiskPressure,
            ),
            (
                NodeHealth {
                    memory_pressure: true,
                    ..connected()
                },
                State::MemoryPressure,
            ),
            (
                NodeHealth {
                    temperature_celsius: Some(80.0),
                    ..connected()
                },
                State::Hot,
            ),
            (
                NodeHealth {
                    temperature_celsius: Some(79.9),
                    ..connected()
                },
                State::Ready,
            ),
            (
                NodeHealth {
                    stage: Stage::Searching,
                    pods_failing: 1,
                    ..connected()
                },
                State::Searching,
            ),
            (
                NodeHealth {
                    stage: Stage::Joining,
                    network_ok: false,
                    ..connected()
                },
                State::Joining,
            ),
            (
                NodeHealth {
                    stage: Stage::Away,
                    pods_running: 5,
                    ..connected()
                },
                State::Away,
            ),
            (
                NodeHealth {
                    stage: Stage::Away,
                    runtime_ok: false,
                    ..connected()
                },
                State::RuntimeDown,
            ),
            (
                NodeHealth {
                    network_ok: false,
                    pods_failing: 1,
                    ..connected()
                },
                State::NetworkDown,
            ),
            (
                NodeHealth {
                    pods_failing: 1,
                    pods_running: 4,
                    ..connected()
                },
                State::PodsFailing,
            ),
            (
                NodeHealth {
                    pods_running: 1,
                    ..connected()
                },
                State::Working,
            ),
            (connected(), State::Ready),
        ];
        for (health, expected) in cases {
            assert_eq!(State::of(&health), expected, "{health:?}");
        }
    }

    #[test]
    fn a_healthy_node_needs_no_wake_up() {
        for state in [State::Ready, State::Working] {
            for led in LedName::ALL {
                assert_eq!(state.patterns().of(led).level_at(Duration::from_secs(1)).1, None);
            }
        }
    }
}
