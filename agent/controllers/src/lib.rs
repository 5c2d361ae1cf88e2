//! What follows from what was asked: Deployments and ReplicaSets become pods, pods get nodes, silent nodes lose them, Services learn which
//! pods answer for them and get an address on the LAN, and what nobody owns any more goes.
//!
//! The controllers are ordinary clients of the API, each as its own user. They share one reflector per kind, which keeps only the fields
//! they read, and each works from a queue of keys: woken by changes, never by polling. They own no state that matters: a restart loses
//! clocks, which then run anew, to the safe side.
//!
//! They never know store, link or kubelet, never start or stop a container, and never act on the absence of an object that was merely
//! not heard of: first lists must be complete, and before anything is deleted for want of an owner or a node the API itself is asked.
//!
//! # Current limitations
//! - The scheduler knows requests, node selectors, required node affinity, taints, host ports and spread; not preferred affinity, pod
//!   affinity, topology spread constraints, volumes or preemption.
//! - `minReadySeconds` and `progressDeadlineSeconds` are counted by the wall clock, as the times they start from are.
//! - Endpoints carry no hints: `trafficDistribution` and topology annotations of Services change nothing.
//! - The scheduler does not know of ports that Services of type LoadBalancer have on a node: a pod with the same host port may come there.
//! - There is no leader election: one control plane per store.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod backends;
mod cache;
mod deployments;
mod endpoints;
mod endpointslices;
mod events;
mod garbage;
mod loadbalancers;
mod mirroring;
mod namespaces;
mod nodes;
mod objects;
mod owners;
mod pending;
mod pods;
mod queue;
mod replicasets;
mod requests;
mod scheduler;
mod selector;
mod taints;

pub use nodes::ranges::{Range, RangeError};
pub use objects::Resource;

use cache::{Cache, Objects};
use objects::deployment::Deployment;
use objects::endpoint_slice::EndpointSlice;
use objects::endpoints::Endpoints;
use objects::node::Node;
use objects::pod::Pod;
use objects::replica_set::ReplicaSet;
use objects::service::Service;
use objects::{
    Anything, DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, EVENTS, LEASES, Lease, NAMESPACES, NODES, Namespace, PODS,
    REPLICA_SETS, SERVICES,
};
use requests::Requests;

/// User of the Deployment controller.
pub const DEPLOYMENT_CONTROLLER: &str = "system:serviceaccount:kube-system:deployment-controller";
/// User of the ReplicaSet controller.
pub const REPLICA_SET_CONTROLLER: &str = "system:serviceaccount:kube-system:replicaset-controller";
/// User of node lifecycle, evictions and pod address ranges.
pub const NODE_CONTROLLER: &str = "system:serviceaccount:kube-system:node-controller";
/// User of garbage collection, and of the shared reflectors, which read every kind.
pub const GARBAGE_COLLECTOR: &str = "system:serviceaccount:kube-system:generic-garbage-collector";
/// User of pod clean-up.
pub const POD_GARBAGE_COLLECTOR: &str = "system:serviceaccount:kube-system:pod-garbage-collector";
/// User of namespace deletion.
pub const NAMESPACE_CONTROLLER: &str = "system:serviceaccount:kube-system:namespace-controller";
/// User of the EndpointSlice controller.
pub const ENDPOINT_SLICE_CONTROLLER: &str = "system:serviceaccount:kube-system:endpointslice-controller";
/// User of the Endpoints controller.
pub const ENDPOINT_CONTROLLER: &str = "system:serviceaccount:kube-system:endpoint-controller";
/// User of the controller that mirrors Endpoints.
pub const ENDPOINT_SLICE_MIRRORING_CONTROLLER: &str =
    "system:serviceaccount:kube-system:endpointslicemirroring-controller";
/// User of the controller of Services of type LoadBalancer.
pub const SERVICE_CONTROLLER: &str = "system:serviceaccount:kube-system:service-controller";
/// User of the scheduler.
pub const SCHEDULER: &str = "system:kube-scheduler";

/// Why the controllers, or one attempt of theirs, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API did not do what it was asked.
    #[error("{attempt} {path}")]
    Request {
        /// What was tried, e.g. `patch`.
        attempt: &'static str,
        /// On which path.
        path: String,
        /// What came of it.
        source: Box<kube::Error>,
    },
    /// A child was to be adopted by something that is no more.
    #[error("adopt a child for {kind} {owner}, which was deleted or replaced")]
    OwnerGone {
        /// Kind of the owner.
        kind: String,
        /// Namespace and name of the owner.
        owner: String,
    },
    /// A controller ended by a fault of its own.
    #[error("controller task")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Request { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }

    fn is_already_exists(&self) -> bool {
        self.status().is_some_and(|status| status.reason == "AlreadyExists")
    }

    /// Another writer was faster, or the object is another by now.
    fn is_conflict(&self) -> bool {
        self.status()
            .is_some_and(|status| status.code == 409 && status.reason != "AlreadyExists")
    }

    fn is_namespace_terminating(&self) -> bool {
        self.status().is_some_and(|status| {
            status.code == 403
                && (status.message.contains("because it is being terminated")
                    || status.details.as_ref().is_some_and(|details| {
                        details
                            .causes
                            .iter()
                            .any(|cause| cause.reason == "NamespaceTerminating")
                    }))
        })
    }

    /// The API's words, where it answered, as events repeat them.
    fn api_message(&self) -> String {
        match (self.status(), self) {
            (Some(status), _) => status.message.clone(),
            (None, Self::Request { source, .. }) => source.to_string(),
            (None, other) => other.to_string(),
        }
    }
}

