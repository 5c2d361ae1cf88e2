//! The promises of minidc, each proven on a rack of three virtual Pis with real containerd, Avahi and kubectl.
//!
//! One rack serves all tests, in the order below: starting one costs more than most tests. Each test leaves the rack as
//! it found it. `cargo test -p minidc-tests --test rack -- FILTER` runs some; `RACK_KEEP=1` leaves the rack running,
//! `RACK=NAME` uses the rack of this name, also one that runs already.

mod boot;
mod deployments;
mod dns;
mod failures;
mod images;
mod joining;
mod kubeconfig;
mod leds;
mod names;
mod network;
mod nodes;
mod pods;
mod probes;
mod racks;
mod services;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use minidc_tests::Rack;

/// One promise: its name and how it is proven.
type Promise = (&'static str, fn(&Rack) -> Result<()>);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // one rack: its tests would disturb each other
    arguments.test_threads = Some(1);
    let promises: Vec<Promise> = [
        nodes::ALL,
        deployments::ALL,
        pods::ALL,
        services::ALL,
        dns::ALL,
        names::ALL,
        probes::ALL,
        network::ALL,
        services::LAST,
        images::ALL,
        joining::ALL,
        boot::ALL,
        kubeconfig::ALL,
        leds::ALL,
        leds::soon::ALL,
        leds::button::ALL,
        failures::ALL,
        racks::ALL,
    ]
    .concat();
    if arguments.list {
        libtest_mimic::run(
            &arguments,
            promises
                .into_iter()
                .map(|(name, _)| Trial::test(name, || Ok(())))
                .collect(),
        )
        .exit();
    }
    let name = std::env::var("RACK").unwrap_or_else(|_| "e2e".to_owned());
    let rack = match Rack::up(&name, 3) {
        Ok((rack, printed)) => {
            println!("{printed}");
            rack
        }
        Err(error) => {
            eprintln!("the rack did not start: {error:?}");
            return ExitCode::FAILURE;
        }
    };
    let trials = promises.into_iter().map(|(name, prove)| {
        let rack = rack.clone();
        Trial::test(name, move || {
            prove(&rack).map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if std::env::var_os("RACK_KEEP").is_some() {
        println!("left running: export KUBECONFIG={}", rack.kubeconfig().display());
        return conclusion.exit_code();
    }
    match racks::down_leaves_nothing(&rack) {
        Ok(()) => conclusion.exit_code(),
        Err(error) => {
            eprintln!("the rack left something behind: {error:?}");
            ExitCode::FAILURE
        }
    }
}
