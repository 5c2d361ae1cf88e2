//! A ReplicaSet, with its pod template kept as the text it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::metadata::Condition;
use super::{Metadata, Stored, Wire};
use crate::selector::Selector;

/// A pod template as compact JSON with sorted keys; parsed only where a pod is made or templates are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Arc<str>);

impl Template {
    pub(crate) fn new(value: &Value) -> Self {
        Self(value.to_string().into())
    }

    /// The template; `null` if it was none.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or(Value::Null)
    }
}

/// What the controllers keep of a ReplicaSet.
#[derive(Debug)]
pub(crate) struct ReplicaSet {
    pub(crate) metadata: Metadata,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) replicas: i32,
    pub(crate) min_ready_seconds: i32,
    /// None where it cannot be read; such a set is left alone.
    pub(crate) selector: Option<Selector>,
    pub(crate) template: Template,
    pub(crate) status: ReplicaSetStatus,
}

/// Part of a ReplicaSet's spec.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReplicaSetSpec {
    replicas: Option<i32>,
    min_ready_seconds: Option<i32>,
    selector: Option<Value>,
    template: Option<Value>,
}

/// A ReplicaSet's status; written by this crate alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ReplicaSetStatus {
    pub(crate) replicas: i32,
    pub(crate) fully_labeled_replicas: i32,
    pub(crate) ready_replicas: i32,
    pub(crate) available_replicas: i32,
    pub(crate) terminating_replicas: i32,
    pub(crate) observed_generation: i64,
    pub(crate) conditions: Vec<Condition>,
}

impl Stored for ReplicaSet {
    type Wire = Wire<ReplicaSetSpec, ReplicaSetStatus>;

    fn from_wire(mut wire: Self::Wire) -> Self {
        let annotations = wire.metadata.annotations.take().unwrap_or_default();
        let spec = wire.spec;
        let read = |pick: fn(&ReplicaSetSpec) -> Option<i32>| spec.as_ref().and_then(pick);
        Self {
            metadata: Metadata::from(wire.metadata),
            annotations: annotations.into_iter().collect(),
            replicas: read(|spec| spec.replicas).unwrap_or(1),
            min_ready_seconds: read(|spec| spec.min_ready_seconds).unwrap_or_default(),
            selector: spec
                .as_ref()
                .and_then(|spec| spec.selector.as_ref())
                .and_then(Selector::read),
            template: Template::new(
                spec.as_ref()
                    .and_then(|spec| spec.template.as_ref())
                    .unwrap_or(&Value::Null),
            ),
            status: wire.status.unwrap_or_default(),
        }
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}
