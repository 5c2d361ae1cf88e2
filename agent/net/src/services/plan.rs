//! From what Services look like to elements of the kernel's maps, and from one state to the next with the fewest changes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use super::{
    known::{Endpoints, Known},
    view::{self, Choice, Door, Flavour, Surroundings, View, Way},
};
use crate::{
    Range,
    facts::{Key, Protocol},
};

/// Numbers of a node's own endpoints behind a door that leads strangers only to them begin here; those of all begin at 0.
pub(crate) const OWN_NUMBERS: u32 = 1 << 16;

/// What tells elements apart: kind, door, number.
type Slot = (u8, Door, u32);

/// Something in a map or set of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Element {
    /// How an endpoint is chosen behind a door; `None` drops.
    Lead(Door, Option<Choice>),
    /// The same for those inside the cluster, where it differs.
    Inside(Door, Choice),
    /// An endpoint and its number.
    Endpoint(Door, u32, SocketAddrV4),
    /// A door with nobody behind it.
    Refused(Door),
    /// A pod of this node that may meet itself through a Service.
    Hairpin(Ipv4Addr),
}

impl Element {
    /// The element without its value: what there can be only one of.
    fn slot(self) -> Slot {
        match self {
            Self::Lead(door, _) => (0, door, 0),
            Self::Inside(door, _) => (1, door, 0),
            Self::Endpoint(door, number, _) => (2, door, number),
            Self::Refused(door) => (3, door, 0),
            Self::Hairpin(address) => (4, Door::Address(address, Protocol::Tcp, 0), 0),
        }
    }

    pub(crate) fn choice(self) -> Option<Choice> {
        match self {
            Self::Lead(_, choice) => choice,
            Self::Inside(_, choice) => Some(choice),
            _ => None,
        }
    }
}

/// A change of one element. A new value is a removal and an addition, which take effect together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    Remove(Element),
    Add(Element),
}

/// The elements of one port of a Service. `services` is refused as a whole where nothing leads on, so that no element is
/// needed for that.
fn elements(view: &View, services: Range) -> Vec<Element> {
    let mut elements = Vec::new();
    let numbered = |door: Door, first: u32, endpoints: &[SocketAddrV4], elements: &mut Vec<Element>| {
        elements.extend(
            (first..)
                .zip(endpoints)
                .map(|(number, address)| Element::Endpoint(door, number, *address)),
        );
    };
    let (all, local) = (&view.endpoints.all, &view.endpoints.local);
    for (door, way) in &view.doors {
        let choice = |flavour, endpoints: &[SocketAddrV4]| Choice {
            port: door.is_port(),
            flavour,
            sticky: view.sticky.filter(|_| !endpoints.is_empty()),
            size: u16::try_from(endpoints.len()).unwrap_or(u16::MAX),
        };
        match way {
            Way::Refuse => {
                let refused_anyway = matches!(door, Door::Address(address, ..) if services.contains(*address));
                elements.extend((!refused_anyway).then_some(Element::Refused(*door)));
            }
            Way::Drop => elements.push(Element::Lead(*door, None)),
            Way::All(flavour) => {
                elements.push(Element::Lead(*door, Some(choice(*flavour, all))));
                numbered(*door, 0, all, &mut elements);
            }
            Way::Own => {
                elements.push(Element::Lead(*door, Some(choice(Flavour::Inside, local))));
                numbered(*door, 0, local, &mut elements);
            }
            Way::OwnForStrangers => {
                elements.push(Element::Lead(*door, Some(choice(Flavour::Local, local))));
                elements.push(Element::Inside(*door, choice(Flavour::Inside, all)));
                numbered(*door, 0, all, &mut elements);
                numbered(*door, OWN_NUMBERS, local, &mut elements);
            }
        }
    }
    elements
}

/// What must change in the kernel for a Service that looked like `before` to look like `after`: removals first.
pub(crate) fn plan(before: &[View], after: &[View], services: Range) -> Vec<Change> {
    let unchanged: HashSet<_> = before
        .iter()
        .filter(|view| after.contains(view))
        .map(|view| view.port)
        .collect();
    let all = |views: &[View]| -> BTreeMap<_, _> {
        let changed = views.iter().filter(|view| !unchanged.contains(&view.port));
        let elements = changed.flat_map(|view| elements(view, services));
        elements.map(|element| (element.slot(), element)).collect()
    };
    let (before, after) = (all(before), all(after));
    let removed = before.iter().filter(|(slot, element)| after.get(slot) != Some(element));
    let added = after.iter().filter(|(slot, element)| before.get(slot) != Some(element));
    removed
        .map(|(_, element)| Change::Remove(*element))
        .chain(added.map(|(_, element)| Change::Add(*element)))
        .collect()
}

impl Change {
    pub(crate) fn choice(self) -> Option<Choice> {
        match self {
            Self::Remove(element) | Self::Add(element) => element.choice(),
        }
    }
}

