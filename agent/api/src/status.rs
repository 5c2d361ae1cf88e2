//! `Status` objects: how every refusal is said, word for word as Kubernetes' `apimachinery/pkg/api/errors` says it.
//!
//! Clients decide by `reason` and `code`, people read `message`, and kubectl prints `details.causes`; all of them are
//! part of the interface.

use serde_json::{Map, Value, json};

use crate::kinds::Kind;
use crate::validate::FieldError;

/// A `metav1.Status` that is about to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// HTTP status code of the response and of the object.
    pub code: u16,
    /// Machine-readable reason, e.g. `NotFound`; empty for a success.
    pub reason: &'static str,
    /// The sentence for people.
    pub message: String,
    /// `details`: `name`, `group`, `kind`, `uid`, `causes`, `retryAfterSeconds`, as far as they apply.
    pub details: Option<Value>,
}

/// Who tried what, for the text of an authorization refusal.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Name of the user.
    pub user: &'a str,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'a str,
    /// API group, empty for core.
    pub group: &'a str,
    /// Plural name of the resource.
    pub resource: &'a str,
    /// Subresource, empty for none.
    pub subresource: &'a str,
    /// Namespace, empty at the cluster scope.
    pub namespace: &'a str,
    /// Name of the object, empty where the request is for many.
    pub name: &'a str,
}

