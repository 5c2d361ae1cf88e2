//! Avahi over D-Bus: the thin edge. Its interfaces are described in `/usr/share/dbus-1/interfaces/org.freedesktop.Avahi.*`.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use dbus::Error;
use dbus::channel::MatchingReceiver;
use dbus::message::{MatchRule, Message};
use dbus::nonblock::{MethodReply, Proxy, SyncConnection};
use dbus_tokio::connection;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::task::AbortOnDropHandle;

use super::book::{Group, Outcome};

const AVAHI: &str = "org.freedesktop.Avahi";
const SERVER: &str = "org.freedesktop.Avahi.Server";
const ENTRY_GROUP: &str = "org.freedesktop.Avahi.EntryGroup";
const DBUS: &str = "org.freedesktop.DBus";
const NO_OWNER: &str = "org.freedesktop.DBus.Error.NameHasNoOwner";
const COLLISION: &str = "org.freedesktop.Avahi.CollisionError";

/// Avahi answers within milliseconds; a lookup takes up to 5 s when nobody answers.
const LIMIT: Duration = Duration::from_secs(10);

/// `AVAHI_IF_UNSPEC`: all interfaces that Avahi is on.
const ANY_INTERFACE: i32 = -1;
/// `AVAHI_PROTO_UNSPEC`: whatever the name is asked over.
const ANY_PROTOCOL: i32 = -1;
/// `AVAHI_PROTO_INET`.
const IPV4: i32 = 0;
/// `AVAHI_PUBLISH_NO_REVERSE`: the address keeps leading back to the host's own name.
const NO_REVERSE: u32 = 16;

/// `AvahiEntryGroupState`, of avahi-common/defs.h.
const ESTABLISHED: i32 = 2;
const TAKEN: i32 = 3;
const FAILURE: i32 = 4;

/// What happens without being asked for.
pub(super) enum Event {
    /// Avahi ended, or began anew: all groups are gone.
    Restarted,
    /// A claim ended, or an announced name was lost later.
    Group(Group, Outcome),
}

/// Why a name was not even claimed.
pub(super) enum Refusal {
    /// Avahi will not have this name.
    Name(Outcome),
    /// There is no talking to it any more.
    Lost(String),
}

enum Signal {
    Owner(String),
    State {
        sender: String,
        group: Group,
        state: i32,
        error: String,
    },
}

/// A connection to the system's D-Bus with an eye on Avahi.
pub(super) struct Avahi {
    bus: Arc<SyncConnection>,
    /// Moves the bytes; ends when the connection does.
    worker: AbortOnDropHandle<connection::IOResourceError>,
    signals: UnboundedReceiver<Signal>,
    /// Unique name of the running Avahi on the bus. Anybody may send signals; only this one's count.
    owner: Option<String>,
}

impl Avahi {
    pub(super) async fn connect() -> Result<Self, String> {
        // the library waits for D-Bus's greeting
        let (resource, bus) = tokio::task::spawn_blocking(connection::new_system_sync)
            .await
            .map_err(|error| format!("connect to D-Bus: {error}"))?
            .map_err(|error| sentence("connect to D-Bus", &error))?;
        let worker = AbortOnDropHandle::new(tokio::spawn(resource));
        // written to by Avahi and D-Bus only, a few messages for each thing that is asked of them
        let (sender, signals) = unbounded_channel();
        listen(&bus, sender);
        let rule = format!("type='signal',sender='{DBUS}',interface='{DBUS}',member='NameOwnerChanged',arg0='{AVAHI}'");
        bus.add_match_no_cb(&rule)
            .await
            .map_err(|error| sentence("listen to D-Bus", &error))?;
        let daemon = Proxy::new(DBUS, "/org/freedesktop/DBus", LIMIT, Arc::clone(&bus));
        let owner: Result<(String,), Error> = daemon.method_call(DBUS, "GetNameOwner", (AVAHI,)).await;
        let owner = match owner {
            Ok((owner,)) => Some(owner),
            Err(error) if error.name() == Some(NO_OWNER) => None,
            Err(error) => return Err(sentence("look for Avahi", &error)),
        };
        Ok(Self {
            bus,
            worker,
            signals,
            owner,
        })
    }

    pub(super) fn is_running(&self) -> bool {
        self.owner.is_some()
    }

    /// The next thing that happens. An error means that the connection is lost. May be dropped at any time.
    pub(super) async fn event(&mut self) -> Result<Event, String> {
        loop {
            let signal = tokio::select! {
                signal = self.signals.recv() => signal.ok_or("the connection to D-Bus is closed")?,
                end = &mut self.worker => return Err(match end {
                    Ok(error) => format!("D-Bus hung up: {error}"),
                    Err(error) => format!("D-Bus hung up: {error}"),
                }),
            };
            match signal {
                Signal::Owner(owner) => {
                    let owner = Some(owner).filter(|owner| !owner.is_empty());
                    if owner != self.owner {
                        self.owner = owner;
                        return Ok(Event::Restarted);
                    }
                }
                Signal::State {
                    sender,
                    group,
                    state,
                    error,
                } if Some(&sender) == self.owner.as_ref() => {
                    let outcome = match state {
                        ESTABLISHED => Outcome::Announced,
                        TAKEN => Outcome::Collision,
                        FAILURE => Outcome::Failed(error),
                        _ => continue,
                    };
                    return Ok(Event::Group(group, outcome));
                }
                Signal::State { .. } => {}
            }
        }
    }

