//! Getting in, staying in, getting a new certificate.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::support::{CLUSTER, Cluster, LIMIT, RunningNode, ask, identity_in, pod, until};
use crate::node::{LinkState, NodeIdentity};
use crate::pki::{is_node_name, parse, subject};
use crate::protocol::{Opening, OpeningReply, RefusalCode};

#[tokio::test]
async fn node_with_a_token_joins_and_receives_its_feed() {
    let cluster = Cluster::start().await;
    cluster.control.snapshot.lock().unwrap().push(pod("web-1", 90));
    let node = cluster.node("pi-2", Some(cluster.token(Some("pi-2"))));
    node.connected().await;
    assert_eq!(node.synced().await, ["web-1"]);
    let identity = node.identity();
    assert_eq!((identity.node.as_str(), identity.cluster.as_str()), ("pi-2", CLUSTER));
    assert_eq!(
        cluster.control.record("pi-2").unwrap().key,
        identity.key_hash().unwrap()
    );
    assert!(cluster.control.record("pi-2").unwrap().newest_used);
    let mode = std::fs::metadata(node.directory.path().join("identity.json"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let beats = until(&mut cluster.control.heartbeats.subscribe(), |beats| beats.len() >= 2).await;
    assert_eq!(
        (beats[0].0.as_str(), beats[0].1.sequence, beats[0].1.led.as_str()),
        ("pi-2", 1, "ready")
    );
    assert_eq!(cluster.server.connected()[0].node, "pi-2");
}

#[tokio::test]
async fn node_finds_its_cluster_among_announcements() {
    let cluster = Cluster::start().await;
    let other = Cluster::start().await;
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let node = RunningNode::start(
        "pi-2",
        directory,
        Some(cluster.token(None)),
        None,
        vec![other.candidate()],
    );
    let state = node
        .state(|state| matches!(state, LinkState::Searching { note } if note.contains("announces")))
        .await;
    assert!(
        format!("{state:?}").contains(&other.identity.pin().to_string()[..8]),
        "{state:?}"
    );
    node.discovery.set(vec![other.candidate(), cluster.candidate()]);
    node.connected().await;
    assert!(
        other.control.refusals.borrow().is_empty(),
        "the other cluster was never dialled"
    );
}

#[tokio::test]
async fn node_does_not_wait_for_a_place_that_keeps_silent() {
    // it would be given up after four seconds; others' work on the same machine may spoil a try
    let limit = Duration::from_secs(3);
    let mut tries = Vec::new();
    while tries.len() < 3 && tries.last().is_none_or(|took| *took >= limit) {
        let cluster = Cluster::start().await;
        // takes connections and says nothing, as a machine that is busy or was moved away
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let began = Instant::now();
        let node = RunningNode::start(
            "pi-2",
            Arc::new(tempfile::tempdir().unwrap()),
            Some(cluster.token(None)),
            Some(silent.local_addr().unwrap()),
            vec![],
        );
        let (_first, _) = silent.accept().await.unwrap();
        node.discovery.set(vec![cluster.candidate()]);
        node.connected().await;
        tries.push(began.elapsed());
    }
    assert!(tries.last().is_some_and(|took| *took < limit), "{tries:?}");
}

#[tokio::test]
async fn power_cut_during_the_join_is_followed_by_a_retry_with_the_same_key() {
    let cluster = Cluster::start().await;
    let token = cluster.token(None);
    let identity = NodeIdentity::new("pi-2", CLUSTER, cluster.identity.pin()).unwrap();
    // The answer is lost: the node's key is on disk, its certificate is not.
    let answer = cluster.join(&token, "pi-2", identity.request().unwrap()).await;
    assert!(matches!(answer, OpeningReply::Certificate { .. }), "{answer:?}");
    let directory = Arc::new(tempfile::tempdir().unwrap());
    crate::node::IdentityFile::within(directory.path())
        .write(&identity)
        .unwrap();
    let node = RunningNode::start("pi-2", directory, Some(token), Some(cluster.address), vec![]);
    node.connected().await;
    assert_eq!(node.identity().key_hash().unwrap(), identity.key_hash().unwrap());
}

#[tokio::test]
async fn request_for_system_masters_gets_a_node_certificate() {
    let cluster = Cluster::start().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["server.garage.minidc".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "minidc-admin");
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "system:masters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let request = params.serialize_request(&key).unwrap().der().to_vec();
    let OpeningReply::Certificate { certificate, .. } = cluster.join(&cluster.token(None), "pi-2", request).await
    else {
        panic!("refused")
    };
    let (name, groups) = subject(&certificate).unwrap();
    assert_eq!(
        (name.as_str(), groups),
        ("system:node:pi-2", vec!["system:nodes".to_owned()])
    );
    let parsed = parse(&certificate).unwrap();
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any && usage.other.is_empty());
    assert!(!parsed.is_ca());
    assert!(parsed.subject_alternative_name().unwrap().is_none());
    let life = parsed.validity().not_after.timestamp() - i64::try_from(cluster.control.now()).unwrap();
    assert!((86_000..=86_400).contains(&life), "{life}");
}

#[tokio::test]
async fn request_without_possession_of_its_key_gets_nothing() {
    let cluster = Cluster::start().await;
    let identity = NodeIdentity::new("pi-2", CLUSTER, cluster.identity.pin()).unwrap();
    let mut request = identity.request().unwrap();
    let last = request.len() - 1;
    request[last] ^= 1;
    let answer = cluster.join(&cluster.token(None), "pi-2", request).await;
    assert!(
        matches!(
            answer,
            OpeningReply::Refused {
                code: RefusalCode::Malformed,
                ..
            }
        ),
        "{answer:?}"
    );
    assert!(
        cluster.control.tokens.lock().unwrap().is_empty(),
        "the token is still unused"
    );
}

#[tokio::test]
async fn certificate_is_renewed_over_the_live_link() {
    let mut cluster = Cluster::start().await;
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.connected().await;
    let before = node.identity();
    // Thirteen hours later the node comes again.
    cluster.control.ahead.store(13 * 3600, Ordering::Relaxed);
    cluster.start_again().await;
    let renewed = async {
        loop {
            let record = cluster.control.record("pi-2").unwrap();
            if record.newest_used && record.key != before.key_hash().unwrap() {
                return record;
            }
            tokio::task::yield_now().await;
        }
    };
    let record = tokio::time::timeout(LIMIT, renewed).await.unwrap();
    let after = node.identity();
    assert_eq!(record.key, after.key_hash().unwrap());
    assert_eq!((record.previous_key, &after.next_key), (None, &None));
    node.connected().await;
    // The key before it opens nothing any more.
    let answer = ask(cluster.address, &cluster.identity, Some(&before), &Opening::Session).await;
    assert!(
        matches!(
            answer,
            OpeningReply::Refused {
                code: RefusalCode::Superseded,
                ..
            }
        ),
        "{answer:?}"
    );
    // And the new one is what the next session is made with.
    cluster.start_again().await;
    cluster.happened("connected pi-2", 3).await;
}

#[tokio::test]
async fn node_comes_back_from_a_year_in_a_drawer() {
    let cluster = Cluster::start().await;
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.connected().await;
    let directory = node.stop().await;
    let before = identity_in(directory.path());
    cluster.control.ahead.store(365 * 24 * 3600, Ordering::Relaxed);
    let answer = ask(cluster.address, &cluster.identity, Some(&before), &Opening::Session).await;
    assert!(
        matches!(
            answer,
            OpeningReply::Refused {
                code: RefusalCode::CertificateExpired,
                ..
            }
        ),
        "{answer:?}"
    );
    let node = RunningNode::start("pi-2", directory, None, Some(cluster.address), vec![]);
    node.connected().await;
    assert_ne!(node.identity().key_hash().unwrap(), before.key_hash().unwrap());
}

#[tokio::test]
async fn lost_answer_to_a_renewal_does_not_lock_the_node_out() {
    let cluster = Cluster::start().await;
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.connected().await;
    let directory = node.stop().await;
    cluster.control.ahead.store(48 * 3600, Ordering::Relaxed);
    let mut identity = identity_in(directory.path());
    let request = identity.next_request().unwrap();
    // Signed and recorded, but the node loses power before it has written either key or certificate.
    let answer = ask(
        cluster.address,
        &cluster.identity,
        Some(&identity),
        &Opening::Renew { request },
    )
    .await;
    assert!(matches!(answer, OpeningReply::Certificate { .. }), "{answer:?}");
    let node = RunningNode::start("pi-2", directory, None, Some(cluster.address), vec![]);
    node.connected().await;
}

#[tokio::test]
async fn local_node_needs_no_token() {
    let cluster = Cluster::start().await;
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let issue = |name: &str| {
        cluster
            .identity
            .issue_local_node(directory.path(), name, cluster.address, cluster.control.now())
    };
    let key = issue("pi-1").unwrap();
    assert_eq!(issue("pi-1").unwrap(), key, "the identity that is there is kept");
    cluster.server.trust_local("pi-1", &key).await.unwrap();
    let node = RunningNode::start("pi-1", Arc::clone(&directory), None, None, vec![]);
    node.connected().await;
    assert!(issue("pi-9").unwrap_err().to_string().contains("pi-1"));
}

#[tokio::test]
async fn fresh_token_replaces_the_key_of_a_reflashed_card() {
    let cluster = Cluster::start().await;
    let old = cluster.node("pi-2", Some(cluster.token(None)));
    old.connected().await;
    let old_directory = old.stop().await;
    cluster.happened("disconnected pi-2", 1).await;
    let new = cluster.node("pi-2", Some(cluster.token(None)));
    new.connected().await;
    let answer = ask(
        cluster.address,
        &cluster.identity,
        Some(&identity_in(old_directory.path())),
        &Opening::Session,
    )
    .await;
    assert!(
        matches!(
            answer,
            OpeningReply::Refused {
                code: RefusalCode::Superseded,
                ..
            }
        ),
        "{answer:?}"
    );
}

#[test]
fn names_of_nodes_are_names_of_objects() {
    assert!(is_node_name("pi-2") && is_node_name("pi-2.rack.local"));
    for bad in ["", "Pi", "-pi", "pi-", "pi..2", "pi_2", "pi/2", "päi"] {
        assert!(!is_node_name(bad), "{bad:?}");
    }
}
