//! The one way from the API server to a node: a byte stream that the link provides.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use minidc_api::status::Status;
use minidc_api::streams::{ContainerRef, Target};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::call::Call;
use crate::error::Failure;
use crate::object;

/// Both directions of a stream.
pub trait ReadWrite: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + ?Sized> ReadWrite for T {}

/// A stream to a node.
pub struct BoxedIo(Box<dyn ReadWrite>);

impl BoxedIo {
    /// Hides what the stream is.
    pub fn new(io: impl ReadWrite + 'static) -> Self {
        Self(Box::new(io))
    }
}

impl std::fmt::Debug for BoxedIo {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("BoxedIo")
    }
}

impl AsyncRead for BoxedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for BoxedIo {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Why a node could not be reached, or would not.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct DialError {
    /// HTTP status code to answer with: 503 when the node is away, else what the node said.
    pub code: u16,
    /// A sentence for the user, with the object named.
    pub message: String,
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        Status::passed_on(error.code, error.message).into()
    }
}

/// Opens streams to nodes.
pub trait NodeDialer: Send + Sync {
    /// Opens a stream for the target on the node. The node's `StreamReply` has been read already: on success the stream
    /// carries log bytes or exec frames.
    fn dial(&self, node: String, target: Target) -> BoxFuture<'static, Result<BoxedIo, DialError>>;
}

/// A dialer for a server without nodes: every dial fails with 503.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNodes;

impl NodeDialer for NoNodes {
    fn dial(&self, node: String, _: Target) -> BoxFuture<'static, Result<BoxedIo, DialError>> {
        Box::pin(async move {
            Err(DialError {
                code: 503,
                message: format!("node {node} is not connected"),
            })
        })
    }
}

/// The pod of the call's path, the container that the request means, and the node.
pub(crate) fn container(call: &Call) -> Result<(String, ContainerRef), Failure> {
    let pod = object::parse(&call.stored()?)?;
    let container = choose(&pod, call.query.given("container"))?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or("").to_owned();
    let of = ContainerRef {
        namespace: call.namespace.clone(),
        pod: call.name.clone(),
        uid: object::meta(&pod, "uid").to_owned(),
        container,
    };
    Ok((node, of))
}

fn choose(pod: &Value, asked: Option<&str>) -> Result<String, Failure> {
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers
            .filter_map(|container| container["name"].as_str().map(str::to_owned))
            .collect()
    };
    let (main, init, ephemeral) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    let name = object::name(pod);
    if let Some(asked) = asked {
        if main
            .iter()
            .chain(&init)
            .chain(&ephemeral)
            .any(|container| container == asked)
        {
            return Ok(asked.to_owned());
        }
        return Err(Status::bad_request(format!("container {asked} is not valid for pod {name}")).into());
    }
    match main.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}")).into()),
        several => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                several.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(message).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn container_is_chosen_when_there_is_only_one() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(choose(&one, None).unwrap(), "a");
        assert_eq!(choose(&one, Some("i")).unwrap(), "i");
        assert_eq!(
            choose(&one, Some("x")).unwrap_err().to_string(),
            "container x is not valid for pod p"
        );
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(
            choose(&two, None).unwrap_err().to_string(),
            "a container name must be specified for pod p, choose one of: [a b]"
        );
    }
}
