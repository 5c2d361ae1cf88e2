//! Which pod is meant.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;

/// A pod, by all three of its names; the UID tells it from a later pod of the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PodIdentity {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl PodIdentity {
    /// The identity in a pod's metadata.
    pub(crate) fn of(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
        }
    }

    /// Path of the object in the API.
    pub(crate) fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.namespace, self.name)
    }
}

/// As Kubernetes' kubelet writes a pod in messages: `name_namespace(uid)`.
impl fmt::Display for PodIdentity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}_{}({})", self.name, self.namespace, self.uid)
    }
}
