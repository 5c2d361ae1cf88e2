//! A whole rack: up, down, and which there are.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use nix::sys::signal::Signal;

use crate::{
    BoxError, Error, NodeSpec, Power, Progress, Rack, cgroups, locks, missing_packages, names, network, node,
    paths::{self, Paths},
    process::Process,
    rack::Record,
};

/// What is to be built.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// Name of the rack.
    pub name: String,
    /// How many virtual Pis, 1 to 200.
    pub nodes: u32,
    /// The minidc that they run; it is copied.
    pub binary: PathBuf,
    /// Cap on the memory of all processes of a node together, in bytes; less than 256 MiB does not work.
    pub memory: Option<u64>,
    /// Environment of every minidc, besides `PATH` and `HOME`.
    pub environment: BTreeMap<String, String>,
}

impl UpOptions {
    /// A rack with no cap on memory.
    #[must_use]
    pub fn new(name: impl Into<String>, nodes: u32, binary: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            nodes,
            binary: binary.into(),
            memory: None,
            environment: BTreeMap::new(),
        }
    }
}

/// What [`up`] found or made.
#[derive(Clone, Debug)]
pub struct Up {
    /// The rack.
    pub rack: Rack,
    /// It ran already, and nothing was changed. It may have another number of nodes than was asked for.
    pub already_running: bool,
}

/// A rack in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Name of the rack.
    pub name: String,
    /// How many nodes it has; 0 when so little is left of it that it cannot be said.
    pub nodes: u32,
    /// How many of them have power.
    pub powered: u32,
    /// It came up whole, and no node crashed.
    pub healthy: bool,
}

/// Builds a rack and starts its nodes: pi-1 first, then the others, all at once.
///
/// `configure` is asked for each node's configuration: for pi-1 before anything is started, for the others once pi-1 is up,
/// in order and before any of them is started; so it may wait there until pi-1 gives out join tokens.
///
/// A rack that runs is left as it is; unplugged nodes do not count against it. What is left of a broken one is removed
/// first. After an error, what was built stays for somebody to look at, until `up` or [`down`] is called.
///
/// # Errors
/// [`Error::NotRoot`], [`Error::MissingPackages`], and whatever goes wrong on the way.
pub fn up(
    options: &UpOptions,
    configure: &(dyn Fn(&Rack, u32) -> Result<NodeSpec, BoxError> + Sync),
    progress: &dyn Progress,
) -> Result<Up, Error> {
    check(options)?;
    let _lock = locks::exclusive(&Paths::new(&options.name).state)?;
    if let Ok(rack) = Rack::open(&options.name)
        && is_healthy(&rack)
    {
        return Ok(Up {
            rack,
            already_running: true,
        });
    }
    if has_leftovers(&options.name) {
        let start = Instant::now();
        remove(&options.name)?;
        progress.done("remove what is left of a broken rack", start.elapsed());
    }
    let start = Instant::now();
    let mut rack = create(options)?;
    progress.done("switch", start.elapsed());
    let ask = |rack: &Rack, index| {
        configure(rack, index).map_err(|source| Error::Configure {
            node: names::node(index),
            source,
        })
    };
    rack.start_node_locked(1, &ask(&rack, 1)?, progress)?;
    let specs = (2..=options.nodes)
        .map(|index| Ok((index, ask(&rack, index)?)))
        .collect::<Result<Vec<_>, Error>>()?;
    thread::scope(|scope| {
        let rack = &rack;
        let boots: Vec<_> = specs
            .iter()
            .map(|(index, spec)| scope.spawn(move || rack.start_node_locked(*index, spec, progress)))
            .collect();
        boots.into_iter().try_for_each(|boot| {
            boot.join()
                .unwrap_or_else(|_| Err(Error::Timeout("a node whose thread panicked".into())))
        })
    })?;
    rack.record.complete = true;
    rack.save()?;
    Ok(Up {
        rack,
        already_running: false,
    })
}

/// Removes everything of a rack: processes, cgroups, namespaces, cables, routes, mounts and files; also what is left of one
/// that crashed. `false` when there was nothing.
///
/// # Errors
/// The first thing that could not be removed; everything else was.
pub fn down(name: &str, progress: &dyn Progress) -> Result<bool, Error> {
    names::check_rack(name)?;
    check_root()?;
    if !has_leftovers(name) {
        return Ok(false);
    }
    let start = Instant::now();
    let _lock = locks::exclusive(&Paths::new(name).state)?;
    remove(name)?;
    remove_directories(name)?;
    progress.done(&format!("rack {name} removed"), start.elapsed());
    Ok(true)
}

