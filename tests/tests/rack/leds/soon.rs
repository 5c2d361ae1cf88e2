//! How soon the lights follow the facts: the recorded levels of the pins have times, and so have the facts.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow, ensure};
use minidc_rack::Rack as Boards;
use minidc_tests::{PATIENCE, Rack, eventually, in_time};

use super::{Promise, log, reads, said, well};

pub(crate) const ALL: &[Promise] = &[
    ("a_control_plane_that_is_away_shows_within_a_second", away_shows),
    ("a_crash_loop_shows_within_a_second", crash_loop_shows),
    ("a_full_disk_shows_within_a_second", full_disk_shows),
    ("overload_shows_and_goes", overload_shows),
    ("a_clock_in_1970_keeps_no_light_from_the_truth", clock_in_1970),
    ("a_killed_agent_leaves_lights_that_stand_still", killed_agent),
    ("the_boards_watchdog_is_fed_while_the_agent_lives", watchdog_is_fed),
    (
        "supply_card_and_heat_show_within_a_second_and_the_fan_turns",
        sensors_show,
    ),
];

/// From a fact to the lights.
const SOON: Duration = Duration::from_secs(1);
/// From the last that an agent does to lights that are told to stand still.
const STILL: Duration = Duration::from_millis(3600);
/// Without a word for so long, a node takes the control plane for away, and cannot know it before.
const SILENCE: Duration = Duration::from_secs(3);
/// Longest time until all who are asked one after the other say the same; load may come and go meanwhile.
const AGREE: Duration = Duration::from_secs(40);
/// Green, yellow and red of the states that are seen here.
const READY: [bool; 3] = [true, false, false];
const BUSY: [bool; 3] = [false, true, false];
const DEGRADED: [bool; 3] = [false, true, true];
const LOST: [bool; 3] = [false, false, true];
const STARTING: [bool; 3] = [true, true, false];
/// Pins that are switched together are written one after the other, within this time (in milliseconds).
const MOMENT: u64 = 30;

/// Milliseconds since 1970, as the recordings have them.
pub(super) fn now() -> u64 {
    minidc_hardware::unix_milliseconds()
}

/// When the pins showed these levels first, at this time or later.
pub(super) fn shown(log: &str, lit: [bool; 3], from: u64) -> Option<u64> {
    let edges: Vec<(u64, &str, bool)> = log
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            Some((fields.next()?.parse().ok()?, fields.next()?, fields.next()? == "1"))
        })
        .collect();
    let mut levels = [false; 3];
    for (index, (time, pin, level)) in edges.iter().enumerate() {
        if let Some(place) = ["17", "27", "22"].iter().position(|known| known == pin) {
            levels[place] = *level;
        }
        let whole = edges.get(index + 1).is_none_or(|next| next.0 > time + MOMENT);
        if whole && *time >= from && levels == lit {
            return Some(*time);
        }
    }
    None
}

/// Waits until the pins of a node show these levels, at `from` or later; gives when they did.
pub(super) fn when(rack: &Rack, node: &str, lit: [bool; 3], from: u64) -> Result<u64> {
    let mut seen = None;
    eventually(PATIENCE, format!("{node} shows {lit:?}"), || {
        seen = shown(&log(rack, node)?, lit, from);
        ensure!(seen.is_some(), "it says {:?}", said(rack, node));
        Ok(true)
    })?;
    seen.context("not shown")
}

/// From a fact to the levels that it is shown by.
fn after(rack: &Rack, node: &str, lit: [bool; 3], fact: u64) -> Result<Duration> {
    Ok(Duration::from_millis(when(rack, node, lit, fact)? - fact))
}

/// When the lights of an agent began: with `starting`, unless it was linked before there was anything to show.
fn when_begun(rack: &Rack, node: &str, from: u64) -> Result<u64> {
    let mut seen = None;
    eventually(PATIENCE, format!("{node}'s lights to begin"), || {
        let log = log(rack, node)?;
        seen = [STARTING, READY].iter().filter_map(|lit| shown(&log, *lit, from)).min();
        Ok(seen.is_some())
    })?;
    seen.context("not shown")
}

