//! The one configuration file: TOML, every key optional, unknown keys refused; command-line flags override it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// Where the file is looked for when `--config` does not say; it may be absent there.
pub(crate) const DEFAULT_PATH: &str = "/etc/minidc/config.toml";

/// Everything a process of minidc can be told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    /// Name of this node; the host name when not given.
    pub(crate) name: Option<String>,
    /// What `minidc run` does.
    pub(crate) role: Option<Role>,
    /// Directory that survives a reboot.
    pub(crate) data: PathBuf,
    /// Directory that does not.
    pub(crate) run: PathBuf,
    /// Log filter, as `RUST_LOG` takes it.
    pub(crate) log: String,
    /// `[cluster]`
    pub(crate) cluster: Cluster,
    /// `[server]`
    pub(crate) server: Server,
    /// `[agent]`
    pub(crate) agent: Agent,
    /// `[dns]`
    pub(crate) dns: Dns,
    /// `[leds]`
    pub(crate) leds: Leds,
    /// `[clock]`
    pub(crate) clock: Clock,
}

/// What a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// Control plane, with a node beside it.
    Server,
    /// Node.
    #[serde(alias = "node")]
    Agent,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: None,
            role: None,
            data: "/var/lib/minidc".into(),
            run: "/run/minidc".into(),
            log: "info".into(),
            cluster: Cluster::default(),
            server: Server::default(),
            agent: Agent::default(),
            dns: Dns::default(),
            leds: Leds::default(),
            clock: Clock::default(),
        }
    }
}

/// What all members of a cluster share.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Cluster {
    /// Name of the cluster: made part of its CA at first start, and announced by mDNS.
    pub(crate) name: String,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { name: "minidc".into() }
    }
}

/// The control plane.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Server {
    /// Address of the one port that kubectl and the nodes dial.
    pub(crate) listen: SocketAddr,
    /// Be a node as well.
    pub(crate) node: bool,
    /// Range that each node's /24 of pod addresses is cut from.
    pub(crate) pod_range: String,
    /// Range of the cluster IPs of Services; the first is the API's, the tenth that of DNS.
    pub(crate) service_range: String,
    /// Further names and addresses that the serving certificate is to be valid for.
    pub(crate) names: Vec<String>,
    /// Seconds that pods stay bound to a node that went away, unless they tolerate it for another time.
    pub(crate) toleration_seconds: u32,
    /// Milliseconds without a heartbeat after which a node is NotReady.
    pub(crate) node_silence_ms: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 6443)),
            node: true,
            pod_range: "100.64.0.0/16".into(),
            service_range: "100.65.0.0/16".into(),
            names: Vec::new(),
            toleration_seconds: 3,
            node_silence_ms: 3500,
        }
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Agent {
    /// `HOST` or `HOST:PORT` of the control plane (one, or a list of some), for networks without mDNS.
    pub(crate) server: Servers,
    /// Join token; needed once.
    pub(crate) token: Option<String>,
    /// File that holds the join token, so that it is on no command line.
    pub(crate) token_file: Option<PathBuf>,
    /// containerd's socket; when not given, that of minidc's own containerd where there is one, else the system's.
    pub(crate) containerd: PathBuf,
    /// Directory of the pods' logs.
    pub(crate) pod_logs: PathBuf,
}

/// Port of the control plane where none is given.
const PORT: u16 = 6443;
/// The runtime directory of `minidc-containerd.service`, and the socket in it.
const OWN_CONTAINERD: &str = "/run/minidc-containerd";
const SYSTEM_CONTAINERD: &str = "/run/containerd/containerd.sock";

fn containerd() -> PathBuf {
    let own = Path::new(OWN_CONTAINERD);
    // the directory, not the socket: containerd may still be starting
    if own.is_dir() {
        own.join("containerd.sock")
    } else {
        SYSTEM_CONTAINERD.into()
    }
}

/// Addresses of a control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "OneOrMany")]
pub(crate) struct Servers(pub(crate) Vec<String>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "it must be \"HOST:PORT\", or a list of such")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Servers {
    fn from(given: OneOrMany) -> Self {
        match given {
            OneOrMany::One(server) => Self(vec![server]),
            OneOrMany::Many(servers) => Self(servers),
        }
    }
}

impl Servers {
    /// Each as `HOST:PORT`.
    pub(crate) fn with_ports(&self) -> Vec<String> {
        let complete = |server: &String| match server.parse::<std::net::IpAddr>() {
            Ok(address) => SocketAddr::from((address, PORT)).to_string(),
            Err(_)
                if server
                    .rsplit_once(':')
                    .is_some_and(|(_, port)| port.parse::<u16>().is_ok()) =>
            {
                server.clone()
            }
            Err(_) => format!("{server}:{PORT}"),
        };
        self.0.iter().map(complete).collect()
    }
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            server: Servers::default(),
            token: None,
            token_file: None,
            containerd: containerd(),
            pod_logs: "/var/log/pods".into(),
        }
    }
}

/// The DNS server of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Dns {
    /// Resolvers that names outside the cluster are asked of, `ADDRESS` or `ADDRESS:PORT`; the node's own (`/etc/resolv.conf`) when
    /// empty.
    pub(crate) upstream: Vec<String>,
}

