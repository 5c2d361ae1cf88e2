//! Services: which packets go to which pod, as elements of one nftables table.
//!
//! Facts come in, transactions go out: `known` remembers what was told and what changed by it, `view` says what a
//! Service looks like to packets, `plan` finds the elements that differ from what the kernel was told, `rules` knows
//! the table, `kernel` speaks to it. A change costs by what it changes, however many Services there are. Facts that come
//! while the kernel works are put into one transaction after it.
//!
//! Until everything was told, rules of an earlier run stay as they are; then they are compared with what must be, and what
//! differs is changed in one transaction. The same is done when somebody changes our table, or takes it away.

use std::{collections::HashMap, io, net::Ipv4Addr, time::Duration};

use tokio::{
    sync::{mpsc::UnboundedReceiver, watch},
    task::spawn_blocking,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{Error, Range, facts::Fact, nfnetlink::socket::News};

mod kernel;
mod known;
mod plan;
mod rules;
mod view;

use kernel::{Kernel, Table, Whole, Work};
use known::Known;
use plan::{Ledger, Position};
use rules::{Frame, TABLE};
use view::Surroundings;

/// Removes the table of Services; fine if there is none.
pub(crate) fn remove() -> Result<(), Error> {
    Kernel::open()?.remove()
}

/// First wait after a refused change, or before a table that somebody changed is written anew; doubled each time, up to
/// these.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(30);
/// No Service is reached while somebody's rules are in place of ours, so that it is not long even in a quarrel.
const QUARREL_LONGEST: Duration = Duration::from_secs(2);
/// Changes further apart than this are not a quarrel with another program.
const PEACE: Duration = Duration::from_secs(60);
/// A node that was restarted learns its pod range within moments; so long an earlier run's rules are left, since the new
/// ones would have no way out of the cluster.
const PATIENCE: Duration = Duration::from_secs(10);
/// Whether bridged packets go by the rules can be switched without a word; so often it is looked at.
const LOOK: Duration = Duration::from_secs(60);
/// Transactions of more changes than this are made without listening: their own news would not fit.
const QUIET: usize = 2_000;

/// What the service proxy is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node, as `nodeName` of endpoints says it.
    pub node: Box<str>,
    /// The range that all nodes' pod ranges are cut from.
    pub pod_range: Range,
    /// The range that cluster IPs are taken from.
    pub service_range: Range,
    /// This node's own `spec.podCIDR`, once it has one.
    pub own: watch::Receiver<Option<Range>>,
    /// The cluster DNS address, answered on this node itself: port 53 is kept out of connection tracking.
    pub dns: Ipv4Addr,
}

/// How the service proxy does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyState {
    /// The kernel has rules for everything that was told, and everything was told.
    pub ready: bool,
    /// Services that rules exist for.
    pub services: usize,
    /// Endpoints behind them; one that serves two ports counts twice.
    pub endpoints: usize,
    /// Why the rules are not what they should be, in one line.
    pub problem: Option<String>,
}

/// The service proxy of this node.
#[derive(Debug)]
pub struct Proxy {
    config: Config,
    state: watch::Sender<ProxyState>,
}

impl Proxy {
    /// A proxy that has not touched the kernel; [`Proxy::run`] does.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            state: watch::Sender::default(),
        }
    }

    /// How it does from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ProxyState> {
        self.state.subscribe()
    }

    /// Keeps the table `ip minidc` as the facts ask, until `shutdown`. The table stays at the end: connections go on
    /// without the agent.
    ///
    /// # Errors
    /// When the kernel cannot be spoken to at all. Refused changes are in [`ProxyState::problem`] and tried again.
    pub async fn run(self, facts: UnboundedReceiver<Fact>, shutdown: CancellationToken) -> Result<(), Error> {
        let mut kernel = Kernel::open()?;
        let rules = match kernel.table()? {
            Some(_) => Rules::Earlier,
            None => Rules::Missing,
        };
        Running {
            config: self.config,
            state: self.state,
            kernel: Some(kernel),
            news: None,
            known: Known::default(),
            ledger: Ledger::default(),
            frame: None,
            rules,
            since: Instant::now(),
            problem: None,
            retry: None,
            patience: None,
            anew: false,
            caution: Caution::default(),
        }
        .run(facts, shutdown)
        .await
    }
}

/// What is in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rules {
    /// No table.
    Missing,
    /// One of an earlier run.
    Earlier,
    /// What the ledger says.
    Ours,
    /// One that we wrote, and that is no longer what the ledger says, or may not be.
    Broken,
}

