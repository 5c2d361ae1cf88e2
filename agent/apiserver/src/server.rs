//! The server itself: what it is made of, and how others get at it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::{Extension, Router};
use futures::Stream;
use minidc_api::feed::Feed;
use minidc_api::kinds::{self, Kind, Storage};
use minidc_store::{MemoryPrefix, Store};
use serde_json::json;

use crate::archive;
use crate::call::Call;
use crate::create;
use crate::dial::NodeDialer;
use crate::dispatch;
use crate::error::{Error, Failure};
use crate::feed;
use crate::identity::Identity;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::read::Snapshots;
use crate::services;
use crate::services::kubernetes::Published;

/// Most events kept; older ones go first. One takes about 2 KB.
const MOST_EVENTS: usize = 1000;

/// Namespaces that every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// What a server needs from its surroundings.
#[derive(Clone)]
pub struct Options {
    /// Directory of the image archives, `<name of the image object>.tar`.
    pub images: PathBuf,
    /// Seconds that pods stay on a node that is not ready or not reachable, unless they say otherwise themselves;
    /// Kubernetes' own default is 300.
    pub default_toleration_seconds: u32,
    /// The way to the nodes, for logs and exec.
    pub nodes: Arc<dyn NodeDialer>,
    /// Name of the cluster.
    pub cluster: String,
    /// Range of the addresses of services in CIDR form. Once services have addresses it cannot change any more; see
    /// [`ApiServer::service_range`].
    pub service_range: String,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Options")
            .field("cluster", &self.cluster)
            .field("images", &self.images)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) options: Options,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Arc<Limits>,
    pub(crate) snapshots: Snapshots,
    pub(crate) uploads: tokio::sync::Semaphore,
    published: Mutex<Option<Published>>,
}

impl Inner {
    /// Where the API is reached, once that was told.
    pub(crate) fn published(&self) -> Option<Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Cleans up after an object that is gone from the store.
    pub(crate) fn deleted(&self, kind: &Kind, name: &str) {
        if kind.group == "minidc.dev" && kind.plural == "images" {
            let path = archive::file(&self.options.images, name);
            // Unlinking a large file takes a while on an SD card.
            tokio::task::spawn_blocking(move || match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(%error, path = %path.display(), "an image archive could not be removed");
                }
                _ => {}
            });
        }
    }
}

/// A handle on the API server; clones share it.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ApiServer")
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}

/// What the table of kinds asks of the store: which kinds live in memory only, for how long, and how many.
pub fn memory_prefixes() -> Vec<MemoryPrefix> {
    let memory = kinds::all().iter().filter_map(|kind| match kind.storage {
        Storage::Memory { ttl_seconds } => Some((kind, ttl_seconds)),
        Storage::Durable | Storage::Computed => None,
    });
    let prefixes = memory.map(|(kind, ttl)| {
        let prefix = MemoryPrefix::new(kind.store_prefix());
        match ttl {
            Some(seconds) => prefix.ttl(Duration::from_secs(u64::from(seconds))).most(MOST_EVENTS),
            None => prefix,
        }
    });
    prefixes.collect()
}

impl ApiServer {
    /// A server over a store, which is to be opened with [`memory_prefixes`].
    pub fn new(store: Store, options: Options) -> Self {
        let inner = Inner {
            store,
            options,
            metrics: Metrics::default(),
            limits: Arc::default(),
            snapshots: Snapshots::default(),
            uploads: tokio::sync::Semaphore::new(archive::UPLOADS),
            published: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Makes what must exist before the first request: the namespaces, the range of service addresses, the service
    /// `kubernetes` and the directory for images. Does nothing where they exist.
    ///
    /// # Errors
    /// The store or the disk refuses, or the configured range of service addresses cannot be used.
    pub async fn bootstrap(&self) -> Result<(), Error> {
        let images = self.inner.options.images.clone();
        archive::prepare(&images).map_err(|source| Error::Images { path: images, source })?;
        let Some(kind) = kinds::by_resource("", "v1", "namespaces") else {
            return Ok(());
        };
        for name in NAMESPACES {
            let mut call = Call::own(&self.inner, kind, "", name);
            if self.inner.store.get(&call.key()).is_some() {
                continue;
            }
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            let refused = |failure: Failure| Error::Refused {
                kind: "namespace",
                name: name.to_owned(),
                message: failure.to_string(),
            };
            create::create_object(&mut call, object).await.map_err(refused)?;
        }
        services::kubernetes::bootstrap(&self.inner).await
    }

    /// The range that services get their addresses from, such as `100.65.0.0/16`: the configured one, unless services had
    /// addresses out of another one when it was changed. `None` before [`ApiServer::bootstrap`].
    pub fn service_range(&self) -> Option<String> {
        let ranges = services::in_force(&self.inner.store);
        ranges.first().map(ToString::to_string)
    }

    /// Tells pods where the API is: keeps the endpoints of the service `kubernetes` as said, also when somebody deletes them.
    /// Addresses of another IP family than the services' are left out; when none is left, the last ones stay.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn publish_endpoints(&self, addresses: &[IpAddr], port: u16) -> Result<(), Error> {
        let published = Published {
            addresses: addresses.to_vec(),
            port,
        };
        *self.inner.published.lock().unwrap_or_else(PoisonError::into_inner) = Some(published);
        let refused = |failure: Failure| Error::Refused {
            kind: "endpoints",
            name: "kubernetes".to_owned(),
            message: failure.to_string(),
        };
        services::kubernetes::keep(&self.inner).await.map_err(refused)
    }

    /// The API for a listener that puts an [`Identity`] into each request's extensions; a request without one is
    /// anonymous.
    pub fn router(&self) -> Router {
        Router::new()
            .fallback(dispatch::handle)
            .with_state(Arc::clone(&self.inner))
    }

    /// The API for one in-process caller: every request is this user's, whatever it carries. Groups as in
    /// [`Identity::groups`].
    pub fn router_as(&self, user: &str, groups: &[&str]) -> Router {
        self.router().layer(Extension(Identity::new(user, groups)))
    }

    /// What a node needs, without end: a snapshot, its end mark, then changes. A receiver that was too slow gets the
    /// deletes it missed, a whole new snapshot and its end mark, and then changes again. It ends only with the store.
    pub fn feed(&self, node: &str) -> impl Stream<Item = Feed> + Send + 'static {
        feed::feed(self.inner.store.clone(), node.to_owned())
    }

    /// Where nodes' measurements go, and `metrics.k8s.io` comes from.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// The store behind.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The file of an image's archive, by the name of its object. It exists once the object does.
    pub fn image_archive(&self, name: &str) -> PathBuf {
        archive::file(&self.inner.options.images, name)
    }
}
