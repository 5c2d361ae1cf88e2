//! Which config maps and secrets the pods of one node use. The same graph decides what a node may read and what it is
//! sent.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use minidc_store::{Entry, Store};
use serde::Deserialize;

use crate::object;

/// A thing that a pod can refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Referent {
    /// `configmaps`.
    ConfigMap,
    /// `secrets`.
    Secret,
}

impl Referent {
    /// Start of the store keys of its kind.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::ConfigMap => "core/configmaps/",
            Self::Secret => "core/secrets/",
        }
    }

    /// The store key of one of them.
    pub(crate) fn key(self, namespace: &str, name: &str) -> String {
        format!("{}{namespace}/{name}", self.prefix())
    }
}

/// Start of the store keys of pods.
pub(crate) const PODS: &str = "core/pods/";

/// The pods of one node and what they use, by store key.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeGraph {
    /// Pod → what it uses.
    pods: BTreeMap<Box<str>, BTreeSet<Box<str>>>,
    /// Used thing → how many pods use it.
    uses: BTreeMap<Box<str>, usize>,
}

/// Difference that a change of a pod makes to what the node needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Store keys that are needed now and were not.
    pub(crate) gained: Vec<Box<str>>,
    /// Store keys that are no longer needed.
    pub(crate) lost: Vec<Box<str>>,
}

impl NodeGraph {
    /// The graph of a node, from all pods bound to it.
    pub(crate) fn of_node(pods: &[Entry], node: &str) -> Self {
        let mut graph = Self::default();
        for entry in pods.iter().filter(|entry| is_bound_to(entry, node)) {
            graph.put_pod(entry);
        }
        graph
    }

    /// Takes a pod in, or its new state.
    pub(crate) fn put_pod(&mut self, entry: &Entry) -> Difference {
        let (namespace, _) = object::key_parts(&entry.key);
        let now = references(namespace, &entry.envelope.json);
        let before = self.pods.insert((*entry.key).into(), now.clone()).unwrap_or_default();
        self.count(&now, &before)
    }

    /// Lets a pod go.
    pub(crate) fn remove_pod(&mut self, key: &str) -> Difference {
        let before = self.pods.remove(key).unwrap_or_default();
        self.count(&BTreeSet::new(), &before)
    }

    /// True when the pod is one of this node's.
    pub(crate) fn has_pod(&self, key: &str) -> bool {
        self.pods.contains_key(key)
    }

    /// True when some pod of this node uses the thing.
    pub(crate) fn uses(&self, key: &str) -> bool {
        self.uses.contains_key(key)
    }

    /// Store keys of all that is used.
    pub(crate) fn used(&self) -> impl Iterator<Item = &str> {
        self.uses.keys().map(AsRef::as_ref)
    }

    fn count(&mut self, now: &BTreeSet<Box<str>>, before: &BTreeSet<Box<str>>) -> Difference {
        let mut difference = Difference::default();
        for key in now.difference(before) {
            let uses = self.uses.entry(key.clone()).or_insert(0);
            *uses += 1;
            if *uses == 1 {
                difference.gained.push(key.clone());
            }
        }
        for key in before.difference(now) {
            if let Some(uses) = self.uses.get_mut(key) {
                *uses -= 1;
                if *uses == 0 {
                    self.uses.remove(key);
                    difference.lost.push(key.clone());
                }
            }
        }
        difference
    }
}

/// True for a stored pod whose `spec.nodeName` is the node.
pub(crate) fn is_bound_to(entry: &Entry, node: &str) -> bool {
    object::selector_field(entry, "spec.nodeName") == node
}

/// True when a pod of the node uses the thing with this store key. Looks at the pods of the thing's namespace only.
pub(crate) fn node_uses(store: &Store, node: &str, referent: Referent, namespace: &str, name: &str) -> bool {
    let (pods, _) = store.list(&format!("{PODS}{namespace}/"));
    NodeGraph::of_node(&pods, node).uses(&referent.key(namespace, name))
}

#[derive(Deserialize)]
struct Pod<'a> {
    #[serde(borrow, default)]
    spec: Spec<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec<'a> {
    #[serde(borrow)]
    volumes: Vec<Volume<'a>>,
    #[serde(borrow)]
    init_containers: Vec<Container<'a>>,
    #[serde(borrow)]
    containers: Vec<Container<'a>>,
    #[serde(borrow)]
    ephemeral_containers: Vec<Container<'a>>,
    #[serde(borrow)]
    image_pull_secrets: Vec<Named<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Volume<'a> {
    #[serde(borrow)]
    config_map: Option<Named<'a>>,
    #[serde(borrow)]
    secret: Option<SecretVolume<'a>>,
    #[serde(borrow)]
    projected: Option<Projected<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SecretVolume<'a> {
    #[serde(borrow)]
    secret_name: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Projected<'a> {
    #[serde(borrow)]
    sources: Vec<Source<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Source<'a> {
    #[serde(borrow)]
    config_map: Option<Named<'a>>,
    #[serde(borrow)]
    secret: Option<Named<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container<'a> {
    #[serde(borrow)]
    env: Vec<Variable<'a>>,
    #[serde(borrow)]
    env_from: Vec<EnvironmentSource<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Variable<'a> {
    #[serde(borrow)]
    value_from: Option<ValueSource<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ValueSource<'a> {
    #[serde(borrow)]
    config_map_key_ref: Option<Named<'a>>,
    #[serde(borrow)]
    secret_key_ref: Option<Named<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EnvironmentSource<'a> {
    #[serde(borrow)]
    config_map_ref: Option<Named<'a>>,
    #[serde(borrow)]
    secret_ref: Option<Named<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

