//! Environment, command and arguments of a container: where values come from and how `$(NAME)` is replaced.

pub(crate) mod services;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, ResourceFieldSelector, Secret};
use minidc_api::quantity::{Format, Quantity};

use crate::desired::Desired;
use crate::resources;

/// What of the node a pod may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    /// Addresses of the node, the first one is *the* address.
    pub(crate) addresses: Vec<String>,
    /// CPU that pods can have, in thousandths of a core.
    pub(crate) allocatable_cpu_milli: i64,
    /// Memory that pods can have, in bytes.
    pub(crate) allocatable_memory: u64,
    /// Memory of the node in bytes.
    pub(crate) memory: u64,
    /// Storage that pods can have, in bytes.
    pub(crate) allocatable_storage: u64,
}

/// Where values are looked up.
pub(crate) struct Lookup<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) desired: &'a Desired,
    pub(crate) node: &'a NodeFacts,
    /// Addresses of the pod; known once its sandbox is up.
    pub(crate) pod_ips: &'a [String],
}

impl Lookup<'_> {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// A config map of the pod's namespace.
    pub(crate) fn config_map(&self, name: &str) -> Option<&Arc<ConfigMap>> {
        self.desired
            .config_maps
            .get(&(self.namespace().to_owned(), name.to_owned()))
    }

    /// A secret of the pod's namespace.
    pub(crate) fn secret(&self, name: &str) -> Option<&Arc<Secret>> {
        self.desired
            .secrets
            .get(&(self.namespace().to_owned(), name.to_owned()))
    }
}

/// The variables of a container in order, and names that were left out because no shell could use them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) variables: Vec<(String, String)>,
    /// One sentence per source that brought unusable names, as the event `InvalidEnvironmentVariableNames` says it.
    pub(crate) skipped: Vec<String>,
}

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        match self.variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.variables.push((name.to_owned(), value)),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// `text` with `$(NAME)` replaced; unknown names stay as they are, `$$` is a `$`.
    pub(crate) fn expand(&self, text: &str) -> String {
        expand(text, |name| self.get(name))
    }
}

/// Kubernetes' `$(NAME)` syntax, see `third_party/forked/golang/expansion` there.
fn expand<'v>(text: &str, value_of: impl Fn(&str) -> Option<&'v str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match value_of(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// Works out the variables of `container`; those of `services` come first, and any other of the same name replaces them.
///
/// # Errors
/// The message of `CreateContainerConfigError`: something referred to is missing and not optional.
pub(crate) fn environment(
    lookup: &Lookup<'_>,
    container: &Container,
    services: Vec<(String, String)>,
) -> Result<Environment, String> {
    let mut environment = Environment {
        variables: services,
        skipped: Vec::new(),
    };
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let mut pairs: Vec<(&String, String)> = Vec::new();
        let (kind, name);
        if let Some(reference) = &source.config_map_ref {
            (kind, name) = ("configMap", reference.name.as_str());
            match lookup.config_map(name) {
                Some(map) => pairs.extend(map.data.iter().flatten().map(|(key, value)| (key, value.clone()))),
                None if reference.optional == Some(true) => continue,
                None => return Err(format!("configmap \"{name}\" not found")),
            }
        } else if let Some(reference) = &source.secret_ref {
            (kind, name) = ("secret", reference.name.as_str());
            match lookup.secret(name) {
                Some(secret) => pairs.extend(
                    secret
                        .data
                        .iter()
                        .flatten()
                        .map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned())),
                ),
                None if reference.optional == Some(true) => continue,
                None => return Err(format!("secret \"{name}\" not found")),
            }
        } else {
            continue;
        }
        let mut unusable = Vec::new();
        for (key, value) in pairs {
            let variable = format!("{prefix}{key}");
            if usable(&variable) {
                environment.set(&variable, value);
            } else {
                unusable.push(key.clone());
            }
        }
        if !unusable.is_empty() {
            environment.skipped.push(format!(
                "Keys [{}] from the EnvFrom {kind} {}/{name} were skipped since they are considered invalid environment variable names.",
                unusable.join(", "),
                lookup.namespace(),
            ));
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => match value_from(lookup, container, source)? {
                Some(value) => value,
                None => continue,
            },
            (value, None) => environment.expand(value.as_deref().unwrap_or_default()),
        };
        environment.set(&variable.name, value);
    }
    Ok(environment)
}

