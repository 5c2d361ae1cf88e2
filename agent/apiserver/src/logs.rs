//! `pods/log`: copies what the node sends.

use axum::body::Body;
use axum::response::Response;
use futures::StreamExt;
use http::StatusCode;
use minidc_api::status::Status;
use minidc_api::streams::{LogQuery, Target};
use tokio_util::io::ReaderStream;

use crate::call::Call;
use crate::dial;
use crate::error::Failure;
use crate::limits::Place;
use crate::respond;

/// `get`.
pub(crate) async fn get(call: &Call, place: Place) -> Result<Response, Failure> {
    let (node, of) = dial::container(call)?;
    let query = &call.query;
    let mut errors = Vec::new();
    let mut at_least = |name: &str, least: i64| -> Result<Option<u64>, Failure> {
        let number = query.number(name)?;
        if let Some(number) = number.filter(|number| *number < least) {
            errors.push(format!(
                "{name}: Invalid value: {number}: must be greater than or equal to {least}"
            ));
        }
        Ok(number.and_then(|number| u64::try_from(number).ok()))
    };
    let tail_lines = at_least("tailLines", 0)?;
    let since_seconds = at_least("sinceSeconds", 1)?;
    let limit_bytes = at_least("limitBytes", 1)?;
    let since_time = query.given("sinceTime").map(str::to_owned);
    if let Some(time) = &since_time
        && let Err(error) = time.parse::<jiff::Timestamp>()
    {
        return Err(Status::bad_request(format!("sinceTime: {error}")).into());
    }
    if since_time.is_some() && since_seconds.is_some() {
        errors.push("at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned());
    }
    if query.given("stream").is_some_and(|stream| stream != "All") {
        errors.push("stream: Forbidden: only \"All\" is supported; lines carry no mark of their stream yet".to_owned());
    }
    if !errors.is_empty() {
        let message = format!("PodLogOptions {:?} is invalid: {}", call.name, errors.join(", "));
        return Err(Status::passed_on(422, message).into());
    }
    let log = LogQuery {
        of,
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        tail_lines,
        since_seconds,
        since_time,
        limit_bytes,
    };
    if node.is_empty() {
        // As Kubernetes: a pod that no node has yet has written nothing.
        return Ok(respond::text(StatusCode::OK, Body::empty()));
    }
    let stream = call.server.options.nodes.dial(node, Target::Logs(log)).await?;
    let bytes = ReaderStream::with_capacity(stream, 16 << 10).map(move |piece| {
        // The place is held as long as the stream is.
        let _held = &place;
        piece
    });
    let mut response = respond::text(StatusCode::OK, Body::from_stream(bytes));
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    Ok(response)
}
