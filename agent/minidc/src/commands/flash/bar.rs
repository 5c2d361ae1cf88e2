//! How far it is: one line that is drawn anew on a terminal, a line for each tenth elsewhere.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use minidc_image::{
    flash::{Phase, Progress},
    host::size,
};

/// Time between two drawings.
const FRAME: Duration = Duration::from_millis(100);
/// Characters of the bar.
const WIDTH: u64 = 24;

/// Shows the progress of one card on standard output.
pub(super) struct Bar {
    terminal: bool,
    phase: Option<Phase>,
    /// Tenths of the phase that have been told.
    told: u64,
    drawn: Option<Instant>,
    open: bool,
}

impl Bar {
    /// Begins with nothing shown.
    pub(super) fn new() -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
            phase: None,
            told: 0,
            drawn: None,
            open: false,
        }
    }

    /// Shows a moment, unless the last one was shown just now.
    pub(super) fn show(&mut self, progress: &Progress) {
        let fresh = self.phase != Some(progress.phase);
        if fresh {
            self.close();
            self.phase = Some(progress.phase);
        }
        let tenths = tenths(progress);
        let complete = progress.done >= progress.total;
        if self.terminal {
            if !fresh && !complete && self.drawn.is_some_and(|drawn| drawn.elapsed() < FRAME) {
                return;
            }
            self.drawn = Some(Instant::now());
            self.open = true;
            // the rest of the line may be longer than what is drawn now
            print!("\r{}\x1b[K", drawing(progress));
            io::stdout().flush().ok();
        } else if fresh || (tenths > self.told && progress.phase != Phase::Finish) {
            println!("{}", words(progress));
        }
        self.told = tenths;
    }

    /// Ends the line that is being drawn.
    pub(super) fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            println!();
        }
    }
}

fn tenths(progress: &Progress) -> u64 {
    (progress.done * 10).checked_div(progress.total).unwrap_or(10)
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Checksum => "checking the image",
        Phase::Write => "writing",
        Phase::Compare => "reading back",
        Phase::Finish => "seed and partition table",
    }
}

/// For a log.
fn words(progress: &Progress) -> String {
    let name = name(progress.phase);
    if progress.phase == Phase::Finish {
        return name.to_owned();
    }
    let percent = tenths(progress) * 10;
    format!("{name}: {percent} %{}", pace(progress))
}

/// For a terminal.
fn drawing(progress: &Progress) -> String {
    let name = name(progress.phase);
    if progress.phase == Phase::Finish {
        return format!("  {name}");
    }
    let part = |of: u64| (u128::from(progress.done) * u128::from(of)).checked_div(u128::from(progress.total));
    let filled = part(WIDTH).and_then(|part| usize::try_from(part).ok()).unwrap_or(0);
    let percent = part(100).unwrap_or(100);
    let empty = usize::try_from(WIDTH).unwrap_or(0).saturating_sub(filled);
    format!(
        "  {name:<18} [{}{}] {percent:>3} %{}",
        "#".repeat(filled),
        "-".repeat(empty),
        pace(progress)
    )
}

fn pace(progress: &Progress) -> String {
    let mut text = format!(" of {}", size(progress.total));
    if progress.bytes_per_second > 0 {
        text.push_str(&format!(", {}", speed(progress.bytes_per_second)));
    }
    if let Some(remaining) = progress.remaining.filter(|_| progress.done < progress.total) {
        text.push_str(&format!(", {} left", time(remaining)));
    }
    text
}

/// As `21.4 MB/s`.
pub(super) fn speed(bytes_per_second: u64) -> String {
    format!(
        "{}.{} MB/s",
        bytes_per_second / 1_000_000,
        bytes_per_second / 100_000 % 10
    )
}

/// As `4.2 s`, `42 s` or `3 min 05 s`.
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 10 && time.subsec_nanos() > 0 {
        format!("{seconds}.{} s", time.subsec_millis() / 100)
    } else if seconds < 60 {
        format!("{seconds} s")
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_has_bar_share_speed_and_remaining_time() {
        let mut progress = Progress {
            phase: Phase::Write,
            done: 500_000_000,
            total: 2_000_000_000,
            bytes_per_second: 20_500_000,
            remaining: Some(Duration::from_secs(74)),
        };
        assert_eq!(
            drawing(&progress),
            "  writing            [######------------------]  25 % of 2.00 GB, 20.5 MB/s, 1 min 14 s left"
        );
        assert_eq!(words(&progress), "writing: 20 % of 2.00 GB, 20.5 MB/s, 1 min 14 s left");
        progress.done = progress.total;
        assert!(!words(&progress).contains("left"));
        progress.total = 0;
        assert!(drawing(&progress).contains("100 %"));
    }
}
