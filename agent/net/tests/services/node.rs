//! A node in a network namespace of its own, with pods on its bridge and the world outside, each a namespace again.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use minidc_net::{
    Error, Range,
    facts::{Endpoint, Fact, Key, Protocol, Service, ServicePort, Slice, SlicePort},
    services::{Config, Proxy, ProxyState},
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub(crate) const NODE: &str = "pi-1";
/// The node's own address, and one of a client and of a pod elsewhere.
pub(crate) const NODE_ADDRESS: &str = "10.9.0.1";
pub(crate) const CLIENT: &str = "10.9.0.9";
pub(crate) const REMOTE_POD: &str = "100.64.1.5";
/// An address far outside.
pub(crate) const INTERNET: &str = "192.0.2.1";
pub(crate) const DNS: &str = "100.65.0.10";

/// A network namespace.
#[derive(Clone)]
pub(crate) struct Place(Arc<File>);

impl Place {
    fn named(name: &str) -> Result<Self> {
        let path = format!("/run/netns/{name}");
        Ok(Self(Arc::new(File::open(&path).context(path)?)))
    }

    fn here() -> Result<Self> {
        Ok(Self(Arc::new(File::open("/proc/self/ns/net")?)))
    }

    /// Runs something in the namespace, on a thread of its own: a namespace is a thread's.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::setns(self.0.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)?;
                work()
            });
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
        })
    }

    /// Answers each connection with the address that took it and the address it came from.
    pub(crate) fn listen(&self, address: &str, port: u16) -> Result<()> {
        let listener = self.run(|| Ok(TcpListener::bind((address, port))?))?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream);
            }
        });
        let socket = self.run(|| Ok(UdpSocket::bind((address, port))?))?;
        let name = address.to_owned();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{name} {}", from.ip()).as_bytes(), from);
            }
        });
        Ok(())
    }

    /// Connects; who answered, and as whom we were seen.
    pub(crate) fn connect(&self, to: &str) -> Result<(String, String)> {
        self.connect_from("0.0.0.0", to)
    }

    pub(crate) fn connect_from(&self, from: &str, to: &str) -> Result<(String, String)> {
        self.run(|| connection(from.parse()?, to.parse()?))
    }

    /// How an attempt to connect fails.
    pub(crate) fn refused(&self, to: &str) -> Result<Errno> {
        errno(self.connect(to))
    }

    /// Whether an attempt to connect is neither answered nor refused.
    pub(crate) fn ignored(&self, to: &str) -> Result<bool> {
        let result = self.run(|| connection_within(Ipv4Addr::UNSPECIFIED, to.parse()?, 400));
        Ok(errno(result)? == Errno::EINPROGRESS)
    }

    /// Who answers each of so many connections, by how often.
    pub(crate) fn connect_often(&self, from: &[Ipv4Addr], to: &str, times: usize) -> Result<BTreeMap<String, usize>> {
        let to = to.parse()?;
        self.run(|| {
            let mut counts = BTreeMap::new();
            for from in from.iter().cycle().take(times) {
                *counts.entry(connection(*from, to)?.0).or_default() += 1;
            }
            Ok(counts)
        })
    }

    /// Asks by UDP from one socket.
    pub(crate) fn udp(&self, from: &str) -> Result<UdpSocket> {
        self.run(|| {
            let socket = UdpSocket::bind((from, 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(300)))?;
            Ok(socket)
        })
    }
}

fn answer(mut stream: TcpStream) -> Result<()> {
    let text = format!("{} {}", stream.local_addr()?.ip(), stream.peer_addr()?.ip());
    stream.write_all(text.as_bytes())?;
    Ok(())
}

/// Sends and waits for the answer, a few times.
pub(crate) fn ask(socket: &UdpSocket, to: &str) -> Result<(String, String)> {
    let mut last = None;
    for _ in 0..10 {
        let mut buffer = [0; 64];
        let result = socket.send_to(b"?", to).and_then(|_| socket.recv_from(&mut buffer));
        match result {
            Ok((length, from)) => {
                ensure!(from == to.parse::<SocketAddr>()?, "answered from {from}");
                return pair(&String::from_utf8_lossy(&buffer[..length]));
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("not tried")?).context(format!("ask {to}"))
}

fn pair(text: &str) -> Result<(String, String)> {
    let (by, from) = text.split_once(' ').with_context(|| format!("answer {text:?}"))?;
    Ok((by.to_owned(), from.to_owned()))
}

/// One connection that leaves no state behind at its end.
pub(crate) fn connection(from: Ipv4Addr, to: SocketAddrV4) -> Result<(String, String)> {
    connection_within(from, to, 5_000)
}

fn connection_within(from: Ipv4Addr, to: SocketAddrV4, milliseconds: i64) -> Result<(String, String)> {
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = TimeVal::milliseconds(milliseconds);
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&socket, sockopt::Linger, &linger)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(to)).with_context(|| format!("connect to {to}"))?;
    let mut text = String::new();
    TcpStream::from(socket).read_to_string(&mut text)?;
    pair(&text)
}

