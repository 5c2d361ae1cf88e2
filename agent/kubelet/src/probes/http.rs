//! A GET request as probes and hooks make it: one connection for each, no check of certificates, little is read.
//!
//! By `pkg/probe/http` in Kubernetes: redirects are followed on the same host only, and what is wrong is said in Go's
//! words, which people search for.

mod tls;

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{HeaderMap, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1 as core;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::check::{dial_error, port_number};

/// Bytes of an answer that are read (`maxRespBodyLength` in Kubernetes).
const LONGEST_BODY: usize = 10 << 10;
/// Redirects that are followed (Go's own number).
const MOST_REDIRECTS: usize = 10;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    tls: bool,
    host: String,
    port: u16,
    /// With the query.
    path: String,
    headers: HeaderMap,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Its beginning.
    pub(crate) body: String,
}

/// Name and version of who asks, as Kubernetes' kubelet gives them.
pub(super) fn agent(name: &str) -> String {
    format!("{name}/1.{}", minidc_api::discovery::KUBERNETES_MINOR)
}

/// Host and port, with brackets where the host is an IPv6 address.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

impl Request {
    /// The request of an `httpGet`; `agent` names who asks.
    ///
    /// # Errors
    /// What is wrong with the action, in a sentence.
    pub(crate) fn of(
        action: &core::HTTPGetAction,
        container: &core::Container,
        pod_ip: &str,
        who: &str,
    ) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for header in action.http_headers.iter().flatten() {
            let name: HeaderName = header
                .name
                .parse()
                .map_err(|_| format!("invalid header field name {:?}", header.name))?;
            let value = HeaderValue::from_str(&header.value)
                .map_err(|_| format!("invalid header field value for {:?}", header.name))?;
            headers.append(name, value);
        }
        if !headers.contains_key(USER_AGENT)
            && let Ok(value) = HeaderValue::from_str(&agent(who))
        {
            headers.insert(USER_AGENT, value);
        }
        match headers.get(ACCEPT) {
            None => drop(headers.insert(ACCEPT, HeaderValue::from_static("*/*"))),
            // Said to be empty: left out.
            Some(value) if value.is_empty() => drop(headers.remove(ACCEPT)),
            Some(_) => {}
        }
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(pod_ip);
        Ok(Self {
            tls: action
                .scheme
                .as_deref()
                .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
            host: host.to_owned(),
            port: port_number(&action.port, container)?,
            path: path(action.path.as_deref().unwrap_or("/")),
            headers,
        })
    }

    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", authority(&self.host, self.port), self.path)
    }

    /// Where a redirect leads; `None` when it leads to another host or nowhere, and is the answer itself.
    fn redirected(&self, location: &str) -> Option<Self> {
        let mut next = self.clone();
        let absolute = location.contains("://") || location.starts_with("//");
        if absolute {
            let (scheme, rest) = location.split_once("//")?;
            let scheme = scheme.trim_end_matches(':');
            if !scheme.is_empty() {
                next.tls = scheme.eq_ignore_ascii_case("https");
            }
            let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let place: Uri = rest[..at].parse().ok()?;
            let host = place.host()?.trim_matches(['[', ']']);
            if host != self.host {
                return None;
            }
            next.port = place.port_u16().unwrap_or(if next.tls { 443 } else { 80 });
            next.path = path(&rest[at..]);
            // The name asked for was meant for the first address.
            next.headers.remove(HOST);
        } else if location.starts_with('/') {
            next.path = path(location);
        } else {
            let base = self.path.split(['?', '#']).next().unwrap_or_default();
            let directory = base.rfind('/').map_or("", |at| &base[..at]);
            next.path = path(&format!("{directory}/{location}"));
        }
        Some(next)
    }
}

/// A path and query as they are sent: with a slash first, without a fragment, and nothing that has no place in a line.
fn path(text: &str) -> String {
    use std::fmt::Write as _;
    let text = text.split('#').next().unwrap_or_default();
    let mut path = String::from(if text.starts_with('/') { "" } else { "/" });
    for byte in text.bytes() {
        match byte {
            0x21..=0x7e if !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}') => {
                path.push(char::from(byte));
            }
            // Writing to a String cannot fail.
            _ => drop(write!(path, "%{byte:02X}")),
        }
    }
    path
}

