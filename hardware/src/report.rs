//! What the lights say, as a file that other programs read.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{Error, Reason};

/// Name of the file in the run directory.
pub const REPORT: &str = "leds.json";
/// Name of the record beside it.
pub const LOG: &str = "leds.log";

/// What `leds.json` holds: written at each change of reason, not at each edge, which are in `leds.log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`State::name`](crate::State::name).
    pub state: String,
    /// [`Reason::name`].
    pub reason: String,
    /// [`Reason::meaning`].
    pub meaning: String,
    /// [`State::looks`](crate::State::looks).
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
    /// As the record names it: the number of a GPIO, the name of an LED, or a pixel.
    pub name: String,
    /// Its colour; `rgb` for one that has all.
    pub colour: String,
}

impl Report {
    /// The report of what began at `since` (milliseconds since 1970) on these lights.
    #[must_use]
    pub fn new(reason: Reason, lights: Vec<Light>, since: u64) -> Self {
        let state = reason.state();
        Self {
            state: state.name().to_owned(),
            reason: reason.name().to_owned(),
            meaning: reason.meaning().to_owned(),
            looks: state.looks().to_owned(),
            colour: state.colour().as_str().to_owned(),
            since,
            lights,
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

    /// Replaces the file in one step, so that a reader never sees half of it. It lies in memory: no sync.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let write = || -> io::Result<()> {
            let text = serde_json::to_vec(self)?;
            let fresh: PathBuf = path.with_extension("json.new");
            fs::write(&fresh, text)?;
            fs::rename(&fresh, path)
        };
        write().map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })
    }
}

impl Light {
    /// A dot for a terminal, in the colour that the light has at this level (`0`, `1`, or a colour), and a space.
    #[must_use]
    pub fn dot(&self, level: &str) -> String {
        if level == "0" {
            return "\x1b[90m●\x1b[0m ".into();
        }
        let part = |at: usize| level.get(at..at + 2).and_then(|text| u8::from_str_radix(text, 16).ok());
        if let (6, Some(red), Some(green), Some(blue)) = (level.len(), part(0), part(2), part(4)) {
            return format!("\x1b[38;2;{red};{green};{blue}m●\x1b[0m ");
        }
        let code = match self.colour.as_str() {
            "green" => 92,
            "yellow" => 93,
            "red" => 91,
            "blue" => 94,
            _ => 97,
        };
        format!("\x1b[{code}m●\x1b[0m ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_have_the_colour_of_the_light() {
        let light = |colour: &str| Light {
            name: "x".into(),
            colour: colour.into(),
        };
        assert_eq!(light("red").dot("1"), "\x1b[91m●\x1b[0m ");
        assert_eq!(light("red").dot("0"), "\x1b[90m●\x1b[0m ");
        assert_eq!(light("rgb").dot("ff5000"), "\x1b[38;2;255;80;0m●\x1b[0m ");
    }
}
