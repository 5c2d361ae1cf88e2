//! How many pods each ReplicaSet of a Deployment should have: bounds of a rolling update, and shares when its size changes half-way.
//!
//! The arithmetic is that of `pkg/controller/deployment/util/deployment_util.go` of Kubernetes.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::objects::deployment::{Deployment, Strategy};
use crate::objects::replica_set::ReplicaSet;

use super::revision::{MAX_REPLICAS, number};

/// How many pods more than asked for there may be, and how many of those asked for may be unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) surge: i32,
    pub(crate) unavailable: i32,
}

/// The bounds of a Deployment; both zero for Recreate.
pub(crate) fn bounds(deployment: &Deployment) -> Bounds {
    let Strategy::RollingUpdate { surge, unavailable } = deployment.strategy else {
        return Bounds {
            surge: 0,
            unavailable: 0,
        };
    };
    let surge = surge.of(deployment.replicas, true).max(0);
    let mut unavailable = unavailable.of(deployment.replicas, false).max(0);
    // Both may round to nothing, and then nothing could ever move.
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    Bounds {
        surge,
        unavailable: unavailable.min(deployment.replicas),
    }
}

/// Pods asked of all the sets.
pub(crate) fn asked(sets: &[Arc<ReplicaSet>]) -> i32 {
    sets.iter().map(|set| set.replicas).sum()
}

/// Available pods of all the sets.
pub(crate) fn available(sets: &[Arc<ReplicaSet>]) -> i32 {
    sets.iter().map(|set| set.status.available_replicas).sum()
}

/// Replicas the new set should have now, given what it has (`present`) and what all sets have together.
pub(crate) fn new_set_size(deployment: &Deployment, present: i32, all: i32) -> i32 {
    match deployment.strategy {
        Strategy::Recreate => deployment.replicas,
        Strategy::RollingUpdate { .. } => {
            let limit = deployment.replicas.saturating_add(bounds(deployment).surge);
            if all >= limit {
                return present;
            }
            present + (limit - all).min(deployment.replicas - present)
        }
    }
}

/// Sizes the old sets may be brought down to without too few pods staying available; only those that change.
pub(crate) fn old_set_sizes(
    deployment: &Deployment,
    new: &ReplicaSet,
    old: &[Arc<ReplicaSet>],
) -> Vec<(Arc<ReplicaSet>, i32)> {
    let old_asked = asked(old);
    if old_asked == 0 {
        return Vec::new();
    }
    let least = deployment.replicas - bounds(deployment).unavailable;
    let new_unavailable = new.replicas - new.status.available_replicas;
    let mut spare = old_asked + new.replicas - least - new_unavailable;
    if spare <= 0 {
        return Vec::new();
    }
    let mut by_age: Vec<(Arc<ReplicaSet>, i32)> = old.iter().map(|set| (Arc::clone(set), set.replicas)).collect();
    by_age.sort_by(|(a, _), (b, _)| (a.metadata.created, &a.metadata.key).cmp(&(b.metadata.created, &b.metadata.key)));

    // Pods that do not work are no loss: they go first.
    for (set, size) in &mut by_age {
        let broken = (*size - set.status.available_replicas).max(0);
        let cut = broken.min(spare);
        *size -= cut;
        spare -= cut;
    }
    // Then those that work, as long as enough of them stay.
    let mut surplus = available(old) + new.status.available_replicas - least;
    for (_, size) in &mut by_age {
        let cut = (*size).min(surplus).max(0);
        *size -= cut;
        surplus -= cut;
    }
    by_age.retain(|(set, size)| *size != set.replicas);
    by_age
}

/// The set to give all replicas to when no roll-out is under way: the only active one, or the new or newest if none is active.
/// None where several are active.
pub(crate) fn active_or_latest(new: Option<&Arc<ReplicaSet>>, old: &[Arc<ReplicaSet>]) -> Option<Arc<ReplicaSet>> {
    let mut active = old.iter().chain(new).filter(|set| set.replicas > 0);
    match (active.next(), active.next()) {
        (None, _) => new
            .or_else(|| {
                old.iter()
                    .max_by(|a, b| (a.metadata.created, &a.metadata.key).cmp(&(b.metadata.created, &b.metadata.key)))
            })
            .cloned(),
        (Some(only), None) => Some(Arc::clone(only)),
        (Some(_), Some(_)) => None,
    }
}

/// Whether the new set has taken over all there is.
pub(crate) fn saturated(deployment: &Deployment, new: &ReplicaSet) -> bool {
    let desired = number(&new.annotations, super::revision::DESIRED_REPLICAS);
    new.replicas == deployment.replicas
        && desired == Some(deployment.replicas)
        && new.status.available_replicas == deployment.replicas
}

/// Sizes when the Deployment changes size in the middle of a roll-out: each active set gains or loses by its share.
pub(crate) fn proportional(deployment: &Deployment, active: &[Arc<ReplicaSet>]) -> Vec<(Arc<ReplicaSet>, i32)> {
    let surge = bounds(deployment).surge;
    let allowed = if deployment.replicas > 0 {
        deployment.replicas.saturating_add(surge)
    } else {
        0
    };
    let to_add = allowed - asked(active);
    let mut sizes: Vec<(Arc<ReplicaSet>, i32)> = active.iter().map(|set| (Arc::clone(set), set.replicas)).collect();
    // What is added goes to the larger and newer first, what is taken comes from the larger and older.
    if to_add >= 0 {
        sizes.sort_by_key(|(set, size)| (Reverse(*size), Reverse(set.metadata.created)));
    } else {
        sizes.sort_by_key(|(set, size)| (Reverse(*size), set.metadata.created));
    }
    let mut added = 0;
    for (set, size) in &mut sizes {
        let share = share(deployment, set, surge);
        let left = to_add - added;
        let change = if to_add > 0 { share.min(left) } else { share.max(left) };
        if to_add != 0 && left != 0 && set.replicas != 0 {
            *size += change;
            added += change;
        }
    }
    if let Some((_, size)) = sizes.first_mut() {
        *size = (*size + to_add - added).max(0);
    }
    sizes
}

/// How much a set gains or loses so that it keeps its part of the whole.
fn share(deployment: &Deployment, set: &ReplicaSet, surge: i32) -> i32 {
    if deployment.replicas == 0 {
        return -set.replicas;
    }
    let before = number(&set.annotations, MAX_REPLICAS)
        .filter(|max| *max > 0)
        .unwrap_or(deployment.status.replicas)
        .max(1);
    let after = deployment.replicas.saturating_add(surge);
    let exact = f64::from(set.replicas) * f64::from(after) / f64::from(before);
    // The values are at most a few thousand; the cast saturates.
    #[expect(clippy::cast_possible_truncation, reason = "rounded on purpose; `as` saturates")]
    let rounded = exact.round() as i32;
    rounded - set.replicas
}
