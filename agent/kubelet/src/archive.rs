//! Image archives: written from local files without any container tool, and read for the names they bring.
//!
//! What is written is an OCI image layout in a tar with one uncompressed layer. The same input gives the same bytes:
//! all times are the epoch, all owners are root, entries come in the order given.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// Longest `index.json` or `manifest.json` that is read, in bytes; real ones are a few kilobytes.
const LONGEST_INDEX: u64 = 4 << 20;

/// An entry of the image's only layer.
#[derive(Clone, Debug)]
pub struct File {
    path: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Regular { mode: u32, data: Vec<u8> },
    Link { target: String },
}

impl File {
    /// A file that may be run (mode 0755).
    #[must_use]
    pub fn program(path: impl Into<String>, data: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            kind: Kind::Regular {
                mode: 0o755,
                data: data.into(),
            },
        }
    }

    /// A file that may be read (mode 0644).
    #[must_use]
    pub fn data(path: impl Into<String>, data: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            kind: Kind::Regular {
                mode: 0o644,
                data: data.into(),
            },
        }
    }

    /// A symbolic link.
    #[must_use]
    pub fn link(path: impl Into<String>, target: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            kind: Kind::Link { target: target.into() },
        }
    }
}

/// Makes the archive of an image of one layer.
#[derive(Clone, Debug)]
pub struct ImageBuilder {
    name: String,
    architecture: &'static str,
    entrypoint: Vec<String>,
    command: Vec<String>,
    environment: Vec<String>,
    files: Vec<File>,
}

impl ImageBuilder {
    /// An image called `name` (with tag) for the architecture of this program.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            architecture: architecture(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            environment: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()],
            files: Vec::new(),
        }
    }

    /// The architecture in Go's words (`amd64`, `arm64`), when it is not this program's own.
    #[must_use]
    pub fn architecture(mut self, architecture: &'static str) -> Self {
        self.architecture = architecture;
        self
    }

    /// What runs when the pod gives no command.
    #[must_use]
    pub fn entrypoint<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// The arguments used when the pod gives none.
    #[must_use]
    pub fn command<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.command = words.into_iter().map(Into::into).collect();
        self
    }

    /// One more `NAME=value`.
    #[must_use]
    pub fn environment(mut self, assignment: impl Into<String>) -> Self {
        self.environment.push(assignment.into());
        self
    }

    /// One more file; the folders above it are made.
    #[must_use]
    pub fn file(mut self, file: File) -> Self {
        self.files.push(file);
        self
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// Those of `out`, and a path that does not fit a tar header.
    pub fn write_to(&self, out: impl Write) -> io::Result<()> {
        // The layer is written twice: once to learn its digest and length, once into the archive, so that it is never
        // held in memory beside the files it is made of.
        let mut measure = Measure::default();
        self.write_layer(&mut measure)?;
        let (layer_digest, layer_length) = measure.finish();

        let mut config = json!({
            "architecture": self.architecture, "os": "linux",
            "config": {"Env": self.environment},
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
            "history": [{"created_by": "minidc"}],
        });
        if !self.entrypoint.is_empty() {
            config["config"]["Entrypoint"] = json!(self.entrypoint);
        }
        if !self.command.is_empty() {
            config["config"]["Cmd"] = json!(self.command);
        }
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer_length}],
        })
        .to_string()
        .into_bytes();
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(&manifest), "size": manifest.len(),
                "platform": {"architecture": self.architecture, "os": "linux"},
                "annotations": {"io.containerd.image.name": self.name},
            }],
        })
        .to_string()
        .into_bytes();

        let mut archive = tar::Builder::new(out);
        append(&mut archive, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut archive, "index.json", 0o644, &index)?;
        append(&mut archive, &blob_path(&digest(&manifest)), 0o644, &manifest)?;
        append(&mut archive, &blob_path(&digest(&config)), 0o644, &config)?;
        let mut header = header(EntryType::Regular, 0o644, layer_length);
        header.set_path(blob_path(&layer_digest))?;
        header.set_cksum();
        let out = archive.get_mut();
        out.write_all(header.as_bytes())?;
        self.write_layer(&mut *out)?;
        // A tar's length is a multiple of its block size, so the layer needs no padding.
        archive.finish()?;
        archive.into_inner()?.flush()
    }

    fn write_layer(&self, out: impl Write) -> io::Result<()> {
        let mut layer = tar::Builder::new(out);
        let mut made = BTreeSet::new();
        // Mount points that runc wants to find or else has to make in every container.
        for path in ["dev", "etc", "proc", "sys", "tmp"] {
            folder(&mut layer, &mut made, path)?;
        }
        for file in &self.files {
            let path = file.path.trim_start_matches('/');
            if let Some((parent, _)) = path.rsplit_once('/') {
                folder(&mut layer, &mut made, parent)?;
            }
            match &file.kind {
                Kind::Regular { mode, data } => append(&mut layer, path, *mode, data)?,
                Kind::Link { target } => {
                    layer.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)?;
                }
            }
        }
        layer.finish()
    }
}

