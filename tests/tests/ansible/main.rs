//! The Debian package and the Ansible playbook, on three machines that each have a Debian 12 of their own, with systemd as
//! process 1, sshd and no internet.
//!
//! It takes minutes and builds the machines' Debian first, so that it is not among the tests of `make test`:
//! `make test-ansible` runs it, as root. `ANSIBLE_KEEP=1` leaves the machines running; `machine.sh in DIRECTORY 1 bash` opens a
//! shell in one.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use minidc_tests::{eventually, minidc, run, workspace};

const MACHINES: [u32; 3] = [1, 2, 3];

fn main() -> ExitCode {
    // as the other test programs, it may be asked what there is
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let name = "playbook_sets_up_a_cluster_once_and_takes_it_away_without_a_trace";
    if arguments.iter().any(|argument| argument == "--list") {
        println!("{name}: test");
        return ExitCode::SUCCESS;
    }
    println!("running 1 test");
    let start = Instant::now();
    let result = Lab::new().and_then(|lab| {
        let result = all(&lab);
        if result.is_err() {
            lab.tell();
        }
        if std::env::var_os("ANSIBLE_KEEP").is_none() {
            lab.machine(&["down"])?;
        }
        result
    });
    let (word, passed, failed) = if result.is_ok() { ("ok", 1, 0) } else { ("FAILED", 0, 1) };
    if let Err(error) = &result {
        eprintln!("{error:#}");
    }
    println!("test {name} ... {word}");
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s",
        start.elapsed().as_secs_f64()
    );
    if result.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn all(lab: &Lab) -> Result<()> {
    let before = lab.traces()?;

    let first = lab.play("site.yml")?;
    ensure!(
        first.values().all(|recap| recap.failed == 0 && recap.changed > 0),
        "{first:?}"
    );
    lab.step("playbook, first run");

    nothing_else_runs(lab)?;
    a_pod_runs_on_a_node(lab)?;
    lab.step("a pod on m2");

    let second = lab.play("site.yml")?;
    ensure!(
        second.values().all(|recap| recap.failed == 0 && recap.changed == 0),
        "{second:?}"
    );
    lab.step("playbook, second run: nothing changed");

    nodes_come_back_after_a_restart(lab)?;
    lab.step("restart of minidc and of a machine's containerd: the pod ran on");

    package_without_a_role_waits(lab)?;
    lab.step("a machine whose role was taken away");

    let gone = lab.play("uninstall.yml")?;
    ensure!(
        gone.values().all(|recap| recap.failed == 0 && recap.changed > 0),
        "{gone:?}"
    );
    lab.step("uninstalled");
    let after = lab.traces()?;
    for (machine, traces) in &after {
        let was = &before[machine];
        let more: Vec<_> = traces.iter().filter(|line| !was.contains(line)).collect();
        let less: Vec<_> = was.iter().filter(|line| !traces.contains(line)).collect();
        ensure!(
            more.is_empty() && less.is_empty(),
            "m{machine} has more: {more:#?} and less: {less:#?}"
        );
    }
    let again = lab.play("uninstall.yml")?;
    ensure!(
        again.values().all(|recap| recap.failed == 0 && recap.changed == 0),
        "{again:?}"
    );
    lab.step("nothing is left; uninstalled again: nothing changed");

    by_hand(lab)?;
    lab.step("installed, removed, installed again and purged by hand");
    Ok(())
}