/// How the controllers behave; [`Options::new`] gives the usual.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses for pods, cut into a /24 per node.
    pub pod_range: Range,
    /// A node whose Lease does not change for so long is silent: NotReady, and its pods leave.
    pub node_silence: Duration,
    /// A node that was not heard since the start gets so long.
    pub node_grace: Duration,
    /// Finished pods kept before the oldest are deleted.
    pub finished_pods: usize,
    /// How long a Node object must be gone before its pods are deleted by force.
    pub missing_node_quarantine: Duration,
    /// True while the control plane's own uplink has no carrier: no silence is counted and nothing is evicted.
    pub evictions_paused: watch::Receiver<bool>,
    /// Name of the cluster: no Service is announced by it.
    pub cluster: String,
    /// Port of the API: no Service of type LoadBalancer may have it.
    pub api_port: u16,
    /// Every kind that can be listed, watched and deleted: what garbage collection and namespace deletion look through.
    pub kinds: Vec<Resource>,
}

impl Options {
    /// The usual limits for pods in `pod_range`, every kind of the table of kinds, evictions never paused.
    pub fn new(pod_range: Range) -> Self {
        Self {
            pod_range,
            node_silence: Duration::from_millis(3500),
            node_grace: Duration::from_secs(120),
            finished_pods: 500,
            missing_node_quarantine: Duration::from_secs(20),
            evictions_paused: watch::Sender::new(false).subscribe(),
            cluster: String::new(),
            api_port: 6443,
            kinds: all_kinds(),
        }
    }
}

fn all_kinds() -> Vec<Resource> {
    minidc_api::kinds::all()
        .iter()
        .filter(|kind| ["list", "watch", "delete"].into_iter().all(|verb| kind.allows(verb)))
        .map(|kind| Resource::new(kind.group, kind.version, kind.kind, kind.plural, kind.is_namespaced()))
        .collect()
}

