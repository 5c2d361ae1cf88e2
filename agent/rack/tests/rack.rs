//! Racks as they are used: built, unplugged, broken, taken down. Needs root and the programs that a rack needs; without
//! them the tests fail, since nothing was proven.
//!
//! This program is also what stands in for minidc inside its racks: `rack init` is process 1 of a virtual Pi, `server` and
//! `agent` wait for the end.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::{Arguments, Trial};
use minidc_rack::{Error, Lines, NodeSpec, PodRoute, Power, Rack, Role, Signal, Up, UpOptions};

type Test = fn() -> Result<()>;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("rack") => {
            if let Err(error) = minidc_rack::init(Path::new(&arguments[3])) {
                eprintln!("{error}: {:?}", std::error::Error::source(&error));
                std::process::exit(1);
            }
        }
        Some("server" | "agent") => loop {
            thread::park();
        },
        _ => {
            let tests: [(&str, Test); 11] = [
                (
                    "rack_comes_up_and_nothing_is_left_of_it",
                    rack_comes_up_and_nothing_is_left_of_it,
                ),
                ("nodes_find_each_other_by_name", nodes_find_each_other_by_name),
                (
                    "unplugged_node_boots_with_what_was_on_its_disk",
                    unplugged_node_boots_with_what_was_on_its_disk,
                ),
                ("two_racks_do_not_touch_each_other", two_racks_do_not_touch_each_other),
                (
                    "crashed_rack_is_removed_whole_and_built_anew",
                    crashed_rack_is_removed_whole_and_built_anew,
                ),
                ("half_made_rack_is_removed_whole", half_made_rack_is_removed_whole),
                (
                    "daemons_are_started_again_and_can_be_held",
                    daemons_are_started_again_and_can_be_held,
                ),
                ("cables_can_be_cut_and_lose_packets", cables_can_be_cut_and_lose_packets),
                ("node_is_shut_off_from_its_host", node_is_shut_off_from_its_host),
                (
                    "guest_is_on_the_network_and_goes_with_the_rack",
                    guest_is_on_the_network_and_goes_with_the_rack,
                ),
                (
                    "failure_to_boot_is_told_with_its_reason",
                    failure_to_boot_is_told_with_its_reason,
                ),
            ];
            let trials = tests
                .into_iter()
                .map(|(name, test)| Trial::test(name, move || test().map_err(|error| format!("{error:?}").into())))
                .collect();
            libtest_mimic::run(&Arguments::from_args(), trials).exit();
        }
    }
}

/// A rack that is taken down at the end of its test, whatever happens.
struct TestRack(Rack);

impl std::ops::Deref for TestRack {
    type Target = Rack;

    fn deref(&self) -> &Rack {
        &self.0
    }
}

impl Drop for TestRack {
    fn drop(&mut self) {
        if let Err(error) = minidc_rack::down(self.0.name(), &minidc_rack::Silent) {
            eprintln!("take {} down: {error}", self.0.name());
        }
    }
}

fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn options(nodes: u32) -> Result<UpOptions> {
    Ok(UpOptions::new(fresh_name(), nodes, std::env::current_exe()?))
}

fn start(options: &UpOptions) -> Result<Up> {
    let configure = |_: &Rack, index: u32| {
        let role = if index == 1 { Role::Server } else { Role::Agent };
        Ok(NodeSpec::new(role, format!("# node {index}\n")))
    };
    Ok(minidc_rack::up(options, &configure, &Lines::new(std::io::stderr()))?)
}

fn up(nodes: u32) -> Result<TestRack> {
    Ok(TestRack(start(&options(nodes)?)?.rack))
}

