//! The supported boards: what is where, as data.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

use crate::{Error, header};

/// A part that can be wired to a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The LED on the board itself.
    Onboard,
    /// Single LEDs, each of one colour.
    Leds,
    /// One LED that mixes red, green and blue.
    Rgb,
    /// APA102 pixels, such as a Blinkt!.
    Strip,
    /// A push button.
    Button,
    /// A fan behind a transistor.
    Fan,
}

impl Part {
    /// Lower-case word, as in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Onboard => "onboard",
            Self::Leds => "leds",
            Self::Rgb => "rgb",
            Self::Strip => "strip",
            Self::Button => "button",
            Self::Fan => "fan",
        }
    }

    /// What is driven when the configuration does not say: what does no harm when it is not wired.
    #[must_use]
    pub fn usual() -> Vec<Self> {
        vec![Self::Onboard, Self::Leds, Self::Button]
    }
}

/// Where the other ends of LEDs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wiring {
    /// At ground: a high pin is lit.
    #[default]
    Cathode,
    /// At 3.3 V: a low pin is lit.
    Anode,
}

impl Wiring {
    /// Level of the pin of an LED that is to be lit, or not.
    #[must_use]
    pub fn level(self, lit: bool) -> bool {
        lit == (self == Self::Cathode)
    }
}

/// Single LEDs. Those that are not there are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Leds {
    /// Where their other ends are.
    pub wiring: Wiring,
    /// Pin of the header for the common end, when it is ground.
    pub ground: Option<u8>,
    /// GPIO of a green LED.
    pub green: Option<u8>,
    /// GPIO of a yellow LED.
    pub yellow: Option<u8>,
    /// GPIO of a red LED.
    pub red: Option<u8>,
    /// GPIO of a blue LED.
    pub blue: Option<u8>,
    /// GPIO of a white LED.
    pub white: Option<u8>,
}

/// An LED that mixes colours.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rgb {
    /// Where its common end is.
    #[serde(default)]
    pub wiring: Wiring,
    /// Pin of the header for the common end, when it is ground.
    pub ground: Option<u8>,
    /// GPIO of red.
    pub red: u8,
    /// GPIO of green.
    pub green: u8,
    /// GPIO of blue.
    pub blue: u8,
}

/// What the pixels of a strip show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StripMode {
    /// The first pixel is the state, half of the others the processor's load, the rest the pods.
    #[default]
    Bar,
    /// A pixel for each node of the cluster, on the control plane.
    Nodes,
}

/// APA102 pixels.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Strip {
    /// GPIO of the data line.
    pub data: u8,
    /// GPIO of the clock line.
    pub clock: u8,
    /// How many pixels there are.
    pub pixels: u8,
    /// What they show.
    #[serde(default)]
    pub mode: StripMode,
    /// Pin of the header for ground.
    pub ground: Option<u8>,
}

/// A push button between a pin and ground.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Button {
    /// Its GPIO.
    pub gpio: u8,
    /// Pin of the header for ground.
    pub ground: Option<u8>,
}

/// A fan that is switched by a transistor.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fan {
    /// Its GPIO; high is on.
    pub gpio: u8,
    /// Pin of the header for ground.
    pub ground: Option<u8>,
    /// Degrees Celsius from which on it turns with all it has.
    #[serde(default = "Fan::usual_full")]
    pub full: u8,
    /// Degrees Celsius from which on it turns at all.
    #[serde(default = "Fan::usual_begin")]
    pub begin: u8,
}

impl Fan {
    fn usual_full() -> u8 {
        75
    }

    fn usual_begin() -> u8 {
        55
    }
}

/// Milliwatts of a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Power {
    /// At rest.
    pub rest: u32,
    /// With all cores at work.
    pub work: u32,
    /// What its supply should give.
    pub supply: u32,
}

/// The pin map of a board.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// Name as people say it, such as `Raspberry Pi 4 B`.
    pub name: String,
    /// What `/proc/device-tree/model` begins with on this board.
    #[serde(default)]
    pub models: Vec<String>,
    /// Label of the GPIO chip that carries the header; without one there are no pins.
    pub chip: Option<String>,
    /// Names of the LED on the board itself, under `/sys/class/leds`; the first that is there is used.
    #[serde(default)]
    pub onboard: Vec<String>,
    /// What it draws.
    pub power: Option<Power>,
    /// Single LEDs.
    pub leds: Option<Leds>,
    /// An LED that mixes colours.
    pub rgb: Option<Rgb>,
    /// Pixels.
    pub strip: Option<Strip>,
    /// A button.
    pub button: Option<Button>,
    /// A fan.
    pub fan: Option<Fan>,
}

