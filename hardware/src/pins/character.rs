//! Pins through the kernel's character device (its second interface), which every kernel has. A line belongs to one
//! program; the kernel takes it back when that ends, however it ends.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use gpiocdev::{
    Chip, Request,
    line::{Bias, Value},
};

use super::{Pins, busy, check, named, unclaimed};
use crate::{Board, Error, Fault};

/// Who the kernel says has our lines.
const CONSUMER: &str = "minidc";

/// Lines of one chip.
#[derive(Debug)]
pub struct CharacterDevice {
    path: PathBuf,
    lines: BTreeMap<u8, Request>,
}

impl CharacterDevice {
    /// The chip with the label that the pin map names, whatever its number.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no such chip, or this user may not use it.
    pub fn open(board: &Board) -> Result<Self, Error> {
        let Some(label) = &board.chip else {
            return Err(Error::refused(
                format!("the header of {}", board.name),
                Path::new("/dev"),
                Fault::Missing,
                "there is no pin map for this board",
                "name its GPIO chip as chip = \"LABEL\" under [leds.board] in the configuration; gpiodetect lists them",
            ));
        };
        let mut labels = Vec::new();
        for path in devices(Path::new("/dev")) {
            // asked of the file system first: its words for a missing permission are plainer
            fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .map_err(|error| Error::system(format!("GPIO chip {label}"), &path, &error, "gpio"))?;
            let Ok(info) = Chip::from_path(&path).and_then(|chip| chip.info()) else {
                continue;
            };
            if info.label == *label {
                return Ok(Self {
                    path,
                    lines: BTreeMap::new(),
                });
            }
            labels.push(info.label);
        }
        Err(Error::refused(
            format!("GPIO chip {label}"),
            Path::new("/dev/gpiochip*"),
            Fault::Missing,
            if labels.is_empty() {
                "this kernel has no GPIO chip".into()
            } else {
                format!("there are only {}", labels.join(", "))
            },
            "if one of them carries the header, name it as chip under [leds.board] in the configuration",
        ))
    }

    fn claim(&mut self, gpio: u8, direction: impl FnOnce(&mut gpiocdev::request::Builder)) -> Result<(), Error> {
        check(gpio, &self.path)?;
        let failed = |error: gpiocdev::Error| self.failed(gpio, &error);
        let chip = Chip::from_path(&self.path).map_err(failed)?;
        let line = chip.line_info(gpio.into()).map_err(failed)?;
        if line.used {
            let holder = if line.consumer.is_empty() {
                "the kernel"
            } else {
                &line.consumer
            };
            return Err(busy(gpio, &self.path, holder));
        }
        let mut builder = Request::builder();
        builder
            .on_chip(&self.path)
            .with_consumer(CONSUMER)
            .with_line(gpio.into());
        direction(&mut builder);
        let request = builder.request().map_err(failed)?;
        self.lines.insert(gpio, request);
        Ok(())
    }

    fn line(&self, gpio: u8) -> Result<&Request, Error> {
        self.lines.get(&gpio).ok_or_else(|| unclaimed(gpio, &self.path))
    }

    fn failed(&self, gpio: u8, error: &gpiocdev::Error) -> Error {
        let system = match error {
            gpiocdev::Error::Os(errno) | gpiocdev::Error::Uapi(_, gpiocdev_uapi::Error::Os(errno)) => {
                io::Error::from_raw_os_error(errno.0)
            }
            other => io::Error::other(other.to_string()),
        };
        Error::system(named(gpio), &self.path, &system, "gpio")
    }
}

/// The chips' device files, in the order of their numbers.
fn devices(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("gpiochip")?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

impl Pins for CharacterDevice {
    fn output(&mut self, gpio: u8, high: bool) -> Result<(), Error> {
        self.claim(gpio, |builder| {
            builder.as_output(high.into());
        })
    }

    fn input(&mut self, gpio: u8) -> Result<(), Error> {
        self.claim(gpio, |builder| {
            builder.as_input().with_bias(Bias::PullUp);
        })
    }

    fn set(&mut self, gpio: u8, high: bool) -> Result<(), Error> {
        let line = self.line(gpio)?;
        line.set_value(gpio.into(), high.into())
            .map_err(|error| self.failed(gpio, &error))
    }

    fn level(&mut self, gpio: u8) -> Result<bool, Error> {
        let value = self.line(gpio)?.value(gpio.into());
        value
            .map(|value| value == Value::Active)
            .map_err(|error| self.failed(gpio, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of errno(3) on Linux.
    const EACCES: i32 = 13;
    const EBUSY: i32 = 16;

    #[test]
    fn a_board_without_pin_map_says_how_to_give_it_one() {
        let error = CharacterDevice::open(&Board::default()).unwrap_err();
        assert_eq!(error.fault(), Some(Fault::Missing));
        assert!(error.to_string().contains("[leds.board]"), "{error}");
    }

    #[test]
    fn a_chip_that_is_not_there_is_named() {
        let board = Board {
            chip: Some("pinctrl-of-nowhere".into()),
            ..Board::default()
        };
        let error = CharacterDevice::open(&board).unwrap_err().to_string();
        assert!(error.contains("pinctrl-of-nowhere"), "{error}");
    }

    /// Without a kernel that has pins; `minidc led suite` asks a real one, on emulated boards too.
    #[test]
    fn refusals_name_pin_file_and_fix() {
        let mut pins = CharacterDevice {
            path: "/dev/gpiochip0".into(),
            lines: BTreeMap::new(),
        };
        let denied = pins.failed(17, &io::Error::from_raw_os_error(EACCES).into());
        let (call, errno) = (gpiocdev::UapiCall::GetLine, gpiocdev_uapi::Errno(EBUSY));
        let raced = pins.failed(17, &gpiocdev::Error::Uapi(call, gpiocdev_uapi::Error::Os(errno)));
        for (error, fault, words) in [
            (
                pins.output(28, true).unwrap_err(),
                Fault::Wrong,
                ["GPIO 28 (", "2 to 27"],
            ),
            (
                busy(17, &pins.path, "gpioset"),
                Fault::Busy,
                ["gpioset has it", "[leds.board]"],
            ),
            (raced, Fault::Busy, ["GPIO 17 (pin 11)", "[leds.board]"]),
            (denied, Fault::Permission, ["GPIO 17 (pin 11)", "group gpio"]),
        ] {
            assert_eq!(error.fault(), Some(fault));
            let text = error.to_string();
            assert!(text.contains("(/dev/gpiochip0): "), "{text}");
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
    }

    #[test]
    fn chips_are_in_the_order_of_their_numbers() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["gpiochip10", "gpiochip2", "gpiomem", "gpiochipX"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let names = devices(directory.path());
        assert_eq!(
            names,
            [directory.path().join("gpiochip2"), directory.path().join("gpiochip10")]
        );
    }
}
