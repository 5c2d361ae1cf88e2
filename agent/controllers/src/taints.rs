//! Taints and tolerations, as scheduler and node lifecycle both judge them.

use crate::objects::node::Taint;
use crate::objects::pod::Toleration;

/// The node's Ready condition is False.
pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The node is silent.
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Somebody cordoned the node.
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

pub(crate) const NO_SCHEDULE: &str = "NoSchedule";
pub(crate) const NO_EXECUTE: &str = "NoExecute";
pub(crate) const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";

/// Whether one toleration covers a taint (`Toleration.ToleratesTaint` of Kubernetes).
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
        _ => false,
    }
}

/// Whether any of the tolerations covers a taint.
pub(crate) fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}
