//! Status and conditions of a Deployment: `pkg/controller/deployment/progress.go` and `sync.go` of Kubernetes.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::objects::deployment::{Deployment, DeploymentStatus};
use crate::objects::metadata::{Condition, condition, time_from, time_text};
use crate::objects::replica_set::ReplicaSet;

use super::scaling::{asked, available, bounds};

pub(crate) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// Sets a condition. One that says the same already stays as it is; the transition time changes only with the status.
pub(crate) fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition) {
    if let Some(known) = condition(conditions, &new.kind) {
        if known.status == new.status && known.reason == new.reason {
            return;
        }
        if known.status == new.status {
            new.last_transition_time.clone_from(&known.last_transition_time);
        }
    }
    conditions.retain(|known| known.kind != new.kind);
    conditions.push(new);
}

/// A condition with the update time that Deployments add.
pub(crate) fn new_condition(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> Condition {
    Condition {
        last_update_time: Some(time_text(now)),
        ..Condition::new(kind, status, reason, message, now)
    }
}

/// Says that the roll-out is paused, or goes on again, so that a pause is never taken for lack of progress.
pub(crate) fn note_pause(deployment: &Deployment, conditions: &mut Vec<Condition>, now: Timestamp) {
    if deployment.progress_deadline.is_none() {
        return;
    }
    let known = condition(conditions, PROGRESSING);
    if known.is_some_and(|known| known.because(TIMED_OUT)) {
        return;
    }
    let noted = known.is_some_and(|known| known.because(PAUSED));
    if deployment.paused && !noted {
        set_condition(
            conditions,
            new_condition(PROGRESSING, "Unknown", PAUSED, "Deployment is paused".into(), now),
        );
    } else if !deployment.paused && noted {
        let resumed = new_condition(
            PROGRESSING,
            "Unknown",
            "DeploymentResumed",
            "Deployment is resumed".into(),
            now,
        );
        set_condition(conditions, resumed);
    }
}

/// Whether every replica is of the new template and available, and the spec is the one that was seen.
pub(crate) fn complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    status.updated_replicas == deployment.replicas
        && status.replicas == deployment.replicas
        && status.available_replicas == deployment.replicas
        && status.observed_generation >= deployment.metadata.generation
}

/// Counts, and whether enough is available.
pub(crate) fn counts(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    new: Option<&ReplicaSet>,
    conditions: Vec<Condition>,
    now: Timestamp,
) -> DeploymentStatus {
    let available = available(sets);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: sets.iter().map(|set| set.status.replicas).sum(),
        updated_replicas: new.map_or(0, |set| set.status.replicas),
        ready_replicas: sets.iter().map(|set| set.status.ready_replicas).sum(),
        available_replicas: available,
        unavailable_replicas: (asked(sets) - available).max(0),
        terminating_replicas: sets.iter().map(|set| set.status.terminating_replicas).sum(),
        collision_count: deployment.status.collision_count,
        conditions,
    };
    let condition = if available >= deployment.replicas - bounds(deployment).unavailable {
        new_condition(
            AVAILABLE,
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.".into(),
            now,
        )
    } else {
        let message = "Deployment does not have minimum availability.";
        new_condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message.into(), now)
    };
    set_condition(&mut status.conditions, condition);
    status
}

/// Judges the progress of a roll-out; `before` is the status without this look's counts.
pub(crate) fn progress(
    deployment: &Deployment,
    before: &DeploymentStatus,
    mut status: DeploymentStatus,
    sets: &[Arc<ReplicaSet>],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let known = condition(&status.conditions, PROGRESSING).cloned();
    match deployment.progress_deadline {
        None => status.conditions.retain(|known| known.kind != PROGRESSING),
        Some(deadline) => {
            let settled = status.replicas == status.updated_replicas
                && known.as_ref().is_some_and(|known| known.because(NEW_SET_AVAILABLE));
            let subject = new.map_or_else(
                || format!("Deployment \"{}\"", deployment.metadata.key.name),
                |set| format!("ReplicaSet \"{}\"", set.metadata.key.name),
            );
            if settled {
                // A look at a finished roll-out; its pods coming and going is no progress.
            } else if complete(deployment, &status) {
                let message = format!("{subject} has successfully progressed.");
                set_condition(
                    &mut status.conditions,
                    new_condition(PROGRESSING, "True", NEW_SET_AVAILABLE, message, now),
                );
            } else if progressed(before, &status) {
                // The update time moves even when nothing else does: the deadline counts from it.
                let message = format!("{subject} is progressing.");
                let mut condition = new_condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
                if let Some(known) = known.filter(|known| known.status == "True") {
                    condition.last_transition_time = known.last_transition_time;
                }
                status.conditions.retain(|known| known.kind != PROGRESSING);
                status.conditions.push(condition);
            } else if known.is_some_and(|known| timed_out(&known, deadline, now)) {
                let message = format!("{subject} has timed out progressing.");
                set_condition(
                    &mut status.conditions,
                    new_condition(PROGRESSING, "False", TIMED_OUT, message, now),
                );
            }
        }
    }
    let failure = new
        .into_iter()
        .chain(sets.iter().map(|set| &**set))
        .find_map(|set| condition(&set.status.conditions, REPLICA_FAILURE).cloned());
    match failure {
        Some(failure) => {
            let at = failure.last_transition_time.clone();
            set_condition(
                &mut status.conditions,
                Condition {
                    last_update_time: at,
                    ..failure
                },
            );
        }
        None => status.conditions.retain(|known| known.kind != REPLICA_FAILURE),
    }
    status
}

fn progressed(before: &DeploymentStatus, now: &DeploymentStatus) -> bool {
    now.updated_replicas > before.updated_replicas
        || now.replicas - now.updated_replicas < before.replicas - before.updated_replicas
        || now.ready_replicas > before.ready_replicas
        || now.available_replicas > before.available_replicas
}

fn timed_out(known: &Condition, deadline: i32, now: Timestamp) -> bool {
    if known.because(NEW_SET_AVAILABLE) {
        return false;
    }
    if known.because(TIMED_OUT) {
        return true;
    }
    left(known, deadline, now).is_some_and(|left| left.is_negative())
}

fn left(known: &Condition, deadline: i32, now: Timestamp) -> Option<SignedDuration> {
    let from = time_from(known.last_update_time.as_deref())?;
    Some(
        from.saturating_add(SignedDuration::from_secs(i64::from(deadline)))
            .ok()?
            .duration_since(now),
    )
}

/// When lack of progress would have to be said, if nothing happens until then.
pub(crate) fn look_again(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let deadline = deployment.progress_deadline?;
    let known = condition(&status.conditions, PROGRESSING)?;
    if complete(deployment, status) || known.because(TIMED_OUT) || known.because(NEW_SET_AVAILABLE) {
        return None;
    }
    let left = Duration::try_from(left(known, deadline, now)?).unwrap_or(Duration::ZERO);
    // The times are whole seconds: a second more, so that one look is enough.
    Some(left + Duration::from_secs(1))
}
