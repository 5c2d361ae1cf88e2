//! Namespaces: one that is being deleted is emptied, then let go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::cache::{Cache, Change};
use crate::objects::metadata::Condition;
use crate::objects::pod::Pod;
use crate::objects::{Key, NAMESPACES, Namespace, PODS, Resource};
use crate::queue::{Again, Queue};
use crate::requests::{Deletion, Propagation, ReplyMetadata, Requests};

/// Namespaces handled at the same time.
const WORKERS: usize = 2;
/// Deletions under way at the same time.
const DELETIONS: usize = 16;
/// When to look again while something is left; the end of its pods wakes the controller sooner.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// The finalizer that is this controller's to drop.
const FINALIZER: &str = "kubernetes";

#[derive(Debug, Deserialize)]
struct Listed {
    #[serde(default)]
    items: Option<Vec<ListedItem>>,
}

#[derive(Debug, Deserialize)]
struct ListedItem {
    #[serde(default)]
    metadata: ReplyMetadata,
}

/// What is left in a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
struct Remains {
    /// Resource, as `pods.` or `deployments.apps`, to number.
    resources: BTreeMap<String, usize>,
    /// Finalizer to number.
    finalizers: BTreeMap<String, usize>,
}

impl Remains {
    fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// The namespace's conditions, worded as Kubernetes words them.
    fn conditions(&self, failure: Option<&Error>, now: Timestamp) -> Vec<Condition> {
        let say = |kind, holds: bool, yes: (&str, String), no: (&str, &str)| {
            let (reason, message) = if holds { yes } else { (no.0, no.1.to_owned()) };
            Condition::new(kind, if holds { "True" } else { "False" }, reason, message, now)
        };
        let counted = |counts: &BTreeMap<String, usize>, unit: &str| {
            let parts: Vec<String> = counts
                .iter()
                .map(|(name, count)| format!("{name} {unit} {count} resource instances"))
                .collect();
            parts.join(", ")
        };
        vec![
            say(
                "NamespaceDeletionDiscoveryFailure",
                false,
                ("", String::new()),
                ("ResourcesDiscovered", "All resources successfully discovered"),
            ),
            say(
                "NamespaceDeletionGroupVersionParsingFailure",
                false,
                ("", String::new()),
                ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            ),
            say(
                "NamespaceDeletionContentFailure",
                failure.is_some(),
                (
                    "ContentDeletionFailed",
                    format!(
                        "Failed to delete all resource types, 1 remaining: {}",
                        failure.map(Error::api_message).unwrap_or_default()
                    ),
                ),
                (
                    "ContentDeleted",
                    "All content successfully deleted, may be waiting on finalization",
                ),
            ),
            say(
                "NamespaceContentRemaining",
                !self.resources.is_empty(),
                (
                    "SomeResourcesRemain",
                    format!("Some resources are remaining: {}", counted(&self.resources, "has")),
                ),
                ("ContentRemoved", "All content successfully removed"),
            ),
            say(
                "NamespaceFinalizersRemaining",
                !self.finalizers.is_empty(),
                (
                    "SomeFinalizersRemain",
                    format!(
                        "Some content in the namespace has finalizers remaining: {}",
                        counted(&self.finalizers, "in")
                    ),
                ),
                ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            ),
        ]
    }
}

/// The controller.
pub(crate) struct Namespaces {
    requests: Requests,
    namespaces: Arc<Cache<Namespace>>,
    queue: Arc<Queue<Key>>,
    /// Namespaced kinds that can be listed and deleted.
    kinds: Vec<Resource>,
}

impl Namespaces {
    pub(crate) fn new(
        requests: Requests,
        namespaces: Arc<Cache<Namespace>>,
        pods: &Cache<Pod>,
        kinds: &[Resource],
    ) -> Self {
        let queue = Queue::new();
        let sink = Arc::clone(&queue);
        namespaces.on_change(move |change| {
            if let Change::Put { current, .. } = change
                && current.terminating()
            {
                sink.add(current.key().clone());
            }
        });
        let sink = Arc::clone(&queue);
        let known = Arc::clone(&namespaces);
        pods.on_change(move |change| {
            if let Change::Gone(pod) = change {
                let key = Key::new("", &pod.metadata.key.namespace);
                if known.get(&key).is_some_and(|namespace| namespace.terminating()) {
                    sink.add(key);
                }
            }
        });
        let kinds = kinds.iter().filter(|kind| kind.namespaced).cloned().collect();
        Self {
            requests,
            namespaces,
            queue,
            kinds,
        }
    }

