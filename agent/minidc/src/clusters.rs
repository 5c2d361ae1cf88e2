//! The clusters whose cards were made on this computer: `minidc/clusters/NAME` in the person's configuration folder. Each directory is
//! a cluster's identity as the link crate keeps it, the admin's kubeconfig, and a list of the cards that were made.
//!
//! With sudo the folder is that of the person who called it, and everything in it is made as that person: files of root in
//! somebody's home would be in the way later, and root does not follow links that others may have laid.

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use jiff::Timestamp;
use minidc_image::seed::Role;
use minidc_link::pki::{self, ClusterIdentity};
use nix::unistd::{Gid, Uid, User, geteuid, setegid, seteuid};

use crate::commands::kubeconfig::{self, Contents};

/// The admin's kubeconfig, in a cluster's directory.
const KUBECONFIG: &str = "kubeconfig";
/// The list of cards, in a cluster's directory.
const CARDS: &str = "cards";
/// Port of a control plane that was flashed.
pub(crate) const PORT: u16 = 6443;

/// Who called the program: themselves, or through sudo.
#[derive(Clone, Copy, Debug)]
struct Person {
    /// Set when root works for somebody else.
    other: Option<(Uid, Gid)>,
}

impl Person {
    fn of_process() -> Self {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        let other = match (number("SUDO_UID"), number("SUDO_GID")) {
            (Some(user), Some(group)) if user != 0 && geteuid().is_root() => {
                Some((Uid::from_raw(user), Gid::from_raw(group)))
            }
            _ => None,
        };
        Self { other }
    }

    /// Their configuration folder.
    fn folder(self) -> anyhow::Result<PathBuf> {
        if let Some(folder) = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from)
            && folder.is_absolute()
        {
            return Ok(folder);
        }
        let home = match self.other {
            Some((user, _)) => User::from_uid(user)?.map(|user| user.dir),
            None => std::env::home_dir(),
        };
        home.filter(|home| home.is_absolute())
            .map(|home| home.join(".config"))
            .context("find your home directory: set HOME or XDG_CONFIG_HOME")
    }

    /// Does something to files as this person.
    fn act<T>(self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let Some((user, group)) = self.other else {
            return work();
        };
        setegid(group)
            .and_then(|()| seteuid(user))
            .context("act as the person who called sudo")?;
        let result = work();
        seteuid(Uid::from_raw(0))
            .and_then(|()| setegid(Gid::from_raw(0)))
            .context("be root again")?;
        result
    }
}

/// All clusters of a person.
#[derive(Clone, Debug)]
pub(crate) struct Clusters {
    directory: PathBuf,
    person: Person,
}

impl Clusters {
    /// Those of the person who called the program.
    ///
    /// # Errors
    /// If there is no home directory.
    pub(crate) fn of_person() -> anyhow::Result<Self> {
        let person = Person::of_process();
        Ok(Self {
            directory: person.folder()?.join("minidc/clusters"),
            person,
        })
    }

    /// Their names, sorted; none if there is no folder.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub(crate) fn names(&self) -> anyhow::Result<Vec<String>> {
        let read = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.directory)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                // a half-made one is called NAME.new
                if pki::is_label(&name) && entry.path().is_dir() {
                    names.push(name);
                }
            }
            names.sort();
            Ok(names)
        };
        self.person.act(|| match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.with_context(|| format!("read {}", self.directory.display())),
        })
    }

    /// The cluster `name`, which must be there.
    ///
    /// # Errors
    /// If it is not, or its files are damaged.
    pub(crate) fn get(&self, name: &str) -> anyhow::Result<Cluster> {
        let names = self.names()?;
        if !names.iter().any(|known| known == name) {
            let known = if names.is_empty() {
                "none were".to_owned()
            } else {
                names.join(", ")
            };
            bail!(
                "no cards of a cluster {name:?} were made here (looked in {}; those that were: {known})",
                self.directory.display()
            );
        }
        self.open(name, ClusterIdentity::load)
    }

    /// The cluster `name`, made now if it was not there.
    ///
    /// # Errors
    /// If the name is none, or the files cannot be written.
    pub(crate) fn get_or_make(&self, name: &str) -> anyhow::Result<Cluster> {
        self.open(name, |directory| ClusterIdentity::load_or_create(directory, name))
    }

    fn open(
        &self,
        name: &str,
        identity: impl FnOnce(&Path) -> Result<ClusterIdentity, minidc_link::Error>,
    ) -> anyhow::Result<Cluster> {
        let directory = self.directory.join(name);
        let identity = self.person.act(|| Ok(identity(&directory)?))?;
        let cluster = Cluster {
            directory,
            identity,
            person: self.person,
        };
        cluster.kubeconfig()?;
        Ok(cluster)
    }

    /// The cluster that is meant when nobody says which: the only one. `None` if there are none.
    ///
    /// # Errors
    /// If there are several.
    pub(crate) fn only(&self) -> anyhow::Result<Option<Cluster>> {
        match self.names()?.as_slice() {
            [] => Ok(None),
            [name] => self.get(name).map(Some),
            names => bail!(
                "cards of several clusters were made here: choose one with --cluster ({})",
                names.join(", ")
            ),
        }
    }
}

