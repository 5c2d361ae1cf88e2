//! Serving: what UDP workers, TCP connections and waiting queries have in common.

mod batch;
mod misses;
mod tcp;
mod udp;

use std::{
    net::IpAddr,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

pub(super) use self::{
    misses::Miss,
    tcp::Listener,
    udp::{Workers, bind},
};
use super::{
    answer::{Answerer, Ask, Look, Outcome, Outside, Settings, Tables},
    draft::Draft,
    forward::{Answer, Resolver, Wants},
    limit::Limiter,
    message::{Flags, Question, Rcode},
    query::{Query, Refusal, answer_flags},
    reply::Reply,
};

/// Most questions that are asked outside for one query: a search list's names, or aliases from zone to zone.
const MOST_ASKED: usize = 8;

/// What all workers share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    tables: RwLock<Tables>,
    pub(super) resolver: Resolver,
    /// How many queries a client may send.
    pub(super) queries: Limiter,
    /// How many of them may be asked outside.
    pub(super) asked: Limiter,
    pub(super) counters: Counters,
    turn: AtomicUsize,
}

/// Numbers since the start.
#[derive(Default)]
pub(super) struct Counters {
    /// Queries by UDP.
    pub(super) udp: AtomicU64,
    /// Queries by TCP.
    pub(super) tcp: AtomicU64,
    /// Queries that had to be asked outside.
    pub(super) outside: AtomicU64,
    /// Queries that were not answered, or refused, since the client or all clients together asked too much.
    pub(super) limited: AtomicU64,
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, number: usize) {
    if number > 0 {
        counter.fetch_add(number as u64, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn new(
        settings: Settings,
        tables: Tables,
        resolver: Resolver,
        queries: Limiter,
        asked: Limiter,
    ) -> Self {
        Self {
            settings,
            tables: RwLock::new(tables),
            resolver,
            queries,
            asked,
            counters: Counters::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Everything that is known. A worker keeps it for one batch of queries.
    pub(super) fn tables(&self) -> RwLockReadGuard<'_, Tables> {
        // a panic while writing leaves at worst one Service's names undone
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To change what is known: for microseconds, since the workers wait.
    pub(super) fn tables_mut(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for the next answer.
    fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Answers a query at once, or says what has to be asked outside first.
    pub(super) fn answer(
        &self,
        tables: &Tables,
        query: &Query,
        client: IpAddr,
        limit: usize,
        turn: usize,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let answerer = Answerer {
            tables,
            settings: &self.settings,
            outside: &Known {
                resolver: &self.resolver,
                wants: wants(query),
                told: &[],
            },
        };
        answerer.answer(query, client, limit, turn, out)
    }

    /// Answers a query, asking outside as often as needed.
    pub(super) async fn work(&self, query: &Query, client: IpAddr, limit: usize, out: &mut Vec<u8>) {
        let mut told = Vec::new();
        let turn = self.next_turn();
        while told.len() < MOST_ASKED {
            let outcome = {
                let tables = self.tables();
                let answerer = Answerer {
                    tables: &tables,
                    settings: &self.settings,
                    outside: &Known {
                        resolver: &self.resolver,
                        wants: wants(query),
                        told: &told,
                    },
                };
                answerer.answer(query, client, limit, turn, out)
            };
            match outcome {
                Outcome::Answered => return,
                Outcome::Ask(ask) => {
                    let Ask { question, below } = *ask;
                    let (name, kind, wants) = (&question.name, question.kind, wants(query));
                    let answer = match &below {
                        Some(below) => self.resolver.resolve_below(name, kind, wants, below).await,
                        None => self.resolver.resolve(name, kind, wants).await,
                    };
                    told.push((question, answer));
                }
            }
        }
        refuse(&Refusal::of(query, Rcode::SERVFAIL), out);
    }
}

fn wants(query: &Query) -> Wants {
    Wants {
        dnssec: query.dnssec(),
        unchecked: query.flags.has(Flags::CHECKING_DISABLED),
    }
}

/// What is known of names outside: what was asked for this query, and the cache.
struct Known<'a> {
    resolver: &'a Resolver,
    wants: Wants,
    told: &'a [(Question, Arc<Answer>)],
}

impl Outside for Known<'_> {
    fn look(&self, question: &Question, draft: &mut Draft<'_>) -> Look {
        let told = self.told.iter().find(|(asked, _)| asked == question);
        let reply = match told {
            Some((_, answer)) => Some(answer.write(&question.name, Instant::now(), &mut draft.writer)),
            None => self
                .resolver
                .cached(&question.name, question.kind, self.wants, &mut draft.writer),
        };
        let Some(Reply { rcode, truncated, .. }) = reply else {
            return Look::Absent;
        };
        if truncated {
            draft.set_full();
        }
        Look::Written(rcode)
    }
}

/// Appends the answer to a query that is refused.
pub(super) fn refuse(refusal: &Refusal, out: &mut Vec<u8>) {
    // a question and an OPT record fit into the smallest message
    let limit = super::message::SMALLEST;
    let draft = Draft::new(out, limit, refusal.edns, refusal.question.as_ref(), 0);
    draft.finish(refusal.id, answer_flags(refusal.flags), refusal.rcode, false);
}

impl Refusal {
    /// A query that could be read, but is not answered.
    pub(super) fn of(query: &Query, rcode: Rcode) -> Self {
        Self {
            id: query.id,
            flags: query.flags,
            rcode,
            question: Some(query.question.clone()),
            edns: query.edns.is_some(),
        }
    }
}

#[cfg(test)]
mod tests;