/// `deployments.apps`, or `pods` for the core group.
pub fn group_resource(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// `details` with the empty parts left out, as Go's `omitempty` does.
fn details(group: &str, kind: &str, name: &str) -> Map<String, Value> {
    let mut map = Map::new();
    for (key, value) in [("group", group), ("kind", kind), ("name", name)] {
        if !value.is_empty() {
            map.insert(key.to_owned(), value.into());
        }
    }
    map
}

impl Status {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
        }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.details = Some(Value::Object(details(kind.group, kind.plural, name)));
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        if let Value::Object(map) = self.details.get_or_insert_with(|| json!({})) {
            map.insert("retryAfterSeconds".to_owned(), seconds.into());
        }
        self
    }

    fn cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        if let Value::Object(map) = self.details.get_or_insert_with(|| json!({})) {
            let mut cause = Map::new();
            for (key, value) in [("reason", reason), ("message", message), ("field", field)] {
                if !value.is_empty() {
                    cause.insert(key.to_owned(), value.into());
                }
            }
            map.insert("causes".to_owned(), json!([cause]));
        }
        self
    }

    /// Seconds for the `Retry-After` header, where the client should try again.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.details.as_ref()?.get("retryAfterSeconds")?.as_u64()
    }

    /// The object as it goes out.
    pub fn to_value(&self) -> Value {
        let success = self.code < 400;
        let mut map = Map::new();
        map.insert("kind".to_owned(), "Status".into());
        map.insert("apiVersion".to_owned(), "v1".into());
        map.insert("metadata".to_owned(), json!({}));
        map.insert("status".to_owned(), if success { "Success" } else { "Failure" }.into());
        if !self.message.is_empty() {
            map.insert("message".to_owned(), self.message.as_str().into());
        }
        if !self.reason.is_empty() {
            map.insert("reason".to_owned(), self.reason.into());
        }
        if let Some(details) = &self.details {
            map.insert("details".to_owned(), details.clone());
        }
        // Kubernetes leaves the code out of the answer to a successful delete.
        if !success {
            map.insert("code".to_owned(), self.code.into());
        }
        Value::Object(map)
    }

    /// 200: the object is gone at once, nothing more to show.
    pub fn deleted(kind: &Kind, name: &str, uid: &str) -> Self {
        let mut status = Self::new(200, "", "").about(kind, name);
        if let Some(Value::Object(map)) = &mut status.details {
            map.insert("uid".to_owned(), uid.into());
        }
        status
    }

    /// 201: a binding or another create that has no object of its own to return.
    pub fn created() -> Self {
        Self::new(201, "", "")
    }

    /// 404: no such object.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        let resource = group_resource(kind.group, kind.plural);
        Self::new(404, "NotFound", format!("{resource} {} not found", quote(name))).about(kind, name)
    }

    /// 404: no such resource, version, subresource or path.
    pub fn path_not_found() -> Self {
        let mut status = Self::new(404, "NotFound", "the server could not find the requested resource");
        status.details = Some(json!({}));
        status
    }

    /// 409: the name is taken.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let resource = group_resource(kind.group, kind.plural);
        Self::new(
            409,
            "AlreadyExists",
            format!("{resource} {} already exists", quote(name)),
        )
        .about(kind, name)
    }

    /// 409: every generated name was taken.
    pub fn generate_name_conflict(kind: &Kind, name: &str) -> Self {
        let resource = group_resource(kind.group, kind.plural);
        let message = format!(
            "{resource} {} already exists, the server was not able to generate a unique name for the object",
            quote(name)
        );
        Self::new(409, "AlreadyExists", message)
            .about(kind, name)
            .retry_after(1)
    }

    /// 409 with a reason of one's own.
    pub fn conflict(kind: &Kind, name: &str, reason: &str) -> Self {
        let resource = group_resource(kind.group, kind.plural);
        let message = format!("Operation cannot be fulfilled on {resource} {}: {reason}", quote(name));
        Self::new(409, "Conflict", message).about(kind, name)
    }

    /// 409: the resourceVersion sent is no longer the newest.
    pub fn modified(kind: &Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 409: the object of that name is another one than the request means.
    pub fn uid_precondition(kind: &Kind, name: &str, wanted: &str, found: &str) -> Self {
        let message = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({found}). The object might have \
             been deleted and then recreated"
        );
        Self::conflict(kind, name, &message)
    }

    /// 409: the object changed since the version the request means.
    pub fn version_precondition(kind: &Kind, name: &str, wanted: &str, found: &str) -> Self {
        let message = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({found}). \
             The object might have been modified"
        );
        Self::conflict(kind, name, &message)
    }

    /// 422: the object breaks rules; every broken rule is one cause.
    ///
    /// Here `details.kind` is the kind, not the resource, as in Kubernetes.
    pub fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        let qualified = group_resource(kind.group, kind.kind);
        let errors = crate::validate::distinct(errors);
        let mut message = format!("{qualified} {} is invalid", quote(name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&aggregate(&errors));
        }
        let causes: Vec<Value> = errors
            .iter()
            .map(|error| json!({"reason": error.kind.reason(), "message": error.body(), "field": error.path}))
            .collect();
        let mut map = details(kind.group, kind.kind, name);
        if !causes.is_empty() {
            map.insert("causes".to_owned(), causes.into());
        }
        Self {
            details: Some(Value::Object(map)),
            ..Self::new(422, "Invalid", message)
        }
    }

    /// 401: who it is could not be told.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403 with a reason of one's own; an empty name for a request about many objects.
    pub fn forbidden(kind: &Kind, name: &str, reason: &str) -> Self {
        let resource = group_resource(kind.group, kind.plural);
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {reason}")
        } else {
            format!("{resource} {} is forbidden: {reason}", quote(name))
        };
        Self::new(403, "Forbidden", message).about(kind, name)
    }

    /// 403: the user may not do this.
    pub fn not_allowed(attempt: &Attempt<'_>) -> Self {
        let Attempt {
            user,
            verb,
            group,
            resource,
            subresource,
            namespace,
            name,
        } = *attempt;
        let full = if subresource.is_empty() {
            resource.to_owned()
        } else {
            format!("{resource}/{subresource}")
        };
        let place = if namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {}", quote(namespace))
        };
        let reason = format!(
            "User {} cannot {verb} resource {} in API group {} {place}",
            quote(user),
            quote(&full),
            quote(group)
        );
        let subject = group_resource(group, resource);
        let subject = if name.is_empty() {
            subject
        } else {
            format!("{subject} {}", quote(name))
        };
        Self {
            details: Some(Value::Object(details(group, resource, name))),
            ..Self::new(403, "Forbidden", format!("{subject} is forbidden: {reason}"))
        }
    }

    /// 403: the user may not do this to a path that is no resource.
    pub fn path_not_allowed(user: &str, verb: &str, path: &str) -> Self {
        let message = format!("forbidden: User {} cannot {verb} path {}", quote(user), quote(path));
        Self {
            details: Some(json!({})),
            ..Self::new(403, "Forbidden", message)
        }
    }

    /// 403: nothing new goes into a namespace that is being deleted.
    pub fn namespace_terminating(kind: &Kind, name: &str, namespace: &str) -> Self {
        let reason = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let message = format!("namespace {namespace} is being terminated");
        Self::forbidden(kind, name, &reason).cause("NamespaceTerminating", &message, "metadata.namespace")
    }

    /// 400 with a text of one's own.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 405: the resource exists, the verb does not. `action` is the verb, e.g. `create`.
    pub fn method_not_supported(kind: &Kind, action: &str) -> Self {
        let resource = group_resource(kind.group, kind.plural);
        let message = format!("{action} is not supported on resources of kind {}", quote(&resource));
        Self::new(405, "MethodNotAllowed", message).about(kind, "")
    }

    /// 405: no handler for this HTTP method on this path.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self {
            details: Some(json!({})),
            ..Self::new(405, "MethodNotAllowed", message)
        }
    }

    /// 406: none of the media types the client accepts can be produced.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    /// 415: the body is in a format nobody here reads.
    pub fn unsupported_media(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 410: the version asked for is no longer kept; the client lists again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 410: as [`Status::expired`], with the version asked for and the oldest that is kept.
    pub fn too_old_version(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// 410: the list changed too much since the page before.
    pub fn continue_expired() -> Self {
        Self::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter.",
        )
    }

    /// 410: gone for good.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Gone", message)
    }

    /// 504: a version that does not exist yet.
    pub fn too_large_version(asked: u64, current: u64) -> Self {
        let message = "Too large resource version";
        Self::timeout(&format!("Too large resource version: {asked}, current: {current}"), 1).cause(
            "ResourceVersionTooLarge",
            message,
            "",
        )
    }

    /// 413: the body exceeds `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    /// 504: not done in time; it may still be done.
    pub fn timeout(message: &str, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(504, "Timeout", format!("Timeout: {message}"));
        status.details = Some(json!({}));
        if retry_after_seconds > 0 {
            status.retry_after(retry_after_seconds)
        } else {
            status
        }
    }

    /// 429: come back later.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(429, "TooManyRequests", message).retry_after(retry_after_seconds)
    }

    /// 503: a part that is needed is away.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 500: our fault.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        let error = error.to_string();
        Self::new(500, "InternalError", format!("Internal error occurred: {error}")).cause("", &error, "")
    }

    /// Any code with a text of one's own, for answers passed on from a node.
    pub fn passed_on(code: u16, message: impl Into<String>) -> Self {
        let reason = match code {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            405 => "MethodNotAllowed",
            406 => "NotAcceptable",
            409 => "Conflict",
            410 => "Gone",
            413 => "RequestEntityTooLarge",
            415 => "UnsupportedMediaType",
            422 => "Invalid",
            429 => "TooManyRequests",
            500 => "InternalError",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "",
        };
        Self::new(code, reason, message)
    }
}

