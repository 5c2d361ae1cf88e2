//! Pins through the processor's registers (rppal), where Raspberry Pi's own kernel hands them to users: a level is set in
//! under two microseconds, but nobody keeps programs from each other's pins. So this asks the kernel who has a line, and
//! keeps a lock file for each pin.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use gpiocdev::Chip;
use rppal::gpio::{Bias, Gpio, IoPin, Level, Mode};

use super::{OTHER_PIN, Pins, busy, check, named, unclaimed};
use crate::{Error, Fault};

/// The registers' device files: one up to the Pi 4, one for each bank on the Pi 5.
const REGISTERS: [&str; 2] = ["/dev/gpiomem", "/dev/gpiomem0"];
/// All memory; only root has it, and only a kernel with `iomem=relaxed` lets it be used for this.
const MEMORY: &str = "/dev/mem";
/// Where the lock files lie.
const LOCKS: &str = "/run/lock";

/// Pins of the processor, or of the RP1 beside it.
#[derive(Debug)]
pub struct Broadcom {
    gpio: Gpio,
    file: PathBuf,
    /// With the locks that keep other programs of minidc away.
    pins: BTreeMap<u8, (IoPin, File)>,
}

impl Broadcom {
    /// Whether this kernel hands out the registers.
    #[must_use]
    pub fn is_here() -> bool {
        REGISTERS.iter().any(|path| Path::new(path).exists())
    }

    /// The registers of this board.
    ///
    /// # Errors
    /// [`Error::Refused`] when there are none, or this user may not use them.
    pub fn open() -> Result<Self, Error> {
        let file = REGISTERS
            .into_iter()
            .find(|path| Path::new(path).exists())
            .unwrap_or(MEMORY);
        let gpio = Gpio::new().map_err(|error| no_registers(file, error))?;
        Ok(Self {
            gpio,
            file: file.into(),
            pins: BTreeMap::new(),
        })
    }

    fn claim(&mut self, gpio: u8, mode: Mode) -> Result<&mut IoPin, Error> {
        check(gpio, &self.file)?;
        if let Some(holder) = kernel_says(gpio) {
            return Err(busy(gpio, &self.file, &holder));
        }
        let file = self.file.clone();
        let ours = || busy(gpio, &file, "minidc");
        let path = Path::new(LOCKS).join(format!("minidc-gpio{gpio}"));
        let lock = File::create(&path).map_err(|error| Error::system(named(gpio), &path, &error, "root"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => ours(),
            TryLockError::Error(error) => Error::system(named(gpio), &path, &error, "root"),
        })?;
        let pin = self.gpio.get(gpio).map_err(|error| match error {
            rppal::gpio::Error::PinUsed(_) => ours(),
            other => Error::refused(named(gpio), &self.file, Fault::Wrong, other.to_string(), OTHER_PIN),
        })?;
        // the level first, so that an output does not flash when it becomes one
        Ok(&mut self.pins.entry(gpio).or_insert((pin.into_io(mode), lock)).0)
    }

    fn pin(&mut self, gpio: u8) -> Result<&mut IoPin, Error> {
        match self.pins.get_mut(&gpio) {
            Some((pin, _)) => Ok(pin),
            None => Err(unclaimed(gpio, &self.file)),
        }
    }
}

/// Why the registers cannot be had.
fn no_registers(file: &str, error: rppal::gpio::Error) -> Error {
    let what = "the GPIO registers";
    match error {
        rppal::gpio::Error::PermissionDenied(file) if file == MEMORY => Error::refused(
            what,
            Path::new(MEMORY),
            Fault::Permission,
            "only root may use it, and only where the kernel was started with iomem=relaxed",
            "take driver = \"registers\" from [leds] in the configuration: the character device needs neither",
        ),
        rppal::gpio::Error::PermissionDenied(file) => Error::refused(
            what,
            Path::new(&file),
            Fault::Permission,
            "this user may not use it",
            "run as root, or as a user of the group gpio",
        ),
        rppal::gpio::Error::Io(error) => Error::system(what, Path::new(file), &error, "gpio"),
        other => Error::refused(
            what,
            Path::new(file),
            Fault::Missing,
            other.to_string(),
            "this is no Raspberry Pi that rppal knows; the character device is used where there is no /dev/gpiomem",
        ),
    }
}

/// Who has the line as the kernel knows it: a program through the character device, or a driver.
fn kernel_says(gpio: u8) -> Option<String> {
    let mut entries: Vec<PathBuf> = fs::read_dir("/dev")
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_str().is_some_and(|path| path.starts_with("/dev/gpiochip")))
        .collect();
    entries.sort();
    for path in entries {
        let Ok(chip) = Chip::from_path(&path) else { continue };
        if !chip.info().is_ok_and(|info| info.label.starts_with("pinctrl-")) {
            continue;
        }
        let line = chip.line_info(gpio.into()).ok()?;
        return line.used.then(|| {
            if line.consumer.is_empty() {
                "the kernel".into()
            } else {
                line.consumer
            }
        });
    }
    None
}

impl Pins for Broadcom {
    fn output(&mut self, gpio: u8, high: bool) -> Result<(), Error> {
        let pin = self.claim(gpio, Mode::Input)?;
        pin.write(Level::from(high));
        pin.set_mode(Mode::Output);
        Ok(())
    }

    fn input(&mut self, gpio: u8) -> Result<(), Error> {
        self.claim(gpio, Mode::Input)?.set_bias(Bias::PullUp);
        Ok(())
    }

    fn set(&mut self, gpio: u8, high: bool) -> Result<(), Error> {
        self.pin(gpio)?.write(Level::from(high));
        Ok(())
    }

    fn level(&mut self, gpio: u8) -> Result<bool, Error> {
        Ok(self.pin(gpio)?.is_high())
    }

    fn keep(&mut self) {
        for (pin, _) in self.pins.values_mut() {
            pin.set_reset_on_drop(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_are_no_registers_that_is_said() {
        // on a Raspberry Pi `minidc led suite` tries the real ones
        let opened = Broadcom::open();
        assert!(Broadcom::is_here() || opened.is_err_and(|error| error.to_string().contains("/dev/")));
    }

    #[test]
    fn registers_that_may_not_be_used_are_refused_with_pins_file_and_fix() {
        let denied = |file: &str| rppal::gpio::Error::PermissionDenied(file.into());
        for (error, fault, words) in [
            (
                denied("/dev/gpiomem"),
                Fault::Permission,
                ["(/dev/gpiomem)", "group gpio"],
            ),
            (denied("/dev/mem"), Fault::Permission, ["(/dev/mem)", "iomem=relaxed"]),
            (
                rppal::gpio::Error::Io(std::io::ErrorKind::NotFound.into()),
                Fault::Missing,
                ["(/dev/gpiomem)", "[leds]"],
            ),
            (
                rppal::gpio::Error::UnknownModel,
                Fault::Missing,
                ["(/dev/gpiomem)", "character device"],
            ),
        ] {
            let error = no_registers("/dev/gpiomem", error).wanted_for(&[17, 27]);
            assert_eq!(error.fault(), Some(fault));
            let text = error.to_string();
            let all = words.into_iter().chain(["GPIO 17, 27"]);
            assert!(all.into_iter().all(|word| text.contains(word)), "{text}");
        }
    }
}
