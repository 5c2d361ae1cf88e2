//! What was written and acknowledged when, and what may therefore be found after a cut.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// One attempt to write one thing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Written {
    /// What was written; the attempts of one thing follow each other.
    pub(crate) name: String,
    /// What it became; `None` where it was removed.
    pub(crate) value: Option<String>,
    /// Records on the card before the attempt.
    pub(crate) started: usize,
    /// Records on the card when it was acknowledged.
    pub(crate) acknowledged: usize,
}

/// What is there, by name.
pub(crate) type Found = BTreeMap<String, String>;

/// All attempts, by name, in their order.
pub(crate) struct History(BTreeMap<String, Vec<Written>>);

impl History {
    pub(crate) fn new(attempts: impl IntoIterator<Item = Written>) -> Self {
        let mut history = BTreeMap::<_, Vec<_>>::new();
        for attempt in attempts {
            history.entry(attempt.name.clone()).or_default().push(attempt);
        }
        Self(history)
    }

    pub(crate) fn attempts(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Whether a card that was cut at record `at` may hold what was found: of each thing the last state that was acknowledged, or
    /// one that was begun after it.
    pub(crate) fn judge(&self, at: usize, found: &Found) -> Result<()> {
        for (name, attempts) in &self.0 {
            let value = found.get(name);
            let last = attempts.iter().rposition(|attempt| attempt.acknowledged <= at);
            let since = attempts[last.map_or(0, |last| last + 1)..]
                .iter()
                .take_while(|attempt| attempt.started <= at);
            let mut allowed = std::iter::once(last.and_then(|last| attempts[last].value.as_ref()))
                .chain(since.map(|attempt| attempt.value.as_ref()));
            if !allowed.any(|allowed| allowed == value) {
                match last.map(|last| &attempts[last]) {
                    Some(last) => bail!("{name} is {value:?}, though {last:?} was acknowledged"),
                    None => bail!("{name} is {value:?}, which it never was: {:?}", attempts.first()),
                }
            }
        }
        let unknown = found.keys().find(|name| !self.0.contains_key(*name));
        ensure!(unknown.is_none(), "nobody wrote {unknown:?}");
        Ok(())
    }
}
