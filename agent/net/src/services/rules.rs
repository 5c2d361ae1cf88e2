//! The table `ip minidc`: its chains and sets, and how elements are written.
//!
//! A new connection costs the same few look-ups however many Services there are: `services` (or `node-ports`) says by
//! number how an endpoint is chosen, `choices` leads to the chain that does so for that many endpoints, and that chain takes
//! a random one out of `endpoints`. Only numbers are stored with Services, not verdicts: the kernel checks all verdicts of
//! a table anew whenever one is added, which would make each change cost by the number of Services (2.4 ms instead of
//! 0.03 ms at 10,000, on Linux 6.18). The packet's priority carries the number from the one map to the other, since nft
//! cannot list a map that looks up in a map. It is nobody's at that point: a packet that is passed on gets another when it
//! is routed, and the first packet of a connection of this node's own is left with none.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddrV4},
};

use super::{
    plan::{Change, Element, OWN_NUMBERS, Transaction},
    view::{Choice, Door, Flavour},
};
use crate::{
    Range,
    conflist::BRIDGE,
    facts::Protocol,
    nfnetlink::{
        expression::{self, Expression, Meta, Refusal, Register, Tracked, Verdict, within},
        message::Message,
        table::{self, Batch, ElementValue, Hook, Parts, Place, Set, Type, Value},
    },
};

/// Our only table, of family `ip`.
pub(crate) const TABLE: &str = "minidc";
/// Sets a connection apart whose answers must come back through this node, from the door to the way out: the bit that
/// kube-proxy uses (`--iptables-masquerade-bit=14`), so that whoever knows to leave that one alone leaves ours alone.
const MARK: u32 = 1 << 14;
/// Most clients that are remembered for session affinity; further ones go to a random endpoint.
const MOST_STICKY: u32 = 65_535;

const ADDRESS_KEY: &[Type] = &[Type::Address, Type::Protocol, Type::Port];
const PORT_KEY: &[Type] = &[Type::Protocol, Type::Port];
const NUMBERED_ADDRESS_KEY: &[Type] = &[Type::Address, Type::Protocol, Type::Port, Type::Number];
const NUMBERED_PORT_KEY: &[Type] = &[Type::Protocol, Type::Port, Type::Number];
const STICKY_KEY: &[Type] = &[Type::Address, Type::Address, Type::Protocol, Type::Port];
const NUMBER: Value = Value::Data(&[Type::Halves]);
const TARGET: Value = Value::Data(&[Type::Address, Type::Port]);

/// Chosen by client: who was led where, for session affinity.
pub(crate) const AFFINITY: &str = "affinity";
const CHOICES: &str = "choices";
/// Those that lead to no other choice: the kernel admits no circles.
const LAST_CHOICES: &str = "choices-inside";
/// How long a client is remembered, by the number of the way of choosing.
const REMEMBER: &str = "remember";

const fn set(name: &'static str, key: &'static [Type], value: Value) -> Set {
    Set {
        name,
        key,
        value,
        dynamic: None,
    }
}

const SETS: [Set; 13] = [
    set("services", ADDRESS_KEY, NUMBER),
    set("node-ports", PORT_KEY, NUMBER),
    set("services-inside", ADDRESS_KEY, NUMBER),
    set("node-ports-inside", PORT_KEY, NUMBER),
    set("endpoints", NUMBERED_ADDRESS_KEY, TARGET),
    set("node-port-endpoints", NUMBERED_PORT_KEY, TARGET),
    set(CHOICES, &[Type::Halves], Value::Verdict),
    set(LAST_CHOICES, &[Type::Halves], Value::Verdict),
    set(REMEMBER, &[Type::Halves], Value::Verdict),
    set("refused", ADDRESS_KEY, Value::None),
    set("refused-node-ports", PORT_KEY, Value::None),
    set("hairpin", &[Type::Address, Type::Address], Value::None),
    Set {
        name: AFFINITY,
        key: STICKY_KEY,
        value: TARGET,
        dynamic: Some(MOST_STICKY),
    },
];

