//! Requests and streams, also when the network is slow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::proxy::Proxy;
use super::support::{Cluster, IMAGE, IMAGE_SIZE, LIMIT, RunningNode, logs_of, until};
use crate::Error;

#[tokio::test]
async fn control_plane_reads_a_log_through_the_link() {
    let cluster = Cluster::start().await;
    let (code, message) = cluster.server.dial("pi-2", logs_of("web")).await.err().unwrap();
    assert_eq!((code, message.as_str()), (503, "node pi-2 is not connected"));
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.connected().await;
    let mut stream = cluster.server.dial("pi-2", logs_of("web")).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "log of web\n");
    let (code, message) = cluster.server.dial("pi-2", logs_of("missing")).await.err().unwrap();
    assert_eq!((code, message.as_str()), (404, "container missing is not here"));
    // One that ends without its end is not taken for whole.
    let mut stream = cluster.server.dial("pi-2", logs_of("broken")).await.unwrap();
    let error = stream.read_to_string(&mut text).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn abandoned_streams_leave_no_trace() {
    let cluster = Cluster::start().await;
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.connected().await;
    // More than can be open at once.
    for _ in 0..300 {
        let mut stream = cluster.server.dial("pi-2", logs_of("endless")).await.unwrap();
        stream.read_exact(&mut [0; 10]).await.unwrap();
    }
    assert!(node.handle.state().borrow().is_connected());
}

#[tokio::test]
async fn node_calls_the_api() {
    let cluster = Cluster::start().await;
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    assert!(matches!(
        node.handle.request("GET", "/".into(), "", vec![]).await,
        Err(Error::Offline)
    ));
    node.connected().await;
    let calls = (0..100).map(|number| {
        node.handle
            .request("PATCH", format!("/{number}"), "application/json", vec![0; number])
    });
    for (number, answer) in futures::future::join_all(calls).await.into_iter().enumerate() {
        let (status, body) = answer.unwrap();
        assert_eq!(
            (status, String::from_utf8(body).unwrap()),
            (200, format!("pi-2 PATCH /{number} {number}"))
        );
    }
    let answer = node
        .handle
        .request("POST", "/big".into(), "", vec![0; 4 << 20])
        .await
        .unwrap();
    assert_eq!(answer.1, format!("pi-2 POST /big {}", 4 << 20).into_bytes());
    assert!(
        node.handle
            .request("POST", "/big".into(), "", vec![0; 9 << 20])
            .await
            .is_err()
    );
    assert!(node.handle.state().borrow().is_connected());
}

#[tokio::test]
async fn call_without_an_answer_fails_when_the_link_goes() {
    let mut cluster = Cluster::start().await;
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.connected().await;
    let handle = node.handle.clone();
    let call = tokio::spawn(async move { handle.request("GET", "/never".into(), "", vec![]).await });
    node.handle.request("GET", "/after".into(), "", vec![]).await.unwrap();
    cluster.kill();
    let answer = tokio::time::timeout(LIMIT, call).await.unwrap().unwrap();
    assert!(matches!(answer, Err(Error::Offline)), "{answer:?}");
}

#[tokio::test]
async fn node_fetches_an_image_archive() {
    let cluster = Cluster::start().await;
    let node = cluster.node("pi-2", Some(cluster.token(None)));
    node.connected().await;
    let (size, mut reader) = node.handle.image_archive(IMAGE).await.unwrap();
    let mut content = Vec::new();
    reader.read_to_end(&mut content).await.unwrap();
    assert_eq!((size, content.len() as u64), (IMAGE_SIZE, IMAGE_SIZE));
    assert!(content.iter().all(|byte| *byte == 7));
    let error = node.handle.image_archive("sha256-none").await.err().unwrap();
    assert!(matches!(&error, Error::Status { code: 404, .. }), "{error}");
    let (_, mut reader) = node.handle.image_archive("sha256-short").await.unwrap();
    assert!(
        reader.read_to_end(&mut content).await.is_err(),
        "half an image is an error"
    );
}

/// A link of 1 MB/s per direction with an endless queue, an image that goes down it, and perhaps a log that comes up. Returns the
/// longest round trip of a call, which uses the stream of heartbeats and acknowledgements, and the time of the copy.
async fn copy_on_a_slow_link(with_log: bool) -> (Duration, Duration) {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(cluster.address, Some(1_000_000)).await;
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let node = RunningNode::start(
        "pi-2",
        directory,
        Some(cluster.token(None)),
        Some(proxy.address),
        vec![],
    );
    node.connected().await;
    let _draining = if with_log {
        let mut log = cluster.server.dial("pi-2", logs_of("endless")).await.unwrap();
        let drain = async move { tokio::io::copy(&mut log, &mut tokio::io::sink()).await };
        Some(tokio_util::task::AbortOnDropHandle::new(tokio::spawn(drain)))
    } else {
        None
    };
    let (_, mut image) = node.handle.image_archive(IMAGE).await.unwrap();
    let began = Instant::now();
    let copying = tokio::spawn(async move { tokio::io::copy(&mut image, &mut tokio::io::sink()).await.unwrap() });
    let mut worst = Duration::ZERO;
    while !copying.is_finished() {
        let asked = Instant::now();
        node.handle.request("GET", "/".into(), "", vec![]).await.unwrap();
        worst = worst.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(copying.await.unwrap(), IMAGE_SIZE);
    let copied = began.elapsed();
    until(&mut cluster.control.heartbeats.subscribe(), |beats| beats.len() >= 3).await;
    (worst, copied)
}

/// One of eight tries must be good: others' work on the same machine delays one now and then.
async fn copies_well(with_log: bool, longest: Duration) {
    let mut tries = Vec::new();
    while tries.len() < 8 {
        let (worst, copied) = copy_on_a_slow_link(with_log).await;
        // three seconds at full speed, if the link is used; a log in the other direction is nobody's hurry
        if worst < longest && (with_log || copied < Duration::from_millis(4500)) {
            return;
        }
        tries.push((worst, copied));
    }
    panic!("longest round trip, and time of the copy: {tries:?}");
}

#[tokio::test]
async fn heartbeats_do_not_wait_behind_a_copy() {
    copies_well(false, Duration::from_millis(200)).await;
}

#[tokio::test]
async fn heartbeats_do_not_wait_behind_copies_in_both_directions() {
    // 200 ms each way
    copies_well(true, Duration::from_millis(400)).await;
}
