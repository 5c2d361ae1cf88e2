//! The driver: switches the pins when the health changes and when a pattern has an edge, and sleeps otherwise.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{Board, Colour, Error, Gpio, LedName, NodeHealth, Reason, State, fake::unix_milliseconds};

/// What `leds.json` holds: written at each change of reason, not at each edge, which are in `leds.log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`State::name`].
    pub state: String,
    /// [`Reason::name`].
    pub reason: String,
    /// [`Reason::meaning`].
    pub meaning: String,
    /// [`State::looks`].
    pub looks: String,
    /// Colour of the state.
    pub colour: String,
    /// When it began, in milliseconds since 1970.
    pub since: u64,
    /// The lights of this board.
    pub lights: Vec<Light>,
}

/// A light of a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Light {
    /// As the log names it: the number of a GPIO, or the name of a light that is no pin.
    pub name: String,
    /// Its colour.
    pub colour: String,
}

impl Report {
    /// The report of what began at `since` (milliseconds since 1970) on this board.
    #[must_use]
    pub fn new(reason: Reason, board: &Board, since: u64) -> Self {
        let state = reason.state();
        let lights = LedName::ALL.map(|name| {
            let led = board.led(name);
            Light {
                name: led.gpio.to_string(),
                colour: led.colour.clone(),
            }
        });
        Self {
            state: state.name().to_owned(),
            reason: reason.name().to_owned(),
            meaning: reason.meaning().to_owned(),
            looks: state.looks().to_owned(),
            colour: state.colour().as_str().to_owned(),
            since,
            lights: lights.into(),
        }
    }

    /// The state, and the reason in brackets where it says more, as [`Reason`] prints itself.
    #[must_use]
    pub fn said(&self) -> String {
        if self.state == self.reason {
            self.state.clone()
        } else {
            format!("{} ({})", self.state, self.reason)
        }
    }
}

/// The driver of a node's LEDs; the only writer of its pins.
pub struct Leds {
    gpio: Box<dyn Gpio>,
    board: Board,
    report: Option<PathBuf>,
    levels: [Option<bool>; 3],
}

impl Leds {
    /// A driver for the pins of `board`. With `report` it also keeps that file (usually `/run/minidc/leds.json`) equal to
    /// what the LEDs show, as a [`Report`].
    #[must_use]
    pub fn new(gpio: Box<dyn Gpio>, board: Board, report: Option<PathBuf>) -> Self {
        Self {
            gpio,
            board,
            report,
            levels: [None; 3],
        }
    }

    /// Shows `health` until `shutdown`, then turns all LEDs off: dark means that nobody watches over this board.
    ///
    /// A pin that cannot be switched is logged once per change of state; the LEDs never stop the agent.
    ///
    /// # Errors
    /// None at present.
    pub async fn run(
        mut self,
        mut health: watch::Receiver<NodeHealth>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let mut open = true;
        let mut reason = Reason::of(&health.borrow_and_update());
        let mut began = Instant::now();
        self.publish(reason);
        loop {
            let next_edge = self.show(reason.state(), began.elapsed());
            let edge = async {
                match next_edge {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                changed = health.changed(), if open => match changed {
                    Ok(()) => {
                        let now = Reason::of(&health.borrow_and_update());
                        // The pattern is not begun anew when facts change that it does not show.
                        if now.state() != reason.state() {
                            began = Instant::now();
                        }
                        if now != reason {
                            tracing::debug!(from = %reason, to = %now, "LED state");
                            reason = now;
                            self.publish(reason);
                        }
                    }
                    // Nobody will tell more: keep showing the last word until shutdown.
                    Err(_) => open = false,
                },
                () = edge => {}
            }
        }
        for led in 0..LedName::ALL.len() {
            self.set(led, false);
        }
        if let Some(path) = &self.report {
            remove_file(path);
        }
        Ok(())
    }

    /// Sets the levels for this moment; returns the time to the next edge.
    fn show(&mut self, state: State, elapsed: Duration) -> Option<Duration> {
        let (lit, next) = state.pattern().at(elapsed);
        for (index, used) in three_lights(state.colour()).into_iter().enumerate() {
            self.set(index, lit && used);
        }
        // The timer's resolution is a millisecond; an earlier wake-up would find nothing to do.
        next.map(|wait| wait.max(Duration::from_millis(1)))
    }

    fn set(&mut self, index: usize, level: bool) {
        if self.levels[index] == Some(level) {
            return;
        }
        // Also after a failure: trying again at each edge would fill the log.
        self.levels[index] = Some(level);
        let gpio = self.board.led(LedName::ALL[index]).gpio;
        if let Err(error) = self.gpio.set(gpio, level) {
            tracing::warn!(error = &error as &dyn std::error::Error, "LED");
        }
    }

    fn publish(&mut self, reason: Reason) {
        let Some(path) = &self.report else { return };
        let report = Report::new(reason, &self.board, unix_milliseconds());
        if let Err(error) = write_report(path, &report) {
            tracing::warn!(error = &error as &dyn std::error::Error, "LED report");
        }
    }
}

/// Which of green, yellow and red show this colour.
fn three_lights(colour: Colour) -> [bool; 3] {
    match colour {
        Colour::Green => [true, false, false],
        Colour::Yellow => [false, true, false],
        Colour::Orange => [false, true, true],
        Colour::Red => [false, false, true],
        Colour::Blue => [true, true, false],
        Colour::White => [true, true, true],
    }
}

/// Replaces the file in one step, so that a reader never sees half of it. It lies in memory: no sync.
fn write_report(path: &Path, report: &Report) -> Result<(), Error> {
    let write = || -> io::Result<()> {
        let text = serde_json::to_vec(report)?;
        let fresh = path.with_extension("json.new");
        fs::write(&fresh, text)?;
        fs::rename(&fresh, path)
    };
    write().map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

fn remove_file(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "remove LED report");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FakeGpio, History, Refusal, Stage};

