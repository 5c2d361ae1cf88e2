//! Calls to the API from inside its own process: the same router, the same authorization, no socket.

use axum::{Router, body::Body};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use minidc_apiserver::ApiServer;
use tower::ServiceExt;

/// Longest answer that is taken; the API's own objects are far shorter.
const LONGEST_ANSWER: usize = 8 << 20;

/// Merge patch, RFC 7386.
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";
/// Kubernetes' own kind of patch, which merges lists by key.
pub(crate) const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";
/// Plain JSON.
pub(crate) const JSON: &str = "application/json";

/// A caller with a fixed identity.
#[derive(Clone)]
pub(crate) struct Local {
    router: Router,
}

impl Local {
    /// The caller `user`, a member of `groups`.
    pub(crate) fn new(api: &ApiServer, user: &str, groups: &[&str]) -> Self {
        Self {
            router: api.router_as(user, groups),
        }
    }

    /// The node `name`.
    pub(crate) fn node(api: &ApiServer, name: &str) -> Self {
        Self::new(api, &minidc_link::pki::node_user(name), &[minidc_link::pki::NODE_GROUP])
    }

    /// One call. Whatever goes wrong becomes an HTTP status, as it would over a socket.
    pub(crate) fn call(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> BoxFuture<'static, (StatusCode, Bytes)> {
        let router = self.router.clone();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, content_type)
            .body(Body::from(body));
        Box::pin(async move {
            let request = match request {
                Ok(request) => request,
                Err(error) => return (StatusCode::BAD_REQUEST, Bytes::from(error.to_string())),
            };
            let response = match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            let status = response.status();
            match http_body_util::Limited::new(response.into_body(), LONGEST_ANSWER)
                .collect()
                .await
            {
                Ok(body) => (status, body.to_bytes()),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, Bytes::from(error.to_string())),
            }
        })
    }
}
