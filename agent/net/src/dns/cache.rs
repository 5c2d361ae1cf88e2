//! Answers of resolvers outside, bounded by bytes; asked by many threads at once.
//!
//! What to evict is found by a hand that goes round (the CLOCK algorithm; an entry that was used since the hand's last visit
//! stays once more), and new entries begin as unused, so that a flood of names that are asked once pushes out only itself.

mod answer;

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub(crate) use answer::{Answer, Key};

/// What a client wants beside the records: answers differ by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Wants {
    /// DNSSEC records (DO).
    pub(crate) dnssec: bool,
    /// Data that the resolver may have found to be forged (CD).
    pub(crate) unchecked: bool,
}

/// Parts that are locked on their own.
const SHARDS: usize = 8;
/// Bytes of an entry beside its answer: its place in the map and in the ring, the allocator's share.
const OVERHEAD: usize = 120;
/// How long an answer is kept beyond its time, for when nobody can be asked (RFC 8767 section 5 suggests one to three days).
const STALE_LIMIT: Duration = Duration::from_secs(3 * 86_400);
/// How long a resolver that failed is left alone about a name (RFC 8767 section 5: the failure recheck timer).
const RECHECK: Duration = Duration::from_secs(30);
/// An answer that was used so often is asked for again before it ends.
const HOT: u8 = 2;

/// The cache.
pub(crate) struct Cache {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    /// Most bytes of each shard.
    limit: usize,
}

/// What the cache says.
#[derive(Debug)]
pub(crate) struct Hit {
    /// The answer.
    pub(crate) answer: Arc<Answer>,
    /// It is too old, but the last attempt to get a new one failed.
    pub(crate) stale: bool,
    /// Somebody should ask for a new one now. Said once.
    pub(crate) refresh: bool,
}

/// How the cache is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CacheStats {
    /// Answers.
    pub(crate) entries: usize,
    /// Bytes in memory, about.
    pub(crate) bytes: usize,
    /// Questions that were answered.
    pub(crate) hits: u64,
    /// Of these by answers that were too old.
    pub(crate) stale: u64,
    /// Questions that were not answered.
    pub(crate) misses: u64,
}

#[derive(Default)]
struct Shard {
    /// Index in `slots` by key.
    index: HashMap<Keyed, u32>,
    slots: Vec<Slot>,
    hand: usize,
    stats: CacheStats,
}

struct Slot {
    answer: Arc<Answer>,
    /// Since the hand was here.
    used: bool,
    hits: u8,
    /// Somebody was told to ask for a new one.
    refreshing: bool,
    /// The last attempt failed; the next one is due then.
    failing_until: Option<Instant>,
}

/// Finds an answer by its question.
struct Keyed(Arc<Answer>);

impl Borrow<[u8]> for Keyed {
    fn borrow(&self) -> &[u8] {
        self.0.key()
    }
}

impl Hash for Keyed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

impl PartialEq for Keyed {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for Keyed {}

impl Cache {
    /// An empty cache of at most about so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            limit: bytes / SHARDS,
        }
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        // nothing in here panics half way: what another thread left is whole
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What may be answered without asking anybody.
    pub(crate) fn get(&self, key: &Key, now: Instant) -> Option<Hit> {
        self.shard(key.bytes()).get(key.bytes(), now)
    }

    /// What there is, however old.
    pub(crate) fn last(&self, key: &Key, now: Instant) -> Option<Arc<Answer>> {
        let shard = self.shard(key.bytes());
        let slot = shard.slot(key.bytes())?;
        (slot.answer.age(now) < STALE_LIMIT && slot.answer.is_knowledge()).then(|| Arc::clone(&slot.answer))
    }

    /// Keeps an answer, instead of the one before.
    pub(crate) fn put(&self, answer: Arc<Answer>, now: Instant) {
        let limit = self.limit;
        if answer.size() + OVERHEAD > limit / 4 {
            // larger than is worth it
            return;
        }
        self.shard(answer.key()).put(answer, limit, now);
    }

    /// Says that there is no new answer to be had: the old one will do for a while.
    pub(crate) fn failed(&self, key: &Key, now: Instant) {
        let mut shard = self.shard(key.bytes());
        if let Some(slot) = shard.slot_mut(key.bytes()) {
            slot.failing_until = Some(now + RECHECK);
            slot.refreshing = false;
        }
    }

