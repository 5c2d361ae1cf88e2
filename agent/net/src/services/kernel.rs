//! The kernel's side: applies transactions, and looks after what they leave behind.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddrV4,
    path::Path,
};

use nix::errno::Errno;

use super::{
    plan::{Reach, Transaction},
    rules::{self, AFFINITY, Frame, TABLE},
    view::{Choice, Door},
};
use crate::{
    Error, Range,
    facts::Protocol,
    nfnetlink::{
        conntrack::{self, Flow},
        socket::{Refused, Socket},
        table::{self, Batch, Element, Kind},
    },
};

/// Endpoints that are still there, by door.
pub(crate) type Present = HashMap<Door, Vec<SocketAddrV4>>;

/// Who may be remembered, by door with session affinity.
pub(crate) type Reaches = HashMap<Door, Reach>;

/// Most clients that are forgotten in one transaction: one that timed out meanwhile spoils it for the others.
const FORGOTTEN_AT_ONCE: usize = 512;

/// A transaction with all that is needed to write it.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) frame: Frame,
    /// The transaction tells everything, and what it does not tell is to go.
    pub(crate) whole: Option<Whole>,
    pub(crate) transaction: Transaction,
    /// Numbers of all ways of choosing that the transaction speaks of.
    pub(crate) numbers: HashMap<Choice, u32>,
}

/// How the whole table is written.
#[derive(Debug)]
pub(crate) struct Whole {
    /// Who may be remembered from before.
    pub(crate) reachable: Reaches,
    /// Without regard to what is there.
    pub(crate) anew: bool,
    /// Everything was told: what has an address of a Service that is not known is a leftover.
    pub(crate) told: bool,
}

impl Work {
    fn number(&self, choice: Option<Choice>) -> u32 {
        choice
            .and_then(|choice| self.numbers.get(&choice))
            .copied()
            .unwrap_or(0)
    }

    fn write_changes(&self, batch: &mut Batch, chains: &HashSet<String>) {
        for (choice, number) in &self.transaction.opened {
            rules::open(batch, *choice, self.frame.pods, chains);
            rules::announce(batch, *choice, *number);
        }
        rules::write_changes(batch, &self.transaction.changes, |choice| self.number(choice));
        for (choice, number) in &self.transaction.closed {
            rules::close(batch, *choice, *number);
        }
    }
}

/// What the table holds besides elements, to tell whether it is the one we wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Chains and sets.
    pub(crate) objects: u32,
    /// None of ours: a table can be put to sleep by one, with all that is in it.
    pub(crate) flags: u32,
}

/// A socket and what is done with it. Blocks for as long as the kernel works.
#[derive(Debug)]
pub(crate) struct Kernel {
    socket: Socket,
    port: u32,
}

impl Kernel {
    pub(crate) fn open() -> Result<Self, Error> {
        let socket = Socket::open().map_err(Error::Socket)?;
        let port = socket.port().map_err(Error::Socket)?;
        Ok(Self { socket, port })
    }

    /// By this number news tells our own changes.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Our table, if it is there.
    pub(crate) fn table(&mut self) -> Result<Option<Table>, Error> {
        let mut table = None;
        let result = self.socket.request(
            Kind::GetTable.number(),
            |request| request.text(1, TABLE),
            |answer| {
                table = Some(Table {
                    objects: table::number_of(answer, 3).unwrap_or(0),
                    flags: table::number_of(answer, 2).unwrap_or(0),
                });
            },
        );
        match result {
            Ok(()) => Ok(table),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(failed("look for the table ip minidc", errno)),
        }
    }

    /// Removes our table with all that is in it; fine if there is none.
    pub(crate) fn remove(&mut self) -> Result<(), Error> {
        if self.table()?.is_none() {
            return Ok(());
        }
        let mut batch = Batch::new(TABLE);
        batch.remove_table();
        self.socket.apply(batch).map_err(refused)
    }

