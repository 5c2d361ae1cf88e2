//! The servers: each on one core with one thread, told the same names, and asking the same resolver outside.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use minidc_net::{
    dns::{Config, Dns, Limits, Rate, Upstreams, ZoneFile, ZoneFiles},
    facts::{Fact, Key, Service},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, SysconfVar, sysconf},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::data::{NAMES, USER_ZONE, address, namespace};

/// The resolver outside.
const OUTSIDE: &str = "127.0.9.9:53";
/// A server that is not ready then does not get ready.
const READY: Duration = Duration::from_secs(30);
/// Where minidc writes what memory it has before it serves.
const REST: &str = "minidc.rest";

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours.
    Minidc,
    /// BIND 9.
    Bind,
    /// unbound.
    Unbound,
}

impl Kind {
    /// In the order of the table.
    pub(crate) const ALL: [Self; 3] = [Self::Minidc, Self::Bind, Self::Unbound];

    /// In the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Minidc => "minidc",
            Self::Bind => "BIND 9",
            Self::Unbound => "unbound",
        }
    }

    /// Where it listens.
    pub(crate) fn address(self) -> SocketAddr {
        let last = match self {
            Self::Minidc => 1,
            Self::Bind => 2,
            Self::Unbound => 3,
        };
        ([127, 0, 1, last], 53).into()
    }

    fn command(self, directory: &Path) -> Result<Command> {
        let shown = directory.display();
        let address = self.address().ip();
        let outside: SocketAddr = OUTSIDE.parse()?;
        let outside = outside.ip();
        let write = |name: &str, text: String| -> Result<PathBuf> {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            Ok(path)
        };
        Ok(match self {
            Self::Minidc => {
                let mut command = Command::new(std::env::current_exe().context("find this program")?);
                command.arg("serve").arg(directory);
                command
            }
            Self::Bind => {
                let configuration = write(
                    "named.conf",
                    format!(
                        r#"options {{
    directory "{shown}"; pid-file none; session-keyfile none; listen-on {{ {address}; }}; listen-on-v6 {{ none; }};
    recursion yes; allow-recursion {{ any; }}; dnssec-validation no; forward only; forwarders {{ {outside}; }};
    empty-zones-enable no; minimal-responses yes; querylog no; max-cache-size 32m;
}};
controls {{ }};
zone "cluster.local" {{ type primary; file "cluster.zone"; }};
zone "{USER_ZONE}" {{ type primary; file "user.zone"; }};
"#
                    ),
                )?;
                let mut command = Command::new("named");
                command.args(["-g", "-n", "1", "-c"]).arg(configuration);
                command
            }
            Self::Unbound => {
                let configuration = write(
                    "unbound.conf",
                    format!(
                        r#"server:
    directory: "{shown}"
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
    verbosity: 0
    num-threads: 1
    interface: {address}
    access-control: 127.0.0.0/8 allow
    do-not-query-localhost: no
    module-config: "iterator"
    local-zone: "local" nodefault
    so-rcvbuf: 1m
auth-zone:
    name: "cluster.local"
    zonefile: "cluster.zone"
    for-downstream: yes
    for-upstream: no
auth-zone:
    name: "{USER_ZONE}"
    zonefile: "user.zone"
    for-downstream: yes
    for-upstream: no
forward-zone:
    name: "."
    forward-addr: {outside}
remote-control:
    control-enable: no
"#
                    ),
                )?;
                let mut command = Command::new("unbound");
                command.arg("-d").arg("-c").arg(configuration);
                command
            }
        })
    }
}

/// A server that runs, until this is dropped.
pub(crate) struct Server {
    /// Which.
    pub(crate) kind: Kind,
    directory: PathBuf,
    child: Child,
}

/// Memory of a process in KiB.
pub(crate) struct Memory {
    /// All that is resident.
    pub(crate) resident: u64,
    /// Of that, pages of files: the program, its libraries.
    pub(crate) file: u64,
}