/// A transaction: what the kernel is to be told, and what is to be looked after once it was.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Transaction {
    /// Ways of choosing that are new, with their numbers.
    pub(crate) opened: Vec<(Choice, u32)>,
    pub(crate) changes: Vec<Change>,
    /// Ways of choosing that nothing leads to any more.
    pub(crate) closed: Vec<(Choice, u32)>,
    /// Doors of UDP Services whose running conversations may be with somebody who is gone, and who is still there.
    pub(crate) flows: HashMap<Door, Vec<SocketAddrV4>>,
    /// Doors with session affinity that lost an endpoint or closed, and who may still be remembered behind them.
    pub(crate) sticky: HashMap<Door, Reach>,
}

/// Who can be chosen behind a door.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// By pods.
    pub(crate) inside: Vec<SocketAddrV4>,
    /// By all others, where that is not the same.
    pub(crate) strangers: Option<Vec<SocketAddrV4>>,
}

impl Reach {
    fn of(view: &View, way: Way) -> Self {
        let Endpoints { all, local, .. } = &view.endpoints;
        let (inside, strangers) = match way {
            Way::Refuse | Way::Drop => (Vec::new(), None),
            Way::All(_) => (all.clone(), None),
            Way::Own => (local.clone(), None),
            Way::OwnForStrangers => (all.clone(), Some(local.clone())),
        };
        Self { inside, strangers }
    }

    pub(crate) fn by(&self, pod: bool) -> &[SocketAddrV4] {
        let strangers = self.strangers.as_ref().filter(|_| !pod);
        strangers.unwrap_or(&self.inside)
    }

    /// Whether `other` lacks somebody.
    fn exceeds(&self, other: &Self) -> bool {
        let lost = |pod| self.by(pod).iter().any(|endpoint| !other.by(pod).contains(endpoint));
        lost(true) || lost(false)
    }
}

impl Transaction {
    pub(crate) fn is_empty(&self) -> bool {
        self.opened.is_empty() && self.changes.is_empty() && self.closed.is_empty()
    }
}

/// A way of choosing that is out of use is kept for a while: the next change of size often brings it back, and a packet
/// that read its number a moment ago still finds it.
const KEPT_OPEN: usize = 64;

/// What the kernel was told.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    views: HashMap<Arc<Key>, Vec<View>>,
    owners: HashMap<Door, Arc<Key>>,
    /// Doors that a Service would open if another did not have them already.
    waiting: HashMap<Door, BTreeSet<Arc<Key>>>,
    choices: HashMap<Choice, Open>,
    last_large: u32,
    hairpin: HashMap<Ipv4Addr, usize>,
    endpoints: usize,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    number: u32,
    users: usize,
}

/// What a ledger is kept for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position<'a> {
    pub(crate) surroundings: Surroundings,
    pub(crate) node: &'a str,
    /// This node's pods.
    pub(crate) own: Option<Range>,
}

impl Ledger {
    /// Services that have doors.
    pub(crate) fn services(&self) -> usize {
        self.views.len()
    }

    /// Endpoints of all their ports.
    pub(crate) fn endpoints(&self) -> usize {
        self.endpoints
    }

    /// Ways of choosing that are there, in use or not.
    pub(crate) fn choices(&self) -> impl Iterator<Item = Choice> {
        self.choices.keys().copied()
    }

    /// The number that the kernel knows a way of choosing by.
    pub(crate) fn number(&self, choice: Option<Choice>) -> u32 {
        choice
            .and_then(|choice| self.choices.get(&choice))
            .map_or(0, |open| open.number)
    }

    /// Brings the ledger up to date with what was told, and says what the kernel has to be told.
    pub(crate) fn advance(&mut self, known: &mut Known, position: Position<'_>) -> Transaction {
        let mut transaction = Transaction::default();
        let mut unused_before: Vec<_> = self
            .choices
            .iter()
            .filter(|(_, open)| open.users == 0)
            .map(|(c, _)| *c)
            .collect();
        let services = position.surroundings.services;
        let mut log = Log::default();
        loop {
            // In order, so that the outcome does not depend on a hash.
            let dirty: BTreeSet<Arc<Key>> = known.take_dirty().into_iter().collect();
            if dirty.is_empty() {
                break;
            }
            let mut afters = Vec::with_capacity(dirty.len());
            // All give up what they no longer want before any takes something new.
            for key in dirty {
                let wanted = self.wanted(&key, known, position);
                self.release(&key, &wanted, known);
                afters.push((key, wanted));
            }
            let mut changes = Vec::new();
            for (key, mut after) in afters {
                self.claim(&key, &mut after);
                let before = self.views.remove(&key).unwrap_or_default();
                for view in &mut after {
                    if let Some(old) = before.iter().find(|old| old.port == view.port) {
                        let Endpoints { all, local, .. } = &mut view.endpoints;
                        *all = view::arrange(&old.endpoints.all, std::mem::take(all));
                        *local = view::arrange(&old.endpoints.local, std::mem::take(local));
                    }
                }
                changes.extend(plan(&before, &after, services));
                self.count(&before, &after, position.own, &mut changes);
                look_after(&before, &after, &mut transaction);
                if !after.is_empty() {
                    self.views.insert(key, after);
                }
            }
            // Removals before additions, across Services too.
            changes.sort_unstable();
            for change in changes {
                self.use_choice(change, &mut transaction);
                log.note(change);
            }
        }
        transaction.changes = log.changes();
        unused_before.retain(|choice| self.choices.get(choice).is_some_and(|open| open.users == 0));
        if unused_before.len() > KEPT_OPEN {
            for choice in unused_before {
                let number = self.choices.remove(&choice).map_or(0, |open| open.number);
                transaction.closed.push((choice, number));
            }
            transaction.closed.sort_unstable();
        }
        transaction
    }

