//! What was written and acknowledged when, and what may therefore be found after a power cut.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// One attempt to write one thing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Written {
    /// What was written; the attempts of one thing follow each other.
    pub name: String,
    /// What it became; `None` where it was removed.
    pub value: Option<String>,
    /// Where the attempt began, in whatever grows meanwhile: records on a card, or attempts.
    pub started: usize,
    /// Where it was acknowledged.
    pub acknowledged: usize,
}

/// What is there, by name.
pub type Found = BTreeMap<String, String>;

/// All attempts, by name, in their order.
#[derive(Debug, Default)]
pub struct History(BTreeMap<String, Vec<Written>>);

impl History {
    /// From attempts, those of one name in their order.
    pub fn new(attempts: impl IntoIterator<Item = Written>) -> Self {
        let mut history = Self::default();
        for attempt in attempts {
            history.push(attempt);
        }
        history
    }

    /// How many there were.
    #[must_use]
    pub fn attempts(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// What was ever written.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// Adds an attempt.
    pub fn push(&mut self, attempt: Written) {
        self.0.entry(attempt.name.clone()).or_default().push(attempt);
    }

    /// Whether what was found may be there after a cut at `at`: of each thing the last state that was acknowledged, or one that
    /// was begun after it.
    ///
    /// # Errors
    /// If something acknowledged is missing, or something is there that nobody wrote.
    pub fn judge(&self, at: usize, found: &Found) -> Result<()> {
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

/// Small reproducible random numbers (splitmix64).
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// Any number below `bound`; 0 where there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % bound.max(1) as u64).unwrap_or(0)
    }
}
