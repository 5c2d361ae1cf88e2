//! What may be chosen about a store, and which class of durability a key belongs to.

use std::time::Duration;

/// Choices for a store; [`Options::default`] keeps everything durable.
#[derive(Debug, Clone)]
pub struct Options {
    /// Keys that live in memory only and are gone after a restart. The first matching prefix counts.
    pub memory_prefixes: Vec<MemoryPrefix>,
    /// How far back the durable kinds can be watched.
    pub history: HistoryLimits,
    /// How far back the keys of each memory prefix can be watched.
    pub memory_history: HistoryLimits,
    /// Most bytes of keys and values in one transaction.
    pub largest_transaction: usize,
    /// The log is rewritten when this many bytes of it are outdated, and also `compact_factor` times the live bytes.
    /// More means fewer bytes written over time, a larger file and a longer start.
    pub compact_bytes: u64,
    /// See `compact_bytes`.
    pub compact_factor: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory_prefixes: Vec::new(),
            // Five minutes is how long Kubernetes keeps etcd history; count and bytes bound the memory.
            history: HistoryLimits {
                entries: 4096,
                age: Duration::from_secs(300),
                bytes: 3 << 20,
            },
            memory_history: HistoryLimits {
                entries: 1024,
                age: Duration::from_secs(60),
                bytes: 512 << 10,
            },
            largest_transaction: 16 << 20,
            compact_bytes: 8 << 20,
            compact_factor: 4,
        }
    }
}

/// Keys kept in memory only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPrefix {
    /// Start of the keys, as in `core/events/`.
    pub prefix: String,
    /// A key is removed this long after it was last written.
    pub ttl: Option<Duration>,
    /// At most this many keys; the ones written longest ago are removed first.
    pub most: Option<usize>,
}

impl MemoryPrefix {
    /// Keys that stay until they are deleted or the process ends.
    #[must_use]
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            ttl: None,
            most: None,
        }
    }

    /// With a time to live.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl: Some(ttl), ..self }
    }

    /// With a maximum count.
    #[must_use]
    pub fn most(self, most: usize) -> Self {
        Self {
            most: Some(most),
            ..self
        }
    }
}

impl From<&str> for MemoryPrefix {
    fn from(prefix: &str) -> Self {
        Self::new(prefix)
    }
}

/// Bounds of the changes kept for watchers. Whichever is reached first counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Most changes.
    pub entries: usize,
    /// Oldest change; enforced when the next change arrives.
    pub age: Duration,
    /// Most bytes of memory, roughly.
    pub bytes: usize,
}

/// Index of a durability class: [`DURABLE`] or one more than the index of the memory prefix.
pub(crate) type Class = usize;

/// The class of keys that are written to disk.
pub(crate) const DURABLE: Class = 0;

/// Sorts keys into durability classes.
#[derive(Debug, Clone)]
pub(crate) struct Classes {
    prefixes: Vec<MemoryPrefix>,
}

impl Classes {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            prefixes: options.memory_prefixes.clone(),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.prefixes.len() + 1
    }

    pub(crate) fn of(&self, key: &str) -> Class {
        self.prefixes
            .iter()
            .position(|memory| key.starts_with(&memory.prefix))
            .map_or(DURABLE, |index| index + 1)
    }

    /// The memory prefix of a class; `None` for the durable one.
    pub(crate) fn memory(&self, class: Class) -> Option<&MemoryPrefix> {
        class.checked_sub(1).and_then(|index| self.prefixes.get(index))
    }

    /// The classes in which keys with this prefix can be.
    pub(crate) fn touched(&self, prefix: &str) -> Box<[Class]> {
        let within = self
            .prefixes
            .iter()
            .position(|memory| prefix.starts_with(&memory.prefix));
        match within {
            Some(index) => Box::new([index + 1]),
            None => (0..self.count())
                .filter(|class| {
                    self.memory(*class)
                        .is_none_or(|memory| memory.prefix.starts_with(prefix))
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_touch_only_the_classes_they_can_meet() {
        let options = Options {
            memory_prefixes: vec!["core/events/".into(), "c/leases/".into()],
            ..Options::default()
        };
        let classes = Classes::new(&options);
        assert_eq!(classes.of("core/pods/default/a"), DURABLE);
        assert_eq!(classes.of("core/events/default/a"), 1);
        assert_eq!(classes.of("c/leases/x/y"), 2);
        assert_eq!(&*classes.touched("core/pods/"), [DURABLE]);
        assert_eq!(&*classes.touched("core/events/default/"), [1]);
        assert_eq!(&*classes.touched("core/"), [DURABLE, 1]);
        assert_eq!(&*classes.touched(""), [DURABLE, 1, 2]);
    }
}