/// One error as it is, several in brackets, each text once: `utilerrors.Aggregate`.
fn aggregate(errors: &[&FieldError]) -> String {
    let mut texts: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    if texts.len() == 1 {
        texts.swap_remove(0)
    } else {
        format!("[{}]", texts.join(", "))
    }
}

/// A string between quotation marks, escaped as Go's `%q` escapes it.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            control if (control as u32) < 0x20 || control == '\u{7f}' => {
                quoted.push_str(&format!("\\x{:02x}", control as u32));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::by_resource;

    fn kind(group: &str, plural: &str) -> &'static Kind {
        by_resource(group, "v1", plural).unwrap()
    }

    #[test]
    fn texts_are_those_of_kubernetes() {
        let pods = kind("", "pods");
        let deployments = kind("apps", "deployments");
        for (status, text) in [
            (Status::not_found(pods, "x"), r#"pods "x" not found"#),
            (Status::not_found(deployments, "x"), r#"deployments.apps "x" not found"#),
            (Status::already_exists(pods, "x"), r#"pods "x" already exists"#),
            (
                Status::modified(deployments, "web"),
                r#"Operation cannot be fulfilled on deployments.apps "web": the object has been modified; please apply your changes to the latest version and try again"#,
            ),
            (
                Status::method_not_supported(pods, "bind"),
                r#"bind is not supported on resources of kind "pods""#,
            ),
            (Status::internal("boom"), "Internal error occurred: boom"),
            (
                Status::too_large(3_145_728),
                "Request entity too large: limit is 3145728",
            ),
            (
                Status::not_allowed(&Attempt {
                    user: "system:node:pi-2",
                    verb: "list",
                    group: "",
                    resource: "secrets",
                    subresource: "",
                    namespace: "default",
                    name: "",
                }),
                r#"secrets is forbidden: User "system:node:pi-2" cannot list resource "secrets" in API group "" in the namespace "default""#,
            ),
            (
                Status::not_allowed(&Attempt {
                    user: "u",
                    verb: "update",
                    group: "apps",
                    resource: "deployments",
                    subresource: "scale",
                    namespace: "",
                    name: "web",
                }),
                r#"deployments.apps "web" is forbidden: User "u" cannot update resource "deployments/scale" in API group "apps" at the cluster scope"#,
            ),
        ] {
            assert_eq!(status.message, text);
        }
    }

    #[test]
    fn not_found_carries_resource_and_name() {
        assert_eq!(
            Status::not_found(kind("apps", "deployments"), "web").to_value(),
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": r#"deployments.apps "web" not found"#, "reason": "NotFound",
                "details": {"group": "apps", "kind": "deployments", "name": "web"}, "code": 404
            })
        );
    }

    #[test]
    fn invalid_lists_each_error_as_a_cause() {
        let errors = [
            FieldError::invalid(
                "spec.selector",
                json!({"matchLabels": {"a": "b"}}),
                "field is immutable",
            ),
            FieldError::required("spec.template.spec.containers", ""),
        ];
        let status = Status::invalid(kind("apps", "deployments"), "web", &errors[..1]);
        assert_eq!(
            status.message,
            r#"Deployment.apps "web" is invalid: spec.selector: Invalid value: {"matchLabels":{"a":"b"}}: field is immutable"#
        );
        let status = Status::invalid(kind("apps", "deployments"), "web", &errors);
        assert_eq!(
            status.message,
            r#"Deployment.apps "web" is invalid: [spec.selector: Invalid value: {"matchLabels":{"a":"b"}}: field is immutable, spec.template.spec.containers: Required value]"#
        );
        assert_eq!(
            status.details.unwrap()["causes"][1],
            json!({"reason": "FieldValueRequired", "message": "Required value", "field": "spec.template.spec.containers"})
        );
    }

    #[test]
    fn a_deleted_object_is_named_with_its_uid() {
        assert_eq!(
            Status::deleted(kind("", "pods"), "a", "u1").to_value(),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {"kind": "pods", "name": "a", "uid": "u1"}})
        );
    }

    #[test]
    fn timeouts_say_when_to_come_back() {
        assert_eq!(Status::too_large_version(9, 4).retry_after_seconds(), Some(1));
        assert_eq!(Status::timeout("x", 0).retry_after_seconds(), None);
    }
}
