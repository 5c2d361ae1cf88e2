//! The lights of this board: opened as the configuration says, told of the node's health, and with it whoever wants to hear
//! that the agent lives.

use std::{path::Path, time::Duration};

use anyhow::Context;
use minidc_hardware::{
    Board, Button, Driver, End, Error, FakePins, Fan, Fault, LOG, Lights, NodeHealth, Notifier, Part, Press, Recorder,
    Source, Watchdog, outputs,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, LedDriver};

/// Without a new word about the node's health for so long, nobody is told that the agent lives.
const SILENCE: Duration = Duration::from_millis(2500);

/// The pin map that holds here, what is to be driven of it, and with what.
pub(crate) fn wired(config: &Config) -> anyhow::Result<(Source, Board, Vec<Part>)> {
    let source = match config.leds.driver {
        LedDriver::Fake => Source::Fake(FakePins::default()),
        LedDriver::Auto | LedDriver::None => Source::Real,
    };
    let board = match (&config.leds.map, &source) {
        (Some(path), _) => Board::read(path).with_context(|| format!("pin map {}", path.display()))?,
        (None, Source::Fake(_)) => Board::virtual_pi()?,
        (None, Source::Real) => Board::here()?,
    };
    let parts = match (config.leds.driver, &config.leds.parts) {
        (LedDriver::None, _) => Vec::new(),
        (_, Some(parts)) => parts.clone(),
        (_, None) => Part::usual(),
    };
    Ok((source, board.changed(config.leds.board.clone()), parts))
}

/// Opens the lights; of those that cannot be had it says so in a line, and goes on.
pub(crate) fn open(config: &Config, recorder: &Recorder) -> anyhow::Result<(Source, Board, Vec<Part>, Lights)> {
    let (source, board, parts) = wired(config)?;
    let (mut outputs, failures) = outputs::open(&source, &board, &parts, recorder, &config.run);
    report(&board, &failures, config.leds.parts.is_some());
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
    Ok((source, board, parts, lights))
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
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let recorder = Recorder::new((config.leds.driver != LedDriver::None).then(|| config.run.join(LOG)).as_deref())?;
    let (source, board, parts, lights) = open(&config, &recorder)?;
    let driver = Driver::start(lights).context("start the thread of the lights")?;
    let teller = driver.teller();
    let (press, mut presses) = mpsc::channel(4);
    let button = parts.contains(&Part::Button).then(|| {
        Button::start(&source, &board, move |pressed| {
            // somebody who presses five times while nobody listens has pressed enough
            let _ = press.try_send(pressed);
        })
    });
    let button = button.and_then(|button| told(&board, Part::Button, button));
    let fan = parts.contains(&Part::Fan).then(|| Fan::open(&source, &board));
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
                Press::Long => tracing::info!("the button asks for a halt"),
            },
            () = tokio::time::sleep(SILENCE) => tracing::warn!("nobody spoke of this node's health for {SILENCE:?}"),
            () = shutdown.cancelled() => break,
        }
    }
    shutdown.cancelled().await;
    notify("STOPPING=1");
    drop((button, fan));
    tokio::task::spawn_blocking(move || driver.stop(End::Off)).await?;
    Ok(())
}

/// A part that cannot be had is told of, and done without.
fn told<T>(board: &Board, part: Part, opened: Result<Option<T>, Error>) -> Option<T> {
    opened.unwrap_or_else(|error| {
        report(board, &[(part, error)], false);
        None
    })
}
