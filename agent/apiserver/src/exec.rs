//! `pods/exec`: Kubernetes' channels over WebSocket on one side, frames of [`minidc_api::streams`] on the other.

use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, header, request};
use minidc_api::status::Status;
use minidc_api::streams::{Channel, ExecQuery, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::call::Call;
use crate::dial::{self, BoxedIo};
use crate::error::{self, Failure};
use crate::limits::Place;

const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Largest message taken from a client; kubectl sends 32 KiB.
const LARGEST_MESSAGE: usize = 1 << 20;
/// Largest frame taken from a node; longer ones mean that the stream is out of step.
const LARGEST_FRAME: u32 = 16 << 20;

/// Opens a session.
pub(crate) async fn open(call: &Call, mut parts: request::Parts, place: Place) -> Result<Response, Failure> {
    let (node, of) = dial::container(call)?;
    let command: Vec<String> = call.query.all("command").map(str::to_owned).collect();
    let query = ExecQuery {
        of,
        command,
        stdin: call.query.flag("stdin"),
        stdout: call.query.flag("stdout"),
        stderr: call.query.flag("stderr") && !call.query.flag("tty"),
        tty: call.query.flag("tty"),
    };
    if query.command.is_empty() {
        return Err(Status::bad_request("you must specify at least 1 command for the container").into());
    }
    if !(query.stdin || query.stdout || query.stderr) {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr").into());
    }
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", call.name)).into());
    }
    if asks_for_spdy(&parts.headers) {
        return Err(error::spdy_not_supported());
    }
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|refusal| Status::bad_request(format!("unable to upgrade connection: {refusal}")))?;
    let upgrade = upgrade.max_message_size(LARGEST_MESSAGE).protocols(PROTOCOLS);
    if upgrade.selected_protocol().is_none() {
        let message = format!(
            "unable to upgrade: none of the offered protocols is supported: {}",
            PROTOCOLS.join(", ")
        );
        return Err(Status::bad_request(message).into());
    }
    let nodes = std::sync::Arc::clone(&call.server.options.nodes);
    Ok(upgrade.on_upgrade(move |socket| async move {
        // What fails from here on is said on the error channel, where every client shows it; as Kubernetes does.
        match nodes.dial(node, Target::Exec(query)).await {
            Ok(stream) => run(socket, stream).await,
            Err(error) => refuse(socket, &error.into()).await,
        }
        drop(place);
    }))
}

fn asks_for_spdy(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|upgrade| upgrade.to_ascii_lowercase().starts_with("spdy/"))
}

fn message(channel: Channel, payload: &[u8]) -> Message {
    let mut bytes = Vec::with_capacity(payload.len() + 1);
    bytes.push(channel as u8);
    bytes.extend_from_slice(payload);
    Message::Binary(bytes.into())
}

fn close() -> Message {
    Message::Close(Some(CloseFrame {
        code: close_code::NORMAL,
        reason: "".into(),
    }))
}

async fn refuse(mut socket: WebSocket, failure: &Failure) {
    // A client that is gone needs no answer.
    let _ = socket.send(message(Channel::Error, &failure.channel())).await;
    let _ = socket.send(close()).await;
}

/// Copies both ways until the command has ended or either side is gone.
async fn run(socket: WebSocket, stream: BoxedIo) {
    let (mut to_client, from_client) = socket.split();
    let (from_node, to_node) = tokio::io::split(stream);
    // Kubernetes' server first sends an empty message here. kubectl complains of it now and then ("Unknown stream id 1"), when it
    // comes before kubectl has made its own side of the stream; and nobody waits for it.
    tokio::select! {
        () = down(from_node, &mut to_client) => {}
        () = up(from_client, to_node) => {}
    }
    let _ = to_client.send(close()).await;
}

/// Node to client; ends after the error channel, which is the last frame.
async fn down(mut node: ReadHalf<BoxedIo>, client: &mut SplitSink<WebSocket, Message>) {
    loop {
        let (channel, payload) = match frame(&mut node).await {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                // The node ended without saying how the command did.
                lost(client, "the node closed the stream before the command's result arrived").await;
                return;
            }
            Err(error) => {
                lost(client, &format!("the stream to the node broke: {error}")).await;
                return;
            }
        };
        let Ok(channel) = Channel::try_from(channel) else {
            lost(
                client,
                &format!("the node sent a frame on the unknown channel {channel}"),
            )
            .await;
            return;
        };
        if matches!(channel, Channel::Close | Channel::Stdin | Channel::Resize) {
            continue;
        }
        if client.send(Message::Binary(payload)).await.is_err() || channel == Channel::Error {
            return;
        }
    }
}

async fn lost(client: &mut SplitSink<WebSocket, Message>, what: &str) {
    let failure = Failure::from(Status::internal(what));
    let _ = client.send(message(Channel::Error, &failure.channel())).await;
}

/// One frame of the node as a WebSocket message: the channel, and channel and payload together. `None` at a clean end.
async fn frame(node: &mut ReadHalf<BoxedIo>) -> std::io::Result<Option<(u8, Bytes)>> {
    let mut channel = [0; 1];
    if node.read(&mut channel).await? == 0 {
        return Ok(None);
    }
    let length = node.read_u32().await?;
    if length > LARGEST_FRAME {
        let text = format!("a frame of {length} bytes is longer than {LARGEST_FRAME}");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
    }
    let length = usize::try_from(length).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; length + 1];
    bytes[0] = channel[0];
    node.read_exact(&mut bytes[1..]).await?;
    Ok(Some((channel[0], bytes.into())))
}

/// Client to node; ends when the client closes.
async fn up(mut client: SplitStream<WebSocket>, mut node: WriteHalf<BoxedIo>) {
    while let Some(Ok(message)) = client.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return,
            // Pings are answered by the library; text is no part of these protocols.
            _ => continue,
        };
        let Some((channel, payload)) = bytes.split_first() else {
            continue;
        };
        let known = matches!(
            Channel::try_from(*channel),
            Ok(Channel::Stdin | Channel::Resize | Channel::Close)
        );
        if !known || *channel == Channel::Stdin as u8 && payload.is_empty() {
            continue;
        }
        let Ok(length) = u32::try_from(payload.len()) else {
            return;
        };
        let mut head = [*channel, 0, 0, 0, 0];
        head[1..].copy_from_slice(&length.to_be_bytes());
        let written = async {
            node.write_all(&head).await?;
            node.write_all(payload).await?;
            node.flush().await
        };
        if written.await.is_err() {
            // The node ends the stream only after its last frame; reading tells what that was.
            std::future::pending::<()>().await;
        }
    }
}
