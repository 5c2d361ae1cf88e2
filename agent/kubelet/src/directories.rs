//! Where a pod's things are on disk.

use std::path::{Path, PathBuf};

use crate::identity::PodIdentity;

/// The two roots below which a pod has things. The layout below them is Kubernetes' own, which log collectors know.
#[derive(Clone, Debug)]
pub(crate) struct Directories {
    /// `<data>/pods`.
    pub(crate) pods: PathBuf,
    /// `/var/log/pods`.
    pub(crate) logs: PathBuf,
}

impl Directories {
    /// All that belongs to a pod but its logs.
    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.pods.join(uid)
    }

    /// One volume; `kind` is for instance `secret`.
    pub(crate) fn volume(&self, uid: &str, kind: &str, name: &str) -> PathBuf {
        self.pod(uid)
            .join("volumes")
            .join(format!("kubernetes.io~{kind}"))
            .join(name)
    }

    /// The file that the pod sees as `/etc/hosts`.
    pub(crate) fn hosts(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("etc-hosts")
    }

    /// The file that one instance of a container sees at its `terminationMessagePath`.
    pub(crate) fn termination_message(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod(uid)
            .join("containers")
            .join(container)
            .join(attempt.to_string())
    }

    /// The logs of a pod.
    pub(crate) fn pod_logs(&self, pod: &PodIdentity) -> PathBuf {
        self.logs.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
    }

    /// The log of one instance of a container.
    pub(crate) fn container_log(&self, pod: &PodIdentity, container: &str, attempt: u32) -> PathBuf {
        self.pod_logs(pod).join(log_path(container, attempt))
    }
}

/// The log of one instance of a container, below the pod's log directory.
pub(crate) fn log_path(container: &str, attempt: u32) -> PathBuf {
    Path::new(container).join(format!("{attempt}.log"))
}

/// The highest instance number among the logs of a container: survives a power cut that took the containers away.
pub(crate) fn last_attempt(logs: &Path, container: &str) -> Option<u32> {
    let entries = std::fs::read_dir(logs.join(container)).ok()?;
    let number = |name: &str| name.split_once(".log").and_then(|(number, _)| number.parse().ok());
    entries
        .flatten()
        .filter_map(|entry| number(entry.file_name().to_str()?))
        .max()
}