/// Kubernetes takes any printable ASCII but `=`.
fn usable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=')
}

fn value_from(lookup: &Lookup<'_>, container: &Container, source: &EnvVarSource) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        return field_value(lookup, &field.field_path)
            .map(Some)
            .ok_or_else(|| format!("unsupported fieldPath: {}", field.field_path));
    }
    if let Some(selector) = &source.resource_field_ref {
        return resource_value(lookup, Some(container), selector).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = lookup.config_map(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(format!("configmap \"{}\" not found", reference.name))
            };
        };
        return match map.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(format!(
                "couldn't find key {} in ConfigMap {}/{}",
                reference.key,
                lookup.namespace(),
                reference.name
            )),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = lookup.secret(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(format!("secret \"{}\" not found", reference.name))
            };
        };
        return match secret.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(format!(
                "couldn't find key {} in Secret {}/{}",
                reference.key,
                lookup.namespace(),
                reference.name
            )),
        };
    }
    // The API has warned that variables of other kinds are not set.
    Ok(None)
}

/// The value of a field of the pod, for variables and downward API files; `None` for a path that is not offered.
pub(crate) fn field_value(lookup: &Lookup<'_>, path: &str) -> Option<String> {
    let metadata = &lookup.pod.metadata;
    let spec = lookup.pod.spec.as_ref();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.labels" => &metadata.labels,
            "metadata.annotations" => &metadata.annotations,
            _ => return None,
        };
        return Some(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let host_network = spec.is_some_and(|spec| spec.host_network == Some(true));
    let pod_ips = if host_network {
        &lookup.node.addresses
    } else {
        lookup.pod_ips
    };
    Some(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(metadata.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" => lookup.node.addresses.first().cloned().unwrap_or_default(),
        "status.hostIPs" => lookup.node.addresses.join(","),
        "status.podIP" => pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => pod_ips.join(","),
        _ => return None,
    })
}

/// `key="value"` lines, as in downward API files.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let line = |(key, value): (&String, &String)| format!("{key}={}", serde_json::Value::from(value.as_str()));
    map.into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
}

/// A request or limit as a whole number of divisors, rounded up.
pub(crate) fn resource_value(
    lookup: &Lookup<'_>,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let container = match (&selector.container_name, own) {
        (Some(name), _) if !name.is_empty() => {
            let spec = lookup.pod.spec.as_ref();
            let mut all = spec
                .into_iter()
                .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
            all.find(|container| container.name == *name)
                .ok_or_else(|| format!("container {name} not found"))?
        }
        (_, Some(own)) => own,
        _ => return Err("resourceFieldRef names no container".into()),
    };
    let (kind, name) = selector.resource.split_once('.').unwrap_or_default();
    let allocatable = || match name {
        "cpu" => Quantity::from_milli(lookup.node.allocatable_cpu_milli),
        "memory" => units(lookup.node.allocatable_memory),
        "ephemeral-storage" => units(lookup.node.allocatable_storage),
        _ => Quantity::ZERO,
    };
    let amount = match kind {
        // Without a limit a container can use what the node has.
        "limits" => resources::limit(container, name)
            .filter(|limit| !limit.is_zero())
            .unwrap_or_else(allocatable),
        "requests" => resources::request(container, name).unwrap_or_default(),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let divisor = selector
        .divisor
        .as_ref()
        .and_then(|divisor| Quantity::parse(&divisor.0).ok());
    let divisor = divisor
        .filter(|divisor| divisor.nanos() > 0)
        .unwrap_or_else(|| Quantity::from_milli(1_000));
    let (amount, divisor) = (amount.nanos(), divisor.nanos());
    Ok((amount / divisor + i128::from(amount % divisor > 0)).to_string())
}

