//! The lights: what the recorded levels of the pins say, compared with what is so, and how soon.

pub(crate) mod button;
pub(crate) mod soon;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use minidc_tests::{PATIENCE, Rack, condition, eventually, in_time};

use crate::Promise;

pub(crate) const ALL: &[Promise] = &[
    (
        "every_light_is_shown_and_each_state_can_be_read_off_one",
        states_can_be_read_off,
    ),
    ("a_crash_loop_shows_and_goes", a_crash_loop_shows_and_goes),
    (
        "a_lost_node_shows_on_the_control_plane",
        a_lost_node_shows_on_the_control_plane,
    ),
    ("a_dead_agent_does_not_look_alive", a_dead_agent_does_not_look_alive),
    ("a_board_shows_itself_when_it_is_looked_for", a_board_shows_itself),
];

/// From a fact that the node knows to its lights.
const SOON: Duration = Duration::from_secs(1);
/// From the last that an agent does to the word that its lights stand still.
const STILL: Duration = Duration::from_millis(3600);
/// From somebody's wish to see a board to its lights.
const AT_ONCE: Duration = Duration::from_secs(3);

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

fn says(rack: &Rack, node: &str, words: &str) -> Result<Duration> {
    eventually(PATIENCE, format!("{node}: {words}"), || {
        let said = said(rack, node)?;
        ensure!(said == words, "it says {said:?}");
        Ok(true)
    })
}

/// Waits until a board says nothing but that it is well, with or without load.
fn well(rack: &Rack, node: &str) -> Result<()> {
    eventually(PATIENCE, format!("{node} well"), || {
        let said = said(rack, node)?;
        Ok(said == "ready" || said.starts_with("busy"))
    })
    .map(drop)
}

fn reads(rack: &Rack, node: &str, state: &str) -> Result<()> {
    eventually(PATIENCE, format!("the pattern of {state} on {node}"), || {
        Ok(read_off(rack, node)? == Some(state))
    })
    .map(drop)
}

/// Lets pi-2 show a reason for so many seconds, within which its pattern and its levels are to be read off.
fn shows(rack: &Rack, seconds: u64, reason: &str, state: &str, lit: [bool; 3]) -> Result<()> {
    let time = seconds.to_string();
    let (seen, shown) = std::thread::scope(|scope| {
        let walk = scope.spawn(|| rack.in_node("pi-2", &["minidc", "led", "test", "--seconds", &time, reason]));
        let what = format!("{reason} looks like {state}, with the levels {lit:?}");
        let seen = eventually(Duration::from_secs(seconds), what, || {
            Ok(read_off(rack, "pi-2")? == Some(state) && levels(rack, "pi-2")? == lit)
        });
        (seen, walk.join())
    });
    let shown = shown.map_err(|_| anyhow::anyhow!("panicked"))??;
    ensure!(shown.contains("the agent on this board shows"), "{shown}");
    seen.map(drop)
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
        // a light that a busy machine switches late is not of the pattern: then longer
        let shown = |seconds| shows(rack, seconds, reason, state, lit);
        shown(9).or_else(|_| shown(30)).or_else(|_| shown(90))?;
    }
    eventually(PATIENCE, "lights that move", || {
        let drawn = rack.in_node("pi-2", &["minidc", "led", "show", "--once"])?;
        ensure!(!drawn.contains("still"), "{drawn}");
        Ok(true)
    })?;
    well(rack, "pi-2")
}

