//! Power for one node.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{ChildStdout, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::{
    Error, NodeSpec, Power, Progress, Rack, cgroups, init, names, network,
    process::{self, Process},
    rack::write_json,
    spec::InitSpec,
};

/// A boot takes about a second; on a machine that compiles with all its cores, ten.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// Time from the cut to the end of the last process: 0.1 s.
const CUT_LIMIT: Duration = Duration::from_secs(10);
/// minidc and containerd may take 10 s each to end in order.
const SHUT_DOWN_LIMIT: Duration = Duration::from_secs(30);

/// Writes its own process number into the files before `--`, then becomes the command after it.
const ENTER: &str = r#"while [ "$1" != -- ]; do echo $$ >"$1" || exit 1; shift; done; shift; exec "$@""#;

/// Whether a node is meant to have power, and the process that proves it; `<node>.json` of the rack.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Plug {
    plugged: bool,
    init: Option<Process>,
}

fn plug(rack: &Rack, index: u32) -> Plug {
    fs::read(rack.paths.power(index))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or(Plug {
            plugged: false,
            init: None,
        })
}

pub(crate) fn power(rack: &Rack, index: u32) -> Power {
    let plug = plug(rack, index);
    if plug.init.is_some_and(Process::is_alive) {
        Power::On
    } else if plug.plugged {
        Power::Crashed
    } else {
        Power::Off
    }
}

/// Process 1 of a node that has power.
pub(crate) fn init_process(rack: &Rack, index: u32) -> Result<Process, Error> {
    plug(rack, index)
        .init
        .filter(|process| process.is_alive())
        .ok_or_else(|| Error::Unplugged {
            node: rack.node_name(index),
        })
}

/// Writes what the node is to be onto its disk; a guest has no specification.
pub(crate) fn configure(rack: &Rack, index: u32, spec: Option<&NodeSpec>) -> Result<(), Error> {
    if power(rack, index) == Power::On {
        return Err(Error::Plugged {
            node: rack.node_name(index),
        });
    }
    let disk = rack.paths.node(index);
    fs::create_dir_all(&disk).map_err(Error::file("create", &disk))?;
    let mut arguments = Vec::new();
    if let Some(spec) = spec {
        let config = rack.paths.inside(index, Path::new("/etc/minidc/config.toml"));
        write_private(&config, &spec.config)?;
        arguments.push(spec.role.as_str().to_owned());
        arguments.extend(spec.arguments.iter().cloned());
    }
    let init = InitSpec {
        node: rack.node_name(index),
        guest: spec.is_none(),
        address: rack.node_address(index),
        run: rack.paths.run(index),
        binary: rack.paths.binary(),
        machine_id: machine_id(&disk)?,
        arguments,
        environment: rack.record.environment.clone(),
        disk,
    };
    write_json(&spec_path(rack, index), &init)
}

fn spec_path(rack: &Rack, index: u32) -> PathBuf {
    rack.paths.node(index).join("spec.json")
}

/// The configuration may hold a join token.
fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let write = || -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        io::Write::write_all(&mut file, text.as_bytes())
    };
    write().map_err(Error::file("write", path))
}

/// The node's machine id: made once, then kept on its disk.
fn machine_id(disk: &Path) -> Result<String, Error> {
    let path = disk.join("machine-id");
    if let Ok(present) = fs::read_to_string(&path) {
        return Ok(present.trim().to_owned());
    }
    let source = "/proc/sys/kernel/random/uuid";
    let fresh = fs::read_to_string(source)
        .map_err(Error::file("read", source))?
        .trim()
        .replace('-', "");
    fs::write(&path, &fresh).map_err(Error::file("write", &path))?;
    Ok(fresh)
}

/// Gives the node power and waits until its daemons are up.
pub(crate) fn boot(rack: &Rack, index: u32, progress: &dyn Progress) -> Result<(), Error> {
    let (name, host_name) = (names::node(index), rack.node_name(index));
    if power(rack, index) == Power::On {
        return Err(Error::Plugged { node: host_name });
    }
    if !spec_path(rack, index).exists() {
        return Err(Error::Start {
            node: host_name,
            detail: "it has never been configured".into(),
        });
    }
    let start = Instant::now();
    // After a crash there may be something left.
    cgroups::remove(rack.name(), Some(&name))?;
    network::create_node(rack.name(), rack.subnet(), index)?;
    cgroups::create(rack.name(), &name, rack.record.memory)?;
    empty(&rack.paths.run(index))?;
    write_json(
        &rack.paths.power(index),
        &Plug {
            plugged: true,
            init: None,
        },
    )?;
    progress.done(&format!("{host_name}: network and cgroups"), start.elapsed());
    let output = launch(rack, index)?;
    match follow(rack, index, output, progress) {
        Ok(()) => Ok(()),
        Err(detail) => {
            cgroups::remove(rack.name(), Some(&name))?;
            Err(Error::Start {
                node: host_name,
                detail,
            })
        }
    }
}

/// Removes what is in a directory, but not the directory, which is locked.
pub(crate) fn empty(directory: &Path) -> Result<(), Error> {
    let remove = || -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    remove().map_err(Error::file("empty", directory))
}