/// Runs a command in a node and returns what it printed.
fn run(rack: &Rack, index: u32, command: &[&str]) -> Result<String> {
    let output = rack.run_in(index, command)?.output()?;
    ensure!(
        output.status.success(),
        "{command:?} in {}: {}: {}",
        rack.node_name(index),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Far more than anything takes, also on a machine that does other work.
const LIMIT: Duration = Duration::from_secs(120);

fn wait_for(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let last = condition();
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("{what}: not within {LIMIT:?}: {last:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Everything of a rack that can be found on the host, by its name.
fn traces(rack: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let (group, data) = (format!("minidc-rack/{rack}"), format!("/minidc-rack/{rack}/"));
    let namespace = format!("minidc-{rack}-");
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        if line.contains(&data) || line.contains(&namespace) {
            found.insert(format!("mount {line}"));
        }
    }
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        if name.starts_with(&namespace) {
            found.insert(format!("namespace {name}"));
        }
    }
    for entry in fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| {
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let stat = read("stat");
        let dead = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'));
        let (cgroup, command) = (read("cgroup"), read("cmdline"));
        if !dead && (cgroup.contains(&group) || command.contains(&data)) {
            found.insert(format!("process {} {command}", entry.file_name().display()));
        }
    }
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.ends_with(&group) {
                found.insert(format!("cgroup {}", path.display()));
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) && path.components().count() < 7 {
                open.push(path);
            }
        }
    }
    for top in ["/run/minidc-rack", "/var/lib/minidc-rack"] {
        if Path::new(top).join(rack).exists() {
            found.insert(format!("directory {top}/{rack}"));
        }
    }
    Ok(found)
}

fn host_has(interface: &str) -> bool {
    Path::new("/sys/class/net").join(interface).exists()
}

fn rack_comes_up_and_nothing_is_left_of_it() -> Result<()> {
    let mut options = options(2)?;
    options.memory = Some(512 << 20);
    options.environment.insert("GREETING".into(), "hello".into());
    let first = start(&options)?;
    let rack = TestRack(first.rack);
    ensure!(!first.already_running);
    let interface = format!("minidc{}", rack.subnet());
    ensure!(host_has(&interface));
    for index in 1..=2 {
        let name = rack.node_name(index);
        ensure!(run(&rack, index, &["hostname"])?.trim() == name);
        let version = run(&rack, index, &["ctr", "version"])?;
        ensure!(version.contains("Server:"), "{version}");
        let links = run(&rack, index, &["ls", "/sys/class/net"])?;
        ensure!(links.split_whitespace().eq(["eth0", "lo"]), "{links}");
        let config = fs::read_to_string(rack.node_path(index, "/etc/minidc/config.toml"))?;
        ensure!(config == format!("# node {index}\n"));
        ensure!(run(&rack, index, &["cat", "/etc/minidc/config.toml"])? == config);
        let services: Vec<String> = rack.status()[index as usize - 1].services.keys().cloned().collect();
        ensure!(services == ["avahi", "containerd", "dbus", "minidc"], "{services:?}");
    }
    let environment = run(
        &rack,
        2,
        &[
            "sh",
            "-c",
            "tr '\\0' '\\n' </proc/$(pidof minidc | tr ' ' '\\n' | sort -n | tail -1)/environ",
        ],
    )?;
    ensure!(environment.contains("GREETING=hello"), "{environment}");
    if Path::new("/sys/fs/cgroup/memory").exists() {
        let cap = run(&rack, 1, &["cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"])?;
        ensure!(cap.trim() == (512 << 20).to_string(), "{cap}");
    }
    let before = (rack.node_pid(1)?, rack.node_pid(2)?);
    let second = start(&options)?;
    ensure!(second.already_running);
    ensure!(
        (second.rack.node_pid(1)?, second.rack.node_pid(2)?) == before,
        "up changed a running rack"
    );
    rack.add_pod_routes(&[PodRoute {
        range: "100.127.254.0/24".into(),
        via: rack.node_address(2),
    }])?;
    let listed = minidc_rack::list()
        .into_iter()
        .find(|summary| summary.name == rack.name())
        .context("not listed")?;
    ensure!(listed.healthy && listed.nodes == 2 && listed.powered == 2, "{listed:?}");
    ensure!(!traces(rack.name())?.is_empty());
    ensure!(minidc_rack::down(rack.name(), &minidc_rack::Silent)?);
    let left = traces(rack.name())?;
    ensure!(left.is_empty(), "{left:#?}");
    ensure!(!host_has(&interface));
    ensure!(
        !minidc_rack::down(rack.name(), &minidc_rack::Silent)?,
        "the second time there was something left"
    );
    Ok(())
}

fn nodes_find_each_other_by_name() -> Result<()> {
    let rack = up(2)?;
    for (from, to) in [(1, 2), (2, 1)] {
        wait_for_name(&rack, from, &rack.node_name(to), &rack.node_address(to).to_string())?;
    }
    Ok(())
}

