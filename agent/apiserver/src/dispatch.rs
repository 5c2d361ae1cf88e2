//! From an HTTP request to the function that answers it: who asks, what for, may they, is there room.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, header, request};
use minidc_api::kinds::{self, Kind, Subresource};
use minidc_api::status::Status;

use crate::archive;
use crate::authorization::{self, Attributes};
use crate::binding;
use crate::call::Call;
use crate::create;
use crate::delete;
use crate::discovery;
use crate::error::Failure;
use crate::eviction;
use crate::exec;
use crate::identity::Identity;
use crate::logs;
use crate::read;
use crate::request::{self as paths, Query, ResourcePath};
use crate::respond;
use crate::scale;
use crate::selection::Selection;
use crate::server::Inner;
use crate::strategy::{Reach, is_namespace};
use crate::update;
use crate::watch;

/// What Kubernetes tells everybody who uses endpoints of the old form.
const ENDPOINTS_ARE_OLD: &str = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";

/// Answers one request.
pub(crate) async fn handle(State(server): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // Boxed: the state of every verb together is large, and most requests need little of it.
    Box::pin(answer(server, parts, body))
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn answer(server: Arc<Inner>, mut parts: request::Parts, body: Body) -> Result<Response, Failure> {
    let identity = identity(&mut parts)?;
    let path = parts.uri.path().to_owned();
    let Some(resource) = paths::resource_path(&path) else {
        let verb = parts.method.as_str().to_ascii_lowercase();
        authorization::path(&identity, &verb, &path)?;
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return Err(Status::method_not_allowed().into());
        }
        let _place = server.limits.enter(&identity.user, false)?;
        return discovery::get(&server, &path, &parts.headers);
    };
    let query = Query::parse(parts.uri.query().unwrap_or(""));
    let verb = verb(&parts.method, &resource, &query).ok_or_else(Status::method_not_allowed)?;
    let many = matches!(verb, "list" | "watch" | "deletecollection");
    let name = resource.name.clone().unwrap_or_default();
    let selection = if many {
        Selection::from_query(&query, &name)?
    } else {
        Selection::default()
    };
    let subresource = resource.subresource.clone().unwrap_or_default();
    // A namespace is in itself, as far as authorization goes; as in Kubernetes.
    let in_itself = resource.resource == "namespaces" && resource.group.is_empty();
    let namespace = if in_itself {
        name.clone()
    } else {
        resource.namespace.clone().unwrap_or_default()
    };
    let attributes = Attributes {
        verb,
        group: &resource.group,
        resource: &resource.resource,
        subresource: &subresource,
        namespace: &namespace,
        name: &name,
        fields: selection.fields(),
    };
    authorization::resource(&server.store, &identity, &attributes)?;
    let kind = kind(&resource)?;
    if many {
        selection.check(kind)?;
    }
    let stream = verb == "watch" || matches!(subresource.as_str(), "exec" | "log");
    let place = server.limits.enter(&identity.user, stream)?;
    let headers = std::mem::take(&mut parts.headers);
    let mut call = Call {
        server,
        kind,
        namespace: resource.namespace.unwrap_or_default(),
        name,
        subresource,
        identity,
        query,
        headers,
        warnings: Vec::new(),
    };
    if kind.group.is_empty() && kind.kind == "Endpoints" {
        call.warnings.push(ENDPOINTS_ARE_OLD.to_owned());
    }
    let answered = if call.subresource.is_empty() {
        whole(&mut call, verb, selection, body, place).await
    } else {
        part(&mut call, verb, parts, body, place).await
    };
    let mut response = answered.unwrap_or_else(IntoResponse::into_response);
    respond::add_warnings(response.headers_mut(), &call.warnings);
    Ok(response)
}

/// Verbs on objects and collections.
async fn whole(
    call: &mut Call,
    verb: &'static str,
    selection: Selection,
    body: Body,
    place: crate::limits::Place,
) -> Result<Response, Failure> {
    // A row that can delete can delete many.
    let listed = if verb == "deletecollection" { "delete" } else { verb };
    let nowhere = call.kind.is_namespaced() && call.namespace.is_empty();
    if !call.kind.allows(listed) || nowhere && matches!(verb, "create" | "deletecollection") {
        return Err(Status::method_not_allowed().into());
    }
    match verb {
        "get" => read::get(call),
        "list" => read::list(call, &selection),
        "watch" => watch::watch(call, selection, place),
        "create" => create::create(call, body).await,
        "update" => update::update(call, body, Reach::Main).await,
        "patch" => update::patch(call, body, Reach::Main).await,
        "delete" => delete::delete(call, body).await,
        "deletecollection" => delete::delete_collection(call, &selection, body).await,
        _ => Err(Status::method_not_allowed().into()),
    }
}

