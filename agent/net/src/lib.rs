//! How pods are reached: the CNI configuration that gives a pod its address, the routes to the other nodes' pods, the
//! [`services`] and the names of them, and the way out of the rack.
//!
//! This crate owns, on its node: `/etc/cni/net.d/10-minidc.conflist`, the bridge `cni0`, the tunnel [`vxlan::DEVICE`], the
//! routes with [`ROUTE_PROTOCOL`], the address of DNS on `lo`, the nftables table `ip minidc`, and the switches
//! `net.ipv4.ip_forward` and `net.bridge.bridge-nf-call-iptables`. Everything else about the host's network is left as it is:
//! other routes, other tables, other CNI configurations. It never decides who is in the cluster or which range a node has;
//! it is told ([`Peers`]) and says how it went ([`NetworkState`]). A route is taken away only when the list of peers is
//! known to be whole ([`Peers::synced`]): absence is never an order.
//!
//! [`routes::plan`] is pure; `netlink.rs` and `conflist.rs` apply. In the same way `services/plan.rs` is pure and
//! `services/kernel.rs` applies, by way of `nfnetlink/`, which speaks to the kernel without nft or a library.
//!
//! # Current limitations
//! - IPv4 only.
//! - Anyone on a network that a node is plugged into can send packets to its pods, directly or through the tunnel.
//! - Pods that run when a node is first reached through the tunnel keep their larger packets and learn of the smaller limit
//!   from the first one that does not fit; such a pod and a younger one on the same node lose larger datagrams to each other.
//! - No network policies yet.
//! - Of Services not acted on: `loadBalancerSourceRanges`, `healthCheckNodePort`, topology hints, SCTP.
//! - A host that forwards nothing by policy (`FORWARD` drop) is not opened.
//! - nft 1.0.6 (Debian 12) lists our table, but cannot load the listing again while a Service has session affinity.

pub mod check;
mod clear;
mod conflist;
pub mod dns;
mod error;
pub mod facts;
mod mtu;
mod netlink;
mod network;
mod nfnetlink;
mod peers;
mod range;
pub mod routes;
pub mod services;
mod state;
pub mod vxlan;

pub use clear::clear;
pub use error::Error;
pub use netlink::ROUTE_PROTOCOL;
pub use network::{Config, Network};
pub use peers::{Peer, Peers};
pub use range::{ParseRangeError, Range};
pub use state::{NetworkState, Path, Problem, Reason};