    fn wanted(&self, key: &Arc<Key>, known: &Known, position: Position<'_>) -> Vec<View> {
        let Some(service) = known.service(key) else {
            return Vec::new();
        };
        view::views(service, position.surroundings, |port| {
            let mut endpoints = known.endpoints(key, port, position.node);
            // Elements count to 65,535.
            endpoints.all.truncate(usize::from(u16::MAX));
            endpoints.local.truncate(usize::from(u16::MAX));
            endpoints
        })
    }

    fn release(&mut self, key: &Arc<Key>, wanted: &[View], known: &mut Known) {
        let still: HashSet<Door> = wanted
            .iter()
            .flat_map(|view| &view.doors)
            .map(|(door, _)| *door)
            .collect();
        for view in self.views.get(key).into_iter().flatten() {
            for (door, _) in view.doors.iter().filter(|(door, _)| !still.contains(door)) {
                self.owners.remove(door);
                for other in self.waiting.remove(door).unwrap_or_default() {
                    known.touch(other);
                }
            }
        }
        if !self.waiting.is_empty() {
            self.waiting.retain(|_, services| {
                services.remove(key);
                !services.is_empty()
            });
        }
    }

    fn claim(&mut self, key: &Arc<Key>, views: &mut [View]) {
        for view in views {
            view.doors.retain(|(door, _)| {
                let owner = self.owners.entry(*door).or_insert_with(|| key.clone());
                let ours = owner == key;
                if !ours {
                    tracing::warn!(service = ?key, ?door, taken_by = ?owner, "two Services want the same address and port");
                    self.waiting.entry(*door).or_default().insert(key.clone());
                }
                ours
            });
        }
    }

    /// Counts endpoints, and this node's pods among them.
    fn count(&mut self, before: &[View], after: &[View], own: Option<Range>, changes: &mut Vec<Change>) {
        let total = |views: &[View]| views.iter().map(|view| view.endpoints.all.len()).sum::<usize>();
        self.endpoints = self.endpoints + total(after) - total(before);
        let Some(own) = own else { return };
        let pods = |views: &[View]| -> Vec<Ipv4Addr> {
            let addresses = views
                .iter()
                .flat_map(|view| view.endpoints.all.iter().chain(&view.endpoints.local));
            addresses
                .map(|address| *address.ip())
                .filter(|address| own.contains(*address))
                .collect()
        };
        for address in pods(after) {
            let users = self.hairpin.entry(address).or_default();
            *users += 1;
            if *users == 1 {
                changes.push(Change::Add(Element::Hairpin(address)));
            }
        }
        for address in pods(before) {
            if let Some(users) = self.hairpin.get_mut(&address) {
                *users -= 1;
                if *users == 0 {
                    self.hairpin.remove(&address);
                    changes.push(Change::Remove(Element::Hairpin(address)));
                }
            }
        }
    }

    /// A way of choosing in use must be there before anything leads to it.
    fn use_choice(&mut self, change: Change, transaction: &mut Transaction) {
        match change {
            Change::Add(element) => {
                let Some(choice) = element.choice() else { return };
                let Self {
                    choices, last_large, ..
                } = self;
                let open = choices.entry(choice).or_insert_with(|| {
                    let number = number(choice, last_large);
                    transaction.opened.push((choice, number));
                    Open { number, users: 0 }
                });
                open.users += 1;
            }
            Change::Remove(element) => {
                if let Some(open) = element.choice().and_then(|choice| self.choices.get_mut(&choice)) {
                    open.users = open.users.saturating_sub(1);
                }
            }
        }
    }

