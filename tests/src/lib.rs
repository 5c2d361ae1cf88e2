//! The harness of the end-to-end tests: the built `minidc`, a rack of virtual Pis, and real kubectl.
//!
//! Owns how tests wait, run commands and read their answers; never knows what is inside minidc.
//!
//! # Current limitations
//! Needs root, since a rack makes namespaces, and `target/release/minidc`, which `make test` builds first.

pub mod clients;
pub mod emulated;
pub mod history;
pub mod memory;

use std::{
    fmt::Display,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The program under test: `$MINIDC`, or the release build of this workspace.
///
/// # Errors
/// If it was not built.
pub fn minidc() -> Result<PathBuf> {
    let path = match std::env::var_os("MINIDC") {
        Some(path) => path.into(),
        None => {
            let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
            target.join("release/minidc")
        }
    };
    if path.exists() {
        Ok(path)
    } else {
        bail!("{} does not exist: run `make build` first", path.display())
    }
}

/// The repository's root.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A manifest of `tests/manifests`.
#[must_use]
pub fn manifest(name: &str) -> String {
    workspace().join("tests/manifests").join(name).display().to_string()
}

/// Runs a command that must succeed and gives its standard output.
///
/// # Errors
/// If it cannot be started or fails; with all that it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = past_proxies(command)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {command:?}"))?;
    checked(&format!("{command:?}"), &output)
}

/// Virtual Pis are reached directly, whatever proxy this machine has for the rest of the world.
fn past_proxies(command: &mut Command) -> &mut Command {
    command.env("NO_PROXY", "*").env("no_proxy", "*")
}