/// What the configuration changes of a pin map: each table that is given replaces that of the board.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Changes {
    /// Label of the GPIO chip.
    pub chip: Option<String>,
    /// Names of the LED on the board.
    pub onboard: Option<Vec<String>>,
    /// Single LEDs.
    pub leds: Option<Leds>,
    /// An LED that mixes colours.
    pub rgb: Option<Rgb>,
    /// Pixels.
    pub strip: Option<Strip>,
    /// A button.
    pub button: Option<Button>,
    /// A fan.
    pub fan: Option<Fan>,
}

/// The built-in pin maps.
const MAPS: [(&str, &str); 6] = [
    ("pi-zero-2-w", include_str!("../boards/pi-zero-2-w.toml")),
    ("pi-3", include_str!("../boards/pi-3.toml")),
    ("pi-4", include_str!("../boards/pi-4.toml")),
    ("cm-4", include_str!("../boards/cm-4.toml")),
    ("pi-5", include_str!("../boards/pi-5.toml")),
    ("cm-5", include_str!("../boards/cm-5.toml")),
];

impl Board {
    /// All built-in boards, by the name of their files.
    ///
    /// # Errors
    /// [`Error::Map`] when one is malformed, which a test of this crate rules out.
    pub fn all() -> Result<BTreeMap<&'static str, Self>, Error> {
        MAPS.iter()
            .map(|(name, text)| Ok((*name, parse(name, text)?)))
            .collect()
    }

    /// The board of this model, as `/proc/device-tree/model` has it; one that is not known has no pins, but may have an LED
    /// of its own.
    ///
    /// # Errors
    /// As [`Board::all`].
    pub fn of_model(model: &str) -> Result<Self, Error> {
        let model = model.trim_matches(['\0', '\n', ' ']);
        let known = Self::all()?
            .into_values()
            .flat_map(|board| board.models.clone().into_iter().map(move |name| (name, board.clone())))
            .filter(|(name, _)| model.starts_with(name.as_str()))
            .max_by_key(|(name, _)| name.len());
        Ok(known.map_or_else(
            || Self {
                name: if model.is_empty() {
                    "unknown board".into()
                } else {
                    model.into()
                },
                ..Self::default()
            },
            |(_, board)| board,
        ))
    }

    /// The board that this program runs on.
    ///
    /// # Errors
    /// As [`Board::all`].
    pub fn here() -> Result<Self, Error> {
        Self::of_model(&fs::read_to_string("/proc/device-tree/model").unwrap_or_default())
    }

    /// The board that a virtual Pi pretends to be: a Raspberry Pi 4.
    ///
    /// # Errors
    /// As [`Board::all`].
    pub fn virtual_pi() -> Result<Self, Error> {
        Self::of_model("Raspberry Pi 4 Model B")
    }

    /// A pin map from a file.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Map`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::File {
            path: path.into(),
            source,
        })?;
        parse(&path.display().to_string(), &text)
    }

    /// With what the configuration changes.
    #[must_use]
    pub fn changed(mut self, changes: Changes) -> Self {
        let Changes {
            chip,
            onboard,
            leds,
            rgb,
            strip,
            button,
            fan,
        } = changes;
        self.chip = chip.or(self.chip);
        self.onboard = onboard.unwrap_or(self.onboard);
        self.leds = leds.or(self.leds);
        self.rgb = rgb.or(self.rgb);
        self.strip = strip.or(self.strip);
        self.button = button.or(self.button);
        self.fan = fan.or(self.fan);
        self
    }

    /// The GPIOs of a part, with what each is for.
    #[must_use]
    pub fn pins(&self, part: Part) -> Vec<(&'static str, u8)> {
        match part {
            Part::Onboard => Vec::new(),
            Part::Leds => self.leds.as_ref().map(Leds::pins).unwrap_or_default(),
            Part::Rgb => self
                .rgb
                .as_ref()
                .map(|rgb| vec![("red", rgb.red), ("green", rgb.green), ("blue", rgb.blue)])
                .unwrap_or_default(),
            Part::Strip => self
                .strip
                .as_ref()
                .map(|strip| vec![("data", strip.data), ("clock", strip.clock)])
                .unwrap_or_default(),
            Part::Button => self.button.iter().map(|button| ("button", button.gpio)).collect(),
            Part::Fan => self.fan.iter().map(|fan| ("fan", fan.gpio)).collect(),
        }
    }

    /// Looks that no two of these parts want the same pin, and that each pin is one of the header.
    ///
    /// # Errors
    /// [`Error::Plan`] that names the pin and who wants it.
    pub fn check(&self, parts: &[Part]) -> Result<(), Error> {
        let mut taken: BTreeMap<u8, String> = BTreeMap::new();
        for part in parts {
            for (what, gpio) in self.pins(*part) {
                let wanted = format!("{} {what}", part.as_str());
                if header::pin(gpio).is_none() {
                    return Err(Error::Plan(format!(
                        "GPIO {gpio} for {wanted} is not on the header of 40 pins: use one of 2 to 27"
                    )));
                }
                if let Some(other) = taken.insert(gpio, wanted.clone()) {
                    return Err(Error::Plan(format!(
                        "GPIO {gpio} is for {other} and for {wanted}: give one of them another pin under [leds.board]"
                    )));
                }
            }
        }
        Ok(())
    }
}

