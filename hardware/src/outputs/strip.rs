//! APA102 pixels, such as a Blinkt!, clocked out bit by bit over two pins. Pixels keep what they were told last, also when
//! nobody lives who told them.

use super::{End, Frame, Output, rgb::hexadecimal};
use crate::{
    Colour, Error, Light, Part, Pins, Recorder,
    board::{Strip, StripMode},
};

/// Brightness of 31: pixels this close to the eye are too bright otherwise.
const BRIGHTNESS: u8 = 3;
/// Pods that one pixel of the bar stands for.
const PODS_PER_PIXEL: u32 = 4;

/// Pixels on a data and a clock pin.
pub struct PixelStrip {
    pins: Box<dyn Pins>,
    strip: Strip,
    shown: Vec<[u8; 3]>,
    recorder: Recorder,
}

/// The colours of all pixels.
pub(crate) fn pixels(strip: &Strip, frame: &Frame) -> Vec<[u8; 3]> {
    let count = usize::from(strip.pixels);
    let own = if frame.lit { frame.colour.rgb() } else { [0; 3] };
    let mut pixels = vec![[0; 3]; count];
    if strip.mode == StripMode::Nodes && !frame.nodes.is_empty() {
        for (pixel, state) in pixels.iter_mut().zip(&frame.nodes) {
            if state.pattern().at(frame.elapsed).0 {
                *pixel = state.colour().rgb();
            }
        }
        return pixels;
    }
    let Some((first, bars)) = pixels.split_first_mut() else {
        return pixels;
    };
    *first = own;
    let half = bars.len().div_ceil(2);
    let (load, pods) = bars.split_at_mut(half);
    let lit = (usize::from(frame.cpu_percent) * load.len()).div_ceil(100);
    for (index, pixel) in load.iter_mut().take(lit).enumerate() {
        // from green to red, and the length says the same
        *pixel = if index + 1 == half {
            Colour::Red.rgb()
        } else {
            Colour::Green.rgb()
        };
    }
    let lit = usize::try_from(frame.pods.div_ceil(PODS_PER_PIXEL)).unwrap_or(usize::MAX);
    for pixel in pods.iter_mut().take(lit) {
        *pixel = Colour::Blue.rgb();
    }
    pixels
}

/// What goes over the wire: 32 zeros, a word for each pixel, and enough clocks for the last of them to get its own (APA102
/// data sheet; SK9822 needs 32 zeros more).
fn bytes(pixels: &[[u8; 3]]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for [red, green, blue] in pixels {
        bytes.extend([0xe0 | BRIGHTNESS, *blue, *green, *red]);
    }
    bytes.extend(std::iter::repeat_n(0, 4 + pixels.len().div_ceil(16)));
    bytes
}

impl PixelStrip {
    /// Takes the pins; all pixels are dark at first.
    ///
    /// # Errors
    /// [`Error::Refused`] for the first pin that cannot be had.
    pub fn open(mut pins: Box<dyn Pins>, strip: Strip, recorder: Recorder) -> Result<Self, Error> {
        pins.output(strip.data, false)?;
        pins.output(strip.clock, false)?;
        let mut output = Self {
            pins,
            shown: Vec::new(),
            recorder,
            strip,
        };
        output.set(vec![[0; 3]; usize::from(output.strip.pixels)])?;
        Ok(output)
    }

    fn set(&mut self, pixels: Vec<[u8; 3]>) -> Result<(), Error> {
        if self.shown == pixels {
            return Ok(());
        }
        let mut data = None;
        for byte in bytes(&pixels) {
            for bit in (0..8).rev() {
                let level = byte >> bit & 1 == 1;
                if data != Some(level) {
                    self.pins.set(self.strip.data, level)?;
                    data = Some(level);
                }
                self.pins.set(self.strip.clock, true)?;
                self.pins.set(self.strip.clock, false)?;
            }
        }
        for (index, pixel) in pixels.iter().enumerate() {
            if self.shown.get(index).unwrap_or(&[0; 3]) != pixel {
                self.recorder.note(&format!("pixel{index}"), &hexadecimal(*pixel));
            }
        }
        self.shown = pixels;
        Ok(())
    }
}

impl Output for PixelStrip {
    fn part(&self) -> Part {
        Part::Strip
    }

