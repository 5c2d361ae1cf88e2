//! The client's side of logs and exec.

use std::time::Duration;

use minidc_api::streams::{Channel, ContainerRef, ExecQuery, LogQuery, Target};
use minidc_kubelet::Handle;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// No stream of these tests lasts longer.
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn container(pod: &str, name: &str) -> ContainerRef {
    ContainerRef {
        namespace: "default".into(),
        pod: pod.into(),
        uid: String::new(),
        container: name.into(),
    }
}

pub(crate) fn log_query(pod: &str, name: &str) -> LogQuery {
    LogQuery {
        of: container(pod, name),
        follow: false,
        previous: false,
        timestamps: false,
        tail_lines: None,
        since_seconds: None,
        since_time: None,
        limit_bytes: None,
    }
}

/// All that a log query gives, or code and message.
pub(crate) async fn logs(handle: &Handle, query: LogQuery) -> Result<String, (u16, String)> {
    let serving = handle.prepare(Target::Logs(query)).await?;
    let (mut near, far) = tokio::io::duplex(64 << 10);
    tokio::spawn(serving.run(far));
    let mut text = String::new();
    tokio::time::timeout(LIMIT, near.read_to_string(&mut text))
        .await
        .expect("the log ends")
        .unwrap();
    Ok(text)
}

/// A command that runs.
pub(crate) struct Exec {
    pub(crate) stream: DuplexStream,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: Value,
}

impl Exec {
    pub(crate) async fn start(handle: &Handle, pod: &str, name: &str, command: &[&str], tty: bool) -> Self {
        let query = ExecQuery {
            of: container(pod, name),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            stdin: true,
            stdout: true,
            stderr: !tty,
            tty,
        };
        let Ok(serving) = handle.prepare(Target::Exec(query)).await else {
            panic!("container {name} of {pod} runs no command");
        };
        let (stream, far) = tokio::io::duplex(64 << 10);
        tokio::spawn(serving.run(far));
        Self { stream }
    }

    pub(crate) async fn send(&mut self, channel: Channel, payload: &[u8]) {
        self.stream.write_u8(channel as u8).await.unwrap();
        self.stream
            .write_u32(u32::try_from(payload.len()).unwrap())
            .await
            .unwrap();
        self.stream.write_all(payload).await.unwrap();
    }

    pub(crate) async fn close_stdin(&mut self) {
        self.send(Channel::Close, &[Channel::Stdin as u8]).await;
    }

    /// The next frame.
    pub(crate) async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let reading = async {
            let channel = self.stream.read_u8().await.ok()?;
            let length = self.stream.read_u32().await.ok()?;
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut payload).await.ok()?;
            Some((channel, payload))
        };
        tokio::time::timeout(LIMIT, reading)
            .await
            .expect("the command says something")
    }

    /// Reads to the end.
    pub(crate) async fn end(mut self) -> Ended {
        let (mut stdout, mut stderr, mut status) = (Vec::new(), Vec::new(), Value::Null);
        while let Some((channel, payload)) = self.frame().await {
            match Channel::try_from(channel).unwrap() {
                Channel::Stdout => stdout.extend(payload),
                Channel::Stderr => stderr.extend(payload),
                Channel::Error => status = serde_json::from_slice(&payload).unwrap(),
                other => panic!("unexpected channel {other:?}"),
            }
        }
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended {
            stdout: text(stdout),
            stderr: text(stderr),
            status,
        }
    }
}

/// Runs a command to its end and gives what it wrote.
pub(crate) async fn run(handle: &Handle, pod: &str, name: &str, command: &[&str]) -> String {
    let mut exec = Exec::start(handle, pod, name, command, false).await;
    exec.close_stdin().await;
    let ended = exec.end().await;
    assert_eq!(ended.status["status"], "Success", "{ended:?}");
    ended.stdout
}
