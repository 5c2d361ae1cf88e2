//! The LED on the board itself, through `/sys/class/leds`: it needs no wiring, and any board may have one.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::{End, Frame, Output};
use crate::{Error, Fault, Light, Part, Recorder};

/// Where the kernel shows the LEDs.
pub(crate) const LEDS: &str = "/sys/class/leds";
/// File in the run directory that says what the LED did before minidc took it.
const BEFORE: &str = "led-before";
/// Words in the names of LEDs that stand for the board, on boards that nobody wrote a pin map for: `NAME`, or `…:FUNCTION`.
const LIKELY: [&str; 8] = ["act", "led0", "activity", "status", "heartbeat", "led1", "power", "pwr"];

/// The LED on the board.
#[derive(Debug)]
pub struct Onboard {
    name: String,
    led: Option<Led>,
    shown: Option<bool>,
    recorder: Recorder,
}

#[derive(Debug)]
struct Led {
    directory: PathBuf,
    brightness: File,
    full: String,
    /// The trigger that it had.
    trigger: String,
    before: PathBuf,
}

impl Onboard {
    /// The first LED of these names below `root` (`/sys/class/leds`), else one that is likely to be the board's.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is none, or this user may not use it.
    pub fn open(root: &Path, names: &[String], run: &Path, recorder: Recorder) -> Result<Self, Error> {
        let Some(name) = find(root, names) else {
            return Err(Error::refused(
                "the LED on the board",
                root,
                Fault::Missing,
                "there is none that minidc knows",
                "name it as onboard = [\"NAME\"] under [leds.board] in the configuration",
            ));
        };
        let directory = root.join(&name);
        let failed = |file: &Path, error: &io::Error| Error::system(format!("LED {name}"), file, error, "root");
        let path = directory.join("trigger");
        let triggers = fs::read_to_string(&path).map_err(|error| failed(&path, &error))?;
        let mut trigger = selected(&triggers).to_owned();
        let before = run.join(BEFORE);
        // somebody who was killed could not give it back
        match fs::read_to_string(&before) {
            Ok(text) if text.starts_with(&format!("{name} ")) => text[name.len() + 1..].trim().clone_into(&mut trigger),
            _ => fs::write(&before, format!("{name} {trigger}\n")).map_err(|source| Error::File {
                path: before.clone(),
                source,
            })?,
        }
        fs::write(&path, "none").map_err(|error| failed(&path, &error))?;
        let path = directory.join("max_brightness");
        let full = fs::read_to_string(&path)
            .map_err(|error| failed(&path, &error))?
            .trim()
            .to_owned();
        let path = directory.join("brightness");
        let brightness = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(|error| failed(&path, &error))?;
        Ok(Self {
            name,
            led: Some(Led {
                directory,
                brightness,
                full,
                trigger,
                before,
            }),
            shown: None,
            recorder,
        })
    }

    /// One that only records: the LED of a virtual Pi.
    #[must_use]
    pub fn fake(recorder: Recorder) -> Self {
        Self {
            name: "ACT".into(),
            led: None,
            shown: None,
            recorder,
        }
    }

    /// What the LED on this board has to pass: it is lit and dark as told, and given back as it was.
    ///
    /// # Errors
    /// What was not as it must be, in words.
    pub fn suite(names: &[String], run: &Path) -> Result<(), String> {
        let said = |error: Error| error.to_string();
        let mut led = Self::open(Path::new(LEDS), names, run, Recorder::default()).map_err(said)?;
        let Some(Led { directory, trigger, .. }) = &led.led else {
            return Err("it only records".into());
        };
        let (directory, before) = (directory.clone(), trigger.clone());
        let read = |file: &str| fs::read_to_string(directory.join(file)).map_err(|error| error.to_string());
        for lit in [true, false, true] {
            led.set(lit).map_err(said)?;
            if (read("brightness")?.trim() != "0") != lit {
                return Err(format!("set {lit}, and read {}", read("brightness")?));
            }
        }
        led.end(End::Off).map_err(said)?;
        if selected(&read("trigger")?) != before {
            return Err(format!("given back as {}, and it was {before}", read("trigger")?));
        }
        Ok(())
    }

    fn set(&mut self, lit: bool) -> Result<(), Error> {
        if self.shown == Some(lit) {
            return Ok(());
        }
        self.shown = Some(lit);
        if let Some(led) = &self.led {
            let text = if lit { led.full.as_str() } else { "0" };
            led.brightness.write_all_at(text.as_bytes(), 0).map_err(|error| {
                Error::system(
                    format!("LED {}", self.name),
                    &led.directory.join("brightness"),
                    &error,
                    "root",
                )
            })?;
        }
        self.recorder.note(&self.name, if lit { "1" } else { "0" });
        Ok(())
    }
}

/// The word in brackets: the trigger that is set.
fn selected(triggers: &str) -> &str {
    triggers
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or("none", |(name, _)| name)
}

