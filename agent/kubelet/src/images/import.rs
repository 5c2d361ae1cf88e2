//! One import: bytes in, names out.

use std::path::Path;
use std::process::Stdio;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// Piece of an archive in memory.
const PIECE: usize = 64 << 10;
/// Longest part of `ctr`'s complaint that is passed on.
const LONGEST_COMPLAINT: usize = 500;

/// Why an archive was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The control plane is away.
    #[error("fetch the image archive: the control plane is away")]
    Offline,
    /// The stream from the control plane broke.
    #[error("fetch the image archive: {0}")]
    Fetch(#[source] std::io::Error),
    /// containerd's own tool is missing.
    #[error("run ctr: {0}")]
    Start(#[source] std::io::Error),
    /// containerd did not take it.
    #[error("import the image archive: {0}")]
    Refused(String),
    /// The bytes are not those that the name promises.
    #[error("import the image archive: its checksum is sha256-{found}, not sha256-{expected}")]
    Damaged {
        /// By name.
        expected: String,
        /// By content.
        found: String,
    },
}

/// What the bytes of an archive must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    /// SHA-256 in hexadecimal digits.
    pub(crate) digest: &'a str,
    /// Length in bytes; zero when it is not known.
    pub(crate) size: u64,
}

/// Imports an archive and answers with the full names that it brought.
///
/// # Errors
/// See [`ImportError`].
pub(crate) async fn import(
    socket: &Path,
    mut archive: impl AsyncRead + Unpin,
    expected: Option<Expected<'_>>,
) -> Result<Vec<String>, ImportError> {
    let mut child = Command::new("ctr")
        .arg("--address")
        .arg(socket)
        .args(["--namespace", "k8s.io", "images", "import", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(ImportError::Start)?;
    let (Some(mut input), Some(mut output), Some(mut complaint)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(ImportError::Start(std::io::Error::other("no pipes to the child")));
    };
    let feed = async {
        let mut hash = Sha256::new();
        let mut received = 0;
        let mut piece = vec![0; PIECE];
        loop {
            let count = archive.read(&mut piece).await.map_err(ImportError::Fetch)?;
            if count == 0 {
                break;
            }
            received += count as u64;
            hash.update(&piece[..count]);
            if input.write_all(&piece[..count]).await.is_err() {
                // ctr has ended early; its exit code and complaint say why.
                return Ok(None);
            }
        }
        if expected.is_some_and(|expected| received < expected.size) {
            // A stream that was cut; the child ends with its input, and what it says of that is of no use.
            return Err(ImportError::Fetch(std::io::ErrorKind::UnexpectedEof.into()));
        }
        drop(input);
        Ok(Some(hash.finalize()))
    };
    let (mut said, mut complained) = (String::new(), String::new());
    let (fed, _, _) = tokio::join!(
        feed,
        output.read_to_string(&mut said),
        complaint.read_to_string(&mut complained)
    );
    // A stream that broke ends here, and the child with it.
    let fed = fed?;
    let status = child.wait().await.map_err(ImportError::Start)?;
    if !status.success() {
        let text = complained.trim().trim_start_matches("ctr: ");
        let start = (text.len().saturating_sub(LONGEST_COMPLAINT)..=text.len())
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        let text = &text[start..];
        return Err(ImportError::Refused(if text.is_empty() {
            format!("ctr ended with {status}")
        } else {
            text.to_owned()
        }));
    }
    if let (Some(Expected { digest, .. }), Some(hash)) = (expected, fed) {
        let found: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        if found != digest {
            return Err(ImportError::Damaged {
                expected: digest.to_owned(),
                found,
            });
        }
    }
    Ok(names(&said))
}

/// The names in what `ctr` says: `unpacking NAME (sha256:…)...done`.
fn names(said: &str) -> Vec<String> {
    let names = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("unpacking ")?.split_once(" (sha256:"));
    let mut names: Vec<String> = names.map(|(name, _)| name.to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_what_ctr_says() {
        let said =
            "unpacking minidc.local/web:1 (sha256:00ff)...done\nunpacking docker.io/library/a:2 (sha256:01)...done\n";
        assert_eq!(names(said), ["docker.io/library/a:2", "minidc.local/web:1"]);
        assert!(names("nothing").is_empty());
    }
}
