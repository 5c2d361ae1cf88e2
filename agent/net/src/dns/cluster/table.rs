//! What is known of the cluster, and how a fact changes it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::endpoints::{self, Members, Slices};
use crate::{
    dns::name::{LONGEST_LABEL, Name},
    facts::{Endpoint, Fact, Key, Service, Slice},
};

/// Seconds in the SOA record: refresh, retry, expire (nobody transfers the zone), and how long "not there" lasts.
const TIMES: [u32; 4] = [7200, 1800, 86_400, super::TTL];

/// The zone of the cluster.
pub(in crate::dns) struct Cluster {
    /// Its name, in small letters.
    pub(super) domain: Name,
    /// `svc` below it.
    services_domain: Name,
    /// Address of the DNS server.
    pub(super) server: IpAddr,
    /// Its name.
    pub(super) nameserver: Name,
    /// Data of the SOA record.
    pub(super) soa: Vec<u8>,
    /// By the labels of name and namespace, as they stand in a name.
    pub(super) services: HashMap<Box<[u8]>, Entry>,
    /// The Service that each slice belongs to.
    slices: HashMap<Arc<Key>, Arc<Key>>,
    namespaces: HashMap<Box<[u8]>, Namespace>,
    /// What has an address.
    pub(super) reverse: HashMap<IpAddr, Vec<Target>>,
    /// By their names on the LAN.
    local: HashMap<Box<[u8]>, Vec<Arc<Key>>>,
    /// Everything was told once.
    pub(super) synced: bool,
}

/// A Service and its slices, whichever was told first.
pub(super) struct Entry {
    pub(super) key: Arc<Key>,
    pub(super) service: Option<Arc<Service>>,
    /// In the order of their names.
    pub(super) slices: Slices,
    /// Of a headless Service.
    pub(super) members: Option<Members>,
}

/// What a name of an address leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) service: Arc<Key>,
    /// An endpoint of it.
    pub(super) host: Option<Box<[u8]>>,
}

#[derive(Default)]
struct Namespace {
    told: bool,
    services: usize,
}

impl Entry {
    /// The endpoints that names lead to, and which slice each stands in.
    pub(super) fn ready<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = (usize, &'a Endpoint)> {
        endpoints::ready(service, &self.slices)
    }
}

impl Cluster {
    /// A cluster of which nothing is known. `server` is the address that answers.
    pub(in crate::dns) fn new(domain: &Name, server: IpAddr) -> Self {
        let domain = domain.lowered();
        // a domain that is too long to have names below it has none
        let below = |labels: &[&[u8]]| Name::below(labels, &domain).unwrap_or_else(|_| domain.clone());
        let nameserver = below(&[b"ns", b"dns"]);
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut soa = nameserver.wire().to_vec();
        soa.extend_from_slice(below(&[b"hostmaster"]).wire());
        // of no use to anybody but people: nobody transfers the zone
        let serial = u32::try_from(started.as_secs() & u64::from(u32::MAX)).unwrap_or_default();
        soa.extend_from_slice(&serial.to_be_bytes());
        for time in TIMES {
            soa.extend_from_slice(&time.to_be_bytes());
        }
        Self {
            services_domain: below(&[b"svc"]),
            nameserver,
            soa,
            server,
            domain,
            services: HashMap::new(),
            slices: HashMap::new(),
            namespaces: HashMap::new(),
            reverse: HashMap::new(),
            local: HashMap::new(),
            synced: false,
        }
    }

    /// The name of the zone, in small letters.
    pub(in crate::dns) fn domain(&self) -> &Name {
        &self.domain
    }

    /// Takes in a piece of news. What cannot be a name (the API refuses such) is ignored.
    pub(in crate::dns) fn apply(&mut self, fact: Fact) {
        match fact {
            Fact::Service(key, service) => self.set_service(&key, service),
            Fact::Slice(key, slice) => self.set_slice(key, slice),
            Fact::Namespace(name, exists) => {
                self.change_namespace(&name, |namespace| namespace.told = exists);
            }
            Fact::Synced => self.synced = true,
        }
    }

    /// How many Services are known.
    pub(in crate::dns) fn len(&self) -> usize {
        self.services.values().filter(|entry| entry.service.is_some()).count()
    }

    fn change_namespace(&mut self, name: &str, change: impl FnOnce(&mut Namespace)) {
        let label = name.to_ascii_lowercase().into_bytes().into_boxed_slice();
        let namespace = self.namespaces.entry(label.clone()).or_default();
        change(namespace);
        if !namespace.told && namespace.services == 0 {
            self.namespaces.remove(&label);
        }
    }

    pub(super) fn has_namespace(&self, label: &[u8]) -> bool {
        self.namespaces.contains_key(label)
    }

    /// The name of a Service, or of one of its endpoints.
    pub(super) fn service_name(&self, key: &Key, host: Option<&[u8]>) -> Name {
        let mut name = Name::root();
        let labels = host.into_iter().chain([key.name.as_bytes(), key.namespace.as_bytes()]);
        for label in labels {
            // the API has refused labels that are none
            let _ = name.push(label);
        }
        let _ = name.append(&self.services_domain);
        name
    }

