//! One shared reflector per kind: what the API last said, and who wants to know of changes.
//!
//! Handlers run inside the reflector's task, in order and without loss, so a controller never has to compare lists to find out what it
//! missed. They must be quick: put a key in a queue, no more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::objects::{Key, Metadata, Resource, Stored};

/// First and longest pause before a failed list or watch is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What happened to one object.
pub(crate) enum Change<'a, K> {
    /// It is new or other than before.
    Put {
        previous: Option<&'a Arc<K>>,
        current: &'a Arc<K>,
    },
    /// It is no more.
    Gone(&'a Arc<K>),
}

impl<K> Change<'_, K> {
    /// The object, as it is or last was.
    pub(crate) fn object(&self) -> &Arc<K> {
        match self {
            Change::Put { current, .. } | Change::Gone(current) => current,
        }
    }
}

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

/// A point in the history of one kind that a later reading of the cache must include.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    revision: u64,
    lists: u64,
}

impl Mark {
    /// Whether the other mark is the later one.
    pub(crate) fn is_before(self, other: Self) -> bool {
        self.revision < other.revision
    }
}

/// Key of the object that an object belongs to.
type Group<K> = fn(&K) -> Option<Key>;

struct Inner<K> {
    objects: BTreeMap<Key, Arc<K>>,
    groups: HashMap<Key, BTreeSet<Key>>,
    /// Highest resourceVersion seen.
    revision: u64,
    /// Lists begun so far.
    begun: u64,
    /// Number, among those begun, of the last one that was completed.
    completed: u64,
}

impl<K: Stored> Inner<K> {
    /// The object is no longer what it was, and belongs to nobody.
    fn leave(&mut self, group: Group<K>, object: &K) {
        let Some(group) = group(object) else { return };
        if let Some(members) = self.groups.get_mut(&group) {
            members.remove(&object.metadata().key);
            if members.is_empty() {
                self.groups.remove(&group);
            }
        }
    }
}

/// Objects of one kind.
pub(crate) struct Cache<K> {
    resource: Resource,
    group: Group<K>,
    inner: RwLock<Inner<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    complete: watch::Sender<bool>,
}

impl<K: Stored> Cache<K> {
    pub(crate) fn new(resource: Resource) -> Arc<Self> {
        Self::grouped(resource, |_| None)
    }

    /// One that finds what belongs to an object without looking at all others.
    pub(crate) fn grouped(resource: Resource, group: Group<K>) -> Arc<Self> {
        Arc::new(Self {
            resource,
            group,
            inner: RwLock::new(Inner {
                objects: BTreeMap::new(),
                groups: HashMap::new(),
                revision: 0,
                begun: 0,
                completed: 0,
            }),
            handlers: RwLock::new(Vec::new()),
            complete: watch::Sender::new(false),
        })
    }

    /// Calls `handler` at every later change. Register before [`Cache::run`].
    pub(crate) fn on_change(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        self.handlers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(handler));
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    /// All objects for which `wanted` holds, in the order of their keys.
    pub(crate) fn all(&self, wanted: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        self.read()
            .objects
            .values()
            .filter(|object| wanted(object))
            .cloned()
            .collect()
    }

