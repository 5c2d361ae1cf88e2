//! One node's session, from hello to the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::registry::Live;
use super::{ControlPlane, Refusal, RefusedAttempt, Server};
use crate::Error;
use crate::protocol::{
    self, ApiRequest, ApiResponse, ArchiveReply, Heartbeat, MAX_FRAME, MAX_OPENING, NodeFrame, RefusalCode,
    ServerFrame, StreamOpen, Welcome,
};
use crate::session::{HEARTBEAT, Outbox, Reader, Session, Side, Stream, outbox};
use crate::window::{Share, Windowed};

/// A node that says no hello within this time is sent away.
const HELLO_TIME: Duration = Duration::from_secs(5);
/// Requests of one node that may be under way at once; its own limit is lower.
const REQUESTS: usize = 64;

/// Why a session ended.
enum End {
    /// We end it, and tell the node.
    Refused(Refusal),
    /// It broke, or the node left.
    Lost(String),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Lost(error.to_string())
    }
}

impl Server {
    pub(super) async fn session<S>(&self, stream: S, node: String, key: String, address: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (session, mut handles) = Session::new(stream, Side::Server);
        let stop = CancellationToken::new();
        let driver = AbortOnDropHandle::new(tokio::spawn(session.drive(stop.clone())));

        let greeting = tokio::time::timeout(HELLO_TIME, async {
            let control = handles.inbound.recv().await.ok_or(Error::Offline)?;
            let (reader, writer) = tokio::io::split(control);
            let mut reader = Reader::new(reader);
            let hello = match reader.next().await? {
                NodeFrame::Hello(hello) if hello.node == node => Ok(*hello),
                NodeFrame::Hello(hello) => Err(Refusal::new(
                    RefusalCode::NotANode,
                    format!("the certificate is of node {node}, the hello says {:?}", hello.node),
                )),
                _ => Err(Refusal::new(RefusalCode::Malformed, "the first frame must be a hello")),
            };
            Ok::<_, Error>((reader, writer, hello))
        });
        let (reader, writer, hello) = match greeting.await {
            Ok(Ok(greeting)) => greeting,
            Ok(Err(error)) => return tracing::info!(node, %address, %error, "a session ended before its hello"),
            Err(_) => return tracing::info!(node, %address, "a session ended because no hello came"),
        };

        let (outbox, queue) = outbox();
        let ends = Ends {
            outbox,
            stop,
            driver,
            writer: AbortOnDropHandle::new(tokio::spawn(queue.run(writer))),
        };
        let refused = |refusal: &Refusal| {
            let refusal = refusal.clone();
            self.inner.control.refused(RefusedAttempt {
                address,
                node: Some(node.clone()),
                refusal,
            });
        };
        let hello = match hello {
            Ok(hello) => hello,
            Err(refusal) => {
                refused(&refusal);
                return ends.part(refusal).await;
            }
        };
        let live = Live::new(
            node.clone(),
            key,
            address,
            hello.instance,
            handles.opener.clone(),
            ends.outbox.clone(),
        );
        let place = match self.inner.registry.take(&live).await {
            Ok(place) => place,
            Err(refusal) => {
                refused(&refusal);
                return ends.part(refusal).await;
            }
        };
        if let Err(refusal) = self.inner.control.connected(&hello, address).await {
            refused(&refusal);
            return ends.part(refusal).await;
        }
        tracing::info!(node, %address, instance = %hello.instance, "a session began");

        // The node says nothing before its welcome, which may have taken a while.
        handles.heard.note();
        let Ends {
            outbox,
            stop,
            mut driver,
            mut writer,
        } = ends;
        let work = Work {
            server: self,
            live: &live,
            outbox: &outbox,
        };
        let working = Box::pin(work.run(reader, handles.inbound, handles.share));
        // The work first: the connection may have ended with a last word that is yet to be read.
        let end = tokio::select! {
            biased;
            end = working => end,
            refusal = live.ending() => End::Refused(refusal),
            ended = &mut driver => End::Lost(ended.unwrap_or_else(|error| error.to_string())),
            ended = &mut writer => End::Lost(match ended {
                Ok(Ok(())) => "the control stream is closed".into(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            }),
            () = handles.heard.silence() => End::Lost("nothing was heard of the node for 3 s".into()),
        };
        let reason = match &end {
            End::Refused(refusal) => &refusal.reason,
            End::Lost(reason) => reason,
        };
        tracing::info!(node, %address, reason, "a session ended");
        self.inner.control.disconnected(&node, reason).await;
        drop(place);
        if let End::Refused(refusal) = end {
            Ends {
                outbox,
                stop,
                driver,
                writer,
            }
            .part(refusal)
            .await;
        }
    }
}

/// What must outlive a session's work for a last word to arrive.
struct Ends {
    outbox: Outbox<ServerFrame>,
    stop: CancellationToken,
    driver: AbortOnDropHandle<String>,
    writer: AbortOnDropHandle<Result<(), Error>>,
}

impl Ends {
    /// Tells the node why, and closes.
    async fn part(self, refusal: Refusal) {
        self.outbox.finish(ServerFrame::Refused {
            code: refusal.code,
            reason: refusal.reason,
        });
        let farewell = async {
            // Either may have ended with the connection.
            let _ = self.writer.await;
            self.stop.cancel();
            let _ = self.driver.await;
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), farewell).await;
    }
}

