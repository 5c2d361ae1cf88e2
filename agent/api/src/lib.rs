//! What is said: the table of kinds, their schemas, and the shapes that travel between the parts of minidc.
//!
//! A kind is a row in [`kinds`] and its types in `agent/api/schema/*.schema`. From these two come strict decoding
//! ([`decode`]), defaults ([`defaults`]), strategic merge ([`patch`]), tables ([`table`]), discovery ([`discovery`]) and
//! OpenAPI ([`openapi`]); another kind needs nothing else. [`validate`] says what a schema cannot, [`unsupported`] what
//! this cluster does not act on yet, [`status`] how failures are told. [`feed`], [`metrics`] and [`streams`] travel over
//! the link between control plane and node.
//!
//! Everything here is pure: no I/O, no clock, no async runtime. Nothing decides who may do what, and nothing is stored.
//!
//! A request to write passes `decode::decode` (400), `defaults::apply`, then `schema::violations` and `validate` (422).
//!
//! # Current limitations
//! - Bodies are JSON, YAML or Kubernetes protobuf; answers are JSON. OpenAPI version 2 is written as JSON only, which kubectl
//!   does not ask for (it reads version 3).
//! - Decoding tells faults in the order of field names, not in that of the text.
//! - Empty lists and false booleans that Kubernetes leaves out of its answers stay in ours as they were sent.
//! - Defaults for resources of a whole pod (`spec.resources`) are not computed.
//! - One version per kind: there is no conversion yet.

pub mod decode;
pub mod defaults;
pub mod discovery;
pub mod feed;
pub mod kinds;
pub mod metrics;
pub mod openapi;
pub mod patch;
mod protobuf;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod streams;
pub mod table;
pub mod unsupported;
pub mod validate;
