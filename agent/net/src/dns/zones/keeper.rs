//! From the files of config maps to the zones that are served.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{sync::watch, task};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Serving, Zone, ZoneFile, ZoneFiles, ZoneProblem, Zones};
use crate::dns::{
    name::{Name, NameError},
    zonefile::{self, Note},
};

/// Makes zones of files, each only when it changed.
pub(crate) struct ZoneKeeper {
    loader: Loader,
    zones: watch::Sender<Arc<Zones>>,
    problems: watch::Sender<Arc<[ZoneProblem]>>,
}

/// What is needed to read a file.
#[derive(Clone)]
struct Loader {
    /// Of the cluster: user zones are not in it.
    domain: Name,
    /// Where the last good version of each file is kept.
    keep: Option<PathBuf>,
}

/// Config map and key.
type Key = (Box<str>, Box<str>);

/// What became of a file.
struct Loaded {
    text: Arc<str>,
    zone: Option<Arc<Zone>>,
    /// Of what version `zone` is.
    serving: Serving,
    notes: Vec<Note>,
}

impl ZoneKeeper {
    /// Serves nothing yet. Zones in `domain`, the cluster's own, are refused. Last good versions are kept in the directory
    /// `keep`, which is made when there is something to keep.
    ///
    /// # Errors
    /// If the domain is no name.
    pub(crate) fn new(domain: &str, keep: Option<PathBuf>) -> Result<Self, NameError> {
        Ok(Self {
            loader: Loader {
                domain: Name::parse(domain)?,
                keep,
            },
            zones: watch::Sender::new(Arc::default()),
            problems: watch::Sender::new(Arc::new([])),
        })
    }

    /// The zones to serve.
    pub(crate) fn zones(&self) -> watch::Receiver<Arc<Zones>> {
        self.zones.subscribe()
    }

    /// What is wrong or odd about the files, in order of config maps, files and lines.
    pub(crate) fn problems(&self) -> watch::Receiver<Arc<[ZoneProblem]>> {
        self.problems.subscribe()
    }

    /// Follows the files until shutdown. A file that is no longer among them is a zone that is no longer served: only a list
    /// that is known to be whole may lack one.
    pub(crate) async fn run(self, mut files: watch::Receiver<Arc<ZoneFiles>>, shutdown: CancellationToken) {
        let mut known: BTreeMap<Key, Loaded> = BTreeMap::new();
        loop {
            let current = Arc::clone(&files.borrow_and_update());
            let loader = self.loader.clone();
            // a large zone takes a Pi a noticeable part of a second
            let loading = task::spawn_blocking(move || loader.load_all(known, &current));
            let (zones, problems);
            match loading.await {
                Ok(loaded) => (known, zones, problems) = loaded,
                Err(error) => {
                    warn!(%error, "reading the zone files broke off");
                    known = BTreeMap::new();
                    if !next(&mut files, &shutdown).await {
                        return;
                    }
                    continue;
                }
            }
            self.zones.send_replace(Arc::new(zones));
            self.problems.send_if_modified(|told| {
                let changed = **told != *problems;
                if changed {
                    *told = problems.into();
                }
                changed
            });
            if !next(&mut files, &shutdown).await {
                return;
            }
        }
    }
}

/// Waits for other files; false at the end.
async fn next(files: &mut watch::Receiver<Arc<ZoneFiles>>, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => false,
        changed = files.changed() => {
            if changed.is_err() {
                // nobody tells of files any more: what there is is served until the end
                shutdown.cancelled().await;
            }
            changed.is_ok()
        }
    }
}

impl Loader {
    fn load_all(
        &self,
        mut known: BTreeMap<Key, Loaded>,
        files: &ZoneFiles,
    ) -> (BTreeMap<Key, Loaded>, Zones, Vec<ZoneProblem>) {
        let mut sorted: Vec<&ZoneFile> = files.files.iter().collect();
        sorted.sort_by(|a, b| (&a.config_map, &a.file).cmp(&(&b.config_map, &b.file)));
        let mut now = BTreeMap::new();
        let mut owners: BTreeMap<Box<[u8]>, Key> = BTreeMap::new();
        let mut zones = Vec::new();
        let mut problems = Vec::new();
        for file in sorted {
            let key = (file.config_map.clone(), file.file.clone());
            let apex = zone_name(&file.file, &self.domain);
            let mut conflict = None;
            let loaded = match apex {
                Err(reason) => Loaded::refused(file, reason),
                Ok(apex) => {
                    let owner = owners
                        .entry(apex.lowered().wire().into())
                        .or_insert_with(|| key.clone());
                    if *owner != key {
                        conflict = Some(format!(
                            "zone {apex} is in file {} of config map {} already",
                            owner.1, owner.0
                        ));
                    }
                    match known.remove(&key) {
                        Some(loaded) if *loaded.text == *file.text => loaded,
                        earlier => self.load(file, &apex, earlier),
                    }
                }
            };
            let serving = if conflict.is_some() {
                Serving::Nothing
            } else {
                loaded.serving
            };
            let notes = loaded.notes.iter().map(|note| (note.line, note.reason.clone()));
            problems.extend(conflict.clone().into_iter().map(|reason| (0, reason)).chain(notes).map(
                |(line, reason)| ZoneProblem {
                    config_map: file.config_map.clone(),
                    file: file.file.clone(),
                    line,
                    reason,
                    serving,
                },
            ));
            if conflict.is_none() {
                zones.extend(loaded.zone.clone());
            }
            now.insert(key, loaded);
        }
        for key in known.into_keys() {
            self.forget(&key);
        }
        problems.sort();
        problems.dedup();
        (now, Zones::new(zones), problems)
    }

