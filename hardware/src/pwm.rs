//! Levels between dark and lit, by switching pins on and off faster than the eye can follow. A thread of its own does so, and
//! only while some pin is neither off nor on.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{Error, Pins};

struct Inner {
    pins: Box<dyn Pins>,
    /// GPIO, the level that means on, and how much of the time it is on, of 255.
    duties: Vec<(u8, bool, u8)>,
    stop: bool,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pins that can be on for a part of the time.
pub(crate) struct Pwm {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
    period: Duration,
}

/// When pins go off within a period, the earliest first: (offset, indexes).
fn ends(duties: &[u8], period: Duration) -> Vec<(Duration, usize)> {
    let mut ends: Vec<(Duration, usize)> = duties
        .iter()
        .enumerate()
        .filter(|(_, duty)| (1..255).contains(*duty))
        .map(|(index, duty)| (period * u32::from(*duty) / 255, index))
        .collect();
    ends.sort();
    ends
}

impl Pwm {
    /// Takes outputs of `pins`: GPIO, and the level that means on.
    pub(crate) fn new(pins: Box<dyn Pins>, outputs: &[(u8, bool)], period: Duration) -> Self {
        let duties = outputs.iter().map(|(gpio, on)| (*gpio, *on, 0)).collect();
        let inner = Inner {
            pins,
            duties,
            stop: false,
        };
        Self {
            shared: Arc::new(Shared {
                inner: Mutex::new(inner),
                changed: Condvar::new(),
            }),
            thread: None,
            period,
        }
    }

    /// How much of the time each output is on, of 255, in the order in which they were given.
    pub(crate) fn set(&mut self, duties: &[u8]) -> Result<(), Error> {
        let mut inner = self.shared.lock();
        let Inner {
            pins, duties: known, ..
        } = &mut *inner;
        for ((gpio, on, known), duty) in known.iter_mut().zip(duties) {
            *known = *duty;
            match *duty {
                0 => pins.set(*gpio, !*on)?,
                255 => pins.set(*gpio, *on)?,
                _ => {}
            }
        }
        drop(inner);
        if self.thread.is_none() && duties.iter().any(|duty| (1..255).contains(duty)) {
            let (shared, period) = (Arc::clone(&self.shared), self.period);
            self.thread = thread::Builder::new()
                .name("pwm".into())
                .stack_size(64 * 1024)
                .spawn(move || switch(&shared, period))
                .ok();
        }
        self.shared.changed.notify_all();
        Ok(())
    }

    pub(crate) fn keep(&mut self) {
        self.shared.lock().pins.keep();
    }
}

impl Drop for Pwm {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn switch(shared: &Shared, period: Duration) {
    let set = |index: usize, lit: bool| {
        let mut inner = shared.lock();
        let Inner { pins, duties, .. } = &mut *inner;
        let (gpio, on, duty) = duties[index];
        // it may have been told to be steady meanwhile
        if (1..255).contains(&duty) {
            let _ = pins.set(gpio, lit == on);
        }
    };
    loop {
        let mut inner = shared.lock();
        let duties: Vec<u8> = loop {
            if inner.stop {
                return;
            }
            let duties: Vec<u8> = inner.duties.iter().map(|(_, _, duty)| *duty).collect();
            if duties.iter().any(|duty| (1..255).contains(duty)) {
                break duties;
            }
            inner = shared.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        };
        drop(inner);
        let begin = Instant::now();
        let ends = ends(&duties, period);
        for (_, index) in &ends {
            set(*index, true);
        }
        for (offset, index) in ends {
            thread::sleep((begin + offset).saturating_duration_since(Instant::now()));
            set(index, false);
        }
        thread::sleep((begin + period).saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FakePins;

    #[test]
    fn pins_go_off_in_the_order_of_their_duties() {
        let period = Duration::from_millis(255);
        assert_eq!(
            ends(&[200, 0, 255, 80], period),
            [(Duration::from_millis(80), 3), (Duration::from_millis(200), 0)]
        );
    }

    #[test]
    fn steady_levels_need_no_thread() {
        let header = FakePins::default();
        let mut pins = header.clone();
        pins.output(5, false).unwrap();
        pins.output(6, true).unwrap();
        let mut pwm = Pwm::new(Box::new(pins), &[(5, true), (6, false)], Duration::from_millis(10));
        pwm.set(&[255, 255]).unwrap();
        assert_eq!((header.seen(5), header.seen(6)), (Some(true), Some(false)));
        pwm.set(&[0, 0]).unwrap();
        assert_eq!((header.seen(5), header.seen(6)), (Some(false), Some(true)));
        assert!(pwm.thread.is_none());
    }

    #[test]
    fn a_level_between_is_switched_and_ends_steady() {
        let header = FakePins::default();
        let mut pins = header.clone();
        pins.output(5, false).unwrap();
        let mut pwm = Pwm::new(Box::new(pins), &[(5, true)], Duration::from_millis(4));
        pwm.set(&[128]).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        for wanted in [true, false, true] {
            while header.seen(5) != Some(wanted) {
                assert!(Instant::now() < deadline, "never {wanted}");
                thread::yield_now();
            }
        }
        pwm.set(&[0]).unwrap();
        assert_eq!(header.seen(5), Some(false));
    }
}
