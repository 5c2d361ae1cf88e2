//! The driver: a thread of its own that shows what it is told, and watches over who tells it. When the main loop of the agent
//! stalls, the lights stand still within three seconds, and the board's watchdog is fed no more.

mod engine;

use std::{
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use engine::{Engine, News};

use crate::{End, NodeHealth, Output, Reason, State, Watchdog};

/// What the lights of a board are and where is written what they say.
pub struct Lights {
    /// The lights.
    pub outputs: Vec<Box<dyn Output>>,
    /// The run directory, where [`REPORT`](crate::REPORT) is kept.
    pub run: Option<PathBuf>,
    /// The board's watchdog, when it is to be fed.
    pub watchdog: Option<Watchdog>,
}

struct Shared {
    news: Mutex<News>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known; the thread looks at it at once.
    fn tell(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.lock());
        self.changed.notify_one();
    }
}

/// Tells the lights what there is to say; cheap to clone, never blocks.
#[derive(Clone)]
pub struct Teller(Arc<Shared>);

impl Teller {
    /// How the node is. This is also the sign of life: it is to be told each second, changed or not.
    pub fn health(&self, health: &NodeHealth) {
        let mut news = self.0.lock();
        news.beats += 1;
        let changed = news.health != *health;
        if changed {
            news.health = health.clone();
        }
        drop(news);
        // a sign of life alone can wait until the thread wakes for its next edge
        if changed {
            self.0.changed.notify_one();
        }
    }

    /// On the control plane: how each node is, in the order of their names.
    pub fn nodes(&self, nodes: Vec<State>) {
        if self.0.lock().nodes != nodes {
            self.0.tell(|news| news.nodes = nodes);
        }
    }

    /// Shows a reason in place of what is so, as `minidc led test` wishes; `None` ends it.
    pub fn wish(&self, reason: Option<Reason>) {
        if self.0.lock().wish != reason {
            self.0.tell(|news| news.wish = reason);
        }
    }

    /// Shows the use of the processor once, as a count of blinks, one for each tenth.
    pub fn count_cpu(&self) {
        self.0.tell(|news| news.counts += 1);
    }
}

/// The running driver; the only one that switches the lights.
pub struct Driver {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Driver {
    /// Begins with the state that the agent starts.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(lights: Lights) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            news: Mutex::default(),
            changed: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("leds".into())
            .stack_size(128 * 1024)
            .spawn(move || drive(Engine::new(lights), &own))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Who tells it.
    #[must_use]
    pub fn teller(&self) -> Teller {
        Teller(Arc::clone(&self.shared))
    }

    /// Ends it, with the lights left as told.
    pub fn stop(mut self, end: End) {
        self.end(end);
    }

    fn end(&mut self, end: End) {
        self.shared.tell(|news| news.end = Some(end));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Who loses the driver without a word has failed.
impl Drop for Driver {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end(End::Fault);
        }
    }
}

fn drive(mut engine: Engine, shared: &Shared) {
    let begin = Instant::now();
    loop {
        let news = shared.lock().clone();
        if let Some(end) = news.end {
            engine.end(end);
            return;
        }
        let wait = engine.step(begin.elapsed(), &news);
        let told = shared.lock();
        // nothing is lost between the look and the wait
        if told.is_other_than(&news) {
            continue;
        }
        drop(shared.changed.wait_timeout(told, wait));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{FakePins, Part, Recorder, Report, Source, Stage, outputs, pins::Pins as _};

    fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is() {
            assert!(Instant::now() < deadline, "never {what}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn lights_follow_the_health_and_go_dark_at_the_end() {
        let (header, recorder, run) = (FakePins::default(), Recorder::default(), tempfile::tempdir().unwrap());
        let board = crate::Board::virtual_pi().unwrap();
        let parts = [Part::Onboard, Part::Leds];
        let (outputs, failures) = outputs::open(&Source::Fake(header.clone()), &board, &parts, &recorder, run.path());
        assert!(failures.is_empty(), "{failures:?}");
        let driver = Driver::start(Lights {
            outputs,
            run: Some(run.path().into()),
            watchdog: None,
        })
        .unwrap();
        let teller = driver.teller();
        let mut health = NodeHealth {
            stage: Stage::Connected,
            ..NodeHealth::default()
        };
        let report =
            || -> Option<Report> { serde_json::from_slice(&std::fs::read(run.path().join("leds.json")).ok()?).ok() };
        let said = |words: &str| report().is_some_and(|report| report.said() == words);
        teller.health(&health);
        wait_for("ready", || said("ready"));
        assert_eq!(header.seen(17), Some(true));
        health.disk_pressure = true;
        teller.health(&health);
        wait_for("degraded", || said("degraded (disk-pressure)"));
        assert_eq!(
            [17, 27, 22].map(|gpio| header.seen(gpio)),
            [Some(false), Some(true), Some(true)]
        );
        wait_for("the light on the board", || {
            recorder.level("ACT").as_deref() == Some("1")
        });
        driver.stop(End::Off);
        assert_eq!(header.seen(17), None, "let go");
        assert_eq!(recorder.level("22").as_deref(), Some("0"));
        assert_eq!(recorder.level("ACT").as_deref(), Some("0"));
        assert!(!run.path().join("leds.json").exists());
        header.clone().output(17, true).unwrap();
    }

    #[test]
    fn a_teller_that_falls_silent_is_seen_within_three_seconds_and_believed_again() {
        // a busy machine may be late; what is promised must be possible
        let limit = Duration::from_millis(3000 + 1900);
        let mut tries = Vec::new();
        while tries.len() < 3 && tries.last().is_none_or(|took| *took >= limit) {
            tries.push(a_teller_falls_silent_and_speaks_again());
        }
        assert!(tries.last().is_some_and(|took| *took < limit), "{tries:?}");
    }

    /// The time until 1.9 seconds without an edge are over.
    fn a_teller_falls_silent_and_speaks_again() -> Duration {
        let recorder = Recorder::default();
        let driver = Driver::start(Lights {
            outputs: vec![Box::new(crate::Onboard::fake(recorder.clone()))],
            run: None,
            watchdog: None,
        })
        .unwrap();
        let health = NodeHealth {
            stage: Stage::Connected,
            ..NodeHealth::default()
        };
        let teller = driver.teller();
        teller.health(&health);
        let begin = Instant::now();
        // two edges of `ready` later nothing moves any more, and it is lit
        wait_for("still", || {
            recorder.level("ACT").as_deref() == Some("1") && {
                let edges = recorder.edges().len();
                let since = Instant::now();
                while since.elapsed() < Duration::from_millis(1900) && recorder.edges().len() == edges {
                    thread::sleep(Duration::from_millis(10));
                }
                recorder.edges().len() == edges
            }
        });
        let took = begin.elapsed();
        let edges = recorder.edges().len();
        teller.health(&health);
        wait_for("moving again", || recorder.edges().len() > edges);
        took
    }
}
