//! The volumes of a pod, made ready on the node and kept up to date.
//!
//! `emptyDir` on disk or in memory, `configMap`, `secret`, `downwardAPI` and `projected` (without tokens), `hostPath`.

mod atomic;
pub(crate) mod mounts;
mod sub_path;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Pod, Secret, Volume,
};
use minidc_api::quantity::Quantity;

use crate::container::ReadyMount;
use crate::directories::Directories;
use crate::environment::{Environment, Lookup, field_value, resource_value};
use crate::identity::PodIdentity;

use atomic::Payload;

/// Room for a secret of the greatest size (1 MiB) twice, since a change writes the new one beside the old.
const SECRET_TMPFS: u64 = 4 << 20;
/// Mode of files when the pod says nothing.
const DEFAULT_MODE: i32 = 0o644;

/// A volume that could not be made ready; worth another try.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
pub(crate) struct VolumeError {
    volume: String,
    message: String,
}

/// Where each volume of a pod is, by its name.
pub(crate) type Volumes = BTreeMap<String, PathBuf>;

/// Makes all volumes ready, or brings them up to date. Blocking.
///
/// # Errors
/// The first volume that cannot be had yet.
pub(crate) fn prepare(directories: &Directories, lookup: &Lookup<'_>) -> Result<Volumes, VolumeError> {
    let mut ready = Volumes::new();
    let spec = lookup.pod.spec.as_ref();
    let group = spec
        .and_then(|spec| spec.security_context.as_ref())
        .and_then(|context| context.fs_group);
    for volume in spec.into_iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let error = |message: String| VolumeError {
            volume: volume.name.clone(),
            message,
        };
        if let Some(path) = prepare_one(directories, lookup, volume, group).map_err(error)? {
            ready.insert(volume.name.clone(), path);
        }
    }
    Ok(ready)
}

fn prepare_one(
    directories: &Directories,
    lookup: &Lookup<'_>,
    volume: &Volume,
    group: Option<i64>,
) -> Result<Option<PathBuf>, String> {
    let uid = lookup.pod.metadata.uid.as_deref().unwrap_or_default();
    let place = |kind: &str| directories.volume(uid, kind, &volume.name);
    if let Some(source) = &volume.empty_dir {
        let path = place("empty-dir");
        let size = source
            .size_limit
            .as_ref()
            .and_then(|size| Quantity::parse(&size.0).ok())
            .filter(|size| !size.is_zero());
        let made = empty_dir(&path, source.medium.as_deref(), size, lookup);
        made.and_then(|()| own(&path, group)).map_err(describe(&path))?;
        return Ok(Some(path));
    }
    if let Some(source) = &volume.host_path {
        host_path(source)?;
        return Ok(Some(PathBuf::from(&source.path)));
    }
    let (path, payload, in_memory) = if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let payload = config_map(lookup, &source.name, source.items.as_deref(), mode, source.optional)?;
        (place("configmap"), payload, false)
    } else if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        (
            place("secret"),
            secret(lookup, name, source.items.as_deref(), mode, source.optional)?,
            true,
        )
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        (
            place("downward-api"),
            downward(lookup, source.items.as_deref().unwrap_or_default(), mode)?,
            false,
        )
    } else if let Some(source) = &volume.projected {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let mut payload = Payload::new();
        let sources = source.sources.as_deref().unwrap_or_default();
        for part in sources {
            if let Some(part) = &part.config_map {
                payload.extend(config_map(
                    lookup,
                    &part.name,
                    part.items.as_deref(),
                    mode,
                    part.optional,
                )?);
            }
            if let Some(part) = &part.secret {
                payload.extend(secret(lookup, &part.name, part.items.as_deref(), mode, part.optional)?);
            }
            if let Some(part) = &part.downward_api {
                payload.extend(downward(lookup, part.items.as_deref().unwrap_or_default(), mode)?);
            }
        }
        (
            place("projected"),
            payload,
            sources.iter().any(|part| part.secret.is_some()),
        )
    } else {
        // The API has warned of it, and so does an event; a container that mounts it does not start.
        return Ok(None);
    };
    let made = (|| {
        std::fs::create_dir_all(&path)?;
        if in_memory {
            mounts::tmpfs(&path, SECRET_TMPFS)?;
        }
        // Below a volume that belongs to a group, that group must be able to read.
        atomic::write(&path, &payload, group)
    })();
    made.map_err(describe(&path))?;
    Ok(Some(path))
}

fn describe(path: &Path) -> impl Fn(io::Error) -> String + '_ {
    move |error| format!("{}: {error}", path.display())
}

