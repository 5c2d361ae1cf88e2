//! Which form of an answer the client asks for, and which form its body has.

use http::{HeaderMap, header};
use minidc_api::status::Status;

use crate::error::Failure;

/// What is sent for an object or a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The object itself.
    Object,
    /// `meta.k8s.io/v1` `Table`: what `kubectl get` prints.
    Table,
    /// `meta.k8s.io/v1` `PartialObjectMetadata` or its list.
    Metadata,
}

/// Media types that can be produced, for the text of a 406.
const PRODUCED: &[&str] = &["application/json"];

/// Reads `Accept` in the client's order and takes the first form that can be produced.
pub(crate) fn accept(headers: &HeaderMap) -> Result<Form, Failure> {
    let mut asked = false;
    for value in headers.get_all(header::ACCEPT) {
        let Ok(value) = value.to_str() else { continue };
        for clause in value.split(',').map(str::trim).filter(|clause| !clause.is_empty()) {
            asked = true;
            if let Some(form) = clause_form(clause) {
                return Ok(form);
            }
        }
    }
    if asked {
        Err(Status::not_acceptable(PRODUCED).into())
    } else {
        Ok(Form::Object)
    }
}

fn clause_form(clause: &str) -> Option<Form> {
    let mut parts = clause.split(';').map(str::trim);
    if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
        return None;
    }
    let (mut kind, mut group, mut version) = ("", "", "");
    for parameter in parts {
        match parameter.split_once('=') {
            Some(("as", value)) => kind = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            _ => {}
        }
    }
    match kind {
        "" => Some(Form::Object),
        _ if group != "meta.k8s.io" || version != "v1" => None,
        "Table" => Some(Form::Table),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Form::Metadata),
        _ => None,
    }
}

/// True when some clause of `Accept` asks for that form of discovery, such as `APIGroupDiscoveryList` of `v2`.
pub(crate) fn accepts_discovery(headers: &HeaderMap, kind: &str, version: &str) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|clause| {
            let has = |name: &str, wanted: &str| {
                clause
                    .split(';')
                    .map(str::trim)
                    .any(|part| part.split_once('=') == Some((name, wanted)))
            };
            has("as", kind) && has("v", version) && has("g", "apidiscovery.k8s.io")
        })
}

/// How Kubernetes names its answer of OpenAPI v2 as protobuf.
pub(crate) const OPENAPI_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1+protobuf";

/// True when OpenAPI v2 is asked for as protobuf, by its present name or the older one with an `@`.
pub(crate) fn accepts_openapi_protobuf(headers: &HeaderMap) -> bool {
    const WITH_AT: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|clause| [OPENAPI_PROTOBUF, WITH_AT].contains(&clause.trim()))
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Form of a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyForm {
    /// `application/json`, or nothing said.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`: kubectl's typed commands.
    Protobuf,
}

/// Form of a body that holds an object.
pub(crate) fn body_form(headers: &HeaderMap) -> Result<BodyForm, Failure> {
    match content_type(headers) {
        "" | "application/json" | "*/*" => Ok(BodyForm::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(BodyForm::Yaml),
        PROTOBUF => Ok(BodyForm::Protobuf),
        _ => Err(Status::unsupported_media(&["application/json", "application/yaml", PROTOBUF]).into()),
    }
}

/// `Content-Type` without its parameters; empty when absent.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(accept_header: &str) -> Result<Form, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept_header.parse().unwrap());
        accept(&headers).map_err(|failure| failure.code())
    }

    #[test]
    fn kubectl_get_asks_for_a_table() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(kubectl), Ok(Form::Table));
    }

    #[test]
    fn the_first_form_that_can_be_produced_wins() {
        assert_eq!(
            form("application/vnd.kubernetes.protobuf,application/json"),
            Ok(Form::Object)
        );
        assert_eq!(
            form("application/json;as=Table;v=v1beta1;g=meta.k8s.io, */*"),
            Ok(Form::Object)
        );
        assert_eq!(
            form("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Ok(Form::Metadata)
        );
        assert_eq!(form("application/json;stream=watch"), Ok(Form::Object));
        assert_eq!(form("application/vnd.kubernetes.protobuf"), Err(406));
        assert_eq!(accept(&HeaderMap::new()).unwrap(), Form::Object);
    }

    #[test]
    fn bodies_are_json_yaml_or_protobuf() {
        for (content_type, form) in [
            ("application/json; charset=utf-8", Ok(BodyForm::Json)),
            ("application/yaml", Ok(BodyForm::Yaml)),
            ("application/vnd.kubernetes.protobuf", Ok(BodyForm::Protobuf)),
            ("application/cbor", Err(415)),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type.parse().unwrap())]);
            assert_eq!(
                body_form(&headers).map_err(|failure| failure.code()),
                form,
                "{content_type}"
            );
        }
    }
}
