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
/// What could not be told, since the control plane is away, is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);

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
        let mut telling = Telling::default();
        loop {
            let now = Arc::clone(&states.borrow_and_update());
            let (due, mut again) = telling.due(&now, Instant::now());
            for (label, saying) in due {
                if tell(&directory, &reports, &label, &saying).await {
                    telling.told.extend(now.get(&label).map(|state| (label, state.clone())));
                } else {
                    let retry = Instant::now() + RETRY;
                    again = Some(again.map_or(retry, |earlier| earlier.min(retry)));
                }
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

/// What was told of each name.
#[derive(Default)]
struct Telling {
    told: BTreeMap<String, NameState>,
    /// Since when a name cannot be announced.
    unavailable: BTreeMap<String, Instant>,
}

impl Telling {
    /// What is to be told now, by name, and when there may be more without news.
    fn due(&mut self, states: &BTreeMap<String, NameState>, now: Instant) -> (Vec<(String, Saying)>, Option<Instant>) {
        self.told.retain(|label, _| states.contains_key(label));
        self.unavailable
            .retain(|label, _| matches!(states.get(label), Some(NameState::Unavailable { .. })));
        let (mut due, mut again) = (Vec::new(), None);
        for (label, state) in states {
            if self.told.get(label) == Some(state) {
                continue;
            }
            if let NameState::Unavailable { .. } = state {
                // Avahi is started again within moments, which nobody needs to hear of
                let at = *self.unavailable.entry(label.clone()).or_insert(now) + PATIENCE;
                if at > now {
                    again = Some(again.map_or(at, |earlier: Instant| earlier.min(at)));
                    continue;
                }
            }
            due.extend(saying(label, state).map(|saying| (label.clone(), saying)));
        }
        (due, again)
    }
}

/// Writes the event. Returns false when it should be tried again.
async fn tell(directory: &Directory, reports: &Reports, label: &str, saying: &Saying) -> bool {
    // a name that is another node's by now is that one's to tell of
    let Some((key, service)) = directory.named(label) else {
        return true;
    };
    let about = About {
        kind: "Service",
        namespace: &key.namespace,
        name: &key.name,
        uid: service.uid.as_deref(),
    };
    reports
        .write(&about, saying.warning, saying.reason, &saying.message)
        .await
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

    #[test]
    fn what_could_not_be_told_is_told_later_and_then_no_more() {
        let taken = NameState::Collision { with: None };
        let states = BTreeMap::from([
            ("web".to_owned(), taken.clone()),
            ("shop".to_owned(), NameState::Claiming),
        ]);
        let (mut telling, now) = (Telling::default(), Instant::now());
        let due = |telling: &mut Telling, states: &_, after| -> (Vec<String>, bool) {
            let (due, again) = telling.due(states, now + after);
            (due.into_iter().map(|(label, _)| label).collect(), again.is_some())
        };
        let web = vec!["web".to_owned()];
        assert_eq!(due(&mut telling, &states, Duration::ZERO), (web.clone(), false));
        assert_eq!(
            due(&mut telling, &states, RETRY),
            (web.clone(), false),
            "nobody heard it"
        );
        telling.told.insert("web".to_owned(), taken);
        assert_eq!(due(&mut telling, &states, RETRY), (Vec::new(), false));
        // A name that is ours no more and comes back is told of again.
        assert_eq!(due(&mut telling, &BTreeMap::new(), RETRY), (Vec::new(), false));
        assert_eq!(due(&mut telling, &states, RETRY).0, web);
    }

    #[test]
    fn a_moment_without_avahi_is_not_told_of() {
        let reason = "no Avahi".to_owned();
        let states = BTreeMap::from([("web".to_owned(), NameState::Unavailable { reason })]);
        let (mut telling, now) = (Telling::default(), Instant::now());
        let (due, again) = telling.due(&states, now);
        assert!(due.is_empty());
        assert_eq!(again, Some(now + PATIENCE));
        assert_eq!(telling.due(&states, now + PATIENCE).0.len(), 1);
    }
}
