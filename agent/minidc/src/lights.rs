//! The lights of this board: opened as the configuration says, told of the node's health, and with it whoever wants to hear
//! that the agent lives.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use minidc_hardware::{
    Board, Button, Driver, End, Error, FakePins, Fan, Fault, LOG, Lights, NodeHealth, Notifier, Part, Press, Reason,
    Recorder, Source, Watchdog, outputs, unix_milliseconds,
};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    commands::halt,
    config::{Config, LedDriver},
    roll_call::Roll,
};

/// Between two words about a health that does not change.
const LOOK: Duration = Duration::from_secs(1);
/// Without a new word about the node's health for so long, nobody is told that the agent lives.
const SILENCE: Duration = Duration::from_millis(2500);

/// File in the run directory of a virtual Pi that is there while its button is pressed.
const BUTTON: &str = "button";
/// Between two looks at it.
const FINGER: Duration = Duration::from_millis(20);
/// What a press for a halt is answered with, until the halt itself shows it.
const HALTING: Wish = Wish {
    reason: Reason::Halting,
    for_ms: 10_000,
};
/// File in the run directory by which `minidc led test` says what it wishes to see.
const WISH: &str = "led-wish";

/// What is wired.
pub(crate) struct Wired {
    /// What it is driven with.
    pub(crate) source: Source,
    /// The pin map that holds here.
    pub(crate) board: Board,
    /// What of it is to be driven.
    pub(crate) parts: Vec<Part>,
}

/// What is wired and the lights of it, opened.
pub(crate) struct Opened {
    wired: Wired,
    /// The lights that could be had.
    pub(crate) lights: Lights,
}

/// What `minidc led test` wishes to see in place of what is so.
pub(crate) struct Wish {
    /// What is to be said.
    pub(crate) reason: Reason,
    /// For how long, in milliseconds.
    pub(crate) for_ms: u128,
}

impl Wish {
    /// Tells the agent that uses this run directory; it looks each second.
    pub(crate) fn write(&self, run: &Path) -> anyhow::Result<()> {
        let until = u128::from(unix_milliseconds()) + self.for_ms;
        let path = run.join(WISH);
        std::fs::write(&path, format!("{} {until}", self.reason.name()))
            .with_context(|| format!("write {}", path.display()))
    }

    /// Wishes nothing any more.
    pub(crate) fn take_back(run: &Path) {
        let _ = std::fs::remove_file(run.join(WISH));
    }

    /// What is wished now.
    fn read(run: &Path) -> Option<Reason> {
        let text = std::fs::read_to_string(run.join(WISH)).ok()?;
        let (name, until) = text.split_once(' ')?;
        // of one who did not take it back, nothing stays
        let holds = until.parse::<u64>().ok()? + 2000 > unix_milliseconds();
        holds.then(|| Reason::named(name)).flatten()
    }
}

/// What the configuration says is wired here.
pub(crate) fn wired(config: &Config) -> anyhow::Result<Wired> {
    let source = match config.leds.driver {
        LedDriver::Fake => Source::Fake(FakePins::default()),
        LedDriver::Registers => Source::Registers,
        LedDriver::Auto | LedDriver::None => Source::Real,
    };
    let board = match (&config.leds.map, &source) {
        (Some(path), _) => Board::read(path).with_context(|| format!("pin map {}", path.display()))?,
        (None, Source::Fake(_)) => Board::virtual_pi()?,
        (None, Source::Real | Source::Registers) => Board::here()?,
    };
    let parts = match (config.leds.driver, &config.leds.parts) {
        (LedDriver::None, _) => Vec::new(),
        (_, Some(parts)) => parts.clone(),
        (_, None) => Part::usual(),
    };
    Ok(Wired {
        source,
        board: board.changed(config.leds.board.clone()),
        parts,
    })
}

/// Opens the lights; of those that cannot be had it says so in a line, and goes on.
pub(crate) fn open(config: &Config, recorder: &Recorder) -> anyhow::Result<Opened> {
    let wired = wired(config)?;
    let (mut outputs, failures) = outputs::open(&wired.source, &wired.board, &wired.parts, recorder, &config.run);
    report(&wired.board, &failures, config.leds.parts.is_some());
    if outputs.is_empty() && config.leds.driver == LedDriver::Auto {
        // what the state is can be looked up all the same
        outputs.push(Box::new(outputs::Onboard::fake(recorder.clone())));
    }
    let watchdog = config.leds.watchdog.as_deref().and_then(open_watchdog);
    let lights = Lights {
        outputs,
        run: Some(config.run.clone()),
        watchdog,
    };
    Ok(Opened { wired, lights })
}

/// One line for a board without usable pins, whatever was wanted of them; the others each with what to do.
fn report(board: &Board, failures: &[(Part, Error)], asked_for: bool) {
    let is_missing = |error: &Error| error.fault() == Some(Fault::Missing);
    if !asked_for && !failures.is_empty() && failures.iter().all(|(_, error)| is_missing(error)) {
        let what: Vec<&str> = failures.iter().map(|(part, _)| part.as_str()).collect();
        let (_, error) = &failures[0];
        tracing::info!(board = board.name, without = what.join(", "), "lights: {error}");
        return;
    }
    for (part, error) in failures {
        tracing::warn!(board = board.name, part = part.as_str(), "lights: {error}");
    }
}

