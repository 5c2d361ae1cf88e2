//! Those who do not get in.

use std::sync::Arc;

use rustls_pki_types::PrivateKeyDer;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::support::{CLUSTER, Cluster, LIMIT, RunningNode, ask, open, until};
use crate::node::{LinkState, NodeIdentity};
use crate::pki::ClusterIdentity;
use crate::protocol::{self, MAX_OPENING, Opening, OpeningReply, RefusalCode};
use crate::server::Refusal;
use crate::token::Token;

#[tokio::test]
async fn wrong_token_is_refused_with_a_reason_on_both_sides() {
    let cluster = Cluster::start().await;
    let forged = Token::mint(
        &[1; 32],
        CLUSTER,
        cluster.identity.pin(),
        "0011223344556677",
        None,
        u64::MAX,
    );
    let node = cluster.node("pi-2", Some(forged));
    let reason = node.refused(RefusalCode::Token).await;
    assert!(reason.contains("not made by this cluster"), "{reason}");
    assert_eq!(cluster.refusal(RefusalCode::Token).await.as_deref(), Some("pi-2"));
    // No retry storm: the second attempt takes its time.
    assert_eq!(cluster.control.refusals.borrow().len(), 1);
}

#[tokio::test]
async fn expired_token_is_refused() {
    let cluster = Cluster::start().await;
    let token = cluster.identity.mint_token(None, cluster.control.now() - 100).unwrap();
    let node = cluster.node("pi-2", Some(token));
    let reason = node.refused(RefusalCode::TokenExpired).await;
    assert!(reason.contains("expired 10"), "{reason}");
}

#[tokio::test]
async fn token_of_another_node_is_refused_by_either_side() {
    let cluster = Cluster::start().await;
    let token = cluster.token(Some("pi-3"));
    let node = cluster.node("pi-2", Some(token.clone()));
    let reason = node.refused(RefusalCode::TokenOtherNode).await;
    assert!(reason.contains("pi-3") && reason.contains("pi-2"), "{reason}");
    assert!(cluster.control.refusals.borrow().is_empty(), "it was not even shown");
    let request = NodeIdentity::new("pi-2", CLUSTER, cluster.identity.pin())
        .unwrap()
        .request()
        .unwrap();
    let answer = cluster.join(&token, "pi-2", request).await;
    assert!(
        matches!(
            answer,
            OpeningReply::Refused {
                code: RefusalCode::TokenOtherNode,
                ..
            }
        ),
        "{answer:?}"
    );
}

#[tokio::test]
async fn used_token_is_refused_to_another_key() {
    let cluster = Cluster::start().await;
    let token = cluster.token(None);
    let first = cluster.node("pi-2", Some(token.clone()));
    first.connected().await;
    let thief = cluster.node("pi-3", Some(token));
    let reason = thief.refused(RefusalCode::TokenUsed).await;
    assert!(reason.contains("joined as pi-2"), "{reason}");
    assert!(cluster.control.record("pi-3").is_none());
}

#[tokio::test]
async fn second_live_node_of_the_same_name_is_refused() {
    let cluster = Cluster::start().await;
    let first = cluster.node("pi-2", Some(cluster.token(None)));
    first.connected().await;
    let second = cluster.node("pi-2", Some(cluster.token(None)));
    let reason = second.refused(RefusalCode::DuplicateName).await;
    assert!(reason.contains("pi-2"), "{reason}");
    assert_eq!(
        cluster.refusal(RefusalCode::DuplicateName).await.as_deref(),
        Some("pi-2")
    );
    assert!(first.handle.state().borrow().is_connected());
}

#[tokio::test]
async fn copy_of_a_card_is_refused_while_the_original_lives() {
    let cluster = Cluster::start().await;
    let original = cluster.node("pi-2", Some(cluster.token(None)));
    original.connected().await;
    let copy = Arc::new(tempfile::tempdir().unwrap());
    std::fs::copy(
        original.directory.path().join("identity.json"),
        copy.path().join("identity.json"),
    )
    .unwrap();
    let copy = RunningNode::start("pi-2", copy, None, Some(cluster.address), vec![]);
    let reason = copy.refused(RefusalCode::DuplicateName).await;
    assert!(reason.contains("copy"), "{reason}");
    assert!(original.handle.state().borrow().is_connected());
    // The original is switched off: the other may have its place.
    original.stop().await;
    copy.connected().await;
}

