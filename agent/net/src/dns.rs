//! Names for pods: the Kubernetes DNS specification 1.1.0, user zones, the names on the LAN, and everything else by asking
//! the node's resolvers.

mod answer;
mod cluster;
mod draft;
mod limit;
pub(crate) mod message;
pub(crate) mod name;
mod query;
mod reply;
mod reverse;
mod special;
mod zonefile;
mod zones;