/// Go's word for the architecture that this program was built for.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append(archive: &mut tar::Builder<impl Write>, path: &str, mode: u32, data: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(EntryType::Regular, mode, data.len() as u64), path, data)
}

fn folder(layer: &mut tar::Builder<impl Write>, made: &mut BTreeSet<String>, path: &str) -> io::Result<()> {
    if path.is_empty() || !made.insert(path.to_owned()) {
        return Ok(());
    }
    if let Some((parent, _)) = path.rsplit_once('/') {
        folder(layer, made, parent)?;
    }
    let mode = if path == "tmp" { 0o1777 } else { 0o755 };
    layer.append_data(
        &mut header(EntryType::Directory, mode, 0),
        format!("{path}/"),
        io::empty(),
    )
}

fn digest(data: &[u8]) -> String {
    hex(&Sha256::digest(data))
}

fn hex(hash: &[u8]) -> String {
    use std::fmt::Write as _;
    hash.iter().fold(String::from("sha256:"), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The system's own errors carry its number, the tar parser's do not.
fn unreadable(error: io::Error) -> ArchiveError {
    match error.raw_os_error() {
        Some(_) => ArchiveError::Unreadable(error),
        None => ArchiveError::NotTar,
    }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// Counts and hashes what is written to it.
#[derive(Default)]
struct Measure {
    hash: Sha256,
    length: u64,
}

impl Measure {
    fn finish(self) -> (String, u64) {
        (hex(&self.hash.finalize()), self.length)
    }
}

impl Write for Measure {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.hash.update(data);
        self.length += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why a file is not an image archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file cannot be read.
    #[error("read the archive")]
    Unreadable(#[source] io::Error),
    /// The file is not a tar. What the parser says of it is not passed on: it quotes the file, which may be anything.
    #[error("read the archive: it is not a tar file, or it is damaged or cut short")]
    NotTar,
    /// gzip, zstd and the like; containerd reads plain tars.
    #[error("read the archive: it is compressed with {0}; unpack it first")]
    Compressed(&'static str),
    /// A tar, but neither layout is in it.
    #[error("read the archive: it has neither index.json (OCI) nor manifest.json (docker save), so it is not an image")]
    NotImage,
    /// An index that is not what the format says.
    #[error("read {file} of the archive: it is not the JSON that an image archive has there")]
    BadIndex {
        /// Name of the file in the archive.
        file: &'static str,
        /// What the JSON parser says.
        #[source]
        source: serde_json::Error,
    },
    /// Image without a name: nothing could refer to it.
    #[error("read the archive: the image in it has no name (no io.containerd.image.name and no RepoTags)")]
    Unnamed,
}

/// The names of the images in an OCI or docker archive, sorted, in containerd's full form
/// (`docker.io/library/busybox:1` for `busybox:1`).
///
/// # Errors
/// See [`ArchiveError`]; the whole archive is read once, in order, without seeking.
pub fn references(mut reader: impl Read) -> Result<Vec<String>, ArchiveError> {
    let mut start = [0; 6];
    let mut filled = 0;
    while filled < start.len() {
        match reader.read(&mut start[filled..]).map_err(unreadable)? {
            0 => break,
            count => filled += count,
        }
    }
    match &start[..filled] {
        [0x1f, 0x8b, ..] => return Err(ArchiveError::Compressed("gzip")),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return Err(ArchiveError::Compressed("zstd")),
        [b'B', b'Z', b'h', ..] => return Err(ArchiveError::Compressed("bzip2")),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(ArchiveError::Compressed("xz")),
        _ => {}
    }
    let (mut index, mut manifest) = (None, None);
    let mut archive = tar::Archive::new((&start[..filled]).chain(reader));
    for entry in archive.entries().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path_bytes().into_owned();
        let wanted = match path.strip_prefix(b"./").unwrap_or(&path) {
            b"index.json" => &mut index,
            b"manifest.json" => &mut manifest,
            _ => continue,
        };
        let mut text = Vec::new();
        entry.take(LONGEST_INDEX).read_to_end(&mut text).map_err(unreadable)?;
        *wanted = Some(text);
    }
    let parse = |file, text: &[u8]| -> Result<Value, ArchiveError> {
        serde_json::from_slice(text).map_err(|source| ArchiveError::BadIndex { file, source })
    };
    let mut names = BTreeSet::new();
    if let Some(text) = &index {
        for image in parse("index.json", text)?["manifests"].as_array().into_iter().flatten() {
            let notes: BTreeMap<_, _> = image["annotations"].as_object().into_iter().flatten().collect();
            let note = |key: &str| notes.get(&key.to_owned()).and_then(|value| value.as_str());
            if let Some(name) = note("io.containerd.image.name") {
                names.insert(full_name(name));
            } else if let Some(name) = note("org.opencontainers.image.ref.name")
                // Often a bare tag ("latest"), which names nothing.
                && name.contains(['/', ':'])
            {
                names.insert(full_name(name));
            }
        }
    }
    if let Some(text) = &manifest {
        for image in parse("manifest.json", text)?.as_array().into_iter().flatten() {
            let tags = image["RepoTags"].as_array().into_iter().flatten();
            names.extend(tags.filter_map(Value::as_str).map(full_name));
        }
    }
    match (index.is_some() || manifest.is_some(), names.is_empty()) {
        (false, _) => Err(ArchiveError::NotImage),
        (true, true) => Err(ArchiveError::Unnamed),
        (true, false) => Ok(names.into_iter().collect()),
    }
}

/// The full form of an image name, as the distribution library's "normalized" one: registry, `library/` and tag added.
#[must_use]
pub fn full_name(name: &str) -> String {
    let (first, has_path) = name.split_once('/').map_or((name, false), |(first, _)| (first, true));
    let registry_given = has_path && (first.contains(['.', ':']) || first == "localhost");
    let mut full = match (registry_given, has_path) {
        (true, _) => name.to_owned(),
        (false, true) => format!("docker.io/{name}"),
        (false, false) => format!("docker.io/library/{name}"),
    };
    let last = full.rsplit('/').next().unwrap_or_default();
    if !last.contains(':') && !full.contains('@') {
        full.push_str(":latest");
    }
    full
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> ImageBuilder {
        ImageBuilder::new("minidc.local/web:1")
            .entrypoint(["/bin/busybox", "httpd"])
            .file(File::program("/bin/busybox", vec![7; 1000]))
            .file(File::link("/bin/sh", "busybox"))
            .file(File::data("/srv/www/index.html", "hello"))
    }

    fn bytes(builder: &ImageBuilder) -> Vec<u8> {
        let mut out = Vec::new();
        builder.write_to(&mut out).unwrap();
        out
    }

    #[test]
    fn same_input_gives_the_same_archive() {
        assert_eq!(bytes(&web()), bytes(&web()));
    }

    #[test]
    fn blobs_are_named_by_their_digest() {
        let archive = bytes(&web());
        let mut blobs = 0;
        for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            if let Some(name) = path.strip_prefix("blobs/sha256/") {
                let mut data = Vec::new();
                entry.read_to_end(&mut data).unwrap();
                assert_eq!(digest(&data), format!("sha256:{name}"));
                blobs += 1;
            }
        }
        assert_eq!(blobs, 3);
    }

    #[test]
    fn written_archive_brings_its_name() {
        assert_eq!(references(&bytes(&web())[..]).unwrap(), ["minidc.local/web:1"]);
    }

    #[test]
    fn docker_archive_brings_its_tags() {
        let mut out = Vec::new();
        let mut builder = tar::Builder::new(&mut out);
        append(
            &mut builder,
            "manifest.json",
            0o644,
            br#"[{"RepoTags":["busybox:1","a.b/c:2"]}]"#,
        )
        .unwrap();
        builder.finish().unwrap();
        drop(builder);
        assert_eq!(
            references(&out[..]).unwrap(),
            ["a.b/c:2", "docker.io/library/busybox:1"]
        );
    }

    #[test]
    fn wrong_file_is_named_as_what_it_is() {
        let refused = |data: &[u8]| references(data).unwrap_err().to_string();
        assert!(refused(&[0x1f, 0x8b, 8, 0, 0, 0, 0]).contains("gzip"));
        assert!(refused(&[b'x'; 2000]).contains("not a tar file"));
        let mut out = Vec::new();
        let mut builder = tar::Builder::new(&mut out);
        append(&mut builder, "readme", 0o644, b"x").unwrap();
        builder.finish().unwrap();
        drop(builder);
        assert!(refused(&out).contains("neither index.json"));
    }

    #[test]
    fn names_get_their_full_form() {
        for (short, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("me/app:2", "docker.io/me/app:2"),
            ("localhost/app", "localhost/app:latest"),
            ("reg:5000/app", "reg:5000/app:latest"),
            ("a.b/c@sha256:00", "a.b/c@sha256:00"),
        ] {
            assert_eq!(full_name(short), full);
        }
    }
}
