//! What a node is sent: its pods, the config maps and secrets they use, and what every node needs: nodes, images,
//! services with their endpoint slices, namespaces, zone files, and checks of the network.
//!
//! The feed follows state, not events: a change only says which object to look at, and what is sent is how the store has
//! it now. So nothing is sent twice, and changes that overtook each other between two looks fall together.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::Stream;
use minidc_api::feed::{DNS_ZONES, Feed, FeedItem, FeedKind, FeedOp};
use minidc_store::{Change, Entry, Error, Revision, Store, Watch};

use crate::graph::{self, Difference, NodeGraph, Referent};
use crate::object;

/// Kinds of which every node is sent all, with the start of their store keys; a snapshot has them in this order.
const WHOLE: [(FeedKind, &str); 6] = [
    (FeedKind::Node, "core/nodes/"),
    (FeedKind::Image, "minidc.dev/images/"),
    (FeedKind::Namespace, "core/namespaces/"),
    (FeedKind::Service, "core/services/"),
    (FeedKind::EndpointSlice, "discovery.k8s.io/endpointslices/"),
    (FeedKind::NetCheck, "minidc.dev/netchecks/"),
];

/// Start of the store keys of the config maps that may be zone files.
const ZONES: &str = "core/configmaps/kube-system/";

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
    whole: Vec<(FeedKind, Watch)>,
}

impl Watches {
    fn open(store: &Store, from: Revision) -> Result<Self, Error> {
        let whole = WHOLE.map(|(kind, prefix)| Ok((kind, store.watch(prefix, from)?)));
        Ok(Self {
            pods: store.watch(graph::PODS, from)?,
            config_maps: store.watch(Referent::ConfigMap.prefix(), from)?,
            secrets: store.watch(Referent::Secret.prefix(), from)?,
            whole: whole.into_iter().collect::<Result<_, Error>>()?,
        })
    }

    async fn next(&mut self) -> Result<(FeedKind, Arc<Change>), Error> {
        let whole = self.whole.iter_mut().map(|(kind, watch)| {
            Box::pin(async {
                let change = watch.next().await;
                (*kind, change)
            })
        });
        let (kind, change) = tokio::select! {
            change = self.pods.next() => (FeedKind::Pod, change),
            change = self.config_maps.next() => (FeedKind::ConfigMap, change),
            change = self.secrets.next() => (FeedKind::Secret, change),
            (found, _, _) = futures::future::select_all(whole) => found,
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
        let mut needed: Vec<(FeedKind, Entry)> = Vec::new();
        for (kind, prefix) in WHOLE {
            let (entries, _) = self.store.list(prefix);
            needed.extend(entries.into_iter().map(|entry| (kind, entry)));
        }
        let (zones, _) = self.store.list(ZONES);
        let zones = zones
            .into_iter()
            .filter(|entry| is_zones(entry) && !self.graph.uses(&entry.key));
        needed.extend(zones.map(|entry| (FeedKind::ConfigMap, entry)));
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
            FeedKind::ConfigMap | FeedKind::Secret => self.look_if_needed(kind, key, revision),
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
                self.look_if_needed(kind, &unused, revision);
            }
        }
    }

    /// Sends a config map or secret as it is now if a pod here uses it or every node needs it, else that it is gone.
    fn look_if_needed(&mut self, kind: FeedKind, key: &str, revision: Revision) {
        let entry = self.store.get(key);
        match entry.filter(|entry| self.graph.uses(key) || is_zones(entry)) {
            Some(entry) => self.put(kind, entry),
            None => self.delete(kind, key, revision),
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

/// True for config maps with zone files for every node's DNS.
fn is_zones(entry: &Entry) -> bool {
    entry.key.starts_with(ZONES) && entry.envelope.label(DNS_ZONES).is_some()
}

fn kind_of(key: &str) -> Option<FeedKind> {
    let chosen = [
        (FeedKind::Pod, graph::PODS),
        (FeedKind::ConfigMap, Referent::ConfigMap.prefix()),
        (FeedKind::Secret, Referent::Secret.prefix()),
    ];
    let found = chosen.iter().chain(&WHOLE).find(|(_, prefix)| key.starts_with(prefix));
    found.map(|(kind, _)| *kind)
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
