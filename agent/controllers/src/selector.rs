//! `metav1.LabelSelector`, read once per stored object.

use minidc_api::selector::LabelSelector;
use serde_json::Value;

use crate::objects::Metadata;

/// A label selector of a ReplicaSet or Deployment.
#[derive(Clone, Debug)]
pub(crate) struct Selector(LabelSelector);

impl Selector {
    /// None where the value is no selector.
    pub(crate) fn read(value: &Value) -> Option<Self> {
        value
            .is_object()
            .then(|| LabelSelector::from_object(value).ok())
            .flatten()
            .map(Self)
    }

    /// An empty selector matches everything, which no controller may act on.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_everything()
    }

    /// Whether the labels of an object satisfy every clause.
    pub(crate) fn matches(&self, metadata: &Metadata) -> bool {
        self.0.matches(|key| metadata.label(key))
    }
}
