//! Which one thing the LEDs say, out of all that is true of the node, and how it looks.

use std::fmt;

use crate::{NodeHealth, Pattern, Refusal, Stage};

/// Temperature from which the firmware of every supported board slows the processor down (80 °C, Raspberry Pi
/// documentation, "Frequency management and thermal control").
const HOT_CELSIUS: f32 = 80.0;
/// From this use of all cores on, a board is called busy.
const BUSY_CPU_PERCENT: u8 = 90;
/// From this use of the memory on, a board is called busy; memory pressure begins later and is worse.
const BUSY_MEMORY_PERCENT: u8 = 90;

/// What the lights say, from across the room. Why they say so is the [`Reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing runs here, or there is no power.
    Off,
    /// The board starts.
    Starting,
    /// It looks for its cluster, or asks to be let in.
    Joining,
    /// It was not let in; the number of flashes says what is wrong.
    Refused(Wrong),
    /// All is well.
    Ready,
    /// All is well, but there is much to do.
    Busy,
    /// It works, but somebody ought to look.
    Degraded,
    /// The control plane is not reached; or on the control plane: some node is not.
    Lost,
    /// Somebody asked this board to show itself.
    Locate,
    /// It stops, to be powered off: leave the plug in.
    Halting,
}

/// What is wrong with a board that was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// What was written on its card.
    Seed,
    /// Its join token.
    Token,
    /// Who it is, or whom it met: its name, its cluster, the cluster's memory.
    Identity,
    /// Something else, such as its version.
    Other,
}

impl Wrong {
    /// All, in the order of their flashes.
    pub const ALL: [Self; 4] = [Self::Seed, Self::Token, Self::Identity, Self::Other];

    /// Flashes in a group: never 1, which is how [`State::Lost`] looks, and few enough to be counted at a glance.
    #[must_use]
    pub fn flashes(self) -> u8 {
        match self {
            Self::Seed => 2,
            Self::Token => 3,
            Self::Identity => 4,
            Self::Other => 5,
        }
    }
}

/// Colour of a state, where the lights have colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Colour {
    /// Board lives and is well.
    Green,
    /// There is much to do.
    Yellow,
    /// Somebody ought to look.
    Orange,
    /// Somebody has to come.
    Red,
    /// On its way into the cluster.
    Blue,
    /// Asked for by a person.
    White,
}

impl Colour {
    /// Lower-case word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Orange => "orange",
            Self::Red => "red",
            Self::Blue => "blue",
            Self::White => "white",
        }
    }

    /// Brightness of red, green and blue, for a light that mixes them.
    #[must_use]
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::Green => [0, 255, 0],
            Self::Yellow => [255, 255, 0],
            Self::Orange => [255, 80, 0],
            Self::Red => [255, 0, 0],
            Self::Blue => [0, 0, 255],
            Self::White => [255, 255, 255],
        }
    }
}

impl State {
    /// All states, in the order in which they are explained.
    pub const ALL: [Self; 13] = [
        Self::Off,
        Self::Starting,
        Self::Joining,
        Self::Refused(Wrong::Seed),
        Self::Refused(Wrong::Token),
        Self::Refused(Wrong::Identity),
        Self::Refused(Wrong::Other),
        Self::Ready,
        Self::Busy,
        Self::Degraded,
        Self::Lost,
        Self::Locate,
        Self::Halting,
    ];