const fn hook(place: Place, priority: i32, nat: bool) -> Option<Hook> {
    Some(Hook { place, priority, nat })
}

/// The chains that are always there; those without a hook are led to.
const CHAINS: [(&str, Option<Hook>); 12] = [
    ("refuse", None),
    ("services", None),
    // Before connection tracking.
    ("untracked-in", hook(Place::Prerouting, -300, false)),
    ("untracked-out", hook(Place::Output, -300, false)),
    ("prerouting", hook(Place::Prerouting, -100, true)),
    ("output", hook(Place::Output, -100, true)),
    // Right after the destination was chosen.
    ("remember-in", hook(Place::Prerouting, -99, false)),
    ("remember-out", hook(Place::Output, -99, false)),
    // Before the host's own rules, so that refused is refused and not dropped; nothing is accepted here.
    ("refused-in", hook(Place::Input, -10, false)),
    ("refused-forward", hook(Place::Forward, -10, false)),
    ("refused-out", hook(Place::Output, -10, false)),
    ("postrouting", hook(Place::Postrouting, 100, true)),
];

/// Objects in the table besides the chains of ways of choosing, as the kernel counts them.
pub(crate) const OBJECTS: usize = SETS.len() + CHAINS.len();

/// What the fixed rules depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) pods: Range,
    pub(crate) services: Range,
    /// This node's pods.
    pub(crate) own: Option<Range>,
    pub(crate) dns: Ipv4Addr,
    /// Bridged packets go through these rules too (`net.bridge.bridge-nf-call-iptables`).
    pub(crate) bridged: bool,
}

/// Port of the cluster DNS.
const DNS_PORT: [u8; 2] = 53_u16.to_be_bytes();
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
/// `IP_CT_NEW` and `NF_CT_STATE_INVALID_BIT` as `ct state` bits, `IPS_DST_NAT` as `ct status` bit, `RTN_LOCAL`.
const STATE_INVALID: u32 = 1;
const STATE_NEW: u32 = 8;
const STATUS_TRANSLATED: u32 = 1 << 5;
const TYPE_LOCAL: u32 = 2;

const R0: Register = Register(0);
const R1: Register = Register(1);

/// A rule under construction.
#[derive(Default)]
struct Rule(Vec<Expression>);

impl Rule {
    fn new() -> Self {
        Self::default()
    }

    fn then(mut self, expression: Expression) -> Self {
        self.0.push(expression);
        self
    }

    fn all(mut self, expressions: impl IntoIterator<Item = Expression>) -> Self {
        self.0.extend(expressions);
        self
    }

    fn compare(self, load: Expression, equal: bool, value: &[u8]) -> Self {
        let value = value.to_vec();
        self.then(load).then(Expression::Compare { from: R0, equal, value })
    }

    fn address(self, source: bool, range: Range, inside: bool) -> Self {
        self.then(expression::address(source, R0))
            .all(within(R0, range.network(), range.prefix(), inside))
    }

    fn exactly(self, source: bool, address: Ipv4Addr) -> Self {
        self.compare(expression::address(source, R0), true, &address.octets())
    }

    fn port(self, source: bool, equal: bool, port: [u8; 2]) -> Self {
        self.compare(expression::port(source, R0), equal, &port)
    }

    fn protocol(self, equal: bool, protocol: u8) -> Self {
        self.compare(protocol_into(R0), equal, &[protocol])
    }

    /// Whether the source or destination address is this node's.
    fn local(self, source: bool, local: bool) -> Self {
        let load = Expression::AddressType { source, to: R0 };
        self.compare(load, local, &TYPE_LOCAL.to_ne_bytes())
    }

    /// Whether any of these bits of the connection is set.
    fn tracked(self, key: Tracked, bits: u32) -> Self {
        let bits = Expression::Bits {
            register: R0,
            mask: bits.to_ne_bytes(),
            flip: [0; 4],
        };
        self.then(Expression::Tracked { key, to: R0 })
            .then(bits)
            .then(Expression::Compare {
                from: R0,
                equal: false,
                value: vec![0; 4],
            })
    }

