//! What a node is sent: its pods, the config maps and secrets they use, all nodes and all images.
//!
//! The feed follows state, not events: a change only says which object to look at, and what is sent is how the store has
//! it now. So nothing is sent twice, and changes that overtook each other between two looks fall together.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::Stream;
use minidc_api::feed::{Feed, FeedItem, FeedKind, FeedOp};
use minidc_store::{Change, Entry, Error, Revision, Store, Watch};

use crate::graph::{self, Difference, NodeGraph, Referent};
use crate::object;

const NODES: &str = "core/nodes/";
const IMAGES: &str = "minidc.dev/images/";

/// A node's feed; ends only with the store.
pub(crate) fn feed(store: Store, node: String) -> impl Stream<Item = Feed> + Send + 'static {
    let feeding = Feeding {
        store,
        node,
        graph: NodeGraph::default(),
        sent: BTreeMap::new(),
        queue: VecDeque::new(),
        watches: None,
    };
    futures::stream::unfold(feeding, |mut feeding| async move {
        let item = feeding.next().await?;
        Some((item, feeding))
    })
}

struct Feeding {
    store: Store,
    node: String,
    graph: NodeGraph,
    /// What the node has, by store key, and at which revision.
    sent: BTreeMap<Box<str>, Revision>,
    queue: VecDeque<Out>,
    /// `None` before the snapshot, and when it has to be made anew.
    watches: Option<Watches>,
}

/// What is to be sent; turned into bytes only when its turn comes.
enum Out {
    Put(FeedKind, Entry),
    Delete(FeedKind, Box<str>, Revision),
    End(Revision),
}

/// One watch per kind, so that a feed never wakes for leases and events.
struct Watches {
    pods: Watch,
    config_maps: Watch,
    secrets: Watch,
    nodes: Watch,
    images: Watch,
}

impl Watches {
    fn open(store: &Store, from: Revision) -> Result<Self, Error> {
        Ok(Self {
            pods: store.watch(graph::PODS, from)?,
            config_maps: store.watch(Referent::ConfigMap.prefix(), from)?,
            secrets: store.watch(Referent::Secret.prefix(), from)?,
            nodes: store.watch(NODES, from)?,
            images: store.watch(IMAGES, from)?,
        })
    }

    async fn next(&mut self) -> Result<(FeedKind, Arc<Change>), Error> {
        let (kind, change) = tokio::select! {
            change = self.pods.next() => (FeedKind::Pod, change),
            change = self.config_maps.next() => (FeedKind::ConfigMap, change),
            change = self.secrets.next() => (FeedKind::Secret, change),
            change = self.nodes.next() => (FeedKind::Node, change),
            change = self.images.next() => (FeedKind::Image, change),
        };
        Ok((kind, change?))
    }
}

impl Feeding {
    async fn next(&mut self) -> Option<Feed> {
        loop {
            if let Some(out) = self.queue.pop_front() {
                return Some(out.into_feed());
            }
            let Some(watches) = &mut self.watches else {
                // Watches first, at a revision no later than what is listed: nothing can fall in between.
                let from = self.store.revision();
                match Watches::open(&self.store, from) {
                    Ok(watches) => self.watches = Some(watches),
                    Err(Error::Compacted { .. } | Error::Lagged { .. } | Error::Ahead { .. }) => {
                        // Only if so much is written between two lines here that the history is full: look again.
                        tokio::task::yield_now().await;
                        continue;
                    }
                    Err(error) => {
                        tracing::debug!(%error, node = self.node, "the feed ends");
                        return None;
                    }
                }
                self.snapshot(from);
                continue;
            };
            match watches.next().await {
                Ok((kind, change)) => self.take(kind, &change),
                Err(Error::Lagged { .. } | Error::Compacted { .. }) => self.watches = None,
                Err(error) => {
                    tracing::debug!(%error, node = self.node, "the feed ends");
                    return None;
                }
            }
        }
    }

