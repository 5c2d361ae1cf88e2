//! `images/archive`: takes an image archive in, checks it while it streams to the disk, and makes or completes its
//! `Image` object. The body is raw bytes, not an object, and has no size limit but the disk's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::response::Response;
use http::{StatusCode, header};
use http_body_util::BodyExt;
use minidc_api::status::Status;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::call::Call;
use crate::create;
use crate::error::{self, Failure};
use crate::respond;
use crate::strategy::Reach;
use crate::update;

/// Uploads at once; each holds a file on the disk.
pub(crate) const UPLOADS: usize = 2;
/// Start of the names of files that are being written.
const PARTIAL: &str = ".upload-";
/// Disk space that uploads leave for everything else: the store must always be able to write.
const RESERVE: u64 = 64 << 20;
/// How many bytes are written between two looks at the free space.
const LOOK_EVERY: u64 = 8 << 20;

/// Where the archive of an image lies, by the name of its object.
pub(crate) fn file(images: &Path, name: &str) -> PathBuf {
    images.join(format!("{name}.tar"))
}

/// Makes the directory and removes what uploads left that a power cut ended.
pub(crate) fn prepare(images: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(images)?;
    for entry in std::fs::read_dir(images)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The digest in an image's name, `sha256-<64 hex digits>`.
fn digest_of(name: &str) -> Option<&str> {
    let digest = name.strip_prefix("sha256-")?;
    let hex = digest
        .bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    (digest.len() == 64 && hex).then_some(digest)
}

/// `update` (PUT).
pub(crate) async fn upload(call: &mut Call, body: Body) -> Result<Response, Failure> {
    let shape = call.shape()?;
    let Some(digest) = digest_of(&call.name).map(str::to_owned) else {
        let message = format!(
            "the name of an image is sha256-<digest in lower-case hex>, not {:?}",
            call.name
        );
        return Err(Status::bad_request(message).into());
    };
    let server = std::sync::Arc::clone(&call.server);
    let Ok(_place) = server.uploads.try_acquire() else {
        return Err(
            Status::too_many_requests("other image archives are being uploaded, please try again later", 5).into(),
        );
    };
    let references: BTreeSet<String> = call
        .query
        .all("references")
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .filter(|reference| !reference.is_empty())
        .map(str::to_owned)
        .collect();
    let images = call.server.options.images.clone();
    let target = file(&images, &call.name);
    let announced = call
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    let size = if let Some(size) = present(&target).await {
        // The name is the content's digest: what lies there is what is being sent. The body is read all the same, since a
        // client that is answered early may take that for a failure.
        discard(body).await?;
        size
    } else {
        let mut partial = Partial::create(&images).await?;
        let size = receive(&images, &mut partial, body, announced, &digest).await?;
        partial.keep_as(&target).await.map_err(|error| disk(&images, &error))?;
        size
    };
    let (entry, code) = record(call, size, &references).await?;
    respond::entry(call.kind, &entry, shape, code)
}

async fn present(path: &Path) -> Option<u64> {
    tokio::fs::metadata(path)
        .await
        .ok()
        .filter(std::fs::Metadata::is_file)
        .map(|metadata| metadata.len())
}

async fn discard(mut body: Body) -> Result<(), Failure> {
    while let Some(frame) = body.frame().await {
        frame.map_err(|error| broken(&error))?;
    }
    Ok(())
}

fn broken(error: &axum::Error) -> Failure {
    Status::bad_request(format!("read the image archive: {error}")).into()
}

/// Bytes that uploads may still use on the file system of a directory.
fn free(directory: &Path) -> std::io::Result<u64> {
    let system = nix::sys::statvfs::statvfs(directory).map_err(std::io::Error::from)?;
    let free = system.blocks_available().saturating_mul(system.fragment_size());
    Ok(free.saturating_sub(RESERVE))
}

/// An error of the file system; a full disk is the client's to know, the rest is ours.
fn disk(images: &Path, error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::StorageFull || error.kind() == std::io::ErrorKind::QuotaExceeded {
        return error::disk_full(0, free(images).unwrap_or(0));
    }
    Status::internal(format!("write the image archive: {error}")).into()
}

/// Streams the body into the file; the answer is its length.
async fn receive(
    images: &Path,
    partial: &mut Partial,
    mut body: Body,
    announced: Option<u64>,
    digest: &str,
) -> Result<u64, Failure> {
    let room = free(images).map_err(|error| disk(images, &error))?;
    if let Some(announced) = announced.filter(|announced| *announced > room) {
        return Err(error::disk_full(announced, room));
    }
    let mut hash = Sha256::new();
    let (mut size, mut looked) = (0_u64, 0_u64);
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(|error| broken(&error))?.into_data() else {
            continue;
        };
        size += bytes.len() as u64;
        if size - looked >= LOOK_EVERY {
            looked = size;
            let room = free(images).map_err(|error| disk(images, &error))?;
            if room < LOOK_EVERY {
                return Err(error::disk_full(size, room));
            }
        }
        hash.update(&bytes);
        partial
            .file
            .write_all(&bytes)
            .await
            .map_err(|error| disk(images, &error))?;
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found != digest {
        let message =
            format!("the image archive is not what its name says: expected sha256-{digest}, received sha256-{found}");
        return Err(Status::bad_request(message).into());
    }
    Ok(size)
}

/// A file that is being written; removed unless it is kept.
struct Partial {
    file: tokio::fs::File,
    path: PathBuf,
    kept: bool,
}

impl Partial {
    async fn create(images: &Path) -> Result<Self, Failure> {
        let path = images.join(format!("{PARTIAL}{}", uuid::Uuid::new_v4()));
        let file = tokio::fs::File::create_new(&path)
            .await
            .map_err(|error| disk(images, &error))?;
        Ok(Self {
            file,
            path,
            kept: false,
        })
    }

    /// Makes the file durable under its name.
    async fn keep_as(mut self, target: &Path) -> std::io::Result<()> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        tokio::fs::rename(&self.path, target).await?;
        self.kept = true;
        if let Some(directory) = target.parent() {
            tokio::fs::File::open(directory).await?.sync_all().await?;
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            // Also when the client went away in the middle and this future was dropped.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Makes the object, or adds the references to the one that is there.
async fn record(
    call: &mut Call,
    size: u64,
    references: &BTreeSet<String>,
) -> Result<(minidc_store::Entry, StatusCode), Failure> {
    if call.server.store.get(&call.key()).is_none() {
        let object = json!({
            "apiVersion": call.kind.api_version(), "kind": call.kind.kind,
            "metadata": {"name": call.name},
            "spec": {"size": size, "references": references},
        });
        match create::create_object(call, object).await {
            Ok(entry) => return Ok((entry, StatusCode::CREATED)),
            Err(failure) if failure.code() == 409 => {}
            Err(failure) => return Err(failure),
        }
    }
    let entry = update::modify(call, Reach::Main, |mut object| {
        let known = object["spec"]["references"].as_array().cloned().unwrap_or_default();
        let mut all: BTreeSet<String> = known.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        all.extend(references.iter().cloned());
        object["spec"]["size"] = size.into();
        object["spec"]["references"] = json!(all);
        Ok(object)
    })
    .await?;
    Ok((entry, StatusCode::OK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digests_are_names_of_images() {
        assert!(digest_of(&format!("sha256-{}", "a".repeat(64))).is_some());
        for name in [
            "sha256-abc".to_owned(),
            format!("sha256-{}", "A".repeat(64)),
            format!("sha512-{}", "a".repeat(64)),
        ] {
            assert_eq!(digest_of(&name), None, "{name}");
        }
    }
}
