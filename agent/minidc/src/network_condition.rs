//! Tells the API how the pod network of this node is: the condition `NetworkUnavailable` of its Node object, of which this
//! is the only writer.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use minidc_kubelet::ControlPlane;
use minidc_net::NetworkState;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::local::STRATEGIC_MERGE_PATCH;

/// Between attempts while the Node object is not there yet, or refuses.
const RETRY: Duration = Duration::from_secs(2);

/// Writes the condition at each change, and at each return of the link when it was not written yet.
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
    let mut written: Option<NetworkState> = None;
    let mut since: Option<(bool, Timestamp)> = None;
    loop {
        let now = state.borrow_and_update().clone();
        let is_connected = *connected.borrow_and_update();
        let mut retry = false;
        if is_connected && written.as_ref() != Some(&now) {
            let changed = match since {
                Some((ready, at)) if ready == now.ready => at,
                _ => Timestamp::now(),
            };
            since = Some((now.ready, changed));
            let answer = upstream
                .request(
                    "PATCH",
                    format!("/api/v1/nodes/{node}/status"),
                    STRATEGIC_MERGE_PATCH,
                    condition(&now, changed),
                )
                .await;
            match answer {
                Ok((200, _)) => written = Some(now),
                Ok((code, body)) => {
                    tracing::debug!(code, body = %String::from_utf8_lossy(&body), "write the condition NetworkUnavailable");
                    retry = true;
                }
                // the link's return wakes the loop
                Err(_) => {}
            }
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { break },
            changed = connected.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(RETRY), if retry => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
    shutdown.cancelled().await;
    Ok(())
}

fn condition(state: &NetworkState, since: Timestamp) -> Vec<u8> {
    let seconds = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = json!({
        "type": "NetworkUnavailable",
        "status": if state.ready { "False" } else { "True" },
        "reason": state.reason(),
        "message": state.message(),
        "lastTransitionTime": seconds(since),
        "lastHeartbeatTime": seconds(Timestamp::now()),
    });
    json!({"status": {"conditions": [condition]}}).to_string().into_bytes()
}
