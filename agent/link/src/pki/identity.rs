//! The cluster's identity on disk and everything that it signs.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{NODE_GROUP, Pin, hex, is_label, is_node_name, node_user, parse, server_name, sha256, unhex};
use crate::clock::BUILD_TIME;
use crate::token::Token;
use crate::{Error, files};

/// Life of a node's certificate in seconds.
pub const NODE_LIFETIME: u64 = 24 * 60 * 60;
/// Life of everything that is not renewed: CA, server and admin certificates. A hundred years.
const LONG: u64 = 36_525 * 24 * 60 * 60;

/// The last second of 9999, beyond which X.509 has no dates (RFC 5280, 4.1.2.5).
const LATEST: u64 = 253_402_300_799;

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const JOIN_KEY: &str = "join.key";
const CLUSTER: &str = "cluster";

/// What makes a cluster this cluster: its CA, its join key, its name. Whoever holds it can let boards in.
///
/// On disk it is a directory of four files, mode 0600: `ca.crt` and `ca.key` (PEM), `join.key` (hex), `cluster` (the name).
pub struct ClusterIdentity {
    cluster: String,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    join_key: [u8; 32],
    pin: Pin,
}

/// An identity as texts: what its files hold.
#[derive(Clone, Copy)]
pub struct Parts<'t> {
    /// Name of the cluster.
    pub cluster: &'t str,
    /// The CA's certificate, PEM.
    pub ca_certificate: &'t str,
    /// Its key, PKCS #8 PEM.
    pub ca_key: &'t str,
    /// The join key, 64 hex digits.
    pub join_key: &'t str,
}

/// A certificate with its key, as PEM.
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Its key, PKCS #8.
    pub key_pem: String,
}

/// A certificate made from a request.
pub struct Signed {
    /// In DER.
    pub certificate: Vec<u8>,
    /// Hex SHA-256 of the key's SubjectPublicKeyInfo.
    pub key: String,
}

impl ClusterIdentity {
    /// Loads the identity from `directory`, or makes one for `cluster` when the directory does not exist.
    ///
    /// It is made beside its place and renamed into it, so a power cut leaves either nothing or all of it. A directory that
    /// lacks a file, or holds another cluster's name, is an error: a new identity would lock every node out.
    pub fn load_or_create(directory: &Path, cluster: &str) -> Result<Self, Error> {
        if !is_label(cluster) {
            return Err(Error::Name {
                what: "cluster name",
                name: cluster.to_owned(),
            });
        }
        if !directory.try_exists().map_err(Error::file("look for", directory))? {
            create(directory, cluster)?;
        }
        let identity = Self::load(directory)?;
        if identity.cluster != cluster {
            return Err(Error::ClusterIdentity {
                directory: directory.to_owned(),
                reason: format!(
                    "it is of cluster {:?}, the configuration says {cluster:?}",
                    identity.cluster
                ),
            });
        }
        Ok(identity)
    }

    /// Loads the identity from `directory`.
    pub fn load(directory: &Path) -> Result<Self, Error> {
        let wrong = |reason: String| Error::ClusterIdentity {
            directory: directory.to_owned(),
            reason,
        };
        let read = |name: &str| -> Result<String, Error> {
            let bytes = files::read(&directory.join(name))?.ok_or_else(|| wrong(format!("{name} is missing")))?;
            String::from_utf8(bytes).map_err(|_| wrong(format!("{name} is not text")))
        };
        let cluster = read(CLUSTER)?;
        let parts = Parts {
            cluster: cluster.trim(),
            ca_certificate: &read(CA_CERTIFICATE)?,
            ca_key: &read(CA_KEY)?,
            join_key: &read(JOIN_KEY)?,
        };
        Self::assemble(&parts).map_err(wrong)
    }

