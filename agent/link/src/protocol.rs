//! What is said on the link: frames of at most [`MAX_FRAME`] bytes, `[length: u32 big endian][postcard]`.
//!
//! A connection begins with one [`Opening`] frame of the node, which carries the protocol version in a form that every
//! version can read. `Join` and `Renew` are answered by one [`OpeningReply`] and the connection ends. `Session` is
//! answered by an `OpeningReply` too; on `Session` both sides go on with yamux, the node opens the first stream
//! (the control stream: [`NodeFrame`] up, [`ServerFrame`] down), and either side opens more, each beginning
//! with a [`StreamOpen`] of who opened it and a reply.

use std::fmt;
use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use minidc_api::feed::Feed;
use minidc_api::metrics::NodeSample;
use minidc_api::streams::{StreamReply, Target};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::codec::LengthDelimitedCodec;
use uuid::Uuid;

use crate::Error;

/// Version of the protocol. Raised when a frame changes its meaning or shape; both sides must have the same.
pub const VERSION: u16 = 1;
/// Application protocol (ALPN) of the link.
pub const ALPN: &[u8] = b"minidc/1";
/// Longest frame in bytes once both sides know each other.
pub const MAX_FRAME: usize = 8 * 1024 * 1024;
/// Longest opening frame in bytes, from a peer that nobody knows yet.
pub const MAX_OPENING: usize = 16 * 1024;

/// First bytes of an opening frame; then the version as u16 big endian, then the postcard of an [`Opening`].
const MAGIC: &[u8; 4] = b"mdc\x01";

/// What a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opening {
    /// A new board asks to be a node. No client certificate.
    Join(Join),
    /// A node with a certificate, expired or not, asks for the next one.
    Renew {
        /// PKCS #10 request in DER; only its key is taken.
        request: Vec<u8>,
    },
    /// A node with a valid certificate begins its session.
    Session,
}

/// The request of a new board.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The token, as text.
    pub token: String,
    /// Name that the node wants.
    pub node: String,
    /// PKCS #10 request in DER; only its key is taken.
    pub request: Vec<u8>,
}

impl fmt::Debug for Join {
    /// Without the token, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Answer to an [`Opening`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpeningReply {
    /// The certificate that was asked for.
    Certificate {
        /// The certificate in DER.
        certificate: Vec<u8>,
        /// The control plane's clock in Unix milliseconds.
        wall_clock_ms: u64,
    },
    /// Go on with yamux.
    Session,
    /// No.
    Refused {
        /// Kind of refusal.
        code: RefusalCode,
        /// Reason for a person.
        reason: String,
    },
}

/// Kinds of refusal. New ones go at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefusalCode {
    /// The two sides speak different versions.
    Protocol,
    /// The token is not one of this cluster, or does not parse.
    Token,
    /// The token is too old.
    TokenExpired,
    /// The token was made for a node of another name.
    TokenOtherNode,
    /// Another key has shown this token before.
    TokenUsed,
    /// The server is of another cluster than the token or certificate (found by the node).
    ForeignCluster,
    /// A live node has this name.
    DuplicateName,
    /// A person has removed this node.
    Removed,
    /// Another board has taken this name since.
    Superseded,
    /// The certificate is expired; renew first.
    CertificateExpired,
    /// No certificate, or one that is not a node's.
    NotANode,
    /// The request makes no sense.
    Malformed,
    /// Too many failed attempts from this address.
    TooManyAttempts,
    /// Not now: the control plane is starting, stopping or overloaded.
    Unavailable,
    /// The session was ended in favour of a newer one of the same node.
    Replaced,
}

impl RefusalCode {
    /// A new attempt soon may well succeed; otherwise only a person can help, and attempts become rare.
    pub fn is_passing(self) -> bool {
        matches!(self, Self::Unavailable | Self::CertificateExpired | Self::Replaced)
    }

    /// The name in kebab case, for conditions and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Token => "token",
            Self::TokenExpired => "token-expired",
            Self::TokenOtherNode => "token-other-node",
            Self::TokenUsed => "token-used",
            Self::ForeignCluster => "foreign-cluster",
            Self::DuplicateName => "duplicate-name",
            Self::Removed => "removed",
            Self::Superseded => "superseded",
            Self::CertificateExpired => "certificate-expired",
            Self::NotANode => "not-a-node",
            Self::Malformed => "malformed",
            Self::TooManyAttempts => "too-many-attempts",
            Self::Unavailable => "unavailable",
            Self::Replaced => "replaced",
        }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a node says about itself when it comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Name of the node; must be the one in its certificate.
    pub node: String,
    /// Made anew at each start of the program: tells a redial from another program with the same card.
    pub instance: Uuid,
    /// The store and revision this node's desired state came from.
    pub store: Option<StoreId>,
    /// Facts for the Node object.
    pub facts: NodeFacts,
}

