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