/// Runs a script in a node.
pub(super) fn inside(rack: &Rack, node: &str, script: &str) -> Result<String> {
    rack.in_node(node, &["sh", "-ec", script])
}

/// Runs a script in a node; when it was done.
fn done(rack: &Rack, node: &str, script: &str) -> Result<u64> {
    let printed = inside(rack, node, &format!("{script}\ndate +%s%3N"))?;
    printed.trim().parse().with_context(|| printed.clone())
}

/// Does something that has to be undone, whatever came of it.
pub(super) fn undone<T>(work: impl FnOnce() -> Result<T>, undo: impl FnOnce() -> Result<()>) -> Result<T> {
    let outcome = work();
    let undone = undo();
    let value = outcome?;
    undone?;
    Ok(value)
}

/// The fact of a pulled cable is the end of three seconds without a word, the last of which may have come before the cable was
/// pulled; that of a control plane that was killed is its death, since the kernel closes its connections.
fn away_shows(rack: &Rack) -> Result<()> {
    let boards = Boards::open(&rack.name)?;
    let promised = [
        ("3 s without the control plane to lost", SOON),
        ("its death to lost", SOON),
    ];
    in_time(promised, || {
        well(rack, "pi-2")?;
        let pulled = now();
        boards.cut_cable(1)?;
        let seen = undone(
            || {
                let seen = when(rack, "pi-2", LOST, pulled)?;
                reads(rack, "pi-2", "lost")?;
                Ok(seen)
            },
            || Ok(boards.join_cable(1)?),
        )?;
        let silence = Duration::from_millis(seen - pulled).saturating_sub(SILENCE);
        well(rack, "pi-2")?;
        reads(rack, "pi-2", "ready")?;
        rack.await_nodes()?;

        let killed = now();
        rack.kill_minidc("pi-1")?;
        let death = after(rack, "pi-2", LOST, killed)?;
        rack.await_nodes()?;
        well(rack, "pi-2")?;
        Ok([silence, death])
    })
}

/// The fact is the exit after which the container is not started again at once: the container itself writes down when it ends.
fn crash_loop_shows(rack: &Rack) -> Result<()> {
    const EXITS: &str = "/var/tmp/minidc-exits";
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "crash-loop"},
        "spec": {
            "nodeName": "pi-2", "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "exits", "hostPath": {"path": EXITS, "type": "DirectoryOrCreate"}}],
            "containers": [{
                "name": "c", "image": "minidc.local/web:1", "command": ["sh", "-c", "cat /proc/uptime >>/exits/uptime; exit 1"],
                "volumeMounts": [{"name": "exits", "mountPath": "/exits"}],
            }],
        },
    });
    in_time(
        [("the exit of a container that crashes again to degraded", SOON)],
        || {
            well(rack, "pi-2")?;
            inside(rack, "pi-2", &format!("rm -rf {EXITS}"))?;
            let begin = now();
            // the kernel's own count of time has no zone and no start of an agent in it
            let uptime = milliseconds(&fs::read_to_string("/proc/uptime")?)?;
            let since = begin - uptime;
            rack.kubectl_with(&["apply", "-f", "-"], &pod.to_string())?;
            let took = undone(
                || {
                    let seen = when(rack, "pi-2", DEGRADED, begin)?;
                    reads(rack, "pi-2", "degraded")?;
                    let exits = inside(rack, "pi-2", &format!("cat {EXITS}/uptime"))?;
                    let exits: Vec<u64> = exits.lines().map(milliseconds).collect::<Result<_>>()?;
                    let before = exits.iter().filter(|exit| since + **exit <= seen).count();
                    ensure!(before > 0, "it was shown before it ended: {exits:?}");
                    // after the second the container has to wait: whatever comes later is late
                    Ok(Duration::from_millis(seen - since - exits[before.min(2) - 1]))
                },
                || {
                    rack.kubectl(&["delete", "pod", "crash-loop", "--wait=true"])?;
                    inside(rack, "pi-2", &format!("rm -rf {EXITS}")).map(drop)
                },
            )?;
            well(rack, "pi-2")?;
            Ok([took])
        },
    )
}

