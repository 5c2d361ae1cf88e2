//! Logs and exec, over a real socket where WebSocket needs one.

use futures::{SinkExt, StreamExt};
use minidc_api::streams::{Channel, Target};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::support::{Client, Cluster, LIMIT, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn listen(client: &Client) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = client.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address.to_string()
}

type Socket = WebSocketStream<TcpStream>;

async fn exec(cluster: &Cluster, query: &str, protocol: &str) -> Socket {
    let address = listen(&cluster.admin()).await;
    let mut request = format!("ws://{address}{PODS}/a/exec?{query}")
        .into_client_request()
        .unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", protocol.parse().unwrap());
    let (socket, response) = tokio_tungstenite::client_async(request, TcpStream::connect(address).await.unwrap())
        .await
        .unwrap();
    assert_eq!(
        response.headers()["sec-websocket-protocol"],
        protocol.split(',').next().unwrap()
    );
    socket
}

async fn message(socket: &mut Socket) -> Option<(u8, Vec<u8>)> {
    let message = tokio::time::timeout(LIMIT, socket.next())
        .await
        .expect("a message in time")?
        .unwrap();
    match message {
        Message::Binary(bytes) => Some((bytes[0], bytes[1..].to_vec())),
        Message::Close(_) => None,
        other => panic!("{other:?}"),
    }
}

/// All that comes until the server closes, by channel.
async fn rest(socket: &mut Socket) -> (String, String, Value) {
    let (mut stdout, mut stderr, mut status) = (Vec::new(), Vec::new(), Value::Null);
    while let Some((channel, payload)) = message(socket).await {
        match channel {
            1 => stdout.extend(payload),
            2 => stderr.extend(payload),
            3 if !payload.is_empty() => status = serde_json::from_slice(&payload).unwrap(),
            _ => {}
        }
    }
    (
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
        status,
    )
}

#[tokio::test]
async fn command_answers_over_both_protocols() {
    let cluster = Cluster::start().await;
    let pod = cluster.running_pod("a", "pi-1").await;
    for protocol in ["v5.channel.k8s.io,v4.channel.k8s.io", "v4.channel.k8s.io"] {
        let mut socket = exec(&cluster, "command=echo&command=a%20b&stdout=true&stderr=true", protocol).await;
        let (stdout, stderr, status) = rest(&mut socket).await;
        assert_eq!(
            (stdout.as_str(), stderr.as_str(), &status["status"]),
            ("a b\n", "", &json!("Success"))
        );
    }
    let dialled = cluster.nodes.dialled.lock().unwrap();
    let (node, Target::Exec(query)) = &dialled[0] else {
        panic!("{dialled:?}")
    };
    assert_eq!(node, "pi-1");
    assert_eq!(
        (query.of.container.as_str(), query.of.uid.as_str()),
        ("main", pod["metadata"]["uid"].as_str().unwrap())
    );
    assert!(query.stdout && query.stderr && !query.stdin && !query.tty);
}

#[tokio::test]
async fn standard_input_arrives_and_its_end_too() {
    let cluster = Cluster::start().await;
    cluster.running_pod("a", "pi-1").await;
    let mut socket = exec(&cluster, "command=cat&stdin=true&stdout=true", "v5.channel.k8s.io").await;
    let big = vec![b'x'; 100_000];
    socket
        .send(Message::Binary([&[0][..], &big].concat().into()))
        .await
        .unwrap();
    let mut back = 0;
    while back < big.len() {
        back += message(&mut socket).await.unwrap().1.len();
    }
    socket
        .send(Message::Binary(vec![Channel::Close as u8, 0].into()))
        .await
        .unwrap();
    assert_eq!(rest(&mut socket).await.2["status"], "Success");
}

#[tokio::test]
async fn terminal_size_reaches_the_command() {
    let cluster = Cluster::start().await;
    cluster.running_pod("a", "pi-1").await;
    let mut socket = exec(
        &cluster,
        "command=size&stdin=true&stdout=true&tty=true",
        "v5.channel.k8s.io",
    )
    .await;
    let size = br#"{"Width":80,"Height":24}"#;
    socket
        .send(Message::Binary([&[4][..], size].concat().into()))
        .await
        .unwrap();
    assert_eq!(rest(&mut socket).await.0.as_bytes(), size);
}

