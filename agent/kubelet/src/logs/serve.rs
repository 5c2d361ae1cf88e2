//! One client that reads a log.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use minidc_api::streams::LogQuery;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;

use crate::context::Registry;
use crate::observed::State;

use super::{LogReader, Options};

/// Piece of the log in memory.
const PIECE: usize = 32 << 10;

/// A log that can be served.
pub(crate) struct Session {
    registry: Registry,
    query: LogQuery,
    /// The instance whose log this is.
    container: String,
    log: PathBuf,
    options: Options,
}

impl Session {
    /// `container` is the id of the instance that writes `log`.
    ///
    /// # Errors
    /// A sentence on what is wrong with the query.
    pub(crate) fn new(registry: Registry, query: LogQuery, container: String, log: PathBuf) -> Result<Self, String> {
        let ago = |seconds: u64| {
            let span = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            Timestamp::now().checked_sub(span).unwrap_or(Timestamp::MIN)
        };
        let since = match (&query.since_time, query.since_seconds) {
            (Some(time), _) => Some(time.parse().map_err(|error| format!("sinceTime {time}: {error}"))?),
            (None, seconds) => seconds.map(ago),
        };
        let options = Options {
            timestamps: query.timestamps,
            tail: query.tail_lines,
            since,
            limit: query.limit_bytes,
        };
        Ok(Self {
            registry,
            query,
            container,
            log,
            options,
        })
    }

    /// Writes until the end of the log; when following, until the container has ended or the client is gone.
    pub(crate) async fn run(self, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let (mut reader, mut writer) = tokio::io::split(io);
        let gone = async {
            // The client has nothing to say: whatever ends this reading is its end.
            let mut ignored = [0; 64];
            while matches!(reader.read(&mut ignored).await, Ok(1..)) {}
        };
        tokio::select! {
            result = self.copy(&mut writer) => if let Err(error) = result {
                tracing::debug!(log = %self.log.display(), %error, "reading a log ended");
            },
            () = gone, if self.query.follow => {}
        }
        let _ = writer.shutdown().await;
    }

    async fn copy(&self, writer: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        // Watching starts before reading, so that nothing is written unseen in between.
        let mut notify = if self.query.follow {
            Some(Watcher::new(&self.log)?)
        } else {
            None
        };
        let mut changes = self.registry.changes();
        let (log, options) = (self.log.clone(), self.options.clone());
        let mut reader = blocking(move || LogReader::open(&log, options)).await?;
        let mut piece = Vec::with_capacity(PIECE);
        loop {
            changes.mark_unchanged();
            let running = self.is_running();
            (reader, piece) = blocking(move || {
                piece.clear();
                reader.read(&mut piece, PIECE)?;
                Ok((reader, piece))
            })
            .await?;
            if !piece.is_empty() {
                writer.write_all(&piece).await?;
                writer.flush().await?;
                continue;
            }
            // It was not running any more when the end of its log was reached.
            let Some(notify) = notify.as_mut().filter(|_| running && !reader.limit_reached()) else {
                return Ok(());
            };
            tokio::select! {
                changed = notify.changed() => changed?,
                _ = changes.changed() => {}
            }
        }
    }

    fn is_running(&self) -> bool {
        let of = &self.query.of;
        let seen = self.registry.find(&of.namespace, &of.pod, &of.uid);
        seen.is_some_and(|seen| {
            let mut instances = seen.observed.containers.iter();
            instances.any(|container| container.id == self.container && container.state == State::Running)
        })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

/// Tells when something happens in the directory of a log: the file grows, or is renamed and made anew.
struct Watcher {
    /// tokio reads an inotify descriptor as it reads a pipe; what it says in detail does not matter.
    events: pipe::Receiver,
}

impl Watcher {
    fn new(log: &Path) -> std::io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let directory = log.parent().unwrap_or(log);
        inotify.add_watch(
            directory,
            AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO,
        )?;
        let descriptor = inotify.as_fd().try_clone_to_owned()?;
        Ok(Self {
            events: pipe::Receiver::from_file_unchecked(descriptor.into())?,
        })
    }

    async fn changed(&mut self) -> std::io::Result<()> {
        // Room for many events: one wake-up for a burst of lines.
        let mut events = [0; 4 << 10];
        self.events.read(&mut events).await.map(drop)
    }
}
