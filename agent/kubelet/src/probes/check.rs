//! One check of a container, by whichever handler the probe names.

use std::io;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use crate::runtime::{Runtime, RuntimeError, Trouble};

use super::{grpc, http};

/// Characters of a command's output that an event shows.
const LONGEST_OUTPUT: usize = 1024;

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    /// A success that somebody should look at.
    Warning(String),
    Failure(String),
    /// The check could not be made.
    Error(String),
}

/// Makes one check, which ends after `limit` at the latest.
pub(super) async fn check(
    runtime: &dyn Runtime,
    id: &str,
    container: &core::Container,
    pod_ip: &str,
    probe: &core::Probe,
    limit: Duration,
) -> Outcome {
    if let Some(action) = &probe.exec {
        return execute(runtime, id, action.command.as_deref().unwrap_or_default(), limit).await;
    }
    if let Some(action) = &probe.http_get {
        let request = match http::Request::of(action, container, pod_ip, "kube-probe") {
            Ok(request) => request,
            Err(message) => return Outcome::Error(message),
        };
        return match http::get(request, Some(limit)).await {
            Ok(http::Answer { status: 200..300, .. }) => Outcome::Success,
            Ok(http::Answer { status: 300..400, body }) => {
                Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
            }
            Ok(http::Answer { status, .. }) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
            Err(message) => Outcome::Failure(message),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(pod_ip);
        return match port_number(&action.port, container) {
            Ok(port) => connect(host, port, limit).await,
            Err(message) => Outcome::Error(message),
        };
    }
    if let Some(action) = &probe.grpc {
        let service = action.service.as_deref().unwrap_or_default();
        return match u16::try_from(action.port) {
            Ok(port) => grpc::check(pod_ip, port, service, limit).await,
            Err(_) => Outcome::Error(format!("invalid port number: {}", action.port)),
        };
    }
    Outcome::Error(format!("missing probe handler for container {}", container.name))
}

/// A number, or the name of a port of the container; also a number written as text.
pub(super) fn port_number(port: &IntOrString, container: &core::Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            match ports.find(|port| port.name.as_ref() == Some(name)) {
                Some(port) => port.container_port,
                None => name.parse().map_err(|_| format!("port {name} not found"))?,
            }
        }
    };
    let valid = u16::try_from(number).ok().filter(|number| *number > 0);
    valid.ok_or_else(|| format!("invalid port number: {number}"))
}

async fn execute(runtime: &dyn Runtime, id: &str, command: &[String], limit: Duration) -> Outcome {
    match runtime.execute(id, command, Some(limit)).await {
        Ok(executed) if executed.exit_code == 0 => Outcome::Success,
        Ok(executed) => {
            let mut output = executed.output;
            if let Some((at, _)) = output.char_indices().nth(LONGEST_OUTPUT) {
                output.truncate(at);
            }
            Outcome::Failure(output)
        }
        Err(RuntimeError {
            kind: Trouble::TooLong, ..
        }) => Outcome::Failure(format!("command {:?} timed out", command.join(" "))),
        Err(error) => Outcome::Error(error.message),
    }
}

async fn connect(host: &str, port: u16, limit: Duration) -> Outcome {
    match tokio::time::timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(error)) => Outcome::Failure(dial_error(host, port, &error)),
        Err(_) => Outcome::Failure(format!("dial tcp {}: i/o timeout", http::authority(host, port))),
    }
}

/// As Go tells of a connection that could not be made.
pub(super) fn dial_error(host: &str, port: u16, error: &io::Error) -> String {
    let words = match error.raw_os_error().map(nix::errno::Errno::from_raw) {
        Some(number) => format!("connect: {}", number.desc().to_lowercase()),
        None => error.to_string(),
    };
    format!("dial tcp {}: {words}", http::authority(host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_found_by_number_and_by_name() {
        let container: core::Container =
            serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]})).unwrap();
        let found = |port: IntOrString| port_number(&port, &container);
        assert_eq!(found(IntOrString::Int(80)), Ok(80));
        assert_eq!(found(IntOrString::String("web".into())), Ok(8080));
        assert_eq!(found(IntOrString::String("81".into())), Ok(81));
        assert_eq!(found(IntOrString::String("x".into())), Err("port x not found".into()));
        assert_eq!(found(IntOrString::Int(0)), Err("invalid port number: 0".into()));
        assert_eq!(found(IntOrString::Int(70000)), Err("invalid port number: 70000".into()));
    }

    #[tokio::test]
    async fn a_port_is_open_or_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let limit = Duration::from_secs(20);
        assert_eq!(connect("127.0.0.1", port, limit).await, Outcome::Success);
        drop(listener);
        assert_eq!(
            connect("127.0.0.1", port, limit).await,
            Outcome::Failure(format!("dial tcp 127.0.0.1:{port}: connect: connection refused"))
        );
    }
}
