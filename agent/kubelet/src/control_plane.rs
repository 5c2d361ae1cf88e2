//! The way from the kubelet to the API; the link implements it.

use futures::future::BoxFuture;
use tokio::io::AsyncRead;
use tokio::sync::watch;

/// The control plane could not be reached; try again once [`ControlPlane::connected`] says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane is away")]
pub struct Offline;

/// The API, seen as `system:node:NAME`.
pub trait ControlPlane: Send + Sync + 'static {
    /// One request; `path` includes the query. The answer is the HTTP status code and the body.
    fn request(
        &self,
        method: &'static str,
        path: String,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> BoxFuture<'static, Result<(u16, Vec<u8>), Offline>>;

    /// The bytes of the archive of the `Image` object `name`.
    fn image_archive(&self, name: String) -> BoxFuture<'static, Result<Box<dyn AsyncRead + Send + Unpin>, Offline>>;

    /// Whether the link is up now.
    fn connected(&self) -> watch::Receiver<bool>;
}

/// Returns once the link is up; for ever when nobody tells of it any more, which is when the agent ends.
pub(crate) async fn wait_until_connected(control_plane: &dyn ControlPlane) {
    let mut connected = control_plane.connected();
    if connected.wait_for(|connected| *connected).await.is_err() {
        std::future::pending::<()>().await;
    }
}