/// Store keys of the config maps and secrets that a pod uses. A pod that cannot be read uses nothing: the store holds
/// only objects that passed validation.
fn references(namespace: &str, json: &[u8]) -> BTreeSet<Box<str>> {
    let mut found = BTreeSet::new();
    let pod: Pod<'_> = match serde_json::from_slice(json) {
        Ok(pod) => pod,
        Err(error) => {
            tracing::warn!(%error, namespace, "a stored pod cannot be read");
            return found;
        }
    };
    let mut add = |referent: Referent, name: &str| {
        if !name.is_empty() {
            found.insert(referent.key(namespace, name).into_boxed_str());
        }
    };
    let mut add_both = |config_map: Option<&Named<'_>>, secret: Option<&Named<'_>>| {
        if let Some(config_map) = config_map {
            add(Referent::ConfigMap, &config_map.name);
        }
        if let Some(secret) = secret {
            add(Referent::Secret, &secret.name);
        }
    };
    let spec = &pod.spec;
    for volume in &spec.volumes {
        add_both(volume.config_map.as_ref(), None);
        for source in volume.projected.iter().flat_map(|projected| &projected.sources) {
            add_both(source.config_map.as_ref(), source.secret.as_ref());
        }
    }
    for container in spec
        .init_containers
        .iter()
        .chain(&spec.containers)
        .chain(&spec.ephemeral_containers)
    {
        for source in container.env.iter().filter_map(|variable| variable.value_from.as_ref()) {
            add_both(source.config_map_key_ref.as_ref(), source.secret_key_ref.as_ref());
        }
        for source in &container.env_from {
            add_both(source.config_map_ref.as_ref(), source.secret_ref.as_ref());
        }
    }
    for secret in &spec.image_pull_secrets {
        add_both(None, Some(secret));
    }
    for volume in spec.volumes.iter().filter_map(|volume| volume.secret.as_ref()) {
        add(Referent::Secret, &volume.secret_name);
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use minidc_store::Envelope;
    use serde_json::{Value, json};

    use super::*;

    fn entry(key: &str, pod: &Value) -> Entry {
        let fields = pod["spec"]["nodeName"]
            .as_str()
            .map(|node| ("spec.nodeName".into(), node.into()));
        let envelope = Envelope::new(pod.to_string(), 0, Box::new([]), fields.into_iter().collect());
        Entry {
            key: key.into(),
            revision: 1,
            created: 1,
            envelope: Arc::new(envelope),
        }
    }

    #[test]
    fn every_way_to_refer_is_found() {
        let pod = json!({"spec": {
            "nodeName": "pi-1",
            "volumes": [
                {"name": "a", "configMap": {"name": "volume-map", "defaultMode": 420}},
                {"name": "b", "secret": {"secretName": "volume-secret"}},
                {"name": "c", "projected": {"sources": [{"configMap": {"name": "projected-map"}}, {"secret": {"name": "projected-secret"}}]}},
                {"name": "d", "emptyDir": {}}
            ],
            "initContainers": [{"envFrom": [{"secretRef": {"name": "from-secret"}}]}],
            "containers": [{"env": [
                {"name": "X", "value": "plain"},
                {"name": "Y", "valueFrom": {"configMapKeyRef": {"name": "env-map", "key": "k"}}},
                {"name": "Z", "valueFrom": {"secretKeyRef": {"name": "env-\u{e9}", "key": "k"}}}
            ], "envFrom": [{"configMapRef": {"name": "from-map"}}]}],
            "imagePullSecrets": [{"name": "pull"}]
        }});
        let found = references("default", pod.to_string().as_bytes());
        let names: Vec<&str> = found.iter().map(AsRef::as_ref).collect();
        assert_eq!(
            names,
            [
                "core/configmaps/default/env-map",
                "core/configmaps/default/from-map",
                "core/configmaps/default/projected-map",
                "core/configmaps/default/volume-map",
                "core/secrets/default/env-é",
                "core/secrets/default/from-secret",
                "core/secrets/default/projected-secret",
                "core/secrets/default/pull",
                "core/secrets/default/volume-secret",
            ]
        );
    }

    #[test]
    fn a_thing_is_needed_until_its_last_user_is_gone() {
        let pod = json!({"spec": {"nodeName": "pi-1", "volumes": [{"secret": {"secretName": "s"}}]}});
        let bare = json!({"spec": {"nodeName": "pi-1"}});
        let mut graph = NodeGraph::default();
        let gained = graph.put_pod(&entry("core/pods/d/a", &pod)).gained;
        assert_eq!(gained, [Box::from("core/secrets/d/s")]);
        assert_eq!(graph.put_pod(&entry("core/pods/d/b", &pod)), Difference::default());
        assert_eq!(graph.put_pod(&entry("core/pods/d/b", &pod)), Difference::default());
        assert_eq!(graph.remove_pod("core/pods/d/a"), Difference::default());
        assert!(graph.uses("core/secrets/d/s"));
        assert_eq!(
            graph.put_pod(&entry("core/pods/d/b", &bare)).lost,
            [Box::from("core/secrets/d/s")]
        );
        assert!(!graph.uses("core/secrets/d/s"));
    }

    #[test]
    fn pods_of_other_nodes_do_not_count() {
        let pod = json!({"spec": {"nodeName": "pi-2", "volumes": [{"secret": {"secretName": "s"}}]}});
        let graph = NodeGraph::of_node(&[entry("core/pods/d/a", &pod)], "pi-1");
        assert!(!graph.uses("core/secrets/d/s") && !graph.has_pod("core/pods/d/a"));
    }
}