    fn in_set(self, key: impl IntoIterator<Item = Expression>, set: &'static str) -> Self {
        self.all(key).then(Expression::Lookup {
            set,
            from: R0,
            to: None,
            verdict: false,
        })
    }

    /// To the way of choosing whose number a map has for the key, which `choices` knows.
    fn choose(
        self,
        key: impl IntoIterator<Item = Expression>,
        map: &'static str,
        choices: &'static str,
    ) -> Vec<Expression> {
        let priority = Meta::Priority;
        self.all(key)
            .then(Expression::Lookup {
                set: map,
                from: R0,
                to: Some(R0),
                verdict: false,
            })
            .then(Expression::SetMeta {
                key: priority,
                from: R0,
            })
            .by_number(choices)
    }

    /// To what a map has for the number that the packet carries.
    fn by_number(self, set: &'static str) -> Vec<Expression> {
        self.then(Expression::LoadMeta {
            key: Meta::Priority,
            to: R0,
        })
        .end(Expression::Lookup {
            set,
            from: R0,
            to: None,
            verdict: true,
        })
    }

    /// Leaves no trace of the number that led here.
    fn chosen(self) -> Self {
        self.then(Expression::Constant { value: [0; 4], to: R0 })
            .then(Expression::SetMeta {
                key: Meta::Priority,
                from: R0,
            })
    }

    fn set_mark(self, mask: u32, flip: u32) -> Self {
        self.then(Expression::LoadMeta {
            key: Meta::Mark,
            to: R0,
        })
        .then(Expression::Bits {
            register: R0,
            mask: mask.to_ne_bytes(),
            flip: flip.to_ne_bytes(),
        })
        .then(Expression::SetMeta {
            key: Meta::Mark,
            from: R0,
        })
    }

    fn goto(self, chain: &str) -> Vec<Expression> {
        self.end(Expression::Go(Verdict::Goto(chain.to_owned())))
    }

    fn end(mut self, expression: Expression) -> Vec<Expression> {
        self.0.push(expression);
        self.0
    }
}

fn protocol_into(to: Register) -> Expression {
    Expression::LoadMeta {
        key: Meta::Protocol,
        to,
    }
}

/// Destination address (unless entered by a port of the node), protocol and destination port into registers from `first`
/// on; the next free one.
fn door_key(port: bool, first: Register) -> (Vec<Expression>, Register) {
    let mut key = Vec::new();
    let mut next = first;
    let mut take = || {
        let register = next;
        next = Register(next.0 + 1);
        register
    };
    if !port {
        key.push(expression::address(false, take()));
    }
    key.push(protocol_into(take()));
    key.push(expression::port(false, take()));
    (key, next)
}

fn address_key() -> Vec<Expression> {
    door_key(false, R0).0
}

fn port_key() -> Vec<Expression> {
    door_key(true, R0).0
}

/// Source and destination address, which two pods never share unless they are one.
fn pair_key() -> [Expression; 2] {
    [expression::address(true, R0), expression::address(false, R1)]
}

/// Everything that is there whatever Services there are, in place of whatever was there.
pub(crate) fn write_frame(batch: &mut Batch, frame: &Frame) {
    // What is not there cannot be removed, so it is made first.
    batch.add_table();
    batch.remove_table();
    batch.add_table();
    for set in &SETS {
        batch.add_set(set);
    }
    for (name, hook) in CHAINS {
        batch.add_chain(name, hook);
    }
    for (chain, rule) in frame_rules(frame) {
        batch.add_rule(chain, &rule);
    }
}

/// The number of doors that lead nowhere.
pub(crate) fn announce_drop(batch: &mut Batch) {
    batch.add_elements(CHOICES, [choice_element(0, Verdict::Drop)]);
}

/// The same where the chains and sets are there already. No packet meets a chain without its rules.
pub(crate) fn rewrite_frame(batch: &mut Batch, frame: &Frame) {
    for (name, _) in CHAINS {
        batch.empty_chain(name);
    }
    for (chain, rule) in frame_rules(frame) {
        batch.add_rule(chain, &rule);
    }
}

