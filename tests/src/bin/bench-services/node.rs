//! A node with a client and two endpoints on its bridge, in network namespaces.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _},
    process::Command,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt},
};

use crate::{Figures, Quantiles};

/// Endpoints that answer; the others stand for pods elsewhere.
pub(crate) const ENDPOINTS: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 64, 0, 3), Ipv4Addr::new(100, 64, 0, 4)];
const CLIENT: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
pub(crate) const PORT: u16 = 8080;
/// Connections that the time of the first packet is taken from.
const CONNECTIONS: usize = 3_000;

/// The cluster IP of a Service.
pub(crate) fn cluster_ip(number: usize) -> Ipv4Addr {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 65, 1, 0)) + number)
}

/// Endpoints of a Service that nobody connects to.
pub(crate) fn elsewhere(number: usize) -> [Ipv4Addr; 3] {
    [0, 1, 2].map(|index| {
        let number = u32::try_from(number * 3 + index).unwrap_or(u32::MAX) % 0xffff;
        Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 66, 0, 1)) + number)
    })
}

pub(crate) struct Node {
    client: File,
}

impl Node {
    pub(crate) fn new() -> Result<Self> {
        run("mount", "-t tmpfs tmpfs /run")?;
        run("ip", "link set lo up")?;
        run("ip", "link add cni0 type bridge")?;
        run("ip", "address add 100.64.0.1/24 dev cni0")?;
        run("ip", "link set cni0 up")?;
        for address in [CLIENT, ENDPOINTS[0], ENDPOINTS[1]] {
            let name = format!("pod-{}", address.octets()[3]);
            for line in [
                format!("netns add {name}"),
                format!("link add v{name} type veth peer name eth0 netns {name}"),
                format!("link set v{name} master cni0 up"),
                format!("-n {name} address add {address}/24 dev eth0"),
                format!("-n {name} link set eth0 up"),
                format!("-n {name} route add default via 100.64.0.1"),
            ] {
                run("ip", &line)?;
            }
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        for address in ENDPOINTS {
            let listener = within(&namespace(address)?, || Ok(TcpListener::bind((address, PORT))?))?;
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let _ = stream.write_all(&address.octets());
                }
            });
        }
        Ok(Self {
            client: namespace(CLIENT)?,
        })
    }

    /// Does `change`, which says whom it leads to, so often, and waits each time until connections by the Service get there.
    pub(crate) fn changes(
        &self,
        service: Ipv4Addr,
        times: usize,
        mut change: impl FnMut(usize) -> Result<Ipv4Addr>,
    ) -> Result<Quantiles> {
        // The client waits in its namespace already when the change begins in the node's.
        let (sender, orders) = mpsc::channel::<Ipv4Addr>();
        let (arrived, receiver) = mpsc::channel();
        let mut taken = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let arrived = arrived;
                within(&self.client, || {
                    for expected in orders {
                        arrived.send(wait_for(service, expected))?;
                    }
                    Ok(())
                })
            });
            let sender = sender;
            for number in 0..times {
                let began = Instant::now();
                sender.send(change(number)?)?;
                receiver.recv()??;
                taken.push(began.elapsed());
            }
            Ok(Quantiles::of(taken))
        })
    }

    /// The time of connections by the Service and directly, taken in turns.
    pub(crate) fn connections(&self, service: Ipv4Addr, figures: &mut Figures) -> Result<()> {
        within(&self.client, || {
            let (mut through, mut direct) = (Vec::new(), Vec::new());
            for _ in 0..CONNECTIONS {
                through.push(timed(service, 80)?);
                direct.push(timed(ENDPOINTS[0], PORT)?);
            }
            figures.connect = Quantiles::of(through);
            figures.direct = Quantiles::of(direct);
            Ok(())
        })
    }
}

fn namespace(address: Ipv4Addr) -> Result<File> {
    let path = format!("/run/netns/pod-{}", address.octets()[3]);
    File::open(&path).context(path)
}

/// Runs something in a namespace, on a thread of its own.
fn within<T: Send>(namespace: &File, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            work()
        });
        thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
    })
}

/// Connects until the expected endpoint answers.
fn wait_for(service: Ipv4Addr, expected: Ipv4Addr) -> Result<()> {
    let began = Instant::now();
    while by(service, 80)? != expected {
        ensure!(began.elapsed() < Duration::from_secs(120), "a change had no effect");
    }
    Ok(())
}

fn timed(address: Ipv4Addr, port: u16) -> Result<Duration> {
    let began = Instant::now();
    let stream = open(address, port)?;
    let taken = began.elapsed();
    finish(stream)?;
    Ok(taken)
}

/// Who answers.
fn by(address: Ipv4Addr, port: u16) -> Result<Ipv4Addr> {
    finish(open(address, port)?)
}

fn open(address: Ipv4Addr, port: u16) -> Result<TcpStream> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // No TIME_WAIT: there would be thousands.
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&socket, sockopt::Linger, &linger)?;
    let to = SocketAddrV4::new(address, port);
    connect(socket.as_raw_fd(), &SockaddrIn::from(to)).with_context(|| format!("connect to {to}"))?;
    Ok(TcpStream::from(socket))
}

fn finish(mut stream: TcpStream) -> Result<Ipv4Addr> {
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    Ok(Ipv4Addr::from(answer))
}

fn run(program: &str, arguments: &str) -> Result<()> {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .with_context(|| format!("start {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
