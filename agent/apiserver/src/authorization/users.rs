//! What each controller may do: one table, in the words of Kubernetes' bootstrap roles.

use super::Attributes;

/// Verbs on resources of a group. `*` stands for all; a subresource is written `pods/status`.
struct Rule {
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    /// The one namespace that it holds in; empty for everywhere.
    namespace: &'static str,
}

const fn rule(group: &'static str, resources: &'static [&'static str], verbs: &'static [&'static str]) -> Rule {
    Rule {
        group,
        resources,
        verbs,
        namespace: "",
    }
}

const fn rule_in(namespace: &'static str, resources: &'static [&'static str], verbs: &'static [&'static str]) -> Rule {
    Rule {
        group: "",
        resources,
        verbs,
        namespace,
    }
}

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["update", "patch"];
const KEEP: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete"];
const ALL: &[&str] = &["*"];

/// Everybody here may write events.
const SHARED: &[Rule] = &[
    rule("", &["events"], &["create", "update", "patch"]),
    rule("events.k8s.io", &["events"], &["create", "update", "patch"]),
];

const USERS: &[(&str, &[Rule])] = &[
    (
        "system:serviceaccount:kube-system:deployment-controller",
        &[
            rule("apps", &["deployments"], READ),
            rule(
                "apps",
                &["deployments", "deployments/status", "deployments/finalizers"],
                WRITE,
            ),
            rule("apps", &["replicasets"], KEEP),
            rule("apps", &["replicasets/scale", "replicasets/status"], WRITE),
            rule("", &["pods"], &["get", "list", "watch", "update", "patch"]),
        ],
    ),
    (
        "system:serviceaccount:kube-system:replicaset-controller",
        &[
            rule("apps", &["replicasets"], READ),
            rule(
                "apps",
                &["replicasets", "replicasets/status", "replicasets/finalizers"],
                WRITE,
            ),
            rule("", &["pods"], KEEP),
        ],
    ),
    (
        "system:serviceaccount:kube-system:node-controller",
        &[
            rule("", &["nodes"], &["get", "list", "watch", "update", "patch", "delete"]),
            rule("", &["nodes/status"], WRITE),
            rule("", &["pods"], &["get", "list", "watch", "delete", "patch", "update"]),
            rule("", &["pods/status"], WRITE),
            rule("coordination.k8s.io", &["leases"], READ),
            // The record of which node has which range of pod addresses.
            rule_in("kube-system", &["configmaps"], &["get", "create", "update", "patch"]),
        ],
    ),
    (
        "system:serviceaccount:kube-system:generic-garbage-collector",
        &[rule(
            "*",
            &["*"],
            &["get", "list", "watch", "update", "patch", "delete"],
        )],
    ),
    (
        "system:serviceaccount:kube-system:pod-garbage-collector",
        &[
            rule("", &["pods"], &["get", "list", "watch", "delete"]),
            rule("", &["pods/status"], WRITE),
            rule("", &["nodes"], READ),
        ],
    ),
    (
        "system:serviceaccount:kube-system:namespace-controller",
        &[
            rule(
                "",
                &["namespaces"],
                &["get", "list", "watch", "delete", "update", "patch"],
            ),
            rule("", &["namespaces/finalize", "namespaces/status"], WRITE),
            rule("*", &["*"], &["get", "list", "watch", "delete", "deletecollection"]),
        ],
    ),
    (
        "system:serviceaccount:kube-system:endpointslice-controller",
        &[
            rule("", &["nodes", "pods", "services"], READ),
            rule("", &["services/finalizers"], &["update"]),
            rule("discovery.k8s.io", &["endpointslices"], KEEP),
        ],
    ),
    (
        "system:serviceaccount:kube-system:endpoint-controller",
        &[rule("", &["pods", "services"], READ), rule("", &["endpoints"], KEEP)],
    ),
    (
        "system:serviceaccount:kube-system:endpointslicemirroring-controller",
        &[
            rule("", &["endpoints", "services"], READ),
            rule("discovery.k8s.io", &["endpointslices"], KEEP),
        ],
    ),
    (
        "system:serviceaccount:kube-system:service-controller",
        &[
            rule("", &["nodes", "services"], READ),
            rule("discovery.k8s.io", &["endpointslices"], READ),
            // Annotations say a load balancer's name on the LAN and the node that announces it.
            rule("", &["services", "services/status"], WRITE),
        ],
    ),
    (
        "system:kube-scheduler",
        &[
            rule("", &["nodes", "namespaces", "services"], READ),
            rule("apps", &["replicasets", "statefulsets", "deployments"], READ),
            rule("", &["pods"], &["get", "list", "watch", "delete"]),
            rule("", &["pods/binding", "bindings"], &["create"]),
            rule("", &["pods/status"], WRITE),
            rule("coordination.k8s.io", &["leases"], ALL),
        ],
    ),
];

/// True when a row of the table allows it.
pub(super) fn may(user: &str, attributes: &Attributes<'_>) -> bool {
    let Some((_, rules)) = USERS.iter().find(|(name, _)| *name == user) else {
        return false;
    };
    let resource = if attributes.subresource.is_empty() {
        attributes.resource.to_owned()
    } else {
        format!("{}/{}", attributes.resource, attributes.subresource)
    };
    let has = |list: &[&str], item: &str| list.iter().any(|entry| *entry == "*" || *entry == item);
    rules.iter().chain(SHARED).any(|rule| {
        (rule.group == "*" || rule.group == attributes.group)
            && (rule.namespace.is_empty() || rule.namespace == attributes.namespace)
            && has(rule.resources, &resource)
            && has(rule.verbs, attributes.verb)
    })
}

#[cfg(test)]
mod tests {
    use minidc_api::selector::FieldSelector;

    use super::*;

    fn allowed(user: &str, verb: &str, group: &str, resource: &str, subresource: &str) -> bool {
        let fields = FieldSelector::default();
        may(
            user,
            &Attributes {
                verb,
                group,
                resource,
                subresource,
                namespace: "default",
                name: "x",
                fields: &fields,
            },
        )
    }

    #[test]
    fn controllers_have_their_own_rules_only() {
        let scheduler = "system:kube-scheduler";
        assert!(allowed(scheduler, "create", "", "pods", "binding"));
        assert!(allowed(scheduler, "create", "", "events", ""));
        assert!(!allowed(scheduler, "create", "", "pods", ""));
        assert!(!allowed(scheduler, "get", "", "secrets", ""));
        assert!(!allowed(scheduler, "get", "", "pods", "exec"));
        let deployments = "system:serviceaccount:kube-system:deployment-controller";
        assert!(allowed(deployments, "create", "apps", "replicasets", ""));
        assert!(!allowed(deployments, "create", "", "replicasets", ""));
        assert!(!allowed(deployments, "delete", "", "pods", ""));
        let nodes = "system:serviceaccount:kube-system:node-controller";
        assert!(!allowed(nodes, "get", "", "configmaps", ""), "only in kube-system");
        let slices = "system:serviceaccount:kube-system:endpointslice-controller";
        assert!(allowed(slices, "create", "discovery.k8s.io", "endpointslices", ""));
        assert!(!allowed(slices, "update", "", "services", ""));
        let balancers = "system:serviceaccount:kube-system:service-controller";
        assert!(allowed(balancers, "patch", "", "services", "status"));
        assert!(!allowed(balancers, "create", "discovery.k8s.io", "endpointslices", ""));
        assert!(!allowed("somebody", "get", "", "pods", ""));
        assert!(!allowed("minidc-admin", "get", "", "pods", ""));
    }
}