    /// The word for it; the same for all that can be wrong with a board that was not let in.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Starting => "starting",
            Self::Joining => "joining",
            Self::Refused(_) => "refused",
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Degraded => "degraded",
            Self::Lost => "lost",
            Self::Locate => "locate",
            Self::Halting => "halting",
        }
    }

    /// Its colour; no two states differ by that alone.
    #[must_use]
    pub fn colour(self) -> Colour {
        match self {
            Self::Starting | Self::Joining => Colour::Blue,
            Self::Refused(_) | Self::Lost => Colour::Red,
            Self::Ready => Colour::Green,
            Self::Busy => Colour::Yellow,
            Self::Degraded => Colour::Orange,
            Self::Off | Self::Locate | Self::Halting => Colour::White,
        }
    }

    /// What the light does; each state has its own, and each but off moves at least every two seconds: a light that stands
    /// still, lit or dark, is a board where nobody lives. None looks as a trigger of the kernel does (steady, a beating
    /// heart, an even second).
    #[must_use]
    pub fn pattern(self) -> Pattern {
        match self {
            Self::Off => Pattern::DARK,
            Self::Starting => Pattern(&[300, 300]),
            Self::Joining => Pattern(&[1000, 1000]),
            Self::Refused(Wrong::Seed) => Pattern(&[200, 300, 200, 1500]),
            Self::Refused(Wrong::Token) => Pattern(&[200, 300, 200, 300, 200, 1500]),
            Self::Refused(Wrong::Identity) => Pattern(&[200, 300, 200, 300, 200, 300, 200, 1500]),
            Self::Refused(Wrong::Other) => Pattern(&[200, 300, 200, 300, 200, 300, 200, 300, 200, 1500]),
            Self::Ready => Pattern(&[1750, 250]),
            Self::Busy => Pattern(&[1250, 250, 250, 250]),
            Self::Degraded => Pattern(&[1000, 250, 200, 550]),
            Self::Lost => Pattern(&[150, 1850]),
            Self::Locate => Pattern(&[100, 100]),
            Self::Halting => Pattern(&[900, 200, 500, 200, 250, 200, 100, 650]),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why the lights say what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The board stops, to be powered off.
    Halting,
    /// Somebody looks for this board.
    Locate,
    /// The node was not let in.
    Refused(Refusal),
    /// The agent has just started.
    Starting,
    /// It looks for the control plane.
    Searching,
    /// It asks to be let in.
    Joining,
    /// The link to the control plane is down; pods keep running.
    Away,
    /// This is the control plane, and some node is not heard of.
    NodeLost,
    /// The disk gave errors.
    DiskFailing,
    /// containerd does not answer.
    RuntimeDown,
    /// The supply is too weak.
    UnderVoltage,
    /// The disk is nearly full.
    DiskPressure,
    /// Memory is nearly used up.
    MemoryPressure,
    /// The addresses of pods or Services are in use on the LAN, too.
    AddressesOverlap,
    /// Pods, Services or names are not reached.
    NetworkDown,
    /// Pods crash or cannot start.
    PodsFailing,
    /// The processor is so hot that it slows down.
    Hot,
    /// All cores are in use.
    CpuHigh,
    /// Most of the memory is in use.
    MemoryHigh,
    /// Nothing is wrong.
    Ready,
    /// Nobody shows anything. No agent says so of itself.
    Off,
}

impl Reason {
    /// All reasons, the most urgent first.
    pub const ALL: [Self; 28] = [
        Self::Halting,
        Self::Locate,
        Self::Refused(Refusal::Seed),
        Self::Refused(Refusal::Token),
        Self::Refused(Refusal::NameInUse),
        Self::Refused(Refusal::Removed),
        Self::Refused(Refusal::ForeignCluster),
        Self::Refused(Refusal::ForeignStore),
        Self::Refused(Refusal::Version),
        Self::Refused(Refusal::Other),
        Self::DiskFailing,
        Self::Starting,
        Self::Searching,
        Self::Joining,
        Self::Away,
        Self::NodeLost,
        Self::RuntimeDown,
        Self::UnderVoltage,
        Self::DiskPressure,
        Self::MemoryPressure,
        Self::AddressesOverlap,
        Self::NetworkDown,
        Self::PodsFailing,
        Self::Hot,
        Self::CpuHigh,
        Self::MemoryHigh,
        Self::Ready,
        Self::Off,
    ];

    /// The most urgent thing to say of a node.
    ///
    /// What a person asked for comes first, then what only a person can mend. A node that is not in the cluster says so
    /// before it speaks of itself, since nobody can ask it; but a card that dies is told of first. While the agent starts, what it has not looked at yet is not
    /// called broken.
    #[must_use]
    pub fn of(health: &NodeHealth) -> Self {
        let hot = health.temperature_celsius.is_some_and(|celsius| celsius >= HOT_CELSIUS);
        match health.stage {
            Stage::Halting => Self::Halting,
            _ if health.locate => Self::Locate,
            Stage::Refused(refusal) => Self::Refused(refusal),
            _ if health.disk_failing => Self::DiskFailing,
            Stage::Booting => Self::Starting,
            Stage::Searching => Self::Searching,
            Stage::Joining => Self::Joining,
            Stage::Away => Self::Away,
            Stage::Connected if health.nodes_lost > 0 => Self::NodeLost,
            Stage::Connected if !health.runtime_ok => Self::RuntimeDown,
            Stage::Connected if health.under_voltage => Self::UnderVoltage,
            Stage::Connected if health.disk_pressure => Self::DiskPressure,
            Stage::Connected if health.memory_pressure => Self::MemoryPressure,
            Stage::Connected if health.ranges_overlap => Self::AddressesOverlap,
            Stage::Connected if !health.network_ok => Self::NetworkDown,
            Stage::Connected if health.pods_failing > 0 => Self::PodsFailing,
            Stage::Connected if hot => Self::Hot,
            Stage::Connected if health.cpu_percent >= BUSY_CPU_PERCENT => Self::CpuHigh,
            Stage::Connected if health.memory_percent >= BUSY_MEMORY_PERCENT => Self::MemoryHigh,
            Stage::Connected => Self::Ready,
        }
    }

    /// What the lights say for this reason.
    #[must_use]
    pub fn state(self) -> State {
        match self {
            Self::Halting => State::Halting,
            Self::Locate => State::Locate,
            Self::Refused(Refusal::Seed) => State::Refused(Wrong::Seed),
            Self::Refused(Refusal::Token) => State::Refused(Wrong::Token),
            Self::Refused(Refusal::NameInUse | Refusal::Removed | Refusal::ForeignCluster | Refusal::ForeignStore) => {
                State::Refused(Wrong::Identity)
            }
            Self::Refused(Refusal::Version | Refusal::Other) => State::Refused(Wrong::Other),
            Self::Starting => State::Starting,
            Self::Searching | Self::Joining => State::Joining,
            Self::Away | Self::NodeLost => State::Lost,
            Self::DiskFailing
            | Self::RuntimeDown
            | Self::UnderVoltage
            | Self::DiskPressure
            | Self::MemoryPressure
            | Self::AddressesOverlap
            | Self::NetworkDown
            | Self::PodsFailing => State::Degraded,
            Self::Hot | Self::CpuHigh | Self::MemoryHigh => State::Busy,
            Self::Ready => State::Ready,
            Self::Off => State::Off,
        }
    }

    /// Whether it comes and goes by itself, as load does: such a reason is told with each heartbeat, and never stored.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self.state(), State::Busy | State::Locate)
    }

    /// Name in lower case with dashes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Halting => "halting",
            Self::Locate => "locate",
            Self::Refused(Refusal::Seed) => "seed",
            Self::Refused(Refusal::Token) => "token",
            Self::Refused(Refusal::NameInUse) => "name-in-use",
            Self::Refused(Refusal::Removed) => "removed",
            Self::Refused(Refusal::ForeignCluster) => "foreign-cluster",
            Self::Refused(Refusal::ForeignStore) => "foreign-store",
            Self::Refused(Refusal::Version) => "version",
            Self::Refused(Refusal::Other) => "other",
            Self::Starting => "starting",
            Self::Searching => "searching",
            Self::Joining => "joining",
            Self::Away => "away",
            Self::NodeLost => "node-lost",
            Self::DiskFailing => "disk-failing",
            Self::RuntimeDown => "runtime-down",
            Self::UnderVoltage => "under-voltage",
            Self::DiskPressure => "disk-pressure",
            Self::MemoryPressure => "memory-pressure",
            Self::AddressesOverlap => "addresses-overlap",
            Self::NetworkDown => "network-down",
            Self::PodsFailing => "pods-failing",
            Self::Hot => "hot",
            Self::CpuHigh => "cpu",
            Self::MemoryHigh => "memory",
            Self::Ready => "ready",
            Self::Off => "off",
        }
    }

    /// The reason of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

