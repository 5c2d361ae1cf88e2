//! A switch and machines on it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use minidc_link::names::{Announcer, NameState};
use tokio::io::AsyncBufReadExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Far more than anything takes, also on a machine that compiles with all its cores: a name that was refused several times
/// is asked for again within a minute.
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn eventually(what: &str, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let last = probe();
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("{what}: not within {LIMIT:?}: {last:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "{command:?}: {}: {out}{err}", output.status);
    Ok(out.into_owned())
}

fn shell(script: &str) -> Result<String> {
    run(Command::new("sh").args(["-ec", script]))
}

/// A switch in this process's own namespaces.
pub(crate) struct Lan {
    directory: tempfile::TempDir,
}

impl Lan {
    pub(crate) fn new() -> Result<Self> {
        shell(
            "mount --make-rprivate / && ip link set lo up \
             && ip link add br0 type bridge mcast_snooping 0 && ip link set br0 up",
        )?;
        let directory = tempfile::tempdir()?;
        Ok(Self { directory })
    }

    /// A machine with this host name and the address 10.9.8.`number`; no daemon runs in it yet.
    pub(crate) fn machine(&self, name: &str, number: u8) -> Result<Machine> {
        let script = format!(
            "mount -t tmpfs run /run && mkdir -p /run/dbus /run/avahi-daemon && chown avahi: /run/avahi-daemon \
             && hostname {name} && ip link set lo up && echo ready && exec sleep infinity"
        );
        let mut process = Command::new("unshare")
            .args(["--net", "--mount", "--uts", "sh", "-ec", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().context("no output")?;
        let machine = Machine {
            port: format!("port{number}"),
            log: self.directory.path().join(name),
            process,
        };
        let ready = BufReader::new(output).lines().next();
        ensure!(matches!(&ready, Some(Ok(line)) if line == "ready"), "{name}: {ready:?}");
        let (port, pid) = (&machine.port, machine.process.id());
        shell(&format!(
            "ip link add {port} type veth peer name eth0 netns {pid} && ip link set {port} master br0 up"
        ))?;
        machine.run(&[
            "sh",
            "-ec",
            &format!("ip address add 10.9.8.{number}/24 brd + dev eth0 && ip link set eth0 up"),
        ])?;
        let conf = format!("[server]\nhost-name={name}\nuse-ipv6=no\nallow-interfaces=eth0\n[publish]\n[rlimits]\n");
        fs::write(machine.log.with_extension("conf"), conf)?;
        Ok(machine)
    }
}

impl Lan {
    /// Loses this part of all packets, in percent.
    pub(crate) fn lose(&self, percent: u8) -> Result<()> {
        let rule = format!("numgen random mod 100 < {percent} drop");
        shell(&format!(
            "nft 'table bridge loss {{ chain forward {{ type filter hook forward priority 0;\n{rule}\n}}\n}}'"
        ))
        .map(drop)
    }
}

/// A process that is killed at the end.
pub(crate) struct Daemon(Child);

impl Daemon {
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        run(Command::new("kill").args(["-s", name, &self.0.id().to_string()])).map(drop)
    }

    /// Ends it in order: it says goodbye.
    pub(crate) fn end(mut self) -> Result<()> {
        self.signal("TERM")?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) struct Machine {
    process: Child,
    port: String,
    log: PathBuf,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Machine {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "--mount",
                "--net",
                "--uts",
                "--target",
                &self.process.id().to_string(),
                "--",
            ])
            .args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        run(&mut self.command(words))
    }

    fn log_file(&self) -> Result<File> {
        let path = self.log.with_extension("log");
        Ok(File::options().create(true).append(true).open(path)?)
    }

    fn daemon(&self, words: &[&str], socket: &str) -> Result<Daemon> {
        self.run(&["rm", "-f", socket])?;
        let child = self
            .command(words)
            .stdin(Stdio::null())
            .stderr(self.log_file()?)
            .spawn()?;
        let daemon = Daemon(child);
        eventually(socket, || self.run(&["test", "-S", socket]).map(|_| true))?;
        Ok(daemon)
    }

    pub(crate) fn dbus(&self) -> Result<Daemon> {
        let words = ["dbus-daemon", "--system", "--nofork", "--nopidfile"];
        self.daemon(&words, "/run/dbus/system_bus_socket")
    }

    pub(crate) fn avahi(&self) -> Result<Daemon> {
        let conf = self.log.with_extension("conf");
        let words = ["avahi-daemon", "--no-rlimits", "--no-chroot", "-f"];
        // left behind by one that was killed; process numbers are shared here, so it may even be somebody's
        self.run(&["rm", "-f", "/run/avahi-daemon/pid"])?;
        self.daemon(
            &[&words[..], &[&conf.display().to_string()]].concat(),
            "/run/avahi-daemon/socket",
        )
    }

    pub(crate) fn daemons(&self) -> Result<(Daemon, Daemon)> {
        Ok((self.dbus()?, self.avahi()?))
    }

    pub(crate) fn cable(&self, joined: bool) -> Result<()> {
        let state = if joined { "up" } else { "down" };
        run(Command::new("ip").args(["link", "set", &self.port, state])).map(drop)
    }

    fn ask(&self, method: &str, words: &[&str]) -> Result<String> {
        let method = format!("org.freedesktop.Avahi.Server.{method}");
        let question = [
            "dbus-send",
            "--system",
            "--print-reply",
            "--dest=org.freedesktop.Avahi",
            "/",
            &method,
        ];
        self.run(&[&question, words].concat())
    }

    /// Waits until this machine finds NAME.local at the address, or not at all.
    pub(crate) fn resolves_to(&self, label: &str, address: Option<&str>) -> Result<()> {
        let name = format!("string:{label}.local");
        let words = ["int32:-1", "int32:0", &name, "int32:0", "uint32:0"];
        eventually(&format!("{label}.local leads to {address:?}"), || {
            match (self.ask("ResolveHostName", &words), address) {
                (Ok(answer), Some(address)) => {
                    ensure!(answer.contains(&format!("\"{address}\"")), "{answer}");
                    Ok(true)
                }
                (Ok(answer), None) => bail!("{answer}"),
                (Err(error), None) => {
                    ensure!(format!("{error}").contains("Timeout"), "{error}");
                    Ok(true)
                }
                (Err(error), Some(_)) => Err(error),
            }
        })
    }

    /// What the address leads back to.
    pub(crate) fn reverse(&self, address: &str) -> Result<String> {
        let address = format!("string:{address}");
        self.ask("ResolveAddress", &["int32:-1", "int32:0", &address, "uint32:0"])
    }

    /// Tells everybody on this machine's D-Bus, as anybody may, that a name is taken.
    pub(crate) fn spoof_collisions(&self) -> Result<()> {
        let names = self.run(&[
            "dbus-send",
            "--system",
            "--print-reply",
            "--dest=org.freedesktop.DBus",
            "/",
            "org.freedesktop.DBus.ListNames",
        ])?;
        for name in names.split('"').filter(|name| name.starts_with(':')) {
            for client in 0..9 {
                self.run(&[
                    "dbus-send",
                    "--system",
                    "--type=signal",
                    &format!("--dest={name}"),
                    &format!("/Client{client}/EntryGroup1"),
                    "org.freedesktop.Avahi.EntryGroup.StateChanged",
                    "int32:3",
                    "string:",
                ])?;
            }
        }
        Ok(())
    }

    /// A program that says of every name that it is this machine's.
    pub(crate) fn answers_to_all(&self) -> Result<Daemon> {
        self.run(&["ip", "route", "add", "224.0.0.0/4", "dev", "eth0"])?;
        let program = std::env::current_exe()?;
        let mut child = self
            .command(&[&program.display().to_string(), "answer-all"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("no output")?;
        let daemon = Daemon(child);
        let ready = BufReader::new(output).lines().next();
        ensure!(matches!(&ready, Some(Ok(line)) if line == "ready"), "{ready:?}");
        Ok(daemon)
    }

    pub(crate) fn announcer(&self) -> Result<Process> {
        let log = self.log.with_extension("announcer");
        let program = std::env::current_exe()?;
        let mut child = self
            .command(&[&program.display().to_string(), "announce"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log)?)
            .spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let history: Arc<Mutex<Vec<String>>> = Arc::default();
        let writer = Arc::clone(&history);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                writer.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        let input = child.stdin.take();
        let process = Process {
            child: Daemon(child),
            input,
            history,
            log,
        };
        process.wait_for("")?;
        Ok(process)
    }
}

/// An announcer in a process of its own.
pub(crate) struct Process {
    child: Daemon,
    input: Option<ChildStdin>,
    history: Arc<Mutex<Vec<String>>>,
    log: PathBuf,
}

impl Process {
    pub(crate) fn want(&mut self, names: &str) -> Result<()> {
        Ok(writeln!(self.input.as_ref().context("finished")?, "{names}")?)
    }

    /// All that it told, in order.
    pub(crate) fn history(&self) -> Vec<String> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the last that it told is this.
    pub(crate) fn wait_for(&self, states: &str) -> Result<()> {
        eventually(states, || {
            let history = self.history();
            ensure!(history.last().is_some_and(|last| last == states), "{history:#?}");
            Ok(true)
        })
    }

    pub(crate) fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.0.try_wait()?.is_none())
    }

    pub(crate) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// How many sockets it has open.
    pub(crate) fn sockets(&self) -> Result<usize> {
        let directory = Path::new("/proc").join(self.child.0.id().to_string()).join("fd");
        let links = fs::read_dir(directory)?
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok());
        Ok(links
            .filter(|link| link.to_string_lossy().starts_with("socket:"))
            .count())
    }

    /// Lets nobody want anything any more, and waits for its end.
    pub(crate) fn finish(mut self) -> Result<()> {
        drop(self.input.take());
        let status = self.child.0.wait()?;
        ensure!(status.success(), "{status}: {}", self.log()?);
        Ok(())
    }
}

