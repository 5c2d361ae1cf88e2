//! Paths that are no resource: discovery, OpenAPI, version, health and the server's own figures.

use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use minidc_api::status::Status;
use minidc_api::{discovery, openapi};

use crate::error::Failure;
use crate::negotiate;
use crate::respond;
use crate::server::Inner;

/// Answers a GET.
pub(crate) fn get(server: &Inner, path: &str, headers: &HeaderMap) -> Result<Response, Failure> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let found = match segments.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => return Ok(respond::text(StatusCode::OK, "ok")),
        ["version"] => Some(discovery::version()),
        ["metrics"] => return Ok(figures(server)),
        ["openapi", "v2"] => {
            if negotiate::accepts_openapi_protobuf(headers) {
                let mut response = respond::json(StatusCode::OK, openapi::v2_protobuf());
                let media = HeaderValue::from_static(negotiate::OPENAPI_PROTOBUF);
                response.headers_mut().insert(header::CONTENT_TYPE, media);
                return Ok(response);
            }
            negotiate::accept(headers)?;
            return Ok(respond::json(StatusCode::OK, openapi::v2()));
        }
        ["openapi", "v3"] => return Ok(respond::json(StatusCode::OK, openapi::v3_index())),
        ["openapi", "v3", rest @ ..] => return openapi_v3(&rest.join("/"), headers),
        ["api"] => return Ok(groups(headers, true)),
        ["apis"] => return Ok(groups(headers, false)),
        ["api", version] => discovery::resources("", version),
        ["apis", group] => discovery::api_group(group),
        ["apis", group, version] => discovery::resources(group, version),
        [""] => Some(serde_json::json!({"paths": ROOT})),
        _ => None,
    };
    match found {
        Some(value) => Ok(respond::json(StatusCode::OK, value.to_string())),
        None => Err(Status::path_not_found().into()),
    }
}

const ROOT: [&str; 8] = [
    "/api",
    "/apis",
    "/healthz",
    "/livez",
    "/openapi/v2",
    "/openapi/v3",
    "/readyz",
    "/version",
];

/// `/api` and `/apis`: all resources at once for clients that ask for it, else the list of groups or versions.
fn groups(headers: &HeaderMap, core: bool) -> Response {
    if negotiate::accepts_discovery(headers, "APIGroupDiscoveryList", "v2") {
        let mut response = respond::json(StatusCode::OK, discovery::aggregated(core).to_string());
        let media = HeaderValue::from_static(discovery::AGGREGATED_MEDIA);
        response.headers_mut().insert(header::CONTENT_TYPE, media);
        response
            .headers_mut()
            .insert(header::VARY, HeaderValue::from_static("Accept"));
        return response;
    }
    let value = if core {
        discovery::api_versions()
    } else {
        discovery::api_groups()
    };
    respond::json(StatusCode::OK, value.to_string())
}

/// One document of OpenAPI v3. Clients keep it by its hash, which is in the address that the index gives.
fn openapi_v3(path: &str, headers: &HeaderMap) -> Result<Response, Failure> {
    let Some(hash) = openapi::v3_hash(path) else {
        return Err(Status::path_not_found().into());
    };
    let tag = format!("\"{hash}\"");
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = if known == Some(tag.as_str()) {
        respond::text(StatusCode::NOT_MODIFIED, axum::body::Body::empty())
    } else {
        respond::json(StatusCode::OK, openapi::v3(path).ok_or_else(Status::path_not_found)?)
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

fn figures(server: &Inner) -> Response {
    let (requests, streams) = server.limits.under_way();
    let revision = server.store.revision();
    let text = format!(
        "# TYPE apiserver_current_inflight_requests gauge\napiserver_current_inflight_requests {requests}\n\
         # TYPE apiserver_longrunning_requests gauge\napiserver_longrunning_requests {streams}\n\
         # TYPE minidc_store_revision counter\nminidc_store_revision {revision}\n"
    );
    respond::text(StatusCode::OK, text)
}