#[tokio::test]
async fn removed_node_stays_out_until_it_has_a_fresh_token() {
    let cluster = Cluster::start().await;
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.connected().await;
    cluster.server.remove("pi-2", "lost on a train").await.unwrap();
    let reason = node.refused(RefusalCode::Removed).await;
    assert!(reason.contains("lost on a train"), "{reason}");
    cluster.happened("disconnected pi-2", 1).await;
    let directory = node.stop().await;
    let node = RunningNode::start("pi-2", Arc::clone(&directory), None, Some(cluster.address), vec![]);
    node.refused(RefusalCode::Removed).await;
    node.stop().await;
    let node = RunningNode::start(
        "pi-2",
        directory,
        Some(cluster.token(None)),
        Some(cluster.address),
        vec![],
    );
    node.connected().await;
}

#[tokio::test]
async fn changed_record_ends_the_session_that_it_no_longer_allows() {
    let cluster = Cluster::start().await;
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.connected().await;
    cluster.server.recheck("pi-2").await.unwrap();
    assert_eq!(cluster.server.connected().len(), 1);
    cluster.control.nodes.lock().unwrap().get_mut("pi-2").unwrap().0.removed = Some("by hand".into());
    cluster.server.recheck("pi-2").await.unwrap();
    node.refused(RefusalCode::Removed).await;
}

#[tokio::test]
async fn refusal_of_the_control_plane_reaches_the_node() {
    let cluster = Cluster::start().await;
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.connected().await;
    cluster
        .server
        .disconnect("pi-2", Refusal::new(RefusalCode::DuplicateName, "because"));
    assert_eq!(node.refused(RefusalCode::DuplicateName).await, "because");
}

/// A TLS server with any certificate, which counts the bytes that it is told.
async fn impostor(
    chain: Vec<rustls_pki_types::CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> (std::net::SocketAddr, watch::Receiver<(usize, usize)>) {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![protocol::ALPN.to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, receiver) = watch::channel((0, 0));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(tcp).await {
                let mut told = Vec::new();
                let _ = stream.read_to_end(&mut told).await;
                seen.send_modify(|seen| seen.1 += told.len());
            }
            seen.send_modify(|seen| seen.0 += 1);
        }
    });
    (address, receiver)
}

#[tokio::test]
async fn rogue_ca_is_not_told_the_token() {
    let cluster = Cluster::start().await;
    let directory = tempfile::tempdir().unwrap();
    // Another CA with the same cluster name, announced with our pin.
    let rogue = ClusterIdentity::load_or_create(&directory.path().join("pki"), CLUSTER).unwrap();
    let (certificate, key) = rogue.issue_server(&rogue.fixed_names()).unwrap();
    let (address, mut seen) = impostor(vec![certificate, rogue.ca().clone()], key).await;
    let mut candidate = cluster.candidate();
    candidate.port = address.port();
    let node_directory = Arc::new(tempfile::tempdir().unwrap());
    let node = RunningNode::start(
        "pi-2",
        node_directory,
        Some(cluster.token(None)),
        None,
        vec![candidate.clone()],
    );
    let reason = node.refused(RefusalCode::ForeignCluster).await;
    assert!(reason.contains("another cluster"), "{reason}");
    until(&mut seen, |(connections, _)| *connections > 0).await;
    // The rogue stays; the real one appears beside it and is found.
    node.discovery.set(vec![candidate, cluster.candidate()]);
    node.connected().await;
    assert_eq!(seen.borrow().1, 0, "not a byte");
}

#[tokio::test]
async fn node_certificate_offered_as_a_server_gets_nothing() {
    let cluster = Cluster::start().await;
    let traitor = cluster.node("pi-3", Some(cluster.token(None)));
    traitor.connected().await;
    let (certificate, key) = traitor.identity().credentials().unwrap().unwrap();
    let (address, mut seen) = impostor(vec![certificate, cluster.identity.ca().clone()], key).await;
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let node = RunningNode::start("pi-2", directory, Some(cluster.token(None)), Some(address), vec![]);
    let reason = node.refused(RefusalCode::ForeignCluster).await;
    assert!(reason.contains("does not allow it to be a control plane"), "{reason}");
    until(&mut seen, |(connections, _)| *connections > 0).await;
    assert_eq!(seen.borrow().1, 0);
}

