//! What the control plane asks of a node on a stream of its own: logs and exec.
//!
//! The same types travel from the API server through the link to the kubelet, so they live where all three can see them.

use serde::{Deserialize, Serialize};

/// One thing a bulk stream can be opened for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The log of one container; after the reply the node writes plain bytes and closes.
    Logs(LogQuery),
    /// A command in one container; after the reply both sides speak [`Channel`] frames.
    Exec(ExecQuery),
}

/// Which container of which pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRef {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod, so that a new pod of the same name is never read by mistake.
    pub uid: String,
    /// Name of the container.
    pub container: String,
}

/// The options of `GET …/pods/NAME/log`, already checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogQuery {
    /// The container.
    pub of: ContainerRef,
    /// Keep the stream open and send what is written next.
    pub follow: bool,
    /// The instance before the last restart.
    pub previous: bool,
    /// Prefix each line with its RFC 3339 time.
    pub timestamps: bool,
    /// Only the last so many lines.
    pub tail_lines: Option<u64>,
    /// Only lines of the last so many seconds.
    pub since_seconds: Option<u64>,
    /// Only lines at or after this RFC 3339 time.
    pub since_time: Option<String>,
    /// Stop after so many bytes.
    pub limit_bytes: Option<u64>,
}

/// The options of `…/pods/NAME/exec`, already checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecQuery {
    /// The container.
    pub of: ContainerRef,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The client will send standard input.
    pub stdin: bool,
    /// The client wants standard output.
    pub stdout: bool,
    /// The client wants standard error (never together with `tty`).
    pub stderr: bool,
    /// Give the command a terminal.
    pub tty: bool,
}

/// The node's first frame on a stream it was asked to serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamReply {
    /// The stream follows.
    Ready,
    /// Not possible: an HTTP status code and a sentence for the user.
    Refused {
        /// HTTP status code that the API server answers with.
        code: u16,
        /// What went wrong, with the object named.
        message: String,
    },
}

/// Channel numbers of an exec stream; those of Kubernetes' `v5.channel.k8s.io`, so that a WebSocket message maps to
/// one frame: `[channel: u8][length: u32 big endian][payload]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Channel {
    /// Client to command.
    Stdin = 0,
    /// Command to client.
    Stdout = 1,
    /// Command to client.
    Stderr = 2,
    /// A `Status` object as JSON; the last frame of the stream.
    Error = 3,
    /// `{"Width":80,"Height":24}` from the client.
    Resize = 4,
    /// The payload is one byte: the channel that its sender closes.
    Close = 255,
}

impl TryFrom<u8> for Channel {
    type Error = u8;
    fn try_from(number: u8) -> Result<Self, u8> {
        Ok(match number {
            0 => Self::Stdin,
            1 => Self::Stdout,
            2 => Self::Stderr,
            3 => Self::Error,
            4 => Self::Resize,
            255 => Self::Close,
            other => return Err(other),
        })
    }
}