/// What a person without Ansible does, on m1.
fn by_hand(lab: &Lab) -> Result<()> {
    let apt = |arguments: &str| {
        let command = format!("DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 {arguments} 2>&1");
        lab.inside(1, &["sh", "-c", &command])
    };
    lab.copy_package(1, "/tmp/package.deb")?;
    let said = apt("install --no-install-recommends /tmp/package.deb")?;
    ensure!(
        said.contains("/etc/minidc/config.toml"),
        "no word on what to do next: {said}"
    );
    let failed = lab.inside(1, &["systemctl", "list-units", "--failed", "--no-legend"])?;
    ensure!(failed.trim().is_empty(), "{failed}");
    // the example in the file as it comes, with one line put into use
    lab.inside(
        1,
        &[
            "sed",
            "-i",
            r#"0,/^#role = "server"/s//role = "server"/"#,
            "/etc/minidc/config.toml",
        ],
    )?;
    lab.inside(1, &["systemctl", "restart", "minidc.service"])?;
    let ready = || {
        let nodes = lab.inside(1, &["minidc", "node", "list"])?;
        Ok(nodes.contains(" Ready "))
    };
    eventually(Duration::from_secs(60), "a node", ready)?;
    let authority = || lab.inside(1, &["cat", "/var/lib/minidc/server/pki/ca.crt"]);
    let before = authority()?;
    ensure!(before.contains("BEGIN CERTIFICATE"), "{before}");
    // a removed package stops everything and keeps the data
    apt("remove minidc")?;
    let left = lab.inside(
        1,
        &[
            "sh",
            "-c",
            "ps -eo args | grep -E '[m]inidc|[s]him'; ip -o link show cni0 2>&1; nft list tables",
        ],
    )?;
    ensure!(!left.contains("minidc") && left.contains("does not exist"), "{left}");
    apt("install --no-install-recommends /tmp/package.deb")?;
    eventually(Duration::from_secs(60), "the same node again", ready)?;
    ensure!(authority()? == before, "another cluster");
    // a purge never deletes through a mount that it cannot take away
    let held = "/var/lib/minidc/held";
    let command = format!(
        "mkdir {held} && mount -t tmpfs held {held} && touch {held}/mine && cd {held} && dpkg --purge minidc 2>&1"
    );
    let refused = lab.output(1, &["sh", "-c", &command])?;
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    ensure!(!refused.status.success() && said.contains("stays"), "{said}");
    lab.inside(1, &["test", "-e", &format!("{held}/mine")])?;
    apt("purge minidc")?;
    let left = lab.inside(
        1,
        &[
            "sh",
            "-c",
            "ls -d /var/lib/minidc /etc/minidc /usr/lib/minidc 2>/dev/null; mount | grep held; true",
        ],
    )?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

/// minidc and a containerd of its own, and no other.
fn nothing_else_runs(lab: &Lab) -> Result<()> {
    for machine in MACHINES {
        let failed = lab.inside(machine, &["systemctl", "list-units", "--failed", "--no-legend"])?;
        ensure!(failed.trim().is_empty(), "m{machine}: {failed}");
        for (unit, expected) in [
            ("minidc.service", "active"),
            ("minidc-containerd.service", "active"),
            ("containerd.service", "inactive"),
        ] {
            let state = lab.output(machine, &["systemctl", "is-active", unit])?;
            let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
            ensure!(state == expected, "m{machine}: {unit} is {state}");
        }
    }
    let mode = lab.inside(2, &["stat", "-c", "%a", "/etc/minidc/token"])?;
    ensure!(mode.trim() == "600", "{mode}");
    Ok(())
}

fn a_pod_runs_on_a_node(lab: &Lab) -> Result<()> {
    let nodes = lab.kubectl(&["get", "nodes", "-o", "wide"])?;
    println!("{nodes}");
    ensure!(
        nodes.lines().filter(|line| line.contains(" Ready ")).count() == 3,
        "{nodes}"
    );
    let archive = lab.directory.join("demo.tar");
    run(Command::new(minidc()?).args(["rack", "demo-image"]).arg(&archive))?;
    let archive = archive.display().to_string();
    lab.on_switch(&[&minidc()?.display().to_string(), "image", "import", &archive])?;
    lab.kubectl(&[
        "run",
        "web",
        "--image=minidc.local/web:1",
        "--image-pull-policy=Never",
        "--port=80",
        r#"--overrides={"spec":{"nodeName":"m2","containers":[{"name":"web","image":"minidc.local/web:1","ports":[{"containerPort":80,"hostPort":8080}],"resources":{"limits":{"memory":"64Mi"}}}]}}"#,
    ])?;
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"])?;
    Ok(())
}

fn pod(lab: &Lab) -> Result<String> {
    lab.kubectl(&[
        "get",
        "pod",
        "web",
        "-o",
        "jsonpath={.status.containerStatuses[0].containerID} {.status.phase}",
    ])
}

fn nodes_come_back_after_a_restart(lab: &Lab) -> Result<()> {
    let before = pod(lab)?;
    ensure!(before.ends_with("Running"), "{before}");
    lab.inside(
        2,
        &["systemctl", "restart", "minidc-containerd.service", "minidc.service"],
    )?;
    lab.inside(1, &["systemctl", "restart", "minidc.service"])?;
    eventually(Duration::from_secs(60), "all nodes Ready after a restart", || {
        let nodes = lab.kubectl(&["get", "nodes"])?;
        Ok(nodes.lines().filter(|line| line.contains(" Ready ")).count() == 3)
    })?;
    let after = pod(lab)?;
    ensure!(after == before, "{before} became {after}");
    Ok(())
}

/// As after installing the package by hand: no role, no failed unit, no restart after restart.
fn package_without_a_role_waits(lab: &Lab) -> Result<()> {
    lab.inside(3, &["sed", "-i", "s/^role/#role/", "/etc/minidc/config.toml"])?;
    lab.inside(3, &["systemctl", "restart", "minidc.service"])?;
    let show = lab.inside(
        3,
        &[
            "systemctl",
            "show",
            "-p",
            "ActiveState,NRestarts,Result",
            "minidc.service",
        ],
    )?;
    ensure!(
        show.contains("ActiveState=inactive") && show.contains("NRestarts=0"),
        "{show}"
    );
    let back = lab.play("site.yml")?;
    ensure!(back["m3"].changed > 0 && back["m2"].changed == 0, "{back:?}");
    Ok(())
}

/// What a machine's line in Ansible's closing table says.
#[derive(Clone, Debug)]
struct Recap {
    changed: u32,
    failed: u32,
}

/// The machines, and the computer on their switch that Ansible runs on.
struct Lab {
    directory: PathBuf,
    ansible: PathBuf,
    start: Instant,
}

impl Lab {
    /// Prints what the machines said last.
    fn tell(&self) {
        for machine in MACHINES {
            let journal = self.inside(
                machine,
                &[
                    "journalctl",
                    "-q",
                    "--no-pager",
                    "-n",
                    "60",
                    "-u",
                    "minidc*",
                    "-u",
                    "avahi-daemon",
                ],
            );
            eprintln!("m{machine}:\n{}", journal.unwrap_or_else(|error| format!("{error:#}")));
        }
    }

    fn new() -> Result<Self> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
        let directory = std::path::absolute(target)?.join("ansible");
        fs::create_dir_all(&directory)?;
        let lab = Self {
            ansible: virtual_environment(&directory)?,
            directory,
            start: Instant::now(),
        };
        lab.machine(&["down"])?;
        lab.step("Ansible");
        lab.build()?;
        for machine in MACHINES {
            lab.machine(&["up", &machine.to_string()])?;
        }
        for machine in MACHINES {
            eventually(Duration::from_secs(60), format!("systemd of m{machine}"), || {
                let state = lab.output(machine, &["systemctl", "is-system-running"])?;
                let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
                ensure!(state == "running", "{state}; {}", lab.console(machine));
                Ok(true)
            })?;
        }
        lab.step("three machines with systemd");
        Ok(lab)
    }

    /// The Debian of all machines, the key to them, the package and the inventory.
    fn build(&self) -> Result<()> {
        // kept for the next run, until the script that makes it changes
        let (root, made_by) = (self.directory.join("root"), self.directory.join("root-made-by"));
        let recipe = fs::read(script())?;
        if !root.exists() || fs::read(&made_by).ok().as_ref() != Some(&recipe) {
            run(Command::new("rm").args(["-rf", "--one-file-system"]).arg(&root))?;
            run(Command::new(script()).arg("root").arg(&root))?;
            fs::write(&made_by, recipe)?;
        }
        self.step("a Debian for the machines");
        let key = self.directory.join("key");
        if !key.exists() {
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&key))?;
        }
        let architecture = run(Command::new("dpkg").arg("--print-architecture"))?;
        run(Command::new(workspace().join("image/deb/build"))
            .args([architecture.trim()])
            .arg(minidc()?)
            .env("CARGO_TARGET_DIR", &self.directory))?;
        let mut inventory = String::from(
            "[control_plane]\nm1 ansible_host=10.79.0.1\n[nodes]\nm2 ansible_host=10.79.0.2\nm3 ansible_host=10.79.0.3\n[all:vars]\n",
        );
        let lines = [
            "ansible_user=root".to_owned(),
            format!("ansible_ssh_private_key_file={}", key.display()),
            "ansible_ssh_common_args=-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
                .to_owned(),
            "minidc_cluster=garage".to_owned(),
            "minidc_autoremove=true".to_owned(),
            format!("minidc_packages={}", self.directory.join("deb").display()),
            format!("minidc_kubeconfig={}", self.kubeconfig().display()),
        ];
        inventory.extend(lines.map(|line| line + "\n"));
        fs::write(self.directory.join("inventory.ini"), inventory)?;
        Ok(())
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// Says how far it is, and when.
    fn step(&self, what: &str) {
        println!("{:7.1} s  {what}", self.start.elapsed().as_secs_f64());
    }

    fn machine(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new(script())
            .arg(arguments[0])
            .arg(&self.directory)
            .args(&arguments[1..]))
    }

    /// Runs a command in a machine, which must succeed.
    fn inside(&self, machine: u32, command: &[&str]) -> Result<String> {
        let output = self.output(machine, command)?;
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "m{machine}: {command:?}: {out}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(out)
    }

    fn output(&self, machine: u32, command: &[&str]) -> Result<Output> {
        let mut inside = Command::new(script());
        inside
            .arg("in")
            .arg(&self.directory)
            .arg(machine.to_string())
            .args(command);
        inside
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("m{machine}: {command:?}"))
    }

    /// Puts the package into a machine.
    fn copy_package(&self, machine: u32, to: &str) -> Result<()> {
        let mut packages = fs::read_dir(self.directory.join("deb"))?.flatten();
        let package = packages.next().context("no package was built")?.path();
        let mut inside = Command::new(script());
        inside
            .arg("in")
            .arg(&self.directory)
            .arg(machine.to_string())
            .args(["tee", to]);
        let status = inside.stdin(fs::File::open(package)?).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "copy the package to m{machine}: {status}");
        Ok(())
    }

    /// What a machine's systemd said.
    fn console(&self, machine: u32) -> String {
        fs::read_to_string(self.directory.join(format!("m{machine}.log"))).unwrap_or_default()
    }

    fn on_switch(&self, command: &[&str]) -> Result<String> {
        run(Command::new(script())
            .args(["on", "switch"])
            .args(command)
            .env("KUBECONFIG", self.kubeconfig())
            .env("KUBECACHEDIR", self.directory.join("kubectl-cache"))
            .env_remove("HTTP_PROXY")
            .env_remove("HTTPS_PROXY"))
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.on_switch(&[&["kubectl"], arguments].concat())
    }

    /// Runs a playbook; gives its closing table.
    fn play(&self, playbook: &str) -> Result<BTreeMap<String, Recap>> {
        let home = workspace().join("image/ansible");
        let output = Command::new(script())
            .args(["on", "switch"])
            .arg(&self.ansible)
            .args(["-i", &self.directory.join("inventory.ini").display().to_string()])
            .arg(playbook)
            .current_dir(home)
            .env("ANSIBLE_NOCOLOR", "1")
            .env("ANSIBLE_LOCAL_TEMP", self.directory.join("ansible-tmp"))
            .env("ANSIBLE_FORKS", "3")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        fs::write(self.directory.join(format!("{playbook}.log")), &text)?;
        if !output.status.success() {
            bail!("{playbook}:\n{text}{}", String::from_utf8_lossy(&output.stderr));
        }
        let recap = recap(&text);
        ensure!(recap.len() == MACHINES.len(), "no closing table in\n{text}");
        Ok(recap)
    }

    /// All that tells of minidc, on each machine.
    fn traces(&self) -> Result<BTreeMap<u32, Vec<String>>> {
        // journal and apt's log may tell what happened
        const LOOK: &str = r"
            find / -xdev \( -path /proc -o -path /sys -o -path /var/log \) -prune -o -iname '*minidc*' -print
            find /run /sys/fs/cgroup /var/log/pods /etc/cni /opt/cni /run/netns -iname '*minidc*' -o -iname 'cni*' 2>/dev/null | grep -v '^/sys/fs/cgroup/[a-z]*/system.slice'
            nft list ruleset | grep -iE 'minidc|CNI-'
            ip -o link | grep -oE '(cni0|veth[^@:]*|minidc[^@:]*)'
            ip -o address show dev lo
            ip route
            ps -eo args | grep -E '[m]inidc|[c]ontainerd|[s]him|[p]ause' | grep -v '^sh -c'
            mount | grep -iE 'minidc|overlay|shm/|kubernetes'
            systemctl list-unit-files --no-legend | grep minidc
            getent passwd | cut -d: -f1 | grep minidc
            dpkg-query -W -f '${Package} ${db:Status-Status}\n' | grep -E 'minidc|container|runc|avahi|iptables'
            true";
        MACHINES
            .into_iter()
            .map(|machine| {
                let text = self.inside(machine, &["sh", "-c", LOOK])?;
                Ok((machine, text.lines().map(str::to_owned).collect()))
            })
            .collect()
    }
}

fn script() -> PathBuf {
    workspace().join("tests/tests/ansible/machine.sh")
}

/// ansible-core from PyPI, in an environment of its own.
fn virtual_environment(directory: &Path) -> Result<PathBuf> {
    let environment = directory.join("venv");
    let program = environment.join("bin/ansible-playbook");
    if !program.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        run(Command::new(environment.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(workspace().join("image/ansible/requirements.txt")))?;
    }
    Ok(program)
}

fn recap(text: &str) -> BTreeMap<String, Recap> {
    let table = text.split_once("PLAY RECAP").map_or("", |(_, table)| table);
    let number = |line: &str, key: &str| {
        let found = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key));
        found.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    table
        .lines()
        .filter_map(|line| {
            let (machine, rest) = line.split_once(':')?;
            let recap = Recap {
                changed: number(rest, "changed="),
                failed: number(rest, "failed=") + number(rest, "unreachable="),
            };
            Some((machine.trim().to_owned(), recap))
        })
        .collect()
}
