//! Which subsets the Endpoints of a Service shall have: pure functions.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backends;
use crate::objects::endpoint_slice::{Family, Port, Target};
use crate::objects::endpoints::{Address, Subset};
use crate::objects::pod::Pod;
use crate::objects::service::Service;

/// Most addresses that Endpoints hold (`maxCapacity` of the endpoints controller).
pub(crate) const MOST: usize = 1000;

fn address(service: &Service, pod: &Pod) -> Option<Address> {
    let family = service.families.first().copied().unwrap_or(Family::IPv4);
    let ip = pod.addresses.iter().find(|address| Family::of(address) == family)?;
    Some(Address {
        ip: ip.to_string().into(),
        hostname: backends::hostname(service, pod).unwrap_or_default(),
        node_name: pod.node.clone(),
        target_ref: Some(Box::new(Target {
            api_version: None,
            kind: Some("Pod".into()),
            namespace: Some((*pod.metadata.key.namespace).into()),
            name: Some((*pod.metadata.key.name).into()),
            uid: Some(pod.metadata.uid.clone()),
        })),
    })
}

/// Addresses that have the same ports together, all in order. Pods that are being stopped are left out, unless all are asked for.
pub(crate) fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<Subset> {
    let mut groups: BTreeMap<Vec<Port>, Subset> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| backends::reachable(pod)) {
        if pod.metadata.terminating() && !service.publish_not_ready {
            continue;
        }
        let ports = backends::ports(service, pod);
        // Only a Service that has no ports at all lists addresses without any.
        if ports.is_empty() && !(service.ports.is_empty() && service.headless) {
            continue;
        }
        let Some(address) = address(service, pod) else { continue };
        let subset = groups.entry(ports).or_default();
        if pod.ready || service.publish_not_ready {
            subset.addresses.push(address);
        } else {
            subset.not_ready_addresses.push(address);
        }
    }
    let mut subsets: Vec<Subset> = groups
        .into_iter()
        .map(|(ports, subset)| Subset { ports, ..subset })
        .collect();
    subsets.iter_mut().for_each(Subset::sort);
    subsets.sort_unstable();
    subsets
}

/// Cuts down to [`MOST`] addresses: those not ready go first, and of each subset as large a part as of the others. True if it had to.
pub(crate) fn truncate(subsets: &mut [Subset]) -> bool {
    let ready: usize = subsets.iter().map(|subset| subset.addresses.len()).sum();
    let not_ready: usize = subsets.iter().map(|subset| subset.not_ready_addresses.len()).sum();
    if ready + not_ready <= MOST {
        return false;
    }
    let too_many_ready = ready > MOST;
    let (all, room) = if too_many_ready {
        (ready, MOST)
    } else {
        (not_ready, MOST - ready)
    };
    let mut left = room;
    for subset in subsets {
        if too_many_ready {
            subset.not_ready_addresses.clear();
        }
        let list = if too_many_ready {
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        list.truncate((list.len() * room).div_ceil(all).min(left));
        left -= list.len();
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::objects::from_json;

    fn pod(name: &str, port: u16, ready: bool, more: &serde_json::Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {
                "nodeName": "pi-1",
                "containers": [{"ports": [{"name": "http", "containerPort": port, "protocol": "TCP"}]}],
            },
            "status": {
                "phase": "Running",
                "podIPs": [{"ip": format!("100.64.1.{}", name.len())}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            },
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            pod["metadata"][field] = value.clone();
        }
        from_json(pod)
    }

    fn service(spec: &serde_json::Value) -> Arc<Service> {
        from_json(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec}))
    }

    fn shape(subsets: &[Subset]) -> Vec<(Vec<u16>, Vec<&str>, Vec<&str>)> {
        subsets
            .iter()
            .map(|subset| {
                (
                    subset.ports.iter().filter_map(|port| port.port).collect(),
                    subset.addresses.iter().map(|address| &*address.ip).collect(),
                    subset.not_ready_addresses.iter().map(|address| &*address.ip).collect(),
                )
            })
            .collect()
    }

    #[test]
    fn addresses_with_the_same_ports_stand_together() {
        let pods = [
            pod("a", 8080, true, &json!({})),
            pod("bb", 8080, false, &json!({})),
            pod("ccc", 9090, true, &json!({})),
            pod(
                "dddd",
                9090,
                true,
                &json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
            ),
        ];
        let spec = json!({"clusterIP": "100.65.0.7", "ports": [{"port": 80, "targetPort": "http"}]});
        assert_eq!(
            shape(&subsets(&service(&spec), &pods)),
            [
                (vec![8080], vec!["100.64.1.1"], vec!["100.64.1.2"]),
                (vec![9090], vec!["100.64.1.3"], vec![]),
            ]
        );
        let mut all = spec;
        all["publishNotReadyAddresses"] = true.into();
        assert_eq!(
            shape(&subsets(&service(&all), &pods)),
            [
                (vec![8080], vec!["100.64.1.1", "100.64.1.2"], vec![]),
                (vec![9090], vec!["100.64.1.3", "100.64.1.4"], vec![]),
            ]
        );
    }

    #[test]
    fn only_a_headless_service_may_have_no_ports() {
        let pods = [pod("a", 8080, true, &json!({}))];
        let headless = service(&json!({"clusterIP": "None"}));
        assert_eq!(
            shape(&subsets(&headless, &pods)),
            [(vec![], vec!["100.64.1.1"], vec![])]
        );
        let unmatched = service(&json!({"clusterIP": "None", "ports": [{"port": 1, "targetPort": "nothing"}]}));
        assert!(subsets(&unmatched, &pods).is_empty());
    }

    #[test]
    fn too_many_addresses_are_cut_in_proportion_and_the_ready_stay() {
        let list = |count: usize| vec![Address::default(); count];
        let subset = |ready, not_ready| Subset {
            addresses: list(ready),
            not_ready_addresses: list(not_ready),
            ports: Vec::new(),
        };
        for (given, expected) in [
            (vec![(900, 100)], vec![(900, 100)]),
            (vec![(600, 300), (300, 100)], vec![(600, 75), (300, 25)]),
            (vec![(1500, 9), (500, 9)], vec![(750, 0), (250, 0)]),
            (vec![(334, 0), (334, 0), (334, 0)], vec![(334, 0), (334, 0), (332, 0)]),
        ] {
            let mut subsets: Vec<Subset> = given
                .iter()
                .map(|(ready, not_ready)| subset(*ready, *not_ready))
                .collect();
            assert_eq!(truncate(&mut subsets), given != expected);
            let counts: Vec<(usize, usize)> = subsets
                .iter()
                .map(|subset| (subset.addresses.len(), subset.not_ready_addresses.len()))
                .collect();
            assert_eq!(counts, expected);
        }
    }
}
