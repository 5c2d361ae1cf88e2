//! What was told of Services and their endpoints, and what has changed since it was last looked at.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddrV4},
    sync::Arc,
};

use crate::facts::{Endpoint, Fact, Key, Protocol, Service, ServicePort, Slice};

/// Services and slices by what they are called.
#[derive(Debug, Default)]
pub(crate) struct Known {
    services: HashMap<Arc<Key>, Arc<Service>>,
    slices: HashMap<Arc<Key>, Arc<Slice>>,
    /// Slices of a Service, told or not.
    members: HashMap<Arc<Key>, Vec<Arc<Key>>>,
    dirty: HashSet<Arc<Key>>,
    synced: bool,
}

impl Known {
    /// Takes a fact in.
    pub(crate) fn learn(&mut self, fact: Fact) {
        match fact {
            Fact::Service(key, service) => {
                match service {
                    Some(service) => self.services.insert(key.clone(), service),
                    None => self.services.remove(&key),
                };
                self.dirty.insert(key);
            }
            Fact::Slice(key, slice) => self.learn_slice(key, slice),
            Fact::Namespace(..) => {}
            Fact::Synced => self.synced = true,
        }
    }

    fn learn_slice(&mut self, key: Arc<Key>, slice: Option<Arc<Slice>>) {
        let owner = |slice: &Arc<Slice>| {
            slice.service.clone().map(|name| Key {
                namespace: key.namespace.clone(),
                name,
            })
        };
        let before = self.slices.get(&key).and_then(owner);
        let after = slice.as_ref().and_then(owner);
        if before != after {
            if let Some(service) = before {
                if let Some(members) = self.members.get_mut(&service) {
                    members.retain(|member| *member != key);
                    if members.is_empty() {
                        self.members.remove(&service);
                    }
                }
                self.dirty.insert(Arc::new(service));
            }
            if let Some(service) = after.clone() {
                self.members.entry(Arc::new(service)).or_default().push(key.clone());
            }
        }
        if let Some(service) = after {
            self.dirty.insert(Arc::new(service));
        }
        match slice {
            Some(slice) => self.slices.insert(key, slice),
            None => self.slices.remove(&key),
        };
    }

    /// Whether everything that exists has been told.
    pub(crate) fn synced(&self) -> bool {
        self.synced
    }

    /// Services that may need other rules than they had.
    pub(crate) fn take_dirty(&mut self) -> HashSet<Arc<Key>> {
        std::mem::take(&mut self.dirty)
    }

    /// A service is to be looked at again.
    pub(crate) fn touch(&mut self, service: Arc<Key>) {
        self.dirty.insert(service);
    }

    /// All Services are to be looked at again.
    pub(crate) fn touch_all(&mut self) {
        self.dirty.extend(self.services.keys().cloned());
    }

    pub(crate) fn service(&self, key: &Key) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// Endpoints of one port of a Service.
    pub(crate) fn endpoints(&self, service: &Key, port: &ServicePort, node: &str) -> Endpoints {
        let mut found: HashMap<SocketAddrV4, Condition> = HashMap::new();
        let mut order = Vec::new();
        let members = self.members.get(service).map(Vec::as_slice).unwrap_or_default();
        for slice in members.iter().filter_map(|member| self.slices.get(member)) {
            let Some(target) = slice
                .ports
                .iter()
                .find(|candidate| candidate.name == port.name && candidate.protocol == port.protocol)
            else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let IpAddr::V4(address) = endpoint.address else {
                    continue;
                };
                let address = SocketAddrV4::new(address, target.port);
                let condition = Condition::of(endpoint, node);
                found
                    .entry(address)
                    .and_modify(|known| known.merge(condition))
                    .or_insert_with(|| {
                        order.push(address);
                        condition
                    });
            }
        }
        let keep_flows = port.protocol == Protocol::Udp;
        Endpoints::choose(order.into_iter().map(|address| (address, found[&address])), keep_flows)
    }
}

/// How an endpoint is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Condition {
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
}

impl Condition {
    fn of(endpoint: &Endpoint, node: &str) -> Self {
        Self {
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
            local: endpoint.node.as_deref() == Some(node),
        }
    }

    /// While an endpoint moves from slice to slice it is in two of them, and the better news is the newer.
    fn merge(&mut self, other: Self) {
        self.ready |= other.ready;
        self.serving |= other.serving;
        self.terminating &= other.terminating;
        self.local |= other.local;
    }
}

/// Who takes the connections to a port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// For traffic policy Cluster.
    pub(crate) all: Vec<SocketAddrV4>,
    /// For traffic policy Local: those on this node.
    pub(crate) local: Vec<SocketAddrV4>,
    /// Those whose running conversations go on; for UDP only.
    pub(crate) serving: Vec<SocketAddrV4>,
}

