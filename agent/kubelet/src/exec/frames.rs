//! Frames of an exec stream: `[channel: u8][length: u32 big endian][payload]`.

use std::io;

use minidc_api::streams::Channel;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest payload taken; the API server passes on at most a mebibyte.
const LONGEST: u32 = 4 << 20;

/// A frame from the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) channel: u8,
    pub(super) payload: Vec<u8>,
}

/// `None` at a clean end.
pub(super) async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    let mut channel = [0];
    if reader.read(&mut channel).await? == 0 {
        return Ok(None);
    }
    let length = reader.read_u32().await?;
    if length > LONGEST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes is too long"),
        ));
    }
    let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    reader.read_exact(&mut payload).await?;
    Ok(Some(Frame {
        channel: channel[0],
        payload,
    }))
}

/// Writes one frame and sends it off.
pub(super) async fn write_frame(
    writer: &mut (impl AsyncWrite + Unpin),
    channel: Channel,
    payload: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(payload.len() + 5);
    bytes.push(channel as u8);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(payload);
    writer.write_all(&bytes).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_back_as_they_went() {
        let (mut one, mut other) = tokio::io::duplex(64);
        write_frame(&mut one, Channel::Stdout, b"hello").await.unwrap();
        drop(one);
        let frame = read_frame(&mut other).await.unwrap().unwrap();
        assert_eq!(
            frame,
            Frame {
                channel: 1,
                payload: b"hello".to_vec()
            }
        );
        assert_eq!(read_frame(&mut other).await.unwrap(), None);
        let mut long: &[u8] = &[0, 0xff, 0, 0, 0];
        assert!(read_frame(&mut long).await.is_err());
    }
}
