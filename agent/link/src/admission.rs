//! Who may be which node: pure decisions over the two records that are kept, [`TokenRecord`] and [`NodeRecord`].
//!
//! Every function takes what is on record and returns what is to be written (nothing, when it is true already) or the
//! refusal. The caller reads, decides, writes by compare-and-swap, and begins again on a conflict.

use serde::{Deserialize, Serialize};

use crate::protocol::RefusalCode;
use crate::server::Refusal;

/// A token that was used. Unused ones are not recorded anywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    /// Unix seconds after which the record itself may be deleted, since the token opens nothing any more.
    pub expires: u64,
    /// Node that it let in.
    pub node: String,
    /// The first key that showed it: hex SHA-256 of its SubjectPublicKeyInfo.
    pub key: String,
    /// The key on record for that node at that moment. A join that stopped between its two writes is completed only while
    /// this is still so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

/// The keys of a node. Kept for ever: a removed node must stay removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecord {
    /// Newest key that a certificate was signed for: hex SHA-256 of its SubjectPublicKeyInfo.
    pub key: String,
    /// The one before it, while the newest has not been used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_key: Option<String>,
    /// The node has shown the newest key, or said that it is safe on its disk.
    #[serde(default)]
    pub newest_used: bool,
    /// A person has removed the node, for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<String>,
}

impl NodeRecord {
    /// The record of a node whose first certificate is about to be signed for `key`.
    pub fn new(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            previous_key: None,
            newest_used: false,
            removed: None,
        }
    }

    /// Whether a node with this key is the one on record.
    fn accepts(&self, node: &str, key: &str) -> Result<Match, Refusal> {
        if let Some(reason) = &self.removed {
            return Err(Refusal::new(
                RefusalCode::Removed,
                format!("node {node} was removed from the cluster: {reason}"),
            ));
        }
        if self.key == key {
            Ok(Match::Newest)
        } else if !self.newest_used && self.previous_key.as_deref() == Some(key) {
            Ok(Match::Previous)
        } else {
            Err(superseded(node))
        }
    }
}

enum Match {
    Newest,
    Previous,
}

fn superseded(node: &str) -> Refusal {
    Refusal::new(
        RefusalCode::Superseded,
        format!(
            "this key is not the one on record for node {node}: another board has joined under this name, or this card is an old copy"
        ),
    )
}

/// What a successful claim must write, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The token's record.
    pub token: Option<TokenRecord>,
    /// The node's record.
    pub node: Option<NodeRecord>,
}

/// A board with `key` shows a token (already verified) and wants to be `name`. `live` is the key of the session that holds this name
/// now, if any.
pub fn claim(
    token: Option<&TokenRecord>,
    node: Option<&NodeRecord>,
    name: &str,
    key: &str,
    expires: u64,
    live: Option<&str>,
) -> Result<Claim, Refusal> {
    if let Some(token) = token {
        if token.key != key {
            return Err(Refusal::new(
                RefusalCode::TokenUsed,
                format!(
                    "this token was used before, by another board that joined as {}",
                    token.node
                ),
            ));
        }
        if token.node != name {
            return Err(Refusal::new(
                RefusalCode::TokenUsed,
                format!("this board has used this token before, to join as {}", token.node),
            ));
        }
        return match node {
            Some(node) => match node.accepts(name, key) {
                Ok(_) => Ok(Claim {
                    token: None,
                    node: None,
                }),
                Err(refusal) if refusal.code == RefusalCode::Removed => Err(refusal),
                Err(refusal) => {
                    refuse_live(name, key, live)?;
                    if token.replaces.as_deref() == Some(node.key.as_str()) {
                        Ok(Claim {
                            token: None,
                            node: Some(NodeRecord::new(key)),
                        })
                    } else {
                        Err(refusal)
                    }
                }
            },
            None => Ok(Claim {
                token: None,
                node: Some(NodeRecord::new(key)),
            }),
        };
    }
    refuse_live(name, key, live)?;
    let unchanged = node.is_some_and(|node| node.accepts(name, key).is_ok());
    Ok(Claim {
        token: Some(TokenRecord {
            expires,
            node: name.to_owned(),
            key: key.to_owned(),
            replaces: node.filter(|_| !unchanged).map(|node| node.key.clone()),
        }),
        node: (!unchanged).then(|| NodeRecord::new(key)),
    })
}

