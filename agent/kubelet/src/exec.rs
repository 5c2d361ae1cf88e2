//! Commands in running containers, through containerd's own task service.
//!
//! CRI's streaming server of containerd 1.6 cannot end standard input alone over WebSocket, so it is not used: the
//! command is a process added to the container's task, its streams are FIFOs that the shim opens.

mod fifos;
mod frames;
mod process;

use minidc_api::streams::{Channel, ExecQuery};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use fifos::Fifos;
use frames::{Frame, read_frame, write_frame};
use process::{Process, Tasks};

/// Piece of output in memory, and in one frame.
const PIECE: usize = 16 << 10;
/// Frames of the client that may wait for a command that does not read.
const WAITING: usize = 2;
/// How long output may be silent after the command has ended: something it started may hold the streams open for ever.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(2);

/// A session that can be served.
pub(crate) struct Session {
    tasks: Tasks,
    container: String,
    query: ExecQuery,
    run: std::path::PathBuf,
}

impl Session {
    /// `container` runs; FIFOs are made below `run`.
    pub(crate) fn new(
        channel: tonic::transport::Channel,
        container: String,
        query: ExecQuery,
        run: std::path::PathBuf,
    ) -> Self {
        Self {
            tasks: Tasks::new(channel),
            container,
            query,
            run,
        }
    }

    /// Runs the command until it ends or the client is gone.
    pub(crate) async fn run(self, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let (reader, mut writer) = tokio::io::split(io);
        let status = match self.serve(reader, &mut writer).await {
            Ok(Some(code)) => exit_status(code),
            Ok(None) => return,
            Err(message) => internal_error(&message),
        };
        // A client that is gone needs no answer.
        let _ = write_frame(&mut writer, Channel::Error, status.to_string().as_bytes()).await;
        let _ = writer.shutdown().await;
    }

    /// The exit code; `None` when the client is gone.
    async fn serve<I>(&self, reader: ReadHalf<I>, writer: &mut WriteHalf<I>) -> Result<Option<u32>, String>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let ExecQuery {
            command,
            stdin,
            stdout,
            stderr,
            tty,
            ..
        } = &self.query;
        let fifos = Fifos::make(&self.run, *stdin, *stdout, *stderr && !*tty)
            .map_err(|error| format!("make the pipes of the command: {error}"))?;
        let spec = self.tasks.process_spec(&self.container, command, *tty).await?;
        let mut output = fifos
            .output()
            .map_err(|error| format!("open the pipes of the command: {error}"))?;
        let input = fifos
            .input()
            .map_err(|error| format!("open the pipes of the command: {error}"))?;
        let process = self.tasks.start(&self.container, &fifos, spec, *tty).await?;

        let gone = CancellationToken::new();
        let (sender, receiver) = mpsc::channel(WAITING);
        let reading = tokio::spawn(read_client(reader, sender, gone.clone()));
        let feeding = tokio::spawn(feed(receiver, input, process.clone()));
        let ended = tokio::select! {
            ended = relay(&process, &mut output, writer) => ended,
            () = gone.cancelled() => Ok(None),
        };
        if !matches!(ended, Ok(Some(_))) {
            process.end().await;
        }
        reading.abort();
        feeding.abort();
        process.delete().await;
        ended
    }
}

/// The streams of the command that are read here.
struct Output {
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

/// Frames from the client, as they come; a client that is gone is noticed while a command does not read.
async fn read_client<I: AsyncRead + AsyncWrite>(
    mut reader: ReadHalf<I>,
    sender: mpsc::Sender<Frame>,
    gone: CancellationToken,
) {
    while let Ok(Some(frame)) = read_frame(&mut reader).await {
        if sender.send(frame).await.is_err() {
            break;
        }
    }
    gone.cancel();
}

/// Gives the client's frames to the command.
async fn feed(mut frames: mpsc::Receiver<Frame>, input: Option<pipe::Sender>, process: Process) {
    let mut input = input;
    while let Some(Frame { channel, payload }) = frames.recv().await {
        match Channel::try_from(channel) {
            Ok(Channel::Stdin) => {
                if let Some(pipe) = &mut input
                    && pipe.write_all(&payload).await.is_err()
                {
                    input = None;
                }
            }
            Ok(Channel::Resize) => {
                let size: Value = serde_json::from_slice(&payload).unwrap_or_default();
                let side = |name: &str| size[name].as_u64().and_then(|side| u32::try_from(side).ok());
                if let (Some(width), Some(height)) = (side("Width"), side("Height")) {
                    process.resize(width, height).await;
                }
            }
            Ok(Channel::Close) if payload.first() == Some(&(Channel::Stdin as u8)) => {
                input = None;
                process.close_stdin().await;
            }
            _ => {}
        }
    }
    // Kept open until the session ends: only the client's word closes standard input.
    std::future::pending::<()>().await;
    drop(input);
}

/// Output to the client, until the command has ended and has said all.
async fn relay<I>(process: &Process, output: &mut Output, writer: &mut WriteHalf<I>) -> Result<Option<u32>, String>
where
    I: AsyncRead + AsyncWrite,
{
    let waiting = process.wait();
    tokio::pin!(waiting);
    let mut code = None;
    let (mut out_piece, mut err_piece) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let open = output.stdout.is_some() || output.stderr.is_some();
        if let (Some(code), false) = (code, open) {
            return Ok(Some(code));
        }
        let (channel, read) = tokio::select! {
            result = &mut waiting, if code.is_none() => {
                code = Some(result?);
                continue;
            }
            read = read_some(&mut output.stdout, &mut out_piece) => (Channel::Stdout, read),
            read = read_some(&mut output.stderr, &mut err_piece) => (Channel::Stderr, read),
            () = tokio::time::sleep(LAST_WORDS), if code.is_some() => return Ok(code),
        };
        let (stream, piece) = match channel {
            Channel::Stderr => (&mut output.stderr, &err_piece),
            _ => (&mut output.stdout, &out_piece),
        };
        match read {
            0 => *stream = None,
            count => {
                if write_frame(writer, channel, &piece[..count]).await.is_err() {
                    return Ok(None);
                }
            }
        }
    }
}

/// Zero at the end of the stream; never for one that is not there.
async fn read_some(stream: &mut Option<pipe::Receiver>, piece: &mut [u8]) -> usize {
    match stream {
        Some(stream) => stream.read(piece).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

/// As Kubernetes says how a command ended.
fn exit_status(code: u32) -> Value {
    if code == 0 {
        return json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    }
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

fn internal_error(message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("Internal error occurred: error executing command in container: {message}"),
        "reason": "InternalError", "code": 500,
        "details": {"causes": [{"message": format!("error executing command in container: {message}")}]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_told_as_kubernetes_does() {
        assert_eq!(exit_status(0)["status"], "Success");
        let failed = exit_status(3);
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(
            failed["details"]["causes"],
            json!([{"reason": "ExitCode", "message": "3"}])
        );
        assert_eq!(
            failed["message"],
            "command terminated with non-zero exit code: exit status 3"
        );
    }
}
