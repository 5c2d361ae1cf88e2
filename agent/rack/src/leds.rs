//! What the LEDs of a rack show, for a terminal.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use minidc_hardware::{LedReport, Report};

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
    pub report: Option<Report>,
}

pub(crate) fn read(rack: &Rack) -> Vec<NodeLeds> {
    (1..=rack.nodes())
        .map(|index| {
            let power = rack.power(index);
            let report = (power == Power::On)
                .then(|| fs::read(rack.paths.inside(index, Path::new("/run/minidc/leds.json"))).ok())
                .flatten()
                .and_then(|text| serde_json::from_slice(&text).ok());
            NodeLeds {
                node: names::node(index),
                power,
                report,
            }
        })
        .collect()
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Whether an LED is lit at this time (milliseconds since 1970).
fn is_lit(led: &LedReport, since: u64, now: u64) -> bool {
    let round: u64 = led.cycle.iter().map(|step| step.ms).sum();
    let mut rest = if round == 0 {
        0
    } else {
        now.saturating_sub(since) % round
    };
    for step in &led.cycle {
        if round == 0 || rest < step.ms {
            return step.on;
        }
        rest -= step.ms;
    }
    false
}

/// One line for a node, as it looks at this time (milliseconds since 1970): three dots, the state, what it means.
///
/// Without colour, the dots are replaced by the patterns in words, so that a line says all there is to know.
#[must_use]
pub fn led_line(leds: &NodeLeds, now: u64, colour: bool) -> String {
    let Some(report) = &leds.report else {
        let (state, meaning) = match leds.power {
            Power::On => ("dark", "minidc does not run"),
            Power::Off => ("off", "no power"),
            Power::Crashed => ("crashed", "the virtual Pi is gone; `rack up` builds the rack anew"),
        };
        return if colour {
            format!("{:<6} \x1b[90m● ● ●\x1b[0m  {state:<14} {meaning}", leds.node)
        } else {
            format!("{:<6} all dark: {state}: {meaning}", leds.node)
        };
    };
    if !colour {
        let words: Vec<String> = report
            .leds
            .iter()
            .map(|led| format!("{} {}", led.colour, led.pattern))
            .collect();
        return format!(
            "{:<6} {}: {}: {}",
            leds.node,
            words.join("; "),
            report.state,
            report.meaning
        );
    }
    let mut dots = String::new();
    for led in &report.leds {
        let lit = match led.colour.as_str() {
            "green" => 92,
            "yellow" => 93,
            "red" => 91,
            _ => 97,
        };
        let code = if is_lit(led, report.since, now) { lit } else { 90 };
        dots.push_str(&format!("\x1b[{code}m●\x1b[0m "));
    }
    format!("{:<6} {dots} {:<14} {}", leds.node, report.state, report.meaning)
}

/// Shows the LEDs until `stop`: on a terminal as dots that blink in place, else as a line per change.
///
/// # Errors
/// When the output is closed.
pub fn follow_leds(rack: &Rack, output: &mut dyn Write, terminal: bool, stop: &AtomicBool) -> io::Result<()> {
    let mut before: Vec<NodeLeds> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let leds = rack.leds();
        if terminal {
            if !before.is_empty() {
                write!(output, "\x1b[{}A", before.len())?;
            }
            let now = now();
            for node in &leds {
                writeln!(output, "{}\x1b[K", led_line(node, now, true))?;
            }
        } else {
            for (index, node) in leds.iter().enumerate() {
                if before.get(index) != Some(node) {
                    writeln!(output, "{}", led_line(node, now(), false))?;
                }
            }
        }
        output.flush()?;
        before = leds;
        thread::sleep(FRAME);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use minidc_hardware::{Board, State};

    use super::*;

    fn shown(state: State, now: u64) -> String {
        let report = Report::new(state, &Board::virtual_pi().unwrap(), 10_000);
        led_line(
            &NodeLeds {
                node: "pi-1".into(),
                power: Power::On,
                report: Some(report),
            },
            now,
            true,
        )
    }

    #[test]
    fn dots_blink_as_the_leds_do() {
        let on = "\x1b[93m●";
        assert!(!shown(State::Ready, 10_000).contains(on));
        assert!(shown(State::Working, 99_999).contains(on));
        assert!(shown(State::Searching, 10_999).contains(on));
        assert!(!shown(State::Searching, 11_001).contains(on));
        assert!(shown(State::Searching, 12_001).contains(on));
    }

    #[test]
    fn unplugged_node_is_dark() {
        let dark = NodeLeds {
            node: "pi-3".into(),
            power: Power::Off,
            report: None,
        };
        assert_eq!(led_line(&dark, 0, false), "pi-3   all dark: off: no power");
    }
}
