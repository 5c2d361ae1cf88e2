//! How pods are reached: the CNI configuration that gives a pod its address, the routes to the other nodes' pods, and the
//! way out of the rack.
//!
//! This crate owns, on its node: `/etc/cni/net.d/10-minidc.conflist`, the routes with [`ROUTE_PROTOCOL`], the nftables
//! table `ip minidc`, and the switch `net.ipv4.ip_forward`. Everything else about the host's network is left as it is:
//! other routes, other tables, other CNI configurations. It never decides who is in the cluster or which range a node has;
//! it is told ([`Peers`]) and says how it went ([`NetworkState`]). A route is taken away only when the list of peers is
//! known to be whole ([`Peers::synced`]): absence is never an order.
//!
//! [`routes::plan`] is pure; `netlink.rs`, `masquerade.rs` and `conflist.rs` apply.
//!
//! # Current limitations
//! - IPv4 only.
//! - Peers must be on a common link (host-gw); others are reported as [`Reason::PeerNotOnLink`] and not routed. vxlan for
//!   them is not there yet.
//! - No Services, DNS or network policies yet.
//! - A firewall that flushes all nftables rules takes the way out with it until the agent restarts or its range changes;
//!   a host that forwards nothing by policy (`FORWARD` drop) is not opened.

mod conflist;
pub mod dns;
mod error;
pub mod facts;
mod masquerade;
mod netlink;
mod network;
mod peers;
mod range;
pub mod routes;
pub mod services;
mod state;

pub use error::Error;
pub use netlink::ROUTE_PROTOCOL;
pub use network::{Config, Network};
pub use peers::{Peer, Peers};
pub use range::{ParseRangeError, Range};
pub use state::{NetworkState, Problem, Reason};
