//! Changes of the stored records by compare-and-swap.

use super::{Put, Refusal, Server, Unavailable, Versioned};
use crate::admission::{self, NodeRecord};
use crate::protocol::RefusalCode;
use crate::token::Token;

/// Somebody else changing the same record is rare; being beaten this often means that the store is unwell.
const TRIES: usize = 8;

fn beaten(what: &str) -> Refusal {
    Refusal::new(
        RefusalCode::Unavailable,
        format!("{what} is being changed by others; try again"),
    )
}

fn split<T>(record: Option<Versioned<T>>) -> (Option<T>, Option<String>) {
    match record {
        Some(Versioned { value, version }) => (Some(value), Some(version)),
        None => (None, None),
    }
}

impl Server {
    /// Binds a verified token and a node name to a key.
    pub(super) async fn claim(&self, token: &Token, node: &str, key: &str) -> Result<(), Refusal> {
        let control = &self.inner.control;
        for _ in 0..TRIES {
            let (token_record, token_version) = split(control.token(token.id()).await?);
            let (node_record, node_version) = split(control.node(node).await?);
            let live = self.inner.registry.get(node).map(|live| live.key());
            let claim = admission::claim(
                token_record.as_ref(),
                node_record.as_ref(),
                node,
                key,
                token.expires(),
                live.as_deref(),
            )?;
            if let Some(record) = claim.token
                && control.put_token(token.id(), record, token_version).await? == Put::Conflict
            {
                continue;
            }
            if let Some(record) = claim.node {
                if control.put_node(node, record, node_version).await? == Put::Conflict {
                    continue;
                }
                // The board that had the name may have come back while we were writing.
                if let Some(live) = self.inner.registry.get(node).filter(|live| live.key() != key) {
                    live.end(Refusal::new(
                        RefusalCode::Superseded,
                        format!("another board has joined as {node}"),
                    ));
                }
            }
            return Ok(());
        }
        Err(beaten("the token or the node"))
    }

    /// Changes a node's record as `decide` says.
    pub(super) async fn change_node(
        &self,
        node: &str,
        decide: impl Fn(Option<&NodeRecord>) -> Result<Option<NodeRecord>, Refusal>,
    ) -> Result<(), Refusal> {
        let control = &self.inner.control;
        for _ in 0..TRIES {
            let (record, version) = split(control.node(node).await?);
            match decide(record.as_ref())? {
                None => return Ok(()),
                Some(record) => {
                    if control.put_node(node, record, version).await? == Put::Stored {
                        return Ok(());
                    }
                }
            }
        }
        Err(beaten("the node"))
    }

    /// Puts the key of the node that runs beside this control plane on record: its certificate was issued directly
    /// ([`ClusterIdentity::issue_local_node`](crate::pki::ClusterIdentity::issue_local_node)), so this needs no token. A removal stays in force.
    pub async fn trust_local(&self, node: &str, key: &str) -> Result<(), Refusal> {
        self.change_node(node, |record| match record {
            Some(record) if record.removed.is_some() || admission::admit(Some(record), node, key).is_ok() => Ok(None),
            _ => Ok(Some(NodeRecord::new(key))),
        })
        .await
    }

    /// Removes a node: its keys open nothing any more, and its session ends. A fresh token lets the board in again.
    pub async fn remove(&self, node: &str, reason: &str) -> Result<(), Unavailable> {
        let removed = self
            .change_node(node, |record| {
                let record = record.cloned().unwrap_or_else(|| NodeRecord::new(""));
                Ok(Some(NodeRecord {
                    removed: Some(reason.to_owned()),
                    ..record
                }))
            })
            .await;
        removed.map_err(|refusal| Unavailable(refusal.reason))?;
        self.disconnect(
            node,
            Refusal::new(
                RefusalCode::Removed,
                format!("node {node} was removed from the cluster: {reason}"),
            ),
        );
        Ok(())
    }

    /// The node says that the certificate for `key` is safe on its disk: keys before it open nothing any more.
    pub(super) async fn renewed(&self, node: &str, key: &str) -> Result<(), Refusal> {
        self.change_node(
            node,
            |record| Ok(record.and_then(|record| admission::used(record, key))),
        )
        .await
    }
}
