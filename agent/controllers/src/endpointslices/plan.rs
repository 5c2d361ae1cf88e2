//! Which slices a Service shall have: a pure function.
//!
//! Packed as upstream packs them (`k8s.io/endpointslice`, `Reconciler`): slices that change anyway are filled first, then one that has
//! room for all the rest, and only then a new one is made; endpoints are never moved for tidiness. Each write goes to every node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::writer::{Actions, Body};
use super::{MANAGER, PER_SLICE};
use crate::backends;
use crate::objects::Metadata;
use crate::objects::endpoint_slice::{
    Conditions, Endpoint, EndpointSlice, Family, HEADLESS, Identity, MANAGED_BY, Pairs, Port, SERVICE_NAME, Target,
};
use crate::objects::node::Node;
use crate::objects::pod::Pod;
use crate::objects::service::Service;

/// Label of a node: the zone it is in.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// What the plan is made from.
pub(crate) struct Observed<'a> {
    pub(crate) service: &'a Service,
    /// Those that its selector finds.
    pub(crate) pods: &'a [Arc<Pod>],
    /// Those that this controller keeps for it.
    pub(crate) slices: &'a [Arc<EndpointSlice>],
    /// Node by name.
    pub(crate) node: &'a dyn Fn(&str) -> Option<Arc<Node>>,
}

type Wanted = BTreeMap<Identity, Endpoint>;

/// Labels of all slices of a Service: its own, and those that say whose they are.
pub(crate) fn labels(service: &Service) -> Pairs {
    let reserved = |name: &str| matches!(name, SERVICE_NAME | MANAGED_BY | HEADLESS);
    let mut labels: Vec<(Box<str>, Box<str>)> = service
        .metadata
        .labels
        .iter()
        .filter(|(name, _)| !reserved(name))
        .cloned()
        .collect();
    labels.push((SERVICE_NAME.into(), (*service.metadata.key.name).into()));
    labels.push((MANAGED_BY.into(), MANAGER.into()));
    if service.headless {
        labels.push((HEADLESS.into(), "".into()));
    }
    labels.sort_unstable();
    labels.into()
}

/// Whether an object has exactly these labels, sorted as here.
pub(crate) fn labelled(metadata: &Metadata, labels: &Pairs) -> bool {
    metadata.labels.len() == labels.len() && labels.iter().all(|(name, value)| metadata.label(name) == Some(value))
}

fn endpoint(service: &Service, pod: &Pod, node: Option<&Node>, family: Family) -> Endpoint {
    let serving = pod.ready;
    let terminating = pod.metadata.terminating();
    Endpoint {
        addresses: pod
            .addresses
            .iter()
            .filter(|address| Family::of(address) == family)
            .map(|address| address.to_string().into())
            .collect(),
        conditions: Conditions {
            ready: Some(service.publish_not_ready || serving && !terminating),
            serving: Some(serving),
            terminating: Some(terminating),
        },
        hostname: backends::hostname(service, pod),
        target_ref: Some(Box::new(Target {
            api_version: None,
            kind: Some("Pod".into()),
            namespace: Some((*pod.metadata.key.namespace).into()),
            name: Some((*pod.metadata.key.name).into()),
            uid: Some(pod.metadata.uid.clone()),
        })),
        node_name: pod.node.clone(),
        zone: node
            .and_then(|node| node.metadata.label(ZONE))
            .filter(|zone| !zone.is_empty())
            .map(Into::into),
    }
}

/// Endpoints by the ports that they have.
fn wanted(observed: &Observed<'_>, family: Family) -> BTreeMap<Vec<Port>, Wanted> {
    let service = observed.service;
    let mut wanted: BTreeMap<Vec<Port>, Wanted> = BTreeMap::new();
    for pod in observed.pods.iter().filter(|pod| backends::reachable(pod)) {
        let node = pod.node.as_deref().and_then(observed.node);
        // A pod of a node that was removed is on its way out; who wants all addresses gets it all the same.
        if node.is_none() && !service.publish_not_ready {
            continue;
        }
        let endpoint = endpoint(service, pod, node.as_deref(), family);
        if !endpoint.addresses.is_empty() {
            wanted
                .entry(backends::ports(service, pod))
                .or_default()
                .insert(endpoint.identity(), endpoint);
        }
    }
    wanted
}

