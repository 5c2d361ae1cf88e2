//! The lights: what the recorded levels of the pins say, compared with what is so, and how soon.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use minidc_tests::{Rack, condition, eventually, in_time};

use crate::Promise;

pub(crate) const ALL: &[Promise] = &[
    (
        "every_light_is_shown_and_each_state_can_be_read_off_one",
        states_can_be_read_off,
    ),
    ("a_crash_loop_shows_and_goes", a_crash_loop_shows_and_goes),
    (
        "an_overloaded_board_is_busy_and_nothing_is_stored_of_it",
        an_overloaded_board_is_busy,
    ),
    ("a_full_disk_shows_and_goes", a_full_disk_shows_and_goes),
    (
        "a_lost_node_shows_on_the_control_plane",
        a_lost_node_shows_on_the_control_plane,
    ),
    ("a_dead_agent_does_not_look_alive", a_dead_agent_does_not_look_alive),
    ("a_board_shows_itself_when_it_is_looked_for", a_board_shows_itself),
];

/// From a fact that the node knows to its lights.
const SOON: Duration = Duration::from_secs(1);

fn log(rack: &Rack, node: &str) -> Result<String> {
    rack.in_node(node, &["cat", "/run/minidc/leds.log"])
}

/// What the lights say, by the pattern of the one on the board alone: its last edges, each with how long it lasted. `None` when
/// it shows no whole round yet.
fn read_off(rack: &Rack, node: &str) -> Result<Option<&'static str>> {
    /// Times of each state in milliseconds, lit and dark in turn, from the card.
    const STATES: [(&str, &[u64]); 12] = [
        ("starting", &[300, 300]),
        ("joining", &[1000, 1000]),
        ("refused: seed", &[200, 300, 200, 1500]),
        ("refused: token", &[200, 300, 200, 300, 200, 1500]),
        ("refused: identity", &[200, 300, 200, 300, 200, 300, 200, 1500]),
        ("refused: other", &[200, 300, 200, 300, 200, 300, 200, 300, 200, 1500]),
        ("ready", &[1750, 250]),
        ("busy", &[1250, 250, 250, 250]),
        ("degraded", &[1000, 250, 200, 550]),
        ("lost", &[150, 1850]),
        ("locate", &[100, 100]),
        ("halting", &[900, 200, 500, 200, 250, 200, 100, 650]),
    ];
    let log = log(rack, node)?;
    let mut edges: Vec<(u64, bool)> = Vec::new();
    for line in log.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if let [time, "ACT", level] = fields[..] {
            edges.push((time.parse()?, level == "1"));
        }
    }
    let lasted: Vec<(u64, bool)> = edges.windows(2).map(|two| (two[1].0 - two[0].0, two[0].1)).collect();
    // threads on a busy machine wake late: half of the shortest difference between two states
    let alike = |seen: u64, wanted: u64| seen.abs_diff(wanted) <= 60 + wanted / 10;
    Ok(STATES.into_iter().find_map(|(name, times)| {
        // a round has to be seen whole, beginning at any of its edges
        (0..times.len()).find_map(|shift| {
            let round: Vec<(u64, bool)> = (0..times.len())
                .map(|index| (times[(index + shift) % times.len()], (index + shift) % 2 == 0))
                .collect();
            let last = lasted.get(lasted.len().checked_sub(round.len())?..)?;
            let same = last
                .iter()
                .zip(&round)
                .all(|(seen, wanted)| seen.1 == wanted.1 && alike(seen.0, wanted.0));
            same.then_some(name)
        })
    }))
}

/// What the agent says that its lights say.
fn said(rack: &Rack, node: &str) -> Result<String> {
    let text = rack.in_node(node, &["cat", "/run/minidc/leds.json"])?;
    let report: serde_json::Value = serde_json::from_str(&text)?;
    let word = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
    let (state, reason) = (word("state"), word("reason"));
    Ok(if state == reason {
        state
    } else {
        format!("{state} ({reason})")
    })
}

/// Levels of green, yellow and red at the newest edge of each.
fn levels(rack: &Rack, node: &str) -> Result<[bool; 3]> {
    let log = log(rack, node)?;
    let last = |pin: &str| {
        log.lines()
            .rev()
            .find_map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                (fields.get(1) == Some(&pin)).then(|| fields[2] == "1")
            })
            .unwrap_or(false)
    };
    Ok(["17", "27", "22"].map(last))
}

fn says(rack: &Rack, node: &str, words: &str, limit: Duration) -> Result<Duration> {
    eventually(
        limit,
        format!("{node}: {words} (it says {:?})", said(rack, node)),
        || Ok(said(rack, node)? == words),
    )
}

