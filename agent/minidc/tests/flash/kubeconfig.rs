//! The kubeconfig of a cluster that was flashed: it leads to that cluster's control plane and to no other.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::IMAGE;
use crate::bench::Bench;

/// A control plane with the identity of a cluster that was flashed here, as its board would have it; stopped at the end.
struct ControlPlane(std::process::Child);

impl ControlPlane {
    /// Gives its address as well.
    fn start(bench: &Bench, name: &str) -> (Self, String) {
        let data = bench.path("board");
        fs::create_dir_all(data.join("server/pki")).unwrap();
        for file in ["ca.crt", "ca.key", "join.key", "cluster"] {
            fs::copy(bench.cluster(name).join(file), data.join("server/pki").join(file)).unwrap();
        }
        let config = bench.path("board.toml");
        let state = bench.path("state");
        fs::write(
            &config,
            format!(
                "name = \"pi-1\"\ndata = {:?}\nrun = {:?}\n",
                data.to_str().unwrap(),
                state.to_str().unwrap()
            ),
        )
        .unwrap();
        let mut command = bench.command(&[
            "server",
            "--no-node",
            "--listen",
            "127.0.0.1:0",
            "--cluster",
            name,
            "--config",
        ]);
        let log = fs::File::create(bench.path("board.log")).unwrap();
        let server = Self(command.arg(&config).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let text = loop {
            if let Ok(text) = fs::read_to_string(data.join("server/admin.kubeconfig")) {
                break text;
            }
            let log = fs::read_to_string(bench.path("board.log")).unwrap();
            assert!(std::time::Instant::now() < limit, "{log}");
            std::thread::yield_now();
        };
        let port = text
            .lines()
            .find_map(|line| line.rsplit_once("server: https://")?.1.rsplit_once(':'))
            .unwrap()
            .1;
        (server, format!("127.0.0.1:{port}"))
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_kubeconfig_of_a_flashed_cluster_works_where_its_server_is_and_nowhere_else() {
    let bench = Bench::new();
    bench.card("card.img");
    for cluster in ["rack1", "rack2"] {
        let words = [
            "flash",
            IMAGE,
            "--device",
            "card.img",
            "--cluster",
            cluster,
            "--role",
            "server",
            "--name",
            "pi-1",
        ];
        bench.minidc(&[&words[..], &["--yes"]].concat()).succeeded();
    }
    let (_server, address) = ControlPlane::start(&bench, "rack1");
    let outcome = bench.minidc(&["kubeconfig", "--cluster", "rack1", "--server", &address]);
    let text = outcome.succeeded();
    assert!(text.contains(&format!("server: https://{address}\n")), "{text}");
    assert!(text.contains("tls-server-name: server.rack1.minidc\n"), "{text}");
    assert_eq!(
        fs::read_to_string(bench.cluster("rack1").join("kubeconfig")).unwrap(),
        text
    );
    assert!(
        outcome
            .complained
            .contains(&format!("rack1 is at {address}\nexport KUBECONFIG="))
    );
    // where it was last is found without mDNS
    bench
        .minidc(&["kubeconfig", "--cluster", "rack1", "--output", "k"])
        .succeeded();
    assert_eq!(fs::read_to_string(bench.path("k")).unwrap(), text);
    let nodes = bench.minidc(&["node", "list", "--kubeconfig", "k"]);
    assert!(nodes.succeeded().starts_with("NAME"), "{nodes:?}");

    let outcome = bench.minidc(&["kubeconfig", "--cluster", "rack2", "--server", &address]);
    let complaint = outcome.failed();
    assert!(
        complaint.contains(&format!(
            "{address}: the server there is not that of rack2: it has another CA"
        )),
        "{complaint}"
    );
    let outcome = bench.minidc(&[
        "kubeconfig",
        "--cluster",
        "rack2",
        "--server",
        &address,
        "--output",
        "k",
    ]);
    assert!(
        outcome
            .failed()
            .contains("k is there and is not the kubeconfig of rack2"),
        "{}",
        outcome.complained
    );
    let outcome = bench.minidc(&["kubeconfig", "--server", &address]);
    assert!(
        outcome.failed().contains("choose one with --cluster (rack1, rack2)"),
        "{}",
        outcome.complained
    );
}

#[test]
fn a_kubeconfig_cannot_be_had_of_a_cluster_that_is_not_there() {
    let bench = Bench::new();
    bench.card("card.img");
    let outcome = bench.minidc(&["kubeconfig", "--cluster", "rack1"]);
    assert!(
        outcome
            .failed()
            .contains("no cards of a cluster \"rack1\" were made here"),
        "{}",
        outcome.complained
    );
    bench.flash(IMAGE, "card.img", "server", "pi-1", &[]).succeeded();
    let kept = fs::read(bench.cluster("rack1").join("kubeconfig")).unwrap();
    let outcome = bench.minidc(&["kubeconfig", "--cluster", "rack1", "--timeout", "1s"]);
    let complaint = outcome.failed();
    assert!(
        complaint.contains("rack1 was not found within 1 s. Has the rack power"),
        "{complaint}"
    );
    assert!(complaint.contains("--server ADDRESS"), "{complaint}");
    // somebody else listens there
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stranger = std::thread::spawn(move || drop(listener.accept()));
    let outcome = bench.minidc(&["kubeconfig", "--cluster", "rack1", "--server", &address]);
    assert!(
        outcome
            .failed()
            .contains(&format!("{address} does not answer as it should")),
        "{}",
        outcome.complained
    );
    stranger.join().unwrap();
    assert_eq!(
        fs::read(bench.cluster("rack1").join("kubeconfig")).unwrap(),
        kept,
        "what is kept is kept"
    );
    assert_eq!(outcome.said, "");
    assert!(Path::new(&bench.cluster("rack1")).exists());
}
