//! The network between nodes, as `minidc net check` sees it.

use anyhow::{Context, Result, ensure};
use minidc_tests::{PATIENCE, Rack, condition, eventually};
use serde_json::Value;

pub(crate) const ALL: &[crate::Promise] = &[
    (
        "net_check_passes_between_every_pair_of_nodes",
        net_check_passes_between_every_pair_of_nodes,
    ),
    (
        "net_check_says_why_something_is_not_reached",
        net_check_says_why_something_is_not_reached,
    ),
    (
        "a_lan_with_the_addresses_of_pods_is_told_everywhere",
        a_lan_with_the_addresses_of_pods_is_told_everywhere,
    ),
];

fn net_check_passes_between_every_pair_of_nodes(rack: &Rack) -> Result<()> {
    rack.await_nodes()?;
    let mut table = String::new();
    // what is slow for once counts as lost
    eventually(PATIENCE, "net check finds nothing wrong", || {
        table = rack.minidc(&["net", "check"])?;
        Ok(true)
    })?;
    for (from, to) in [("pi-1", "pi-2"), ("pi-2", "pi-3"), ("pi-3", "pi-1"), ("pi-2", "pi-1")] {
        let between = table
            .lines()
            .filter(|line| line.contains(from) && line.contains(to) && line.contains(" ok"));
        // to the pod, through the Service, by packets of full size
        ensure!(between.count() >= 3, "from {from} to {to}:\n{table}");
    }
    ensure!(table.contains("dns"), "{table}");
    let left = rack.kubectl(&["get", "services,endpointslices", "-n", "kube-system", "-o", "name"])?;
    ensure!(!left.contains("check"), "left behind: {left}");
    eventually(PATIENCE, "the same as JSON", || {
        let rows: Value = serde_json::from_str(&rack.minidc(&["net", "check", "-o", "json"])?)?;
        ensure!(
            rows["ok"] == true && rows["results"].as_array().is_some_and(|rows| rows.len() > 12),
            "{rows}"
        );
        Ok(true)
    })
    .map(drop)
}

/// The table of a check that must find something.
fn failing_check(rack: &Rack) -> Result<String> {
    let said = rack
        .minidc(&["net", "check"])
        .err()
        .context("net check found nothing wrong")?;
    Ok(format!("{said:#}"))
}

fn net_check_says_why_something_is_not_reached(rack: &Rack) -> Result<()> {
    // somebody's firewall on pi-3 lets no pod traffic in
    let range = rack.kubectl(&["get", "node", "pi-3", "-o", "jsonpath={.spec.podCIDR}"])?;
    let wall = format!(
        "add table ip wall; add chain ip wall forward {{ type filter hook forward priority 0; }}; \
         add rule ip wall forward ip daddr {range} drop"
    );
    rack.in_node("pi-3", &["nft", &wall])?;
    let outcome = failing_check(rack);
    rack.in_node("pi-3", &["nft", "delete table ip wall"])?;
    let table = outcome?;
    let to_third = table
        .lines()
        .any(|line| line.contains("pi-1") && line.contains("pi-3") && line.to_lowercase().contains("fail"));
    ensure!(to_third, "{table}");
    let others = table
        .lines()
        .any(|line| line.contains("pi-1") && line.contains("pi-2") && line.contains(" ok"));
    ensure!(others, "{table}");
    eventually(PATIENCE, "all is well again", || {
        Ok(rack.minidc(&["net", "check"]).is_ok())
    })?;
    Ok(())
}

fn a_lan_with_the_addresses_of_pods_is_told_everywhere(rack: &Rack) -> Result<()> {
    let range = rack.kubectl(&[
        "get",
        "node",
        "pi-2",
        "-o",
        "jsonpath={.metadata.annotations.minidc\\.dev/pod-range}",
    ])?;
    let lan = range.trim().replace("0.0/16", "200.7/24");
    rack.in_node(
        "pi-2",
        &["ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1"],
    )?;
    let outcome: Result<()> = (|| {
        rack.in_node("pi-2", &["ip", "addr", "add", &lan, "dev", "lan0"])?;
        rack.in_node("pi-2", &["ip", "link", "set", "lan0", "up"])?;
        rack.in_node("pi-2", &["ip", "link", "set", "lan1", "up"])?;
        eventually(PATIENCE, "the condition NetworkDegraded", || {
            Ok(condition(&rack.get(&["node", "pi-2"])?, "NetworkDegraded") == "True")
        })?;
        let described = rack.kubectl(&["describe", "node", "pi-2"])?;
        ensure!(
            described.contains("lan0") || described.contains(&lan.replace(".7/24", ".0/24")),
            "{described}"
        );
        eventually(PATIENCE, "the LEDs", || {
            Ok(rack
                .rack("leds", &["--once"])?
                .lines()
                .any(|line| line.contains("pi-2") && line.contains("addresses-overlap")))
        })?;
        let table = failing_check(rack)?;
        ensure!(table.contains("overlap"), "{table}");
        Ok(())
    })();
    rack.in_node("pi-2", &["ip", "link", "del", "lan0"])?;
    outcome?;
    eventually(PATIENCE, "the condition is gone", || {
        Ok(condition(&rack.get(&["node", "pi-2"])?, "NetworkDegraded") != "True")
    })?;
    Ok(())
}