#[tokio::test]
async fn node_of_another_cluster_is_refused_and_says_why() {
    let (cluster, other) = (Cluster::start().await, Cluster::start().await);
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.connected().await;
    let directory = node.stop().await;
    // The card moves to another rack, with that rack's address in its configuration.
    std::fs::write(directory.path().join("desired"), b"").unwrap();
    drop(cluster);
    let node = RunningNode::start("pi-2", Arc::clone(&directory), None, Some(other.address), vec![]);
    let state = node
        .state(|state| matches!(state, LinkState::Away { reason, .. } | LinkState::Refused { reason, .. } if reason.contains("another cluster")))
        .await;
    node.stop().await;
    drop(state);
    // With a token of the other rack it says what to do.
    let node = RunningNode::start("pi-2", directory, Some(other.token(None)), Some(other.address), vec![]);
    let reason = node.refused(RefusalCode::ForeignCluster).await;
    assert!(reason.contains("delete"), "{reason}");
    assert!(other.control.record("pi-2").is_none());
}

#[tokio::test]
async fn strangers_get_neither_session_nor_renewal() {
    let cluster = Cluster::start().await;
    let answer = ask(cluster.address, &cluster.identity, None, &Opening::Session).await;
    assert!(
        matches!(
            answer,
            OpeningReply::Refused {
                code: RefusalCode::NotANode,
                ..
            }
        ),
        "{answer:?}"
    );
    let request = NodeIdentity::new("pi-2", CLUSTER, cluster.identity.pin())
        .unwrap()
        .request()
        .unwrap();
    let answer = ask(cluster.address, &cluster.identity, None, &Opening::Renew { request }).await;
    assert!(
        matches!(
            answer,
            OpeningReply::Refused {
                code: RefusalCode::NotANode,
                ..
            }
        ),
        "{answer:?}"
    );
}

#[tokio::test]
async fn garbage_is_answered_and_the_connection_closed() {
    let cluster = Cluster::start().await;
    for garbage in [&b"hello"[..], b"mdc\x01\x00\x01\xff\xff", b"mdc\x01\x00\x07", b""] {
        let mut stream = open(cluster.address, &cluster.identity, None).await;
        protocol::write_frame(&mut stream, garbage).await.unwrap();
        let reply: OpeningReply =
            protocol::decode(&protocol::read_frame(&mut stream, MAX_OPENING).await.unwrap()).unwrap();
        assert!(
            matches!(
                reply,
                OpeningReply::Refused {
                    code: RefusalCode::Malformed | RefusalCode::Protocol,
                    ..
                }
            ),
            "{reply:?}"
        );
        let mut rest = Vec::new();
        assert_eq!(stream.read_to_end(&mut rest).await.unwrap(), 0);
    }
    let mut stream = open(cluster.address, &cluster.identity, None).await;
    tokio::io::AsyncWriteExt::write_all(&mut stream, &[0x7f, 0xff, 0xff, 0xff, 1])
        .await
        .unwrap();
    let reply: OpeningReply = protocol::decode(&protocol::read_frame(&mut stream, MAX_OPENING).await.unwrap()).unwrap();
    assert!(
        matches!(
            reply,
            OpeningReply::Refused {
                code: RefusalCode::Malformed,
                ..
            }
        ),
        "{reply:?}"
    );
}

#[tokio::test]
async fn board_that_keeps_trying_wrong_tokens_is_slowed_down() {
    let cluster = Cluster::start().await;
    let forged = Token::mint(
        &[1; 32],
        CLUSTER,
        cluster.identity.pin(),
        "0011223344556677",
        None,
        u64::MAX,
    );
    for _ in 0..10 {
        cluster.join(&forged, "pi-2", vec![]).await;
    }
    let answer = cluster.join(&forged, "pi-2", vec![]).await;
    assert!(
        matches!(
            answer,
            OpeningReply::Refused {
                code: RefusalCode::TooManyAttempts,
                ..
            }
        ),
        "{answer:?}"
    );
}

#[tokio::test]
async fn node_without_token_and_identity_says_so() {
    let cluster = Cluster::start().await;
    let node = cluster.node("pi-2", None);
    let reason = node.refused(RefusalCode::Token).await;
    assert!(reason.contains("neither an identity nor a join token"), "{reason}");
    tokio::time::timeout(LIMIT, node.stop()).await.unwrap();
}
