//! How the caller hears what is being done, and how long it took.

use std::{io::Write, sync::Mutex, sync::PoisonError, time::Duration};

/// Hears of each step. Steps of several nodes come from several threads.
pub trait Progress: Sync {
    /// A step is through: one line for people, such as `pi-2: containerd`, and the time it took.
    fn done(&self, step: &str, took: Duration);
    /// Something worth knowing that took no time.
    fn note(&self, text: &str);
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn done(&self, _: &str, _: Duration) {}
    fn note(&self, _: &str) {}
}

/// Writes a line per step, the time in front: `  0.42 s  pi-2: containerd`.
#[derive(Debug)]
pub struct Lines<W>(Mutex<W>);

impl<W: Write + Send> Lines<W> {
    /// Writes to `output`; errors of writing are ignored, since a closed terminal must not stop a rack half-way.
    pub const fn new(output: W) -> Self {
        Self(Mutex::new(output))
    }

    fn write(&self, line: &str) {
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(output, "{line}");
        let _ = output.flush();
    }
}

impl<W: Write + Send> Progress for Lines<W> {
    fn done(&self, step: &str, took: Duration) {
        self.write(&format!("{:>6.2} s  {step}", took.as_secs_f32()));
    }

    fn note(&self, text: &str) {
        self.write(&format!("          {text}"));
    }
}
