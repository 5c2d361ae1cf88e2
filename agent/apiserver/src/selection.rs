//! Which objects a list, watch or mass delete is about: label and field selectors together.

use minidc_api::kinds::Kind;
use minidc_api::selector::{FieldSelector, LabelSelector};
use minidc_api::status::Status;
use minidc_store::Entry;

use crate::error::{self, Failure};
use crate::object;
use crate::request::Query;

/// Both selectors of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Reads `labelSelector` and `fieldSelector`. `name` is the last segment of the path: a list or watch of one
    /// object is one with a field selector.
    pub(crate) fn from_query(query: &Query, name: &str) -> Result<Self, Failure> {
        let labels = query.first("labelSelector").unwrap_or("");
        let labels = LabelSelector::parse(labels).map_err(|error| Status::bad_request(error.to_string()))?;
        let given = query.first("fieldSelector").unwrap_or("");
        let fields = if name.is_empty() {
            given.to_owned()
        } else {
            format!("metadata.name={name},{given}")
        };
        let fields = FieldSelector::parse(&fields).map_err(|error| Status::bad_request(error.to_string()))?;
        Ok(Self { labels, fields })
    }

    /// Refuses fields that objects of the kind cannot be selected by.
    pub(crate) fn check(&self, kind: &Kind) -> Result<(), Failure> {
        let known =
            |field: &str| matches!(field, "metadata.name" | "metadata.namespace") || kind.fields.contains(&field);
        match self.fields.terms().iter().find(|term| !known(&term.field)) {
            None => Ok(()),
            Some(term) => Err(error::field_not_supported(&term.field)),
        }
    }

    /// The field selector alone, which authorization looks at.
    pub(crate) fn fields(&self) -> &FieldSelector {
        &self.fields
    }

    /// True when nothing is left out.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// True for a stored object that is meant; its JSON is not looked at.
    pub(crate) fn matches(&self, entry: &Entry) -> bool {
        self.fields.matches(|path| Some(object::selector_field(entry, path)))
            && self.labels.matches(|key| entry.envelope.label(key))
    }
}