/// All our sets.
pub(crate) fn sets() -> &'static [Set] {
    &SETS
}

/// Whether a chain of the kernel's is one that is always there, and as it must be; `None` if it is another.
pub(crate) fn is_fixed_chain(message: &Message<'_>) -> Option<bool> {
    let name = table::name_of(message, 3);
    let (_, hook) = CHAINS.iter().find(|(fixed, _)| *fixed == name)?;
    Some(Hook::is(hook.as_ref(), message))
}

/// How many chains are always there.
pub(crate) const FIXED_CHAINS: usize = CHAINS.len();

fn frame_rules(frame: &Frame) -> Vec<(&'static str, Vec<Expression>)> {
    let Frame {
        pods,
        services,
        own,
        dns,
        bridged,
    } = *frame;
    let multicast = Range::around(Ipv4Addr::new(224, 0, 0, 0), 4);
    let loopback = Range::around(Ipv4Addr::new(127, 0, 0, 0), 8);
    let refuse = |refusal| Expression::Refuse(refusal);
    let new = || Rule::new().tracked(Tracked::State, STATE_NEW);
    let mut rules = vec![
        ("refuse", Rule::new().protocol(true, TCP).end(refuse(Refusal::TcpReset))),
        ("refuse", Rule::new().end(refuse(Refusal::PortUnreachable))),
        ("services", Rule::new().choose(address_key(), "services", CHOICES)),
        (
            "services",
            Rule::new()
                .address(false, loopback, false)
                .local(false, true)
                .choose(port_key(), "node-ports", CHOICES),
        ),
    ];
    // The node answers names itself: no need to remember who asked.
    for chain in ["untracked-in", "untracked-out"] {
        for source in [false, true] {
            let rule = Rule::new().exactly(source, dns).port(source, true, DNS_PORT);
            rules.push((chain, rule.end(Expression::NoTrack)));
        }
    }
    for chain in ["remember-in", "remember-out"] {
        let first = new().tracked(Tracked::Status, STATUS_TRANSLATED);
        rules.push((chain, first.by_number(REMEMBER)));
    }
    for chain in ["prerouting", "output"] {
        let jump = Expression::Go(Verdict::Jump("services".to_owned()));
        rules.push((chain, Rule::new().end(jump)));
    }
    // The DNS address is this node's, but nothing else of this node is to be reached by it.
    let dns_only = new()
        .exactly(false, dns)
        .protocol(false, ICMP)
        .port(false, false, DNS_PORT);
    rules.push(("refused-in", dns_only.goto("refuse")));
    rules.push(("refused-in", new().in_set(address_key(), "refused").goto("refuse")));
    let node_port = new().local(false, true).in_set(port_key(), "refused-node-ports");
    rules.push(("refused-in", node_port.goto("refuse")));
    // Whatever still has a cluster IP here leads nowhere; no other network is to see it.
    rules.push((
        "refused-forward",
        Rule::new().address(false, services, true).goto("refuse"),
    ));
    rules.push(("refused-forward", new().in_set(address_key(), "refused").goto("refuse")));
    // A stray packet of a translated connection would reach the client under the pod's address, and be answered by a
    // reset (kubernetes/kubernetes#74839).
    let stray = Rule::new()
        .tracked(Tracked::State, STATE_INVALID)
        .address(true, pods, true);
    rules.push(("refused-forward", stray.end(Expression::Go(Verdict::Drop))));
    let nowhere = Rule::new().address(false, services, true).local(false, false);
    rules.push(("refused-out", nowhere.goto("refuse")));
    rules.push(("refused-out", new().in_set(address_key(), "refused").goto("refuse")));

    let masquerade = Expression::Masquerade;
    let translated = || Rule::new().tracked(Tracked::Status, STATUS_TRANSLATED);
    let marked = Rule::new()
        .then(Expression::LoadMeta {
            key: Meta::Mark,
            to: R0,
        })
        .then(Expression::Bits {
            register: R0,
            mask: MARK.to_ne_bytes(),
            flip: [0; 4],
        })
        .then(Expression::Compare {
            from: R0,
            equal: false,
            value: vec![0; 4],
        })
        .set_mark(!MARK, 0);
    rules.push(("postrouting", marked.end(masquerade.clone())));
    // A pod that meets itself, or, where the bridge passes answers by these rules, a neighbour: the answer must come back
    // to the node.
    let hairpin = match own {
        Some(own) if !bridged => translated().address(true, own, true).address(false, own, true),
        _ => translated().in_set(pair_key(), "hairpin"),
    };
    rules.push(("postrouting", hairpin.end(masquerade.clone())));
    // Who came to a cluster IP from elsewhere: the pod's node would not answer by way of this one.
    let original = Expression::Tracked {
        key: Tracked::OriginalDestination,
        to: R0,
    };
    let stranger = translated()
        .then(original)
        .all(within(R0, services.network(), services.prefix(), true))
        .address(true, pods, false);
    rules.push(("postrouting", stranger.end(masquerade.clone())));
    if let Some(own) = own {
        // The way out of the cluster. Pods of other nodes see the true source; an answer to multicast could not find back.
        let mut bridge = BRIDGE.as_bytes().to_vec();
        bridge.resize(16, 0);
        let out = Rule::new()
            .address(true, own, true)
            .address(false, pods, false)
            .address(false, multicast, false)
            .compare(
                Expression::LoadMeta {
                    key: Meta::OutName,
                    to: R0,
                },
                false,
                &bridge,
            );
        rules.push(("postrouting", out.end(masquerade)));
    }
    rules
}

