//! What the LEDs of a rack show, for a terminal.

use std::{
    io::{self, Write},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use minidc_hardware::Recording;

use crate::{Power, Rack, names};

/// Time between two pictures: twice as fast as the fastest blinking.
const FRAME: Duration = Duration::from_millis(60);

/// The LEDs of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLeds {
    /// Name of the node.
    pub node: String,
    /// Whether it has power.
    pub power: Power,
    /// What its minidc shows; `None` when it does not run, and without power: all dark.
    pub recording: Option<Recording>,
}

pub(crate) fn read(rack: &Rack) -> Vec<NodeLeds> {
    (1..=rack.nodes())
        .map(|index| {
            let power = rack.power(index);
            let recording = (power == Power::On)
                .then(|| Recording::read(&rack.paths.inside(index, Path::new("/run/minidc"))))
                .flatten();
            NodeLeds {
                node: names::node(index),
                power,
                recording,
            }
        })
        .collect()
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// One line for a node, as it looks at this time (milliseconds since 1970): three dots, the state, what it means.
///
/// Without colour, the dots are replaced by the patterns in words, so that a line says all there is to know.
#[must_use]
pub fn led_line(leds: &NodeLeds, now: u64, colour: bool) -> String {
    let Some(recording) = &leds.recording else {
        let (state, meaning) = match leds.power {
            Power::On => ("dark", "minidc does not run"),
            Power::Off => ("off", "no power"),
            Power::Crashed => ("crashed", "the virtual Pi is gone; `rack up` builds the rack anew"),
        };
        return if colour {
            format!("{:<6} \x1b[90m● ● ●\x1b[0m  {state:<24} {meaning}", leds.node)
        } else {
            format!("{:<6} all dark: {state}: {meaning}", leds.node)
        };
    };
    let report = &recording.report;
    // the last word of an agent that moves nothing any more is not what is so
    let (said, looks, meaning) = if recording.moves(now) {
        (report.said(), report.looks.as_str(), report.meaning.as_str())
    } else {
        ("still".into(), "stands still", "minidc is dead or stopped")
    };
    if !colour {
        return format!("{:<6} {} {looks}: {said}: {meaning}", leds.node, report.colour);
    }
    let mut dots = String::new();
    for light in &report.lights {
        let level = recording.levels.get(&light.name).map_or("0", String::as_str);
        dots.push_str(&light.dot(level));
    }
    format!("{:<6} {dots} {said:<24} {meaning}", leds.node)
}

/// Shows the LEDs until `stop`: on a terminal as dots that blink in place, else as a line per change.
///
/// # Errors
/// When the output is closed.
pub fn follow_leds(rack: &Rack, output: &mut dyn Write, terminal: bool, stop: &AtomicBool) -> io::Result<()> {
    let mut before: Vec<String> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let leds = rack.leds();
        let now = now();
        let lines: Vec<String> = leds.iter().map(|node| led_line(node, now, terminal)).collect();
        if terminal {
            if !before.is_empty() {
                write!(output, "\x1b[{}A", before.len())?;
            }
            for line in &lines {
                writeln!(output, "{line}\x1b[K")?;
            }
        } else {
            for (index, line) in lines.iter().enumerate() {
                if before.get(index) != Some(line) {
                    writeln!(output, "{line}")?;
                }
            }
        }
        output.flush()?;
        before = lines;
        thread::sleep(FRAME);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use minidc_hardware::{Light, Reason, Report};

    use super::*;

    fn shown(lit: bool, now: u64, colour: bool) -> String {
        let red = Light {
            name: "22".into(),
            colour: "red".into(),
        };
        let recording = Recording {
            report: Report::new(Reason::Away, vec![red], 10_000),
            levels: BTreeMap::from([("22".into(), if lit { "1" } else { "0" }.into())]),
            moved: 20_000,
        };
        led_line(
            &NodeLeds {
                node: "pi-1".into(),
                power: Power::On,
                recording: Some(recording),
            },
            now,
            colour,
        )
    }

    #[test]
    fn dots_are_lit_as_the_pins_were() {
        let red = "\x1b[91m●";
        assert!(shown(true, 20_100, true).contains(red));
        assert!(!shown(false, 20_100, true).contains(red));
        assert!(shown(true, 20_100, false).contains("lost (away)"));
    }

    #[test]
    fn an_agent_that_moves_nothing_is_not_believed() {
        assert!(shown(true, 24_000, false).contains("stands still: still: minidc is dead or stopped"));
    }

    #[test]
    fn unplugged_node_is_dark() {
        let dark = NodeLeds {
            node: "pi-3".into(),
            power: Power::Off,
            recording: None,
        };
        assert_eq!(led_line(&dark, 0, false), "pi-3   all dark: off: no power");
    }
}
