//! A Deployment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::metadata::Condition;
use super::replica_set::Template;
use super::{Metadata, Stored, Wire};
use crate::selector::Selector;

/// A count, or a part of the replicas in per cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    Count(i32),
    Percent(i32),
}

impl Share {
    fn read(value: Option<&Value>) -> Option<Self> {
        match value? {
            Value::Number(number) => number.as_i64().and_then(|n| i32::try_from(n).ok()).map(Self::Count),
            Value::String(text) => text
                .strip_suffix('%')
                .and_then(|part| part.parse().ok())
                .map(Self::Percent),
            _ => None,
        }
    }

    /// Of so many replicas; parts are rounded up or down.
    pub(crate) fn of(self, replicas: i32, up: bool) -> i32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => {
                let part = i64::from(replicas) * i64::from(percent);
                let whole = if up {
                    (part + 99).div_euclid(100)
                } else {
                    part.div_euclid(100)
                };
                i32::try_from(whole).unwrap_or(i32::MAX)
            }
        }
    }
}

/// How pods of the old template give way to those of the new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    Recreate,
    RollingUpdate { surge: Share, unavailable: Share },
}

/// What the controllers keep of a Deployment.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) metadata: Metadata,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) replicas: i32,
    /// `spec.selector` as written, for the ReplicaSets it makes.
    pub(crate) selector_value: Value,
    /// None where it cannot be read; such a Deployment is left alone.
    pub(crate) selector: Option<Selector>,
    pub(crate) template: Template,
    pub(crate) strategy: Strategy,
    pub(crate) min_ready_seconds: i32,
    pub(crate) revision_history_limit: Option<i32>,
    pub(crate) paused: bool,
    /// Seconds; none means that progress is not judged.
    pub(crate) progress_deadline: Option<i32>,
    pub(crate) status: DeploymentStatus,
}

/// Part of a Deployment's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeploymentSpec {
    replicas: Option<i32>,
    selector: Option<Value>,
    template: Option<Value>,
    strategy: Option<StrategyWire>,
    min_ready_seconds: Option<i32>,
    revision_history_limit: Option<i32>,
    paused: Option<bool>,
    progress_deadline_seconds: Option<i32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StrategyWire {
    #[serde(rename = "type")]
    kind: Option<String>,
    rolling_update: Option<RollingWire>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RollingWire {
    max_surge: Option<Value>,
    max_unavailable: Option<Value>,
}

/// A Deployment's status; written by this crate alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeploymentStatus {
    pub(crate) observed_generation: i64,
    pub(crate) replicas: i32,
    pub(crate) updated_replicas: i32,
    pub(crate) ready_replicas: i32,
    pub(crate) available_replicas: i32,
    pub(crate) unavailable_replicas: i32,
    pub(crate) terminating_replicas: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) collision_count: Option<i32>,
    pub(crate) conditions: Vec<Condition>,
}

impl Stored for Deployment {
    type Wire = Wire<DeploymentSpec, DeploymentStatus>;

    fn from_wire(mut wire: Self::Wire) -> Self {
        let annotations = wire.metadata.annotations.take().unwrap_or_default();
        let spec = wire.spec.unwrap_or_default();
        let rolling = spec
            .strategy
            .as_ref()
            .and_then(|strategy| strategy.rolling_update.as_ref());
        let quarter = Share::Percent(25);
        let strategy = match spec.strategy.as_ref().and_then(|strategy| strategy.kind.as_deref()) {
            Some("Recreate") => Strategy::Recreate,
            _ => Strategy::RollingUpdate {
                surge: Share::read(rolling.and_then(|rolling| rolling.max_surge.as_ref())).unwrap_or(quarter),
                unavailable: Share::read(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()))
                    .unwrap_or(quarter),
            },
        };
        Self {
            metadata: Metadata::from(wire.metadata),
            annotations: annotations.into_iter().collect(),
            replicas: spec.replicas.unwrap_or(1),
            selector: spec.selector.as_ref().and_then(Selector::read),
            selector_value: spec.selector.unwrap_or(Value::Null),
            template: Template::new(&spec.template.unwrap_or(Value::Null)),
            strategy,
            min_ready_seconds: spec.min_ready_seconds.unwrap_or_default(),
            revision_history_limit: spec.revision_history_limit,
            paused: spec.paused.unwrap_or_default(),
            // Kubernetes reads its largest number as "no deadline".
            progress_deadline: spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX),
            status: wire.status.unwrap_or_default(),
        }
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}
