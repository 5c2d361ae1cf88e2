//! Single requests to the API, each with the name of what it tries.

use http::{Method, Request};
use kube::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::Error;
use crate::objects::Metadata;

/// Media type of a JSON merge patch (RFC 7386).
const MERGE: &str = "application/merge-patch+json";
/// Media type of Kubernetes' patch that merges lists by their keys.
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// The API as one user.
#[derive(Clone)]
pub(crate) struct Requests {
    client: Client,
}

/// What an answer says of the object that was written or read.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Reply {
    #[serde(default)]
    pub(crate) metadata: ReplyMetadata,
}

/// Identity of the object in a [`Reply`].
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ReplyMetadata {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) deletion_timestamp: Option<String>,
    pub(crate) finalizers: Vec<String>,
}

impl Reply {
    /// `resourceVersion` as a number; 0 where there is none.
    pub(crate) fn revision(&self) -> u64 {
        self.metadata.resource_version.parse().unwrap_or_default()
    }
}

/// How dependents fare when their owner is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// What must hold for a deletion, and how it is done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deletion<'a> {
    /// Nothing happens to an object with another uid.
    pub(crate) uid: Option<&'a str>,
    /// Nothing happens to an object that has changed since.
    pub(crate) revision: Option<u64>,
    pub(crate) grace_seconds: Option<u32>,
    pub(crate) propagation: Option<Propagation>,
}

impl<'a> Deletion<'a> {
    /// Of this object and no other of its name.
    pub(crate) fn of(metadata: &'a Metadata) -> Self {
        Self {
            uid: Some(&metadata.uid),
            ..Self::default()
        }
    }

    fn body(self) -> Value {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        let mut preconditions = serde_json::Map::new();
        if let Some(uid) = self.uid {
            preconditions.insert("uid".into(), uid.into());
        }
        if let Some(revision) = self.revision {
            preconditions.insert("resourceVersion".into(), revision.to_string().into());
        }
        if !preconditions.is_empty() {
            body["preconditions"] = preconditions.into();
        }
        if let Some(seconds) = self.grace_seconds {
            body["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(propagation) = self.propagation {
            body["propagationPolicy"] = match propagation {
                Propagation::Background => "Background",
                Propagation::Foreground => "Foreground",
                Propagation::Orphan => "Orphan",
            }
            .into();
        }
        body
    }
}

impl Requests {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Reads; none where it is not there.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Error> {
        match self.send(Method::GET, path, "application/json", None, "get").await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn create(&self, collection: &str, body: &Value) -> Result<Reply, Error> {
        self.send(Method::POST, collection, "application/json", Some(body), "create in")
            .await
    }

    pub(crate) async fn replace(&self, path: &str, body: &Value) -> Result<Reply, Error> {
        self.send(Method::PUT, path, "application/json", Some(body), "replace")
            .await
    }

    /// Merge patch: lists are replaced whole. With `metadata.resourceVersion` in it, it is refused if the object has changed.
    pub(crate) async fn merge(&self, path: &str, body: &Value) -> Result<Reply, Error> {
        self.send(Method::PATCH, path, MERGE, Some(body), "patch").await
    }

    /// Strategic merge patch: for lists of which others write other items.
    pub(crate) async fn strategic(&self, path: &str, body: &Value) -> Result<Reply, Error> {
        self.send(Method::PATCH, path, STRATEGIC, Some(body), "patch").await
    }

    /// Deletes; an object that is not there, or is another by now, counts as deleted.
    pub(crate) async fn delete(&self, path: &str, deletion: Deletion<'_>) -> Result<(), Error> {
        let body = deletion.body();
        let outcome: Result<Reply, Error> = self
            .send(Method::DELETE, path, "application/json", Some(&body), "delete")
            .await;
        match outcome {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) if error.is_conflict() && deletion.revision.is_none() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        media: &str,
        body: Option<&Value>,
        attempt: &'static str,
    ) -> Result<T, Error> {
        let failed = |source: kube::Error| Error::Request {
            attempt,
            path: path.to_owned(),
            source: Box::new(source),
        };
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, media)
            .header(http::header::ACCEPT, "application/json")
            .body(body)
            .map_err(|source| failed(kube::Error::HttpError(source)))?;
        self.client.request(request).await.map_err(failed)
    }
}
