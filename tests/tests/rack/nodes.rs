//! Nodes: what kubectl says of them.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use minidc_tests::{PATIENCE, Rack, eventually, in_time, run};
use serde_json::Value;

pub(crate) const ALL: &[crate::Promise] = &[
    (
        "get_nodes_wide_shows_three_ready_nodes",
        get_nodes_wide_shows_three_ready_nodes,
    ),
    ("describe_node_explains_it", describe_node_explains_it),
    ("top_nodes_shows_the_last_seconds", top_nodes_shows_the_last_seconds),
    (
        "each_node_has_a_pod_range_of_its_own",
        each_node_has_a_pod_range_of_its_own,
    ),
    (
        "discovery_names_the_kinds_and_their_short_names",
        discovery_names_the_kinds_and_their_short_names,
    ),
    ("explain_knows_every_field_of_a_pod", explain_knows_every_field_of_a_pod),
    ("the_admin_kubeconfig_is_private", the_admin_kubeconfig_is_private),
    (
        "without_a_certificate_only_health_is_answered",
        without_a_certificate_only_health_is_answered,
    ),
    ("node_list_shows_the_leds", node_list_shows_the_leds),
];

fn get_nodes_wide_shows_three_ready_nodes(rack: &Rack) -> Result<()> {
    rack.await_nodes()?;
    let table = rack.kubectl(&["get", "nodes", "-o", "wide"])?;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    ensure!(
        table.starts_with("NAME") && table.contains("INTERNAL-IP") && table.contains("CONTAINER-RUNTIME"),
        "{table}"
    );
    // after Kubernetes' own columns, what the lights say
    ensure!(lines[0].last() == Some(&"LED"), "{table}");
    for (line, name) in lines[1..].iter().zip(["pi-1", "pi-2", "pi-3"]) {
        ensure!(line[0] == name && line[1] == "Ready", "{table}");
        ensure!(line[4].starts_with("v1.36."), "{table}");
        ensure!(line.iter().any(|word| word.starts_with("containerd://")), "{table}");
    }
    ensure!(lines.len() == 4 && lines[1][2].contains("control-plane"), "{table}");
    Ok(())
}

fn describe_node_explains_it(rack: &Rack) -> Result<()> {
    let words = [
        "KubeletReady",
        "KubeletHasSufficientMemory",
        "KubeletHasNoDiskPressure",
        "InternalIP:",
        "Capacity:",
        "Allocatable:",
        "pods:",
        "Kubelet Version:",
        "PodCIDR:",
        "Non-terminated Pods:",
        "Allocated resources:",
        "Events:",
        "NodeReady",
    ];
    rack.describes("node", "pi-2", &words)
}

fn top_nodes_shows_the_last_seconds(rack: &Rack) -> Result<()> {
    eventually(PATIENCE, "three nodes in kubectl top", || {
        Ok(rack
            .kubectl(&["top", "nodes", "--no-headers"])?
            .lines()
            .filter(|line| line.contains('%'))
            .count()
            == 3)
    })?;
    let promised = [("a sample's age", Duration::from_millis(2500))];
    in_time(promised, || {
        let text = rack.kubectl(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes/pi-2"])?;
        let metrics: Value = serde_json::from_str(&text)?;
        let taken: jiff::Timestamp = metrics["timestamp"].as_str().context("no timestamp")?.parse()?;
        let age = jiff::Timestamp::now().as_millisecond() - taken.as_millisecond();
        // the node took it by its own clock
        ensure!(age > -1000, "a sample of the future: {age} ms");
        Ok([Duration::from_millis(age.max(0).unsigned_abs())])
    })
}

fn each_node_has_a_pod_range_of_its_own(rack: &Rack) -> Result<()> {
    let ranges = rack.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDR}"])?;
    let mut ranges: Vec<&str> = ranges.split_whitespace().collect();
    ensure!(
        ranges.len() == 3 && ranges.iter().all(|range| range.ends_with(".0/24")),
        "{ranges:?}"
    );
    ranges.dedup();
    ensure!(ranges.len() == 3, "{ranges:?}");
    Ok(())
}

fn discovery_names_the_kinds_and_their_short_names(rack: &Rack) -> Result<()> {
    let kinds = rack.kubectl(&["api-resources"])?;
    for expected in [
        "deployments",
        "deploy",
        "replicasets",
        "pods",
        "configmaps",
        "secrets",
        "services",
        "leases",
        "events",
        "namespaces",
    ] {
        ensure!(kinds.contains(expected), "no {expected} in\n{kinds}");
    }
    ensure!(rack.kubectl(&["version"])?.contains("Server Version: v1.36."));
    Ok(())
}

fn explain_knows_every_field_of_a_pod(rack: &Rack) -> Result<()> {
    let text = rack.kubectl(&["explain", "pod.spec.containers.resources"])?;
    ensure!(text.contains("limits") && text.contains("requests"), "{text}");
    let text = rack.kubectl(&["explain", "deployment.spec.strategy"])?;
    ensure!(
        text.contains("rollingUpdate") && text.contains("VERSION:    v1"),
        "{text}"
    );
    Ok(())
}

fn the_admin_kubeconfig_is_private(rack: &Rack) -> Result<()> {
    let modes = rack.in_node(
        "pi-1",
        &[
            "sh",
            "-c",
            "stat -c '%a %n' /var/lib/minidc/server/admin.kubeconfig /var/lib/minidc/server/pki/*",
        ],
    )?;
    ensure!(modes.contains("600 /var/lib/minidc/server/admin.kubeconfig"), "{modes}");
    ensure!(
        modes
            .lines()
            .filter(|line| line.contains("key"))
            .all(|line| line.starts_with("600 ")),
        "{modes}"
    );
    Ok(())
}

fn without_a_certificate_only_health_is_answered(rack: &Rack) -> Result<()> {
    let server = rack.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"])?;
    let code = |path: &str| {
        run(Command::new("curl").args([
            "-sk",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &format!("{server}{path}"),
        ]))
    };
    ensure!(code("/livez")? == "200" && code("/version")? == "200");
    let refused = code("/api/v1/namespaces/default/secrets")?;
    ensure!(refused == "401" || refused == "403", "secrets answered {refused}");
    Ok(())
}

fn node_list_shows_the_leds(rack: &Rack) -> Result<()> {
    rack.await_nodes()?;
    let table = rack.minidc(&["node", "list"])?;
    ensure!(
        table.lines().count() == 4 && table.contains("LED") && table.matches(" Ready ").count() == 3,
        "{table}"
    );
    Ok(())
}