fn wait_for_name(rack: &Rack, from: u32, name: &str, address: &str) -> Result<()> {
    let name = format!("string:{name}.local");
    let ask = [
        "dbus-send",
        "--system",
        "--print-reply",
        "--dest=org.freedesktop.Avahi",
        "/",
        "org.freedesktop.Avahi.Server.ResolveHostName",
        "int32:-1",
        "int32:0",
        &name,
        "int32:0",
        "uint32:0",
    ];
    wait_for("mDNS", || {
        let answer = run(rack, from, &ask)?;
        ensure!(answer.contains(&format!("\"{address}\"")), "{answer}");
        Ok(true)
    })
}

fn unplugged_node_boots_with_what_was_on_its_disk() -> Result<()> {
    let rack = up(2)?;
    run(
        &rack,
        2,
        &[
            "sh",
            "-c",
            "echo kept >/etc/own-file; echo kept >/var/lib/minidc/state; echo lost >/run/own-file",
        ],
    )?;
    let ids = (
        run(&rack, 2, &["cat", "/etc/machine-id"])?,
        run(&rack, 2, &["cat", "/sys/class/net/eth0/address"])?,
    );
    let mut inside = rack.run_in(2, &["sleep", "1000"])?.spawn()?;
    wait_for("the command to be inside", || {
        Ok(run(&rack, 2, &["sh", "-c", "cat /proc/[0-9]*/comm"])?
            .lines()
            .any(|name| name == "sleep"))
    })?;
    let init = rack.node_pid(2)?;
    let cut = Instant::now();
    rack.unplug(2)?;
    ensure!(
        cut.elapsed() < Duration::from_secs(20),
        "the cut took {:?}",
        cut.elapsed()
    );
    ensure!(!inside.wait()?.success());
    ensure!(!Path::new(&format!("/proc/{init}")).exists() || rack.power(2) == Power::Off);
    ensure!(rack.power(2) == Power::Off && rack.power(1) == Power::On);
    ensure!(matches!(rack.run_in(2, &["true"]), Err(Error::Unplugged { .. })));
    ensure!(rack.leds()[1].recording.is_none());
    ensure!(fs::read_to_string(rack.node_path(2, "/var/lib/minidc/state"))? == "kept\n");
    ensure!(
        !traces(rack.name())?
            .iter()
            .any(|trace| trace.starts_with("process") && trace.contains("/pi-2/"))
    );
    let again = minidc_rack::up(
        &UpOptions::new(rack.name(), 2, std::env::current_exe()?),
        &|_, _| Err("not to be asked".into()),
        &minidc_rack::Silent,
    )?;
    ensure!(again.already_running, "an unplugged node is no crash");
    rack.unplug(2)?;
    rack.plug(2, &minidc_rack::Silent)?;
    ensure!(matches!(rack.plug(2, &minidc_rack::Silent), Err(Error::Plugged { .. })));
    ensure!(run(&rack, 2, &["cat", "/etc/own-file", "/var/lib/minidc/state"])? == "kept\nkept\n");
    ensure!(
        run(&rack, 2, &["cat", "/run/own-file"]).is_err(),
        "/run survived the power cut"
    );
    let ids_now = (
        run(&rack, 2, &["cat", "/etc/machine-id"])?,
        run(&rack, 2, &["cat", "/sys/class/net/eth0/address"])?,
    );
    ensure!(ids_now == ids);
    ensure!(run(&rack, 2, &["ctr", "version"])?.contains("Server:"));
    reaches(&rack, 1, 2)?;
    // In order, this time.
    rack.shut_down(2)?;
    ensure!(rack.power(2) == Power::Off);
    Ok(())
}

fn two_racks_do_not_touch_each_other() -> Result<()> {
    let (one, other) = thread::scope(|scope| {
        let other = scope.spawn(|| up(1));
        (up(1), other.join())
    });
    let (one, other) = (one?, other.map_err(|_| anyhow::anyhow!("a thread panicked"))??);
    ensure!(one.subnet() != other.subnet());
    let before = other.node_pid(1)?;
    minidc_rack::down(one.name(), &minidc_rack::Silent)?;
    ensure!(traces(one.name())?.is_empty());
    ensure!(other.node_pid(1)? == before);
    ensure!(run(&other, 1, &["ctr", "version"])?.contains("Server:"));
    Ok(())
}

