//! From the feed's bytes to what kubelet and network are told.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use minidc_api::feed::{DNS_ZONES, FeedKind};
use minidc_kubelet::{Desired, ImageSpec, ObjectKey};
use minidc_net::{
    Peer, Peers, Range,
    dns::{SearchPath, SearchPaths, ZoneFile, ZoneFiles},
};
use serde::{Deserialize, de::DeserializeOwned};

use crate::sessions::{POD_RANGE_ANNOTATION, SERVICE_RANGE_ANNOTATION};

/// What a node needs to know of another.
#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
}

#[derive(Default, Deserialize)]
struct NodeStatus {
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Deserialize)]
struct Image {
    spec: ImageBody,
}

#[derive(Deserialize)]
struct ImageBody {
    #[serde(default)]
    size: u64,
    #[serde(default)]
    references: Vec<String>,
}

/// The ranges that the cluster's addresses are cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// Of pods.
    pub(crate) pods: Range,
    /// Of Services.
    pub(crate) services: Range,
}

impl Ranges {
    /// Address of the cluster's DNS: the tenth of the range of Services.
    pub(crate) fn dns(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.services.network().to_bits() + 10)
    }
}

/// What the feed's state means to the parts of a node.
#[derive(Default)]
pub(crate) struct Translated {
    /// For the kubelet.
    pub(crate) desired: Desired,
    /// For the pod network.
    pub(crate) peers: Peers,
    /// This node's pods that look names up by the cluster's standard search list.
    pub(crate) searching: SearchPaths,
    /// Zone files of user zones.
    pub(crate) zones: ZoneFiles,
    /// Config maps that these come from: name and uid.
    pub(crate) zone_maps: BTreeMap<Box<str>, String>,
}

/// A parsed object and the revision it was parsed at.
type Known<T> = BTreeMap<ObjectKey, (u64, Arc<T>)>;

/// Keeps parsed objects from one state of the feed to the next: what did not change is not parsed again, and keeps its
/// `Arc`.
#[derive(Default)]
pub(crate) struct Translator {
    node: String,
    pods: Known<Pod>,
    config_maps: Known<ConfigMap>,
    secrets: Known<Secret>,
    /// The ranges of the cluster, once the own node's object has said them.
    pub(crate) ranges: Option<Ranges>,
    /// The node's own search list.
    further: Arc<[Box<str>]>,
}

/// One object of the feed's present state.
pub(crate) struct Item<'a> {
    /// Its kind.
    pub(crate) kind: FeedKind,
    /// Its namespace; empty for cluster-wide kinds.
    pub(crate) namespace: &'a str,
    /// Its name.
    pub(crate) name: &'a str,
    /// Revision of its last change.
    pub(crate) revision: u64,
    /// Its JSON.
    pub(crate) json: &'a [u8],
}

impl Translator {
    /// For the node `node`.
    pub(crate) fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            further: node_search(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
            ..Self::default()
        }
    }

    /// The feed's state as kubelet and network take it. An object that cannot be parsed is left as it was before, with a
    /// message in the log: one bad object must not stop the others.
    pub(crate) fn translate<'a>(&mut self, synced: bool, items: impl Iterator<Item = Item<'a>>) -> Translated {
        let (mut pods, mut config_maps, mut secrets) = (Known::new(), Known::new(), Known::new());
        let mut desired = Desired {
            synced,
            ..Desired::default()
        };
        let mut peers = Peers {
            synced,
            ..Peers::default()
        };
        for item in items {
            match item.kind {
                FeedKind::Pod => keep(&item, &self.pods, &mut pods),
                FeedKind::ConfigMap => keep(&item, &self.config_maps, &mut config_maps),
                FeedKind::Secret => keep(&item, &self.secrets, &mut secrets),
                FeedKind::Node => {
                    if let Some(node) = parse::<Node>(&item) {
                        self.add_node(item.name, node, &mut peers);
                    }
                }
                // the network's own affair
                FeedKind::Service | FeedKind::EndpointSlice | FeedKind::Namespace | FeedKind::NetCheck => {}
                FeedKind::Image => {
                    if let Some(Image {
                        spec: ImageBody { size, references },
                    }) = parse(&item)
                    {
                        desired
                            .images
                            .insert(item.name.to_owned(), ImageSpec { size, references });
                    }
                }
            }
        }
        (self.pods, self.config_maps, self.secrets) = (pods, config_maps, secrets);
        desired.pods = shared(&self.pods);
        desired.config_maps = shared(&self.config_maps);
        desired.secrets = shared(&self.secrets);
        desired.cluster_dns = self.ranges.map(|ranges| IpAddr::V4(ranges.dns()));
        let zone_maps = desired.config_maps.iter().filter(|(key, map)| holds_zones(key, map));
        let further = &self.further;
        Translated {
            searching: desired
                .pods
                .values()
                .filter_map(|pod| searching(pod, further))
                .collect(),
            zones: ZoneFiles {
                files: zone_maps.clone().flat_map(|(key, map)| zone_files(key, map)).collect(),
            },
            zone_maps: zone_maps
                .map(|(key, map)| (key.1.as_str().into(), map.metadata.uid.clone().unwrap_or_default()))
                .collect(),
            desired,
            peers,
        }
    }

    fn add_node(&mut self, name: &str, node: Node, peers: &mut Peers) {
        let pod_cidr = node.spec.pod_cidr.and_then(|text| match text.parse() {
            Ok(range) => Some(range),
            Err(error) => {
                tracing::warn!(node = name, range = text, %error, "pod range of a node");
                None
            }
        });
        if name == self.node {
            peers.own = pod_cidr;
            let range = |annotation| node.metadata.annotations.get(annotation)?.parse().ok();
            let ranges = range(POD_RANGE_ANNOTATION).zip(range(SERVICE_RANGE_ANNOTATION));
            self.ranges = ranges.map(|(pods, services)| Ranges { pods, services }).or(self.ranges);
            return;
        }
        let internal = node
            .status
            .addresses
            .iter()
            .filter(|address| address.kind == "InternalIP");
        let addresses: Vec<IpAddr> = internal.filter_map(|address| address.address.parse().ok()).collect();
        peers.peers.push(Peer {
            name: name.to_owned(),
            addresses,
            pod_cidr,
        });
    }
}

