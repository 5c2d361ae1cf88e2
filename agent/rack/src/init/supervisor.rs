//! Starts the daemons, starts them again when they end, reaps orphans, bounds the logs, and stops all in order.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{self, Pid},
};
use tokio::signal::unix::{Signal, SignalKind};

use super::{HELD, READY, SERVICES, STEP, report, service::Service};
use crate::Error;

/// First wait before a daemon is started again (systemd's own `RestartSec`), doubled up to [`RESTART_LONGEST`].
const RESTART: Duration = Duration::from_millis(100);
const RESTART_LONGEST: Duration = Duration::from_secs(5);
/// A daemon that ran so long has proven itself: its next restart is quick again.
const PROVEN: Duration = Duration::from_secs(10);
/// How often to look for a daemon's socket while it starts; never afterwards.
const LOOK: Duration = Duration::from_millis(10);
/// A daemon that has no socket after this time does not keep the others waiting any longer.
const SOCKET_LIMIT: Duration = Duration::from_secs(20);
/// Time to end in order before a daemon is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How often to look at the size of the logs.
const LOG_LOOK: Duration = Duration::from_secs(30);
/// Size in bytes at which a log is moved to `NAME.log.1`.
const LOG_BYTES: u64 = 4 * 1024 * 1024;
/// Directory of the logs, in the node.
const LOGS: &str = "/var/log";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The signals that process 1 hears. They have handlers and are not blocked: a daemon would inherit the blocks.
struct Signals {
    child: Signal,
    terminate: Signal,
    interrupt: Signal,
    hold: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Error> {
        let listen = |kind| {
            tokio::signal::unix::signal(kind).map_err(|source| Error::System {
                attempt: "listen for signals",
                source,
            })
        };
        Ok(Self {
            child: listen(SignalKind::child())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hold: listen(SignalKind::hangup())?,
        })
    }
}

/// A daemon and how it is.
struct Daemon {
    service: Service,
    pid: Option<Pid>,
    started: Instant,
    starts: u32,
    /// Its socket was seen, or waited for long enough; stays so when it is started again.
    up: bool,
    held: bool,
    wait: Duration,
    due: Instant,
}

/// All daemons of a node.
pub(super) struct Supervisor {
    daemons: Vec<Daemon>,
    signals: Signals,
    ready: bool,
    log_look: Instant,
}

impl Supervisor {
    pub(super) fn new(services: Vec<Service>) -> Result<Self, Error> {
        let now = Instant::now();
        let daemons = services
            .into_iter()
            .map(|service| Daemon {
                service,
                pid: None,
                started: now,
                starts: 0,
                up: false,
                held: false,
                wait: RESTART,
                due: now,
            })
            .collect();
        Ok(Self {
            daemons,
            signals: Signals::listen()?,
            ready: false,
            log_look: now + LOG_LOOK,
        })
    }

