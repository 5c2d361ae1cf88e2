//! `minidc led …`: the lights of this board, looked at and tried by a person, and left behind when the agent has died.

use std::{
    io::{IsTerminal, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use minidc_hardware::{
    Driver, End, Fault, LOG, NodeHealth, Onboard, Reason, Recorder, Recording, Source, State, pins, unix_milliseconds,
};

use super::status::{FILE, Status};
use crate::{
    cli::LedCommand,
    config::{Config, LedDriver},
    lights,
};

/// Between two pictures: as fast as the fastest pattern has edges.
const FRAME: Duration = Duration::from_millis(50);

/// Runs one `led` subcommand.
pub(crate) async fn run(command: LedCommand, config: Config) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || match command {
        LedCommand::Test { seconds, state } => {
            test(&config, Duration::from_secs_f32(seconds.max(0.1)), state.as_deref())
        }
        LedCommand::Show { once } => show(&config, once),
        LedCommand::Fault { hold } => fault(&config, hold),
        LedCommand::Suite { pins } => suite(&config, pins),
    })
    .await?
}

/// Whether an agent runs here, which has the lights.
fn agent_runs(config: &Config) -> bool {
    std::fs::read(config.run.join(FILE))
        .ok()
        .and_then(|text| serde_json::from_slice::<Status>(&text).ok())
        .is_some_and(|status| status.is_alive())
}

/// Walks through the states; a running agent shows them itself, since it has the lights.
fn test(config: &Config, time: Duration, only: Option<&str>) -> anyhow::Result<()> {
    let reasons = wished(only);
    if reasons.is_empty() {
        let names: Vec<String> = Reason::ALL.iter().map(ToString::to_string).collect();
        bail!("no such state: one of {}", names.join(", "));
    }
    let agent = agent_runs(config);
    let driver = if agent {
        None
    } else {
        std::fs::create_dir_all(&config.run).with_context(|| format!("make {}", config.run.display()))?;
        let recorder = Recorder::new(Some(&config.run.join(LOG)))?;
        Some(Driver::start(lights::open(config, &recorder)?.lights)?)
    };
    println!(
        "{}",
        if agent {
            "the agent on this board shows:"
        } else {
            "no agent runs here; the lights show:"
        }
    );
    for reason in reasons {
        let state = reason.state();
        println!(
            "{:<10} {:<8} {}: {}",
            state.name(),
            state.colour().as_str(),
            state.looks(),
            state.meaning()
        );
        match &driver {
            Some(driver) => {
                let (teller, begin) = (driver.teller(), Instant::now());
                teller.wish(Some(reason));
                while begin.elapsed() < time {
                    teller.health(&NodeHealth::default());
                    std::thread::sleep(time.saturating_sub(begin.elapsed()).min(Duration::from_secs(1)));
                }
            }
            None => {
                lights::Wish {
                    reason,
                    for_ms: time.as_millis(),
                }
                .write(&config.run)?;
                std::thread::sleep(time);
            }
        }
    }
    match driver {
        Some(driver) => driver.stop(End::Off),
        None => lights::Wish::take_back(&config.run),
    }
    Ok(())
}

/// A reason for each state; or the one of this name, or those of the state of this name.
fn wished(only: Option<&str>) -> Vec<Reason> {
    if let Some(reason) = only.and_then(Reason::named) {
        return vec![reason];
    }
    State::ALL
        .into_iter()
        .filter(|state| only.is_none_or(|name| state.name() == name))
        .filter_map(|state| Reason::ALL.into_iter().find(|reason| reason.state() == state))
        .collect()
}

/// Draws the lights as they were recorded.
fn show(config: &Config, once: bool) -> anyhow::Result<()> {
    let mut output = std::io::stdout();
    let terminal = output.is_terminal();
    let mut before = String::new();
    loop {
        let line = line(&config.run, terminal);
        if terminal {
            write!(output, "\r{line}\x1b[K")?;
        } else if line != before {
            writeln!(output, "{line}")?;
        }
        output.flush()?;
        if once {
            if terminal {
                writeln!(output)?;
            }
            return Ok(());
        }
        before = line;
        std::thread::sleep(FRAME);
    }
}

