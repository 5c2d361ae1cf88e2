//! One request for a resource, after it was taken apart, authorized and counted.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use minidc_api::decode::{self, DecodeError, FieldValidation, Media};
use minidc_api::kinds::Kind;
use minidc_api::schema;
use minidc_api::status::Status;
use minidc_api::table::IncludeObject;
use minidc_api::unsupported;
use minidc_store::{Entry, Op};
use serde_json::Value;

use crate::error::Failure;
use crate::identity::{Identity, MASTERS, SERVER};
use crate::negotiate::{self, BodyForm};
use crate::request::Query;
use crate::respond::Shape;
use crate::server::Inner;

/// Largest body of a request, except for image archives: Kubernetes' limit, 3 MiB.
pub(crate) const BODY_LIMIT: usize = 3 << 20;

/// What is asked, by whom, of which object.
pub(crate) struct Call {
    /// The server.
    pub(crate) server: Arc<Inner>,
    /// Row of the kind.
    pub(crate) kind: &'static Kind,
    /// Namespace of the path; empty for cluster-wide kinds and for all namespaces.
    pub(crate) namespace: String,
    /// Name of the path; empty for a collection.
    pub(crate) name: String,
    /// Subresource of the path; empty for none.
    pub(crate) subresource: String,
    /// Who asks.
    pub(crate) identity: Identity,
    /// The query.
    pub(crate) query: Query,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// What the client is to be told besides the answer.
    pub(crate) warnings: Vec<String>,
}

/// What became of a transaction.
pub(crate) enum Committed {
    /// It took place; one answer per operation.
    Done(Vec<Option<Entry>>),
    /// It did not, since something else was at this key than was expected.
    Conflict(String),
}

impl Call {
    /// A call of the server itself.
    pub(crate) fn own(server: &Arc<Inner>, kind: &'static Kind, namespace: &str, name: &str) -> Self {
        Self {
            server: Arc::clone(server),
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: String::new(),
            identity: Identity::new(SERVER, &[MASTERS]),
            query: Query::default(),
            headers: HeaderMap::new(),
            warnings: Vec::new(),
        }
    }

    /// Store key of the object of the path.
    pub(crate) fn key(&self) -> String {
        self.kind.store_key(&self.namespace, &self.name)
    }

    /// Start of the store keys of the collection of the path.
    pub(crate) fn prefix(&self) -> String {
        if self.namespace.is_empty() {
            self.kind.store_prefix()
        } else {
            self.kind.namespace_prefix(&self.namespace)
        }
    }

    /// The stored object of the path.
    pub(crate) fn stored(&self) -> Result<Entry, Failure> {
        self.server
            .store
            .get(&self.key())
            .ok_or_else(|| Status::not_found(self.kind, &self.name).into())
    }

    /// Form of the answer.
    pub(crate) fn shape(&self) -> Result<Shape, Failure> {
        let text = self.query.first("includeObject").unwrap_or("");
        let include = IncludeObject::parse(text)
            .ok_or_else(|| Status::bad_request(format!("unrecognized includeObject value: {text:?}")))?;
        Ok(Shape {
            form: negotiate::accept(&self.headers)?,
            include,
        })
    }

    /// True for `dryRun=All`.
    pub(crate) fn is_dry_run(&self) -> Result<bool, Failure> {
        let mut dry = false;
        for value in self.query.all("dryRun").filter(|value| !value.is_empty()) {
            if value != "All" {
                let message = format!("dryRun: Unsupported value: {value:?}: supported values: \"All\"");
                return Err(Status::passed_on(422, format!("\"\" is invalid: {message}")).into());
            }
            dry = true;
        }
        Ok(dry)
    }

    /// What to do about fields nobody knows; `Warn` unless the client says otherwise.
    pub(crate) fn field_validation(&self) -> Result<FieldValidation, Failure> {
        let text = self.query.first("fieldValidation").unwrap_or("");
        FieldValidation::parse(text).ok_or_else(|| {
            let supported = "supported values: \"Ignore\", \"Strict\", \"Warn\"";
            let message = format!("\"\" is invalid: fieldValidation: Unsupported value: {text:?}: {supported}");
            Status::passed_on(422, message).into()
        })
    }

    /// Form of the body.
    fn media(&self) -> Result<Media, Failure> {
        Ok(match negotiate::body_form(&self.headers)? {
            BodyForm::Json => Media::Json,
            BodyForm::Yaml => Media::Yaml,
            BodyForm::Protobuf => Media::Protobuf,
        })
    }

    /// Reads an object of the call's kind from a body, strictly as the client asked.
    pub(crate) fn decode(&mut self, body: &[u8]) -> Result<Value, Failure> {
        let decoded =
            decode::decode(self.kind, body, self.media()?, self.field_validation()?).map_err(decode_failure)?;
        self.warnings.extend(decoded.warnings);
        Ok(decoded.object)
    }

    /// Reads a body of another type, by its name in the schema: `Scale`, `Binding`, `DeleteOptions`. An empty body is
    /// an empty object.
    pub(crate) fn decode_as(&mut self, type_name: &str, body: &[u8]) -> Result<Value, Failure> {
        let object = schema::type_named(type_name)
            .ok_or_else(|| Status::internal(format!("{type_name} is missing from the schema")))?;
        let decoded =
            decode::decode_request(object, body, self.media()?, self.field_validation()?).map_err(decode_failure)?;
        self.warnings.extend(decoded.warnings);
        Ok(decoded.object)
    }

    /// Notes which fields of the object nothing acts on yet.
    pub(crate) fn warn_unsupported(&mut self, object: &Value) {
        self.warnings
            .extend(unsupported::fields_not_acted_on(self.kind, object));
    }

    /// Applies operations to the store. A conflict is handed back as `None`: it means something else in each verb.
    pub(crate) async fn commit(&self, operations: Vec<Op>) -> Result<Option<Vec<Option<Entry>>>, Failure> {
        Ok(match self.try_commit(operations).await? {
            Committed::Done(entries) => Some(entries),
            Committed::Conflict(_) => None,
        })
    }

    /// As [`Call::commit`], for who must know what the conflict is about.
    pub(crate) async fn try_commit(&self, operations: Vec<Op>) -> Result<Committed, Failure> {
        match self.server.store.commit(operations).await {
            Ok(entries) => Ok(Committed::Done(entries)),
            Err(minidc_store::Error::Conflict { key, .. }) => Ok(Committed::Conflict(key)),
            Err(error) => Err(Failure::store(&error)),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err wants")]
fn decode_failure(error: DecodeError) -> Failure {
    Status::bad_request(error.to_string()).into()
}

/// The whole body, up to the limit.
pub(crate) async fn read_body(body: Body) -> Result<Bytes, Failure> {
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Status::too_large(BODY_LIMIT).into()),
        Err(error) => Err(Status::bad_request(format!("read the body of the request: {error}")).into()),
    }
}
