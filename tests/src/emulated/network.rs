//! The virtual network: a switch, on request with a DHCP server, and a laptop with Avahi, each in namespaces of its own.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{eventually, run};

/// Who gives addresses on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// A DHCP server that names a router, as at home, behind which nothing is.
    Dhcp,
    /// Nobody: every machine takes a link-local address.
    LinkLocal,
}

/// Addresses that the DHCP server gives, first and last; at home and, in turn, wherever else the rack is carried.
const RANGES: [&str; 2] = ["10.78.0.100,10.78.0.200", "10.78.0.20,10.78.0.80"];

/// Namespaces that live as long as one process.
#[derive(Debug)]
struct Space {
    /// `unshare`; the processes inside are killed with it.
    holder: Child,
    /// Process 1 inside, as the host counts.
    pid: String,
}

impl Space {
    /// Makes namespaces, lets `prepare` lay cables into them, runs `script` in them, and holds them once it has come to its end.
    fn new(script: &str, log: &Path, prepare: impl FnOnce(&Self) -> Result<()>) -> Result<Self> {
        let mut holder = Command::new("setpriv");
        holder
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--net",
                "--mount",
                "--uts",
                "--pid",
                "--fork",
                "--kill-child",
            ])
            .args(["sh", "-euc"])
            // /proc is still the host's here, so the number is the host's too.
            .arg(format!(
                "read -r pid rest < /proc/self/stat; echo $pid; read -r go\n{script}\necho up; exec sleep infinity"
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(log).with_context(|| format!("create {}", log.display()))?);
        let mut holder = holder.spawn().context("start unshare")?;
        let output = holder.stdout.take();
        let mut space = Self {
            holder,
            pid: String::new(),
        };
        let mut lines = BufReader::new(output.context("no output")?).lines();
        let mut next = || -> Result<String> {
            let line = lines.next().transpose()?;
            line.with_context(|| format!("namespaces: {}", fs::read_to_string(log).unwrap_or_default()))
        };
        space.pid = next()?;
        prepare(&space)?;
        if let Some(mut input) = space.holder.stdin.take() {
            input.write_all(b"go\n")?;
        }
        next()?;
        Ok(space)
    }

    /// A command that will run inside and dies with the thread that starts it.
    fn enter(&self, namespaces: &[&str], program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter", "--target", &self.pid])
            .args(namespaces)
            .args(["--", program]);
        command
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A switch and a laptop.
#[derive(Debug)]
pub struct Network {
    // In the order in which they are to end.
    laptop: Space,
    switch: Space,
    directory: PathBuf,
}

impl Network {
    /// Lays the network; its logs go into `directory`.
    ///
    /// # Errors
    /// If a namespace, a daemon or the laptop's address cannot be had.
    pub fn new(directory: &Path, addressing: Addressing) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        let at = directory.display();
        // With snooping, the bridge may drop mDNS.
        let mut script = "ip link set lo up
            ip link add br0 type bridge mcast_snooping 0
            ip link set br0 up\n"
            .to_owned();
        if addressing == Addressing::Dhcp {
            script += "ip address add 10.78.0.1/24 dev br0\n";
            script += &dhcp(directory, RANGES[0]);
        }
        let switch = Space::new(&script, &directory.join("switch.log"), |_| Ok(()))?;
        let avahi = directory.join("avahi.conf");
        fs::write(&avahi, AVAHI)?;
        let lease = directory.join("lease.sh");
        fs::write(&lease, LEASE)?;
        // No name server: what the laptop finds, it finds by mDNS.
        let no_names = directory.join("resolv.conf");
        fs::write(&no_names, "")?;
        let script = format!(
            "hostname laptop
            ip link set lo up
            ip link set eth0 up
            mount -t tmpfs tmpfs /run
            resolv=$(readlink -f /etc/resolv.conf || true)
            if [ -e \"$resolv\" ]; then mount --bind {at}/resolv.conf \"$resolv\"; fi
            mkdir -p /run/dbus /run/avahi-daemon
            {address}
            dbus-daemon --system --nopidfile
            avahi-daemon --no-rlimits --no-drop-root --daemonize -f {at}/avahi.conf\n",
            address = match addressing {
                Addressing::Dhcp => format!("busybox udhcpc -i eth0 -q -n -t 20 -s \"{at}/lease.sh\" >&2"),
                Addressing::LinkLocal => "ip address add 169.254.77.7/16 brd + dev eth0 scope link".to_owned(),
            }
        );
        let executable = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        fs::set_permissions(&lease, executable)?;
        let laptop = Space::new(&script, &directory.join("laptop.log"), |laptop| {
            let cable = [
                "link",
                "add",
                "laptop",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                &laptop.pid,
            ];
            run(switch.enter(&["--net"], "ip").args(cable))?;
            run(switch
                .enter(&["--net"], "ip")
                .args(["link", "set", "laptop", "master", "br0", "up"]))
            .map(drop)
        })?;
        let network = Self {
            laptop,
            switch,
            directory: directory.to_owned(),
        };
        eventually(Duration::from_secs(30), "the laptop's Avahi", || {
            run(network.laptop("busctl").args(["status", "org.freedesktop.Avahi"])).map(|_| true)
        })?;
        Ok(network)
    }

    /// A command on the laptop.
    #[must_use]
    pub fn laptop(&self, program: &str) -> Command {
        let mut command = self.laptop.enter(&["--net", "--mount", "--uts"], program);
        command.env("NO_PROXY", "*").env("no_proxy", "*");
        command
    }

    /// A command that has its sockets on the switch.
    #[must_use]
    pub fn on_switch(&self, program: &str) -> Command {
        self.switch.enter(&["--net"], program)
    }

    /// Adds a free port to the switch, for QEMU to plug a machine into.
    ///
    /// # Errors
    /// If there is one of this name.
    pub fn port(&self, name: &str) -> Result<()> {
        run(self.on_switch("ip").args(["tuntap", "add", "dev", name, "mode", "tap"]))?;
        run(self.on_switch("ip").args(["link", "set", name, "master", "br0", "up"])).map(drop)
    }

    /// Removes a port; that it is gone already is no error.
    pub fn remove_port(&self, name: &str) {
        let _ = run(self.on_switch("ip").args(["link", "delete", name]));
    }

    /// Gives other addresses from now on, and forgets those that were given: as if all machines but the laptop were carried elsewhere.
    ///
    /// # Errors
    /// If the DHCP server does not start again.
    pub fn carry_elsewhere(&self) -> Result<()> {
        let script = format!(
            "kill -KILL $(cat {}/dhcp.pid)\n{}",
            self.directory.display(),
            dhcp(&self.directory, RANGES[1])
        );
        run(self.switch.enter(&["--net", "--pid"], "sh").args(["-euc", &script])).map(drop)
    }

    /// The address that DHCP gave to a machine of this name, if it asked already.
    #[must_use]
    pub fn lease(&self, host: &str) -> Option<String> {
        let leases = fs::read_to_string(self.directory.join("leases")).ok()?;
        leases.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            (fields.get(3) == Some(&host)).then(|| fields[2].to_owned())
        })
    }
}

/// Starts a DHCP server that has given no address yet.
fn dhcp(directory: &Path, range: &str) -> String {
    let at = directory.display();
    format!(
        "rm -f {at}/leases
        dnsmasq --conf-file=/dev/null --port=0 --interface=br0 --bind-interfaces --dhcp-authoritative --user=root \
          --dhcp-range={range},1h --dhcp-leasefile={at}/leases --log-facility={at}/dhcp.log --pid-file={at}/dhcp.pid\n"
    )
}

/// Avahi on the cable only.
const AVAHI: &str = "[server]
host-name=laptop
use-ipv4=yes
use-ipv6=no
allow-interfaces=eth0
enable-dbus=yes

[wide-area]
enable-wide-area=no

[publish]
publish-hinfo=no
publish-workstation=no

[rlimits]
";

/// What udhcpc calls.
const LEASE: &str = "#!/bin/sh
[ \"$1\" = bound ] || [ \"$1\" = renew ] || exit 0
ip address replace \"$ip/$mask\" dev \"$interface\"
ip route replace default via \"$router\" || true
";
