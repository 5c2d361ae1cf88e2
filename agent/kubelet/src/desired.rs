//! What the control plane wants to run here, as the feed delivers it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};

/// Namespace and name.
pub type ObjectKey = (String, String);

/// The newest wishes of the control plane. Replaced as a whole; unchanged objects share their `Arc`, and the kubelet
/// relies on that to see cheaply what changed.
#[derive(Clone, Debug)]
pub struct Desired {
    /// A complete snapshot has been heard since the agent started. Until then nothing is stopped for being absent.
    pub synced: bool,
    /// Pods bound to this node.
    pub pods: BTreeMap<ObjectKey, Arc<Pod>>,
    /// Config maps that those pods use.
    pub config_maps: BTreeMap<ObjectKey, Arc<ConfigMap>>,
    /// Secrets that those pods use.
    pub secrets: BTreeMap<ObjectKey, Arc<Secret>>,
    /// Images that every node is to hold, by the name of the `Image` object (`sha256-<hex>` of the archive).
    pub images: BTreeMap<String, ImageSpec>,
    /// Name server written to pods with `dnsPolicy: ClusterFirst`; while there is none those pods get the node's own.
    pub cluster_dns: Option<IpAddr>,
    /// The cluster's DNS domain, usually `cluster.local`.
    pub cluster_domain: String,
}

impl Default for Desired {
    fn default() -> Self {
        Self {
            synced: false,
            pods: BTreeMap::new(),
            config_maps: BTreeMap::new(),
            secrets: BTreeMap::new(),
            images: BTreeMap::new(),
            cluster_dns: None,
            cluster_domain: "cluster.local".into(),
        }
    }
}

/// What an `Image` object says of its archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageSpec {
    /// Length of the archive in bytes.
    pub size: u64,
    /// Image names that the archive brings, for instance `minidc.local/web:1`.
    pub references: Vec<String>,
}
