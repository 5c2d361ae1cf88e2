//! This node's view of Services, EndpointSlices and namespaces: filled from the feed, handed on as facts to whoever makes
//! rules, names or announcements of them, and asked by the kubelet.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::BoxFuture;
use minidc_api::feed::FeedKind;
use minidc_kubelet::{ServiceAddress, ServicePort, Surroundings};
use minidc_link::feed::Told;
use minidc_net::facts::{Fact, Key, Protocol, Service, Slice};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Names on the LAN that this node is to announce: host label without `.local`, and address.
pub(crate) type Names = BTreeMap<String, Ipv4Addr>;

/// What is known, and who is told of news.
pub(crate) struct Directory {
    node: Box<str>,
    known: Arc<Mutex<Known>>,
    /// Counts changes of slices, for those who wait for one.
    slices_changed: watch::Sender<u64>,
    names: watch::Sender<Arc<Names>>,
}

#[derive(Default)]
struct Known {
    services: BTreeMap<Arc<Key>, Arc<Service>>,
    slices: HashMap<Arc<Key>, Arc<Slice>>,
    namespaces: BTreeSet<Box<str>>,
    /// Pods (namespace and name) in slices of Services.
    pods: HashMap<Key, Listed>,
    synced: bool,
    listeners: Vec<mpsc::UnboundedSender<Fact>>,
}

/// In how many slices a pod is.
#[derive(Clone, Copy, Default)]
struct Listed {
    /// In any state.
    all: usize,
    /// For new connections.
    open: usize,
}

impl Directory {
    /// An empty one for the node `node`.
    pub(crate) fn new(node: &str) -> Self {
        Self {
            node: node.into(),
            known: Arc::default(),
            slices_changed: watch::Sender::default(),
            names: watch::Sender::default(),
        }
    }