/// Of the first number of a line, in seconds.
fn milliseconds(line: &str) -> Result<u64> {
    let seconds = line.split(' ').next().unwrap_or_default();
    let (whole, hundredths) = seconds.split_once('.').with_context(|| line.to_owned())?;
    Ok(whole.parse::<u64>()? * 1000 + hundredths.parse::<u64>()? * 10)
}

/// The fact is the end of the write that fills the disk. A disk of its own for a node's data is not there on a rack, so a small one is
/// mounted over the directory that the kubelet measures.
fn full_disk_shows(rack: &Rack) -> Result<()> {
    const AGENT: &str = "/var/lib/minidc/agent";
    well(rack, "pi-2")?;
    inside(
        rack,
        "pi-2",
        &format!(
            "mkdir -p /tmp/small; mount -t tmpfs -o size=40m small /tmp/small; cp -a {AGENT}/. /tmp/small/; mount --move /tmp/small {AGENT}"
        ),
    )?;
    undone(
        || {
            rack.kill_minidc("pi-2")?;
            in_time([("a full disk to degraded", SOON)], || {
                // trouble with a disk is over when it was over for half a minute
                well(rack, "pi-2")?;
                reads(rack, "pi-2", "ready")?;
                let full = done(
                    rack,
                    "pi-2",
                    &format!("head -c 39m /dev/zero >{AGENT}/full 2>/dev/null || true"),
                )?;
                let took = after(rack, "pi-2", DEGRADED, full)?;
                ensure!(said(rack, "pi-2")? == "degraded (disk-pressure)");
                reads(rack, "pi-2", "degraded")?;
                inside(rack, "pi-2", &format!("rm {AGENT}/full"))?;
                Ok([took])
            })
        },
        || {
            inside(rack, "pi-2", &format!("umount -l {AGENT}"))?;
            rack.kill_minidc("pi-2")
        },
    )?;
    well(rack, "pi-2")?;
    rack.await_nodes()
}

/// The fact is that the kernel counts nine tenths of all cores over a second, or less than three quarters again: load is a use over
/// time, and a second is what a node measures it by. How soon is printed, not judged: on a shared computer others take the processor.
fn overload_shows(rack: &Rack) -> Result<()> {
    prefer(rack, "pi-3", true);
    let promised = [
        ("nine tenths of all cores over a second to busy", PATIENCE),
        ("less again to ready", PATIENCE),
    ];
    let outcome = in_time(promised, || {
        well(rack, "pi-3")?;
        reads(rack, "pi-3", "ready")?;
        let (begin, is_over) = (now(), AtomicBool::new(false));
        let (load, readings, seen) = thread::scope(|scope| {
            let load = scope.spawn(|| burn(rack, "pi-3"));
            let readings = scope.spawn(|| read_use(rack, "pi-3", &is_over));
            let busy = (|| -> Result<u64> {
                let seen = when(rack, "pi-3", BUSY, begin)?;
                reads(rack, "pi-3", "busy")?;
                agree(rack, "pi-3", "busy (cpu)")?;
                Ok(seen)
            })();
            let ended = now();
            rack.in_node("pi-3", &["pkill", "-KILL", "-x", "burn"]).ok();
            let seen = busy.and_then(|busy| Ok([(begin, busy), (ended, when(rack, "pi-3", READY, ended)?)]));
            // the node's measure and this one are not of the same second
            thread::sleep(Duration::from_millis(500));
            is_over.store(true, Ordering::Relaxed);
            (load.join(), readings.join(), seen)
        });
        drop(load);
        let [(begin, busy), (ended, ready)] = match seen {
            Ok(seen) => seen,
            // where others take the processor away again and again, load comes and goes before all were asked
            Err(error) => {
                println!("{error:#}");
                return Ok([PATIENCE; 2]);
            }
        };
        let readings = readings.map_err(|_| anyhow!("panicked"))??;
        agree(rack, "pi-3", "ready")?;
        // an attempt in which others took so much that the kernel never counted as much as the node did is void
        let spent = |fact: Option<u64>, shown: u64| {
            fact.map_or(PATIENCE, |fact| Duration::from_millis(shown.saturating_sub(fact)))
        };
        // a window of the node's own may have been a little earlier
        Ok([
            spent(first(&readings, begin, |share| share >= 0.9)?, busy),
            spent(first(&readings, ended, |share| share < 0.75)?, ready),
        ])
    });
    prefer(rack, "pi-3", false);
    outcome
}

