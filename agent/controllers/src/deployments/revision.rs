//! Which ReplicaSet is the new one, its name, and the annotations that carry revisions.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::objects::deployment::Deployment;
use crate::objects::replica_set::{ReplicaSet, Template};

/// Number of the roll-out.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier numbers of a set that was rolled back to.
pub(crate) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Replicas of the Deployment when the set was last scaled.
pub(crate) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with the surge.
pub(crate) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Label that sets the pods of one template apart from those of the others.
pub(crate) const TEMPLATE_HASH: &str = "pod-template-hash";

/// Annotations of a Deployment that are not handed down to its sets.
const NOT_INHERITED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
];

/// A template as it counts for comparison: no hash label, no nulls, no empty metadata.
fn essence(template: &Template) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|_, field| !field.is_null());
                map.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut value = template.value();
    if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(TEMPLATE_HASH);
    }
    strip(&mut value);
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|_, field| field.as_object().is_none_or(|map| !map.is_empty()));
    }
    value
}

/// Whether both templates make the same pods.
pub(crate) fn same_template(one: &Template, other: &Template) -> bool {
    one == other || essence(one) == essence(other)
}

/// The set of the Deployment's present template; the oldest, should there be several.
pub(crate) fn find_new(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Option<Arc<ReplicaSet>> {
    sets.iter()
        .filter(|set| same_template(&set.template, &deployment.template))
        .min_by(|a, b| (a.metadata.created, &a.metadata.key).cmp(&(b.metadata.created, &b.metadata.key)))
        .cloned()
}

/// Ten characters, none a vowel or easily taken for another, from the template and the count of collisions so far.
///
/// The alphabet is that of `k8s.io/apimachinery/pkg/util/rand`, the hash FNV-1a of the template's sorted JSON. It need not equal
/// Kubernetes' own hash, only itself: sets are found by comparing templates, not hashes.
pub(crate) fn template_hash(template: &Template, collisions: Option<i32>) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash: u32 = 0x811c_9dc5;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    feed(essence(template).to_string().as_bytes());
    if let Some(count) = collisions {
        feed(&count.to_le_bytes());
    }
    hash.to_string()
        .bytes()
        .map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]))
        .collect()
}

/// Revision of an object by its annotation; 0 where it has none.
pub(crate) fn revision(annotations: &BTreeMap<String, String>) -> i64 {
    annotations
        .get(REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

/// Highest revision of the sets, 0 without any.
pub(crate) fn highest(sets: &[Arc<ReplicaSet>]) -> i64 {
    sets.iter()
        .map(|set| revision(&set.annotations))
        .max()
        .unwrap_or_default()
}

/// Annotations of the new set that must change so that it carries the Deployment's own and at least revision `wanted`.
pub(crate) fn annotations_to_set(
    deployment: &Deployment,
    present: &BTreeMap<String, String>,
    wanted: i64,
) -> BTreeMap<String, String> {
    let mut changes: BTreeMap<String, String> = deployment
        .annotations
        .iter()
        .filter(|(key, value)| !NOT_INHERITED.contains(&key.as_str()) && present.get(*key) != Some(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let old = revision(present);
    if old < wanted {
        changes.insert(REVISION.into(), wanted.to_string());
        if let Some(old) = present.get(REVISION) {
            let history = match present.get(REVISION_HISTORY).filter(|history| !history.is_empty()) {
                Some(history) => format!("{history},{old}"),
                None => old.clone(),
            };
            changes.insert(REVISION_HISTORY.into(), history);
        }
    }
    changes
}

/// What a set must say of the size of its Deployment after it was scaled.
pub(crate) fn size_annotations(deployment: &Deployment, surge: i32) -> [(String, String); 2] {
    [
        (DESIRED_REPLICAS.into(), deployment.replicas.to_string()),
        (
            MAX_REPLICAS.into(),
            deployment.replicas.saturating_add(surge).to_string(),
        ),
    ]
}

/// A number in an annotation.
pub(crate) fn number(annotations: &BTreeMap<String, String>, key: &str) -> Option<i32> {
    annotations.get(key)?.parse().ok()
}
