//! The supported boards and where their LEDs are.

use serde::Deserialize;

use crate::Error;

/// Which of the three LEDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LedName {
    /// Green: there is power and the agent runs.
    Power,
    /// Yellow: the cluster and its work.
    Activity,
    /// Red: something needs a person.
    Fault,
}

impl LedName {
    /// The three, in the order in which they are wired and shown.
    pub const ALL: [Self; 3] = [Self::Power, Self::Activity, Self::Fault];

    /// Lower-case word, as in `boards/*.toml` and `leds.json`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Power => "power",
            Self::Activity => "activity",
            Self::Fault => "fault",
        }
    }
}

/// One LED and its place on the board.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Led {
    /// Colour to buy: `green`, `yellow` or `red`.
    pub colour: String,
    /// BCM number of the GPIO; high means lit.
    pub gpio: u8,
    /// Number of the pin on the 40-pin header, 1 to 40.
    pub pin: u8,
}

/// The pin map of a board.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// Name as people say it, such as `Raspberry Pi 4`.
    pub name: String,
    /// Device-tree names that mean this board.
    pub compatible: Vec<String>,
    /// Label of the GPIO chip that carries the header.
    pub chip: String,
    /// The LED on the board itself, under `/sys/class/leds`.
    pub onboard: String,
    /// Header pin for the LEDs' common ground.
    pub ground: u8,
    /// Green LED.
    pub power: Led,
    /// Yellow LED.
    pub activity: Led,
    /// Red LED.
    pub fault: Led,
}

const DESCRIPTIONS: [(&str, &str); 4] = [
    ("pi-3", include_str!("../boards/pi-3.toml")),
    ("pi-4", include_str!("../boards/pi-4.toml")),
    ("pi-5", include_str!("../boards/pi-5.toml")),
    ("zero-2-w", include_str!("../boards/zero-2-w.toml")),
];

impl Board {
    /// All supported boards.
    ///
    /// # Errors
    /// [`Error::Board`] when a built-in description is malformed, which a test of this crate rules out.
    pub fn all() -> Result<Vec<Self>, Error> {
        DESCRIPTIONS
            .iter()
            .map(|(board, text)| {
                toml::from_str(text).map_err(|source| Error::Board {
                    board,
                    source: Box::new(source),
                })
            })
            .collect()
    }

    /// The board with this device tree: the content of `/proc/device-tree/compatible`, whose names end in NUL bytes.
    /// `None` when it is no supported board.
    ///
    /// # Errors
    /// As [`Board::all`].
    pub fn detect(compatible: &[u8]) -> Result<Option<Self>, Error> {
        let names: Vec<&[u8]> = compatible.split(|byte| *byte == 0).collect();
        Ok(Self::all()?
            .into_iter()
            .find(|board| board.compatible.iter().any(|known| names.contains(&known.as_bytes()))))
    }

    /// The board that a virtual Pi pretends to be: a Raspberry Pi 4.
    ///
    /// # Errors
    /// As [`Board::all`].
    pub fn virtual_pi() -> Result<Self, Error> {
        let (board, text) = DESCRIPTIONS[1];
        toml::from_str(text).map_err(|source| Error::Board {
            board,
            source: Box::new(source),
        })
    }

    /// Where an LED is.
    #[must_use]
    pub fn led(&self, name: LedName) -> &Led {
        match name {
            LedName::Power => &self.power,
            LedName::Activity => &self.activity,
            LedName::Fault => &self.fault,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GPIO of each header pin that carries one (the header is the same on all boards since the Model B+).
    const HEADER: [(u8, u8); 26] = [
        (3, 2),
        (5, 3),
        (7, 4),
        (8, 14),
        (10, 15),
        (11, 17),
        (12, 18),
        (13, 27),
        (15, 22),
        (16, 23),
        (18, 24),
        (19, 10),
        (21, 9),
        (22, 25),
        (23, 11),
        (24, 8),
        (26, 7),
        (29, 5),
        (31, 6),
        (32, 12),
        (33, 13),
        (35, 19),
        (36, 16),
        (37, 26),
        (38, 20),
        (40, 21),
    ];
    const GROUND: [u8; 8] = [6, 9, 14, 20, 25, 30, 34, 39];

    #[test]
    fn every_board_maps_each_led_to_its_own_pin_of_the_header() {
        let boards = Board::all().unwrap();
        assert_eq!(boards.len(), 4);
        for board in boards {
            let mut seen = Vec::new();
            for name in LedName::ALL {
                let led = board.led(name);
                assert!(
                    HEADER.contains(&(led.pin, led.gpio)),
                    "{}: {}",
                    board.name,
                    name.as_str()
                );
                assert!(!seen.contains(&led.pin));
                seen.push(led.pin);
            }
            assert!(GROUND.contains(&board.ground), "{}", board.name);
        }
    }

    #[test]
    fn board_is_known_by_its_device_tree() {
        let board = Board::detect(b"raspberrypi,3-model-b-plus\0brcm,bcm2837\0")
            .unwrap()
            .unwrap();
        assert_eq!(board.name, "Raspberry Pi 3");
        let board = Board::detect(b"raspberrypi,5-model-b\0brcm,bcm2712\0")
            .unwrap()
            .unwrap();
        assert_eq!(board.chip, "pinctrl-rp1");
        assert_eq!(Board::detect(b"raspberrypi,3-model\0").unwrap(), None);
    }
}
