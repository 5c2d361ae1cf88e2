//! Where each name stands, and what is to be done next. Pure: no I/O, and time is told to it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use dbus::Path;
use tokio::time::Instant;

use super::NameState;
use crate::pki::is_label;

/// Wait before a refused name is asked for again, doubled with each refusal up to [`LONGEST`]. The first is short, since a
/// name moves from one node to another: the old one may still be saying goodbye.
const FIRST: Duration = Duration::from_secs(2);
/// Each attempt is three packets to the whole network. RFC 6762, section 8.1, asks for 5 s between attempts after fifteen.
const LONGEST: Duration = Duration::from_secs(60);

/// An entry group of Avahi: what is announced or refused as one.
pub(super) type Group = Path<'static>;

/// How a claim ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Announced,
    Collision,
    Failed(String),
}

/// A step towards what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Announce {
        label: String,
        address: Ipv4Addr,
        /// Group of the former attempt or address, to be withdrawn first.
        replaces: Option<Group>,
    },
    Withdraw {
        group: Group,
    },
}

#[derive(Clone, Debug)]
enum Phase {
    Claiming,
    Announced {
        since: Instant,
    },
    Refused {
        due: Instant,
    },
    /// Not a label: never asked for.
    Hopeless,
}

#[derive(Clone, Debug)]
struct Name {
    address: Ipv4Addr,
    /// What Avahi has of it.
    group: Option<Group>,
    phase: Phase,
    /// What is told of it. While it is asked for again this stays what it was: a retry is no news.
    state: NameState,
    /// Refusals in a row.
    refusals: u32,
    /// Somebody else had it when it was asked for last.
    taken: bool,
    /// Who that is.
    question: Question,
}

/// Who has a taken name? The collision is told with the answer, so that it is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    None,
    ToBeAsked,
    Asked,
}

/// All names of one run of Avahi.
#[derive(Debug, Default)]
pub(super) struct Book {
    names: BTreeMap<String, Name>,
}

impl Book {
    /// What is to be done so that exactly the wanted names are announced. Names that are not wanted are forgotten with this.
    pub(super) fn plan(&mut self, wanted: &BTreeMap<String, Ipv4Addr>, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        self.names.retain(|label, name| {
            let keep = wanted.contains_key(label);
            if !keep && let Some(group) = name.group.take() {
                actions.push(Action::Withdraw { group });
            }
            keep
        });
        for (label, address) in wanted {
            if !is_label(label) {
                self.names
                    .entry(label.clone())
                    .or_insert_with(|| Name::hopeless(*address));
                continue;
            }
            let name = self.names.get_mut(label);
            let replaces = match name {
                None => None,
                Some(name) if name.address != *address || name.is_due(now) => name.group.take(),
                Some(_) => continue,
            };
            actions.push(Action::Announce {
                label: label.clone(),
                address: *address,
                replaces,
            });
        }
        actions
    }

    /// When there is something to do even if nothing happens.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let due = self.names.values().filter_map(|name| match name.phase {
            Phase::Refused { due } => Some(due),
            _ => None,
        });
        due.min()
    }

    /// Avahi is asking the network.
    pub(super) fn claimed(&mut self, label: &str, address: Ipv4Addr, group: Group) {
        let name = self.entry(label, address);
        name.group = Some(group);
        name.phase = Phase::Claiming;
    }

    /// Avahi did not even ask the network.
    pub(super) fn refused(&mut self, label: &str, address: Ipv4Addr, outcome: Outcome, now: Instant) {
        let name = self.entry(label, address);
        name.group = None;
        name.end(label, outcome, now);
    }

    fn entry(&mut self, label: &str, address: Ipv4Addr) -> &mut Name {
        let name = self
            .names
            .entry(label.to_owned())
            .or_insert_with(|| Name::fresh(address));
        if name.address != address {
            *name = Name::fresh(address);
        }
        name
    }

    /// What became of a group; one that is not known any more is of no interest.
    pub(super) fn outcome(&mut self, group: &Group, outcome: Outcome, now: Instant) {
        let found = self
            .names
            .iter_mut()
            .find(|(_, name)| name.group.as_ref() == Some(group));
        if let Some((label, name)) = found {
            name.end(label, outcome, now);
        }
    }

    /// Taken names of which nobody was asked yet who has them; each must be answered with [`Book::found`].
    pub(super) fn collisions_to_look_up(&mut self) -> Vec<String> {
        let due = self
            .names
            .iter_mut()
            .filter(|(_, name)| name.question == Question::ToBeAsked);
        due.map(|(label, name)| {
            name.question = Question::Asked;
            label.clone()
        })
        .collect()
    }

    /// Who has a name instead, if that can be said.
    pub(super) fn found(&mut self, label: &str, address: Option<IpAddr>) {
        let Some(name) = self.names.get_mut(label) else {
            return;
        };
        name.question = Question::None;
        if name.taken {
            name.tell(label, NameState::Collision { with: address });
        }
    }

    /// What is told of all names.
    pub(super) fn states(&self) -> BTreeMap<String, NameState> {
        let states = self.names.iter();
        states
            .map(|(label, name)| (label.clone(), name.state.clone()))
            .collect()
    }
}