/// Facts about a board and its software, for the Node object. All texts as Kubernetes has them in `status.nodeInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// Serial number of the board, or what stands for it.
    pub system_uuid: String,
    /// `uname -r`.
    pub kernel_version: String,
    /// `PRETTY_NAME` of `/etc/os-release`.
    pub os_image: String,
    /// Version of this program.
    pub agent_version: String,
    /// For example `containerd://1.6.20`.
    pub container_runtime_version: String,
    /// As Go names it: `arm64`, `amd64`.
    pub architecture: String,
    /// Model of the board, for example `Raspberry Pi 4 Model B Rev 1.4`.
    pub board: String,
    /// Host name.
    pub hostname: String,
    /// Cores.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Bytes of the file system that holds pods.
    pub disk_bytes: u64,
    /// Most pods this node takes.
    pub max_pods: u32,
    /// Its addresses, the best first; without loopback, link-local and pod addresses.
    pub addresses: Vec<IpAddr>,
}

/// A state of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreId {
    /// The store's identity, made with it.
    pub identity: Uuid,
    /// Its revision.
    pub revision: u64,
}

/// A sign of life, once a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Counts up within a session.
    pub sequence: u64,
    /// What the node measured.
    pub sample: NodeSample,
    /// Name of the state that its LEDs show.
    pub led: String,
    /// The node met a store it does not know and waits for `minidc node adopt`.
    pub foreign_store: bool,
}

/// A call of the node to the Kubernetes API, executed as `system:node:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiRequest {
    /// Chosen by the node; comes back in the response.
    pub id: u64,
    /// `GET`, `PATCH`, …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Media type of the body; empty when there is none.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

/// The answer to an [`ApiRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiResponse {
    /// Id of the request.
    pub id: u64,
    /// HTTP status code.
    pub status: u16,
    /// The body: an object or a `Status`, as JSON.
    pub body: Vec<u8>,
}

/// Node to server, on the control stream. The first is `Hello`, and it comes once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NodeFrame {
    /// Who is there.
    Hello(Box<Hello>),
    /// Still there.
    Heartbeat(Box<Heartbeat>),
    /// A call to the API.
    Request(ApiRequest),
    /// A new certificate is wanted for this PKCS #10 request (DER).
    Renew {
        /// The request.
        request: Vec<u8>,
    },
    /// The renewed certificate is safe on the node's disk: the key before it may be forgotten.
    Renewed,
    /// The node ends the session on purpose.
    Bye {
        /// Reason for a person.
        reason: String,
    },
}

/// Server to node, on the control stream. The first is `Welcome` or `Refused`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerFrame {
    /// The hello was accepted.
    Welcome(Welcome),
    /// The session is over.
    Refused {
        /// Kind of refusal.
        code: RefusalCode,
        /// Reason for a person.
        reason: String,
    },
    /// An element of the node's feed.
    Feed(Feed),
    /// Answer to a request.
    Response(ApiResponse),
    /// A heartbeat arrived.
    Acknowledged {
        /// Its sequence.
        sequence: u64,
        /// The control plane's clock in Unix milliseconds.
        wall_clock_ms: u64,
    },
    /// The renewed certificate in DER.
    Certificate {
        /// The certificate.
        certificate: Vec<u8>,
    },
    /// Something to do.
    Command(Command),
}

/// The server's side of the greeting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Name of the cluster.
    pub cluster: String,
    /// Its store, and the revision it is at.
    pub store: StoreId,
    /// The control plane's clock in Unix milliseconds.
    pub wall_clock_ms: u64,
    /// Time between heartbeats in milliseconds.
    pub heartbeat_ms: u32,
}

/// Something the control plane wants a node to do now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Blink so that a person finds the board; 0 stops it.
    Locate {
        /// For how long.
        seconds: u32,
    },
    /// Take this store for the right one from now on.
    Adopt,
    /// Stop what runs, then reboot.
    Reboot,
}

/// First frame on every stream after the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamOpen {
    /// Server to node: logs, exec. Answered by a [`StreamReply`].
    Target(Target),
    /// Node to server: the archive of an image. Answered by an [`ArchiveReply`].
    ImageArchive {
        /// Name of the Image object.
        name: String,
    },
}

/// Answer to [`StreamOpen::ImageArchive`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArchiveReply {
    /// So many bytes follow.
    Ready {
        /// Length of the archive.
        size: u64,
    },
    /// Not possible.
    Refused {
        /// HTTP status code.
        code: u16,
        /// What went wrong.
        message: String,
    },
}

