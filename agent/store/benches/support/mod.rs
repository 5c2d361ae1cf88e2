//! The load and the counters that the benchmark and the comparison of engines share.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// Reproducible random numbers (a linear congruential generator with Knuth's constants).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

pub(crate) fn key(object: u64) -> String {
    format!("core/pods/default/web-7d4b9c6f5d-{object:05}")
}

/// A pod as a kubelet would leave it in round `round`.
pub(crate) fn value(object: u64, round: u64) -> Vec<u8> {
    let environment: String = (0..(object % 20) * 2)
        .map(|index| format!("{{\"name\":\"SETTING_{index}\",\"value\":\"value-{object}-{index}\"}},"))
        .collect();
    let minute = round / 60 % 60;
    let second = round % 60;
    format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"creationTimestamp\":\"2025-01-01T00:00:00Z\",\"generateName\":\"web-7d4b9c6f5d-\",\
\"labels\":{{\"app\":\"web\",\"pod-template-hash\":\"7d4b9c6f5d\"}},\"name\":\"web-7d4b9c6f5d-{object:05}\",\"namespace\":\"default\",\
\"ownerReferences\":[{{\"apiVersion\":\"apps/v1\",\"blockOwnerDeletion\":true,\"controller\":true,\"kind\":\"ReplicaSet\",\"name\":\"web-7d4b9c6f5d\",\
\"uid\":\"11d8f65c-3f0d-4f0e-9d3c-000000000000\"}}],\"uid\":\"7a0a5c7e-51a6-4b5e-8f26-{object:012}\"}},\"spec\":{{\"containers\":[{{\"env\":[{environment}\
{{\"name\":\"LAST\",\"value\":\"1\"}}],\"image\":\"docker.io/library/web:1\",\"imagePullPolicy\":\"IfNotPresent\",\"name\":\"web\",\
\"ports\":[{{\"containerPort\":8080,\"protocol\":\"TCP\"}}],\"resources\":{{\"requests\":{{\"cpu\":\"50m\",\"memory\":\"32Mi\"}}}}}}],\
\"nodeName\":\"pi-{}\",\"restartPolicy\":\"Always\",\"terminationGracePeriodSeconds\":30}},\"status\":{{\"conditions\":[\
{{\"lastTransitionTime\":\"2025-01-01T00:{minute:02}:{second:02}Z\",\"status\":\"True\",\"type\":\"Ready\"}},\
{{\"lastTransitionTime\":\"2025-01-01T00:00:00Z\",\"status\":\"True\",\"type\":\"PodScheduled\"}}],\
\"containerStatuses\":[{{\"containerID\":\"containerd://{:064x}\",\"name\":\"web\",\"ready\":true,\"restartCount\":{round},\
\"state\":{{\"running\":{{\"startedAt\":\"2025-01-01T00:{minute:02}:{second:02}Z\"}}}}}}],\"hostIP\":\"192.168.1.{}\",\"phase\":\"Running\",\
\"podIP\":\"100.64.0.{}\",\"startTime\":\"2025-01-01T00:00:00Z\"}}}}",
        object % 3,
        u128::from(round).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835),
        object % 3,
        object % 250
    )
    .into_bytes()
}

pub(crate) fn device_bytes(directory: &Path) -> u64 {
    let device = fs::metadata(directory).expect("stat").dev();
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff);
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).expect("device counters");
    stat.split_whitespace()
        .nth(6)
        .expect("sectors written")
        .parse::<u64>()
        .expect("a number")
        * 512
}

pub(crate) fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("process status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
