use std::sync::Arc;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::clock;

fn identity() -> (tempfile::TempDir, Arc<ClusterIdentity>) {
    let directory = tempfile::tempdir().unwrap();
    let identity = ClusterIdentity::load_or_create(&directory.path().join("server/pki"), "garage").unwrap();
    (directory, Arc::new(identity))
}

#[test]
fn identity_is_made_once_and_loaded_later() {
    use std::os::unix::fs::PermissionsExt;
    let (directory, first) = identity();
    let path = directory.path().join("server/pki");
    let again = ClusterIdentity::load_or_create(&path, "garage").unwrap();
    assert_eq!((again.pin(), again.ca_pem()), (first.pin(), first.ca_pem()));
    for entry in std::fs::read_dir(&path).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let text = first.mint_token(None, u64::MAX).unwrap().to_string();
    let token: crate::token::Token = text.parse().unwrap();
    assert_eq!(token.verify(again.join_key(), "pi-2", 0), Ok(()));
    let other = ClusterIdentity::load_or_create(&path, "attic").unwrap_err();
    assert!(other.to_string().contains("garage"), "{other}");
    assert!(ClusterIdentity::load_or_create(&directory.path().join("x"), "Not a label").is_err());
}

#[test]
fn half_made_identity_is_thrown_away_and_a_damaged_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pki");
    // The power went while it was made.
    std::fs::create_dir(directory.path().join("pki.new")).unwrap();
    std::fs::write(directory.path().join("pki.new/ca.key"), b"half").unwrap();
    let pin = ClusterIdentity::load_or_create(&path, "garage").unwrap().pin();
    assert!(!directory.path().join("pki.new").exists());
    // A file is lost later: nodes trust this identity, so it is not replaced.
    let key = std::fs::read(path.join("ca.key")).unwrap();
    std::fs::remove_file(path.join("ca.key")).unwrap();
    let error = ClusterIdentity::load_or_create(&path, "garage")
        .unwrap_err()
        .to_string();
    assert!(error.contains("ca.key is missing"), "{error}");
    std::fs::write(path.join("ca.key"), &key[..key.len() / 2]).unwrap();
    let error = ClusterIdentity::load_or_create(&path, "garage")
        .unwrap_err()
        .to_string();
    assert!(error.contains("ca.key is not a PEM key"), "{error}");
    std::fs::write(path.join("ca.key"), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let error = ClusterIdentity::load_or_create(&path, "garage")
        .unwrap_err()
        .to_string();
    assert!(error.contains("not the key of"), "{error}");
    std::fs::write(path.join("ca.key"), &key).unwrap();
    assert_eq!(ClusterIdentity::load_or_create(&path, "garage").unwrap().pin(), pin);
}

#[test]
fn an_identity_made_elsewhere_is_adopted_once_and_never_replaced() {
    let (elsewhere, made) = identity();
    let (other, _) = identity();
    let text = |place: &tempfile::TempDir, name: &str| {
        std::fs::read_to_string(place.path().join("server/pki").join(name)).unwrap()
    };
    let adopt = |path: &std::path::Path, place: &tempfile::TempDir, key_of: &tempfile::TempDir| {
        ClusterIdentity::adopt(
            path,
            &Parts {
                cluster: "garage",
                ca_certificate: &text(place, "ca.crt"),
                ca_key: &text(key_of, "ca.key"),
                join_key: &text(place, "join.key"),
            },
        )
    };
    let board = tempfile::tempdir().unwrap();
    let path = board.path().join("server/pki");
    let mixed = adopt(&path, &elsewhere, &other).unwrap_err().to_string();
    assert!(
        mixed.contains("ca.key is not the key of ca.crt") && !path.exists(),
        "{mixed}"
    );
    // a power cut while it was made
    std::fs::create_dir_all(board.path().join("server/pki.new")).unwrap();
    std::fs::write(board.path().join("server/pki.new/ca.key"), "half").unwrap();
    for time in ["first", "second"] {
        let adopted = adopt(&path, &elsewhere, &elsewhere).unwrap();
        assert_eq!(
            (adopted.pin(), adopted.join_key()),
            (made.pin(), made.join_key()),
            "the {time} time"
        );
    }
    assert!(!board.path().join("server/pki.new").exists());
    let refused = adopt(&path, &other, &other).unwrap_err().to_string();
    assert!(refused.contains("is not replaced"), "{refused}");
    assert_eq!(
        ClusterIdentity::load_or_create(&path, "garage").unwrap().pin(),
        made.pin()
    );
}

