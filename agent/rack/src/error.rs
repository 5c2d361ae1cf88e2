//! What can go wrong around a rack.

use std::{io, path::PathBuf};

/// An error of the caller's own, passed through.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An operation on a rack that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces and cgroups need it.
    #[error("racks of virtual Pis need root")]
    NotRoot,
    /// Programs of the host that are not there.
    #[error("Debian packages are missing: {}; install them with `{}`", .0.join(" "), crate::install_hint(.0))]
    MissingPackages(Vec<&'static str>),
    /// The name cannot be used in paths and interface names.
    #[error("{0:?} is no name for a rack: 1 to 20 lower-case letters, digits and dashes, beginning with a letter")]
    BadName(String),
    /// A rack has 1 to 200 nodes.
    #[error("a rack has 1 to 200 nodes, not {0}")]
    BadSize(u32),
    /// There is no such rack here.
    #[error("there is no rack {0} on this machine")]
    UnknownRack(String),
    /// The rack has no such node.
    #[error("rack {rack} has no node {node}")]
    UnknownNode {
        /// The rack.
        rack: String,
        /// The name, or the number, that was asked for.
        node: String,
    },
    /// The rack cannot have this guest.
    #[error("add guest {guest:?}: {reason}")]
    BadGuest {
        /// The host name that was asked for.
        guest: String,
        /// Why not.
        reason: &'static str,
    },
    /// The rack exists already.
    #[error("rack {0} exists already")]
    Exists(String),
    /// The node has no power.
    #[error("{node} has no power")]
    Unplugged {
        /// The node.
        node: String,
    },
    /// The node runs already.
    #[error("{node} has power already")]
    Plugged {
        /// The node.
        node: String,
    },
    /// The node did not come up.
    #[error("start {node}: {detail}")]
    Start {
        /// The node.
        node: String,
        /// What its process 1 said last.
        detail: String,
    },
    /// All of 10.77.0.0/16 is taken.
    #[error("find a free network in 10.77.0.0/16 for rack {0}")]
    NoFreeNetwork(String),
    /// The host has a route to this range that is not ours.
    #[error("route {range} to {rack}: the host has another route there: {present}")]
    RouteTaken {
        /// The pod range.
        range: String,
        /// The rack.
        rack: String,
        /// The other route, as `ip route` shows it.
        present: String,
    },
    /// A program failed.
    #[error("run {command}: {detail}")]
    Command {
        /// The program with its arguments.
        command: String,
        /// What it said.
        detail: String,
    },
    /// A file, a directory or a mount.
    #[error("{attempt} {}", path.display())]
    File {
        /// What was tried.
        attempt: &'static str,
        /// The object.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A request to the kernel that is about no file.
    #[error("{attempt}")]
    System {
        /// What was tried.
        attempt: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file of the rack's is not what it must be.
    #[error("read {}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        #[source]
        source: serde_json::Error,
    },
    /// Something did not end or begin in time.
    #[error("wait for {0}")]
    Timeout(String),
    /// The caller could not give the configuration of a node.
    #[error("configure {node}")]
    Configure {
        /// The node.
        node: String,
        /// The caller's own error.
        #[source]
        source: BoxError,
    },
}

impl Error {
    /// Wraps an error about a file.
    pub(crate) fn file(attempt: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { attempt, path, source }
    }

    /// Wraps an error of a request to the kernel about a file.
    pub(crate) fn kernel(attempt: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(nix::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            attempt,
            path,
            source: source.into(),
        }
    }

    /// Wraps an error of a request to the kernel.
    pub(crate) fn system(attempt: &'static str) -> impl FnOnce(nix::Error) -> Self {
        move |source| Self::System {
            attempt,
            source: source.into(),
        }
    }
}