/// The postcard of a frame.
pub fn encode<T: Serialize>(frame: &T) -> Result<Vec<u8>, Error> {
    postcard::to_stdvec(frame).map_err(|error| Error::protocol("encode a frame", error))
}

/// Reads the postcard of a frame; bytes left over are an error.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    match postcard::take_from_bytes(bytes) {
        Ok((frame, [])) => Ok(frame),
        Ok((_, rest)) => Err(Error::protocol(
            "decode a frame",
            format_args!("{} bytes too many", rest.len()),
        )),
        Err(error) => Err(Error::protocol("decode a frame", error)),
    }
}

/// An opening frame with magic and version.
pub fn encode_opening(opening: &Opening) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend(encode(opening)?);
    Ok(bytes)
}

/// Reads an opening frame; the error is what to answer with.
pub fn decode_opening(bytes: &[u8]) -> Result<Opening, (RefusalCode, String)> {
    let Some((magic, rest)) = bytes.split_at_checked(MAGIC.len()) else {
        return Err((RefusalCode::Malformed, "the opening frame is cut short".into()));
    };
    if magic != MAGIC {
        return Err((RefusalCode::Malformed, "the opening frame is not one of minidc".into()));
    }
    let Some((version, rest)) = rest.split_first_chunk::<2>() else {
        return Err((RefusalCode::Malformed, "the opening frame is cut short".into()));
    };
    let version = u16::from_be_bytes(*version);
    if version != VERSION {
        return Err((
            RefusalCode::Protocol,
            format!("the node speaks version {version} of the link, this control plane version {VERSION}"),
        ));
    }
    decode(rest).map_err(|error| (RefusalCode::Malformed, error.to_string()))
}

/// Codec for the length prefix, which refuses frames over `limit` before it reads them.
pub fn codec(limit: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .length_field_type::<u32>()
        .max_frame_length(limit)
        .new_codec()
}

/// Writes one encoded frame and flushes.
pub async fn write_frame<W: AsyncWrite + Unpin>(io: &mut W, frame: &[u8]) -> Result<(), Error> {
    let length = u32::try_from(frame.len())
        .ok()
        .filter(|length| *length as usize <= MAX_FRAME)
        .ok_or_else(|| {
            Error::protocol(
                "write a frame",
                format_args!("{} bytes are more than {MAX_FRAME}", frame.len()),
            )
        })?;
    let write = async {
        io.write_all(&length.to_be_bytes()).await?;
        io.write_all(frame).await?;
        io.flush().await
    };
    write.await.map_err(|error| Error::protocol("write a frame", error))
}

/// Reads one frame of at most `limit` bytes. Not cancel safe: for openings and replies only.
pub async fn read_frame<R: AsyncRead + Unpin>(io: &mut R, limit: usize) -> Result<Bytes, Error> {
    let broken = |error: std::io::Error| Error::protocol("read a frame", error);
    let length = io.read_u32().await.map_err(broken)? as usize;
    if length > limit {
        return Err(Error::protocol(
            "read a frame",
            format_args!("{length} bytes are more than {limit}"),
        ));
    }
    // Grown as bytes come: a peer that announces much and sends nothing costs nothing.
    let mut bytes = BytesMut::with_capacity(length.min(8192));
    let mut limited = io.take(length as u64);
    while bytes.len() < length {
        if limited.read_buf(&mut bytes).await.map_err(broken)? == 0 {
            return Err(Error::protocol("read a frame", "the stream ended within it"));
        }
    }
    Ok(bytes.freeze())
}

