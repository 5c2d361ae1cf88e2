//! Whether this machine can be heard at all: its network cable is plugged in, and its addresses are not just new. A control plane that hears
//! nobody for a reason of its own must not take the others for dead.

use std::{path::Path, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::addresses::{is_inner, own};

/// How often the kernel is asked; well below the silence after which a node is judged.
const LOOK: Duration = Duration::from_millis(500);
/// How long nodes may take to find a control plane that has new addresses: they notice its silence (3 s), try the old address in vain (4 s)
/// and look around again (5 s at most).
const MOVING: Duration = Duration::from_secs(20);
const INTERFACES: &str = "/sys/class/net";

/// Says `true` as long as no interface that leads outside has a carrier, and for [`MOVING`] after the own addresses changed, until `shutdown`.
pub(crate) async fn watch(cut_off: watch::Sender<bool>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut timer = tokio::time::interval(LOOK);
    let mut addresses = own();
    let mut settled = Instant::now();
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        let present = own();
        if present != addresses {
            addresses = present;
            settled = Instant::now() + MOVING;
        }
        let now = is_cut_off(Path::new(INTERFACES)) || Instant::now() < settled;
        cut_off.send_if_modified(|present| {
            let news = *present != now;
            if news {
                tracing::warn!(cut_off = now, "the network cable or the addresses of the control plane");
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