impl Leds {
    /// The LEDs that are there: colour and GPIO, in the order in which they are shown.
    #[must_use]
    pub fn pins(&self) -> Vec<(&'static str, u8)> {
        [
            ("green", self.green),
            ("yellow", self.yellow),
            ("red", self.red),
            ("blue", self.blue),
            ("white", self.white),
        ]
        .into_iter()
        .filter_map(|(colour, gpio)| Some((colour, gpio?)))
        .collect()
    }
}

fn parse(name: &str, text: &str) -> Result<Board, Error> {
    toml::from_str(text).map_err(|source| Error::Map {
        name: name.into(),
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: [Part; 6] = [
        Part::Onboard,
        Part::Leds,
        Part::Rgb,
        Part::Strip,
        Part::Button,
        Part::Fan,
    ];

    #[test]
    fn all_parts_of_each_board_have_pins_of_their_own() {
        let boards = Board::all().unwrap();
        assert_eq!(boards.len(), 6);
        for board in boards.values() {
            board.check(&EVERYTHING).unwrap();
            let grounds = [
                board.leds.as_ref().unwrap().ground,
                board.rgb.as_ref().unwrap().ground,
                board.strip.as_ref().unwrap().ground,
                board.button.as_ref().unwrap().ground,
                board.fan.as_ref().unwrap().ground,
            ];
            assert!(grounds.iter().all(|pin| header::GROUND.contains(&pin.unwrap())));
        }
    }

    #[test]
    fn board_is_known_by_its_model() {
        for (model, name) in [
            ("Raspberry Pi Zero 2 W Rev 1.0\0", "Raspberry Pi Zero 2 W"),
            ("Raspberry Pi 3 Model B\0", "Raspberry Pi 3 B and 3 B+"),
            ("Raspberry Pi 3 Model B Plus Rev 1.3\0", "Raspberry Pi 3 B and 3 B+"),
            ("Raspberry Pi 4 Model B Rev 1.5", "Raspberry Pi 4 B"),
            ("Raspberry Pi Compute Module 4 Rev 1.1", "Raspberry Pi Compute Module 4"),
            ("Raspberry Pi 5 Model B Rev 1.0", "Raspberry Pi 5"),
            ("Raspberry Pi Compute Module 5 Rev 1.0", "Raspberry Pi Compute Module 5"),
        ] {
            assert_eq!(Board::of_model(model).unwrap().name, name);
        }
        let other = Board::of_model("Orange Pi 5\0").unwrap();
        assert_eq!(
            (other.name.as_str(), other.chip, other.leds),
            ("Orange Pi 5", None, None)
        );
    }

    #[test]
    fn a_pin_that_two_parts_want_is_named() {
        let changes: Changes = toml::from_str("[button]\ngpio = 22").unwrap();
        let board = Board::virtual_pi().unwrap().changed(changes);
        let error = board.check(&EVERYTHING).unwrap_err().to_string();
        assert!(
            error.contains("GPIO 22 is for leds red and for button button"),
            "{error}"
        );
        let changes: Changes = toml::from_str("[leds]\ngreen = 30").unwrap();
        let board = Board::virtual_pi().unwrap().changed(changes);
        let error = board.check(&EVERYTHING).unwrap_err().to_string();
        assert!(error.contains("GPIO 30 for leds green is not on the header"), "{error}");
    }

    #[test]
    fn a_common_anode_is_lit_by_a_low_pin() {
        assert!(Wiring::Cathode.level(true) && !Wiring::Cathode.level(false));
        assert!(!Wiring::Anode.level(true) && Wiring::Anode.level(false));
    }
}
