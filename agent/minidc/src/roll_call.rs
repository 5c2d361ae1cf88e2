//! On the control plane: which nodes are not heard of, how the lights of each are, and which are to show themselves; all from
//! the Node objects as they are stored.
//!
//! The only writer of the annotation `minidc.dev/locate` besides people: it takes it back when the time is over.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use anyhow::Context;
use http::Method;
use minidc_api::kinds;
use minidc_apiserver::ApiServer;
use minidc_hardware::{Reason, State};
use minidc_link::{protocol::Command, server::Server};
use minidc_store::Store;
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    local::{JSON, Local, MERGE_PATCH},
    sessions::LED_ANNOTATION,
};

/// Annotation of a node that a person puts there to have the board show itself.
pub(crate) const LOCATE_ANNOTATION: &str = "minidc.dev/locate";
/// How long a board shows itself.
const LOCATE: Duration = Duration::from_secs(60);
/// Between two attempts to reach a node that is to show itself.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of all nodes, by their names.
pub(crate) type Roll = BTreeMap<String, Seen>;

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// It is not heard of.
    pub(crate) lost: bool,
    /// What its lights say; [`State::Lost`] when it is not heard of.
    pub(crate) state: State,
    /// A person wants to find it.
    pub(crate) wanted: bool,
}

impl Seen {
    fn of(node: &Value) -> Self {
        let annotation = |name: &str| node["metadata"]["annotations"][name].as_str();
        let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
        let lost = conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "Unknown");
        let said = annotation(LED_ANNOTATION).unwrap_or_default();
        let state = Reason::ALL.into_iter().find(|reason| reason.to_string() == said);
        Self {
            lost,
            state: match state {
                _ if lost => State::Lost,
                Some(reason) => reason.state(),
                None => State::Joining,
            },
            wanted: annotation(LOCATE_ANNOTATION).is_some_and(|wanted| wanted == "true"),
        }
    }
}

/// Follows the Node objects.
///
/// # Errors
/// If the store does not let itself be watched.
pub(crate) async fn run(
    store: Store,
    api: ApiServer,
    link: Server,
    roll: watch::Sender<Roll>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let prefix = kinds::by_resource("", "v1", "nodes")
        .context("no such kind")?
        .store_prefix();
    let own = Local::new(&api, "system:minidc", &["system:masters"]);
    let mut shown: HashMap<String, Instant> = HashMap::new();
    let mut changes = store.watch(&prefix, store.revision())?;
    loop {
        let (_, body) = own.call(Method::GET, "/api/v1/nodes", JSON, Vec::new()).await;
        let list: Value = serde_json::from_slice(&body).unwrap_or_default();
        let nodes = list["items"].as_array().into_iter().flatten();
        let now: Roll = nodes
            .filter_map(|node| Some((node["metadata"]["name"].as_str()?.to_owned(), Seen::of(node))))
            .collect();
        let again = locate(&own, &link, &now, &mut shown).await;
        roll.send_if_modified(|present| {
            let news = *present != now;
            if news {
                *present = now;
            }
            news
        });
        let wait = async {
            match again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            change = changes.next() => match change {
                // what came meanwhile is in the same list
                Ok(_) => while let Ok(Some(_)) = changes.try_next() {},
                Err(_) => changes = store.watch(&prefix, store.revision())?,
            },
            () = wait => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Tells nodes that are wanted to show themselves, and those that are no more to stop; returns when to look again.
async fn locate(own: &Local, link: &Server, roll: &Roll, shown: &mut HashMap<String, Instant>) -> Option<Instant> {
    let now = Instant::now();
    let mut again: Option<Instant> = None;
    let mut at = |time: Instant| again = Some(again.map_or(time, |known| known.min(time)));
    for (name, _) in roll.iter().filter(|(_, seen)| seen.wanted) {
        match shown.get(name) {
            Some(end) if *end > now => at(*end),
            Some(_) => {
                let patch = json!({"metadata": {"annotations": {LOCATE_ANNOTATION: null}}});
                let path = format!("/api/v1/nodes/{name}");
                let (status, _) = own
                    .call(Method::PATCH, &path, MERGE_PATCH, patch.to_string().into())
                    .await;
                if status.is_success() {
                    shown.remove(name);
                } else {
                    at(now + RETRY);
                }
            }
            None => {
                let seconds = u32::try_from(LOCATE.as_secs()).unwrap_or(u32::MAX);
                // one that is away is told when it is back
                if link.command(name, Command::Locate { seconds }).await.is_ok() {
                    shown.insert(name.clone(), now + LOCATE);
                    at(now + LOCATE);
                } else {
                    at(now + RETRY);
                }
            }
        }
    }
    // whose annotation a person took away
    let ended: Vec<String> = shown
        .keys()
        .filter(|name| !roll.get(*name).is_some_and(|seen| seen.wanted))
        .cloned()
        .collect();
    for name in ended {
        shown.remove(&name);
        let _ = link.command(&name, Command::Locate { seconds: 0 }).await;
    }
    again
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(ready: &str, led: &str, locate: Option<&str>) -> Seen {
        Seen::of(&json!({
            "metadata": {"name": "pi-2", "annotations": {LED_ANNOTATION: led, LOCATE_ANNOTATION: locate}},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
    }

    #[test]
    fn a_node_is_lost_when_nobody_knows_how_it_is() {
        assert_eq!(seen("True", "ready", None).state, State::Ready);
        assert_eq!(seen("False", "degraded (runtime-down)", None).state, State::Degraded);
        let silent = seen("Unknown", "ready", None);
        assert!(silent.lost && silent.state == State::Lost);
        assert!(!seen("False", "degraded (runtime-down)", None).lost);
    }

    #[test]
    fn only_true_means_that_it_is_wanted() {
        assert!(seen("True", "ready", Some("true")).wanted);
        assert!(!seen("True", "ready", Some("false")).wanted && !seen("True", "ready", None).wanted);
    }
}
