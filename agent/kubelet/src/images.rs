//! Images without a registry: archives come from the control plane over the link and are imported into containerd.
//!
//! The bytes go from the link straight into `ctr images import`, which ships with containerd and works alike on 1.6, 1.7
//! and 2.x; nothing is stored twice. Which archives have been imported is kept in a small file, and believed only as
//! long as containerd still has the names that they brought.

mod import;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::control_plane::{ControlPlane, Offline};
use crate::desired::{Desired, ImageSpec};
use crate::runtime::Runtime;

pub use import::ImportError;
pub(crate) use import::{Expected, import};

/// First and longest wait before an import that failed is tried again.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_LONGEST: Duration = Duration::from_secs(300);

/// How it stands with one archive that the cluster wants on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageState {
    /// Not fetched yet.
    Waiting,
    /// Being fetched and imported.
    Importing,
    /// Imported; containerd has these names.
    Held {
        /// Full names of the images.
        references: Vec<String>,
    },
    /// The last try failed; it will be repeated.
    Failed {
        /// Why, as a sentence.
        message: String,
    },
}

/// The state of all archives, by the name of their `Image` object.
pub type ImageStates = Arc<BTreeMap<String, ImageState>>;

/// What is kept on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// Names that each imported archive brought.
    archives: BTreeMap<String, Vec<String>>,
}

/// Keeps the images of the cluster on this node.
pub(crate) struct Images {
    node: String,
    socket: PathBuf,
    file: PathBuf,
    runtime: Arc<dyn Runtime>,
    control_plane: Arc<dyn ControlPlane>,
    desired: watch::Receiver<Arc<Desired>>,
    changed: watch::Receiver<u64>,
    states: watch::Sender<ImageStates>,
    record: Record,
    /// What the control plane has been told in this connection, by archive.
    reported: BTreeMap<String, Result<(), String>>,
    retries: BTreeMap<String, (tokio::time::Instant, Duration)>,
}

