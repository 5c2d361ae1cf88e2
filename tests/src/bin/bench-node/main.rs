//! `make bench-node`: what one small board needs, in memory and in time to start, on a rack of two virtual Pis of 512 MiB:
//! pi-1 is control plane and node, pi-2 is a node.
//!
//! A virtual Pi runs what the SD image runs of minidc, containerd, Avahi and D-Bus. It has neither the image's kernel nor
//! systemd and its daemons. Nothing here passes or fails: it prints tables.

mod start;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Result;
use minidc_tests::{Rack, eventually, memory::Memory};

/// Name of the rack that is measured.
const RACK: &str = "bench-node";
/// Memory of a Pi Zero 2 W, in MiB.
const BOARD: u64 = 512;
/// Small pods on each board.
const PODS: [usize; 3] = [0, 5, 10];
/// How long it rests before memory is read.
const REST: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let (rack, _) = Rack::up_with(RACK, 2, &["--memory", &BOARD.to_string()])?;
    let outcome = memory(&rack).and_then(|()| start::measure(&rack));
    rack.down()?;
    outcome
}

fn memory(rack: &Rack) -> Result<()> {
    let nodes = [("pi-2", "a node"), ("pi-1", "control plane and node")];
    let mut seen: BTreeMap<&str, Vec<Memory>> = BTreeMap::new();
    for count in PODS {
        run_pods(rack, count)?;
        std::thread::sleep(REST);
        for (node, _) in nodes {
            seen.entry(node).or_default().push(Memory::of(&rack.name, node)?);
        }
    }
    run_pods(rack, 0)?;
    for (node, what) in nodes {
        print(what, &seen[node]);
    }
    Ok(())
}

/// Has so many small pods on each board, all running.
fn run_pods(rack: &Rack, count: usize) -> Result<()> {
    let mut wanted = String::new();
    for node in ["pi-1", "pi-2"] {
        for number in 0..count {
            wanted.push_str(&format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: small-{node}-{number}\n  labels:\n    app: small\nspec:\n  nodeName: {node}\n  \
                 terminationGracePeriodSeconds: 0\n  containers:\n  - name: main\n    image: minidc.local/web:1\n    imagePullPolicy: IfNotPresent\n"
            ));
        }
    }
    if count == 0 {
        rack.kubectl(&["delete", "pods", "-l", "app=small"])?;
    } else {
        rack.kubectl_with(&["apply", "-f", "-"], &wanted)?;
    }
    eventually(Duration::from_secs(120), format!("{count} pods on each board"), || {
        Ok(rack.ready_pods("app=small")?.len() == 2 * count)
    })?;
    Ok(())
}

/// The table of one board, a column for each number of pods.
fn print(what: &str, seen: &[Memory]) {
    let mebi = |bytes: f64| format!("{:.1}", bytes / f64::from(1 << 20));
    let row = |name: &str, value: &dyn Fn(&Memory) -> String| {
        let cells: Vec<String> = seen.iter().map(value).collect();
        println!("| {name} | {} |", cells.join(" | "));
    };
    println!("\nMiB of {what}; each page counted once, in brackets what is not of a file\n");
    let heads: Vec<String> = PODS.iter().map(|count| format!("{count} pods")).collect();
    println!("| | {} |\n| --- |{}", heads.join(" | "), " ---: |".repeat(PODS.len()));
    let names: BTreeSet<&String> = seen.iter().flat_map(|memory| memory.programs.keys()).collect();
    for name in names {
        row(name, &|memory| {
            memory.programs.get(name).map_or_else(
                || "0".to_owned(),
                |share| {
                    let many = if share.processes > 1 {
                        format!("{} × ", share.processes)
                    } else {
                        String::new()
                    };
                    let each = share.processes as f64;
                    format!(
                        "{many}{} ({})",
                        mebi(share.bytes() / each),
                        mebi(share.anonymous / each)
                    )
                },
            )
        });
    }
    row("kernel, for these processes", &|memory| mebi(memory.kernel as f64));
    row("files in memory", &|memory| mebi(memory.tmpfs as f64));
    row("**the node**", &|memory| mebi(memory.of_the_node()));
    row(&format!("**left of {BOARD} for pods**"), &|memory| {
        mebi((BOARD << 20) as f64 - memory.of_the_node())
    });
    row("processes of the pods", &|memory| mebi(memory.pods.bytes()));
    row("working set of the cgroup", &|memory| mebi(memory.working_set as f64));
}