    /// An identity out of its parts, with a sentence about the first that does not fit.
    pub fn assemble(parts: &Parts<'_>) -> Result<Self, String> {
        let cluster = parts.cluster;
        if !is_label(cluster) {
            return Err(format!(
                "{CLUSTER} holds {cluster:?}, which is not a lower-case DNS label"
            ));
        }
        let certificate = CertificateDer::from_pem_slice(parts.ca_certificate.as_bytes())
            .map_err(|error| format!("{CA_CERTIFICATE} is not a PEM certificate: {error}"))?;
        let key = KeyPair::from_pem(parts.ca_key).map_err(|error| format!("{CA_KEY} is not a PEM key: {error}"))?;
        let pin = Pin::of_certificate(&certificate).map_err(|error| format!("{CA_CERTIFICATE}: {error}"))?;
        if pin.0 != sha256(&key.subject_public_key_info()) {
            return Err(format!("{CA_KEY} is not the key of {CA_CERTIFICATE}"));
        }
        let join_key = unhex(parts.join_key)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| format!("{JOIN_KEY} is not 64 hex digits"))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| format!("{CA_CERTIFICATE} cannot issue: {error}"))?;
        Ok(Self {
            cluster: cluster.to_owned(),
            certificate,
            certificate_pem: parts.ca_certificate.to_owned(),
            issuer,
            join_key,
            pin,
        })
    }

    /// Takes over an identity that was made elsewhere (on the computer that wrote the card) when `directory` does not exist; it is there
    /// whole or not at all, as with [`ClusterIdentity::load_or_create`]. One that is there already is never replaced: that it is another
    /// is an error.
    pub fn adopt(directory: &Path, parts: &Parts<'_>) -> Result<Self, Error> {
        let wrong = |reason: String| Error::ClusterIdentity {
            directory: directory.to_owned(),
            reason,
        };
        let offered = Self::assemble(parts).map_err(wrong)?;
        if !directory.try_exists().map_err(Error::file("look for", directory))? {
            store(directory, parts)?;
        }
        let present = Self::load(directory)?;
        if present.cluster != offered.cluster || present.pin != offered.pin || present.join_key != offered.join_key {
            return Err(wrong(format!(
                "it is of cluster {:?} with pin {}, and is not replaced by that of cluster {:?} with pin {}",
                present.cluster, present.pin, offered.cluster, offered.pin
            )));
        }
        Ok(present)
    }

    /// Name of the cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Hash of the CA's key.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// The CA's certificate as PEM, for kubeconfigs.
    pub fn ca_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The CA's certificate in DER.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The key that tokens are made with.
    pub(crate) fn join_key(&self) -> &[u8; 32] {
        &self.join_key
    }

    /// The CA's key as PEM (PKCS #8): for the card of a control plane, and nobody else.
    pub fn ca_key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The join key as 64 hex digits: for the card of a control plane, and nobody else.
    pub fn join_key_hex(&self) -> String {
        hex(&self.join_key)
    }

    /// Makes a token for `node` (any, when `None`) that opens the cluster until `expires` (Unix seconds), with a random id.
    pub fn mint_token(&self, node: Option<&str>, expires: u64) -> Result<Token, Error> {
        if let Some(node) = node.filter(|node| !is_node_name(node)) {
            return Err(Error::Name {
                what: "node name",
                name: node.to_owned(),
            });
        }
        let id = hex(&random::<8>()?);
        Ok(Token::mint(&self.join_key, &self.cluster, self.pin, &id, node, expires))
    }

    /// The names that every serving certificate carries besides host names and addresses: those of the link and of the
    /// `kubernetes` service.
    pub fn fixed_names(&self) -> Vec<String> {
        let mut names = vec![server_name(&self.cluster)];
        names.extend(
            [
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
                "localhost",
            ]
            .map(ToOwned::to_owned),
        );
        names.extend(["127.0.0.1", "::1"].map(ToOwned::to_owned));
        names
    }

    /// A serving certificate in DER for `names` (DNS names and addresses), and its key.
    pub(crate) fn issue_server(
        &self,
        names: &[String],
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), Error> {
        let key = new_key("the serving key")?;
        let mut params = long_lived(&server_name(&self.cluster), &[]);
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse::<IpAddr>() {
                Ok(address) => Ok(SanType::IpAddress(address)),
                Err(_) => Ok(SanType::DnsName(name.as_str().try_into()?)),
            })
            .collect::<Result<_, rcgen::Error>>()
            .map_err(|source| Error::Certificate {
                what: format!("a certificate for {names:?}"),
                source,
            })?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = self.sign(&params, &key, "the serving certificate")?;
        Ok((certificate, PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }

    /// A client certificate that lasts as long as the CA, with a new key.
    pub fn issue_client(&self, common_name: &str, organizations: &[&str]) -> Result<Issued, Error> {
        let key = new_key("a client key")?;
        let mut params = long_lived(common_name, organizations);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|source| Error::Certificate {
                what: format!("a client certificate for {common_name}"),
                source,
            })?;
        Ok(Issued {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// The administrator's certificate: `CN=minidc-admin`, `O=system:masters`.
    pub fn issue_admin(&self) -> Result<Issued, Error> {
        self.issue_client("minidc-admin", &["system:masters"])
    }

    /// Reads a PKCS #10 request (DER), checks that its sender has the key, and returns the key's hash. Nothing else in the
    /// request counts.
    pub fn key_of_request(request: &[u8]) -> Result<String, Error> {
        Ok(hex(&sha256(
            &read_request(request)?.public_key.subject_public_key_info(),
        )))
    }

    /// Signs a node's certificate for the key in `request`, from build time until [`NODE_LIFETIME`] after `now` (Unix seconds).
    pub fn sign_node(&self, request: &[u8], node: &str, now: u64) -> Result<Signed, Error> {
        let request = read_request(request)?;
        let certificate = self.sign_node_key(&request.public_key, node, now)?;
        Ok(Signed {
            certificate: certificate.to_vec(),
            key: hex(&sha256(&request.public_key.subject_public_key_info())),
        })
    }

    pub(crate) fn sign_node_key(
        &self,
        key: &impl PublicKeyData,
        node: &str,
        now: u64,
    ) -> Result<CertificateDer<'static>, Error> {
        if !is_node_name(node) {
            return Err(Error::Name {
                what: "node name",
                name: node.to_owned(),
            });
        }
        let mut params = params(&node_user(node), &[NODE_GROUP], now.saturating_add(NODE_LIFETIME));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params, key, &format!("a certificate for node {node}"))
    }

    fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
        what: &str,
    ) -> Result<CertificateDer<'static>, Error> {
        params
            .signed_by(key, &self.issuer)
            .map(|certificate| certificate.der().clone())
            .map_err(|source| Error::Certificate {
                what: what.to_owned(),
                source,
            })
    }
}