/// One line: a dot for each light as it was recorded last, what is said, and what it means.
fn line(run: &Path, colour: bool) -> String {
    let Some(recording) = Recording::read(run) else {
        return "dark: minidc does not run here".into();
    };
    let moves = recording.moves(unix_milliseconds());
    let report = &recording.report;
    let (said, meaning) = if moves {
        (report.said(), report.meaning.as_str())
    } else {
        ("still".into(), "minidc is dead or stopped")
    };
    if !colour {
        return format!("{said}: {} {}: {meaning}", report.colour, report.looks);
    }
    let dots: String = report
        .lights
        .iter()
        .map(|light| light.dot(recording.levels.get(&light.name).map_or("0", String::as_str)))
        .collect();
    format!("{dots} {said:<26} {meaning}")
}

/// What systemd runs when the agent has ended: lights that stand still, unless it was stopped on purpose.
fn fault(config: &Config, hold: bool) -> anyhow::Result<()> {
    // systemd.exec(5): `success` for a service that was stopped, or ended by itself without an error
    if std::env::var("SERVICE_RESULT").is_ok_and(|result| result == "success") || config.leds.driver == LedDriver::None
    {
        return Ok(());
    }
    if agent_runs(config) {
        bail!("minidc runs here, and has the lights");
    }
    let recorder = Recorder::new(Some(&config.run.join(LOG)))?;
    let mut opened = lights::open(config, &recorder)?;
    for output in &mut opened.lights.outputs {
        if let Err(error) = output.end(End::Fault) {
            eprintln!("minidc: {error}");
        }
    }
    // lines of the character device are the kernel's again when this ends, and dark; whoever wants them lit holds them
    if hold {
        loop {
            std::thread::park();
        }
    }
    Ok(())
}

/// How pins are had.
type Open<'a> = &'a mut dyn FnMut() -> Result<Box<dyn pins::Pins>, minidc_hardware::Error>;

/// Tries the board's pins and its LED: what is set is read back, and what is refused is refused with pin, file and fix.
fn suite(config: &Config, free: Vec<u8>) -> anyhow::Result<()> {
    let wired = lights::wired(config)?;
    let Ok(free) = <[u8; 2]>::try_from(free) else {
        bail!("two pins that nothing is wired to, such as 5 6")
    };
    let mut failed = false;
    let mut judge = |name: &str, outcome: Result<(), String>| match outcome {
        Ok(()) => println!("{name}: passed"),
        Err(message) => {
            failed = true;
            println!("{name}: {message}");
        }
    };
    let board = &wired.board;
    let mut judge_pins = |name: &str, open: Open<'_>| {
        match open() {
            Err(error) if error.fault() == Some(Fault::Missing) => return println!("{name}: {error}"),
            _ => judge(name, pins::suite(open, free)),
        }
        if let Ok(pins) = open() {
            judge(&format!("{name}, pulled up"), pins::pulled_up(pins, free[0]));
        }
    };
    if let Source::Fake(header) = &wired.source {
        judge_pins("fake pins", &mut || Ok(Box::new(header.clone())));
    } else {
        judge_pins("character device", &mut || {
            Ok(Box::new(pins::CharacterDevice::open(board)?))
        });
        // a board with both is driven through one of them
        if pins::Broadcom::is_here() || matches!(wired.source, Source::Registers) {
            judge_pins("registers", &mut || Ok(Box::new(pins::Broadcom::open()?)));
        }
        // an agent has it, and shows something
        if !agent_runs(config) {
            judge("LED on the board", Onboard::suite(&board.onboard, &config.run));
        }
    }
    if failed {
        bail!("the pins of {} are not as they must be", board.name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_states_are_walked_through_or_what_was_named() {
        assert_eq!(wished(None).len(), State::ALL.len());
        assert_eq!(wished(Some("disk-pressure")), [Reason::DiskPressure]);
        assert_eq!(wished(Some("refused")).len(), 4);
        assert!(wished(Some("nonsense")).is_empty());
    }
}
