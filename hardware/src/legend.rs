//! What the lights mean, for people.

use std::fmt::Write as _;

use crate::{Reason, Refusal, State, Wrong};

impl State {
    /// How its one light looks, in words.
    #[must_use]
    pub fn looks(self) -> &'static str {
        match self {
            Self::Off => "dark",
            Self::Starting => "quick even blinking, nearly two a second",
            Self::Joining => "slow even blinking: a second lit, a second dark",
            Self::Refused(Wrong::Seed) => "2 flashes, pause",
            Self::Refused(Wrong::Token) => "3 flashes, pause",
            Self::Refused(Wrong::Identity) => "4 flashes, pause",
            Self::Refused(Wrong::Other) => "5 flashes, pause",
            Self::Ready => "lit, with a wink each two seconds",
            Self::Busy => "lit, with two winks each two seconds",
            Self::Degraded => "a long flash and a short one",
            Self::Lost => "dark, with a short flash each two seconds",
            Self::Locate => "flickers as fast as the eye can follow",
            Self::Halting => "flashes that get shorter and shorter",
        }
    }

    /// What is so, in a few words.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Off => "no power, or minidc was stopped",
            Self::Starting => "the board starts",
            Self::Joining => "looks for its cluster, or asks to be let in",
            Self::Refused(Wrong::Seed) => "not let in: the seed on its card has a mistake",
            Self::Refused(Wrong::Token) => "not let in: no valid join token",
            Self::Refused(Wrong::Identity) => "not let in: name, cluster or store are not what they were",
            Self::Refused(Wrong::Other) => "not let in: its version, or what the log says",
            Self::Ready => "all is well",
            Self::Busy => "all is well, but processor, memory or heat are at their limit",
            Self::Degraded => "it works, but something is wrong",
            Self::Lost => "the control plane is not reached; on the control plane: a node is not reached",
            Self::Locate => "somebody asked this board to show itself",
            Self::Halting => "it stops; leave the plug in until it is dark",
        }
    }
}

impl Reason {
    /// What is so, in a few words.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Halting => "the board stops, to be powered off",
            Self::Locate => "somebody asked this board to show itself",
            Self::Refused(Refusal::Seed) => "what was written on the card for this board is wrong",
            Self::Refused(Refusal::Token) => "sent away: no valid join token",
            Self::Refused(Refusal::NameInUse) => "sent away: a node of this name is connected already",
            Self::Refused(Refusal::Removed) => "sent away: this node was removed from the cluster",
            Self::Refused(Refusal::ForeignCluster) => "found only another cluster",
            Self::Refused(Refusal::ForeignStore) => {
                "the control plane has another or an older store than this node knew; pods keep running"
            }
            Self::Refused(Refusal::Version) => "sent away: its minidc is too old or too new",
            Self::Refused(Refusal::Other) => "sent away for another reason",
            Self::Starting => "the agent starts",
            Self::Searching => "looking for the control plane",
            Self::Joining => "asking to be let in",
            Self::Away => "the control plane is away; pods keep running",
            Self::NodeLost => "this is the control plane, and a node is not heard of",
            Self::DiskFailing => "the SD card gives errors, or cannot be written any more",
            Self::RuntimeDown => "containerd does not answer",
            Self::UnderVoltage => "the supply is too weak",
            Self::DiskPressure => "the SD card is nearly full",
            Self::MemoryPressure => "memory is nearly used up",
            Self::AddressesOverlap => "the addresses of pods or Services are in use on the LAN, too",
            Self::NetworkDown => "pods, Services or names are not reached as they should be",
            Self::PodsFailing => "a pod crashes or cannot start",
            Self::Hot => "the processor is so hot that it slows down",
            Self::CpuHigh => "all cores are in use",
            Self::MemoryHigh => "most of the memory is in use",
            Self::Ready => "in the cluster, and nothing is wrong",
            Self::Off => "no power, or minidc was stopped",
        }
    }

    /// What somebody who stands before the board can do.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Halting => "leave the plug in until the light is dark",
            Self::Locate => "look here",
            Self::Refused(Refusal::Seed) => {
                "read minidc-problem.txt on the card's first partition; mend minidc.toml beside it"
            }
            Self::Refused(Refusal::Token) => "write a new token to the card: `minidc token create`",
            Self::Refused(Refusal::NameInUse) => "give one of the two boards another name",
            Self::Refused(Refusal::Removed) => "`minidc token create`, and flash the card again",
            Self::Refused(Refusal::ForeignCluster) => "plug it into its own rack, or flash it for this one",
            Self::Refused(Refusal::ForeignStore) => "if that is meant so: `minidc node adopt` on the board",
            Self::Refused(Refusal::Version) => "install the version of the control plane",
            Self::Refused(Refusal::Other) => "read the log: `journalctl -u minidc`",
            Self::Starting | Self::Joining => "wait; a few seconds",
            Self::Searching | Self::Away => "if it stays so: cable, switch, and is the control plane on?",
            Self::NodeLost => "look for the board that is dark or red too; `kubectl get nodes`",
            Self::DiskFailing => "copy what matters, and use another card",
            Self::RuntimeDown => "`journalctl -u 'minidc-containerd'`; if it stays so, the card may be worn out",
            Self::UnderVoltage => "a stronger supply, a shorter cable",
            Self::DiskPressure => "remove images or volumes, or use a larger card",
            Self::MemoryPressure => "lower the memory requests, or add a board",
            Self::AddressesOverlap | Self::NetworkDown => {
                "`minidc net check`; `kubectl describe node`: NetworkUnavailable or NetworkDegraded says why"
            }
            Self::PodsFailing => "`kubectl get pods -A -o wide`",
            Self::Hot => "give it air",
            Self::CpuHigh | Self::MemoryHigh => "`kubectl top pods -A`; add a board if it stays so",
            Self::Ready => "nothing",
            Self::Off => "check the supply; `systemctl status minidc`",
        }
    }
}

/// The table of all states as Markdown: state, light, colour, meaning.
#[must_use]
pub fn legend() -> String {
    let mut text = String::from("| state | one light | colour | meaning |\n|---|---|---|---|\n");
    for state in State::ALL {
        let colour = if state == State::Off {
            "none"
        } else {
            state.colour().as_str()
        };
        // writing to a String cannot fail
        let _ = writeln!(text, "| {state} | {} | {colour} | {} |", state.looks(), state.meaning());
    }
    text
}

/// The table of all reasons as Markdown, the most urgent first: state with reason, meaning, what to do.
#[must_use]
pub fn reasons() -> String {
    let mut text = String::from("| said | meaning | what to do |\n|---|---|---|\n");
    for reason in Reason::ALL {
        let _ = writeln!(text, "| {reason} | {} | {} |", reason.meaning(), reason.remedy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated;

    #[test]
    fn readme_shows_the_tables_as_they_are() {
        generated::part_of_readme("states", &legend());
        generated::part_of_readme("reasons", &reasons());
    }
}
