//! Exits of containers, as containerd tells them: no polling, and an exit is known within milliseconds.

use std::time::Duration;

use containerd_client::events::{TaskExit, TaskOom, TaskStart};
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::types::Envelope;
use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::RuntimeEvent;

/// The namespace that containerd's CRI plugin works in.
pub(crate) const NAMESPACE: &str = "k8s.io";
/// Topic of our own event, see [`subscribe`].
const OPENED: &str = "/minidc/opened";
/// Events that may wait unread; a reader that is further behind holds the stream back, and containerd buffers.
const WAITING: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The events of the namespace `k8s.io`, for ever; after each (re)connect the first one is [`RuntimeEvent::Opened`].
pub(crate) fn events(channel: Channel) -> BoxStream<'static, RuntimeEvent> {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::select! {
                () = sender.closed() => return,
                opened = subscribe(channel.clone(), &sender) => {
                    pause = if opened { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
                }
            }
            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    });
    ReceiverStream::new(receiver).boxed()
}

/// Forwards until the stream breaks; tells whether it was ever open.
///
/// containerd sends nothing, not even headers, before the first event. So that it is known when the subscription
/// stands, an event of our own is published until it comes back.
async fn subscribe(channel: Channel, sender: &mpsc::Sender<RuntimeEvent>) -> bool {
    let filter = |topic: &str| format!("namespace=={NAMESPACE:?},topic=={topic:?}");
    let topics = [
        OPENED,
        "/tasks/start",
        "/tasks/exit",
        "/tasks/oom",
        "/images/create",
        "/images/update",
        "/images/delete",
    ];
    let mut client = EventsClient::new(channel.clone());
    let subscription = client.subscribe(SubscribeRequest {
        filters: topics.map(filter).to_vec(),
    });
    let answer = tokio::select! {
        answer = subscription => answer,
        () = knock(channel) => return false,
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(%error, "cannot subscribe to the events of containerd");
            return false;
        }
    };
    let mut stream = answer.into_inner();
    if sender.send(RuntimeEvent::Opened).await.is_err() {
        return true;
    }
    while let Ok(Some(envelope)) = stream.message().await {
        if let Some(event) = event_of(&envelope)
            && sender.send(event).await.is_err()
        {
            return true;
        }
    }
    true
}

/// Publishes [`OPENED`] again and again; ends only when that is refused.
async fn knock(channel: Channel) {
    let mut client = EventsClient::new(channel);
    let mut pause = Duration::from_millis(20);
    loop {
        tokio::time::sleep(pause).await;
        let event = prost_types::Any {
            type_url: "minidc.dev/Opened".into(),
            value: Vec::new(),
        };
        let mut request = tonic::Request::new(PublishRequest {
            topic: OPENED.into(),
            event: Some(event),
        });
        request
            .metadata_mut()
            .insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
        if client.publish(request).await.is_err() {
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn event_of(envelope: &Envelope) -> Option<RuntimeEvent> {
    if envelope.topic.starts_with("/images/") {
        return Some(RuntimeEvent::Images);
    }
    let bytes = envelope.event.as_ref()?.value.as_slice();
    let ended = envelope.topic == "/tasks/exit";
    let id = match envelope.topic.as_str() {
        // The exit of an exec session carries its own id; only a container's main process counts.
        "/tasks/exit" => {
            TaskExit::decode(bytes)
                .ok()
                .filter(|exit| exit.id == exit.container_id)?
                .container_id
        }
        "/tasks/start" => TaskStart::decode(bytes).ok()?.container_id,
        "/tasks/oom" => TaskOom::decode(bytes).ok()?.container_id,
        _ => return None,
    };
    Some(RuntimeEvent::Container { id, ended })
}