/// The directory is made once; what pods put into it stays until the pod goes.
fn empty_dir(path: &Path, medium: Option<&str>, size: Option<Quantity>, lookup: &Lookup<'_>) -> io::Result<()> {
    let fresh = !path.exists();
    std::fs::create_dir_all(path)?;
    if medium == Some("Memory") {
        let most = lookup.node.allocatable_memory;
        let size = size
            .and_then(|size| u64::try_from(size.units()).ok())
            .map_or(most, |size| size.min(most));
        mounts::tmpfs(path, size)?;
    }
    if fresh || medium == Some("Memory") {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    }
    Ok(())
}

/// Gives the volume to the pod's group, as `fsGroup` asks.
fn own(path: &Path, group: Option<i64>) -> io::Result<()> {
    let Some(group) = group.and_then(|group| u32::try_from(group).ok()) else {
        return Ok(());
    };
    let found = std::fs::metadata(path)?;
    if found.gid() == group && found.mode() & 0o2070 == 0o2070 {
        return Ok(());
    }
    std::os::unix::fs::chown(path, None, Some(group))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(found.mode() & 0o7777 | 0o2070))
}

fn config_map(
    lookup: &Lookup<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: Option<bool>,
) -> Result<Payload, String> {
    let Some(map) = lookup.config_map(name) else {
        return if optional == Some(true) {
            Ok(Payload::new())
        } else {
            Err(format!("configmap \"{name}\" not found"))
        };
    };
    let ConfigMap { data, binary_data, .. } = map.as_ref();
    let texts = data.iter().flatten().map(|(key, text)| (key.as_str(), text.as_bytes()));
    let bytes = binary_data
        .iter()
        .flatten()
        .map(|(key, bytes)| (key.as_str(), bytes.0.as_slice()));
    pick(texts.chain(bytes).collect(), items, mode, optional, "configmap")
}

fn secret(
    lookup: &Lookup<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: Option<bool>,
) -> Result<Payload, String> {
    let Some(found) = lookup.secret(name) else {
        return if optional == Some(true) {
            Ok(Payload::new())
        } else {
            Err(format!("secret \"{name}\" not found"))
        };
    };
    let Secret { data, .. } = found.as_ref();
    let bytes = data
        .iter()
        .flatten()
        .map(|(key, bytes)| (key.as_str(), bytes.0.as_slice()));
    pick(bytes.collect(), items, mode, optional, "secret")
}

/// All keys, or those that `items` names at the paths it gives.
fn pick(
    data: BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: Option<bool>,
    kind: &str,
) -> Result<Payload, String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data
            .into_iter()
            .map(|(key, bytes)| (key.to_owned(), (bytes.to_vec(), mode)))
            .collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.get(item.key.as_str()) {
            Some(bytes) => {
                payload.insert(item.path.clone(), (bytes.to_vec(), item.mode.unwrap_or(mode)));
            }
            None if optional == Some(true) => {}
            None => return Err(format!("{kind} references non-existent {kind} key: {}", item.key)),
        }
    }
    Ok(payload)
}

fn downward(lookup: &Lookup<'_>, items: &[DownwardAPIVolumeFile], mode: i32) -> Result<Payload, String> {
    let mut payload = Payload::new();
    for item in items {
        let value = if let Some(field) = &item.field_ref {
            field_value(lookup, &field.field_path)
                .ok_or_else(|| format!("unsupported fieldPath: {}", field.field_path))?
        } else if let Some(selector) = &item.resource_field_ref {
            resource_value(lookup, None, selector)?
        } else {
            continue;
        };
        payload.insert(item.path.clone(), (value.into_bytes(), item.mode.unwrap_or(mode)));
    }
    Ok(payload)
}

/// Keeps the promise of `hostPath.type`.
fn host_path(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let made = match kind {
        "DirectoryOrCreate" if !path.exists() => std::fs::create_dir_all(path)
            .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))),
        "FileOrCreate" if !path.exists() => std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o644)
            .open(path)
            .map(drop),
        _ => Ok(()),
    };
    made.map_err(describe(path))?;
    let found = std::fs::metadata(path).ok().map(|metadata| metadata.file_type());
    let is = |test: fn(&std::fs::FileType) -> bool| found.as_ref().is_some_and(test);
    let (holds, what) = match kind {
        "DirectoryOrCreate" | "Directory" => (is(std::fs::FileType::is_dir), "a directory"),
        "FileOrCreate" | "File" => (is(std::fs::FileType::is_file), "a file"),
        "Socket" => (is(FileTypeExt::is_socket), "a socket file"),
        "CharDevice" => (is(FileTypeExt::is_char_device), "a character device"),
        "BlockDevice" => (is(FileTypeExt::is_block_device), "a block device"),
        _ => (true, ""),
    };
    if holds {
        Ok(())
    } else {
        Err(format!("hostPath type check failed: {} is not {what}", source.path))
    }
}

