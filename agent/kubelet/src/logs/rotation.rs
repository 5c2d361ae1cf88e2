//! Bounded logs: a file that grew too long is renamed, and the runtime opens a new one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::observed::State;

/// How often the lengths are looked at (Kubernetes' `containerLogMonitorInterval`).
const PERIOD: Duration = Duration::from_secs(10);

/// Length at which a log is rotated, in bytes (Kubernetes' default for `containerLogMaxSize`).
pub(crate) const LONGEST: u64 = 10 << 20;
/// Files kept of one container instance, the present one included; fewer than Kubernetes' five, for SD cards.
pub(crate) const MOST_FILES: usize = 2;

/// Rotates the logs of running containers until `shutdown`.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => return,
        }
        for (pod, seen) in context.registry.all() {
            for container in seen
                .observed
                .containers
                .iter()
                .filter(|container| container.state == State::Running)
            {
                let log = context
                    .directories
                    .container_log(&pod, &container.name, container.attempt);
                match rotate(&log, LONGEST) {
                    Ok(false) => {}
                    Ok(true) => {
                        if let Err(error) = context.runtime.reopen_log(&container.id).await {
                            tracing::warn!(%pod, container = container.name, %error, "the log was renamed but not opened anew");
                        }
                    }
                    Err(error) => tracing::warn!(log = %log.display(), %error, "cannot rotate a log"),
                }
            }
        }
    }
}

/// The rotated files of a log, the oldest first: `0.log.20260102-030405`.
pub(crate) fn rotated(log: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)))
        .map(|entry| entry.path())
        .collect();
    // The time is in the name, so that the order of names is the order of times.
    found.sort();
    found
}

/// Renames the log when it is too long and removes the oldest files; tells whether the runtime must open it anew.
pub(crate) fn rotate(log: &Path, longest: u64) -> io::Result<bool> {
    match std::fs::metadata(log) {
        Ok(found) if found.len() >= longest => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S%.6f").to_string();
    let mut target = log.as_os_str().to_owned();
    target.push(format!(".{stamp}"));
    std::fs::rename(log, &target)?;
    let files = rotated(log);
    for old in &files[..(files.len() + 1).saturating_sub(MOST_FILES)] {
        std::fs::remove_file(old)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_log_is_renamed_and_old_files_go() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("0.log");
        assert!(!rotate(&log, 10).unwrap());
        for round in 0..3 {
            std::fs::write(&log, format!("{round}{}", "x".repeat(10))).unwrap();
            assert!(rotate(&log, 10).unwrap());
            assert!(!log.exists());
        }
        let files = rotated(&log);
        assert_eq!(files.len(), MOST_FILES - 1);
        assert!(
            std::fs::read_to_string(&files[0]).unwrap().starts_with('2'),
            "the newest is kept"
        );
        std::fs::write(&log, "short").unwrap();
        assert!(!rotate(&log, 10).unwrap());
    }
}