/// A pod whose resolv.conf is the cluster's standard one.
fn searching(pod: &Pod, further: &Arc<[Box<str>]>) -> Option<(IpAddr, SearchPath)> {
    let spec = pod.spec.as_ref()?;
    let standard = spec.dns_config.is_none()
        && spec.host_network != Some(true)
        && spec.dns_policy.as_deref().is_none_or(|policy| policy == "ClusterFirst");
    let status = pod.status.as_ref()?;
    // the address of a finished pod may be another's by now
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let address = status.pod_ip.as_deref()?.parse().ok()?;
    let path = SearchPath {
        namespace: pod.metadata.namespace.as_deref().unwrap_or_default().into(),
        further: Arc::clone(further),
    };
    (standard && !ended).then_some((address, path))
}

/// The search list of the node, which follows the cluster's in the resolv.conf of a pod.
fn node_search(resolv_conf: &str) -> Arc<[Box<str>]> {
    let mut lists = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("search" | "domain")).then_some(words)
    });
    // the last one counts, as in the resolver of the C library
    lists.next_back().into_iter().flatten().map(Into::into).collect()
}

fn holds_zones(key: &ObjectKey, map: &ConfigMap) -> bool {
    let labels = map.metadata.labels.as_ref();
    key.0 == "kube-system" && labels.is_some_and(|labels| labels.contains_key(DNS_ZONES))
}

fn zone_files(key: &ObjectKey, map: &ConfigMap) -> Vec<ZoneFile> {
    let files = map.data.iter().flatten();
    files
        .map(|(file, text)| ZoneFile {
            config_map: key.1.as_str().into(),
            file: file.as_str().into(),
            text: text.as_str().into(),
        })
        .collect()
}

fn keep<T: DeserializeOwned>(item: &Item<'_>, before: &Known<T>, now: &mut Known<T>) {
    let key = (item.namespace.to_owned(), item.name.to_owned());
    let known = before.get(&key);
    match known {
        Some((revision, object)) if *revision == item.revision => {
            now.insert(key, (*revision, Arc::clone(object)));
        }
        _ => match parse(item) {
            Some(object) => {
                now.insert(key, (item.revision, Arc::new(object)));
            }
            None => {
                if let Some(known) = known {
                    now.insert(key, known.clone());
                }
            }
        },
    }
}

fn parse<T: DeserializeOwned>(item: &Item<'_>) -> Option<T> {
    serde_json::from_slice(item.json)
        .map_err(|error| {
            tracing::error!(kind = ?item.kind, namespace = item.namespace, name = item.name, %error, "an object of the feed");
        })
        .ok()
}

