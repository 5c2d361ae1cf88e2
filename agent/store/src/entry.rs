//! What is kept and what changes: envelopes, entries, operations, changes.

use std::sync::Arc;

use bytes::Bytes;

/// Number of a change. One sequence for all keys, strictly growing, also across restarts; gaps are normal. 0 is before the first change.
pub type Revision = u64;

/// Names with values, in the order given: labels, or the fields that selectors use.
pub type Pairs = Box<[(Box<str>, Box<str>)]>;

/// A stored value: an object's JSON and what must be known of it without parsing the JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The object's labels.
    pub labels: Pairs,
    /// Values of the fields that selectors may ask for, by path.
    pub fields: Pairs,
    /// Byte offset in `json` just after the `{` that opens `metadata`: there `"resourceVersion":"N",` belongs.
    pub splice: u32,
    /// The object as JSON without `metadata.resourceVersion`.
    pub json: Bytes,
    /// Which shape of its kind the JSON has, for conversions after an update; 0 unless set.
    pub storage_version: u16,
}

impl Envelope {
    /// Copies the JSON into an allocation of exactly its size, because it will be kept for long and
    /// serialisers hand out buffers up to twice as large.
    #[must_use]
    pub fn new(json: impl AsRef<[u8]>, splice: u32, labels: Pairs, fields: Pairs) -> Self {
        Self {
            labels,
            fields,
            splice,
            json: Bytes::copy_from_slice(json.as_ref()),
            storage_version: 0,
        }
    }

    /// The JSON with `metadata.resourceVersion` set to `revision`. A splice offset outside the JSON leaves it unchanged.
    #[must_use]
    pub fn spliced(&self, revision: Revision) -> Bytes {
        let splice = self.splice as usize;
        let Some((head, tail)) = self.json.split_at_checked(splice) else {
            return self.json.clone();
        };
        let revision = revision.to_string();
        let mut json = Vec::with_capacity(self.json.len() + revision.len() + 21);
        json.extend_from_slice(head);
        json.extend_from_slice(b"\"resourceVersion\":\"");
        json.extend_from_slice(revision.as_bytes());
        json.push(b'"');
        if tail.first() != Some(&b'}') {
            json.push(b',');
        }
        json.extend_from_slice(tail);
        Bytes::from(json)
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        find(&self.labels, name)
    }

    /// The value of a field that selectors may ask for.
    #[must_use]
    pub fn field(&self, path: &str) -> Option<&str> {
        find(&self.fields, path)
    }

    /// Rough bytes of memory this value takes, for limits.
    pub(crate) fn weight(&self) -> usize {
        let pairs = |pairs: &Pairs| {
            pairs
                .iter()
                .map(|(name, value)| name.len() + value.len() + 32)
                .sum::<usize>()
        };
        self.json.len() + pairs(&self.labels) + pairs(&self.fields) + 96
    }
}

fn find<'a>(pairs: &'a Pairs, name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| &**key == name).map(|(_, value)| &**value)
}

/// A key with its value at one revision. Cloning copies two pointers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `{group or "core"}/{plural}/{namespace or ""}/{name}`.
    pub key: Arc<str>,
    /// When the value was last changed.
    pub revision: Revision,
    /// When the key was created.
    pub created: Revision,
    /// The value.
    pub envelope: Arc<Envelope>,
}

impl Entry {
    /// The JSON with this entry's `metadata.resourceVersion`.
    #[must_use]
    pub fn json(&self) -> Bytes {
        self.envelope.spliced(self.revision)
    }
}

/// What must hold for an operation, judged at the moment it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The key must not exist.
    Absent,
    /// The key must be at exactly this revision.
    Is(Revision),
    /// The key must exist.
    Present,
    /// Nothing is asked.
    Always,
}

impl When {
    /// Whether the condition holds for a key that is at `current`, `None` meaning absent.
    #[must_use]
    pub fn holds(self, current: Option<Revision>) -> bool {
        match self {
            Self::Absent => current.is_none(),
            Self::Is(revision) => current == Some(revision),
            Self::Present => current.is_some(),
            Self::Always => true,
        }
    }
}

/// One step of a transaction.
#[derive(Debug, Clone)]
pub enum Op {
    /// Create or replace a value. A value equal to the present one changes nothing: no revision, no write, no event.
    Put {
        /// Where.
        key: String,
        /// What.
        envelope: Envelope,
        /// On which condition.
        when: When,
    },
    /// Remove a key; removing an absent one with [`When::Always`] or [`When::Absent`] changes nothing.
    Delete {
        /// Which.
        key: String,
        /// On which condition.
        when: When,
    },
}

impl Op {
    /// The key this step is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    /// The condition of this step.
    #[must_use]
    pub fn when(&self) -> When {
        match self {
            Self::Put { when, .. } | Self::Delete { when, .. } => *when,
        }
    }
}

/// One change of one key, as watchers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A key was created (`previous` is `None`) or replaced.
    Put {
        /// The new state.
        entry: Entry,
        /// The state before, at its own revision.
        previous: Option<Entry>,
    },
    /// A key was removed.
    Delete {
        /// The last state, at its own revision.
        previous: Entry,
        /// The revision of the removal.
        revision: Revision,
    },
}

impl Change {
    /// The number of this change.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put { entry, .. } => entry.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }

    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Put { entry, .. } => &entry.key,
            Self::Delete { previous, .. } => &previous.key,
        }
    }

    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Put { entry, .. } => entry.envelope.weight() + 96,
            Self::Delete { .. } => 96,
        }
    }
}
