//! A Service as the controllers of its endpoints and of its address on the LAN see it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use super::endpoint_slice::Family;
use super::{Metadata, Stored, Wire, port_number};

/// Annotation: the name on the LAN without `.local`, of a Service of type LoadBalancer.
pub(crate) const LOCAL_NAME: &str = "minidc.dev/local-name";
/// Annotation: the node whose address such a Service has, and that announces its name.
pub(crate) const ANNOUNCED_BY: &str = "minidc.dev/announced-by";

/// Which port of a pod is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TargetPort {
    Number(u16),
    /// Name of a port of one of the pod's containers.
    Name(Box<str>),
}

/// `spec.ports[]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// Empty for the only port of a Service.
    pub(crate) name: Box<str>,
    pub(crate) protocol: Box<str>,
    pub(crate) port: u16,
    pub(crate) target: TargetPort,
    pub(crate) node_port: Option<u16>,
    pub(crate) app_protocol: Option<Box<str>>,
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ServiceType {
    #[default]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// What the controllers keep of a Service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) metadata: Metadata,
    pub(crate) kind: ServiceType,
    /// It has no cluster IP: names lead to the endpoints themselves.
    pub(crate) headless: bool,
    /// Labels of its pods; empty where somebody else keeps its endpoints.
    pub(crate) selector: Box<[(Box<str>, Box<str>)]>,
    /// Families of the addresses of its endpoints, at least one.
    pub(crate) families: Box<[Family]>,
    pub(crate) ports: Box<[ServicePort]>,
    pub(crate) publish_not_ready: bool,
    /// `spec.externalTrafficPolicy: Local`.
    pub(crate) external_local: bool,
    /// `spec.loadBalancerClass`: some other implementation is asked for.
    pub(crate) load_balancer_class: Option<Box<str>>,
    /// `spec.loadBalancerIP`.
    pub(crate) load_balancer_ip: Option<Box<str>>,
    /// `status.loadBalancer.ingress[].ip`.
    pub(crate) ingress: Box<[Box<str>]>,
    /// Annotation [`LOCAL_NAME`].
    pub(crate) local_name: Option<Box<str>>,
    /// Annotation [`ANNOUNCED_BY`].
    pub(crate) announced_by: Option<Box<str>>,
}

impl Service {
    /// Whether its endpoints are the pods that its selector finds.
    pub(crate) fn selects(&self) -> bool {
        !self.selector.is_empty() && self.kind != ServiceType::ExternalName
    }

    /// Whether an object carries the labels that it selects by.
    pub(crate) fn matches(&self, metadata: &Metadata) -> bool {
        !self.selector.is_empty()
            && self
                .selector
                .iter()
                .all(|(name, value)| metadata.label(name) == Some(value))
    }

    /// Whether it wants an address on the LAN from us.
    pub(crate) fn wants_address(&self) -> bool {
        self.kind == ServiceType::LoadBalancer && self.load_balancer_class.is_none() && !self.metadata.terminating()
    }
}

/// Part of a Service's spec.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceSpec {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    selector: Option<BTreeMap<Box<str>, Box<str>>>,
    ip_families: Option<Vec<String>>,
    ports: Option<Vec<PortWire>>,
    publish_not_ready_addresses: Option<bool>,
    external_traffic_policy: Option<String>,
    load_balancer_class: Option<String>,
    #[serde(rename = "loadBalancerIP")]
    load_balancer_ip: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortWire {
    name: Option<Box<str>>,
    protocol: Option<Box<str>>,
    #[serde(default, deserialize_with = "port_number")]
    port: Option<u16>,
    target_port: Option<serde_json::Value>,
    #[serde(default, deserialize_with = "port_number")]
    node_port: Option<u16>,
    app_protocol: Option<Box<str>>,
}

/// Part of a Service's status.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceStatus {
    load_balancer: Option<LoadBalancerWire>,
}

#[derive(Clone, Debug, Deserialize)]
struct LoadBalancerWire {
    ingress: Option<Vec<IngressWire>>,
}

#[derive(Clone, Debug, Deserialize)]
struct IngressWire {
    ip: Option<Box<str>>,
}

fn port(wire: PortWire) -> Option<ServicePort> {
    let port = wire.port?;
    // No target, or the number 0, means the same port.
    let target = match wire.target_port {
        Some(serde_json::Value::String(name)) if !name.is_empty() => name
            .parse()
            .map_or_else(|_| TargetPort::Name(name.as_str().into()), TargetPort::Number),
        Some(serde_json::Value::Number(number)) => number
            .as_u64()
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| *number != 0)
            .map_or(TargetPort::Number(port), TargetPort::Number),
        _ => TargetPort::Number(port),
    };
    Some(ServicePort {
        name: wire.name.unwrap_or_default(),
        protocol: wire.protocol.unwrap_or_else(|| "TCP".into()),
        port,
        target,
        node_port: wire.node_port.filter(|port| *port != 0),
        app_protocol: wire.app_protocol,
    })
}

/// Families as asked for; Services stored before these were written have the family of their address.
fn families(spec: &ServiceSpec) -> Box<[Family]> {
    let asked: Box<[Family]> = spec
        .ip_families
        .iter()
        .flatten()
        .filter_map(|name| Family::read(name))
        .collect();
    if !asked.is_empty() {
        return asked;
    }
    let own = spec.cluster_ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
    Box::new([own.map_or(Family::IPv4, |address| Family::of(&address))])
}

impl Stored for Service {
    type Wire = Wire<ServiceSpec, ServiceStatus>;

    fn from_wire(mut wire: Self::Wire) -> Self {
        let annotations = wire.metadata.annotations.take().unwrap_or_default();
        let annotation = |name: &str| annotations.get(name).map(|text| text.as_str().into());
        let mut service = Self {
            kind: ServiceType::ClusterIp,
            headless: true,
            selector: Box::default(),
            families: Box::new([Family::IPv4]),
            ports: Box::default(),
            publish_not_ready: false,
            external_local: false,
            load_balancer_class: None,
            load_balancer_ip: None,
            ingress: wire
                .status
                .and_then(|status| status.load_balancer?.ingress)
                .unwrap_or_default()
                .into_iter()
                .filter_map(|entry| entry.ip)
                .collect(),
            local_name: annotation(LOCAL_NAME),
            announced_by: annotation(ANNOUNCED_BY),
            metadata: Metadata::from(wire.metadata),
        };
        if let Some(spec) = wire.spec {
            service.kind = match spec.kind.as_deref() {
                Some("NodePort") => ServiceType::NodePort,
                Some("LoadBalancer") => ServiceType::LoadBalancer,
                Some("ExternalName") => ServiceType::ExternalName,
                _ => ServiceType::ClusterIp,
            };
            service.families = families(&spec);
            service.headless = matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"));
            service.selector = spec.selector.unwrap_or_default().into_iter().collect();
            service.ports = spec.ports.unwrap_or_default().into_iter().filter_map(port).collect();
            service.publish_not_ready = spec.publish_not_ready_addresses.unwrap_or_default();
            service.external_local = spec.external_traffic_policy.as_deref() == Some("Local");
            service.load_balancer_class = spec
                .load_balancer_class
                .filter(|class| !class.is_empty())
                .map(Into::into);
            service.load_balancer_ip = spec.load_balancer_ip.filter(|ip| !ip.is_empty()).map(Into::into);
        }
        service
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}
