//! Pins that only remember: what a virtual Pi has in place of a header.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Pins, busy, check, unclaimed};
use crate::Error;

#[derive(Clone, Copy, Debug)]
struct Pin {
    high: bool,
    /// Who has it.
    owner: Option<u64>,
}

#[derive(Debug, Default)]
struct Header {
    pins: BTreeMap<u8, Pin>,
    owners: u64,
}

/// A header of pins; clones of it are other programs on the same board.
#[derive(Debug, Default)]
pub struct FakePins {
    header: Arc<Mutex<Header>>,
    own: u64,
}

impl Clone for FakePins {
    fn clone(&self) -> Self {
        let mut header = lock(&self.header);
        header.owners += 1;
        Self {
            header: Arc::clone(&self.header),
            own: header.owners,
        }
    }
}

fn lock(header: &Mutex<Header>) -> MutexGuard<'_, Header> {
    // a panic elsewhere leaves whole pins behind, so the content is still good
    header.lock().unwrap_or_else(PoisonError::into_inner)
}

const FILE: &str = "fake pins";

impl FakePins {
    /// Level of a pin, as somebody with a voltmeter would see it; `None` for one that nobody drives.
    #[must_use]
    pub fn seen(&self, gpio: u8) -> Option<bool> {
        lock(&self.header).pins.get(&gpio).map(|pin| pin.high)
    }

    /// Pulls an input down, as a pressed button does, or lets it go.
    pub fn press(&self, gpio: u8, pressed: bool) {
        if let Some(pin) = lock(&self.header).pins.get_mut(&gpio) {
            pin.high = !pressed;
        }
    }

    fn claim(&self, gpio: u8, high: bool) -> Result<(), Error> {
        check(gpio, Path::new(FILE))?;
        let mut header = lock(&self.header);
        if header.pins.get(&gpio).is_some_and(|pin| pin.owner.is_some()) {
            return Err(busy(gpio, Path::new(FILE), "minidc"));
        }
        let owner = Some(self.own);
        header.pins.insert(gpio, Pin { high, owner });
        Ok(())
    }

    fn with<T>(&self, gpio: u8, act: impl FnOnce(&mut Pin) -> T) -> Result<T, Error> {
        match lock(&self.header).pins.get_mut(&gpio) {
            Some(pin) if pin.owner == Some(self.own) => Ok(act(pin)),
            _ => Err(unclaimed(gpio, Path::new(FILE))),
        }
    }
}

impl Pins for FakePins {
    fn output(&mut self, gpio: u8, high: bool) -> Result<(), Error> {
        self.claim(gpio, high)
    }

    fn input(&mut self, gpio: u8) -> Result<(), Error> {
        self.claim(gpio, true)
    }

    fn set(&mut self, gpio: u8, high: bool) -> Result<(), Error> {
        self.with(gpio, |pin| pin.high = high)
    }

    fn level(&mut self, gpio: u8) -> Result<bool, Error> {
        self.with(gpio, |pin| pin.high)
    }
}

impl Drop for FakePins {
    fn drop(&mut self) {
        // as the kernel does: nobody drives them any more
        lock(&self.header).pins.retain(|_, pin| pin.owner != Some(self.own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fake_pins_pass_the_suite() {
        let board = FakePins::default();
        super::super::suite(&mut || Ok(Box::new(board.clone())), [17, 27]).unwrap();
        assert_eq!(board.seen(17), None, "let go");
        super::super::pulled_up(Box::new(board.clone()), 17).unwrap();
    }
}