/// Is the announcer: reads what is wanted, a line each time, and writes how the names are doing.
pub(crate) fn announce() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let announcer = Announcer::new();
        let mut states = announcer.states();
        let (sender, wanted) = watch::channel(Arc::default());
        let read = async move {
            let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
            while let Some(line) = lines.next_line().await? {
                let names: BTreeMap<String, Ipv4Addr> = line
                    .split_whitespace()
                    .filter_map(|word| word.split_once('='))
                    .map(|(label, address)| Ok((label.to_owned(), address.parse()?)))
                    .collect::<Result<_>>()?;
                sender.send_replace(Arc::new(names));
            }
            Ok(())
        };
        let write = async move {
            loop {
                let words: Vec<String> = states.borrow_and_update().iter().map(word).collect();
                println!("{}", words.join(" "));
                if states.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        let run = async {
            announcer.run(wanted, CancellationToken::new()).await;
            anyhow::Ok(())
        };
        tokio::try_join!(read, write, run).map(drop)
    })
}

fn word((label, state): (&String, &NameState)) -> String {
    match state {
        NameState::Claiming => format!("{label}=claiming"),
        NameState::Announced => format!("{label}=announced"),
        NameState::Collision { with: None } => format!("{label}=collision"),
        NameState::Collision { with: Some(address) } => format!("{label}=collision:{address}"),
        NameState::Unavailable { .. } => format!("{label}=unavailable"),
    }
}

