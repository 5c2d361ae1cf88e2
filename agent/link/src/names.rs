//! Names for people: address records on the local network, such as `web.local`, that any laptop on the same switch finds
//! with nothing configured.
//!
//! Avahi does the talking; it is asked over D-Bus, since only there an address can be announced under a name of our choice.
//! Each name is an entry group of its own, so that one that is taken keeps no other away. Avahi asks the network before it
//! announces: who has a name first keeps it, and a name that was refused is asked for again, ever more rarely. All that is
//! announced is withdrawn, with a goodbye to the network, when it is no longer wanted or this process ends.
//!
//! The `dbus` crate speaks through libdbus, which Avahi's client library has loaded anyway: 0.1 MB of program and 15 kB of
//! memory, where zbus takes 1.4 MB and 0.8 MB. Nothing is connected while nothing is wanted.
//!
//! # Current limitations
//! - IPv4 addresses only.
//! - Programs of one machine are not kept apart: a name that another one announces here, or that is the host's own, leads to
//!   both addresses. Whoever decides on names has to leave out those of the nodes.
//! - Avahi takes at most 1024 names from one program; those beyond are `Unavailable`.

mod avahi;
mod book;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use avahi::{Avahi, Event, Refusal};
use book::{Action, Book};

/// Host labels, without `.local`, and the address that each is to lead to.
pub type Wanted = Arc<BTreeMap<String, Ipv4Addr>>;

/// How the wanted names are doing, by label.
pub type States = Arc<BTreeMap<String, NameState>>;

/// First wait before a lost or absent D-Bus is tried again, doubled up to [`RETRY_LONGEST`].
const RETRY: Duration = Duration::from_secs(2);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// How a name is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameState {
    /// The network is being asked whether somebody has it; takes about a second.
    Claiming,
    /// It leads to the wanted address.
    Announced,
    /// Another machine on the network has it; asked for again within a minute.
    Collision {
        /// Where the name leads to instead; `None` when nobody could tell, which may be known later.
        with: Option<IpAddr>,
    },
    /// It cannot be announced, mostly since there is no Avahi; tried again.
    Unavailable {
        /// Why, for a person.
        reason: String,
    },
}

/// Keeps names announced. The absence of Avahi or D-Bus is an ordinary state, in which it waits.
#[derive(Debug)]
pub struct Announcer {
    states: watch::Sender<States>,
}

impl Default for Announcer {
    fn default() -> Self {
        Self::new()
    }
}

impl Announcer {
    /// Announces nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            states: watch::Sender::new(Arc::default()),
        }
    }

    /// How the wanted names are doing, all of them and no others.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<States> {
        self.states.subscribe()
    }

    /// Announces what is wanted, until told to stop or until nobody is left who could want anything; then withdraws all.
    pub async fn run(self, mut wanted: watch::Receiver<Wanted>, shutdown: CancellationToken) {
        // dropping the session's future drops the connection, and Avahi withdraws what came over it
        shutdown.run_until_cancelled(self.serve(&mut wanted)).await;
        self.states.send_replace(Arc::default());
    }

    async fn serve(&self, wanted: &mut watch::Receiver<Wanted>) {
        let mut wait = RETRY;
        let mut told = None;
        loop {
            let Ok(some) = wanted.wait_for(|wanted| !wanted.is_empty()).await else {
                return;
            };
            drop(some);
            let began = Instant::now();
            let Err(problem) = self.session(wanted, &mut told).await else {
                self.publish(BTreeMap::new());
                // what was wanted last is still there to be seen, but nobody wants it any more
                if wanted.has_changed().is_err() {
                    return;
                }
                continue;
            };
            tell(&mut told, &problem);
            if began.elapsed() > RETRY_LONGEST {
                wait = RETRY;
            }
            let end = Instant::now() + wait;
            wait = (wait * 2).min(RETRY_LONGEST);
            loop {
                let unavailable = |label: &String| {
                    let reason = problem.clone();
                    (label.clone(), NameState::Unavailable { reason })
                };
                let states = wanted.borrow_and_update().keys().map(unavailable).collect();
                self.publish(states);
                match tokio::time::timeout_at(end, wanted.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return,
                    Err(_) => break,
                }
            }
        }
    }

    fn publish(&self, states: BTreeMap<String, NameState>) {
        self.states.send_if_modified(|present| {
            let news = **present != states;
            if news {
                *present = Arc::new(states);
            }
            news
        });
    }

    /// One connection to D-Bus, also over restarts of Avahi, until nothing is wanted any more. Its error is a sentence.
    async fn session(&self, wanted: &mut watch::Receiver<Wanted>, told: &mut Option<String>) -> Result<(), String> {
        let mut avahi = Avahi::connect().await?;
        let mut book = Book::default();
        let mut lookups = JoinSet::new();
        loop {
            let present = Arc::clone(&wanted.borrow_and_update());
            if present.is_empty() {
                return Ok(());
            }
            if avahi.is_running() {
                for action in book.plan(&present, Instant::now()) {
                    apply(&avahi, &mut book, action).await?;
                }
                for label in book.collisions_to_look_up() {
                    let answer = avahi.look_up(&label);
                    lookups.spawn(async move { (label, answer.await) });
                }
                if told.take().is_some() {
                    tracing::info!("Avahi answers again; names are announced");
                }
                self.publish(book.states());
            } else {
                let reason = "Avahi is not running";
                tell(told, reason);
                let unavailable = || NameState::Unavailable { reason: reason.into() };
                self.publish(present.keys().map(|label| (label.clone(), unavailable())).collect());
            }
            let due = book.next_due();
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() {
                    return Ok(());
                },
                event = avahi.event() => match event? {
                    Event::Restarted => {
                        book = Book::default();
                        lookups.abort_all();
                    }
                    Event::Group(group, outcome) => book.outcome(&group, outcome, Instant::now()),
                },
                Some(Ok((label, with))) = lookups.join_next() => book.found(&label, with),
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }
}

/// Does one step; an error means that the connection is of no use any more.
async fn apply(avahi: &Avahi, book: &mut Book, action: Action) -> Result<(), String> {
    match action {
        Action::Withdraw { group } => avahi.withdraw(group).await,
        Action::Announce {
            label,
            address,
            replaces,
        } => {
            if let Some(group) = replaces {
                avahi.withdraw(group).await?;
            }
            match avahi.announce(&label, address).await {
                Ok(group) => book.claimed(&label, address, group),
                Err(Refusal::Name(outcome)) => book.refused(&label, address, outcome, Instant::now()),
                Err(Refusal::Lost(problem)) => return Err(problem),
            }
            Ok(())
        }
    }
}

/// Says what is wrong, once.
fn tell(told: &mut Option<String>, problem: &str) {
    if told.is_none() {
        tracing::info!(
            problem,
            "names cannot be announced on the network now; trying again quietly"
        );
        *told = Some(problem.to_owned());
    }
}