/// What else this computer does may leave a virtual Pi less than all cores: for this promise it goes first.
pub(super) fn prefer(rack: &Rack, node: &str, preferred: bool) {
    let own = format!("{}/{node}", rack.name);
    for group in ["", &rack.name, &own] {
        for (file, high, usual) in [
            ("cpu/minidc-rack/{}/cpu.shares", "200000", "1024"),
            ("minidc-rack/{}/cpu.weight", "10000", "100"),
        ] {
            let path = Path::new("/sys/fs/cgroup").join(file.replace("{}", group));
            if path.exists() {
                let _ = fs::write(path, if preferred { high } else { usual });
            }
        }
    }
}

/// Uses all cores of a node until somebody ends `burn` in it.
pub(super) fn burn(rack: &Rack, node: &str) -> Result<String> {
    let cores = thread::available_parallelism()?.get();
    let script =
        "cp /bin/dash /tmp/burn; for i in $(seq COUNT); do timeout 150 /tmp/burn -c 'while :; do :; done' & done; wait";
    rack.in_node(node, &["sh", "-c", &script.replace("COUNT", &(cores * 2).to_string())])
}

/// Reads how much of all cores a node has used, in seconds of one core, until it is over; each with its time.
fn read_use(rack: &Rack, node: &str, is_over: &AtomicBool) -> Result<Vec<(u64, f64)>> {
    let group = format!("minidc-rack/{}/{node}", rack.name);
    let old = PathBuf::from(format!("/sys/fs/cgroup/cpuacct/{group}/cpuacct.usage"));
    let new = PathBuf::from(format!("/sys/fs/cgroup/{group}/cpu.stat"));
    let mut readings = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let used = if old.exists() {
            fs::read_to_string(&old)?.trim().parse::<f64>()? / 1e9
        } else {
            let text = fs::read_to_string(&new)?;
            let microseconds = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
            microseconds.context("no usage_usec")?.parse::<f64>()? / 1e6
        };
        readings.push((now(), used));
        thread::sleep(Duration::from_millis(20));
    }
    Ok(readings)
}

/// When the share of all cores that was used over the last second was as wanted first, at this time or later.
fn first(readings: &[(u64, f64)], from: u64, wanted: impl Fn(f64) -> bool) -> Result<Option<u64>> {
    let cores = thread::available_parallelism()?.get() as f64;
    let later = readings.iter().filter(|(at, _)| *at >= from);
    let mut shares = later.filter_map(|(at, used)| {
        let (then, before) = readings.iter().rev().find(|(then, _)| then + 1000 <= *at)?;
        Some((*at, (used - before) * 1000.0 / (at - then) as f64 / cores))
    });
    Ok(shares.find(|(_, share)| wanted(*share)).map(|(at, _)| at))
}

/// While a node is linked, the API says what the lights say, also of load, which comes and goes; but load is not stored.
fn agree(rack: &Rack, node: &str, words: &str) -> Result<()> {
    let wanted = if words == "ready" { "Ready" } else { "Cpu" };
    eventually(AGREE, format!("all agree that {node} is {words}"), || {
        let table = rack.kubectl(&["get", "node", node, "-o", "wide"])?;
        ensure!(table.trim_end().ends_with(words), "{table}");
        let reason = r#"jsonpath={.status.conditions[?(@.type=="BoardHealthy")].reason}"#;
        let condition = rack.kubectl(&["get", "node", node, "-o", reason])?;
        ensure!(condition == wanted, "{words}, and {condition}");
        let list = rack.minidc(&["node", "list"])?;
        let line = list.lines().find(|line| line.starts_with(node));
        ensure!(line.context("no such node")?.contains(words), "{list}");
        let status = rack.in_node(node, &["minidc", "status"])?;
        ensure!(status.contains(words), "{status}");
        Ok(true)
    })?;
    let annotation = r"jsonpath={.metadata.annotations.minidc\.dev/led}";
    let stored = rack.kubectl(&["get", "node", node, "-o", annotation])?;
    ensure!(stored == "ready", "load was stored: {stored}");
    Ok(())
}