/// A cluster whose identity is here.
pub(crate) struct Cluster {
    directory: PathBuf,
    identity: ClusterIdentity,
    person: Person,
}

impl Cluster {
    /// Where it is.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What makes it this cluster.
    pub(crate) fn identity(&self) -> &ClusterIdentity {
        &self.identity
    }

    /// The file of the admin's kubeconfig.
    pub(crate) fn kubeconfig_file(&self) -> PathBuf {
        self.directory.join(KUBECONFIG)
    }

    /// The admin's kubeconfig, made at first; its address is where the cluster was last seen.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub(crate) fn kubeconfig(&self) -> anyhow::Result<String> {
        let path = self.kubeconfig_file();
        let text = self.person.act(|| match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some).with_context(|| format!("read {}", path.display())),
        })?;
        if let Some(text) = text {
            return Ok(text);
        }
        let admin = self.identity.issue_admin()?;
        let cluster = self.identity.cluster();
        let text = Contents {
            cluster,
            // nobody knows better before the rack was seen
            address: &format!("{cluster}.local:{PORT}"),
            authority: self.identity.ca_pem(),
            certificate: &admin.certificate_pem,
            key: &admin.key_pem,
        }
        .render_for(&pki::server_name(cluster));
        self.keep_kubeconfig(&text)?;
        Ok(text)
    }

    /// Replaces the admin's kubeconfig.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn keep_kubeconfig(&self, text: &str) -> anyhow::Result<()> {
        self.write_private(&self.kubeconfig_file(), text)
    }

    /// Writes a file that belongs to the person and that only they can read.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write_private(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        self.person.act(|| kubeconfig::write_private(path, text))
    }

    /// Adds a card to the list.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn add_card(&self, card: &Made) -> anyhow::Result<()> {
        let path = self.directory.join(CARDS);
        self.person.act(|| {
            let append = || {
                let mut file = fs::OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o600)
                    .open(&path)?;
                file.write_all(format!("{card}\n").as_bytes())?;
                file.sync_all()
            };
            append().with_context(|| format!("write {}", path.display()))
        })
    }

    /// The cards that were made, in their order. Lines that are not understood are left out: the list warns, it decides nothing.
    ///
    /// # Errors
    /// If the list cannot be read.
    pub(crate) fn cards(&self) -> anyhow::Result<Vec<Made>> {
        let path = self.directory.join(CARDS);
        self.person.act(|| match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
            Ok(text) => Ok(text.lines().filter_map(Made::parse).collect()),
        })
    }
}

/// A card that was made: a line `TIME ROLE NODE` of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// When, in whole seconds.
    pub(crate) time: Timestamp,
    /// What its board is.
    pub(crate) role: Role,
    /// Name of the board.
    pub(crate) node: String,
}

impl Made {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        Some(Self {
            time: words.next()?.parse().ok()?,
            role: words.next()?.parse().ok()?,
            node: words.next()?.to_owned(),
        })
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.time, self.role, self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters(directory: &Path) -> Clusters {
        Clusters {
            directory: directory.join("minidc/clusters"),
            person: Person { other: None },
        }
    }

    #[test]
    fn an_identity_is_made_once_and_is_only_its_owners() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let clusters = clusters(folder.path());
        assert!(clusters.only().unwrap().is_none());
        let made = clusters.get_or_make("rack1").unwrap();
        let kubeconfig = made.kubeconfig().unwrap();
        assert!(
            kubeconfig.contains("server: https://rack1.local:6443\n"),
            "{kubeconfig}"
        );
        assert!(
            kubeconfig.contains("    tls-server-name: server.rack1.minidc\n"),
            "{kubeconfig}"
        );
        let again = clusters.only().unwrap().unwrap();
        assert_eq!(again.identity().pin(), made.identity().pin());
        assert_eq!(again.kubeconfig().unwrap(), kubeconfig);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(made.directory()), 0o700);
        for entry in fs::read_dir(made.directory()).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }

    #[test]
    fn which_of_several_is_meant_must_be_said() {
        let folder = tempfile::tempdir().unwrap();
        let clusters = clusters(folder.path());
        for name in ["rack1", "rack2"] {
            clusters.get_or_make(name).unwrap();
        }
        let error = clusters.only().err().unwrap().to_string();
        assert!(error.contains("--cluster (rack1, rack2)"), "{error}");
        let error = clusters.get("rack3").err().unwrap().to_string();
        assert!(error.contains("those that were: rack1, rack2"), "{error}");
        assert!(clusters.get_or_make("Rack 1").is_err());
    }

    #[test]
    fn the_list_of_cards_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = clusters(folder.path()).get_or_make("rack1").unwrap();
        assert_eq!(cluster.cards().unwrap(), []);
        let card = |role, node: &str| Made {
            time: "2026-11-22T12:00:00Z".parse().unwrap(),
            role,
            node: node.into(),
        };
        let cards = [card(Role::Server, "pi-1"), card(Role::Node, "pi-2")];
        for card in &cards {
            cluster.add_card(card).unwrap();
        }
        assert_eq!(cluster.cards().unwrap(), cards);
    }
}