/// How an attempt to connect failed.
fn errno(result: Result<(String, String)>) -> Result<Errno> {
    match result {
        Ok(answer) => bail!("answered: {answer:?}"),
        Err(error) => error.downcast_ref().copied().with_context(|| format!("{error:?}")),
    }
}

/// The node, with its service proxy running.
pub(crate) struct Node {
    pub(crate) here: Place,
    pub(crate) outside: Place,
    pods: u8,
    facts: mpsc::UnboundedSender<Fact>,
    pub(crate) own: watch::Sender<Option<Range>>,
    pub(crate) state: watch::Receiver<ProxyState>,
    shutdown: CancellationToken,
    task: Option<tokio::task::JoinHandle<Result<(), Error>>>,
    runtime: tokio::runtime::Runtime,
    services: BTreeMap<String, Service>,
}

impl Node {
    /// A node with its network; the proxy is not started yet.
    pub(crate) fn new() -> Result<Self> {
        command("mount -t tmpfs tmpfs /run")?;
        for line in [
            "ip netns add outside",
            "ip link set lo up",
            "ip link add eth0 type veth peer name eth0 netns outside",
            "ip address add 10.9.0.1/24 dev eth0",
            "ip link set eth0 up",
            "ip -n outside link set lo up",
            "ip -n outside address add 10.9.0.2/24 dev eth0",
            "ip -n outside address add 10.9.0.9/24 dev eth0",
            "ip -n outside link set eth0 up",
            "ip -n outside address add 100.64.1.5/32 dev lo",
            "ip -n outside address add 192.0.2.1/32 dev lo",
            "ip -n outside route add 100.64.0.0/24 via 10.9.0.1 src 100.64.1.5",
            "ip -n outside route add 100.65.0.0/16 via 10.9.0.1",
            "ip link add cni0 type bridge",
            "ip address add 100.64.0.1/24 dev cni0",
            "ip link set cni0 up",
            "ip route add 100.64.1.0/24 via 10.9.0.2",
            "ip route add 100.65.0.0/16 dev cni0 src 100.64.0.1",
            "ip route add default via 10.9.0.2",
            "ip address add 100.65.0.10/32 dev lo",
        ] {
            command(line)?;
        }
        for (switch, value) in [("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "0")] {
            std::fs::write(format!("/proc/sys/net/{switch}"), value).context(switch)?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        Ok(Self {
            here: Place::here()?,
            outside: Place::named("outside")?,
            pods: 1,
            facts: mpsc::unbounded_channel().0,
            own: watch::Sender::new(Some("100.64.0.0/24".parse()?)),
            state: watch::Sender::default().subscribe(),
            shutdown: CancellationToken::new(),
            task: None,
            runtime,
            services: BTreeMap::new(),
        })
    }

    /// Whether bridged packets go through the node's rules.
    pub(crate) fn bridged(&self, on: bool) -> Result<()> {
        let value = if on { "1" } else { "0" };
        Ok(std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", value)?)
    }

    /// Starts the proxy; nothing has been told yet.
    pub(crate) fn start(&mut self) -> Result<()> {
        let proxy = Proxy::new(Config {
            node: NODE.into(),
            pod_range: "100.64.0.0/16".parse()?,
            service_range: "100.65.0.0/16".parse()?,
            own: self.own.subscribe(),
            dns: DNS.parse()?,
        });
        self.state = proxy.state();
        let (facts, receiver) = mpsc::unbounded_channel();
        self.facts = facts;
        self.shutdown = CancellationToken::new();
        // On this thread's namespace, and so is every other of the runtime: they were made by this one.
        self.task = Some(self.runtime.spawn(proxy.run(receiver, self.shutdown.clone())));
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        self.shutdown.cancel();
        let task = self.task.take().context("not started")?;
        Ok(self.runtime.block_on(task)??)
    }

    /// A pod on this node's bridge that listens on port 8080 of its address.
    pub(crate) fn pod(&mut self) -> Result<(Place, String)> {
        self.pods += 1;
        let number = self.pods;
        let (name, address) = (format!("pod-{number}"), format!("100.64.0.{number}"));
        command(&format!("ip netns add {name}"))?;
        for line in [
            format!("ip link add veth{number} type veth peer name eth0 netns {name}"),
            format!("ip link set veth{number} master cni0 up"),
            format!("bridge link set dev veth{number} hairpin on"),
            format!("ip -n {name} link set lo up"),
            format!("ip -n {name} address add {address}/24 dev eth0"),
            format!("ip -n {name} link set eth0 up"),
            format!("ip -n {name} route add default via 100.64.0.1"),
        ] {
            command(&line)?;
        }
        let place = Place::named(&name)?;
        place.listen(&address, 8080)?;
        Ok((place, address))
    }

    pub(crate) fn tell(&self, fact: Fact) {
        self.facts.send(fact).expect("the proxy listens");
    }

    pub(crate) fn service(&mut self, name: &str, service: Service) {
        self.services.insert(name.to_owned(), service.clone());
        self.tell(Fact::Service(key(name), Some(Arc::new(service))));
    }

    /// Endpoints of a service: addresses; `!` in front for one that is not ready, `~` for one that stops and still serves.
    /// Those in the node's own range are on this node.
    pub(crate) fn endpoints(&self, name: &str, endpoints: &[&str]) {
        let service = &self.services[name];
        self.tell(Fact::Slice(
            key(&format!("{name}-1")),
            Some(Arc::new(slice(name, service, endpoints))),
        ));
    }

    /// Waits until this text is (or is not) in our table.
    pub(crate) fn wait_for_rule(&self, text: &str, there: bool) -> Result<()> {
        self.wait_for(&format!("{text:?} in the table: {there}"), || {
            Ok(table()?.contains(text) == there)
        })
    }

    /// As [`Node::endpoints`], listening on this port.
    pub(crate) fn endpoints_at(&self, name: &str, endpoints: &[&str], port: u16) {
        let mut slice = slice(name, &self.services[name], endpoints);
        for target in &mut slice.ports {
            target.port = port;
        }
        self.tell(Fact::Slice(key(&format!("{name}-1")), Some(Arc::new(slice))));
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.services.remove(name);
        self.tell(Fact::Service(key(name), None));
        self.tell(Fact::Slice(key(&format!("{name}-1")), None));
    }

    /// Tells a proxy that was started anew what the one before was told of Services.
    pub(crate) fn tell_services(&self) {
        for (name, service) in &self.services {
            self.tell(Fact::Service(key(name), Some(Arc::new(service.clone()))));
        }
    }

    /// Says that all was told and waits for it to be so in the kernel.
    pub(crate) fn synced(&self) -> Result<()> {
        self.tell(Fact::Synced);
        self.wait_for("the proxy to be ready", || Ok(self.state.borrow().ready))
    }

    pub(crate) fn wait_for(&self, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            let last = condition();
            if matches!(last, Ok(true)) {
                return Ok(());
            }
            if Instant::now() > end {
                bail!(
                    "{what}: {last:?}; {:?}\n{}",
                    *self.state.borrow(),
                    table().unwrap_or_else(|error| error.to_string())
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

pub(crate) fn key(name: &str) -> Arc<Key> {
    Arc::new(Key {
        namespace: "default".into(),
        name: name.into(),
    })
}

/// A service of ports 80 by TCP and 53 by UDP.
pub(crate) fn service(cluster_ip: &str) -> Service {
    let port = |name: &str, protocol, port| ServicePort {
        name: name.into(),
        protocol,
        port,
        node_port: None,
    };
    Service {
        cluster_ips: vec![cluster_ip.parse().expect("an address")],
        ports: vec![port("http", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)],
        ..Service::default()
    }
}

pub(crate) fn slice(name: &str, service: &Service, endpoints: &[&str]) -> Slice {
    Slice {
        service: Some(name.into()),
        ports: service
            .ports
            .iter()
            .map(|port| SlicePort {
                name: port.name.clone(),
                protocol: port.protocol,
                port: 8080,
            })
            .collect(),
        endpoints: endpoints
            .iter()
            .map(|text| {
                let address = text.trim_start_matches(['!', '~']);
                let (ready, stopping) = (address == *text, text.starts_with('~'));
                Endpoint {
                    address: address.parse().expect("an address"),
                    ready,
                    serving: ready || stopping,
                    terminating: stopping,
                    hostname: None,
                    node: Some(if address.starts_with("100.64.0.") { NODE } else { "pi-2" }.into()),
                    pod: None,
                }
            })
            .collect(),
    }
}

/// Our table as nft lists it.
pub(crate) fn table() -> Result<String> {
    command("nft list table ip minidc")
}

pub(crate) fn command(line: &str) -> Result<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(words[0])
        .args(&words[1..])
        .output()
        .context(words[0].to_owned())?;
    ensure!(
        output.status.success(),
        "{line}: {} {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
