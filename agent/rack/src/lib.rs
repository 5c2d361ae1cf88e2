//! What stands in for Raspberry Pis: virtual nodes on one Linux machine, each with its own network, mount, process, host
//! name, IPC and cgroup namespaces, its own D-Bus, Avahi and containerd, and a minidc of its own; joined by a bridge that
//! lives in a namespace of its own and behaves like a switch.
//!
//! The crate owns everything below `/run/minidc-rack` and `/var/lib/minidc-rack`, the network namespaces
//! `minidc-<rack>-…`, the host's interfaces `minidc<K>` and the cgroups `minidc-rack`; it never touches anything else of the
//! host, and a rack that was taken down leaves none of it behind. It knows nothing of clusters: what a node's minidc is to do
//! is a configuration file that the caller gives it ([`NodeSpec`]).
//!
//! # A virtual Pi
//! - Its root file system is an overlay over the host's: it sees the host's programs, and what it writes stays with it, also
//!   over a power cut. Data that is written much lies in plain directories on the host's disk ([`Rack::node_path`]).
//! - Process 1 is [`init()`] of this crate, run as `minidc rack init SPEC`. It mounts, writes the configuration, starts the
//!   daemons in order and starts them again when they end, as systemd does on a Pi.
//! - [`Rack::unplug`] is a power cut: the link goes down, and everything dies at once without a word to anybody.
//!   [`Rack::plug`] boots it again with what was on its disk.
//! - [`Rack::add_guest`] puts a machine beside the nodes that has nothing of minidc: the laptop on the same switch.
//! - The nodes of a rack have addresses 10.77.K.1, .2, …; the host is 10.77.K.253. K differs between racks on one host.
//!
//! Everything here blocks: call it from a thread that may wait (`spawn_blocking`), and [`init()`] outside of any runtime.
//!
//! # Current limitations
//! - Runs as root only, with Debian's paths (`/usr/lib/cni`).
//! - On hosts with cgroup v2 only, it is untested.
//! - A virtual Pi shares the host's kernel, clock, `/dev` and processor; memory can be capped, the rest cannot.
//! - No way to the internet from inside. Several racks whose pods have the same range cannot all be routed from the host.
//! - The host's own mounts below `/` (a separate `/usr`, say) are not seen inside.

mod cgroups;
mod error;
mod init;
mod leds;
mod lifecycle;
mod locks;
mod names;
mod network;
mod node;
mod packages;
mod paths;
mod process;
mod progress;
mod rack;
mod spec;
mod tool;

pub use error::{BoxError, Error};
pub use init::init;
pub use leds::{NodeLeds, follow_leds, led_line};
pub use lifecycle::{Summary, Up, UpOptions, down, list, up};
pub use network::PodRoute;
pub use nix::sys::signal::Signal;
pub use packages::{install_hint, missing_packages};
pub use progress::{Lines, Progress, Silent};
pub use rack::{NodeStatus, Power, Rack};
pub use spec::{NodeSpec, Role};
