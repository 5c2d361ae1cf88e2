//! What the driver's thread does at each look: no clock and no thread of its own, so that tests can have a day pass.

use std::time::Duration;

use super::Lights;
use crate::{Colour, End, Frame, NodeHealth, REPORT, Reason, Report, State, unix_milliseconds};

/// Without a sign of life for so long, the lights stand still. It is seen at most 0.8 s later than it is so, at the next look.
const PATIENCE: Duration = Duration::from_millis(2200);
/// Between two looks where no edge asks for an earlier one.
const LOOK: Duration = Duration::from_millis(1000);

/// What the thread is told.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    pub(super) health: NodeHealth,
    pub(super) nodes: Vec<State>,
    /// Signs of life so far.
    pub(super) beats: u64,
    pub(super) wish: Option<Reason>,
    /// How often it was asked to count the use of the processor.
    pub(super) counts: u64,
    pub(super) end: Option<End>,
}

impl News {
    /// Whether there is more to be looked at than a sign of life.
    pub(super) fn is_other_than(&self, seen: &Self) -> bool {
        self.health != seen.health
            || self.nodes != seen.nodes
            || self.wish != seen.wish
            || self.counts != seen.counts
            || self.end != seen.end
    }
}

pub(super) struct Engine {
    lights: Lights,
    said: Option<Reason>,
    /// When the pattern began.
    began: Duration,
    beats: u64,
    heard: Duration,
    counts: u64,
    /// A count of blinks under way: its times, and when it began.
    counting: Option<(Vec<Duration>, Duration)>,
    /// Failures that were told of, by the place of the light.
    told: Vec<bool>,
}

impl Engine {
    pub(super) fn new(lights: Lights) -> Self {
        let told = vec![false; lights.outputs.len()];
        Self {
            lights,
            said: None,
            began: Duration::ZERO,
            beats: 0,
            heard: Duration::ZERO,
            counts: 0,
            counting: None,
            told,
        }
    }

    /// Shows what is to be shown at this time since the start; returns the time to the next look.
    pub(super) fn step(&mut self, now: Duration, news: &News) -> Duration {
        if news.beats != self.beats || self.said.is_none() {
            self.beats = news.beats;
            self.heard = now;
        }
        let silence = now.saturating_sub(self.heard);
        if silence >= PATIENCE {
            // steady, as nothing that lives is; and no food for the watchdog
            self.show(&Frame {
                colour: Colour::Red,
                lit: true,
                cpu_percent: 0,
                pods: 0,
                nodes: Vec::new(),
                elapsed: Duration::ZERO,
            });
            // dead or only slow: whoever speaks again is believed again
            self.began = now;
            return LOOK / 4;
        }
        if let Some(watchdog) = &mut self.lights.watchdog {
            watchdog.feed();
        }
        let reason = news.wish.unwrap_or_else(|| Reason::of(&news.health));
        let is_news = self.said != Some(reason);
        if is_news {
            tracing::debug!(from = self.said.map(tracing::field::display), to = %reason, "lights");
            // the pattern is not begun anew by a reason that looks the same
            if self.said.map(Reason::state) != Some(reason.state()) {
                self.began = now;
            }
            self.said = Some(reason);
        }
        if news.counts != self.counts {
            self.counts = news.counts;
            self.counting = Some((count(news.health.cpu_percent), now));
        }
        let (colour, (lit, edge)) = match self.counted(now) {
            Some(at) => (Colour::White, at),
            None => (reason.state().colour(), reason.state().pattern().at(now - self.began)),
        };
        let mut frame = Frame {
            colour,
            lit,
            cpu_percent: news.health.cpu_percent,
            pods: news.health.pods_running,
            nodes: news.nodes.clone(),
            elapsed: now - self.began,
        };
        if self.counting.is_some() {
            frame.nodes.clear();
        }
        self.show(&frame);
        // what is told is to be seen already
        if is_news {
            self.publish(reason);
        }
        let nodes = frame
            .nodes
            .iter()
            .filter_map(|state| state.pattern().at(frame.elapsed).1);
        let next = nodes.chain(edge).min().unwrap_or(LOOK).min(LOOK);
        // a thread's sleep is no finer; an earlier look would find nothing to do
        next.min(PATIENCE.saturating_sub(silence)).max(Duration::from_millis(1))
    }

