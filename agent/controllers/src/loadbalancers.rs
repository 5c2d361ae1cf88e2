//! Services of type LoadBalancer: each gets the address of a node, and a name on the LAN.
//!
//! A rack has no load balancer in front; each node can take what comes for a Service and pass it on. Which node does is decided here for
//! all Services together, since two of the same port cannot be at one node. A Service stays where it is until that node is not well.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::cache::{Cache, Change};
use crate::events::{Level, Recorder};
use crate::objects::endpoint_slice::{Endpoint, EndpointSlice};
use crate::objects::node::Node;
use crate::objects::pod::Pod;
use crate::objects::service::{ANNOUNCED_BY, LOCAL_NAME, Service, ServiceType};
use crate::objects::{Key, SERVICES};
use crate::pending::{LOOK_AGAIN, Pending};
use crate::queue::{Again, Queue};
use crate::requests::Requests;

mod plan;

use plan::{Name, Observed, Place, Share, plan};

/// When to look again at Services that found no place: a port may have come free in a way that wakes nobody.
const PENDING_AGAIN: Duration = Duration::from_secs(60);

/// The one thing to do: they are decided upon together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct All;

impl fmt::Display for All {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("services of type LoadBalancer")
    }
}

/// What the controller looks at.
pub(crate) struct Caches {
    pub(crate) services: Arc<Cache<Service>>,
    pub(crate) nodes: Arc<Cache<Node>>,
    pub(crate) pods: Arc<Cache<Pod>>,
    pub(crate) slices: Arc<Cache<EndpointSlice>>,
}

/// The controller.
pub(crate) struct LoadBalancers {
    requests: Requests,
    recorder: Recorder,
    caches: Caches,
    queue: Arc<Queue<All>>,
    pending: Pending<Service>,
    /// Warnings told last, by uid: a thing is told when it comes about, not each time that it is found again.
    told: Mutex<HashMap<Box<str>, BTreeSet<String>>>,
    limits: Limits,
}

/// What no Service may have.
pub(crate) struct Limits {
    /// Name of the cluster.
    pub(crate) cluster: String,
    /// Port of the API on every node that is a control plane.
    pub(crate) api_port: u16,
}

/// Whether the Service has, or had, anything from here.
fn concerns(service: &Service) -> bool {
    service.kind == ServiceType::LoadBalancer
        || service.announced_by.is_some()
        || service.local_name.is_some()
        || !service.ingress.is_empty()
}

/// Whether a node can be judged otherwise than before.
fn differs(before: &Node, after: &Node) -> bool {
    before.ready() != after.ready()
        || before.addresses != after.addresses
        || before.unschedulable != after.unschedulable
        || before.metadata.labels != after.metadata.labels
        || before.metadata.terminating() != after.metadata.terminating()
}

impl LoadBalancers {
    pub(crate) fn new(requests: Requests, recorder: Recorder, caches: Caches, limits: Limits) -> Self {
        let queue = Queue::new();
        let sink = Arc::clone(&queue);
        caches.services.on_change(move |change| {
            let before = match change {
                Change::Put { previous, .. } => *previous,
                Change::Gone(_) => None,
            };
            if concerns(change.object()) || before.is_some_and(|before| concerns(before)) {
                sink.add(All);
            }
        });
        let sink = Arc::clone(&queue);
        caches.nodes.on_change(move |change| {
            if let Change::Put {
                previous: Some(previous),
                current,
            } = change
                && !differs(previous, current)
            {
                return;
            }
            sink.add(All);
        });
        // Where endpoints are ready matters to Services that have no place yet, and to those that need them on their own node.
        let sink = Arc::clone(&queue);
        let services = Arc::clone(&caches.services);
        caches.slices.on_change(move |change| {
            let concerned = change
                .object()
                .service()
                .and_then(|key| services.get(&key))
                .is_some_and(|service| {
                    service.wants_address() && (service.external_local || service.ingress.is_empty())
                });
            if concerned {
                sink.add(All);
            }
        });
        let sink = Arc::clone(&queue);
        caches.pods.on_change(move |change| {
            let ended = matches!(change, Change::Gone(_)) || change.object().finished();
            if ended && !change.object().host_ports.is_empty() {
                sink.add(All);
            }
        });
        Self {
            requests,
            recorder,
            pending: Pending::new(caches.services.clone()),
            caches,
            queue,
            told: Mutex::default(),
            limits,
        }
    }