    /// All that is known, then what changes. [`Fact::Synced`] comes once the control plane has told everything.
    pub(crate) fn facts(&self) -> mpsc::UnboundedReceiver<Fact> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut known = self.lock();
        let namespaces = known.namespaces.iter().map(|name| Fact::Namespace(name.clone(), true));
        let services = known
            .services
            .iter()
            .map(|(key, service)| Fact::Service(Arc::clone(key), Some(Arc::clone(service))));
        let slices = known
            .slices
            .iter()
            .map(|(key, slice)| Fact::Slice(Arc::clone(key), Some(Arc::clone(slice))));
        let synced = known.synced.then_some(Fact::Synced);
        for fact in namespaces.chain(services).chain(slices).chain(synced) {
            // the receiver is still here
            let _ = sender.send(fact);
        }
        known.listeners.push(sender);
        receiver
    }

    /// The names of load balancers that this node is to announce.
    pub(crate) fn names(&self) -> watch::Receiver<Arc<Names>> {
        self.names.subscribe()
    }

    /// The Service of type LoadBalancer that has the name `label` on the LAN and is announced by this node.
    pub(crate) fn named(&self, label: &str) -> Option<(Arc<Key>, Arc<Service>)> {
        let known = self.lock();
        let mut owners = known.services.iter().filter(|(_, service)| {
            service.local_name.as_deref() == Some(label) && service.announced_by.as_deref() == Some(&self.node)
        });
        owners
            .next()
            .map(|(key, service)| (Arc::clone(key), Arc::clone(service)))
    }

    /// Follows the feed until `shutdown`.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut feed: mpsc::UnboundedReceiver<Told>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                told = feed.recv() => match told {
                    Some(told) => self.take(told),
                    None => return Ok(()),
                },
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    fn take(&self, told: Told) {
        let fact = match told {
            Told::Synced => Fact::Synced,
            Told::Changed((kind, namespace, name), json) => {
                let key = Arc::new(Key {
                    namespace: namespace.into(),
                    name: name.into(),
                });
                let read = match (kind, &json) {
                    (FeedKind::Namespace, _) => Ok(Fact::Namespace(key.name.clone(), json.is_some())),
                    (FeedKind::Service, None) => Ok(Fact::Service(Arc::clone(&key), None)),
                    (FeedKind::Service, Some(json)) => {
                        Service::from_json(json).map(|service| Fact::Service(Arc::clone(&key), Some(Arc::new(service))))
                    }
                    (FeedKind::EndpointSlice, None) => Ok(Fact::Slice(Arc::clone(&key), None)),
                    (FeedKind::EndpointSlice, Some(json)) => {
                        Slice::from_json(json).map(|slice| Fact::Slice(Arc::clone(&key), Some(Arc::new(slice))))
                    }
                    _ => return,
                };
                match read {
                    Ok(fact) => fact,
                    Err(error) => {
                        // one bad object must not stop the others: it stays as it was before
                        tracing::error!(namespace = %key.namespace, name = %key.name, error = %with_source(&error), "an object of the feed");
                        return;
                    }
                }
            }
        };
        let (slices, names) = self.lock().take(&fact);
        if slices {
            self.slices_changed.send_modify(|count| *count += 1);
        }
        if names {
            self.refresh_names();
        }
    }

    fn refresh_names(&self) {
        let known = self.lock();
        let own = known
            .services
            .values()
            .filter(|service| service.announced_by.as_deref() == Some(&self.node));
        let names: Names = own
            .filter_map(|service| {
                let address = service.load_balancer_ips.iter().find_map(|address| match address {
                    IpAddr::V4(address) => Some(*address),
                    IpAddr::V6(_) => None,
                })?;
                Some((service.local_name.as_deref()?.to_owned(), address))
            })
            .collect();
        drop(known);
        self.names.send_if_modified(|present| {
            let news = **present != names;
            if news {
                *present = Arc::new(names);
            }
            news
        });
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error and what caused it, in one line.
fn with_source(error: &dyn std::error::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

impl Known {
    /// Returns whether slices changed, and whether names on the LAN may have.
    fn take(&mut self, fact: &Fact) -> (bool, bool) {
        let mut changed = (false, false);
        match fact {
            Fact::Service(key, service) => {
                let before = match service {
                    Some(service) => self.services.insert(Arc::clone(key), Arc::clone(service)),
                    None => self.services.remove(key),
                };
                changed.1 = [before.as_ref(), service.as_ref()]
                    .into_iter()
                    .flatten()
                    .any(|service| service.local_name.is_some());
            }
            Fact::Slice(key, slice) => {
                let before = match slice {
                    Some(slice) => self.slices.insert(Arc::clone(key), Arc::clone(slice)),
                    None => self.slices.remove(key),
                };
                for (pod, open) in before.iter().flat_map(|slice| pods(key, slice)) {
                    if let Some(listed) = self.pods.get_mut(&pod) {
                        listed.all -= 1;
                        listed.open -= usize::from(open);
                        if listed.all == 0 {
                            self.pods.remove(&pod);
                        }
                    }
                }
                for (pod, open) in slice.iter().flat_map(|slice| pods(key, slice)) {
                    let listed = self.pods.entry(pod).or_default();
                    listed.all += 1;
                    listed.open += usize::from(open);
                }
                changed.0 = true;
            }
            Fact::Namespace(name, true) => {
                self.namespaces.insert(name.clone());
            }
            Fact::Namespace(name, false) => {
                self.namespaces.remove(name);
            }
            Fact::Synced => self.synced = true,
        }
        self.listeners.retain(|listener| listener.send(fact.clone()).is_ok());
        changed
    }
}

/// The pods in a slice of a Service, each once, and whether it is offered for new connections.
fn pods(key: &Key, slice: &Slice) -> BTreeMap<Key, bool> {
    let mut pods = BTreeMap::new();
    if slice.service.is_some() {
        for endpoint in &slice.endpoints {
            if let Some(name) = endpoint.pod.clone() {
                let pod = Key {
                    namespace: key.namespace.clone(),
                    name,
                };
                *pods.entry(pod).or_default() |= endpoint.ready && !endpoint.terminating;
            }
        }
    }
    pods
}

impl Surroundings for Directory {
    fn services(&self, namespace: &str) -> Vec<ServiceAddress> {
        let first = Key {
            namespace: namespace.into(),
            name: "".into(),
        };
        let known = self.lock();
        let services = known
            .services
            .range(first..)
            .take_while(|(key, _)| &*key.namespace == namespace);
        services
            .filter_map(|(key, service)| {
                Some(ServiceAddress {
                    name: key.name.to_string(),
                    address: *service.cluster_ips.first()?,
                    ports: service
                        .ports
                        .iter()
                        .map(|port| ServicePort {
                            name: port.name.to_string(),
                            port: port.port,
                            protocol: match port.protocol {
                                Protocol::Tcp => "TCP",
                                Protocol::Udp => "UDP",
                            },
                        })
                        .collect(),
                })
            })
            .collect()
    }

    fn withdrawn(&self, namespace: &str, pod: &str) -> BoxFuture<'static, ()> {
        let key = Key {
            namespace: namespace.into(),
            name: pod.into(),
        };
        let (known, mut changed) = (Arc::clone(&self.known), self.slices_changed.subscribe());
        Box::pin(async move {
            while lock(&known).pods.get(&key).is_some_and(|listed| listed.open > 0) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        })
    }

    fn offered(&self, namespace: &str, pod: &str) -> bool {
        let key = Key {
            namespace: namespace.into(),
            name: pod.into(),
        };
        self.lock().pods.contains_key(&key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: FeedKind, name: &str, json: Option<&str>) -> Told {
        let namespace = if kind == FeedKind::Namespace { "" } else { "default" };
        Told::Changed(
            (kind, namespace.into(), name.into()),
            json.map(|json| json.as_bytes().to_vec().into()),
        )
    }

    fn slice(conditions: &str) -> String {
        format!(
            r#"{{"metadata":{{"labels":{{"kubernetes.io/service-name":"web"}}}},"ports":[{{"port":80}}],"endpoints":[
            {{"addresses":["10.0.0.1"],"conditions":{conditions},"targetRef":{{"kind":"Pod","name":"web-1"}}}}]}}"#
        )
    }

    const SERVICE: &str = r#"{"metadata":{"annotations":{"minidc.dev/local-name":"web","minidc.dev/announced-by":"pi-1"}},
        "spec":{"type":"LoadBalancer","clusterIP":"100.65.0.9","ports":[{"port":80}]},"status":{"loadBalancer":{"ingress":[{"ip":"10.0.0.7"}]}}}"#;

    #[tokio::test]
    async fn a_pod_is_withdrawn_once_no_slice_offers_it() {
        let directory = Directory::new("pi-1");
        directory.withdrawn("default", "web-1").await;
        directory.take(told(FeedKind::EndpointSlice, "web-a", Some(&slice("{}"))));
        let mut wait = directory.withdrawn("default", "web-1");
        assert!(futures::poll!(&mut wait).is_pending());
        directory.take(told(FeedKind::EndpointSlice, "web-b", Some(&slice("{}"))));
        directory.take(told(FeedKind::EndpointSlice, "web-a", None));
        assert!(
            futures::poll!(&mut wait).is_pending(),
            "the other slice still offers it"
        );
        let draining = slice(r#"{"ready":true,"terminating":true}"#);
        directory.take(told(FeedKind::EndpointSlice, "web-b", Some(&draining)));
        wait.await;
        assert!(directory.offered("default", "web-1"), "still listed");
        directory.take(told(FeedKind::EndpointSlice, "web-b", None));
        assert!(!directory.offered("default", "web-1"));
    }

    #[tokio::test]
    async fn who_asks_late_is_told_everything() {
        let directory = Directory::new("pi-1");
        directory.take(told(FeedKind::Namespace, "default", Some("{}")));
        directory.take(told(FeedKind::Service, "web", Some(SERVICE)));
        directory.take(told(FeedKind::EndpointSlice, "web-a", Some(&slice("{}"))));
        directory.take(told(FeedKind::Service, "web", Some("{")));
        let mut facts = directory.facts();
        directory.take(Told::Synced);
        assert!(matches!(facts.recv().await, Some(Fact::Namespace(_, true))));
        assert!(
            matches!(facts.recv().await, Some(Fact::Service(_, Some(_)))),
            "the last that could be read"
        );
        assert!(matches!(facts.recv().await, Some(Fact::Slice(_, Some(_)))));
        assert!(matches!(facts.recv().await, Some(Fact::Synced)));
        assert!(facts.try_recv().is_err());
        let services = directory.services("default");
        assert_eq!((services[0].name.as_str(), services[0].ports[0].port), ("web", 80));
        assert!(directory.services("defaul").is_empty());
    }

    #[test]
    fn only_own_names_are_announced() {
        let (own, other) = (Directory::new("pi-1"), Directory::new("pi-2"));
        for directory in [&own, &other] {
            directory.take(told(FeedKind::Service, "web", Some(SERVICE)));
        }
        assert_eq!(own.names().borrow().get("web"), Some(&Ipv4Addr::new(10, 0, 0, 7)));
        assert!(other.names().borrow().is_empty());
        assert!(own.named("web").is_some() && own.named("other").is_none());
        own.take(told(FeedKind::Service, "web", None));
        assert!(own.names().borrow().is_empty());
    }
}