/// Verbs on subresources.
async fn part(
    call: &mut Call,
    verb: &'static str,
    mut parts: request::Parts,
    body: Body,
    place: crate::limits::Place,
) -> Result<Response, Failure> {
    if is_namespace(call.kind) && call.subresource == "finalize" {
        return match verb {
            "update" => update::update(call, body, Reach::Finalize).await,
            _ => Err(Status::method_not_allowed().into()),
        };
    }
    let known = call
        .kind
        .subresources
        .iter()
        .find(|known| known.name() == call.subresource);
    let Some(known) = known else {
        return Err(Status::path_not_found().into());
    };
    match (known, verb) {
        (Subresource::Status, "get") => read::get(call),
        (Subresource::Status, "update") => update::update(call, body, Reach::Status).await,
        (Subresource::Status, "patch") => update::patch(call, body, Reach::Status).await,
        (Subresource::Scale, "get") => scale::get(call),
        (Subresource::Scale, "update") => scale::update(call, body).await,
        (Subresource::Scale, "patch") => scale::patch(call, body).await,
        (Subresource::Log, "get") => logs::get(call, place).await,
        (Subresource::Exec, "get" | "create") => {
            parts.headers = std::mem::take(&mut call.headers);
            exec::open(call, parts, place).await
        }
        (Subresource::Binding, "create") => binding::create(call, body).await,
        (Subresource::Eviction, "create") => eviction::create(call, body).await,
        (Subresource::Archive, "update") => archive::upload(call, body).await,
        _ => Err(Status::method_not_allowed().into()),
    }
}

/// Who asks. Credentials that this server does not know are an error, never silently nobody.
fn identity(parts: &mut request::Parts) -> Result<Identity, Failure> {
    let proven = parts.extensions.remove::<Identity>();
    let identity = match proven {
        Some(identity) => identity,
        None if parts.headers.contains_key(header::AUTHORIZATION) => return Err(Status::unauthorized().into()),
        None => Identity::anonymous(),
    };
    let text = |headers: &HeaderMap, name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let groups = parts.headers.get_all("impersonate-group");
    let groups: Vec<&str> = groups.iter().filter_map(|value| value.to_str().ok()).collect();
    match text(&parts.headers, "impersonate-user") {
        Some(user) => authorization::impersonate(&identity, &user, &groups),
        None if groups.is_empty() => Ok(identity),
        None => Err(Status::bad_request("requested groups without impersonating a user").into()),
    }
}

/// The verb, in the words of authorization; `None` for methods that mean nothing here.
fn verb(method: &Method, path: &ResourcePath, query: &Query) -> Option<&'static str> {
    let named = path.name.is_some();
    Some(match *method {
        Method::GET | Method::HEAD if path.subresource.is_none() && (path.watch || query.flag("watch")) => "watch",
        Method::GET | Method::HEAD if named => "get",
        Method::GET | Method::HEAD => "list",
        // A WebSocket over HTTP/2.
        Method::CONNECT if path.subresource.as_deref() == Some("exec") => "get",
        Method::POST if !named || path.subresource.is_some() => "create",
        Method::PUT if named => "update",
        Method::PATCH if named => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => return None,
    })
}

/// The row of a path; 404 for resources nobody knows, and for names without the namespace they need.
fn kind(path: &ResourcePath) -> Result<&'static Kind, Failure> {
    let Some(kind) = kinds::by_resource(&path.group, &path.version, &path.resource) else {
        return Err(Status::path_not_found().into());
    };
    let has_namespace = path.namespace.is_some();
    if !kind.is_namespaced() && has_namespace || kind.is_namespaced() && !has_namespace && path.name.is_some() {
        return Err(Status::path_not_found().into());
    }
    Ok(kind)
}
