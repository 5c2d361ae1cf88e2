//! Paths and operations of a kind.

use serde_json::{Value, json};

use super::definitions::{list_name, patch_name, reference};
use super::{Dialect, META, Writer};
use crate::kinds::{Kind, Subresource};

const BODIES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";
const BINDING: &str = "io.k8s.api.core.v1.Binding";
const EVICTION: &str = "io.k8s.api.policy.v1.Eviction";

/// Types that are no rows but are sent to the subresources of these kinds.
pub(super) fn request_types(kinds: &[&'static Kind]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for (subresource, name) in [
        (Subresource::Scale, SCALE),
        (Subresource::Binding, BINDING),
        (Subresource::Eviction, EVICTION),
    ] {
        if kinds.iter().any(|kind| kind.has(subresource)) {
            names.push(name);
        }
    }
    names
}

/// One operation, from which both dialects are written.
struct Operation {
    method: &'static str,
    /// `x-kubernetes-action`
    action: &'static str,
    id: String,
    parameters: Vec<&'static str>,
    body: Option<Body>,
    /// Name of the definition that is answered; `None` is text.
    answer: Option<String>,
    /// Group, version and kind that the operation is about.
    about: (&'static str, &'static str, &'static str),
}

struct Body {
    name: String,
    media: &'static [&'static str],
}

const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
/// What a write takes beside its body.
pub(super) const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];
const COLLECTION: &[&str] = &[
    "dryRun",
    "fieldSelector",
    "gracePeriodSeconds",
    "labelSelector",
    "propagationPolicy",
];
const LOG: &[&str] = &[
    "container",
    "follow",
    "limitBytes",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "tailLines",
    "timestamps",
];
const EXEC: &[&str] = &["command", "container", "stderr", "stdin", "stdout", "tty"];

fn root(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    }
}

/// Path of the objects of a kind, in one namespace when it has any.
pub(super) fn collection(kind: &Kind) -> String {
    let root = root(kind);
    if kind.is_namespaced() {
        format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{root}/{}", kind.plural)
    }
}

/// Writes all paths of a kind.
pub(super) fn write(kind: &'static Kind, dialect: Dialect, writer: &mut Writer) {
    let (root, collection) = (root(kind), collection(kind));
    let namespaced = kind.is_namespaced();
    let in_path: &[&str] = if namespaced { &["namespace"] } else { &[] };
    let named: Vec<&str> = std::iter::once("name").chain(in_path.iter().copied()).collect();

    if namespaced && kind.allows("list") {
        let list = operation(
            kind,
            "get",
            "list",
            "ForAllNamespaces",
            LIST,
            None,
            Some(list_name(kind)),
        );
        path(writer, &format!("{root}/{}", kind.plural), &[], &[list], dialect);
    }
    let mut operations = Vec::new();
    if kind.allows("list") {
        operations.push(operation(kind, "get", "list", "", LIST, None, Some(list_name(kind))));
    }
    if kind.allows("create") {
        operations.push(operation(
            kind,
            "post",
            "create",
            "",
            WRITE,
            Some(object_body(kind)),
            Some(kind.schema.to_owned()),
        ));
    }
    if kind.allows("deletecollection") {
        let answer = Some(format!("{META}.Status"));
        let mut operation = operation(kind, "delete", "deletecollection", "", COLLECTION, None, answer);
        operation.id = operation.id.replacen("deletecollection", "deleteCollection", 1);
        operations.push(operation);
    }
    path(writer, &collection, in_path, &operations, dialect);

    let item = format!("{collection}/{{name}}");
    let mut operations = object_operations(kind, "", kind.schema, true);
    if kind.allows("delete") {
        let options = Body {
            name: format!("{META}.DeleteOptions"),
            media: BODIES,
        };
        operations.push(operation(
            kind,
            "delete",
            "delete",
            "",
            DELETE,
            Some(options),
            Some(format!("{META}.Status")),
        ));
    }
    path(writer, &item, &named, &operations, dialect);

    for subresource in kind.subresources {
        let operations = match subresource {
            Subresource::Status => object_operations(kind, "Status", kind.schema, false),
            Subresource::Scale => {
                let mut operations = object_operations(kind, "Scale", SCALE, false);
                for operation in &mut operations {
                    operation.about = ("autoscaling", "v1", "Scale");
                }
                operations
            }
            Subresource::Log => vec![operation(kind, "get", "get", "Log", LOG, None, None)],
            Subresource::Exec => ["get", "post"]
                .into_iter()
                .map(|method| {
                    let mut operation = operation(kind, method, "connect", "Exec", EXEC, None, None);
                    operation.about = ("", "v1", "PodExecOptions");
                    operation.id = operation
                        .id
                        .replace("connect", if method == "get" { "connectGet" } else { "connectPost" });
                    operation
                })
                .collect(),
            Subresource::Binding => vec![request(kind, "Binding", BINDING, ("", "v1", "Binding"))],
            Subresource::Eviction => vec![request(kind, "Eviction", EVICTION, ("policy", "v1", "Eviction"))],
            Subresource::Archive => {
                let mut operation = operation(
                    kind,
                    "put",
                    "update",
                    "Archive",
                    &[],
                    None,
                    Some(kind.schema.to_owned()),
                );
                operation.id = operation.id.replace("update", "replace");
                vec![operation]
            }
        };
        path(
            writer,
            &format!("{item}/{}", subresource.name()),
            &named,
            &operations,
            dialect,
        );
    }
}

