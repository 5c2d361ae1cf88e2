//! `make bench`: the figures that README.md records, measured on a rack of virtual Pis of its own.
//!
//! `bench [--idle SECONDS]`: the rack rests for so long (600 unless told) before memory is read, and for so long again
//! while CPU and writes are counted. Nothing here passes or fails: it prints a table.

mod containerd;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use minidc_tests::{Rack, eventually, manifest};

/// Name of the rack that is measured.
const RACK: &str = "bench";
/// Times that what depends on luck is measured.
const ROUNDS: usize = 10;

fn main() -> Result<()> {
    let idle = idle_seconds()?;
    println!("machine: {}", machine()?);
    let (rack, _) = Rack::up(RACK, 3)?;
    let outcome = measure(&rack, idle);
    rack.down()?;
    outcome
}

fn idle_seconds() -> Result<Duration> {
    let mut arguments = std::env::args().skip(1);
    let mut seconds = 600;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--idle" => {
                seconds = arguments
                    .next()
                    .context("--idle needs a number of seconds")?
                    .parse()
                    .context("--idle")?;
            }
            // what `cargo bench` adds
            "--bench" => {}
            other => anyhow::bail!("unknown argument {other:?}: only --idle SECONDS"),
        }
    }
    Ok(Duration::from_secs(seconds))
}

fn machine() -> Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("unknown")
        .trim_start_matches(['\t', ':', ' ']);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!(
        "{} cores of {model}, Linux {}",
        std::thread::available_parallelism()?,
        kernel.trim()
    ))
}

fn row(what: &str, value: impl std::fmt::Display) {
    println!("| {what} | {value} |");
}

fn measure(rack: &Rack, idle: Duration) -> Result<()> {
    println!("\n| what | measured |\n| --- | --- |");
    let size = std::fs::metadata(minidc_tests::minidc()?)?.len();
    row("binary", mega(size));
    // pi-1 becomes a control plane without a node beside the others for one measurement
    let alone = ControlPlaneAlone::start(rack)?;
    let before = Reading::of(rack, &alone)?;
    std::thread::sleep(idle);
    let after = Reading::of(rack, &alone)?;
    after.print("idle", &before, idle);
    drop(alone);

    apply_to_running(rack)?;

    rack.kubectl(&["apply", "-f", &manifest("web.yaml")])?;
    rack.kubectl(&["scale", "deployment/web", "--replicas=90"])?;
    eventually(Duration::from_secs(300), "90 ready pods", || {
        Ok(rack.ready_pods("app=web")?.len() == 90)
    })?;
    std::thread::sleep(Duration::from_secs(30));
    let memory = |node: &str| -> Result<u64> { resident(process(rack, node, "minidc")?) };
    row("memory, agent with 30 pods", mega(memory("pi-2")?));
    row(
        "memory, server and node in one with 30 pods of 90",
        mega(memory("pi-1")?),
    );
    // begin anew, so that one of three is on the board whose plug is pulled
    rack.kubectl(&["delete", "-f", &manifest("web.yaml")])?;
    let gone = || {
        Ok(rack
            .kubectl(&["get", "pods", "-l", "app=web", "-o", "name"])?
            .is_empty())
    };
    eventually(Duration::from_secs(120), "no pods", gone)?;
    rack.kubectl(&["apply", "-f", &manifest("web.yaml")])?;
    eventually(Duration::from_secs(60), "three ready pods", || {
        let pods = rack.ready_pods("app=web")?;
        Ok(pods.len() == 3 && pods.iter().any(|pod| pod.node == "pi-3"))
    })?;
    detection(rack)
}

/// A control plane with no node and no members, in pi-2's namespaces.
struct ControlPlaneAlone<'a> {
    rack: &'a Rack,
    pid: u32,
}

impl<'a> ControlPlaneAlone<'a> {
    fn start(rack: &'a Rack) -> Result<Self> {
        let script = "mkdir -p /run/alone; cat >/run/alone/config.toml <<EOF\nname = \"alone\"\ndata = \"/run/alone/data\"\nrun = \"/run/alone/run\"\n\
                      [cluster]\nname = \"alone\"\nEOF\n\
                      setsid minidc server --no-node --config /run/alone/config.toml --listen 0.0.0.0:7443 >/run/alone/log 2>&1 </dev/null & sleep 1";
        rack.in_node("pi-2", &["sh", "-c", script])?;
        let pid = find("minidc", |command| command.contains("/run/alone/config.toml"))?;
        Ok(Self { rack, pid })
    }
}