fn open_watchdog(path: &Path) -> Option<Watchdog> {
    match Watchdog::open(path) {
        Ok(watchdog) => Some(watchdog),
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    }
}

/// Shows `health` until `shutdown`, then leaves the lights dark. Each word about the health is a sign of life, changed or not;
/// who speaks it does so each second.
///
/// # Errors
/// If the pin map is not what it must be.
pub(crate) async fn run(
    config: Config,
    mut health: watch::Receiver<NodeHealth>,
    roll: Option<watch::Receiver<Roll>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let recorder = Recorder::new(
        (config.leds.driver != LedDriver::None)
            .then(|| config.run.join(LOG))
            .as_deref(),
    )?;
    let Opened { wired, lights } = open(&config, &recorder)?;
    let Wired { source, board, parts } = wired;
    let driver = Driver::start(lights).context("start the thread of the lights")?;
    let teller = driver.teller();
    let (press, mut presses) = mpsc::channel(4);
    // nobody has a finger for a pin that only remembers, unless it was asked for
    let has_button = parts.contains(&Part::Button) && (source.is_real() || config.leds.parts.is_some());
    let finger = match (&source, &board.button) {
        (Source::Fake(header), Some(button)) if has_button => Some(AbortOnDropHandle::new(tokio::spawn(
            press_by_file(header.clone(), button.gpio, config.run.join(BUTTON)),
        ))),
        _ => None,
    };
    let button = has_button.then(|| {
        Button::start(&source, &board, move |pressed| {
            // somebody who presses five times while nobody listens has pressed enough
            let _ = press.try_send(pressed);
        })
    });
    let button = button.and_then(|button| told(&board, Part::Button, button));
    let fan = parts
        .contains(&Part::Fan)
        .then(|| Fan::open(&source, &board, &recorder));
    let mut fan = fan.and_then(|fan| told(&board, Part::Fan, fan));

    let notifier = Notifier::of_environment();
    let notify = |line: &str| {
        if let Some(notifier) = &notifier {
            notifier.tell(line);
        }
    };
    notify("READY=1");
    loop {
        let now = health.borrow_and_update().clone();
        teller.health(&now);
        teller.wish(Wish::read(&config.run));
        if let Some(roll) = &roll {
            teller.nodes(roll.borrow().values().map(|seen| seen.state).collect());
        }
        notify("WATCHDOG=1");
        if let Some(fan) = &mut fan
            && let Err(error) = fan.follow(now.temperature_celsius)
        {
            tracing::debug!("{error}");
        }
        tokio::select! {
            changed = health.changed() => if changed.is_err() { break },
            Some(pressed) = presses.recv(), if button.is_some() => match pressed {
                Press::Short => teller.count_cpu(),
                Press::Long => {
                    tracing::info!("the button asks for a halt");
                    // seen before the finger is gone, whatever it takes to begin with it
                    if let Err(error) = HALTING.write(&config.run) {
                        tracing::warn!("{error:#}");
                    }
                    if let Err(error) = tokio::task::spawn_blocking(halt::start_by_itself).await? {
                        tracing::error!("halt: {error:#}");
                    }
                }
            },
            () = tokio::time::sleep(SILENCE) => tracing::warn!("nobody spoke of this node's health for {SILENCE:?}"),
            () = shutdown.cancelled() => break,
        }
    }
    shutdown.cancelled().await;
    notify("STOPPING=1");
    drop((button, fan, finger));
    tokio::task::spawn_blocking(move || driver.stop(End::Off)).await?;
    Ok(())
}

/// The finger on the button of a virtual Pi: it is down while the file is there.
async fn press_by_file(header: FakePins, gpio: u8, file: PathBuf) {
    let mut look = tokio::time::interval(FINGER);
    loop {
        look.tick().await;
        header.press(gpio, file.exists());
    }
}

/// Speaks of a health that does not change, as of a board that runs no node, until `shutdown`; with `roll`, of the nodes that
/// are lost.
///
/// # Errors
/// None at present.
pub(crate) async fn repeat(
    health: watch::Sender<NodeHealth>,
    mut roll: Option<watch::Receiver<Roll>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        let lost = roll.as_mut().map_or(0, |roll| lost(&roll.borrow_and_update()));
        health.send_modify(|health| health.nodes_lost = lost);
    }
}

/// How many nodes are not heard of.
pub(crate) fn lost(roll: &Roll) -> u32 {
    u32::try_from(roll.values().filter(|seen| seen.lost).count()).unwrap_or(u32::MAX)
}

/// A part that cannot be had is told of, and done without.
fn told<T>(board: &Board, part: Part, opened: Result<Option<T>, Error>) -> Option<T> {
    opened.unwrap_or_else(|error| {
        report(board, &[(part, error)], false);
        None
    })
}
