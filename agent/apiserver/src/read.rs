//! `get` and `list`.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::response::Response;
use base64::Engine as _;
use http::StatusCode;
use minidc_api::kinds::Kind;
use minidc_api::status::Status;
use minidc_store::{Entry, Revision, Store};
use serde::{Deserialize, Serialize};

use crate::call::Call;
use crate::error::Failure;
use crate::request::Query;
use crate::respond::{self, ListMeta};
use crate::selection::Selection;
use crate::strategy::is_stored;

/// Lists in pages that are kept for their next page.
const SNAPSHOTS: usize = 8;
/// How long a page's successor can be asked for; Kubernetes keeps five minutes of history.
const SNAPSHOT_AGE: Duration = Duration::from_secs(300);
const TOKEN: base64::engine::GeneralPurpose = base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// `get`.
pub(crate) fn get(call: &Call) -> Result<Response, Failure> {
    let shape = call.shape()?;
    if is_stored(call.kind) {
        let entry = call.server.metrics.shown(call.kind, call.stored()?, shape.form);
        return respond::entry(call.kind, &entry, shape, StatusCode::OK);
    }
    let store = &call.server.store;
    let found = call
        .server
        .metrics
        .objects(store, call.kind, &call.namespace, &call.name, &Selection::default());
    match found.first() {
        Some(value) => respond::value(call.kind, value, shape),
        None => Err(Status::not_found(call.kind, &call.name).into()),
    }
}

/// `list`.
pub(crate) fn list(call: &Call, selection: &Selection) -> Result<Response, Failure> {
    let shape = call.shape()?;
    if !is_stored(call.kind) {
        let store = &call.server.store;
        let values = call
            .server
            .metrics
            .objects(store, call.kind, &call.namespace, "", selection);
        return respond::list_values(call.kind, &values, shape);
    }
    let options = ListOptions::from_query(&call.query)?;
    let (entries, meta) = page(
        &call.server.store,
        &call.server.snapshots,
        &call.prefix(),
        selection,
        &options,
    )?;
    let entries = entries
        .into_iter()
        .map(|entry| call.server.metrics.shown(call.kind, entry, shape.form))
        .collect();
    Ok(respond::list(call.kind, entries, &meta, shape))
}

/// What a list may be asked for besides its selectors.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListOptions {
    limit: usize,
    next: Option<Token>,
    version: Option<Revision>,
    exact: bool,
}

/// Where the next page starts, as clients hand it back.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Token {
    v: String,
    rv: Revision,
    start: String,
}

impl Token {
    const VERSION: &'static str = "meta.k8s.io/v1";