    /// Applies all of it or nothing.
    pub(crate) fn apply(&mut self, work: &Work) -> Result<(), Error> {
        let mut batch = Batch::new(TABLE);
        match &work.whole {
            None => work.write_changes(&mut batch, &HashSet::new()),
            Some(Whole { reachable, anew, .. }) => {
                let chains = if *anew { None } else { self.chains()? };
                match chains {
                    Some(chains) => self.reconcile(&mut batch, work, &chains)?,
                    None => {
                        let mut kept = self.affinity()?;
                        kept.retain(|element| !forgotten(element, reachable, work.frame.pods, true));
                        rules::write_frame(&mut batch, &work.frame);
                        rules::announce_drop(&mut batch);
                        work.write_changes(&mut batch, &HashSet::new());
                        batch.add_elements(AFFINITY, kept);
                    }
                }
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.socket.apply(batch).map_err(refused)
    }

    /// Makes a table of the right shape what it must be, with as little as possible changed: a packet that comes at this
    /// moment finds everything that stays.
    fn reconcile(&mut self, batch: &mut Batch, work: &Work, chains: &HashSet<String>) -> Result<(), Error> {
        rules::rewrite_frame(batch, &work.frame);
        for (choice, _) in &work.transaction.opened {
            rules::open(batch, *choice, work.frame.pods, chains);
        }
        let number = |choice| work.number(choice);
        for set in rules::sets().iter().filter(|set| set.dynamic.is_none()) {
            let mut present = HashMap::new();
            for element in self.elements(set.name)? {
                present.insert(element.key, element);
            }
            let mut removed = Vec::new();
            let mut added = Vec::new();
            for element in rules::all_elements(set.name, &work.transaction, &number) {
                match present.remove(&element.key) {
                    Some(same) if same == element => {}
                    Some(other) => {
                        removed.push(other);
                        added.push(element);
                    }
                    None => added.push(element),
                }
            }
            removed.extend(present.into_values());
            batch.remove_elements(set.name, removed);
            batch.add_elements(set.name, added);
        }
        let needed: HashSet<String> = work
            .transaction
            .opened
            .iter()
            .flat_map(|(choice, _)| rules::chains(*choice))
            .collect();
        for chain in chains.difference(&needed) {
            batch.remove_chain(chain);
        }
        Ok(())
    }

    /// The chains that are not always there, if the table has our shape: all our sets and no other, and our fixed chains.
    fn chains(&mut self) -> Result<Option<HashSet<String>>, Error> {
        if self.table()?.is_none_or(|table| table.flags != 0) {
            return Ok(None);
        }
        let (mut fixed, mut right, mut others) = (0, true, HashSet::new());
        let listed = self.socket.dump(
            Kind::GetChain.number(),
            |_| {},
            |message| {
                if table::name_of(message, 1) != TABLE {
                    return;
                }
                match rules::is_fixed_chain(message) {
                    Some(as_it_must_be) => {
                        fixed += 1;
                        right &= as_it_must_be;
                    }
                    None => {
                        others.insert(table::name_of(message, 3).to_owned());
                    }
                }
            },
        );
        listed.map_err(|errno| failed("list chains of the table ip minidc", errno))?;
        if !right || fixed != rules::FIXED_CHAINS {
            return Ok(None);
        }
        let mut sets = 0;
        let listed = self.socket.dump(
            Kind::GetSet.number(),
            |request| request.text(1, TABLE),
            |message| {
                sets += 1;
                right &= rules::sets().iter().any(|set| set.is(message));
            },
        );
        listed.map_err(|errno| failed("list sets of the table ip minidc", errno))?;
        Ok((right && sets == rules::sets().len()).then_some(others))
    }

    /// Looks after running conversations and remembered clients. New packets go by the new rules already. How many clients
    /// were forgotten.
    pub(crate) fn clean(&mut self, work: &Work, flows: &Present) -> Result<usize, Error> {
        let (sticky, all) = match &work.whole {
            Some(whole) => (&whole.reachable, true),
            None => (&work.transaction.sticky, false),
        };
        let mut gone = Vec::new();
        if all || !sticky.is_empty() {
            gone = self.affinity()?;
            gone.retain(|element| forgotten(element, sticky, work.frame.pods, all));
            for some in gone.chunks(FORGOTTEN_AT_ONCE) {
                self.forget_clients(some)?;
            }
        }
        let told = work.whole.as_ref().is_some_and(|whole| whole.told);
        let unknown = told.then_some(work.frame.services);
        if told || !flows.is_empty() {
            // An answer that is on its way while its conversation is forgotten begins another: looked for once more.
            for _ in 0..3 {
                let stale = conntrack::list(&mut self.socket, |flow| is_stale(flow, flows, unknown));
                let stale = stale.map_err(|errno| failed("list UDP conversations", errno))?;
                if stale.is_empty() {
                    break;
                }
                for flow in stale {
                    let result = conntrack::forget(&mut self.socket, &flow);
                    let attempt = || format!("forget the UDP conversation with {}", flow.destination);
                    result.map_err(|errno| failed(attempt(), errno))?;
                }
            }
        }
        Ok(gone.len())
    }

    fn forget_clients(&mut self, clients: &[Element]) -> Result<(), Error> {
        let mut batch = Batch::new(TABLE);
        batch.remove_elements(AFFINITY, clients.iter().cloned());
        match self.socket.apply(batch) {
            // One of them timed out in the meantime.
            Err(error) if error.is_not_found() => {
                let (some, others) = clients.split_at(clients.len() / 2);
                if !some.is_empty() {
                    self.forget_clients(some)?;
                    self.forget_clients(others)?;
                }
                Ok(())
            }
            result => result.map_err(refused),
        }
    }

    fn affinity(&mut self) -> Result<Vec<Element>, Error> {
        self.elements(AFFINITY)
    }

    fn elements(&mut self, set: &str) -> Result<Vec<Element>, Error> {
        let mut elements = Vec::new();
        let result = self.socket.dump(
            Kind::GetElement.number(),
            |request| {
                request.text(1, TABLE);
                request.text(2, set);
            },
            |answer| elements.extend(Element::read(answer)),
        );
        match result {
            // No table, or one of another making.
            Ok(()) | Err(Errno::ENOENT) => Ok(elements),
            Err(errno) => Err(failed(format!("list elements of set {set}"), errno)),
        }
    }
}

fn failed(attempt: impl Into<String>, errno: Errno) -> Error {
    Error::Netfilter {
        attempt: attempt.into(),
        source: errno.into(),
    }
}

fn refused(Refused { mut attempt, source }: Refused) -> Error {
    let lacks = [Errno::EOPNOTSUPP, Errno::EPROTONOSUPPORT, Errno::ENOENT];
    if attempt.contains("a rule of chain") && lacks.iter().any(|errno| source.raw_os_error() == Some(*errno as i32)) {
        attempt.push_str(": this kernel lacks one of these (nft_… modules)");
    }
    Error::Netfilter { attempt, source }
}

/// Whether a remembered client was led to somebody who is no longer behind that door. Of doors that are not spoken of,
/// `unknown` says.
fn forgotten(element: &Element, reaches: &Reaches, pods: Range, unknown: bool) -> bool {
    let Some((client, doors, endpoint)) = rules::read_affinity(element) else {
        return true;
    };
    match doors.iter().find_map(|door| reaches.get(door)) {
        Some(reach) => !reach.by(pods.contains(client)).contains(&endpoint),
        None => unknown,
    }
}

/// Whether a UDP conversation must not go on as it is: its endpoint is gone, or it began when there was none. Clients that
/// keep their port would else never be led elsewhere (a conversation that lives has no time-out that helps). In the range
/// `unknown`, who is not present is gone.
fn is_stale(flow: &Flow, present: &Present, unknown: Option<Range>) -> bool {
    let untranslated = flow.answers_from == flow.destination && flow.answers_to == flow.source;
    let by_address = |end: &SocketAddrV4| present.get(&Door::Address(*end.ip(), Protocol::Udp, end.port()));
    let by_port = |end: &SocketAddrV4| present.get(&Door::Port(Protocol::Udp, end.port()));
    if let Some(endpoints) = by_address(&flow.destination) {
        return !endpoints.contains(&flow.answers_from);
    }
    if unknown.is_some_and(|range| range.contains(*flow.destination.ip())) {
        return flow.answers_from != flow.destination;
    }
    match by_port(&flow.destination) {
        // Who talks to a port of that number elsewhere has his source translated, or is this node, which can stand it.
        Some(endpoints) if untranslated => return !endpoints.is_empty(),
        Some(_) if flow.answers_from == flow.destination => {}
        Some(endpoints) => return !endpoints.contains(&flow.answers_from),
        None => {}
    }
    // An answer that began a conversation of its own.
    let answering = by_address(&flow.source).or_else(|| by_port(&flow.source));
    untranslated && answering.is_some_and(|endpoints| !endpoints.is_empty())
}

/// Whether bridged packets go through these rules too. Can be switched at any time; without the module there is no switch.
pub(crate) fn bridged() -> bool {
    let switch = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
    std::fs::read_to_string(switch).is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(door: Door, endpoints: &[&str]) -> Present {
        let endpoints = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        HashMap::from([(door, endpoints)])
    }

    const VIP: &str = "100.65.0.7:53";
    const CLIENT: &str = "100.64.1.5:4000";

    #[test]
    fn conversations_with_endpoints_that_are_gone_are_stale() {
        let door = Door::Address("100.65.0.7".parse().unwrap(), Protocol::Udp, 53);
        let translated = Flow::new(CLIENT, VIP, "100.64.0.2:5353", CLIENT);
        assert!(!is_stale(&translated, &present(door, &["100.64.0.2:5353"]), None));
        assert!(is_stale(&translated, &present(door, &["100.64.0.2:5354"]), None));
        assert!(is_stale(&translated, &present(door, &[]), None), "the Service is gone");
        let astray = Flow::new(CLIENT, VIP, VIP, CLIENT);
        assert!(is_stale(&astray, &present(door, &["100.64.0.2:5353"]), None));
        // Others are none of our business.
        let other = Flow::new(CLIENT, "100.65.0.7:54", "100.64.0.2:5353", CLIENT);
        assert!(!is_stale(&other, &present(door, &[]), None));
    }

    #[test]
    fn conversations_with_services_that_nobody_knows_are_leftovers() {
        let range = "100.65.0.0/16".parse().ok();
        let none = HashMap::new();
        let leftover = Flow::new(CLIENT, VIP, "100.64.0.2:5353", CLIENT);
        assert!(is_stale(&leftover, &none, range));
        assert!(!is_stale(&leftover, &none, None), "not everything was told yet");
        let untouched = Flow::new(CLIENT, VIP, VIP, CLIENT);
        assert!(!is_stale(&untouched, &none, range));
        let elsewhere = Flow::new(CLIENT, "10.9.0.1:30053", "100.64.0.2:5353", CLIENT);
        assert!(!is_stale(&elsewhere, &none, range));
    }

    #[test]
    fn conversations_by_a_node_port_are_told_from_others_of_that_number() {
        let door = Door::Port(Protocol::Udp, 30053);
        let node = "10.9.0.1:30053";
        let translated = Flow::new("10.9.0.7:4000", node, "100.64.0.2:5353", "10.9.0.1:4000");
        assert!(!is_stale(&translated, &present(door, &["100.64.0.2:5353"]), None));
        assert!(is_stale(&translated, &present(door, &[]), None));
        let astray = Flow::new("10.9.0.7:4000", node, node, "10.9.0.7:4000");
        assert!(is_stale(&astray, &present(door, &["100.64.0.2:5353"]), None));
        assert!(!is_stale(&astray, &present(door, &[]), None));
        let answer = Flow::new(node, "10.9.0.7:4000", "10.9.0.7:4000", node);
        assert!(is_stale(&answer, &present(door, &["100.64.0.2:5353"]), None));
        // A pod talks to a port of that number outside.
        let outside = "192.0.2.9:30053";
        let passing = Flow::new(CLIENT, outside, outside, "10.9.0.1:4000");
        assert!(!is_stale(&passing, &present(door, &["100.64.0.2:5353"]), None));
    }
}
