//! Deployments and replica sets.

use serde_json::Value;

use super::fields::{child, is_empty, same};
use super::metadata::{IMMUTABLE, not_negative, selector};
use super::{FieldError, pod};
use crate::selector::LabelSelector;

/// Checks the spec of a deployment.
pub(super) fn deployment(spec: &Value, errors: &mut Vec<FieldError>) {
    common(spec, errors);
    strategy(&spec["strategy"], errors);
    not_negative(spec, "revisionHistoryLimit", "spec", errors);
    not_negative(spec, "progressDeadlineSeconds", "spec", errors);
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64()
        && deadline <= spec["minReadySeconds"].as_i64().unwrap_or_default()
    {
        let message = "must be greater than minReadySeconds";
        errors.push(FieldError::invalid("spec.progressDeadlineSeconds", deadline, message));
    }
}

/// Checks the spec of a replica set.
pub(super) fn replica_set(spec: &Value, errors: &mut Vec<FieldError>) {
    common(spec, errors);
}

/// The selector cannot change: pods made before would be lost sight of.
pub(super) fn selector_is_immutable(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let (new, old) = (&new["spec"]["selector"], &old["spec"]["selector"]);
    if !same(new, old) {
        errors.push(FieldError::invalid("spec.selector", new.clone(), IMMUTABLE));
    }
}

fn common(spec: &Value, errors: &mut Vec<FieldError>) {
    not_negative(spec, "replicas", "spec", errors);
    not_negative(spec, "minReadySeconds", "spec", errors);
    let chosen = &spec["selector"];
    if chosen.is_null() {
        errors.push(FieldError::required("spec.selector", ""));
    } else {
        selector(chosen, "spec.selector", errors);
        if is_empty(chosen) {
            let message = "empty selector is invalid for deployment";
            errors.push(FieldError::invalid("spec.selector", chosen.clone(), message));
        }
    }
    let template = &spec["template"];
    let path = "spec.template";
    match LabelSelector::from_object(chosen) {
        Err(_) => errors.push(FieldError::invalid(
            "spec.selector",
            chosen.clone(),
            "invalid label selector",
        )),
        Ok(selector) => {
            let labels = &template["metadata"]["labels"];
            if !selector.requirements().is_empty() && !selector.matches_labels(labels) {
                let message = "`selector` does not match template `labels`";
                errors.push(FieldError::invalid(
                    child(path, "metadata.labels"),
                    labels.clone(),
                    message,
                ));
            }
        }
    }
    pod::template(template, path, errors);
    let policy = &template["spec"]["restartPolicy"];
    if policy == "OnFailure" || policy == "Never" {
        errors.push(FieldError::not_supported(
            child(path, "spec.restartPolicy"),
            policy.clone(),
            &["Always"],
        ));
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        let message = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.push(FieldError::forbidden(
            child(path, "spec.activeDeadlineSeconds"),
            message,
        ));
    }
}

fn strategy(strategy: &Value, errors: &mut Vec<FieldError>) {
    let rolling = &strategy["rollingUpdate"];
    if strategy["type"] == "Recreate" {
        if rolling.is_object() {
            let message = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", message));
        }
        return;
    }
    if !rolling.is_object() {
        return;
    }
    let path = "spec.strategy.rollingUpdate";
    let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
    number_or_percent(unavailable, &child(path, "maxUnavailable"), errors);
    number_or_percent(surge, &child(path, "maxSurge"), errors);
    if is_zero(unavailable) && is_zero(surge) {
        let message = "may not be 0 when `maxSurge` is 0";
        errors.push(FieldError::invalid(
            child(path, "maxUnavailable"),
            unavailable.clone(),
            message,
        ));
    }
    if percent(unavailable).is_some_and(|percent| percent > 100) {
        let message = "must not be greater than 100%";
        errors.push(FieldError::invalid(
            child(path, "maxUnavailable"),
            unavailable.clone(),
            message,
        ));
    }
}

fn percent(value: &Value) -> Option<u64> {
    let digits = value.as_str()?.strip_suffix('%')?;
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        digits.parse().ok()
    } else {
        None
    }
}

fn is_zero(value: &Value) -> bool {
    *value == 0 || percent(value) == Some(0)
}

fn number_or_percent(value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match value {
        Value::String(text) if percent(value).is_none() => {
            let message = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
                           '93%', regex used for validation is '[0-9]+%')";
            errors.push(FieldError::invalid(path, text.as_str(), message));
        }
        Value::Number(number) if number.as_i64().is_some_and(|number| number < 0) => {
            errors.push(FieldError::invalid(path, value.clone(), super::metadata::NEGATIVE));
        }
        _ => {}
    }
}