    struct Running {
        health: watch::Sender<NodeHealth>,
        history: History,
        shutdown: CancellationToken,
        task: tokio::task::JoinHandle<Result<(), Error>>,
        directory: tempfile::TempDir,
    }

    fn start(stage: Stage) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let (health, receiver) = watch::channel(NodeHealth {
            stage,
            ..NodeHealth::default()
        });
        let gpio = FakeGpio::new(None).unwrap();
        let history = gpio.history();
        let report = directory.path().join("leds.json");
        let leds = Leds::new(Box::new(gpio), Board::virtual_pi().unwrap(), Some(report));
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(leds.run(receiver, shutdown.clone()));
        Running {
            health,
            history,
            shutdown,
            task,
            directory,
        }
    }

    impl Running {
        fn levels(&self) -> [Option<bool>; 3] {
            [17, 27, 22].map(|gpio| self.history.level(gpio))
        }

        fn report(&self) -> Report {
            serde_json::from_slice(&fs::read(self.directory.path().join("leds.json")).unwrap()).unwrap()
        }

        /// Lets the driver reach its next wait; the clock stands still meanwhile.
        async fn settle(&self) {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn leds_follow_the_health_and_go_dark_at_the_end() {
        let node = start(Stage::Connected);
        node.settle().await;
        assert_eq!(node.levels(), [Some(true), Some(false), Some(false)]);
        assert_eq!(node.report().said(), "ready");
        node.health.send_modify(|health| health.disk_pressure = true);
        node.settle().await;
        assert_eq!(node.levels(), [Some(false), Some(true), Some(true)]);
        assert_eq!(node.report().said(), "degraded (disk-pressure)");
        node.shutdown.cancel();
        node.task.await.unwrap().unwrap();
        assert_eq!([17, 27, 22].map(|gpio| node.history.level(gpio)), [Some(false); 3]);
        assert!(!node.directory.path().join("leds.json").exists());
    }

    #[tokio::test(start_paused = true)]
    async fn refusal_is_flashed_as_often_as_its_code_says() {
        let node = start(Stage::Refused(Refusal::Token));
        let round = State::Refused(crate::Wrong::Token).pattern().period();
        tokio::time::sleep(round - Duration::from_millis(1)).await;
        node.settle().await;
        let flashes = node
            .history
            .edges()
            .iter()
            .filter(|edge| edge.gpio == 22 && edge.high)
            .count();
        assert_eq!(flashes, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn pattern_is_not_begun_anew_by_facts_it_does_not_show() {
        let node = start(Stage::Searching);
        node.settle().await;
        let since = node.report().since;
        tokio::time::sleep(Duration::from_millis(900)).await;
        node.health
            .send_modify(|health| health.temperature_celsius = Some(50.0));
        tokio::time::sleep(Duration::from_millis(150)).await;
        node.settle().await;
        assert_eq!(node.history.level(27), Some(false), "the blink went on");
        assert_eq!(node.report().since, since);
    }
}
