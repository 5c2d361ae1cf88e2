//! dnsperf, and what it finds.

use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{data::Set, servers::Server};

/// Queries that are under way at once: as many as pods might have, and enough that no server waits for the client.
const OUTSTANDING: usize = 200;
/// Clients, each with a port of its own.
const CLIENTS: usize = 8;

/// One server under one kind of queries.
pub(crate) struct Load<'a> {
    /// Who is asked.
    pub(crate) server: &'a Server,
    /// What is asked.
    pub(crate) set: &'a Set,
    /// Core of dnsperf.
    pub(crate) core: usize,
    /// How long.
    pub(crate) time: Duration,
}

/// What was found.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    /// Answers per second at full load.
    pub(crate) per_second: f64,
    /// Answers per second of the server's CPU time.
    pub(crate) per_cpu_second: f64,
    /// 99 of 100 answers at half load came within this time.
    pub(crate) p99: Duration,
    /// Queries without an answer, at both loads.
    pub(crate) lost: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            per_second,
            per_cpu_second,
            p99,
            lost,
        } = self;
        write!(
            f,
            "{per_second:9.0}/s {per_cpu_second:9.0}/CPU-s p99 {p99:?} lost {lost}"
        )
    }
}

impl Figures {
    /// The median of each figure, and all losses together.
    pub(crate) fn median(all: &[Self]) -> Self {
        let middle = |of: fn(&Self) -> f64| {
            let mut values: Vec<f64> = all.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        Self {
            per_second: middle(|figures| figures.per_second),
            per_cpu_second: middle(|figures| figures.per_cpu_second),
            p99: Duration::from_secs_f64(middle(|figures| figures.p99.as_secs_f64())),
            lost: all.iter().map(|figures| figures.lost).sum(),
        }
    }
}

impl Load<'_> {
    /// Full load, and then half of what that gave.
    pub(crate) fn measure(&self) -> Result<Figures> {
        let before = self.server.cpu_time()?;
        let full = self.dnsperf(&[])?;
        let cpu = self.server.cpu_time()?.saturating_sub(before);
        let mut latencies = Vec::new();
        let half = self.paced(full.per_second / 2.0, &mut latencies)?;
        latencies.sort_unstable();
        let p99 = latencies
            .get(latencies.len() * 99 / 100)
            .context("no answer at half load")?;
        Ok(Figures {
            per_second: full.per_second,
            per_cpu_second: full.completed / cpu.as_secs_f64().max(0.01),
            p99: Duration::from_micros(*p99),
            lost: full.lost + half.lost,
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("taskset");
        let (address, seconds) = (self.server.kind.address(), self.time.as_secs().to_string());
        command
            .args(["-c", &self.core.to_string(), "dnsperf", "-s", &address.ip().to_string()])
            .args(["-p", &address.port().to_string(), "-l", &seconds, "-T", "1"])
            .args(["-c", &CLIENTS.to_string(), "-q", &OUTSTANDING.to_string(), "-e", "-d"])
            .arg(&self.set.file)
            .args(arguments);
        command
    }

    fn dnsperf(&self, arguments: &[&str]) -> Result<Summary> {
        let output = self.command(arguments).output().context("run dnsperf")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "dnsperf: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Summary::read(text.lines())
    }

    /// At so many queries per second, with the latency of each answer in microseconds.
    fn paced(&self, per_second: f64, latencies: &mut Vec<u64>) -> Result<Summary> {
        // a file takes the lines faster than a pipe whose reader needs the server's core
        let out = tempfile::tempfile().context("make a file")?;
        let rate = format!("{per_second:.0}");
        let status = self
            .command(&["-Q", &rate, "-v"])
            .stdout(out.try_clone().context("share a file")?)
            .stderr(Stdio::null())
            .status()
            .context("run dnsperf")?;
        ensure!(status.success(), "dnsperf at {rate} queries per second: {status}");
        let mut rest = Vec::new();
        for line in lines(out)? {
            let line = line.context("read what dnsperf wrote")?;
            // "> NOERROR web.default.svc.cluster.local A 0.000123"
            match line.strip_prefix("> ") {
                Some(answer) if !answer.starts_with("T ") => {
                    let seconds = answer.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok());
                    let seconds = seconds.with_context(|| format!("no latency in {line:?}"))?;
                    latencies.push((seconds * 1e6) as u64);
                }
                _ => rest.push(line),
            }
        }
        Summary::read(rest.iter().map(String::as_str))
    }
}

fn lines(mut file: File) -> Result<impl Iterator<Item = std::io::Result<String>>> {
    use std::io::Seek as _;
    file.rewind().context("go back to the beginning of a file")?;
    Ok(BufReader::new(file).lines())
}

/// What dnsperf says at its end.
struct Summary {
    per_second: f64,
    completed: f64,
    lost: u64,
}

impl Summary {
    fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut summary = Self {
            per_second: 0.0,
            completed: 0.0,
            lost: 0,
        };
        for line in lines {
            let Some((title, value)) = line.trim().split_once(':') else {
                continue;
            };
            let number = value.split_whitespace().next().unwrap_or_default();
            match title {
                "Queries per second" => summary.per_second = number.parse().context("queries per second")?,
                "Queries completed" => summary.completed = number.parse().context("queries completed")?,
                "Queries lost" => summary.lost = number.parse().context("queries lost")?,
                _ => {}
            }
        }
        ensure!(summary.completed > 0.0, "dnsperf completed no query");
        Ok(summary)
    }
}

/// Asks each name once or more, so that caches are full.
pub(crate) fn warm_up(server: &Server, set: &Set, core: usize) -> Result<()> {
    let load = Load {
        server,
        set,
        core,
        time: Duration::from_secs(1),
    };
    load.dnsperf(&[]).map(drop)
}

/// Runs a command to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("run {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    )
}