/// The facts are the start of an agent whose clock is in 1970, and a control plane that is away while it is so. Its recording is in 1970,
/// too, and begins ten seconds after its zero.
fn clock_in_1970(rack: &Rack) -> Result<()> {
    const FAKE: &str = "LD_PRELOAD=$(ls /usr/lib/*/faketime/libfaketimeMT.so.1) FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME='@1970-01-01 00:00:10'";
    let boards = Boards::open(&rack.name)?;
    let config = boards.node_path(3, "/etc/minidc/config.toml");
    let usual = fs::read_to_string(&config)?;
    well(rack, "pi-3")?;
    boards.hold_service(3, "minidc")?;
    undone(
        || {
            // the clock is that of the machine that runs the test
            fs::write(&config, format!("{usual}\n[clock]\nset = false\n"))?;
            let promised = [
                ("the start in 1970 to lights that say how it is", SOON),
                ("3 s without the control plane to lost", SOON),
            ];
            in_time(promised, || {
                inside(rack, "pi-3", "rm -f /run/minidc/leds.log")?;
                inside(
                    rack,
                    "pi-3",
                    &format!("{FAKE} setsid minidc agent </dev/null >/run/in-1970.log 2>&1 &"),
                )?;
                let seen = when_begun(rack, "pi-3", 0)?;
                ensure!(seen < 3_600_000, "the agent's clock is not in 1970: {seen}");
                let zero = zero(&boards.node_path(3, "/run/minidc/leds.log"))?;
                let starting = Duration::from_millis(seen).saturating_sub(Duration::from_secs(10));
                well(rack, "pi-3")?;
                reads(rack, "pi-3", "ready")?;
                rack.await_nodes()?;
                let pulled = now() - zero;
                boards.cut_cable(1)?;
                let lost = undone(
                    || {
                        let lost = when(rack, "pi-3", LOST, pulled)?;
                        reads(rack, "pi-3", "lost")?;
                        Ok(lost)
                    },
                    || Ok(boards.join_cable(1)?),
                )?;
                well(rack, "pi-3")?;
                reads(rack, "pi-3", "ready")?;
                rack.await_nodes()?;
                inside(
                    rack,
                    "pi-3",
                    "pkill -TERM -x minidc; while pgrep -x minidc; do sleep 0.1; done",
                )?;
                Ok([starting, Duration::from_millis(lost - pulled).saturating_sub(SILENCE)])
            })
        },
        || {
            let _ = inside(
                rack,
                "pi-3",
                "pkill -KILL -x minidc || true; rm -f /run/minidc/leds.log",
            );
            fs::write(&config, &usual)?;
            Ok(boards.release_service(3, "minidc")?)
        },
    )?;
    rack.await_nodes()?;
    well(rack, "pi-3")
}

/// When the clock of a recording was at zero: the kernel says when its last line was written.
fn zero(recording: &Path) -> Result<u64> {
    loop {
        let (text, written) = (fs::read_to_string(recording)?, fs::metadata(recording)?.modified()?);
        if fs::read_to_string(recording)? == text {
            let last = text.lines().last().and_then(|line| line.split(' ').next());
            let written = u64::try_from(written.duration_since(UNIX_EPOCH)?.as_millis())?;
            return Ok(written - last.context("nothing was recorded")?.parse::<u64>()?);
        }
    }
}

