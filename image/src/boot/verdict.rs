//! Whether a seed may be used on this card: never does an edited file, or a card that was moved, make a board somebody else.

use crate::seed::{Membership, Problem, Role, Seed};

/// A cluster whose CA is on the data partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// SHA-256 of the CA's key, hex.
    pub pin: String,
}

/// The identity of a node on the data partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name of the node.
    pub node: String,
    /// The cluster that it belongs to, or asks to be let into.
    pub cluster: Cluster,
    /// It has a certificate: it was let in.
    pub joined: bool,
}

/// What a join token says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFacts {
    /// The cluster that it opens.
    pub cluster: Cluster,
    /// The only node that may use it; `None` for any.
    pub node: Option<String>,
}

/// What the data partition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The cluster's own identity: the board is its server. The error says what is wrong with it.
    pub server: Option<Result<Cluster, String>>,
    /// The node's identity.
    pub node: Option<Result<Member, String>>,
    /// A join token from an earlier seed.
    pub token: Option<TokenFacts>,
}

/// A seed, with what is inside its texts; an error says why a text is not what it should be.
#[derive(Clone, Debug)]
pub struct Offer<'s> {
    /// The seed.
    pub seed: &'s Seed,
    /// Pin of the authority in it.
    pub authority: Option<Result<String, String>>,
    /// The token in it.
    pub token: Option<Result<TokenFacts, String>>,
}

struct Judge(Vec<Problem>);

impl Judge {
    fn say(&mut self, key: &str, message: impl Into<String>) {
        self.0.push(Problem {
            line: None,
            key: Some(key.to_owned()),
            message: message.into(),
        });
    }

    /// A board that takes part stays what it is.
    fn same(&mut self, seed: &Seed, role: Role, cluster: &Cluster) {
        if seed.membership.role() != role {
            self.say(
                "role",
                format!(
                    "this board is a {role} of cluster {:?} and stays that: write role = \"{role}\", or flash the card anew",
                    cluster.name
                ),
            );
        }
        if seed.cluster != cluster.name {
            self.say(
                "cluster",
                format!(
                    "this card belongs to cluster {:?}: write that name, or flash the card anew",
                    cluster.name
                ),
            );
        }
    }

    fn same_name(&mut self, seed: &Seed, member: &Member) {
        if seed.node != member.node {
            self.say(
                "name",
                format!(
                    "this board is in the cluster as {:?} and keeps that name: write it, or flash the card anew",
                    member.node
                ),
            );
        }
    }
}

/// Every reason not to use the seed on this card; none is a yes.
pub fn judge(offer: &Offer<'_>, known: &Known) -> Result<(), Vec<Problem>> {
    let mut judge = Judge(Vec::new());
    let seed = offer.seed;
    if let Some(Err(wrong)) = &known.server {
        judge.say(
            "authority",
            format!("the cluster's identity on the data partition cannot be used ({wrong})"),
        );
    } else if let Some(Err(wrong)) = &known.node {
        judge.say(
            "name",
            format!("the node's identity on the data partition cannot be used ({wrong})"),
        );
    } else if let Some(Ok(cluster)) = &known.server {
        judge.same(seed, Role::Server, cluster);
        if let Some(Ok(member)) = &known.node {
            judge.same_name(seed, member);
        }
        server(&mut judge, offer, Some(cluster));
    } else {
        match (&known.node, seed.membership.role()) {
            (Some(Ok(member)), Role::Server)
                if member.joined && offer.authority.is_none() && seed.moved_authority.is_some() =>
            {
                lost(&mut judge);
            }
            (Some(Ok(member)), _) if member.joined => {
                judge.same(seed, Role::Node, &member.cluster);
                judge.same_name(seed, member);
                node(&mut judge, offer, known, Some(member));
            }
            (_, Role::Server) => server(&mut judge, offer, None),
            (_, Role::Node) => node(&mut judge, offer, known, None),
        }
    }
    if judge.0.is_empty() { Ok(()) } else { Err(judge.0) }
}

fn lost(judge: &mut Judge) {
    judge.say(
        "authority",
        "the cluster's identity was moved to the data partition, which does not have it any more: flash the card anew on the computer that made it",
    );
}