    /// Queues all that the node needs. What it was sent before and needs no longer is deleted first, for receivers that
    /// do not compare snapshots themselves.
    fn snapshot(&mut self, revision: Revision) {
        let (pods, _) = self.store.list(graph::PODS);
        self.graph = NodeGraph::of_node(&pods, &self.node);
        let (nodes, _) = self.store.list(NODES);
        let (images, _) = self.store.list(IMAGES);
        let mut needed: Vec<(FeedKind, Entry)> = nodes.into_iter().map(|entry| (FeedKind::Node, entry)).collect();
        needed.extend(images.into_iter().map(|entry| (FeedKind::Image, entry)));
        needed.extend(
            self.graph
                .used()
                .filter_map(|key| Some((kind_of(key)?, self.store.get(key)?))),
        );
        let bound = pods.into_iter().filter(|entry| graph::is_bound_to(entry, &self.node));
        needed.extend(bound.map(|entry| (FeedKind::Pod, entry)));
        let before = std::mem::take(&mut self.sent);
        self.sent = needed
            .iter()
            .map(|(_, entry)| ((*entry.key).into(), entry.revision))
            .collect();
        for key in before.into_keys().filter(|key| !self.sent.contains_key(key)) {
            if let Some(kind) = kind_of(&key) {
                self.queue.push_back(Out::Delete(kind, key, revision));
            }
        }
        self.queue
            .extend(needed.into_iter().map(|(kind, entry)| Out::Put(kind, entry)));
        self.queue.push_back(Out::End(revision));
    }

    /// Queues what a change means to this node.
    fn take(&mut self, kind: FeedKind, change: &Change) {
        let key = &**change.key();
        let revision = change.revision();
        match kind {
            FeedKind::Pod => self.take_pod(key, revision),
            FeedKind::ConfigMap | FeedKind::Secret if !self.graph.uses(key) => {}
            _ => self.look(kind, key, revision),
        }
    }

    fn take_pod(&mut self, key: &str, revision: Revision) {
        let entry = self
            .store
            .get(key)
            .filter(|entry| graph::is_bound_to(entry, &self.node));
        let difference = match &entry {
            Some(entry) => self.graph.put_pod(entry),
            None if self.graph.has_pod(key) => self.graph.remove_pod(key),
            None => Difference::default(),
        };
        // What a pod uses comes before the pod and goes after it.
        for used in difference.gained {
            if let Some(kind) = kind_of(&used) {
                self.look(kind, &used, revision);
            }
        }
        match entry {
            Some(entry) => self.put(FeedKind::Pod, entry),
            None => self.delete(FeedKind::Pod, key, revision),
        }
        for unused in difference.lost {
            if let Some(kind) = kind_of(&unused) {
                self.delete(kind, &unused, revision);
            }
        }
    }

    /// Sends an object as it is now, or that it is gone.
    fn look(&mut self, kind: FeedKind, key: &str, revision: Revision) {
        match self.store.get(key) {
            Some(entry) => self.put(kind, entry),
            None => self.delete(kind, key, revision),
        }
    }

    fn put(&mut self, kind: FeedKind, entry: Entry) {
        if self.sent.insert((*entry.key).into(), entry.revision) != Some(entry.revision) {
            self.queue.push_back(Out::Put(kind, entry));
        }
    }

    fn delete(&mut self, kind: FeedKind, key: &str, revision: Revision) {
        if self.sent.remove(key).is_some() {
            self.queue.push_back(Out::Delete(kind, key.into(), revision));
        }
    }
}

fn kind_of(key: &str) -> Option<FeedKind> {
    let kinds = [
        (graph::PODS, FeedKind::Pod),
        (Referent::ConfigMap.prefix(), FeedKind::ConfigMap),
        (Referent::Secret.prefix(), FeedKind::Secret),
        (NODES, FeedKind::Node),
        (IMAGES, FeedKind::Image),
    ];
    kinds
        .into_iter()
        .find(|(prefix, _)| key.starts_with(prefix))
        .map(|(_, kind)| kind)
}

impl Out {
    fn into_feed(self) -> Feed {
        let (kind, key, revision, op) = match self {
            Self::End(revision) => return Feed::End { revision },
            Self::Put(kind, entry) => {
                let json = entry.json();
                (kind, Box::from(&*entry.key), entry.revision, FeedOp::Put(json.into()))
            }
            Self::Delete(kind, key, revision) => (kind, key, revision, FeedOp::Delete),
        };
        let (namespace, name) = object::key_parts(&key);
        Feed::Item(FeedItem {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            revision,
            op,
        })
    }
}