    fn lights(&self) -> Vec<Light> {
        (0..self.strip.pixels)
            .map(|index| Light {
                name: format!("pixel{index}"),
                colour: "rgb".into(),
            })
            .collect()
    }

    fn show(&mut self, frame: &Frame) -> Result<(), Error> {
        self.set(pixels(&self.strip, frame))
    }

    fn end(&mut self, end: End) -> Result<(), Error> {
        let mut pixels = vec![[0; 3]; usize::from(self.strip.pixels)];
        if let (End::Fault, Some(first)) = (end, pixels.first_mut()) {
            *first = Colour::Red.rgb();
        }
        self.set(pixels)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    use super::*;
    use crate::State;

    fn strip(mode: StripMode) -> Strip {
        Strip {
            data: 23,
            clock: 24,
            pixels: 8,
            mode,
            ground: None,
        }
    }

    fn frame(cpu_percent: u8, pods: u32) -> Frame {
        Frame {
            colour: Colour::Orange,
            lit: true,
            cpu_percent,
            pods,
            nodes: vec![State::Ready, State::Lost],
            elapsed: Duration::from_millis(100),
        }
    }

    fn lit(pixels: &[[u8; 3]]) -> String {
        pixels
            .iter()
            .map(|pixel| if *pixel == [0; 3] { '.' } else { '*' })
            .collect()
    }

    #[test]
    fn bar_shows_state_load_and_pods() {
        for (cpu, pods, expected) in [
            (0, 0, "*......."),
            (1, 1, "**...*.."),
            (50, 5, "***..**."),
            (100, 99, "********"),
        ] {
            assert_eq!(
                lit(&pixels(&strip(StripMode::Bar), &frame(cpu, pods))),
                expected,
                "{cpu} % and {pods} pods"
            );
        }
    }

    #[test]
    fn each_node_has_its_pixel_with_its_own_pattern() {
        let mut frame = frame(0, 0);
        assert_eq!(lit(&pixels(&strip(StripMode::Nodes), &frame)), "**......");
        frame.elapsed = Duration::from_millis(1000);
        assert_eq!(
            lit(&pixels(&strip(StripMode::Nodes), &frame)),
            "*.......",
            "lost is dark now"
        );
        frame.nodes.clear();
        assert_eq!(
            lit(&pixels(&strip(StripMode::Nodes), &frame)),
            "*.......",
            "a node shows its own"
        );
    }

    /// Samples the data pin at each rising clock, as a pixel does.
    #[derive(Clone, Default)]
    struct Wire(Arc<Mutex<(bool, Vec<bool>)>>);

    impl Pins for Wire {
        fn output(&mut self, _: u8, _: bool) -> Result<(), Error> {
            Ok(())
        }

        fn input(&mut self, _: u8) -> Result<(), Error> {
            Ok(())
        }

        fn set(&mut self, gpio: u8, high: bool) -> Result<(), Error> {
            let mut wire = self.0.lock().unwrap();
            match (gpio, high) {
                (23, _) => wire.0 = high,
                (24, true) => {
                    let data = wire.0;
                    wire.1.push(data);
                }
                _ => {}
            }
            Ok(())
        }

        fn level(&mut self, _: u8) -> Result<bool, Error> {
            Ok(false)
        }
    }

    #[test]
    fn pixels_read_what_was_meant() {
        let wire = Wire::default();
        let mut output = PixelStrip::open(Box::new(wire.clone()), strip(StripMode::Bar), Recorder::default()).unwrap();
        wire.0.lock().unwrap().1.clear();
        output.show(&frame(0, 0)).unwrap();
        let bits = wire.0.lock().unwrap().1.clone();
        let sent: Vec<u8> = bits
            .chunks(8)
            .map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit)))
            .collect();
        assert_eq!(sent[..4], [0; 4]);
        assert_eq!(sent[4..8], [0xe3, 0, 80, 255], "orange, blue first");
        assert_eq!(sent[8..12], [0xe3, 0, 0, 0]);
        assert!(bits.len() >= 32 + 8 * 32 + 36, "{}", bits.len());
        wire.0.lock().unwrap().1.clear();
        output.show(&frame(0, 0)).unwrap();
        assert!(wire.0.lock().unwrap().1.is_empty(), "what did not change is not sent");
    }
}