fn crashed_rack_is_removed_whole_and_built_anew() -> Result<()> {
    let options = options(2)?;
    let rack = TestRack(start(&options)?.rack);
    // As after the kernel's out-of-memory killer, or a person with `kill -9`.
    for trace in traces(rack.name())? {
        if let Some(pid) = trace.strip_prefix("process ").and_then(|rest| rest.split(' ').next()) {
            Command::new("kill").args(["-9", pid]).output()?;
        }
    }
    wait_for("the crash", || {
        Ok(rack.power(1) == Power::Crashed && rack.power(2) == Power::Crashed)
    })?;
    ensure!(
        Command::new("ip")
            .args(["netns", "delete", &rack.node_namespace(2)])
            .status()?
            .success()
    );
    ensure!(
        minidc_rack::list()
            .iter()
            .any(|summary| summary.name == rack.name() && !summary.healthy)
    );
    let again = start(&options)?;
    ensure!(!again.already_running);
    ensure!(again.rack.power(1) == Power::On && again.rack.power(2) == Power::On);
    ensure!(minidc_rack::down(rack.name(), &minidc_rack::Silent)?);
    let left = traces(rack.name())?;
    ensure!(left.is_empty(), "{left:#?}");
    Ok(())
}

fn half_made_rack_is_removed_whole() -> Result<()> {
    let options = options(2)?;
    let rack = TestRack(Rack::create(&options)?);
    ensure!(matches!(Rack::create(&options), Err(Error::Exists(_))));
    rack.start_node(1, &NodeSpec::new(Role::Server, ""), &minidc_rack::Silent)?;
    // Nothing tells any more what there is.
    fs::remove_file(Path::new("/run/minidc-rack").join(rack.name()).join("rack.json"))?;
    ensure!(
        minidc_rack::list()
            .iter()
            .any(|summary| summary.name == rack.name() && !summary.healthy)
    );
    ensure!(minidc_rack::down(rack.name(), &minidc_rack::Silent)?);
    let left = traces(rack.name())?;
    ensure!(left.is_empty(), "{left:#?}");
    ensure!(!host_has(&format!("minidc{}", rack.subnet())));
    Ok(())
}

fn daemons_are_started_again_and_can_be_held() -> Result<()> {
    let rack = up(1)?;
    let starts = |service: &str| rack.status()[0].services.get(service).copied();
    ensure!(starts("minidc") == Some(1));
    ensure!(rack.kill_process_in(1, "minidc", Signal::SIGKILL)? == 1);
    wait_for("minidc to be started again", || Ok(starts("minidc") == Some(2)))?;
    rack.kill_process_in(1, "containerd", Signal::SIGKILL)?;
    wait_for("containerd to answer again", || {
        Ok(starts("containerd") == Some(2) && run(&rack, 1, &["ctr", "version"])?.contains("Server:"))
    })?;
    rack.hold_service(1, "minidc")?;
    ensure!(rack.kill_process_in(1, "minidc", Signal::SIGKILL)? == 0);
    rack.release_service(1, "minidc")?;
    wait_for("minidc to be let go", || Ok(starts("minidc") == Some(3)))?;
    // Orphans are process 1's to bury.
    run(
        &rack,
        1,
        &["sh", "-c", "for i in 1 2 3 4 5; do setsid --fork true; done"],
    )?;
    wait_for("the orphans to be reaped", || {
        Ok(!run(&rack, 1, &["sh", "-c", "cat /proc/[0-9]*/stat"])?.contains(") Z 1 "))
    })
}

fn reaches(rack: &Rack, from: u32, to: u32) -> Result<()> {
    let address = rack.node_address(to).to_string();
    wait_for("an answer to a ping", || {
        run(rack, from, &["busybox", "ping", "-c", "1", "-W", "1", &address]).map(|_| true)
    })
}

fn cables_can_be_cut_and_lose_packets() -> Result<()> {
    let rack = up(2)?;
    let address = rack.node_address(2).to_string();
    let ping = ["busybox", "ping", "-c", "2", "-W", "1", address.as_str()];
    reaches(&rack, 1, 2)?;
    let from_host = Command::new("busybox").args(&ping[1..]).output()?;
    ensure!(from_host.status.success(), "the host does not reach {address}");
    rack.cut_cable(2)?;
    ensure!(run(&rack, 2, &["cat", "/sys/class/net/eth0/carrier"])?.trim() == "0");
    ensure!(run(&rack, 1, &ping).is_err());
    rack.join_cable(2)?;
    reaches(&rack, 1, 2)?;
    rack.packet_loss(2, 100)?;
    ensure!(run(&rack, 1, &ping).is_err());
    rack.packet_loss(2, 0)?;
    reaches(&rack, 1, 2)
}

