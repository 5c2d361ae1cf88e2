//! A pulled plug.

use std::process::{Command, Stdio};

use crate::node::Node;

impl Node {
    /// What a power cut leaves: no process but the test's own, no mount of a pod, and the disk as it was.
    pub(crate) fn cut_power(&mut self) {
        self.kill_containerd();
        let own = std::process::id().to_string();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            let kernel_or_own = pid == "1" || pid == own || pid.parse::<u32>().is_err();
            if !kernel_or_own {
                let _ = Command::new("kill").args(["-9", &pid]).stderr(Stdio::null()).status();
            }
        }
        let script = "ip link del cni0 2>/dev/null; \
                      awk '$5 ~ /kubernetes.io~|volume-subpaths|containerd|netns\\/cni-/ {print $5}' /proc/self/mountinfo | tac | \
                      while read -r point; do umount -l \"$point\"; done; rm -rf /run/containerd /run/netns/*; \
                      find /sys/fs/cgroup/*/minidc -depth -type d -exec rmdir {} + 2>/dev/null; true";
        assert!(Command::new("bash").args(["-c", script]).status().unwrap().success());
    }
}
