//! The rack itself: what starts it says, and that nothing is left of it.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use minidc_tests::{PATIENCE, Rack, eventually, memory::Memory, run};

pub(crate) const ALL: &[crate::Promise] = &[
    (
        "up_on_a_running_rack_says_so_and_changes_nothing",
        up_on_a_running_rack_says_so_and_changes_nothing,
    ),
    ("leds_show_one_line_per_node", leds_show_one_line_per_node),
    (
        "a_second_rack_lives_beside_the_first_and_goes_also_after_a_crash",
        a_second_rack_lives_beside_the_first_and_goes_also_after_a_crash,
    ),
    (
        "a_board_of_512_mb_keeps_250_mb_for_pods",
        a_board_of_512_mb_keeps_250_mb_for_pods,
    ),
];

fn up_on_a_running_rack_says_so_and_changes_nothing(rack: &Rack) -> Result<()> {
    let before = rack.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.uid}"])?;
    let printed = rack.rack("up", &["--nodes", "3"])?;
    ensure!(
        printed.contains("already running") && printed.contains("export KUBECONFIG="),
        "{printed}"
    );
    ensure!(rack.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.uid}"])? == before);
    Ok(())
}

fn leds_show_one_line_per_node(rack: &Rack) -> Result<()> {
    let printed = rack.rack("leds", &["--once"])?;
    for node in ["pi-1", "pi-2", "pi-3"] {
        ensure!(
            printed.lines().filter(|line| line.contains(node)).count() == 1,
            "{printed}"
        );
    }
    Ok(())
}

fn a_second_rack_lives_beside_the_first_and_goes_also_after_a_crash(rack: &Rack) -> Result<()> {
    let (second, printed) = Rack::up("e2e-two", 1)?;
    let outcome = (|| {
        eventually(PATIENCE, &printed, || second.node_is("pi-1", "True"))?;
        rack.await_nodes()?;
        // a crash: the node dies, and the rack's own record of it with it
        second.rack("unplug", &["pi-1"])?;
        let record = second.directory().join("rack.json");
        if record.exists() {
            std::fs::remove_file(record)?;
        }
        Ok(())
    })();
    let gone = down_leaves_nothing(&second);
    outcome.and(gone)
}

fn a_board_of_512_mb_keeps_250_mb_for_pods(_: &Rack) -> Result<()> {
    let (small, _) = Rack::up_with("e2e-small", 2, &["--memory", "512"])?;
    let outcome = hold_250_mb(&small);
    let gone = down_leaves_nothing(&small);
    outcome.and(gone)
}

/// Beside five small pods, pods that have 250 MiB in their hands stay alive, and the node with them.
fn hold_250_mb(rack: &Rack) -> Result<()> {
    const WANTED: f64 = 250.0 * 1024.0 * 1024.0;
    let pod = |name: &str, command: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  nodeName: pi-2\n  terminationGracePeriodSeconds: 0\n  \
             containers:\n  - name: main\n    image: minidc.local/web:1\n    imagePullPolicy: IfNotPresent\n    command: [\"/bin/sh\", \"-c\", {command:?}]\n"
        )
    };
    // dd fills its buffer, then waits for somebody who reads it
    let mut pods = pod("greedy", "busybox dd if=/dev/zero bs=250M count=1 | sleep 600");
    for number in 0..5 {
        pods.push_str(&pod(&format!("small-{number}"), "sleep 600"));
    }
    // those of process 1: what one of them is just starting has its name, too, until it is something else
    let own = "for name in minidc containerd avahi-daemon; do pgrep -xP 1 $name || exit 1; done";
    let daemons = || rack.in_node("pi-2", &["sh", "-c", own]);
    let before = daemons()?;
    rack.kubectl_with(&["apply", "-f", "-"], &pods)?;
    let mut memory = Memory::default();
    eventually(PATIENCE, "pods with 250 MiB", || {
        memory = Memory::of(&rack.name, "pi-2")?;
        Ok(memory.pods.processes >= 6 && memory.pods.bytes() >= WANTED)
    })?;
    // whoever is short of memory is killed within moments; there is nothing to wait for but time
    std::thread::sleep(Duration::from_secs(10));
    memory = Memory::of(&rack.name, "pi-2")?;
    let mebi = |bytes: f64| bytes / f64::from(1 << 20);
    println!(
        "pods have {:.0} MiB, the node itself {:.0} MiB",
        mebi(memory.pods.bytes()),
        mebi(memory.of_the_node())
    );
    ensure!(memory.pods.bytes() >= WANTED, "{memory:?}");
    ensure!(memory.of_the_node() < 262.0 * 1024.0 * 1024.0, "{memory:?}");
    ensure!(daemons()? == before, "a daemon was started again");
    eventually(PATIENCE, "pi-2 Ready", || rack.node_is("pi-2", "True"))?;
    let well = |pod: &serde_json::Value| {
        pod["status"]["phase"] == "Running" && pod["status"]["containerStatuses"][0]["restartCount"] == 0
    };
    eventually(PATIENCE, "six pods that were never restarted", || {
        let pods = rack.get(&["pods"])?;
        let pods = pods["items"].as_array().context("no pods")?;
        ensure!(pods.len() == 6 && pods.iter().all(well), "{pods:#?}");
        Ok(true)
    })
    .map(drop)
}

/// Takes the rack down and looks for anything that bears its name.
pub(crate) fn down_leaves_nothing(rack: &Rack) -> Result<()> {
    rack.down()?;
    let mark = format!("minidc-{}-", rack.name);
    let namespaces = run(Command::new("ip").args(["netns", "list"]))?;
    ensure!(!namespaces.lines().any(|line| line.starts_with(&mark)), "{namespaces}");
    let directory = rack.directory().display().to_string();
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    ensure!(!mounts.contains(&format!("{directory}/")), "{mounts}");
    ensure!(!rack.directory().exists(), "{directory} is still there");
    // 1: another's directory went while it was looked at
    let find = format!(
        "find /sys/fs/cgroup -maxdepth 4 -type d -path '*minidc*{}*'; [ $? -le 1 ]",
        rack.name
    );
    let cgroups = run(Command::new("sh").args(["-c", &find]))?;
    // cgroups of another rack whose name begins alike do not count
    let own: Vec<&str> = cgroups
        .lines()
        .filter(|path| path.split('/').any(|part| part == rack.name))
        .collect();
    ensure!(own.is_empty(), "{own:?}");
    let processes = run(Command::new("sh").args(["-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"]))?;
    ensure!(
        !processes.contains(&format!("{directory}/")),
        "a process still uses {directory}"
    );
    Ok(())
}