impl Name {
    fn fresh(address: Ipv4Addr) -> Self {
        Self {
            address,
            group: None,
            phase: Phase::Claiming,
            state: NameState::Claiming,
            refusals: 0,
            taken: false,
            question: Question::None,
        }
    }

    fn hopeless(address: Ipv4Addr) -> Self {
        let reason = "it is not a label of lower-case letters, digits and hyphens".into();
        Self {
            phase: Phase::Hopeless,
            state: NameState::Unavailable { reason },
            ..Self::fresh(address)
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Refused { due } if due <= now)
    }

    fn end(&mut self, label: &str, outcome: Outcome, now: Instant) {
        if let Phase::Announced { since } = self.phase
            && now.saturating_duration_since(since) >= LONGEST
        {
            self.refusals = 0;
        }
        self.taken = outcome == Outcome::Collision;
        if outcome == Outcome::Announced {
            self.phase = Phase::Announced { since: now };
            self.tell(label, NameState::Announced);
            return;
        }
        let wait = FIRST.saturating_mul(1 << self.refusals.min(5)).min(LONGEST);
        self.refusals += 1;
        self.phase = Phase::Refused { due: now + wait };
        if let Outcome::Failed(reason) = outcome {
            self.tell(label, NameState::Unavailable { reason });
            return;
        }
        if matches!(self.state, NameState::Announced | NameState::Unavailable { .. }) {
            self.state = NameState::Claiming;
        }
        let known = matches!(self.state, NameState::Collision { with: Some(_) });
        if !known && self.question == Question::None {
            self.question = Question::ToBeAsked;
        }
    }