fn find(root: &Path, names: &[String]) -> Option<String> {
    if let Some(name) = names.iter().find(|name| root.join(name).is_dir()) {
        return Some(name.clone());
    }
    let mut present: Vec<String> = fs::read_dir(root)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        // keyboards, disks and network cards have lights, too
        .filter(|name| !name.starts_with("input") && !name.contains("::"))
        .collect();
    present.sort();
    LIKELY.iter().find_map(|word| {
        let is = |name: &&String| name.to_lowercase().rsplit(':').next().is_some_and(|last| last == *word);
        present.iter().find(is).cloned()
    })
}

impl Output for Onboard {
    fn part(&self) -> Part {
        Part::Onboard
    }

    fn lights(&self) -> Vec<Light> {
        vec![Light {
            name: self.name.clone(),
            colour: "white".into(),
        }]
    }

    fn show(&mut self, frame: &Frame) -> Result<(), Error> {
        self.set(frame.lit)
    }

    fn end(&mut self, end: End) -> Result<(), Error> {
        self.set(end == End::Fault)?;
        if end == End::Off
            && let Some(led) = &self.led
        {
            let path = led.directory.join("trigger");
            fs::write(&path, &led.trigger)
                .map_err(|error| Error::system(format!("LED {}", self.name), &path, &error, "root"))?;
            let _ = fs::remove_file(&led.before);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Colour;

    fn leds(names: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            let led = root.path().join(name);
            fs::create_dir(&led).unwrap();
            fs::write(led.join("trigger"), "none timer [mmc0] heartbeat\n").unwrap();
            fs::write(led.join("max_brightness"), "255\n").unwrap();
            fs::write(led.join("brightness"), "0\n").unwrap();
        }
        root
    }

    fn lit() -> Frame {
        Frame {
            colour: Colour::Green,
            lit: true,
            cpu_percent: 0,
            pods: 0,
            nodes: Vec::new(),
            elapsed: Duration::ZERO,
        }
    }

    #[test]
    fn led_is_taken_from_the_kernel_and_given_back() {
        let (root, run) = (leds(&["ACT", "mmc0::"]), tempfile::tempdir().unwrap());
        let read = |file: &str| fs::read_to_string(root.path().join("ACT").join(file)).unwrap();
        let open = || Onboard::open(root.path(), &["ACT".into()], run.path(), Recorder::default()).unwrap();
        let mut led = open();
        assert_eq!(read("trigger"), "none");
        led.show(&lit()).unwrap();
        assert!(read("brightness").starts_with("255"));
        // killed, started again, and stopped: the first trigger comes back
        let mut led = open();
        led.end(End::Off).unwrap();
        assert_eq!(read("trigger"), "mmc0");
        assert!(read("brightness").starts_with('0'));
        assert!(!run.path().join(BEFORE).exists());
    }

    #[test]
    fn fault_is_left_lit_without_trigger() {
        let (root, run) = (leds(&["ACT"]), tempfile::tempdir().unwrap());
        let mut led = Onboard::open(root.path(), &["ACT".into()], run.path(), Recorder::default()).unwrap();
        led.end(End::Fault).unwrap();
        drop(led);
        let read = |file: &str| fs::read_to_string(root.path().join("ACT").join(file)).unwrap();
        assert!(read("brightness").starts_with("255"));
        assert_eq!(read("trigger"), "none");
    }

    #[test]
    fn unknown_boards_led_is_found_and_a_keyboards_is_not() {
        for (present, expected) in [
            (
                &["input3::capslock", "mmc0::", "green:status"][..],
                Some("green:status"),
            ),
            (&["ACT", "PWR"], Some("ACT")),
            (&["PWR"], Some("PWR")),
            (&["blue:heartbeat", "red:power"], Some("blue:heartbeat")),
            (&["input3::capslock", "eth0:green:lan"], None),
        ] {
            let root = leds(present);
            assert_eq!(find(root.path(), &[]).as_deref(), expected, "{present:?}");
        }
    }

    #[test]
    fn no_led_is_said_with_the_fix() {
        let (root, run) = (leds(&[]), tempfile::tempdir().unwrap());
        let error = Onboard::open(root.path(), &["ACT".into()], run.path(), Recorder::default()).unwrap_err();
        assert_eq!(error.fault(), Some(Fault::Missing));
        assert!(error.to_string().contains("onboard = "), "{error}");
    }

    #[test]
    fn missing_permission_is_said_with_the_file_and_the_fix() {
        let error = Error::system(
            "LED ACT",
            Path::new("/sys/class/leds/ACT/trigger"),
            &io::Error::from(io::ErrorKind::PermissionDenied),
            "root",
        );
        assert_eq!(error.fault(), Some(Fault::Permission));
        let text = error.to_string();
        assert!(
            text.contains("LED ACT (/sys/class/leds/ACT/trigger)") && text.contains("run as root"),
            "{text}"
        );
    }
}
