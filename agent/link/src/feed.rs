//! The node's copy of what it is to run: applies the feed, hands it on, keeps it on disk.
//!
//! A snapshot takes effect as a whole, at its [`Feed::End`]: until then the node goes on with what it has, so an interrupted
//! snapshot changes nothing, and absence counts only once everything was said. The file (postcard, 0600: it holds secrets) is written at most once per [`WRITE_INTERVAL`], and only
//! when something changed that a node alone would need: status and resource versions are not such a thing.
//!
//! Services, EndpointSlices and namespaces can be many and each change concerns few: they are not part of [`FeedState`],
//! which is handed on as a whole, but told one by one ([`Keeper::changes`]).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use minidc_api::feed::{Feed, FeedItem, FeedKind, FeedOp};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::protocol::StoreId;
use crate::{Error, files, pki};

/// Least time between two writes of the file.
pub const WRITE_INTERVAL: Duration = Duration::from_secs(10);
/// Changes come in bursts: wait so long after the first before writing.
const SETTLE: Duration = Duration::from_secs(1);
/// First byte of the file.
const FILE_VERSION: u8 = 1;

/// Kind, namespace, name.
pub type Key = (FeedKind, String, String);

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Revision of the store at which it became so.
    pub revision: u64,
    /// The object as stored, with `resourceVersion`.
    pub json: Bytes,
    /// Hash of what a node alone needs of it.
    essence: [u8; 32],
}

/// What the node knows of its desired state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedState {
    /// A snapshot was received whole since this program started: what is not here is not wanted. Stays true when the link goes.
    pub synced: bool,
    /// The objects are those that were on disk at the start: no snapshot was received whole since.
    pub from_disk: bool,
    /// The store they came from, and the newest revision seen of it.
    pub store: Option<StoreId>,
    /// The objects, but for those of [`Keeper::changes`].
    pub items: BTreeMap<Key, Entry>,
}

/// News of a Service, an EndpointSlice or a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The object as it is now, or that it is gone.
    Changed(Key, Option<Bytes>),
    /// All that exists has been told.
    Synced,
}

fn is_told_singly(kind: FeedKind) -> bool {
    matches!(kind, FeedKind::Service | FeedKind::EndpointSlice | FeedKind::Namespace)
}

/// How a welcome's store compares to the one that this node has been following.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The same, or the first.
    Fits,
    /// Another store, or an older state of the same.
    Foreign {
        /// What this node follows.
        known: StoreId,
    },
}

#[derive(Serialize, Deserialize)]
struct FileContent {
    store: Option<StoreId>,
    items: Vec<(FeedKind, String, String, u64, Vec<u8>)>,
}

/// Keeps the state. One per node program.
pub struct Keeper {
    path: PathBuf,
    state: watch::Sender<Arc<FeedState>>,
    working: Mutex<Working>,
    changed: Notify,
    settle: Duration,
    interval: Duration,
}

#[derive(Default)]
struct Working {
    /// The snapshot that is coming in.
    snapshot: Option<BTreeMap<Key, Entry>>,
    /// What is told one by one, as it is now.
    singly: BTreeMap<Key, Entry>,
    /// Newest revision that such an object came with.
    seen: u64,
    listeners: Vec<mpsc::UnboundedSender<Told>>,
    dirty: bool,
}

impl Working {
    fn tell(&mut self, news: &Told) {
        self.listeners.retain(|listener| listener.send(news.clone()).is_ok());
    }

    /// Takes a change of one object. Returns whether it belongs on disk.
    fn change_singly(&mut self, item: FeedItem) -> bool {
        self.seen = self.seen.max(item.revision);
        let key = (item.kind, item.namespace.clone(), item.name.clone());
        let essential = change(&mut self.singly, item);
        if essential {
            let json = self.singly.get(&key).map(|entry| entry.json.clone());
            self.tell(&Told::Changed(key, json));
        }
        essential
    }

