//! The gRPC health checking protocol (`grpc.health.v1`), as `pkg/probe/grpc` in Kubernetes uses it: no TLS.

use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::check::Outcome;
use super::http::{agent, authority};

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `ServingStatus` by number.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
/// Its value for a service that is well.
const SERVING: i32 = 1;

/// Asks once.
pub(super) async fn check(host: &str, port: u16, service: &str, limit: Duration) -> Outcome {
    let address = authority(host, port);
    let slow = |what: &str| {
        Outcome::Failure(format!(
            "timeout: {what} {address:?} within {limit:?}: context deadline exceeded"
        ))
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .and_then(|endpoint| endpoint.user_agent(agent("kube-probe")))
        .map(|endpoint| endpoint.connect_timeout(limit));
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(error) => return Outcome::Error(error.to_string()),
    };
    let asked = async {
        let Ok(channel) = endpoint.connect().await else {
            return slow("failed to connect service");
        };
        match ask(channel, service).await {
            Ok(SERVING) => Outcome::Success,
            Ok(status) => {
                let status = usize::try_from(status).ok().and_then(|status| STATUSES.get(status));
                let status = status.copied().unwrap_or("UNKNOWN");
                Outcome::Failure(format!("service unhealthy (responded with {status:?})"))
            }
            Err(status) if status.code() == Code::Unimplemented => Outcome::Failure(format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                status.message()
            )),
            Err(status) if status.code() == Code::DeadlineExceeded => slow("health rpc did not complete of"),
            Err(status) => Outcome::Failure(format!("error: health rpc probe failed: {}", status.message())),
        }
    };
    match tokio::time::timeout(limit, asked).await {
        Ok(outcome) => outcome,
        Err(_) => slow("failed to connect service"),
    }
}

async fn ask(channel: Channel, service: &str) -> Result<i32, Status> {
    let mut client = Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let message = HealthCheckRequest {
        service: service.to_owned(),
    };
    let codec: ProstCodec<HealthCheckRequest, HealthCheckResponse> = ProstCodec::default();
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let answer = client.unary(tonic::Request::new(message), path, codec).await?;
    Ok(answer.into_inner().status)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, Response};
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::{Frame, Incoming};
    use hyper::server::conn::http2;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use prost::Message;
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// Knows the services `fine` and `ill`, and is no health service for `none`.
    async fn answer(
        request: http::Request<Incoming>,
    ) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let agent = request.headers()["user-agent"].to_str().unwrap().to_owned();
        assert!(agent.starts_with("kube-probe/1.36"), "{agent}");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let asked = HealthCheckRequest::decode(&body[5..]).unwrap();
        let (code, status) = match asked.service.as_str() {
            "fine" => ("0", 1),
            "ill" => ("0", 2),
            _ => ("12", 0),
        };
        let message = HealthCheckResponse { status }.encode_to_vec();
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend(message);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(code));
        let frames = [Ok(Frame::data(Bytes::from(frame))), Ok(Frame::trailers(trailers))];
        let answer = Response::builder().header("content-type", "application/grpc");
        Ok(answer.body(StreamBody::new(futures::stream::iter(frames))).unwrap())
    }

    #[tokio::test]
    async fn a_service_is_well_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer));
                tokio::spawn(serving);
            }
        });
        assert_eq!(check("127.0.0.1", port, "fine", LIMIT).await, Outcome::Success);
        assert_eq!(
            check("127.0.0.1", port, "ill", LIMIT).await,
            Outcome::Failure("service unhealthy (responded with \"NOT_SERVING\")".into())
        );
        let Outcome::Failure(none) = check("127.0.0.1", port, "none", LIMIT).await else {
            panic!("a server without the protocol is a failure");
        };
        assert!(none.contains("does not implement the grpc health protocol"), "{none}");
    }

    #[tokio::test]
    async fn nobody_there_is_a_failure() {
        let port = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let got = check("127.0.0.1", port, "", Duration::from_secs(2)).await;
        assert_eq!(
            got,
            Outcome::Failure(format!(
                "timeout: failed to connect service \"127.0.0.1:{port}\" within 2s: context deadline exceeded"
            ))
        );
    }
}