/// The racks of this machine, in alphabetical order, with broken ones.
#[must_use]
pub fn list() -> Vec<Summary> {
    let mut names: Vec<String> = [paths::STATE, paths::DATA]
        .iter()
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flat_map(|entries| {
            entries
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .filter(|name| has_leftovers(name))
        .map(|name| match Rack::open(&name) {
            Ok(rack) => Summary {
                name,
                nodes: rack.nodes(),
                powered: u32::try_from(
                    (1..=rack.nodes())
                        .filter(|index| rack.power(*index) == Power::On)
                        .count(),
                )
                .unwrap_or(u32::MAX),
                healthy: is_healthy(&rack),
            },
            Err(_) => Summary {
                name,
                nodes: 0,
                powered: 0,
                healthy: false,
            },
        })
        .collect()
}

fn is_healthy(rack: &Rack) -> bool {
    rack.record.complete && (1..=rack.nodes()).all(|index| rack.power(index) != Power::Crashed)
}

/// What can be said before anything is touched.
pub(crate) fn check(options: &UpOptions) -> Result<(), Error> {
    names::check_rack(&options.name)?;
    if !(1..=names::MOST_NODES).contains(&options.nodes) {
        return Err(Error::BadSize(options.nodes));
    }
    check_root()?;
    let missing = missing_packages();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Error::MissingPackages(missing))
    }
}

fn check_root() -> Result<(), Error> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err(Error::NotRoot)
    }
}

/// Makes directories and network; the caller holds the rack's lock.
pub(crate) fn create(options: &UpOptions) -> Result<Rack, Error> {
    let paths = Paths::new(&options.name);
    if has_leftovers(&options.name) {
        return Err(Error::Exists(options.name.clone()));
    }
    let rack = {
        let _allocation = locks::allocation()?;
        let taken: Vec<u8> = list()
            .iter()
            .filter_map(|summary| Rack::open(&summary.name).ok())
            .map(|rack| rack.subnet())
            .collect();
        let record = Record {
            name: options.name.clone(),
            subnet: network::free_subnet(&options.name, &taken)?,
            nodes: options.nodes,
            memory: options.memory,
            environment: options.environment.clone(),
            complete: false,
            guests: Vec::new(),
        };
        let rack = Rack { record, paths };
        rack.save()?;
        // Within the lock too: two first calls of `ip netns add` at once fail.
        network::create_switch(&options.name, rack.subnet())?;
        rack
    };
    copy_binary(&options.binary, &rack.paths.binary())?;
    Ok(rack)
}

fn copy_binary(from: &Path, to: &Path) -> Result<(), Error> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
    }
    fs::copy(from, to).map_err(Error::file("copy", from))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).map_err(Error::file("make executable", to))
}

/// Whether anything of this rack is there; its state directory counts only when there is something in it, since asking for
/// the lock makes it.
fn has_leftovers(name: &str) -> bool {
    let paths = Paths::new(name);
    let holds_something = fs::read_dir(&paths.state).is_ok_and(|mut entries| entries.next().is_some());
    holds_something || paths.data.exists() || !network::namespaces(name).is_empty() || cgroups::exist(name)
}

/// Removes everything, as far as possible, but the state directory itself, whose lock the caller holds.
fn remove(name: &str) -> Result<(), Error> {
    let paths = Paths::new(name);
    let mut problems = Vec::new();
    let mut attempt = |result: Result<(), Error>| problems.extend(result.err());
    if let Ok(rack) = Rack::open(name) {
        for index in (1..=rack.nodes()).chain(rack.guests()) {
            if let Ok(pid) = rack.node_pid(index)
                && let Some(process) = Process::current(pid)
            {
                attempt(process.signal(Signal::SIGKILL));
            }
        }
    }
    attempt(cgroups::remove(name, None));
    // Somebody who was just about to join a cgroup, or went in by hand.
    for process in network::processes(name).into_iter().filter_map(Process::current) {
        attempt(process.signal(Signal::SIGKILL));
    }
    {
        let _allocation = locks::allocation()?;
        attempt(network::remove(name));
    }
    attempt(unmount(&[&paths.state, &paths.data]));
    attempt(match fs::remove_dir_all(&paths.data) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", &paths.data)(error)),
        _ => Ok(()),
    });
    attempt(node::empty(&paths.state));
    problems.into_iter().next().map_or(Ok(()), Err)
}

/// Removes the directories that [`remove`] leaves: the locked one, and those that other racks share.
fn remove_directories(name: &str) -> Result<(), Error> {
    let state = Paths::new(name).state;
    fs::remove_dir(&state).map_err(Error::file("remove", &state))?;
    // Others' racks may be in them.
    let _ = fs::remove_dir(paths::DATA);
    let _allocation = locks::allocation()?;
    if fs::remove_dir(paths::STATE).is_ok() {
        network::remove_namespace_mount();
    }
    Ok(())
}

/// Unmounts whatever is mounted below these directories on the host, the last mount first. There is nothing unless a node's
/// mount namespace leaked; but a directory must not be removed through a mount.
fn unmount(directories: &[&Path]) -> Result<(), Error> {
    let path = "/proc/self/mountinfo";
    let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
    for line in text.lines().rev() {
        let Some(mount) = line.split(' ').nth(4).map(Path::new) else {
            continue;
        };
        if directories.iter().any(|directory| mount.starts_with(directory)) {
            nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH).map_err(Error::kernel("unmount", mount))?;
        }
    }
    Ok(())
}
