//! Multicast DNS through Avahi, on a thread of its own: the library waits inside its calls.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use zeroconf::prelude::*;
use zeroconf::{BrowserEvent, EventLoop, MdnsBrowser, MdnsService, ServiceDiscovery, ServiceType, TxtRecord};

use super::{Announcement, Candidate, Discovery, Sighting, Surroundings, add};
use crate::{Error, protocol};

/// How long one call waits for events; also how long stopping may take.
const WAIT: Duration = Duration::from_millis(500);
/// Between attempts while there is no Avahi.
const RETRY: Duration = Duration::from_secs(2);
/// Least age of a browser that is replaced because what it found leads nowhere, or could not be resolved.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The same, doubled each time, for what cannot be resolved again and again.
const LOOK_AGAIN_LONGEST: Duration = Duration::from_secs(60);

/// What is wanted of multicast DNS.
#[derive(Clone, Debug)]
pub struct MdnsOptions {
    /// Announce this control plane.
    pub announce: Option<Announcement>,
    /// Look for control planes; else there are never candidates.
    pub browse: bool,
    /// Base and prefix length of the pod network, whose addresses are of no use to others.
    pub pod_range: Option<(Ipv4Addr, u8)>,
}

/// How multicast DNS is doing. Its absence is an ordinary state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MdnsState {
    /// Not tried yet.
    Starting,
    /// Running; announced under this name, if at all.
    Up {
        /// Name that Avahi gave the announcement.
        announced: Option<String>,
    },
    /// No Avahi, or it went away; tried again every two seconds.
    Down {
        /// What the library says.
        reason: String,
    },
}

/// Multicast DNS, until dropped.
pub struct Mdns {
    candidates: watch::Sender<Arc<Vec<Candidate>>>,
    state: watch::Sender<MdnsState>,
    stop: Arc<AtomicBool>,
    again: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mdns {
    /// Starts the thread. Never fails for want of Avahi.
    pub fn start(options: MdnsOptions) -> Result<Self, Error> {
        let candidates = watch::Sender::new(Arc::default());
        let state = watch::Sender::new(MdnsState::Starting);
        let (stop, again) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let worker = Worker {
            options,
            candidates: candidates.clone(),
            state: state.clone(),
            stop: Arc::clone(&stop),
            again: Arc::clone(&again),
            suffix: 1,
            patience: LOOK_AGAIN,
        };
        let thread = std::thread::Builder::new()
            .name("mdns".into())
            .spawn(move || worker.run())
            .map_err(|error| Error::protocol("start the mDNS thread", error))?;
        Ok(Self {
            candidates,
            state,
            stop,
            again,
            thread: Some(thread),
        })
    }

    /// How it is doing.
    pub fn state(&self) -> watch::Receiver<MdnsState> {
        self.state.subscribe()
    }
}

impl Discovery for Mdns {
    fn candidates(&self) -> watch::Receiver<Arc<Vec<Candidate>>> {
        self.candidates.subscribe()
    }

    // A service is resolved when it is first seen, and an address that changes later is not told: only a new browser sees it.
    fn look_again(&self) {
        self.again.store(true, Ordering::Relaxed);
    }
}

impl Drop for Mdns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Not joined: it may be waiting for half a second, and the caller may be an async task.
            thread.thread().unpark();
        }
    }
}

/// What the library's callbacks report to the thread they run on.
enum Event {
    Seen(Box<ServiceDiscovery>),
    Gone(String),
    /// Somebody announces a service and did not say where it is: lost on a busy network, or gone.
    Unresolved,
    Announced(String),
    /// Everything must be built anew.
    Broken(String),
    NameTaken,
}

struct Worker {
    options: MdnsOptions,
    candidates: watch::Sender<Arc<Vec<Candidate>>>,
    state: watch::Sender<MdnsState>,
    stop: Arc<AtomicBool>,
    again: Arc<AtomicBool>,
    /// Number appended to our name when another program on this machine has it.
    suffix: u32,
    /// Age of the browser at which what it could not resolve is tried once more, by a new one.
    patience: Duration,
}

/// One browser and one publisher. Loops before their owners, so that they are dropped first.
struct Round {
    loops: Vec<EventLoop>,
    _browser: MdnsBrowser,
    _service: Option<MdnsService>,
    events: Receiver<Event>,
}

