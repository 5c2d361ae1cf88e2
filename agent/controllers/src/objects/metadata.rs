//! Slim metadata: what decides identity, ownership and selection.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use kube::core::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::Resource;

/// Namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    /// `namespace/name`, or the name alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// `metadata.ownerReferences[]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Owner {
    pub(crate) api_version: Box<str>,
    pub(crate) kind: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) uid: Box<str>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) controller: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) block_owner_deletion: bool,
}

impl Owner {
    /// Group part of `apiVersion`, empty for the core group.
    pub(crate) fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// A reference that makes `owner` the one controller of what carries it.
    pub(crate) fn controller(resource: &Resource, owner: &Metadata) -> Self {
        Self {
            api_version: resource.api_version().into(),
            kind: resource.kind.as_ref().into(),
            name: (*owner.key.name).into(),
            uid: owner.uid.clone(),
            controller: true,
            block_owner_deletion: true,
        }
    }
}

/// Identity, ownership and selection of one object.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    pub(crate) key: Key,
    pub(crate) uid: Box<str>,
    /// `resourceVersion` as a number; 0 where it is none.
    pub(crate) revision: u64,
    pub(crate) generation: i64,
    pub(crate) created: Timestamp,
    pub(crate) deleted: Option<Timestamp>,
    pub(crate) labels: Box<[(Box<str>, Box<str>)]>,
    pub(crate) owners: Box<[Owner]>,
    pub(crate) finalizers: Box<[Box<str>]>,
}

impl Metadata {
    /// Value of a label.
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(key, _)| &**key == name)
            .map(|(_, value)| &**value)
    }

    /// The owner that manages it.
    pub(crate) fn controller(&self) -> Option<&Owner> {
        self.owners.iter().find(|owner| owner.controller)
    }

    /// Whether it is being deleted.
    pub(crate) fn terminating(&self) -> bool {
        self.deleted.is_some()
    }

    /// Whether it carries the finalizer.
    pub(crate) fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|finalizer| &**finalizer == name)
    }
}

impl From<ObjectMeta> for Metadata {
    fn from(meta: ObjectMeta) -> Self {
        Self {
            key: Key::new(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
            ),
            uid: meta.uid.unwrap_or_default().into(),
            revision: meta
                .resource_version
                .and_then(|text| text.parse().ok())
                .unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            created: meta.creation_timestamp.map(|time| time.0).unwrap_or_default(),
            deleted: meta.deletion_timestamp.map(|time| time.0),
            labels: meta
                .labels
                .unwrap_or_default()
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
            owners: meta
                .owner_references
                .unwrap_or_default()
                .into_iter()
                .map(|owner| Owner {
                    api_version: owner.api_version.into(),
                    kind: owner.kind.into(),
                    name: owner.name.into(),
                    uid: owner.uid.into(),
                    controller: owner.controller.unwrap_or_default(),
                    block_owner_deletion: owner.block_owner_deletion.unwrap_or_default(),
                })
                .collect(),
            finalizers: meta
                .finalizers
                .unwrap_or_default()
                .into_iter()
                .map(Into::into)
                .collect(),
        }
    }
}

/// A condition of a Node, ReplicaSet or Deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_heartbeat_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_update_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_transition_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
}

impl Condition {
    /// A condition that has just come true, false or unknown, without the update time that only Deployments have.
    pub(crate) fn new(kind: &str, status: &str, reason: &str, message: impl Into<String>, now: Timestamp) -> Self {
        Self {
            kind: kind.into(),
            status: status.into(),
            last_heartbeat_time: None,
            last_update_time: None,
            last_transition_time: Some(time_text(now)),
            reason: Some(reason.into()),
            message: Some(message.into()),
        }
    }

    /// Whether the reason is this one.
    pub(crate) fn because(&self, reason: &str) -> bool {
        self.reason.as_deref() == Some(reason)
    }
}

/// The condition of that type.
pub(crate) fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

/// A time as Kubernetes writes it, whole seconds: `2026-01-02T03:04:05Z`.
pub(crate) fn time_text(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// A time that Kubernetes wrote.
pub(crate) fn time_from(text: Option<&str>) -> Option<Timestamp> {
    text.and_then(|text| text.parse().ok())
}
