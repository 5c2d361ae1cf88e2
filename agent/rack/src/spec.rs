//! What a node is to be.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Which subcommand of minidc a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// `minidc server`.
    Server,
    /// `minidc agent`.
    Agent,
}

impl Role {
    /// The subcommand.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
        }
    }
}

/// What the caller says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// The subcommand of minidc.
    pub role: Role,
    /// Further arguments after the subcommand.
    pub arguments: Vec<String>,
    /// Content of `/etc/minidc/config.toml`; the file is readable by root only.
    pub config: String,
}

impl NodeSpec {
    /// A node with no further arguments.
    #[must_use]
    pub fn new(role: Role, config: impl Into<String>) -> Self {
        Self {
            role,
            arguments: Vec::new(),
            config: config.into(),
        }
    }
}

/// Everything that process 1 of a node must know; a file on the node's disk, read again at each boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InitSpec {
    /// Host name.
    pub(crate) node: String,
    /// It is no part of the rack: it has no minidc and no containerd.
    #[serde(default)]
    pub(crate) guest: bool,
    /// Address of eth0.
    pub(crate) address: Ipv4Addr,
    /// The node's disk, on the host.
    pub(crate) disk: PathBuf,
    /// The node's `/run`, on the host.
    pub(crate) run: PathBuf,
    /// minidc, on the host.
    pub(crate) binary: PathBuf,
    /// 32 hexadecimal digits.
    pub(crate) machine_id: String,
    /// Arguments of minidc, the subcommand first.
    pub(crate) arguments: Vec<String>,
    /// Environment of minidc, besides `PATH` and `HOME`.
    pub(crate) environment: BTreeMap<String, String>,
}