/// The lights, and what is around them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Leds {
    /// Who drives them.
    pub(crate) driver: LedDriver,
    /// What is wired; what does no harm when it is not, if nothing is said.
    pub(crate) parts: Option<Vec<minidc_hardware::Part>>,
    /// A pin map of one's own, in place of the board's.
    pub(crate) map: Option<PathBuf>,
    /// What differs from the board's pin map.
    pub(crate) board: minidc_hardware::Changes,
    /// The board's watchdog, to be fed where systemd does not (`/dev/watchdog`).
    pub(crate) watchdog: Option<PathBuf>,
}

/// How LEDs are driven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LedDriver {
    /// What the board has; where it has nothing, levels are recorded all the same.
    #[default]
    Auto,
    /// As `Auto`, with the pins through the processor's registers also where only root has these (`/dev/mem`).
    Registers,
    /// Levels are recorded, not driven.
    Fake,
    /// No LEDs.
    None,
}

/// The clock of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Clock {
    /// Set it when it is behind what can be true at least.
    pub(crate) set: bool,
}

impl Default for Clock {
    fn default() -> Self {
        Self { set: true }
    }
}

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file is not readable.
    #[error("read configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file does not say what it may.
    #[error("{}:{line}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong and what would be right.
        message: String,
    },
}

impl Config {
    /// Reads `path`, or [`DEFAULT_PATH`] if that exists.
    ///
    /// # Errors
    /// If the file cannot be read, is not TOML, or holds a key or value that is not known.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, Error> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(file, &text),
            Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(Error::Read {
                path: file.into(),
                source,
            }),
        }
    }

    /// Parses `text`; `file` is for messages only.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub(crate) fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| {
            let before = error.span().map_or(0, |span| span.start.min(text.len()));
            Error::Content {
                path: file.into(),
                line: text.as_bytes()[..before].iter().filter(|byte| **byte == b'\n').count() + 1,
                message: with_suggestion(error.message()),
            }
        })
    }
}

/// Turns serde's "unknown field `x`, expected one of `a`, `b`" into a sentence that names the nearest valid key.
fn with_suggestion(message: &str) -> String {
    let mut words = message.split('`').skip(1).step_by(2);
    let (true, Some(unknown)) = (message.starts_with("unknown field"), words.next()) else {
        return message.to_owned();
    };
    let valid: Vec<&str> = words.collect();
    let nearest = valid
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b)));
    match nearest {
        Some(nearest) if strsim::jaro_winkler(unknown, nearest) > 0.7 => {
            format!(
                "unknown key `{unknown}`: did you mean `{nearest}`? Valid here: {}",
                valid.join(", ")
            )
        }
        _ => format!("unknown key `{unknown}`. Valid here: {}", valid.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("config.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_file_line_and_the_nearest_key() {
        let message = parse("name = \"a\"\n[server]\npod-rang = \"100.64.0.0/16\"\n").unwrap_err();
        assert!(
            message.starts_with("config.toml:3: unknown key `pod-rang`: did you mean `pod-range`?"),
            "{message}"
        );
        let message = parse("[servre]\n").unwrap_err();
        assert!(
            message.starts_with("config.toml:1: unknown key `servre`: did you mean `server`?"),
            "{message}"
        );
    }

    #[test]
    fn a_key_nobody_could_mean_gets_the_list() {
        let message = parse("[agent]\nzzz = 1\n").unwrap_err();
        assert!(message.contains("Valid here: server, token"), "{message}");
    }

    #[test]
    fn a_wrong_type_is_refused_with_its_line() {
        let message = parse("\n\n[server]\nlisten = 6443\n").unwrap_err();
        assert!(message.starts_with("config.toml:4: "), "{message}");
    }

    #[test]
    fn broken_toml_is_refused_with_its_line() {
        let message = parse("name = \"a\"\n[server\n").unwrap_err();
        assert!(message.starts_with("config.toml:2: "), "{message}");
    }

    #[test]
    fn every_section_is_read() {
        let config = parse(
            "name = \"pi-2\"\n[cluster]\nname = \"rack1\"\n[agent]\nserver = \"pi-1.local:6443\"\n[leds]\ndriver = \"none\"\nparts = [\"onboard\", \"strip\"]\n[leds.board.button]\ngpio = 21\n",
        )
        .unwrap();
        assert_eq!(config.cluster.name, "rack1");
        assert_eq!(config.agent.server.0, ["pi-1.local:6443"]);
        assert_eq!(config.leds.driver, LedDriver::None);
        assert_eq!(config.leds.parts.unwrap().len(), 2);
        assert_eq!(config.leds.board.button.unwrap().gpio, 21);
    }

    #[test]
    fn the_role_is_one_of_two_and_a_seed_may_call_an_agent_a_node() {
        assert_eq!(parse("role = \"server\"").unwrap().role, Some(Role::Server));
        assert_eq!(parse("role = \"agent\"").unwrap().role, Some(Role::Agent));
        assert_eq!(parse("role = \"node\"").unwrap().role, Some(Role::Agent));
        assert!(parse("role = \"master\"").unwrap_err().contains("server"));
    }

    #[test]
    fn servers_are_one_or_many_and_get_the_port_that_they_lack() {
        let servers =
            |text: &str| parse(&format!("[agent]\nserver = {text}\n")).map(|config| config.agent.server.with_ports());
        assert_eq!(servers("\"10.0.0.1\"").unwrap(), ["10.0.0.1:6443"]);
        assert_eq!(
            servers("[\"fd00::1\", \"[fd00::1]:7\", \"pi-1.local\", \"pi-1.local:7\"]").unwrap(),
            ["[fd00::1]:6443", "[fd00::1]:7", "pi-1.local:6443", "pi-1.local:7"]
        );
        assert!(servers("5").is_err());
    }
}
