//! Whether this machine's own network cable is plugged in. A control plane that hears nobody because its own cable is out
//! must not take the others for dead.

use std::{path::Path, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::addresses::is_inner;

/// How often the kernel is asked; well below the silence after which a node is judged.
const LOOK: Duration = Duration::from_millis(500);
const INTERFACES: &str = "/sys/class/net";

/// Says `true` as long as no interface that leads outside has a carrier, until `shutdown`.
pub(crate) async fn watch(cut_off: watch::Sender<bool>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut timer = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        let now = is_cut_off(Path::new(INTERFACES));
        cut_off.send_if_modified(|present| {
            let news = *present != now;
            if news {
                tracing::warn!(cut_off = now, "the network cable of the control plane");
                *present = now;
            }
            news
        });
    }
}

/// Whether there are outward interfaces and none of them has a carrier. A machine with none at all is alone by intent.
fn is_cut_off(interfaces: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(interfaces) else {
        return false;
    };
    let mut outward = entries
        .flatten()
        .filter(|entry| !is_inner(&entry.file_name().to_string_lossy()))
        .peekable();
    // reading `carrier` of an interface that is down is an error, which is as good as 0
    let has_carrier = |path: &Path| std::fs::read_to_string(path.join("carrier")).is_ok_and(|text| text.trim() == "1");
    outward.peek().is_some() && !outward.any(|entry| has_carrier(&entry.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces(list: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, carrier) in list {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            std::fs::write(directory.path().join(name).join("carrier"), carrier).unwrap();
        }
        directory
    }

    #[test]
    fn only_outward_interfaces_count() {
        for (list, cut_off) in [
            (&[("lo", "1\n"), ("eth0", "1\n")][..], false),
            (
                &[("lo", "1\n"), ("eth0", "0\n"), ("cni0", "1\n"), ("veth1", "1\n")],
                true,
            ),
            (&[("eth0", "0\n"), ("wlan0", "1\n")], false),
            (&[("lo", "1\n")], false),
        ] {
            assert_eq!(is_cut_off(interfaces(list).path()), cut_off, "{list:?}");
        }
    }
}
