//! Having the image of a container, by Kubernetes' pull policies and in its words.

use std::time::Instant;

use k8s_cri::v1;
use k8s_openapi::api::core::v1::Container;

use crate::back_off::BackOff;
use crate::context::Context;
use crate::identity::PodIdentity;
use crate::plan::Waiting;
use crate::recorder::Severity;

/// What a pod remembers of its pulls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulls {
    /// By image name.
    pub(crate) back_off: BackOff,
    /// What the last pull of an image ended with.
    pub(crate) errors: std::collections::BTreeMap<String, String>,
}

/// Reasons that go away when the image appears by other means than a pull.
pub(crate) const IMAGE_REASONS: [&str; 3] = ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"];

/// `Always`, `IfNotPresent` or `Never`; the API server has set it, but an old stored pod may be without.
fn policy(container: &Container) -> &str {
    let image = container.image.as_deref().unwrap_or_default();
    let latest = crate::archive::full_name(image).ends_with(":latest");
    container
        .image_pull_policy
        .as_deref()
        .unwrap_or(if latest { "Always" } else { "IfNotPresent" })
}

/// The image, pulled when need be.
pub(crate) async fn ensure(
    context: &Context,
    pod: &PodIdentity,
    field: &str,
    container: &Container,
    pulls: &mut Pulls,
) -> Result<v1::Image, Waiting> {
    let name = container.image.as_deref().unwrap_or_default();
    let say = |severity, reason, message: String| context.recorder.container(pod, field, severity, reason, message);
    let policy = policy(container);
    let failed = |reason: &str, message: String| Waiting {
        reason: reason.into(),
        message,
    };

    let present = context.runtime.image(name).await.map_err(|error| {
        say(
            Severity::Warning,
            "InspectFailed",
            format!("Failed to inspect image \"{name}\": {error}"),
        );
        failed(
            "ImageInspectError",
            format!("Failed to inspect image \"{name}\": {error}"),
        )
    })?;
    match (present, policy) {
        (Some(image), "IfNotPresent" | "Never") => {
            let message =
                format!("Container image \"{name}\" already present on machine and can be accessed by the pod");
            say(Severity::Normal, "Pulled", message);
            return Ok(image);
        }
        (None, "Never") => {
            let message = format!("Container image \"{name}\" is not present with pull policy of Never");
            say(Severity::Warning, "ErrImageNeverPull", message.clone());
            return Err(failed("ErrImageNeverPull", message));
        }
        _ => {}
    }
    let last = pulls.back_off.updated(name);
    if last.is_some_and(|last| pulls.back_off.remaining(name, last, Instant::now()).is_some()) {
        let message = format!("Back-off pulling image \"{name}\"");
        say(Severity::Normal, "BackOff", message.clone());
        let message = match pulls.errors.get(name) {
            Some(error) => format!("{message}: ErrImagePull: {error}"),
            None => message,
        };
        return Err(failed("ImagePullBackOff", message));
    }
    let asked = Instant::now();
    // The semaphore is never closed.
    let _permit = context.pulls.acquire().await;
    say(Severity::Normal, "Pulling", format!("Pulling image \"{name}\""));
    let started = Instant::now();
    let pulled = match context.runtime.pull(name).await {
        Ok(_) => context.runtime.image(name).await,
        Err(error) => Err(error),
    };
    match pulled {
        Ok(Some(image)) => {
            let message = format!(
                "Successfully pulled image \"{name}\" in {:.3}s ({:.3}s including waiting). Image size: {} bytes.",
                started.elapsed().as_secs_f64(),
                asked.elapsed().as_secs_f64(),
                image.size,
            );
            say(Severity::Normal, "Pulled", message);
            pulls.errors.remove(name);
            Ok(image)
        }
        other => {
            let error = match other {
                Err(error) => error.message,
                Ok(_) => "the image is not there after the pull".to_owned(),
            };
            say(
                Severity::Warning,
                "Failed",
                format!("Failed to pull image \"{name}\": {error}"),
            );
            let now = Instant::now();
            pulls.back_off.next(name, last.unwrap_or(now), now);
            pulls.errors.insert(name.to_owned(), error.clone());
            Err(failed("ErrImagePull", error))
        }
    }
}