/// The mounts of one container. Blocking.
///
/// # Errors
/// The message of `CreateContainerConfigError`.
pub(crate) fn container_mounts(
    directories: &Directories,
    pod: &Pod,
    container: &Container,
    volumes: &Volumes,
    environment: &Environment,
) -> Result<Vec<ReadyMount>, String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let mut mounts = Vec::new();
    for (index, wanted) in container.volume_mounts.iter().flatten().enumerate() {
        let Some(root) = volumes.get(&wanted.name) else {
            return Err(format!(
                "cannot find volume \"{}\" to mount into container \"{}\"",
                wanted.name, container.name
            ));
        };
        let sub_path = match (&wanted.sub_path, &wanted.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => path.clone(),
            (_, Some(expression)) if !expression.is_empty() => environment.expand(expression),
            _ => String::new(),
        };
        let host_path = if sub_path.is_empty() {
            root.clone()
        } else {
            let target = directories
                .pod(uid)
                .join("volume-subpaths")
                .join(&wanted.name)
                .join(&container.name);
            sub_path::bind(root, &sub_path, &target.join(index.to_string())).map_err(|error| {
                format!(
                    "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {error}",
                    wanted.name, container.name
                )
            })?
        };
        mounts.push(ReadyMount {
            container_path: absolute(&wanted.mount_path),
            host_path,
            read_only: wanted.read_only.unwrap_or(false),
            propagation: wanted.mount_propagation.clone(),
        });
    }
    Ok(mounts)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// Unmounts and removes all that a pod had on disk, but its logs. Blocking; fine to repeat.
