//! The columns of each kind.

use jiff::Timestamp;
use serde_json::Value;

use super::{Column, pod, time};
use crate::quantity::Quantity;
use crate::selector::LabelSelector;

mod network;

pub use network::{ENDPOINT_SLICES, ENDPOINTS, IP_ADDRESSES, NET_CHECKS, SERVICE_CIDRS, SERVICES};

const NONE: &str = "<none>";

const fn column(name: &'static str, description: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        name,
        data_type: "string",
        format: "",
        description,
        priority: 0,
        cell,
    }
}

const fn number(name: &'static str, description: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        data_type: "integer",
        ..column(name, description, cell)
    }
}

const fn wide(column: Column) -> Column {
    Column { priority: 1, ..column }
}

const NAME: Column = Column {
    format: "name",
    ..column("Name", "Name of the object, unique in its namespace.", |object, _| {
        object["metadata"]["name"].clone()
    })
};

const AGE: Column = column("Age", "Time since the object was created.", |object, now| {
    time::since(&object["metadata"]["creationTimestamp"], now).into()
});

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The string, or `otherwise` where there is none.
fn text_or(value: &Value, otherwise: &str) -> Value {
    match text(value) {
        "" => otherwise.into(),
        found => found.into(),
    }
}

fn count(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

fn size(value: &Value) -> usize {
    value
        .as_object()
        .map_or_else(|| value.as_array().map_or(0, Vec::len), serde_json::Map::len)
}

/// What the items of a list have in a field, with commas between.
fn join(list: &Value, field: &str) -> String {
    items(list)
        .iter()
        .map(|item| text(&item[field]))
        .collect::<Vec<_>>()
        .join(",")
}

/// `a=b,c=d`
fn labels(map: &Value) -> String {
    match map.as_object() {
        Some(map) if !map.is_empty() => map
            .iter()
            .map(|(key, value)| format!("{key}={}", text(value)))
            .collect::<Vec<_>>()
            .join(","),
        _ => NONE.to_owned(),
    }
}

fn selector(selector: &Value, invalid: &str, empty: &str) -> Value {
    match LabelSelector::from_object(selector) {
        Err(_) => invalid.into(),
        Ok(selector) => match selector.to_string() {
            text if text.is_empty() => empty.into(),
            text => text.into(),
        },
    }
}

/// Columns of a kind that has no others.
pub const PLAIN: &[Column] = &[NAME, AGE];

/// Columns of `Namespace`.
pub const NAMESPACES: &[Column] = &[
    NAME,
    column(
        "Status",
        "Active, or Terminating while its contents are deleted.",
        |object, _| text(&object["status"]["phase"]).into(),
    ),
    AGE,
];

fn node_status(node: &Value) -> String {
    let ready = items(&node["status"]["conditions"])
        .iter()
        .rfind(|condition| condition["type"] == "Ready");
    let mut status = match ready {
        None => "Unknown",
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in node["metadata"]["labels"].as_object().into_iter().flatten() {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/") {
            roles.push(role);
        } else if key == "kubernetes.io/role" {
            roles.push(text(value));
        }
    }
    roles.retain(|role| !role.is_empty());
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() {
        NONE.to_owned()
    } else {
        roles.join(",")
    }
}

fn node_address(node: &Value, kind: &str) -> Value {
    let found = items(&node["status"]["addresses"])
        .iter()
        .find(|address| address["type"] == kind);
    found.map_or_else(|| NONE.into(), |address| address["address"].clone())
}

/// A node that is not heard of may say anything by now.
fn node_led(node: &Value) -> Value {
    let silent = items(&node["status"]["conditions"])
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "Unknown");
    if silent {
        return "Unknown".into();
    }
    text_or(&node["metadata"]["annotations"]["minidc.dev/led"], NONE)
}

/// Columns of `Node`.
pub const NODES: &[Column] = &[
    NAME,
    column(
        "Status",
        "Whether the node is ready, and whether new pods may go there.",
        |node, _| node_status(node).into(),
    ),
    column("Roles", "From labels `node-role.kubernetes.io/ROLE`.", |node, _| {
        node_roles(node).into()
    }),
    AGE,
    column(
        "Version",
        "Version of Kubernetes that the node's agent implements.",
        |node, _| text(&node["status"]["nodeInfo"]["kubeletVersion"]).into(),
    ),
    wide(column("Internal-IP", "First address inside the rack.", |node, _| {
        node_address(node, "InternalIP")
    })),
    wide(column("External-IP", "First address outside the rack.", |node, _| {
        node_address(node, "ExternalIP")
    })),
    wide(column("OS-Image", "Operating system.", |node, _| {
        text_or(&node["status"]["nodeInfo"]["osImage"], "<unknown>")
    })),
    wide(column("Kernel-Version", "As `uname -r` says.", |node, _| {
        text_or(&node["status"]["nodeInfo"]["kernelVersion"], "<unknown>")
    })),
    wide(column(
        "Container-Runtime",
        "Name and version, as in `containerd://1.7.2`.",
        |node, _| text_or(&node["status"]["nodeInfo"]["containerRuntimeVersion"], "<unknown>"),
    )),
    wide(column(
        "LED",
        "What the lights of the board say, and why; Unknown while it is not heard of.",
        |node, _| node_led(node),
    )),
];