    /// Works until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let complete = async {
            self.caches.services.completed().await;
            self.caches.nodes.completed().await;
            self.caches.pods.completed().await;
            self.caches.slices.completed().await;
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = complete => {}
        }
        self.queue.work(1, &shutdown, |_| self.reconcile()).await;
        Ok(())
    }

    async fn reconcile(&self) -> Result<Again, Error> {
        let services = self.caches.services.all(concerns);
        if !services
            .iter()
            .all(|service| self.pending.settled(&service.metadata.key))
        {
            return Ok(Some(LOOK_AGAIN));
        }
        let (wanting, others): (Vec<Arc<Service>>, Vec<Arc<Service>>) =
            services.into_iter().partition(|service| service.wants_address());
        let mut failed = None;
        for service in others {
            // What another implementation has written into a Service of its own class is not ours to clear.
            if service.kind != ServiceType::LoadBalancer
                && let Err(error) = self.write(&service, None, None, &[]).await
            {
                failed = Some(error);
            }
        }
        let shares = if wanting.is_empty() {
            Vec::new()
        } else {
            self.share(&wanting)
        };
        let mut again = None;
        let mut told = HashMap::new();
        for (service, share) in shares {
            if matches!(share.place, Place::Nowhere(_)) {
                again = Some(PENDING_AGAIN);
            }
            told.insert(service.metadata.uid.clone(), self.warn(&service, &share));
            if let Err(error) = self.give(&service, &share).await {
                failed = Some(error);
            }
        }
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
        failed.map_or(Ok(again), Err)
    }

    fn share(&self, services: &[Arc<Service>]) -> Vec<(Arc<Service>, Share)> {
        let mut ready: HashMap<Key, BTreeSet<Box<str>>> = HashMap::new();
        for service in services {
            let key = &service.metadata.key;
            let slices = self.caches.slices.group(key);
            let nodes = slices
                .iter()
                .flat_map(|slice| slice.endpoints.iter())
                .filter(|endpoint| Endpoint::ready(endpoint))
                .filter_map(|endpoint| endpoint.node_name.clone())
                .collect();
            ready.insert(key.clone(), nodes);
        }
        let mut host_ports: HashMap<Box<str>, HashSet<(Box<str>, u16)>> = HashMap::new();
        for pod in self
            .caches
            .pods
            .all(|pod| !pod.host_ports.is_empty() && pod.node.is_some() && !pod.finished())
        {
            let ports = pod.host_ports.iter().map(|port| (port.protocol.clone(), port.port));
            let node = pod.node.clone().unwrap_or_default();
            host_ports.entry(node).or_default().extend(ports);
        }
        plan(&Observed {
            services,
            nodes: &self.caches.nodes.all(|_| true),
            ready: &ready,
            host_ports: &host_ports,
            limits: &self.limits,
        })
    }

    /// Tells what a Service does not get, if it was not told before.
    fn warn(&self, service: &Service, share: &Share) -> BTreeSet<String> {
        let mut warnings = Vec::new();
        if let Place::Nowhere(why) = &share.place {
            warnings.push(("SyncLoadBalancerFailed", format!("Error syncing load balancer: {why}")));
        }
        if let Name::Refused(reason, why) = &share.name {
            warnings.push((reason, why.clone()));
        }
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let before = told.get(&service.metadata.uid);
        for (reason, message) in &warnings {
            if before.is_none_or(|before| !before.contains(message)) {
                self.tell(service, Level::Warning, reason, message.clone());
            }
        }
        warnings.into_iter().map(|(_, message)| message).collect()
    }

    fn tell(&self, service: &Service, level: Level, reason: &'static str, message: String) {
        self.recorder.tell(&SERVICES, &service.metadata, level, reason, message);
    }

    async fn give(&self, service: &Service, share: &Share) -> Result<(), Error> {
        let name = match &share.name {
            Name::Own(name) => Some(&**name),
            Name::Refused(..) => None,
        };
        let (node, addresses) = match &share.place {
            Place::At { node, addresses } => (
                Some(&**node),
                addresses.iter().map(|address| address.to_string().into()).collect(),
            ),
            Place::Unchanged => (service.announced_by.as_deref(), service.ingress.to_vec()),
            Place::Nowhere(_) => (None, Vec::new()),
        };
        self.write(service, node, name, &addresses).await?;
        if let Some(node) = node
            && service.announced_by.as_deref() != Some(node)
        {
            let (reason, message) = match &service.announced_by {
                Some(before) => ("LoadBalancerMoved", format!("Moved from node {before} to node {node}")),
                None => ("EnsuredLoadBalancer", format!("Ensured load balancer at node {node}")),
            };
            self.tell(service, Level::Normal, reason, message);
        }
        Ok(())
    }

    /// Writes what is other than it is: the address first, since the name is announced with the address that is there.
    async fn write(
        &self,
        service: &Service,
        node: Option<&str>,
        name: Option<&str>,
        addresses: &[Box<str>],
    ) -> Result<(), Error> {
        let metadata = &service.metadata;
        let path = SERVICES.path_of(&metadata.key);
        let mut revision = metadata.revision;
        if *service.ingress != *addresses {
            let ingress: Vec<Value> = addresses
                .iter()
                .map(|address| json!({"ip": address, "ipMode": "VIP"}))
                .collect();
            let ingress = if ingress.is_empty() {
                Value::Null
            } else {
                ingress.into()
            };
            let body = json!({
                "metadata": {"uid": metadata.uid, "resourceVersion": revision.to_string()},
                "status": {"loadBalancer": {"ingress": ingress}},
            });
            revision = self.requests.merge(&format!("{path}/status"), &body).await?.revision();
            self.pending.wrote(&metadata.key, revision);
        }
        if service.announced_by.as_deref() != node || service.local_name.as_deref() != name {
            let body = json!({"metadata": {
                "uid": metadata.uid,
                "resourceVersion": revision.to_string(),
                "annotations": {ANNOUNCED_BY: node, LOCAL_NAME: name},
            }});
            let reply = self.requests.merge(&path, &body).await?;
            self.pending.wrote(&metadata.key, reply.revision());
        }
        Ok(())
    }
}
