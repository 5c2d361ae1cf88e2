//! A rack that exists, and what can be done to it.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::{
    Error, NodeLeds, NodeSpec, PodRoute, Progress, UpOptions, cgroups, leds, lifecycle, locks, names, network, node,
    paths::Paths, process,
};

/// What is known of a rack; `rack.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    /// K of 10.77.K.0/24.
    pub(crate) subnet: u8,
    pub(crate) nodes: u32,
    /// Cap on the memory of each node, in bytes.
    pub(crate) memory: Option<u64>,
    /// Environment of every minidc.
    pub(crate) environment: BTreeMap<String, String>,
    /// `up` came to its end.
    pub(crate) complete: bool,
    /// Host names of the guests, in the order in which they came.
    #[serde(default)]
    pub(crate) guests: Vec<String>,
}

/// Whether a node has power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It runs.
    On,
    /// It was never started, or it was unplugged.
    Off,
    /// It ought to run, but its process 1 is gone.
    Crashed,
}

/// How a node is, seen from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Number, counted from 1.
    pub index: u32,
    /// Host name, such as `pi-1`.
    pub name: String,
    /// Address of its eth0.
    pub address: Ipv4Addr,
    /// Whether it has power.
    pub power: Power,
    /// How often each daemon was started since the node has power, by name; daemons that do not run now are missing.
    pub services: BTreeMap<String, u32>,
}

/// A rack on this machine. Cheap to clone; several handles, also of several processes, may act at the same time.
#[derive(Clone, Debug)]
pub struct Rack {
    pub(crate) record: Record,
    pub(crate) paths: Paths,
}

impl Rack {
    /// Makes the rack's network and directories, with no node started; [`crate::up`] does this and more.
    ///
    /// # Errors
    /// [`Error::Exists`] when there is a rack of this name, also a broken one.
    pub fn create(options: &UpOptions) -> Result<Self, Error> {
        lifecycle::check(options)?;
        let _lock = locks::exclusive(&Paths::new(&options.name).state)?;
        lifecycle::create(options)
    }

