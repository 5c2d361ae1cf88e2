//! A node's identity on disk: one JSON file, mode 0600, replaced as a whole.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use crate::pki::{ClusterIdentity, Pin, hex, key_of, make_request, new_key, node_user, not_after, sha256, subject};
use crate::{Error, files};

/// What is in the file. Binary things are PEM or hex, so that a person can look at it with ordinary tools.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeIdentity {
    /// Name of the node.
    pub node: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Hex SHA-256 of the CA's key.
    pub pin: String,
    /// The present key, PKCS #8 PEM.
    pub key: String,
    /// The certificate for it; none before the join is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The key of a renewal that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<String>,
    /// The address that last led to the control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<SocketAddr>,
}

/// The file.
#[derive(Clone, Debug)]
pub struct IdentityFile(PathBuf);

impl IdentityFile {
    /// `identity.json` in a node's directory.
    pub fn within(directory: &Path) -> Self {
        Self(directory.join("identity.json"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads it; `None` when there is none.
    pub fn read(&self) -> Result<Option<NodeIdentity>, Error> {
        let Some(bytes) = files::read(&self.0)? else {
            return Ok(None);
        };
        let identity: NodeIdentity = serde_json::from_slice(&bytes).map_err(|error| self.wrong(error.to_string()))?;
        identity.check().map_err(|reason| self.wrong(reason))?;
        Ok(Some(identity))
    }

    /// Replaces it.
    pub fn write(&self, identity: &NodeIdentity) -> Result<(), Error> {
        let mut bytes = serde_json::to_vec_pretty(identity).map_err(|error| self.wrong(error.to_string()))?;
        bytes.push(b'\n');
        files::replace_private(&self.0, &bytes)
    }

    fn wrong(&self, reason: String) -> Error {
        Error::NodeIdentity {
            path: self.0.clone(),
            reason,
        }
    }
}

impl NodeIdentity {
    /// A new identity with a new key and no certificate.
    pub fn new(node: &str, cluster: &str, pin: Pin) -> Result<Self, Error> {
        Ok(Self {
            node: node.to_owned(),
            cluster: cluster.to_owned(),
            pin: pin.to_string(),
            key: new_key("the node's key")?.serialize_pem(),
            certificate: None,
            next_key: None,
            last_good: None,
        })
    }

    fn check(&self) -> Result<(), String> {
        self.pin().map_err(|error| error.to_string())?;
        let key = key_hash(&parse_key(&self.key).map_err(|error| error.to_string())?);
        if let Some(next) = &self.next_key {
            parse_key(next).map_err(|error| error.to_string())?;
        }
        if let Some(certificate) = self.certificate().map_err(|error| error.to_string())? {
            if key_of(&certificate).map_err(|error| error.to_string())? != key {
                return Err("the certificate is not for the key".into());
            }
            let (user, _) = subject(&certificate).map_err(|error| error.to_string())?;
            if user != node_user(&self.node) {
                return Err(format!("the certificate is of {user:?}"));
            }
        }
        Ok(())
    }

    /// The CA pin.
    pub fn pin(&self) -> Result<Pin, Error> {
        self.pin.parse()
    }

    /// Hex SHA-256 of the present key's SubjectPublicKeyInfo.
    pub fn key_hash(&self) -> Result<String, Error> {
        Ok(key_hash(&parse_key(&self.key)?))
    }

    fn certificate(&self) -> Result<Option<CertificateDer<'static>>, Error> {
        let read = |pem: &String| {
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| Error::Decode {
                what: "node certificate",
                reason: error.to_string(),
            })
        };
        self.certificate.as_ref().map(read).transpose()
    }

    /// The certificate and its key, for TLS.
    pub(crate) fn credentials(&self) -> Result<Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>, Error> {
        let Some(certificate) = self.certificate()? else {
            return Ok(None);
        };
        let key = parse_key(&self.key)?.serialize_der();
        Ok(Some((certificate, PrivatePkcs8KeyDer::from(key).into())))
    }

    /// End of the certificate's life in Unix seconds; 0 without one.
    pub(super) fn not_after(&self) -> u64 {
        self.certificate()
            .ok()
            .flatten()
            .and_then(|certificate| not_after(&certificate).ok())
            .unwrap_or(0)
    }

    /// The signing request for the present key.
    pub(crate) fn request(&self) -> Result<Vec<u8>, Error> {
        make_request(&parse_key(&self.key)?)
    }

    /// The signing request for the next key, which is made if there is none.
    pub(crate) fn next_request(&mut self) -> Result<Vec<u8>, Error> {
        let key = match &self.next_key {
            Some(key) => parse_key(key)?,
            None => new_key("the node's next key")?,
        };
        self.next_key = Some(key.serialize_pem());
        make_request(&key)
    }

    /// Takes a certificate (DER) that was asked for, for the present key or the next.
    pub(super) fn accept(&mut self, certificate: Vec<u8>) -> Result<(), Error> {
        let wrong = |reason: &str| Error::Decode {
            what: "certificate from the control plane",
            reason: reason.to_owned(),
        };
        let certificate = CertificateDer::from(certificate);
        let key = key_of(&certificate)?;
        if subject(&certificate)?.0 != node_user(&self.node) {
            return Err(wrong("it is of another node"));
        }
        match &self.next_key {
            Some(next) if key_hash(&parse_key(next)?) == key => {
                self.key.clone_from(next);
                self.next_key = None;
            }
            _ if self.key_hash()? == key => {}
            _ => return Err(wrong("it is for another key")),
        }
        self.certificate = Some(to_pem(&certificate));
        Ok(())
    }
}

impl std::fmt::Debug for NodeIdentity {
    /// Without keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("node", &self.node)
            .field("cluster", &self.cluster)
            .field("pin", &self.pin)
            .field("last_good", &self.last_good)
            .finish_non_exhaustive()
    }
}