    /// Works until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = self.namespaces.completed() => {}
        }
        self.queue.work(WORKERS, &shutdown, |key| self.reconcile(key)).await;
        Ok(())
    }

    async fn reconcile(&self, key: Key) -> Result<Again, Error> {
        let Some(namespace) = self.namespaces.get(&key) else {
            return Ok(None);
        };
        if !namespace.terminating() || !namespace.finalizers.iter().any(|name| name == FINALIZER) {
            return Ok(None);
        }
        let outcome = self.empty(&key.name).await;
        let (remains, failure) = match outcome {
            Ok(remains) => (remains, None),
            Err(error) => (Remains::default(), Some(error)),
        };
        if failure.is_some() || !remains.is_empty() {
            self.tell(&namespace, &remains, failure.as_ref()).await?;
            return failure.map_or(Ok(Some(LOOK_AGAIN)), Err);
        }
        self.finalize(&key).await?;
        Ok(None)
    }

    /// Deletes what there is. The rest waits for the pods: they may need their secrets and config maps to the last.
    async fn empty(&self, namespace: &str) -> Result<Remains, Error> {
        let mut remains = Remains::default();
        let is_pods = |kind: &&Resource| kind.group == PODS.group && kind.plural == PODS.plural;
        for kind in self.kinds.iter().filter(is_pods) {
            self.empty_of(kind, namespace, &mut remains).await?;
        }
        if remains.is_empty() {
            for kind in self.kinds.iter().filter(|kind| !is_pods(kind)) {
                self.empty_of(kind, namespace, &mut remains).await?;
            }
        }
        Ok(remains)
    }

    async fn list(&self, kind: &Resource, namespace: &str) -> Result<Vec<ReplyMetadata>, Error> {
        // A kind that is not served has no objects.
        let listed: Option<Listed> = self.requests.get(&kind.collection(namespace)).await?;
        Ok(listed
            .and_then(|listed| listed.items)
            .unwrap_or_default()
            .into_iter()
            .map(|item| item.metadata)
            .collect())
    }

    async fn empty_of(&self, kind: &Resource, namespace: &str, remains: &mut Remains) -> Result<(), Error> {
        let items = self.list(kind, namespace).await?;
        if items.is_empty() {
            return Ok(());
        }
        for some in items.chunks(DELETIONS) {
            let work = some
                .iter()
                .filter(|item| item.deletion_timestamp.is_none())
                .map(|item| async move {
                    let deletion = Deletion {
                        uid: Some(&item.uid),
                        propagation: Some(Propagation::Background),
                        ..Deletion::default()
                    };
                    self.requests.delete(&kind.path(namespace, &item.name), deletion).await
                });
            try_join_all(work).await?;
        }
        let left = self.list(kind, namespace).await?;
        if !left.is_empty() {
            *remains
                .resources
                .entry(format!("{}.{}", kind.plural, kind.group))
                .or_default() += left.len();
        }
        for finalizer in left.iter().flat_map(|item| &item.finalizers) {
            *remains.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        Ok(())
    }

    async fn tell(&self, namespace: &Namespace, remains: &Remains, failure: Option<&Error>) -> Result<(), Error> {
        let mut conditions = remains.conditions(failure, Timestamp::now());
        conditions.retain(|condition| {
            !namespace.conditions.iter().any(|known| {
                known.kind == condition.kind
                    && known.status == condition.status
                    && known.reason == condition.reason
                    && known.message == condition.message
            })
        });
        if conditions.is_empty() {
            return Ok(());
        }
        let body = json!({"status": {"conditions": conditions}});
        let path = format!("{}/status", NAMESPACES.path_of(namespace.key()));
        match self.requests.strategic(&path, &body).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn finalize(&self, key: &Key) -> Result<(), Error> {
        let path = NAMESPACES.path_of(key);
        let Some(mut live): Option<Value> = self.requests.get(&path).await? else {
            return Ok(());
        };
        if live["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        if let Some(finalizers) = live.pointer_mut("/spec/finalizers").and_then(Value::as_array_mut) {
            finalizers.retain(|name| name.as_str() != Some(FINALIZER));
        }
        match self.requests.replace(&format!("{path}/finalize"), &live).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_name_what_is_left() {
        let mut remains = Remains::default();
        remains.resources.insert("pods.".into(), 2);
        remains.resources.insert("deployments.apps".into(), 1);
        remains.finalizers.insert("example.com/x".into(), 3);
        let conditions = remains.conditions(None, Timestamp::UNIX_EPOCH);
        let message = |kind: &str| {
            let condition = conditions.iter().find(|condition| condition.kind == kind).unwrap();
            (condition.status.clone(), condition.message.clone().unwrap_or_default())
        };
        assert_eq!(
            message("NamespaceContentRemaining"),
            (
                "True".into(),
                "Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances"
                    .into()
            )
        );
        assert_eq!(
            message("NamespaceFinalizersRemaining").1,
            "Some content in the namespace has finalizers remaining: example.com/x in 3 resource instances"
        );
        assert_eq!(message("NamespaceDeletionContentFailure").0, "False");
        assert!(
            Remains::default()
                .conditions(None, Timestamp::UNIX_EPOCH)
                .iter()
                .all(|one| one.status == "False")
        );
    }
}
