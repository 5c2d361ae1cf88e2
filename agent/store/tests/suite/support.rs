//! What the store's tests share.
use std::{collections::BTreeMap, time::Duration};

use minidc_store::{Change, Entry, Envelope, Op, When};

/// Small reproducible random numbers (a linear congruential generator with Knuth's constants).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

pub(crate) fn envelope(text: &str) -> Envelope {
    let json = format!("{{\"metadata\":{{\"name\":\"x\"}},\"data\":\"{text}\"}}");
    let labels = Box::new([("app".into(), text.get(..1).unwrap_or_default().into())]);
    Envelope::new(json, 13, labels, Box::new([("status.phase".into(), "Running".into())]))
}

pub(crate) fn put(key: &str, text: &str, when: When) -> Op {
    Op::Put {
        key: key.to_owned(),
        envelope: envelope(text),
        when,
    }
}

pub(crate) fn delete(key: &str, when: When) -> Op {
    Op::Delete {
        key: key.to_owned(),
        when,
    }
}

pub(crate) fn replay<'a>(state: &mut BTreeMap<String, Entry>, changes: impl IntoIterator<Item = &'a Change>) {
    for change in changes {
        match change {
            Change::Put { entry, previous } => {
                let before = state.insert(entry.key.to_string(), entry.clone());
                assert_eq!(before.as_ref(), previous.as_ref(), "what {} was before", entry.key);
            }
            Change::Delete { previous, .. } => {
                assert_eq!(state.remove(&*previous.key).as_ref(), Some(previous));
            }
        }
    }
}

/// Fails instead of hanging.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("within a minute")
}
