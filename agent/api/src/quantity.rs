//! Quantities: `100m`, `1.5Gi`, `2e3`, exact to a thousand-millionth, as `apimachinery/pkg/api/resource` reads and writes them.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde_json::Value;

/// Nanos in one unit.
const UNIT: i128 = 1_000_000_000;
/// Largest magnitude: `i64::MAX` units, as in Kubernetes.
const MAX: i128 = i64::MAX as i128 * UNIT;

/// Which family of suffixes a quantity was written with; it is written back in the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `n u m k M G T P E`.
    #[default]
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`.
    BinarySi,
    /// `e3`.
    DecimalExponent,
}

/// An exact number with the suffix family it was written in.
///
/// Equality and order look at the number only: `1000m` equals `1`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity; the texts are those of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text has not the form of a quantity at all.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Form,
    /// The part before the suffix is no number.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// No such suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// Power of ten, or of two, that a suffix stands for.
enum Scale {
    Ten(i32, Format),
    Two(u32),
}

fn scale(suffix: &str) -> Result<Scale, Error> {
    use Format::{DecimalExponent, DecimalSi};
    Ok(match suffix {
        "" => Scale::Ten(0, DecimalSi),
        "n" => Scale::Ten(-9, DecimalSi),
        "u" => Scale::Ten(-6, DecimalSi),
        "m" => Scale::Ten(-3, DecimalSi),
        "k" => Scale::Ten(3, DecimalSi),
        "M" => Scale::Ten(6, DecimalSi),
        "G" => Scale::Ten(9, DecimalSi),
        "T" => Scale::Ten(12, DecimalSi),
        "P" => Scale::Ten(15, DecimalSi),
        "E" => Scale::Ten(18, DecimalSi),
        "Ki" => Scale::Two(10),
        "Mi" => Scale::Two(20),
        "Gi" => Scale::Two(30),
        "Ti" => Scale::Two(40),
        "Pi" => Scale::Two(50),
        "Ei" => Scale::Two(60),
        other => {
            let exponent = other.strip_prefix(['e', 'E']).ok_or(Error::Suffix)?;
            Scale::Ten(exponent.parse().map_err(|_| Error::Suffix)?, DecimalExponent)
        }
    })
}

impl Quantity {
    /// Zero.
    pub const ZERO: Self = Self {
        nanos: 0,
        format: Format::DecimalSi,
    };

    /// A number of thousand-millionths, e.g. nanocores.
    pub fn from_nanos(nanos: i128, format: Format) -> Self {
        Self {
            nanos: nanos.clamp(-MAX, MAX),
            format,
        }
    }

    /// A number of thousandths, e.g. millicores.
    pub fn from_milli(milli: i64) -> Self {
        Self::from_nanos(i128::from(milli) * 1_000_000, Format::DecimalSi)
    }

    /// A whole number, e.g. of bytes (`BinarySi`) or of pods (`DecimalSi`).
    pub fn from_units(units: i64, format: Format) -> Self {
        Self::from_nanos(i128::from(units) * UNIT, format)
    }

    /// Reads a quantity. Values smaller than a nano are rounded up to one, values beyond `i64::MAX` units are capped.
    ///
    /// # Errors
    /// The text is no quantity.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
            None => return Err(Error::Form),
        };
        let end = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        if number.is_empty()
            || !suffix
                .bytes()
                .all(|b| b"eEinumkKMGTP+-".contains(&b) || b.is_ascii_digit())
        {
            return Err(Error::Form);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || whole.is_empty() && fraction.is_empty() {
            return Err(Error::Number);
        }
        let scale = scale(suffix)?;
        let digits: String = [whole, fraction].concat();
        let digits = digits.trim_start_matches('0');
        let places = i32::try_from(fraction.len()).map_err(|_| Error::Number)?;
        let (magnitude, format) = match scale {
            Scale::Ten(exponent, format) => (decimal(digits, exponent.saturating_sub(places))?, format),
            Scale::Two(bits) => (binary(digits, places, bits)?, Format::BinarySi),
        };
        // As Kubernetes does: a part of a byte is said in decimal, so that nothing is rounded.
        let format = if format == Format::BinarySi && magnitude > 0 && magnitude < UNIT {
            Format::DecimalSi
        } else {
            format
        };
        Ok(Self {
            nanos: if negative { -magnitude } else { magnitude },
            format,
        })
    }

    /// Reads a quantity from JSON, where it may be a string or a number.
    ///
    /// # Errors
    /// The value is neither, or no quantity.
    pub fn from_value(value: &Value) -> Result<Self, Error> {
        match value {
            Value::String(text) => Self::parse(text),
            Value::Number(number) => Self::parse(&number.to_string()),
            _ => Err(Error::Form),
        }
    }

    /// Thousand-millionths, exact.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// Thousandths, rounded up.
    pub fn milli(self) -> i128 {
        divide_up(self.nanos, 1_000_000)
    }

    /// Whole units, rounded up, e.g. bytes.
    pub fn units(self) -> i64 {
        i64::try_from(divide_up(self.nanos, UNIT)).unwrap_or(if self.nanos < 0 { i64::MIN } else { i64::MAX })
    }

    /// The suffix family it is written in.
    pub fn format(self) -> Format {
        self.format
    }

    /// No units at all.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Less than zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// A whole number of units.
    pub fn is_whole(self) -> bool {
        self.nanos % UNIT == 0
    }
}

/// Rounds away from zero.
fn divide_up(nanos: i128, by: i128) -> i128 {
    let quotient = nanos / by;
    if nanos % by == 0 {
        quotient
    } else {
        quotient + nanos.signum()
    }
}

/// `digits × 10^exponent` in nanos, rounded up, capped.
fn decimal(digits: &str, exponent: i32) -> Result<i128, Error> {
    if digits.is_empty() {
        return Ok(0);
    }
    let exponent = exponent.saturating_add(9);
    let length = i64::try_from(digits.len()).map_err(|_| Error::Number)?;
    // 29 digits hold every value below the cap.
    if length + i64::from(exponent) > 29 {
        return Ok(MAX);
    }
    if exponent >= 0 {
        let number: i128 = digits.parse().map_err(|_| Error::Number)?;
        return Ok((number * 10i128.pow(exponent.unsigned_abs())).min(MAX));
    }
    let cut = usize::try_from(exponent.unsigned_abs()).map_err(|_| Error::Number)?;
    if cut >= digits.len() {
        return Ok(1);
    }
    let (kept, lost) = digits.split_at(digits.len() - cut);
    let number: i128 = kept.parse().map_err(|_| Error::Number)?;
    Ok((number + i128::from(lost.bytes().any(|b| b != b'0'))).min(MAX))
}

/// `digits × 2^bits / 10^places` in nanos, rounded up, capped.
fn binary(digits: &str, places: i32, bits: u32) -> Result<i128, Error> {
    // Beyond 19 digits the value is over the cap already, unless they are decimal places; those are cut to 18.
    let places = usize::try_from(places).map_err(|_| Error::Number)?;
    let (digits, places, lost) = if places > 18 {
        let keep = digits.len().saturating_sub(places - 18);
        (&digits[..keep], 18, digits[keep..].bytes().any(|b| b != b'0'))
    } else {
        (digits, places, false)
    };
    if digits.len() > 38 {
        return Ok(MAX);
    }
    let number: i128 = if digits.is_empty() {
        0
    } else {
        digits.parse().map_err(|_| Error::Number)?
    };
    let number = number + i128::from(lost);
    let divisor = 10i128.pow(u32::try_from(places).map_err(|_| Error::Number)?);
    // Whole units first, then the rest, so that nothing overflows before the cap.
    let whole = number / divisor;
    let rest = number % divisor;
    let Some(whole) = whole
        .checked_mul(1 << bits)
        .filter(|whole| *whole <= i128::from(i64::MAX))
    else {
        return Ok(MAX);
    };
    // rest < 10^18 and 2^60 < 2×10^18: the product fits; the part below a unit is then taken in nanos.
    let scaled = rest * (1 << bits);
    let nanos = (scaled / divisor) * UNIT + divide_up((scaled % divisor) * UNIT, divisor);
    Ok((whole * UNIT + nanos).min(MAX))
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that loses nothing.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return formatter.write_str("0");
        }
        if self.format == Format::BinarySi && self.nanos.abs() >= 1024 * UNIT {
            let mut number = divide_up(self.nanos, UNIT);
            let mut suffixes = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].into_iter();
            let mut suffix = "";
            while number % 1024 == 0 {
                let Some(next) = suffixes.next() else { break };
                number /= 1024;
                suffix = next;
            }
            return write!(formatter, "{number}{suffix}");
        }
        let mut number = self.nanos;
        let mut exponent = -9;
        while number % 1000 == 0 && exponent < 18 {
            number /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 {
                write!(formatter, "{number}")
            } else {
                write!(formatter, "{number}e{exponent}")
            };
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            18 => "E",
            _ => "",
        };
        write!(formatter, "{number}{suffix}")
    }
}

impl FromStr for Quantity {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;
    /// The sum, in the suffix family of the left side, or of the right side if the left is zero.
    fn add(self, other: Self) -> Self {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Self::from_nanos(self.nanos.saturating_add(other.nanos), format)
    }
}

impl Sub for Quantity {
    type Output = Self;
    /// The difference, in the suffix family of the left side, or of the right side if the left is zero.
    fn sub(self, other: Self) -> Self {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Self::from_nanos(self.nanos.saturating_sub(other.nanos), format)
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(quantities: I) -> Self {
        quantities.fold(Self::ZERO, Self::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form_is_that_of_kubernetes() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Mi", "0"),
            ("100m", "100m"),
            ("0.1", "100m"),
            (".5", "500m"),
            ("1.", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("512Ki", "512Ki"),
            ("0.5Ki", "512"),
            ("0.5Mi", "512Ki"),
            ("1000Ki", "1000Ki"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("1E3", "1e3"),
            ("1E", "1E"),
            ("2e-3", "2e-3"),
            ("-100m", "-100m"),
            ("+2", "2"),
            ("000123", "123"),
            ("0.1m", "100u"),
            ("0.0000000001", "1n"),
            ("1.23456789n", "2n"),
            ("9223372036854775807", "9223372036854775807"),
            ("100E", "9223372036854775807"),
            ("8Ei", "9223372036854775807"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("129M", "129M"),
            ("123Mi", "123Mi"),
        ] {
            assert_eq!(Quantity::parse(text).unwrap().to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_kubernetes_words() {
        for (text, error) in [
            ("", Error::Form),
            ("abc", Error::Form),
            ("1 Gi", Error::Form),
            ("1gb", Error::Form),
            ("--1", Error::Form),
            ("1.2.3", Error::Number),
            (".", Error::Number),
            ("1GiB", Error::Form),
            ("1mm", Error::Suffix),
            ("1K", Error::Suffix),
            ("1e", Error::Suffix),
            ("1i", Error::Suffix),
            ("１", Error::Form),
        ] {
            assert_eq!(Quantity::parse(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn numbers_compare_whatever_their_suffix() {
        let parse = |text| Quantity::parse(text).unwrap();
        assert_eq!(parse("1000m"), parse("1"));
        assert!(parse("1Gi") > parse("1G"));
        assert!(parse("-1") < parse("0"));
        assert_eq!((parse("250m") + parse("1")).to_string(), "1250m");
        assert_eq!((parse("1Gi") - parse("512Mi")).to_string(), "512Mi");
        assert_eq!(["100m", "200m"].into_iter().map(parse).sum::<Quantity>().milli(), 300);
    }

    #[test]
    fn readings_are_rounded_up() {
        let parse = |text| Quantity::parse(text).unwrap();
        assert_eq!(parse("100u").milli(), 1);
        assert_eq!(parse("1500m").units(), 2);
        assert_eq!(parse("64Mi").units(), 67_108_864);
        assert_eq!(Quantity::from_value(&serde_json::json!(0.5)).unwrap().milli(), 500);
        assert!(Quantity::from_value(&serde_json::json!(true)).is_err());
    }

    #[test]
    fn no_text_panics() {
        for text in [
            "9".repeat(60),
            format!("0.{}1Ki", "0".repeat(60)),
            format!("{}Ei", "9".repeat(38)),
            "1e2147483647".to_owned(),
            "1e-2147483648".to_owned(),
            format!("1.{}Ei", "9".repeat(40)),
        ] {
            let quantity = Quantity::parse(&text).unwrap();
            assert!(!quantity.is_negative(), "{text}");
            assert!(!quantity.to_string().is_empty());
        }
    }
}