impl Drop for ControlPlaneAlone<'_> {
    fn drop(&mut self) {
        // the pattern must not match the shell that runs it
        let stop = "pkill -f '[c]onfig /run/alone'; sleep 1; rm -r /run/alone";
        if let Err(error) = self.rack.in_node("pi-2", &["sh", "-c", stop]) {
            eprintln!("{error:?}");
        }
    }
}

/// What the processes have used so far.
struct Reading {
    memory: BTreeMap<&'static str, u64>,
    cpu: BTreeMap<&'static str, f64>,
    written: BTreeMap<String, u64>,
    /// Bytes that pi-2 has sent on its network.
    sent: u64,
    at: Instant,
}

impl Reading {
    fn of(rack: &Rack, alone: &ControlPlaneAlone<'_>) -> Result<Self> {
        let processes = [
            ("agent", process(rack, "pi-2", "minidc")?),
            ("server --no-node", alone.pid),
            ("server and node in one", process(rack, "pi-1", "minidc")?),
        ];
        let mut reading = Self {
            memory: BTreeMap::new(),
            cpu: BTreeMap::new(),
            written: BTreeMap::new(),
            sent: 0,
            at: Instant::now(),
        };
        for (what, pid) in processes {
            reading.memory.insert(what, resident(pid)?);
            reading.cpu.insert(what, cpu_seconds(pid)?);
        }
        for node in ["pi-1", "pi-2"] {
            for name in ["minidc", "containerd", "avahi-daemon"] {
                let written = written(process(rack, node, name)?)?;
                reading.written.insert(format!("{name} on {node}"), written);
            }
        }
        let statistics = rack.in_node("pi-2", &["cat", "/sys/class/net/eth0/statistics/tx_bytes"])?;
        reading.sent = statistics.trim().parse()?;
        Ok(reading)
    }

    fn print(&self, state: &str, before: &Self, rested: Duration) {
        for (what, bytes) in &self.memory {
            row(
                &format!("memory, {what}, {state} after {} s", rested.as_secs()),
                mega(*bytes),
            );
        }
        let seconds = (self.at - before.at).as_secs_f64();
        for (what, used) in &self.cpu {
            row(
                &format!("CPU, {what}, {state}"),
                format!("{:.2} % of a core", (used - before.cpu[what]) / seconds * 100.0),
            );
        }
        let mut total = BTreeMap::new();
        for (what, bytes) in &self.written {
            let hour = (bytes - before.written[what]) as f64 / seconds * 3600.0;
            row(
                &format!("written per hour, {what}, {state}"),
                format!("{:.0} kB", hour / 1e3),
            );
            *total.entry(what.rsplit(' ').next().unwrap_or_default()).or_insert(0.0) += hour;
        }
        for (node, hour) in total {
            row(
                &format!("written per hour, all three on {node}"),
                format!("{:.2} MB", hour / 1e6),
            );
        }
        row(
            "sent by an idle node per second, TCP/IP and mDNS included",
            format!("{:.0} B", (self.sent - before.sent) as f64 / seconds),
        );
    }
}