/// Asks, follows redirects, and answers with what is at the end.
///
/// # Errors
/// Why there is no answer, as Go's `http.Client` says it.
pub(crate) async fn get(request: Request, limit: Option<Duration>) -> Result<Answer, String> {
    let url = request.url();
    let asking = follow(request);
    let result = match limit {
        Some(limit) => match tokio::time::timeout(limit, asking).await {
            Ok(result) => result,
            Err(_) => Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned()),
        },
        None => asking.await,
    };
    result.map_err(|message| format!("Get {url:?}: {message}"))
}

async fn follow(mut request: Request) -> Result<Answer, String> {
    for _ in 0..=MOST_REDIRECTS {
        let (answer, location) = once(&request).await?;
        let next = location.and_then(|location| request.redirected(&location));
        match next {
            Some(next) => request = next,
            None => return Ok(answer),
        }
    }
    Err(format!("stopped after {MOST_REDIRECTS} redirects"))
}

/// One request: the answer, and where a redirect points to.
async fn once(request: &Request) -> Result<(Answer, Option<String>), String> {
    let Request { host, port, .. } = request;
    let stream = TcpStream::connect((host.as_str(), *port))
        .await
        .map_err(|error| dial_error(host, *port, &error))?;
    // A request in one piece, with nothing to wait for.
    let _ = stream.set_nodelay(true);
    if request.tls {
        exchange(request, tls::connect(host, stream).await?).await
    } else {
        exchange(request, stream).await
    }
}

async fn exchange(
    request: &Request,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
) -> Result<(Answer, Option<String>), String> {
    let mut message = http::Request::new(Empty::<Bytes>::new());
    *message.uri_mut() = request.path.parse().map_err(|error| format!("invalid URL: {error}"))?;
    *message.headers_mut() = request.headers.clone();
    let headers = message.headers_mut();
    if !headers.contains_key(HOST) {
        let standard = if request.tls { 443 } else { 80 };
        let name = if request.port == standard {
            authority(&request.host, request.port)
                .trim_end_matches(&format!(":{standard}"))
                .to_owned()
        } else {
            authority(&request.host, request.port)
        };
        let value = HeaderValue::from_str(&name).map_err(|_| format!("invalid host {name:?}"))?;
        headers.insert(HOST, value);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));

    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| words(&error))?;
    let asking = async move {
        let answer = sender.send_request(message).await.map_err(|error| words(&error))?;
        let status = answer.status();
        let location = answer.headers().get(LOCATION).filter(|_| is_followed(status));
        let location = location
            .and_then(|location| location.to_str().ok())
            .filter(|location| !location.is_empty())
            .map(str::to_owned);
        let mut body = answer.into_body();
        let mut bytes = Vec::new();
        while bytes.len() < LONGEST_BODY
            && let Some(frame) = body.frame().await
        {
            // What has arrived of a body that breaks off is enough.
            let Ok(frame) = frame else { break };
            bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data.as_ref()));
        }
        bytes.truncate(LONGEST_BODY);
        let answer = Answer {
            status: status.as_u16(),
            body: String::from_utf8_lossy(&bytes).into_owned(),
        };
        Ok((answer, location))
    };
    let (mut asking, mut connection) = (std::pin::pin!(asking), std::pin::pin!(connection));
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            answer = &mut asking => return answer,
            // Its end, good or bad, is seen by who waits for the answer.
            _ = &mut connection, if open => open = false,
        }
    }
}

fn is_followed(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn words(error: &hyper::Error) -> String {
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        if let Some(error) = source.downcast_ref::<std::io::Error>() {
            return match error.kind() {
                std::io::ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
                _ => error.to_string(),
            };
        }
        cause = source.source();
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        "EOF".to_owned()
    } else {
        error.to_string()
    }
}

#[cfg(test)]
mod tests;
