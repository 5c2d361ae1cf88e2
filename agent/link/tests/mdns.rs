//! Discovery with a real Avahi and D-Bus, in network, mount and process namespaces of their own. Needs root, and the Debian packages
//! avahi-daemon, avahi-utils, dbus, iproute2 and util-linux.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a failed test")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use minidc_link::discovery::{Announcement, Candidate, Discovery, Mdns, MdnsOptions, MdnsState};
use minidc_link::pki::Pin;
use tokio::sync::watch;

/// Set in the child, which runs the same test within the namespaces.
const INSIDE: &str = "MINIDC_TEST_INSIDE";

#[test]
fn control_plane_is_found_by_mdns_also_after_avahi_was_restarted() {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(inside());
    }
    let status = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "control_plane_is_found_by_mdns_also_after_avahi_was_restarted",
            "--nocapture",
        ])
        .env(INSIDE, "1")
        .status()
        .expect("unshare is installed");
    assert!(status.success(), "see above");
}

fn run(command: &str) {
    let status = Command::new("sh").args(["-ec", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

/// Long enough for a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A daemon that is ended with the test.
struct Daemon(Child);

impl Daemon {
    fn start(program: &str, arguments: &[&str], socket: &str) -> Self {
        let _ = std::fs::remove_file(socket);
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self(child);
        let began = Instant::now();
        while !Path::new(socket).exists() {
            assert!(began.elapsed() < LIMIT, "{program} did not make {socket}");
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn avahi() -> Daemon {
    let arguments = ["-f", "/run/avahi-test.conf", "--no-rlimits", "--no-chroot"];
    Daemon::start("avahi-daemon", &arguments, "/run/avahi-daemon/socket")
}

async fn until<T: Clone + std::fmt::Debug>(receiver: &mut watch::Receiver<T>, wanted: impl Fn(&T) -> bool) -> T {
    let found = tokio::time::timeout(LIMIT, receiver.wait_for(|value| wanted(value))).await;
    let found = found.map(|value| value.unwrap().clone());
    found.unwrap_or_else(|_| panic!("still {:?}", *receiver.borrow()))
}

/// Looks again each second, as a node does that does not find its control plane.
async fn found_by_looking_again(
    mdns: &Mdns,
    candidates: &mut watch::Receiver<Arc<Vec<Candidate>>>,
    wanted: impl Fn(&Vec<Candidate>) -> bool,
) {
    let found = async {
        while !wanted(&candidates.borrow_and_update()) {
            mdns.look_again();
            let _ = tokio::time::timeout(Duration::from_secs(1), candidates.changed()).await;
        }
    };
    tokio::time::timeout(LIMIT, found).await.unwrap();
}

async fn inside() {
    run(
        "mount --make-rprivate / && mount -t tmpfs run /run && mkdir -p /run/dbus /run/avahi-daemon && chown avahi: /run/avahi-daemon",
    );
    run(
        "hostname pi-1 && ip link set lo up && ip link add v0 type veth peer name v1 && ip addr add 10.9.8.7/24 dev v0 && ip link set v0 up && ip link set v1 up",
    );
    let conf = "[server]\nhost-name=pi-1\nuse-ipv6=no\nallow-interfaces=v0\n[publish]\n[rlimits]\n";
    std::fs::write("/run/avahi-test.conf", conf).unwrap();

    let announcement = Announcement {
        instance: "pi-1".into(),
        cluster: "garage".into(),
        pin: Pin([5; 32]),
        port: 6443,
    };
    let options = MdnsOptions {
        announce: Some(announcement),
        browse: true,
        pod_range: None,
    };
    let mdns = Mdns::start(options).unwrap();
    let (mut state, mut candidates) = (mdns.state(), mdns.candidates());
    // No Avahi is an ordinary state.
    until(&mut state, |state| matches!(state, MdnsState::Down { .. })).await;

    let dbus_arguments = ["--system", "--nofork", "--nopidfile"];
    let _dbus = Daemon::start("dbus-daemon", &dbus_arguments, "/run/dbus/system_bus_socket");
    let running = avahi();
    until(&mut state, |state| {
        *state
            == MdnsState::Up {
                announced: Some("pi-1".into()),
            }
    })
    .await;
    let found = until(&mut candidates, |found| !found.is_empty()).await;
    let expected = Candidate {
        cluster: "garage".into(),
        pin: Pin([5; 32]),
        protocol: 1,
        instance: "pi-1".into(),
        host: "pi-1.local".into(),
        addresses: vec!["10.9.8.7".parse().unwrap()],
        port: 6443,
    };
    assert_eq!(*found, [expected]);

    // Avahi is killed and started again: both the announcement and the browser come back.
    drop(running);
    let down = until(&mut state, |state| matches!(state, MdnsState::Down { .. })).await;
    let running = avahi();
    until(&mut state, |state| {
        *state
            == MdnsState::Up {
                announced: Some("pi-1".into()),
            }
    })
    .await;
    candidates.mark_unchanged();
    until(&mut candidates, |found| found.len() == 1).await;
    println!("Avahi was gone: {down:?}");

    // A control plane that looks for nobody: its announcement comes back too.
    let silent = Announcement {
        instance: "pi-9".into(),
        cluster: "cellar".into(),
        pin: Pin([9; 32]),
        port: 9443,
    };
    let silent = Mdns::start(MdnsOptions {
        announce: Some(silent),
        browse: false,
        pod_range: None,
    })
    .unwrap();
    let mut silent_state = silent.state();
    let up = |state: &MdnsState| matches!(state, MdnsState::Up { announced: Some(_) });
    until(&mut silent_state, up).await;
    drop(running);
    until(&mut silent_state, |state| matches!(state, MdnsState::Down { .. })).await;
    let _running = avahi();
    until(&mut silent_state, up).await;
    assert!(silent.candidates().borrow().is_empty());
    drop(silent);

    // An address that changes is found by who says that the old one leads nowhere.
    until(&mut candidates, |found| found.len() == 1).await;
    run("ip addr del 10.9.8.7/24 dev v0 && ip addr add 10.9.8.77/24 dev v0");
    let moved = |found: &Vec<Candidate>| {
        let address: std::net::IpAddr = "10.9.8.77".parse().unwrap();
        found.iter().any(|one| one.addresses == [address])
    };
    found_by_looking_again(&mdns, &mut candidates, moved).await;

    // Another control plane on the same machine, with the same name.
    let second = Announcement {
        instance: "pi-1".into(),
        cluster: "attic".into(),
        pin: Pin([6; 32]),
        port: 7443,
    };
    let second = Mdns::start(MdnsOptions {
        announce: Some(second),
        browse: false,
        pod_range: None,
    })
    .unwrap();
    let both = |found: &Vec<Candidate>| found.iter().any(|one| one.cluster == "attic" && one.port == 7443);
    found_by_looking_again(&mdns, &mut candidates, both).await;
    drop(second);
    until(&mut candidates, |found| found.iter().all(|one| one.cluster == "garage")).await;

    // One that nobody could say the address of when it was first seen: tried again without being asked.
    let pin = format!("pin={}", Pin([7; 32]));
    let _late = Daemon(
        Command::new("avahi-publish")
            .args(["-s", "-H", "late.local", "late", "_minidc._tcp", "6443"])
            .args(["cluster=shed", "protocol=1", &pin])
            .spawn()
            .expect("avahi-utils is installed"),
    );
    // Avahi gives up resolving after 5 s
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(candidates.borrow().iter().all(|one| one.cluster == "garage"));
    let _address = Daemon(
        Command::new("avahi-publish")
            .args(["-a", "late.local", "10.9.8.78"])
            .spawn()
            .unwrap(),
    );
    until(&mut candidates, |found| found.iter().any(|one| one.cluster == "shed")).await;
}
