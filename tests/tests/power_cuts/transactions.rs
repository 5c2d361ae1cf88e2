//! The store by itself: transactions of several keys, several writers at once, and a log that is rewritten all the time.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use minidc_store::{Envelope, Op, Options, Store, When};
use minidc_tests::history::{Found, Random, Written};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    Subject,
    writer::{self, Log},
};

pub(crate) const SUBJECT: Subject = Subject {
    name: "transactions",
    write: |stage| writer::process("transactions", stage),
    find: |stage| Runtime::new()?.block_on(find(&stage.data)),
};

const WRITERS: usize = 3;
const TRANSACTIONS: usize = 300;
/// Keys of one transaction.
const PARTS: [&str; 3] = ["a", "b", "c"];

/// Small limits, so that many cuts hit a rewrite.
fn options() -> Options {
    Options {
        compact_bytes: 128 << 10,
        compact_factor: 1,
        ..Options::default()
    }
}

/// What the writer process does.
pub(crate) fn write(directory: &Path, log: &Log) -> Result<Vec<Written>> {
    Runtime::new()?.block_on(async {
        let store = Store::open(directory.join("server/store"), options()).await?;
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write_some(writer, store.clone(), log.clone()));
        }
        let attempts = writers.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
        store.close().await;
        Ok(attempts.concat())
    })
}

async fn write_some(writer: usize, store: Store, log: Log) -> Result<Vec<Written>> {
    let mut random = Random(writer as u64);
    let mut attempts = Vec::new();
    for number in 0..TRANSACTIONS {
        let value = (random.below(8) > 0).then(|| number.to_string());
        let padding = "some text ".repeat(random.below(300));
        let started = log.position()?;
        let operations = PARTS.iter().map(|part| {
            let key = format!("k/{writer}/{part}");
            match &value {
                Some(value) => {
                    let json = format!("{{\"metadata\":{{}},\"value\":\"{value}\",\"padding\":\"{padding}{part}\"}}");
                    Op::Put {
                        key,
                        envelope: Envelope::new(json, 13, Box::default(), Box::default()),
                        when: When::Always,
                    }
                }
                None => Op::Delete {
                    key,
                    when: When::Always,
                },
            }
        });
        store.commit(operations.collect()).await?;
        attempts.push(Written {
            name: writer.to_string(),
            value,
            started,
            acknowledged: log.position()?,
        });
    }
    Ok(attempts)
}

async fn find(data: &Path) -> Result<Found> {
    let store = Store::open(data.join("server/store"), options()).await?;
    let mut found = Found::new();
    for writer in 0..WRITERS {
        let values = PARTS.map(|part| store.get(&format!("k/{writer}/{part}")));
        let values = values.map(|entry| {
            let entry = entry?;
            let object: serde_json::Value = serde_json::from_slice(&entry.envelope.json).ok()?;
            object["value"].as_str().map(ToOwned::to_owned)
        });
        ensure!(
            values.iter().all(|value| *value == values[0]),
            "half a transaction: {values:?}"
        );
        if let [Some(value), ..] = values {
            found.insert(writer.to_string(), value);
        }
    }
    // what was recovered can be written to
    let envelope = Envelope::new("{\"metadata\":{}}", 13, Box::default(), Box::default());
    let operation = Op::Put {
        key: "k/after".into(),
        envelope,
        when: When::Absent,
    };
    store.commit(vec![operation]).await.context("write after the cut")?;
    store.close().await;
    Ok(found)
}
