//! TLS configurations of both sides, and how each judges the other's certificate.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::identity::subject;
use super::{ClusterIdentity, Pin, ServingCertificate, key_of, node_of, not_after, server_name};
use crate::Error;
use crate::protocol::{ALPN, RefusalCode};

/// Who is at the other end of a connection to the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It showed no certificate.
    Anonymous,
    /// It showed one of our CA for client authentication, and has the key.
    Client {
        /// `CN`: the user.
        common_name: String,
        /// `O`: the groups.
        organizations: Vec<String>,
        /// Hex SHA-256 of the key's SubjectPublicKeyInfo.
        key: String,
        /// Its time is over: it opens nothing but a node's renewal. To the API it is as good as anonymous.
        expired: bool,
    },
}

impl Peer {
    /// The node's name, if the certificate is a node's, expired or not.
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::Client {
                common_name,
                organizations,
                ..
            } if organizations.iter().any(|group| group == super::NODE_GROUP) => node_of(common_name),
            _ => None,
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// TLS of the one listener: ALPN `minidc/1`, `h2`, `http/1.1`; a client certificate is optional, and its dates are not
/// judged here but by [`peer`], so that an expired node can still renew.
pub fn server_config(identity: &ClusterIdentity, serving: Arc<ServingCertificate>) -> Result<Arc<ServerConfig>, Error> {
    let wrong = |source| Error::Tls {
        what: "the server",
        source,
    };
    let provider = provider();
    let verifier = Arc::new(ClientVerifier {
        anchor: anchor(identity.ca())?.to_owned(),
        subjects: vec![DistinguishedName::from(
            super::parse(identity.ca())?.subject().as_raw().to_vec(),
        )],
        provider: Arc::clone(&provider),
    });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(wrong)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![ALPN.to_vec(), b"h2".to_vec(), b"http/1.1".to_vec()];
    // Clients are few and long-lived, or kubectl, which keeps no tickets between runs: a cache would only cost memory.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The peer of a connection whose handshake is complete. `now` is the control plane's clock in Unix seconds.
pub fn peer(connection: &rustls::ServerConnection, now: u64) -> Result<Peer, Error> {
    let Some(certificate) = connection.peer_certificates().and_then(|chain| chain.first()) else {
        return Ok(Peer::Anonymous);
    };
    let (common_name, organizations) = subject(certificate)?;
    Ok(Peer::Client {
        common_name,
        organizations,
        key: key_of(certificate)?,
        expired: not_after(certificate)? < now,
    })
}

/// TLS of a node: the server must chain to a CA with `pin`, be allowed to serve, and carry `server.<cluster>.minidc`. Dates are not
/// judged. `certificate` is the node's own, with its key; `None` to join.
pub fn client_config(
    pin: Pin,
    cluster: &str,
    certificate: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> Result<Arc<ClientConfig>, Error> {
    let wrong = |source| Error::Tls {
        what: "the node",
        source,
    };
    let provider = provider();
    let verifier = Arc::new(ServerVerifier {
        pin,
        name: name(cluster)?,
        provider: Arc::clone(&provider),
    });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(wrong)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match certificate {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).map_err(wrong)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The server name that a node of `cluster` asks for.
pub(crate) fn name(cluster: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(server_name(cluster)).map_err(|_| Error::Name {
        what: "cluster name",
        name: cluster.to_owned(),
    })
}

/// What a failed handshake means to a node, when it means more than a broken connection.
pub(crate) fn handshake_failure(error: &std::io::Error) -> (Option<RefusalCode>, String) {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let foreign = Some(RefusalCode::ForeignCluster);
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => (
            foreign,
            "the server there is of another cluster: its CA is not the one this node was told to trust".into(),
        ),
        Some(rustls::Error::InvalidCertificate(CertificateError::InvalidPurpose)) => (
            foreign,
            "the server there shows a certificate that does not allow it to be a control plane".into(),
        ),
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidForName)) => (
            foreign,
            "the server there is not the control plane of this cluster".into(),
        ),
        Some(rustls::Error::InvalidCertificate(other)) => {
            (foreign, format!("the server there has a bad certificate: {other:?}"))
        }
        Some(
            rustls::Error::NoApplicationProtocol
            | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol),
        ) => (None, "the server there does not speak minidc".into()),
        Some(other) => (None, other.to_string()),
        None => (None, error.to_string()),
    }
}

fn anchor<'a>(certificate: &'a CertificateDer<'a>) -> Result<TrustAnchor<'a>, Error> {
    webpki::anchor_from_trusted_cert(certificate).map_err(|error| Error::Decode {
        what: "CA certificate",
        reason: format!("{error:?}"),
    })
}

fn refusal(error: &webpki::Error) -> rustls::Error {
    rustls::Error::InvalidCertificate(match error {
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => CertificateError::UnknownIssuer,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        webpki::Error::CertNotValidForName(_) => CertificateError::NotValidForName,
        _ => CertificateError::BadEncoding,
    })
}

/// Chain and use, at a time when the certificate is valid by its own dates.
fn check_chain(
    end_entity: &CertificateDer<'_>,
    anchor: &TrustAnchor<'_>,
    usage: KeyUsage,
) -> Result<(), rustls::Error> {
    let dates = not_after(end_entity).map_err(|_| CertificateError::BadEncoding)?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(dates));
    EndEntityCert::try_from(end_entity)
        .map_err(|error| refusal(&error))?
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            std::slice::from_ref(anchor),
            &[],
            time,
            usage,
            None,
            None,
        )
        .map_err(|error| refusal(&error))?;
    Ok(())
}

#[derive(Debug)]
struct ClientVerifier {
    anchor: TrustAnchor<'static>,
    subjects: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        check_chain(end_entity, &self.anchor, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct ServerVerifier {
    pin: Pin,
    name: ServerName<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The pin binds the CA's key, so any certificate of that key will do as the anchor; one with another subject could not be
        // the issuer of anything that the key has signed.
        let ca = intermediates
            .iter()
            .find(|certificate| Pin::of_certificate(certificate).is_ok_and(|pin| pin == self.pin))
            .ok_or(CertificateError::UnknownIssuer)?;
        let anchor = webpki::anchor_from_trusted_cert(ca).map_err(|_| CertificateError::BadEncoding)?;
        check_chain(end_entity, &anchor, KeyUsage::server_auth())?;
        EndEntityCert::try_from(end_entity)
            .and_then(|certificate| certificate.verify_is_valid_for_subject_name(&self.name))
            .map_err(|error| refusal(&error))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