impl std::fmt::Debug for ClusterIdentity {
    /// Without keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterIdentity")
            .field("cluster", &self.cluster)
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

/// A new ECDSA P-256 key.
pub(crate) fn new_key(what: &str) -> Result<KeyPair, Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|source| Error::Certificate {
        what: what.to_owned(),
        source,
    })
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes)
}

/// A number for jitter; where the system gives none, any will do.
pub(crate) fn random_u32() -> u32 {
    u32::from_ne_bytes(random().unwrap_or([0x55; 4]))
}

/// The temporary directory that an identity is made in; the name does not depend on chance, so that one left by a power cut is
/// found and removed.
fn workshop(directory: &Path) -> PathBuf {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    directory.with_file_name(name)
}

fn create(directory: &Path, cluster: &str) -> Result<(), Error> {
    let key = new_key("the CA's key")?;
    let mut params = long_lived(&format!("minidc {cluster}"), &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let certificate = params.self_signed(&key).map_err(|source| Error::Certificate {
        what: "the CA's certificate".into(),
        source,
    })?;
    let parts = Parts {
        cluster,
        ca_certificate: &certificate.pem(),
        ca_key: &key.serialize_pem(),
        join_key: &hex(&random::<32>()?),
    };
    store(directory, &parts)
}

/// Puts the files where nothing is yet, all at once.
fn store(directory: &Path, parts: &Parts<'_>) -> Result<(), Error> {
    let parent = directory.parent().unwrap_or(Path::new("."));
    files::make_private_directory(parent)?;
    let workshop = workshop(directory);
    match fs::remove_dir_all(&workshop) {
        Ok(()) => tracing::warn!(path = %workshop.display(), "removed a half-made cluster identity"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::file("remove", workshop)(error)),
    }
    files::make_private_directory(&workshop)?;
    files::write_private(&workshop.join(CA_KEY), parts.ca_key.as_bytes())?;
    files::write_private(&workshop.join(CA_CERTIFICATE), parts.ca_certificate.as_bytes())?;
    files::write_private(
        &workshop.join(JOIN_KEY),
        format!("{}\n", parts.join_key.trim()).as_bytes(),
    )?;
    files::write_private(&workshop.join(CLUSTER), format!("{}\n", parts.cluster).as_bytes())?;
    files::sync_directory(&workshop)?;
    fs::rename(&workshop, directory).map_err(Error::file("rename to", directory))?;
    files::sync_directory(parent)
}

fn long_lived(common_name: &str, organizations: &[&str]) -> CertificateParams {
    params(common_name, organizations, BUILD_TIME.saturating_add(LONG))
}

/// Certificates begin at build time: whoever judges them may have a clock that is behind ours.
fn params(common_name: &str, organizations: &[&str], not_after: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    // Several organizations would need several attributes, which DistinguishedName (a map) does not hold.
    for organization in organizations.iter().take(1) {
        name.push(DnType::OrganizationName, *organization);
    }
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let date = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.min(LATEST));
    params.not_before = date(BUILD_TIME);
    params.not_after = date(not_after);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn read_request(request: &[u8]) -> Result<CertificateSigningRequestParams, Error> {
    let bad = |reason: String| Error::Decode {
        what: "certificate signing request",
        reason,
    };
    let parsed = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
        .map_err(|error| bad(error.to_string()))?;
    if parsed.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(bad("its key is not ECDSA P-256".into()));
    }
    Ok(parsed)
}

/// Makes the PKCS #10 request (DER) of a node; it says nothing but the key.
pub(crate) fn make_request(key: &KeyPair) -> Result<Vec<u8>, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .serialize_request(key)
        .map(|request| request.der().to_vec())
        .map_err(|source| Error::Certificate {
            what: "a signing request".into(),
            source,
        })
}

/// The common name and organizations of a certificate.
pub(crate) fn subject(certificate: &[u8]) -> Result<(String, Vec<String>), Error> {
    let parsed = parse(certificate)?;
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().map(ToOwned::to_owned).ok();
    let subject = parsed.subject();
    let mut names: Vec<_> = subject.iter_common_name().filter_map(text).collect();
    let organizations = subject.iter_organization().filter_map(text).collect();
    match (names.pop(), names.is_empty()) {
        (Some(name), true) => Ok((name, organizations)),
        _ => Err(Error::Decode {
            what: "certificate",
            reason: "it does not have exactly one common name".into(),
        }),
    }
}