/// Columns of `Pod`.
pub const PODS: &[Column] = &[
    NAME,
    column("Ready", "Containers that are ready, of how many.", |object, now| {
        pod::summary(object, now).ready.into()
    }),
    column("Status", "What its containers add up to.", |object, now| {
        pod::summary(object, now).status.into()
    }),
    column(
        "Restarts",
        "How often its containers were started again, and when last.",
        |object, now| pod::summary(object, now).restarts.into(),
    ),
    AGE,
    wide(column(
        "IP",
        "Its first address in the pod network.",
        |object, _| match text(&object["status"]["podIPs"][0]["ip"]) {
            "" => text_or(&object["status"]["podIP"], NONE),
            ip => ip.into(),
        },
    )),
    wide(column("Node", "Where it runs.", |object, _| {
        text_or(&object["spec"]["nodeName"], NONE)
    })),
    wide(column(
        "Nominated Node",
        "Where room is being made for it.",
        |object, _| text_or(&object["status"]["nominatedNodeName"], NONE),
    )),
    wide(column(
        "Readiness Gates",
        "Further conditions that hold, of how many.",
        |object, _| pod::readiness_gates(object).into(),
    )),
];

/// Columns of `ConfigMap`.
pub const CONFIG_MAPS: &[Column] = &[
    NAME,
    column("Data", "Number of keys.", |object, _| {
        (size(&object["data"]) + size(&object["binaryData"])).into()
    }),
    AGE,
];

/// Columns of `Secret`.
pub const SECRETS: &[Column] = &[
    NAME,
    column(
        "Type",
        "What the secret is for, and which keys it must have.",
        |object, _| text(&object["type"]).into(),
    ),
    column("Data", "Number of keys.", |object, _| size(&object["data"]).into()),
    AGE,
];

fn first_seen(event: &Value, now: Timestamp) -> String {
    let first = time::since(&event["firstTimestamp"], now);
    if time::timestamp(&event["firstTimestamp"]).is_none() {
        time::since(&event["eventTime"], now)
    } else {
        first
    }
}

fn last_seen(event: &Value, now: Timestamp) -> String {
    if event["series"].is_object() {
        time::since(&event["series"]["lastObservedTime"], now)
    } else if time::timestamp(&event["lastTimestamp"]).is_some() {
        time::since(&event["lastTimestamp"], now)
    } else {
        first_seen(event, now)
    }
}

