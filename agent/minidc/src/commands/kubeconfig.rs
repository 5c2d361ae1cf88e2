//! `minidc kubeconfig`: the admin kubeconfig with an address that answers now.

use std::{
    io::{IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures::{StreamExt, stream::FuturesUnordered};
use minidc_link::{
    discovery::{Candidate, Discovery, Mdns, MdnsOptions, MdnsState},
    pki::Pin,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::{
    cli::KubeconfigArgs,
    client::{self, Client},
    clusters::{self, Cluster, Clusters},
    config::Config,
};

/// How often `--watch` asks whether the address still answers.
const CHECK: Duration = Duration::from_secs(5);
/// How long one address may take to prove itself; a Pi that is busy starting takes a second.
const ATTEMPT: Duration = Duration::from_secs(4);
/// How long until addresses that led nowhere are tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What goes into a kubeconfig.
pub(crate) struct Contents<'a> {
    /// Name of the cluster, also of the context.
    pub(crate) cluster: &'a str,
    /// `HOST:PORT` of the API.
    pub(crate) address: &'a str,
    /// The CA certificate, PEM.
    pub(crate) authority: &'a str,
    /// The admin's certificate, PEM.
    pub(crate) certificate: &'a str,
    /// Its key, PEM.
    pub(crate) key: &'a str,
}

impl Contents<'_> {
    /// The file's text for a server that is known by `server_name`, whatever its address.
    pub(crate) fn render_for(&self, server_name: &str) -> String {
        let authority = "    certificate-authority-data:";
        self.render()
            .replace(authority, &format!("    tls-server-name: {server_name}\n{authority}"))
    }

    /// The file's text.
    pub(crate) fn render(&self) -> String {
        let encode = |text: &str| BASE64_STANDARD.encode(text);
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: {cluster}\nclusters:\n- name: {cluster}\n  cluster:\n    server: https://{address}\n    \
             certificate-authority-data: {authority}\ncontexts:\n- name: {cluster}\n  context:\n    cluster: {cluster}\n    user: {cluster}-admin\n\
             users:\n- name: {cluster}-admin\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n",
            cluster = self.cluster,
            address = self.address,
            authority = encode(self.authority),
            certificate = encode(self.certificate),
            key = encode(self.key),
        )
    }
}

/// Writes `text` so that only its owner can read it, and so that no reader ever sees half of it.
///
/// # Errors
/// If the directory or the file cannot be written.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let attempt = || format!("write {}", path.display());
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .with_context(attempt)?;
    file.write_all(text.as_bytes()).with_context(attempt)?;
    file.sync_all().with_context(attempt)?;
    std::fs::rename(&new, path).with_context(attempt)
}

/// Replaces the server's address in a kubeconfig's text.
pub(crate) fn with_address(text: &str, address: &str) -> String {
    let lines = text.lines().map(|line| match line.find("server: https://") {
        Some(at) => format!("{}server: https://{address}", &line[..at]),
        None => line.to_owned(),
    });
    lines.map(|line| line + "\n").collect()
}

