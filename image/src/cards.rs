//! The cards of one rack: which nodes they become, and how each gets its right to join.

use std::error::Error as StdError;

use jiff::Timestamp;

use crate::Error;
use crate::device::Target;
use crate::fat;
use crate::layout::{SELECTOR, Table};
use crate::seed::{self, Membership, Role, Seed, Wifi};

/// One card to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its place in the row, from 1.
    pub number: u32,
    /// Name of the node.
    pub node: String,
    /// What it will be.
    pub role: Role,
}

/// Plans `count` cards: the first is `name` with `role`, the rest are nodes that count on from it. `pi-1` is followed by `pi-2`, `rack` by
/// `rack-2`, `pi-09` by `pi-10`.
pub fn plan(name: &str, role: Role, count: u32) -> Result<Vec<Card>, Error> {
    if count == 0 {
        return Err(Error::Cards("the number of cards must be at least 1".into()));
    }
    let (stem, first, width) = name
        .rsplit_once('-')
        .filter(|(stem, digits)| {
            !stem.is_empty() && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        })
        .and_then(|(stem, digits)| Some((stem, digits.parse::<u32>().ok()?, digits.len())))
        .unwrap_or((name, 1, 1));
    (0..count)
        .map(|index| {
            let number = first
                .checked_add(index)
                .ok_or_else(|| Error::Cards(format!("{name:?} cannot be counted on {count} times")))?;
            let node = if index == 0 {
                name.to_owned()
            } else {
                format!("{stem}-{number:0width$}")
            };
            if let Some(wrong) = seed::wrong_label(&node) {
                return Err(Error::Cards(format!("the node name {node:?} {wrong}")));
            }
            Ok(Card {
                number: index + 1,
                node,
                role: if index == 0 { role } else { Role::Node },
            })
        })
        .collect()
}

/// Who holds the cluster's identity: the caller, with what nodes and control plane are linked by. This crate makes no keys.
pub trait Identity {
    /// What goes on a card so that the board may take part: for a server the cluster's authority, for a node a fresh one-use token. Asked
    /// once per card, just before it is written.
    fn membership(&mut self, card: &Card) -> Result<Membership, Box<dyn StdError + Send + Sync>>;
}

/// What all cards of a rack have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rack {
    /// Name of the cluster.
    pub cluster: String,
    /// Addresses at which nodes try the server besides asking the network.
    pub servers: Vec<String>,
    /// Wi-Fi, if not by cable.
    pub wifi: Option<Wifi>,
    /// Keys that may log in over SSH.
    pub ssh_keys: Vec<String>,
    /// Now, by this computer: no board's clock is behind it.
    pub time: Timestamp,
}

impl Rack {
    /// What is wrong with the values that all cards share, before any card is asked for.
    pub fn check(&self) -> Result<(), Error> {
        let seed = Seed {
            cluster: self.cluster.clone(),
            node: "check".into(),
            membership: Membership::Node {
                token: None,
                ca_pin: None,
            },
            moved_authority: None,
            servers: self.servers.clone(),
            wifi: self.wifi.clone(),
            ssh_keys: self.ssh_keys.clone(),
            time: Some(self.time),
        };
        // Lines of a file that nobody has seen say nothing.
        Seed::parse(&seed.render(), seed::Stage::Joined)
            .map(drop)
            .map_err(|problems| {
                let wrong: Vec<String> = problems
                    .into_iter()
                    .map(|problem| seed::Problem { line: None, ..problem }.to_string())
                    .collect();
                Error::Cards(wrong.join("\n"))
            })
    }

    /// The seed of a card, with its identity.
    pub fn seed(&self, card: &Card, identity: &mut dyn Identity) -> Result<Seed, Error> {
        let membership = identity.membership(card).map_err(|source| Error::Identity {
            node: card.node.clone(),
            source,
        })?;
        if membership.role() != card.role {
            return Err(Error::Cards(format!(
                "the identity of {} is that of a {}, not of a {}",
                card.node,
                membership.role(),
                card.role
            )));
        }
        let seed = Seed {
            cluster: self.cluster.clone(),
            node: card.node.clone(),
            membership,
            moved_authority: None,
            servers: if card.role == Role::Node {
                self.servers.clone()
            } else {
                Vec::new()
            },
            wifi: self.wifi.clone(),
            ssh_keys: self.ssh_keys.clone(),
            time: Some(self.time),
        };
        // What is written must be what the board will read: mistakes show here, not in a rack without a screen.
        let text = seed.render();
        match Seed::parse(&text, seed::Stage::FirstBoot) {
            Ok(read) if read == seed.to_seconds() => Ok(read),
            Ok(_) => Err(Error::Cards(format!(
                "the seed of {} does not survive its own format",
                card.node
            ))),
            Err(problems) => Err(Error::Cards(seed::listed(&problems))),
        }
    }
}

/// Which node a card is now, if it is one of ours and its seed is in order.
pub fn present(target: &mut dyn Target) -> Option<Seed> {
    let table = Table::read(target).ok()?;
    table.check(target.bytes()).ok()?;
    let contents = fat::read(target, table.get(SELECTOR)?, seed::FILE).ok()??;
    Seed::parse_bytes(&contents, seed::Stage::Joined).ok()
}

/// The files that make a flashed card this seed's.
pub fn files(seed: &Seed) -> Vec<fat::File> {
    vec![fat::File {
        name: seed::FILE.to_owned(),
        contents: seed.render().into_bytes(),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &str, count: u32) -> Vec<String> {
        plan(name, Role::Server, count)
            .unwrap()
            .into_iter()
            .map(|card| card.node)
            .collect()
    }

    #[test]
    fn the_first_card_is_the_server_and_the_rest_count_on_as_nodes() {
        assert_eq!(names("pi-1", 3), ["pi-1", "pi-2", "pi-3"]);
        assert_eq!(names("rack", 3), ["rack", "rack-2", "rack-3"]);
        assert_eq!(names("pi-09", 2), ["pi-09", "pi-10"]);
        assert_eq!(names("pi-4b", 2), ["pi-4b", "pi-4b-2"]);
        let roles: Vec<Role> = plan("pi-1", Role::Server, 3)
            .unwrap()
            .iter()
            .map(|card| card.role)
            .collect();
        assert_eq!(roles, [Role::Server, Role::Node, Role::Node]);
        let more = plan("pi-7", Role::Node, 2).unwrap();
        assert_eq!(
            (more[1].node.as_str(), more[1].role, more[1].number),
            ("pi-8", Role::Node, 2)
        );
    }

    #[test]
    fn impossible_plans_say_why() {
        for (name, count, word) in [
            ("pi-1", 0, "at least 1"),
            ("Pi_1", 2, "Pi_1"),
            ("pi-4294967295", 2, "counted"),
            ("", 1, "empty"),
            (&"a".repeat(62), 2, "63"),
        ] {
            let error = plan(name, Role::Server, count).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
