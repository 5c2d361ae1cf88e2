//! What of a new desired state is news for a pod.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EnvFromSource, Pod, PodSpec};

use crate::desired::Desired;

/// Whether two versions of a pod ask the same of its task. The status does not count: it came from there.
pub(super) fn asks_the_same(old: &Pod, new: &Pod) -> bool {
    // Conditions that others set can open a readiness gate.
    fn gates(pod: &Pod) -> Vec<(&str, &str)> {
        let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
        let gates: BTreeSet<&str> = gates.map(|gate| gate.condition_type.as_str()).collect();
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let conditions = conditions.map(|condition| (condition.type_.as_str(), condition.status.as_str()));
        conditions.filter(|(kind, _)| gates.contains(kind)).collect()
    }
    let (before, after) = (&old.metadata, &new.metadata);
    before.labels == after.labels
        && before.annotations == after.annotations
        && before.deletion_grace_period_seconds == after.deletion_grace_period_seconds
        && before.generation == after.generation
        && old.spec == new.spec
        && gates(old) == gates(new)
}

/// Names of the config maps and secrets that a pod uses.
fn sources(spec: &PodSpec) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for volume in spec.volumes.iter().flatten() {
        maps.extend(volume.config_map.as_ref().map(|source| source.name.as_str()));
        secrets.extend(volume.secret.as_ref().and_then(|source| source.secret_name.as_deref()));
        for part in volume
            .projected
            .iter()
            .flat_map(|projected| projected.sources.iter().flatten())
        {
            maps.extend(part.config_map.as_ref().map(|source| source.name.as_str()));
            secrets.extend(part.secret.as_ref().map(|source| source.name.as_str()));
        }
    }
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for EnvFromSource {
            config_map_ref,
            secret_ref,
            ..
        } in container.env_from.iter().flatten()
        {
            maps.extend(config_map_ref.as_ref().map(|reference| reference.name.as_str()));
            secrets.extend(secret_ref.as_ref().map(|reference| reference.name.as_str()));
        }
        for source in container
            .env
            .iter()
            .flatten()
            .filter_map(|variable| variable.value_from.as_ref())
        {
            maps.extend(
                source
                    .config_map_key_ref
                    .as_ref()
                    .map(|reference| reference.name.as_str()),
            );
            secrets.extend(source.secret_key_ref.as_ref().map(|reference| reference.name.as_str()));
        }
    }
    (maps, secrets)
}

/// Whether what the pod uses is the same in both.
pub(super) fn same_sources(old: &Desired, new: &Desired, pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let (maps, secrets) = sources(spec);
    fn same<T>(old: Option<&Arc<T>>, new: Option<&Arc<T>>) -> bool {
        match (old, new) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (old, new) => old.is_none() && new.is_none(),
        }
    }
    let key = |name: &str| (namespace.clone(), name.to_owned());
    maps.into_iter()
        .all(|name| same(old.config_maps.get(&key(name)), new.config_maps.get(&key(name))))
        && secrets
            .into_iter()
            .all(|name| same(old.secrets.get(&key(name)), new.secrets.get(&key(name))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn status_is_no_news_but_a_deletion_is() {
        let old = pod(json!({"metadata": {"resourceVersion": "1"}, "spec": {"containers": []}}));
        let status = pod(
            json!({"metadata": {"resourceVersion": "2"}, "spec": {"containers": []}, "status": {"phase": "Running"}}),
        );
        assert!(asks_the_same(&old, &status));
        let deleted = pod(json!({"metadata": {"deletionGracePeriodSeconds": 5}, "spec": {"containers": []}}));
        assert!(!asks_the_same(&old, &deleted));
    }

    #[test]
    fn readiness_gate_of_somebody_else_is_news() {
        let with = |status: &str| {
            pod(
                json!({"metadata": {}, "spec": {"containers": [], "readinessGates": [{"conditionType": "x"}]},
                "status": {"conditions": [{"type": "x", "status": status}, {"type": "Ready", "status": status}]}}),
            )
        };
        assert!(!asks_the_same(&with("True"), &with("False")));
    }

    #[test]
    fn only_what_the_pod_uses_is_news() {
        let user = pod(
            json!({"metadata": {"namespace": "shop"}, "spec": {"containers": [{"name": "c",
            "envFrom": [{"configMapRef": {"name": "a"}}]}], "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}}),
        );
        let mut old = Desired::default();
        let map = |text: &str| Arc::new(serde_json::from_value(json!({"metadata": {}, "data": {"k": text}})).unwrap());
        old.config_maps.insert(("shop".into(), "a".into()), map("1"));
        let mut new = old.clone();
        new.config_maps.insert(("shop".into(), "other".into()), map("2"));
        assert!(same_sources(&old, &new, &user));
        new.config_maps.insert(("shop".into(), "a".into()), map("2"));
        assert!(!same_sources(&old, &new, &user));
        let mut appeared = old.clone();
        appeared.secrets.insert(
            ("shop".into(), "s".into()),
            Arc::new(serde_json::from_value(json!({"metadata": {}})).unwrap()),
        );
        assert!(!same_sources(&old, &appeared, &user));
    }
}