impl Endpoints {
    /// Ready ones; where there is none, those that are being stopped and still serve (KEP-1669), as kube-proxy's
    /// `CategorizeEndpoints` has it.
    fn choose(endpoints: impl Iterator<Item = (SocketAddrV4, Condition)>, keep_flows: bool) -> Self {
        let endpoints: Vec<_> = endpoints.collect();
        let pick = |fits: &dyn Fn(&Condition) -> bool| -> Vec<SocketAddrV4> {
            let fitting = endpoints.iter().filter(|(_, condition)| fits(condition));
            fitting.map(|(address, _)| *address).collect()
        };
        let ready_or_last = |fits: &dyn Fn(&Condition) -> bool| {
            let ready = pick(&|condition| fits(condition) && condition.ready);
            if ready.is_empty() {
                pick(&|condition| fits(condition) && condition.serving && condition.terminating)
            } else {
                ready
            }
        };
        Self {
            all: ready_or_last(&|_| true),
            local: ready_or_last(&|condition| condition.local),
            serving: if keep_flows {
                pick(&|condition| condition.ready || condition.serving)
            } else {
                Vec::new()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(text: &str) -> Condition {
        Condition {
            ready: text.contains('r'),
            serving: text.contains('r') || text.contains('s'),
            terminating: text.contains('t'),
            local: text.contains('l'),
        }
    }

    fn address(number: usize) -> SocketAddrV4 {
        format!("100.64.0.{number}:80").parse().unwrap()
    }

    /// Endpoints number 1, 2, … in these conditions; the numbers of those chosen for Cluster, Local, and running flows.
    #[track_caller]
    fn check(conditions: &[&str], all: &[usize], local: &[usize], serving: &[usize]) {
        let endpoints = conditions
            .iter()
            .enumerate()
            .map(|(index, text)| (address(index + 1), condition(text)));
        let chosen = Endpoints::choose(endpoints, true);
        let numbers = |wanted: &[usize]| wanted.iter().copied().map(address).collect::<Vec<_>>();
        assert_eq!(chosen.all, numbers(all));
        assert_eq!(chosen.local, numbers(local));
        assert_eq!(chosen.serving, numbers(serving));
    }

    #[test]
    fn ready_endpoints_are_chosen_and_the_others_are_not() {
        check(&["r", "", "rl", "st"], &[1, 3], &[3], &[1, 3, 4]);
        check(&[], &[], &[], &[]);
        check(&["", "l"], &[], &[], &[]);
    }

    #[test]
    fn the_last_that_still_serve_are_used_while_they_stop() {
        check(&["st", "stl", "t", "s"], &[1, 2], &[2], &[1, 2, 4]);
        // The node's own go on serving Local traffic even when others elsewhere are ready.
        check(&["r", "stl"], &[1], &[2], &[1, 2]);
    }

    fn key(name: &str) -> Arc<Key> {
        Arc::new(Key {
            namespace: "team".into(),
            name: name.into(),
        })
    }

    fn slice(service: &str, endpoint: &str) -> Arc<Slice> {
        Arc::new(Slice {
            service: Some(service.into()),
            ports: vec![crate::facts::SlicePort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: 8080,
            }],
            endpoints: vec![Endpoint {
                address: endpoint.parse().unwrap(),
                ready: true,
                serving: true,
                terminating: false,
                hostname: None,
                node: None,
                pod: None,
            }],
        })
    }

    #[test]
    fn a_slice_touches_the_services_it_came_from_and_goes_to() {
        let port = ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        };
        let mut known = Known::default();
        known.learn(Fact::Slice(key("web-1"), Some(slice("web", "100.64.0.1"))));
        known.learn(Fact::Slice(key("web-2"), Some(slice("web", "100.64.0.2"))));
        assert_eq!(known.take_dirty(), HashSet::from([key("web")]));
        assert_eq!(known.endpoints(&key("web"), &port, "pi").all.len(), 2);

        known.learn(Fact::Slice(key("web-2"), Some(slice("shop", "100.64.0.2"))));
        assert_eq!(known.take_dirty(), HashSet::from([key("web"), key("shop")]));
        assert_eq!(known.endpoints(&key("web"), &port, "pi").all.len(), 1);
        assert_eq!(known.endpoints(&key("shop"), &port, "pi").all.len(), 1);

        known.learn(Fact::Slice(key("web-1"), None));
        assert_eq!(known.take_dirty(), HashSet::from([key("web")]));
        assert_eq!(known.endpoints(&key("web"), &port, "pi").all.len(), 0);

        // Another namespace's service of that name has nothing to do with it.
        let other = Key {
            namespace: "other".into(),
            name: "shop".into(),
        };
        assert_eq!(known.endpoints(&other, &port, "pi").all.len(), 0);
    }
}
