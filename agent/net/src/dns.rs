//! Names for pods: the Kubernetes DNS specification 1.1.0, user zones, the names on the LAN, and everything else by asking
//! the node's resolvers.

pub(crate) mod message;
pub(crate) mod name;
mod zonefile;
