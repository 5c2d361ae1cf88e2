//! What can go wrong between a plan and the kernel.

use std::{io, path::PathBuf};

/// A change to the node's network that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error("open a netlink socket")]
    Socket(#[source] io::Error),
    /// The kernel refused a request.
    #[error("{attempt}")]
    Netlink {
        /// What was tried, with its object.
        attempt: String,
        /// What the kernel says.
        #[source]
        source: Box<rtnetlink::Error>,
    },
    /// The packet filter, or the table of tracked connections, refused a request.
    #[error("{attempt}")]
    Netfilter {
        /// What was tried, with its object.
        attempt: String,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A CNI plugin failed, or its configuration cannot be read.
    #[error("{attempt}: {detail}")]
    Cni {
        /// What was tried, with the container and the plugin.
        attempt: String,
        /// What the plugin says.
        detail: String,
    },
    /// No stand-in for a pod could be made.
    #[error("make a network namespace for a stand-in")]
    StandIn {
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// `ENOENT`, `ESRCH`, `ENODEV` and `EADDRNOTAVAIL` of Linux: the entry, the route, the interface or the address to be removed
/// is not there.
const NOT_THERE: [i32; 4] = [2, 3, 19, 99];

impl Error {
    /// Whether the kernel says that the object is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        let Self::Netlink { source, .. } = self else {
            return false;
        };
        let rtnetlink::Error::NetlinkError(message) = source.as_ref() else {
            return false;
        };
        NOT_THERE.contains(&message.raw_code().abs())
    }
}
