//! A push button between a pin and ground.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{Board, Error, Part, Pins, Source};

/// A level that lasts less than this is the spring's, not the finger's.
const BOUNCE: Duration = Duration::from_millis(30);
/// A press that lasts this long is a long one, and acts while the finger is still down.
const LONG: Duration = Duration::from_secs(3);
/// Between two looks: short enough for a finger, and some 0.05 % of a core.
const LOOK: Duration = Duration::from_millis(50);

/// What a finger did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Press {
    /// Pressed and let go.
    Short,
    /// Held for three seconds.
    Long,
}

/// Makes presses of levels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Debounce {
    /// It was up once. What is down from the start is no finger but a jumper or a pin that nothing pulls up, and must not halt a board
    /// each time it starts.
    seen_up: bool,
    down: bool,
    /// The level that is not believed yet, and since when.
    other: Option<Duration>,
    /// Since when it is down.
    since: Duration,
    told: bool,
}

impl Debounce {
    /// A look at this time: whether the button is down.
    pub fn look(&mut self, now: Duration, down: bool) -> Option<Press> {
        self.seen_up |= !down;
        if !self.seen_up {
            return None;
        }
        if down == self.down {
            self.other = None;
            if down && !self.told && now.saturating_sub(self.since) >= LONG {
                self.told = true;
                return Some(Press::Long);
            }
            return None;
        }
        let since = *self.other.get_or_insert(now);
        if now.saturating_sub(since) < BOUNCE {
            return None;
        }
        self.other = None;
        self.down = down;
        if down {
            self.since = since;
            self.told = false;
            return None;
        }
        (!self.told).then_some(Press::Short)
    }
}

/// Looks at a button on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Button {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Button {
    /// Looks at the board's button and hands on what a finger does; `None` when the board has none.
    ///
    /// # Errors
    /// [`Error::Refused`] when its pin cannot be had.
    pub fn start(
        source: &Source,
        board: &Board,
        mut act: impl FnMut(Press) + Send + 'static,
    ) -> Result<Option<Self>, Error> {
        let Some(button) = &board.button else { return Ok(None) };
        board.check(&[Part::Button])?;
        let (gpio, mut pins) = (button.gpio, source.pins(board, Part::Button)?);
        pins.input(gpio)?;
        let mut debounce = Debounce::default();
        debounce.look(Duration::ZERO, is_down(pins.as_mut(), gpio));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("button".into())
            .stack_size(64 * 1024)
            .spawn(move || {
                let begin = Instant::now();
                while !stopped.load(Ordering::Relaxed) {
                    if let Some(press) = debounce.look(begin.elapsed(), is_down(pins.as_mut(), gpio)) {
                        act(press);
                    }
                    thread::park_timeout(LOOK);
                }
            })
            .ok();
        Ok(Some(Self { stop, thread }))
    }
}

/// Pulled up: low is pressed; a pin that cannot be read is not.
fn is_down(pins: &mut dyn Pins, gpio: u8) -> bool {
    pins.level(gpio).is_ok_and(|high| !high)
}

impl Drop for Button {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::FakePins;

    /// Looks each 10 ms at a button that is down within these times (in milliseconds).
    fn presses(down: &[(u64, u64)], until: u64) -> Vec<(u64, Press)> {
        let mut debounce = Debounce::default();
        (0..until)
            .step_by(10)
            .filter_map(|now| {
                let is = down.iter().any(|(from, to)| (*from..*to).contains(&now));
                debounce.look(Duration::from_millis(now), is).map(|press| (now, press))
            })
            .collect()
    }

    #[test]
    fn bounces_are_no_presses() {
        assert_eq!(presses(&[(100, 110), (130, 150)], 1000), []);
        let bouncing = [(100, 110), (120, 130), (140, 500), (510, 520), (530, 540)];
        assert_eq!(presses(&bouncing, 1000), [(570, Press::Short)]);
    }

    #[test]
    fn held_is_long_while_down_and_not_short_afterwards() {
        assert_eq!(presses(&[(100, 3000)], 4000), [(3030, Press::Short)]);
        assert_eq!(presses(&[(100, 9000)], 10_000), [(3100, Press::Long)]);
        assert_eq!(
            presses(&[(100, 4000), (5000, 5200)], 6000),
            [(3100, Press::Long), (5230, Press::Short)]
        );
    }

    #[test]
    fn what_is_down_from_the_start_is_no_finger() {
        assert_eq!(presses(&[(0, 9000)], 10_000), []);
        assert_eq!(presses(&[(0, 5000), (6000, 6200)], 7000), [(6230, Press::Short)]);
    }

    #[test]
    fn finger_on_a_pin_is_handed_on() {
        let header = FakePins::default();
        let (sender, pressed) = mpsc::channel();
        let board = Board::virtual_pi().unwrap();
        let button = Button::start(&Source::Fake(header.clone()), &board, move |press| {
            sender.send(press).unwrap();
        })
        .unwrap()
        .unwrap();
        // a busy machine may look away for as long as somebody presses, and is pressed again
        let heard = (0..10).find_map(|_| {
            header.press(26, true);
            thread::sleep((BOUNCE + LOOK * 4) * 2);
            header.press(26, false);
            let heard = pressed.recv_timeout(Duration::from_secs(6)).ok();
            heard.filter(|press| *press == Press::Short)
        });
        assert_eq!(heard, Some(Press::Short));
        drop(button);
        assert_eq!(header.seen(26), None, "let go");
    }
}