/// Runs `minidc kubeconfig`.
pub(crate) async fn run(arguments: KubeconfigArgs, config: &Config) -> anyhow::Result<()> {
    let output = arguments.output.as_deref();
    let Some(cluster) = flashed(&arguments, config)? else {
        let source = client::kubeconfig_path(arguments.client.kubeconfig.as_deref(), config)?;
        let text = tokio::fs::read_to_string(&source)
            .await
            .with_context(|| format!("read {}", source.display()))?;
        let Some(output) = output else {
            ensure!(
                !arguments.watch,
                "--watch keeps a file current: name it with --output FILE"
            );
            print!("{text}");
            return Ok(());
        };
        write_private(output, &text)?;
        println!("wrote {}", output.display());
        if !arguments.watch {
            return Ok(());
        }
        let finder = Finder::new(text, None)?;
        return finder.watch(|text| write_private(output, text)).await;
    };
    if let Some(output) = output {
        check_replaceable(output, cluster.identity().cluster())?;
    }
    let keep = |text: &str| -> anyhow::Result<()> {
        cluster.keep_kubeconfig(text)?;
        match output {
            Some(output) => cluster.write_private(output, text),
            None => Ok(()),
        }
    };
    let finder = Finder::new(cluster.kubeconfig()?, arguments.server)?;
    if arguments.watch {
        return finder.watch(keep).await;
    }
    let address = finder.find(arguments.timeout).await?;
    let text = with_address(&finder.text, &address);
    keep(&text)?;
    let file = output.map_or_else(|| cluster.kubeconfig_file(), Path::to_owned);
    eprintln!(
        "{} is at {address}\nexport KUBECONFIG={}",
        finder.cluster,
        file.display()
    );
    // keys are of no use to somebody who looks at a screen
    if output.is_none() && !std::io::stdout().is_terminal() {
        print!("{text}");
    }
    Ok(())
}

/// The cluster flashed on this computer that is meant; `None` when it is a kubeconfig file that is meant, as on a control plane.
fn flashed(arguments: &KubeconfigArgs, config: &Config) -> anyhow::Result<Option<Cluster>> {
    let clusters = || Clusters::of_person();
    if let Some(name) = &arguments.cluster {
        return clusters()?.get(name).map(Some);
    }
    if arguments.server.is_some() {
        let only = clusters()?.only()?;
        return only
            .context("--server goes with a cluster whose cards were made on this computer; there is none")
            .map(Some);
    }
    if arguments.client.kubeconfig.is_some() || config.data.join("server/admin.kubeconfig").exists() {
        return Ok(None);
    }
    clusters()?.only()
}

/// Somebody's collection of other clusters is not overwritten.
fn check_replaceable(path: &Path, cluster: &str) -> anyhow::Result<()> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        Ok(text) => {
            ensure!(
                text.trim().is_empty() || context_of(&text) == cluster && text.matches("\n- context:").count() <= 1,
                "{} is there and is not the kubeconfig of {cluster}: choose another file",
                path.display()
            );
            Ok(())
        }
    }
}

/// Name of the context that is in use.
fn context_of(text: &str) -> &str {
    let line = text.lines().find_map(|line| line.strip_prefix("current-context: "));
    line.unwrap_or_default().trim()
}

/// Finds the control plane that a kubeconfig is for.
struct Finder {
    cluster: String,
    pin: Pin,
    text: String,
    /// Where it was last.
    last: String,
    /// Where it is to be, by its user.
    server: Option<String>,
}

