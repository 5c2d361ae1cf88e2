//! What can go wrong between a pattern and a pin.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a pin, or a light that is no pin, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no such pin, or it is not to be used.
    Wrong,
    /// The file that it is reached by does not let this user in.
    Permission,
    /// Another program has it.
    Busy,
    /// There is no way to reach pins on this board.
    Missing,
    /// The system refused for another reason.
    Failed,
}

/// Failure of a pin map, a pin, or the files that mirror them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A pin map is not what it must be.
    #[error("read the pin map {name}")]
    Map {
        /// Its file, or the name of a built-in one.
        name: String,
        /// What the TOML reader says.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A pin map says what cannot be.
    #[error("pin map: {0}")]
    Plan(String),
    /// A pin or a light is refused.
    #[error("{what} ({}): {problem}; {fix}", file.display())]
    Refused {
        /// `GPIO 17 (pin 11)`, or the name of the light.
        what: String,
        /// The file that it is reached by.
        file: PathBuf,
        /// The kind of failure.
        fault: Fault,
        /// What is so.
        problem: String,
        /// What to do.
        fix: String,
    },
    /// A file could not be read or written.
    #[error("write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// The kind of failure, of a pin or light that was refused.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Refused { fault, .. } => Some(*fault),
            _ => None,
        }
    }

    /// The same, said of the pins that it was wanted for: who may not have a chip is told of the pins as well.
    #[must_use]
    pub fn wanted_for(mut self, pins: &[u8]) -> Self {
        if let Self::Refused { what, .. } = &mut self {
            let pins: Vec<String> = pins.iter().map(ToString::to_string).collect();
            *what = format!("{what}, for GPIO {}", pins.join(", "));
        }
        self
    }

    pub(crate) fn refused(
        what: impl Into<String>,
        file: &Path,
        fault: Fault,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self::Refused {
            what: what.into(),
            file: file.into(),
            fault,
            problem: problem.into(),
            fix: fix.into(),
        }
    }

    /// A refusal for what the system said of a file.
    pub(crate) fn system(what: impl Into<String>, file: &Path, error: &io::Error, group: &str) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::refused(
                what,
                file,
                Fault::Permission,
                "this user may not use it",
                match group {
                    "root" => "run as root".into(),
                    group => format!("run as root, or as a user of the group {group}"),
                },
            ),
            io::ErrorKind::ResourceBusy => Self::refused(
                what,
                file,
                Fault::Busy,
                "another program has it",
                "stop that program, or choose another pin under [leds.board] in the configuration",
            ),
            io::ErrorKind::NotFound => Self::refused(
                what,
                file,
                Fault::Missing,
                "it is not there",
                "this kernel or board has none of it; choose other parts under [leds] in the configuration",
            ),
            _ => Self::refused(
                what,
                file,
                Fault::Failed,
                error.to_string(),
                "see the kernel's log: dmesg",
            ),
        }
    }
}
