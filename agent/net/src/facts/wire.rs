//! From stored JSON to facts. What the network cannot carry (SCTP, host names as endpoints) is left out.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use serde::Deserialize;

use super::{ANNOUNCED_BY, Endpoint, LOCAL_NAME, Protocol, Service, ServicePort, ServiceType, Slice, SlicePort};

/// Session affinity when the Service does not say how long: three hours, as in Kubernetes.
const AFFINITY: u64 = 10_800;

/// An object of the API that is not what its kind says.
#[derive(Debug, thiserror::Error)]
#[error("read a {kind}")]
pub struct Unreadable {
    kind: &'static str,
    source: serde_json::Error,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct WireService {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    external_name: Option<String>,
    #[serde(rename = "externalIPs")]
    external_ips: Vec<String>,
    ports: Vec<Port>,
    session_affinity: Option<String>,
    session_affinity_config: Option<AffinityConfig>,
    internal_traffic_policy: Option<String>,
    external_traffic_policy: Option<String>,
    publish_not_ready_addresses: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<u16>,
    node_port: Option<u16>,
}

#[derive(Deserialize)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientIp {
    timeout_seconds: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    load_balancer: LoadBalancer,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Vec<Ingress>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ingress {
    ip: Option<String>,
}

fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some(_) => None,
    }
}

fn addresses(texts: &[String]) -> Vec<IpAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

impl Service {
    /// Reads the JSON of a Service.
    ///
    /// # Errors
    /// If it is not one. Addresses that are none are left out: the API has refused them.
    pub fn from_json(json: &[u8]) -> Result<Self, Unreadable> {
        let WireService { metadata, spec, status } = serde_json::from_slice(json).map_err(|source| Unreadable {
            kind: "Service",
            source,
        })?;
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let mut cluster_ips = addresses(&spec.cluster_ips);
        if cluster_ips.is_empty() {
            cluster_ips.extend(spec.cluster_ip.iter().filter_map(|text| text.parse::<IpAddr>().ok()));
        }
        let kind = match spec.kind.as_deref() {
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("ExternalName") => ServiceType::ExternalName,
            _ => ServiceType::ClusterIp,
        };
        let ports = spec.ports.into_iter().filter_map(|port| {
            Some(ServicePort {
                name: port.name.unwrap_or_default().into(),
                protocol: protocol(port.protocol.as_deref())?,
                port: port.port?,
                node_port: port.node_port.filter(|port| *port != 0),
            })
        });
        let timeout = spec
            .session_affinity_config
            .and_then(|config| config.client_ip?.timeout_seconds);
        let affinity = (spec.session_affinity.as_deref() == Some("ClientIP"))
            .then(|| Duration::from_secs(timeout.unwrap_or(AFFINITY)));
        let annotation = |name: &str| metadata.annotations.get(name).map(|text| text.as_str().into());
        let ingress: Vec<String> = status
            .load_balancer
            .ingress
            .into_iter()
            .filter_map(|entry| entry.ip)
            .collect();
        Ok(Self {
            kind,
            headless,
            cluster_ips,
            external_name: spec.external_name.map(|name| name.trim_end_matches('.').into()),
            external_ips: addresses(&spec.external_ips),
            load_balancer_ips: addresses(&ingress),
            ports: ports.collect(),
            affinity,
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            publish_not_ready: spec.publish_not_ready_addresses,
            uid: annotation(LOCAL_NAME).and(metadata.uid.as_deref()).map(Into::into),
            local_name: annotation(LOCAL_NAME),
            announced_by: annotation(ANNOUNCED_BY),
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSlice {
    #[serde(default)]
    metadata: Metadata,
    ports: Option<Vec<Port>>,
    endpoints: Option<Vec<WireEndpoint>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireEndpoint {
    addresses: Vec<String>,
    conditions: Conditions,
    hostname: Option<String>,
    node_name: Option<String>,
    target_ref: Option<Target>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Target {
    kind: String,
    name: String,
}

impl Slice {
    /// Reads the JSON of an EndpointSlice.
    ///
    /// # Errors
    /// If it is not one.
    pub fn from_json(json: &[u8]) -> Result<Self, Unreadable> {
        let mut slice: WireSlice = serde_json::from_slice(json).map_err(|source| Unreadable {
            kind: "EndpointSlice",
            source,
        })?;
        let ports = slice.ports.unwrap_or_default().into_iter().filter_map(|port| {
            Some(SlicePort {
                name: port.name.unwrap_or_default().into(),
                protocol: protocol(port.protocol.as_deref())?,
                port: port.port?,
            })
        });
        let endpoints = slice.endpoints.unwrap_or_default().into_iter().filter_map(|endpoint| {
            let ready = endpoint.conditions.ready.unwrap_or(true);
            let target = endpoint.target_ref.filter(|target| target.kind == "Pod");
            Some(Endpoint {
                address: endpoint.addresses.first()?.parse().ok()?,
                ready,
                serving: endpoint.conditions.serving.unwrap_or(ready),
                terminating: endpoint.conditions.terminating.unwrap_or(false),
                hostname: endpoint.hostname.map(Into::into),
                node: endpoint.node_name.map(Into::into),
                pod: target.map(|target| target.name.into()),
            })
        });
        Ok(Self {
            service: slice
                .metadata
                .labels
                .remove("kubernetes.io/service-name")
                .map(Into::into),
            ports: ports.collect(),
            endpoints: endpoints.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_keeps_what_rules_and_names_need() {
        let service = Service::from_json(
            br#"{"metadata":{"name":"web","annotations":{"minidc.dev/local-name":"web"}},"spec":{"type":"NodePort","clusterIP":"100.65.0.9",
            "clusterIPs":["100.65.0.9"],"sessionAffinity":"ClientIP","externalTrafficPolicy":"Local","ports":[
            {"port":80,"nodePort":30080},{"name":"s","protocol":"SCTP","port":1}]},"status":{"loadBalancer":{"ingress":[{"ip":"10.0.0.1"}]}}}"#,
        )
        .unwrap();
        assert_eq!(service.kind, ServiceType::NodePort);
        assert_eq!(service.cluster_ips, ["100.65.0.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(service.affinity, Some(Duration::from_secs(10_800)));
        assert!(service.external_local && !service.internal_local && !service.headless);
        assert_eq!(service.ports.len(), 1, "SCTP is not carried");
        assert_eq!(service.ports[0].node_port, Some(30080));
        assert_eq!(service.local_name.as_deref(), Some("web"));
        assert_eq!(service.load_balancer_ips.len(), 1);
    }

    #[test]
    fn a_condition_that_is_absent_means_ready() {
        let slice = Slice::from_json(
            br#"{"metadata":{"labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4","ports":[{"port":8080}],
            "endpoints":[{"addresses":["10.0.0.1"]},{"addresses":["10.0.0.2"],"conditions":{"ready":false,"serving":true,"terminating":true},
            "targetRef":{"kind":"Pod","name":"web-1"}},{"addresses":[]}]}"#,
        )
        .unwrap();
        assert_eq!(slice.service.as_deref(), Some("web"));
        assert_eq!(slice.endpoints.len(), 2);
        assert!(slice.endpoints[0].ready && slice.endpoints[0].serving);
        assert!(!slice.endpoints[1].ready && slice.endpoints[1].terminating);
        assert_eq!(slice.endpoints[1].pod.as_deref(), Some("web-1"));
    }
}