fn shared<T>(known: &Known<T>) -> BTreeMap<ObjectKey, Arc<T>> {
    known
        .iter()
        .map(|(key, (_, object))| (key.clone(), Arc::clone(object)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item<'a>(kind: FeedKind, name: &'a str, revision: u64, json: &'a str) -> Item<'a> {
        Item {
            kind,
            namespace: if kind == FeedKind::Node { "" } else { "default" },
            name,
            revision,
            json: json.as_bytes(),
        }
    }

    const POD: &str = r#"{"metadata":{"name":"a","namespace":"default"},"spec":{"containers":[]}}"#;

    #[test]
    fn what_did_not_change_keeps_its_arc() {
        let mut translator = Translator::new("pi-1");
        let Translated { desired: first, .. } =
            translator.translate(true, [item(FeedKind::Pod, "a", 5, POD)].into_iter());
        let Translated { desired: second, .. } =
            translator.translate(true, [item(FeedKind::Pod, "a", 5, POD)].into_iter());
        let Translated { desired: third, .. } =
            translator.translate(true, [item(FeedKind::Pod, "a", 6, POD)].into_iter());
        let key = ("default".to_owned(), "a".to_owned());
        assert!(Arc::ptr_eq(&first.pods[&key], &second.pods[&key]));
        assert!(!Arc::ptr_eq(&second.pods[&key], &third.pods[&key]));
    }

    #[test]
    fn an_object_that_cannot_be_read_stays_as_it_was() {
        let mut translator = Translator::new("pi-1");
        translator.translate(true, [item(FeedKind::Pod, "a", 5, POD)].into_iter());
        let Translated { desired, .. } = translator.translate(
            true,
            [item(FeedKind::Pod, "a", 6, "{"), item(FeedKind::Pod, "b", 6, "{")].into_iter(),
        );
        assert_eq!(
            desired.pods.keys().map(|(_, name)| name.as_str()).collect::<Vec<_>>(),
            ["a"]
        );
    }

    #[test]
    fn only_pods_with_the_standard_search_list_have_names_completed() {
        let pod = |name: &str, spec: &str| {
            format!(
                r#"{{"metadata":{{"name":"{name}","namespace":"team"}},"spec":{{"containers":[]{spec}}},"status":{{"podIP":"100.64.0.{name}"}}}}"#
            )
        };
        let (plain, own, host) = (
            pod("1", ""),
            pod("2", r#","dnsConfig":{"searches":["x"]}"#),
            pod("3", r#","hostNetwork":true"#),
        );
        let Translated { searching, .. } = Translator::new("pi-1").translate(
            true,
            [
                item(FeedKind::Pod, "1", 1, &plain),
                item(FeedKind::Pod, "2", 1, &own),
                item(FeedKind::Pod, "3", 1, &host),
            ]
            .into_iter(),
        );
        assert_eq!(searching.len(), 1);
        let path = &searching[&"100.64.0.1".parse::<IpAddr>().unwrap()];
        assert_eq!(&*path.namespace, "team");
        let further = node_search("domain a.example\nsearch b.example c.example\nnameserver 127.0.0.1\n");
        assert_eq!(
            further.iter().map(|name| &**name).collect::<Vec<_>>(),
            ["b.example", "c.example"]
        );
    }

    #[test]
    fn zone_files_are_those_of_labelled_config_maps_in_kube_system() {
        let map = |labels: &str| format!(r#"{{"metadata":{{"uid":"u"{labels}}},"data":{{"db.example.lan":"text"}}}}"#);
        let labelled = map(r#","labels":{"minidc.dev/dns-zones":""}"#);
        let plain = map("");
        let at = |namespace, name, json| Item {
            kind: FeedKind::ConfigMap,
            namespace,
            name,
            revision: 1,
            json,
        };
        let items = [
            at("kube-system", "zones", labelled.as_bytes()),
            at("default", "zones", labelled.as_bytes()),
            at("kube-system", "other", plain.as_bytes()),
        ];
        let Translated { zones, zone_maps, .. } = Translator::new("pi-1").translate(true, items.into_iter());
        assert_eq!(zones.files.len(), 1);
        assert_eq!(
            (&*zones.files[0].config_map, &*zones.files[0].file),
            ("zones", "db.example.lan")
        );
        assert_eq!(zone_maps["zones"], "u");
    }

    #[test]
    fn the_own_range_and_the_peers_are_told_apart() {
        let node = |range: &str, address: &str| {
            format!(
                r#"{{"spec":{{"podCIDR":"{range}"}},"status":{{"addresses":[{{"type":"InternalIP","address":"{address}"}},{{"type":"Hostname","address":"x"}}]}}}}"#
            )
        };
        let (one, two) = (node("100.64.0.0/24", "10.0.0.1"), node("100.64.1.0/24", "10.0.0.2"));
        let Translated { peers, .. } = Translator::new("pi-1").translate(
            false,
            [
                item(FeedKind::Node, "pi-1", 1, &one),
                item(FeedKind::Node, "pi-2", 2, &two),
            ]
            .into_iter(),
        );
        assert_eq!(peers.own, "100.64.0.0/24".parse().ok());
        assert!(!peers.synced);
        assert_eq!(peers.peers.len(), 1);
        assert_eq!(peers.peers[0].addresses, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
    }
}
