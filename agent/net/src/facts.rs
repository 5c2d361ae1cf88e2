//! What the network is told of the cluster: Services, EndpointSlices, namespaces, each with only what rules and names need.
//!
//! A fact replaces what was known under the same key. [`Fact::Synced`] says that everything was told: before it, absence
//! means nothing.

use std::{net::IpAddr, sync::Arc, time::Duration};

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace.
    pub namespace: Box<str>,
    /// Name.
    pub name: Box<str>,
}

/// One piece of news.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A Service as it is now, or that it is gone.
    Service(Arc<Key>, Option<Arc<Service>>),
    /// An EndpointSlice (its own namespace and name) as it is now, or that it is gone.
    Slice(Arc<Key>, Option<Arc<Slice>>),
    /// Whether a namespace exists.
    Namespace(Box<str>, bool),
    /// All that exists has been told. Said once after a snapshot; later facts are changes.
    Synced,
}

/// Transport protocol of a port. SCTP is not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How a Service is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// By its cluster IP only.
    #[default]
    ClusterIp,
    /// Also by a port of every node.
    NodePort,
    /// Also by a port of every node and by the addresses in its status.
    LoadBalancer,
    /// A DNS alias for a name outside.
    ExternalName,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.clusterIP: None`: names lead to the endpoints themselves.
    pub headless: bool,
    /// `spec.clusterIPs`; empty for headless Services and aliases.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalName` without a dot at its end.
    pub external_name: Option<Box<str>>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.sessionAffinity: ClientIP` and how long it lasts.
    pub affinity: Option<Duration>,
    /// `spec.internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `metadata.uid`, kept only of Services with a name on the LAN: events about that name are found by it.
    pub uid: Option<Box<str>>,
    /// Name on the LAN without `.local` (annotation [`LOCAL_NAME`]).
    pub local_name: Option<Box<str>>,
    /// Node that announces that name (annotation [`ANNOUNCED_BY`]).
    pub announced_by: Option<Box<str>>,
}

/// Annotation of a Service of type LoadBalancer: its name on the LAN, without `.local`. Written by the load balancer
/// controller.
pub const LOCAL_NAME: &str = "minidc.dev/local-name";
/// Annotation of a Service of type LoadBalancer: the node whose address it has and that announces its name.
pub const ANNOUNCED_BY: &str = "minidc.dev/announced-by";

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty for the only port of a Service.
    pub name: Box<str>,
    /// Transport.
    pub protocol: Protocol,
    /// Port of the cluster IP.
    pub port: u16,
    /// Port of every node.
    pub node_port: Option<u16>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// The Service it belongs to (label `kubernetes.io/service-name`), in the slice's own namespace; none means nobody's.
    pub service: Option<Box<str>>,
    /// `ports`.
    pub ports: Vec<SlicePort>,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
}

/// A port of all endpoints of a slice; it belongs to the Service's port of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// As the Service's port is named.
    pub name: Box<str>,
    /// Transport.
    pub protocol: Protocol,
    /// Port of the endpoint.
    pub port: u16,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address (Kubernetes uses only the first of a list).
    pub address: IpAddr,
    /// Takes new connections. Absent in the API means true.
    pub ready: bool,
    /// Ready, whether or not it is terminating.
    pub serving: bool,
    /// Is being stopped.
    pub terminating: bool,
    /// Name below a headless Service.
    pub hostname: Option<Box<str>>,
    /// Node it runs on.
    pub node: Option<Box<str>>,
    /// `targetRef.name` when the target is a pod.
    pub pod: Option<Box<str>>,
}

mod wire;

pub use wire::Unreadable;
