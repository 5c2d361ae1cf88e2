//! Who may change what the cluster remembers: the Kubernetes API over HTTP.
//!
//! Owns the path of a request from its route to the store: identity, authorization, admission, validation, the verbs,
//! tables, discovery and OpenAPI, the subresources, and the feed that each node follows. It never listens, never speaks
//! TLS, never opens a connection (nodes are reached through [`NodeDialer`]), and decides nothing that a controller could.
//!
//! # How a listener uses it
//! [`ApiServer::router`] is an axum router for HTTP/1.1 (with upgrades, for exec) and HTTP/2. Before it hands a request
//! over, the TLS listener puts an [`Identity`] into the request's extensions, made of the verified client certificate's
//! subject: the common name is the user, each organization a group. A connection without a client certificate gets none
//! and is `system:anonymous`. In-process callers use [`ApiServer::router_as`].
//!
//! Services get their addresses and node ports here, each claimed by an entry of the store that is written in the same
//! transaction as the service.
//!
//! # Current limitations
//! - Services have one range of addresses and thus one IP family; other `ServiceCIDR`s are refused.
//! - Server-side apply (`application/apply-patch+yaml`) is answered with 415; `metadata.managedFields` is not kept.
//! - Answers are JSON; bodies may also be YAML or Kubernetes protobuf. No CBOR, no compression.
//! - Lists show the present state; `resourceVersionMatch=Exact` for an older one is answered with 410. The pages of a
//!   list are consistent for five minutes and for the eight newest paged lists.
//! - There are no `PodDisruptionBudget`s: an eviction is a deletion that says why.
//! - Users and rules are a table in this crate; there are no RBAC objects, service accounts or tokens yet.
//! - Exec is WebSocket only (`v5` and `v4.channel.k8s.io`); attach, port-forward and SPDY are missing.
//! - `pods/log` cannot split standard output from standard error.

mod admission;
mod archive;
mod authorization;
mod binding;
mod call;
mod create;
mod delete;
mod dial;
mod discovery;
mod dispatch;
mod error;
mod eviction;
mod exec;
mod feed;
mod graph;
mod identity;
mod limits;
mod live;
mod logs;
mod metrics;
mod negotiate;
mod object;
mod read;
mod request;
mod respond;
mod scale;
mod selection;
mod server;
mod services;
mod strategy;
mod update;
mod watch;

pub use dial::{BoxedIo, DialError, NoNodes, NodeDialer, ReadWrite};
pub use error::Error;
pub use identity::Identity;
pub use live::Live;
pub use metrics::Metrics;
pub use server::{ApiServer, Options, memory_prefixes};