/// Waits until a board says nothing but that it is well, with or without load.
fn well(rack: &Rack, node: &str) -> Result<()> {
    eventually(Duration::from_secs(60), format!("{node} well"), || {
        let said = said(rack, node)?;
        Ok(said == "ready" || said.starts_with("busy"))
    })
    .map(drop)
}

fn reads(rack: &Rack, node: &str, state: &str) -> Result<()> {
    eventually(
        Duration::from_secs(30),
        format!("the pattern of {state} on {node}"),
        || Ok(read_off(rack, node)? == Some(state)),
    )
    .map(drop)
}

fn states_can_be_read_off(rack: &Rack) -> Result<()> {
    well(rack, "pi-2")?;
    for (reason, state, lit) in [
        ("ready", "ready", [true, false, false]),
        ("token", "refused: token", [false, false, true]),
        ("disk-pressure", "degraded", [false, true, true]),
        ("away", "lost", [false, false, true]),
        ("cpu", "busy", [false, true, false]),
        ("searching", "joining", [true, true, false]),
        ("halting", "halting", [true, true, true]),
    ] {
        let shown = std::thread::scope(|scope| {
            let walk = scope.spawn(|| rack.in_node("pi-2", &["minidc", "led", "test", "--seconds", "9", reason]));
            let outcome = reads(rack, "pi-2", state).and_then(|()| {
                eventually(Duration::from_secs(5), format!("{lit:?} for {reason}"), || {
                    Ok(levels(rack, "pi-2")? == lit)
                })
            });
            let walked = walk.join().map_err(|_| anyhow::anyhow!("panicked"))?;
            outcome.and(walked)
        })?;
        ensure!(shown.contains("the agent on this board shows"), "{shown}");
    }
    let drawn = rack.in_node("pi-2", &["minidc", "led", "show", "--once"])?;
    ensure!(!drawn.contains("still"), "{drawn}");
    well(rack, "pi-2")
}

