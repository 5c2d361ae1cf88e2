//! Names for people: says by an event on the Service how the name of a load balancer on the LAN does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use minidc_link::names::{Announcer, NameState};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    directory::Directory,
    reports::{About, Reports},
};

/// A name that cannot be announced for so long is told of.
const PATIENCE: Duration = Duration::from_secs(10);

/// Announces the names of load balancers that this node has, until `shutdown`; then takes them back.
///
/// # Errors
/// None at present.
pub(crate) async fn run(
    directory: Arc<Directory>,
    reports: Reports,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let announcer = Announcer::new();
    let mut states = announcer.states();
    let announcing = announcer.run(directory.names(), shutdown.clone());
    let reporting = async {
        let mut told: BTreeMap<String, NameState> = BTreeMap::new();
        let mut unavailable: BTreeMap<String, Instant> = BTreeMap::new();
        loop {
            let now = Arc::clone(&states.borrow_and_update());
            told.retain(|label, _| now.contains_key(label));
            unavailable.retain(|label, _| matches!(now.get(label), Some(NameState::Unavailable { .. })));
            let mut again = None;
            for (label, state) in now.iter() {
                if told.get(label) == Some(state) {
                    continue;
                }
                if let NameState::Unavailable { .. } = state {
                    // Avahi is started again within moments, which nobody needs to hear of
                    let due = *unavailable.entry(label.clone()).or_insert_with(Instant::now) + PATIENCE;
                    if due > Instant::now() {
                        again = Some(again.map_or(due, |earlier: Instant| earlier.min(due)));
                        continue;
                    }
                }
                let Some(saying) = saying(label, state) else { continue };
                told.insert(label.clone(), state.clone());
                let Some((key, service)) = directory.named(label) else {
                    continue;
                };
                let about = About {
                    kind: "Service",
                    namespace: &key.namespace,
                    name: &key.name,
                    uid: service.uid.as_deref(),
                };
                reports
                    .write(&about, saying.warning, saying.reason, &saying.message)
                    .await;
            }
            let later = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                () = later => {}
            }
        }
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(announcing, reporting) } => {}
        () = shutdown.cancelled() => {}
    }
    shutdown.cancelled().await;
    Ok(())
}

struct Saying {
    warning: bool,
    reason: &'static str,
    message: String,
}

fn saying(label: &str, state: &NameState) -> Option<Saying> {
    let (warning, reason, message) = match state {
        NameState::Claiming => return None,
        NameState::Announced => (
            false,
            "NameAnnounced",
            format!("{label}.local is announced on the network"),
        ),
        NameState::Collision { with } => {
            let with = with.map(|address| format!(" ({address})")).unwrap_or_default();
            let message = format!(
                "another machine on the network{with} has the name {label}.local; it is asked for again each minute"
            );
            (true, "NameTaken", message)
        }
        NameState::Unavailable { reason } => (
            true,
            "NameNotAnnounced",
            format!("{label}.local cannot be announced: {reason}"),
        ),
    };
    Some(Saying {
        warning,
        reason,
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_read_names_the_name_and_who_has_it() {
        let with = Some("10.0.0.9".parse().unwrap());
        let taken = saying("web", &NameState::Collision { with }).unwrap();
        assert!(taken.warning && taken.message.contains("web.local") && taken.message.contains("10.0.0.9"));
        assert!(saying("web", &NameState::Claiming).is_none());
    }
}
