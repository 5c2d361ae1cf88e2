//! A virtual node for one test: its own namespaces, control groups and containerd, all gone when the test ends.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Set inside the namespaces to the directory of the node.
const INSIDE: &str = "MINIDC_TEST_NODE";
/// Makes the namespaces, runs the test in them, and removes the control groups. Pid 1 is a shell, which reaps orphans.
const SCRIPT: &str = include_str!("node.sh");

/// Runs `body` inside a virtual node of its own. `test` is the name of the calling test; the test program is started
/// again inside with only that test.
pub(crate) fn inside<F: Future<Output = ()>>(test: &str, body: impl FnOnce(Node) -> F) {
    if let Some(directory) = std::env::var_os(INSIDE) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let node = Node::new(directory.into());
        let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(300), body(node)).await });
        assert!(ended.is_ok(), "the test took too long");
        return;
    }
    for program in ["containerd", "runc", "ctr", "unshare", "ip"] {
        let found = Command::new("which")
            .arg(program)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(found.success(), "this test needs {program}");
    }
    let directory = tempfile::tempdir().unwrap();
    let status = Command::new("bash")
        .args(["-c", SCRIPT, "node"])
        .arg(directory.path())
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, directory.path())
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed inside its node");
}

/// The inside of a virtual node.
pub(crate) struct Node {
    pub(crate) directory: PathBuf,
    containerd: Option<Child>,
}

impl Node {
    fn new(directory: PathBuf) -> Self {
        let mut node = Self {
            directory,
            containerd: None,
        };
        std::fs::create_dir_all(node.path("cni")).unwrap();
        let conflist = serde_json::json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "100.64.9.0/24"}]], "dataDir": node.path("cni-addresses"),
                "routes": [{"dst": "0.0.0.0/0"}]},
        }, {"type": "portmap", "capabilities": {"portMappings": true}}]});
        std::fs::write(node.path("cni/10-pods.conflist"), conflist.to_string()).unwrap();
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = \"/run/containerd\"\n[grpc]\naddress = {socket:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"minidc.local/pause:1\"\nrestrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = {cni:?}\n",
            root = node.path("containerd"),
            socket = node.socket(),
            cni = node.path("cni"),
        );
        std::fs::write(node.path("containerd.toml"), config).unwrap();
        node.start_containerd();
        node
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.directory.join(below)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        Path::new("/run/containerd/containerd.sock").into()
    }

    /// Starts containerd; what it needs is asked for again until it answers.
    pub(crate) fn start_containerd(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("containerd.log"))
            .unwrap();
        let mut command = Command::new("containerd");
        command
            .arg("--config")
            .arg(self.path("containerd.toml"))
            .stdout(Stdio::null())
            .stderr(log);
        self.containerd = Some(command.spawn().unwrap());
    }

    /// Ends containerd at once; containers go on.
    pub(crate) fn kill_containerd(&mut self) {
        if let Some(mut child) = self.containerd.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path("containerd.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- end of containerd's log\n{}",
                lines[lines.len().saturating_sub(25)..].join("\n")
            );
        }
        self.kill_containerd();
    }
}
