//! The promises of the SD image, proven on emulated boards that boot it from a card: kernel, initrd, device tree and parameters
//! are those that the firmware would load.
//!
//! Emulation is slow (half an hour in all), so `test = false` in `Cargo.toml` keeps this out of `make test`; `make test-image`
//! builds the image and runs it. `make test-image TESTS=FILTER` runs some of it. Consoles and logs of the machines are in
//! `target/test-image/`, where they stay.

mod alone;
mod health;
mod kills;
mod leds;
mod pins;
mod rack;
mod stages;
mod world;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

use world::World;

/// One promise: its name and how it is proven.
type Promise = (&'static str, fn(&World) -> Result<()>);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One after the other, and in this thread: machines end with the thread that started them, and two of them keep this
    // computer busy.
    arguments.test_threads = Some(1);
    let promises: Vec<Promise> = [
        rack::ALL,
        health::ALL,
        leds::ALL,
        rack::LAST,
        pins::ALL,
        alone::ALL,
        kills::ALL,
    ]
    .concat();
    let world = match World::new() {
        Ok(world) => std::sync::Arc::new(world),
        Err(_) if arguments.list => {
            for (name, _) in promises {
                println!("{name}: test");
            }
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("nothing can be booted here: {error:?}");
            return ExitCode::FAILURE;
        }
    };
    let trials = promises.into_iter().map(|(name, prove)| {
        let world = world.clone();
        Trial::test(name, move || {
            prove(&world).map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    world.end();
    conclusion.exit_code()
}