/// The name of the chain of a way of choosing.
pub(crate) fn chain(choice: Choice) -> String {
    let Choice {
        port,
        flavour,
        sticky,
        size,
    } = choice;
    let from = if port { "node-port-" } else { "" };
    let flavour = match flavour {
        Flavour::Inside => "pick",
        Flavour::Outside => "outside-pick",
        Flavour::Local => "local-pick",
    };
    let sticky = sticky.map_or_else(String::new, |seconds| format!("-sticky-{seconds}"));
    format!("{from}{flavour}-{size}{sticky}")
}

/// The rules of a way of choosing.
fn choice_rules(choice: Choice, pods: Range) -> Vec<Vec<Expression>> {
    let mut rules = Vec::new();
    let mark = |rule: Rule| rule.set_mark(!MARK, MARK);
    let (key, inside) = if choice.port {
        (port_key(), "node-ports-inside")
    } else {
        (address_key(), "services-inside")
    };
    let mut first = 0;
    match choice.flavour {
        Flavour::Inside => {}
        Flavour::Outside => rules.push(mark(Rule::new()).0),
        Flavour::Local => {
            first = OWN_NUMBERS;
            rules.push(
                Rule::new()
                    .address(true, pods, true)
                    .choose(key.clone(), inside, LAST_CHOICES),
            );
            rules.push(mark(Rule::new().local(true, true)).choose(key, inside, LAST_CHOICES));
        }
    }
    let size = u32::from(choice.size);
    if size == 0 {
        rules.push(Rule::new().end(Expression::Go(Verdict::Drop)));
        return rules;
    }
    if choice.sticky.is_some() {
        // The number stays, by which the client is remembered in a moment.
        let recall = Rule::new().all(sticky_key()).then(Expression::Lookup {
            set: AFFINITY,
            from: R0,
            to: Some(R0),
            verdict: false,
        });
        rules.push(recall.end(destination()));
    } else {
        rules.push(Rule::new().chosen().0);
    }
    rules.push(Rule::new().all(target(choice.port, R0, first, size)).end(destination()));
    // A packet that meets a change half way may have drawn a number that is gone. The first is there as long as any.
    if size > 1 {
        rules.push(Rule::new().all(target(choice.port, R0, first, 1)).end(destination()));
    }
    rules
}