    /// Takes the place of all that was known, and tells the difference. Returns whether there was one.
    fn replace_singly(&mut self, items: BTreeMap<Key, Entry>) -> bool {
        let before = std::mem::replace(&mut self.singly, items);
        let gone = before.keys().filter(|key| !self.singly.contains_key(*key));
        let differs =
            |(key, entry): &(&Key, &Entry)| before.get(*key).is_none_or(|known| known.essence != entry.essence);
        let changed = self.singly.iter().filter(differs);
        let gone = gone.map(|key| Told::Changed(key.clone(), None));
        // what is new first: a slice that took the place of another must not leave its Service without any for a moment
        let news: Vec<Told> = changed
            .map(|(key, entry)| Told::Changed(key.clone(), Some(entry.json.clone())))
            .chain(gone)
            .collect();
        for told in &news {
            self.tell(told);
        }
        !news.is_empty()
    }
}

impl Keeper {
    /// Reads the file at `path`, if there is one. One that cannot be read is reported and counts as none: the node then starts
    /// knowing nothing, and acts on no absence until it has heard the control plane.
    pub fn load(path: PathBuf) -> Self {
        let mut working = Working::default();
        let state = match read(&path) {
            Ok(Some(content)) => {
                let known = content
                    .items
                    .into_iter()
                    .map(|(kind, namespace, name, revision, json)| {
                        ((kind, namespace, name), Entry::new(kind, revision, json))
                    });
                let (singly, items) = known.partition(|((kind, ..), _)| is_told_singly(*kind));
                working.singly = singly;
                FeedState {
                    synced: false,
                    from_disk: true,
                    store: content.store,
                    items,
                }
            }
            Ok(None) => FeedState::default(),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "the desired state on disk is lost");
                FeedState::default()
            }
        };
        Self {
            path,
            state: watch::Sender::new(Arc::new(state)),
            working: Mutex::new(working),
            changed: Notify::new(),
            settle: SETTLE,
            interval: WRITE_INTERVAL,
        }
    }

    /// Where the state is to be had.
    pub fn subscribe(&self) -> watch::Receiver<Arc<FeedState>> {
        self.state.subscribe()
    }

    /// All Services, EndpointSlices and namespaces as they are now, then their changes as they come. What was on disk is told
    /// too, before [`Told::Synced`].
    pub fn changes(&self) -> mpsc::UnboundedReceiver<Told> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut working = self.lock();
        let known = working
            .singly
            .iter()
            .map(|(key, entry)| Told::Changed(key.clone(), Some(entry.json.clone())));
        // the receiver is still here, so none of these is lost
        for told in known.chain(self.state.borrow().synced.then_some(Told::Synced)) {
            let _ = sender.send(told);
        }
        working.listeners.push(sender);
        receiver
    }

    /// The store that this node follows.
    pub fn store(&self) -> Option<StoreId> {
        let seen = self.lock().seen;
        let store = self.state.borrow().store;
        store.map(|store| store.at_least(seen))
    }

    /// Whether a store that says it is `offered` is the one that this node follows.
    pub fn fit(&self, offered: StoreId) -> Fit {
        match self.store() {
            Some(known) if known.identity != offered.identity || known.revision > offered.revision => {
                Fit::Foreign { known }
            }
            _ => Fit::Fits,
        }
    }

    /// A snapshot of `store` follows.
    pub fn begin(&self, store: StoreId) {
        let mut working = self.lock();
        working.snapshot = Some(BTreeMap::new());
        let previous = self.state.borrow().store;
        working.seen = 0;
        if previous.is_none_or(|previous| previous.identity != store.identity) {
            working.dirty = true;
            self.changed.notify_one();
        }
        self.state.send_modify(|state| Arc::make_mut(state).store = Some(store));
    }

    /// Applies one element. Those of a snapshot are set aside until its end.
    pub fn apply(&self, element: Feed) {
        let mut working = self.lock();
        let mut essential = false;
        match (element, &mut working.snapshot) {
            (Feed::Item(item), Some(snapshot)) => {
                change(snapshot, item);
            }
            (Feed::Item(item), None) if is_told_singly(item.kind) => essential = working.change_singly(item),
            (Feed::Item(item), None) => self.state.send_modify(|state| {
                let state = Arc::make_mut(state);
                state.seen(item.revision);
                essential = change(&mut state.items, item);
            }),
            (Feed::End { revision }, _) => {
                let snapshot = working.snapshot.take().map(|items| {
                    let (singly, items): (BTreeMap<Key, Entry>, _) =
                        items.into_iter().partition(|((kind, ..), _)| is_told_singly(*kind));
                    essential = working.replace_singly(singly);
                    items
                });
                self.state.send_modify(|state| {
                    let state = Arc::make_mut(state);
                    state.seen(revision);
                    if let Some(items) = snapshot {
                        essential |= !same(&state.items, &items);
                        state.items = items;
                    }
                    state.synced = true;
                    state.from_disk = false;
                });
                working.tell(&Told::Synced);
            }
        }
        if essential {
            working.dirty = true;
            self.changed.notify_one();
        }
    }

    /// Follows whatever store comes next. What runs stays until the end of its snapshot.
    pub fn adopt(&self) {
        let mut working = self.lock();
        working.dirty = true;
        working.seen = 0;
        self.state.send_modify(|state| Arc::make_mut(state).store = None);
        self.changed.notify_one();
    }

    /// Writes the file when there is reason to; a last time when `shutdown` is told.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut last: Option<Instant> = None;
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                () = shutdown.cancelled() => break,
            }
            let now = Instant::now();
            let settled = now + self.settle;
            let due = last.map_or(settled, |last| (last + self.interval).max(settled));
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = shutdown.cancelled() => break,
            }
            self.write().await;
            last = Some(Instant::now());
        }
        self.write().await;
    }

    async fn write(&self) {
        let (state, singly, store) = {
            let mut working = self.lock();
            if !std::mem::take(&mut working.dirty) {
                return;
            }
            let state = Arc::clone(&self.state.borrow());
            let store = state.store.map(|store| store.at_least(working.seen));
            (state, working.singly.clone(), store)
        };
        let path = self.path.clone();
        let encode = move || files::replace_private(&path, &to_bytes(store, state.items.iter().chain(&singly))?);
        let written = tokio::task::spawn_blocking(encode).await;
        let result = written.unwrap_or_else(|error| Err(Error::protocol("write the desired state", error)));
        if let Err(error) = result {
            tracing::error!(%error, "the desired state was not written; trying again");
            self.lock().dirty = true;
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Working> {
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FeedState {
    fn seen(&mut self, revision: u64) {
        self.store = self.store.map(|store| store.at_least(revision));
    }
}

impl StoreId {
    fn at_least(self, revision: u64) -> Self {
        Self {
            revision: self.revision.max(revision),
            ..self
        }
    }
}

/// Returns whether something changed that belongs on disk.
fn change(items: &mut BTreeMap<Key, Entry>, item: FeedItem) -> bool {
    let key = (item.kind, item.namespace, item.name);
    match item.op {
        FeedOp::Put(json) => {
            let entry = Entry::new(item.kind, item.revision, json);
            let essence = entry.essence;
            let lasting = key.0 != FeedKind::NetCheck;
            lasting & items.insert(key, entry).is_none_or(|before| before.essence != essence)
        }
        FeedOp::Delete => items.remove(&key).is_some() && key.0 != FeedKind::NetCheck,
    }
}

/// Whether two states are the same as far as the disk is concerned.
fn same(one: &BTreeMap<Key, Entry>, other: &BTreeMap<Key, Entry>) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|((key, entry), (other_key, other))| key == other_key && entry.essence == other.essence)
}

impl Entry {
    fn new(kind: FeedKind, revision: u64, json: Vec<u8>) -> Self {
        let essence = essence(kind, &json);
        Self {
            revision,
            json: Bytes::from(json),
            essence,
        }
    }
}

/// Hash of an object without what changes often and a node alone does not need.
fn essence(kind: FeedKind, json: &[u8]) -> [u8; 32] {
    let Ok(mut object) = serde_json::from_slice::<serde_json::Value>(json) else {
        return pki::sha256(json);
    };
    if let Some(metadata) = object.get_mut("metadata").and_then(|metadata| metadata.as_object_mut()) {
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
    }
    if let Some(object) = object.as_object_mut() {
        match kind {
            FeedKind::Pod | FeedKind::Image => {
                object.remove("status");
            }
            FeedKind::Node => {
                let addresses = object
                    .remove("status")
                    .and_then(|mut status| Some(status.get_mut("addresses")?.take()));
                object.insert("addresses".into(), addresses.unwrap_or_default());
            }
            FeedKind::Namespace => {
                object.remove("status");
            }
            FeedKind::ConfigMap
            | FeedKind::Secret
            | FeedKind::Service
            | FeedKind::EndpointSlice
            | FeedKind::NetCheck => {}
        }
    }
    pki::sha256(object.to_string().as_bytes())
}

fn to_bytes<'a>(store: Option<StoreId>, items: impl Iterator<Item = (&'a Key, &'a Entry)>) -> Result<Vec<u8>, Error> {
    // a check of the network is over before a node that was switched off is up again
    let lasting = items.filter(|((kind, ..), _)| *kind != FeedKind::NetCheck);
    let items = lasting.map(|((kind, namespace, name), entry)| {
        (
            *kind,
            namespace.clone(),
            name.clone(),
            entry.revision,
            entry.json.to_vec(),
        )
    });
    let content = FileContent {
        store,
        items: items.collect(),
    };
    postcard::to_extend(&content, vec![FILE_VERSION])
        .map_err(|error| Error::protocol("encode the desired state", error))
}

