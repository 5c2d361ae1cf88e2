//! Sessions that break, and stores that change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use minidc_api::feed::{Feed, FeedItem, FeedKind, FeedOp};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use super::proxy::Proxy;
use super::support::{Cluster, LIMIT, RunningNode, identity_in, open, pod, until};
use crate::node::LinkState;
use crate::protocol::{
    self, Command, Hello, MAX_FRAME, MAX_OPENING, NodeFacts, NodeFrame, Opening, OpeningReply, StoreId,
};
use crate::session::{Session, Side};

#[tokio::test]
async fn node_is_back_within_three_seconds_of_a_killed_control_plane() {
    let mut cluster = Cluster::start().await;
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.connected().await;
    let mut tries = Vec::new();
    // others' work on the same machine may spoil a try
    while tries.len() < 3 && tries.last().is_none_or(|took| *took >= Duration::from_secs(3)) {
        cluster.kill();
        node.state(|state| matches!(state, LinkState::Away { .. })).await;
        assert!(node.handle.request("GET", "/".into(), "", vec![]).await.is_err());
        // Long enough for the waits between attempts to grow.
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.start_again().await;
        let began = Instant::now();
        node.connected().await;
        tries.push(began.elapsed());
        assert_eq!(
            node.handle.request("GET", "/x".into(), "", vec![]).await.unwrap().0,
            200
        );
    }
    assert!(
        tries.last().is_some_and(|took| *took < Duration::from_secs(3)),
        "{tries:?}"
    );
}

#[tokio::test]
async fn silence_is_noticed_by_both_sides() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(cluster.address, None).await;
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let node = RunningNode::start(
        "pi-2",
        directory,
        Some(cluster.token(None)),
        Some(proxy.address),
        vec![],
    );
    node.connected().await;
    proxy.hold.send_replace(true);
    let began = Instant::now();
    let state = node.state(|state| matches!(state, LinkState::Away { .. })).await;
    assert!(format!("{state:?}").contains("nothing was heard"), "{state:?}");
    cluster.happened("disconnected pi-2", 1).await;
    // three seconds of silence, and what a busy machine adds
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    proxy.hold.send_replace(false);
    node.connected().await;
}

#[tokio::test]
async fn session_of_the_same_program_replaces_the_one_before() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(cluster.address, None).await;
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let node = RunningNode::start(
        "pi-2",
        directory,
        Some(cluster.token(None)),
        Some(proxy.address),
        vec![],
    );
    node.connected().await;
    // The node loses its connection; the control plane does not notice before the node is back.
    proxy.cut_clients();
    cluster.happened("connected pi-2", 2).await;
    node.connected().await;
    let events = cluster.control.events.borrow().clone();
    assert!(
        events.starts_with(&["connected pi-2", "disconnected pi-2", "connected pi-2"].map(str::to_owned)),
        "{events:?}"
    );
}

#[tokio::test]
async fn changes_after_the_snapshot_arrive_in_order() {
    let cluster = Cluster::start().await;
    cluster
        .control
        .snapshot
        .lock()
        .unwrap()
        .extend([pod("a", 1), pod("b", 2)]);
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    assert_eq!(node.synced().await, ["a", "b"]);
    cluster.control.changes.send(Feed::Item(pod("c", 101))).unwrap();
    let gone = FeedItem {
        op: FeedOp::Delete,
        ..pod("a", 102)
    };
    cluster.control.changes.send(Feed::Item(gone)).unwrap();
    let feed = until(&mut node.handle.feed(), |feed| {
        feed.store.is_some_and(|store| store.revision == 102)
    })
    .await;
    let names: Vec<_> = feed.items.keys().map(|key| key.2.as_str()).collect();
    assert_eq!(names, ["b", "c"]);
    assert!(feed.items.keys().all(|key| key.0 == FeedKind::Pod));
}

#[tokio::test]
async fn restarted_node_keeps_its_pods_while_the_control_plane_is_away() {
    let mut cluster = Cluster::start().await;
    cluster.control.snapshot.lock().unwrap().push(pod("a", 1));
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.synced().await;
    let directory = node.stop().await;
    cluster.kill();
    let node = RunningNode::start("pi-2", directory, None, None, vec![]);
    node.state(|state| matches!(state, LinkState::Away { .. })).await;
    let feed = node.handle.feed().borrow().clone();
    assert!(feed.from_disk && !feed.synced);
    assert_eq!(feed.items.len(), 1);
    // No configuration, no mDNS: the address is remembered.
    cluster.start_again().await;
    node.connected().await;
}