fn node_is_shut_off_from_its_host() -> Result<()> {
    let rack = up(1)?;
    let mark = format!("mark-of-{}", rack.name());
    for directory in ["/etc", "/opt", "/root", "/tmp", "/var/tmp", "/srv", "/run"] {
        run(&rack, 1, &["touch", &format!("{directory}/{mark}")])?;
        ensure!(
            !Path::new(directory).join(&mark).exists(),
            "the node wrote into the host's {directory}"
        );
    }
    let mounts = run(&rack, 1, &["cat", "/proc/mounts"])?;
    ensure!(
        mounts
            .lines()
            .filter(|line| line.contains(" / "))
            .all(|line| line.starts_with("overlay / ")),
        "{mounts}"
    );
    ensure!(run(&rack, 1, &["ls", "/var/lib/minidc-rack"])?.is_empty());
    ensure!(run(&rack, 1, &["ls", "/run/netns"])?.is_empty());
    let processes = run(&rack, 1, &["sh", "-c", "echo /proc/[0-9]*"])?;
    ensure!(processes.split_whitespace().count() < 30, "{processes}");
    let resolv = run(&rack, 1, &["cat", "/etc/resolv.conf"])?;
    ensure!(!resolv.contains("nameserver"), "{resolv}");
    Ok(())
}

fn guest_is_on_the_network_and_goes_with_the_rack() -> Result<()> {
    let mut rack = up(1)?;
    let laptop = rack.0.add_guest("laptop", &minidc_rack::Silent)?;
    for bad in ["laptop", "pi-1", "pi-2", "No Name"] {
        let refused = rack.0.add_guest(bad, &minidc_rack::Silent);
        ensure!(matches!(refused, Err(Error::BadGuest { .. })), "{bad}");
    }
    let mut again = Rack::open(rack.name())?;
    ensure!(again.node_index("laptop")? == laptop && again.node_name(laptop) == "laptop");
    ensure!(again.guests().eq([laptop]) && again.nodes() == 1 && again.status().len() == 1);
    ensure!(run(&rack, laptop, &["hostname"])?.trim() == "laptop");
    let processes = run(&rack, laptop, &["sh", "-c", "cat /proc/[0-9]*/comm"])?;
    ensure!(
        processes.contains("avahi-daemon") && !processes.contains("containerd"),
        "{processes}"
    );
    ensure!(
        run(&rack, laptop, &["ls", "/etc/minidc", "/var/lib/minidc"])?
            .lines()
            .all(|line| !line.contains("config"))
    );
    reaches(&rack, laptop, 1)?;
    reaches(&rack, 1, laptop)?;
    wait_for_name(&rack, laptop, "pi-1", &rack.node_address(1).to_string())?;
    wait_for_name(&rack, 1, "laptop", &rack.node_address(laptop).to_string())?;
    // It is no part of the rack: a rack whose guest is switched off is a healthy one.
    rack.unplug(laptop)?;
    ensure!(
        minidc_rack::list()
            .iter()
            .any(|summary| summary.name == rack.name() && summary.healthy && summary.powered == 1)
    );
    rack.plug(laptop, &minidc_rack::Silent)?;
    let second = again.add_guest("phone", &minidc_rack::Silent)?;
    ensure!(second != laptop);
    reaches(&again, second, laptop)?;
    ensure!(minidc_rack::down(rack.name(), &minidc_rack::Silent)?);
    let left = traces(rack.name())?;
    ensure!(left.is_empty(), "{left:#?}");
    Ok(())
}

fn failure_to_boot_is_told_with_its_reason() -> Result<()> {
    let mut options = options(1)?;
    options.binary = "/bin/false".into();
    let name = options.name.clone();
    let result = start(&options);
    let left = minidc_rack::down(&name, &minidc_rack::Silent)?;
    let error = result.err().context("a rack of /bin/false came up")?;
    ensure!(error.to_string().starts_with("start pi-1: "), "{error}");
    ensure!(left, "what was built stays for somebody to look at");
    ensure!(traces(&name)?.is_empty());
    Ok(())
}