/// Starts process 1 as nobody's child: it outlives this process. Its standard output tells how the boot goes.
fn launch(rack: &Rack, index: u32) -> Result<ChildStdout, Error> {
    let name = names::node(index);
    let log_path = rack.log_path(index, "init");
    if let Some(directory) = log_path.parent() {
        fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .map_err(Error::file("open", &log_path))?;
    let (before, after) = cgroups::join_files(rack.name(), &name)?;
    let namespace = network::namespace_file(&names::node_namespace(rack.name(), index));
    let mut command = Command::new("setsid");
    // Signals that somebody ignores who starts a rack in the background are not to be ignored inside.
    command.args(["--fork", "env", "--default-signal"]);
    command.args(["sh", "-c", ENTER, "sh"]).args(before).arg("--");
    // Not `ip netns exec`: it mounts another /sys, without cgroups.
    command.arg("nsenter").arg(format!("--net={namespace}")).arg("--");
    // The cgroup namespace is rooted where the process is, so it comes after joining, and in version 2 before moving on.
    command
        .args(["unshare", "--cgroup", "--", "sh", "-c", ENTER, "sh"])
        .args(after)
        .arg("--");
    command.args([
        "unshare",
        "--mount",
        "--uts",
        "--ipc",
        "--pid",
        "--fork",
        "--kill-child",
        "--",
    ]);
    command
        .arg(rack.paths.binary())
        .args(["rack", "init"])
        .arg(spec_path(rack, index));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut child = command
        .env_clear()
        .env("PATH", join_path(path))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|source| Error::System {
            attempt: "start setsid",
            source,
        })?;
    let output = child.stdout.take();
    child.wait().map_err(|source| Error::System {
        attempt: "wait for setsid",
        source,
    })?;
    output.ok_or_else(|| Error::Start {
        node: rack.node_name(index),
        detail: "it has no output".into(),
    })
}

/// Adds the directories where only root looks.
fn join_path(path: std::ffi::OsString) -> std::ffi::OsString {
    let mut path = path;
    path.push(":/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin");
    path
}

/// Hears process 1 until it says that all is up. The error is what went wrong, in words.
fn follow(rack: &Rack, index: u32, output: ChildStdout, progress: &dyn Progress) -> Result<(), String> {
    let name = rack.node_name(index);
    let (sender, receiver) = mpsc::channel();
    // Ends with the boot: process 1 closes its output then, and so does its death.
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let last = line == init::READY;
            if sender.send(line).is_err() || last {
                return;
            }
        }
    });
    let end = Instant::now() + BOOT_LIMIT;
    loop {
        let line = match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return Err(format!("not up after {} s", BOOT_LIMIT.as_secs())),
            Err(RecvTimeoutError::Disconnected) => return Err(last_words(&rack.log_path(index, "init"))),
        };
        let mut words = line.split(' ');
        match (words.next().unwrap_or_default(), words.next(), words.next()) {
            (init::READY, ..) => return Ok(()),
            (init::PID, Some(pid), _) => {
                let init = pid.parse().ok().and_then(Process::current);
                write_json(&rack.paths.power(index), &Plug { plugged: true, init })
                    .map_err(|error| error.to_string())?;
            }
            (init::STEP, Some(step), Some(milliseconds)) => {
                let took = Duration::from_millis(milliseconds.parse().unwrap_or_default());
                progress.done(&format!("{name}: {step}"), took);
            }
            _ => {}
        }
    }
}

/// The end of a log, for an error.
fn last_words(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(1000)))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let text = read().unwrap_or_default();
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    if last.is_empty() {
        return "its process 1 ended without a word".into();
    }
    last.into_iter().rev().collect::<Vec<_>>().join(" / ")
}

pub(crate) fn cut_power(rack: &Rack, index: u32) -> Result<(), Error> {
    let before = plug(rack, index);
    // First the cable: dying processes must not say goodbye.
    let cut = network::set_cable(rack.name(), index, false);
    write_json(
        &rack.paths.power(index),
        &Plug {
            plugged: false,
            init: None,
        },
    )?;
    if let Some(init) = before.init {
        init.signal(Signal::SIGKILL)?;
        process::wait_until(CUT_LIMIT, "process 1 to die", || !init.is_alive())?;
    }
    cgroups::remove(rack.name(), Some(&names::node(index)))?;
    // A node that was never started has no cable.
    if before.plugged { cut } else { Ok(()) }
}

pub(crate) fn shut_down(rack: &Rack, index: u32) -> Result<(), Error> {
    if let Ok(init) = init_process(rack, index) {
        init.signal(Signal::SIGTERM)?;
        process::wait_until(SHUT_DOWN_LIMIT, "the node to shut down", || !init.is_alive())?;
    }
    cut_power(rack, index)
}

/// A command that goes into the node; what it is to run is still to be added.
pub(crate) fn enter(rack: &Rack, index: u32) -> Result<Command, Error> {
    let init = init_process(rack, index)?;
    let (before, after) = cgroups::join_files(rack.name(), &names::node(index))?;
    let join = if after.is_empty() { before } else { after };
    let mut command = Command::new("sh");
    command.args(["-c", ENTER, "sh"]).args(join).arg("--");
    command.args(["nsenter", "--target", &init.pid.to_string()]);
    command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]);
    Ok(command)
}

/// How often each running daemon was started.
pub(crate) fn services(rack: &Rack, index: u32) -> BTreeMap<String, u32> {
    let path = rack.paths.inside(index, Path::new(init::SERVICES));
    fs::read(path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

pub(crate) fn hold(rack: &Rack, index: u32, service: &str, held: bool) -> Result<(), Error> {
    let init = init_process(rack, index)?;
    let path = rack.paths.inside(index, Path::new(init::HELD)).join(service);
    let change = || -> io::Result<()> {
        if held {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            return File::create(&path).map(drop);
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    };
    change().map_err(Error::file("write", &path))?;
    init.signal(Signal::SIGHUP)?;
    if held {
        process::wait_until(SHUT_DOWN_LIMIT, &format!("{service} to stop"), || {
            !services(rack, index).contains_key(service)
        })?;
    }
    Ok(())
}