    /// The count of blinks, if one is under way: lit or dark, and for how long yet.
    fn counted(&mut self, now: Duration) -> Option<(bool, Option<Duration>)> {
        let (times, began) = self.counting.as_ref()?;
        let mut rest = now - *began;
        for (index, time) in times.iter().enumerate() {
            if rest < *time {
                return Some((index % 2 == 1, Some(*time - rest)));
            }
            rest -= *time;
        }
        self.counting = None;
        // the state begins anew, so that its pattern can be read
        self.began = now;
        None
    }

    fn show(&mut self, frame: &Frame) {
        for (output, told) in self.lights.outputs.iter_mut().zip(&mut self.told) {
            match output.show(frame) {
                Ok(()) => *told = false,
                // at each edge again it would fill the log
                Err(error) if !*told => {
                    *told = true;
                    tracing::warn!(error = &error as &dyn std::error::Error, "a light cannot be switched");
                }
                Err(_) => {}
            }
        }
    }

    fn publish(&self, reason: Reason) {
        let Some(run) = &self.lights.run else { return };
        let lights = self.lights.outputs.iter().flat_map(|output| output.lights()).collect();
        if let Err(error) = Report::new(reason, lights, unix_milliseconds()).write(&run.join(REPORT)) {
            tracing::warn!(error = &error as &dyn std::error::Error, "report of the lights");
        }
    }

    pub(super) fn end(&mut self, end: End) {
        for output in &mut self.lights.outputs {
            if let Err(error) = output.end(end) {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a light cannot be left as it should"
                );
            }
        }
        if end == End::Off {
            if let Some(watchdog) = self.lights.watchdog.take() {
                watchdog.stop();
            }
            if let Some(run) = &self.lights.run {
                let _ = std::fs::remove_file(run.join(REPORT));
            }
        }
    }
}

