//! What the server says it serves: `/api`, `/apis`, the resource lists, the aggregated form of both, and `/version`.
//! All of it comes from the table of kinds.

use serde_json::{Value, json};

use crate::kinds::{self, Kind, Scope, Subresource};

/// Media type of [`aggregated`]; clients that list it in `Accept` want that form at `/api` and `/apis`.
pub const AGGREGATED_MEDIA: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Kubernetes minor that all names, fields and defaults are those of.
pub const KUBERNETES_MINOR: &str = "36";

/// The groups and versions served, the core group first, each once.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut found: Vec<(&'static str, &'static str)> = Vec::new();
    for kind in kinds::all() {
        if !found.contains(&(kind.group, kind.version)) {
            found.push((kind.group, kind.version));
        }
    }
    found
}

/// `v1` or `apps/v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// `GET /api`. Addresses are left out: clients use the one they came by.
pub fn api_versions() -> Value {
    json!({"kind": "APIVersions", "versions": versions(""), "serverAddressByClientCIDRs": []})
}

/// `GET /apis`
pub fn api_groups() -> Value {
    let groups: Vec<Value> = groups()
        .into_iter()
        .filter(|group| !group.is_empty())
        .map(group_value)
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/GROUP`
pub fn api_group(group: &str) -> Option<Value> {
    let known = groups()
        .into_iter()
        .find(|known| !known.is_empty() && *known == group)?;
    let mut value = group_value(known);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

/// `GET /api/VERSION` (with an empty group) and `GET /apis/GROUP/VERSION`
pub fn resources(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in of(group, version) {
        let mut resource = json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.is_namespaced(),
            "kind": kind.kind,
            "verbs": kind.verbs,
        });
        if !kind.short_names.is_empty() {
            resource["shortNames"] = kind.short_names.into();
        }
        if !kind.categories.is_empty() {
            resource["categories"] = kind.categories.into();
        }
        resources.push(resource);
        for subresource in kind.subresources {
            let answer = answer(kind, *subresource);
            let mut resource = json!({
                "name": format!("{}/{}", kind.plural, subresource.name()),
                "singularName": "",
                "namespaced": kind.is_namespaced(),
                "kind": answer.kind,
                "verbs": subresource.verbs(),
            });
            if (answer.group, answer.version) != (group, version) {
                resource["group"] = answer.group.into();
                resource["version"] = answer.version.into();
            }
            resources.push(resource);
        }
    }
    if resources.is_empty() {
        return None;
    }
    let list = json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version(group, version),
        "resources": resources,
    });
    Some(list)
}

/// The aggregated form, `apidiscovery.k8s.io/v2`: of `/api` when `core`, else of `/apis`. Sent as [`AGGREGATED_MEDIA`].
pub fn aggregated(core: bool) -> Value {
    let items: Vec<Value> = groups()
        .into_iter()
        .filter(|group| group.is_empty() == core)
        .map(aggregated_group)
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

/// `GET /version`
pub fn version() -> Value {
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        "x86_64" => "amd64",
        other => other,
    };
    json!({
        "major": "1",
        "minor": KUBERNETES_MINOR,
        "gitVersion": git_version(),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{architecture}", std::env::consts::OS),
    })
}

/// `v1.36.0+minidc-0.1.0`: the Kubernetes version spoken, and ours; also what nodes report as `kubeletVersion`.
pub fn git_version() -> String {
    format!("v1.{KUBERNETES_MINOR}.0+minidc-{}", env!("CARGO_PKG_VERSION"))
}

/// What a subresource answers with.
struct Answer {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
}

fn answer(kind: &Kind, subresource: Subresource) -> Answer {
    let (group, version, kind) = match subresource {
        Subresource::Status | Subresource::Log | Subresource::Archive => (kind.group, kind.version, kind.kind),
        Subresource::Scale => ("autoscaling", "v1", "Scale"),
        Subresource::Exec => ("", "v1", "PodExecOptions"),
        Subresource::Binding => ("", "v1", "Binding"),
        Subresource::Eviction => ("policy", "v1", "Eviction"),
    };
    Answer { group, version, kind }
}

fn of(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    kinds::all()
        .iter()
        .filter(move |kind| kind.group == group && kind.version == version)
}

fn groups() -> Vec<&'static str> {
    let mut found: Vec<&'static str> = group_versions().into_iter().map(|(group, _)| group).collect();
    found.dedup();
    found
}

fn versions(group: &str) -> Vec<&'static str> {
    group_versions()
        .into_iter()
        .filter(|(known, _)| *known == group)
        .map(|(_, version)| version)
        .collect()
}

fn group_value(group: &str) -> Value {
    let versions: Vec<Value> = versions(group)
        .into_iter()
        .map(|version| json!({"groupVersion": api_version(group, version), "version": version}))
        .collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

fn aggregated_group(group: &'static str) -> Value {
    let versions: Vec<Value> = versions(group)
        .into_iter()
        .map(|version| {
            let resources: Vec<Value> = of(group, version).map(aggregated_resource).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() {
        json!({})
    } else {
        json!({"name": group})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": match kind.scope { Scope::Namespaced => "Namespaced", Scope::Cluster => "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = kind.short_names.into();
    }
    if !kind.categories.is_empty() {
        resource["categories"] = kind.categories.into();
    }
    if !kind.subresources.is_empty() {
        let list: Vec<Value> = kind
            .subresources
            .iter()
            .map(|subresource| {
                let answer = answer(kind, *subresource);
                json!({
                    "subresource": subresource.name(),
                    "responseKind": {"group": answer.group, "version": answer.version, "kind": answer.kind},
                    "verbs": subresource.verbs(),
                })
            })
            .collect();
        resource["subresources"] = list.into();
    }
    resource
}

#[cfg(test)]
mod tests;
