//! Garbage collection: what is owned by nothing that exists goes, and owners that wait for their dependents get their turn.
//!
//! An owner counts as gone only by the API's own word, asked at that moment; a cache that does not know it proves nothing. A kind that
//! is not served here counts as existing.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::cache::Objects;
use crate::objects::{Key, Metadata, Owner};
use crate::queue::{Again, Queue};
use crate::requests::{Deletion, Propagation, Reply, Requests};

/// Objects handled at the same time.
const WORKERS: usize = 16;
/// When to look again at an owner that waits for dependents, should their end have gone unnoticed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Finalizer of an owner that goes only after its dependents.
const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an owner whose dependents are to stay.
const ORPHAN: &str = "orphan";

/// An object of any kind: place of the kind among the caches, and key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Item {
    kind: usize,
    key: Key,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (kind {})", self.key, self.kind)
    }
}

/// How an owner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is there, or nobody can say that it is not.
    Solid,
    /// It is there until its dependents are gone.
    Waiting,
    /// It is gone.
    Absent,
}

/// What follows for a dependent from how its owners stand.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// Some owner stays: the references to the others go.
    Disown(Vec<Owner>),
    Delete(Propagation),
}

/// Pure: `standings` in the order of the dependent's owners.
fn judge(dependent: &Metadata, standings: &[Standing], has_dependents: bool) -> Verdict {
    let solid: Vec<Owner> = dependent
        .owners
        .iter()
        .zip(standings)
        .filter(|(_, standing)| **standing == Standing::Solid)
        .map(|(owner, _)| owner.clone())
        .collect();
    if solid.len() == dependent.owners.len() {
        return Verdict::Keep;
    }
    if !solid.is_empty() {
        return Verdict::Disown(solid);
    }
    let waited_for = standings.contains(&Standing::Waiting);
    Verdict::Delete(if waited_for && has_dependents || dependent.has_finalizer(FOREGROUND) {
        Propagation::Foreground
    } else if dependent.has_finalizer(ORPHAN) {
        Propagation::Orphan
    } else {
        Propagation::Background
    })
}

fn owned_by(metadata: &Metadata, uid: &str) -> bool {
    metadata.owners.iter().any(|owner| *owner.uid == *uid)
}

fn waits(terminating: bool, mut finalizers: impl Iterator<Item = impl AsRef<str>>) -> bool {
    terminating && finalizers.any(|finalizer| finalizer.as_ref() == FOREGROUND)
}

/// What garbage collection watches, and finds owners by.
#[derive(Clone)]
struct Graph {
    caches: Arc<[Arc<dyn Objects>]>,
    /// Group and kind to place among the caches.
    kinds: Arc<HashMap<(String, String), usize>>,
}

impl Graph {
    fn dependents(&self, uid: &str) -> Vec<Item> {
        let wanted = |metadata: &Metadata| owned_by(metadata, uid);
        self.caches
            .iter()
            .enumerate()
            .flat_map(|(kind, cache)| cache.keys(&wanted).into_iter().map(move |key| Item { kind, key }))
            .collect()
    }

    /// Where an owner would be; none for kinds that are not served, or where a cluster-wide object names one in a namespace.
    fn owner(&self, dependent: &Metadata, owner: &Owner) -> Option<Item> {
        let kind = *self.kinds.get(&(owner.group().to_owned(), owner.kind.to_string()))?;
        let namespaced = self.caches[kind].resource().namespaced;
        if namespaced && dependent.key.namespace.is_empty() {
            return None;
        }
        let namespace = if namespaced { &*dependent.key.namespace } else { "" };
        Some(Item {
            kind,
            key: Key::new(namespace, &owner.name),
        })
    }
}

/// The controller.
pub(crate) struct Garbage {
    requests: Requests,
    graph: Graph,
    queue: Arc<Queue<Item>>,
}