/// Remembers a client and where he was just led; who comes again is remembered for longer. (To remember the endpoint where
/// it is chosen would be shorter, but nft 1.0.6 gives up listing such a rule.)
fn remember_rule(seconds: u32) -> Vec<Expression> {
    let tracked = |key, register| Expression::Tracked {
        key,
        to: Register(register),
    };
    Rule::new()
        .chosen()
        .then(tracked(Tracked::OriginalSource, 0))
        .then(tracked(Tracked::OriginalDestination, 1))
        .then(protocol_into(Register(2)))
        .then(tracked(Tracked::OriginalPort, 3))
        .then(expression::address(false, Register(4)))
        .then(expression::port(false, Register(5)))
        .end(Expression::Remember {
            map: AFFINITY,
            key: R0,
            value: Register(4),
            seconds,
        })
}

/// Client, door as it was entered: registers 0 to 3.
fn sticky_key() -> Vec<Expression> {
    let mut key = vec![expression::address(true, R0)];
    key.extend(door_key(false, R1).0);
    key
}

/// One of `size` endpoints behind the door, with numbers from `first` on: address and port into two registers.
fn target(port: bool, to: Register, first: u32, size: u32) -> Vec<Expression> {
    let (mut expressions, next) = door_key(port, to);
    expressions.push(Expression::Number {
        modulus: size,
        offset: first,
        to: next,
    });
    expressions.push(Expression::Lookup {
        set: if port { "node-port-endpoints" } else { "endpoints" },
        from: to,
        to: Some(to),
        verdict: false,
    });
    expressions
}

fn destination() -> Expression {
    Expression::Destination { address: R0, port: R1 }
}

/// Makes the chains of a way of choosing, of which some may be there.
pub(crate) fn open(batch: &mut Batch, choice: Choice, pods: Range, present: &HashSet<String>) {
    let mut write = |name: &str, rules: Vec<Vec<Expression>>| {
        if present.contains(name) {
            batch.empty_chain(name);
        } else {
            batch.add_chain(name, None);
        }
        for rule in rules {
            batch.add_rule(name, &rule);
        }
    };
    write(&chain(choice), choice_rules(choice, pods));
    if let Some(seconds) = choice.sticky {
        write(&remember_chain(choice), vec![remember_rule(seconds)]);
    }
}

/// Makes the number of a way of choosing known.
pub(crate) fn announce(batch: &mut Batch, choice: Choice, number: u32) {
    for (map, name) in known_to(choice) {
        batch.add_elements(map, [choice_element(number, Verdict::Goto(name))]);
    }
}

/// Takes a way of choosing away again.
pub(crate) fn close(batch: &mut Batch, choice: Choice, number: u32) {
    for (map, name) in known_to(choice) {
        batch.remove_elements(map, [choice_element(number, Verdict::Goto(name))]);
    }
    for name in chains(choice) {
        batch.remove_chain(&name);
    }
}

/// The chains of a way of choosing.
pub(crate) fn chains(choice: Choice) -> Vec<String> {
    let remember = choice.sticky.map(|_| remember_chain(choice));
    std::iter::once(chain(choice)).chain(remember).collect()
}

fn remember_chain(choice: Choice) -> String {
    format!("remember-{}", chain(choice))
}

/// The maps that lead to a way of choosing by its number, and the chains.
fn known_to(choice: Choice) -> Vec<(&'static str, String)> {
    let mut maps = vec![(CHOICES, chain(choice))];
    if choice.flavour == Flavour::Inside {
        maps.push((LAST_CHOICES, chain(choice)));
    }
    if choice.sticky.is_some() {
        maps.push((REMEMBER, remember_chain(choice)));
    }
    maps
}

fn choice_element(number: u32, verdict: Verdict) -> table::Element {
    table::Element {
        key: parts(&number.to_ne_bytes()),
        value: Some(ElementValue::Verdict(verdict)),
        life: None,
    }
}

/// Removals and then additions, those of one set together.
pub(crate) fn write_changes(batch: &mut Batch, changes: &[Change], number: impl Fn(Option<Choice>) -> u32) {
    for set in SETS.iter().map(|set| set.name) {
        let removed = changes.iter().filter_map(|change| match change {
            Change::Remove(element) if set_of(*element) == set => Some(write(*element, &number)),
            _ => None,
        });
        batch.remove_elements(set, removed);
    }
    for set in SETS.iter().map(|set| set.name) {
        let added = changes.iter().filter_map(|change| match change {
            Change::Add(element) if set_of(*element) == set => Some(write(*element, &number)),
            _ => None,
        });
        batch.add_elements(set, added);
    }
}

