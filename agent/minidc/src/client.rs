//! The API as the command line sees it: one HTTPS connection, opened with what a kubeconfig says.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::client::conn::http1::SendRequest;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde::Deserialize;
use serde_json::Value;

use crate::{clusters::Clusters, config::Config};

/// Body of a request: in memory, or streamed from a file.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// What of a kubeconfig is used.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    current_context: String,
    contexts: Vec<Named<Context_>>,
    clusters: Vec<Named<Cluster>>,
    users: Vec<Named<User>>,
}

#[derive(Debug, Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "context", alias = "cluster", alias = "user")]
    of: T,
}

#[derive(Debug, Deserialize)]
struct Context_ {
    cluster: String,
    user: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
    tls_server_name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: String,
    client_key_data: String,
}

/// A connection to the API.
pub(crate) struct Client {
    sender: SendRequest<Body>,
    host: String,
}

/// The kubeconfig to use: the given one, else that of the control plane on this machine, else that of the only cluster flashed here,
/// else kubectl's usual one.
///
/// # Errors
/// If none exists.
pub(crate) fn kubeconfig_path(given: Option<&Path>, config: &Config) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        // $KUBECONFIG may be a list, as for kubectl: the first file that exists counts
        let first = std::env::split_paths(given.as_os_str()).find(|path| path.exists());
        return first.with_context(|| format!("kubeconfig {} does not exist", given.display()));
    }
    let own = config.data.join("server/admin.kubeconfig");
    let usual = std::env::home_dir().map(|home| home.join(".kube/config"));
    let flashed = Clusters::of_person()
        .and_then(|clusters| clusters.only())
        .ok()
        .flatten()
        .map(|cluster| cluster.kubeconfig_file());
    [Some(own), flashed, usual].into_iter().flatten().find(|path| path.exists()).context(
        "no kubeconfig: run this on the control plane, or give --kubeconfig FILE (a copy of the control plane's admin.kubeconfig)",
    )
}

impl Client {
    /// Connects with what the kubeconfig at `path` says.
    ///
    /// # Errors
    /// If the file is not a kubeconfig with a client certificate, or the server cannot be reached or trusted.
    pub(crate) async fn connect(path: &Path) -> anyhow::Result<Self> {
        let text = tokio::fs::read_to_string(path)
            .await
            .with_context(|| format!("read kubeconfig {}", path.display()))?;
        let file: Kubeconfig =
            serde_saphyr::from_str(&text).with_context(|| format!("{} is not a kubeconfig", path.display()))?;
        Self::open(&file)
            .await
            .with_context(|| format!("reach the API that {} names", path.display()))
    }

    /// Connects with what the kubeconfig `text` says.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub(crate) async fn connect_with(text: &str) -> anyhow::Result<Self> {
        let file: Kubeconfig = serde_saphyr::from_str(text).context("this is not a kubeconfig")?;
        Self::open(&file).await
    }

    async fn open(file: &Kubeconfig) -> anyhow::Result<Self> {
        let context = named(&file.contexts, &file.current_context, "context")?;
        let cluster = named(&file.clusters, &context.cluster, "cluster")?;
        let user = named(&file.users, &context.user, "user")?;
        let uri: http::Uri = cluster
            .server
            .parse()
            .with_context(|| format!("server {}", cluster.server))?;
        let host = uri
            .host()
            .context("the server has no host")?
            .trim_matches(['[', ']'])
            .to_owned();
        let port = uri.port_u16().unwrap_or(443);

        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&BASE64_STANDARD.decode(&cluster.certificate_authority_data)?)
        {
            roots.add(certificate.context("certificate-authority-data")?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&BASE64_STANDARD.decode(&user.client_certificate_data)?)
            .collect::<Result<Vec<_>, _>>()
            .context("client-certificate-data")?;
        let key = PrivateKeyDer::from_pem_slice(&BASE64_STANDARD.decode(&user.client_key_data)?)
            .context("client-key-data")?;
        let mut tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];

        let tcp = tokio::net::TcpStream::connect((host.as_str(), port))
            .await
            .with_context(|| format!("connect to {host}:{port}"))?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(cluster.tls_server_name.clone().unwrap_or_else(|| host.clone()))?;
        let stream = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls))
            .connect(name, tcp)
            .await
            .context("TLS")?;
        let (sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
        // ends by itself when the sender is dropped or the server goes away
        tokio::spawn(connection);
        Ok(Self {
            sender,
            host: format!("{host}:{port}"),
        })
    }

    /// One request with any body; the answer is whatever the server says.
    ///
    /// # Errors
    /// If the connection breaks.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Body,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, content_type)
            .header(header::USER_AGENT, concat!("minidc/", env!("CARGO_PKG_VERSION")))
            .body(body)?;
        self.sender.ready().await.context("the API closed the connection")?;
        let response = self
            .sender
            .send_request(request)
            .await
            .with_context(|| format!("request {path}"))?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// A request that must succeed, with a JSON answer.
    ///
    /// # Errors
    /// With the server's own message when it refuses.
    pub(crate) async fn json(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<Value> {
        let (status, bytes) = self.send(method, path, content_type, full(body)).await?;
        expect_success(status, &bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// `GET path`, as JSON.
    ///
    /// # Errors
    /// As [`Client::json`].
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        self.json(Method::GET, path, "application/json", Vec::new()).await
    }
}

/// A body that is in memory.
pub(crate) fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed()
}

/// Turns a refusal into an error with the server's words.
///
/// # Errors
/// If `status` is not one of success.
pub(crate) fn expect_success(status: StatusCode, body: &[u8]) -> anyhow::Result<()> {
    if status.is_success() {
        return Ok(());
    }
    let message = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|value| Some(value.get("message")?.as_str()?.to_owned()));
    bail!(
        "the API answered {status}: {}",
        message.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned())
    )
}

fn named<'a, T>(list: &'a [Named<T>], name: &str, what: &str) -> anyhow::Result<&'a T> {
    list.iter()
        .find(|entry| entry.name == name)
        .map(|entry| &entry.of)
        .with_context(|| format!("{what} {name:?} is not in the file"))
}