    /// The same within one namespace.
    pub(crate) fn within(&self, namespace: &str, wanted: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let first = Key::new(namespace, "");
        self.read()
            .objects
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(|(key, _)| &*key.namespace == namespace)
            .filter(|(_, object)| wanted(object))
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// All objects that belong to the one of that key, in the order of their own keys.
    pub(crate) fn group(&self, of: &Key) -> Vec<Arc<K>> {
        let inner = self.read();
        let keys = inner.groups.get(of).into_iter().flatten();
        keys.filter_map(|key| inner.objects.get(key).cloned()).collect()
    }

    /// What a cache must have seen so that a write that returned `revision` just now is in it.
    pub(crate) fn mark(&self, revision: u64) -> Mark {
        Mark {
            revision,
            lists: self.read().begun,
        }
    }

    /// Whether everything up to the mark is in the cache: by its events, or by a list that began after it was set.
    pub(crate) fn has_seen(&self, mark: Mark) -> bool {
        let inner = self.read();
        inner.revision >= mark.revision || inner.completed > mark.lists
    }

    /// Whether the first list is complete.
    pub(crate) fn is_complete(&self) -> bool {
        *self.complete.borrow()
    }

    /// Waits for the first complete list: before it absence means nothing.
    pub(crate) async fn completed(&self) {
        // The sender lives as long as the cache, so the only end of this wait is the value.
        let _ = self.complete.subscribe().wait_for(|complete| *complete).await;
    }

    /// Lists and watches until shutdown.
    pub(crate) async fn run(self: Arc<Self>, client: Client, shutdown: CancellationToken) {
        let api: Api<K::Wire> = Api::all_with(client, &self.resource);
        let mut pause = PAUSE.0;
        loop {
            let mut stream = std::pin::pin!(watcher(api.clone(), watcher::Config::default()));
            let mut listed = None;
            loop {
                let event = tokio::select! {
                    () = shutdown.cancelled() => return,
                    event = stream.next() => event,
                };
                match event {
                    Some(Ok(event)) => {
                        pause = PAUSE.0;
                        self.apply(event, &mut listed);
                    }
                    Some(Err(error)) => {
                        tracing::debug!(kind = %self.resource.kind, %error, "watch interrupted");
                        tokio::select! {
                            () = shutdown.cancelled() => return,
                            () = tokio::time::sleep(pause) => {}
                        }
                        pause = (pause * 2).min(PAUSE.1);
                        // kube retries the same revision for ever when the refusal comes as the answer itself instead of as an event.
                        if expired(&error) {
                            break;
                        }
                    }
                    None => break,
                }
            }
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner<K>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Inner<K>> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, event: watcher::Event<K::Wire>, listed: &mut Option<(u64, BTreeSet<Key>)>) {
        match event {
            watcher::Event::Init => {
                let mut inner = self.write();
                inner.begun += 1;
                *listed = Some((inner.begun, BTreeSet::new()));
            }
            watcher::Event::InitApply(wire) => {
                let object = Arc::new(K::from_wire(wire));
                if let Some((_, keys)) = listed {
                    keys.insert(object.metadata().key.clone());
                }
                self.put(&object);
            }
            watcher::Event::InitDone => {
                let mut gone = Vec::new();
                if let Some((number, keys)) = listed.take() {
                    let mut inner = self.write();
                    inner.completed = number;
                    inner.objects.retain(|key, object| {
                        let stays = keys.contains(key);
                        if !stays {
                            gone.push(Arc::clone(object));
                        }
                        stays
                    });
                    for object in &gone {
                        inner.leave(self.group, object);
                    }
                }
                for object in &gone {
                    self.tell(&Change::Gone(object));
                }
                self.complete.send_replace(true);
            }
            watcher::Event::Apply(wire) => self.put(&Arc::new(K::from_wire(wire))),
            watcher::Event::Delete(wire) => {
                let object = Arc::new(K::from_wire(wire));
                let metadata = object.metadata();
                {
                    let mut inner = self.write();
                    inner.revision = inner.revision.max(metadata.revision);
                    if let Some(known) = inner.objects.remove(&metadata.key) {
                        inner.leave(self.group, &known);
                    }
                }
                self.tell(&Change::Gone(&object));
            }
        }
    }

    fn put(&self, object: &Arc<K>) {
        let metadata = object.metadata();
        let previous = {
            let mut inner = self.write();
            inner.revision = inner.revision.max(metadata.revision);
            let previous = inner.objects.insert(metadata.key.clone(), Arc::clone(object));
            if let Some(previous) = &previous {
                inner.leave(self.group, previous);
            }
            if let Some(group) = (self.group)(object) {
                inner.groups.entry(group).or_default().insert(metadata.key.clone());
            }
            previous
        };
        match previous {
            // Deleted and made again while nobody listened: two objects, not one that changed.
            Some(previous) if previous.metadata().uid != metadata.uid => {
                self.tell(&Change::Gone(&previous));
                self.tell(&Change::Put {
                    previous: None,
                    current: object,
                });
            }
            // A list repeats what was known.
            Some(previous) if previous.metadata().revision == metadata.revision => {}
            previous => self.tell(&Change::Put {
                previous: previous.as_ref(),
                current: object,
            }),
        }
    }

    fn tell(&self, change: &Change<'_, K>) {
        for handler in self.handlers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            handler(change);
        }
    }
}

fn expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

/// Any cache, as garbage collection sees it.
pub(crate) trait Objects: Send + Sync {
    /// The kind held.
    fn resource(&self) -> &Resource;
    /// Identity and owners of one object.
    fn metadata(&self, key: &Key) -> Option<Metadata>;
    /// Keys of the objects for which `wanted` holds.
    fn keys(&self, wanted: &dyn Fn(&Metadata) -> bool) -> Vec<Key>;
    /// Calls `handler` with what an object was and is; none where it was or is not.
    fn on_metadata(&self, handler: MetadataHandler);
    /// Waits for the first complete list.
    fn complete(&self) -> BoxFuture<'_, ()>;
    /// Lists and watches until shutdown.
    fn reflect(self: Arc<Self>, client: Client, shutdown: CancellationToken) -> BoxFuture<'static, ()>;
}

/// Called with what an object was and is.
pub(crate) type MetadataHandler = Box<dyn Fn(Option<&Metadata>, Option<&Metadata>) + Send + Sync>;

impl<K: Stored> Objects for Cache<K> {
    fn resource(&self) -> &Resource {
        &self.resource
    }

    fn metadata(&self, key: &Key) -> Option<Metadata> {
        self.read().objects.get(key).map(|object| object.metadata().clone())
    }

    fn keys(&self, wanted: &dyn Fn(&Metadata) -> bool) -> Vec<Key> {
        self.read()
            .objects
            .values()
            .map(|object| object.metadata())
            .filter(|metadata| wanted(metadata))
            .map(|metadata| metadata.key.clone())
            .collect()
    }

    fn on_metadata(&self, handler: MetadataHandler) {
        self.on_change(move |change| match change {
            Change::Put { previous, current } => {
                handler(previous.map(|object| object.metadata()), Some(current.metadata()));
            }
            Change::Gone(object) => handler(Some(object.metadata()), None),
        });
    }

    fn complete(&self) -> BoxFuture<'_, ()> {
        self.completed().boxed()
    }

    fn reflect(self: Arc<Self>, client: Client, shutdown: CancellationToken) -> BoxFuture<'static, ()> {
        self.run(client, shutdown).boxed()
    }
}

#[cfg(test)]
mod tests;
