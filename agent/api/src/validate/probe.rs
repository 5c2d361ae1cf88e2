//! Probes and lifecycle hooks.

use serde_json::Value;

use super::container::{port_number, port_number_or_name};
use super::fields::{child, items, text};
use super::metadata::not_negative;
use super::{FieldError, names};

/// Checks the probes and hooks of a container.
pub(super) fn of_container(container: &Value, grace: Option<i64>, path: &str, errors: &mut Vec<FieldError>) {
    for hook in ["postStart", "preStop"] {
        let handler_value = &container["lifecycle"][hook];
        if handler_value.is_object() {
            handler(handler_value, grace, &child(&child(path, "lifecycle"), hook), errors);
        }
    }
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &container[kind];
        if !probe.is_object() {
            continue;
        }
        let path = child(path, kind);
        handler(probe, grace, &path, errors);
        for field in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            not_negative(probe, field, &path, errors);
        }
        let own_grace = probe["terminationGracePeriodSeconds"].as_i64();
        if let Some(seconds) = own_grace
            && seconds <= 0
        {
            let place = child(&path, "terminationGracePeriodSeconds");
            errors.push(FieldError::invalid(place, seconds, "must be greater than 0"));
        }
        if kind == "readinessProbe" {
            if let Some(seconds) = own_grace {
                let place = child(&path, "terminationGracePeriodSeconds");
                errors.push(FieldError::invalid(
                    place,
                    seconds,
                    "must not be set for readinessProbes",
                ));
            }
        } else if let Some(threshold) = probe["successThreshold"].as_i64()
            && threshold != 1
        {
            errors.push(FieldError::invalid(
                child(&path, "successThreshold"),
                threshold,
                "must be 1",
            ));
        }
    }
}

fn handler(handler: &Value, grace: Option<i64>, path: &str, errors: &mut Vec<FieldError>) {
    let mut count = 0;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let action = &handler[kind];
        if !action.is_object() {
            continue;
        }
        count += 1;
        let path = child(path, kind);
        if count > 1 {
            errors.push(FieldError::forbidden(path, "may not specify more than 1 handler type"));
            continue;
        }
        match kind {
            "exec" if items(&action["command"]).is_empty() => {
                errors.push(FieldError::required(child(&path, "command"), ""));
            }
            "httpGet" => {
                if text(&action["path"]).is_empty() {
                    errors.push(FieldError::required(child(&path, "path"), ""));
                }
                port_number_or_name(&action["port"], &child(&path, "port"), errors);
                for header in items(&action["httpHeaders"]) {
                    if let Some(message) = names::header_name(text(&header["name"])) {
                        let path = child(&path, "httpHeaders");
                        errors.push(FieldError::invalid(path, header["name"].clone(), message));
                    }
                }
            }
            "tcpSocket" => port_number_or_name(&action["port"], &child(&path, "port"), errors),
            "grpc" => port_number(
                action["port"].as_i64().unwrap_or_default(),
                &child(&path, "port"),
                errors,
            ),
            "sleep" => {
                let seconds = action["seconds"].as_i64().unwrap_or_default();
                if let Some(grace) = grace
                    && !(0..=grace).contains(&seconds)
                {
                    let message = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    errors.push(FieldError::invalid(path, seconds, message));
                }
            }
            _ => {}
        }
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
}
