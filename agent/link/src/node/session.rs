//! One session with the control plane, from hello to the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use minidc_api::streams::StreamReply;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::run::save;
use super::up::Up;
use super::{IdentityFile, LinkState, Node, NodeIdentity, Shared};
use crate::Error;
use crate::feed::Fit;
use crate::pki::NODE_LIFETIME;
use crate::protocol::{
    self, Command, Heartbeat, Hello, MAX_OPENING, NodeFrame, RefusalCode, ServerFrame, StreamOpen, Welcome,
};
use crate::session::{Outbox, Reader, Session, Side, Stream, outbox};
use crate::window::Windowed;

/// Longer than the control plane takes to find out whether an older session of this node is alive.
const WELCOME_TIME: Duration = Duration::from_secs(8);
/// Between attempts to renew a certificate that is due.
const RENEW_AGAIN: Duration = Duration::from_secs(60);
/// The wall clock is passed on so often.
const CLOCK_INTERVAL: Duration = Duration::from_secs(60);

/// Why a session ended.
pub(super) enum Ended {
    Lost(String),
    Refused {
        code: RefusalCode,
        reason: String,
    },
    /// A person adopted the store: begin again, and follow it.
    Adopted,
    Stopped,
}

pub(super) async fn session<S>(
    stream: S,
    server: SocketAddr,
    shared: &Arc<Shared>,
    node: &Arc<dyn Node>,
    identity: &mut NodeIdentity,
    file: &IdentityFile,
    shutdown: &CancellationToken,
) -> Result<Ended, Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (session, mut handles) = Session::new(stream, Side::Node);
    let stop = CancellationToken::new();
    let mut driver = AbortOnDropHandle::new(tokio::spawn(session.drive(stop.clone())));
    let (outbox, queue) = outbox();

    let greeting = async {
        let (reader, writer) = tokio::io::split(handles.opener.stream().await?);
        let writer = AbortOnDropHandle::new(tokio::spawn(queue.run(writer)));
        let mut reader = Reader::new(reader);
        let hello = Hello {
            node: identity.node.clone(),
            instance: shared.instance,
            store: shared.keeper.store(),
            facts: node.facts(),
        };
        outbox.send(NodeFrame::Hello(Box::new(hello))).await?;
        Ok::<_, Error>((reader.next::<ServerFrame>().await?, reader, writer))
    };
    let greeted = tokio::select! {
        greeted = tokio::time::timeout(WELCOME_TIME, greeting) => greeted,
        () = shutdown.cancelled() => return Ok(Ended::Stopped),
    };
    let (welcome, mut reader, mut writer) = match greeted {
        Ok(Ok((ServerFrame::Welcome(welcome), reader, writer))) => (welcome, reader, writer),
        Ok(Ok((ServerFrame::Refused { code, reason }, ..))) => return Ok(Ended::Refused { code, reason }),
        Ok(Ok(_)) => return Ok(Ended::Lost(format!("{server} said something before its welcome"))),
        Ok(Err(error)) => return Ok(Ended::Lost(format!("{server}: {error}"))),
        Err(_) => {
            return Ok(Ended::Lost(format!(
                "{server} sent no welcome within {} s",
                WELCOME_TIME.as_secs()
            )));
        }
    };
    handles.heard.note();

    let mut work = Work {
        shared,
        node,
        identity,
        file,
        outbox: &outbox,
        up: Arc::new(Up::new(outbox.clone(), handles.opener.clone())),
        foreign: false,
        clock_passed_on: Instant::now(),
        sequence: 0,
    };
    let _lowered = work.welcomed(&welcome, server);
    let mut beat = interval(Duration::from_millis(u64::from(welcome.heartbeat_ms.clamp(100, 2000))));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let renewal = tokio::time::sleep(work.renewal_due(welcome.wall_clock_ms / 1000));
    let silence = handles.heard.silence();
    let adopted = shared.adopt.notified();
    tokio::pin!(renewal, silence, adopted);
    let mut serving = JoinSet::new();
    let mut inbound_open = true;

    let ended = loop {
        tokio::select! {
            ended = &mut driver => break Ended::Lost(ended.unwrap_or_else(|error| error.to_string())),
            ended = &mut writer => break Ended::Lost(match ended {
                Ok(Ok(())) => "the control stream is closed".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            }),
            () = &mut silence => break Ended::Lost("nothing was heard of the control plane for 3 s".to_owned()),
            () = shutdown.cancelled() => {
                outbox.finish(NodeFrame::Bye { reason: "this node is stopping".to_owned() });
                let parting = async {
                    let _ = (&mut writer).await;
                    stop.cancel();
                    let _ = (&mut driver).await;
                };
                let _ = tokio::time::timeout(Duration::from_secs(1), parting).await;
                break Ended::Stopped;
            }
            frame = reader.next::<ServerFrame>() => match frame {
                Ok(frame) => {
                    if let Some(ended) = work.handle(frame, renewal.as_mut()).await? {
                        break ended;
                    }
                }
                Err(error) => break Ended::Lost(error.to_string()),
            },
            _ = beat.tick() => {
                if let Err(error) = work.beat().await {
                    break Ended::Lost(error.to_string());
                }
                if work.foreign && work.adoption_marked() {
                    shared.keeper.adopt();
                    break Ended::Adopted;
                }
            }
            () = &mut renewal => {
                renewal.as_mut().reset(Instant::now() + RENEW_AGAIN);
                work.ask_renewal().await?;
            }
            () = &mut adopted, if work.foreign => {
                shared.keeper.adopt();
                break Ended::Adopted;
            }
            stream = handles.inbound.recv(), if inbound_open => match stream {
                Some(stream) => {
                    while serving.try_join_next().is_some() {}
                    serving.spawn(serve(Arc::clone(node), Windowed::new(stream, handles.share.clone())));
                }
                None => inbound_open = false,
            },
        }
    };
    // The connection may have ended with a last word that nobody has read yet.
    if matches!(ended, Ended::Lost(_)) && (driver.is_finished() || writer.is_finished()) {
        let last_word = async {
            loop {
                match reader.next::<ServerFrame>().await {
                    Ok(ServerFrame::Refused { code, reason }) => return Some(Ended::Refused { code, reason }),
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        };
        if let Ok(Some(refused)) = tokio::time::timeout(Duration::from_millis(200), last_word).await {
            return Ok(refused);
        }
    }
    Ok(ended)
}

/// Takes the session away from those who use it, also when the future is dropped.
struct Lowered {
    shared: Arc<Shared>,
    up: Arc<Up>,
}

impl Drop for Lowered {
    fn drop(&mut self) {
        self.shared.up.send_replace(None);
        self.shared.connected.send_replace(false);
        self.up.close();
    }
}

struct Work<'a> {
    shared: &'a Arc<Shared>,
    node: &'a Arc<dyn Node>,
    identity: &'a mut NodeIdentity,
    file: &'a IdentityFile,
    outbox: &'a Outbox<NodeFrame>,
    up: Arc<Up>,
    /// The store is not ours: nothing of its feed is taken, and nothing is asked of it.
    foreign: bool,
    clock_passed_on: Instant,
    sequence: u64,
}