impl Server {
    /// Starts it on this core.
    pub(crate) fn start(kind: Kind, directory: &Path, core: usize) -> Result<Self> {
        let inner = kind.command(directory)?;
        let mut command = Command::new("taskset");
        command
            .args(["-c", &core.to_string()])
            .arg(inner.get_program())
            .args(inner.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join(format!("{}.log", kind.name())))?);
        let child = command.spawn().with_context(|| format!("start {}", kind.name()))?;
        Ok(Self {
            kind,
            directory: directory.to_owned(),
            child,
        })
    }

    /// Waits until it knows the last of the names.
    pub(crate) fn wait_until_ready(&self) -> Result<()> {
        let names = [
            format!("service-{}.{}.svc.cluster.local", NAMES - 1, namespace(NAMES - 1)),
            format!("host-{}.{USER_ZONE}", NAMES - 1),
        ];
        let began = Instant::now();
        for name in names {
            while !self.knows(&name)? {
                if began.elapsed() > READY {
                    let log = self.directory.join(format!("{}.log", self.kind.name()));
                    bail!(
                        "{} does not know {name}: {}",
                        self.kind.name(),
                        fs::read_to_string(log).unwrap_or_default()
                    );
                }
            }
        }
        Ok(())
    }

    fn knows(&self, name: &str) -> Result<bool> {
        let socket = UdpSocket::bind("127.0.0.1:0").context("make a socket")?;
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .context("set a limit")?;
        let mut packet = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            packet.push(u8::try_from(label.len())?);
            packet.extend_from_slice(label.as_bytes());
        }
        packet.extend_from_slice(&[0, 0, 1, 0, 1]);
        socket.send_to(&packet, self.kind.address()).context("ask")?;
        let mut answer = [0; 512];
        // an error is the limit of time, or a port where nobody listens yet
        let length = socket.recv(&mut answer).unwrap_or_default();
        Ok(length > 12 && answer[7] > 0)
    }

    /// CPU time it has used.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).context("read CPU time")?;
        // after the name in parentheses: state is field 3, user and system time are fields 14 and 15 (proc(5))
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
        let ticks = ticks(11).zip(ticks(12)).context("no CPU time")?;
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
        Ok(Duration::from_secs_f64((ticks.0 + ticks.1) as f64 / per_second as f64))
    }

    /// Memory it has.
    pub(crate) fn memory(&self) -> Result<Memory> {
        memory(self.child.id())
    }

    /// Resident memory in KiB of the same program before it serves names; only ours tells.
    pub(crate) fn at_rest(&self) -> Result<Option<u64>> {
        if self.kind != Kind::Minidc {
            return Ok(None);
        }
        let text = fs::read_to_string(self.directory.join(REST)).context("read memory at rest")?;
        Ok(Some(text.parse().context("memory at rest")?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn memory(process: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("read memory")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Ok(Memory {
        resident: field("VmRSS:").context("no resident memory")?,
        file: field("RssFile:").context("no file pages")?,
    })
}

/// Runs minidc's server alone: the Services are facts that the agent has in any case, and told before memory is read.
pub(crate) fn serve(directory: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("start a runtime")?;
    runtime.block_on(async {
        let (facts, told) = mpsc::unbounded_channel();
        let mut kept = Vec::new();
        for number in 0..NAMES {
            let key = Key {
                namespace: namespace(number).into(),
                name: format!("service-{number}").into(),
            };
            let json = format!(
                r#"{{"spec":{{"clusterIP":"{}","ports":[{{"name":"http","port":80}}]}}}}"#,
                address(number)
            );
            kept.push((Arc::new(key), Arc::new(Service::from_json(json.as_bytes())?)));
        }
        let user = fs::read_to_string(directory.join("user.zone")).context("read the user zone")?;
        let files = ZoneFiles {
            files: vec![ZoneFile {
                config_map: "zones".into(),
                file: USER_ZONE.into(),
                text: user.into(),
            }],
        };
        let (_zones, zones) = watch::channel(Arc::new(files));
        let (_pods, pods) = watch::channel(Arc::default());
        fs::write(directory.join(REST), memory(std::process::id())?.resident.to_string()).context("write memory")?;

        let rate = Rate {
            per_second: 1_000_000_000,
            burst: 1_000_000,
        };
        let dns = Dns::new(Config {
            address: Kind::Minidc.address(),
            domain: "cluster.local".into(),
            node: "bench".into(),
            pod_range: "100.64.0.0/16".parse()?,
            service_range: "100.65.0.0/16".parse()?,
            upstreams: Upstreams::Configured(vec![OUTSIDE.parse()?]),
            keep: None,
            cache_bytes: 2 << 20,
            limits: Limits {
                queries: rate,
                outside: rate,
            },
            workers: std::num::NonZero::new(1),
        })?;
        for (key, service) in &kept {
            facts.send(Fact::Service(Arc::clone(key), Some(Arc::clone(service))))?;
        }
        facts.send(Fact::Synced)?;
        dns.run(told, zones, pods, CancellationToken::new()).await?;
        Ok(())
    })
}

/// A resolver outside that knows every name, on this core.
pub(crate) fn serve_outside(core: usize) -> Result<()> {
    let socket = UdpSocket::bind(OUTSIDE).context("listen as the resolver outside")?;
    thread::Builder::new()
        .name("outside".into())
        .spawn(move || {
            let mut cores = CpuSet::new();
            if cores.set(core).is_ok() {
                // without it the figures are a little worse for all
                let _ = sched_setaffinity(Pid::from_raw(0), &cores);
            }
            let mut packet = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                if let Some(answer) = outside_answer(&packet[..length]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        })
        .context("start the resolver outside")?;
    Ok(())
}

/// One address for a day, whatever the name.
fn outside_answer(query: &[u8]) -> Option<Vec<u8>> {
    let mut end = 12;
    while *query.get(end)? > 0 {
        end += 1 + usize::from(query[end]);
    }
    let mut answer = query.get(..end + 5)?.to_vec();
    let is_address = answer.get(end + 1..end + 3)? == [0, 1];
    // an answer, recursion available; one question, and one answer to a question for an address
    answer[2] = 0x81;
    answer[3] = 0x80;
    answer[4..12].copy_from_slice(&[0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    if is_address {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 1, 0x51, 0x80, 0, 4, 192, 0, 2, 1]);
    }
    Some(answer)
}