fn a_crash_loop_shows_and_goes(rack: &Rack) -> Result<()> {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: crasher}\nspec:\n  nodeName: pi-2\n  terminationGracePeriodSeconds: 0\n  \
        containers:\n  - {name: c, image: minidc.local/web:1, command: [\"/bin/false\"]}\n";
    rack.kubectl_with(&["apply", "-f", "-"], pod)?;
    let outcome = (|| -> Result<()> {
        says(rack, "pi-2", "degraded (pods-failing)")?;
        reads(rack, "pi-2", "degraded")?;
        eventually(PATIENCE, "the condition BoardHealthy", || {
            Ok(condition(&rack.get(&["node", "pi-2"])?, "BoardHealthy") == "False")
        })?;
        eventually(PATIENCE, "the column LED", || {
            let table = rack.kubectl(&["get", "nodes", "-o", "wide"])?;
            Ok(table.contains("LED") && table.contains("degraded (pods-failing)"))
        })?;
        Ok(())
    })();
    rack.kubectl(&["delete", "pod", "crasher", "--wait=true"])?;
    outcome?;
    well(rack, "pi-2")?;
    eventually(PATIENCE, "BoardHealthy again", || {
        Ok(condition(&rack.get(&["node", "pi-2"])?, "BoardHealthy") == "True")
    })
    .map(drop)
}

fn a_lost_node_shows_on_the_control_plane(rack: &Rack) -> Result<()> {
    well(rack, "pi-1")?;
    in_time([("NotReady to the lights of the control plane", SOON)], || {
        rack.rack("unplug", &["pi-3"])?;
        eventually(PATIENCE, "pi-3 NotReady", || Ok(!rack.node_is("pi-3", "True")?))?;
        let took = says(rack, "pi-1", "lost (node-lost)");
        let table = rack.kubectl(&["get", "node", "pi-3", "-o", "wide"]);
        rack.rack("plug", &["pi-3"])?;
        let (took, table) = (took?, table?);
        ensure!(table.contains("Unknown"), "{table}");
        rack.await_nodes()?;
        well(rack, "pi-1")?;
        Ok([took])
    })
}

fn a_dead_agent_does_not_look_alive(rack: &Rack) -> Result<()> {
    let promised = [("a stopped agent to lights that are told to stand still", STILL)];
    in_time(promised, || Ok([stop_agent(rack)?]))?;
    // what systemd does when the process has been killed: it leaves the lights standing still
    let refused = rack.in_node("pi-2", &["minidc", "led", "fault"]);
    ensure!(refused.is_err_and(|error| error.to_string().contains("has the lights")));
    rack.await_nodes()
}

/// Stops the agent of pi-2 and lets it go on; the time until its lights were seen to stand still.
fn stop_agent(rack: &Rack) -> Result<Duration> {
    well(rack, "pi-2")?;
    // stopped: nothing of it runs any more, the thread of the lights neither
    rack.in_node("pi-2", &["pkill", "-STOP", "-x", "minidc"])?;
    let outcome = (|| -> Result<Duration> {
        let took = eventually(PATIENCE, "pi-2's lights stand still", || {
            Ok(line(rack, "pi-2")?.contains("still"))
        })?;
        let frozen = log(rack, "pi-2")?;
        std::thread::sleep(Duration::from_secs(2));
        ensure!(log(rack, "pi-2")? == frozen, "a stopped agent moved its lights");
        Ok(took)
    })();
    rack.in_node("pi-2", &["pkill", "-CONT", "-x", "minidc"])?;
    let took = outcome?;
    well(rack, "pi-2")?;
    eventually(PATIENCE, "pi-2's lights move again", || {
        Ok(!line(rack, "pi-2")?.contains("still"))
    })?;
    Ok(took)
}

fn line(rack: &Rack, node: &str) -> Result<String> {
    let all = rack.rack("leds", &["--once"])?;
    let line = all.lines().find(|line| line.contains(node));
    Ok(line.context("no such node in rack leds")?.to_owned())
}

fn a_board_shows_itself(rack: &Rack) -> Result<()> {
    in_time(
        [
            ("kubectl annotate to locate", AT_ONCE),
            ("minidc locate to locate", AT_ONCE),
        ],
        || {
            rack.kubectl(&["annotate", "node", "pi-3", "minidc.dev/locate=true"])?;
            let annotated = says(rack, "pi-3", "locate")?;
            reads(rack, "pi-3", "locate")?;
            rack.minidc(&["locate", "pi-3", "--stop"])?;
            well(rack, "pi-3")?;
            let printed = rack.minidc(&["locate", "pi-2"])?;
            ensure!(printed.contains("pi-2"), "{printed}");
            let asked = says(rack, "pi-2", "locate")?;
            rack.minidc(&["locate", "pi-2", "--stop"])?;
            well(rack, "pi-2")?;
            Ok([annotated, asked])
        },
    )?;
    if rack.minidc(&["locate", "pi-9"]).is_ok() {
        bail!("a node that does not exist was found");
    }
    Ok(())
}
