//! What a node may do: Kubernetes' node authorizer, with the same graph that decides what a node is sent.

use minidc_store::Store;

use super::{Attributes, Decision};
use crate::graph::{self, Referent};

const LEASES: &str = "kube-node-lease";

/// Decides for `system:node:NAME`. Which fields a permitted write may change is admission's matter.
pub(super) fn decide(store: &Store, node: &str, attributes: &Attributes<'_>) -> Decision {
    let Attributes {
        verb,
        group,
        resource,
        subresource,
        namespace,
        name,
        ..
    } = *attributes;
    let plain = subresource.is_empty();
    let reading = matches!(verb, "get" | "list" | "watch");
    let writing = matches!(verb, "update" | "patch");
    match (group, resource) {
        ("", "nodes") => match verb {
            "get" | "list" | "watch" if plain => Decision::Allowed,
            "create" if plain => Decision::Allowed,
            "update" | "patch" if plain || subresource == "status" => {
                own(node, name, "can only modify its own Node object")
            }
            _ => Decision::Denied(None),
        },
        ("", "pods") => pods(store, node, attributes),
        ("", "configmaps") if plain && reading => referenced(store, node, Referent::ConfigMap, attributes),
        ("", "secrets") if plain && reading => referenced(store, node, Referent::Secret, attributes),
        ("" | "events.k8s.io", "events") if plain && (verb == "create" || writing) => Decision::Allowed,
        ("", "services" | "namespaces") | ("discovery.k8s.io", "endpointslices") if plain && reading => {
            Decision::Allowed
        }
        ("coordination.k8s.io", "leases") if plain => {
            if namespace != LEASES {
                return Decision::Denied(Some(format!(
                    "can only access leases in the {LEASES:?} system namespace"
                )));
            }
            match verb {
                "create" => Decision::Allowed,
                "get" | "update" | "patch" | "delete" => own(
                    node,
                    name,
                    "can only access node lease with the same name as the requesting node",
                ),
                _ => Decision::Denied(None),
            }
        }
        ("minidc.dev", "images" | "netchecks") => {
            if plain && reading || subresource == "status" && (writing || verb == "get") {
                Decision::Allowed
            } else {
                Decision::Denied(None)
            }
        }
        _ => Decision::Denied(None),
    }
}

fn own(node: &str, name: &str, otherwise: &str) -> Decision {
    if node == name {
        Decision::Allowed
    } else {
        Decision::Denied(Some(otherwise.to_owned()))
    }
}

fn pods(store: &Store, node: &str, attributes: &Attributes<'_>) -> Decision {
    let Attributes {
        verb,
        subresource,
        namespace,
        name,
        fields,
        ..
    } = *attributes;
    let one = match (verb, subresource) {
        ("list" | "watch", "") if name.is_empty() => {
            return if fields.exact("spec.nodeName") == Some(node) {
                Decision::Allowed
            } else {
                Decision::Denied(Some(
                    "can only list/watch pods with spec.nodeName field selector".to_owned(),
                ))
            };
        }
        ("get" | "list" | "watch", "" | "status")
        | ("delete", "")
        | ("create", "eviction")
        | ("update" | "patch", "status") => !name.is_empty(),
        _ => false,
    };
    if !one {
        return Decision::Denied(None);
    }
    match store.get(&format!("{}{namespace}/{name}", graph::PODS)) {
        // What does not exist is nobody's: the request itself will say so, as it does for a pod deleted meanwhile.
        None => Decision::Allowed,
        Some(entry) if graph::is_bound_to(&entry, node) => Decision::Allowed,
        Some(_) => unrelated(node),
    }
}

fn referenced(store: &Store, node: &str, referent: Referent, attributes: &Attributes<'_>) -> Decision {
    // A list or watch of one name is as good as a get; anything wider would read what no pod here uses.
    let name = if attributes.name.is_empty() {
        attributes.fields.exact("metadata.name").unwrap_or("")
    } else {
        attributes.name
    };
    if name.is_empty() || attributes.namespace.is_empty() {
        return Decision::Denied(Some("No Object name found".to_owned()));
    }
    if graph::node_uses(store, node, referent, attributes.namespace, name) {
        Decision::Allowed
    } else {
        unrelated(node)
    }
}

fn unrelated(node: &str) -> Decision {
    Decision::Denied(Some(format!(
        "no relationship found between node '{node}' and this object"
    )))
}