    /// The rack of this name.
    ///
    /// # Errors
    /// [`Error::UnknownRack`] when there is none.
    pub fn open(name: &str) -> Result<Self, Error> {
        names::check_rack(name)?;
        let paths = Paths::new(name);
        let path = paths.record();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::UnknownRack(name.to_owned()));
            }
            Err(error) => return Err(Error::file("read", path)(error)),
        };
        let record = serde_json::from_slice(&text).map_err(|source| Error::Malformed { path, source })?;
        Ok(Self { record, paths })
    }

    pub(crate) fn save(&self) -> Result<(), Error> {
        write_json(&self.paths.record(), &self.record)
    }

    /// Name of the rack.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// How many nodes it has; they are counted from 1.
    #[must_use]
    pub fn nodes(&self) -> u32 {
        self.record.nodes
    }

    /// K: the rack's network is 10.77.K.0/24. Different for all racks of this host.
    #[must_use]
    pub fn subnet(&self) -> u8 {
        self.record.subnet
    }

    /// Host name of a node: `pi-1`, `pi-2`, …, or of a guest.
    #[must_use]
    pub fn node_name(&self, index: u32) -> String {
        let guest = index
            .checked_sub(names::FIRST_GUEST)
            .and_then(|place| self.record.guests.get(usize::try_from(place).ok()?));
        guest.cloned().unwrap_or_else(|| names::node(index))
    }

    /// Number of the node or guest with this name.
    ///
    /// # Errors
    /// [`Error::UnknownNode`].
    pub fn node_index(&self, name: &str) -> Result<u32, Error> {
        let node = names::node_index(name).filter(|index| (1..=self.record.nodes).contains(index));
        node.or_else(|| self.guests().find(|guest| self.node_name(*guest) == name))
            .ok_or_else(|| Error::UnknownNode {
                rack: self.record.name.clone(),
                node: name.to_owned(),
            })
    }

    /// Numbers of the guests: machines on the rack's network that are no part of the rack ([`Rack::add_guest`]).
    pub fn guests(&self) -> impl Iterator<Item = u32> + use<> {
        (names::FIRST_GUEST..).take(self.record.guests.len())
    }

    /// Address of a node's eth0.
    #[must_use]
    pub fn node_address(&self, index: u32) -> Ipv4Addr {
        names::address(self.record.subnet, u8::try_from(index).unwrap_or(u8::MAX))
    }

    /// Address of the host in the rack's network.
    #[must_use]
    pub fn host_address(&self) -> Ipv4Addr {
        names::address(self.record.subnet, names::HOST)
    }

    /// A node's directory on the host.
    #[must_use]
    pub fn node_dir(&self, index: u32) -> PathBuf {
        self.paths.node(index)
    }

    /// Where a file of a node lies on the host: `/run/…` is there while the node has power, everything else also when it has
    /// none. Of the files outside `/run`, `/var/log`, `/etc/{minidc,containerd,cni}` and
    /// `/var/lib/{minidc,containerd,cni}` only those are found that the node has written itself.
    #[must_use]
    pub fn node_path(&self, index: u32, path: impl AsRef<Path>) -> PathBuf {
        self.paths.inside(index, path.as_ref())
    }

    /// Log of one of a node's daemons: `minidc`, `containerd`, `avahi`, `dbus`, or of its process 1: `init`. At most about
    /// 4 MB; older lines are in a file of the same name with `.1` behind it.
    #[must_use]
    pub fn log_path(&self, index: u32, service: &str) -> PathBuf {
        self.paths
            .inside(index, Path::new("/var/log"))
            .join(format!("{service}.log"))
    }

    /// Network namespace of the rack's switch, for `ip -n`.
    #[must_use]
    pub fn switch_namespace(&self) -> String {
        names::switch_namespace(&self.record.name)
    }

    /// Network namespace of a node, for `ip -n`.
    #[must_use]
    pub fn node_namespace(&self, index: u32) -> String {
        names::node_namespace(&self.record.name, index)
    }

    fn check(&self, index: u32) -> Result<(), Error> {
        if (1..=self.record.nodes).contains(&index) || self.guests().any(|guest| guest == index) {
            Ok(())
        } else {
            Err(Error::UnknownNode {
                rack: self.record.name.clone(),
                node: index.to_string(),
            })
        }
    }

    /// Switches a node on for the first time, or again with another configuration. Returns once its D-Bus, Avahi and
    /// containerd answer and minidc has been started. Several nodes may be started at once from several threads.
    ///
    /// # Errors
    /// [`Error::Plugged`] when it runs; [`Error::Start`] with the last words of its process 1.
    pub fn start_node(&self, index: u32, spec: &NodeSpec, progress: &dyn Progress) -> Result<(), Error> {
        self.check(index)?;
        let _rack = locks::shared(&self.paths.state)?;
        self.start_node_locked(index, spec, progress)
    }

    /// As [`Rack::start_node`], for a caller that holds the rack's lock.
    pub(crate) fn start_node_locked(&self, index: u32, spec: &NodeSpec, progress: &dyn Progress) -> Result<(), Error> {
        let _node = locks::exclusive(&self.paths.run(index))?;
        node::configure(self, index, Some(spec))?;
        node::boot(self, index, progress)
    }

    /// Puts a machine with this host name on the rack's network that has nothing of minidc: only D-Bus and Avahi, as a laptop
    /// has them. Returns its number, with which all that can be done to a node can be done to it. It goes with the rack.
    ///
    /// Handles of the rack that were opened before do not know it.
    ///
    /// # Errors
    /// [`Error::BadGuest`]; [`Error::Start`] with the last words of its process 1: then it has no power, but can be plugged.
    pub fn add_guest(&mut self, name: &str, progress: &dyn Progress) -> Result<u32, Error> {
        names::check_guest(name)?;
        let refuse = |reason| {
            Err(Error::BadGuest {
                guest: name.to_owned(),
                reason,
            })
        };
        let index = {
            let _rack = locks::exclusive(&self.paths.state)?;
            // What others have added since this handle was opened.
            let mut present = Self::open(self.name())?;
            if present.record.guests.iter().any(|guest| guest == name) {
                return refuse("the rack has one of this name");
            }
            let (Some(index), true) = (
                (names::FIRST_GUEST..).nth(present.record.guests.len()),
                present.record.guests.len() < names::MOST_GUESTS,
            ) else {
                return refuse("the rack is full of guests");
            };
            present.record.guests.push(name.to_owned());
            present.save()?;
            *self = present;
            index
        };
        let _rack = locks::shared(&self.paths.state)?;
        let _node = locks::exclusive(&self.paths.run(index))?;
        node::configure(self, index, None)?;
        node::boot(self, index, progress)?;
        Ok(index)
    }

    /// Cuts a node's power: its cable goes dead and all its processes die at once. Fine if it has none.
    ///
    /// # Errors
    /// When its processes do not end.
    pub fn unplug(&self, index: u32) -> Result<(), Error> {
        self.check(index)?;
        let _rack = locks::shared(&self.paths.state)?;
        let _node = locks::exclusive(&self.paths.run(index))?;
        node::cut_power(self, index)
    }

    /// Gives a node its power back: it boots with what was on its disk.
    ///
    /// # Errors
    /// As [`Rack::start_node`].
    pub fn plug(&self, index: u32, progress: &dyn Progress) -> Result<(), Error> {
        self.check(index)?;
        let _rack = locks::shared(&self.paths.state)?;
        let _node = locks::exclusive(&self.paths.run(index))?;
        node::boot(self, index, progress)
    }

    /// Shuts a node down in order, as `systemctl poweroff` does: minidc first, then what it needs.
    ///
    /// # Errors
    /// When its processes do not end.
    pub fn shut_down(&self, index: u32) -> Result<(), Error> {
        self.check(index)?;
        let _rack = locks::shared(&self.paths.state)?;
        let _node = locks::exclusive(&self.paths.run(index))?;
        node::shut_down(self, index)
    }

    /// Whether a node has power.
    #[must_use]
    pub fn power(&self, index: u32) -> Power {
        node::power(self, index)
    }

    /// Number of a node's process 1 on the host.
    ///
    /// # Errors
    /// [`Error::Unplugged`].
    pub fn node_pid(&self, index: u32) -> Result<i32, Error> {
        self.check(index)?;
        node::init_process(self, index).map(|process| process.pid)
    }

    /// A command that runs inside a node, in its namespaces and cgroups; the first element of `command` is the program. The
    /// caller sets its input and output and runs it. It ends when the node's power is cut.
    ///
    /// # Errors
    /// [`Error::Unplugged`].
    pub fn run_in<S: AsRef<std::ffi::OsStr>>(&self, index: u32, command: &[S]) -> Result<Command, Error> {
        self.check(index)?;
        let mut inside = node::enter(self, index)?;
        inside.args(command);
        Ok(inside)
    }

    /// Runs a command inside a node with this process's own input and output, to its end. An empty command is a shell.
    ///
    /// # Errors
    /// [`Error::Unplugged`], or when it cannot be started.
    pub fn exec(&self, index: u32, command: &[String]) -> Result<ExitStatus, Error> {
        let shell = [String::from("bash")];
        let command = if command.is_empty() { &shell } else { command };
        self.run_in(index, command)?
            .current_dir("/")
            .status()
            .map_err(|source| Error::System {
                attempt: "run a command in a node",
                source,
            })
    }

    /// Sends a signal to all processes of this name in a node (its process 1 excepted), as `pkill -x` does; returns how many
    /// there were. minidc is called `minidc`; process 1 starts it again 0.1 s later.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill_process_in(&self, index: u32, name: &str, signal: Signal) -> Result<usize, Error> {
        self.check(index)?;
        let init = node::init_process(self, index)?;
        let mut count = 0;
        for pid in cgroups::processes(&self.record.name, Some(&names::node(index)))? {
            if pid != init.pid
                && process::name(pid).as_deref() == Some(name)
                && let Some(process) = process::Process::current(pid)
            {
                process.signal(signal)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Stops one of a node's daemons (`minidc`, `containerd`, `avahi`, `dbus`) and keeps it stopped until
    /// [`Rack::release_service`] or the next boot.
    ///
    /// # Errors
    /// [`Error::Unplugged`].
    pub fn hold_service(&self, index: u32, service: &str) -> Result<(), Error> {
        self.check(index)?;
        node::hold(self, index, service, true)
    }

    /// Starts a daemon again that was stopped by [`Rack::hold_service`].
    ///
    /// # Errors
    /// [`Error::Unplugged`].
    pub fn release_service(&self, index: u32, service: &str) -> Result<(), Error> {
        self.check(index)?;
        node::hold(self, index, service, false)
    }

    /// Pulls a node's network cable; the node goes on without it.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn cut_cable(&self, index: u32) -> Result<(), Error> {
        self.check(index)?;
        network::set_cable(&self.record.name, index, false)
    }

    /// Puts a node's network cable back.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn join_cable(&self, index: u32) -> Result<(), Error> {
        self.check(index)?;
        network::set_cable(&self.record.name, index, true)
    }

    /// Loses this part of all packets to and from a node, in percent; 0 ends it. A new boot ends it not.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn packet_loss(&self, index: u32, percent: u8) -> Result<(), Error> {
        self.check(index)?;
        network::set_loss(&self.record.name, index, percent)
    }

    /// Routes the pods of nodes from the host. The routes stay until the rack is taken down, also over power cuts.
    ///
    /// # Errors
    /// [`Error::RouteTaken`] when the host has another route to such a range, as with two racks of equal pod ranges.
    pub fn add_pod_routes(&self, routes: &[PodRoute]) -> Result<(), Error> {
        network::add_routes(&self.record.name, self.record.subnet, routes)
    }

    /// What the LEDs of all nodes show now.
    #[must_use]
    pub fn leds(&self) -> Vec<NodeLeds> {
        leds::read(self)
    }

    /// How all nodes are.
    #[must_use]
    pub fn status(&self) -> Vec<NodeStatus> {
        (1..=self.record.nodes)
            .map(|index| {
                let power = self.power(index);
                let services = if power == Power::On {
                    node::services(self, index)
                } else {
                    BTreeMap::new()
                };
                NodeStatus {
                    index,
                    name: self.node_name(index),
                    address: self.node_address(index),
                    power,
                    services,
                }
            })
            .collect()
    }
}

/// Replaces a file in one step.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(value).map_err(|source| Error::Malformed {
        path: path.to_owned(),
        source,
    })?;
    let fresh = path.with_extension("json.new");
    fs::write(&fresh, text).map_err(Error::file("write", &fresh))?;
    fs::rename(&fresh, path).map_err(Error::file("replace", path))
}