fn refuse_live(name: &str, key: &str, live: Option<&str>) -> Result<(), Refusal> {
    match live {
        Some(other) if other != key => Err(Refusal::new(
            RefusalCode::DuplicateName,
            format!(
                "another board named {name} is connected; give this one another name, or switch the other off first"
            ),
        )),
        _ => Ok(()),
    }
}

/// A node with a valid certificate for `key` begins a session. A node with no record is accepted on the strength of its certificate
/// (a store that was set up anew or restored): absence is not an order.
pub fn admit(record: Option<&NodeRecord>, name: &str, key: &str) -> Result<Option<NodeRecord>, Refusal> {
    let Some(record) = record else {
        return Ok(Some(NodeRecord {
            newest_used: true,
            ..NodeRecord::new(key)
        }));
    };
    match record.accepts(name, key)? {
        Match::Newest => Ok(used(record, key)),
        Match::Previous => Ok(None),
    }
}

/// A node that proved `key` asks for a certificate for `new_key`.
pub fn renew(
    record: Option<&NodeRecord>,
    name: &str,
    key: &str,
    new_key: &str,
    expired: bool,
) -> Result<Option<NodeRecord>, Refusal> {
    let Some(record) = record else {
        if expired {
            return Err(Refusal::new(
                RefusalCode::Superseded,
                format!(
                    "the certificate is expired and no key is on record for node {name}: join again with a new token"
                ),
            ));
        }
        return Ok(Some(NodeRecord {
            previous_key: Some(key.to_owned()),
            ..NodeRecord::new(new_key)
        }));
    };
    record.accepts(name, key)?;
    if record.key == new_key {
        return Ok(None);
    }
    Ok(Some(NodeRecord {
        previous_key: Some(key.to_owned()),
        ..NodeRecord::new(new_key)
    }))
}