fn a_crash_loop_shows_and_goes(rack: &Rack) -> Result<()> {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: crasher}\nspec:\n  nodeName: pi-2\n  terminationGracePeriodSeconds: 0\n  \
        containers:\n  - {name: c, image: minidc.local/web:1, command: [\"/bin/false\"]}\n";
    rack.kubectl_with(&["apply", "-f", "-"], pod)?;
    let outcome = (|| -> Result<()> {
        says(rack, "pi-2", "degraded (pods-failing)", Duration::from_secs(60))?;
        reads(rack, "pi-2", "degraded")?;
        eventually(Duration::from_secs(20), "the condition BoardHealthy", || {
            Ok(condition(&rack.get(&["node", "pi-2"])?, "BoardHealthy") == "False")
        })?;
        eventually(Duration::from_secs(20), "the column LED", || {
            let table = rack.kubectl(&["get", "nodes", "-o", "wide"])?;
            Ok(table.contains("LED") && table.contains("degraded (pods-failing)"))
        })?;
        Ok(())
    })();
    rack.kubectl(&["delete", "pod", "crasher", "--wait=true"])?;
    outcome?;
    well(rack, "pi-2")?;
    eventually(Duration::from_secs(30), "BoardHealthy again", || {
        Ok(condition(&rack.get(&["node", "pi-2"])?, "BoardHealthy") == "True")
    })
    .map(drop)
}

/// What else this computer does may leave a virtual Pi less than all cores: for this promise it goes first.
fn prefer(rack: &Rack, node: &str, preferred: bool) {
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

fn an_overloaded_board_is_busy(rack: &Rack) -> Result<()> {
    well(rack, "pi-3")?;
    let cores = std::thread::available_parallelism()?.get();
    // named, so that they can be ended by name
    let burn = format!(
        "cp /bin/dash /tmp/burn; for i in $(seq {}); do timeout 20 /tmp/burn -c 'while :; do :; done' & done; wait",
        cores * 2
    );
    prefer(rack, "pi-3", true);
    let outcome = std::thread::scope(|scope| {
        let load = scope.spawn(|| rack.in_node("pi-3", &["sh", "-c", &burn]));
        let outcome = says(rack, "pi-3", "busy (cpu)", Duration::from_secs(15)).and_then(|_| {
            let node = rack.get(&["node", "pi-3"])?;
            ensure!(!node.to_string().contains("busy"), "load was stored: {node}");
            Ok(())
        });
        rack.in_node("pi-3", &["pkill", "-KILL", "-x", "burn"]).ok();
        drop(load.join());
        outcome
    });
    prefer(rack, "pi-3", false);
    outcome?;
    says(rack, "pi-3", "ready", Duration::from_secs(15)).map(drop)
}

/// A disk of its own for a node's data is not there on a rack; what the kubelet measures is the file system that all share, so
/// a smaller one is mounted over the directory that it measures, and filled.
fn a_full_disk_shows_and_goes(rack: &Rack) -> Result<()> {
    well(rack, "pi-2")?;
    let agent = "/var/lib/minidc/agent";
    let inside = |script: &str| rack.in_node("pi-2", &["sh", "-ec", script]);
    inside(&format!(
        "mkdir /tmp/small; mount -t tmpfs -o size=40m small /tmp/small; cp -a {agent}/. /tmp/small/; mount --move /tmp/small {agent}"
    ))?;
    let outcome = (|| -> Result<()> {
        rack.kill_minidc("pi-2")?;
        well(rack, "pi-2").ok();
        inside(&format!("head -c 39m /dev/zero >{agent}/full || true"))?;
        says(rack, "pi-2", "degraded (disk-pressure)", Duration::from_secs(30))?;
        reads(rack, "pi-2", "degraded")?;
        inside(&format!("rm {agent}/full"))?;
        Ok(())
    })();
    inside(&format!("umount -l {agent}"))?;
    rack.kill_minidc("pi-2")?;
    outcome?;
    well(rack, "pi-2")?;
    eventually(Duration::from_secs(60), "pi-2 Ready", || rack.node_is("pi-2", "True")).map(drop)
}

fn a_lost_node_shows_on_the_control_plane(rack: &Rack) -> Result<()> {
    well(rack, "pi-1")?;
    in_time([("NotReady to the lights of the control plane", SOON)], || {
        rack.rack("unplug", &["pi-3"])?;
        eventually(Duration::from_secs(60), "pi-3 NotReady", || {
            Ok(!rack.node_is("pi-3", "True")?)
        })?;
        let took = says(rack, "pi-1", "lost (node-lost)", Duration::from_secs(10))?;
        let table = rack.kubectl(&["get", "node", "pi-3", "-o", "wide"])?;
        ensure!(table.contains("Unknown"), "{table}");
        rack.rack("plug", &["pi-3"])?;
        eventually(Duration::from_secs(60), "pi-3 Ready again", || {
            rack.node_is("pi-3", "True")
        })?;
        well(rack, "pi-1")?;
        Ok([took])
    })
}

fn a_dead_agent_does_not_look_alive(rack: &Rack) -> Result<()> {
    well(rack, "pi-2")?;
    // stopped: nothing of it runs any more, the thread of the lights neither
    rack.in_node("pi-2", &["pkill", "-STOP", "-x", "minidc"])?;
    let stopped = Instant::now();
    let outcome = (|| -> Result<()> {
        let took = eventually(Duration::from_secs(10), "pi-2's lights stand still", || {
            Ok(line(rack, "pi-2")?.contains("still"))
        })?;
        let frozen = log(rack, "pi-2")?;
        std::thread::sleep(Duration::from_secs(2));
        ensure!(log(rack, "pi-2")? == frozen, "a stopped agent moved its lights");
        ensure!(took < Duration::from_millis(3600), "still only after {took:?}");
        Ok(())
    })();
    rack.in_node("pi-2", &["pkill", "-CONT", "-x", "minidc"])?;
    outcome.with_context(|| format!("{:?} after the signal", stopped.elapsed()))?;
    well(rack, "pi-2")?;
    eventually(Duration::from_secs(10), "pi-2's lights move again", || {
        Ok(!line(rack, "pi-2")?.contains("still"))
    })?;
    // what systemd does when the process has been killed: it leaves the lights standing still
    let refused = rack.in_node("pi-2", &["minidc", "led", "fault"]);
    ensure!(refused.is_err_and(|error| error.to_string().contains("has the lights")));
    eventually(Duration::from_secs(60), "pi-2 Ready", || rack.node_is("pi-2", "True")).map(drop)
}

fn line(rack: &Rack, node: &str) -> Result<String> {
    let all = rack.rack("leds", &["--once"])?;
    let line = all.lines().find(|line| line.contains(node));
    Ok(line.context("no such node in rack leds")?.to_owned())
}

fn a_board_shows_itself(rack: &Rack) -> Result<()> {
    rack.kubectl(&["annotate", "node", "pi-3", "minidc.dev/locate=true"])?;
    says(rack, "pi-3", "locate", Duration::from_secs(3))?;
    reads(rack, "pi-3", "locate")?;
    rack.minidc(&["locate", "pi-3", "--stop"])?;
    well(rack, "pi-3")?;
    let printed = rack.minidc(&["locate", "pi-2"])?;
    ensure!(printed.contains("pi-2"), "{printed}");
    says(rack, "pi-2", "locate", Duration::from_secs(3))?;
    rack.minidc(&["locate", "pi-2", "--stop"])?;
    well(rack, "pi-2")?;
    if rack.minidc(&["locate", "pi-9"]).is_ok() {
        bail!("a node that does not exist was found");
    }
    Ok(())
}
