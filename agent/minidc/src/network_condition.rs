//! Tells the API how the pod network of this node is: the conditions `NetworkUnavailable` and `NetworkDegraded` of its Node
//! object, of which this is the only writer.
//!
//! `NetworkUnavailable` is Kubernetes' own: no pod can be started here. `NetworkDegraded` is ours: pods run, but somebody
//! ought to look, as when the rack was plugged into a network with the same addresses as its pods.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use minidc_kubelet::ControlPlane;
use minidc_net::NetworkState;
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::local::STRATEGIC_MERGE_PATCH;

/// Between attempts while the Node object is not there yet, or refuses.
const RETRY: Duration = Duration::from_secs(2);
/// Between two writes that only say more exactly what was said before: each is a write to the control plane's disk.
const SPACING: Duration = Duration::from_secs(10);

/// A condition's status and since when it has it.
#[derive(Clone, Copy)]
struct Since {
    is: bool,
    at: Timestamp,
}

impl Since {
    fn follow(before: Option<Self>, is: bool) -> Self {
        match before {
            Some(before) if before.is == is => before,
            _ => Self {
                is,
                at: Timestamp::now(),
            },
        }
    }
}

/// Writes the conditions at each change, and at each return of the link when they were not written yet.
///
/// # Errors
/// None at present.
pub(crate) async fn run(
    node: String,
    upstream: Arc<dyn ControlPlane>,
    mut state: watch::Receiver<NetworkState>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut connected = upstream.connected();
    let mut written: Option<(NetworkState, Instant)> = None;
    let (mut unavailable, mut degraded) = (None, None);
    loop {
        let now = state.borrow_and_update().clone();
        let is_connected = *connected.borrow_and_update();
        let mut again = None;
        if is_connected && let Some(at) = due(&now, written.as_ref()) {
            if at > Instant::now() {
                again = Some(at);
            } else {
                let unavailable = unavailable.insert(Since::follow(unavailable, !now.ready));
                let degraded = degraded.insert(Since::follow(degraded, !now.is_sound()));
                let answer = upstream
                    .request(
                        "PATCH",
                        format!("/api/v1/nodes/{node}/status"),
                        STRATEGIC_MERGE_PATCH,
                        conditions(&now, *unavailable, *degraded),
                    )
                    .await;
                match answer {
                    Ok((200, _)) => written = Some((now, Instant::now())),
                    Ok((code, body)) => {
                        tracing::debug!(code, body = %String::from_utf8_lossy(&body), "write the condition NetworkUnavailable");
                        again = Some(Instant::now() + RETRY);
                    }
                    // the link's return wakes the loop
                    Err(_) => {}
                }
            }
        }
        let wait = async {
            match again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = state.changed() => if changed.is_err() { break },
            changed = connected.changed() => if changed.is_err() { break },
            () = wait => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
    shutdown.cancelled().await;
    Ok(())
}

/// When `now` is to be written; never, if it was.
fn due(now: &NetworkState, written: Option<&(NetworkState, Instant)>) -> Option<Instant> {
    let Some((last, at)) = written else {
        return Some(Instant::now());
    };
    if last.ready != now.ready || last.is_sound() != now.is_sound() {
        Some(Instant::now())
    } else if last.problems != now.problems {
        Some(*at + SPACING)
    } else {
        None
    }
}

fn conditions(state: &NetworkState, unavailable: Since, degraded: Since) -> Vec<u8> {
    let seconds = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let heard = seconds(Timestamp::now());
    let condition = |kind: &str, since: Since, reason: &str, message: &str| -> Value {
        json!({
            "type": kind,
            "status": if since.is { "True" } else { "False" },
            "reason": reason,
            "message": message,
            "lastTransitionTime": seconds(since.at),
            "lastHeartbeatTime": heard,
        })
    };
    let message = state.message();
    let sound = if degraded.is { state.reason() } else { "NetworkSound" };
    json!({"status": {"conditions": [
        condition("NetworkUnavailable", unavailable, state.reason(), &message),
        condition("NetworkDegraded", degraded, sound, &message),
    ]}})
    .to_string()
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use minidc_net::{Problem, Reason};

    use super::*;

    fn state(ready: bool, reasons: &[Reason]) -> NetworkState {
        NetworkState {
            ready,
            problems: reasons
                .iter()
                .map(|reason| Problem {
                    reason: *reason,
                    message: "so".into(),
                })
                .collect(),
            ..NetworkState::default()
        }
    }

    fn statuses(state: &NetworkState) -> [String; 4] {
        let is = |is| Since::follow(None, is);
        let patch = conditions(state, is(!state.ready), is(!state.is_sound()));
        let patch: Value = serde_json::from_slice(&patch).unwrap();
        let text = |index: usize, field: &str| patch["status"]["conditions"][index][field].as_str().unwrap().to_owned();
        [
            text(0, "status"),
            text(0, "reason"),
            text(1, "status"),
            text(1, "reason"),
        ]
    }

    #[test]
    fn overlap_degrades_a_network_that_works() {
        assert_eq!(
            statuses(&state(true, &[])),
            ["False", "RouteCreated", "False", "NetworkSound"]
        );
        assert_eq!(
            statuses(&state(true, &[Reason::PodRangeOverlapsLan])),
            ["False", "PodRangeOverlapsLan", "True", "PodRangeOverlapsLan"]
        );
        assert_eq!(
            statuses(&state(true, &[Reason::PeerOutOfReach])),
            ["False", "PeerOutOfReach", "False", "NetworkSound"]
        );
        assert_eq!(
            statuses(&state(false, &[Reason::NoPodRange])),
            ["True", "NoPodRange", "True", "NoPodRange"]
        );
    }

    #[test]
    fn what_only_says_more_waits_and_what_changes_a_status_does_not() {
        let last = (state(true, &[Reason::PeerOutOfReach]), Instant::now());
        assert_eq!(due(&last.0, Some(&last)), None);
        assert!(due(&last.0, None).is_some_and(|at| at <= Instant::now()));
        let more = state(true, &[Reason::PeerOutOfReach, Reason::PeerOutOfReach]);
        assert_eq!(due(&more, Some(&last)), Some(last.1 + SPACING));
        let overlap = state(true, &[Reason::PodRangeOverlapsLan]);
        assert!(due(&overlap, Some(&last)).is_some_and(|at| at <= Instant::now()));
    }
}