impl Garbage {
    pub(crate) fn new(requests: Requests, caches: Vec<Arc<dyn Objects>>) -> Self {
        let kinds = caches
            .iter()
            .enumerate()
            .map(|(place, cache)| {
                let resource = cache.resource();
                ((resource.group.to_string(), resource.kind.to_string()), place)
            })
            .collect();
        let graph = Graph {
            caches: caches.into(),
            kinds: Arc::new(kinds),
        };
        let queue = Queue::new();
        for (kind, cache) in graph.caches.iter().enumerate() {
            let sink = Arc::clone(&queue);
            let graph = graph.clone();
            cache.on_metadata(Box::new(move |before, after| match (before, after) {
                (before, Some(after)) => {
                    let changed = before.is_none_or(|before| {
                        before.owners != after.owners
                            || before.finalizers != after.finalizers
                            || before.terminating() != after.terminating()
                    });
                    if changed && (!after.owners.is_empty() || after.terminating() && !after.finalizers.is_empty()) {
                        sink.add(Item {
                            kind,
                            key: after.key.clone(),
                        });
                    }
                }
                (Some(gone), None) => {
                    for dependent in graph.dependents(&gone.uid) {
                        sink.add(dependent);
                    }
                    // An owner may have waited for just this one.
                    for owner in gone.owners.iter().filter_map(|owner| graph.owner(gone, owner)) {
                        sink.add(owner);
                    }
                }
                (None, None) => {}
            }));
        }
        Self { requests, graph, queue }
    }