#[tokio::test]
async fn failure_of_the_command_and_of_the_node_are_told_on_the_error_channel() {
    let cluster = Cluster::start().await;
    cluster.running_pod("a", "pi-1").await;
    let mut socket = exec(&cluster, "command=false&stdout=true&stderr=true", "v5.channel.k8s.io").await;
    let (_, stderr, status) = rest(&mut socket).await;
    assert_eq!(stderr, "no such command\n");
    assert_eq!(
        (&status["reason"], &status["details"]["causes"][0]["message"]),
        (&json!("NonZeroExitCode"), &json!("3"))
    );
    let mut broken = exec(&cluster, "command=break&stdout=true", "v5.channel.k8s.io").await;
    assert_eq!(rest(&mut broken).await.2["reason"], "InternalError");
    cluster
        .admin()
        .delete(&format!("{PODS}/a?gracePeriodSeconds=0"))
        .await
        .expect(200);
    cluster.running_pod("a", "away").await;
    let mut away = exec(&cluster, "command=echo&stdout=true", "v5.channel.k8s.io").await;
    let status = rest(&mut away).await.2;
    assert_eq!(
        (&status["message"], &status["code"]),
        (&json!("node away is not connected"), &json!(503))
    );
}

#[tokio::test]
async fn exec_requests_that_cannot_work_are_refused_before_the_upgrade() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    cluster.running_pod("a", "pi-1").await;
    admin.post(PODS, &pod("unbound")).await.expect(201);
    let spdy = http::Request::post(format!("{PODS}/a/exec?command=ls&stdout=true"))
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .body(axum::body::Body::empty())
        .unwrap();
    let refused = admin.send(spdy).await;
    assert!(
        refused.message().contains("KUBECTL_REMOTE_COMMAND_WEBSOCKETS"),
        "{}",
        refused.message()
    );
    refused.expect(400);
    for (path, message) in [
        (
            "a/exec?stdout=true",
            "you must specify at least 1 command for the container",
        ),
        (
            "a/exec?command=ls",
            "you must specify at least 1 of stdin, stdout, stderr",
        ),
        (
            "a/exec?command=ls&stdout=true&container=x",
            "container x is not valid for pod a",
        ),
        (
            "unbound/exec?command=ls&stdout=true",
            "pod unbound does not have a host assigned",
        ),
    ] {
        let answer = admin.get(&format!("{PODS}/{path}")).await;
        assert_eq!(answer.message(), message);
        answer.expect(400);
    }
    admin
        .get(&format!("{PODS}/none/exec?command=ls&stdout=true"))
        .await
        .expect(404);
}

#[tokio::test]
async fn logs_are_copied_with_their_options() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    cluster.running_pod("a", "pi-1").await;
    cluster.running_pod("gone", "away").await;
    admin.post(PODS, &pod("unbound")).await.expect(201);
    let answer = admin
        .get(&format!(
            "{PODS}/a/log?tailLines=2&follow=true&timestamps=true&sinceSeconds=60"
        ))
        .await;
    assert_eq!(answer.headers["content-type"], "text/plain");
    assert_eq!(answer.expect(200), "two\nthree\nfollowed\n");
    let dialled = cluster.nodes.dialled.lock().unwrap().clone();
    let (_, Target::Logs(query)) = &dialled[0] else {
        panic!("{dialled:?}")
    };
    assert!(query.follow && query.timestamps && !query.previous);
    assert_eq!((query.tail_lines, query.since_seconds), (Some(2), Some(60)));
    assert_eq!(admin.get(&format!("{PODS}/unbound/log")).await.expect(200), "");
    let away = admin.get(&format!("{PODS}/gone/log")).await;
    assert_eq!(away.message(), "node away is not connected");
    away.expect(503);
    for (query, code) in [
        ("container=x", 400),
        ("tailLines=-1", 422),
        ("sinceSeconds=1&sinceTime=2024-01-01T00:00:00Z", 422),
        ("sinceTime=x", 400),
    ] {
        admin.get(&format!("{PODS}/a/log?{query}")).await.expect(code);
    }
}
