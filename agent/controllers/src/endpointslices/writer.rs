//! Slices as they shall be, and how that is asked of the API.

use std::sync::Arc;

use futures::future::join_all;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::objects::endpoint_slice::{Endpoint, EndpointSlice, Family, Pairs, Port, TRIGGER_TIME};
use crate::objects::{ENDPOINT_SLICES, Key, Owner};
use crate::pending::Pending;
use crate::requests::{Deletion, Requests};

/// Longest name prefix to which the API adds five characters (`maxGeneratedNameLength`).
const LONGEST_PREFIX: usize = 248;

/// What a slice shall hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) family: Family,
    pub(crate) labels: Pairs,
    /// Beside the time of the last trigger.
    pub(crate) annotations: Pairs,
    pub(crate) ports: Vec<Port>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(crate) struct Actions {
    pub(crate) create: Vec<Body>,
    pub(crate) update: Vec<(Arc<EndpointSlice>, Body)>,
    pub(crate) delete: Vec<Arc<EndpointSlice>>,
}

impl Actions {
    pub(crate) fn is_empty(&self) -> bool {
        self.create.is_empty() && self.update.is_empty() && self.delete.is_empty()
    }

    /// Makes updates of creations where a slice that the same owner is about to lose can be used.
    pub(crate) fn recycle(&mut self, owner: &str) {
        let mut kept = Vec::new();
        for slice in std::mem::take(&mut self.delete) {
            let owned = slice.metadata.owners.iter().any(|reference| *reference.uid == *owner);
            let usable = self
                .create
                .iter()
                .rposition(|body| owned && slice.family == Some(body.family));
            match usable {
                Some(place) => self.update.push((slice, self.create.remove(place))),
                None => kept.push(slice),
            }
        }
        self.delete = kept;
    }
}

/// For whom slices are written.
pub(crate) struct Owned<'a> {
    /// Namespace of the slices, and the name that theirs begin with.
    pub(crate) key: &'a Key,
    pub(crate) owner: Owner,
    /// No new slices for what is being deleted: the garbage collector would race with us.
    pub(crate) terminating: bool,
    /// Time of the last trigger; none takes the annotation away.
    pub(crate) trigger: Option<String>,
}

fn object(pairs: &Pairs) -> Map<String, Value> {
    pairs
        .iter()
        .map(|(name, value)| (name.to_string(), (**value).into()))
        .collect()
}

/// The pairs that shall be, and null for those that are but shall not be.
fn replacement<'a>(wanted: &Pairs, present: impl Iterator<Item = &'a Box<str>>) -> Map<String, Value> {
    let mut map: Map<String, Value> = present.map(|name| (name.to_string(), Value::Null)).collect();
    map.extend(object(wanted));
    map
}

fn lists(body: &Body, value: &mut Value) {
    value["endpoints"] = json!(body.endpoints);
    value["ports"] = body.ports.iter().map(Port::in_slice).collect();
}

pub(super) fn creation(owned: &Owned<'_>, body: &Body) -> Value {
    let mut annotations = object(&body.annotations);
    if let Some(trigger) = &owned.trigger {
        annotations.insert(TRIGGER_TIME.into(), trigger.as_str().into());
    }
    let mut prefix = format!("{}-", owned.key.name);
    prefix.truncate(LONGEST_PREFIX);
    let mut value = json!({
        "apiVersion": ENDPOINT_SLICES.api_version(),
        "kind": ENDPOINT_SLICES.kind,
        "metadata": {
            "generateName": prefix,
            "namespace": &*owned.key.namespace,
            "labels": object(&body.labels),
            "annotations": annotations,
            "ownerReferences": [&owned.owner],
        },
        "addressType": body.family.name(),
    });
    lists(body, &mut value);
    value
}

fn update(owned: &Owned<'_>, slice: &EndpointSlice, body: &Body) -> Value {
    let mut annotations = replacement(&body.annotations, slice.annotations.iter().map(|(name, _)| name));
    annotations.insert(TRIGGER_TIME.into(), json!(owned.trigger));
    let mut value = json!({"metadata": {
        "uid": slice.metadata.uid,
        "resourceVersion": slice.metadata.revision.to_string(),
        "labels": replacement(&body.labels, slice.metadata.labels.iter().map(|(name, _)| name)),
        "annotations": annotations,
    }});
    lists(body, &mut value);
    value
}

/// Has it done: creations first, so that no endpoint is missing meanwhile; those of one sort together, so that the store gathers them.
pub(crate) async fn apply(
    requests: &Requests,
    pending: &Pending<EndpointSlice>,
    owned: &Owned<'_>,
    actions: &Actions,
) -> Result<(), Error> {
    let mut outcome = Ok(());
    let mut note = |result: Result<(), Error>| {
        if result.is_err() && outcome.is_ok() {
            outcome = result;
        }
    };
    if !owned.terminating {
        let collection = ENDPOINT_SLICES.collection(&owned.key.namespace);
        let work = actions.create.iter().map(|body| {
            let body = creation(owned, body);
            let collection = &collection;
            async move { requests.create(collection, &body).await }
        });
        for reply in join_all(work).await {
            match reply {
                Ok(reply) => pending.wrote(owned.key, reply.revision()),
                // Its namespace goes, and the Service with it.
                Err(error) if error.is_namespace_terminating() => return Ok(()),
                Err(error) => note(Err(error)),
            }
        }
    }
    let work = actions.update.iter().map(|(slice, body)| {
        let body = update(owned, slice, body);
        let path = ENDPOINT_SLICES.path_of(&slice.metadata.key);
        async move { requests.merge(&path, &body).await }
    });
    for reply in join_all(work).await {
        note(reply.map(|reply| pending.wrote(owned.key, reply.revision())));
    }
    let work = actions.delete.iter().map(|slice| {
        pending.deletes(owned.key, &slice.metadata);
        let path = ENDPOINT_SLICES.path_of(&slice.metadata.key);
        async move {
            let reply = requests.delete(&path, Deletion::of(&slice.metadata)).await;
            if reply.is_err() {
                pending.kept(owned.key, &slice.metadata);
            }
            reply
        }
    });
    for reply in join_all(work).await {
        note(reply);
    }
    outcome
}