    /// Says that nobody asks for a new answer after all.
    pub(crate) fn forget_refresh(&self, key: &Key) {
        if let Some(slot) = self.shard(key.bytes()).slot_mut(key.bytes()) {
            slot.refreshing = false;
        }
    }

    /// How it is used.
    pub(crate) fn stats(&self) -> CacheStats {
        let mut all = CacheStats::default();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            all.entries += shard.slots.len();
            all.bytes += shard.stats.bytes;
            all.hits += shard.stats.hits;
            all.stale += shard.stats.stale;
            all.misses += shard.stats.misses;
        }
        all
    }
}

impl Shard {
    fn slot(&self, key: &[u8]) -> Option<&Slot> {
        let index = usize::try_from(*self.index.get(key)?).ok()?;
        self.slots.get(index)
    }

    fn slot_mut(&mut self, key: &[u8]) -> Option<&mut Slot> {
        let index = usize::try_from(*self.index.get(key)?).ok()?;
        self.slots.get_mut(index)
    }

    fn get(&mut self, key: &[u8], now: Instant) -> Option<Hit> {
        let hit = self.slot_mut(key).and_then(|slot| slot.hit(now));
        match &hit {
            Some(hit) => {
                self.stats.hits += 1;
                self.stats.stale += u64::from(hit.stale);
            }
            None => self.stats.misses += 1,
        }
        hit
    }

    fn put(&mut self, answer: Arc<Answer>, limit: usize, now: Instant) {
        let size = answer.size() + OVERHEAD;
        let hits = self.slot(answer.key()).map_or(0, |slot| slot.hits);
        self.remove(answer.key());
        while self.stats.bytes + size > limit && !self.slots.is_empty() {
            self.evict(now);
        }
        let Ok(index) = u32::try_from(self.slots.len()) else {
            return;
        };
        self.stats.bytes += size;
        self.index.insert(Keyed(Arc::clone(&answer)), index);
        self.slots.push(Slot {
            answer,
            // what was asked for before is worth keeping
            used: hits > 0,
            hits: 0,
            refreshing: false,
            failing_until: None,
        });
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(index) = self.index.remove(key).and_then(|index| usize::try_from(index).ok()) {
            self.take(index);
        }
    }

    /// Removes a slot that is no longer in the index.
    fn take(&mut self, index: usize) {
        let slot = self.slots.swap_remove(index);
        self.stats.bytes -= slot.answer.size() + OVERHEAD;
        if let Some(moved) = self.slots.get(index)
            && let Some(place) = self.index.get_mut(moved.answer.key())
        {
            *place = u32::try_from(index).unwrap_or(u32::MAX);
        }
    }

    fn evict(&mut self, now: Instant) {
        // after one round every slot was marked as unused
        for _ in 0..=self.slots.len() {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let Some(slot) = self.slots.get_mut(self.hand) else {
                return;
            };
            if slot.used && slot.answer.age(now) < STALE_LIMIT {
                slot.used = false;
                self.hand += 1;
                continue;
            }
            let answer = Arc::clone(&slot.answer);
            self.index.remove(answer.key());
            self.take(self.hand);
            return;
        }
    }
}

impl Slot {
    fn hit(&mut self, now: Instant) -> Option<Hit> {
        let age = self.answer.age(now);
        let lifetime = Duration::from_secs(self.answer.lifetime().into());
        let stale = age >= lifetime;
        let due = if stale {
            if age >= STALE_LIMIT || !self.answer.is_knowledge() {
                return None;
            }
            now >= self.failing_until?
        } else {
            // in the last tenth of its time
            self.hits >= HOT && (lifetime - age) * 10 < lifetime && self.failing_until.is_none_or(|until| now >= until)
        };
        self.used = true;
        self.hits = self.hits.saturating_add(1);
        let refresh = due && !self.refreshing;
        self.refreshing |= due;
        Some(Hit {
            answer: Arc::clone(&self.answer),
            stale,
            refresh,
        })
    }
}

#[cfg(test)]
mod tests;
