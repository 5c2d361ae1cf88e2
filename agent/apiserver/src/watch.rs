//! `watch`: the store's changes as events of one client, seen through its selectors.

use std::collections::VecDeque;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use minidc_api::kinds::Kind;
use minidc_api::status::Status;
use minidc_api::table;
use minidc_store::{Change, Entry, Revision};
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::call::Call;
use crate::error::Failure;
use crate::limits::Place;
use crate::negotiate::Form;
use crate::read::{invalid_options, version};
use crate::request::Query;
use crate::respond::{self, Shape};
use crate::selection::Selection;
use crate::strategy::is_stored;

/// How often a client that asked for bookmarks gets one; Kubernetes' interval.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A watch without `timeoutSeconds` ends after one to two times this; Kubernetes' `--min-request-timeout`.
const SHORTEST: u64 = 1800;
/// Marks the bookmark that ends the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

struct WatchOptions {
    /// Changes after this; `None` for a snapshot first.
    from: Option<Revision>,
    /// A snapshot, ended by a bookmark.
    marked: bool,
    /// Start now, without a snapshot.
    only_new: bool,
    bookmarks: bool,
    lifetime: Duration,
}

impl WatchOptions {
    fn from_query(query: &Query) -> Result<Self, Failure> {
        let from = version(query)?.filter(|version| *version != 0);
        let mode = query.given("resourceVersionMatch");
        let initial = query
            .given("sendInitialEvents")
            .map(|_| query.flag("sendInitialEvents"));
        let bookmarks = query.flag("allowWatchBookmarks");
        match (initial, mode) {
            (None, Some(_)) => {
                return Err(invalid_options(
                    "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
            (Some(_), None) => {
                return Err(invalid_options(
                    "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            (Some(_), Some(other)) if other != "NotOlderThan" => {
                return Err(invalid_options(&format!(
                    "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"NotOlderThan\""
                )));
            }
            _ => {}
        }
        let seconds = match query.number("timeoutSeconds")? {
            Some(seconds) if seconds > 0 => u64::try_from(seconds).unwrap_or(SHORTEST),
            // Spread, so that clients that came together do not all come back together.
            _ => SHORTEST + uuid::Uuid::new_v4().as_u64_pair().1 % SHORTEST,
        };
        Ok(Self {
            from: if initial == Some(true) { None } else { from },
            marked: initial == Some(true) && bookmarks,
            only_new: initial == Some(false) && from.is_none(),
            bookmarks,
            lifetime: Duration::from_secs(seconds),
        })
    }
}

/// `watch`.
pub(crate) fn watch(call: &Call, selection: Selection, place: Place) -> Result<Response, Failure> {
    if !is_stored(call.kind) {
        return Err(Status::method_not_supported(call.kind, "watch").into());
    }
    let shape = call.shape()?;
    let options = WatchOptions::from_query(&call.query)?;
    let store = &call.server.store;
    let prefix = call.prefix();
    let (initial, from) = match options.from {
        Some(from) => (Vec::new(), from),
        None if options.only_new => (Vec::new(), store.revision()),
        None => store.list(&prefix),
    };
    let started = store.watch(&prefix, from);
    let mut events = Events {
        kind: call.kind,
        shape,
        first: true,
    };
    let changes = match started {
        Ok(changes) => changes,
        // As Kubernetes: what is wrong with the version is said inside the stream.
        Err(error) => return Ok(stream_response(Body::from(refusal(&error, from).watch_event()))),
    };
    let mut ready: VecDeque<Entry> = initial.into();
    ready.retain(|entry| selection.matches(entry));
    let marker = options.marked.then_some(from);
    let mut bookmark = tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
    bookmark.set_missed_tick_behavior(MissedTickBehavior::Delay);
    events.first = true;
    let state = Watching {
        events,
        selection,
        ready,
        marker,
        changes,
        bookmark: options.bookmarks.then_some(bookmark),
        deadline: Instant::now() + options.lifetime,
        from,
        ended: false,
        _place: place,
    };
    let stream = futures::stream::unfold(state, |mut state| async move {
        let piece = state.next().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), state))
    });
    Ok(stream_response(Body::from_stream(stream)))
}

fn stream_response(body: Body) -> Response {
    respond::json(StatusCode::OK, body)
}

/// Why a watch cannot go on; 410 makes every client list anew.
fn refusal(error: &minidc_store::Error, from: Revision) -> Failure {
    use minidc_store::Error;
    match error {
        Error::Compacted { oldest } => Status::too_old_version(from, *oldest).into(),
        // A revision of another store, or of this one before it was put back: only a new list helps.
        Error::Ahead { current, .. } => Status::too_old_version(from, *current).into(),
        Error::Lagged { .. } => Status::expired("The resourceVersion for the provided watch is too old.").into(),
        Error::Closed => Status::service_unavailable("the server is shutting down").into(),
        other => Failure::store(other),
    }
}

struct Watching {
    events: Events,
    selection: Selection,
    /// Objects of the snapshot that were not sent yet.
    ready: VecDeque<Entry>,
    /// Revision of the bookmark that ends the snapshot, until it is sent.
    marker: Option<Revision>,
    changes: minidc_store::Watch,
    bookmark: Option<Interval>,
    deadline: Instant,
    from: Revision,
    ended: bool,
    _place: Place,
}

impl Watching {
    /// The next event or events, until the watch ends.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        while let Some(entry) = self.ready.pop_front() {
            if let Some(event) = self.events.entry("ADDED", &entry, entry.revision) {
                return Some(event);
            }
        }
        if let Some(revision) = self.marker.take() {
            return Some(self.events.bookmark(revision, true));
        }
        loop {
            let due = async {
                match &mut self.bookmark {
                    Some(interval) => {
                        interval.tick().await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(self.deadline) => {
                    self.ended = true;
                    // A last bookmark spares the client events it has seen when it comes back.
                    return self.bookmark.is_some().then(|| self.events.bookmark(self.changes.progress(), false));
                }
                change = self.changes.next() => match change {
                    Ok(change) => {
                        if let Some(event) = self.events.change(&self.selection, &change) {
                            return Some(event);
                        }
                    }
                    Err(error) => {
                        self.ended = true;
                        return Some(refusal(&error, self.from).watch_event());
                    }
                },
                () = due => return Some(self.events.bookmark(self.changes.progress(), false)),
            }
        }
    }
}

/// Writes events in the form that the client asked for.
struct Events {
    kind: &'static Kind,
    shape: Shape,
    /// No table was sent yet: the first carries the columns.
    first: bool,
}

impl Events {
    /// The event that a change is to a client with this selection; `None` when it concerns other objects only.
    fn change(&mut self, selection: &Selection, change: &Change) -> Option<Bytes> {
        match change {
            Change::Put { entry, previous } => {
                let before = previous.as_ref().filter(|previous| selection.matches(previous));
                match (before, selection.matches(entry)) {
                    (None, true) => self.entry("ADDED", entry, entry.revision),
                    (Some(_), true) => self.entry("MODIFIED", entry, entry.revision),
                    // For this client the object is gone; it is shown as it was, at the revision of the change.
                    (Some(previous), false) => self.entry("DELETED", previous, entry.revision),
                    (None, false) => None,
                }
            }
            Change::Delete { previous, revision } => selection
                .matches(previous)
                .then(|| self.entry("DELETED", previous, *revision))
                .flatten(),
        }
    }

    /// One event; `None` if the stored object cannot be read as JSON, which a table or bare metadata need.
    fn entry(&mut self, event: &str, entry: &Entry, revision: Revision) -> Option<Bytes> {
        let json = entry.envelope.spliced(revision);
        match self.shape.form {
            Form::Object => Some(line(event, &json)),
            Form::Metadata => Some(line(event, &respond::metadata_only(&json).ok()?)),
            Form::Table => {
                let object: Value = serde_json::from_slice(&json).ok()?;
                Some(self.table(event, &object))
            }
        }
    }

    fn table(&mut self, event: &str, object: &Value) -> Bytes {
        let first = std::mem::take(&mut self.first);
        let table = table::watch_table(self.kind, object, self.shape.include, first, Timestamp::now());
        line(event, table.to_string().as_bytes())
    }

    /// A bookmark: an object with nothing but its kind and a version.
    fn bookmark(&mut self, revision: Revision, ends_initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let (kind, api_version) = match self.shape.form {
            Form::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
            _ => (self.kind.kind, self.kind.api_version()),
        };
        let object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        if self.shape.form == Form::Table {
            return self.table("BOOKMARK", &object);
        }
        line("BOOKMARK", object.to_string().as_bytes())
    }
}

fn line(event: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + event.len() + 24);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(event.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.into()
}
