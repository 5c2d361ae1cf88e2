//! What the lights cost: processor time of the driver's thread for each kind of light and state, with pins that only remember,
//! and of software PWM apart. `cargo run --release -p minidc-tests --bin bench-leds`.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use minidc_hardware::{Board, Driver, End, LOG, Lights, NodeHealth, Part, Reason, Recorder, Source, outputs};

/// For each row.
const TIME: Duration = Duration::from_secs(20);

/// Processor time of this process so far, in seconds.
fn used() -> Result<f64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(Duration::from(time).as_secs_f64())
}

fn main() -> Result<()> {
    let run = std::env::temp_dir().join(format!("bench-leds-{}", std::process::id()));
    std::fs::create_dir_all(&run)?;
    println!("| lights | state | % of a core |\n| --- | --- | ---: |");
    for (parts, words) in [
        (&[Part::Onboard][..], "on the board"),
        (&[Part::Onboard, Part::Leds][..], "on the board, three LEDs"),
        (&[Part::Onboard, Part::Strip][..], "on the board, eight pixels"),
        (&[Part::Rgb][..], "RGB (orange is software PWM)"),
    ] {
        for reason in [Reason::Ready, Reason::DiskPressure, Reason::Locate] {
            let recorder = Recorder::new(Some(&run.join(LOG)))?;
            let board = Board::virtual_pi()?;
            let (outputs, _) = outputs::open(
                &Source::Fake(minidc_hardware::FakePins::default()),
                &board,
                parts,
                &recorder,
                &run,
            );
            let driver = Driver::start(Lights {
                outputs,
                run: Some(run.clone()),
                watchdog: None,
            })
            .context("start the lights")?;
            let teller = driver.teller();
            teller.wish(Some(reason));
            let (begin, before) = (Instant::now(), used()?);
            while begin.elapsed() < TIME {
                teller.health(&NodeHealth::default());
                thread::sleep(Duration::from_secs(1));
            }
            let share = (used()? - before) / begin.elapsed().as_secs_f64() * 100.0;
            println!("| {words} | {} | {share:.3} |", reason.state());
            driver.stop(End::Off);
        }
    }
    std::fs::remove_dir_all(&run)?;
    Ok(())
}
