//! Everything that can go wrong, and the one place where it becomes a `Status` response.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use minidc_api::status::Status;

/// What callers of this crate have to deal with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refused a read or a write.
    #[error("write {key} to the store")]
    Store {
        /// Store key of the object.
        key: String,
        /// What the store said.
        #[source]
        source: minidc_store::Error,
    },
    /// An object that this crate makes itself was refused by its own rules.
    #[error("create {kind} {name}: {message}")]
    Refused {
        /// Kind of the object.
        kind: &'static str,
        /// Name of the object.
        name: String,
        /// The refusal as a client would read it.
        message: String,
    },
    /// The configured range of service addresses cannot be used.
    #[error("use {range} as the range of service addresses (service-range): {problem}")]
    ServiceRange {
        /// As it was configured.
        range: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The directory for image archives cannot be used.
    #[error("prepare the image directory {path}")]
    Images {
        /// The directory.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A refusal on its way to the client; boxed, so that results stay small.
#[derive(Clone, Debug)]
pub(crate) struct Failure(Box<Status>);

impl Failure {
    /// HTTP status code.
    pub(crate) fn code(&self) -> u16 {
        self.0.code
    }

    /// A store error that is no conflict: a conflict means something else in each verb.
    pub(crate) fn store(error: &minidc_store::Error) -> Self {
        tracing::error!(%error, "the store failed");
        Status::internal(error).into()
    }

    /// The JSON of an `ERROR` event in a watch.
    pub(crate) fn watch_event(&self) -> Bytes {
        let mut line = serde_json::json!({"type": "ERROR", "object": self.0.to_value()}).to_string();
        line.push('\n');
        line.into()
    }

    /// The JSON that an exec stream carries on its error channel.
    pub(crate) fn channel(&self) -> Bytes {
        self.0.to_value().to_string().into()
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self(Box::new(status))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        status_response(&self.0)
    }
}

/// A `Status` as the whole answer; also for successes such as a delete.
pub(crate) fn status_response(status: &Status) -> Response {
    let mut response = Response::new(Body::from(status.to_value().to_string()));
    *response.status_mut() = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if let Some(seconds) = status.retry_after_seconds() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// 400 for a field selector on a field that is not indexed for the kind, in Kubernetes' words; kubectl adds the rest.
pub(crate) fn field_not_supported(field: &str) -> Failure {
    Status::bad_request(format!("field label not supported: {field}")).into()
}

/// 415 for server-side apply, which is still to come.
pub(crate) fn apply_not_supported() -> Failure {
    Status::passed_on(
        415,
        "server-side apply (application/apply-patch+yaml) is not supported by this server yet; use client-side apply \
         for now: kubectl apply without --server-side",
    )
    .into()
}

/// 400 for an SPDY upgrade, with what to change.
pub(crate) fn spdy_not_supported() -> Failure {
    Status::bad_request(
        "this server streams over WebSocket (v5.channel.k8s.io or v4.channel.k8s.io), not SPDY; use kubectl 1.31 or \
         newer and leave the environment variable KUBECTL_REMOTE_COMMAND_WEBSOCKETS unset or true",
    )
    .into()
}

/// 507 when the disk has no room for an upload.
pub(crate) fn disk_full(needed: u64, free: u64) -> Failure {
    Status::passed_on(
        507,
        format!("not enough space for the image archive: {needed} bytes needed, {free} bytes free beyond the reserve"),
    )
    .into()
}
