//! The button of a board: what a finger on it does, from the pin to pods that run elsewhere.

use std::{fs, thread, time::Duration};

use anyhow::{Result, ensure};
use minidc_rack::{Power, Rack as Boards};
use minidc_tests::{PATIENCE, Rack, eventually, in_time};

use super::{
    Promise, log, says,
    soon::{burn, configure, inside, now, undone, when},
    well,
};

pub(crate) const ALL: &[Promise] = &[
    ("a_short_press_counts_the_use_of_the_processor", short_press_counts),
    ("a_long_press_gives_pods_away_and_powers_off", long_press_halts),
];

/// From a press to the lights.
const SOON: Duration = Duration::from_secs(1);
/// A press that lasts so long is a long one.
const LONG: u64 = 3000;
const PARTS: &str = "parts = [\"onboard\", \"leds\", \"button\"]";
/// What a virtual Pi has in place of systemd: the supervisor that is its process 1. It does what `minidc halt` asks systemd for.
const SYSTEMCTL: &str = r#"#!/bin/sh
case "$1" in
stop) mkdir -p /run/rack/held; touch /run/rack/held/minidc; kill -HUP 1
  while grep -q '"minidc"' /run/rack/services.json; do sleep 0.1; done ;;
poweroff) kill -TERM 1 ;;
esac
"#;
const SYSTEMD_RUN: &str = r#"#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift
setsid "$@" </dev/null >/var/log/halt.log 2>&1 &
"#;

/// Lets pi-3 have a button while `work` is done.
fn with_button(rack: &Rack, work: impl FnOnce(&Boards) -> Result<()>) -> Result<()> {
    let boards = Boards::open(&rack.name)?;
    well(rack, "pi-3")?;
    let usual = configure(&boards, 3, PARTS)?;
    undone(
        || {
            start_anew(rack)?;
            work(&boards)
        },
        || {
            if boards.power(3) != Power::On {
                rack.rack("plug", &["pi-3"])?;
            }
            fs::write(boards.node_path(3, "/etc/minidc/config.toml"), &usual)?;
            start_anew(rack)
        },
    )
}

/// Has the agent of pi-3 read its configuration.
fn start_anew(rack: &Rack) -> Result<()> {
    // one that has just died is about to read it
    inside(
        rack,
        "pi-3",
        "pkill -KILL -x minidc || true; rm -f /run/minidc/leds.json",
    )?;
    well(rack, "pi-3")?;
    rack.await_nodes()
}

/// Presses the button for so many milliseconds; when the finger came down.
fn press(rack: &Rack, milliseconds: u64) -> Result<u64> {
    let time = Duration::from_millis(milliseconds).as_secs_f64();
    let script = format!("date +%s%3N; touch /run/minidc/button; sleep {time}; rm -f /run/minidc/button");
    Ok(inside(rack, "pi-3", &script)?.trim().parse()?)
}

fn short_press_counts(rack: &Rack) -> Result<()> {
    with_button(rack, |_| {
        super::soon::prefer(rack, "pi-3", true);
        let (load, counted) = thread::scope(|scope| {
            let load = scope.spawn(|| burn(rack, "pi-3"));
            let counted = says(rack, "pi-3", "busy (cpu)").and_then(|_| {
                let pressed = press(rack, 300)?;
                // of the three LEDs, busy shows the yellow one alone
                let what = "nine or ten blinks of all LEDs, for nine tenths of the processor or more";
                eventually(PATIENCE, what, || {
                    let Some(blinks) = blinks(&log(rack, "pi-3")?, pressed) else {
                        return Ok(false);
                    };
                    ensure!((9..=10).contains(&blinks.len()), "{blinks:?}");
                    ensure!(blinks.iter().all(|time| time.abs_diff(200) <= 80), "{blinks:?}");
                    Ok(true)
                })?;
                Ok(())
            });
            rack.in_node("pi-3", &["pkill", "-KILL", "-x", "burn"]).ok();
            (load.join(), counted)
        });
        drop(load);
        super::soon::prefer(rack, "pi-3", false);
        counted
    })
}