fn server(judge: &mut Judge, offer: &Offer<'_>, own: Option<&Cluster>) {
    let offered = match &offer.authority {
        Some(Err(wrong)) => return judge.say("authority", wrong.clone()),
        Some(Ok(pin)) => Some(pin),
        None => None,
    };
    let moved = offer.seed.moved_authority.as_ref();
    if let (Some(pin), Some(moved)) = (offered, moved)
        && !pin.eq_ignore_ascii_case(moved)
    {
        judge.say(
            "ca_pin",
            "it is not that of the certificate below [authority]: remove this line",
        );
    }
    match own {
        Some(own) => {
            for (key, pin) in [("authority", offered), ("ca_pin", moved)] {
                if pin.is_some_and(|pin| !pin.eq_ignore_ascii_case(&own.pin)) {
                    judge.say(
                        key,
                        format!(
                            "this is another identity than the one of cluster {:?} that this board has, which is never replaced: flash the card anew",
                            own.name
                        ),
                    );
                }
            }
        }
        None if offered.is_none() && moved.is_some() => lost(judge),
        None => {}
    }
}

fn node(judge: &mut Judge, offer: &Offer<'_>, known: &Known, member: Option<&Member>) {
    let seed = offer.seed;
    let Membership::Node { ca_pin, .. } = &seed.membership else {
        return;
    };
    let token = match &offer.token {
        Some(Err(wrong)) => return judge.say("token", wrong.clone()),
        Some(Ok(token)) => Some(token),
        // One that was used already is no matter for a member.
        None => known.token.as_ref().filter(|_| member.is_none()),
    };
    if let Some(member) = member
        && ca_pin
            .as_ref()
            .is_some_and(|pin| !pin.eq_ignore_ascii_case(&member.cluster.pin))
    {
        judge.say(
            "ca_pin",
            format!(
                "this board belongs to another cluster of the name {:?}: flash the card anew",
                member.cluster.name
            ),
        );
    }
    let Some(token) = token else {
        return;
    };
    if token.cluster.name != seed.cluster {
        judge.say(
            "token",
            format!("it is for cluster {:?}, not for {:?}", token.cluster.name, seed.cluster),
        );
    }
    if token.node.as_ref().is_some_and(|node| *node != seed.node) {
        let node = token.node.as_deref().unwrap_or_default();
        judge.say(
            "token",
            format!("it is for a board with name = {node:?}, not {:?}", seed.node),
        );
    }
    if ca_pin
        .as_ref()
        .is_some_and(|pin| !pin.eq_ignore_ascii_case(&token.cluster.pin))
    {
        judge.say("token", "it is of a cluster that ca_pin does not name");
    } else if member.is_some_and(|member| member.cluster.pin != token.cluster.pin) {
        judge.say(
            "token",
            "it is of another cluster than the one this board belongs to: flash the card anew",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{Authority, Secret};

    fn pin(letter: char) -> String {
        letter.to_string().repeat(64)
    }

    fn cluster(name: &str, letter: char) -> Cluster {
        Cluster {
            name: name.into(),
            pin: pin(letter),
        }
    }

    fn member(node: &str, joined: bool) -> Option<Result<Member, String>> {
        Some(Ok(Member {
            node: node.into(),
            cluster: cluster("rack1", 'a'),
            joined,
        }))
    }

    fn seed(membership: Membership) -> Seed {
        Seed {
            cluster: "rack1".into(),
            node: "pi-1".into(),
            membership,
            moved_authority: None,
            servers: Vec::new(),
            wifi: None,
            ssh_keys: Vec::new(),
            time: None,
        }
    }

    fn server() -> Seed {
        seed(Membership::Server(Some(Authority {
            ca_certificate: "…".into(),
            ca_key: Secret::new("…"),
            join_key: Secret::new("…"),
        })))
    }

    fn node() -> Seed {
        seed(Membership::Node {
            token: Some(Secret::new("…")),
            ca_pin: None,
        })
    }

    fn keys(seed: &Seed, known: &Known, authority: Option<char>, token: Option<TokenFacts>) -> String {
        let offer = Offer {
            seed,
            authority: authority.map(|letter| Ok(pin(letter))),
            token: token.map(Ok),
        };
        match judge(&offer, known) {
            Ok(()) => "ok".into(),
            Err(problems) => problems
                .into_iter()
                .map(|problem| problem.key.unwrap_or_default())
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    #[test]
    fn a_server_keeps_its_cluster_its_identity_its_role_and_its_name() {
        let own = Known {
            server: Some(Ok(cluster("rack1", 'a'))),
            node: member("pi-1", true),
            ..Known::default()
        };
        let moved = |letter| Seed {
            moved_authority: Some(pin(letter)),
            ..seed(Membership::Server(None))
        };
        let other = Seed {
            cluster: "rack2".into(),
            ..server()
        };
        let renamed = Seed {
            node: "pi-9".into(),
            ..server()
        };
        let both = Seed {
            moved_authority: Some(pin('b')),
            ..server()
        };
        let damaged = Known {
            server: Some(Err("ca.key is missing".into())),
            ..Known::default()
        };
        let orphan = Known {
            node: member("pi-1", true),
            ..Known::default()
        };
        let none = Known::default();
        let cases = [
            ("new card with the laptop's identity", &none, server(), Some('a'), "ok"),
            (
                "new card without one",
                &none,
                seed(Membership::Server(None)),
                None,
                "ok",
            ),
            (
                "adopted, power cut before the secrets were removed",
                &own,
                server(),
                Some('a'),
                "ok",
            ),
            ("the usual start", &own, moved('a'), None, "ok"),
            ("an identity of somebody else", &own, server(), Some('b'), "authority"),
            ("a seed of another card", &own, moved('b'), None, "ca_pin"),
            ("another cluster", &own, other, Some('b'), "cluster authority"),
            ("made a node", &own, node(), None, "role"),
            ("renamed", &own, renamed, Some('a'), "name"),
            ("two identities in one file", &none, both, Some('a'), "ca_pin"),
            ("the data partition was emptied", &none, moved('a'), None, "authority"),
            ("the data partition lost the CA", &orphan, moved('a'), None, "authority"),
            ("the data partition is damaged", &damaged, moved('a'), None, "authority"),
        ];
        for (what, known, seed, authority, expected) in cases {
            assert_eq!(keys(&seed, known, authority, None), expected, "{what}");
        }
    }

    #[test]
    fn a_node_keeps_its_cluster_and_name_once_it_has_joined_and_not_before() {
        let token = |name: &str, letter, node: Option<&str>| {
            Some(TokenFacts {
                cluster: cluster(name, letter),
                node: node.map(Into::into),
            })
        };
        let joined = Known {
            node: member("pi-1", true),
            ..Known::default()
        };
        let asking = Known {
            node: member("pi-1", false),
            token: token("rack1", 'a', Some("pi-1")),
            ..Known::default()
        };
        let without = seed(Membership::Node {
            token: None,
            ca_pin: Some(pin('A')),
        });
        let other_pin = seed(Membership::Node {
            token: None,
            ca_pin: Some(pin('b')),
        });
        let renamed = Seed {
            node: "pi-9".into(),
            ..node()
        };
        let moved = Seed {
            cluster: "rack2".into(),
            ..node()
        };
        let none = Known::default();
        let cases = [
            ("new card", &none, node(), token("rack1", 'a', Some("pi-1")), "ok"),
            ("any node's token", &none, node(), token("rack1", 'a', None), "ok"),
            (
                "another node's token",
                &none,
                node(),
                token("rack1", 'a', Some("pi-2")),
                "token",
            ),
            (
                "another cluster's token",
                &none,
                node(),
                token("rack2", 'b', None),
                "token",
            ),
            ("the usual start", &joined, without.clone(), None, "ok"),
            (
                "joined, still with its token",
                &joined,
                node(),
                token("rack1", 'a', Some("pi-1")),
                "ok",
            ),
            ("another cluster of the same name", &joined, other_pin, None, "ca_pin"),
            (
                "another cluster",
                &joined,
                moved.clone(),
                token("rack2", 'b', None),
                "cluster token",
            ),
            ("renamed", &joined, renamed.clone(), None, "name"),
            ("made a server", &joined, server(), Some('a').and(None), "role"),
            (
                "moved before it joined",
                &asking,
                moved,
                token("rack2", 'b', None),
                "ok",
            ),
            (
                "renamed before it joined, with the old token",
                &asking,
                renamed.clone(),
                None,
                "token",
            ),
            (
                "renamed before it joined",
                &asking,
                renamed,
                token("rack1", 'a', Some("pi-9")),
                "ok",
            ),
            ("made a server before it joined", &asking, server(), None, "ok"),
        ];
        for (what, known, seed, token, expected) in cases {
            assert_eq!(keys(&seed, known, None, token), expected, "{what}");
        }
    }
}