impl Images {
    /// `file` is the record on disk.
    #[expect(clippy::too_many_arguments, reason = "called once, to put the parts together")]
    pub(crate) fn new(
        node: String,
        socket: PathBuf,
        file: PathBuf,
        runtime: Arc<dyn Runtime>,
        control_plane: Arc<dyn ControlPlane>,
        desired: watch::Receiver<Arc<Desired>>,
        changed: watch::Receiver<u64>,
        states: watch::Sender<ImageStates>,
    ) -> Self {
        let record = std::fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self {
            node,
            socket,
            file,
            runtime,
            control_plane,
            desired,
            changed,
            states,
            record,
            reported: BTreeMap::new(),
            retries: BTreeMap::new(),
        }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut connected = self.control_plane.connected();
        self.desired.mark_changed();
        let mut verify = true;
        loop {
            let next = self.retries.values().map(|(at, _)| *at).min();
            let retry = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.desired.changed() => if changed.is_err() { return },
                Ok(()) = self.changed.changed() => verify = true,
                Ok(()) = connected.changed() => {
                    // The store may be another, or have lost what it was told last.
                    self.reported.clear();
                    self.retries.clear();
                }
                () = retry => {}
            }
            let wanted = self.desired.borrow_and_update().clone();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.settle(&wanted, verify) => verify = false,
            }
        }
    }

    /// Has every wanted archive, as far as that is possible now.
    async fn settle(&mut self, wanted: &Desired, verify: bool) {
        if wanted.synced {
            let gone: BTreeSet<_> = self
                .record
                .archives
                .keys()
                .filter(|name| !wanted.images.contains_key(*name))
                .cloned()
                .collect();
            if !gone.is_empty() {
                // The images stay: pods may use them. Only the record goes.
                self.record.archives.retain(|name, _| !gone.contains(name));
                self.save();
            }
            self.retries.retain(|name, _| wanted.images.contains_key(name));
        }
        if verify && !self.verify().await {
            return;
        }
        self.states.send_modify(|states| {
            let mut new: BTreeMap<_, _> = BTreeMap::new();
            for name in wanted.images.keys() {
                let held = self.record.archives.get(name).map(|references| ImageState::Held {
                    references: references.clone(),
                });
                let known = states
                    .get(name)
                    .filter(|state| matches!(state, ImageState::Failed { .. }))
                    .cloned();
                new.insert(name.clone(), held.or(known).unwrap_or(ImageState::Waiting));
            }
            *states = Arc::new(new);
        });
        for (name, spec) in &wanted.images {
            if !*self.control_plane.connected().borrow() {
                return;
            }
            if let Some((at, _)) = self.retries.get(name)
                && *at > tokio::time::Instant::now()
            {
                continue;
            }
            let outcome = if self.record.archives.contains_key(name) {
                Ok(())
            } else {
                self.fetch(name, spec).await
            };
            match outcome {
                Ok(()) => self.retries.retain(|known, _| known != name),
                Err(_) => self.retry(name),
            }
            let outcome = match outcome {
                Ok(()) => Ok(()),
                // Being cut off is not the image's fault: it is fetched when the link is back.
                Err(ImportError::Offline | ImportError::Fetch(_)) => continue,
                Err(error) => Err(error.to_string()),
            };
            if self.reported.get(name) == Some(&outcome) {
                continue;
            }
            match report::report(
                &*self.control_plane,
                &self.node,
                name,
                outcome.as_ref().err().map(String::as_str),
            )
            .await
            {
                Ok(true) => {
                    self.reported.insert(name.clone(), outcome);
                }
                Ok(false) => self.retry(name),
                Err(Offline) => return,
            }
        }
    }

    fn retry(&mut self, name: &str) {
        let delay = self
            .retries
            .get(name)
            .map_or(RETRY_FIRST, |(_, last)| (*last * 2).min(RETRY_LONGEST));
        self.retries
            .insert(name.to_owned(), (tokio::time::Instant::now() + delay, delay));
    }

    /// Forgets archives whose names containerd does not have any more; `false` when it cannot be asked.
    async fn verify(&mut self) -> bool {
        let mut lost = Vec::new();
        for (name, references) in &self.record.archives {
            for reference in references {
                match self.runtime.image(reference).await {
                    Ok(Some(_)) => {}
                    Ok(None) => lost.push(name.clone()),
                    Err(_) => return false,
                }
            }
        }
        if !lost.is_empty() {
            self.record.archives.retain(|name, _| !lost.contains(name));
            self.save();
        }
        true
    }

    async fn fetch(&mut self, name: &str, spec: &ImageSpec) -> Result<(), ImportError> {
        self.set_state(name, ImageState::Importing);
        let fetched = async {
            let archive = self
                .control_plane
                .image_archive(name.to_owned())
                .await
                .map_err(|Offline| ImportError::Offline)?;
            let digest = name.strip_prefix("sha256-");
            let size = spec.size;
            import(&self.socket, archive, digest.map(|digest| Expected { digest, size })).await
        };
        match fetched.await {
            Ok(mut references) => {
                if references.is_empty() {
                    references = spec
                        .references
                        .iter()
                        .map(|name| crate::archive::full_name(name))
                        .collect();
                }
                tracing::info!(image = name, ?references, "imported");
                self.record.archives.insert(name.to_owned(), references.clone());
                self.save();
                self.set_state(name, ImageState::Held { references });
                Ok(())
            }
            Err(error) => {
                tracing::warn!(image = name, %error, "import failed");
                let offline = matches!(error, ImportError::Offline);
                self.set_state(
                    name,
                    if offline {
                        ImageState::Waiting
                    } else {
                        ImageState::Failed {
                            message: error.to_string(),
                        }
                    },
                );
                Err(error)
            }
        }
    }

    fn set_state(&self, name: &str, state: ImageState) {
        self.states.send_modify(|states| {
            Arc::make_mut(states).insert(name.to_owned(), state);
        });
    }

    /// Written beside and renamed, so that a power cut leaves the old one or the new one.
    fn save(&self) {
        let written = serde_json::to_vec(&self.record)
            .map_err(std::io::Error::other)
            .and_then(|bytes| {
                let next = self.file.with_extension("new");
                std::fs::write(&next, bytes)?;
                std::fs::rename(&next, &self.file)
            });
        if let Err(error) = written {
            tracing::warn!(file = %self.file.display(), %error, "cannot keep the record of imported images");
        }
    }
}