///
/// # Errors
/// What could not be unmounted or removed; worth another try.
pub(crate) fn clean_up(directories: &Directories, pod: &PodIdentity) -> io::Result<()> {
    let directory = directories.pod(&pod.uid);
    // A UID is never empty or a path; without this check a mistake would remove every pod's volumes.
    if pod.uid.is_empty() || pod.uid.contains('/') || pod.uid == ".." || !directory.exists() {
        return Ok(());
    }
    mounts::unmount_below(&directory)?;
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Desired;
    use crate::environment::NodeFacts;
    use serde_json::json;
    use std::sync::Arc;

    struct Place {
        _root: tempfile::TempDir,
        directories: Directories,
    }

    fn place() -> Place {
        let root = tempfile::tempdir().unwrap();
        let directories = Directories {
            pods: root.path().join("pods"),
            logs: root.path().join("logs"),
        };
        Place {
            _root: root,
            directories,
        }
    }

    fn pod(volumes: serde_json::Value) -> Pod {
        let metadata = json!({"name": "web-1", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}});
        let mut pod = json!({"metadata": metadata, "spec": {"containers": [{"name": "c"}]}});
        pod["spec"]["volumes"] = volumes;
        serde_json::from_value(pod).unwrap()
    }

    fn with_map(data: serde_json::Value) -> Desired {
        let mut desired = Desired::default();
        let mut map = json!({"metadata": {"name": "m"}});
        map["data"] = data;
        desired.config_maps.insert(
            ("shop".into(), "m".into()),
            Arc::new(serde_json::from_value(map).unwrap()),
        );
        desired
    }

    fn ready(place: &Place, pod: &Pod, desired: &Desired) -> Result<Volumes, String> {
        let node = NodeFacts::default();
        prepare(
            &place.directories,
            &Lookup {
                pod,
                desired,
                node: &node,
                pod_ips: &[],
            },
        )
        .map_err(|error| error.to_string())
    }

    #[test]
    fn config_map_becomes_files_with_modes() {
        let place = place();
        let pod = pod(
            json!([{"name": "v", "configMap": {"name": "m", "defaultMode": 0o600, "items":
            [{"key": "a", "path": "dir/a.txt"}, {"key": "b", "path": "b.txt", "mode": 0o444}]}}]),
        );
        let volumes = ready(&place, &pod, &with_map(json!({"a": "1", "b": "2", "c": "3"}))).unwrap();
        let root = &volumes["v"];
        assert_eq!(std::fs::read_to_string(root.join("dir/a.txt")).unwrap(), "1");
        assert_eq!(std::fs::metadata(root.join("dir/a.txt")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(root.join("b.txt")).unwrap().mode() & 0o777, 0o444);
        assert!(!root.join("c").exists());
    }

    #[test]
    fn changed_config_map_is_swapped_in_at_once() {
        let place = place();
        let pod = pod(json!([{"name": "v", "configMap": {"name": "m"}}]));
        let volumes = ready(&place, &pod, &with_map(json!({"a": "1", "gone": "x"}))).unwrap();
        let root = &volumes["v"];
        let before = std::fs::read_link(root.join("..data")).unwrap();
        ready(&place, &pod, &with_map(json!({"a": "1", "gone": "x"}))).unwrap();
        assert_eq!(
            std::fs::read_link(root.join("..data")).unwrap(),
            before,
            "nothing changed, nothing written"
        );
        ready(&place, &pod, &with_map(json!({"a": "2", "new": "y"}))).unwrap();
        assert_ne!(std::fs::read_link(root.join("..data")).unwrap(), before);
        assert!(!root.join(&before).exists(), "the old files are removed");
        assert_eq!(std::fs::read_to_string(root.join("a")).unwrap(), "2");
        assert_eq!(std::fs::read_to_string(root.join("new")).unwrap(), "y");
        assert!(std::fs::symlink_metadata(root.join("gone")).is_err());
    }

    #[test]
    fn missing_source_is_an_error_unless_optional() {
        let place = place();
        let required = pod(json!([{"name": "v", "configMap": {"name": "no"}}]));
        assert_eq!(
            ready(&place, &required, &Desired::default()).unwrap_err(),
            "MountVolume.SetUp failed for volume \"v\" : configmap \"no\" not found"
        );
        let optional = pod(json!([{"name": "v", "configMap": {"name": "no", "optional": true}}]));
        assert!(ready(&place, &optional, &Desired::default()).unwrap()["v"].is_dir());
        let key = pod(json!([{"name": "v", "configMap": {"name": "m", "items": [{"key": "z", "path": "z"}]}}]));
        let refused = ready(&place, &key, &with_map(json!({"a": "1"}))).unwrap_err();
        assert!(
            refused.ends_with("configmap references non-existent configmap key: z"),
            "{refused}"
        );
    }

    #[test]
    fn empty_directory_is_for_everyone_and_kept() {
        let place = place();
        let pod = pod(json!([{"name": "v", "emptyDir": {}}]));
        let volumes = ready(&place, &pod, &Desired::default()).unwrap();
        assert_eq!(std::fs::metadata(&volumes["v"]).unwrap().mode() & 0o777, 0o777);
        std::fs::write(volumes["v"].join("kept"), "x").unwrap();
        let again = ready(&place, &pod, &Desired::default()).unwrap();
        assert!(again["v"].join("kept").exists());
    }

    #[test]
    fn downward_files_and_projections_show_the_pod() {
        let place = place();
        let items = json!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]);
        let pod = pod(json!([{"name": "v", "projected": {"sources": [
            {"downwardAPI": {"items": items}}, {"configMap": {"name": "m"}}]}}]));
        let volumes = ready(&place, &pod, &with_map(json!({"a": "1"}))).unwrap();
        assert_eq!(
            std::fs::read_to_string(volumes["v"].join("labels")).unwrap(),
            "app=\"web\""
        );
        assert_eq!(std::fs::read_to_string(volumes["v"].join("a")).unwrap(), "1");
    }

    #[test]
    fn host_path_keeps_the_promise_of_its_type() {
        let place = place();
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str, kind: &str| {
            pod(json!([{"name": "v", "hostPath": {"path": root.path().join(name), "type": kind}}]))
        };
        assert!(ready(&place, &at("d", "DirectoryOrCreate"), &Desired::default()).is_ok());
        assert!(root.path().join("d").is_dir());
        assert!(ready(&place, &at("f", "FileOrCreate"), &Desired::default()).is_ok());
        let refused = ready(&place, &at("f", "Directory"), &Desired::default()).unwrap_err();
        assert!(
            refused.contains("hostPath type check failed") && refused.ends_with("is not a directory"),
            "{refused}"
        );
        assert!(
            ready(&place, &at("no", "Socket"), &Desired::default())
                .unwrap_err()
                .ends_with("is not a socket file")
        );
        assert!(ready(&place, &at("no", ""), &Desired::default()).is_ok());
    }

    #[test]
    fn cleaning_up_removes_the_pod_only() {
        let place = place();
        ready(
            &place,
            &pod(json!([{"name": "v", "emptyDir": {}}])),
            &Desired::default(),
        )
        .unwrap();
        let other = place.directories.pod("u2");
        std::fs::create_dir_all(&other).unwrap();
        let identity = |uid: &str| PodIdentity {
            namespace: "shop".into(),
            name: "web-1".into(),
            uid: uid.into(),
        };
        clean_up(&place.directories, &identity("")).unwrap();
        clean_up(&place.directories, &identity("u1")).unwrap();
        clean_up(&place.directories, &identity("u1")).unwrap();
        assert!(!place.directories.pod("u1").exists() && other.exists());
    }
}