/// The fact is SIGKILL; process 1 is kept from starting the agent again. What systemd runs then leaves the lights in their fault state.
fn killed_agent(rack: &Rack) -> Result<()> {
    let boards = Boards::open(&rack.name)?;
    let promised = [
        ("a killed agent to lights that are told to stand still", STILL),
        ("its start to lights that move", SOON),
    ];
    in_time(promised, || {
        well(rack, "pi-2")?;
        reads(rack, "pi-2", "ready")?;
        let killed = done(
            rack,
            "pi-2",
            "mkdir -p /run/rack/held; touch /run/rack/held/minidc; pkill -KILL -x minidc; kill -HUP 1",
        )?;
        let still = undone(
            || {
                let still = eventually(PATIENCE, "pi-2's lights stand still", || {
                    Ok(super::line(rack, "pi-2")?.contains("still"))
                })?;
                let last = log(rack, "pi-2")?;
                let moved = last
                    .lines()
                    .filter_map(|line| line.split(' ').next()?.parse::<u64>().ok())
                    .max();
                ensure!(
                    moved.is_some_and(|moved| moved <= killed),
                    "moved at {moved:?}, killed at {killed}"
                );
                inside(rack, "pi-2", "SERVICE_RESULT=signal minidc led fault")?;
                let left = log(rack, "pi-2")?;
                ensure!(shown(&left, LOST, killed).is_some(), "red is not lit:\n{left}");
                thread::sleep(Duration::from_secs(3));
                ensure!(log(rack, "pi-2")? == left, "what a dead agent left has moved");
                ensure!(super::line(rack, "pi-2")?.contains("still"));
                Ok(still)
            },
            || Ok(boards.release_service(2, "minidc")?),
        )?;
        let restarted = now();
        let begun = Duration::from_millis(when_begun(rack, "pi-2", restarted)? - restarted);
        rack.await_nodes()?;
        well(rack, "pi-2")?;
        Ok([still, begun])
    })
}

/// Adds lines to `[leds]` in a node's configuration, and gives back what was there.
pub(super) fn configure(boards: &Boards, index: u32, lines: &str) -> Result<String> {
    let config = boards.node_path(index, "/etc/minidc/config.toml");
    let usual = fs::read_to_string(&config)?;
    let driver = "driver = \"fake\"\n";
    ensure!(usual.contains(driver), "{usual}");
    fs::write(&config, usual.replace(driver, &format!("{driver}{lines}\n")))?;
    Ok(usual)
}

/// In place of the device there is a file that keeps what was written.
fn watchdog_is_fed(rack: &Rack) -> Result<()> {
    const FED: &str = "/run/watchdog";
    let boards = Boards::open(&rack.name)?;
    well(rack, "pi-2")?;
    let usual = configure(&boards, 2, &format!("watchdog = \"{FED}\""))?;
    let fed = || inside(rack, "pi-2", &format!("cat {FED}"));
    let grows = |what: &str| {
        let before = fed()?.len();
        eventually(PATIENCE, what, || Ok(fed()?.len() > before + 2))
    };
    undone(
        || {
            inside(rack, "pi-2", &format!(": >{FED}"))?;
            rack.kill_minidc("pi-2")?;
            grows("the watchdog is fed")?;
            inside(rack, "pi-2", "pkill -STOP -x minidc")?;
            let stopped = fed()?;
            thread::sleep(Duration::from_secs(3));
            ensure!(fed()? == stopped, "a stopped agent fed the watchdog");
            inside(rack, "pi-2", "pkill -CONT -x minidc")?;
            grows("the watchdog is fed again")?;
            boards.hold_service(2, "minidc")?;
            // without the letter the device would reset the board
            ensure!(fed()?.ends_with("1V"), "stopped without a word: {:?}", fed()?);
            Ok(())
        },
        || {
            fs::write(boards.node_path(2, "/etc/minidc/config.toml"), &usual)?;
            let _ = inside(rack, "pi-2", "pkill -KILL -x minidc");
            Ok(boards.release_service(2, "minidc")?)
        },
    )?;
    rack.await_nodes()?;
    well(rack, "pi-2")
}

