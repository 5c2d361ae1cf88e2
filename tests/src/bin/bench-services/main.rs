//! What Services cost: minidc's service proxy beside the rules that kube-proxy makes, on the same machine in one run.
//!
//! For 1, 1,000 and 10,000 Services of three endpoints each: the time to load them all, from a changed EndpointSlice to
//! packets that go by it, and of the first packet of a connection; and the memory of the process that keeps them. The
//! rules for comparison are kube-proxy's of mode iptables: a chain for each Service with the statistic match, one for each
//! endpoint, loaded and changed by iptables-nft in one `iptables-restore --noflush` as kube-proxy does.
//!
//! Needs root. Everything happens in network namespaces of its own; each measurement in a process of its own.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

mod iptables;
mod minidc;
mod node;

/// How many Services there are.
const SIZES: [usize; 3] = [1, 1_000, 10_000];

/// What was measured of one side at one size. Times in microseconds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Figures {
    /// From nothing to all Services, in milliseconds.
    load: f64,
    /// From a change of an EndpointSlice until a new connection goes by it.
    change: Quantiles,
    /// To connect by the Service, and to the endpoint itself.
    connect: Quantiles,
    direct: Quantiles,
    /// What a process needs that knows all Services and keeps the rules, in MiB; not measured of the other side.
    memory: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Quantiles {
    half: f64,
    /// 99 of 100; the worst of all where there are fewer.
    most: f64,
}

impl Quantiles {
    fn of(mut times: Vec<std::time::Duration>) -> Self {
        times.sort_unstable();
        let at = |part: usize| {
            let index = (times.len() * part / 100).min(times.len().saturating_sub(1));
            times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        Self {
            half: at(50),
            most: at(99),
        }
    }
}

const SIDES: [&str; 2] = ["minidc", "iptables"];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, inside, side, size] = arguments.as_slice()
        && inside == "inside"
    {
        let node = node::Node::new()?;
        let figures = match side.as_str() {
            "minidc" => minidc::measure(&node, size.parse()?)?,
            _ => iptables::measure(&node, size.parse()?)?,
        };
        println!("{}", serde_json::to_string(&figures)?);
        return Ok(());
    }
    let mut figures = BTreeMap::new();
    for size in SIZES {
        for side in SIDES {
            eprintln!("{side}: {size} Services");
            figures.insert((side, size), inside(side, size)?);
        }
    }
    print(&figures);
    Ok(())
}

fn inside(side: &str, size: usize) -> Result<Figures> {
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe()?)
        .args(["inside", side, &size.to_string()])
        .output()
        .context("start unshare")?;
    ensure!(
        output.status.success(),
        "{side} with {size} Services: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn print(figures: &BTreeMap<(&str, usize), Figures>) {
    let heads: Vec<String> = SIDES
        .iter()
        .flat_map(|side| SIZES.iter().map(move |size| format!("{side} {size}")))
        .collect();
    let row = |what: &str, value: &dyn Fn(&Figures) -> String| {
        let values = SIDES
            .iter()
            .flat_map(|side| SIZES.iter().map(move |size| (*side, *size)));
        let cells: String = values
            .filter_map(|key| figures.get(&key))
            .map(|figures| format!(" | {:>14}", value(figures)))
            .collect();
        println!("| {what:<40}{cells} |");
    };
    let head: String = heads.iter().map(|head| format!(" | {head:>14}")).collect();
    println!("| {:<40}{head} |", "Services of 3 endpoints");
    println!("|-{}{}-|", "-".repeat(40), "-|---------------".repeat(heads.len()));
    row("load all, ms", &|figures| format!("{:.1}", figures.load));
    let both = |quantiles: Quantiles, unit: f64| format!("{:.2} / {:.2}", quantiles.half / unit, quantiles.most / unit);
    row("EndpointSlice to packets, ms, p50 / p99", &|figures| {
        both(figures.change, 1e3)
    });
    row("connect by the Service, µs, p50 / p99", &|figures| {
        format!("{:.0} / {:.0}", figures.connect.half, figures.connect.most)
    });
    row("connect directly, µs, p50 / p99", &|figures| {
        format!("{:.0} / {:.0}", figures.direct.half, figures.direct.most)
    });
    row("memory of the agent for it, MiB", &|figures| {
        figures
            .memory
            .map_or_else(|| "-".to_owned(), |memory| format!("{memory:.1}"))
    });
}
