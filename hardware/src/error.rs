//! What can go wrong between a pattern and a pin.

use std::{io, path::PathBuf};

/// Failure of a board description, a pin, or the files that mirror them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The description of a board is not what it must be.
    #[error("read the description of board {board}")]
    Board {
        /// File name of the board, without `.toml`.
        board: &'static str,
        /// What the TOML reader says.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A pin could not be switched.
    #[error("switch GPIO {gpio}")]
    Pin {
        /// BCM number of the pin.
        gpio: u8,
        /// What the driver of the pin says.
        #[source]
        source: io::Error,
    },
    /// A file that mirrors the LEDs could not be written.
    #[error("write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}