struct Running {
    config: Config,
    state: watch::Sender<ProxyState>,
    /// Away while it works.
    kernel: Option<Kernel>,
    news: Option<News>,
    known: Known,
    ledger: Ledger,
    /// What the fixed rules were written for.
    frame: Option<Frame>,
    rules: Rules,
    since: Instant,
    problem: Option<String>,
    retry: Option<Instant>,
    /// How long the node's range is waited for.
    patience: Option<Instant>,
    /// To make the table what it must be has failed: it is replaced.
    anew: bool,
    caution: Caution,
}

/// How long is waited after trouble: longer each time, until there was peace for a while.
#[derive(Debug, Default)]
struct Caution {
    times: u32,
    last: Option<Instant>,
}

impl Caution {
    fn wait(&mut self, now: Instant, longest: Duration) -> Duration {
        if self.last.is_some_and(|at| now - at > PEACE) {
            self.times = 0;
        }
        self.last = Some(now);
        let wait = RETRY.saturating_mul(2_u32.saturating_pow(self.times)).min(longest);
        self.times = self.times.saturating_add(1);
        wait
    }
}

impl Running {
    async fn run(mut self, mut facts: UnboundedReceiver<Fact>, shutdown: CancellationToken) -> Result<(), Error> {
        let mut telling = true;
        let mut own = self.config.own.clone();
        let mut owning = true;
        self.listen();
        loop {
            self.pass().await?;
            let wake = self.retry.or(self.patience);
            tokio::select! {
                // News of our own changes is read before there are more of them: what does not fit is lost, and means a look
                // at everything.
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = until(wake) => (self.retry, self.patience) = (None, None),
                heard = hear(self.news.as_ref(), self.kernel.as_ref().map_or(0, Kernel::port)) => self.heard(heard).await?,
                changed = own.changed(), if owning => owning = changed.is_ok(),
                fact = facts.recv(), if telling => match fact {
                    Some(fact) => {
                        self.known.learn(fact);
                        while let Ok(fact) = facts.try_recv() {
                            self.known.learn(fact);
                        }
                    }
                    None => telling = false,
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn frame(&self) -> Frame {
        Frame {
            pods: self.config.pod_range,
            services: self.config.service_range,
            own: *self.config.own.borrow(),
            dns: self.config.dns,
            bridged: kernel::bridged(),
        }
    }

    /// Brings the kernel up to date, if it is time for that.
    async fn pass(&mut self) -> Result<(), Error> {
        if self.retry.is_some() {
            return Ok(());
        }
        let frame = self.frame();
        if self.rules == Rules::Earlier {
            let patient_until = self.since + PATIENCE;
            if !self.known.synced() {
                return Ok(());
            }
            if frame.own.is_none() && Instant::now() < patient_until {
                self.patience = Some(patient_until);
                return Ok(());
            }
            self.patience = None;
        }
        let whole = self.rules != Rules::Ours || self.frame != Some(frame);
        if whole {
            self.ledger = Ledger::default();
            self.known.touch_all();
        }
        let position = Position {
            surroundings: Surroundings {
                pods: frame.pods,
                services: frame.services,
            },
            node: &self.config.node,
            own: frame.own,
        };
        let transaction = self.ledger.advance(&mut self.known, position);
        let synced_now = self.known.synced() && !self.state.borrow().ready;
        if whole || !transaction.is_empty() || !transaction.flows.is_empty() || !transaction.sticky.is_empty() {
            let numbers = transaction
                .changes
                .iter()
                .filter_map(|change| change.choice())
                .map(|choice| (choice, self.ledger.number(Some(choice))))
                .collect::<HashMap<_, _>>();
            let work = Work {
                frame,
                whole: whole.then(|| Whole {
                    reachable: self.ledger.sticky(),
                    anew: self.anew,
                    told: self.known.synced(),
                }),
                transaction,
                numbers,
            };
            self.apply(work).await?;
        } else if synced_now {
            self.publish();
        }
        Ok(())
    }

    async fn apply(&mut self, work: Work) -> Result<(), Error> {
        let quiet = work.whole.is_some() || work.transaction.changes.len() > QUIET;
        if quiet {
            self.news = None;
        }
        let frame = work.frame;
        let flows = if work.whole.is_some() {
            self.ledger.flows()
        } else {
            work.transaction.flows.clone()
        };
        let began = std::time::Instant::now();
        let whole = work.whole.is_some();
        let changes = work.transaction.changes.len();
        let result = self
            .with_kernel(move |kernel| {
                kernel.apply(&work)?;
                Ok(kernel.clean(&work, &flows))
            })
            .await?;
        match result {
            Ok(cleaned) => {
                tracing::debug!(whole, changes, took = ?began.elapsed(), "service rules");
                self.rules = Rules::Ours;
                self.anew = false;
                self.frame = Some(frame);
                self.problem = cleaned.as_ref().err().map(with_source);
                if let Err(error) = &cleaned {
                    tracing::warn!(error = error as &dyn std::error::Error, "after a change of Services");
                }
                // So many clients forgotten at once are news that does not fit either.
                if quiet || cleaned.is_ok_and(|forgotten| forgotten > QUIET) {
                    self.listen();
                    self.verify().await?;
                }
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "service rules");
                self.problem = Some(with_source(&error));
                self.anew |= whole;
                self.rules = match self.rules {
                    // Nothing of it was applied.
                    Rules::Earlier | Rules::Missing => self.rules,
                    Rules::Ours | Rules::Broken => Rules::Broken,
                };
                self.trouble(RETRY_LONGEST);
            }
        }
        self.publish();
        Ok(())
    }

    /// Something went wrong, or somebody interfered: tries again, later each time.
    fn trouble(&mut self, longest: Duration) {
        let now = Instant::now();
        self.retry = Some(now + self.caution.wait(now, longest));
    }

    /// Listens for changes that others make.
    fn listen(&mut self) {
        match News::open() {
            Ok(news) => self.news = Some(news),
            Err(error) => {
                self.news = None;
                tracing::warn!(%error, "cannot hear when service rules are changed by others");
            }
        }
    }

    /// Looks whether the table is as we wrote it, after not having listened.
    async fn verify(&mut self) -> Result<(), Error> {
        let chains: usize = self.ledger.choices().map(|choice| rules::chains(choice).len()).sum();
        let expected = u32::try_from(rules::OBJECTS + chains).unwrap_or(u32::MAX);
        let found = self.with_kernel(Kernel::table).await?;
        match found {
            Ok(Some(Table { objects, flags: 0 })) if objects == expected => {}
            Ok(found) => {
                tracing::warn!(?found, expected, "the table ip minidc was changed meanwhile");
                self.rules = Rules::Broken;
                // There may be what is not ours to compare with.
                self.anew = true;
                self.trouble(QUARREL_LONGEST);
            }
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "service rules"),
        }
        Ok(())
    }

    async fn heard(&mut self, heard: io::Result<()>) -> Result<(), Error> {
        if let Err(error) = heard {
            tracing::warn!(%error, "listen for changes of service rules");
            self.listen();
        }
        match self.rules {
            Rules::Ours => {
                tracing::warn!("somebody changed the table ip minidc; it is written anew");
                self.rules = Rules::Broken;
                self.trouble(QUARREL_LONGEST);
                self.publish();
            }
            Rules::Earlier => {
                if matches!(self.with_kernel(Kernel::table).await?, Ok(None)) {
                    self.rules = Rules::Missing;
                }
            }
            Rules::Missing | Rules::Broken => {}
        }
        Ok(())
    }

    /// Runs something that blocks.
    async fn with_kernel<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Kernel) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let mut kernel = match self.kernel.take() {
            Some(kernel) => kernel,
            None => Kernel::open()?,
        };
        let result = spawn_blocking(move || {
            let result = work(&mut kernel);
            (kernel, result)
        })
        .await;
        let (kernel, result) = result.map_err(|error| Error::Netfilter {
            attempt: "work on service rules".to_owned(),
            source: io::Error::other(error),
        })?;
        self.kernel = Some(kernel);
        Ok(result)
    }

