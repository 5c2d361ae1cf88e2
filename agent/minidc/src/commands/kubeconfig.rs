//! `minidc kubeconfig`: the admin kubeconfig with an address that answers now.

use std::{io::Write, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use anyhow::{Context, bail};
use base64::{Engine, prelude::BASE64_STANDARD};

use minidc_link::{
    discovery::{Discovery, Mdns, MdnsOptions},
    pki::Pin,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::{cli::KubeconfigArgs, client, config::Config};

/// How often `--watch` asks whether the address still answers.
const CHECK: Duration = Duration::from_secs(5);

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
    let source = client::kubeconfig_path(arguments.client.kubeconfig.as_deref(), config)?;
    let text = tokio::fs::read_to_string(&source)
        .await
        .with_context(|| format!("read {}", source.display()))?;
    let Some(output) = arguments.output else {
        print!("{text}");
        return Ok(());
    };
    write_private(&output, &text)?;
    println!("wrote {}", output.display());
    if arguments.watch {
        watch(&output, &text).await
    } else {
        Ok(())
    }
}

/// Rewrites the address each time the rack is found somewhere else.
async fn watch(output: &Path, text: &str) -> anyhow::Result<()> {
    let cluster = text
        .lines()
        .find_map(|line| line.strip_prefix("current-context: "))
        .unwrap_or_default()
        .to_owned();
    let authority = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("certificate-authority-data: "))
        .unwrap_or_default();
    let authority = String::from_utf8(
        BASE64_STANDARD
            .decode(authority)
            .context("certificate-authority-data")?,
    )?;
    let authority = CertificateDer::from_pem_slice(authority.as_bytes()).context("certificate-authority-data")?;
    let pin = Pin::of_certificate(&authority)?;
    let mdns = Mdns::start(MdnsOptions {
        announce: None,
        browse: true,
        pod_range: None,
    })?;
    let mut candidates = mdns.candidates();
    let mut current = String::new();
    loop {
        if current.is_empty() || !answers(&current).await {
            let found = candidates.borrow_and_update().clone();
            let sockets = found
                .iter()
                .filter(|candidate| candidate.pin == pin)
                .flat_map(minidc_link::discovery::Candidate::sockets);
            let mut answering = None;
            for address in sockets.map(|socket| socket.to_string()) {
                if answers(&address).await {
                    answering = Some(address);
                    break;
                }
            }
            match answering {
                Some(address) if address != current => {
                    write_private(output, &with_address(text, &address))?;
                    println!("{cluster} is at {address}");
                    current = address;
                }
                Some(_) => {}
                None => mdns.look_again(),
            }
        }
        tokio::select! {
            changed = candidates.changed() => if changed.is_err() { bail!("mDNS discovery ended") },
            () = tokio::time::sleep(CHECK) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// Whether something accepts connections at `address` within a second.
async fn answers(address: &str) -> bool {
    matches!(
        tokio::time::timeout(Duration::from_secs(1), tokio::net::TcpStream::connect(address)).await,
        Ok(Ok(_))
    )
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