/// The state, and the reason in brackets where it says more: `degraded (disk-pressure)`.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, reason) = (self.state().name(), self.name());
        if state == reason {
            f.pad(state)
        } else {
            f.pad(&format!("{state} ({reason})"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use super::*;

    fn connected() -> NodeHealth {
        NodeHealth {
            stage: Stage::Connected,
            ..NodeHealth::default()
        }
    }

    #[test]
    fn there_are_at_most_ten_states_and_each_is_told_by_one_light_without_colour() {
        let names: HashSet<&str> = State::ALL.iter().map(|state| state.name()).collect();
        assert_eq!(names.len(), 10);
        for (index, one) in State::ALL.iter().enumerate() {
            for other in &State::ALL[index + 1..] {
                assert_ne!(one.pattern(), other.pattern(), "{one:?} and {other:?}");
            }
        }
    }

    #[test]
    fn a_living_light_moves_within_two_seconds() {
        for state in State::ALL.into_iter().filter(|state| *state != State::Off) {
            let longest = state.pattern().longest_stillness().unwrap();
            assert!(longest <= Duration::from_secs(2), "{state}: {longest:?}");
        }
        assert_eq!(State::Off.pattern(), Pattern::DARK);
    }

    /// Kernel triggers: steady, `heartbeat` (two short beats of 70 ms), `timer` (half a second each way by default).
    #[test]
    fn ready_is_nothing_that_the_kernel_shows_by_itself() {
        let times = State::Ready.pattern().0;
        assert!(times.len() > 1 && times[0] != times[1] && times[0] > 500);
    }

    #[test]
    fn flashes_of_a_refused_board_can_be_counted() {
        for wrong in Wrong::ALL {
            let pattern = State::Refused(wrong).pattern();
            let lit = pattern.round().filter(|(lit, _)| *lit).count();
            assert_eq!(lit, usize::from(wrong.flashes()));
            let pause = pattern.longest_stillness().unwrap();
            assert_eq!(pattern.round().last(), Some((false, pause)));
        }
    }

    #[test]
    fn reasons_have_names_of_their_own() {
        let names: HashSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        assert_eq!(Reason::DiskPressure.to_string(), "degraded (disk-pressure)");
        assert_eq!(Reason::Ready.to_string(), "ready");
    }

    #[test]
    fn the_most_urgent_is_said() {
        type Mend = fn(&mut NodeHealth);
        let bad = NodeHealth {
            runtime_ok: false,
            network_ok: false,
            ranges_overlap: true,
            pods_running: 3,
            pods_failing: 2,
            disk_pressure: true,
            disk_failing: true,
            memory_pressure: true,
            under_voltage: true,
            temperature_celsius: Some(91.0),
            cpu_percent: 100,
            memory_percent: 100,
            nodes_lost: 1,
            ..connected()
        };
        let at = |stage| NodeHealth {
            stage,
            disk_failing: false,
            ..bad.clone()
        };
        // each row takes away what the row before said
        let mended: [(Mend, Reason); 13] = [
            (|_| (), Reason::DiskFailing),
            (|health| health.disk_failing = false, Reason::NodeLost),
            (|health| health.nodes_lost = 0, Reason::RuntimeDown),
            (|health| health.runtime_ok = true, Reason::UnderVoltage),
            (|health| health.under_voltage = false, Reason::DiskPressure),
            (|health| health.disk_pressure = false, Reason::MemoryPressure),
            (|health| health.memory_pressure = false, Reason::AddressesOverlap),
            (|health| health.ranges_overlap = false, Reason::NetworkDown),
            (|health| health.network_ok = true, Reason::PodsFailing),
            (|health| health.pods_failing = 0, Reason::Hot),
            (|health| health.temperature_celsius = Some(79.9), Reason::CpuHigh),
            (|health| health.cpu_percent = 89, Reason::MemoryHigh),
            (|health| health.memory_percent = 89, Reason::Ready),
        ];
        let mut health = bad.clone();
        for (mend, expected) in mended {
            mend(&mut health);
            assert_eq!(Reason::of(&health), expected, "{health:?}");
        }
        for (stage, expected) in [
            (Stage::Booting, Reason::Starting),
            (Stage::Searching, Reason::Searching),
            (Stage::Joining, Reason::Joining),
            (Stage::Away, Reason::Away),
            (Stage::Refused(Refusal::Removed), Reason::Refused(Refusal::Removed)),
            (Stage::Halting, Reason::Halting),
        ] {
            assert_eq!(Reason::of(&at(stage)), expected);
            let locate = NodeHealth {
                locate: true,
                ..at(stage)
            };
            let asked = if stage == Stage::Halting {
                Reason::Halting
            } else {
                Reason::Locate
            };
            assert_eq!(Reason::of(&locate), asked);
        }
    }

    #[test]
    fn each_state_has_a_reason() {
        let reached: HashSet<State> = Reason::ALL.iter().map(|reason| reason.state()).collect();
        assert_eq!(reached.len(), State::ALL.len());
    }
}