    fn publish(&self) {
        let state = ProxyState {
            ready: self.known.synced() && self.rules == Rules::Ours,
            services: self.ledger.services(),
            endpoints: self.ledger.endpoints(),
            problem: self.problem.clone(),
        };
        self.state.send_if_modified(|present| {
            let changed = *present != state;
            if changed {
                *present = state;
            }
            changed
        });
    }
}

/// Waits for a change that somebody else made.
async fn hear(news: Option<&News>, own: u32) -> io::Result<()> {
    match news {
        Some(news) => news.foreign_change(TABLE, own).await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The error and what caused it, in one line.
fn with_source(error: &Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_but_a_quarrel_keeps_services_away_for_moments_only() {
        let now = Instant::now();
        let mut caution = Caution::default();
        let waits: Vec<Duration> = (0..4).map(|_| caution.wait(now, RETRY_LONGEST)).collect();
        assert_eq!(waits, [1, 2, 4, 8].map(|times| RETRY * times));
        for _ in 0..100 {
            caution.wait(now, QUARREL_LONGEST);
        }
        assert_eq!(caution.wait(now, QUARREL_LONGEST), QUARREL_LONGEST);
        assert_eq!(caution.wait(now, RETRY_LONGEST), RETRY_LONGEST);
        let later = now + PEACE + RETRY;
        assert_eq!(caution.wait(later, QUARREL_LONGEST), RETRY);
    }
}