/// Answers every question of the network with 10.9.8.66, and sends a piece of nonsense with it.
pub(crate) fn answer_all() -> Result<()> {
    let group = (Ipv4Addr::new(224, 0, 0, 251), 5353);
    let socket = std::net::UdpSocket::bind(("0.0.0.0", group.1))?;
    socket.join_multicast_v4(&group.0, &Ipv4Addr::new(10, 9, 8, 66))?;
    println!("ready");
    let mut packet = [0; 9000];
    loop {
        let (length, _) = socket.recv_from(&mut packet)?;
        let query = packet.get(..length).unwrap_or_default();
        let is_answer = query.get(2).is_none_or(|flags| flags & 0x80 != 0);
        // the first question's name: Avahi asks for one at a time, and does not compress the first
        let name = query.get(12..).unwrap_or_default();
        let Some(end) = name.iter().position(|byte| *byte == 0).filter(|_| !is_answer) else {
            continue;
        };
        // RFC 6762, section 18: a response with authority and one answer; A, this record alone, for two minutes
        let mut answer = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        answer.extend(&name[..=end]);
        answer.extend([0, 1, 0x80, 1, 0, 0, 0, 120, 0, 4, 10, 9, 8, 66]);
        socket.send_to(&answer, group)?;
        answer.truncate(answer.len() / 2);
        socket.send_to(&answer, group)?;
    }
}