fn units(bytes: u64) -> Quantity {
    Quantity::from_units(i64::try_from(bytes).unwrap_or(i64::MAX), Format::BinarySi)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(container: serde_json::Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "web-1", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}},
            "spec": {"nodeName": "pi-1"},
        });
        pod["spec"]["containers"] = vec![container].into();
        serde_json::from_value(pod).unwrap()
    }

    fn desired() -> Desired {
        let mut desired = Desired::default();
        let key = |name: &str| ("shop".to_owned(), name.to_owned());
        let map = json!({"metadata": {}, "data": {"COLOUR": "red", "a=b": "x"}});
        desired
            .config_maps
            .insert(key("settings"), Arc::new(serde_json::from_value(map).unwrap()));
        let secret = json!({"metadata": {}, "data": {"password": "aHVudGVyMg=="}});
        desired
            .secrets
            .insert(key("login"), Arc::new(serde_json::from_value(secret).unwrap()));
        desired
    }

    fn result(container: serde_json::Value) -> Result<Environment, String> {
        beside(container, &[])
    }

    fn beside(container: serde_json::Value, services: &[(String, String)]) -> Result<Environment, String> {
        let pod = pod(container);
        let node = NodeFacts {
            addresses: vec!["10.0.0.1".into()],
            allocatable_cpu_milli: 4_000,
            allocatable_memory: 1 << 30,
            ..NodeFacts::default()
        };
        let lookup = Lookup {
            pod: &pod,
            desired: &desired(),
            node: &node,
            pod_ips: &["100.64.0.2".into()],
        };
        environment(&lookup, &pod.spec.as_ref().unwrap().containers[0], services.to_vec())
    }

    fn variables(container: serde_json::Value) -> Vec<(String, String)> {
        result(container).unwrap().variables
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn references_are_replaced_and_escapes_kept() {
        let value = |name: &str| (name == "A").then_some("1");
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$A", "$A"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("a$", "a$"),
            ("$()", "$()"),
            ("é$(A)", "é1"),
        ] {
            assert_eq!(expand(text, value), expected, "{text}");
        }
    }

    #[test]
    fn services_are_seen_by_other_variables_and_overridden_by_them() {
        let services = [pair("WEB_SERVICE_HOST", "100.65.0.9"), pair("OWN", "service")];
        let container = json!({"name": "c", "env": [
            {"name": "URL", "value": "http://$(WEB_SERVICE_HOST)"}, {"name": "OWN", "value": "mine"}]});
        let got = beside(container, &services).unwrap().variables;
        let url = pair("URL", "http://100.65.0.9");
        assert_eq!(got, [services[0].clone(), pair("OWN", "mine"), url]);
    }

    #[test]
    fn later_variables_see_earlier_ones_only() {
        let got = variables(json!({"name": "c", "env": [
            {"name": "A", "value": "$(B)"}, {"name": "B", "value": "2"}, {"name": "C", "value": "$(B)$(COLOUR)"}],
            "envFrom": [{"configMapRef": {"name": "settings"}}]}));
        assert_eq!(
            got,
            [
                pair("COLOUR", "red"),
                pair("A", "$(B)"),
                pair("B", "2"),
                pair("C", "2red")
            ]
        );
    }

    #[test]
    fn values_come_from_fields_secrets_and_config_maps() {
        let got = variables(json!({"name": "c",
        "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}},
        "env": [
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
            {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "COLOUR"}}},
            {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
            {"name": "MOST", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "ABSENT", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k", "optional": true}}}]}));
        assert_eq!(
            got,
            [
                pair("NAME", "web-1"),
                pair("APP", "web"),
                pair("IP", "100.64.0.2"),
                pair("HOST", "10.0.0.1"),
                pair("PASSWORD", "hunter2"),
                pair("COLOUR", "red"),
                pair("MEMORY", "64"),
                pair("CPU", "1"),
                pair("MOST", "4"),
            ]
        );
    }

    #[test]
    fn what_is_missing_is_named_as_kubernetes_does() {
        let refused = |env: serde_json::Value| result(json!({"name": "c", "env": [env]})).unwrap_err();
        assert_eq!(
            refused(json!({"name": "A", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "k"}}})),
            "configmap \"no\" not found"
        );
        assert_eq!(
            refused(json!({"name": "A", "valueFrom": {"secretKeyRef": {"name": "login", "key": "k"}}})),
            "couldn't find key k in Secret shop/login"
        );
        let from = result(json!({"name": "c", "envFrom": [{"secretRef": {"name": "no"}}]}));
        assert_eq!(from.unwrap_err(), "secret \"no\" not found");
    }

    #[test]
    fn unusable_names_are_left_out_and_told() {
        let got =
            result(json!({"name": "c", "envFrom": [{"prefix": "P_", "configMapRef": {"name": "settings"}}]})).unwrap();
        assert_eq!(got.variables, [pair("P_COLOUR", "red")]);
        assert!(got.skipped[0].starts_with("Keys [a=b] from the EnvFrom configMap shop/settings"));
    }
}