    /// Claims a name; what becomes of it is an event.
    pub(super) async fn announce(&self, label: &str, address: Ipv4Addr) -> Result<Group, Refusal> {
        let (group,): (Group,) = self
            .call("/", SERVER, "EntryGroupNew", ())
            .await
            .map_err(|error| refusal(&error))?;
        let name = format!("{label}.local");
        let record = (ANY_INTERFACE, ANY_PROTOCOL, NO_REVERSE, name, address.to_string());
        let added: Result<(), Error> = self.call(group.clone(), ENTRY_GROUP, "AddAddress", record).await;
        let claimed: Result<(), Error> = match added {
            Ok(()) => self.call(group.clone(), ENTRY_GROUP, "Commit", ()).await,
            Err(error) => Err(error),
        };
        match claimed.map_err(|error| refusal(&error)) {
            Ok(()) => Ok(group),
            Err(refusal) => {
                if matches!(refusal, Refusal::Name(_)) {
                    self.withdraw(group).await.map_err(Refusal::Lost)?;
                }
                Err(refusal)
            }
        }
    }

    /// Takes a name back, with a goodbye to the network if it was announced.
    pub(super) async fn withdraw(&self, group: Group) -> Result<(), String> {
        let freed: Result<(), Error> = self.call(group, ENTRY_GROUP, "Free", ()).await;
        match freed.map_err(|error| refusal(&error)) {
            Err(Refusal::Lost(problem)) => Err(problem),
            // a group that Avahi does not know is as good as withdrawn
            Err(Refusal::Name(_)) | Ok(()) => Ok(()),
        }
    }

    /// Where a name leads to on this network now.
    pub(super) fn look_up(&self, label: &str) -> impl Future<Output = Option<IpAddr>> + Send + 'static {
        type Resolved = (i32, i32, String, i32, String, u32);
        let question = (ANY_INTERFACE, ANY_PROTOCOL, format!("{label}.local"), IPV4, 0_u32);
        let answer: MethodReply<Resolved> = self.call("/", SERVER, "ResolveHostName", question);
        async move { answer.await.ok().and_then(|(.., address, _)| address.parse().ok()) }
    }

    fn call<'a, A: dbus::arg::AppendAll, R: dbus::arg::ReadAll + 'static>(
        &self,
        path: impl Into<dbus::Path<'a>>,
        interface: &'static str,
        method: &'static str,
        arguments: A,
    ) -> MethodReply<R> {
        Proxy::new(AVAHI, path, LIMIT, Arc::clone(&self.bus)).method_call(interface, method, arguments)
    }
}

/// Passes signals on to `sender`.
fn listen(bus: &SyncConnection, sender: UnboundedSender<Signal>) {
    let owners = sender.clone();
    let mut rule = MatchRule::new_signal(DBUS, "NameOwnerChanged").with_sender(DBUS);
    rule.strict_sender = true;
    bus.start_receive(
        rule,
        Box::new(move |message, _| {
            if let Ok((name, _, owner)) = message.read3::<&str, &str, &str>()
                && name == AVAHI
            {
                // nobody reads any more when the connection is being dropped
                let _ = owners.send(Signal::Owner(owner.into()));
            }
            true
        }),
    );
    // Avahi sends these to the group's owner alone: no rule on the bus is needed
    bus.start_receive(
        MatchRule::new_signal(ENTRY_GROUP, "StateChanged"),
        Box::new(move |message, _| {
            if let Some(signal) = state(&message) {
                let _ = sender.send(signal);
            }
            true
        }),
    );
}

fn state(message: &Message) -> Option<Signal> {
    let (state, error) = message.read2::<i32, &str>().ok()?;
    Some(Signal::State {
        sender: message.sender()?.to_string(),
        group: message.path()?.into_static(),
        state,
        error: error.into(),
    })
}

/// An error of Avahi is about the name; any other says that Avahi or D-Bus is not there, or hangs.
fn refusal(error: &Error) -> Refusal {
    match error.name() {
        Some(COLLISION) => Refusal::Name(Outcome::Collision),
        Some(name) if name.starts_with(AVAHI) => {
            let reason = error.message().unwrap_or(name).to_owned();
            Refusal::Name(Outcome::Failed(reason))
        }
        _ => Refusal::Lost(sentence("ask Avahi", error)),
    }
}

fn sentence(attempt: &str, error: &Error) -> String {
    let reason = error.message().or(error.name()).unwrap_or("no reason given");
    format!("{attempt}: {reason}")
}
