//! The rack itself: what starts it says, and that nothing is left of it.

use std::process::Command;

use anyhow::{Result, ensure};
use minidc_tests::{Rack, run};

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
        ensure!(
            second.kubectl(&["get", "nodes", "--no-headers"])?.contains(" Ready "),
            "{printed}"
        );
        ensure!(
            rack.kubectl(&["get", "nodes", "--no-headers"])?
                .matches(" Ready ")
                .count()
                == 3
        );
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
    let cgroups = run(Command::new("find").args([
        "/sys/fs/cgroup",
        "-maxdepth",
        "4",
        "-type",
        "d",
        "-path",
        &format!("*minidc*{}*", rack.name),
    ]))?;
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
