//! The seed: what makes a board this node of this cluster. One TOML file on the FAT partition, that a person can edit on any computer.
//!
//! Parsing never stops at the first mistake: all of them are listed, each with its line and in words that need no knowledge of TOML.

mod parse;
mod problem;
mod render;
mod template;
mod values;

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

pub use problem::{Aftermath, Problem, listed, report};
pub use template::template;
pub(crate) use values::wrong_label;

/// Name of the file.
pub const FILE: &str = "minidc.toml";
/// Name of the text file beside it that says what is wrong; it is removed when nothing is.
pub const PROBLEM_FILE: &str = "minidc-problem.txt";
/// Most bytes of the file: a seed is a few thousand.
pub const MOST: usize = 64 << 10;

/// What a board is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Control plane, which also runs pods.
    Server,
    /// Runs pods only.
    Node,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Node => "node",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "server" => Ok(Self::Server),
            "node" => Ok(Self::Node),
            other => Err(match other.to_ascii_lowercase().as_str() {
                "server" | "control-plane" | "controlplane" | "master" => {
                    format!("{other:?} is not a role here: write \"server\"")
                }
                "node" | "agent" | "worker" => format!("{other:?} is not a role here: write \"node\""),
                _ => format!("{other:?} is not a role: it is \"server\" or \"node\""),
            }),
        }
    }
}

/// Text that must not end up in logs: `Debug` shows only that it is there.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The cluster's identity: whoever has it can let boards in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// CA certificate, PEM.
    pub ca_certificate: String,
    /// Its key, PEM, PKCS #8.
    pub ca_key: Secret,
    /// Join key, 64 hex digits.
    pub join_key: Secret,
}

/// By what right a board takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It is the control plane. With an authority it adopts that one; without, it makes its own at first boot.
    Server(Option<Authority>),
    /// It joins.
    Node {
        /// Join token; missing only after it was moved off the card's FAT partition.
        token: Option<Secret>,
        /// SHA-256 of the CA's key, 64 hex digits, to be compared with the one in the token.
        ca_pin: Option<String>,
    },
}

impl Membership {
    /// The role that goes with it.
    pub fn role(&self) -> Role {
        match self {
            Self::Server(_) => Role::Server,
            Self::Node { .. } => Role::Node,
        }
    }
}

/// A Wi-Fi network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wifi {
    /// Its name, 1 to 32 bytes.
    pub ssid: String,
    /// Passphrase of 8 to 63 characters, or 64 hex digits; `None` for an open network.
    pub password: Option<Secret>,
    /// Country whose radio rules hold, two capital letters of ISO 3166-1.
    pub country: String,
}

/// When a seed is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The board has no identity yet: a node needs a token.
    FirstBoot,
    /// It has one, on its data partition: secrets may be gone from the file.
    Joined,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the node, and host name of the board.
    pub node: String,
    /// Role and right.
    pub membership: Membership,
    /// For a server whose authority was moved off this file: SHA-256 of the CA's key, 64 hex digits. A board that does not have that CA must
    /// not make another one.
    pub moved_authority: Option<String>,
    /// Addresses of the server, each `host` or `host:port`; empty means that it is looked for on the network.
    pub servers: Vec<String>,
    /// Wi-Fi, if not by cable.
    pub wifi: Option<Wifi>,
    /// Public keys that may log in over SSH; with none there is no SSH.
    pub ssh_keys: Vec<String>,
    /// When the card was made, in whole seconds: the board's clock is never behind it.
    pub time: Option<Timestamp>,
}

impl Seed {
    /// Reads the file as a person left it. All mistakes, in the order of their lines.
    pub fn parse(text: &str, stage: Stage) -> Result<Self, Vec<Problem>> {
        parse::parse(text, stage)
    }

    /// Like [`Seed::parse`], for bytes of any origin: a Windows editor may have saved UTF-16.
    pub fn parse_bytes(bytes: &[u8], stage: Stage) -> Result<Self, Vec<Problem>> {
        parse::decode(bytes)
            .map_err(|problem| vec![problem])
            .and_then(|text| Self::parse(text, stage))
    }

    /// The file, with comments that say what may be changed and how.
    pub fn render(&self) -> String {
        render::render(self)
    }

    /// Without what lets others join or pose as the cluster: for the FAT partition, once the data partition has it. The Wi-Fi password
    /// stays, so that a person can still change the network by editing the file.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let mut seed = self.clone();
        match &mut seed.membership {
            Membership::Server(authority) => *authority = None,
            Membership::Node { token, .. } => *token = None,
        }
        seed
    }

    /// With its time cut to whole seconds, as the file has it.
    pub(crate) fn to_seconds(&self) -> Self {
        let mut seed = self.clone();
        seed.time = seed.time.and_then(|time| Timestamp::from_second(time.as_second()).ok());
        seed
    }
}
