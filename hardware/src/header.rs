//! The header of 40 pins, the same on every board since the Model B+.

/// Pin of the header for each GPIO that it carries, by BCM number from 2 to 27. GPIO 0 and 1 (pins 27 and 28) belong to the
/// memory of a HAT and are not to be used for anything else.
const PINS: [u8; 26] = [
    3, 5, 7, 29, 31, 26, 24, 21, 19, 23, 32, 33, 8, 10, 36, 11, 12, 35, 38, 40, 15, 16, 18, 22, 37, 13,
];

/// Pins that are ground.
pub const GROUND: [u8; 8] = [6, 9, 14, 20, 25, 30, 34, 39];

/// The pin of the header that carries this GPIO; `None` when there is none to be used.
#[must_use]
pub fn pin(gpio: u8) -> Option<u8> {
    PINS.get(usize::from(gpio).checked_sub(2)?).copied()
}

/// What is printed beside a pin of the header, 1 to 40.
#[must_use]
pub fn label(pin: u8) -> String {
    match pin {
        1 | 17 => "3.3 V".into(),
        2 | 4 => "5 V".into(),
        27 => "ID SD".into(),
        28 => "ID SC".into(),
        _ if GROUND.contains(&pin) => "ground".into(),
        _ => match (2..=27).find(|gpio| self::pin(*gpio) == Some(pin)) {
            Some(gpio) => format!("GPIO {gpio}"),
            None => String::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_of_the_forty_pins_is_one_thing() {
        let pins: HashSet<u8> = PINS.into_iter().chain(GROUND).chain([1, 2, 4, 17, 27, 28]).collect();
        assert_eq!(pins, (1..=40).collect());
    }

    /// Raspberry Pi documentation, "GPIO and the 40-pin header".
    #[test]
    fn pins_are_where_the_documentation_has_them() {
        for (gpio, at) in [
            (2, 3),
            (4, 7),
            (14, 8),
            (17, 11),
            (27, 13),
            (22, 15),
            (23, 16),
            (26, 37),
            (13, 33),
            (21, 40),
        ] {
            assert_eq!(pin(gpio), Some(at), "GPIO {gpio}");
        }
        for gpio in [0, 1, 28, 255] {
            assert_eq!(pin(gpio), None);
        }
        assert_eq!(label(9), "ground");
        assert_eq!(label(37), "GPIO 26");
    }
}
