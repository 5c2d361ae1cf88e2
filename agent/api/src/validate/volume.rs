//! Volumes of a pod: each has a name of its own and exactly one source.

use serde_json::Value;

use super::fields::{child, entries, index, items, text};
use super::{FieldError, names};
use crate::quantity::Quantity;

/// Checks the volumes; returns the names of all that containers may mount.
pub(super) fn volumes<'a>(volumes: &'a Value, path: &str, errors: &mut Vec<FieldError>) -> Vec<&'a str> {
    let mut known = Vec::new();
    for (position, volume) in items(volumes).iter().enumerate() {
        let path = index(path, position);
        let name = text(&volume["name"]);
        source(volume, &path, errors);
        if name.is_empty() {
            errors.push(FieldError::required(child(&path, "name"), ""));
            continue;
        }
        for message in names::dns_label(name) {
            errors.push(FieldError::invalid(child(&path, "name"), name, message));
        }
        if known.contains(&name) {
            errors.push(FieldError::duplicate(child(&path, "name"), name));
        }
        known.push(name);
    }
    known
}

fn source(volume: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut sources = entries(volume).filter(|(name, value)| *name != "name" && value.is_object());
    let Some((kind, source)) = sources.next() else {
        errors.push(FieldError::required(path, "must specify a volume type"));
        return;
    };
    for (other, _) in sources {
        errors.push(FieldError::forbidden(
            child(path, other),
            "may not specify more than 1 volume type",
        ));
    }
    let path = child(path, kind);
    match kind.as_str() {
        "hostPath" => {
            let host = text(&source["path"]);
            if host.is_empty() {
                errors.push(FieldError::required(child(&path, "path"), ""));
            } else {
                no_backsteps(host, &child(&path, "path"), errors);
            }
        }
        "emptyDir" => {
            let limit = &source["sizeLimit"];
            if Quantity::from_value(limit).is_ok_and(Quantity::is_negative) {
                let message = "SizeLimit field must be a valid resource quantity";
                errors.push(FieldError::forbidden(child(&path, "sizeLimit"), message));
            }
        }
        "secret" | "configMap" => {
            let reference = if kind == "secret" { "secretName" } else { "name" };
            if text(&source[reference]).is_empty() {
                errors.push(FieldError::required(child(&path, reference), ""));
            }
            mode(&source["defaultMode"], &child(&path, "defaultMode"), errors);
            for (position, item) in items(&source["items"]).iter().enumerate() {
                let path = index(&child(&path, "items"), position);
                if text(&item["key"]).is_empty() {
                    errors.push(FieldError::required(child(&path, "key"), ""));
                }
                let file = text(&item["path"]);
                if file.is_empty() {
                    errors.push(FieldError::required(child(&path, "path"), ""));
                } else {
                    descending(file, &child(&path, "path"), errors);
                    if file.starts_with("..") && !file.starts_with("../") && file != ".." {
                        errors.push(FieldError::invalid(
                            child(&path, "path"),
                            file,
                            "must not start with '..'",
                        ));
                    }
                }
                mode(&item["mode"], &child(&path, "mode"), errors);
            }
        }
        _ => {}
    }
}

fn mode(mode: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(bits) = mode.as_i64()
        && !(0..=0o777).contains(&bits)
    {
        let message = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(path, bits, message));
    }
}

fn no_backsteps(target: &str, path: &str, errors: &mut Vec<FieldError>) {
    if target.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, target, "must not contain '..'"));
    }
}

/// A path that stays inside the volume.
pub(super) fn descending(target: &str, path: &str, errors: &mut Vec<FieldError>) {
    if target.starts_with('/') {
        errors.push(FieldError::invalid(path, target, "must be a relative path"));
    }
    no_backsteps(target, path, errors);
}
