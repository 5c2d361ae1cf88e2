//! What the lights mean, for people.

use std::fmt::Write as _;

use crate::{Refusal, State};

impl State {
    /// What is so, in a few words.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Locate => "somebody asked this board to show itself",
            Self::Refused(Refusal::Token) => "sent away: no valid join token",
            Self::Refused(Refusal::NameInUse) => "sent away: a node of this name is connected already",
            Self::Refused(Refusal::Removed) => "sent away: this node was removed from the cluster",
            Self::Refused(Refusal::ForeignCluster) => "found only another cluster",
            Self::Refused(Refusal::Version) => "sent away: its minidc is too old or too new",
            Self::Refused(Refusal::Other) => "sent away for another reason",
            Self::ForeignStore => {
                "the control plane has another or an older store than this node knew; pods keep running"
            }
            Self::RuntimeDown => "containerd does not answer",
            Self::NetworkDown => "pods, Services or names are not reached as they should be",
            Self::DiskPressure => "the SD card is nearly full",
            Self::MemoryPressure => "memory is nearly used up",
            Self::Hot => "the processor is so hot that it slows down",
            Self::Booting => "starting",
            Self::Searching => "looking for the control plane",
            Self::Joining => "asking to be let in",
            Self::Away => "the control plane is away; pods keep running",
            Self::PodsFailing => "in the cluster, but a pod crashes or cannot start",
            Self::Working => "in the cluster, running pods",
            Self::Ready => "in the cluster, no pods",
        }
    }

    /// What somebody who stands before the board can do.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Locate => "look here",
            Self::Refused(Refusal::Token) => "write a new token to the card: `minidc token create`",
            Self::Refused(Refusal::NameInUse) => "give one of the two boards another name",
            Self::Refused(Refusal::Removed) => "`minidc token create`, and flash the card again",
            Self::Refused(Refusal::ForeignCluster) => "plug it into its own rack, or flash it for this one",
            Self::Refused(Refusal::Version) => "install the version of the control plane",
            Self::Refused(Refusal::Other) => "read the log: `journalctl -u minidc`",
            Self::ForeignStore => "if that is meant so: `minidc node adopt` on the board",
            Self::RuntimeDown => "`systemctl status containerd`; if it stays so, the card may be worn out",
            Self::NetworkDown => {
                "`minidc net check`; `kubectl describe node`: NetworkUnavailable or NetworkDegraded says why"
            }
            Self::DiskPressure => "remove images or volumes, or use a larger card",
            Self::MemoryPressure => "lower the memory requests, or add a board",
            Self::Hot => "give it air",
            Self::Booting | Self::Joining => "wait; a few seconds",
            Self::Searching => "if it stays so: cable, switch, and is the control plane on?",
            Self::Away => "if it stays so: cable, switch, and is the control plane on?",
            Self::PodsFailing => "`kubectl get pods -A -o wide`",
            Self::Working | Self::Ready => "nothing",
        }
    }
}

/// The table of all states as Markdown, the most urgent first: green, yellow, red, meaning, what to do.
#[must_use]
pub fn legend() -> String {
    let mut text = String::from("| state | green | yellow | red | meaning | what to do |\n|---|---|---|---|---|---|\n");
    for state in State::ALL {
        let patterns = state.patterns();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {state} | {} | {} | {} | {} | {} |",
            patterns.power,
            patterns.activity,
            patterns.fault,
            state.meaning(),
            state.remedy()
        );
    }
    text.push_str("| (no power) | off | off | off | no power, or minidc does not run | check the supply |\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Board, LedName};

    #[test]
    fn readme_shows_the_legend_and_the_pins_as_they_are() {
        let readme = include_str!("../README.md");
        assert!(
            readme.contains(&legend()),
            "hardware/README.md is to hold this table:\n{}",
            legend()
        );
        for board in Board::all().unwrap() {
            for name in LedName::ALL {
                let led = board.led(name);
                let row = format!("| {} | {} | {} | {} |\n", name.as_str(), led.colour, led.gpio, led.pin);
                assert!(readme.contains(&row), "{}: {row}", board.name);
            }
            assert!(readme.contains(&format!("| ground | | | {} |", board.ground)));
        }
    }

    #[test]
    fn legend_has_a_row_for_every_state() {
        let text = legend();
        assert_eq!(text.lines().count(), State::ALL.len() + 3);
        for line in text.lines() {
            assert_eq!(line.matches('|').count(), 7, "{line}");
        }
        assert!(text.contains("| working | on | on | off |"), "{text}");
        assert!(
            text.contains("| refused-removed | on | off | 4 flashes, pause |"),
            "{text}"
        );
    }
}