    /// Works until shutdown, as soon as every cache has its first list.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let complete = async {
            for cache in self.graph.caches.iter() {
                cache.complete().await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = complete => {}
        }
        self.queue.work(WORKERS, &shutdown, |item| self.reconcile(item)).await;
        Ok(())
    }

    fn metadata(&self, item: &Item) -> Option<Metadata> {
        self.graph.caches[item.kind].metadata(&item.key)
    }

    fn path(&self, item: &Item) -> String {
        self.graph.caches[item.kind].resource().path_of(&item.key)
    }

    async fn reconcile(&self, item: Item) -> Result<Again, Error> {
        let Some(metadata) = self.metadata(&item) else {
            return Ok(None);
        };
        if metadata.terminating() {
            if metadata.has_finalizer(ORPHAN) {
                return self.orphan(&item, &metadata).await;
            }
            if metadata.has_finalizer(FOREGROUND) {
                return self.wait_for_dependents(&item, &metadata).await;
            }
            return Ok(None);
        }
        if metadata.owners.is_empty() {
            return Ok(None);
        }
        let mut standings = Vec::with_capacity(metadata.owners.len());
        for owner in &metadata.owners {
            standings.push(self.standing(&metadata, owner).await?);
        }
        let has_dependents = !self.graph.dependents(&metadata.uid).is_empty();
        match judge(&metadata, &standings, has_dependents) {
            Verdict::Keep => {}
            Verdict::Disown(owners) => self.set_owners(&item, &metadata, &owners).await?,
            Verdict::Delete(propagation) => {
                let deletion = Deletion {
                    revision: Some(metadata.revision),
                    propagation: Some(propagation),
                    ..Deletion::of(&metadata)
                };
                tracing::debug!(object = %item.key, kind = %self.graph.caches[item.kind].resource().kind, "owner is gone");
                self.requests.delete(&self.path(&item), deletion).await?;
            }
        }
        Ok(None)
    }

    async fn standing(&self, dependent: &Metadata, owner: &Owner) -> Result<Standing, Error> {
        let Some(item) = self.graph.owner(dependent, owner) else {
            tracing::debug!(object = %dependent.key, kind = %owner.kind, "owner of a kind that cannot be looked up");
            return Ok(Standing::Solid);
        };
        if let Some(known) = self.metadata(&item).filter(|known| known.uid == owner.uid) {
            let waiting = waits(known.terminating(), known.finalizers.iter());
            return Ok(if waiting { Standing::Waiting } else { Standing::Solid });
        }
        let live: Option<Reply> = self.requests.get(&self.path(&item)).await?;
        Ok(match live {
            Some(live) if live.metadata.uid == *owner.uid => {
                let waiting = waits(
                    live.metadata.deletion_timestamp.is_some(),
                    live.metadata.finalizers.iter(),
                );
                if waiting { Standing::Waiting } else { Standing::Solid }
            }
            // Another object of that name, or none.
            _ => Standing::Absent,
        })
    }

    async fn set_owners(&self, item: &Item, metadata: &Metadata, owners: &[Owner]) -> Result<(), Error> {
        let body = json!({"metadata": {
            "uid": metadata.uid,
            "resourceVersion": metadata.revision.to_string(),
            "ownerReferences": if owners.is_empty() { Value::Null } else { json!(owners) },
        }});
        match self.requests.merge(&self.path(item), &body).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn drop_finalizer(&self, item: &Item, metadata: &Metadata, name: &str) -> Result<(), Error> {
        let finalizers: Vec<&str> = metadata
            .finalizers
            .iter()
            .map(|name| &**name)
            .filter(|other| *other != name)
            .collect();
        let body = json!({"metadata": {
            "uid": metadata.uid,
            "resourceVersion": metadata.revision.to_string(),
            "finalizers": if finalizers.is_empty() { Value::Null } else { json!(finalizers) },
        }});
        match self.requests.merge(&self.path(item), &body).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sets the dependents free, then lets the owner go.
    async fn orphan(&self, item: &Item, metadata: &Metadata) -> Result<Again, Error> {
        for dependent in self.graph.dependents(&metadata.uid) {
            let Some(its) = self.metadata(&dependent) else { continue };
            let owners: Vec<Owner> = its
                .owners
                .iter()
                .filter(|owner| owner.uid != metadata.uid)
                .cloned()
                .collect();
            self.set_owners(&dependent, &its, &owners).await?;
        }
        self.drop_finalizer(item, metadata, ORPHAN).await?;
        Ok(None)
    }

    /// Has the dependents deleted; lets the owner go once none is left that may keep it.
    async fn wait_for_dependents(&self, item: &Item, metadata: &Metadata) -> Result<Again, Error> {
        let mut blocked = false;
        for dependent in self.graph.dependents(&metadata.uid) {
            let Some(its) = self.metadata(&dependent) else { continue };
            blocked |= its
                .owners
                .iter()
                .any(|owner| owner.uid == metadata.uid && owner.block_owner_deletion);
            // It finds its owner waiting, and goes.
            self.queue.add(dependent);
        }
        if blocked {
            return Ok(Some(LOOK_AGAIN));
        }
        self.drop_finalizer(item, metadata, FOREGROUND).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dependent(owners: usize, finalizers: &[&str]) -> Metadata {
        let owner = |index: usize| Owner {
            api_version: "apps/v1".into(),
            kind: "ReplicaSet".into(),
            name: format!("owner-{index}").into(),
            uid: format!("uid-{index}").into(),
            controller: index == 0,
            block_owner_deletion: true,
        };
        Metadata {
            key: Key::new("default", "x"),
            uid: "u".into(),
            revision: 1,
            generation: 1,
            created: jiff::Timestamp::UNIX_EPOCH,
            deleted: None,
            labels: Box::default(),
            owners: (0..owners).map(owner).collect(),
            finalizers: finalizers.iter().map(|name| (*name).into()).collect(),
        }
    }

    #[test]
    fn a_dependent_goes_only_when_no_owner_stands() {
        use Standing::{Absent, Solid, Waiting};
        let one = dependent(1, &[]);
        let two = dependent(2, &[]);
        let disowned = |kept: usize| Verdict::Disown(vec![two.owners[kept].clone()]);
        for (object, standings, has_dependents, expected) in [
            (&one, vec![Solid], true, Verdict::Keep),
            (&one, vec![Absent], true, Verdict::Delete(Propagation::Background)),
            (&one, vec![Waiting], false, Verdict::Delete(Propagation::Background)),
            (&one, vec![Waiting], true, Verdict::Delete(Propagation::Foreground)),
            (&two, vec![Solid, Solid], false, Verdict::Keep),
            (&two, vec![Solid, Absent], false, disowned(0)),
            (&two, vec![Waiting, Solid], true, disowned(1)),
            (
                &two,
                vec![Absent, Absent],
                false,
                Verdict::Delete(Propagation::Background),
            ),
            (
                &two,
                vec![Absent, Waiting],
                true,
                Verdict::Delete(Propagation::Foreground),
            ),
            (
                &dependent(1, &[ORPHAN]),
                vec![Absent],
                true,
                Verdict::Delete(Propagation::Orphan),
            ),
            (
                &dependent(1, &[FOREGROUND]),
                vec![Absent],
                false,
                Verdict::Delete(Propagation::Foreground),
            ),
        ] {
            assert_eq!(judge(object, &standings, has_dependents), expected, "{standings:?}");
        }
    }
}