/// All elements of a set, of a transaction that tells everything.
pub(crate) fn all_elements<'a>(
    set: &'static str,
    transaction: &'a Transaction,
    number: &'a impl Fn(Option<Choice>) -> u32,
) -> impl Iterator<Item = table::Element> + 'a {
    let drop = (set == CHOICES).then(|| choice_element(0, Verdict::Drop));
    let choices = transaction.opened.iter().flat_map(move |(choice, number)| {
        let known = known_to(*choice).into_iter().filter(move |(map, _)| *map == set);
        known.map(|(_, name)| choice_element(*number, Verdict::Goto(name)))
    });
    let others = transaction.changes.iter().filter_map(move |change| match change {
        Change::Add(element) if set_of(*element) == set => Some(write(*element, number)),
        _ => None,
    });
    drop.into_iter().chain(choices).chain(others)
}

/// The set that an element belongs to.
fn set_of(element: Element) -> &'static str {
    match element {
        Element::Lead(Door::Address(..), _) => "services",
        Element::Lead(Door::Port(..), _) => "node-ports",
        Element::Inside(Door::Address(..), _) => "services-inside",
        Element::Inside(Door::Port(..), _) => "node-ports-inside",
        Element::Endpoint(Door::Address(..), ..) => "endpoints",
        Element::Endpoint(Door::Port(..), ..) => "node-port-endpoints",
        Element::Refused(Door::Address(..)) => "refused",
        Element::Refused(Door::Port(..)) => "refused-node-ports",
        Element::Hairpin(_) => "hairpin",
    }
}

fn write(element: Element, number: &impl Fn(Option<Choice>) -> u32) -> table::Element {
    let numbered = |choice| Some(parts(&number(choice).to_ne_bytes()));
    let (key, value) = match element {
        Element::Lead(door, choice) => (key(door), numbered(choice)),
        Element::Inside(door, choice) => (key(door), numbered(Some(choice))),
        Element::Endpoint(door, index, endpoint) => {
            let target = parts(&endpoint.ip().octets()).and(&endpoint.port().to_be_bytes());
            (key(door).and(&index.to_ne_bytes()), Some(target))
        }
        Element::Refused(door) => (key(door), None),
        Element::Hairpin(address) => (parts(&address.octets()).and(&address.octets()), None),
    };
    table::Element {
        key,
        value: value.map(ElementValue::Data),
        life: None,
    }
}

fn parts(first: &[u8]) -> Parts {
    Parts::default().and(first)
}

fn key(door: Door) -> Parts {
    let (start, protocol, port) = match door {
        Door::Address(address, protocol, port) => (parts(&address.octets()), protocol, port),
        Door::Port(protocol, port) => (Parts::default(), protocol, port),
    };
    let protocol = match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    start.and(&[protocol]).and(&port.to_be_bytes())
}

/// What an element of [`AFFINITY`] says: the client, the door by which he came, by address and by port, and where he was led.
pub(crate) fn read_affinity(element: &table::Element) -> Option<(Ipv4Addr, [Door; 2], SocketAddrV4)> {
    let Some(ElementValue::Data(value)) = &element.value else {
        return None;
    };
    let address = |part: [u8; 4]| Ipv4Addr::from(part);
    let port = |[high, low, ..]: [u8; 4]| u16::from_be_bytes([high, low]);
    let protocol = match element.key.part(2)?[0] {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return None,
    };
    let number = port(element.key.part(3)?);
    let doors = [
        Door::Address(address(element.key.part(1)?), protocol, number),
        Door::Port(protocol, number),
    ];
    let endpoint = SocketAddrV4::new(address(value.part(0)?), port(value.part(1)?));
    Some((address(element.key.part(0)?), doors, endpoint))
}
