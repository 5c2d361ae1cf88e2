//! Names for people: says by an event on the Service how the name of a load balancer on the LAN does.

use std::{collections::BTreeMap, sync::Arc};

use minidc_link::names::{Announcer, NameState};
use tokio_util::sync::CancellationToken;

use crate::{
    directory::Directory,
    reports::{About, Reports},
};

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
        while states.changed().await.is_ok() {
            let now = Arc::clone(&states.borrow_and_update());
            told.retain(|label, _| now.contains_key(label));
            for (label, state) in now.iter() {
                let Some(saying) = saying(label, state) else { continue };
                if told.get(label) == Some(state) {
                    continue;
                }
                told.insert(label.clone(), state.clone());
                match saying {
                    Saying {
                        warning: true,
                        ref message,
                        ..
                    } => tracing::warn!("{message}"),
                    Saying { ref message, .. } => tracing::info!("{message}"),
                }
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
