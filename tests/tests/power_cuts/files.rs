//! The files beside the store: the cluster's identity, a node's identity, and what a node is to run.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result};
use minidc_api::feed::{Feed, FeedItem, FeedKind, FeedOp};
use minidc_link::{
    feed::Keeper,
    node::{IdentityFile, NodeIdentity},
    pki::ClusterIdentity,
    protocol::StoreId,
};
use minidc_tests::history::{Found, Written};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::{
    Subject,
    writer::{self, Log},
};

pub(crate) const SUBJECT: Subject = Subject {
    name: "files",
    write: |stage| writer::process("files", stage),
    find: |stage| find(&stage.data),
};

/// A writer as there must be none.
pub(crate) const CARELESS: Subject = Subject {
    name: "careless",
    write: |stage| writer::process("careless", stage),
    find: |stage| find_careless(&stage.data),
};

const CLUSTERS: usize = 8;
const CHANGES: usize = 40;

/// What the writer process does.
pub(crate) fn write(directory: &Path, log: &Log) -> Result<Vec<Written>> {
    let runtime = Runtime::new()?;
    let mut attempts = Vec::new();
    for cluster in 0..CLUSTERS {
        let directory = directory.join(cluster.to_string());
        let started = log.position()?;
        let made = ClusterIdentity::load_or_create(&directory.join("server/pki"), "rack1")?;
        attempts.push(Written {
            name: format!("{cluster} pki"),
            value: Some(made.pin().to_string()),
            started,
            acknowledged: log.position()?,
        });
        let agent = directory.join("agent");
        let identity = NodeIdentity::new("pi-1", "rack1", made.pin())?;
        let file = IdentityFile::within(&agent);
        for change in 0..CHANGES {
            let address = SocketAddr::from(([10, 0, 0, 1], u16::try_from(1000 + change)?));
            attempts.push(log.attempt(&format!("{cluster} node"), &address.to_string(), || {
                let last_good = Some(address);
                Ok(file.write(&NodeIdentity {
                    last_good,
                    ..identity.clone()
                })?)
            })?);
            let name = format!("{cluster} desired");
            attempts.push(log.attempt(&name, &change.to_string(), || {
                runtime.block_on(keep(&agent, change));
                Ok(())
            })?);
        }
    }
    Ok(attempts)
}

/// A node is told to run one pod, and stops.
async fn keep(agent: &Path, change: usize) {
    let keeper = Keeper::load(agent.join("desired.state"));
    keeper.begin(StoreId {
        identity: uuid::Uuid::nil(),
        revision: change as u64,
    });
    let json = format!(
        "{{\"metadata\":{{\"name\":\"p\",\"labels\":{{\"value\":\"{change}\"}}}},\"padding\":{:?}}}",
        "x".repeat(change * 300)
    );
    keeper.apply(Feed::Item(FeedItem {
        kind: FeedKind::Pod,
        namespace: "default".into(),
        name: "p".into(),
        revision: change as u64,
        op: FeedOp::Put(json.into_bytes()),
    }));
    keeper.apply(Feed::End {
        revision: change as u64,
    });
    let stop = CancellationToken::new();
    stop.cancel();
    keeper.run(stop).await;
}

fn find(data: &Path) -> Result<Found> {
    let mut found = Found::new();
    for cluster in 0..CLUSTERS {
        let directory = data.join(cluster.to_string());
        let pki = directory.join("server/pki");
        let agent = directory.join("agent");
        if pki.exists() {
            found.insert(format!("{cluster} pki"), ClusterIdentity::load(&pki)?.pin().to_string());
        }
        if let Some(identity) = IdentityFile::within(&agent).read()? {
            let address = identity.last_good.context("it was never written without an address")?;
            found.insert(format!("{cluster} node"), address.to_string());
        }
        let state = Keeper::load(agent.join("desired.state")).subscribe();
        for pod in state.borrow().items.values() {
            let object: serde_json::Value = serde_json::from_slice(&pod.json)?;
            let value = object
                .pointer("/metadata/labels/value")
                .and_then(|value| value.as_str());
            found.insert(
                format!("{cluster} desired"),
                value.context("a pod without value")?.to_owned(),
            );
        }
        // a start after the cut finds or makes an identity
        ClusterIdentity::load_or_create(&pki, "rack1")?;
    }
    Ok(found)
}

/// What the careless writer process does.
pub(crate) fn write_carelessly(directory: &Path, log: &Log) -> Result<Vec<Written>> {
    (0..50)
        .map(|number| {
            let name = number.to_string();
            let attempt = log.attempt(&name, "written", || {
                Ok(std::fs::write(directory.join(&name), "written")?)
            });
            // something that is flushed, so that there are places to cut at
            std::fs::File::create(directory.join("beside"))?.sync_all()?;
            attempt
        })
        .collect()
}

fn find_careless(data: &Path) -> Result<Found> {
    let names = (0..50).map(|number: u32| number.to_string());
    let values = names.filter_map(|name| Some((name.clone(), std::fs::read_to_string(data.join(name)).ok()?)));
    Ok(values.collect())
}
