//! What to do about a Deployment: pure, from what is seen to what is to be written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::objects::deployment::{Deployment, DeploymentStatus, Strategy};
use crate::objects::metadata::condition;
use crate::objects::pod::Pod;
use crate::objects::replica_set::ReplicaSet;

use super::revision::{
    self, DESIRED_REPLICAS, REVISION, annotations_to_set, find_new, size_annotations, template_hash,
};
use super::scaling::{active_or_latest, asked, bounds, new_set_size, old_set_sizes, proportional, saturated};
use super::status::{self, PROGRESSING, new_condition};

/// A set to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewSet {
    pub(crate) name: String,
    pub(crate) hash: String,
    pub(crate) replicas: i32,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Changes to a set that there is.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    pub(crate) set: Arc<ReplicaSet>,
    pub(crate) replicas: Option<i32>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) min_ready_seconds: Option<i32>,
}

/// All that follows from one look.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) create: Option<NewSet>,
    pub(crate) updates: Vec<Update>,
    pub(crate) delete: Vec<Arc<ReplicaSet>>,
    /// The Deployment's own revision annotation.
    pub(crate) revision: Option<String>,
    pub(crate) status: DeploymentStatus,
    pub(crate) again: Option<Duration>,
}

impl Plan {
    fn update(&mut self, set: &Arc<ReplicaSet>) -> &mut Update {
        let place = self
            .updates
            .iter()
            .position(|update| update.set.metadata.uid == set.metadata.uid);
        let place = place.unwrap_or_else(|| {
            self.updates.push(Update {
                set: Arc::clone(set),
                replicas: None,
                annotations: BTreeMap::new(),
                min_ready_seconds: None,
            });
            self.updates.len() - 1
        });
        &mut self.updates[place]
    }

    /// Brings a set to a size; writes the size annotations where they are out of date. Says whether the size changes.
    fn scale(&mut self, deployment: &Deployment, set: &Arc<ReplicaSet>, replicas: i32) -> bool {
        let stale: Vec<(String, String)> = size_annotations(deployment, bounds(deployment).surge)
            .into_iter()
            .filter(|(key, value)| set.annotations.get(key) != Some(value))
            .collect();
        if set.replicas == replicas && stale.is_empty() {
            return false;
        }
        let update = self.update(set);
        update.annotations.extend(stale);
        if set.replicas != replicas {
            update.replicas = Some(replicas);
        }
        set.replicas != replicas
    }
}

/// What is known of a Deployment.
pub(crate) struct Observed<'a> {
    pub(crate) deployment: &'a Deployment,
    /// Sets it manages.
    pub(crate) sets: &'a [Arc<ReplicaSet>],
    /// Pods of those sets.
    pub(crate) pods: &'a [Arc<Pod>],
    pub(crate) now: Timestamp,
}

/// One look; what it changes brings the next one about.
pub(crate) fn plan(observed: &Observed<'_>) -> Plan {
    let Observed {
        deployment, sets, now, ..
    } = *observed;
    let new = find_new(deployment, sets);
    let old: Vec<Arc<ReplicaSet>> = sets
        .iter()
        .filter(|set| new.as_ref().is_none_or(|new| new.metadata.uid != set.metadata.uid))
        .cloned()
        .collect();
    let mut plan = Plan::default();
    let mut before = deployment.status.clone();

    if deployment.metadata.terminating() {
        plan.status = status::counts(deployment, sets, new.as_deref(), before.conditions, now);
        return plan;
    }
    status::note_pause(deployment, &mut before.conditions, now);
    if let Some(new) = &new {
        keep_revision(&mut plan, deployment, new, &old);
        if deployment.progress_deadline.is_some() && condition(&before.conditions, PROGRESSING).is_none() {
            let message = format!("Found new replica set \"{}\"", new.metadata.key.name);
            let found = new_condition(PROGRESSING, "True", "FoundNewReplicaSet", message, now);
            status::set_condition(&mut before.conditions, found);
        }
    }

    if deployment.paused || scaled(deployment, sets) {
        resize(&mut plan, deployment, new.as_ref(), &old);
        if deployment.paused {
            plan.delete = surplus_history(deployment, &old);
        }
        plan.status = status::counts(deployment, sets, new.as_deref(), before.conditions, now);
        return plan;
    }
    match deployment.strategy {
        Strategy::Recreate => recreate(&mut plan, observed, new.as_ref(), &old),
        Strategy::RollingUpdate { .. } => roll(&mut plan, deployment, new.as_ref(), &old),
    }
    let settled = plan.create.is_none() && plan.updates.iter().all(|update| update.replicas.is_none());
    if settled && new.is_some() && status::complete(deployment, &deployment.status) {
        plan.delete = surplus_history(deployment, &old);
    }
    if let Some(create) = &plan.create
        && deployment.progress_deadline.is_some()
    {
        let message = format!("Created new replica set \"{}\"", create.name);
        let created = new_condition(PROGRESSING, "True", "NewReplicaSetCreated", message, now);
        status::set_condition(&mut before.conditions, created);
    }
    let counts = status::counts(deployment, sets, new.as_deref(), before.conditions.clone(), now);
    plan.status = if plan.create.is_some() {
        // The set is only about to be: the next look judges its progress.
        counts
    } else {
        status::progress(deployment, &before, counts, sets, new.as_deref(), now)
    };
    plan.again = status::look_again(deployment, &plan.status, now);
    plan
}