#[test]
fn certificates_are_valid_from_build_time_for_their_life() {
    let (_directory, identity) = identity();
    let ca = parse(identity.ca()).unwrap();
    assert_eq!(
        ca.validity().not_before.timestamp(),
        i64::try_from(clock::BUILD_TIME).unwrap()
    );
    assert!(ca.validity().not_after.to_datetime().year() >= 2120);
    let admin = identity.issue_admin().unwrap();
    use rustls_pki_types::pem::PemObject;
    let certificate = CertificateDer::from_pem_slice(admin.certificate_pem.as_bytes()).unwrap();
    assert_eq!(
        identity::subject(&certificate).unwrap(),
        ("minidc-admin".into(), vec!["system:masters".into()])
    );
    assert!(admin.key_pem.contains("PRIVATE KEY"));
}

/// What kubectl and curl do: the ordinary verifier, with dates, trusting the CA.
async fn handshake(
    config: &Arc<rustls::ServerConfig>,
    identity: &ClusterIdentity,
    client: Option<&Issued>,
    host: &str,
) -> std::io::Result<Peer> {
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(identity.ca().clone()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let client_config = match client {
        Some(issued) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap()],
                rustls_pki_types::PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let connecting = tokio::spawn(async move {
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(client_config))
            .connect(name, near)
            .await?;
        stream.write_all(b"x").await?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await.map(|_| ())
    });
    let accepted = tokio_rustls::TlsAcceptor::from(Arc::clone(config)).accept(far).await;
    let peer = match accepted {
        Ok(mut stream) => {
            let peer = peer(stream.get_ref().1, clock::system()).unwrap();
            stream.write_all(b"y").await?;
            stream.flush().await?;
            Some(peer)
        }
        Err(_) => None,
    };
    connecting.await.unwrap()?;
    peer.ok_or_else(|| std::io::Error::other("the server refused"))
}

#[tokio::test]
async fn ordinary_clients_accept_the_serving_certificate_and_are_known_by_theirs() {
    let (_directory, identity) = identity();
    let serving =
        Arc::new(ServingCertificate::new(Arc::clone(&identity), &["pi-1.local".into(), "10.0.0.1".into()]).unwrap());
    let config = server_config(&identity, Arc::clone(&serving)).unwrap();
    for host in [
        "pi-1.local",
        "10.0.0.1",
        "127.0.0.1",
        "::1",
        "localhost",
        "kubernetes.default.svc",
        "server.garage.minidc",
    ] {
        assert_eq!(
            handshake(&config, &identity, None, host).await.unwrap(),
            Peer::Anonymous,
            "{host}"
        );
    }
    assert!(handshake(&config, &identity, None, "10.0.0.2").await.is_err());
    // The rack has moved: the same listener has the new address, at once.
    assert!(serving.set_names(&["pi-1.local".into(), "10.0.0.2".into()]).unwrap());
    assert!(!serving.set_names(&["10.0.0.2".into(), "pi-1.local".into()]).unwrap());
    handshake(&config, &identity, None, "10.0.0.2").await.unwrap();
    let admin = identity.issue_admin().unwrap();
    let peer = handshake(&config, &identity, Some(&admin), "localhost").await.unwrap();
    assert_eq!(peer.node(), None);
    let Peer::Client {
        common_name,
        organizations,
        expired,
        ..
    } = peer
    else {
        panic!("anonymous")
    };
    assert_eq!(
        (common_name.as_str(), organizations.as_slice(), expired),
        ("minidc-admin", &["system:masters".to_owned()][..], false)
    );
}

#[tokio::test]
async fn client_certificates_of_another_ca_are_refused() {
    let (_directory, identity) = identity();
    let (_other_directory, other) = super::tests::identity();
    let serving = Arc::new(ServingCertificate::new(Arc::clone(&identity), &[]).unwrap());
    let config = server_config(&identity, serving).unwrap();
    let admin = other.issue_admin().unwrap();
    assert!(handshake(&config, &identity, Some(&admin), "localhost").await.is_err());
}

#[test]
fn pins_and_hex_read_back() {
    let pin = Pin([0xab; 32]);
    assert_eq!(pin.to_string().parse::<Pin>().unwrap(), pin);
    assert!("abc".parse::<Pin>().is_err());
    assert!("zz".repeat(32).parse::<Pin>().is_err());
    assert_eq!(unhex("00ff"), Some(vec![0, 255]));
    assert_eq!(unhex("0"), None);
    assert_eq!(unhex("é"), None);
}