/// Runs all controllers until shutdown. `clients` gives a client that acts as the named user.
///
/// # Errors
/// A controller ended by a fault; the others are stopped then.
pub async fn run(
    clients: impl Fn(&'static str) -> Client,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let as_user = |user| Requests::new(clients(user));
    let (events, writer) = events::Events::new();

    let pods: Arc<Cache<Pod>> = Cache::new(PODS);
    let nodes: Arc<Cache<Node>> = Cache::new(NODES);
    let leases: Arc<Cache<Lease>> = Cache::new(LEASES);
    let namespaces: Arc<Cache<Namespace>> = Cache::new(NAMESPACES);
    let sets: Arc<Cache<ReplicaSet>> = Cache::new(REPLICA_SETS);
    let deployments: Arc<Cache<Deployment>> = Cache::new(DEPLOYMENTS);
    let services: Arc<Cache<Service>> = Cache::new(SERVICES);
    let slices: Arc<Cache<EndpointSlice>> = Cache::grouped(ENDPOINT_SLICES, EndpointSlice::service);
    let endpoints: Arc<Cache<Endpoints>> = Cache::new(ENDPOINTS);
    let mut graph: Vec<Arc<dyn Objects>> = vec![
        pods.clone(),
        nodes.clone(),
        leases.clone(),
        namespaces.clone(),
        sets.clone(),
        deployments.clone(),
        services.clone(),
        slices.clone(),
        endpoints.clone(),
    ];
    // Events come by the hundred, own nothing and lapse by themselves.
    let rest: Vec<&Resource> = options
        .kinds
        .iter()
        .filter(|kind| kind.plural != EVENTS.plural && !graph.iter().any(|known| known.resource() == *kind))
        .collect();
    for kind in rest {
        let cache: Arc<Cache<Anything>> = Cache::new(kind.clone());
        graph.push(cache);
    }
    let reflectors = graph.clone();

    // First everybody says what they want to hear, then the reflectors begin to speak.
    let deployment_controller = {
        let requests = as_user(DEPLOYMENT_CONTROLLER);
        let recorder = events.recorder("deployment-controller", requests.clone());
        deployments::Deployments::new(requests, recorder, deployments.clone(), sets.clone(), pods.clone())
    };
    let replica_set_controller = {
        let requests = as_user(REPLICA_SET_CONTROLLER);
        let recorder = events.recorder("replicaset-controller", requests.clone());
        replicasets::ReplicaSets::new(requests, recorder, pods.clone(), sets.clone())
    };
    let scheduler = {
        let requests = as_user(SCHEDULER);
        let recorder = events.recorder("default-scheduler", requests.clone());
        scheduler::Scheduler::new(requests, recorder, pods.clone(), nodes.clone())
    };
    let node_requests = as_user(NODE_CONTROLLER);
    let lifecycle = nodes::Lifecycle::new(
        node_requests.clone(),
        events.recorder("node-controller", node_requests.clone()),
        nodes::Caches {
            nodes: nodes.clone(),
            pods: pods.clone(),
            leases: leases.clone(),
        },
        nodes::Limits {
            silence: options.node_silence,
            grace: options.node_grace,
        },
        options.evictions_paused.clone(),
    );
    let evictions = nodes::evictions::Evictions::new(
        node_requests.clone(),
        events.recorder("taint-eviction-controller", node_requests.clone()),
        pods.clone(),
        nodes.clone(),
        lifecycle.evictions_allowed(),
    );
    let ranges = nodes::ranges::Ranges::new(
        node_requests.clone(),
        events.recorder("cidrAllocator", node_requests),
        nodes.clone(),
        options.pod_range,
    );
    let slice_controller = {
        let requests = as_user(ENDPOINT_SLICE_CONTROLLER);
        let recorder = events.recorder("endpoint-slice-controller", requests.clone());
        let caches = endpointslices::Caches {
            services: services.clone(),
            pods: pods.clone(),
            nodes: nodes.clone(),
            slices: slices.clone(),
        };
        endpointslices::EndpointSlices::new(requests, recorder, caches)
    };
    let endpoints_controller = {
        let requests = as_user(ENDPOINT_CONTROLLER);
        let recorder = events.recorder("endpoint-controller", requests.clone());
        let caches = endpoints::Caches {
            services: services.clone(),
            pods: pods.clone(),
            endpoints: endpoints.clone(),
        };
        endpoints::EndpointsController::new(requests, recorder, caches)
    };
    let mirroring = {
        let requests = as_user(ENDPOINT_SLICE_MIRRORING_CONTROLLER);
        let recorder = events.recorder("endpoint-slice-mirroring-controller", requests.clone());
        let caches = mirroring::Caches {
            services: services.clone(),
            endpoints: endpoints.clone(),
            slices: slices.clone(),
        };
        mirroring::Mirroring::new(requests, recorder, caches)
    };
    let load_balancers = {
        let requests = as_user(SERVICE_CONTROLLER);
        let recorder = events.recorder("service-controller", requests.clone());
        let caches = loadbalancers::Caches {
            services: services.clone(),
            nodes: nodes.clone(),
            pods: pods.clone(),
            slices: slices.clone(),
        };
        let limits = loadbalancers::Limits {
            cluster: options.cluster,
            api_port: options.api_port,
        };
        loadbalancers::LoadBalancers::new(requests, recorder, caches, limits)
    };
    let garbage = garbage::Garbage::new(as_user(GARBAGE_COLLECTOR), graph);
    let pod_cleanup = pods::PodCleanup::new(
        as_user(POD_GARBAGE_COLLECTOR),
        pods.clone(),
        nodes.clone(),
        options.finished_pods,
        options.missing_node_quarantine,
    );
    let namespace_controller =
        namespaces::Namespaces::new(as_user(NAMESPACE_CONTROLLER), namespaces.clone(), &pods, &options.kinds);

    let reader = clients(GARBAGE_COLLECTOR);
    let stop = shutdown.child_token();
    let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
    tasks.spawn(deployment_controller.run(stop.clone()));
    tasks.spawn(replica_set_controller.run(stop.clone()));
    tasks.spawn(scheduler.run(stop.clone()));
    tasks.spawn(lifecycle.run(stop.clone()));
    tasks.spawn(evictions.run(stop.clone()));
    tasks.spawn(ranges.run(stop.clone()));
    tasks.spawn(garbage.run(stop.clone()));
    tasks.spawn(pod_cleanup.run(stop.clone()));
    tasks.spawn(namespace_controller.run(stop.clone()));
    tasks.spawn(slice_controller.run(stop.clone()));
    tasks.spawn(endpoints_controller.run(stop.clone()));
    tasks.spawn(mirroring.run(stop.clone()));
    tasks.spawn(load_balancers.run(stop.clone()));
    for cache in reflectors {
        let work = cache.reflect(reader.clone(), stop.clone());
        tasks.spawn(async move {
            work.await;
            Ok(())
        });
    }
    {
        let stop = stop.clone();
        tasks.spawn(async move {
            writer.run(stop).await;
            Ok(())
        });
    }

    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.map_err(Error::from).flatten();
        if ended.is_err() && outcome.is_ok() {
            outcome = ended;
            stop.cancel();
        }
    }
    outcome
}