    /// All doors with session affinity, and who is behind them.
    pub(crate) fn sticky(&self) -> HashMap<Door, Reach> {
        let views = self.views.values().flatten().filter(|view| view.sticky.is_some());
        let doors = views.flat_map(|view| view.doors.iter().map(move |(door, way)| (*door, Reach::of(view, *way))));
        doors.collect()
    }

    /// All doors of UDP Services, and who is behind them.
    pub(crate) fn flows(&self) -> HashMap<Door, Vec<SocketAddrV4>> {
        let views = self
            .views
            .values()
            .flatten()
            .filter(|view| view.port.0 == Protocol::Udp);
        views.flat_map(|view| behind(view, &view.endpoints.serving)).collect()
    }
}

/// Puts the changes of all Services together: what one gave up and another took is one change of value, or none.
#[derive(Debug, Default)]
struct Log(BTreeMap<Slot, (Option<Element>, Option<Element>)>);

impl Log {
    fn note(&mut self, change: Change) {
        match change {
            Change::Remove(element) => self.0.entry(element.slot()).or_insert((Some(element), None)).1 = None,
            Change::Add(element) => self.0.entry(element.slot()).or_default().1 = Some(element),
        }
    }

    fn changes(self) -> Vec<Change> {
        let changed: Vec<_> = self.0.into_values().filter(|(first, last)| first != last).collect();
        let removed = changed.iter().filter_map(|(first, _)| first.map(Change::Remove));
        let added = changed.iter().filter_map(|(_, last)| last.map(Change::Add));
        removed.chain(added).collect()
    }
}

/// The number of a way of choosing: the same after a restart, so that what is in the kernel stays right. Without affinity,
/// the kind in the high half and the size in the low one; with it, the highest bit, three bits of kind, 17 of seconds,
/// and 11 of size. The few that are larger are numbered as they come, with a time that none has.
fn number(choice: Choice, last_large: &mut u32) -> u32 {
    let flavour = match choice.flavour {
        Flavour::Inside => 0,
        Flavour::Outside => 1,
        Flavour::Local => 2,
    };
    let kind = u32::from(choice.port) << 2 | flavour;
    let size = u32::from(choice.size);
    match choice.sticky {
        None => kind << 16 | size,
        Some(seconds) if size < 1 << 11 => 1 << 31 | kind << 28 | seconds << 11 | size,
        Some(_) => {
            *last_large += 1;
            1 << 31 | kind << 28 | 0x1_ffff << 11 | *last_large & 0x7ff
        }
    }
}

fn behind(view: &View, endpoints: &[SocketAddrV4]) -> Vec<(Door, Vec<SocketAddrV4>)> {
    view.doors.iter().map(|(door, _)| (*door, endpoints.to_vec())).collect()
}

/// Notes whose running conversations and whose affinity must be looked at.
fn look_after(before: &[View], after: &[View], transaction: &mut Transaction) {
    let find = |views: &[View], port| views.iter().find(|view| view.port == port).cloned();
    let ports: BTreeSet<_> = before.iter().chain(after).map(|view| view.port).collect();
    for port in ports {
        let (old, new) = (find(before, port), find(after, port));
        let lost = |old: &[SocketAddrV4], new: &[SocketAddrV4]| old.iter().any(|endpoint| !new.contains(endpoint));
        let doors = |view: &Option<View>| -> Vec<Door> {
            view.iter()
                .flat_map(|view| &view.doors)
                .map(|(door, _)| *door)
                .collect()
        };
        let (old_doors, new_doors) = (doors(&old), doors(&new));
        let mut gone: Vec<Door> = old_doors.clone();
        gone.retain(|door| !new_doors.contains(door));
        if port.0 == Protocol::Udp {
            let serving = |view: &Option<View>| {
                view.as_ref()
                    .map_or_else(Vec::new, |view| view.endpoints.serving.clone())
            };
            let (was, is) = (serving(&old), serving(&new));
            // A conversation that began when there was nobody has gone astray.
            let first = was.is_empty() && !is.is_empty();
            for door in &new_doors {
                if lost(&was, &is) || first || !old_doors.contains(door) {
                    transaction.flows.insert(*door, is.clone());
                }
            }
            for door in &gone {
                transaction.flows.entry(*door).or_default();
            }
        }
        let is_sticky = |view: &&View| view.sticky.is_some();
        let Some(old) = old.as_ref().filter(is_sticky) else {
            continue;
        };
        let new = new.as_ref().filter(is_sticky);
        for (door, way) in &old.doors {
            let way_now = new.and_then(|view| Some((view, view.doors.iter().find(|(now, _)| now == door)?.1)));
            match way_now.map(|(view, way)| Reach::of(view, way)) {
                Some(reach) if Reach::of(old, *way).exceeds(&reach) => {
                    transaction.sticky.insert(*door, reach);
                }
                Some(_) => {}
                // Who comes back to it is not to meet a memory of who was there in between or before.
                None => {
                    transaction.sticky.insert(*door, Reach::default());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