/// The POST of a type that is no row.
fn request(
    kind: &'static Kind,
    suffix: &str,
    name: &str,
    about: (&'static str, &'static str, &'static str),
) -> Operation {
    let body = Body {
        name: name.to_owned(),
        media: BODIES,
    };
    let answer = Some(name.to_owned());
    Operation {
        about,
        ..operation(kind, "post", "create", suffix, WRITE, Some(body), answer)
    }
}

fn object_body(kind: &Kind) -> Body {
    Body {
        name: kind.schema.to_owned(),
        media: BODIES,
    }
}

/// get, put and patch of an object or of a subresource that looks like one.
fn object_operations(kind: &'static Kind, suffix: &str, schema: &str, by_verbs: bool) -> Vec<Operation> {
    let mut operations = Vec::new();
    if !by_verbs || kind.allows("get") {
        operations.push(operation(
            kind,
            "get",
            "get",
            suffix,
            &[],
            None,
            Some(schema.to_owned()),
        ));
    }
    if !by_verbs || kind.allows("update") {
        let body = Body {
            name: schema.to_owned(),
            media: BODIES,
        };
        operations.push(operation(
            kind,
            "put",
            "update",
            suffix,
            WRITE,
            Some(body),
            Some(schema.to_owned()),
        ));
    }
    if !by_verbs || kind.allows("patch") {
        let body = Body {
            name: patch_name().to_owned(),
            media: PATCHES,
        };
        operations.push(operation(
            kind,
            "patch",
            "patch",
            suffix,
            WRITE,
            Some(body),
            Some(schema.to_owned()),
        ));
    }
    operations
}

fn operation(
    kind: &'static Kind,
    method: &'static str,
    action: &'static str,
    suffix: &str,
    parameters: &[&'static str],
    body: Option<Body>,
    answer: Option<String>,
) -> Operation {
    let verb = match action {
        "get" => "read",
        "update" => "replace",
        other => other,
    };
    let group = kind.group.split('.').next().unwrap_or_default();
    let group = if group.is_empty() { "core" } else { group };
    let namespaced = if kind.is_namespaced() && suffix != "ForAllNamespaces" {
        "Namespaced"
    } else {
        ""
    };
    let id = format!(
        "{verb}{}{}{namespaced}{}{suffix}",
        capital(group),
        capital(kind.version),
        kind.kind
    );
    Operation {
        method,
        action,
        id,
        parameters: parameters.to_vec(),
        body,
        answer,
        about: (kind.group, kind.version, kind.kind),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn path(writer: &mut Writer, path: &str, in_path: &[&str], operations: &[Operation], dialect: Dialect) {
    if operations.is_empty() {
        return;
    }
    writer.key(path);
    writer.open();
    for operation in operations {
        writer.entry(operation.method, &written(operation, dialect));
    }
    if !in_path.is_empty() {
        let parameters: Vec<Value> = in_path.iter().map(|name| parameter(name, "path", dialect)).collect();
        writer.entry("parameters", &parameters.into());
    }
    writer.close();
}

fn parameter(name: &str, place: &str, dialect: Dialect) -> Value {
    let (kind, description) = match name {
        "name" => ("string", "Name of the object."),
        "namespace" => ("string", "Namespace of the object."),
        "allowWatchBookmarks" => ("boolean", "Send bookmarks in a watch."),
        "continue" => ("string", "The token of a list that was cut short."),
        "fieldSelector" => ("string", "Only objects with these fields."),
        "labelSelector" => ("string", "Only objects with these labels."),
        "limit" => ("integer", "At most so many objects."),
        "resourceVersion" => ("string", "The version to read at or to watch from."),
        "resourceVersionMatch" => ("string", "How resourceVersion is meant."),
        "sendInitialEvents" => ("boolean", "Begin a watch with the objects that exist."),
        "timeoutSeconds" => ("integer", "End after so many seconds."),
        "watch" => ("boolean", "Send changes as they happen."),
        "dryRun" => ("string", "All checks but no change; the only value is All."),
        "fieldManager" => ("string", "Who makes the change."),
        "fieldValidation" => (
            "string",
            "What becomes of unknown and duplicate fields: Ignore, Warn or Strict.",
        ),
        "gracePeriodSeconds" => ("integer", "Seconds for a graceful end."),
        "orphanDependents" => ("boolean", "Deprecated: keep what the object owns."),
        "propagationPolicy" => ("string", "What becomes of owned objects."),
        "container" => ("string", "Name of the container."),
        "follow" => ("boolean", "Keep sending what is written."),
        "limitBytes" => ("integer", "At most so many bytes."),
        "previous" => ("boolean", "The instance before the last restart."),
        "sinceSeconds" => ("integer", "Only the last so many seconds."),
        "sinceTime" => ("string", "Only from this time on."),
        "tailLines" => ("integer", "Only the last so many lines."),
        "timestamps" => ("boolean", "Begin each line with its time."),
        "command" => ("string", "Program and arguments, one parameter each."),
        "stderr" => ("boolean", "Send standard error."),
        "stdin" => ("boolean", "Take standard input."),
        "stdout" => ("boolean", "Send standard output."),
        "tty" => ("boolean", "Give the command a terminal."),
        _ => ("string", ""),
    };
    let mut value = json!({"name": name, "in": place, "description": description, "uniqueItems": true});
    if place == "path" {
        value["required"] = true.into();
    }
    match dialect {
        Dialect::V2 => value["type"] = kind.into(),
        Dialect::V3 => {
            if let Some(fields) = value.as_object_mut() {
                fields.remove("uniqueItems");
            }
            value["schema"] = json!({"type": kind, "uniqueItems": true});
        }
    }
    value
}

fn written(operation: &Operation, dialect: Dialect) -> Value {
    let mut parameters: Vec<Value> = operation
        .parameters
        .iter()
        .map(|name| parameter(name, "query", dialect))
        .collect();
    let (group, version, kind) = operation.about;
    let mut value = json!({
        "operationId": operation.id,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
    });
    let schema = |name: &str| reference(name, dialect);
    match dialect {
        Dialect::V2 => {
            if let Some(body) = &operation.body {
                parameters.push(json!({
                    "name": "body", "in": "body", "required": operation.method != "delete", "schema": schema(&body.name),
                }));
            }
            value["consumes"] = operation.body.as_ref().map_or(&["*/*"][..], |body| body.media).into();
            let answer = match &operation.answer {
                Some(name) => {
                    value["produces"] = BODIES.into();
                    json!({"description": "OK", "schema": schema(name)})
                }
                None => {
                    value["produces"] = ["text/plain"].as_slice().into();
                    json!({"description": "OK", "schema": {"type": "string"}})
                }
            };
            value["responses"] = json!({"200": answer, "401": {"description": "Unauthorized"}});
            value["schemes"] = json!(["https"]);
        }
        Dialect::V3 => {
            if let Some(body) = &operation.body {
                let content: serde_json::Map<String, Value> = body
                    .media
                    .iter()
                    .map(|media| ((*media).to_owned(), json!({"schema": schema(&body.name)})))
                    .collect();
                value["requestBody"] = json!({"required": operation.method != "delete", "content": content});
            }
            let content = match &operation.answer {
                Some(name) => json!({"application/json": {"schema": schema(name)}}),
                None => json!({"text/plain": {"schema": {"type": "string"}}}),
            };
            value["responses"] =
                json!({"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}});
        }
    }
    if !parameters.is_empty() {
        value["parameters"] = parameters.into();
    }
    value
}