/// Whether the size was changed since the sets were last scaled.
fn scaled(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> bool {
    sets.iter().filter(|set| set.replicas > 0).any(|set| {
        revision::number(&set.annotations, DESIRED_REPLICAS).is_some_and(|desired| desired != deployment.replicas)
    })
}

/// The new set has the highest revision, and the Deployment says which.
fn keep_revision(plan: &mut Plan, deployment: &Deployment, new: &Arc<ReplicaSet>, old: &[Arc<ReplicaSet>]) {
    let wanted = revision::highest(old) + 1;
    let changes = annotations_to_set(deployment, &new.annotations, wanted);
    let revision = changes.get(REVISION).or_else(|| new.annotations.get(REVISION)).cloned();
    if !changes.is_empty() {
        plan.update(new).annotations.extend(changes);
    }
    if new.min_ready_seconds != deployment.min_ready_seconds {
        plan.update(new).min_ready_seconds = Some(deployment.min_ready_seconds);
    }
    plan.revision = revision.filter(|revision| deployment.annotations.get(REVISION) != Some(revision));
}

fn resize(plan: &mut Plan, deployment: &Deployment, new: Option<&Arc<ReplicaSet>>, old: &[Arc<ReplicaSet>]) {
    if let Some(only) = active_or_latest(new, old) {
        plan.scale(deployment, &only, deployment.replicas);
        return;
    }
    if new.is_some_and(|new| saturated(deployment, new)) {
        for set in old.iter().filter(|set| set.replicas > 0) {
            plan.scale(deployment, set, 0);
        }
        return;
    }
    if matches!(deployment.strategy, Strategy::RollingUpdate { .. }) {
        let active: Vec<Arc<ReplicaSet>> = old.iter().chain(new).filter(|set| set.replicas > 0).cloned().collect();
        for (set, size) in proportional(deployment, &active) {
            plan.scale(deployment, &set, size);
        }
    }
}

fn create(plan: &mut Plan, deployment: &Deployment, old: &[Arc<ReplicaSet>]) {
    let hash = template_hash(&deployment.template, deployment.status.collision_count);
    let mut annotations = annotations_to_set(deployment, &BTreeMap::new(), revision::highest(old) + 1);
    annotations.extend(size_annotations(deployment, bounds(deployment).surge));
    plan.revision = annotations
        .get(REVISION)
        .filter(|revision| deployment.annotations.get(REVISION) != Some(revision))
        .cloned();
    plan.create = Some(NewSet {
        name: format!("{}-{hash}", deployment.metadata.key.name),
        hash,
        replicas: new_set_size(deployment, 0, asked(old)),
        annotations,
    });
}

fn recreate(plan: &mut Plan, observed: &Observed<'_>, new: Option<&Arc<ReplicaSet>>, old: &[Arc<ReplicaSet>]) {
    let deployment = observed.deployment;
    let mut shrunk = false;
    for set in old.iter().filter(|set| set.replicas > 0) {
        shrunk |= plan.scale(deployment, set, 0);
    }
    let old_runs = observed.pods.iter().any(|pod| {
        !pod.finished()
            && pod
                .metadata
                .controller()
                .is_some_and(|owner| old.iter().any(|set| set.metadata.uid == owner.uid))
    });
    if shrunk || old_runs {
        return;
    }
    match new {
        Some(new) => {
            plan.scale(deployment, new, deployment.replicas);
        }
        None => create(plan, deployment, old),
    }
}

fn roll(plan: &mut Plan, deployment: &Deployment, new: Option<&Arc<ReplicaSet>>, old: &[Arc<ReplicaSet>]) {
    let Some(new) = new else {
        create(plan, deployment, old);
        return;
    };
    let size = if new.replicas > deployment.replicas {
        deployment.replicas
    } else {
        new_set_size(deployment, new.replicas, asked(old) + new.replicas)
    };
    // One step at a time: what the old sets may lose is counted anew once the new one has its size.
    if size != new.replicas && plan.scale(deployment, new, size) {
        return;
    }
    for (set, size) in old_set_sizes(deployment, new, old) {
        plan.scale(deployment, &set, size);
    }
}

/// Old sets beyond the number to be kept for going back, the oldest revisions first; never one that still has pods.
fn surplus_history(deployment: &Deployment, old: &[Arc<ReplicaSet>]) -> Vec<Arc<ReplicaSet>> {
    let Some(limit) = deployment
        .revision_history_limit
        .and_then(|limit| usize::try_from(limit).ok())
    else {
        return Vec::new();
    };
    let mut kept: Vec<&Arc<ReplicaSet>> = old.iter().filter(|set| !set.metadata.terminating()).collect();
    let surplus = kept.len().saturating_sub(limit);
    kept.sort_by_key(|set| (revision::revision(&set.annotations), set.metadata.created));
    kept.into_iter()
        .take(surplus)
        .filter(|set| {
            set.replicas == 0 && set.status.replicas == 0 && set.metadata.generation <= set.status.observed_generation
        })
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests;