fn read(path: &std::path::Path) -> Result<Option<FileContent>, Error> {
    let Some(bytes) = files::read(path)? else {
        return Ok(None);
    };
    match bytes.split_first() {
        Some((&FILE_VERSION, content)) => postcard::from_bytes(content)
            .map(Some)
            .map_err(|error| Error::protocol("decode the desired state", error)),
        Some((version, _)) => Err(Error::protocol(
            "decode the desired state",
            format_args!("its version is {version}"),
        )),
        None => Err(Error::protocol("decode the desired state", "it is empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const STORE: StoreId = StoreId {
        identity: Uuid::from_u128(1),
        revision: 10,
    };

    fn put(kind: FeedKind, name: &str, revision: u64, json: &str) -> Feed {
        let op = FeedOp::Put(json.as_bytes().to_vec());
        Feed::Item(FeedItem {
            kind,
            namespace: "default".into(),
            name: name.into(),
            revision,
            op,
        })
    }

    fn names(keeper: &Keeper) -> Vec<String> {
        keeper
            .subscribe()
            .borrow()
            .items
            .keys()
            .map(|key| key.2.clone())
            .collect()
    }

    fn keeper() -> (tempfile::TempDir, Keeper) {
        let directory = tempfile::tempdir().unwrap();
        let keeper = Keeper::load(directory.path().join("desired"));
        (directory, keeper)
    }

    #[test]
    fn absence_counts_only_after_the_end_mark() {
        let (_directory, keeper) = keeper();
        keeper.begin(STORE);
        keeper.apply(put(FeedKind::Pod, "a", 1, "{}"));
        assert!(!keeper.subscribe().borrow().synced);
        keeper.apply(put(FeedKind::Pod, "b", 2, "{}"));
        keeper.apply(Feed::End { revision: 11 });
        assert!(keeper.subscribe().borrow().synced);
        // The link breaks; a new snapshot comes without b.
        keeper.begin(STORE);
        keeper.apply(put(FeedKind::Pod, "c", 12, "{}"));
        // It breaks again before the end, and comes back.
        keeper.begin(STORE);
        keeper.apply(put(FeedKind::Pod, "c", 12, "{}"));
        assert_eq!(names(&keeper), ["a", "b"]);
        keeper.apply(put(FeedKind::Pod, "a", 1, "{}"));
        keeper.apply(Feed::End { revision: 12 });
        assert_eq!(names(&keeper), ["a", "c"]);
        let delete = FeedItem {
            kind: FeedKind::Pod,
            namespace: "default".into(),
            name: "c".into(),
            revision: 13,
            op: FeedOp::Delete,
        };
        keeper.apply(Feed::Item(delete));
        assert_eq!(names(&keeper), ["a"]);
        assert_eq!(keeper.store().unwrap().revision, 13);
    }

    #[test]
    fn other_and_older_stores_are_foreign_until_adopted() {
        let (_directory, keeper) = keeper();
        assert_eq!(keeper.fit(STORE), Fit::Fits);
        keeper.begin(STORE);
        keeper.apply(Feed::End { revision: 20 });
        let known = StoreId { revision: 20, ..STORE };
        assert_eq!(keeper.fit(StoreId { revision: 20, ..STORE }), Fit::Fits);
        assert_eq!(keeper.fit(StoreId { revision: 19, ..STORE }), Fit::Foreign { known });
        assert_eq!(
            keeper.fit(StoreId {
                identity: Uuid::from_u128(2),
                revision: 99
            }),
            Fit::Foreign { known }
        );
        keeper.adopt();
        assert_eq!(
            keeper.fit(StoreId {
                identity: Uuid::from_u128(2),
                revision: 3
            }),
            Fit::Fits
        );
    }

    #[tokio::test]
    async fn restarted_node_has_its_last_state_and_acts_on_no_absence() {
        use std::os::unix::fs::PermissionsExt;
        let (directory, keeper) = keeper();
        keeper.begin(STORE);
        keeper.apply(put(FeedKind::Pod, "a", 1, r#"{"metadata":{"name":"a"}}"#));
        keeper.apply(Feed::End { revision: 11 });
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        keeper.run(shutdown).await;
        let path = directory.path().join("desired");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Keeper::load(path.clone());
        let state = Arc::clone(&again.subscribe().borrow());
        assert!(state.from_disk && !state.synced);
        assert_eq!(names(&again), ["a"]);
        assert_eq!(state.store, Some(StoreId { revision: 11, ..STORE }));
        std::fs::write(&path, b"\x01garbage").unwrap();
        let broken = Keeper::load(path);
        assert!(names(&broken).is_empty() && !broken.subscribe().borrow().synced);
    }

    #[tokio::test]
    async fn disk_is_written_rarely_and_only_for_what_matters() {
        let (directory, mut keeper) = keeper();
        (keeper.settle, keeper.interval) = (Duration::from_millis(20), Duration::from_secs(3));
        let keeper = Arc::new(keeper);
        let path = directory.path().join("desired");
        let shutdown = CancellationToken::new();
        let running = tokio::spawn({
            let (keeper, shutdown) = (Arc::clone(&keeper), shutdown.clone());
            async move { keeper.run(shutdown).await }
        });
        let written = || async {
            let began = Instant::now();
            while !path.exists() {
                assert!(began.elapsed() < Duration::from_secs(60));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            std::fs::remove_file(&path).unwrap();
            Instant::now()
        };
        keeper.begin(STORE);
        keeper.apply(put(
            FeedKind::Pod,
            "a",
            1,
            r#"{"metadata":{"resourceVersion":"1"},"spec":{"x":1}}"#,
        ));
        keeper.apply(Feed::End { revision: 11 });
        let first = written().await;
        // Only status and version change, which is not worth a write; then the spec changes, twice.
        keeper.apply(put(
            FeedKind::Pod,
            "a",
            12,
            r#"{"metadata":{"resourceVersion":"12"},"spec":{"x":1},"status":{"phase":"Running"}}"#,
        ));
        assert!(!keeper.lock().dirty);
        keeper.apply(put(FeedKind::Pod, "a", 13, r#"{"spec":{"x":2}}"#));
        keeper.apply(put(FeedKind::Pod, "a", 14, r#"{"spec":{"x":3}}"#));
        let second = written().await;
        // a busy machine may look late at the first, not at neither
        assert!(second - first >= Duration::from_secs(1), "{:?}", second - first);
        assert!(!keeper.lock().dirty, "both in one write");
        shutdown.cancel();
        running.await.unwrap();
        assert!(!path.exists(), "nothing was left to write");
    }

    fn told(receiver: &mut mpsc::UnboundedReceiver<Told>) -> Vec<String> {
        std::iter::from_fn(|| receiver.try_recv().ok())
            .map(|told| match told {
                Told::Changed((_, _, name), Some(_)) => format!("+{name}"),
                Told::Changed((_, _, name), None) => format!("-{name}"),
                Told::Synced => "synced".into(),
            })
            .collect()
    }

    #[tokio::test]
    async fn services_are_told_one_by_one_and_survive_a_restart() {
        let (directory, keeper) = keeper();
        let mut early = keeper.changes();
        keeper.begin(STORE);
        keeper.apply(put(FeedKind::Service, "a", 1, r#"{"spec":1}"#));
        keeper.apply(put(FeedKind::Service, "b", 2, r#"{"spec":1}"#));
        assert!(told(&mut early).is_empty(), "nothing before the end of the snapshot");
        keeper.apply(Feed::End { revision: 11 });
        assert_eq!(told(&mut early), ["+a", "+b", "synced"]);
        assert!(names(&keeper).is_empty(), "not part of the state");
        keeper.apply(put(
            FeedKind::EndpointSlice,
            "c",
            12,
            r#"{"endpoints":1,"metadata":{"resourceVersion":"12"}}"#,
        ));
        let same = r#"{"endpoints":1,"metadata":{"resourceVersion":"13"}}"#;
        keeper.apply(put(FeedKind::EndpointSlice, "c", 13, same));
        assert_eq!(told(&mut early), ["+c"], "a new version of the same is no news");
        assert_eq!(keeper.store().unwrap().revision, 13);
        assert_eq!(told(&mut keeper.changes()), ["+a", "+b", "+c", "synced"]);
        // the link was away: only what differs is told
        keeper.begin(STORE);
        keeper.apply(put(FeedKind::Service, "b", 2, r#"{"spec":2}"#));
        keeper.apply(put(
            FeedKind::EndpointSlice,
            "c",
            12,
            r#"{"endpoints":1,"metadata":{"resourceVersion":"12"}}"#,
        ));
        keeper.apply(Feed::End { revision: 14 });
        assert_eq!(told(&mut early), ["+b", "-a", "synced"]);

        let shutdown = CancellationToken::new();
        shutdown.cancel();
        keeper.run(shutdown).await;
        let again = Keeper::load(directory.path().join("desired"));
        assert_eq!(
            told(&mut again.changes()),
            ["+b", "+c"],
            "not synced: absence means nothing"
        );
    }

    #[test]
    fn node_without_new_addresses_is_not_news() {
        let node = |ready: &str, address: &str| {
            essence(
                FeedKind::Node,
                format!(r#"{{"status":{{"addresses":["{address}"],"conditions":["{ready}"]}}}}"#).as_bytes(),
            )
        };
        assert_eq!(node("True", "10.0.0.1"), node("Unknown", "10.0.0.1"));
        assert_ne!(node("True", "10.0.0.1"), node("True", "10.0.0.2"));
    }
}
