//! A server over a store in memory, with nodes that only pretend.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use minidc_api::streams::{Channel, ExecQuery, LogQuery, Target};
use minidc_apiserver::{ApiServer, BoxedIo, DialError, NodeDialer, Options, memory_prefixes};
use minidc_store::Store;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tower::ServiceExt;

/// Longest that any test waits for something that must happen.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Nodes whose containers understand `echo`, `cat`, `fail` and `size`, and log three lines.
#[derive(Default)]
pub(crate) struct FakeNodes {
    /// Every target that was dialled, with its node.
    pub(crate) dialled: Mutex<Vec<(String, Target)>>,
}

impl NodeDialer for FakeNodes {
    fn dial(&self, node: String, target: Target) -> BoxFuture<'static, Result<BoxedIo, DialError>> {
        self.dialled.lock().unwrap().push((node.clone(), target.clone()));
        Box::pin(async move {
            if node == "away" {
                return Err(DialError {
                    code: 503,
                    message: "node away is not connected".to_owned(),
                });
            }
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            match target {
                Target::Logs(query) => tokio::spawn(log(theirs, query)),
                Target::Exec(query) => tokio::spawn(exec(theirs, query)),
            };
            Ok(BoxedIo::new(ours))
        })
    }
}

async fn log(mut io: DuplexStream, query: LogQuery) {
    let lines = ["one", "two", "three"];
    let from = query
        .tail_lines
        .map_or(0, |tail| lines.len().saturating_sub(tail as usize));
    for line in &lines[from..] {
        io.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }
    if query.follow {
        io.write_all(b"followed\n").await.unwrap();
    }
}

async fn send(io: &mut DuplexStream, channel: Channel, payload: &[u8]) {
    io.write_u8(channel as u8).await.unwrap();
    io.write_u32(payload.len() as u32).await.unwrap();
    io.write_all(payload).await.unwrap();
}

async fn receive(io: &mut DuplexStream) -> Option<(Channel, Vec<u8>)> {
    let channel = io.read_u8().await.ok()?;
    let length = io.read_u32().await.ok()?;
    let mut payload = vec![0; length as usize];
    io.read_exact(&mut payload).await.ok()?;
    Some((Channel::try_from(channel).unwrap(), payload))
}

async fn exec(mut io: DuplexStream, query: ExecQuery) {
    let success = json!({"metadata": {}, "status": "Success"});
    let mut result = success;
    match query.command[0].as_str() {
        "echo" => {
            send(
                &mut io,
                Channel::Stdout,
                format!("{}\n", query.command[1..].join(" ")).as_bytes(),
            )
            .await;
        }
        "cat" => {
            while let Some((channel, payload)) = receive(&mut io).await {
                match channel {
                    Channel::Stdin => send(&mut io, Channel::Stdout, &payload).await,
                    Channel::Close => break,
                    _ => {}
                }
            }
        }
        "size" => {
            while let Some((channel, payload)) = receive(&mut io).await {
                if channel == Channel::Resize {
                    send(&mut io, Channel::Stdout, &payload).await;
                    break;
                }
            }
        }
        "break" => return,
        _ => {
            send(&mut io, Channel::Stderr, b"no such command\n").await;
            result = json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": "command terminated with non-zero exit code: exit status 3",
                "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}
            });
        }
    }
    send(&mut io, Channel::Error, result.to_string().as_bytes()).await;
}

/// A server and the directory it keeps images in.
pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    pub(crate) nodes: Arc<FakeNodes>,
    pub(crate) directory: tempfile::TempDir,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{:#}", self.body);
        self.body
    }

    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    pub(crate) fn warnings(&self) -> Vec<&str> {
        self.headers
            .get_all("warning")
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect()
    }
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::with(minidc_store::Options {
            memory_prefixes: memory_prefixes(),
            ..minidc_store::Options::default()
        })
        .await
    }

    pub(crate) async fn with(options: minidc_store::Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let nodes = Arc::new(FakeNodes::default());
        let server = ApiServer::new(
            Store::in_memory(options),
            Options {
                images: directory.path().join("images"),
                default_toleration_seconds: 3,
                nodes: Arc::clone(&nodes) as Arc<dyn NodeDialer>,
                cluster: "test".to_owned(),
                service_range: "100.65.0.0/16".to_owned(),
            },
        );
        server.bootstrap().await.unwrap();
        Self {
            server,
            nodes,
            directory,
        }
    }

    pub(crate) fn admin(&self) -> Client {
        self.user("minidc-admin", &["system:masters"])
    }

    pub(crate) fn node(&self, name: &str) -> Client {
        self.user(&format!("system:node:{name}"), &["system:nodes"])
    }

    pub(crate) fn user(&self, user: &str, groups: &[&str]) -> Client {
        Client {
            router: self.server.router_as(user, groups),
        }
    }

    pub(crate) fn anonymous(&self) -> Client {
        Client {
            router: self.server.router(),
        }
    }

    /// A pod of `default` bound to a node.
    pub(crate) async fn running_pod(&self, name: &str, node: &str) -> Value {
        let admin = self.admin();
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = node.into();
        admin.post("/api/v1/namespaces/default/pods", &pod).await.expect(201)
    }
}

pub(crate) fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "demo:1"}]}
    })
}

pub(crate) fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": "value"}})
}

pub(crate) fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": "demo:1"}]}
            }
        }
    })
}

#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) router: Router,
}

impl Client {
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = tokio::time::timeout(LIMIT, body.collect())
            .await
            .unwrap()
            .unwrap()
            .to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer {
            code: parts.status,
            headers: parts.headers,
            body,
        }
    }

    pub(crate) async fn request(&self, method: &str, path: &str, content_type: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type);
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send(Request::get(path).header("accept", accept).body(Body::empty()).unwrap())
            .await
    }

    pub(crate) async fn post(&self, path: &str, object: &Value) -> Answer {
        self.request("POST", path, "application/json", object.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, object: &Value) -> Answer {
        self.request("PUT", path, "application/json", object.to_string()).await
    }

    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Answer {
        self.request("PATCH", path, "application/merge-patch+json", patch.to_string())
            .await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn watch(&self, path: &str) -> Events {
        self.watch_as(path, "application/json").await
    }

    pub(crate) async fn watch_as(&self, path: &str, accept: &str) -> Events {
        let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Events {
            body: response.into_body(),
            buffer: Vec::new(),
        }
    }
}

/// The events of a watch.
pub(crate) struct Events {
    body: Body,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; `None` when the watch ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(LIMIT, self.body.frame())
                .await
                .expect("an event in time")?;
            self.buffer.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    /// Type and name of the next event.
    pub(crate) async fn named(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}

/// `metadata.resourceVersion`.
pub(crate) fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}
