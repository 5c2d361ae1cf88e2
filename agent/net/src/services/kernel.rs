//! The kernel's side: applies transactions, and looks after what they leave behind.

use std::{collections::HashMap, net::SocketAddrV4, path::Path};

use nix::errno::Errno;

use super::{
    plan::Transaction,
    rules::{self, AFFINITY, Frame, TABLE},
    view::{Choice, Door},
};
use crate::{
    Error,
    facts::Protocol,
    nfnetlink::{
        conntrack::{self, Flow},
        socket::{Refused, Socket},
        table::{Batch, Element, Kind},
    },
};

/// Endpoints that are still there, by door.
pub(crate) type Present = HashMap<Door, Vec<SocketAddrV4>>;

/// A transaction with all that is needed to write it.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) frame: Frame,
    /// The whole table anew, and who may be remembered from before.
    pub(crate) replace: Option<Present>,
    pub(crate) transaction: Transaction,
    /// Numbers of all ways of choosing that the transaction speaks of.
    pub(crate) numbers: HashMap<Choice, u32>,
}

/// What the table holds besides elements, to tell whether it is the one we wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Chains and sets.
    pub(crate) objects: u32,
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
                let used = answer.attributes().find(|(kind, _)| *kind == 3);
                let objects = used.and_then(|(_, value)| Some(u32::from_be_bytes(value.try_into().ok()?)));
                table = Some(Table {
                    objects: objects.unwrap_or(0),
                });
            },
        );
        match result {
            Ok(()) => Ok(table),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(failed("look for the table ip minidc", errno)),
        }
    }

    /// Applies all of it or nothing.
    pub(crate) fn apply(&mut self, work: &Work) -> Result<(), Error> {
        let mut batch = Batch::new(TABLE);
        let kept = match &work.replace {
            Some(present) => {
                rules::write_frame(&mut batch, &work.frame);
                let mut kept = self.affinity()?;
                kept.retain(|element| !forgotten(element, present, true));
                kept
            }
            None => Vec::new(),
        };
        for (choice, number) in &work.transaction.opened {
            rules::open(&mut batch, *choice, *number, work.frame.pods);
        }
        rules::write_changes(&mut batch, &work.transaction.changes, |choice| {
            choice
                .and_then(|choice| work.numbers.get(&choice))
                .copied()
                .unwrap_or(0)
        });
        for (choice, number) in &work.transaction.closed {
            rules::close(&mut batch, *choice, *number);
        }
        batch.add_elements(AFFINITY, kept);
        if batch.is_empty() {
            return Ok(());
        }
        self.socket.apply(batch).map_err(refused)
    }

    /// Looks after running conversations and remembered clients. New packets go by the new rules already.
    pub(crate) fn clean(&mut self, flows: &Present, sticky: &Present) -> Result<(), Error> {
        if !sticky.is_empty() {
            let gone: Vec<Element> = self.affinity()?;
            for element in gone.into_iter().filter(|element| forgotten(element, sticky, false)) {
                let mut batch = Batch::new(TABLE);
                batch.remove_elements(AFFINITY, [element]);
                match self.socket.apply(batch) {
                    // It timed out in the meantime.
                    Err(error) if error.is_not_found() => {}
                    result => result.map_err(refused)?,
                }
            }
        }
        if !flows.is_empty() {
            let attempt = "list UDP conversations";
            let stale = conntrack::list(&mut self.socket, |flow| is_stale(flow, flows));
            for flow in stale.map_err(|errno| failed(attempt, errno))? {
                let result = conntrack::forget(&mut self.socket, &flow);
                result
                    .map_err(|errno| failed(format!("forget the UDP conversation with {}", flow.destination), errno))?;
            }
        }
        Ok(())
    }

    fn affinity(&mut self) -> Result<Vec<Element>, Error> {
        let mut elements = Vec::new();
        let result = self.socket.dump(
            Kind::GetElement.number(),
            |request| {
                request.text(1, TABLE);
                request.text(2, AFFINITY);
            },
            |answer| elements.extend(Element::read(answer)),
        );
        match result {
            // No table, or one of another making.
            Ok(()) | Err(Errno::ENOENT) => Ok(elements),
            Err(errno) => Err(failed("list clients with session affinity", errno)),
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
fn forgotten(element: &Element, present: &Present, unknown: bool) -> bool {
    let Some((doors, endpoint)) = rules::read_affinity(element) else {
        return true;
    };
    match doors.iter().find_map(|door| present.get(door)) {
        Some(endpoints) => !endpoints.contains(&endpoint),
        None => unknown,
    }
}

/// Whether a UDP conversation must not go on as it is: its endpoint is gone, or it began when there was none. Clients that
/// keep their port would else never be led elsewhere (a conversation that lives has no time-out that helps).
fn is_stale(flow: &Flow, present: &Present) -> bool {
    let astray = flow.answers_from == flow.destination;
    let door = Door::Address(*flow.destination.ip(), Protocol::Udp, flow.destination.port());
    if let Some(endpoints) = present.get(&door) {
        return !endpoints.contains(&flow.answers_from);
    }
    let door = Door::Port(Protocol::Udp, flow.destination.port());
    match present.get(&door) {
        // A conversation of our own with somebody else's port of that number has its source translated, or has none to
        // translate and can stand to be forgotten.
        Some(endpoints) if astray => !endpoints.is_empty() && flow.answers_to == flow.source,
        Some(endpoints) => !endpoints.contains(&flow.answers_from),
        None => false,
    }
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
        assert!(!is_stale(&translated, &present(door, &["100.64.0.2:5353"])));
        assert!(is_stale(&translated, &present(door, &["100.64.0.2:5354"])));
        assert!(is_stale(&translated, &present(door, &[])), "the Service is gone");
        let astray = Flow::new(CLIENT, VIP, VIP, CLIENT);
        assert!(is_stale(&astray, &present(door, &["100.64.0.2:5353"])));
        // Others are none of our business.
        let other = Flow::new(CLIENT, "100.65.0.7:54", "100.64.0.2:5353", CLIENT);
        assert!(!is_stale(&other, &present(door, &[])));
    }

    #[test]
    fn conversations_by_a_node_port_are_told_from_others_of_that_number() {
        let door = Door::Port(Protocol::Udp, 30053);
        let node = "10.9.0.1:30053";
        let translated = Flow::new("10.9.0.7:4000", node, "100.64.0.2:5353", "10.9.0.1:4000");
        assert!(!is_stale(&translated, &present(door, &["100.64.0.2:5353"])));
        assert!(is_stale(&translated, &present(door, &[])));
        let astray = Flow::new("10.9.0.7:4000", node, node, "10.9.0.7:4000");
        assert!(is_stale(&astray, &present(door, &["100.64.0.2:5353"])));
        assert!(!is_stale(&astray, &present(door, &[])));
        // A pod talks to a port of that number outside.
        let outside = "192.0.2.9:30053";
        let passing = Flow::new(CLIENT, outside, outside, "10.9.0.1:4000");
        assert!(!is_stale(&passing, &present(door, &["100.64.0.2:5353"])));
    }
}
