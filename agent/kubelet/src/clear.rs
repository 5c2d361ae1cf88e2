//! Takes away all that runs on a node and what it left, for when minidc is uninstalled from it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use k8s_cri::v1;
use tokio::task::JoinSet;

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::directories::Directories;
use crate::identity::PodIdentity;
use crate::runtime::{Containerd, Runtime, RuntimeError, label};
use crate::volumes;

/// How long all containers together may take to end, whatever their pods' grace periods are. No shorter than the default of
/// those, 30 s.
const LONGEST_GRACE: Duration = Duration::from_secs(30);

/// Why a node could not be cleared.
#[derive(Debug, thiserror::Error)]
pub enum ClearError {
    /// The container runtime does not answer, or refuses.
    #[error("{attempt}: {message}")]
    Runtime {
        /// What was tried, with the sandbox.
        attempt: String,
        /// What the runtime says.
        message: String,
    },
    /// What a pod left could not be removed.
    #[error("remove {path}")]
    Remove {
        /// The file or directory.
        path: std::path::PathBuf,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
}

fn refused(attempt: String) -> impl FnOnce(RuntimeError) -> ClearError {
    move |error| ClearError::Runtime {
        attempt,
        message: error.message,
    }
}

/// Stops and removes all pods of the runtime, whoever made them, with their volumes, logs and cgroups; gives how many there
/// were. The containers are asked to end, and killed after their grace period or `LONGEST_GRACE`; hooks are not run.
///
/// To be called when no kubelet runs here, inside a tokio runtime. Fine to repeat.
///
/// # Errors
/// The first thing that could not be stopped or removed; the rest was tried all the same.
pub async fn clear(config: &Config) -> Result<usize, ClearError> {
    let directories = Directories {
        pods: config.data.join("pods"),
        logs: config.log_dir.clone(),
    };
    let cleared = stop_all(&Containerd::new(config.containerd.clone())).await;
    let mut problem = None;
    let mut pods = 0;
    match cleared {
        Ok(stopped) => {
            pods = stopped.len();
            for pod in &stopped {
                problem = problem.or(forget(&directories.pod_logs(pod)).err());
            }
        }
        Err(error) => problem = Some(error),
    }
    // Also of pods that had no sandbox any more.
    for entry in std::fs::read_dir(&directories.pods).into_iter().flatten().flatten() {
        let pod = PodIdentity {
            namespace: String::new(),
            name: String::new(),
            uid: entry.file_name().to_string_lossy().into_owned(),
        };
        let removed = volumes::clean_up(&directories, &pod).map_err(|source| ClearError::Remove {
            path: entry.path(),
            source,
        });
        problem = problem.or(removed.err());
    }
    // Only if nobody else keeps logs there.
    let _ = std::fs::remove_dir(&directories.logs);
    Cgroups::detect().remove_all();
    problem.map_or(Ok(pods), Err)
}

fn forget(path: &Path) -> Result<(), ClearError> {
    match std::fs::remove_dir_all(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(ClearError::Remove {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Stops and removes all sandboxes, each in a task of its own; gives the pods that they were of.
async fn stop_all(runtime: &(impl Runtime + Clone)) -> Result<Vec<PodIdentity>, ClearError> {
    let sandboxes = runtime.sandboxes(None).await;
    let sandboxes = sandboxes.map_err(refused("list the pods of the container runtime".into()))?;
    let containers = runtime.containers(None).await;
    let containers = containers.map_err(refused("list the containers of the container runtime".into()))?;
    let mut of_sandbox: BTreeMap<String, Vec<v1::Container>> = BTreeMap::new();
    for container in containers {
        of_sandbox
            .entry(container.pod_sandbox_id.clone())
            .or_default()
            .push(container);
    }
    let pods = sandboxes.iter().map(identity).collect();
    let mut tasks = JoinSet::new();
    for sandbox in sandboxes {
        let containers = of_sandbox.remove(&sandbox.id).unwrap_or_default();
        let runtime = runtime.clone();
        tasks.spawn(async move { stop(&runtime, &sandbox, &containers).await });
    }
    let mut problem = None;
    for result in tasks.join_all().await {
        problem = problem.or(result.err());
    }
    problem.map_or(Ok(pods), Err)
}

fn identity(sandbox: &v1::PodSandbox) -> PodIdentity {
    let of = |key: &str| sandbox.labels.get(key).cloned().unwrap_or_default();
    PodIdentity {
        namespace: of(label::POD_NAMESPACE),
        name: of(label::POD_NAME),
        uid: of(label::POD_UID),
    }
}

async fn stop(
    runtime: &(impl Runtime + Clone),
    sandbox: &v1::PodSandbox,
    containers: &[v1::Container],
) -> Result<(), ClearError> {
    let grace = sandbox.annotations.get(label::GRACE_PERIOD);
    let longest = i64::try_from(LONGEST_GRACE.as_secs()).unwrap_or(i64::MAX);
    let grace = grace
        .and_then(|seconds| seconds.parse::<i64>().ok())
        .map_or(longest, |seconds| seconds.clamp(0, longest));
    let mut ends = JoinSet::new();
    for container in containers {
        let (runtime, id) = (runtime.clone(), container.id.clone());
        // One that cannot be asked is killed with its sandbox.
        ends.spawn(async move { runtime.stop_container(&id, grace).await });
    }
    ends.join_all().await;
    let what = &sandbox.id;
    let stopped = runtime.stop_sandbox(what).await;
    stopped.map_err(refused(format!("stop the sandbox {what}")))?;
    let removed = runtime.remove_sandbox(what).await;
    removed.map_err(refused(format!("remove the sandbox {what}")))
}