    /// Runs until SIGTERM or SIGINT, then stops all daemons in order.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        loop {
            self.start_due();
            self.look_for_sockets();
            if !self.ready && self.daemons.iter().all(|daemon| daemon.up) {
                self.ready = true;
                report(READY);
                // Nobody reads any further; without this, a later write would end the process.
                let null = File::options()
                    .write(true)
                    .open("/dev/null")
                    .map_err(Error::file("open", "/dev/null"))?;
                unistd::dup2_stdout(&null).map_err(Error::system("let go of the output"))?;
            }
            self.bound_logs();
            let wait = self.next_due().saturating_duration_since(Instant::now());
            if self.hear(wait).await {
                self.stop().await;
                return Ok(());
            }
        }
    }

    /// Starts what is to run, is not running, and whose predecessors are up.
    fn start_due(&mut self) {
        let now = Instant::now();
        let mut changed = false;
        for index in 0..self.daemons.len() {
            let daemon = &self.daemons[index];
            if daemon.pid.is_some() || daemon.held || daemon.due > now || !self.may_start(index) {
                continue;
            }
            let result = spawn(&daemon.service);
            let daemon = &mut self.daemons[index];
            daemon.started = now;
            match result {
                Ok(pid) => {
                    daemon.pid = Some(pid);
                    daemon.starts += 1;
                    changed = true;
                    if daemon.service.socket.is_none() && !daemon.up {
                        daemon.up = true;
                        report(&format!("{STEP} {} {}", daemon.service.name, now.elapsed().as_millis()));
                    }
                }
                Err(error) => {
                    log(&format!("{}: start: {error}", daemon.service.name));
                    daemon.back_off(now);
                }
            }
        }
        if changed {
            self.publish();
        }
    }

    fn may_start(&self, index: usize) -> bool {
        let after = self.daemons[index].service.after;
        self.daemons
            .iter()
            .filter(|other| after.contains(&other.service.name))
            .all(|other| other.up)
    }

    fn look_for_sockets(&mut self) {
        for daemon in self.daemons.iter_mut().filter(|daemon| !daemon.up && daemon.starts > 0) {
            let Some(socket) = &daemon.service.socket else { continue };
            let took = daemon.started.elapsed();
            if socket.exists() {
                report(&format!("{STEP} {} {}", daemon.service.name, took.as_millis()));
                daemon.up = true;
            } else if took > SOCKET_LIMIT {
                log(&format!(
                    "{}: no socket after {} s",
                    daemon.service.name,
                    took.as_secs()
                ));
                daemon.up = true;
            }
        }
    }

    /// When there is something to do even if nothing happens.
    fn next_due(&self) -> Instant {
        let now = Instant::now();
        let mut next = self.log_look;
        for (index, daemon) in self.daemons.iter().enumerate() {
            if daemon.pid.is_none() && !daemon.held && self.may_start(index) {
                next = next.min(daemon.due);
            }
            if !daemon.up && daemon.starts > 0 {
                next = next.min(now + LOOK);
            }
        }
        next
    }

    /// Waits for a signal, at most so long; `true` when the node is to shut down.
    async fn hear(&mut self, wait: Duration) -> bool {
        let mut end = false;
        tokio::select! {
            _ = self.signals.terminate.recv() => end = true,
            _ = self.signals.interrupt.recv() => end = true,
            _ = self.signals.hold.recv() => self.look_for_holds(),
            _ = self.signals.child.recv() => {}
            () = tokio::time::sleep(wait) => {}
        }
        self.reap();
        end
    }

    /// Buries the dead: daemons, and orphans of whom process 1 is the parent now.
    fn reap(&mut self) {
        let now = Instant::now();
        let mut changed = false;
        loop {
            let (pid, end) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, format!("exit code {code}")),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, format!("{signal}")),
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => continue,
            };
            if let Some(daemon) = self.daemons.iter_mut().find(|daemon| daemon.pid == Some(pid)) {
                log(&format!(
                    "{}: ended after {:.1} s: {end}",
                    daemon.service.name,
                    daemon.started.elapsed().as_secs_f32()
                ));
                daemon.pid = None;
                daemon.back_off(now);
                changed = true;
            }
        }
        if changed {
            self.publish();
        }
    }

    /// Stops daemons that are to be held, and lets others run again.
    fn look_for_holds(&mut self) {
        for daemon in &mut self.daemons {
            let held = Path::new(HELD).join(daemon.service.name).exists();
            if held && let Some(pid) = daemon.pid {
                let _ = signal::kill(pid, signal::SIGTERM);
            }
            if daemon.held && !held {
                daemon.due = Instant::now();
                daemon.wait = RESTART;
            }
            daemon.held = held;
        }
    }

    /// Tells the host what runs.
    fn publish(&self) {
        let running: BTreeMap<&str, u32> = self
            .daemons
            .iter()
            .filter(|daemon| daemon.pid.is_some())
            .map(|daemon| (daemon.service.name, daemon.starts))
            .collect();
        let write = || -> io::Result<()> {
            let fresh = format!("{SERVICES}.new");
            fs::write(&fresh, serde_json::to_vec(&running)?)?;
            fs::rename(&fresh, SERVICES)
        };
        if let Err(error) = write() {
            log(&format!("write {SERVICES}: {error}"));
        }
    }

    /// Moves logs aside that have grown too large. Their writers append, so they go on at the new beginning.
    fn bound_logs(&mut self) {
        if Instant::now() < self.log_look {
            return;
        }
        self.log_look = Instant::now() + LOG_LOOK;
        for name in self.daemons.iter().map(|daemon| daemon.service.name).chain(["init"]) {
            let path = log_path(name);
            if let Err(error) = bound(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                log(&format!("{}: {error}", path.display()));
            }
        }
    }

    /// Stops the daemons, the last first, each within its time.
    async fn stop(&mut self) {
        for index in (0..self.daemons.len()).rev() {
            let Some(pid) = self.daemons[index].pid else { continue };
            let _ = signal::kill(pid, signal::SIGTERM);
            let end = Instant::now() + STOP_LIMIT;
            while self.daemons[index].pid.is_some() {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    log(&format!("{}: killed", self.daemons[index].service.name));
                    let _ = signal::kill(pid, signal::SIGKILL);
                    break;
                }
                self.hear(left).await;
            }
        }
        unistd::sync();
    }
}

impl Daemon {
    fn back_off(&mut self, now: Instant) {
        if self.started.elapsed() > PROVEN {
            self.wait = RESTART;
        }
        self.due = now + self.wait;
        self.wait = (self.wait * 2).min(RESTART_LONGEST);
    }
}

fn log_path(name: &str) -> PathBuf {
    Path::new(LOGS).join(format!("{name}.log"))
}

fn spawn(service: &Service) -> io::Result<Pid> {
    let Some((program, arguments)) = service.command.split_first() else {
        return Err(io::Error::other("no command"));
    };
    // Left behind by a daemon that was killed, it would be taken for the new one's.
    if let Some(socket) = &service.socket {
        let _ = fs::remove_file(socket);
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log_path(service.name))?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .envs(&service.environment)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    // Not waited for here: `reap` does that for all.
    i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)
}

/// Copies and empties, as logrotate's copytruncate: the writer keeps its file.
fn bound(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.len() <= LOG_BYTES {
        return Ok(());
    }
    fs::copy(path, path.with_extension("log.1"))?;
    OpenOptions::new().write(true).open(path)?.set_len(0)
}

/// Says something in `init.log`, which is the standard error.
fn log(text: &str) {
    eprintln!("rack-init: {text}");
}