/// What is to be done so that the Service has the slices that it shall have.
pub(crate) fn plan(observed: &Observed<'_>) -> Actions {
    let mut actions = Actions::default();
    let uid = &*observed.service.metadata.uid;
    let labels = labels(observed.service);
    let families: BTreeSet<Family> = observed.service.families.iter().copied().collect();
    let (of_families, others): (Vec<&Arc<EndpointSlice>>, Vec<&Arc<EndpointSlice>>) = observed
        .slices
        .iter()
        .partition(|slice| slice.family.is_some_and(|family| families.contains(&family)));
    for family in families {
        let slices: Vec<&Arc<EndpointSlice>> = of_families
            .iter()
            .copied()
            .filter(|slice| slice.family == Some(family))
            .collect();
        let mut part = plan_family(observed, family, &slices, &labels);
        part.recycle(uid);
        actions.create.extend(part.create);
        actions.update.extend(part.update);
        actions.delete.extend(part.delete);
    }
    actions.delete.extend(others.into_iter().cloned());
    actions
}

fn plan_family(observed: &Observed<'_>, family: Family, slices: &[&Arc<EndpointSlice>], labels: &Pairs) -> Actions {
    let mut actions = Actions::default();
    let uid = &*observed.service.metadata.uid;
    let mut by_ports: BTreeMap<&[Port], Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in slices {
        if slice.metadata.owners.iter().any(|owner| *owner.uid == *uid) {
            by_ports.entry(&slice.ports).or_default().push(slice);
        } else {
            // Of a Service of the same name that was deleted.
            actions.delete.push(Arc::clone(slice));
        }
    }
    for (ports, wanted) in wanted(observed, family) {
        let slices = by_ports.remove(&*ports).unwrap_or_default();
        pack(family, &ports, wanted, &slices, labels, &mut actions);
    }
    for slice in by_ports.into_values().flatten() {
        actions.delete.push(Arc::clone(slice));
    }
    // A Service without endpoints has one slice that says so.
    if actions.delete.len() == slices.len() && actions.create.is_empty() {
        let kept = actions.delete.iter().position(|slice| {
            slice.endpoints.is_empty()
                && slice.ports.is_empty()
                && labelled(&slice.metadata, labels)
                && slice.metadata.owners.iter().any(|owner| *owner.uid == *uid)
        });
        match kept {
            Some(place) => {
                actions.delete.remove(place);
            }
            None => actions.create.push(Body {
                family,
                labels: labels.clone(),
                annotations: Pairs::default(),
                ports: Vec::new(),
                endpoints: Vec::new(),
            }),
        }
    }
    actions
}

/// A slice as it would be, and whether that is other than it is.
struct Draft<'a> {
    slice: &'a Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

fn fill(endpoints: &mut Vec<Endpoint>, rest: &mut Wanted) {
    while endpoints.len() < PER_SLICE
        && let Some((_, endpoint)) = rest.pop_first()
    {
        endpoints.push(endpoint);
    }
}

/// Brings the endpoints of one set of ports into its slices.
fn pack(
    family: Family,
    ports: &[Port],
    mut rest: Wanted,
    slices: &[&Arc<EndpointSlice>],
    labels: &Pairs,
    actions: &mut Actions,
) {
    let mut drafts = Vec::with_capacity(slices.len());
    for slice in slices.iter().copied() {
        let mut changed = !labelled(&slice.metadata, labels);
        let mut endpoints = Vec::with_capacity(slice.endpoints.len());
        for present in &slice.endpoints {
            match rest.remove(&present.identity()) {
                Some(endpoint) => {
                    changed |= endpoint != *present;
                    endpoints.push(endpoint);
                }
                None => changed = true,
            }
        }
        if endpoints.is_empty() {
            actions.delete.push(Arc::clone(slice));
        } else {
            drafts.push(Draft {
                slice,
                endpoints,
                changed,
            });
        }
    }

    // The fullest first, so that few have room.
    drafts.sort_by_key(|draft| std::cmp::Reverse(draft.endpoints.len()));
    for draft in drafts.iter_mut().filter(|draft| draft.changed) {
        fill(&mut draft.endpoints, &mut rest);
    }
    while !rest.is_empty() {
        let room = drafts
            .iter_mut()
            .filter(|draft| !draft.changed && draft.endpoints.len() + rest.len() <= PER_SLICE)
            .max_by_key(|draft| draft.endpoints.len());
        if let Some(draft) = room {
            fill(&mut draft.endpoints, &mut rest);
            draft.changed = true;
        } else {
            let mut endpoints = Vec::new();
            fill(&mut endpoints, &mut rest);
            actions.create.push(Body {
                family,
                labels: labels.clone(),
                annotations: Pairs::default(),
                ports: ports.to_vec(),
                endpoints,
            });
        }
    }
    for draft in drafts.into_iter().filter(|draft| draft.changed) {
        let body = Body {
            family,
            labels: labels.clone(),
            annotations: Pairs::default(),
            ports: ports.to_vec(),
            endpoints: draft.endpoints,
        };
        actions.update.push((Arc::clone(draft.slice), body));
    }
}

#[cfg(test)]
mod tests;