impl Work<'_> {
    fn welcomed(&mut self, welcome: &Welcome, server: SocketAddr) -> Lowered {
        self.node.wall_clock(welcome.wall_clock_ms);
        let lowered = Lowered {
            shared: Arc::clone(self.shared),
            up: Arc::clone(&self.up),
        };
        match self.shared.keeper.fit(welcome.store) {
            Fit::Fits => {
                self.shared.keeper.begin(welcome.store);
                self.shared.up.send_replace(Some(Arc::clone(&self.up)));
                self.shared.set(LinkState::Connected { server });
            }
            Fit::Foreign { known } => {
                self.foreign = true;
                self.shared.set(LinkState::ForeignStore {
                    server,
                    known,
                    offered: welcome.store,
                });
            }
        }
        lowered
    }

    /// How long until half of the certificate's life is over, by the control plane's clock (Unix seconds). Never longer than that half,
    /// also when that clock has gone back.
    fn renewal_due(&self, now: u64) -> Duration {
        Duration::from_secs(
            self.identity
                .not_after()
                .saturating_sub(now)
                .saturating_sub(NODE_LIFETIME / 2)
                .min(NODE_LIFETIME / 2),
        )
    }

    /// `adopt` beside the identity: what `minidc node adopt` leaves on a node that it cannot talk to.
    fn adoption_marked(&self) -> bool {
        let marker = self.file.path().with_file_name("adopt");
        marker.exists() && std::fs::remove_file(marker).is_ok()
    }

    async fn beat(&mut self) -> Result<(), Error> {
        self.sequence += 1;
        let (sample, led) = self.node.heartbeat();
        let heartbeat = Heartbeat {
            sequence: self.sequence,
            sample,
            led,
            foreign_store: self.foreign,
        };
        self.outbox.send_urgent(NodeFrame::Heartbeat(Box::new(heartbeat))).await
    }

    async fn ask_renewal(&mut self) -> Result<(), Error> {
        let had_key = self.identity.next_key.is_some();
        let request = self.identity.next_request()?;
        if !had_key {
            save(self.file, self.identity).await?;
        }
        // A session that has just ended is noticed elsewhere.
        let _ = self.outbox.send_urgent(NodeFrame::Renew { request }).await;
        Ok(())
    }

    async fn handle(
        &mut self,
        frame: ServerFrame,
        renewal: std::pin::Pin<&mut tokio::time::Sleep>,
    ) -> Result<Option<Ended>, Error> {
        match frame {
            ServerFrame::Welcome(_) => return Ok(Some(Ended::Lost("a second welcome in one session".to_owned()))),
            ServerFrame::Refused { code, reason } => return Ok(Some(Ended::Refused { code, reason })),
            ServerFrame::Feed(element) => {
                if !self.foreign {
                    self.shared.keeper.apply(element);
                }
            }
            ServerFrame::Response(response) => self.up.answered(response),
            ServerFrame::Acknowledged { wall_clock_ms, .. } => {
                if self.clock_passed_on.elapsed() >= CLOCK_INTERVAL {
                    self.clock_passed_on = Instant::now();
                    self.node.wall_clock(wall_clock_ms);
                }
            }
            ServerFrame::Certificate { certificate } => {
                if let Err(error) = self.identity.accept(certificate) {
                    tracing::warn!(%error, "the control plane sent a certificate that is of no use");
                    return Ok(None);
                }
                save(self.file, self.identity).await?;
                renewal.reset(Instant::now() + Duration::from_secs(NODE_LIFETIME / 2));
                let _ = self.outbox.send_urgent(NodeFrame::Renewed).await;
            }
            ServerFrame::Command(Command::Adopt) => self.shared.adopt.notify_waiters(),
            ServerFrame::Command(command) => self.node.command(command),
        }
        Ok(None)
    }
}

async fn serve(node: Arc<dyn Node>, mut stream: Windowed<Stream>) {
    let served = async {
        let open = tokio::time::timeout(WELCOME_TIME, protocol::read_frame(&mut stream, MAX_OPENING))
            .await
            .map_err(|_| Error::protocol("read a frame", "a stream was opened for nothing"))??;
        let StreamOpen::Target(target) = protocol::decode(&open)? else {
            return Err(Error::protocol("serve a stream", "a control plane cannot ask for this"));
        };
        match node.open(target).await {
            Ok(serving) => {
                protocol::write_frame(&mut stream, &protocol::encode(&StreamReply::Ready)?).await?;
                serving(Box::new(stream)).await;
            }
            Err((code, message)) => {
                let reply = protocol::encode(&StreamReply::Refused { code, message })?;
                protocol::write_frame(&mut stream, &reply).await?;
                let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
            }
        }
        Ok(())
    };
    if let Err(error) = served.await {
        tracing::debug!(%error, "a stream of the control plane ended early");
    }
}