    /// Changes what is told, and says so in the log if it is another kind of news.
    fn tell(&mut self, label: &str, state: NameState) {
        if std::mem::discriminant(&self.state) != std::mem::discriminant(&state) {
            let address = self.address;
            match &state {
                NameState::Announced => tracing::info!(%address, "announced {label}.local on the network"),
                NameState::Collision { with } => tracing::warn!(?with, "somebody else has the name {label}.local"),
                NameState::Unavailable { reason } => tracing::warn!(reason, "Avahi does not announce {label}.local"),
                NameState::Claiming => {}
            }
        }
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const THERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn wanted(names: &[(&str, Ipv4Addr)]) -> BTreeMap<String, Ipv4Addr> {
        names
            .iter()
            .map(|(label, address)| ((*label).to_owned(), *address))
            .collect()
    }

    fn announce(label: &str, address: Ipv4Addr, replaces: Option<&Group>) -> Action {
        Action::Announce {
            label: label.into(),
            address,
            replaces: replaces.cloned(),
        }
    }

    fn group(number: u32) -> Group {
        Path::from(format!("/Client1/EntryGroup{number}"))
    }

    /// A book with `web` announced in group 1.
    fn announced(now: Instant) -> Book {
        let mut book = Book::default();
        assert_eq!(book.plan(&wanted(&[("web", HERE)]), now), [announce("web", HERE, None)]);
        book.claimed("web", HERE, group(1));
        assert_eq!(book.states()["web"], NameState::Claiming);
        book.outcome(&group(1), Outcome::Announced, now);
        assert_eq!(book.states()["web"], NameState::Announced);
        book
    }

    #[test]
    fn only_what_changed_is_done() {
        let now = Instant::now();
        let mut book = announced(now);
        assert_eq!(book.plan(&wanted(&[("web", HERE)]), now), []);
        assert_eq!(
            book.plan(&wanted(&[("web", HERE), ("shop", HERE)]), now),
            [announce("shop", HERE, None)]
        );
        book.claimed("shop", HERE, group(2));
        assert_eq!(
            book.plan(&wanted(&[("web", THERE), ("shop", HERE)]), now),
            [announce("web", THERE, Some(&group(1)))]
        );
        book.claimed("web", THERE, group(3));
        assert_eq!(
            book.states()["web"],
            NameState::Claiming,
            "another address is another claim"
        );
        assert_eq!(
            book.plan(&wanted(&[("web", THERE)]), now),
            [Action::Withdraw { group: group(2) }]
        );
        assert_eq!(book.states().len(), 1);
        assert_eq!(book.plan(&wanted(&[]), now), [Action::Withdraw { group: group(3) }]);
        assert!(book.states().is_empty());
        assert_eq!(book.next_due(), None);
    }

    #[test]
    fn what_avahi_says_of_a_former_group_is_ignored() {
        let now = Instant::now();
        let mut book = announced(now);
        book.plan(&wanted(&[("web", THERE)]), now);
        book.claimed("web", THERE, group(2));
        book.outcome(&group(1), Outcome::Collision, now);
        assert_eq!(book.states()["web"], NameState::Claiming);
        book.outcome(&group(2), Outcome::Announced, now);
        assert_eq!(book.states()["web"], NameState::Announced);
    }

    #[test]
    fn a_taken_name_is_asked_for_ever_more_rarely() {
        let mut now = Instant::now();
        let names = wanted(&[("web", HERE)]);
        let mut book = Book::default();
        let mut waits = Vec::new();
        let mut last = None;
        for number in 1..=8 {
            assert_eq!(book.plan(&names, now), [announce("web", HERE, last.as_ref())]);
            book.claimed("web", HERE, group(number));
            if number > 1 {
                assert_eq!(
                    book.states()["web"],
                    NameState::Collision { with: None },
                    "a retry is no news"
                );
            }
            book.outcome(&group(number), Outcome::Collision, now);
            assert_eq!(book.collisions_to_look_up(), ["web"], "nobody could tell before");
            book.found("web", None);
            assert_eq!(book.plan(&names, now), []);
            let due = book.next_due().unwrap();
            waits.push((due - now).as_secs());
            now = due;
            last = Some(group(number));
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
        // at last it is free
        book.plan(&names, now);
        book.claimed("web", HERE, group(9));
        book.outcome(&group(9), Outcome::Announced, now);
        assert_eq!(book.states()["web"], NameState::Announced);
        assert_eq!(book.next_due(), None);
        // lost again at once: the wait goes on where it was; lost after a good while: it begins anew
        let mut other = Book {
            names: book.names.clone(),
        };
        book.outcome(&group(9), Outcome::Collision, now);
        assert_eq!(book.next_due(), Some(now + LONGEST));
        let later = now + LONGEST;
        other.outcome(&group(9), Outcome::Collision, later);
        assert_eq!(other.next_due(), Some(later + FIRST));
    }

    #[test]
    fn a_refusal_without_a_group_is_tried_again_and_leaves_nothing_to_withdraw() {
        let now = Instant::now();
        let names = wanted(&[("pi-1", HERE), ("web", HERE)]);
        let mut book = Book::default();
        assert_eq!(book.plan(&names, now).len(), 2);
        book.refused("pi-1", HERE, Outcome::Collision, now);
        book.refused("web", HERE, Outcome::Failed("not permitted".into()), now);
        let reason = "not permitted".to_owned();
        assert_eq!(book.states()["web"], NameState::Unavailable { reason });
        assert_eq!(book.plan(&names, now), []);
        let due = book.next_due().unwrap();
        assert_eq!(
            book.plan(&names, due),
            [announce("pi-1", HERE, None), announce("web", HERE, None)]
        );
        assert_eq!(book.plan(&wanted(&[]), now), []);
    }

    #[test]
    fn a_collision_is_told_with_the_one_who_has_the_name() {
        let now = Instant::now();
        let mut book = announced(now);
        book.outcome(&group(1), Outcome::Collision, now);
        assert_eq!(book.states()["web"], NameState::Claiming);
        assert_eq!(book.collisions_to_look_up(), ["web"]);
        assert!(book.collisions_to_look_up().is_empty());
        // the answer takes its time, and meanwhile the next attempt fails, too
        let due = book.next_due().unwrap();
        book.plan(&wanted(&[("web", HERE)]), due);
        book.claimed("web", HERE, group(2));
        book.outcome(&group(2), Outcome::Collision, due);
        assert!(book.collisions_to_look_up().is_empty());
        book.found("web", Some(THERE.into()));
        let taken = NameState::Collision {
            with: Some(THERE.into()),
        };
        assert_eq!(book.states()["web"], taken);
        let due = book.next_due().unwrap();
        book.plan(&wanted(&[("web", HERE)]), due);
        book.claimed("web", HERE, group(3));
        book.outcome(&group(3), Outcome::Collision, due);
        assert_eq!(book.states()["web"], taken);
        assert!(book.collisions_to_look_up().is_empty());
        book.outcome(&group(3), Outcome::Announced, due);
        book.found("web", Some(THERE.into()));
        assert_eq!(
            book.states()["web"],
            NameState::Announced,
            "a late answer changes nothing"
        );
    }

    #[test]
    fn what_is_no_label_is_never_asked_for() {
        let now = Instant::now();
        let mut book = Book::default();
        let names = wanted(&[("", HERE), ("a.b", HERE), ("Web", HERE), ("wéb", HERE)]);
        assert_eq!(book.plan(&names, now), []);
        assert_eq!(book.states().len(), 4);
        assert!(
            book.states()
                .values()
                .all(|state| matches!(state, NameState::Unavailable { .. }))
        );
        assert_eq!(book.next_due(), None);
        assert_eq!(book.plan(&wanted(&[]), now), []);
        assert!(book.states().is_empty());
    }
}