/// The work of a session that was welcomed.
struct Work<'a> {
    server: &'a Server,
    live: &'a Arc<Live>,
    outbox: &'a Outbox<ServerFrame>,
}

impl Work<'_> {
    fn control(&self) -> &Arc<dyn ControlPlane> {
        &self.server.inner.control
    }

    async fn run(self, reader: Reader, inbound: mpsc::Receiver<Stream>, share: Share) -> End {
        let welcome = Welcome {
            cluster: self.server.inner.identity.cluster().to_owned(),
            store: self.control().store(),
            wall_clock_ms: self.control().wall_clock_ms(),
            heartbeat_ms: u32::try_from(HEARTBEAT.as_millis()).unwrap_or(u32::MAX),
        };
        if let Err(error) = self.outbox.send(ServerFrame::Welcome(welcome)).await {
            return error.into();
        }
        let (latest, heartbeats) = watch::channel(None);
        tokio::select! {
            biased;
            end = self.read(reader, latest) => end,
            end = self.feed() => end,
            end = self.heartbeats(heartbeats) => end,
            end = self.streams(inbound, share) => end,
        }
    }

    async fn feed(&self) -> End {
        let mut feed = self.control().feed(&self.live.node);
        while let Some(element) = feed.next().await {
            if let Err(error) = self.outbox.send(ServerFrame::Feed(element)).await {
                return error.into();
            }
        }
        // The store compacted past this feed, or stops: the node comes again and gets a snapshot.
        End::Refused(Refusal::new(RefusalCode::Unavailable, "the feed has ended"))
    }

    async fn heartbeats(&self, mut latest: watch::Receiver<Option<Heartbeat>>) -> End {
        while latest.changed().await.is_ok() {
            let heartbeat = latest.borrow_and_update().clone();
            if let Some(heartbeat) = heartbeat {
                self.control().heartbeat(&self.live.node, heartbeat).await;
            }
        }
        End::Lost("heartbeats have ended".into())
    }

    async fn read(&self, mut reader: Reader, latest: watch::Sender<Option<Heartbeat>>) -> End {
        let mut requests = JoinSet::new();
        // The key of the renewal that was signed last, until the node says that it has it.
        let mut renewing = None;
        loop {
            while requests.try_join_next().is_some() {}
            let frame = match reader.next().await {
                Ok(frame) => frame,
                Err(error) => return error.into(),
            };
            let sent = match frame {
                NodeFrame::Hello(_) => {
                    return End::Refused(Refusal::new(RefusalCode::Malformed, "a second hello in one session"));
                }
                NodeFrame::Bye { reason } => return End::Lost(format!("the node left: {reason}")),
                NodeFrame::Heartbeat(heartbeat) => {
                    let sequence = heartbeat.sequence;
                    self.live.beat.send_replace(sequence);
                    latest.send_replace(Some(*heartbeat));
                    let wall_clock_ms = self.control().wall_clock_ms();
                    self.outbox
                        .send_urgent(ServerFrame::Acknowledged {
                            sequence,
                            wall_clock_ms,
                        })
                        .await
                }
                NodeFrame::Request(request) => {
                    if requests.len() >= REQUESTS {
                        let message = format!("more than {REQUESTS} requests of this node are under way");
                        self.outbox
                            .send(ServerFrame::Response(failure(
                                request.id,
                                429,
                                "TooManyRequests",
                                &message,
                            )))
                            .await
                    } else {
                        requests.spawn(answer(
                            Arc::clone(self.control()),
                            self.live.node.clone(),
                            request,
                            self.outbox.clone(),
                        ));
                        Ok(())
                    }
                }
                NodeFrame::Renew { request } => {
                    match self
                        .server
                        .renew(&self.live.node, &self.live.key(), &request, false)
                        .await
                    {
                        Ok((certificate, key)) => {
                            renewing = Some(key);
                            self.outbox.send(ServerFrame::Certificate { certificate }).await
                        }
                        // The node asks again.
                        Err(refusal) if refusal.code == RefusalCode::Unavailable => {
                            tracing::warn!(node = self.live.node, %refusal, "a certificate was not renewed");
                            Ok(())
                        }
                        Err(refusal) => return End::Refused(refusal),
                    }
                }
                NodeFrame::Renewed => {
                    if let Some(key) = renewing.take() {
                        if let Err(refusal) = self.server.renewed(&self.live.node, &key).await {
                            tracing::warn!(node = self.live.node, %refusal, "the use of a new key was not recorded");
                        }
                        self.live.set_key(key);
                    }
                    Ok(())
                }
            };
            if let Err(error) = sent {
                return error.into();
            }
        }
    }

    async fn streams(&self, mut inbound: mpsc::Receiver<Stream>, share: Share) -> End {
        let mut serving = JoinSet::new();
        while let Some(stream) = inbound.recv().await {
            while serving.try_join_next().is_some() {}
            let stream = Windowed::new(stream, share.clone());
            serving.spawn(serve_stream(Arc::clone(self.control()), self.live.node.clone(), stream));
        }
        // The connection has ended; whoever drives it says why.
        std::future::pending().await
    }
}