fn parse_key(pem: &str) -> Result<KeyPair, Error> {
    KeyPair::from_pem(pem).map_err(|error| Error::Decode {
        what: "node key",
        reason: error.to_string(),
    })
}

fn key_hash(key: &KeyPair) -> String {
    hex(&sha256(&key.subject_public_key_info()))
}

fn to_pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    // Lines of 64 characters (RFC 7468).
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

impl ClusterIdentity {
    /// Writes the identity of the node that runs beside the control plane into the node's `directory`, unless it has one of this
    /// cluster and name already. Returns the hash of its key, to be put on record with
    /// [`Server::trust_local`](crate::server::Server::trust_local). `now` is in Unix seconds; `server` is where the node finds us.
    pub fn issue_local_node(
        &self,
        directory: &Path,
        node: &str,
        server: SocketAddr,
        now: u64,
    ) -> Result<String, Error> {
        let file = IdentityFile::within(directory);
        let mut identity = match file.read()? {
            Some(present)
                if present.node == node
                    && present.cluster == self.cluster()
                    && present.pin == self.pin().to_string() =>
            {
                if present.certificate.is_some() {
                    if present.last_good != Some(server) {
                        file.write(&NodeIdentity {
                            last_good: Some(server),
                            ..present.clone()
                        })?;
                    }
                    return present.key_hash();
                }
                present
            }
            Some(present) => {
                return Err(Error::NodeIdentity {
                    path: file.path().to_owned(),
                    reason: format!(
                        "it is of node {} in cluster {}, this is node {node} in cluster {}; delete it to start afresh",
                        present.node,
                        present.cluster,
                        self.cluster()
                    ),
                });
            }
            None => NodeIdentity::new(node, self.cluster(), self.pin())?,
        };
        let certificate = self.sign_node_key(&parse_key(&identity.key)?, node, now)?;
        identity.accept(certificate.to_vec())?;
        identity.last_good = Some(server);
        file.write(&identity)?;
        identity.key_hash()
    }
}
