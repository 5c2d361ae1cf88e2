//! The seam between patterns and pins.

use crate::Error;

/// Pins that can be switched. Implementations set a pin up as an output when it is first used.
pub trait Gpio: Send {
    /// Drives the pin with this BCM number high (lit) or low.
    ///
    /// # Errors
    /// [`Error::Pin`] when the pin cannot be driven; the driver logs it and goes on with the other LEDs.
    fn set(&mut self, gpio: u8, high: bool) -> Result<(), Error>;
}