    fn encode(&self) -> String {
        TOKEN.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> Option<Self> {
        let token: Self = serde_json::from_slice(&TOKEN.decode(text).ok()?).ok()?;
        (token.v == Self::VERSION).then_some(token)
    }
}

/// 422 for list options that contradict each other, in Kubernetes' words.
pub(crate) fn invalid_options(detail: &str) -> Failure {
    Status::passed_on(422, format!("ListOptions.meta.k8s.io \"\" is invalid: {detail}")).into()
}

/// Reads a resourceVersion of a query; `None` when absent or empty.
pub(crate) fn version(query: &Query) -> Result<Option<Revision>, Failure> {
    let Some(text) = query.given("resourceVersion") else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        Status::bad_request(format!(
            "Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
        .into()
    })
}

impl ListOptions {
    fn from_query(query: &Query) -> Result<Self, Failure> {
        let limit = query.number("limit")?.unwrap_or(0);
        let version = version(query)?;
        let mode = query.given("resourceVersionMatch");
        let next = query
            .given("continue")
            .map(|text| Token::decode(text).ok_or_else(|| Status::bad_request("continue key is not valid")))
            .transpose()?;
        if query.given("sendInitialEvents").is_some() {
            return Err(invalid_options(
                "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
            ));
        }
        if mode.is_some() && next.is_some() {
            return Err(invalid_options(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if mode.is_some() && version.is_none() {
            return Err(invalid_options(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if next.is_some() && version.is_some_and(|version| version != 0) {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue").into());
        }
        let exact = match mode {
            None | Some("NotOlderThan") => false,
            Some("Exact") if version == Some(0) => {
                return Err(invalid_options(
                    "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
            Some("Exact") => true,
            Some(other) => {
                return Err(invalid_options(&format!(
                    "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
                )));
            }
        };
        Ok(Self {
            limit: usize::try_from(limit).unwrap_or(0),
            next,
            version,
            exact,
        })
    }
}

/// Lists whose first page was sent: the entries as they were, so that all pages show one moment. An entry is three
/// words; the objects behind are shared with the store unless they changed since.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    kept: Mutex<VecDeque<Snapshot>>,
}

#[derive(Debug)]
struct Snapshot {
    prefix: String,
    revision: Revision,
    entries: Vec<Entry>,
    at: Instant,
}

impl Snapshots {
    fn keep(&self, prefix: &str, revision: Revision, entries: Vec<Entry>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|snapshot| {
            snapshot.at.elapsed() < SNAPSHOT_AGE && !(snapshot.revision == revision && snapshot.prefix == prefix)
        });
        if kept.len() >= SNAPSHOTS {
            kept.pop_front();
        }
        kept.push_back(Snapshot {
            prefix: prefix.to_owned(),
            revision,
            entries,
            at: Instant::now(),
        });
    }

    /// The entries after a key.
    fn after(&self, prefix: &str, revision: Revision, start: &str) -> Option<Vec<Entry>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = kept.iter().find(|snapshot| {
            snapshot.revision == revision && snapshot.prefix == prefix && snapshot.at.elapsed() < SNAPSHOT_AGE
        })?;
        let from = snapshot.entries.partition_point(|entry| *entry.key <= *start);
        Some(snapshot.entries[from..].to_vec())
    }
}

/// One page of a list, or the whole.
fn page(
    store: &Store,
    snapshots: &Snapshots,
    prefix: &str,
    selection: &Selection,
    options: &ListOptions,
) -> Result<(Vec<Entry>, ListMeta), Failure> {
    let (all, revision) = match &options.next {
        Some(token) => match snapshots.after(prefix, token.rv, &token.start) {
            Some(entries) => (entries, token.rv),
            None => return Err(Status::continue_expired().into()),
        },
        None => {
            let (entries, revision) = store.list(prefix);
            match options.version {
                Some(asked) if asked > revision => return Err(Status::too_large_version(asked, revision).into()),
                // Only the present is kept; an older state can be shown only if it is the present one.
                Some(asked) if options.exact && asked < revision => {
                    return Err(Status::expired("The resourceVersion for the provided list is too old.").into());
                }
                _ => (entries, revision),
            }
        }
    };
    let mut meta = ListMeta {
        revision,
        ..ListMeta::default()
    };
    if options.limit == 0 || all.len() <= options.limit {
        let entries = all.into_iter().filter(|entry| selection.matches(entry)).collect();
        return Ok((entries, meta));
    }
    let mut selected = all.iter().enumerate().filter(|(_, entry)| selection.matches(entry));
    let chosen: Vec<(usize, Entry)> = selected
        .by_ref()
        .take(options.limit)
        .map(|(at, entry)| (at, entry.clone()))
        .collect();
    if let (Some((last, entry)), Some(_)) = (chosen.last(), selected.next()) {
        let token = Token {
            v: Token::VERSION.to_owned(),
            rv: revision,
            start: entry.key.to_string(),
        };
        meta.next = Some(token.encode());
        // As in Kubernetes: with a selector the number is not known without looking, so it is left out.
        meta.remaining = selection.is_everything().then(|| all.len() - last - 1);
        if options.next.is_none() {
            snapshots.keep(prefix, revision, all.clone());
        }
    }
    Ok((chosen.into_iter().map(|(_, entry)| entry).collect(), meta))
}

/// The stored objects that a mass delete is about.
pub(crate) fn selected(store: &Store, kind: &Kind, prefix: &str, selection: &Selection) -> (Vec<Entry>, Revision) {
    debug_assert!(is_stored(kind), "computed kinds have no store prefix");
    let (entries, revision) = store.list(prefix);
    (
        entries.into_iter().filter(|entry| selection.matches(entry)).collect(),
        revision,
    )
}