    fn load(&self, file: &ZoneFile, apex: &Name, earlier: Option<Loaded>) -> Loaded {
        let (zone, mut notes) = read(&file.text, apex);
        if let Some(zone) = zone {
            info!(zone = %apex, config_map = %file.config_map, "zone file read");
            if let Err(error) = self.store(file) {
                warn!(zone = %apex, %error, "cannot keep this version of the zone file");
            }
            return Loaded {
                text: Arc::clone(&file.text),
                zone: Some(Arc::new(zone)),
                serving: Serving::This,
                notes,
            };
        }
        notes.sort_by_key(|note| note.line);
        let zone = match earlier {
            Some(earlier) => earlier.zone,
            None => self.stored(file, apex).map(Arc::new),
        };
        let serving = if zone.is_some() {
            Serving::Earlier
        } else {
            Serving::Nothing
        };
        if let Some(first) = notes.iter().find(|note| note.fatal) {
            warn!(zone = %apex, config_map = %file.config_map, line = first.line, reason = first.reason, ?serving, "bad zone file");
        }
        Loaded {
            text: Arc::clone(&file.text),
            zone,
            serving,
            notes,
        }
    }

    fn path(&self, config_map: &str, file: &str) -> Option<PathBuf> {
        let plain = |text: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            !text.is_empty() && !text.starts_with('.') && text.bytes().all(allowed)
        };
        let keep = self.keep.as_ref()?;
        (plain(config_map) && plain(file)).then(|| keep.join(config_map).join(file))
    }

    /// Keeps a good version; writes only what is not there.
    fn store(&self, file: &ZoneFile) -> io::Result<()> {
        let Some(path) = self.path(&file.config_map, &file.file) else {
            return Ok(());
        };
        if fs::read(&path).is_ok_and(|there| there == file.text.as_bytes()) {
            return Ok(());
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        // no name of a config map or of its keys ends so
        let new = path.with_file_name(format!("{}~", file.file));
        write(&new, file.text.as_bytes())?;
        fs::rename(&new, &path)
    }

    fn stored(&self, file: &ZoneFile, apex: &Name) -> Option<Zone> {
        let text = fs::read_to_string(self.path(&file.config_map, &file.file)?).ok()?;
        read(&text, apex).0
    }

    fn forget(&self, (config_map, file): &Key) {
        if let Some(path) = self.path(config_map, file) {
            // what is not there need not be removed; the directory stays while it holds others
            let _ = fs::remove_file(&path);
            if let Some(directory) = path.parent() {
                let _ = fs::remove_dir(directory);
            }
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use io::Write as _;
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

impl Loaded {
    fn refused(file: &ZoneFile, reason: String) -> Self {
        Self {
            text: Arc::clone(&file.text),
            zone: None,
            serving: Serving::Nothing,
            notes: vec![Note::fault(0, reason)],
        }
    }
}

/// The zone in a file, unless something is wrong with it.
pub(super) fn read(text: &str, apex: &Name) -> (Option<Zone>, Vec<Note>) {
    let mut parsed = zonefile::parse(text, apex);
    if parsed.notes.iter().any(|note| note.fatal) {
        return (None, parsed.notes);
    }
    let zone = Zone::build(apex, parsed.records, &mut parsed.notes);
    (zone, parsed.notes)
}

/// What the file of this name is the zone of.
///
/// # Errors
/// In words, if it cannot be a user zone.
fn zone_name(file: &str, domain: &Name) -> Result<Name, String> {
    let text = file.strip_prefix("db.").unwrap_or(file);
    let text = text.strip_suffix(".zone").unwrap_or(text);
    let name = Name::parse(text).map_err(|error| format!("{text:?} is no zone name: {error}"))?;
    if name.is_root() {
        return Err("the root is not a user zone".into());
    }
    if name.is_within(domain) {
        return Err(format!("{name} is in the cluster's own domain {domain}"));
    }
    let local = Name::parse("local").map_err(|error| error.to_string())?;
    if name.is_within(&local) {
        return Err(format!(
            "{name} is in the domain local, whose names are announced on the LAN"
        ));
    }
    Ok(name)
}

#[cfg(test)]
mod tests;