impl Finder {
    fn new(text: String, server: Option<String>) -> anyhow::Result<Self> {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.trim().strip_prefix(key))
                .unwrap_or_default()
        };
        let authority = BASE64_STANDARD
            .decode(value("certificate-authority-data: "))
            .context("certificate-authority-data")?;
        let authority = CertificateDer::from_pem_slice(&authority).context("certificate-authority-data")?;
        Ok(Self {
            cluster: context_of(&text).to_owned(),
            pin: Pin::of_certificate(&authority)?,
            last: value("server: https://").to_owned(),
            text,
            server: server.map(|server| with_port(&server)),
        })
    }

    /// Whether this kubeconfig works at `address`: the server there must have a certificate of this CA, and take ours.
    async fn try_at(&self, address: &str) -> anyhow::Result<()> {
        let attempt = async {
            let text = with_address(&self.text, address);
            Client::connect_with(&text).await?.get("/version").await
        };
        match tokio::time::timeout(ATTEMPT, attempt).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if is_foreign(&error) => {
                bail!(
                    "{address}: the server there is not that of {}: it has another CA",
                    self.cluster
                )
            }
            Ok(Err(error)) => Err(error.context(format!("{address} does not answer as it should"))),
            Err(_) => bail!("{address}: no answer within {} s", ATTEMPT.as_secs()),
        }
    }

    /// The first of `addresses` at which the kubeconfig works; else why not.
    async fn first_of(&self, servers: &[String]) -> Result<String, Vec<String>> {
        let mut addresses = Vec::new();
        let mut failures = Vec::new();
        for server in servers {
            match resolved(server).await {
                Ok(found) => addresses.extend(found),
                Err(error) => failures.push(format!("find {server}: {error}")),
            }
        }
        let mut attempts: FuturesUnordered<_> = addresses
            .into_iter()
            .map(|address| async move { self.try_at(&address).await.map(|()| address) })
            .collect();
        while let Some(outcome) = attempts.next().await {
            match outcome {
                Ok(address) => return Ok(address),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        failures.sort();
        Err(failures)
    }

    /// Where the rack is. Announcements are hints; what counts is that the server proves itself.
    async fn find(&self, patience: Duration) -> anyhow::Result<String> {
        if let Some(server) = &self.server {
            let found = self.first_of(std::slice::from_ref(server)).await;
            return found.map_err(|failures| anyhow::anyhow!(failures.join("; ")));
        }
        let mdns = browse()?;
        let mut candidates = mdns.candidates();
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let found = candidates.borrow_and_update().clone();
            let failures = match self.first_of(&self.addresses(&found)).await {
                Ok(address) => return Ok(address),
                Err(failures) => failures,
            };
            tokio::select! {
                changed = candidates.changed() => changed.context("mDNS discovery ended")?,
                () = tokio::time::sleep(AGAIN) => mdns.look_again(),
                () = tokio::time::sleep_until(deadline) => bail!(self.not_found(&found, &failures, patience, &mdns)),
            }
        }
    }

    /// All that may be tried: what is announced with our pin, and where it was last.
    fn addresses(&self, found: &[Candidate]) -> Vec<String> {
        let mut addresses: Vec<String> = found
            .iter()
            .filter(|candidate| candidate.pin == self.pin)
            .flat_map(Candidate::sockets)
            .map(|socket| socket.to_string())
            .collect();
        if !self.last.is_empty() && !addresses.contains(&self.last) {
            addresses.push(self.last.clone());
        }
        addresses
    }

    fn not_found(&self, found: &[Candidate], failures: &[String], patience: Duration, mdns: &Mdns) -> String {
        let cluster = &self.cluster;
        let mut text = if found.iter().any(|candidate| candidate.pin == self.pin) {
            format!(
                "{cluster} is announced on this network, but cannot be reached: {}",
                failures.join("; ")
            )
        } else if let Some(other) = found.iter().find(|candidate| candidate.cluster == *cluster) {
            format!(
                "a cluster named {cluster} is on this network ({}), but it is another one: its CA is not the one that was made here",
                other.host.trim_end_matches('.')
            )
        } else {
            format!(
                "{cluster} was not found within {} s. Has the rack power, is its server ready (see its LEDs), and is this computer on the \
                 same network? Where mDNS does not reach: --server ADDRESS",
                patience.as_secs()
            )
        };
        if let MdnsState::Down { reason } = &*mdns.state().borrow() {
            text.push_str(&format!(
                ". mDNS does not work on this computer ({reason}): on Debian and Ubuntu the package avahi-daemon provides it"
            ));
        }
        text
    }

    /// Hands on the kubeconfig each time the rack is found somewhere else, until interrupted.
    async fn watch(&self, keep: impl Fn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mdns = browse()?;
        let mut candidates = mdns.candidates();
        let mut current: Option<String> = None;
        loop {
            let lost = match &current {
                Some(address) => self.try_at(address).await.is_err(),
                None => true,
            };
            if lost {
                let found = candidates.borrow_and_update().clone();
                let addresses = match &self.server {
                    Some(server) => vec![server.clone()],
                    None => self.addresses(&found),
                };
                match self.first_of(&addresses).await {
                    Ok(address) => {
                        keep(&with_address(&self.text, &address))?;
                        if current.as_ref() != Some(&address) {
                            println!("{} is at {address}", self.cluster);
                        }
                        current = Some(address);
                    }
                    Err(_) => mdns.look_again(),
                }
            }
            tokio::select! {
                changed = candidates.changed() => changed.context("mDNS discovery ended")?,
                () = tokio::time::sleep(CHECK) => {}
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
    }
}

fn browse() -> anyhow::Result<Mdns> {
    Ok(Mdns::start(MdnsOptions {
        announce: None,
        browse: true,
        pod_range: None,
    })?)
}

/// `HOST` or `HOST:PORT`, an IPv6 address also without brackets, as `HOST:PORT`.
fn with_port(server: &str) -> String {
    let port = clusters::PORT;
    match server.parse::<std::net::IpAddr>() {
        Ok(address) => std::net::SocketAddr::new(address, port).to_string(),
        Err(_)
            if server
                .rsplit_once(':')
                .is_some_and(|(_, port)| port.parse::<u16>().is_ok()) =>
        {
            server.to_owned()
        }
        Err(_) => format!("{server}:{port}"),
    }
}

/// A name that ends in `.local` as its addresses: many builds of kubectl cannot resolve it. Everything else stays what it is.
async fn resolved(server: &str) -> std::io::Result<Vec<String>> {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    if !host.trim_end_matches('.').ends_with(".local") {
        return Ok(vec![server.to_owned()]);
    }
    let found = tokio::net::lookup_host(server).await?;
    Ok(found.map(|address| address.to_string()).collect())
}

/// Whether the other side's certificate was the reason.
fn is_foreign(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let cause = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause
            .and_then(|cause| cause.downcast_ref::<rustls::Error>())
            .is_some_and(|error| matches!(error, rustls::Error::InvalidCertificate(_)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_replaced_and_nothing_else() {
        let contents = Contents {
            cluster: "rack1",
            address: "10.0.0.1:6443",
            authority: "ca",
            certificate: "cert",
            key: "key",
        };
        let text = contents.render();
        let moved = with_address(&text, "192.0.2.7:6443");
        assert_eq!(moved, text.replace("10.0.0.1:6443", "192.0.2.7:6443"));
    }

    #[test]
    fn a_server_is_named_with_or_without_port() {
        for (given, whole) in [
            ("192.0.2.7", "192.0.2.7:6443"),
            ("192.0.2.7:7443", "192.0.2.7:7443"),
            ("fd00::7", "[fd00::7]:6443"),
            ("[fd00::7]:7443", "[fd00::7]:7443"),
            ("pi-1.local", "pi-1.local:6443"),
            ("pi-1.local:7443", "pi-1.local:7443"),
        ] {
            assert_eq!(with_port(given), whole);
        }
    }

    #[test]
    fn a_collection_of_other_clusters_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        assert!(check_replaceable(&path, "rack1").is_ok());
        let contents = Contents {
            cluster: "rack1",
            address: "10.0.0.1:6443",
            authority: "ca",
            certificate: "cert",
            key: "key",
        };
        std::fs::write(&path, contents.render_for("server.rack1.minidc")).unwrap();
        assert!(check_replaceable(&path, "rack1").is_ok());
        let error = check_replaceable(&path, "rack2").unwrap_err().to_string();
        assert!(error.contains("is not the kubeconfig of rack2"), "{error}");
        std::fs::write(
            &path,
            "current-context: rack1\ncontexts:\n- context:\n  name: rack1\n- context:\n  name: work\n",
        )
        .unwrap();
        assert!(check_replaceable(&path, "rack1").is_err());
    }

    #[test]
    fn a_private_file_is_only_its_owners() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.kubeconfig");
        write_private(&path, "one").unwrap();
        write_private(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