#[tokio::test]
async fn foreign_store_is_followed_only_once_adopted() {
    let mut cluster = Cluster::start().await;
    cluster.control.snapshot.lock().unwrap().push(pod("a", 1));
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.synced().await;
    // The same cluster with an empty store.
    cluster.control.snapshot.lock().unwrap().clear();
    *cluster.control.store.lock().unwrap() = StoreId {
        identity: Uuid::from_u128(2),
        revision: 5,
    };
    cluster.start_again().await;
    node.state(|state| matches!(state, LinkState::ForeignStore { .. }))
        .await;
    until(&mut cluster.control.heartbeats.subscribe(), |beats| {
        beats.iter().any(|(_, beat)| beat.foreign_store)
    })
    .await;
    assert_eq!(node.handle.feed().borrow().items.len(), 1, "what runs is kept");
    assert!(
        node.handle.request("GET", "/".into(), "", vec![]).await.is_err(),
        "nothing is asked of it"
    );
    cluster.server.command("pi-2", Command::Adopt).await.unwrap();
    node.connected().await;
    until(&mut node.handle.feed(), |feed| feed.synced && feed.items.is_empty()).await;
    // An older state of the same store is foreign too; this time the word is left as a file.
    cluster.control.store.lock().unwrap().revision = 4;
    cluster.start_again().await;
    node.state(|state| matches!(state, LinkState::ForeignStore { .. }))
        .await;
    std::fs::write(node.directory.path().join("adopt"), b"").unwrap();
    node.connected().await;
    assert!(!node.directory.path().join("adopt").exists());
}

#[tokio::test]
async fn commands_reach_the_node() {
    let cluster = Cluster::start().await;
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    assert!(cluster.server.command("pi-2", Command::Reboot).await.is_err());
    node.connected().await;
    cluster
        .server
        .command("pi-2", Command::Locate { seconds: 5 })
        .await
        .unwrap();
    // Commands and answers come in order.
    node.handle.request("GET", "/".into(), "", vec![]).await.unwrap();
    node.handle.request("GET", "/".into(), "", vec![]).await.unwrap();
    assert_eq!(*node.node.commands.lock().unwrap(), [Command::Locate { seconds: 5 }]);
}

#[tokio::test]
async fn stopping_control_plane_says_goodbye() {
    let cluster = Cluster::start().await;
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.connected().await;
    let away = node.state(|state| matches!(state, LinkState::Away { .. }));
    let (state, ()) = tokio::join!(away, async { cluster.server.close() });
    assert!(format!("{state:?}").contains("stopping"), "{state:?}");
    node.connected().await;
}

#[tokio::test]
async fn stopping_node_says_goodbye() {
    let cluster = Cluster::start().await;
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.connected().await;
    node.stop().await;
    cluster.happened("disconnected pi-2", 1).await;
    assert!(
        cluster
            .control
            .last_reason
            .lock()
            .unwrap()
            .contains("this node is stopping")
    );
}

/// A session by hand, which sends these bytes on the control stream; returns how the server ended it.
async fn misbehave(cluster: &Cluster, identity: &crate::node::NodeIdentity, hello: bool, bytes: &[u8]) -> String {
    let mut stream = open(cluster.address, &cluster.identity, Some(identity)).await;
    protocol::write_frame(&mut stream, &protocol::encode_opening(&Opening::Session).unwrap())
        .await
        .unwrap();
    let reply: OpeningReply = protocol::decode(&protocol::read_frame(&mut stream, MAX_OPENING).await.unwrap()).unwrap();
    assert_eq!(reply, OpeningReply::Session);
    let (session, handles) = Session::new(stream, Side::Node);
    let driver = tokio::spawn(session.drive(tokio_util::sync::CancellationToken::new()));
    let mut control = handles.opener.stream().await.unwrap();
    if hello {
        let hello = Hello {
            node: identity.node.clone(),
            instance: Uuid::new_v4(),
            store: None,
            facts: NodeFacts::default(),
        };
        let frame = protocol::encode(&NodeFrame::Hello(Box::new(hello))).unwrap();
        protocol::write_frame(&mut control, &frame).await.unwrap();
    }
    let _ = control.write_all(bytes).await;
    let _ = control.flush().await;
    tokio::time::timeout(LIMIT, driver)
        .await
        .expect("the server hangs up")
        .unwrap()
}

#[tokio::test]
async fn malformed_oversized_and_unexpected_frames_end_the_session() {
    let cluster = Cluster::start().await;
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.connected().await;
    let directory = node.stop().await;
    let identity = identity_in(directory.path());
    let oversized = u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes();
    let mut second = Vec::new();
    let hello = Hello {
        node: "pi-2".into(),
        instance: Uuid::new_v4(),
        store: None,
        facts: NodeFacts::default(),
    };
    protocol::write_frame(
        &mut second,
        &protocol::encode(&NodeFrame::Hello(Box::new(hello))).unwrap(),
    )
    .await
    .unwrap();
    let mut impostor = Vec::new();
    let hello = Hello {
        node: "pi-9".into(),
        instance: Uuid::new_v4(),
        store: None,
        facts: NodeFacts::default(),
    };
    protocol::write_frame(
        &mut impostor,
        &protocol::encode(&NodeFrame::Hello(Box::new(hello))).unwrap(),
    )
    .await
    .unwrap();
    let mut early = Vec::new();
    protocol::write_frame(&mut early, &protocol::encode(&NodeFrame::Renewed).unwrap())
        .await
        .unwrap();
    for (hello, bytes) in [
        (true, &oversized[..]),
        (true, &[0, 0, 0, 3, 0xff, 0xff, 0xff]),
        (true, &[0, 0, 0, 0]),
        (true, &second),
        (false, &impostor),
        (false, &early),
        (false, &oversized),
    ] {
        let ended = misbehave(&cluster, &identity, hello, bytes).await;
        assert!(!ended.is_empty());
    }
    // And everything still works.
    let node = RunningNode::start("pi-2", directory, None, Some(cluster.address), vec![]);
    node.connected().await;
}