fn checked(what: &str, output: &Output) -> Result<String> {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(out);
    }
    bail!(
        "{what}: {}\n{out}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Far more than anything takes, also on a machine that does other work: where no time is promised.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks `probe` until it is content, at most `limit`; gives the time that it took.
///
/// # Errors
/// With the last refusal, when the time is over.
pub fn eventually(limit: Duration, what: impl Display, mut probe: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let last = match probe() {
            Ok(true) => return Ok(start.elapsed()),
            Ok(false) => None,
            Err(error) => Some(error),
        };
        if start.elapsed() > limit {
            return match last {
                Some(error) => Err(error.context(format!("not within {limit:?}: {what}"))),
                None => bail!("not within {limit:?}: {what}"),
            };
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What kubectl says when a busy machine was to blame, and nothing was done.
const HELD_UP: [&str; 2] = [" is not connected", "TLS handshake timeout"];
/// For a node whose link was lost.
const DIALS_AGAIN: Duration = Duration::from_secs(20);

/// Times that [`in_time`] tries.
const TRIES: usize = 5;
/// Time between two tries: what spoiled one is to be over.
const REST: Duration = Duration::from_secs(5);

/// Proves promises about time, each with its name and the time promised. `attempt` measures all of them once and leaves the
/// rack as it found it. Each promise must be kept by one attempt of five: others' work on the same machine may spoil some, but
/// what is promised must be possible.
///
/// # Errors
/// With all that was measured, when no attempt kept one of them; the attempt's own.
pub fn in_time<const N: usize>(
    promised: [(&str, Duration); N],
    mut attempt: impl FnMut() -> Result<[Duration; N]>,
) -> Result<()> {
    let (mut tries, mut best) = (Vec::new(), [Duration::MAX; N]);
    while tries.len() < TRIES {
        let measured = attempt()?;
        let words = promised.iter().zip(&measured);
        let said: Vec<String> = words
            .map(|((what, limit), took)| format!("{what} {took:.1?} (promised: {limit:?})"))
            .collect();
        println!("{}", said.join(", "));
        best = std::array::from_fn(|index| best[index].min(measured[index]));
        if promised.iter().zip(&best).all(|((_, limit), took)| took < limit) {
            return Ok(());
        }
        tries.push(said.join(", "));
        std::thread::sleep(REST);
    }
    bail!("too slow {TRIES} times:\n{}", tries.join("\n"))
}

/// A running rack.
#[derive(Clone, Debug)]
pub struct Rack {
    /// Name of the rack.
    pub name: String,
    program: PathBuf,
}

impl Rack {
    /// Starts a rack of `nodes` with `minidc rack up`; gives it with what the command printed.
    ///
    /// # Errors
    /// If the rack does not start.
    pub fn up(name: &str, nodes: u32) -> Result<(Self, String)> {
        Self::up_with(name, nodes, &[])
    }

    /// As [`Rack::up`], with further options of `minidc rack up`.
    ///
    /// # Errors
    /// If the rack does not start.
    pub fn up_with(name: &str, nodes: u32, options: &[&str]) -> Result<(Self, String)> {
        let rack = Self {
            name: name.into(),
            program: minidc()?,
        };
        let nodes = nodes.to_string();
        let mut all = vec!["rack", "up", "--nodes", &nodes, "--rack", name];
        all.extend(options);
        let printed = rack.minidc(&all)?;
        Ok((rack, printed))
    }

    /// Removes the rack.
    ///
    /// # Errors
    /// If something of it cannot be removed.
    pub fn down(&self) -> Result<String> {
        self.rack("down", &[])
    }

    /// Runs `minidc rack SUBCOMMAND --rack NAME ARGUMENTS…`.
    ///
    /// # Errors
    /// If the command fails.
    pub fn rack(&self, subcommand: &str, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["rack", subcommand, "--rack", &self.name];
        all.extend(arguments);
        self.minidc(&all)
    }

    /// Runs `minidc` on the host with the rack's kubeconfig.
    ///
    /// # Errors
    /// If the command fails.
    pub fn minidc(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new(&self.program)
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig()))
    }

    /// Where the rack keeps its files on the host.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        Path::new("/var/lib/minidc-rack").join(&self.name)
    }

    /// The admin's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory().join("kubeconfig")
    }

    /// `kubectl ARGUMENTS…`, not started yet.
    #[must_use]
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        // a cache per rack: discovery of one rack must not serve another at the same address
        past_proxies(&mut command)
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .env("KUBECACHEDIR", self.directory().join("kubectl-cache"));
        command
    }

    /// Runs kubectl, which must succeed; gives its standard output. A node that a busy machine held up for longer than a link
    /// bears is waited for: it dials again. So is a server that was held up before it heard what was wanted.
    ///
    /// # Errors
    /// If it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let end = Instant::now() + DIALS_AGAIN;
        loop {
            match run(&mut self.kubectl_command(arguments)) {
                Err(error) if HELD_UP.iter().any(|words| error.to_string().contains(words)) && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(200));
                }
                outcome => return outcome,
            }
        }
    }

    /// Runs kubectl, which must fail; gives what it printed on standard error.
    ///
    /// # Errors
    /// If it succeeds.
    pub fn kubectl_fails(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl_command(arguments).stdin(Stdio::null()).output()?;
        if output.status.success() {
            bail!(
                "kubectl {arguments:?} succeeded:\n{}",
                String::from_utf8_lossy(&output.stdout)
            );
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Runs kubectl with `input` on its standard input; gives standard output and standard error together.
    ///
    /// # Errors
    /// If it fails.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.kubectl_command(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("no standard input")?
            .write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(checked(&format!("{command:?} with\n{input}\n"), &output)? + &errors)
    }

    /// `kubectl get … -o json`.
    ///
    /// # Errors
    /// If it fails.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["get", "-o", "json"];
        all.extend(arguments);
        Ok(serde_json::from_str(&self.kubectl(&all)?)?)
    }

    /// Names and pod IPs of the running, ready pods that have the label, with the node of each.
    ///
    /// # Errors
    /// If kubectl fails.
    pub fn ready_pods(&self, label: &str) -> Result<Vec<ReadyPod>> {
        let pods = self.get(&["pods", "-l", label])?;
        let text = |pod: &Value, pointer: &str| {
            pod.pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        Ok(pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none() && condition(pod, "Ready") == "True")
            .map(|pod| ReadyPod {
                name: text(pod, "/metadata/name"),
                ip: text(pod, "/status/podIP"),
                node: text(pod, "/spec/nodeName"),
            })
            .collect())
    }

    /// Waits until `kubectl describe KIND NAME` says all of this: an event comes moments after what it tells of.
    ///
    /// # Errors
    /// If it does not, with what it says instead.
    pub fn describes(&self, kind: &str, name: &str, words: &[&str]) -> Result<()> {
        eventually(PATIENCE, format!("kubectl describe {kind} {name}"), || {
            let text = self.kubectl(&["describe", kind, name])?;
            match words.iter().find(|word| !text.contains(**word)) {
                Some(missing) => bail!("no {missing:?} in\n{text}"),
                None => Ok(true),
            }
        })
        .map(drop)
    }

    /// Waits until a pod's phase is as said.
    ///
    /// # Errors
    /// If it does not become so.
    pub fn wait_for_phase(&self, pod: &str, phase: &str, limit: Duration) -> Result<Duration> {
        eventually(limit, format!("pod {pod} {phase}"), || {
            Ok(self.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.phase}"])? == phase)
        })
    }

    /// Whether a node's Ready condition has this status (`True`, `False` or `Unknown`).
    ///
    /// # Errors
    /// If kubectl fails.
    pub fn node_is(&self, node: &str, status: &str) -> Result<bool> {
        Ok(condition(&self.get(&["node", node])?, "Ready") == status)
    }

    /// Waits until all three nodes are Ready and open to new pods, which a node is only moments after it is Ready again.
    ///
    /// # Errors
    /// If they are not within [`PATIENCE`].
    pub fn await_nodes(&self) -> Result<()> {
        eventually(PATIENCE, "all nodes Ready and without taints", || {
            let nodes = self.get(&["nodes"])?;
            let nodes = nodes["items"].as_array().context("no nodes")?;
            let open = |node: &Value| node["spec"]["taints"].as_array().is_none_or(Vec::is_empty);
            let well = nodes
                .iter()
                .filter(|node| condition(node, "Ready") == "True" && open(node));
            Ok(well.count() == 3)
        })
        .map(drop)
    }

    /// Runs a command inside a virtual Pi.
    ///
    /// # Errors
    /// If it fails.
    pub fn in_node(&self, node: &str, command: &[&str]) -> Result<String> {
        let mut all = vec![node, "--"];
        all.extend(command);
        self.rack("exec", &all)
    }

    /// Kills minidc in a virtual Pi with SIGKILL; its supervisor starts it again. One that is just being started is waited for.
    ///
    /// # Errors
    /// If there is none.
    pub fn kill_minidc(&self, node: &str) -> Result<()> {
        eventually(PATIENCE, format!("minidc on {node} to kill"), || {
            self.in_node(node, &["pkill", "-KILL", "-x", "minidc"]).map(|_| true)
        })
        .map(drop)
    }
}

/// A pod that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyPod {
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: String,
    /// Where it runs.
    pub node: String,
}

/// Status of a condition of any object, empty when there is none.
#[must_use]
pub fn condition(object: &Value, name: &str) -> String {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let found = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == name);
    found
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or_default()
        .to_owned()
}