/// How long the red LED was lit each time since then, in milliseconds, until it was dark for long; `None` before that.
fn blinks(log: &str, from: u64) -> Option<Vec<u64>> {
    const LONG: u64 = 700;
    let mut edges = log.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let time = fields.first()?.parse::<u64>().ok()?;
        (time >= from).then_some((time, fields[1] == "22", fields[2] == "1"))
    });
    let (mut blinks, mut lit, mut dark) = (Vec::new(), None, None);
    edges.find_map(|(time, is_red, is_lit)| {
        if dark.is_some_and(|dark| time > dark + LONG) {
            return Some(());
        }
        if is_red && is_lit {
            lit = Some(time);
        } else if let (true, Some(since)) = (is_red, lit) {
            blinks.push(time - since);
            dark = Some(time);
        }
        None
    })?;
    Some(blinks)
}

fn long_press_halts(rack: &Rack) -> Result<()> {
    const APP: &str = "app=given-away";
    let deployment = serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "given-away"},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "given-away"}},
            "template": {
                "metadata": {"labels": {"app": "given-away"}},
                "spec": {"containers": [{"name": "web", "image": "minidc.local/web:1"}], "terminationGracePeriodSeconds": 1},
            },
        },
    });
    let unschedulable = || rack.kubectl(&["get", "node", "pi-3", "-o", "jsonpath={.spec.unschedulable}"]);
    let tools = [("systemctl", SYSTEMCTL), ("systemd-run", SYSTEMD_RUN)];
    with_button(rack, |boards| {
        for (name, text) in tools {
            let path = format!("/usr/local/bin/{name}");
            inside(
                rack,
                "pi-3",
                &format!("cat >{path} <<'END'\n{text}END\nchmod 755 {path}"),
            )?;
        }
        let promised = [("three seconds of a finger to halting", SOON)];
        let outcome = in_time(promised, || {
            for node in ["pi-1", "pi-2"] {
                rack.kubectl(&["cordon", node])?;
            }
            let placed = (|| -> Result<()> {
                rack.kubectl_with(&["apply", "-f", "-"], &deployment.to_string())?;
                on(rack, APP, &["pi-3"])
            })();
            for node in ["pi-1", "pi-2"] {
                rack.kubectl(&["uncordon", node])?;
            }
            placed?;
            let pressed = press(rack, LONG + 300)?;
            let halting = when(rack, "pi-3", [true; 3], pressed)?;
            eventually(PATIENCE, "pi-3 is powered off", || Ok(boards.power(3) != Power::On))?;
            let off = now();
            // they were evicted, and not left for the judge of silent nodes to find
            let said = fs::read_to_string(boards.node_path(3, "/var/log/halt.log"))?;
            ensure!(said.contains(" pods were evicted, to be started elsewhere"), "{said}");
            ensure!(unschedulable()? == "true");
            on(rack, APP, &["pi-1", "pi-2"])?;
            println!("halting for {} ms", off - halting);
            rack.rack("plug", &["pi-3"])?;
            eventually(PATIENCE, "pi-3 takes pods again", || Ok(unschedulable()?.is_empty()))?;
            rack.await_nodes()?;
            well(rack, "pi-3")?;
            rack.kubectl(&["delete", "deployment", "given-away"])?;
            Ok([Duration::from_millis(halting - pressed).saturating_sub(Duration::from_millis(LONG))])
        });
        let _ = rack.kubectl(&["delete", "deployment", "given-away", "--ignore-not-found"]);
        if boards.power(3) == Power::On {
            inside(
                rack,
                "pi-3",
                "rm -f /usr/local/bin/systemctl /usr/local/bin/systemd-run",
            )?;
        }
        outcome
    })
}

/// Waits until both pods are ready on these nodes.
fn on(rack: &Rack, label: &str, nodes: &[&str]) -> Result<()> {
    eventually(PATIENCE, format!("{label} on {nodes:?}"), || {
        let pods = rack.ready_pods(label)?;
        ensure!(
            pods.len() == 2 && pods.iter().all(|pod| nodes.contains(&pod.node.as_str())),
            "{pods:?}"
        );
        Ok(true)
    })
    .map(drop)
}