impl Worker {
    fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let reason = match self.begin() {
                Ok(round) => self.follow(&round),
                Err(error) => Some(error.to_string()),
            };
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let Some(reason) = reason else { continue };
            let down = MdnsState::Down { reason };
            self.state.send_if_modified(|state| {
                let news = *state != down;
                if news {
                    tracing::info!(state = ?down, "multicast DNS is not there; trying again");
                    state.clone_from(&down);
                }
                news
            });
            std::thread::park_timeout(RETRY);
        }
    }

    fn begin(&self) -> Result<Round, zeroconf::error::Error> {
        let (sender, events) = channel();
        let kind = ServiceType::new("minidc", "tcp")?;
        // also for who only announces: a publisher is not told when Avahi restarts, a browser is
        let mut browser = MdnsBrowser::new(kind.clone());
        browser.set_service_callback(browser_callback(sender.clone()));
        let mut loops = vec![browser.browse_services()?];
        let service = match &self.options.announce {
            Some(announcement) => {
                let mut service = MdnsService::new(kind, announcement.port);
                let name = match self.suffix {
                    1 => announcement.instance.clone(),
                    suffix => format!("{} {suffix}", announcement.instance),
                };
                service.set_name(&name);
                let mut txt = TxtRecord::new();
                txt.insert("cluster", &announcement.cluster)?;
                txt.insert("pin", &announcement.pin.to_string())?;
                txt.insert("protocol", &protocol::VERSION.to_string())?;
                service.set_txt_record(txt);
                service.set_registered_callback(service_callback(sender));
                loops.push(service.register()?);
                Some(service)
            }
            None => None,
        };
        Ok(Round {
            loops,
            _browser: browser,
            _service: service,
            events,
        })
    }

    /// Until told to stop, or until it must be built anew: then says what is wrong, if anything is.
    fn follow(&mut self, round: &Round) -> Option<String> {
        self.state.send_if_modified(|state| {
            !matches!(state, MdnsState::Up { .. }) && {
                *state = MdnsState::Up { announced: None };
                true
            }
        });
        let mut found = Vec::new();
        let began = Instant::now();
        let (mut published, mut unresolved) = (false, false);
        while !self.stop.load(Ordering::Relaxed) {
            for event_loop in &round.loops {
                if let Err(error) = event_loop.poll(WAIT) {
                    return Some(error.to_string());
                }
            }
            if began.elapsed() > LOOK_AGAIN && self.again.swap(false, Ordering::Relaxed) {
                return None;
            }
            if unresolved && began.elapsed() > self.patience {
                self.patience = (self.patience * 2).min(LOOK_AGAIN_LONGEST);
                return None;
            }
            let mut changed = false;
            let mut surroundings = None;
            while let Ok(event) = round.events.try_recv() {
                match event {
                    Event::Seen(_) | Event::Unresolved if !self.options.browse => {}
                    Event::Unresolved => unresolved = true,
                    Event::Seen(service) => {
                        let surroundings = surroundings.get_or_insert_with(|| self.surroundings());
                        changed |= add(&mut found, &sighting(&service), surroundings);
                    }
                    Event::Gone(instance) => {
                        let before = found.len();
                        found.retain(|candidate| candidate.instance != instance);
                        changed |= found.len() != before;
                    }
                    Event::Announced(name) => {
                        tracing::info!(name, "announced on the network");
                        self.state.send_replace(MdnsState::Up { announced: Some(name) });
                    }
                    Event::NameTaken => {
                        self.suffix += 1;
                        return Some("another program on this machine announces the same name".into());
                    }
                    Event::Broken(reason) => return Some(reason),
                }
            }
            // After a rebuild the old candidates stay until the new browser has had time to see them again.
            if changed || (!published && began.elapsed() > RETRY) {
                published = true;
                self.candidates.send_replace(Arc::new(found.clone()));
            }
        }
        None
    }

    fn surroundings(&self) -> Surroundings {
        let interfaces = nix::ifaddrs::getifaddrs()
            .map(|all| {
                all.filter_map(|interface| {
                    let address = interface.address?;
                    let address = address
                        .as_sockaddr_in()
                        .map(|v4| v4.ip().into())
                        .or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))?;
                    Some((interface.interface_name, address))
                })
                .collect()
            })
            .unwrap_or_default();
        let host = nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_default();
        Surroundings {
            host,
            interfaces,
            pod_range: self.options.pod_range,
        }
    }
}

fn browser_callback(sender: Sender<Event>) -> Box<zeroconf::ServiceBrowserCallback> {
    let sender = Mutex::new(sender);
    Box::new(move |result, _| {
        let event = match result {
            Ok(BrowserEvent::Add(service)) => Event::Seen(Box::new(service)),
            Ok(BrowserEvent::Remove(removal)) => Event::Gone(removal.name().clone()),
            // The library tells by its text only.
            Err(error) if error.to_string().contains("failed to resolve") => Event::Unresolved,
            Err(error) => Event::Broken(error.to_string()),
        };
        send(&sender, event);
    })
}

fn service_callback(sender: Sender<Event>) -> Box<zeroconf::ServiceRegisteredCallback> {
    let sender = Mutex::new(sender);
    Box::new(move |result, _| {
        send(
            &sender,
            match result {
                Ok(registration) => Event::Announced(registration.name().clone()),
                Err(error) if error.to_string().contains("collision") => Event::NameTaken,
                Err(error) => Event::Broken(error.to_string()),
            },
        );
    })
}

fn send(sender: &Mutex<Sender<Event>>, event: Event) {
    if let Ok(sender) = sender.lock() {
        // The receiver lives as long as the browser; a late event has no reader and no use.
        let _ = sender.send(event);
    }
}

fn sighting(service: &ServiceDiscovery) -> Sighting {
    let text = |key: &str| service.txt().as_ref().and_then(|txt| txt.get(key));
    Sighting {
        instance: service.name().clone(),
        host: service.host_name().clone(),
        address: service.address().clone(),
        port: *service.port(),
        cluster: text("cluster"),
        pin: text("pin"),
        protocol: text("protocol"),
    }
}