/// Reads the reply on a stream opened for a target.
pub(crate) async fn read_stream_reply<R: AsyncRead + Unpin>(io: &mut R) -> Result<StreamReply, Error> {
    decode(&read_frame(io, MAX_OPENING).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator, so that failures repeat.
    struct Noise(u64);
    impl Noise {
        fn next(&mut self) -> u64 {
            // https://prng.di.unimi.it/splitmix64.c
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
    }

    #[test]
    fn a_heartbeat_without_pods_is_under_a_hundred_bytes() {
        let sample = NodeSample {
            window_ms: 1_000,
            cpu_nanocores: 250_000_000,
            memory_bytes: 300 << 20,
            memory_available_bytes: 600 << 20,
            disk_used_bytes: 4 << 30,
            disk_size_bytes: 32 << 30,
            network_received_per_second: 5_000,
            network_sent_per_second: 5_000,
            temperature_millicelsius: Some(52_300),
            load_hundredths: 35,
            pods: Vec::new(),
        };
        let heartbeat = Heartbeat {
            sequence: 86_400,
            sample,
            led: "ready".into(),
            foreign_store: false,
        };
        let bytes = encode(&NodeFrame::Heartbeat(Box::new(heartbeat))).unwrap();
        println!("{} bytes", bytes.len());
        assert!(bytes.len() < 100, "{} bytes", bytes.len());
    }

    fn samples() -> Vec<Vec<u8>> {
        let hello = Hello {
            node: "pi-2".into(),
            instance: Uuid::from_u128(7),
            store: Some(StoreId {
                identity: Uuid::from_u128(9),
                revision: 12,
            }),
            facts: NodeFacts {
                addresses: vec!["10.0.0.2".parse().unwrap()],
                ..NodeFacts::default()
            },
        };
        let heartbeat = Heartbeat {
            sequence: 3,
            sample: NodeSample::default(),
            led: "ready".into(),
            foreign_store: false,
        };
        vec![
            encode(&NodeFrame::Hello(Box::new(hello))).unwrap(),
            encode(&NodeFrame::Heartbeat(Box::new(heartbeat))).unwrap(),
            encode(&NodeFrame::Renew { request: vec![1; 300] }).unwrap(),
            encode(&ServerFrame::Feed(Feed::End { revision: 5 })).unwrap(),
            encode(&ServerFrame::Refused {
                code: RefusalCode::Removed,
                reason: "x".into(),
            })
            .unwrap(),
            encode_opening(&Opening::Session).unwrap(),
        ]
    }

    #[test]
    fn no_bytes_make_the_decoder_panic() {
        let mut noise = Noise(1);
        for sample in samples() {
            for round in 0..2000 {
                let mut bytes = sample.clone();
                for _ in 0..=round % 4 {
                    let at = usize::try_from(noise.next()).unwrap_or(usize::MAX) % bytes.len();
                    bytes[at] = noise.next().to_le_bytes()[0];
                }
                bytes.truncate(1 + usize::try_from(noise.next() >> 1).unwrap() % bytes.len());
                let _ = decode::<NodeFrame>(&bytes);
                let _ = decode::<ServerFrame>(&bytes);
                let _ = decode::<StreamOpen>(&bytes);
                let _ = decode_opening(&bytes);
            }
        }
    }

    #[test]
    fn frame_with_a_tail_is_refused() {
        let mut bytes = encode(&NodeFrame::Renewed).unwrap();
        assert!(decode::<NodeFrame>(&bytes).is_ok());
        bytes.push(0);
        assert!(
            decode::<NodeFrame>(&bytes)
                .unwrap_err()
                .to_string()
                .contains("1 bytes too many")
        );
    }

    #[test]
    fn another_version_is_told_so() {
        let mut bytes = encode_opening(&Opening::Session).unwrap();
        assert_eq!(decode_opening(&bytes), Ok(Opening::Session));
        bytes[5] = 9;
        let (code, reason) = decode_opening(&bytes).unwrap_err();
        assert_eq!(code, RefusalCode::Protocol);
        assert!(reason.contains("version 9"), "{reason}");
        assert_eq!(decode_opening(b"GET / HTTP/1.1").unwrap_err().0, RefusalCode::Malformed);
        assert_eq!(decode_opening(b"").unwrap_err().0, RefusalCode::Malformed);
    }

    #[tokio::test]
    async fn oversized_and_broken_frames_are_errors() {
        let mut huge = &[0xff, 0xff, 0xff, 0xff, 1, 2, 3][..];
        let error = read_frame(&mut huge, MAX_OPENING).await.unwrap_err();
        assert!(error.to_string().contains("more than 16384"), "{error}");
        let mut short = &[0, 0, 0, 9, 1, 2, 3][..];
        let error = read_frame(&mut short, MAX_OPENING).await.unwrap_err();
        assert!(error.to_string().contains("ended within"), "{error}");
        let error = write_frame(&mut Vec::new(), &vec![0; MAX_FRAME + 1]).await.unwrap_err();
        assert!(error.to_string().contains("are more than"), "{error}");
    }

    #[test]
    fn heartbeat_is_small() {
        let sample = NodeSample {
            cpu_nanocores: 123_456_789,
            memory_bytes: 400 << 20,
            ..NodeSample::default()
        };
        let frame = NodeFrame::Heartbeat(Box::new(Heartbeat {
            sequence: 86_400,
            sample,
            led: "ready".into(),
            foreign_store: false,
        }));
        let length = encode(&frame).unwrap().len();
        assert!(length < 64, "{length} bytes");
    }
}