    pub(super) fn local_owner(&self, label: &[u8]) -> Option<&Arc<Service>> {
        let key = self.local.get(label)?.iter().min()?;
        self.services.get(&*key_labels(key)?)?.service.as_ref()
    }

    fn set_service(&mut self, key: &Arc<Key>, service: Option<Arc<Service>>) {
        let Some(labels) = key_labels(key) else { return };
        let mut entry = self.take(key, &labels);
        let before = usize::from(entry.service.is_some());
        let after = usize::from(service.is_some());
        entry.service = service;
        self.change_namespace(&key.namespace, |namespace| {
            namespace.services = namespace.services + after - before;
        });
        self.put(labels, entry);
    }

    fn set_slice(&mut self, key: Arc<Key>, slice: Option<Arc<Slice>>) {
        let owner = slice.as_ref().and_then(|slice| {
            Some(Arc::new(Key {
                namespace: key.namespace.clone(),
                name: slice.service.clone()?,
            }))
        });
        if let Some(before) = self.slices.get(&key).cloned()
            && Some(&before) != owner.as_ref()
        {
            self.slices.remove(&key);
            self.change_slices(&before, &key.name, None);
        }
        if let (Some(owner), Some(slice)) = (owner, slice) {
            self.change_slices(&owner, &key.name, Some(slice));
            self.slices.insert(key, owner);
        }
    }

    fn change_slices(&mut self, service: &Arc<Key>, name: &str, slice: Option<Arc<Slice>>) {
        let Some(labels) = key_labels(service) else { return };
        let mut entry = self.take(service, &labels);
        match (entry.slices.binary_search_by(|(other, _)| (**other).cmp(name)), slice) {
            (Ok(at), Some(slice)) => entry.slices[at].1 = slice,
            (Err(at), Some(slice)) => entry.slices.insert(at, (name.into(), slice)),
            (Ok(at), None) => drop(entry.slices.remove(at)),
            (Err(_), None) => {}
        }
        self.put(labels, entry);
    }

    /// Takes out what is known of a Service, with all that leads to it.
    fn take(&mut self, key: &Arc<Key>, labels: &[u8]) -> Entry {
        let Some(entry) = self.services.remove(labels) else {
            return Entry {
                key: Arc::clone(key),
                service: None,
                slices: Slices::new(),
                members: None,
            };
        };
        for (address, host) in leads(&entry) {
            if let Some(targets) = self.reverse.get_mut(&address) {
                targets.retain(|target| *target.service != **key || target.host.as_deref() != host);
                if targets.is_empty() {
                    self.reverse.remove(&address);
                }
            }
        }
        if let Some(label) = local_label(&entry)
            && let Some(keys) = self.local.get_mut(&label)
        {
            keys.retain(|other| other != key);
            if keys.is_empty() {
                self.local.remove(&label);
            }
        }
        entry
    }

    /// Puts a Service back, with all that leads to it.
    fn put(&mut self, labels: Box<[u8]>, mut entry: Entry) {
        entry.members = match &entry.service {
            Some(service) if service.headless => Some(Members::of(service, &entry.slices)),
            _ => None,
        };
        if entry.service.is_none() && entry.slices.is_empty() {
            return;
        }
        for (address, host) in leads(&entry) {
            let target = Target {
                service: Arc::clone(&entry.key),
                host: host.map(Into::into),
            };
            let targets = self.reverse.entry(address).or_default();
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        if let Some(label) = local_label(&entry) {
            self.local.entry(label).or_default().push(Arc::clone(&entry.key));
        }
        self.services.insert(labels, entry);
    }
}

/// The addresses that lead to a Service or one of its endpoints. Only headless Services have names for their endpoints'
/// addresses, as the specification has it.
fn leads(entry: &Entry) -> impl Iterator<Item = (IpAddr, Option<&[u8]>)> {
    let own = entry.service.iter().flat_map(|service| &service.cluster_ips);
    let members = entry.members.iter().flat_map(|members| &members.list);
    own.map(|address| (*address, None))
        .chain(members.map(|member| (member.address, Some(&*member.host))))
}

fn local_label(entry: &Entry) -> Option<Box<[u8]>> {
    let name = entry.service.as_ref()?.local_name.as_ref()?;
    Some(name.to_ascii_lowercase().into_bytes().into())
}

/// The labels of name and namespace as they stand in a name, in small letters.
pub(super) fn labels_of(name: &[u8], namespace: &[u8]) -> Option<Box<[u8]>> {
    let mut labels = Vec::with_capacity(name.len() + namespace.len() + 2);
    for label in [name, namespace] {
        if label.is_empty() || label.len() > LONGEST_LABEL {
            return None;
        }
        labels.push(u8::try_from(label.len()).ok()?);
        labels.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    Some(labels.into())
}

fn key_labels(key: &Key) -> Option<Box<[u8]>> {
    labels_of(key.name.as_bytes(), key.namespace.as_bytes())
}
