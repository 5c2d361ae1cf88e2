//! `make bench-dns`: minidc's DNS server beside BIND 9 and unbound as Debian has them, on the same core, with the same
//! queries from dnsperf on another.
//!
//! `bench-dns [--seconds N] [--rounds N]`: each figure is the median of the rounds (3 unless told), each of so many seconds
//! (5 unless told) at full load and as many at half of that. The servers take turns within a round, so that a busy moment
//! of the machine hits all of them. Everything happens in a network namespace of its own; root is needed for that. Nothing
//! here passes or fails: it prints a table.
//!
//! dnsperf takes a core of its own at some 80,000 queries per second and then holds a fast server back; what a server
//! needs for its queries is told by the queries per second of its CPU time.

mod data;
mod load;
mod servers;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};

use crate::{
    data::{Set, Sets},
    load::{Figures, Load},
    servers::{Kind, Server},
};

/// Core of the servers.
const SERVER_CORE: usize = 0;
/// Core of dnsperf.
const CLIENT_CORE: usize = 1;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "serve") {
        let directory: PathBuf = arguments.get(1).context("serve needs a directory")?.into();
        return servers::serve(&directory);
    }
    let mut seconds = 5;
    let mut rounds = 3;
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let place = match argument.as_str() {
            "--seconds" => &mut seconds,
            "--rounds" => &mut rounds,
            // what `cargo bench` adds
            "--bench" => continue,
            other => anyhow::bail!("unknown argument {other:?}: only --seconds N and --rounds N"),
        };
        *place = arguments
            .next()
            .and_then(|number| number.parse().ok())
            .filter(|number| *number > 0)
            .with_context(|| format!("{argument} needs a number"))?;
    }
    compare(Duration::from_secs(seconds), usize::try_from(rounds)?)
}

fn compare(time: Duration, rounds: usize) -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    ensure!(
        cores > CLIENT_CORE,
        "two cores are needed: one for the servers, one for dnsperf"
    );
    // before any thread: the namespace is that of the whole process
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace (root is needed)")?;
    load::run("ip", &["link", "set", "lo", "up"])?;
    for kind in Kind::ALL {
        // BIND listens only at addresses that it finds at an interface
        load::run("ip", &["address", "add", &kind.address().ip().to_string(), "dev", "lo"])?;
    }
    let directory = tempfile::tempdir().context("make a directory")?;
    let sets = Sets::write(directory.path())?;
    servers::serve_outside(CLIENT_CORE)?;

    println!(
        "{} names of each kind; servers on core {SERVER_CORE}, dnsperf on core {CLIENT_CORE}; {rounds} rounds of {} s",
        data::NAMES,
        time.as_secs()
    );
    let servers = Kind::ALL.map(|kind| Server::start(kind, directory.path(), SERVER_CORE));
    let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
    for server in &servers {
        server.wait_until_ready()?;
        for set in &sets.all {
            load::warm_up(server, set, CLIENT_CORE)?;
        }
    }
    let mut results: Vec<Vec<Vec<Figures>>> = vec![vec![Vec::new(); sets.all.len()]; servers.len()];
    for round in 1..=rounds {
        for (number, set) in sets.all.iter().enumerate() {
            for (server, results) in servers.iter().zip(&mut results) {
                let load = Load {
                    server,
                    set,
                    core: CLIENT_CORE,
                    time,
                };
                let figures = load.measure()?;
                eprintln!("round {round}: {:8} {:18} {figures}", server.kind.name(), set.title);
                results[number].push(figures);
            }
        }
    }
    print(&servers, &sets.all, &results)
}

fn print(servers: &[Server], sets: &[Set], results: &[Vec<Vec<Figures>>]) -> Result<()> {
    println!();
    println!("| names | server | queries/s | queries per CPU-second | p99 at half load | lost |");
    println!("| --- | --- | ---: | ---: | ---: | ---: |");
    for (number, set) in sets.iter().enumerate() {
        for (server, results) in servers.iter().zip(results) {
            let figures = Figures::median(&results[number]);
            println!(
                "| {} | {} | {} | {} | {:.2} ms | {} |",
                set.title,
                server.kind.name(),
                thousands(figures.per_second),
                thousands(figures.per_cpu_second),
                figures.p99.as_secs_f64() * 1000.0,
                figures.lost,
            );
        }
    }
    println!();
    println!("| server | resident memory after this | of it file pages | on top of the program at rest |");
    println!("| --- | ---: | ---: | ---: |");
    for server in servers {
        let memory = server.memory()?;
        println!(
            "| {} | {} KiB | {} KiB | {} |",
            server.kind.name(),
            memory.resident,
            memory.file,
            server.at_rest()?.map_or_else(
                || "-".to_owned(),
                |rest| format!("{} KiB", memory.resident.saturating_sub(rest))
            ),
        );
    }
    Ok(())
}

fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