/// The node has shown `key`, or has it on disk: from now on only this key counts.
pub fn used(record: &NodeRecord, key: &str) -> Option<NodeRecord> {
    (record.key == key && !record.newest_used).then(|| NodeRecord {
        previous_key: None,
        newest_used: true,
        ..record.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, previous: Option<&str>, used: bool) -> NodeRecord {
        NodeRecord {
            key: key.into(),
            previous_key: previous.map(Into::into),
            newest_used: used,
            removed: None,
        }
    }

    fn token(node: &str, key: &str, replaces: Option<&str>) -> TokenRecord {
        TokenRecord {
            expires: 9,
            node: node.into(),
            key: key.into(),
            replaces: replaces.map(Into::into),
        }
    }

    fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> RefusalCode {
        result.unwrap_err().code
    }

    #[test]
    fn first_claim_records_token_and_node() {
        let claim = claim(None, None, "pi-2", "a", 9, None).unwrap();
        assert_eq!(claim.token, Some(token("pi-2", "a", None)));
        assert_eq!(claim.node, Some(record("a", None, false)));
    }

    #[test]
    fn same_key_may_retry_and_another_may_not() {
        let used = token("pi-2", "a", None);
        let node = record("a", None, false);
        assert_eq!(
            claim(Some(&used), Some(&node), "pi-2", "a", 9, None),
            Ok(Claim {
                token: None,
                node: None
            })
        );
        assert_eq!(
            code(claim(Some(&used), Some(&node), "pi-2", "b", 9, None)),
            RefusalCode::TokenUsed
        );
        assert_eq!(
            code(claim(Some(&used), None, "pi-3", "a", 9, None)),
            RefusalCode::TokenUsed
        );
    }

    #[test]
    fn claim_cut_between_its_writes_is_completed() {
        let first = token("pi-2", "a", None);
        assert_eq!(
            claim(Some(&first), None, "pi-2", "a", 9, None).unwrap().node,
            Some(record("a", None, false))
        );
        let reflashed = token("pi-2", "b", Some("a"));
        let old = record("a", None, true);
        assert_eq!(
            claim(Some(&reflashed), Some(&old), "pi-2", "b", 9, None).unwrap().node,
            Some(record("b", None, false))
        );
        let since = record("c", None, true);
        assert_eq!(
            code(claim(Some(&reflashed), Some(&since), "pi-2", "b", 9, None)),
            RefusalCode::Superseded
        );
    }

    #[test]
    fn fresh_token_replaces_a_key_only_while_its_node_is_away() {
        let node = record("a", None, true);
        assert_eq!(
            code(claim(None, Some(&node), "pi-2", "b", 9, Some("a"))),
            RefusalCode::DuplicateName
        );
        let claimed = claim(None, Some(&node), "pi-2", "b", 9, None).unwrap();
        assert_eq!(claimed.node, Some(record("b", None, false)));
        assert_eq!(claimed.token, Some(token("pi-2", "b", Some("a"))));
        let again = claim(None, Some(&node), "pi-2", "a", 9, Some("a")).unwrap();
        assert_eq!(again.node, None);
    }

    #[test]
    fn removed_node_needs_a_fresh_token() {
        let removed = NodeRecord {
            removed: Some("lost".into()),
            ..record("a", None, true)
        };
        assert_eq!(code(admit(Some(&removed), "pi-2", "a")), RefusalCode::Removed);
        assert_eq!(
            code(renew(Some(&removed), "pi-2", "a", "b", true)),
            RefusalCode::Removed
        );
        let used = token("pi-2", "a", None);
        assert_eq!(
            code(claim(Some(&used), Some(&removed), "pi-2", "a", 9, None)),
            RefusalCode::Removed
        );
        assert_eq!(
            claim(None, Some(&removed), "pi-2", "a", 9, None).unwrap().node,
            Some(record("a", None, false))
        );
    }

    #[test]
    fn session_needs_the_newest_key_or_the_one_before_an_unused_one() {
        assert_eq!(admit(Some(&record("b", Some("a"), false)), "pi-2", "a"), Ok(None));
        assert_eq!(
            admit(Some(&record("b", Some("a"), false)), "pi-2", "b"),
            Ok(Some(record("b", None, true)))
        );
        assert_eq!(admit(Some(&record("b", None, true)), "pi-2", "b"), Ok(None));
        assert_eq!(
            code(admit(Some(&record("b", Some("a"), true)), "pi-2", "a")),
            RefusalCode::Superseded
        );
        assert_eq!(admit(None, "pi-2", "a"), Ok(Some(record("a", None, true))));
    }

    #[test]
    fn renewal_can_be_repeated_until_the_new_key_is_used() {
        let old = record("a", None, true);
        let renewed = renew(Some(&old), "pi-2", "a", "b", true).unwrap().unwrap();
        assert_eq!(renewed, record("b", Some("a"), false));
        assert_eq!(
            renew(Some(&renewed), "pi-2", "a", "b", true),
            Ok(None),
            "the answer was lost"
        );
        assert_eq!(
            renew(Some(&renewed), "pi-2", "a", "c", true),
            Ok(Some(record("c", Some("a"), false)))
        );
        let used = used(&renewed, "b").unwrap();
        assert_eq!(
            code(renew(Some(&used), "pi-2", "a", "d", true)),
            RefusalCode::Superseded
        );
        assert_eq!(code(renew(None, "pi-2", "a", "b", true)), RefusalCode::Superseded);
        assert!(renew(None, "pi-2", "a", "b", false).is_ok());
    }
}
