//! A control plane for tests: takes every request, remembers it, and can be away.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::io::AsyncRead;
use tokio::sync::watch;

use crate::control_plane::{ControlPlane, Offline};

/// A request that was made.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) body: Value,
}

pub(crate) struct RecordingControlPlane {
    requests: watch::Sender<Vec<Recorded>>,
    connected: watch::Sender<bool>,
}

impl Default for RecordingControlPlane {
    fn default() -> Self {
        Self {
            requests: watch::Sender::new(Vec::new()),
            connected: watch::Sender::new(true),
        }
    }
}

impl RecordingControlPlane {
    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.send_replace(connected);
    }

    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.requests.borrow().clone()
    }

    /// Waits until the requests so far fulfil `condition`, and fails the test after a minute.
    pub(crate) async fn wait(&self, condition: impl Fn(&[Recorded]) -> bool) {
        let mut requests = self.requests.subscribe();
        let waited = tokio::time::timeout(
            Duration::from_secs(60),
            requests.wait_for(|requests| condition(requests)),
        )
        .await;
        assert!(waited.is_ok(), "requests so far: {:#?}", self.requests());
    }
}

impl ControlPlane for RecordingControlPlane {
    fn request(
        &self,
        method: &'static str,
        path: String,
        _content_type: &'static str,
        body: Vec<u8>,
    ) -> BoxFuture<'static, Result<(u16, Vec<u8>), Offline>> {
        if !*self.connected.borrow() {
            return async { Err(Offline) }.boxed();
        }
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        self.requests
            .send_modify(|requests| requests.push(Recorded { method, path, body }));
        async { Ok((200, b"{}".to_vec())) }.boxed()
    }

    fn image_archive(&self, _name: String) -> BoxFuture<'static, Result<Box<dyn AsyncRead + Send + Unpin>, Offline>> {
        async { Ok(Box::new(std::io::Cursor::new(Vec::new())) as Box<dyn AsyncRead + Send + Unpin>) }.boxed()
    }

    fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }
}