/// Dark, then a blink for each tenth that is begun (none when there is nothing to do), then dark again.
fn count(percent: u8) -> Vec<Duration> {
    let mut times = vec![700];
    for _ in 0..percent.min(100).div_ceil(10) {
        times.extend([200, 300]);
    }
    // the dark after the last blink is longer
    let last = times.len() - 1;
    times[last] = if last == 0 { 2000 } else { 1200 };
    times.into_iter().map(Duration::from_millis).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Onboard, Recorder, Refusal, Stage, Wrong};

    fn engine(recorder: &Recorder) -> Engine {
        Engine::new(Lights {
            outputs: vec![Box::new(Onboard::fake(recorder.clone()))],
            run: None,
            watchdog: None,
        })
    }

    fn at(stage: Stage) -> News {
        News {
            health: NodeHealth {
                stage,
                ..NodeHealth::default()
            },
            ..News::default()
        }
    }

    /// Lets this much time pass, with a sign of life each second; returns the edges: (when, lit).
    fn pass(
        engine: &mut Engine,
        recorder: &Recorder,
        news: &mut News,
        from: Duration,
        time: Duration,
    ) -> Vec<(u128, bool)> {
        let (mut now, mut edges) = (from, Vec::new());
        while now < from + time {
            news.beats = u64::try_from(now.as_millis() / 1000).unwrap() + 1;
            let before = recorder.edges().len();
            let wait = engine.step(now, news);
            let after = recorder.edges();
            edges.extend(
                after[before..]
                    .iter()
                    .map(|edge| ((now - from).as_millis(), edge.level == "1")),
            );
            now += wait;
        }
        edges
    }

    #[test]
    fn one_light_shows_each_state_by_its_times_alone() {
        for reason in Reason::ALL {
            let recorder = Recorder::default();
            let mut news = News {
                wish: Some(reason),
                ..News::default()
            };
            if reason == Reason::Off {
                continue;
            }
            let times = reason.state().pattern().0;
            let round = reason.state().pattern().period();
            let seen = pass(&mut engine(&recorder), &recorder, &mut news, Duration::ZERO, round * 2);
            let mut expected = Vec::new();
            let mut when = 0;
            for (index, time) in times.iter().chain(times).enumerate() {
                expected.push((when, index % 2 == 0));
                when += u128::from(*time);
            }
            assert_eq!(seen, expected, "{reason}");
        }
    }

    #[test]
    fn refusal_is_flashed_as_often_as_its_code_says() {
        let recorder = Recorder::default();
        let mut news = at(Stage::Refused(Refusal::Token));
        let round = State::Refused(Wrong::Token).pattern().period();
        let edges = pass(&mut engine(&recorder), &recorder, &mut news, Duration::ZERO, round);
        assert_eq!(edges.iter().filter(|(_, lit)| *lit).count(), 3);
    }

    #[test]
    fn pattern_is_not_begun_anew_by_facts_it_does_not_show() {
        let recorder = Recorder::default();
        let (mut engine, mut news) = (engine(&recorder), at(Stage::Searching));
        let seconds = Duration::from_secs;
        pass(
            &mut engine,
            &recorder,
            &mut news,
            Duration::ZERO,
            Duration::from_millis(700),
        );
        news.health.temperature_celsius = Some(50.0);
        news.health.stage = Stage::Joining;
        let edges = pass(
            &mut engine,
            &recorder,
            &mut news,
            Duration::from_millis(700),
            seconds(1),
        );
        assert_eq!(edges, [(300, false)], "the blink went on");
    }

    #[test]
    fn silence_is_shown_steady_until_somebody_speaks() {
        let recorder = Recorder::default();
        let (mut engine, mut news) = (engine(&recorder), at(Stage::Connected));
        news.beats = 1;
        let mut now = Duration::ZERO;
        while now < Duration::from_secs(60) {
            now += engine.step(now, &news);
        }
        // ready: lit, dark, lit again at 2 s; then never again
        assert_eq!(recorder.edges().len(), 3);
        assert_eq!(recorder.level("ACT").as_deref(), Some("1"));
        let edges = pass(&mut engine, &recorder, &mut news, now, Duration::from_secs(2));
        assert!(edges.first().is_some_and(|(_, lit)| !lit), "{edges:?}");
    }

    #[test]
    fn use_of_the_processor_is_counted_in_blinks() {
        for (percent, blinks) in [(0, 0), (1, 1), (10, 1), (11, 2), (95, 10), (100, 10)] {
            let recorder = Recorder::default();
            let (mut engine, mut news) = (engine(&recorder), at(Stage::Connected));
            engine.step(Duration::ZERO, &news);
            news.counts = 1;
            news.health.cpu_percent = percent;
            let time: Duration = count(percent).iter().sum();
            let edges = pass(&mut engine, &recorder, &mut news, Duration::ZERO, time);
            assert_eq!(edges.iter().filter(|(_, lit)| *lit).count(), blinks, "{percent} %");
        }
    }

    /// What the thread costs is what it wakes up for.
    #[test]
    fn a_healthy_node_wakes_at_most_twice_a_second() {
        let recorder = Recorder::default();
        let (mut engine, mut news) = (engine(&recorder), at(Stage::Connected));
        let (mut now, mut looks) = (Duration::ZERO, 0);
        while now < Duration::from_secs(100) {
            news.beats += 1;
            now += engine.step(now, &news);
            looks += 1;
        }
        assert!(looks <= 200, "{looks}");
    }

    #[test]
    fn a_dark_end_gives_the_light_back() {
        let recorder = Recorder::default();
        let (mut engine, mut news) = (engine(&recorder), at(Stage::Away));
        pass(
            &mut engine,
            &recorder,
            &mut news,
            Duration::ZERO,
            Duration::from_millis(10),
        );
        engine.end(End::Off);
        assert_eq!(recorder.level("ACT").as_deref(), Some("0"));
        assert_eq!(engine.lights.outputs[0].lights()[0].name, "ACT");
    }
}