async fn answer(control: Arc<dyn ControlPlane>, node: String, request: ApiRequest, outbox: Outbox<ServerFrame>) {
    let id = request.id;
    let mut response = control.request(&node, request).await;
    response.id = id;
    if response.body.len() > MAX_FRAME - 64 {
        let message = format!("the answer is too long for the link: {} bytes", response.body.len());
        response = failure(id, 500, "InternalError", &message);
    }
    // The session may have ended; the node asks again in the next.
    let _ = outbox.send(ServerFrame::Response(response)).await;
}

fn failure(id: u64, status: u16, reason: &str, message: &str) -> ApiResponse {
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": message, "code": status,
    });
    ApiResponse {
        id,
        status,
        body: body.to_string().into_bytes(),
    }
}

async fn serve_stream(control: Arc<dyn ControlPlane>, node: String, mut stream: Windowed<Stream>) {
    let served = async {
        let open = tokio::time::timeout(HELLO_TIME, protocol::read_frame(&mut stream, MAX_OPENING))
            .await
            .map_err(|_| Error::protocol("read a frame", "a stream was opened for nothing"))??;
        let StreamOpen::ImageArchive { name } = protocol::decode(&open)? else {
            return Err(Error::protocol("serve a stream", "a node cannot ask for this"));
        };
        match control.image_archive(&node, &name).await {
            Ok(archive) => {
                let reply = protocol::encode(&ArchiveReply::Ready { size: archive.size })?;
                protocol::write_frame(&mut stream, &reply).await?;
                let copied = tokio::io::copy(&mut archive.reader.take(archive.size), &mut stream)
                    .await
                    .map_err(|error| Error::protocol("send an image", error))?;
                if copied < archive.size {
                    // Not ended properly: the node sees that it was cut.
                    return Err(Error::protocol(
                        "send an image",
                        format_args!("{copied} of {} bytes are there", archive.size),
                    ));
                }
            }
            Err((code, message)) => {
                let reply = protocol::encode(&ArchiveReply::Refused { code, message })?;
                protocol::write_frame(&mut stream, &reply).await?;
            }
        }
        stream
            .shutdown()
            .await
            .map_err(|error| Error::protocol("end a stream", error))
    };
    if let Err(error) = served.await {
        tracing::info!(node, %error, "a stream of a node ended early");
    }
}