fn event_object(event: &Value) -> String {
    let involved = &event["involvedObject"];
    let kind = text(&involved["kind"]).to_lowercase();
    match text(&involved["name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

fn event_source(event: &Value) -> String {
    let first = |a: &Value, b: &Value| {
        if text(a).is_empty() {
            text(b).to_owned()
        } else {
            text(a).to_owned()
        }
    };
    let component = first(&event["source"]["component"], &event["reportingComponent"]);
    let instance = first(&event["source"]["host"], &event["reportingInstance"]);
    if instance.is_empty() {
        component
    } else {
        format!("{component}, {instance}")
    }
}

fn event_count(event: &Value) -> i64 {
    let counted = if event["series"].is_object() {
        &event["series"]["count"]
    } else {
        &event["count"]
    };
    if event["series"].is_object() {
        count(counted)
    } else {
        count(counted).max(1)
    }
}

/// Columns of `Event`.
pub const EVENTS: &[Column] = &[
    column("Last Seen", "Time since it happened last.", |event, now| {
        last_seen(event, now).into()
    }),
    column("Type", "Normal or Warning.", |event, _| text(&event["type"]).into()),
    column("Reason", "Why, in one word.", |event, _| text(&event["reason"]).into()),
    column("Object", "What it happened to.", |event, _| event_object(event).into()),
    wide(column("Subobject", "Which part of the object.", |event, _| {
        text(&event["involvedObject"]["fieldPath"]).into()
    })),
    wide(column("Source", "Who said so.", |event, _| event_source(event).into())),
    column("Message", "What happened, for people.", |event, _| {
        text(&event["message"]).trim().into()
    }),
    wide(column("First Seen", "Time since it happened first.", |event, now| {
        first_seen(event, now).into()
    })),
    wide(column("Count", "How often it happened.", |event, _| {
        event_count(event).into()
    })),
    wide(NAME),
];

/// Columns of `Lease`.
pub const LEASES: &[Column] = &[
    NAME,
    column("Holder", "Who holds it.", |object, _| {
        text(&object["spec"]["holderIdentity"]).into()
    }),
    AGE,
];

const CONTAINERS: Column = wide(column(
    "Containers",
    "Names of the containers in the template.",
    |object, _| join(&object["spec"]["template"]["spec"]["containers"], "name").into(),
));

const CONTAINER_IMAGES: Column = wide(column(
    "Images",
    "Images of the containers in the template.",
    |object, _| join(&object["spec"]["template"]["spec"]["containers"], "image").into(),
));

/// Columns of `ReplicaSet`.
pub const REPLICA_SETS: &[Column] = &[
    NAME,
    number("Desired", "How many pods it should have.", |object, _| {
        count(&object["spec"]["replicas"]).into()
    }),
    number("Current", "How many it has.", |object, _| {
        count(&object["status"]["replicas"]).into()
    }),
    number("Ready", "How many of them are ready.", |object, _| {
        count(&object["status"]["readyReplicas"]).into()
    }),
    AGE,
    CONTAINERS,
    CONTAINER_IMAGES,
    wide(column("Selector", "Labels of its pods.", |object, _| {
        selector(&object["spec"]["selector"], "<error>", NONE)
    })),
];

/// Columns of `Deployment`.
pub const DEPLOYMENTS: &[Column] = &[
    NAME,
    column("Ready", "Pods that are ready, of how many.", |object, _| {
        format!(
            "{}/{}",
            count(&object["status"]["readyReplicas"]),
            count(&object["spec"]["replicas"])
        )
        .into()
    }),
    column("Up-to-date", "Pods made from the newest template.", |object, _| {
        count(&object["status"]["updatedReplicas"]).into()
    }),
    column(
        "Available",
        "Pods ready for at least `minReadySeconds`.",
        |object, _| count(&object["status"]["availableReplicas"]).into(),
    ),
    AGE,
    CONTAINERS,
    CONTAINER_IMAGES,
    wide(column("Selector", "Labels of its pods.", |object, _| {
        selector(&object["spec"]["selector"], "<invalid>", "")
    })),
];

/// The sum of one resource over a pod's containers.
fn used(pod: &Value, resource: &str) -> Value {
    let sum: Quantity = items(&pod["containers"])
        .iter()
        .filter_map(|container| Quantity::from_value(&container["usage"][resource]).ok())
        .sum();
    sum.to_string().into()
}

const WINDOW: Column = column("Window", "Length of the time that was measured.", |object, _| {
    text(&object["window"]).into()
});

/// Columns of `NodeMetrics`.
pub const NODE_METRICS: &[Column] = &[
    NAME,
    column("Cpu", "Cores in use.", |object, _| text(&object["usage"]["cpu"]).into()),
    column("Memory", "Working set.", |object, _| {
        text(&object["usage"]["memory"]).into()
    }),
    WINDOW,
];

/// Columns of `PodMetrics`.
pub const POD_METRICS: &[Column] = &[
    NAME,
    column("Cpu", "Cores in use by all containers.", |object, _| {
        used(object, "cpu")
    }),
    column("Memory", "Working set of all containers.", |object, _| {
        used(object, "memory")
    }),
    WINDOW,
];

/// Columns of `JoinToken`.
pub const JOIN_TOKENS: &[Column] = &[
    NAME,
    column("Used-By", "Node that joined with it.", |object, _| {
        text_or(&object["spec"]["usedBy"]["node"], NONE)
    }),
    column(
        "Expires",
        "Time that is left to join with it.",
        |object, now| match time::timestamp(&object["spec"]["expires"]) {
            None => NONE.into(),
            Some(end) if end <= now => "expired".into(),
            Some(end) => time::human_duration(end.duration_since(now).as_secs()).into(),
        },
    ),
    AGE,
];

/// Columns of `NodeIdentity`.
pub const NODE_IDENTITIES: &[Column] = &[
    NAME,
    column("Status", "Active, or Removed: may not come back.", |object, _| {
        if object["spec"]["removed"] == true {
            "Removed"
        } else {
            "Active"
        }
        .into()
    }),
    column("Reason", "Why it was removed.", |object, _| {
        text_or(&object["spec"]["removedReason"], NONE)
    }),
    AGE,
    wide(column(
        "Key",
        "SHA-256 of its newest public key, in hexadecimal.",
        |object, _| text_or(&object["spec"]["key"], NONE),
    )),
];

/// Columns of `Image`.
pub const IMAGES: &[Column] = &[
    NAME,
    column("References", "Names that pods call it by.", |object, _| {
        let names: Vec<&str> = items(&object["spec"]["references"]).iter().map(text).collect();
        if names.is_empty() {
            NONE.into()
        } else {
            names.join(",").into()
        }
    }),
    column("Size", "Size of the archive.", |object, _| {
        time::human_bytes(object["spec"]["size"].as_u64().unwrap_or_default()).into()
    }),
    number("Nodes", "How many nodes hold it.", |object, _| {
        size(&object["status"]["nodes"]).into()
    }),
    number("Failures", "How many nodes could not load it.", |object, _| {
        size(&object["status"]["failures"]).into()
    }),
    AGE,
    wide(column("On", "The nodes that hold it.", |object, _| {
        let names: Vec<&str> = items(&object["status"]["nodes"]).iter().map(text).collect();
        if names.is_empty() {
            NONE.into()
        } else {
            names.join(",").into()
        }
    })),
];
