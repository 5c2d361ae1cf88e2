//! A live session as the rest of the node uses it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::sync::{Semaphore, oneshot};

use crate::Error;
use crate::protocol::{self, ApiRequest, ApiResponse, ArchiveReply, MAX_FRAME, MAX_OPENING, NodeFrame, StreamOpen};
use crate::session::{Opener, Outbox};

/// Requests under way at once; the control plane allows some more.
const REQUESTS: usize = 32;
/// An answer that takes longer is given up.
const ANSWER_TIME: Duration = Duration::from_secs(30);

pub(super) struct Up {
    pub(super) outbox: Outbox<NodeFrame>,
    opener: Opener,
    waiting: Mutex<HashMap<u64, oneshot::Sender<ApiResponse>>>,
    next: AtomicU64,
    permits: Semaphore,
}

impl Up {
    pub(super) fn new(outbox: Outbox<NodeFrame>, opener: Opener) -> Self {
        Self {
            outbox,
            opener,
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            permits: Semaphore::new(REQUESTS),
        }
    }

    /// The session is over: whoever waits for an answer gets none.
    pub(super) fn close(&self) {
        self.permits.close();
        self.waiting().clear();
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<ApiResponse>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn answered(&self, response: ApiResponse) {
        if let Some(sender) = self.waiting().remove(&response.id) {
            // Whoever asked may have given up.
            let _ = sender.send(response);
        }
    }

    pub(super) async fn request(
        &self,
        method: &str,
        path: String,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<(u16, Vec<u8>), Error> {
        if body.len() > MAX_FRAME - 8192 {
            return Err(Error::protocol(
                "send a request",
                format_args!("a body of {} bytes is too long for the link", body.len()),
            ));
        }
        let _permit = self.permits.acquire().await.map_err(|_| Error::Offline)?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting().insert(id, sender);
        // Forget the entry also when this future is dropped.
        let _forget = Forget { up: self, id };
        if self.permits.is_closed() {
            return Err(Error::Offline);
        }
        let request = ApiRequest {
            id,
            method: method.to_owned(),
            path,
            content_type: content_type.to_owned(),
            body,
        };
        self.outbox.send(NodeFrame::Request(request)).await?;
        match tokio::time::timeout(ANSWER_TIME, answer).await {
            Ok(Ok(response)) => Ok((response.status, response.body)),
            Ok(Err(_)) => Err(Error::Offline),
            Err(_) => Err(Error::protocol(
                "wait for an answer",
                format_args!("none came within {} s", ANSWER_TIME.as_secs()),
            )),
        }
    }

    pub(super) async fn image_archive(&self, name: &str) -> Result<(u64, Box<dyn AsyncRead + Send + Unpin>), Error> {
        let talk = async {
            let mut stream = self
                .opener
                .bulk(&StreamOpen::ImageArchive { name: name.to_owned() })
                .await?;
            match protocol::decode(&protocol::read_frame(&mut stream, MAX_OPENING).await?)? {
                ArchiveReply::Ready { size } => Ok((size, Box::new(stream) as Box<dyn AsyncRead + Send + Unpin>)),
                ArchiveReply::Refused { code, message } => Err(Error::Status {
                    attempt: format!("fetch image {name}"),
                    code,
                    message,
                }),
            }
        };
        tokio::time::timeout(ANSWER_TIME, talk)
            .await
            .unwrap_or_else(|_| Err(Error::protocol("fetch an image", "the control plane does not answer")))
    }
}

struct Forget<'a> {
    up: &'a Up,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.up.waiting().remove(&self.id);
    }
}