/// From the moment the API has a new pod until it says Running, as one `kubectl get --watch` sees both.
fn apply_to_running(rack: &Rack) -> Result<()> {
    let columns = "custom-columns=NAME:.metadata.name,PHASE:.status.phase";
    let mut watch = rack
        .kubectl_command(&["get", "pods", "--watch-only", "--no-headers", "-o", columns])
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()?;
    let lines = BufReader::new(watch.stdout.take().context("no output")?).lines();
    let (sender, seen) = mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send((Instant::now(), line)).is_err() {
                break;
            }
        }
    });
    let mut whole = Vec::new();
    for round in 0..ROUNDS {
        let name = format!("quick-{round}");
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: main\n    image: minidc.local/web:1\n"
        );
        rack.kubectl_with(&["create", "-f", "-"], &pod)?;
        let mut added = None;
        loop {
            let (at, line) = seen
                .recv_timeout(Duration::from_secs(30))
                .context("the pod did not run")?;
            if !line.starts_with(&format!("{name} ")) {
                continue;
            }
            let begin = *added.get_or_insert(at);
            if line.ends_with("Running") {
                whole.push((at - begin).as_millis());
                break;
            }
        }
        rack.kubectl(&["delete", "pod", &name])?;
    }
    watch.kill()?;
    watch.wait()?;
    whole.sort_unstable();
    let boards = minidc_rack::Rack::open(&rack.name)?;
    let socket = boards.node_path(2, "/run/containerd/containerd.sock");
    let bare = containerd::starts(socket, "minidc.local/web:1", ROUNDS)?;
    let (whole, bare) = (whole[whole.len() / 2], bare[bare.len() / 2].as_millis());
    row("created to Running, image present, median of 10", format!("{whole} ms"));
    row("the same three CRI calls alone, median of 10", format!("{bare} ms"));
    row(
        "minidc on top of containerd",
        format!("{} ms", whole.saturating_sub(bare)),
    );
    Ok(())
}

fn detection(rack: &Rack) -> Result<()> {
    let cut = Instant::now();
    rack.rack("unplug", &["pi-3"])?;
    eventually(Duration::from_secs(30), "NotReady", || {
        Ok(!rack.node_is("pi-3", "True")?)
    })?;
    row("power cut to NotReady", format!("{:.1} s", cut.elapsed().as_secs_f64()));
    eventually(Duration::from_secs(30), "replaced", || {
        let pods = rack.ready_pods("app=web")?;
        Ok(pods.len() == 3 && pods.iter().all(|pod| pod.node != "pi-3"))
    })?;
    row(
        "power cut to its pods Ready elsewhere",
        format!("{:.1} s", cut.elapsed().as_secs_f64()),
    );
    let plugged = Instant::now();
    rack.rack("plug", &["pi-3"])?;
    eventually(Duration::from_secs(60), "Ready again", || rack.node_is("pi-3", "True"))?;
    row(
        "power back to Ready",
        format!("{:.1} s", plugged.elapsed().as_secs_f64()),
    );
    Ok(())
}

/// The process `name` of a virtual Pi, by its pid on the host.
fn process(rack: &Rack, node: &str, name: &str) -> Result<u32> {
    let namespace = rack.in_node(node, &["readlink", "/proc/1/ns/pid"])?;
    let namespace = namespace.trim().to_owned();
    let mut found = Vec::new();
    for (pid, command) in processes(name)? {
        let own = std::fs::read_link(format!("/proc/{pid}/ns/pid")).map(|link| link.display().to_string());
        if own.is_ok_and(|own| own == namespace) && !command.contains("rack\0init") && !command.contains("/run/alone") {
            found.push(pid);
        }
    }
    found.into_iter().min().with_context(|| format!("no {name} on {node}"))
}

fn find(name: &str, is_it: impl Fn(&str) -> bool) -> Result<u32> {
    let found = processes(name)?.into_iter().find(|(_, command)| is_it(command));
    found.map(|(pid, _)| pid).with_context(|| format!("no such {name}"))
}

/// Pid and command line of all processes of that name.
fn processes(name: &str) -> Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let read = |file: &str| {
            std::fs::read(entry.path().join(file)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        // a process may end while it is looked at
        let (Ok(comm), Ok(command)) = (read("comm"), read("cmdline")) else {
            continue;
        };
        if comm.trim() == name {
            found.push((pid, command));
        }
    }
    Ok(found)
}

/// RssAnon + RssFile, in bytes.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .with_context(|| format!("no {name} of {pid}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    };
    Ok(field("RssAnon:")? + field("RssFile:")?)
}

/// CPU time used since its start.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit_once(") ").context("a line of /proc/PID/stat")?.1;
    let fields: Vec<&str> = after.split(' ').collect();
    // utime and stime, fields 14 and 15, in hundredths of a second
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

/// Bytes that it caused to be written to a disk.
fn written(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("io"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "))
        .context("write_bytes")?;
    Ok(line.parse()?)
}

fn mega(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
