//! The pods behind a Service: which they are, by which port they are reached, and which Services a change of one concerns.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::cache::{Cache, Change};
use crate::objects::Key;
use crate::objects::endpoint_slice::Port;
use crate::objects::metadata::time_text;
use crate::objects::pod::Pod;
use crate::objects::service::{Service, ServicePort, TargetPort};
use crate::queue::Queue;

/// Whether a pod is behind a Service at all: it has an address and runs, be it ready or not (`ShouldPodBeInEndpoints`).
pub(crate) fn reachable(pod: &Pod) -> bool {
    !pod.finished() && !pod.addresses.is_empty()
}

/// The pod's port that a Service's port leads to; none where it has no port of that name (`FindPort`).
pub(crate) fn target_port(pod: &Pod, port: &ServicePort) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => pod
            .named_ports
            .iter()
            .find(|named| named.name == *name && named.protocol == port.protocol)
            .map(|named| named.port),
    }
}

/// The pod's ports that the Service leads to, sorted.
pub(crate) fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let mut ports: Vec<Port> = service
        .ports
        .iter()
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone(),
                port: Some(target_port(pod, port)?),
                protocol: port.protocol.clone(),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort_unstable();
    ports
}

/// The pod's name below the Service, if it has one there (`ShouldSetHostname`).
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<Box<str>> {
    pod.hostname
        .clone()
        .filter(|_| pod.subdomain.as_deref() == Some(&service.metadata.key.name))
}

/// Whether endpoints made from the one differ from those made from the other, labels apart.
fn differs(before: &Pod, after: &Pod) -> bool {
    before.metadata.terminating() != after.metadata.terminating()
        || before.ready != after.ready
        || before.finished() != after.finished()
        || before.addresses != after.addresses
        || before.node != after.node
        || before.hostname != after.hostname
        || before.subdomain != after.subdomain
}

/// Queues the Services that a change of a pod concerns: by the labels that it has, and by those that it had.
pub(crate) fn wake_services(pods: &Cache<Pod>, services: &Arc<Cache<Service>>, queue: &Arc<Queue<Key>>) {
    let services = Arc::clone(services);
    let queue = Arc::clone(queue);
    pods.on_change(move |change| {
        let pod = change.object();
        let before = match change {
            Change::Put { previous, .. } => *previous,
            Change::Gone(_) => None,
        };
        let relabelled = before.filter(|before| before.metadata.labels != pod.metadata.labels);
        match before {
            Some(before) if relabelled.is_none() && !differs(before, pod) => return,
            // Nobody ever reached it.
            _ if pod.addresses.is_empty() && before.is_none_or(|before| before.addresses.is_empty()) => return,
            _ => {}
        }
        for service in services.within(&pod.metadata.key.namespace, |service| {
            service.selects()
                && (service.matches(&pod.metadata)
                    || relabelled.is_some_and(|before| service.matches(&before.metadata)))
        }) {
            queue.add(service.metadata.key.clone());
        }
    });
}

/// When what led to the present endpoints of a Service happened, for the annotation that latency is measured by.
///
/// As upstream's `TriggerTimeTracker`: the earliest of the changes of readiness since the last look; for a new Service its creation.
#[derive(Default)]
pub(crate) struct Triggers {
    seen: Mutex<HashMap<Key, HashMap<Box<str>, Timestamp>>>,
}

impl Triggers {
    /// The text of the annotation; none where no change of readiness led here. To be called at each look.
    pub(crate) fn look<'a>(&self, service: &Service, pods: impl Iterator<Item = &'a Pod>) -> Option<String> {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.insert(service.metadata.key.clone(), HashMap::new());
        let mut earliest: Option<Timestamp> = None;
        let mut now = HashMap::new();
        for pod in pods {
            let Some(since) = pod.ready_since else { continue };
            let before = known.as_ref().and_then(|known| known.get(&pod.metadata.uid));
            if before.is_none_or(|before| since > *before) {
                earliest = Some(earliest.map_or(since, |earliest| earliest.min(since)));
            }
            now.insert(pod.metadata.uid.clone(), since);
        }
        all.insert(service.metadata.key.clone(), now);
        if known.is_none() {
            earliest = Some(service.metadata.created);
        }
        earliest.map(time_text)
    }

    /// The Service is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}
