//! Which slices mirror Endpoints: a pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::MANAGER;
use crate::endpointslices::plan::labelled;
use crate::endpointslices::writer::{Actions, Body};
use crate::objects::endpoint_slice::{
    Conditions, Endpoint, EndpointSlice, Family, Identity, MANAGED_BY, Pairs, Port, SERVICE_NAME,
};
use crate::objects::endpoints::{Address, Endpoints};

/// Most addresses of a subset that are mirrored (`--mirroring-max-endpoints-per-subset`): one slice holds them.
pub(crate) const MOST: usize = 1000;

/// What could not be mirrored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// Addresses that are none.
    pub(crate) invalid: usize,
    /// Addresses beyond [`MOST`].
    pub(crate) beyond: usize,
}

type Wanted = BTreeMap<(Family, Vec<Port>), BTreeMap<Identity, Endpoint>>;

fn labels(endpoints: &Endpoints) -> Pairs {
    let mut labels: BTreeMap<Box<str>, Box<str>> = endpoints.metadata.labels.iter().cloned().collect();
    labels.insert(SERVICE_NAME.into(), (*endpoints.metadata.key.name).into());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels.into_iter().collect()
}

fn endpoint(address: &Address, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string().into()],
        conditions: Conditions {
            ready: Some(ready),
            ..Conditions::default()
        },
        hostname: Some(address.hostname.clone()).filter(|name| !name.is_empty()),
        target_ref: address.target_ref.clone(),
        node_name: address.node_name.clone(),
        zone: None,
    }
}

fn wanted(endpoints: &Endpoints) -> (Wanted, Skipped) {
    let mut wanted = Wanted::new();
    let mut skipped = Skipped::default();
    for subset in &endpoints.subsets {
        let mut added = 0;
        let ready = subset.addresses.iter().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().map(|address| (address, false));
        for (address, ready) in ready.chain(not_ready) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                skipped.invalid += 1;
                continue;
            };
            if added == MOST {
                skipped.beyond += 1;
                continue;
            }
            added += 1;
            let endpoint = endpoint(address, ip, ready);
            wanted
                .entry((Family::of(&ip), subset.ports.clone()))
                .or_default()
                .insert(endpoint.identity(), endpoint);
        }
    }
    (wanted, skipped)
}

/// What is to be done so that `slices`, those that this controller keeps for them, mirror the Endpoints.
pub(crate) fn plan(endpoints: &Endpoints, slices: &[Arc<EndpointSlice>]) -> (Actions, Skipped) {
    let mut actions = Actions::default();
    let labels = labels(endpoints);
    let (wanted, skipped) = wanted(endpoints);
    let mut unused: BTreeSet<&str> = slices.iter().map(|slice| &*slice.metadata.key.name).collect();
    let owned = |slice: &EndpointSlice| {
        let uid = &*endpoints.metadata.uid;
        slice.metadata.owners.iter().any(|owner| *owner.uid == *uid)
    };
    for ((family, ports), wanted) in wanted {
        let present = slices
            .iter()
            .find(|slice| slice.family == Some(family) && *slice.ports == *ports && owned(slice));
        let body = Body {
            family,
            labels: labels.clone(),
            annotations: endpoints.annotations.clone(),
            ports,
            endpoints: wanted.into_values().take(MOST).collect(),
        };
        match present {
            Some(slice) => {
                unused.remove(&*slice.metadata.key.name);
                let same = same_endpoints(&slice.endpoints, &body.endpoints)
                    && labelled(&slice.metadata, &labels)
                    && slice.annotations == body.annotations;
                if !same {
                    actions.update.push((Arc::clone(slice), body));
                }
            }
            None => actions.create.push(body),
        }
    }
    actions.delete = slices
        .iter()
        .filter(|slice| unused.contains(&*slice.metadata.key.name))
        .cloned()
        .collect();
    actions.recycle(&endpoints.metadata.uid);
    (actions, skipped)
}

/// Whatever their order.
fn same_endpoints(present: &[Endpoint], wanted: &[Endpoint]) -> bool {
    let by_identity = |list: &[Endpoint]| -> BTreeMap<Identity, Endpoint> {
        list.iter()
            .map(|endpoint| (endpoint.identity(), endpoint.clone()))
            .collect()
    };
    present.len() == wanted.len() && by_identity(present) == by_identity(wanted)
}

#[cfg(test)]
mod tests;