/// The facts are what the kernel says of the supply, the card and the processor: files below `/sys`, which are made for this.
fn sensors_show(rack: &Rack) -> Result<()> {
    const SUPPLY: &str = "/sys/class/hwmon/hwmon0/in0_lcrit_alarm";
    const HEAT: &str = "/sys/class/hwmon/hwmon1/temp1_input";
    let boards = Boards::open(&rack.name)?;
    let usual = configure(&boards, 2, "parts = [\"onboard\", \"leds\", \"fan\"]")?;
    undone(
        || {
            let disk = inside(rack, "pi-2", "basename $(findmnt -nvo SOURCE -T /var/lib/minidc)")?;
            let errors = format!("/sys/fs/ext4/{}/errors_count", disk.trim());
            inside(
                rack,
                "pi-2",
                &format!(
                    "mkdir -p /tmp/sensors; mount -t tmpfs small /tmp/sensors; mkdir /tmp/sensors/upper /tmp/sensors/work
                    mount -t overlay -o lowerdir=/sys/class,upperdir=/tmp/sensors/upper,workdir=/tmp/sensors/work sensors /sys/class
                    mkdir -p /sys/class/hwmon/hwmon0 /sys/class/hwmon/hwmon1
                    echo rpi_volt >/sys/class/hwmon/hwmon0/name; echo 0 >{SUPPLY}
                    echo cpu_thermal >/sys/class/hwmon/hwmon1/name; echo 40000 >{HEAT}
                    mount -t tmpfs small /sys/fs/ext4; mkdir $(dirname {errors}); echo 0 >{errors}"
                ),
            )?;
            // it looks for a sensor of heat when it starts
            rack.kill_minidc("pi-2")?;
            let promised = [
                ("a weak supply to degraded", SOON),
                ("a good one to ready", SOON),
                ("errors of the card to degraded", SOON),
                ("heat to busy", SOON),
                ("heat to a fan that turns", SOON),
            ];
            in_time(promised, || {
                well(rack, "pi-2")?;
                reads(rack, "pi-2", "ready")?;
                let turn = |file: &str, value: &str, lit| -> Result<Duration> {
                    // the lights change when the board looks, each second: facts that always followed a look would all wait longest
                    thread::sleep(Duration::from_millis(300));
                    let fact = done(rack, "pi-2", &format!("echo {value} >{file}"))?;
                    after(rack, "pi-2", lit, fact)
                };
                let weak = turn(SUPPLY, "1", DEGRADED)?;
                ensure!(said(rack, "pi-2")? == "degraded (under-voltage)");
                let strong = turn(SUPPLY, "0", READY)?;
                let worn = turn(&errors, "2", DEGRADED)?;
                ensure!(said(rack, "pi-2")? == "degraded (disk-failing)");
                turn(&errors, "0", READY)?;
                let fact = now();
                let hot = turn(HEAT, "85000", BUSY)?;
                ensure!(said(rack, "pi-2")? == "busy (hot)");
                let fan = speed(rack, fact, "255")? - fact;
                turn(HEAT, "40000", READY)?;
                speed(rack, fact, "0")?;
                Ok([weak, strong, worn, hot, Duration::from_millis(fan)])
            })
        },
        || {
            let _ = inside(
                rack,
                "pi-2",
                "umount -l /sys/class; umount -l /tmp/sensors; umount -l /sys/fs/ext4",
            );
            fs::write(boards.node_path(2, "/etc/minidc/config.toml"), &usual)?;
            rack.kill_minidc("pi-2")
        },
    )?;
    rack.await_nodes()?;
    well(rack, "pi-2")
}

/// When the fan got this speed, of 255, at this time or later.
fn speed(rack: &Rack, from: u64, wanted: &str) -> Result<u64> {
    let mut seen = None;
    eventually(PATIENCE, format!("the fan at {wanted}"), || {
        seen = log(rack, "pi-2")?.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let time = fields.first()?.parse::<u64>().ok()?;
            (time >= from && fields[1..] == ["18", wanted]).then_some(time)
        });
        Ok(seen.is_some())
    })?;
    seen.context("not recorded")
}
